//! The component: WIT to Rust and back. No logic.

#![allow(unsafe_code, reason = "what wit-bindgen generates")]
#![allow(missing_docs, reason = "the WIT package has the documentation")]

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};

use crate::{config, effect, session};

#[allow(clippy::all, unused_qualifications, unreachable_pub, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: "../wit", world: "core" });
    use super::Component;
    export!(Component);
}

use bindings::exports::sshnet::core::engine::{Guest, GuestSession};
use bindings::exports::sshnet::core::types;

struct Component;

/// A session. The component model calls it from one place at a time.
struct Session(RefCell<session::Session>);

impl Session {
    /// Out of line: there is one of it, and not one for each method.
    #[inline(never)]
    fn session(&self) -> RefMut<'_, session::Session> {
        self.0.borrow_mut()
    }
}

impl Guest for Component {
    type Session = Session;

    fn default_limits() -> types::Limits {
        config::Limits::default().into()
    }
}

impl GuestSession for Session {
    fn new(config: types::Config) -> Self {
        Self(RefCell::new(session::Session::new(config.into())))
    }

    fn pipe_up(&self) -> Vec<types::Effect> {
        effects(self.session().pipe_up())
    }

    fn pipe_down(&self, reason: String) -> Vec<types::Effect> {
        effects(self.session().pipe_down(&reason))
    }

    fn receive(&self, message: Vec<u8>) -> Vec<types::Effect> {
        effects(self.session().receive(message))
    }

    fn pipe_took(&self, bytes: u64) -> Vec<types::Effect> {
        effects(self.session().pipe_took(bytes))
    }

    fn advance(&self, now: u64) -> Vec<types::Effect> {
        effects(self.session().advance(now))
    }

    fn shutdown(&self, reason: String) -> Vec<types::Effect> {
        effects(self.session().shutdown(&reason))
    }

    fn clone(&self, request: u64, protocol: types::Protocol) -> Vec<types::Effect> {
        effects(self.session().clone_client(request, protocol.into()))
    }

    fn control(&self, request: u64, client: types::ClientId, text: Vec<u8>) -> Vec<types::Effect> {
        effects(self.session().control(request, client.into(), &text))
    }

    fn read(&self, request: u64, client: types::ClientId, count: u32) -> Vec<types::Effect> {
        effects(self.session().read(request, client.into(), count))
    }

    fn write(&self, request: u64, client: types::ClientId, bytes: Vec<u8>) -> Vec<types::Effect> {
        effects(self.session().write(request, client.into(), bytes))
    }

    fn listen(&self, request: u64, client: types::ClientId) -> Vec<types::Effect> {
        effects(self.session().listen(request, client.into()))
    }

    fn flush(&self, request: u64) -> Vec<types::Effect> {
        effects(self.session().flush(request))
    }

    fn retain(&self, client: types::ClientId) -> Result<(), types::Error> {
        self.session().retain(client.into()).map_err(Into::into)
    }

    fn release(&self, client: types::ClientId) -> Vec<types::Effect> {
        effects(self.session().release(client.into()))
    }

    fn lookup(&self, number: u32) -> Option<types::ClientInfo> {
        self.session().lookup(number).map(Into::into)
    }

    fn text(&self, client: types::ClientId, file: types::TextFile) -> Result<String, types::Error> {
        self.session().text(client.into(), file.into()).map_err(Into::into)
    }

    fn translate(&self, query: String) -> Result<String, types::Error> {
        self.session().translate(&query).map_err(Into::into)
    }

    fn clients(&self) -> Vec<types::ClientInfo> {
        self.session().clients().into_iter().map(Into::into).collect()
    }

    fn statistics(&self) -> types::Statistics {
        self.session().statistics().into()
    }
}

#[inline(never)]
fn effects(effects: Vec<effect::Effect>) -> Vec<types::Effect> {
    effects.into_iter().map(Into::into).collect()
}

/// Translates a record field by field, to the left or to the right.
macro_rules! record {
    ($from:ty => $to:ty { $($field:ident),* $(,)? }) => {
        impl From<$from> for $to {
            fn from(from: $from) -> Self {
                Self { $($field: from.$field.into()),* }
            }
        }
    };
}

/// Translates an enumeration case by case.
macro_rules! cases {
    ($from:ty => $to:ty { $($case:ident),* $(,)? }) => {
        impl From<$from> for $to {
            fn from(from: $from) -> Self {
                match from { $(<$from>::$case => Self::$case),* }
            }
        }
    };
}

record!(types::ClientId => effect::ClientId { number, incarnation });
record!(effect::ClientId => types::ClientId { number, incarnation });
record!(types::Service => config::Service { name, port });
record!(effect::Error => types::Error { code, message });
record!(config::Limits => types::Limits {
    clients, backlog, calls, requests, line, name, queued, unacknowledged, windows, window,
    window_max, packet, room, control, dial_time, dial_wait, keepalive,
});
record!(types::Limits => config::Limits {
    clients, backlog, calls, requests, line, name, queued, unacknowledged, windows, window,
    window_max, packet, room, control, dial_time, dial_wait, keepalive,
});
record!(effect::Statistics => types::Statistics {
    pipe_up, clients, channels, messages_received, messages_sent, bytes_received, bytes_sent,
    dials, dials_failed, calls, calls_refused, in_pipe, windows, queued, unacknowledged,
});
record!(effect::ClientInfo => types::ClientInfo {
    id, protocol, state, references, local, remote, received, sent, unread, unsent,
    receive_window, send_window, requests, calls, since, last_error,
});
cases!(types::Protocol => effect::Protocol { Tcp, Unix });
cases!(effect::Protocol => types::Protocol { Tcp, Unix });
cases!(types::TextFile => effect::TextFile { Local, Remote, Status });
cases!(effect::ClientState => types::ClientState {
    Closed, Dialing, Listen, Established, Teardown, Finished,
});
cases!(effect::ErrorCode => types::ErrorCode {
    AccessDenied, AddressInUse, Canceled, ConnectionRefused, ConnectionReset, Interrupted,
    InvalidArgument, IsConnected, NetworkDown, NoEntry, NotConnected, NotSupported, HungUp,
    ResourceExhausted, TimedOut, Other,
});

impl From<types::Config> for config::Config {
    fn from(from: types::Config) -> Self {
        Self {
            prefix: from.prefix,
            services: from.services.into_iter().map(Into::into).collect(),
            limits: from.limits.into(),
        }
    }
}

impl From<effect::Effect> for types::Effect {
    fn from(from: effect::Effect) -> Self {
        match from {
            effect::Effect::Send(message) => Self::Send(message),
            effect::Effect::Complete(completion) => Self::Complete(types::Completion {
                request: completion.request,
                outcome: completion.outcome.map(Into::into).map_err(Into::into),
            }),
            effect::Effect::Wake(at) => Self::Wake(at),
            effect::Effect::Warn(what) => Self::Warn(what),
            effect::Effect::Fail(why) => Self::Fail(why),
        }
    }
}

impl From<effect::Reply> for types::Reply {
    fn from(from: effect::Reply) -> Self {
        match from {
            effect::Reply::Done => Self::Done,
            effect::Reply::Client(id) => Self::Client(id.into()),
            effect::Reply::Data(bytes) => Self::Data(bytes),
            effect::Reply::Count(count) => Self::Count(count),
        }
    }
}
