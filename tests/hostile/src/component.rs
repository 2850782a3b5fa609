//! The component.

#![allow(unsafe_code, reason = "what wit-bindgen generates")]

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use core::cell::RefCell;
use core::hint::black_box;

#[allow(clippy::all, missing_docs, unused_qualifications, unreachable_pub, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "core" });
    use super::Component;
    export!(Component);
}

use bindings::exports::sshnet::core::engine::{Guest, GuestSession};
use bindings::exports::sshnet::core::types::{
    ClientId, ClientInfo, ClientState, Completion, Config, Effect, Error, ErrorCode, Limits,
    Protocol, Reply, Statistics, TextFile,
};

/// What a terminal would act on.
const CONTROLS: &str = "\u{1b}[2J\u{7}\r\n";

/// What it does that it should not.
#[derive(Clone, Copy, PartialEq)]
enum Misdeed {
    /// Traps.
    Trap,
    /// Never ends.
    Spin,
    /// Takes all the memory that there is.
    Eat,
    /// Takes all the stack that there is.
    Sink,
    /// Answers with more than anybody wants to have.
    Swamp,
    /// Completes the request a second time.
    Twice,
    /// Does not do what it is asked.
    Never,
    /// Completes a request that nobody made.
    Strange,
    /// Completes the request with something of another kind.
    Other,
    /// Completes the request with more than was asked for.
    More,
    /// Sends a message of no bytes.
    Empty,
    /// Sends a message that is too large.
    Huge,
    /// Sends without end.
    Flood,
    /// Asks to be woken at once, each time.
    Restless,
    /// Warns without end, in words that a terminal would act on.
    Wordy,
    /// Gives up, in such words.
    Fail,
}

impl Misdeed {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "trap" => Self::Trap,
            "spin" => Self::Spin,
            "eat" => Self::Eat,
            "sink" => Self::Sink,
            "swamp" => Self::Swamp,
            "twice" => Self::Twice,
            "never" => Self::Never,
            "strange" => Self::Strange,
            "other" => Self::Other,
            "more" => Self::More,
            "empty" => Self::Empty,
            "huge" => Self::Huge,
            "flood" => Self::Flood,
            "restless" => Self::Restless,
            "wordy" => Self::Wordy,
            "fail" => Self::Fail,
            _ => return None,
        })
    }

    /// Does it, where it is one that has no effects.
    fn endure(self) {
        match self {
            Self::Trap => core::arch::wasm32::unreachable(),
            Self::Spin => {
                let mut turns = 0_u64;
                loop {
                    turns = black_box(turns.wrapping_add(1));
                }
            }
            Self::Eat => loop {
                core::mem::forget(black_box(vec![1_u8; 1 << 20]));
            },
            Self::Sink => {
                black_box(sink(1));
            }
            _ => {}
        }
    }

    /// The effects of it, where it has any.
    fn effects(self, request: u64) -> Vec<Effect> {
        let complete =
            |request, reply| Effect::Complete(Completion { request, outcome: Ok(reply) });
        match self {
            Self::Swamp => (0..8192).map(|_| Effect::Send(vec![94; 32 << 10])).collect(),
            Self::Twice => {
                vec![complete(request, Reply::Done), complete(request, Reply::Done)]
            }
            Self::Strange => vec![complete(u64::MAX, Reply::Done)],
            Self::Other => {
                let id = ClientId { number: 7, incarnation: 7 };
                vec![complete(request, Reply::Client(id))]
            }
            Self::More => vec![complete(request, Reply::Data(vec![b'x'; 2 << 20]))],
            Self::Empty => vec![Effect::Send(Vec::new())],
            Self::Huge => vec![Effect::Send(vec![94; 1 << 20])],
            Self::Flood => (0..1024).map(|_| Effect::Send(vec![94; 32 << 10])).collect(),
            Self::Wordy => (0..1000).map(|n| Effect::Warn(format!("{CONTROLS}word {n}"))).collect(),
            Self::Fail => vec![Effect::Fail(CONTROLS.repeat(1000))],
            _ => Vec::new(),
        }
    }
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn sink(depth: u64) -> u64 {
    black_box(sink(black_box(depth + 1)) + depth)
}

struct Component;

struct Session(RefCell<State>);

#[derive(Default)]
struct State {
    armed: Option<(Misdeed, String)>,
    restless: bool,
    clients: u32,
    held: Vec<u64>,
}

impl State {
    /// The misdeed for this event, if one is armed. Done already if it has no effects.
    fn due(&mut self, event: &str) -> Option<Misdeed> {
        let (misdeed, _) = self.armed.take_if(|(_, at)| at == event)?;
        self.restless |= misdeed == Misdeed::Restless;
        misdeed.endure();
        Some(misdeed)
    }

    /// An event that is no request.
    fn event(&mut self, event: &str) -> Vec<Effect> {
        let request = self.held.first().copied().unwrap_or_default();
        let mut effects = self.due(event).map_or_else(Vec::new, |due| due.effects(request));
        if self.restless {
            effects.push(Effect::Wake(0));
        }
        effects
    }

    /// A request that waits, unless something else is due.
    fn hold(&mut self, event: &str, request: u64) -> Vec<Effect> {
        match self.due(event) {
            Some(misdeed) if misdeed != Misdeed::Never => misdeed.effects(request),
            _ => {
                self.held.push(request);
                Vec::new()
            }
        }
    }

    fn arm(&mut self, text: &str, separator: char) -> bool {
        let mut words = text.split(separator);
        let misdeed = words.next().and_then(Misdeed::named);
        let (Some(misdeed), Some(event)) = (misdeed, words.next()) else { return false };
        self.armed = Some((misdeed, event.to_owned()));
        true
    }
}

fn done(request: u64) -> Vec<Effect> {
    vec![Effect::Complete(Completion { request, outcome: Ok(Reply::Done) })]
}

fn failed(request: u64, code: ErrorCode) -> Effect {
    let error = Error { code, message: CONTROLS.to_owned() };
    Effect::Complete(Completion { request, outcome: Err(error) })
}

impl Guest for Component {
    type Session = Session;

    fn default_limits() -> Limits {
        Limits {
            clients: 100,
            backlog: 10,
            calls: 10,
            requests: 1000,
            line: 4096,
            name: 1024,
            queued: 1 << 20,
            unacknowledged: 1 << 20,
            windows: 1 << 20,
            window: 1 << 16,
            window_max: 1 << 16,
            packet: 32 << 10,
            room: 1 << 20,
            control: 1 << 20,
            dial_time: 0,
            dial_wait: 0,
            keepalive: 0,
        }
    }
}

impl GuestSession for Session {
    fn new(config: Config) -> Self {
        let mut state = State::default();
        state.arm(config.prefix.trim_start_matches('/'), '/');
        state.due("constructor");
        Self(RefCell::new(state))
    }

    fn pipe_up(&self) -> Vec<Effect> {
        self.0.borrow_mut().event("pipe-up")
    }

    fn pipe_down(&self, _reason: String) -> Vec<Effect> {
        self.0.borrow_mut().event("pipe-down")
    }

    fn receive(&self, _message: Vec<u8>) -> Vec<Effect> {
        self.0.borrow_mut().event("receive")
    }

    fn pipe_took(&self, _bytes: u64) -> Vec<Effect> {
        self.0.borrow_mut().event("pipe-took")
    }

    fn advance(&self, _now: u64) -> Vec<Effect> {
        self.0.borrow_mut().event("advance")
    }

    fn shutdown(&self, _reason: String) -> Vec<Effect> {
        let mut state = self.0.borrow_mut();
        match state.due("shutdown") {
            Some(misdeed) => {
                let request = state.held.first().copied().unwrap_or_default();
                misdeed.effects(request)
            }
            None => {
                let held = core::mem::take(&mut state.held);
                held.into_iter().map(|request| failed(request, ErrorCode::Canceled)).collect()
            }
        }
    }

    fn clone(&self, request: u64, _protocol: Protocol) -> Vec<Effect> {
        let mut state = self.0.borrow_mut();
        if let Some(misdeed) = state.due("clone") {
            return misdeed.effects(request);
        }
        let id = ClientId { number: state.clients, incarnation: 0 };
        state.clients += 1;
        let outcome = Ok(Reply::Client(id));
        vec![Effect::Complete(Completion { request, outcome })]
    }

    fn control(&self, request: u64, _client: ClientId, text: Vec<u8>) -> Vec<Effect> {
        let mut state = self.0.borrow_mut();
        if let Some(misdeed) = state.due("control") {
            return misdeed.effects(request);
        }
        let text = String::from_utf8_lossy(&text).trim().to_string();
        if text == "dial" || state.arm(&text, ' ') {
            return done(request);
        }
        if text == "wait" {
            return state.hold("", request);
        }
        vec![failed(request, ErrorCode::InvalidArgument)]
    }

    fn read(&self, request: u64, _client: ClientId, _count: u32) -> Vec<Effect> {
        self.0.borrow_mut().hold("read", request)
    }

    fn write(&self, request: u64, _client: ClientId, _bytes: Vec<u8>) -> Vec<Effect> {
        self.0.borrow_mut().hold("write", request)
    }

    fn listen(&self, request: u64, _client: ClientId) -> Vec<Effect> {
        self.0.borrow_mut().hold("listen", request)
    }

    fn flush(&self, request: u64) -> Vec<Effect> {
        let mut state = self.0.borrow_mut();
        if let Some(misdeed) = state.due("flush") {
            return misdeed.effects(request);
        }
        let held = state.held.len();
        state.held.retain(|other| *other != request);
        if state.held.len() == held {
            return Vec::new();
        }
        vec![failed(request, ErrorCode::Interrupted)]
    }

    fn retain(&self, _client: ClientId) -> Result<(), Error> {
        self.0.borrow_mut().due("retain");
        Ok(())
    }

    fn release(&self, _client: ClientId) -> Vec<Effect> {
        self.0.borrow_mut().event("release")
    }

    fn lookup(&self, number: u32) -> Option<ClientInfo> {
        let mut state = self.0.borrow_mut();
        state.due("lookup");
        (number < state.clients).then(|| info(number))
    }

    fn text(&self, _client: ClientId, _file: TextFile) -> Result<String, Error> {
        self.0.borrow_mut().due("text");
        Ok(CONTROLS.to_owned())
    }

    fn translate(&self, _query: String) -> Result<String, Error> {
        self.0.borrow_mut().due("translate");
        Ok(CONTROLS.to_owned())
    }

    fn clients(&self) -> Vec<ClientInfo> {
        let mut state = self.0.borrow_mut();
        state.due("clients");
        (0..state.clients).map(info).collect()
    }

    fn statistics(&self) -> Statistics {
        self.0.borrow_mut().due("statistics");
        Statistics {
            pipe_up: false,
            clients: 0,
            channels: 0,
            messages_received: 0,
            messages_sent: 0,
            bytes_received: 0,
            bytes_sent: 0,
            dials: 0,
            dials_failed: 0,
            calls: 0,
            calls_refused: 0,
            in_pipe: 0,
            windows: 0,
            queued: 0,
            unacknowledged: 0,
        }
    }
}

fn info(number: u32) -> ClientInfo {
    ClientInfo {
        id: ClientId { number, incarnation: 0 },
        protocol: Protocol::Tcp,
        state: ClientState::Established,
        references: 1,
        local: CONTROLS.to_owned(),
        remote: CONTROLS.to_owned(),
        received: 0,
        sent: 0,
        unread: 0,
        unsent: 0,
        receive_window: 0,
        send_window: 0,
        requests: 0,
        calls: 0,
        since: 0,
        last_error: Some(CONTROLS.to_owned()),
    }
}
