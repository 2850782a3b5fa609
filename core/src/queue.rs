//! Bytes that wait, and queues that hold little more than what is in them.
//!
//! The budgets of a session count what waits, so the memory must follow it: a
//! byte that is left of a large write must not keep all of its memory, nor a
//! queue the place for all that ever was in it. Knows neither whose bytes they
//! are nor what for.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Bytes of which the first may be gone.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Vec<u8>,
    /// Where those that are left start.
    from: usize,
}

impl Piece {
    /// These bytes from a place on.
    pub(crate) fn new(bytes: Vec<u8>, from: usize) -> Self {
        Self { bytes, from }
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.rest().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is left, in the memory in which it came.
    pub(crate) fn into_rest(mut self) -> Vec<u8> {
        self.bytes.drain(..self.from.min(self.bytes.len()));
        self.bytes
    }

    /// Moves up to `count` bytes off the front; answers how many. When less than
    /// half is left, it moves: memory of its own is at most twice as large, and
    /// each byte is copied for at most one other that is gone.
    pub(crate) fn take(&mut self, count: usize, out: &mut Vec<u8>) -> usize {
        let rest = self.rest();
        let count = count.min(rest.len());
        let (taken, left) = rest.split_at(count);
        append(out, taken);
        if left.len() < self.bytes.len() / 2 {
            let mut rest = Vec::with_capacity(left.len());
            append(&mut rest, left);
            *self = Self::new(rest, 0);
        } else {
            self.from += count;
        }
        count
    }
}

/// Bytes that are copied at a time.
///
/// Large blocks of one allocator often start at places in their pages that are a few
/// bytes apart. Where the destination's is the higher, `rep movsb` takes up to 20 times
/// as long on AMD's Zen 3 and 4. For more than 2,112 bytes that is what the memmove of
/// glibc took until 2024 (its bug 30994), and wasmtime's `memory.copy` calls that.
const STRIDE: usize = 2 << 10;

/// Copies bytes to the end of others.
fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len());
    bytes.chunks(STRIDE).for_each(|part| out.extend_from_slice(part));
}

/// A queue for so many is not worth giving back.
const SPARE: usize = 16;

/// Gives back a queue's memory but for twice what is in use, if that is less than a
/// quarter.
pub(crate) fn trim<T>(queue: &mut VecDeque<T>) {
    let room = queue.capacity();
    if room > SPARE && queue.len() < room / 4 {
        queue.shrink_to((2 * queue.len()).max(SPARE));
    }
}

/// Things that wait, in the order in which they came. Each has a place, a number that
/// is larger than that of any before it, by which it can be taken out of the middle
/// without a search of all: what is taken leaves a gap, and gaps are never many.
#[derive(Debug)]
pub(crate) struct Line<T> {
    /// The first is no gap.
    entries: VecDeque<(u64, Option<T>)>,
    gaps: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), gaps: 0 }
    }
}

impl<T> Line<T> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.gaps
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn push(&mut self, place: u64, thing: T) {
        self.entries.push_back((place, Some(thing)));
    }

    /// Who is the next.
    pub(crate) fn front(&self) -> Option<&T> {
        self.entries.front()?.1.as_ref()
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.entries.front_mut()?.1.as_mut()
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let (_, first) = self.entries.pop_front()?;
        self.tidy();
        first
    }

    /// Takes out what has this place, wherever it is.
    pub(crate) fn take(&mut self, place: u64) -> Option<T> {
        let at = self.entries.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        let taken = self.entries.get_mut(at)?.1.take()?;
        self.gaps += 1;
        self.tidy();
        Some(taken)
    }

    /// At most half are gaps, and the first is none.
    fn tidy(&mut self) {
        while self.entries.pop_front_if(|(_, thing)| thing.is_none()).is_some() {
            self.gaps -= 1;
        }
        if self.gaps > self.entries.len() / 2 {
            for _ in 0..self.entries.len() {
                if let Some(entry @ (_, Some(_))) = self.entries.pop_front() {
                    self.entries.push_back(entry);
                }
            }
            self.gaps = 0;
        }
        trim(&mut self.entries);
    }
}

impl<T> IntoIterator for Line<T> {
    type Item = T;
    type IntoIter = core::iter::FilterMap<
        alloc::collections::vec_deque::IntoIter<(u64, Option<T>)>,
        fn((u64, Option<T>)) -> Option<T>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().filter_map(|(_, thing)| thing)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Whatever is taken at once, the bytes come in order, and the memory is at
    /// most twice what is left.
    #[test]
    fn a_piece_keeps_its_bytes_and_little_else() {
        for step in 1..70 {
            let bytes: Vec<u8> = (0..200).collect();
            let mut piece = Piece::new(bytes.clone(), 9);
            let mut out = Vec::new();
            while !piece.is_empty() {
                let before = piece.len();
                assert_eq!(piece.take(step, &mut out), step.min(before));
                assert!(piece.bytes.capacity() <= 2 * piece.len() + 1, "{piece:?}");
            }
            assert_eq!(out, bytes.split_at(9).1);
        }
    }

    /// Until half of it is gone it stays where it is: it is not copied each time.
    #[test]
    fn a_piece_moves_when_half_is_gone() {
        let bytes = vec![1; 200];
        let came_in = bytes.as_ptr();
        let mut piece = Piece::new(bytes, 0);
        for _ in 0..100 {
            piece.take(1, &mut Vec::new());
            assert_eq!(piece.bytes.as_ptr(), came_in);
        }
        piece.take(1, &mut Vec::new());
        assert_ne!(piece.bytes.as_ptr(), came_in);
    }

    /// It would only have to be made again.
    #[test]
    fn a_queue_in_use_keeps_its_memory() {
        for (room, used) in [(64, 16), (64, 40), (SPARE, 0), (SPARE, 8)] {
            let mut queue: VecDeque<u32> = VecDeque::with_capacity(room);
            queue.extend(0..used);
            let before = queue.capacity();
            trim(&mut queue);
            assert_eq!(queue.capacity(), before, "{used} of {room}");
        }
        // Of one that is not, so much that it may grow again.
        for (used, left) in [(15, 30), (9, 18), (8, SPARE), (0, SPARE)] {
            let mut queue: VecDeque<u32> = VecDeque::with_capacity(64);
            queue.extend(0..used);
            trim(&mut queue);
            assert_eq!(queue.capacity(), left, "{used} of 64");
        }
    }

    #[test]
    fn a_queue_that_was_long_gives_its_memory_back() {
        let mut queue: VecDeque<u32> = (0..10_000).collect();
        while queue.len() > 1 {
            queue.pop_front();
            trim(&mut queue);
            assert!(queue.capacity() <= SPARE.max(4 * queue.len() + 4), "{}", queue.len());
        }
        assert_eq!(queue, [9_999]);
    }

    /// Whatever is put in, and taken out of the front and the middle.
    #[test]
    fn a_line_agrees_with_a_list_and_holds_little_more() {
        let mut line = Line::default();
        let mut list: VecDeque<(u64, u32)> = VecDeque::new();
        let mut state = 1_u64;
        for place in 0..40_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = (state >> 33) as u32;
            // It grows, stays as it is, and empties.
            if random % 8 < [7, 4, 1, 4][(place / 10_000) as usize] {
                line.push(place, random);
                list.push_back((place, random));
            } else if (random >> 4).is_multiple_of(8) {
                assert_eq!(line.pop_front(), list.pop_front().map(|(_, thing)| thing));
            } else if let Some(at) = (random as usize >> 8).checked_rem(list.len()) {
                let (place, thing) = list.remove(at).unwrap();
                assert_eq!(line.take(place), Some(thing));
                assert_eq!(line.take(place), None, "it is gone");
            }
            assert_eq!(line.front(), list.front().map(|(_, thing)| thing));
            assert_eq!(line.front_mut(), list.front_mut().map(|(_, thing)| thing));
            assert_eq!((line.len(), line.is_empty()), (list.len(), list.is_empty()));
            assert!(line.entries.capacity() <= (8 * list.len()).max(2 * SPARE), "{line:?}");
        }
        let rest: Vec<u32> = list.into_iter().map(|(_, thing)| thing).collect();
        assert!(!rest.is_empty());
        assert_eq!(line.into_iter().collect::<Vec<_>>(), rest);
    }

    /// The oldest stays, and behind it one goes whenever another comes.
    #[test]
    fn gaps_behind_one_that_stays_are_not_kept() {
        let mut line = Line::default();
        line.push(0, 0);
        line.push(1, 1);
        for place in 2..10_000 {
            line.push(place, place);
            assert_eq!(line.take(place - 1), Some(place - 1));
            assert!(line.entries.len() <= 4, "{line:?}");
        }
        assert_eq!(line.into_iter().collect::<Vec<_>>(), [0, 9_999]);
    }
}
