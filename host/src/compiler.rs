//! How a component is compiled.
//!
//! The build script compiles the engine that this program comes with, so that no
//! start has to wait for it; the program itself compiles another one that it is
//! given. Code made by one configuration does not run under another, so there is
//! this one for both.

use wasmtime::Config;

/// What wasmtime is to make of a component.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config.consume_fuel(true);
    config
}
