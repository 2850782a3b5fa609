//! The one place where the kind of runtime is chosen.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// The runtime that every command runs on.
pub fn build() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
