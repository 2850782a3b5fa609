//! The parts of `sshnet-host`: the TCP stack of a host reached by ssh, as files.
//!
//! ```text
//! commands, serve -> ninep, fuse -> tree -> driver -> engine (the component)
//!                                              |
//!                                              +----> pipe -> ssh -> the far host
//! peer -----------------------------------------------> pipe, its far side
//! ```
//!
//! Each part knows those below it and nothing else.

mod accept;
pub mod args;
pub mod commands;
mod compiler;
pub mod driver;
pub mod engine;
pub mod fuse;
mod gather;
pub mod ninep;
pub mod notice;
pub mod peer;
pub mod pipe;
pub mod reconnect;
pub mod runtime;
pub mod serve;
pub mod services;
pub mod signals;
pub mod sys;
pub mod tree;
pub mod users;
mod warnings;
