//! Announced clients, by what they announced.
//!
//! Found by hash, also by a port alone, so that one among thousands costs what
//! one among few does.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::ctl::Announced;
use crate::effect::ClientId;

/// How a server may spell that it takes calls at every address.
const WILDCARDS: [&str; 3] = ["", "0.0.0.0", "::"];
/// How it may spell that it takes those of its own machine, or of every one.
const LOOPBACK: [&str; 6] = ["localhost", "127.0.0.1", "::1", "", "0.0.0.0", "::"];

/// What stands for a port at whatever address. No address has this in it.
const ANYWHERE: &str = "!";

/// The listeners of a session.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// By address, each of which is one client's; and by port alone.
    places: HashMap<Announced, Holders, FxBuildHasher>,
}

/// Who announced something: how many, and the sums of their numbers and
/// incarnations, which are those of the one where it is one.
#[derive(Debug, Default)]
struct Holders {
    count: u32,
    numbers: u32,
    incarnations: u32,
}

impl Listeners {
    /// Who announced this, if it is one.
    pub(crate) fn get(&self, address: &Announced) -> Option<ClientId> {
        let holders = self.places.get(address).filter(|holders| holders.count == 1)?;
        Some(ClientId { number: holders.numbers, incarnation: holders.incarnations })
    }

    /// This client announced it, whoever did before.
    pub(crate) fn insert(&mut self, address: Announced, id: ClientId) {
        if let Some(before) = self.get(&address) {
            self.remove(&address, before);
        }
        if let Announced::Tcp { port, .. } = address {
            self.add(anywhere(port), id);
        }
        self.add(address, id);
    }

    /// The address is no longer this client's.
    pub(crate) fn remove(&mut self, address: &Announced, id: ClientId) {
        if self.get(address) == Some(id) {
            self.take(address, id);
            if let Announced::Tcp { port, .. } = address {
                self.take(&anywhere(*port), id);
            }
        }
    }

    fn add(&mut self, place: Announced, id: ClientId) {
        let holders = self.places.entry(place).or_default();
        holders.count += 1;
        holders.numbers = holders.numbers.wrapping_add(id.number);
        holders.incarnations = holders.incarnations.wrapping_add(id.incarnation);
    }

    fn take(&mut self, place: &Announced, id: ClientId) {
        let Some(holders) = self.places.get_mut(place) else { return };
        holders.count -= 1;
        holders.numbers = holders.numbers.wrapping_sub(id.number);
        holders.incarnations = holders.incarnations.wrapping_sub(id.incarnation);
        if holders.count == 0 {
            self.places.remove(place);
        }
    }

    /// Who is meant by a call to this address, as the peer spells it. Servers
    /// name what was asked for, or what was called: where there is one client
    /// only that could be meant, it is.
    pub(crate) fn called(&self, address: &[u8], port: u32) -> Option<ClientId> {
        let port = u16::try_from(port).ok()?;
        let address = core::str::from_utf8(address).ok()?;
        let like = |address: &str| self.get(&Announced::Tcp { port, address: address.into() });
        if address == ANYWHERE {
            return None;
        }
        if let Some(id) = like(address) {
            return Some(id);
        }
        if WILDCARDS.contains(&address) {
            return self.get(&anywhere(port));
        }
        let names: &[&str] = if LOOPBACK.contains(&address) { &LOOPBACK } else { &WILDCARDS };
        let mut able = None;
        for id in names.iter().filter_map(|name| like(name)) {
            if able.is_some() {
                return None;
            }
            able = Some(id);
        }
        able
    }
}

fn anywhere(port: u16) -> Announced {
    Announced::Tcp { address: ANYWHERE.into(), port }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Whoever came and went before: a call that names an address reaches who has
    /// it, and one that names the port alone reaches who is alone there.
    #[test]
    fn agrees_with_a_list() {
        const ADDRESSES: [&str; 3] = ["a", "b", "c"];
        let mut listeners = Listeners::default();
        // By port, 1 to 3, and by address.
        let mut list = [[None; 3]; 4];
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = (state >> 33) as u32;
            let (port, at) = (1 + random % 3, (random >> 8) as usize % 3);
            let id = ClientId { number: (random >> 16) % 5, incarnation: (random >> 20) % 3 };
            let slot = &mut list[port as usize][at];
            let address = Announced::Tcp { address: ADDRESSES[at].into(), port: port as u16 };
            if (random >> 24).is_multiple_of(2) {
                listeners.insert(address, id);
                *slot = Some(id);
            } else {
                listeners.remove(&address, id);
                *slot = slot.filter(|owner| *owner != id);
            }
            let mut there = list[port as usize].iter().flatten();
            let only = there.next().filter(|_| there.next().is_none()).copied();
            for (at, owner) in list[port as usize].iter().enumerate() {
                assert_eq!(listeners.called(ADDRESSES[at].as_bytes(), port), *owner);
            }
            assert_eq!(listeners.called(b"::", port), only);
            assert_eq!(listeners.called(b"::", 4), None);
            assert_eq!(listeners.called(ANYWHERE.as_bytes(), port), None);
        }
    }
}
