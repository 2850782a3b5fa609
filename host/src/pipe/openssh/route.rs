//! Which channel is which, where several connections stand behind one pipe.
//!
//! The engine speaks with one peer and knows each channel by one number of that
//! peer. Behind the pipe there are several peers that number their channels
//! without regard to each other: proxy connections to ssh, and our own far side.
//! This table maps the one *virtual* number that the engine sees to the
//! connection and the number there (RFC 4254 section 5: every message names its
//! recipient's number, and 90 and 91 tell the sender's).
//!
//! ```text
//! call in:   90 in --> Offered --91 out--> Open      dial: 90 out --> dialling
//!                         +------92 out--> (free)       91 in --> Open
//!                                                       92 in --> (free)
//! Open --97 out--> ClosedHere --97 in--> (free)
//! Open --97 in--> ClosedThere --97 out--> (free)
//! ```
//!
//! It does no I/O and rewrites in place: the sender in messages 90 and 91 coming
//! in, the recipient in 91 to 100 going out. It refuses to know what is in a
//! message beyond these numbers.
//!
//! A dial goes to the master with the fewest channels. One that gives no sign of
//! life while it is dialled gets no more as long as there are others, or they
//! would all end up there. When a connection ends by itself, the engine hears a
//! CLOSE for each channel and a refusal for each dial in its place; what the engine
//! still has to say to it is dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sshnet_core::message::{Message, reason};

/// Failed dials after which a master gets no more. Each one costs it a channel
/// that it never frees, and it dies when it has 16,384.
pub(super) const FAILED_DIALS: u32 = 12_000;

/// Channels that a master is given, those of failed dials included.
const OF_MASTER: usize = 16_000;

/// Channels at a time, over all connections.
const CHANNELS: usize = 16 << 10;

/// Dials on a master, since it was last heard of, after which others come first.
const UNHEARD: u32 = 8;

/// What a dial is told when all masters are worn.
const WORN: &str = "this ssh has seen too many failed dials";

const OPEN: u8 = 90;
const CONFIRMATION: u8 = 91;
const FAILURE: u8 = 92;
const ADJUST: u8 = 93;
const CLOSE: u8 = 97;
const REQUEST: u8 = 98;
const LAST: u8 = 100;

/// One connection behind the pipe.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct ConnectionId(u32);

/// What a connection is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Dials go there.
    Master,
    /// Calls come from there, by a connection of its own to this master.
    Listener(ConnectionId),
    /// Calls come from there, as sockets that this master handed over.
    Far(ConnectionId),
}

impl Kind {
    /// The master that such a connection depends on.
    pub(super) fn of(self) -> Option<ConnectionId> {
        match self {
            Self::Master => None,
            Self::Listener(of) | Self::Far(of) => Some(of),
        }
    }
}

/// A message that does not fit what went before.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum RouteError {
    /// It is too short to have the numbers that its type has.
    #[error("message of type {0} is cut short")]
    Short(u8),
    /// Its type has no place here.
    #[error("message of type {0} cannot be passed on")]
    Type(u8),
    /// It is for a channel that there is not, or not on that connection.
    #[error("message of type {0} for unknown channel {1}")]
    Unknown(u8, u32),
    /// Its channel is in another state.
    #[error("message of type {0} out of place for channel {1}")]
    OutOfPlace(u8, u32),
}

/// What becomes of a message of the engine.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Outgoing {
    /// It goes there, as it now is.
    To(ConnectionId),
    /// The engine gets this answer instead.
    Answer(Vec<u8>),
    /// Nothing: its connection has ended.
    Drop,
}

/// What becomes of a message of a connection.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Incoming {
    /// The engine gets it, as it now is.
    Deliver,
    /// The connection gets this answer instead.
    Answer(Vec<u8>),
    /// Nothing: it came too late to mean anything.
    Drop,
}

/// What the end of a connection leaves behind.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// It, and those that depend on it.
    pub(super) connections: BTreeSet<ConnectionId>,
    /// What the engine is to hear in their place.
    pub(super) messages: Vec<Vec<u8>>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Route {
    connections: BTreeMap<ConnectionId, Connection>,
    connection: u32,
    /// Failed dials that a master may have.
    failed_dials: u32,
    /// Dials so far.
    dials: u64,
    /// What a dial is told for which no master is left.
    refusal: String,
    /// Whether one of the masters may need to be looked after.
    news: bool,
    /// Whether there are fewer masters than there are to be.
    short: bool,
    /// Whether a dial came meanwhile.
    wanted: bool,
    /// By virtual number.
    channels: Vec<Option<Channel>>,
    free: Vec<u32>,
    /// By the engine's number.
    ours: HashMap<u32, Ours>,
}

#[derive(Debug)]
struct Connection {
    kind: Kind,
    channels: usize,
    failed: u32,
    retired: bool,
    /// Of a master: listeners, and who is about to make some.
    holds: usize,
    /// Dials since it was last heard of.
    unheard: u32,
    /// The number of the last dial that went there.
    dialled: u64,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    connection: ConnectionId,
    /// The number there.
    theirs: u32,
    state: State,
}

/// See the module's diagram. `ours` is the engine's number.
#[derive(Clone, Copy, Debug)]
enum State {
    Offered,
    Open { ours: u32 },
    ClosedHere { ours: u32 },
    ClosedThere { ours: u32 },
}

#[derive(Clone, Copy, Debug)]
enum Ours {
    Dialling(ConnectionId),
    /// By virtual number.
    Channel(u32),
}

impl Route {
    /// A table with no connections; a master gets no more dials when so many have
    /// failed there, where that is not `u32::MAX`.
    pub(super) fn new(failed_dials: u32) -> Self {
        Self {
            connections: BTreeMap::new(),
            connection: 0,
            failed_dials,
            dials: 0,
            refusal: WORN.to_owned(),
            news: false,
            short: false,
            wanted: false,
            channels: Vec::new(),
            free: Vec::new(),
            ours: HashMap::new(),
        }
    }

    /// Adds a connection.
    pub(super) fn add(&mut self, kind: Kind) -> ConnectionId {
        let id = ConnectionId(self.connection);
        self.connection = self.connection.wrapping_add(1);
        let new = Connection {
            kind,
            channels: 0,
            failed: 0,
            retired: false,
            holds: 0,
            unheard: 0,
            dialled: 0,
        };
        self.connections.insert(id, new);
        id
    }

    /// Takes no more calls from a connection, and no dials to it; what is open
    /// there goes on.
    pub(super) fn retire(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.retired = true;
            self.news = true;
        }
    }

    /// Keeps a master that has no channels: it listens, or is about to.
    pub(super) fn hold(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.holds += 1;
        }
    }

    /// Ends one [`Route::hold`].
    pub(super) fn release(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.holds = connection.holds.saturating_sub(1);
            self.news |= connection.retired;
        }
    }

    /// Whether a master listens, or is about to.
    pub(super) fn held(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|c| c.holds > 0)
    }

    /// The master that a connection depends on.
    pub(super) fn of(&self, id: ConnectionId) -> Option<ConnectionId> {
        self.connections.get(&id).and_then(|c| c.kind.of())
    }

    /// Channels of a connection, dials and calls that wait included.
    pub(super) fn channels(&self, id: ConnectionId) -> usize {
        self.connections.get(&id).map_or(0, |c| c.channels)
    }

    /// How many masters there are.
    pub(super) fn masters(&self) -> usize {
        self.connections.values().filter(|c| c.kind == Kind::Master).count()
    }

    /// Dials that failed on a connection.
    pub(super) fn failed(&self, id: ConnectionId) -> u32 {
        self.connections.get(&id).map_or(0, |c| c.failed)
    }

    /// What a dial is told from now on for which no master is left.
    pub(super) fn refuse_with(&mut self, words: Option<String>) {
        self.refusal = words.unwrap_or_else(|| WORN.to_owned());
    }

    /// Whether the next dial is to say that another master is wanted.
    pub(super) fn want(&mut self, short: bool) {
        self.short = short;
        self.wanted = false;
    }

    /// Whether there was such a dial since this was last asked.
    pub(super) fn take_wanted(&mut self) -> bool {
        std::mem::take(&mut self.wanted)
    }

    /// Whether, since this was last asked, another master was wanted, a dial failed on a master that is worn,
    /// or a retired connection may have come to its end.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Takes out a connection on which there are no channels, and which does not
    /// listen; whether it did. With a master go the sockets that it handed over.
    pub(super) fn remove(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(&id) else { return false };
        let needed = self.connections.values().filter(|c| c.kind.of() == Some(id));
        let mut needed = needed.map(|c| c.channels > 0 || matches!(c.kind, Kind::Listener(_)));
        if connection.channels > 0 || connection.holds > 0 || needed.any(|needed| needed) {
            return false;
        }
        let of = connection.kind.of();
        self.connections.retain(|other, c| *other != id && c.kind.of() != Some(id));
        // A master may have waited for it.
        self.news |= of.is_some();
        true
    }

    /// A connection has ended by itself, and those with it that depend on it. Dials
    /// that waited are told these words.
    pub(super) fn end(&mut self, id: ConnectionId, words: &str) -> Ended {
        let mut ended = Ended::default();
        let all = self.connections.iter();
        let gone = all.filter(|(other, c)| **other == id || c.kind.of() == Some(id));
        ended.connections = gone.map(|(id, _)| *id).collect();
        self.connections.retain(|id, _| !ended.connections.contains(id));
        self.news = true;
        let mut dials: Vec<u32> = self
            .ours
            .iter()
            .filter(|(_, to)| matches!(to, Ours::Dialling(on) if ended.connections.contains(on)))
            .map(|(ours, _)| *ours)
            .collect();
        dials.sort_unstable();
        for ours in dials {
            self.ours.remove(&ours);
            ended.messages.push(refusal(ours, reason::CONNECT_FAILED, words));
        }
        for number in 0..self.channels.len() {
            let Some(Some(channel)) = self.channels.get_mut(number) else { continue };
            if !ended.connections.contains(&channel.connection) {
                continue;
            }
            match channel.state {
                State::Open { ours } => {
                    channel.state = State::ClosedThere { ours };
                    ended.messages.push(Message::Close { recipient: ours }.encode());
                }
                State::ClosedHere { ours } => {
                    self.forget(number as u32);
                    ended.messages.push(Message::Close { recipient: ours }.encode());
                }
                // A call cannot be taken back: the engine hears when it answers.
                State::Offered | State::ClosedThere { .. } => {}
            }
        }
        ended
    }

    /// A message of the engine.
    pub(super) fn outgoing(&mut self, message: &mut [u8]) -> Result<Outgoing, RouteError> {
        let kind = kind(message)?;
        if kind == OPEN {
            return self.dial(number(message, sender_of_open(message)?)?);
        }
        let virtual_number = number(message, 1)?;
        let Some(Some(channel)) = self.channels.get_mut(virtual_number as usize) else {
            return Err(RouteError::Unknown(kind, virtual_number));
        };
        let Channel { connection, theirs, state } = *channel;
        let gone = !self.connections.contains_key(&connection);
        match (kind, state) {
            (CONFIRMATION, State::Offered) => {
                let ours = number(message, 5)?;
                if self.ours.contains_key(&ours) {
                    return Err(RouteError::OutOfPlace(kind, ours));
                }
                self.ours.insert(ours, Ours::Channel(virtual_number));
                if gone {
                    channel.state = State::ClosedThere { ours };
                    return Ok(Outgoing::Answer(Message::Close { recipient: ours }.encode()));
                }
                channel.state = State::Open { ours };
            }
            (FAILURE, State::Offered) => self.forget(virtual_number),
            (CLOSE, State::Open { ours }) => channel.state = State::ClosedHere { ours },
            (CLOSE, State::ClosedThere { .. }) => self.forget(virtual_number),
            // It may not have seen their CLOSE yet.
            (ADJUST..CLOSE | REQUEST..=LAST, State::Open { .. } | State::ClosedThere { .. }) => {}
            _ => return Err(RouteError::OutOfPlace(kind, virtual_number)),
        }
        if gone {
            return Ok(Outgoing::Drop);
        }
        set(message, 1, theirs)?;
        Ok(Outgoing::To(connection))
    }

    /// A message that came from a connection.
    pub(super) fn incoming(
        &mut self,
        from: ConnectionId,
        message: &mut [u8],
    ) -> Result<Incoming, RouteError> {
        let kind = kind(message)?;
        match self.connections.get_mut(&from) {
            Some(connection) => connection.unheard = 0,
            // It came while the connection was taken out.
            None => return Ok(Incoming::Drop),
        }
        if kind == OPEN {
            return self.call(from, message);
        }
        let ours = number(message, 1)?;
        match (kind, self.ours.get(&ours).copied()) {
            (CONFIRMATION, Some(Ours::Dialling(on))) if on == from => {
                let theirs = number(message, 5)?;
                // Counted since the dial began.
                let state = State::Open { ours };
                let new = self.insert(Channel { connection: from, theirs, state });
                self.ours.insert(ours, Ours::Channel(new));
                set(message, 5, new)?;
            }
            (FAILURE, Some(Ours::Dialling(on))) if on == from => {
                self.ours.remove(&ours);
                if let Some(connection) = self.connections.get_mut(&from) {
                    // One that forgets them does not wear.
                    connection.failed += u32::from(self.failed_dials < u32::MAX);
                    self.news |= connection.failed >= worn(self.failed_dials);
                }
                self.fewer(from);
            }
            (ADJUST..=LAST, Some(Ours::Channel(virtual_number))) => {
                let channel = match self.channels.get_mut(virtual_number as usize) {
                    Some(Some(channel)) if channel.connection == from => channel,
                    _ => return Err(RouteError::Unknown(kind, ours)),
                };
                match (kind, channel.state) {
                    (CLOSE, State::Open { ours }) => channel.state = State::ClosedThere { ours },
                    (CLOSE, State::ClosedHere { .. }) => self.forget(virtual_number),
                    (_, State::Open { .. } | State::ClosedHere { .. }) => {}
                    _ => return Err(RouteError::OutOfPlace(kind, ours)),
                }
            }
            // They may cross the end of their channel: OpenSSH probes whether we
            // are there on any channel that it still has.
            (ADJUST | REQUEST, None) => return Ok(Incoming::Drop),
            _ => return Err(RouteError::Unknown(kind, ours)),
        }
        Ok(Incoming::Deliver)
    }

    fn dial(&mut self, ours: u32) -> Result<Outgoing, RouteError> {
        if self.ours.contains_key(&ours) {
            return Err(RouteError::OutOfPlace(OPEN, ours));
        }
        self.wanted |= self.short;
        self.news |= self.short;
        let failed_dials = self.failed_dials;
        let free = self.connections.iter_mut().filter(|(_, c)| {
            c.kind == Kind::Master
                && !c.retired
                && c.failed < failed_dials
                && c.channels + (c.failed as usize) < OF_MASTER
        });
        let least = free.min_by_key(|(_, c)| (c.unheard >= UNHEARD, c.channels, c.dialled));
        let Some((&id, master)) = least else {
            let answer = refusal(ours, reason::RESOURCE_SHORTAGE, &self.refusal);
            return Ok(Outgoing::Answer(answer));
        };
        self.dials += 1;
        master.channels += 1;
        master.unheard = master.unheard.saturating_add(1);
        master.dialled = self.dials;
        self.ours.insert(ours, Ours::Dialling(id));
        Ok(Outgoing::To(id))
    }

    fn call(&mut self, from: ConnectionId, message: &mut [u8]) -> Result<Incoming, RouteError> {
        let at = sender_of_open(message)?;
        let theirs = number(message, at)?;
        let full = self.channels.len() - self.free.len() >= CHANNELS;
        let Some(connection) = self.connections.get_mut(&from) else { return Ok(Incoming::Drop) };
        let refused = |words| Incoming::Answer(refusal(theirs, reason::RESOURCE_SHORTAGE, words));
        if connection.retired {
            return Ok(refused("not listening any more"));
        }
        if full {
            return Ok(refused("too many channels"));
        }
        connection.channels += 1;
        let new = self.insert(Channel { connection: from, theirs, state: State::Offered });
        set(message, at, new)?;
        Ok(Incoming::Deliver)
    }

    fn insert(&mut self, channel: Channel) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(slot) = self.channels.get_mut(number as usize)
        {
            *slot = Some(channel);
            return number;
        }
        self.channels.push(Some(channel));
        // There are far fewer than 2^32.
        (self.channels.len() - 1) as u32
    }

    fn forget(&mut self, virtual_number: u32) {
        let Some(slot) = self.channels.get_mut(virtual_number as usize) else { return };
        let Some(channel) = slot.take() else { return };
        self.free.push(virtual_number);
        match channel.state {
            State::Offered => {}
            State::Open { ours } | State::ClosedHere { ours } | State::ClosedThere { ours } => {
                self.ours.remove(&ours);
            }
        }
        self.fewer(channel.connection);
    }

    /// A connection has a channel less.
    fn fewer(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.channels -= 1;
        let master = match connection.kind.of() {
            Some(of) if connection.channels == 0 => self.connections.get(&of),
            Some(_) => None,
            None => self.connections.get(&id),
        };
        self.news |= master.is_some_and(|c| c.retired && c.channels == 0);
    }
}

/// Failed dials after which a master is to have a successor.
pub(super) fn worn(failed_dials: u32) -> u32 {
    failed_dials / 4 * 3
}

fn refusal(recipient: u32, reason: u32, words: &str) -> Vec<u8> {
    let description = words.as_bytes();
    Message::OpenFailure { recipient, reason, description, language: b"en" }.encode()
}

fn kind(message: &[u8]) -> Result<u8, RouteError> {
    match message.first() {
        Some(&kind @ OPEN..=LAST) => Ok(kind),
        Some(&kind) => Err(RouteError::Type(kind)),
        None => Err(RouteError::Short(0)),
    }
}

/// Where an open's sender channel stands: behind the channel type.
fn sender_of_open(message: &[u8]) -> Result<usize, RouteError> {
    (number(message, 1)? as usize).checked_add(5).ok_or(RouteError::Short(OPEN))
}

fn number(message: &[u8], at: usize) -> Result<u32, RouteError> {
    let field = message.get(at..).and_then(|rest| rest.first_chunk());
    field.map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(|| short(message))
}

fn set(message: &mut [u8], at: usize, number: u32) -> Result<(), RouteError> {
    let short = short(message);
    let field = message.get_mut(at..).and_then(|rest| rest.first_chunk_mut()).ok_or(short)?;
    *field = number.to_be_bytes();
    Ok(())
}

fn short(message: &[u8]) -> RouteError {
    RouteError::Short(message.first().copied().unwrap_or_default())
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
