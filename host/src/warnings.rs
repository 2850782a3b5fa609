//! Warnings of what others do, at a rate at which they can be read.
//!
//! Whoever is at the other end of a socket can do wrong as often as he likes; the
//! log is the user's.

use std::fmt::Arguments;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Warnings of one kind that are shown in a row.
const BURST: u32 = 20;
/// How long the rest is held back, and then counted.
const PAUSE: Duration = Duration::from_secs(10);

/// Those of what the far side does.
pub(crate) static FAR: Warnings = Warnings::new();
/// Those of what others on this machine do.
pub(crate) static NEAR: Warnings = Warnings::new();

/// Warnings of one kind.
#[derive(Debug)]
pub(crate) struct Warnings(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When the row began.
    began: Option<Instant>,
    shown: u32,
    held_back: u64,
}

/// What becomes of a warning.
#[derive(Debug, Eq, PartialEq)]
enum Fate {
    /// It is shown, and before it that so many were not.
    Shown(u64),
    HeldBack,
}

impl Warnings {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { began: None, shown: 0, held_back: 0 }))
    }

    /// Warns, unless there were too many just before.
    pub(crate) fn warn(&self, what: Arguments<'_>) {
        let fate = self.0.lock().unwrap_or_else(PoisonError::into_inner).fate(Instant::now());
        match fate {
            Fate::HeldBack => {}
            Fate::Shown(0) => tracing::warn!("{what}"),
            Fate::Shown(more) => {
                tracing::warn!("{more} more warnings were held back");
                tracing::warn!("{what}");
            }
        }
    }
}

impl State {
    fn fate(&mut self, now: Instant) -> Fate {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= PAUSE) {
            *self = Self { began: Some(now), shown: 0, held_back: self.held_back };
        }
        if self.shown >= BURST {
            self.held_back += 1;
            return Fate::HeldBack;
        }
        self.shown += 1;
        Fate::Shown(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_warnings_is_held_back_and_counted() {
        let mut state = State { began: None, shown: 0, held_back: 0 };
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(state.fate(start), Fate::Shown(0));
        }
        for _ in 0..1000 {
            assert_eq!(state.fate(start + PAUSE / 2), Fate::HeldBack);
        }
        assert_eq!(state.fate(start + PAUSE), Fate::Shown(1000));
        assert_eq!(state.fate(start + PAUSE), Fate::Shown(0));
    }
}
