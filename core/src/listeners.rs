//! Announced clients, by what they announced.
//!
//! Found in order, with all addresses of a port side by side. Whoever may announce
//! chooses the names, and there is nothing secret here to hash them with: names of one
//! hash would make a table of them a list.

use alloc::string::String;

use crate::ctl::Announced;
use crate::effect::ClientId;
use crate::sorted::Sorted;

/// How a server may spell that it takes calls at every address.
const WILDCARDS: [&str; 3] = ["", "0.0.0.0", "::"];
/// How it may spell that it takes those of its own machine, or of every one.
const LOOPBACK: [&str; 6] = ["localhost", "127.0.0.1", "::1", "", "0.0.0.0", "::"];

/// The listeners of a session: each address is one client's.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Sorted<Announced, ClientId>);

impl Listeners {
    /// Who announced this.
    pub(crate) fn get(&self, address: &Announced) -> Option<ClientId> {
        self.0.get(address).copied()
    }

    /// This client announced it, whoever did before.
    pub(crate) fn insert(&mut self, address: Announced, id: ClientId) {
        self.0.insert(address, id);
    }

    /// The address is no longer this client's.
    pub(crate) fn remove(&mut self, address: &Announced, id: ClientId) {
        self.0.remove(address, &id);
    }

    /// Who announced this port, if it is one.
    fn alone(&self, port: u16) -> Option<ClientId> {
        let first = Announced::Tcp { address: String::new(), port };
        let of_port = |place: &Announced| match place {
            Announced::Tcp { port: other, .. } => *other == port,
            Announced::Unix { .. } => false,
        };
        let mut here = self.0.from(&first).take_while(|(place, _)| of_port(place));
        let (_, id) = here.next()?;
        here.next().is_none().then_some(*id)
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
            return self.alone(port);
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

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use alloc::format;
    use alloc::vec::Vec;

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
        }
    }

    /// However many there are, and though a path may look like an address.
    #[test]
    fn each_of_many_is_found() {
        let id = |number| ClientId { number, incarnation: 0 };
        let mut listeners = Listeners::default();
        let places: Vec<Announced> = (0..300)
            .flat_map(|number| {
                let (text, port) = (format!("/{}", number % 10), number as u16 / 10);
                let tcp = Announced::Tcp { address: text.clone(), port };
                [tcp, Announced::Unix { path: format!("{text}{number}") }]
            })
            .chain([Announced::Unix { path: "/0".into() }])
            .collect();
        for (place, number) in places.iter().zip(0..) {
            listeners.insert(place.clone(), id(number));
        }
        for (place, number) in places.iter().zip(0..) {
            assert_eq!(listeners.get(place), Some(id(number)), "{place:?}");
            listeners.remove(place, id(number + 1));
            assert_eq!(listeners.get(place), Some(id(number)), "{place:?}");
            listeners.remove(place, id(number));
            assert_eq!(listeners.get(place), None, "{place:?}");
        }
    }
}
