//! How long a round trip takes on a pipe, at the least.
//!
//! Every peer must answer a channel request, and answers a channel's messages in
//! order (RFC 4254 sections 4 and 5.4), so any question of ours that is answered
//! has measured a round trip. The least since the pipe came up counts: what waited
//! behind data took longer, and a window that follows such a time feeds on the
//! queue that it makes. One question is timed at once, and whose answer that is,
//! is counted; what the question is for does not matter. A dial is one, too: its
//! answer comes before any data of it.
//!
//! Knows times and clients; what is asked, and how long a trip has to be to
//! matter, are others' business.

use crate::effect::{ClientId, Instant};

/// How long after a question the next is due.
const PAUSE: Instant = 10_000_000;

/// The round trips of a pipe.
#[derive(Debug, Default)]
pub(crate) struct Trip {
    least: Option<Instant>,
    /// When a question was asked last.
    asked: Option<Instant>,
    timed: Option<Timed>,
}

/// A question under way.
#[derive(Debug)]
struct Timed {
    owner: ClientId,
    /// Which of the answers to its owner is the one, counted from now.
    answers: u32,
    since: Instant,
}

impl Trip {
    /// The least that a trip took, in microseconds. A clock that is told in steps
    /// may make that 0.
    pub(crate) fn least(&self) -> Option<Instant> {
        self.least
    }

    /// Whether nothing was asked on this pipe.
    pub(crate) fn is_new(&self) -> bool {
        self.asked.is_none()
    }

    /// Whether it is time for another question. One that is not answered is not
    /// repeated.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.timed.is_none() && self.asked.is_none_or(|at| now.saturating_sub(at) >= PAUSE)
    }

    /// A client's conversation asks something; so many answers are owed to it then.
    pub(crate) fn ask(&mut self, owner: ClientId, answers: u32, now: Instant) {
        self.asked = Some(now);
        self.timed.get_or_insert(Timed { owner, answers, since: now });
    }

    /// An answer came to a client's conversation.
    pub(crate) fn answered(&mut self, owner: ClientId, now: Instant) {
        let Some(timed) = self.timed.as_mut().filter(|timed| timed.owner == owner) else { return };
        timed.answers = timed.answers.saturating_sub(1);
        if timed.answers == 0 {
            let took = now.saturating_sub(timed.since);
            self.timed = None;
            self.took(took);
        }
    }

    /// A trip, and perhaps more, took this long.
    pub(crate) fn took(&mut self, time: Instant) {
        self.least = Some(self.least.map_or(time, |least| least.min(time)));
    }

    /// A client's conversation ended: nothing is answered to it any more.
    pub(crate) fn leave(&mut self, owner: ClientId) {
        if self.timed.as_ref().is_some_and(|timed| timed.owner == owner) {
            self.timed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ClientId = ClientId { number: 1, incarnation: 0 };
    const OTHER: ClientId = ClientId { number: 2, incarnation: 0 };

    #[test]
    fn the_least_trip_counts() {
        let mut trip = Trip::default();
        for (asked, answered, least) in [(0, 50, 50), (100, 130, 30), (200, 290, 30)] {
            trip.ask(ONE, 1, asked);
            trip.answered(ONE, answered);
            assert_eq!(trip.least(), Some(least));
        }
        trip.took(40);
        assert_eq!(trip.least(), Some(30));
        trip.took(0);
        assert_eq!(trip.least(), Some(0));
    }

    /// Answers come in the order of the questions.
    #[test]
    fn the_answer_to_the_timed_question_is_counted() {
        let mut trip = Trip::default();
        trip.ask(ONE, 3, 100);
        trip.ask(ONE, 4, 110);
        trip.ask(OTHER, 1, 110);
        trip.answered(OTHER, 120);
        trip.answered(ONE, 120);
        trip.answered(ONE, 130);
        assert_eq!(trip.least(), None);
        trip.answered(ONE, 140);
        assert_eq!(trip.least(), Some(40));
        trip.answered(ONE, 141);
        assert_eq!(trip.least(), Some(40));
    }

    #[test]
    fn a_question_is_due_at_first_and_then_at_times() {
        let mut trip = Trip::default();
        assert!(trip.is_new() && trip.is_due(0));
        trip.ask(ONE, 1, 0);
        assert!(!trip.is_new());
        assert!(!trip.is_due(10 * PAUSE), "one at a time");
        trip.leave(OTHER);
        assert!(!trip.is_due(10 * PAUSE));
        trip.leave(ONE);
        assert!(!trip.is_due(PAUSE - 1));
        assert!(trip.is_due(PAUSE));
        trip.ask(OTHER, 1, PAUSE);
        trip.answered(OTHER, PAUSE + 10);
        assert!(!trip.is_due(2 * PAUSE - 1));
        assert!(trip.is_due(2 * PAUSE));
    }
}
