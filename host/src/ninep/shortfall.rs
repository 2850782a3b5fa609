//! How a read that came out short reaches a program on Linux.
//!
//! Linux's 9P client does not give a program what a read has brought, but asks for
//! the rest of what the program wants, again and again until it has all of it or
//! is told that there is no more. Of a file that is a conversation that may be
//! never; and if the program is killed then, what the client had is lost. So the
//! question for the rest, if there is nothing to answer it with, is answered once
//! with no bytes at all. Linux takes that for the end of this read alone: the
//! program gets what came, and its next read asks anew.
//!
//! A question for the rest is one that starts where the short read ended and wants
//! what was missing; or, of a program that wants more than a message holds, a
//! whole message's worth again. A program that reads without waiting (6.1 then
//! asks once) looks the same if it wants that much each time, and takes the answer
//! for the end of the file.
//!
//! In plain 9P2000 an empty read is the end of the file and nothing else, and
//! programs there do ask for the rest, so its clients never get this answer.

/// A read of a stream that brought less than was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Shortfall {
    /// Where the rest starts.
    offset: u64,
    /// How much is missing.
    rest: u32,
    /// Whether as much was asked for as a message holds.
    whole: bool,
}

impl Shortfall {
    /// What a read lacks of which `read` bytes came. None came at the end of the
    /// file, and no read lacks anything there.
    pub(super) fn of(offset: u64, asked: u32, read: usize, most: u32) -> Option<Self> {
        let read = u32::try_from(read).ok().filter(|read| *read > 0)?;
        let rest = asked.checked_sub(read).filter(|rest| *rest > 0)?;
        let offset = offset.checked_add(u64::from(read))?;
        Some(Self { offset, rest, whole: asked == most })
    }

    /// Whether this read asks for what is missing.
    pub(super) fn is_asked_for(self, offset: u64, count: u32, most: u32) -> bool {
        offset == self.offset && (count == self.rest || self.whole && count == most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_known_by_its_place_and_its_length() {
        let short = Shortfall::of(1000, 4096, 6, 8168).unwrap();
        assert!(short.is_asked_for(1006, 4090, 8168));
        for (offset, count) in [(1006, 4096), (1006, 8168), (1007, 4090), (1000, 4090), (0, 0)] {
            assert!(!short.is_asked_for(offset, count, 8168), "{offset} {count}");
        }
        let whole = Shortfall::of(0, 8168, 6, 8168).unwrap();
        assert!(whole.is_asked_for(6, 8162, 8168) && whole.is_asked_for(6, 8168, 8168));
    }

    #[test]
    fn a_full_read_and_an_empty_one_lack_nothing() {
        assert_eq!(Shortfall::of(0, 10, 10, 8168), None);
        assert_eq!(Shortfall::of(0, 10, 0, 8168), None);
        assert_eq!(Shortfall::of(u64::MAX, 10, 1, 8168), None);
    }
}
