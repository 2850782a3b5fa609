//! The engine of sshnet: message codec, client table and flow control.
//!
//! Sans I/O and deterministic: no sockets, no clock, no randomness. A [`Session`]
//! is told what happened (a message came in, a file was written, it is this
//! late) and answers with [`Effect`]s: messages to send, requests to complete.
//! The same source is a native library and, for `wasm32-wasip2`, a component
//! without imports whose interface is the WIT package in `wit/`.
//!
//! # Map
//!
//! | module | what it is | what it refuses to know |
//! |---|---|---|
//! | [`wire`] | byte, boolean, uint32, string (RFC 4251 section 5) | messages |
//! | [`message`] | the messages of RFC 4254 | state |
//! | `window` | send and receive windows, the session's pool of them | bytes, channels |
//! | `growth` | what a receive window should be | what it is, channels |
//! | `trip` | how long a round trip takes | what for |
//! | `client` | one client: its state, its queues | what is said to the peer |
//! | `table` | clients and channels by number | what they do |
//! | `queue` | bytes that wait, in memory of about their size | whose they are |
//! | `listeners` | clients by what they announced | whether it is bound |
//! | `order` | clients in the order of a number, the least first | what the number is |
//! | `sorted` | a map in the order of its keys | what they are |
//! | `ctl` | control messages, `cs` queries, addresses | clients |
//! | [`effect`] | effects, replies, errors | how they come about |
//! | [`config`] | limits, service names | - |
//! | [`session`] | all of the above: events in, effects out | WIT, 9P, I/O |
//! | `component` | WIT to Rust and back (wasm only) | logic |
//! | `rt` | allocator, panic, `cabi_realloc` (wasm only) | - |
//!
//! # The data's way
//!
//! Out: `Session::write` puts the bytes into the client's queue; when the client
//! has its turn, the send window and the pipe's room decide how many of them go
//! into a data message, an effect. In: a data message goes through the codec and
//! the receive window into the client's inbox, from where reads are answered.
//!
//! # Rules
//!
//! Nothing that the peer or a user of the files does may panic: lints keep
//! `unwrap`, indexing and the like out. Every queue has a limit in
//! [`config::Limits`], every request ends exactly once, and every error says in
//! its text who is at fault.
#![cfg_attr(target_family = "wasm", no_std)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::unreachable, clippy::todo, clippy::unimplemented)]

extern crate alloc;

mod client;
#[cfg(target_family = "wasm")]
mod component;
pub mod config;
mod ctl;
pub mod effect;
mod growth;
mod listeners;
pub mod message;
mod order;
mod queue;
#[cfg(target_family = "wasm")]
mod rt;
pub mod session;
mod sorted;
mod table;
mod trip;
mod window;
pub mod wire;

pub use config::{Config, Limits, Service};
pub use effect::{
    ClientId, ClientInfo, ClientState, Completion, Effect, Error, ErrorCode, Outcome, Protocol,
    Reply, RequestId, Statistics, TextFile,
};
pub use session::Session;
