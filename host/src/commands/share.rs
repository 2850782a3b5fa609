//! How much of a 9P connection a conversation may use that shares it with others.
//!
//! A server limits what all reads of a connection may ask for, how much of its
//! writes may wait, and how many requests are outstanding; past the first, reads
//! get short, and past the others requests fail. A conversation alone has as much
//! under way as makes it fast. Of several each has its part, so that any number
//! of them that wait leaves something for those that move.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ninep::{READS_MAX, WRITES_MAX};

/// Bytes in one read or write, at most.
pub const CHUNK: usize = 128 << 10;
/// Conversations of one connection, at most: for so many the sums below hold.
pub const CONVERSATIONS: usize = 1024;
/// Reads, and writes, of a conversation under way at a time, at most.
const OUTSTANDING: usize = 8;
/// Reads and writes are so long before there are more than [`FEWEST`] of them.
const SHORT: usize = 16 << 10;
/// While one is on its way to the server, another is to be there.
const FEWEST: usize = 2;
/// What a conversation always has, in bytes.
const LEAST: usize = 1 << 10;

// A conversation that waits keeps what it was given when there were fewer. If each
// of n came when the ones before it waited already, they hold 1 + 1/2 + ... + 1/n
// of this: less than 8 times for 1024.
const READS: usize = READS_MAX as usize / 8;
const WRITES: usize = WRITES_MAX as usize / 8;

/// The conversations of one connection. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Shares(Arc<AtomicUsize>);

/// One conversation's part; dropped, it is the others'.
#[derive(Debug)]
pub struct Share(Arc<AtomicUsize>);

/// What may be under way in one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// Bytes in each request.
    pub chunk: usize,
    /// Requests.
    pub outstanding: usize,
}

impl Shares {
    /// One more conversation.
    pub fn join(&self) -> Share {
        self.0.fetch_add(1, Ordering::Relaxed);
        Share(Arc::clone(&self.0))
    }
}

impl Share {
    /// What its reads may be now.
    pub fn reads(&self) -> Window {
        Window::of(READS, self.0.load(Ordering::Relaxed))
    }

    /// What its writes may be now.
    pub fn writes(&self) -> Window {
        Window::of(WRITES, self.0.load(Ordering::Relaxed))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Window {
    fn of(total: usize, conversations: usize) -> Self {
        let bytes = (total / conversations.max(1)).clamp(LEAST, OUTSTANDING * CHUNK);
        let outstanding = (bytes / SHORT).clamp(FEWEST, OUTSTANDING);
        Self { chunk: bytes / outstanding, outstanding }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ninep::TAGS_MAX;

    #[test]
    fn a_conversation_alone_has_all_that_makes_it_fast() {
        let share = Shares::default().join();
        let all = Window { chunk: CHUNK, outstanding: OUTSTANDING };
        assert_eq!((share.reads(), share.writes()), (all, all));
    }

    #[test]
    fn a_part_that_is_given_back_is_the_others() {
        let shares = Shares::default();
        let first = shares.join();
        let alone = first.reads();
        let second = shares.join();
        assert!(first.reads().chunk < alone.chunk);
        drop(second);
        assert_eq!(first.reads(), alone);
    }

    /// Each comes when all before it wait with as much as they may have.
    #[test]
    fn as_many_as_are_taken_stay_within_the_servers_limits() {
        let shares = Shares::default();
        let (mut reading, mut writing, mut tags) = (0, 0, 0);
        let taken: Vec<Share> = (0..CONVERSATIONS)
            .map(|_| {
                let share = shares.join();
                let (reads, writes) = (share.reads(), share.writes());
                reading += reads.chunk * reads.outstanding;
                writing += writes.chunk * writes.outstanding;
                tags += reads.outstanding + writes.outstanding;
                share
            })
            .collect();
        assert!(reading <= READS_MAX as usize, "{reading}");
        assert!(writing <= WRITES_MAX as usize, "{writing}");
        // And one each to dial or to end with.
        assert!(tags + taken.len() < TAGS_MAX, "{tags}");
    }
}
