//! Flow control (RFC 4254 section 5.2): how much each side may send.
//!
//! All arithmetic on windows is here, and it is checked: a peer that passes its
//! window, or raises ours past 2^32-1, is answered with an error and never with
//! a number that wrapped. Knows sizes, not bytes, channels or clients.

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

    /// Bytes sent that the peer has not made up for.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    /// So many bytes, no more than [`SendWindow::sendable`], are sent.
    pub(crate) fn sent(&mut self, bytes: u32) {
        self.window = self.window.saturating_sub(bytes);
        self.unacknowledged += u64::from(bytes);
    }

    /// The peer accepts so many more; answers how many sent bytes that makes up for.
    pub(crate) fn adjust(&mut self, bytes: u32) -> Result<u64, WindowError> {
        self.window = self.window.checked_add(bytes).ok_or(WindowError::Overflow)?;
        let acknowledged = self.unacknowledged.min(u64::from(bytes));
        self.unacknowledged -= acknowledged;
        self.asked = self.asked.saturating_sub(acknowledged);
        Ok(acknowledged)
    }

    /// The peer is asked whether what was sent so far has arrived.
    pub(crate) fn ask(&mut self) {
        self.asked = self.unacknowledged;
    }

    /// It has; answers how many bytes that makes up for.
    pub(crate) fn arrived(&mut self) -> u64 {
        let acknowledged = core::mem::take(&mut self.asked);
        self.unacknowledged -= acknowledged;
        acknowledged
    }
}

/// What the session's receive windows share.
///
/// Every client is sure of a small floor, for which a quarter of the budget is
/// set aside, so that none ever stalls for lack of window. The rest is a pool:
/// who asks for more gets at most a part of what is free in it, so that there
/// is always something left for the next.
#[derive(Debug)]
pub(crate) struct WindowPool {
    floor: u32,
    pool: u64,
    used: u64,
    packet: u32,
    /// All that is granted or unread, floors included.
    total: u64,
}

/// A new conversation gets at most this part of what is free.
const FIRST_PART: u64 = 16;
/// One that consumes gets at most this part.
const NEXT_PART: u64 = 4;

impl WindowPool {
    /// Shares this budget among so many clients.
    pub(crate) fn new(budget: u64, clients: u32, packet: u32) -> Self {
        let floor = budget / 4 / u64::from(clients.max(1));
        let floor = u32::try_from(floor).unwrap_or(u32::MAX).min(packet).max(1);
        let pool = budget.saturating_sub(u64::from(floor) * u64::from(clients));
        Self { floor, pool, used: 0, packet, total: 0 }
    }

    /// Bytes granted and not received, and bytes received and not read.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    fn part(&self, part: u64) -> u32 {
        let free = self.pool.saturating_sub(self.used) / part;
        self.floor.saturating_add(u32::try_from(free).unwrap_or(u32::MAX))
    }

    /// A client's share went from one size to another.
    fn change(&mut self, from: u32, to: u32) {
        let above = |size: u32| u64::from(size.saturating_sub(self.floor));
        self.used = (self.used + above(to)).saturating_sub(above(from));
        self.total = (self.total + u64::from(to)).saturating_sub(u64::from(from));
    }
}

/// What the peer may send.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    /// What it should be able to have on the way.
    target: u32,
    /// What it may still send.
    open: u32,
    /// What it sent and was not read yet.
    unread: u32,
}

impl ReceiveWindow {
    /// Opens a window of `target` bytes, or what the pool has for a new one.
    pub(crate) fn new(target: u32, pool: &mut WindowPool) -> Self {
        let open = target.min(pool.part(FIRST_PART));
        pool.change(0, open);
        Self { target, open, unread: 0 }
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
    pub(crate) fn consumed(&mut self, bytes: usize, pool: &mut WindowPool) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.unread);
        pool.change(self.size(), self.size() - bytes);
        self.unread -= bytes;
    }

    /// How many bytes to grant now, if it is worth a message: an eighth of the
    /// window or a packet, and half of a window too small for that. (Waiting for
    /// half of every window would halve what a path with delay carries.)
    pub(crate) fn grant(&mut self, pool: &mut WindowPool) -> Option<u32> {
        // Its share is a part of what is free, beyond what it holds already.
        let held = self.size().saturating_sub(pool.floor);
        let target = self.target.min(pool.part(NEXT_PART).saturating_add(held));
        let bytes = target.checked_sub(self.size())?;
        let worth = pool.packet.max(target / 8).min(target / 2).max(1);
        if bytes < worth {
            return None;
        }
        pool.change(self.size(), self.size() + bytes);
        self.open += bytes;
        Some(bytes)
    }

    /// The window is gone: the peer sends no more, what it sent is still unread.
    pub(crate) fn close(&mut self, pool: &mut WindowPool) {
        pool.change(self.size(), self.unread);
        self.open = 0;
    }

    fn size(&self) -> u32 {
        self.open.saturating_add(self.unread)
    }
}
