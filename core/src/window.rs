//! Flow control (RFC 4254 section 5.2): how much each side may send.
//!
//! All arithmetic on windows is here, and it is checked: a peer that passes its
//! window, or raises ours past 2^32-1, is answered with an error and never with
//! a number that wrapped. Knows sizes, not bytes, channels or clients. What a
//! receive window should be is told by [`Growth`].

use crate::effect::Instant;
use crate::growth::{Growth, Left, Path};

/// The peer broke the rules of a window.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum WindowError {
    /// It sent more than it may.
    #[error("the far side sent data past the window")]
    Passed,
    /// It sent more in one message than it may.
    #[error("the far side sent a packet that is too large")]
    Packet,
    /// It raised our window past 2^32-1.
    #[error("the far side raised the window past 2^32-1")]
    Overflow,
}

/// Bytes of one kind that the conversations of a session share.
///
/// Every client is sure of a small floor, for which a quarter of the budget is
/// set aside, so that none ever stalls because of the others. The rest is a
/// pool: who asks for more gets at most a part of what is free in it, so that
/// there is always something left for the next.
#[derive(Debug)]
pub(crate) struct Budget {
    floor: u64,
    pool: u64,
    /// What is taken of the pool.
    used: u64,
    /// What is held, floors included.
    total: u64,
}

impl Budget {
    /// Shares so many bytes among so many clients.
    pub(crate) fn new(bytes: u64, clients: u32, packet: u32) -> Self {
        let clients = u64::from(clients.max(1));
        let floor = (bytes / 4 / clients).clamp(1, u64::from(packet.max(1)));
        Self { floor, pool: bytes.saturating_sub(floor.saturating_mul(clients)), used: 0, total: 0 }
    }

    /// All that is held.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// What is not taken of the pool.
    pub(crate) fn free(&self) -> u64 {
        self.pool.saturating_sub(self.used)
    }

    /// The floor, and this part of what is free.
    fn part(&self, part: u64) -> u32 {
        u32::try_from(self.floor.saturating_add(self.free() / part)).unwrap_or(u32::MAX)
    }

    fn above(&self, size: u64) -> u64 {
        size.saturating_sub(self.floor)
    }

    /// How many of `more` bytes someone may take who holds some: all of them, if
    /// the pool has as much again left; else what its floor has. If that is
    /// nothing, the error is how much has to be free.
    pub(crate) fn share(&self, held: u64, more: u32) -> Result<u32, u64> {
        let need = self.above(held.saturating_add(u64::from(more)));
        if need <= self.free() {
            return Ok(more);
        }
        match self.floor.saturating_sub(held) {
            0 => Err(need),
            left => Ok(u32::try_from(left).unwrap_or(more).min(more)),
        }
    }

    /// So much of what one who has left held is no longer held.
    pub(crate) fn release(&mut self, held: u64) {
        self.change(held, 0);
    }

    /// What someone holds went from one size to another.
    fn change(&mut self, from: u64, to: u64) {
        self.used = (self.used + self.above(to)).saturating_sub(self.above(from));
        self.total = (self.total + to).saturating_sub(from);
    }
}

/// What we may send.
#[derive(Debug)]
pub(crate) struct SendWindow {
    window: u32,
    packet: u32,
    /// Sent, and not made up for by adjustments or answers: what may wait in
    /// buffers on the way. A peer that raises its window beyond what was sent owes
    /// nothing.
    unacknowledged: u64,
    /// How many of those were sent before the question under way.
    asked: u64,
}

impl SendWindow {
    /// A window as the peer opened it; our own limit on packets applies, too.
    pub(crate) fn new(window: u32, peer_packet: u32, packet: u32) -> Self {
        Self { window, packet: peer_packet.min(packet), unacknowledged: 0, asked: 0 }
    }

    /// Bytes that the next message may carry.
    pub(crate) fn sendable(&self) -> u32 {
        self.window.min(self.packet)
    }

    /// Bytes the peer still accepts.
    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    /// How many of so many bytes may be on the way as well: see [`Budget::share`].
    pub(crate) fn share(&self, bytes: u32, uploads: &Budget) -> Result<u32, u64> {
        uploads.share(self.unacknowledged, bytes)
    }

    /// So many bytes, no more than [`SendWindow::sendable`], are sent.
    pub(crate) fn sent(&mut self, bytes: u32, uploads: &mut Budget) {
        self.window = self.window.saturating_sub(bytes);
        let before = self.unacknowledged;
        self.unacknowledged += u64::from(bytes);
        uploads.change(before, self.unacknowledged);
    }

    /// The peer accepts so many more, which makes up for as many that were sent.
    pub(crate) fn adjust(&mut self, bytes: u32, uploads: &mut Budget) -> Result<(), WindowError> {
        self.window = self.window.checked_add(bytes).ok_or(WindowError::Overflow)?;
        self.acknowledge(u64::from(bytes), uploads);
        Ok(())
    }

    /// The peer is asked whether what was sent so far has arrived.
    pub(crate) fn ask(&mut self) {
        self.asked = self.unacknowledged;
    }

    /// It has.
    pub(crate) fn arrived(&mut self, uploads: &mut Budget) {
        self.acknowledge(self.asked, uploads);
    }

    fn acknowledge(&mut self, bytes: u64, uploads: &mut Budget) {
        let before = self.unacknowledged;
        self.unacknowledged = before.saturating_sub(bytes);
        self.asked = self.asked.saturating_sub(before - self.unacknowledged);
        uploads.change(before, self.unacknowledged);
    }

    /// The window is gone. What is on the way counts until it is released, unless it is
    /// no more than anyone is sure of; how much does.
    pub(crate) fn part(&mut self, uploads: &mut Budget) -> u64 {
        if self.unacknowledged <= uploads.floor {
            self.close(uploads);
        }
        self.window = 0;
        self.asked = 0;
        core::mem::take(&mut self.unacknowledged)
    }

    /// The window is gone, and what was on the way with it.
    pub(crate) fn close(&mut self, uploads: &mut Budget) {
        self.acknowledge(self.unacknowledged, uploads);
        self.window = 0;
    }
}

/// A new conversation gets at most this part of what is free.
const FIRST_PART: u64 = 16;
/// One that consumes gets at most this part.
const NEXT_PART: u64 = 4;

/// The peer sends at once what it is given at once: so much is worth a grant always.
const BURST: u32 = 512 << 10;

/// What the peer may send.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    /// What it should be able to have on the way.
    growth: Growth,
    /// What it may still send.
    open: u32,
    /// What it sent and was not read yet.
    unread: u32,
    /// What a grant may have: twice what was consumed since the last, and what that one
    /// left; once nothing more is worth a grant, up to a burst. When all was consumed that is
    /// worth a grant.
    earned: u32,
    /// Nothing is granted before this time.
    next: Instant,
}

/// What a window can be opened by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Grant {
    /// Nothing that is worth a message.
    Nothing,
    /// So many bytes; there may be more.
    Bytes(u32),
    /// Something, at this time.
    At(Instant),
}

impl ReceiveWindow {
    /// Opens a window as one begins on this path, or what the pool has for a new one.
    pub(crate) fn new(now: Instant, path: &mut Path, pool: &mut Budget) -> Self {
        let (growth, first) = Growth::new(now, path);
        let open = first.min(pool.part(FIRST_PART));
        pool.change(0, u64::from(open));
        Self { growth, open, unread: 0, earned: BURST, next: 0 }
    }

    /// Bytes the peer may still send.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    /// The peer sent so many bytes in one message.
    pub(crate) fn received(&mut self, bytes: usize, packet: u32) -> Result<(), WindowError> {
        let bytes = u32::try_from(bytes).map_err(|_| WindowError::Packet)?;
        if bytes > packet {
            return Err(WindowError::Packet);
        }
        self.open = self.open.checked_sub(bytes).ok_or(WindowError::Passed)?;
        self.unread += bytes;
        Ok(())
    }

    /// So many of the bytes received were read, or dropped.
    pub(crate) fn consumed(&mut self, bytes: usize, pool: &mut Budget) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.unread);
        pool.change(self.size().into(), (self.size() - bytes).into());
        self.unread -= bytes;
        self.earned = self.earned.saturating_add(bytes.saturating_mul(2));
    }

    /// So many of the bytes consumed were those that somebody waits for.
    pub(crate) fn took(&mut self, bytes: usize, now: Instant, path: &mut Path) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let left = Left { open: self.open, unread: self.unread };
        self.growth.took(bytes, left, now, path);
    }

    /// What to grant now, if it is worth a message: an eighth of the window or a
    /// packet, and half of a window too small for that. (Waiting for half of every
    /// window would halve what a path with delay carries.) For each byte consumed it is
    /// two at most, so that a window that is to grow does so within a round trip, and
    /// not by one burst; and of a grown one no more at a time than a burst.
    pub(crate) fn grant(
        &mut self,
        packet: u32,
        now: Instant,
        path: &Path,
        pool: &mut Budget,
    ) -> Grant {
        // Its share is a part of what is free, beyond what it holds already.
        let held = pool.above(self.size().into());
        let target = self
            .growth
            .target(path)
            .min(pool.part(NEXT_PART).saturating_add(u32::try_from(held).unwrap_or(u32::MAX)));
        let bytes = target.saturating_sub(self.size()).min(self.earned);
        let worth = packet.max(target / 8).min(target / 2).clamp(1, BURST);
        if bytes < worth {
            return Grant::Nothing;
        }
        if now < self.next {
            return Grant::At(self.next);
        }
        let burst = bytes.min(BURST);
        let time = self.growth.pace(burst, path);
        let bytes = if time > 0 { burst } else { bytes };
        // One that is late may be followed by the next at once.
        self.next = self.next.max(now.saturating_sub(time)).saturating_add(time);
        self.earned -= bytes;
        pool.change(self.size().into(), (self.size() + bytes).into());
        self.open += bytes;
        if target.saturating_sub(self.size()) < worth {
            self.earned = self.earned.min(BURST);
        }
        Grant::Bytes(bytes)
    }

    /// The window is gone: the peer sends no more, what it sent is still unread.
    pub(crate) fn close(&mut self, pool: &mut Budget) {
        pool.change(self.size().into(), self.unread.into());
        self.open = 0;
    }

    fn size(&self) -> u32 {
        self.open.saturating_add(self.unread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    const KIB: u32 = 1 << 10;
    const PACKET: u32 = 32 * KIB;

    /// What was consumed and is not granted yet counts for the next grant, once.
    #[test]
    fn what_a_grant_leaves_of_what_was_earned_is_for_the_next() {
        let mut path = Path::new(&Limits { window: 1 << 20, ..Limits::default() });
        let mut pool = Budget::new(2 << 20, 1, PACKET);
        let mut window = ReceiveWindow::new(0, &mut path, &mut pool);
        let opened = window.open();
        assert!(opened < 200 * KIB, "a new one gets a part: {opened}");
        // As if it had consumed a burst; it may have less.
        let mut grant = |window: &mut ReceiveWindow| window.grant(PACKET, 0, &path, &mut pool);
        let first = match grant(&mut window) {
            Grant::Bytes(bytes) => bytes,
            Grant::Nothing | Grant::At(_) => 0,
        };
        let left = BURST - first;
        assert!(left > 0 && left < 100 * KIB, "{left}");
        assert_eq!(grant(&mut window), Grant::Nothing, "the rest is not worth it");
        for _ in 0..2 {
            assert_eq!(window.received(25 << 10, PACKET), Ok(()));
        }
        window.consumed(50 << 10, &mut pool);
        let mut grant = |window: &mut ReceiveWindow| window.grant(PACKET, 0, &path, &mut pool);
        assert_eq!(grant(&mut window), Grant::Bytes(left + 100 * KIB));
        assert_eq!(grant(&mut window), Grant::Nothing, "all of it was granted");
    }
}
