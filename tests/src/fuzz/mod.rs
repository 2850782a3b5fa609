//! What the fuzz targets in core/fuzz check.
//!
//! It stands here so that `cargo test` can replay their corpus on a stable
//! toolchain; core/fuzz takes these files in by their path.

use crate::sim::oracle;

pub mod message;
pub mod session;
