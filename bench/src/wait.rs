//! Waits that end.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until something is so.
pub(crate) fn until(limit: Duration, mut so: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !so() {
        if Instant::now() > deadline {
            bail!("not within {limit:?}");
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
