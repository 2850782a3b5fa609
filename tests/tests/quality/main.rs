//! The quality of our own engine: what the contract (wit/) leaves open, and we don't.
//!
//! Another component (`SSHNET_CORE=FILE`) is not held to any of it, and each test says
//! so; the claims of the contract are in the test programs `engine` and `sim`. What
//! operations cost is in `cost`. That the component and the native library answer the
//! same shows wherever both run: see [`sshnet_tests::subject`].

mod codec;
#[cfg(feature = "component")]
mod component;
mod growth;
mod packets;
mod promise;
mod turns;
mod window;
