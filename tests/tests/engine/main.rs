//! The claims of the contract (wit/), on the component under wasmtime and on the native
//! library at once, or on another component: see [`sshnet_tests::promise`].

mod announce;
mod calls;
mod clients;
mod close;
#[cfg(feature = "component")]
mod contract;
mod control;
mod dial;
mod early;
mod exchange;
mod flush;
mod half_close;
mod hostile;
mod limits;
mod pipe;
mod read;
mod requests;
mod shutdown;
mod text;
mod time;
mod turns;
mod window;
mod write;
