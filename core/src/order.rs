//! Clients in the order of a number, the least first.
//!
//! A binary heap that knows where each client is, so that one can be taken out of
//! the middle: a dial that is answered is no longer due. The standard
//! library's ordered set does as much, and is several times as large.

use alloc::vec::Vec;

use crate::effect::ClientId;

/// Clients, each with a number and at most once.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// No entry comes before the one at half its place.
    heap: Vec<(u64, ClientId)>,
    /// By the client's number: its place in the heap, plus one; 0 if it has none.
    places: Vec<u32>,
}

impl Order {
    /// The first: the least number, and of the same the least client.
    pub(crate) fn first(&self) -> Option<(u64, ClientId)> {
        self.heap.first().copied()
    }

    /// Puts a client in. One that is there gets this number.
    pub(crate) fn insert(&mut self, number: u64, id: ClientId) {
        self.remove(id);
        let place = self.heap.len();
        self.heap.push((number, id));
        self.set(place, (number, id));
        self.rise(place);
    }

    /// Takes a client out, if it is in.
    pub(crate) fn remove(&mut self, id: ClientId) {
        if let Some(place) = self.place(id) {
            self.take(place, id);
        }
    }

    /// Takes out the first.
    pub(crate) fn pop(&mut self) -> Option<(u64, ClientId)> {
        let first = self.first()?;
        self.take(0, first.1);
        Some(first)
    }

    fn take(&mut self, place: usize, id: ClientId) {
        let Some(last) = self.heap.pop() else { return };
        if let Some(known) = self.places.get_mut(id.number as usize) {
            *known = 0;
        }
        if place < self.heap.len() {
            self.set(place, last);
            self.rise(place);
            self.sink(place);
        }
    }

    fn place(&self, id: ClientId) -> Option<usize> {
        let place = (*self.places.get(id.number as usize)? as usize).checked_sub(1)?;
        // The number may have been another client's.
        (self.heap.get(place)?.1 == id).then_some(place)
    }

    fn set(&mut self, place: usize, entry: (u64, ClientId)) {
        let number = entry.1.number as usize;
        if self.places.len() <= number {
            self.places.resize(number + 1, 0);
        }
        if let (Some(slot), Some(known)) = (self.heap.get_mut(place), self.places.get_mut(number)) {
            *slot = entry;
            *known = place as u32 + 1;
        }
    }

    /// Swaps two entries if the lower one comes first; answers whether it did.
    fn exchange(&mut self, upper: usize, lower: usize) -> bool {
        match (self.heap.get(upper), self.heap.get(lower)) {
            (Some(&above), Some(&below)) if below < above => {
                self.set(upper, below);
                self.set(lower, above);
                true
            }
            _ => false,
        }
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 && self.exchange((place - 1) / 2, place) {
            place = (place - 1) / 2;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let least = match (self.heap.get(left), self.heap.get(right)) {
                (Some(a), Some(b)) if b < a => right,
                _ => left,
            };
            if !self.exchange(place, least) {
                return;
            }
            place = least;
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    /// Clients come out as they do of an ordered set, whatever was put in and
    /// taken out before.
    #[test]
    fn agrees_with_an_ordered_set() {
        let (mut order, mut set) = (Order::default(), BTreeSet::new());
        let mut numbers = [None; 40];
        let mut state = 1_u64;
        for step in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = state >> 33;
            let number = (random % 40) as u32;
            let id = ClientId { number, incarnation: 0 };
            let known = &mut numbers[number as usize];
            match random / 40 % 5 {
                0 => {
                    if let Some(at) = known.take() {
                        set.remove(&(at, id));
                    }
                    order.remove(id);
                }
                1 if step % 3 == 0 => {
                    let first = set.pop_first();
                    assert_eq!(order.pop(), first);
                    if let Some((_, id)) = first {
                        numbers[id.number as usize] = None;
                    }
                }
                _ => {
                    let at = random / 200 % 16;
                    if let Some(before) = known.replace(at) {
                        set.remove(&(before, id));
                    }
                    set.insert((at, id));
                    order.insert(at, id);
                }
            }
            assert_eq!(order.first(), set.first().copied());
        }
        while let Some(first) = set.pop_first() {
            assert_eq!(order.pop(), Some(first));
        }
        assert_eq!(order.pop(), None);
    }

    /// A client is found by its number and its incarnation.
    #[test]
    fn leaves_the_next_user_of_a_number_alone() {
        let mut order = Order::default();
        order.insert(1, ClientId { number: 3, incarnation: 1 });
        order.remove(ClientId { number: 3, incarnation: 0 });
        assert_eq!(order.pop(), Some((1, ClientId { number: 3, incarnation: 1 })));
    }
}
