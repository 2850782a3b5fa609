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

use std::collections::{BTreeMap, HashMap};

use sshnet_core::message::{Message, reason};

/// Failed dials after which a master gets no more. Each one costs it a channel
/// that it never frees, and it dies when it has 16,384.
pub(super) const FAILED_DIALS: u32 = 12_000;

/// Channels at a time, over all connections.
const CHANNELS: usize = 16 << 10;

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
    /// Dials go there, to the newest of them.
    Master,
    /// Calls come from there, and nothing is dialled.
    Listener,
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
    /// A dial, and there is no connection for it.
    #[error("no connection to dial on")]
    NoMaster,
}

/// What becomes of a message of the engine.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Outgoing {
    /// It goes there, as it now is.
    To(ConnectionId),
    /// The engine gets this answer instead.
    Answer(Vec<u8>),
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

/// The table.
#[derive(Debug, Default)]
pub(super) struct Route {
    connections: BTreeMap<ConnectionId, Connection>,
    connection: u32,
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
    /// A table with no connections.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a connection.
    pub(super) fn add(&mut self, kind: Kind) -> ConnectionId {
        let id = ConnectionId(self.connection);
        self.connection = self.connection.wrapping_add(1);
        let new = Connection { kind, channels: 0, failed: 0, retired: false };
        self.connections.insert(id, new);
        id
    }

    /// Takes no more calls from a connection; what is open there goes on.
    pub(super) fn retire(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.retired = true;
        }
    }

    /// Channels of a connection, dials and calls that wait included.
    pub(super) fn channels(&self, id: ConnectionId) -> usize {
        self.connections.get(&id).map_or(0, |c| c.channels)
    }

    /// Takes out a connection on which there are no channels; whether it did.
    pub(super) fn remove(&mut self, id: ConnectionId) -> bool {
        self.channels(id) == 0 && self.connections.remove(&id).is_some()
    }

    /// Dials that failed on a connection.
    #[cfg(test)]
    fn failed(&self, id: ConnectionId) -> u32 {
        self.connections.get(&id).map_or(0, |c| c.failed)
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
        match (kind, state) {
            (CONFIRMATION, State::Offered) => {
                let ours = number(message, 5)?;
                if self.ours.contains_key(&ours) {
                    return Err(RouteError::OutOfPlace(kind, ours));
                }
                channel.state = State::Open { ours };
                self.ours.insert(ours, Ours::Channel(virtual_number));
            }
            (FAILURE, State::Offered) => self.forget(virtual_number),
            (CLOSE, State::Open { ours }) => channel.state = State::ClosedHere { ours },
            (CLOSE, State::ClosedThere { .. }) => self.forget(virtual_number),
            // It may not have seen their CLOSE yet.
            (ADJUST..CLOSE | REQUEST..=LAST, State::Open { .. } | State::ClosedThere { .. }) => {}
            _ => return Err(RouteError::OutOfPlace(kind, virtual_number)),
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
                    connection.channels -= 1;
                    connection.failed += 1;
                }
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
        let masters = self.connections.iter_mut().rev();
        let (&id, master) = masters
            .filter(|(_, c)| c.kind == Kind::Master)
            .find(|(_, c)| !c.retired)
            .ok_or(RouteError::NoMaster)?;
        if master.failed >= FAILED_DIALS {
            return Ok(Outgoing::Answer(refusal(ours, "this ssh has seen too many failed dials")));
        }
        master.channels += 1;
        self.ours.insert(ours, Ours::Dialling(id));
        Ok(Outgoing::To(id))
    }

    fn call(&mut self, from: ConnectionId, message: &mut [u8]) -> Result<Incoming, RouteError> {
        let at = sender_of_open(message)?;
        let theirs = number(message, at)?;
        let full = self.channels.len() - self.free.len() >= CHANNELS;
        let connection = self.connections.get_mut(&from).ok_or(RouteError::NoMaster)?;
        if connection.retired {
            return Ok(Incoming::Answer(refusal(theirs, "not listening any more")));
        }
        if full {
            return Ok(Incoming::Answer(refusal(theirs, "too many channels")));
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
        if let Some(connection) = self.connections.get_mut(&channel.connection) {
            connection.channels -= 1;
        }
    }
}

fn refusal(recipient: u32, words: &str) -> Vec<u8> {
    let (reason, description) = (reason::RESOURCE_SHORTAGE, words.as_bytes());
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
