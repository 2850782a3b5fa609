//! Which states met which events: what the fixed seeds have to reach.

use std::collections::BTreeMap;

use sshnet_core::message::Message;

use super::{Call, Model, Phase, Seen, State};

/// Counts each pair of a state and an event.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    pairs: BTreeMap<(&'static str, &'static str), u64>,
}

impl Coverage {
    /// Adds up.
    pub fn merge(&mut self, other: &Self) {
        for (pair, count) in &other.pairs {
            *self.pairs.entry(*pair).or_default() += count;
        }
    }

    /// The pairs that can be met and were not.
    pub fn missing(&self) -> Vec<(&'static str, &'static str)> {
        let cross = |states: &'static [&'static str], events: &'static [&'static str]| {
            states.iter().flat_map(move |s| events.iter().map(move |e| (*s, *e)))
        };
        let clients = cross(CLIENT_STATES, CLIENT_EVENTS);
        let session = cross(&CLIENT_STATES[1..], SESSION_EVENTS);
        let channels = cross(CHANNEL_STATES, CHANNEL_EVENTS);
        let messages = SESSION_MESSAGES.iter().map(|e| ("session", *e));
        let windows = WINDOWS.iter().map(|e| ("window", *e));
        clients
            .chain(session)
            .chain(channels)
            .chain(messages)
            .chain(windows)
            .filter(|pair| !UNREACHABLE.contains(pair) && !self.pairs.contains_key(pair))
            .collect()
    }

    /// How many pairs were met.
    pub fn met(&self) -> usize {
        self.pairs.len()
    }

    fn hit(&mut self, state: &'static str, event: &'static str) {
        *self.pairs.entry((state, event)).or_default() += 1;
    }
}

/// States of a client, as far as its users can tell them apart.
pub const CLIENT_STATES: &[&str] =
    &["gone", "closed", "dialing", "announcing", "listen", "established", "teardown", "finished"];

/// What users do to a client.
pub const CLIENT_EVENTS: &[&str] = &[
    "connect",
    "announce",
    "hangup",
    "closewrite",
    "other control",
    "read",
    "write",
    "listen",
    "release",
    "flush",
];

/// What happens to a session while there is a client in each state.
pub const SESSION_EVENTS: &[&str] =
    &["pipe up", "pipe down", "pipe took", "advance", "shutdown", "fail"];

/// States of a channel.
pub const CHANNEL_STATES: &[&str] = &[
    "absent",
    "opening",
    "opening, given up",
    "open",
    "half open",
    "closing",
    "closing, given up",
];

/// What a peer says about a channel.
pub const CHANNEL_EVENTS: &[&str] = &[
    "confirmation",
    "failure",
    "adjust",
    "data",
    "extended data",
    "eof",
    "close",
    "request",
    "success",
    "failed",
];

/// What a peer says about the session.
pub const SESSION_MESSAGES: &[&str] = &["malformed", "open", "global request", "global answer"];

/// What becomes of a receive window, by the peer's manners.
pub const WINDOWS: &[&str] = &["grown, lawful peer", "grown, hostile peer"];

/// Pairs that can't be: a client that waits for nothing has no request to flush.
const UNREACHABLE: &[(&str, &str)] =
    &[("gone", "flush"), ("closed", "flush"), ("teardown", "flush"), ("finished", "flush")];

impl Model {
    fn state_name(&self, state: &State) -> &'static str {
        match state {
            State::Closed => "closed",
            State::Dialing(..) => "dialing",
            State::Announcing { .. } => "announcing",
            State::Listen(_) => "listen",
            State::Established(_) => "established",
            State::Teardown(_) => "teardown",
            State::Finished(_) => "finished",
        }
    }

    /// Counts what this event meets; called before it has any effect here.
    pub(super) fn cover(&mut self, seen: &Seen<'_>) {
        let of_client = match seen.call {
            Call::Control(_, id, text) => {
                let verb = text.split(|b| b" \n".contains(b)).next().unwrap_or_default();
                let event = match verb {
                    b"connect" => "connect",
                    b"announce" => "announce",
                    b"hangup" => "hangup",
                    b"closewrite" => "closewrite",
                    _ => "other control",
                };
                Some((*id, event))
            }
            Call::Read(_, id, _) => Some((*id, "read")),
            Call::Write(_, id, _) => Some((*id, "write")),
            Call::Listen(_, id) => Some((*id, "listen")),
            Call::Release(id) => Some((*id, "release")),
            Call::Flush(request) => {
                self.requests.get(request).and_then(|made| made.client).map(|id| (id, "flush"))
            }
            _ => None,
        };
        if let Some((id, event)) = of_client {
            let state = self.known(id).map_or("gone", |client| self.state_name(&client.state));
            self.coverage.hit(state, event);
        }
        let fails = seen.effects.iter().any(|e| matches!(e, sshnet_core::Effect::Fail(_)));
        let of_session = match seen.call {
            Call::PipeUp => Some("pipe up"),
            Call::PipeDown(_) => Some("pipe down"),
            Call::PipeTook(_) => Some("pipe took"),
            Call::Advance(_) => Some("advance"),
            Call::Shutdown(_) => Some("shutdown"),
            _ => fails.then_some("fail"),
        };
        if let Some(event) = of_session {
            let states: Vec<_> =
                self.clients.values().map(|client| self.state_name(&client.state)).collect();
            for state in states {
                self.coverage.hit(state, event);
            }
        }
        if let (Call::Receive(bytes), Some(_)) = (seen.call, &self.pipe) {
            self.cover_message(bytes);
        }
    }

    /// Counts a window that is larger than all have at the start.
    pub(super) fn cover_window(&mut self, size: u64) {
        if size > u64::from(self.limits.window) {
            self.coverage.hit("window", WINDOWS[usize::from(!self.lawful)]);
        }
    }

    fn cover_message(&mut self, bytes: &[u8]) {
        let Ok(message) = Message::decode(bytes) else {
            self.coverage.hit("session", "malformed");
            return;
        };
        let (recipient, event) = match message {
            Message::OpenConfirmation { recipient, .. } => (recipient, "confirmation"),
            Message::OpenFailure { recipient, .. } => (recipient, "failure"),
            Message::WindowAdjust { recipient, .. } => (recipient, "adjust"),
            Message::Data { recipient, .. } => (recipient, "data"),
            Message::ExtendedData { recipient, .. } => (recipient, "extended data"),
            Message::Eof { recipient } => (recipient, "eof"),
            Message::Close { recipient } => (recipient, "close"),
            Message::Request { recipient, .. } => (recipient, "request"),
            Message::Success { recipient } => (recipient, "success"),
            Message::Failure { recipient } => (recipient, "failed"),
            Message::Open { .. } => return self.coverage.hit("session", "open"),
            Message::GlobalRequest { .. } => return self.coverage.hit("session", "global request"),
            Message::RequestSuccess { .. } | Message::RequestFailure => {
                return self.coverage.hit("session", "global answer");
            }
        };
        let channel = self.pipe.as_ref().and_then(|pipe| pipe.channels.get(&recipient));
        let state = match channel.map(|channel| (channel.phase, channel.owner)) {
            None => "absent",
            Some((Phase::Opening { .. }, Some(_))) => "opening",
            Some((Phase::Opening { .. }, None)) => "opening, given up",
            Some((Phase::Open, owner)) => {
                match owner.and_then(|id| self.known(id)).map(|client| &client.state) {
                    Some(State::Established(c)) if c.ended => "half open",
                    _ => "open",
                }
            }
            Some((Phase::Closing, Some(_))) => "closing",
            Some((Phase::Closing, None)) => "closing, given up",
        };
        self.coverage.hit(state, event);
    }
}
