//! The simplest engine with the world `sshnet:core/core`.
//!
//! It is written from the WIT package (wit/) and RFC 4254 alone, to show that they are
//! enough, and to be read in one sitting: every window is fixed, every search looks at
//! all there is, every figure is added up when it is asked for. What it takes from
//! sshnet-core is the codec of the messages and the allocator, as source.
//!
//! `session` is the engine, `text` reads what people write; this file is the
//! component around them.
#![cfg(target_family = "wasm")]
#![no_std]

extern crate alloc;

#[path = "../../../core/src/message.rs"]
pub mod message;
#[path = "../../../core/src/rt.rs"]
mod rt;
pub mod session;
pub mod text;
#[path = "../../../core/src/wire.rs"]
pub mod wire;

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

#[allow(clippy::all, unused_qualifications, unreachable_pub, reason = "generated")]
#[allow(missing_docs, unsafe_code, reason = "generated; the WIT package has the documentation")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "core",
        additional_derives: [PartialEq],
    });
    use super::Component;
    export!(Component);
}

/// The types of the contract.
pub use bindings::exports::sshnet::core::types;

use bindings::exports::sshnet::core::engine::{Guest, GuestSession};
use types::{ClientId, ClientInfo, Config, Effect, Error, Limits, Protocol, Statistics, TextFile};

struct Component;

/// A session. The component model calls it from one place at a time.
struct Session(RefCell<session::Session>);

impl Guest for Component {
    type Session = Session;

    fn default_limits() -> Limits {
        session::DEFAULT_LIMITS
    }
}

impl Session {
    /// Makes an event happen, and ends it.
    fn event(&self, event: impl FnOnce(&mut session::Session)) -> Vec<Effect> {
        let mut session = self.0.borrow_mut();
        event(&mut session);
        session.end_event()
    }
}

impl GuestSession for Session {
    fn new(config: Config) -> Self {
        Self(RefCell::new(session::Session::new(config)))
    }

    fn pipe_up(&self) -> Vec<Effect> {
        self.event(session::Session::pipe_up)
    }

    fn pipe_down(&self, reason: String) -> Vec<Effect> {
        self.event(|s| s.pipe_down(&reason))
    }

    fn receive(&self, message: Vec<u8>) -> Vec<Effect> {
        self.event(|s| s.receive(&message))
    }

    fn pipe_took(&self, bytes: u64) -> Vec<Effect> {
        self.event(|s| s.pipe_took(bytes))
    }

    fn advance(&self, now: u64) -> Vec<Effect> {
        self.event(|s| s.advance(now))
    }

    fn shutdown(&self, reason: String) -> Vec<Effect> {
        self.event(|s| s.shutdown(&reason))
    }

    fn clone(&self, request: u64, protocol: Protocol) -> Vec<Effect> {
        self.event(|s| s.clone_client(request, protocol))
    }

    fn control(&self, request: u64, client: ClientId, text: Vec<u8>) -> Vec<Effect> {
        self.event(|s| s.control(request, client, text))
    }

    fn read(&self, request: u64, client: ClientId, count: u32) -> Vec<Effect> {
        self.event(|s| s.read(request, client, count))
    }

    fn write(&self, request: u64, client: ClientId, bytes: Vec<u8>) -> Vec<Effect> {
        self.event(|s| s.write(request, client, bytes))
    }

    fn listen(&self, request: u64, client: ClientId) -> Vec<Effect> {
        self.event(|s| s.listen(request, client))
    }

    fn flush(&self, request: u64) -> Vec<Effect> {
        self.event(|s| s.flush(request))
    }

    fn retain(&self, client: ClientId) -> Result<(), Error> {
        self.0.borrow_mut().retain(client)
    }

    fn release(&self, client: ClientId) -> Vec<Effect> {
        self.event(|s| s.release(client))
    }

    fn lookup(&self, number: u32) -> Option<ClientInfo> {
        self.0.borrow().lookup(number)
    }

    fn text(&self, client: ClientId, file: TextFile) -> Result<String, Error> {
        self.0.borrow().text(client, file)
    }

    fn translate(&self, query: String) -> Result<String, Error> {
        self.0.borrow().words.translate(&query)
    }

    fn clients(&self) -> Vec<ClientInfo> {
        self.0.borrow().clients()
    }

    fn statistics(&self) -> Statistics {
        self.0.borrow().statistics()
    }
}
