//! What waits to be written to one connection, and what of it the engine has been
//! told is taken.
//!
//! The engine makes data messages as long as less than its room waits in the pipe,
//! over all connections: that is what makes it share them fairly. Where there are
//! several connections, one that takes nothing would stop the others. So what waits
//! for a connection that stands still is *held*: the engine is told that it is
//! taken, and goes on. There is a bound to that, past which the connection counts
//! as broken.
//!
//! ```text
//! sent --> waiting --written--> (told)
//!             +------stalled--> held (told) --written--> (gone)
//! ```
//!
//! It counts bytes and knows no message.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bytes that may be held: some conversations' whole windows.
pub(super) const HELD: u64 = 32 << 20;

/// The account of a connection. Where bytes are answered with, the engine is to be
/// told that they are taken.
#[derive(Debug, Default)]
pub(super) struct Account {
    bytes: Mutex<Bytes>,
    /// More is held than may be.
    passed: Notify,
}

#[derive(Debug, Default)]
struct Bytes {
    /// What the engine counts as waiting.
    waiting: u64,
    /// What it does not; it counts as written first.
    held: u64,
    flow: Flow,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Flow {
    /// What is written is told then.
    #[default]
    Moving,
    /// What comes is told at once, and held.
    Stalled,
    /// What comes is told at once, and dropped.
    Ended,
}

impl Account {
    /// So many bytes were put into the queue.
    pub(super) fn sent(&self, count: u64) -> u64 {
        let mut bytes = self.lock();
        match bytes.flow {
            Flow::Moving => {
                bytes.waiting += count;
                0
            }
            Flow::Stalled => {
                bytes.hold(count, &self.passed);
                count
            }
            Flow::Ended => count,
        }
    }

    /// So many bytes of our own were put into the queue, of which the engine knows
    /// nothing.
    pub(super) fn answered(&self, count: u64) {
        let mut bytes = self.lock();
        if bytes.flow != Flow::Ended {
            bytes.hold(count, &self.passed);
        }
    }

    /// So many bytes were written.
    pub(super) fn written(&self, count: u64) -> u64 {
        let mut bytes = self.lock();
        if bytes.flow == Flow::Ended {
            return 0;
        }
        bytes.flow = Flow::Moving;
        let of_held = count.min(bytes.held);
        bytes.held -= of_held;
        let told = (count - of_held).min(bytes.waiting);
        bytes.waiting -= told;
        told
    }

    /// Nothing was written for a while.
    pub(super) fn stalled(&self) -> u64 {
        let mut bytes = self.lock();
        if bytes.flow == Flow::Ended {
            return 0;
        }
        bytes.flow = Flow::Stalled;
        let told = std::mem::take(&mut bytes.waiting);
        bytes.hold(told, &self.passed);
        told
    }

    /// Nothing will be written any more.
    pub(super) fn end(&self) -> u64 {
        let mut bytes = self.lock();
        bytes.flow = Flow::Ended;
        bytes.held = 0;
        std::mem::take(&mut bytes.waiting)
    }

    /// Waits until more is held than may be. There is one who waits.
    pub(super) async fn passed(&self) {
        while self.lock().held <= HELD {
            self.passed.notified().await;
        }
    }

    /// Whether all that was sent is written.
    pub(super) fn is_empty(&self) -> bool {
        let bytes = self.lock();
        bytes.waiting + bytes.held == 0
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bytes {
    fn hold(&mut self, count: u64, passed: &Notify) {
        self.held += count;
        if self.held > HELD {
            passed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_told_then_and_once() {
        let account = Account::default();
        assert_eq!((account.sent(100), account.sent(50)), (0, 0));
        assert_eq!(account.written(100), 100);
        assert!(!account.is_empty());
        assert_eq!(account.written(50), 50);
        assert!(account.is_empty());
        assert_eq!(account.end(), 0);
    }

    #[test]
    fn what_waits_for_a_connection_that_stands_still_is_told_before_it_is_written() {
        let account = Account::default();
        assert_eq!(account.sent(100), 0);
        assert_eq!(account.stalled(), 100);
        assert_eq!(account.stalled(), 0, "once");
        assert_eq!(account.sent(30), 30);
        // It moves again: what is held is behind us first, then the rest is told.
        assert_eq!(account.written(90), 0);
        assert_eq!(account.sent(7), 0);
        assert_eq!(account.written(42), 2);
        assert_eq!(account.written(5), 5);
        assert!(account.is_empty());
    }

    #[test]
    fn at_the_end_the_rest_is_told_and_what_comes_later_too() {
        let account = Account::default();
        account.sent(100);
        account.stalled();
        account.written(10);
        account.sent(5);
        assert_eq!(account.end(), 5, "what was held is told already");
        assert!(account.is_empty());
        assert_eq!(account.sent(9), 9);
        assert_eq!((account.written(9), account.stalled(), account.end()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_has_a_bound() {
        let account = Account::default();
        let passed = || tokio::time::timeout(std::time::Duration::from_secs(1), account.passed());
        account.sent(HELD);
        account.stalled();
        assert!(passed().await.is_err());
        account.sent(1);
        assert!(passed().await.is_ok());
        account.written(1);
        assert!(passed().await.is_err(), "there is a place again");
    }
}
