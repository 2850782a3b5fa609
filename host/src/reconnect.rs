//! When a connection to the far side that has ended is made again.
//!
//! ```text
//!           ended                    waited                up
//! standing --------> waiting ---------------> logging in -------> standing
//!                       ^                        |
//!                       +------- failed ---------+--refused--> (the end)
//! ```
//!
//! Waits double up to the longest, and are drawn between half of that and all of
//! it, so that many that have lost one host do not come back at once. One
//! connection that stood for as long as the longest wait starts over: one that ends
//! as soon as it is up does not. Pure: it reads no clock and draws no random
//! number, and refuses to know how a connection is made.

use std::time::{Duration, SystemTime};

/// The first wait is half of this at least.
const FIRST: Duration = Duration::from_secs(1);

/// How long to wait, one time after the other.
#[derive(Clone, Debug)]
pub struct Waits {
    longest: Duration,
    /// Waits since a connection stood long enough.
    count: u32,
    /// xorshift64's; never 0.
    random: u64,
}

impl Waits {
    /// Waits up to this long, drawn by this seed.
    pub fn new(longest: Duration, seed: u64) -> Self {
        Self { longest, count: 0, random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The wait after a connection that had stood so long.
    pub fn after_standing(&mut self, stood: Duration) -> Duration {
        if stood >= self.longest {
            self.count = 0;
        }
        self.next()
    }

    /// The wait after one that was not to be had.
    pub fn after_failure(&mut self) -> Duration {
        self.next()
    }

    fn next(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.count).unwrap_or(u32::MAX);
        self.count = self.count.saturating_add(1);
        let most = FIRST.saturating_mul(factor).min(self.longest);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // 32 bits of it are plenty.
        most / 2 + (most / 2).mul_f64(f64::from((self.random >> 32) as u32) / f64::from(u32::MAX))
    }
}

/// How the connection to the far side stands, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Whether there is one.
    pub up: bool,
    /// Since when there is one, or there is none.
    pub since: SystemTime,
    /// How many there were, this one included.
    pub connections: u64,
    /// Attempts that failed since the last one ended.
    pub attempts: u32,
    /// Why the last one ended, or the last attempt failed.
    pub last_reason: Option<String>,
}

impl Standing {
    /// The first connection is up.
    pub fn first(now: SystemTime) -> Self {
        Self { up: true, since: now, connections: 1, attempts: 0, last_reason: None }
    }

    /// It has ended, for this reason.
    pub fn ended(&mut self, reason: String, now: SystemTime) {
        *self = Self { up: false, since: now, attempts: 0, last_reason: Some(reason), ..*self };
    }

    /// There is no other yet, for this reason.
    pub fn failed(&mut self, reason: String) {
        self.attempts = self.attempts.saturating_add(1);
        self.last_reason = Some(reason);
    }

    /// There is another.
    pub fn made(&mut self, now: SystemTime) {
        self.up = true;
        self.since = now;
        self.connections += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    #[test]
    fn waits_double_up_to_the_longest_and_are_drawn_from_its_upper_half() {
        for seed in 0..100_u64 {
            let mut waits = Waits::new(LONGEST, seed);
            for most in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
                let (wait, most) = (waits.after_failure(), Duration::from_secs(most));
                assert!(wait >= most / 2 && wait <= most, "{wait:?} of {most:?}");
            }
            for _ in 0..100 {
                assert!(waits.after_failure() <= LONGEST);
            }
        }
        let drawn = |seed| Waits::new(LONGEST, seed).after_failure();
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(9));
    }

    #[test]
    fn a_connection_that_stood_starts_over_and_one_that_fell_at_once_does_not() {
        let mut waits = Waits::new(LONGEST, 42);
        for _ in 0..4 {
            waits.after_failure();
        }
        assert!(waits.after_standing(Duration::from_secs(59)) >= Duration::from_secs(8));
        assert!(waits.after_standing(LONGEST) <= Duration::from_secs(1));
        assert!(waits.after_standing(Duration::ZERO) >= Duration::from_secs(1));
    }

    #[test]
    fn the_longest_wait_may_be_shorter_than_the_first() {
        let mut waits = Waits::new(Duration::from_millis(100), 42);
        for _ in 0..9 {
            let wait = waits.after_failure();
            assert!((50..=100).contains(&wait.as_millis()), "{wait:?}");
        }
    }

    #[test]
    fn it_is_told_how_the_connection_stands() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut standing = Standing::first(at(1));
        assert!(standing.up && standing.last_reason.is_none());
        standing.ended("gone".to_owned(), at(2));
        assert_eq!((standing.up, standing.since, standing.attempts), (false, at(2), 0));
        standing.failed("refused".to_owned());
        standing.failed("refused again".to_owned());
        assert_eq!((standing.since, standing.attempts), (at(2), 2));
        standing.made(at(3));
        let reason = Some("refused again".to_owned());
        let up =
            Standing { up: true, since: at(3), connections: 2, attempts: 2, last_reason: reason };
        assert_eq!(standing, up);
        standing.ended("gone again".to_owned(), at(4));
        assert_eq!((standing.connections, standing.attempts), (2, 0));
    }
}
