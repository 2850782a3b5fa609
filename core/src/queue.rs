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
        out.extend_from_slice(taken);
        if left.len() < self.bytes.len() / 2 {
            *self = Self::new(left.to_vec(), 0);
        } else {
            self.from += count;
        }
        count
    }
}

/// A queue for so many is not worth giving back.
const SPARE: usize = 16;

/// Gives back half of a queue's memory, if less than a quarter is in use.
pub(crate) fn trim<T>(queue: &mut VecDeque<T>) {
    let room = queue.capacity();
    if room > SPARE && queue.len() < room / 4 {
        queue.shrink_to(room / 2);
    }
}

#[cfg(test)]
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
        // Of one that is not, half is given back and no more.
        let mut queue: VecDeque<u32> = VecDeque::with_capacity(64);
        trim(&mut queue);
        assert_eq!(queue.capacity(), 32);
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
}
