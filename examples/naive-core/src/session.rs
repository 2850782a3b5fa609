//! The engine: events in, effects out.
//!
//! A method of [`Session`] is the function of the same name in wit/engine.wit. Here are
//! the state, the pipe, the clock and the questions; what users do is in [`user`], what
//! the peer says in [`peer`]. Each event only pushes effects onto a list;
//! [`Session::end_event`] lets those send who can and hands the list out.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::{replace, take};

use crate::message::Message;
use crate::text::{Place, Words, error, printable};
use crate::types::{
    ClientId, ClientInfo, ClientState, Completion, Config, Effect, Error, ErrorCode, Limits,
    Protocol, Reply, Statistics, TextFile,
};

mod peer;
mod user;

/// Sound limits.
pub const DEFAULT_LIMITS: Limits = Limits {
    clients: 1_000,
    backlog: 128,
    calls: 1_024,
    requests: 65_536,
    line: 4_096,
    name: 1_024,
    queued: 64 << 20,
    unacknowledged: 64 << 20,
    windows: 64 << 20,
    window: 2 << 20,
    window_max: 2 << 20,
    packet: 32_768,
    room: 1 << 20,
    control: 4 << 20,
    dial_time: 150_000_000,
    dial_wait: 0,
    keepalive: 0,
};

/// Messages that one event sends in turn; the rest goes with `pipe-took`.
const BURST: usize = 1_024;

/// The clients of one far side.
pub struct Session {
    /// Reads what people write.
    pub words: Words,
    limits: Limits,
    now: u64,
    ended: Option<Error>,
    pipe: Option<Pipe>,
    clients: BTreeMap<u32, Client>,
    incarnations: BTreeMap<u32, u32>,
    /// Requests that wait, and the client that each waits at.
    requests: BTreeMap<u64, ClientId>,
    serial: u64,
    /// The number of the client that sent last: the next one's turn is next.
    turn: u32,
    wake: Option<u64>,
    effects: Vec<Effect>,
    /// Those of the figures that are counted and not added up.
    counted: Statistics,
}

#[derive(Default)]
struct Pipe {
    in_pipe: u64,
    /// How many of those at least are answers to what the peer did.
    answers: u64,
    channels: BTreeMap<u32, Channel>,
    /// Our global requests that are not answered: what is to be bound, for whom and
    /// under which serial number; or nothing, for a cancel.
    awaited: VecDeque<Option<(Place, ClientId, u64)>>,
    heard: u64,
    probed: Option<u64>,
}

#[derive(Clone, Copy)]
struct Channel {
    theirs: u32,
    phase: Phase,
    owner: Option<ClientId>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Opening,
    Open,
    Closing,
}

struct Client {
    id: ClientId,
    protocol: Protocol,
    references: u32,
    state: State,
    local: String,
    remote: String,
    since: u64,
    last_error: Option<String>,
}

enum State {
    Closed,
    Dialing {
        control: Control,
        target: Place,
        channel: Option<u32>,
        deadline: Option<u64>,
        /// The requests that the conversation begins with.
        early: Talk,
    },
    Announcing {
        control: Control,
        serial: u64,
        deadline: Option<u64>,
    },
    Listen(Listener),
    Established(Talk),
    Teardown(u32),
    Finished(Talk, Error),
}

/// A write to `ctl`, and the lines of it that are not carried out.
struct Control {
    request: u64,
    rest: Vec<u8>,
}

struct Listener {
    place: Place,
    bound: Bound,
    calls: VecDeque<Call>,
    listens: VecDeque<u64>,
}

enum Bound {
    Yes,
    No,
    Asked(u64),
    Refused(Error),
}

struct Call {
    theirs: u32,
    window: u32,
    packet: u32,
    local: String,
    remote: String,
}

/// A conversation.
#[derive(Default)]
struct Talk {
    channel: u32,
    theirs: u32,
    /// Whether the peer began it.
    called: bool,
    /// What the peer still accepts, and in one message.
    window: u32,
    packet: u32,
    /// What the peer may still send.
    open: u32,
    inbox: VecDeque<u8>,
    /// How the way in ended: with EOF, or otherwise.
    end: Option<Result<(), Error>>,
    reads: VecDeque<(u64, u32)>,
    /// Requests, their bytes, and how many of these are sent.
    writes: VecDeque<(u64, Vec<u8>, usize)>,
    /// `closewrite` waits for the writes before it.
    closing: Option<Control>,
    eof_sent: bool,
    received: u64,
    sent: u64,
    unacknowledged: u64,
    /// How many of those had been sent when the peer was asked about them.
    asked: u64,
    /// Our channel requests that are not answered; true for that question.
    asks: VecDeque<bool>,
}

impl Talk {
    fn unsent(&self) -> u64 {
        self.writes.iter().map(|(_, bytes, sent)| (bytes.len() - sent) as u64).sum()
    }

    fn acknowledge(&mut self, bytes: u64) {
        let bytes = bytes.min(self.unacknowledged);
        self.unacknowledged -= bytes;
        self.asked = self.asked.saturating_sub(bytes);
    }

    /// The peer sent so many bytes, or broke this rule.
    fn take_window(&mut self, length: usize, packet: u32) -> Result<(), &'static str> {
        if self.end.is_some() {
            return Err("the far side sent data after its end of file");
        }
        if length > packet as usize {
            return Err("the far side sent a packet that is too large");
        }
        let open = self.open.checked_sub(length as u32);
        self.open = open.ok_or("the far side sent data past the window")?;
        Ok(())
    }

    /// Itself, unless its way out was ended.
    fn may_write(&mut self) -> Result<&mut Self, Error> {
        match self.closing.is_some() || self.eof_sent {
            true => Err(hung_up()),
            false => Ok(self),
        }
    }

    /// Requests that wait.
    fn requests(&self) -> Vec<u64> {
        let reads = self.reads.iter().map(|(request, _)| *request);
        let writes = self.writes.iter().map(|(request, ..)| *request);
        reads.chain(writes).chain(self.closing.iter().map(|control| control.request)).collect()
    }
}

impl Client {
    fn enter(&mut self, state: State, now: u64) -> State {
        self.since = now;
        replace(&mut self.state, state)
    }

    fn public(&self) -> ClientState {
        match &self.state {
            State::Closed => ClientState::Closed,
            State::Dialing { .. } | State::Announcing { .. } => ClientState::Dialing,
            State::Listen(_) => ClientState::Listen,
            State::Established(_) => ClientState::Established,
            State::Teardown(_) => ClientState::Teardown,
            State::Finished(..) => ClientState::Finished,
        }
    }

    fn info(&self) -> ClientInfo {
        let none = Talk::default();
        let talk = match &self.state {
            State::Established(talk)
            | State::Finished(talk, _)
            | State::Dialing { early: talk, .. } => talk,
            _ => &none,
        };
        let over = !matches!(self.state, State::Established(_));
        ClientInfo {
            id: self.id,
            protocol: self.protocol,
            state: self.public(),
            references: self.references,
            local: self.local.clone(),
            remote: self.remote.clone(),
            received: talk.received,
            sent: talk.sent,
            unread: talk.inbox.len() as u64,
            unsent: talk.unsent(),
            receive_window: talk.open,
            send_window: if over { 0 } else { talk.window },
            requests: match &self.state {
                State::Dialing { early, .. } => 1 + early.requests().len() as u32,
                State::Announcing { .. } => 1,
                State::Listen(listener) => listener.listens.len() as u32,
                _ => talk.requests().len() as u32,
            },
            calls: match &self.state {
                State::Listen(listener) => listener.calls.len() as u32,
                _ => 0,
            },
            since: self.since,
            last_error: self.last_error.clone(),
        }
    }
}

fn hung_up() -> Error {
    error(ErrorCode::HungUp, "i/o on hungup channel")
}

fn nowhere(protocol: Protocol) -> String {
    (if protocol == Protocol::Tcp { "::!0" } else { "/" }).into()
}

impl Session {
    /// Makes a session without a pipe, at time 0.
    pub fn new(config: Config) -> Self {
        let mut limits = config.limits;
        limits.packet = limits.packet.clamp(256, 32_768);
        limits.clients = limits.clients.max(1);
        limits.requests = limits.requests.max(1);
        limits.line = limits.line.max(64);
        limits.name = limits.name.max(16);
        let least = u64::from(limits.clients).max(4 * u64::from(limits.packet));
        limits.unacknowledged = limits.unacknowledged.max(least);
        limits.windows = limits.windows.max(least);
        limits.window = limits.window.max(limits.packet);
        limits.room = limits.room.max(limits.packet);
        limits.control = limits.control.max(4_096);
        let mut services = BTreeMap::new();
        for service in config.services {
            services.entry(service.name).or_insert(service.port);
        }
        let (name, line) = (limits.name as usize, limits.line as usize);
        Self {
            words: Words { prefix: config.prefix, services, name, line },
            limits,
            now: 0,
            ended: None,
            pipe: None,
            clients: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            requests: BTreeMap::new(),
            serial: 0,
            turn: 0,
            wake: None,
            effects: Vec::new(),
            counted: Statistics {
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
            },
        }
    }

    /// The window of every conversation: an even part of all.
    fn window(&self) -> u32 {
        let part = self.limits.windows / u64::from(self.limits.clients);
        self.limits.window.min(u32::try_from(part).unwrap_or(u32::MAX))
    }

    // Effects.

    fn send(&mut self, message: Message<'_>) {
        let Some(pipe) = &mut self.pipe else { return };
        let bytes = message.encode();
        pipe.in_pipe += bytes.len() as u64;
        self.counted.messages_sent += 1;
        self.effects.push(Effect::Send(bytes));
    }

    /// Sends what the peer's doing calls for, if only in the end.
    fn answer(&mut self, message: Message<'_>) {
        let before = self.pipe.as_ref().map_or(0, |pipe| pipe.in_pipe);
        self.send(message);
        if let Some(pipe) = &mut self.pipe {
            pipe.answers += pipe.in_pipe - before;
        }
    }

    fn warn(&mut self, what: &str) {
        self.effects.push(Effect::Warn(printable(what.as_bytes())));
    }

    fn complete(&mut self, request: u64, outcome: Result<Reply, Error>) {
        self.requests.remove(&request);
        self.effects.push(Effect::Complete(Completion { request, outcome }));
    }

    fn end_requests(&mut self, requests: impl IntoIterator<Item = u64>, why: &Error) {
        for request in requests {
            self.complete(request, Err(why.clone()));
        }
    }

    /// The peer is at fault, and no channel of it.
    fn fail(&mut self, why: &str) {
        let why = printable(why.as_bytes());
        self.pipe_down(&why);
        self.effects.push(Effect::Fail(why));
    }

    /// Whether the pipe takes more than what has to be sent.
    fn has_room(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.in_pipe < u64::from(self.limits.room))
    }

    /// Lets those send who can, and hands out the effects.
    pub fn end_event(&mut self) -> Vec<Effect> {
        while self.has_room() && self.begin_one() {}
        for _ in 0..BURST {
            if !self.has_room() || !self.send_one() {
                break;
            }
        }
        let deadlines = self.clients.values().filter_map(|client| match client.state {
            State::Dialing { deadline, .. } | State::Announcing { deadline, .. } => deadline,
            _ => None,
        });
        let keepalive = self.limits.keepalive;
        let alive = self.pipe.as_ref().filter(|_| keepalive > 0);
        let alive = alive.map(|pipe| pipe.probed.unwrap_or(pipe.heard).saturating_add(keepalive));
        let next = deadlines.chain(alive).min();
        if next != self.wake {
            self.effects.extend(next.map(Effect::Wake));
            self.wake = next;
        }
        take(&mut self.effects)
    }

    /// Asks for what the first client wants that waited for a pipe.
    fn begin_one(&mut self) -> bool {
        let waits = self.clients.values().find(|client| match &client.state {
            State::Dialing { channel, .. } => channel.is_none(),
            State::Listen(listener) => matches!(listener.bound, Bound::No),
            _ => false,
        });
        let Some(id) = waits.map(|client| client.id) else { return false };
        let due = self.deadline(self.limits.dial_time);
        self.serial += 1;
        let serial = self.serial;
        match self.client(id).map(|client| &mut client.state) {
            Ok(State::Dialing { deadline, .. }) => {
                *deadline = due;
                self.open_channel(id);
            }
            Ok(State::Listen(listener)) => {
                listener.bound = Bound::Asked(serial);
                let place = listener.place.clone();
                self.bind(place, id, serial);
            }
            _ => {}
        }
        true
    }

    /// Sends one message of the next client that has something to send and may.
    fn send_one(&mut self) -> bool {
        let behind = self.clients.range(self.turn.saturating_add(1)..);
        let ahead = self.clients.range(..=self.turn);
        let part = (self.limits.unacknowledged / u64::from(self.limits.clients)).max(1);
        let packet = self.limits.packet;
        let next = behind.chain(ahead).find_map(|(number, client)| {
            let State::Established(talk) = &client.state else { return None };
            if talk.writes.is_empty() {
                return talk.closing.is_some().then_some((*number, 0, false));
            }
            let able = talk.window.min(talk.packet).min(packet);
            let free = part.saturating_sub(talk.unacknowledged);
            let count = u64::from(able).min(talk.unsent()).min(free);
            let stuck = able > 0 && free == 0 && !talk.asks.contains(&true);
            (count > 0 || stuck).then_some((*number, count as usize, stuck))
        });
        let Some((number, count, stuck)) = next else { return false };
        self.turn = number;
        let Some(client) = self.clients.get_mut(&number) else { return false };
        let id = client.id;
        let State::Established(talk) = &mut client.state else { return false };
        let theirs = talk.theirs;
        if stuck {
            // The peer may have read all of it and not say so by giving window.
            talk.asked = talk.unacknowledged;
            talk.asks.push_back(true);
            self.ask(theirs);
            return true;
        }
        if count == 0 {
            let closing = talk.closing.take();
            talk.eof_sent = true;
            self.send(Message::Eof { recipient: theirs });
            if let Some(control) = closing {
                self.run(id, control);
            }
            return true;
        }
        let mut data = Vec::new();
        let mut done = Vec::new();
        while let Some((request, bytes, sent)) = talk.writes.front_mut() {
            let piece = (bytes.len() - *sent).min(count - data.len());
            data.extend_from_slice(bytes.get(*sent..*sent + piece).unwrap_or_default());
            *sent += piece;
            if *sent < bytes.len() {
                break;
            }
            done.push((*request, bytes.len() as u32));
            talk.writes.pop_front();
        }
        talk.window -= count as u32;
        talk.sent += count as u64;
        talk.unacknowledged += count as u64;
        self.counted.bytes_sent += count as u64;
        self.send(Message::Data { recipient: theirs, data: &data });
        for (request, length) in done {
            self.complete(request, Ok(Reply::Count(length)));
        }
        true
    }

    /// Sends a request that every peer has to answer.
    fn ask(&mut self, recipient: u32) {
        let name = b"keepalive@openssh.com";
        self.send(Message::Request { recipient, name, want_reply: true, data: b"" });
    }

    // The pipe and the clock.

    /// There is a pipe.
    pub fn pipe_up(&mut self) {
        if self.pipe.is_some() {
            return self.warn("the pipe is up already");
        }
        self.pipe = Some(Pipe { heard: self.now, ..Pipe::default() });
        // One that could not be announced on the last one has another try.
        for client in self.clients.values_mut() {
            if let State::Listen(listener) = &mut client.state {
                listener.bound = Bound::No;
            }
        }
    }

    /// The pipe is gone.
    pub fn pipe_down(&mut self, reason: &str) {
        if self.pipe.take().is_none() {
            return;
        }
        let why = error(ErrorCode::NetworkDown, reason);
        for id in self.ids() {
            let Some(client) = self.clients.get_mut(&id.number) else { continue };
            match &mut client.state {
                State::Closed | State::Finished(..) => {}
                State::Teardown(_) => drop(client.enter(State::Closed, self.now)),
                State::Dialing { .. } | State::Announcing { .. } => self.hang_up(id, &why),
                State::Listen(listener) => {
                    if !matches!(listener.bound, Bound::Refused(_)) {
                        listener.bound = Bound::No;
                    }
                    listener.calls.clear();
                    client.last_error = Some(why.message.clone());
                }
                State::Established(_) => self.finish(id, &why),
            }
        }
    }

    /// The pipe took so many bytes.
    pub fn pipe_took(&mut self, bytes: u64) {
        if let Some(pipe) = &mut self.pipe {
            pipe.in_pipe = pipe.in_pipe.saturating_sub(bytes);
            pipe.answers = pipe.answers.saturating_sub(bytes);
        }
    }

    fn deadline(&self, after: u64) -> Option<u64> {
        self.now.checked_add(after).filter(|_| after > 0)
    }

    /// It is this late.
    pub fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        for id in self.ids() {
            let due = match self.clients.get(&id.number).map(|client| &client.state) {
                Some(State::Dialing { deadline, .. } | State::Announcing { deadline, .. }) => {
                    *deadline
                }
                _ => None,
            };
            if due.is_some_and(|due| due <= self.now) {
                let why = error(ErrorCode::TimedOut, "the far side did not answer in time");
                self.hang_up(id, &why);
            }
        }
        let keepalive = self.limits.keepalive;
        let Some(pipe) = self.pipe.as_mut().filter(|_| keepalive > 0) else { return };
        if self.now - pipe.probed.unwrap_or(pipe.heard) < keepalive {
            return;
        }
        if pipe.probed.is_some() {
            return self.fail("the far side gives no sign of life");
        }
        let open = pipe.channels.values().find(|channel| channel.phase == Phase::Open);
        let Some(channel) = open.copied() else {
            pipe.heard = self.now;
            return;
        };
        pipe.probed = Some(self.now);
        if let Some(Client { state: State::Established(talk), .. }) =
            channel.owner.and_then(|id| self.clients.get_mut(&id.number))
        {
            talk.asks.push_back(false);
            self.ask(channel.theirs);
        }
    }

    /// The session ends.
    pub fn shutdown(&mut self, reason: &str) {
        let why = error(ErrorCode::Canceled, reason);
        self.ended.get_or_insert(why.clone());
        for id in self.ids() {
            self.hang_up(id, &why);
        }
    }

    // Questions.

    fn ids(&self) -> Vec<ClientId> {
        self.clients.values().map(|client| client.id).collect()
    }

    fn client(&mut self, id: ClientId) -> Result<&mut Client, Error> {
        let found = self.clients.get_mut(&id.number).filter(|client| client.id == id);
        found.ok_or(error(ErrorCode::NoEntry, "file does not exist"))
    }

    /// A client's conversation, if it has one that is not over.
    fn talk(&mut self, id: ClientId) -> Option<&mut Talk> {
        match &mut self.client(id).ok()?.state {
            State::Established(talk) => Some(talk),
            _ => None,
        }
    }

    /// One more reference.
    pub fn retain(&mut self, id: ClientId) -> Result<(), Error> {
        self.client(id)?.references += 1;
        Ok(())
    }

    /// The client with this number.
    pub fn lookup(&self, number: u32) -> Option<ClientInfo> {
        self.clients.get(&number).map(Client::info)
    }

    /// What a file reads.
    pub fn text(&self, id: ClientId, file: TextFile) -> Result<String, Error> {
        let info = self.lookup(id.number).filter(|info| info.id == id);
        let info = info.ok_or(error(ErrorCode::NoEntry, "file does not exist"))?;
        Ok(match file {
            TextFile::Local => format!("{}\n", info.local),
            TextFile::Remote => format!("{}\n", info.remote),
            TextFile::Status => {
                let state = match info.state {
                    ClientState::Closed => "Closed",
                    ClientState::Dialing => "Dialing",
                    ClientState::Listen => "Listen",
                    ClientState::Established => "Established",
                    ClientState::Teardown => "Teardown",
                    ClientState::Finished => "Finished",
                };
                let ClientInfo { unread, unsent, received, sent, .. } = info;
                let (open, window) = (info.receive_window, info.send_window);
                let last = info.last_error.map_or(String::new(), |error| format!("{error}\n"));
                format!(
                    "{state} qin {unread} qout {unsent} rx {received} tx {sent} \
                     window {open}/{window}\n{last}"
                )
            }
        })
    }

    /// Every client.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.clients.values().map(Client::info).collect()
    }

    /// The figures: those that are not counted are added up.
    pub fn statistics(&self) -> Statistics {
        let mut figures = Statistics {
            pipe_up: self.pipe.is_some(),
            clients: self.clients.len() as u32,
            channels: self.pipe.as_ref().map_or(0, |pipe| pipe.channels.len() as u32),
            in_pipe: self.pipe.as_ref().map_or(0, |pipe| pipe.in_pipe),
            ..self.counted
        };
        for client in self.clients.values() {
            match &client.state {
                State::Dialing { channel, early, .. } => {
                    figures.windows += channel.map_or(0, |_| u64::from(self.window()));
                    figures.queued += early.unsent();
                }
                State::Established(talk) => {
                    figures.windows += u64::from(talk.open) + talk.inbox.len() as u64;
                    figures.queued += talk.unsent();
                    figures.unacknowledged += talk.unacknowledged;
                }
                State::Finished(talk, _) => figures.windows += talk.inbox.len() as u64,
                _ => {}
            }
        }
        figures
    }
}
