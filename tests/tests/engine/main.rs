//! The engine, on the component under wasmtime and on the native library at once.

mod announce;
mod calls;
mod clients;
mod close;
mod codec;
#[cfg(feature = "component")]
mod contract;
mod control;
mod dial;
mod flush;
mod growth;
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
