//! The oracle: what a session may answer, told from the calls alone.
//!
//! [`Model`] watches calls and their effects and keeps its own account of them:
//! requests, clients, channels, windows, bytes. It is written from the contract
//! (wit/) and RFC 4254, and it is loose where these leave a choice (how much
//! window to grant, in which order to send). It takes any calls, lawful or not,
//! so that simulator, fuzzer and transcripts share it. It knows the public types
//! of the engine and nothing of how the engine works.
//!
//! One thing it can't follow is a peer that uses one number of its own for two
//! channels: what is sent to that number could be for either. From then on only
//! requests and budgets are checked.

use std::collections::BTreeMap;

use sshnet_core::message::Message;
use sshnet_core::{
    ClientId, ClientInfo, Completion, Effect, ErrorCode, Limits, Outcome, Statistics,
};

mod account;
pub mod call;
mod check;
pub mod coverage;
mod turns;
mod wire;

use account::{
    Awaited, Bound, Channel, Client, Conversation, Event, Kind, Listener, Phase, Pipe, Place,
    Request, State, Waiting,
};
pub use call::{Answer, Call, Machine};
pub use coverage::Coverage;

/// What a check has to say; an error is a defect of the engine.
pub type Verdict = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}
pub(crate) use ensure;

/// An event and what can be seen after it.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The call.
    pub call: &'a Call,
    /// Its effects.
    pub effects: &'a [Effect],
    /// The snapshot after it.
    pub clients: &'a [ClientInfo],
    /// The figures after it.
    pub figures: &'a Statistics,
}

impl Seen<'_> {
    /// How this request ended in this event, if it did.
    fn outcome(&self, request: u64) -> Option<&Outcome> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Complete(done) if done.request == request => Some(&done.outcome),
            _ => None,
        })
    }

    /// The message that was sent right behind this one.
    fn sends_behind(&self, message: &[u8]) -> Option<Message<'_>> {
        let is_it = |effect: &Effect| match effect {
            Effect::Send(sent) => std::ptr::eq(sent.as_slice(), message),
            _ => false,
        };
        match self.effects.iter().skip_while(|effect| !is_it(effect)).nth(1) {
            Some(Effect::Send(next)) => Message::decode(next).ok(),
            _ => None,
        }
    }

    /// Why the session fails in this event, if this effect comes of that.
    fn lost_with(&self, effect: &Effect) -> Option<&str> {
        let Effect::Complete(Completion { outcome: Err(error), .. }) = effect else { return None };
        self.effects.iter().find_map(|effect| match effect {
            Effect::Fail(why) if *why == error.message => Some(why.as_str()),
            _ => None,
        })
    }

    fn client(&self, id: ClientId) -> Option<&ClientInfo> {
        self.clients.iter().find(|info| info.id == id)
    }
}

/// The account of one session.
#[derive(Clone, Debug)]
pub struct Model {
    limits: Limits,
    /// Any complaint about the peer is a defect.
    lawful: bool,
    /// It is our engine, which shares what is unacknowledged as window.rs says.
    ours: bool,
    /// Channels cannot be told apart any more.
    blind: bool,
    now: u64,
    ended: bool,
    wake: Option<u64>,
    pipe: Option<Pipe>,
    clients: BTreeMap<u32, Client>,
    /// By number: the incarnation of its next user.
    next: BTreeMap<u32, u32>,
    requests: BTreeMap<u64, Request>,
    figures: Statistics,
    serial: u64,
    /// Who waits to send.
    waiters: BTreeMap<ClientId, turns::Waiter>,
    event: Event,
    /// Which states met which events.
    pub coverage: Coverage,
}

impl Model {
    /// The account of a session that was just made with these limits.
    pub fn new(limits: Limits, lawful: bool) -> Self {
        Self {
            limits,
            lawful,
            ours: true,
            blind: false,
            now: 0,
            ended: false,
            wake: None,
            pipe: None,
            clients: BTreeMap::new(),
            next: BTreeMap::new(),
            requests: BTreeMap::new(),
            figures: Statistics::default(),
            serial: 0,
            waiters: BTreeMap::new(),
            event: Event::default(),
            coverage: Coverage::default(),
        }
    }

    /// The account of an engine that is held to the contract only.
    #[must_use]
    pub fn of_another(self) -> Self {
        Self { ours: false, ..self }
    }

    /// Whether this request waits.
    pub fn waits(&self, request: u64) -> bool {
        self.requests.contains_key(&request)
    }

    /// The requests that wait, oldest name first.
    pub fn waiting(&self) -> Vec<u64> {
        self.requests.keys().copied().collect()
    }

    /// When the engine wants to be woken.
    pub fn wake(&self) -> Option<u64> {
        self.wake
    }

    fn client(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(&id.number).filter(|client| client.id == id)
    }

    fn known(&self, id: ClientId) -> Option<&Client> {
        self.clients.get(&id.number).filter(|client| client.id == id)
    }

    fn conversation(&mut self, id: ClientId) -> Option<&mut Conversation> {
        match &mut self.client(id)?.state {
            State::Dialing(_, c) | State::Established(c) | State::Finished(c) => Some(c),
            _ => None,
        }
    }

    fn enter(&mut self, id: ClientId, state: State) -> Option<State> {
        let now = self.now;
        let client = self.client(id)?;
        client.since = now;
        Some(std::mem::replace(&mut client.state, state))
    }

    /// Takes note of a question's answer.
    pub fn asked(&mut self, call: &Call, answer: &Answer) -> Verdict {
        match (call, answer) {
            (Call::Retain(id), Answer::Retained(result)) => match self.client(*id) {
                Some(client) => {
                    ensure!(result.is_ok(), "retain of a client that is there failed");
                    client.references = client.references.saturating_add(1);
                }
                None => ensure!(result.is_err(), "retain of a client that is gone"),
            },
            (Call::Lookup(number), Answer::Found(found)) => ensure!(
                found.as_ref().map(|info| info.id)
                    == self.clients.get(number).map(|client| client.id),
                "lookup of {number} found {found:?}"
            ),
            (Call::Text(id, _), Answer::Text(result)) => match self.known(*id) {
                Some(_) => {
                    let text = result.as_ref().map_err(|error| format!("no text: {error}"))?;
                    ensure!(text.ends_with('\n'), "text without a newline: {text:?}");
                }
                None => ensure!(result.is_err(), "text of a client that is gone"),
            },
            _ => {}
        }
        Ok(())
    }

    /// Takes note of an event; an error is a defect of the engine.
    pub fn observe(&mut self, seen: &Seen<'_>) -> Verdict {
        self.cover(seen);
        self.event = Event::default();
        for made in self.requests.values() {
            if let (Kind::Control { more: true }, Some(id)) = (made.kind, made.client) {
                self.event.controlled.insert(id);
            }
        }
        self.begin(seen)?;
        self.note_waiters();
        for effect in seen.effects {
            ensure!(!self.event.failed || !matches!(effect, Effect::Send(_)), "sent after fail");
            // What the pipe takes along ends before `fail` says why.
            if let Some(why) = seen.lost_with(effect)
                && !self.event.failed
            {
                self.failed(why)?;
            }
            match effect {
                Effect::Send(message) => self.sent(message, seen)?,
                Effect::Complete(done) => self.completed(done.request, &done.outcome, seen)?,
                Effect::Wake(at) => self.wake = Some(*at),
                Effect::Warn(text) => check::printable(text, 160)?,
                Effect::Fail(text) => {
                    check::printable(text, 120)?;
                    if !self.event.failed {
                        self.failed(text)?;
                    }
                }
            }
        }
        self.settle(seen)?;
        self.forget_timed();
        self.note_waiters();
        self.check(seen)
    }

    /// What the call itself means.
    fn begin(&mut self, seen: &Seen<'_>) -> Verdict {
        match seen.call {
            Call::PipeUp => {
                if self.pipe.is_none() {
                    self.pipe = Some(Pipe { heard: self.now, ..Pipe::default() });
                    for client in self.clients.values_mut() {
                        if let State::Listen(listener) = &mut client.state {
                            listener.bound = Bound::No;
                        }
                    }
                }
            }
            Call::PipeDown(_) => self.lose(),
            Call::PipeTook(bytes) => {
                if let Some(pipe) = &mut self.pipe {
                    pipe.in_pipe = pipe.in_pipe.saturating_sub(*bytes);
                    pipe.answers = pipe.answers.saturating_sub(*bytes);
                }
            }
            Call::Receive(message) => {
                self.event.heard = self.pipe.is_some();
                self.received(message)?;
            }
            Call::Advance(now) => self.advance(*now),
            Call::Shutdown(_) => {
                self.ended = true;
                let ids: Vec<_> = self.clients.values().map(|client| client.id).collect();
                for id in ids {
                    self.hang_up(id);
                }
            }
            Call::Clone(request, _) => {
                if self.admit(*request, None, Kind::Clone) {
                    self.event.must_complete.push(*request);
                }
            }
            Call::Control(request, id, text) => self.control(*request, *id, text, seen),
            Call::Read(request, id, count) => {
                if self.admit(*request, Some(*id), Kind::Read { count: *count }) {
                    match self.conversation(*id) {
                        Some(c) if *count > 0 => c.reads.push_back(*request),
                        _ => self.event.must_complete.push(*request),
                    }
                }
            }
            Call::Write(request, id, bytes) => self.write(*request, *id, bytes, seen)?,
            Call::Listen(request, id) => {
                if self.admit(*request, Some(*id), Kind::Listen) {
                    match self.client(*id).map(|client| &mut client.state) {
                        Some(State::Listen(listener)) if listener.bound != Bound::Refused => {
                            listener.listens.push_back(*request);
                        }
                        _ => self.event.must_complete.push(*request),
                    }
                }
            }
            Call::Flush(request) => {
                self.event.flushed = Some(*request);
                self.event.must_complete.push(*request);
                if let Some(made) = self.requests.get(request).copied()
                    && matches!(made.kind, Kind::Control { .. })
                    && let Some(id) = made.client
                {
                    let state = self.known(id).map(|client| &client.state);
                    // It may be an end of writing, which waits for a dial as well.
                    if matches!(state, Some(State::Dialing(..) | State::Announcing { .. }))
                        && self.controls(id).next() == Some(*request)
                    {
                        self.hang_up(id);
                    }
                }
            }
            Call::Release(id) => {
                if let Some(client) = self.client(*id) {
                    client.references -= 1;
                    if client.references == 0 {
                        self.event.released = Some(*id);
                        self.hang_up(*id);
                    }
                }
            }
            Call::Retain(_) | Call::Lookup(_) | Call::Text(..) | Call::Translate(_) => {}
        }
        Ok(())
    }

    /// Whether a request is carried out. If not, it has to end at once.
    fn admit(&mut self, request: u64, client: Option<ClientId>, kind: Kind) -> bool {
        if self.requests.contains_key(&request) {
            return false;
        }
        let full = self.requests.len() >= self.limits.requests as usize;
        self.requests.insert(request, Request { client, kind });
        if self.ended || full || client.is_some_and(|id| self.known(id).is_none()) {
            self.event.must_complete.push(request);
            return false;
        }
        true
    }

    fn control(&mut self, request: u64, id: ClientId, text: &[u8], seen: &Seen<'_>) {
        let lines = text.split(|&b| b == b'\n');
        let lines = lines.filter(|line| line.iter().any(|b| !b" \t\r\0".contains(b))).count();
        if !self.admit(request, Some(id), Kind::Control { more: lines > 1 }) {
            return;
        }
        let fits = text.len() <= self.limits.line as usize;
        let whole = text.strip_suffix(b"\n").unwrap_or(text);
        if whole == b"hangup" && fits {
            self.event.must_complete.push(request);
            self.hang_up(id);
        } else if fits {
            self.event.controlled.insert(id);
        }
        if matches!(seen.outcome(request), Some(Err(error)) if error.code == ErrorCode::InvalidArgument)
            && lines == 1
        {
            self.event.controlled.remove(&id);
        }
    }

    /// Control messages of this client that wait, as they were made.
    fn controls(&self, id: ClientId) -> impl Iterator<Item = u64> {
        let waiting = self.requests.iter();
        waiting
            .filter(move |(_, made)| {
                made.client == Some(id) && matches!(made.kind, Kind::Control { .. })
            })
            .map(|(request, _)| *request)
    }

    fn write(&mut self, request: u64, id: ClientId, bytes: &[u8], seen: &Seen<'_>) -> Verdict {
        if !self.admit(request, Some(id), Kind::Write { empty: bytes.is_empty() }) || self.blind {
            return Ok(());
        }
        let queued = self.queued();
        let controls = self.controls(id).count();
        let limit = self.limits.queued;
        let state = self.client(id).map(|client| &mut client.state);
        let (c, ending) = match state {
            // Of what waits one is the dial.
            Some(State::Dialing(_, c)) => (c, controls > 1),
            Some(State::Established(c)) => (c, controls > 0),
            _ => {
                self.event.must_complete.push(request);
                return Ok(());
            }
        };
        match seen.outcome(request) {
            Some(Err(error)) if error.code == ErrorCode::ResourceExhausted => {
                ensure!(queued + bytes.len() as u64 > limit, "a write was refused that fits");
            }
            Some(Err(_)) if c.eof_sent || ending => {}
            Some(Err(error)) if error.code == ErrorCode::NetworkDown => {
                // The event ended in `fail`: it was queued first.
                c.writes.push_back((request, bytes.to_vec(), 0));
            }
            Some(Err(error)) => return Err(format!("a write was refused: {error}")),
            _ if bytes.is_empty() => self.event.must_complete.push(request),
            _ => {
                ensure!(!c.eof_sent, "a write was taken after EOF");
                c.writes.push_back((request, bytes.to_vec(), 0));
            }
        }
        Ok(())
    }

    fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        if self.wake.is_some_and(|at| at <= self.now) {
            self.wake = None;
        }
        let late: Vec<_> = self
            .deadlines()
            .into_iter()
            .filter(|(at, _)| *at <= self.now)
            .map(|(_, id)| id)
            .collect();
        for id in late {
            self.event.timed_out = true;
            self.hang_up(id);
        }
        let keepalive = self.limits.keepalive;
        let Some(pipe) = self.pipe.as_mut().filter(|_| keepalive > 0) else { return };
        if self.now.saturating_sub(pipe.heard) < keepalive || pipe.probed.is_some() {
            return;
        }
        if pipe.channels.values().any(|channel| channel.phase == Phase::Open) {
            self.event.owed_probe = true;
        } else {
            pipe.heard = self.now;
        }
    }

    /// Whether a round trip is to be measured by the conversation that begins.
    fn is_new(&self) -> bool {
        let new = self.pipe.as_ref().is_some_and(|pipe| pipe.asked.is_none());
        new && self.ours && self.limits.window < self.limits.window_max
    }

    /// Whether one is to be measured by the conversation that gets window: one at a
    /// time, now and then, and only where windows change.
    fn is_due(&self) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        self.ours
            && self.limits.window < self.limits.window_max
            && pipe.timed.is_none()
            && pipe.asked.is_none_or(|at| self.now - at >= 10_000_000)
    }

    /// A question goes out on this channel, where it is to get so many answers.
    fn asks(&mut self, ours: u32, answers: usize) {
        let now = self.now;
        if let Some(pipe) = &mut self.pipe {
            pipe.asked = Some(now);
            pipe.timed.get_or_insert((ours, answers));
        }
    }

    /// What is asked on a channel that ends is not answered.
    fn forget_timed(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        pipe.timed = pipe.timed.filter(|(ours, _)| {
            pipe.channels
                .get(ours)
                .is_some_and(|c| c.phase == Phase::Open && !c.closed && !c.violated)
        });
    }

    /// When dials and announcements have to be given up.
    fn deadlines(&self) -> Vec<(u64, ClientId)> {
        let mut deadlines = Vec::new();
        for client in self.clients.values() {
            let (since, wait) = match &client.state {
                State::Dialing(None, _) => (client.since, self.limits.dial_wait),
                State::Dialing(Some(channel), _) => {
                    let channels = self.pipe.as_ref().map(|pipe| &pipe.channels);
                    match channels.and_then(|all| all.get(channel)).map(|channel| channel.phase) {
                        Some(Phase::Opening { since, .. }) => (since, self.limits.dial_time),
                        _ => continue,
                    }
                }
                State::Announcing { .. } => (client.since, self.limits.dial_time),
                _ => continue,
            };
            if wait > 0 {
                deadlines.push((since.saturating_add(wait), client.id));
            }
        }
        deadlines
    }

    /// A client's doings end from here; its requests have to end with this event.
    fn hang_up(&mut self, id: ClientId) {
        let Some(client) = self.client(id) else { return };
        match &client.state {
            State::Closed | State::Teardown(_) => {}
            State::Established(c) => {
                let channel = c.channel;
                self.event.owed_closes.insert(channel);
            }
            _ => self.quit(id),
        }
    }

    /// Leaves a state from which no CLOSE is due.
    fn quit(&mut self, id: ClientId) {
        match self.enter(id, State::Closed) {
            Some(State::Dialing(Some(channel), _) | State::Teardown(channel)) => {
                self.orphan(channel)
            }
            Some(State::Listen(listener)) if listener.bound == Bound::Yes => {
                self.event.owed_cancels.push(listener.place);
            }
            _ => {}
        }
    }

    /// Nobody waits for this channel's end any more.
    fn orphan(&mut self, channel: u32) {
        if let Some(pipe) = &mut self.pipe
            && let Some(channel) = pipe.channels.get_mut(&channel)
        {
            channel.owner = None;
        }
    }

    /// The pipe is gone.
    fn lose(&mut self) {
        if self.pipe.take().is_none() {
            return;
        }
        let ids: Vec<_> = self.clients.values().map(|client| client.id).collect();
        let now = self.now;
        for id in ids {
            let Some(client) = self.client(id) else { continue };
            let old = std::mem::replace(&mut client.state, State::Closed);
            let (state, stays) = match old {
                State::Closed | State::Finished(_) => (old, true),
                State::Listen(mut listener) => {
                    if listener.bound != Bound::Refused {
                        listener.bound = Bound::No;
                    }
                    (State::Listen(listener), true)
                }
                State::Established(mut c) => {
                    c.broken = true;
                    c.open = 0;
                    (State::Finished(c), false)
                }
                State::Dialing(..) | State::Announcing { .. } | State::Teardown(_) => {
                    (State::Closed, false)
                }
            };
            client.state = state;
            if !stays {
                client.since = now;
            }
        }
        let event = &mut self.event;
        event.owed_closes.clear();
        event.owed_cancels.clear();
        event.owed_failures.clear();
        event.owed_refusals.clear();
        event.owed_global_failures = 0;
        event.owed_probe = false;
        event.owed_trip = None;
        event.begun.clear();
    }

    /// The engine says that the peer is at fault.
    fn failed(&mut self, why: &str) -> Verdict {
        ensure!(!self.event.failed, "it failed twice in one event");
        self.event.failed = true;
        let Some(pipe) = &self.pipe else {
            return Err(format!("it failed without a pipe: {why}"));
        };
        let keepalive = self.limits.keepalive;
        let dumb = keepalive > 0 && pipe.probed.is_some_and(|at| self.now - at >= keepalive);
        // What our users or a new pipe make it send is not the peer's doing.
        let allowed = u64::from(self.limits.room) + u64::from(self.limits.control);
        let flooded =
            self.event.heard && pipe.in_pipe > allowed && pipe.answers > self.limits.control.into();
        match self.event.fault {
            Some(fault) => ensure!(!self.lawful, "it blames a lawful peer for {fault}: {why}"),
            None => ensure!(dumb || flooded || self.blind, "it failed without a reason: {why}"),
        }
        self.event.fault = None;
        self.lose();
        Ok(())
    }

    fn queued(&self) -> u64 {
        let queued = |client: &Client| match &client.state {
            State::Dialing(_, c) | State::Established(c) => c.unsent(),
            _ => 0,
        };
        self.clients.values().map(queued).sum()
    }
}
