//! Clients by number, and channels by number.
//!
//! Numbers are reused, lowest first, so that a tree stays short and a number is
//! found without a search. A client's number carries an incarnation, which guards
//! a handle that outlived its client. A channel's number is free only when both
//! sides have closed it (RFC 4254 section 5.3), which may be long after its
//! client is gone: channels are numbered on their own.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::client::Client;
use crate::effect::{ClientId, Error};

/// Our number of a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ours(pub(crate) u32);

/// The peer's number of a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Theirs(pub(crate) u32);

/// Values by number; the lowest free number is used first.
#[derive(Debug)]
struct Numbered<T> {
    slots: Vec<Option<T>>,
    free: BinaryHeap<Reverse<u32>>,
    used: u32,
}

impl<T> Numbered<T> {
    fn new() -> Self {
        Self { slots: Vec::new(), free: BinaryHeap::new(), used: 0 }
    }

    /// Puts a value in, under the lowest free number.
    fn insert(&mut self, make: impl FnOnce(u32) -> T) -> u32 {
        self.used += 1;
        if let Some(Reverse(number)) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(number as usize)
        {
            *slot = Some(make(number));
            return number;
        }
        // The limit on clients keeps this far from 2^32.
        let number = self.slots.len() as u32;
        self.slots.push(Some(make(number)));
        number
    }

    fn get(&self, number: u32) -> Option<&T> {
        self.slots.get(number as usize)?.as_ref()
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.slots.get_mut(number as usize)?.take()?;
        self.used -= 1;
        self.free.push(Reverse(number));
        Some(value)
    }
}

/// The clients.
#[derive(Debug)]
pub(crate) struct Clients {
    clients: Numbered<Box<Client>>,
    /// By number: the incarnation of its next user.
    incarnations: Vec<u32>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self { clients: Numbered::new(), incarnations: Vec::new() }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.clients.used
    }

    /// Makes one under the lowest free number.
    pub(crate) fn insert(&mut self, make: impl FnOnce(ClientId) -> Client) -> ClientId {
        let incarnations = &mut self.incarnations;
        let mut id = ClientId { number: 0, incarnation: 0 };
        self.clients.insert(|number| {
            let index = number as usize;
            if incarnations.len() <= index {
                incarnations.resize(index + 1, 0);
            }
            let incarnation = incarnations.get_mut(index).map_or(0, |next| {
                let this = *next;
                *next = next.wrapping_add(1);
                this
            });
            id = ClientId { number, incarnation };
            Box::new(make(id))
        });
        id
    }

    /// The client that a handle means.
    pub(crate) fn get(&self, id: ClientId) -> Result<&Client, Error> {
        self.by_number(id.number).filter(|client| client.id == id).ok_or_else(Error::no_client)
    }

    /// The client that a handle means.
    pub(crate) fn get_mut(&mut self, id: ClientId) -> Result<&mut Client, Error> {
        self.clients
            .get_mut(id.number)
            .filter(|client| client.id == id)
            .map(Box::as_mut)
            .ok_or_else(Error::no_client)
    }

    /// The client that has a number now.
    pub(crate) fn by_number(&self, number: u32) -> Option<&Client> {
        self.clients.get(number).map(Box::as_ref)
    }

    /// Takes one out; its number is free.
    pub(crate) fn remove(&mut self, id: ClientId) {
        if self.get(id).is_ok() {
            self.clients.remove(id.number);
        }
    }

    /// All of them, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.clients.slots.iter().flatten().map(Box::as_ref)
    }

    /// The handles of all of them, by number.
    pub(crate) fn ids(&self) -> Vec<ClientId> {
        self.iter().map(|client| client.id).collect()
    }
}

/// One channel, as far as its number is concerned.
///
/// ```text
///    OPEN sent             CONFIRMATION        CLOSE sent          CLOSE came
///    --------> Opening ----------------> Open -----------> Closing ---------> free
///                 | FAILURE                | CLOSE came, and answered
///                 +----> free              +----> free
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Channel {
    /// We asked for it. Without an owner the dial was given up, and it is to be
    /// closed as soon as it is confirmed.
    Opening { owner: Option<ClientId> },
    /// It carries a client's conversation.
    Open { owner: ClientId },
    /// We sent CLOSE and must send nothing else. The owner, if it still cares,
    /// is told when the peer's CLOSE comes.
    Closing { owner: Option<ClientId>, sent: Parting },
}

/// What was sent before a CLOSE of ours and may be on the way, and how many answers to
/// our questions have to come until it has arrived.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Parting {
    pub(crate) bytes: u64,
    pub(crate) answers: u32,
}

/// The channels of one pipe.
#[derive(Debug)]
pub(crate) struct Channels {
    channels: Numbered<Channel>,
    /// Those that no client stands for any more; they count as clients do.
    orphans: u32,
}

impl Channels {
    pub(crate) fn new() -> Self {
        Self { channels: Numbered::new(), orphans: 0 }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.channels.used
    }

    /// How many have no client.
    pub(crate) fn orphans(&self) -> u32 {
        self.orphans
    }

    /// Takes the lowest free number, for a channel that a client stands for.
    pub(crate) fn insert(&mut self, channel: Channel) -> Ours {
        Ours(self.channels.insert(|_| channel))
    }

    pub(crate) fn get(&self, number: Ours) -> Option<Channel> {
        self.channels.get(number.0).copied()
    }

    /// The channel goes on in another state.
    pub(crate) fn set(&mut self, number: Ours, channel: Channel) {
        if let Some(slot) = self.channels.get_mut(number.0) {
            self.orphans -= u32::from(orphan(*slot));
            self.orphans += u32::from(orphan(channel));
            *slot = channel;
        }
    }

    /// No client waits any more for the peer to close it.
    pub(crate) fn disown(&mut self, number: Ours) {
        if let Some(Channel::Closing { sent, .. }) = self.get(number) {
            self.set(number, Channel::Closing { owner: None, sent });
        }
    }

    /// The number is free.
    pub(crate) fn remove(&mut self, number: Ours) {
        if let Some(channel) = self.channels.remove(number.0) {
            self.orphans -= u32::from(orphan(channel));
        }
    }

    /// A channel that is open, if there is one; not for any hot path.
    pub(crate) fn any_open(&self) -> Option<ClientId> {
        self.channels.slots.iter().flatten().find_map(|channel| match channel {
            Channel::Open { owner } => Some(*owner),
            _ => None,
        })
    }
}

fn orphan(channel: Channel) -> bool {
    matches!(channel, Channel::Opening { owner: None } | Channel::Closing { owner: None, .. })
}
