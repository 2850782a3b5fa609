//! Announced clients, by what they announced.
//!
//! Announcing is rare and a call looks for its listener by halving, so this is a
//! list in order and not a tree, which would make the component larger.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ctl::Announced;
use crate::effect::ClientId;

/// How a server may spell that it takes calls at every address.
const WILDCARDS: [&str; 3] = ["", "0.0.0.0", "::"];
/// How a server may spell that it takes those of its own machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The listeners of a session.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// In the order of the addresses, each of which is there once.
    by_address: Vec<(Announced, ClientId)>,
}

impl Listeners {
    fn place(&self, address: &Announced) -> Result<usize, usize> {
        self.by_address.binary_search_by(|(known, _)| known.cmp(address))
    }

    /// Who announced this.
    pub(crate) fn get(&self, address: &Announced) -> Option<ClientId> {
        let place = self.place(address).ok()?;
        self.by_address.get(place).map(|&(_, id)| id)
    }

    /// This client announced it, whoever did before.
    pub(crate) fn insert(&mut self, address: Announced, id: ClientId) {
        match self.place(&address) {
            Ok(place) => {
                if let Some((_, owner)) = self.by_address.get_mut(place) {
                    *owner = id;
                }
            }
            Err(place) => self.by_address.insert(place, (address, id)),
        }
    }

    /// The address is no longer this client's.
    pub(crate) fn remove(&mut self, address: &Announced, id: ClientId) {
        if let Ok(place) = self.place(address)
            && self.by_address.get(place).is_some_and(|&(_, owner)| owner == id)
        {
            self.by_address.remove(place);
        }
    }

    /// Who is meant by a call to this address, as the peer spells it. Servers
    /// name what was asked for, or what was called: where there is one client
    /// only that could be meant, it is.
    pub(crate) fn called(&self, address: &[u8], port: u32) -> Option<ClientId> {
        let port = u16::try_from(port).ok()?;
        let address = core::str::from_utf8(address).ok()?;
        let like = |address: &str| self.get(&Announced::Tcp { port, address: address.into() });
        if let Some(id) = like(address) {
            return Some(id);
        }
        if WILDCARDS.contains(&address) {
            return only(self.at(port));
        }
        let loopback: &[&str] = if LOOPBACK.contains(&address) { &LOOPBACK } else { &[] };
        only(WILDCARDS.iter().chain(loopback).filter_map(|name| like(name)))
    }

    /// All that announced this port at any address.
    fn at(&self, port: u16) -> impl Iterator<Item = ClientId> {
        let first = Announced::Tcp { port, address: String::new() };
        let from = self.place(&first).unwrap_or_else(|place| place);
        self.by_address
            .iter()
            .skip(from)
            .take_while(move |(known, _)| {
                matches!(known, Announced::Tcp { port: known, .. } if *known == port)
            })
            .map(|&(_, id)| id)
    }
}

/// What there is, if it is one thing.
fn only<T>(mut things: impl Iterator<Item = T>) -> Option<T> {
    let first = things.next()?;
    things.next().is_none().then_some(first)
}
