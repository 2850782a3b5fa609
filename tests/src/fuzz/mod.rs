//! What the fuzz targets in core/fuzz and host/fuzz check.
//!
//! It stands here so that `cargo test` can replay their corpus on a stable
//! toolchain; those crates take these files in by their path.

#[cfg(feature = "component")]
use sshnet_host::ninep::codec;

use crate::sim::oracle;

pub mod message;
#[cfg(feature = "component")]
pub mod ninep;
pub mod session;
