//! A session: the only module that sees all the others.
//!
//! Here are its state, the events of the host (pipe up and down, room, time,
//! shutdown) and the questions. What the files' users do is in [`user`], what the
//! peer says is in [`peer`], who may send when is in [`flow`].
//!
//! Each event ends in [`Session::finish`], which lets those send who can, says
//! when to wake up, and hands out the effects.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::client::{Bound, Conversation, Early, End, Inbox, Outgoing, Remains, State, Write};
use crate::config::{Config, Limits, Services};
use crate::ctl::{Announced, Parser};
use crate::effect::{
    ClientId, ClientInfo, Completion, Effect, Error, ErrorCode, Instant, Outcome, RequestId,
    Statistics, TextFile, printable,
};
use crate::growth::Path;
use crate::listeners::Listeners;
use crate::message::Message;
use crate::order::Order;
use crate::queue::Line;
use crate::table::{Channel, Channels, Clients};
use crate::trip::Trip;
use crate::window::{Budget, ReceiveWindow};

mod flow;
mod peer;
mod user;

/// The clients of one far side, over one pipe after another.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    parser: Parser,
    now: Instant,
    /// Set by `shutdown`: what every request is answered with.
    ended: Option<Error>,
    pipe: Option<Pipe>,
    clients: Clients,
    channels: Channels,
    listeners: Listeners,
    /// Calls that wait, all listeners together.
    calls: u32,
    /// Names each announcement that is asked for.
    serial: u64,
    /// Conversations that have something to send, and may.
    turn: VecDeque<ClientId>,
    /// Conversations that wait for bytes to be acknowledged, by how many.
    starved: Order,
    /// What the peer may send, or sent and nobody read.
    pool: Budget,
    /// What we sent and the peer did not acknowledge.
    uploads: Budget,
    queued: u64,
    /// When a dial or an announcement is given up, or a conversation's window is to be
    /// opened further.
    due: Order,
    wake: Option<Instant>,
    out: Out,
}

/// What lasts as long as a pipe.
#[derive(Debug)]
struct Pipe {
    /// Global requests of ours that the peer has not answered, in order.
    awaited: VecDeque<Awaited>,
    /// The addresses among them.
    asked: Listeners,
    /// Clients whose dial or announcement waits for room; the last is the first.
    asleep: Vec<ClientId>,
    /// When the last message came.
    heard: Instant,
    /// When a sign of life was asked for since then.
    probed: Option<Instant>,
    path: Path,
}

/// A global request that the peer has not answered.
#[derive(Debug)]
enum Awaited {
    /// To bind an address, for the announcement of this serial number.
    Bind { owner: ClientId, serial: u64, address: Announced },
    /// To release one.
    Cancel,
}

/// Effects of the event under way, and what they change.
#[derive(Debug, Default)]
struct Out {
    effects: Vec<Effect>,
    /// Requests that wait: at which client, and its place in a line there, if that is
    /// where it waits.
    requests: HashMap<RequestId, (ClientId, u64), FxBuildHasher>,
    /// The last place that was given.
    place: u64,
    /// Bytes handed to the pipe and not taken.
    in_pipe: u64,
    /// How many of them at least are answers to what the peer did.
    answers: u64,
    statistics: Statistics,
}

impl Out {
    fn complete(&mut self, request: RequestId, outcome: Outcome) {
        self.requests.remove(&request);
        self.effects.push(Effect::Complete(Completion { request, outcome }));
    }

    /// A place behind all others, in whichever line.
    fn next_place(&mut self) -> u64 {
        self.place += 1;
        self.place
    }

    fn send(&mut self, message: &Message<'_>) {
        self.send_bytes(message.encode());
    }

    /// Asks for an answer on a channel, and times it; answers how many are owed then.
    fn ask(&mut self, id: ClientId, c: &mut Conversation, trip: &mut Trip, now: Instant) -> u32 {
        let answers = self.question(c);
        trip.ask(id, answers, now);
        answers
    }

    /// Asks for an answer on a channel; answers how many are owed then. Every peer
    /// must refuse a request that it doesn't know (RFC 4254 section 5.4), which is
    /// all that is asked of it.
    fn question(&mut self, c: &mut Conversation) -> u32 {
        c.probes += 1;
        self.send(&Message::Request {
            recipient: c.peer.0,
            name: b"keepalive@openssh.com",
            want_reply: true,
            data: b"",
        });
        c.probes
    }

    /// Sends what the peer's doing calls for, if only in the end: it is to read that
    /// before it calls for more.
    fn answer(&mut self, message: &Message<'_>) {
        let before = self.in_pipe;
        self.send(message);
        self.answers += self.in_pipe - before;
    }

    fn send_bytes(&mut self, message: Vec<u8>) {
        self.in_pipe += message.len() as u64;
        self.statistics.messages_sent += 1;
        self.effects.push(Effect::Send(message));
    }

    fn warn(&mut self, what: String) {
        self.effects.push(Effect::Warn(what));
    }

    /// Answers the reads that can be answered; answers how many bytes they took.
    fn serve(&mut self, inbox: &mut Inbox) -> usize {
        let mut taken = 0;
        while let Some(&(request, count)) = inbox.reads.front() {
            let Some(outcome) = inbox.take(count) else { break };
            inbox.reads.pop_front();
            taken += outcome.as_ref().map_or(0, Vec::len);
            self.complete(request, outcome.map(crate::effect::Reply::Data));
        }
        taken
    }
}

impl Session {
    /// Makes a session that has no pipe, at time 0.
    pub fn new(config: Config) -> Self {
        let limits = config.limits.sane();
        Self {
            limits,
            parser: Parser {
                services: Services::new(config.services),
                prefix: config.prefix,
                name: limits.name as usize,
                line: limits.line as usize,
            },
            now: 0,
            ended: None,
            pipe: None,
            clients: Clients::new(),
            channels: Channels::new(),
            listeners: Listeners::default(),
            calls: 0,
            serial: 0,
            turn: VecDeque::new(),
            starved: Order::default(),
            pool: Budget::new(limits.windows, limits.clients, limits.packet),
            uploads: uploads(&limits),
            queued: 0,
            due: Order::default(),
            wake: None,
            out: Out::default(),
        }
    }

    /// There is a pipe, with nothing sent or received yet.
    pub fn pipe_up(&mut self) -> Vec<Effect> {
        if self.pipe.is_some() {
            self.out.warn("the pipe is up already".into());
            return self.finish();
        }
        let mut asleep = self.clients.ids();
        asleep.reverse();
        for id in &asleep {
            if let Ok(client) = self.clients.get_mut(*id)
                && let State::Listen(listener) = &mut client.state
            {
                listener.bound = Bound::No;
            }
        }
        self.pipe = Some(Pipe {
            awaited: VecDeque::new(),
            asked: Listeners::default(),
            asleep,
            heard: self.now,
            probed: None,
            path: Path::new(&self.limits),
        });
        self.finish()
    }

    /// The pipe is gone, for this reason.
    pub fn pipe_down(&mut self, reason: &str) -> Vec<Effect> {
        if self.pipe.is_some() {
            self.lose_pipe(reason);
        }
        self.finish()
    }

    /// The pipe took so many bytes.
    pub fn pipe_took(&mut self, bytes: u64) -> Vec<Effect> {
        self.out.in_pipe = self.out.in_pipe.saturating_sub(bytes);
        self.out.answers = self.out.answers.saturating_sub(bytes);
        self.finish()
    }

    /// It is this late.
    pub fn advance(&mut self, now: Instant) -> Vec<Effect> {
        self.now = self.now.max(now);
        if self.wake.is_some_and(|wake| wake <= self.now) {
            self.wake = None;
        }
        while let Some((at, id)) = self.due.first() {
            if at > self.now {
                break;
            }
            self.due.pop();
            let waited = match self.clients.get(id).map(|client| &client.state) {
                Ok(State::Established(_)) => {
                    self.grant(id, 0);
                    continue;
                }
                Ok(State::Dialing(_)) if self.pipe.is_none() => "no connection came up in time",
                _ => "the far side did not answer in time",
            };
            self.give_up(id, Error::new(ErrorCode::TimedOut, waited));
        }
        self.keep_alive();
        self.finish()
    }

    /// The session ends, for this reason.
    pub fn shutdown(&mut self, reason: &str) -> Vec<Effect> {
        let error = Error::new(ErrorCode::Canceled, reason);
        self.ended.get_or_insert_with(|| error.clone());
        for id in self.clients.ids() {
            self.hang_up(id, &error);
        }
        self.finish()
    }

    /// The client that has this number now.
    pub fn lookup(&self, number: u32) -> Option<ClientInfo> {
        self.clients.by_number(number).map(crate::client::Client::info)
    }

    /// What a client's `local`, `remote` or `status` reads.
    pub fn text(&self, client: ClientId, file: TextFile) -> Result<String, Error> {
        Ok(self.clients.get(client)?.text(file))
    }

    /// Answers a `cs` query.
    pub fn translate(&self, query: &str) -> Result<String, Error> {
        self.parser.translate(query)
    }

    /// Every client, by number.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.clients.iter().map(crate::client::Client::info).collect()
    }

    /// Figures of the session.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            pipe_up: self.pipe.is_some(),
            clients: self.clients.count(),
            channels: self.channels.count(),
            in_pipe: self.out.in_pipe,
            windows: self.pool.total(),
            queued: self.queued,
            unacknowledged: self.uploads.total(),
            ..self.out.statistics
        }
    }

    /// Ends an event.
    fn finish(&mut self) -> Vec<Effect> {
        self.wake_asleep();
        self.send_in_turn();
        let alive =
            self.pipe.as_ref().filter(|_| self.limits.keepalive > 0).map(|pipe| {
                pipe.probed.unwrap_or(pipe.heard).saturating_add(self.limits.keepalive)
            });
        let next = self.due.first().map(|(at, _)| at).into_iter().chain(alive).min();
        // A wake-up that comes too early does no harm, one more effect in each
        // event does.
        if let Some(at) = next
            && self.wake.is_none_or(|wake| at < wake)
        {
            self.wake = Some(at);
            self.out.effects.push(Effect::Wake(at));
        }
        core::mem::take(&mut self.out.effects)
    }

    /// The peer broke the protocol in a way that no single channel can be blamed
    /// for: to us the pipe is down.
    fn fail(&mut self, reason: &str) {
        let reason = printable(reason.as_bytes());
        self.lose_pipe(&reason);
        self.out.effects.push(Effect::Fail(reason));
    }

    /// Asks for a sign of life, or gives up waiting for one.
    fn keep_alive(&mut self) {
        let keepalive = self.limits.keepalive;
        let Some(pipe) = self.pipe.as_mut().filter(|_| keepalive > 0) else { return };
        // Counted from the question, not from what was heard last: a host that
        // slept owes the peer its time to answer all the same.
        if self.now.saturating_sub(pipe.probed.unwrap_or(pipe.heard)) < keepalive {
            return;
        }
        if pipe.probed.is_some() {
            self.fail("the far side gives no sign of life");
            return;
        }
        let Some(owner) = self.channels.any_open() else {
            // Nothing is open, so nothing is waited for.
            pipe.heard = self.now;
            return;
        };
        pipe.probed = Some(self.now);
        if let Ok(client) = self.clients.get_mut(owner)
            && let State::Established(c) = &mut client.state
        {
            self.out.ask(owner, c, &mut pipe.path.trip, self.now);
        }
    }

    /// Everything that needed the pipe ends, listeners excepted.
    fn lose_pipe(&mut self, reason: &str) {
        self.pipe = None;
        self.out.in_pipe = 0;
        self.out.answers = 0;
        self.channels = Channels::new();
        let error = Error::new(ErrorCode::NetworkDown, reason);
        for id in self.clients.ids() {
            let Ok(client) = self.clients.get_mut(id) else { continue };
            match &mut client.state {
                State::Closed | State::Finished(_) => {}
                State::Teardown(_) => {
                    client.enter(State::Closed, self.now);
                }
                State::Dialing(_) | State::Announcing(_) => self.give_up(id, error.clone()),
                State::Listen(listener) => {
                    if !matches!(listener.bound, Bound::Refused(_)) {
                        listener.bound = Bound::No;
                    }
                    self.calls -= listener.calls.len() as u32;
                    listener.calls.clear();
                    client.last_error = Some(error.message.clone());
                }
                State::Established(_) => self.finish_conversation(id, &error),
            }
        }
        for id in core::mem::take(&mut self.turn) {
            if let Ok(client) = self.clients.get_mut(id) {
                client.in_turn = false;
            }
        }
        self.uploads = uploads(&self.limits);
    }

    /// A conversation ended at the far side: what came can still be read, nothing
    /// can be written. Its channel is dealt with by the caller.
    fn finish_conversation(&mut self, id: ClientId, error: &Error) {
        let Ok(client) = self.clients.get_mut(id) else { return };
        if !matches!(client.state, State::Established(_)) {
            return;
        }
        let State::Established(mut c) = client.enter(State::Closed, self.now) else { return };
        // A CLOSE after EOF is how a conversation ends; anything else is news.
        if !(c.inbox.ended() && error.code == ErrorCode::ConnectionReset) {
            client.last_error = Some(error.message.clone());
        }
        c.inbox.end(End::Broken(error.clone()));
        c.receive.close(&mut self.pool);
        let taken = self.out.serve(&mut c.inbox);
        c.receive.consumed(taken, &mut self.pool);
        self.leave_turn(id, &mut c);
        let remains = Remains {
            error: error.clone(),
            inbox: c.inbox,
            receive: c.receive,
            received: c.received,
            sent: c.sent,
        };
        if let Ok(client) = self.clients.get_mut(id) {
            client.enter(State::Finished(remains), self.now);
        }
        self.queued = self.queued.saturating_sub(c.unsent);
        self.end_writing(c.writes, c.outgoing, error);
        self.feed_starved();
    }

    /// What was to be sent in a conversation that is over fails.
    fn end_writing(&mut self, writes: Line<Write>, outgoing: Outgoing, error: &Error) {
        for write in writes {
            self.out.complete(write.request, Err(error.clone()));
        }
        if let Outgoing::Ending(control) = outgoing {
            self.out.complete(control.request, Err(error.clone()));
        }
    }

    /// A dial or an announcement fails with this error.
    fn give_up(&mut self, id: ClientId, error: Error) {
        let Ok(client) = self.clients.get_mut(id) else { return };
        if !matches!(client.state, State::Dialing(_) | State::Announcing(_)) {
            return;
        }
        client.last_error = Some(error.message.clone());
        let (control, early) = match client.enter(State::Closed, self.now) {
            State::Dialing(mut dial) => {
                if let Some(asked) = &mut dial.asked {
                    asked.window.close(&mut self.pool);
                    self.channels.set(asked.channel, Channel::Opening { owner: None });
                }
                self.out.statistics.dials_failed += 1;
                (dial.control, dial.early)
            }
            State::Announcing(announcing) => (announcing.control, Early::default()),
            _ => return,
        };
        self.due.remove(id);
        self.queued = self.queued.saturating_sub(early.unsent);
        // Of all that waited for it the dial alone may be what was interrupted.
        let missed = match error.code {
            ErrorCode::Interrupted => Error::hung_up(),
            _ => error.clone(),
        };
        self.out.complete(control.request, Err(error));
        self.end_waits(early.inbox.reads, &missed);
        self.end_writing(early.writes, early.outgoing, &missed);
    }

    /// Lets go of a window whose bytes nobody will read.
    fn drop_inbox(pool: &mut Budget, inbox: &mut Inbox, receive: &mut ReceiveWindow) {
        receive.close(pool);
        receive.consumed(inbox.clear(), pool);
    }

    /// A request fails at once. Of a control message the client's `status` tells.
    fn refuse_request(&mut self, request: RequestId, told: Option<ClientId>, error: Error) {
        if let Some(Ok(client)) = told.map(|id| self.clients.get_mut(id)) {
            client.last_error = Some(error.message.clone());
        }
        self.out.complete(request, Err(error));
    }

    /// Whether a request is looked at. If not, it is refused.
    fn admit(&mut self, request: RequestId, told: Option<ClientId>) -> Option<()> {
        if self.out.requests.contains_key(&request) {
            self.out.warn(format!("request {request} is outstanding already"));
            return None;
        }
        if let Some(error) = &self.ended {
            let error = error.clone();
            self.refuse_request(request, told, error);
            return None;
        }
        if self.out.requests.len() >= self.limits.requests as usize {
            let error = Error::exhausted("too many requests are outstanding");
            self.refuse_request(request, told, error);
            return None;
        }
        Some(())
    }
}

/// What all may have on the way, of which nothing is taken.
fn uploads(limits: &Limits) -> Budget {
    Budget::new(limits.unacknowledged, limits.clients, limits.packet)
}
