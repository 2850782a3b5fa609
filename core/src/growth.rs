//! How large a receive window should be.
//!
//! A window carries at most its size in a round trip, so a path needs as much
//! window as it carries in one (the bandwidth-delay product). More than that only
//! waits in the buffers on the way, and OpenSSH copies such a backlog for each
//! message that it adds to it. So:
//!
//! 1. What everyone has, the *base*, is [`Limits::window`], which fills a path of
//!    1 GB/s and 2 ms. Where the round trip is less than [`NEAR`] those that are
//!    busy share it, for there it is the sum of their windows that waits in the
//!    buffers. None gets less than [`LEAST`] packets. One that begins counts as busy
//!    until it is known, and begins with [`FIRST`].
//! 2. Above its base a window grows by what was *taken*: who reads slowly, or not
//!    at all, never needs more. When five eighths of it were taken within a
//!    round trip, it doubles, or grows by [`STEP`] if that is less. The round trip
//!    is the least that the pipe had, as [`Trip`] has it. Under [`SHORT`] nothing
//!    grows.
//! 3. A growth is a *trial*. It counts from a round trip later, when what it let
//!    the peer send arrives, and stands once a fifth more is taken. If that
//!    does not come about, the path was full already: it is taken back, and the
//!    next trial is [`REST`] after. So a window that stands still carries five
//!    sixths of what a larger one would.
//! 4. No window grows past [`Limits::window_max`], nor past what carries [`RATE`]
//!    more than the base does.
//! 5. What is given of a grown window goes out over a round trip, a little faster
//!    than what it replaces comes in. Else all of it comes in one piece, round trip
//!    after round trip, faster than programs on the way get it on.
//! 6. When less than a quarter of a grown window was taken within a round trip, most
//!    of it waits somewhere: in OpenSSH's buffer, which copies all that it has while
//!    it has more than ever before, or here, if there was more to send at all. So
//!    nothing is given until that has come and was taken. When half of it was, and a
//!    quarter came within a round trip, the window is as large as before; when all but
//!    the base was, and it came slowly, it is the base. A window can't be revoked: to
//!    give nothing is all that there is.
//! 7. After [`LONG`] without taking nothing is left of a window's growth.
//!
//! That growth follows what the application took is Linux's receiver (DRS,
//! `tcp_rcv_space_adjust`); that a window doubles which is used up within a round
//! trip or two is that of yamux and of quic-go. These trust a round trip measured
//! under load, and grow by their own queue; hence the least one, and the trial. The
//! first question goes out when the first conversation of a pipe begins, one more
//! at most every ten seconds, and only while window is given.
//!
//! Knows sizes and times, no channels.

use crate::config::Limits;
use crate::effect::Instant;
use crate::trip::Trip;

/// The path fills with what everyone has, or its round trip is less than the
/// clock can tell: hosts tell the time in steps.
const SHORT: Instant = 2_000;
/// A round trip under which those that are busy share: few such paths hold more
/// than one window, and on those that do each grows from its share.
const NEAR: Instant = 10_000;
/// No share is less than so many packets.
const LEAST: u32 = 4;
/// What one begins with where those that are busy share: nobody knows yet how many of
/// those that begin at once will be.
const FIRST: u32 = 256 << 10;
/// How long it is counted who is busy.
const PERIOD: Instant = 100_000;
/// No trial adds more than this to a window: what is too much of it waits in the
/// buffers on the way until the trial is over.
const STEP: u32 = 4 << 20;
/// So many bytes a microsecond are carried beyond what everyone's window does: most
/// paths carry no more, and where one does OpenSSH gets slow, whose buffers it would
/// take.
const RATE: u64 = 125;
/// What is given goes out over no more than this time: a round trip that seems longer
/// than it is must not hold anybody up.
const SPREAD: Instant = 100_000;
/// After this time things may have changed.
const LONG: Instant = 10_000_000;
/// After a trial that failed there is none for this time.
const REST: Instant = 2_000_000;
/// For so many round trips a trial may show no gain, for the peer's TCP has to
/// follow first.
const PATIENCE: u8 = 4;

/// What the conversations of a pipe have in common.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) trip: Trip,
    window: u32,
    max: u32,
    least: u32,
    /// The period under way, and when it began.
    period: u32,
    began: Instant,
    /// Who was busy in this period and in the last.
    busy: u32,
    were_busy: u32,
}

impl Path {
    /// A pipe of which nothing is known.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            trip: Trip::default(),
            window: limits.window,
            max: limits.window_max,
            least: limits.packet.saturating_mul(LEAST).min(limits.window),
            period: 0,
            began: 0,
            busy: 0,
            were_busy: 0,
        }
    }

    /// Whether windows change at all.
    pub(crate) fn adapts(&self) -> bool {
        self.window < self.max
    }

    /// The window that everyone has.
    pub(crate) fn base(&self) -> u32 {
        match self.trip.least() {
            Some(trip) if trip < NEAR && self.adapts() => {
                (self.window / self.busy.max(self.were_busy).max(1)).max(self.least)
            }
            _ => self.window,
        }
    }

    /// The window that a conversation begins with. Until one has, nobody knows how near
    /// it is.
    fn first(&self) -> u32 {
        let shares = match self.trip.least() {
            Some(trip) => trip < NEAR,
            None => self.busy > 1,
        };
        if shares && self.adapts() { self.base().min(FIRST).max(self.least) } else { self.base() }
    }

    /// What a window may grow to where a round trip takes so long.
    fn most(&self, trip: Instant) -> u32 {
        let grown = trip.saturating_mul(RATE).saturating_add(self.window.into());
        u32::try_from(grown).unwrap_or(u32::MAX).min(self.max)
    }

    /// Counts who is busy: who takes as much in a period as the least share, or begins
    /// in it.
    #[inline]
    fn count(&mut self, member: &mut Member, bytes: u32, now: Instant) {
        let time = now.saturating_sub(self.began);
        if time >= PERIOD {
            // Of the last period, if that was just before.
            self.were_busy = if time < 2 * PERIOD { self.busy } else { 0 };
            self.busy = 0;
            self.began = now;
            self.period = self.period.wrapping_add(1);
        }
        if member.period != self.period {
            *member = Member { period: self.period, taken: 0 };
        }
        let before = member.taken;
        member.taken = before.saturating_add(bytes);
        self.busy += u32::from(before < self.least && member.taken >= self.least);
    }
}

/// What one took in a period.
#[derive(Debug, Default)]
struct Member {
    period: u32,
    taken: u32,
}

/// Where a window is on its way.
///
/// ```text
///              five eighths taken          a fifth gained, or
///            +--------------------> Trial  no gain: taken back, and REST
///            |                        |
///    Steady -+<-----------------------+
///      ^     |
///      |     +--------------------> Draining
///      |       less than a quarter    |
///      +------------------------------+
///        it came fast: as before, slowly: the base
/// ```
#[derive(Debug)]
enum Stage {
    Steady,
    /// It has grown; when so much is taken within a round trip that stands, and
    /// for so many there may be less.
    Trial {
        before: u32,
        enough: u32,
        left: u8,
    },
    /// Nothing is given until what waits has come and was taken; whether some of it came
    /// as fast as it should, and how much was to come when this round trip began.
    Draining {
        fast: bool,
        open: u32,
    },
}

/// One conversation's window.
#[derive(Debug)]
pub(crate) struct Growth {
    /// What it needs, as far as that is more than its base.
    grown: u32,
    stage: Stage,
    /// No trial before this time.
    rests: Instant,
    /// The round trip under way began then, or will; what was taken in it.
    since: Option<Instant>,
    taken: u32,
    member: Member,
}

impl Growth {
    /// That of a new conversation, and what its window is at first.
    pub(crate) fn new(now: Instant, path: &mut Path) -> (Self, u32) {
        let mut member = Member::default();
        path.count(&mut member, path.least, now);
        let growth =
            Self { grown: 0, stage: Stage::Steady, rests: 0, since: None, taken: 0, member };
        (growth, path.first())
    }

    /// What the window should be.
    pub(crate) fn target(&self, path: &Path) -> u32 {
        match self.stage {
            Stage::Draining { .. } => path.base(),
            _ => self.grown.max(path.base()),
        }
    }

    /// How long it takes to give so many bytes: a grown window, and a quarter more, in a
    /// round trip, or in [`SPREAD`].
    pub(crate) fn pace(&self, bytes: u32, path: &Path) -> Instant {
        let target = self.target(path);
        match path.trip.least() {
            Some(trip) if target > path.base() => {
                trip.min(SPREAD) * u64::from(bytes) / (u64::from(target) + u64::from(target / 4))
            }
            _ => 0,
        }
    }

    /// The application took so many bytes, and this is left of the window.
    pub(crate) fn took(&mut self, bytes: u32, left: Left, now: Instant, path: &mut Path) {
        if !path.adapts() {
            return;
        }
        path.count(&mut self.member, bytes, now);
        let Some(trip) = path.trip.least().filter(|trip| *trip >= SHORT) else {
            // It may have seemed longer.
            self.grown = 0;
            self.stage = Stage::Steady;
            self.since = None;
            return;
        };
        let Some(since) = self.since else {
            self.begin(now);
            return;
        };
        if now < since {
            return;
        }
        self.taken = self.taken.saturating_add(bytes);
        let time = now - since;
        if time >= LONG {
            self.grown = 0;
            self.stage = Stage::Steady;
            self.begin(now);
            return;
        }
        if self.is_draining(left, now, trip, path) || time < trip {
            return;
        }
        let taken = self.taken;
        self.begin(now);
        // What was taken within a round trip: no more than in this time, and no
        // product past 2^32 times LONG.
        let taken = (u64::from(taken) * trip / time) as u32;
        // What is more than a window had waited on the way before.
        let window = self.target(path);
        let taken = taken.min(window);
        if self.is_on_trial(taken, window, now) {
            return;
        }
        // A trial may have failed.
        let window = self.target(path);
        if taken < self.grown / 4 {
            self.stage = Stage::Draining { fast: false, open: left.open };
            return;
        }
        let used_up = taken / 5 > window / 8 && left.unread <= window / 4;
        let most = path.most(trip);
        if used_up && now >= self.rests && window < most {
            let larger = window.saturating_add(window.min(STEP)).min(most);
            // A fifth, or as much less as it is less than a doubling.
            let part = (larger - window) / (window / 16).max(1);
            let enough = taken.saturating_add(taken / 80 * part);
            self.stage = Stage::Trial { before: self.grown, enough, left: PATIENCE };
            self.grown = larger;
            self.begin(now.saturating_add(trip));
        }
    }

    /// Counts from this time on.
    fn begin(&mut self, at: Instant) {
        self.since = Some(at);
        self.taken = 0;
    }

    /// Whether a trial goes on in which so much of this window was taken.
    fn is_on_trial(&mut self, taken: u32, window: u32, now: Instant) -> bool {
        let Stage::Trial { before, enough, left } = &mut self.stage else { return false };
        *left -= 1;
        if taken < *enough {
            if *left > 0 && taken >= window / 4 {
                return true;
            }
            self.grown = *before;
            self.rests = now.saturating_add(REST);
        }
        self.stage = Stage::Steady;
        false
    }

    /// Whether it waited for what is on the way, and sees whether that has come.
    fn is_draining(&mut self, left: Left, now: Instant, trip: Instant, path: &Path) -> bool {
        let Stage::Draining { fast, open } = &mut self.stage else { return false };
        let (base, held) = (path.base(), left.unread.saturating_add(left.open));
        // What was here already says nothing of the way.
        *fast |= open.saturating_sub(left.open) >= self.grown / 4;
        let is_over = held <= base || *fast && held <= self.grown / 2;
        if is_over {
            self.grown = if *fast { self.grown } else { 0 };
            self.stage = Stage::Steady;
            // What is given now comes a round trip later.
            self.begin(now.saturating_add(trip));
        } else if self.since.is_some_and(|since| now.saturating_sub(since) >= trip) {
            *open = left.open;
            self.begin(now);
        }
        true
    }
}

/// What is left of a window after something was taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    /// Bytes that the peer may still send.
    pub(crate) open: u32,
    /// Bytes that came and nobody has read.
    pub(crate) unread: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u32 = 1 << 10;
    const MIB: u32 = 1 << 20;
    const TRIP: Instant = 102_400;

    /// One conversation on a path.
    struct One {
        path: Path,
        growth: Growth,
        now: Instant,
        /// What its window has.
        held: u32,
    }

    impl One {
        fn new(limits: Limits, trip: Instant) -> Self {
            let mut path = Path::new(&limits);
            path.trip.took(trip);
            let (growth, held) = Growth::new(1, &mut path);
            Self { path, growth, now: 1, held }
        }

        /// So many bytes are taken; what is given for them comes at once.
        fn took(&mut self, bytes: u32, unread: u32) {
            self.held = self.held.saturating_sub(bytes);
            let left = Left { open: self.held.saturating_sub(unread), unread };
            self.growth.took(bytes, left, self.now, &mut self.path);
            self.held = self.held.max(self.growth.target(&self.path));
        }

        /// So many bytes are taken in each of so many round trips, piece by piece;
        /// answers the window.
        fn takes(&mut self, bytes: u32, unread: u32, trips: u32) -> u32 {
            for _ in 0..trips * 64 {
                self.now += TRIP / 64;
                self.took(bytes / 64, unread);
            }
            self.growth.target(&self.path)
        }
    }

    fn long() -> One {
        One::new(Limits::default(), TRIP)
    }

    #[test]
    fn a_window_doubles_while_it_is_used_up() {
        let mut one = long();
        assert_eq!(one.takes(2 * MIB, 0, 2), 4 * MIB);
        assert_eq!(one.takes(4 * MIB, 0, 2), 8 * MIB);
        assert_eq!(one.takes(8 * MIB, 0, 2), 12 * MIB, "no step is larger");
        let most = one.takes(12 * MIB, 0, 2);
        assert_eq!(u64::from(most), u64::from(2 * MIB) + TRIP * RATE, "no more than it may");
        assert_eq!(one.takes(most, 0, 20), most);
        // On a longer path the limit is what is smaller.
        let mut path = Path::new(&Limits::default());
        path.trip.took(2 * TRIP);
        assert_eq!(path.most(2 * TRIP), 15 * MIB);
    }

    #[test]
    fn a_window_that_is_not_used_up_stays() {
        let stays = |taken, unread| {
            let mut one = long();
            for _ in 0..200 {
                assert_eq!(one.takes(taken, unread, 1), 2 * MIB);
            }
        };
        stays(5 * MIB / 4, 0);
        // Or that is full of what nobody has read.
        stays(2 * MIB, 2 * MIB / 4 + 1);
        assert_eq!(long().takes(2 * MIB, 2 * MIB / 4, 2), 4 * MIB);
        assert_eq!(long().takes(5 * MIB / 4 + 5 * KIB, 0, 2), 4 * MIB);
    }

    /// Hosts tell the time in steps: much is taken at one time, and the next is just a
    /// round trip later.
    #[test]
    fn what_is_taken_at_the_beginning_and_the_end_of_a_round_trip_counts() {
        let mut one = long();
        one.took(1, 0);
        one.took(2 * MIB, 0);
        one.now += TRIP;
        one.took(1, 0);
        assert_eq!(one.growth.target(&one.path), 4 * MIB);
    }

    #[test]
    fn a_trial_stands_when_a_fifth_more_is_taken() {
        let mut one = long();
        one.takes(2 * MIB, 0, 2);
        assert_eq!(one.takes(2 * MIB + 450 * KIB, 0, 3), 4 * MIB);
        assert!(matches!(one.growth.stage, Stage::Steady));
        let mut one = long();
        one.takes(2 * MIB, 0, 2);
        assert_eq!(one.takes(2 * MIB + MIB / 4, 0, 3), 4 * MIB, "there is time");
        assert_eq!(one.takes(2 * MIB + MIB / 4, 0, 3), 2 * MIB, "it is taken back");
        assert_eq!(one.takes(2 * MIB + MIB / 4, 0, 15), 2 * MIB, "it rests");
        assert_eq!(one.takes(2 * MIB + MIB / 4, 0, 6), 4 * MIB, "it is tried again");
    }

    /// What waited on the way, and comes at once, does not make the next trial harder.
    #[test]
    fn no_more_counts_than_a_window_carries() {
        let mut one = long();
        assert_eq!(one.takes(8 * MIB, 0, 2), 4 * MIB);
        assert_eq!(one.takes(2 * MIB + 450 * KIB, 0, 3), 4 * MIB);
        assert!(matches!(one.growth.stage, Stage::Steady));
    }

    /// The last step is less than a doubling, and need not gain as much.
    #[test]
    fn a_small_step_has_to_gain_little() {
        let limits = Limits { window: 12 * MIB, ..Limits::default() };
        let mut one = One::new(limits, TRIP);
        assert_eq!(one.takes(12 * MIB, 0, 2), 15 * MIB);
        assert_eq!(one.takes(13 * MIB, 0, 20), 15 * MIB);
        assert_eq!(One::new(limits, TRIP).takes(12 * MIB, 0, 20), 12 * MIB);
    }

    /// One whose window has grown as far as it may.
    fn grown() -> (One, u32) {
        let mut one = long();
        one.takes(2 * MIB, 0, 2);
        one.takes(4 * MIB, 0, 2);
        one.takes(8 * MIB, 0, 2);
        let most = one.takes(12 * MIB, 0, 2);
        assert_eq!(one.takes(most, 0, 20), most);
        (one, most)
    }

    #[test]
    fn of_a_window_of_which_little_is_taken_nothing_is_given_until_the_rest_has_come() {
        let (mut one, most) = grown();
        assert_eq!(one.takes(most / 4 + 64, 0, 100), most, "a quarter is enough");
        // Slowly: it is not needed.
        assert_eq!(one.takes(MIB, 0, 2), 2 * MIB);
        assert!(matches!(one.growth.stage, Stage::Draining { fast: false, .. }));
        let held = one.held;
        one.takes(MIB, 0, 5);
        assert!(one.held <= held - 5 * MIB, "{}", one.held);
        assert_eq!(one.takes(MIB, 0, 100), 2 * MIB);
        assert_eq!(one.growth.grown, 0);
        assert!(matches!(one.growth.stage, Stage::Steady));
    }

    #[test]
    fn what_comes_fast_again_gets_its_window_back() {
        let (mut one, most) = grown();
        one.takes(MIB, 0, 2);
        assert!(one.held > most / 4 * 3);
        one.now += 1;
        one.took(most / 4, 0);
        assert_eq!(one.growth.target(&one.path), 2 * MIB, "more than half is on the way");
        one.took(most / 4, 0);
        assert_eq!(one.growth.target(&one.path), most);
        // What comes until that arrives does not count.
        assert_eq!(one.takes(0, 0, 1), most);
        assert_eq!(one.takes(most, 0, 4), most);
        // A quarter in more than a round trip is not fast.
        one.takes(MIB, 0, 2);
        assert_eq!(one.takes(most / 5, 0, 3), 2 * MIB);
        let window = one.takes(most / 5, 0, 3);
        assert!(window <= 4 * MIB, "it starts anew: {window}");
    }

    /// A reader that takes much at a time, and little in all: what it takes fast had come
    /// long before.
    #[test]
    fn who_reads_in_lumps_keeps_no_more_than_the_base() {
        let (mut one, most) = grown();
        let mut unread = most;
        while unread > 2 * MIB {
            one.now += 10 * TRIP;
            for _ in 0..64 {
                unread -= 64 * KIB;
                let left = Left { open: 0, unread };
                one.growth.took(64 * KIB, left, one.now, &mut one.path);
                assert_eq!(one.growth.target(&one.path), 2 * MIB, "{unread}");
                if unread <= 2 * MIB {
                    break;
                }
            }
        }
        assert_eq!(one.growth.grown, 0);
    }

    /// Its last size, and not what was tried.
    #[test]
    fn a_trial_in_which_little_is_taken_is_over() {
        let mut one = long();
        one.takes(2 * MIB, 0, 2);
        one.takes(4 * MIB, 0, 4);
        assert_eq!(one.growth.target(&one.path), 8 * MIB);
        assert!(matches!(one.growth.stage, Stage::Trial { .. }));
        one.takes(MIB / 2, 0, 2);
        assert!(matches!(one.growth.stage, Stage::Draining { .. }));
        assert_eq!(one.growth.grown, 4 * MIB);
        one.took(2 * MIB, 0);
        one.took(4 * MIB, 0);
        assert_eq!(one.growth.target(&one.path), 4 * MIB);
        assert_eq!(one.takes(4 * MIB, 0, 15), 4 * MIB, "it rests");
        assert_eq!(one.takes(4 * MIB, 0, 6), 8 * MIB, "it is tried again");
    }

    #[test]
    fn a_grown_window_is_given_over_a_round_trip() {
        let (one, most) = grown();
        let time = one.growth.pace(most, &one.path);
        assert!(time.abs_diff(SPREAD * 4 / 5) <= 1, "{time}");
        assert!(one.growth.pace(512 * KIB, &one.path) > 0);
        assert_eq!(long().growth.pace(2 * MIB, &one.path), 0, "what everyone has is given at once");
    }

    #[test]
    fn after_a_long_pause_nothing_is_left() {
        let mut one = long();
        one.takes(2 * MIB, 0, 2);
        one.takes(4 * MIB, 0, 1);
        one.now += LONG;
        assert_eq!(one.takes(16, 0, 1), 2 * MIB);
        assert!(matches!(one.growth.stage, Stage::Steady));
    }

    #[test]
    fn on_a_short_path_nothing_grows() {
        for trip in [0, SHORT - 1] {
            assert_eq!(One::new(Limits::default(), trip).takes(200 * MIB, 0, 50), 2 * MIB);
        }
        // Nor on one that turns out to be short.
        let mut one = long();
        one.takes(2 * MIB, 0, 2);
        one.path.trip.took(SHORT - 1);
        assert_eq!(one.takes(4 * MIB, 0, 1), 2 * MIB);
        // Nor on one of which nothing is known.
        let mut path = Path::new(&Limits::default());
        let (mut growth, first) = Growth::new(0, &mut path);
        assert_eq!(first, 2 * MIB);
        for now in 0..1_000 {
            growth.took(MIB, Left::default(), now * TRIP, &mut path);
        }
        assert_eq!(growth.target(&path), 2 * MIB);
    }

    #[test]
    fn those_that_are_busy_share_on_a_near_path() {
        for (trip, eight, forty) in
            [(0, 256 * KIB, 128 * KIB), (NEAR - 1, 256 * KIB, 128 * KIB), (NEAR, 2 * MIB, 2 * MIB)]
        {
            let mut path = Path::new(&Limits::default());
            path.trip.took(trip);
            let mut members: [Member; 40] = core::array::from_fn(|_| Member::default());
            for (busy, share) in [(1, 2 * MIB), (8, eight), (40, forty)] {
                for member in members.iter_mut().take(busy) {
                    path.count(member, 128 * KIB, PERIOD);
                }
                assert_eq!(path.base(), share, "{trip} us, {busy} busy");
            }
            // In the next period they still count, and after it no more.
            path.count(&mut members[0], 1, 2 * PERIOD);
            assert_eq!(path.base(), forty);
            path.count(&mut members[0], 1, 3 * PERIOD);
            assert_eq!(path.base(), 2 * MIB);
            // Nor do they when nobody took anything in the next.
            for member in &mut members {
                path.count(member, 128 * KIB, 4 * PERIOD);
            }
            path.count(&mut members[0], 1, 6 * PERIOD - 1);
            assert_eq!(path.base(), forty);
            path.count(&mut members[0], 1, 8 * PERIOD - 1);
            assert_eq!(path.base(), 2 * MIB);
        }
    }

    /// What is on the way to those that begin together is no more than to others, before
    /// any of them has taken anything.
    #[test]
    fn those_that_begin_together_share_on_a_near_path() {
        for (trip, first, last) in [(NEAR - 1, 256 * KIB, 128 * KIB), (NEAR, 2 * MIB, 2 * MIB)] {
            let mut path = Path::new(&Limits::default());
            path.trip.took(trip);
            let begun: [(Growth, u32); 40] = core::array::from_fn(|_| Growth::new(7, &mut path));
            assert_eq!((begun[0].1, begun[7].1, begun[39].1), (first, first, last), "{trip} us");
            assert!(begun.iter().all(|(growth, _)| growth.target(&path) == last), "{trip} us");
            // Of a new pipe nothing is known.
            let mut new = Path::new(&Limits::default());
            assert_eq!([(); 3].map(|()| Growth::new(7, &mut new).1), [8, 1, 1].map(|n| n * FIRST));
            // Who takes something in the same period counts once.
            let (mut one, _) = Growth::new(PERIOD, &mut path);
            one.took(MIB, Left::default(), PERIOD, &mut path);
            path.count(&mut Member::default(), 1, 2 * PERIOD);
            assert_eq!(path.base(), 2 * MIB, "{trip} us");
        }
    }

    /// Who takes little, in one period or another, is not busy.
    #[test]
    fn busy_is_who_takes_a_share_in_one_period() {
        let mut path = Path::new(&Limits::default());
        path.trip.took(0);
        let (mut one, mut other) = (Member::default(), Member::default());
        for period in 1..100 {
            path.count(&mut one, 128 * KIB, period * PERIOD);
            path.count(&mut other, 64 * KIB, period * PERIOD);
            assert_eq!(path.base(), 2 * MIB);
        }
    }

    #[test]
    fn the_largest_windows_do_not_overflow() {
        let limits = Limits { window: u32::MAX / 2, window_max: u32::MAX, ..Limits::default() };
        for trip in [SHORT, LONG - 1, Instant::MAX] {
            let mut one = One::new(limits, trip);
            for now in [0, 1, trip / 2, trip - 1, trip, Instant::MAX - 1, Instant::MAX] {
                for _ in 0..8 {
                    one.now = one.now.max(now);
                    one.took(u32::MAX, 0);
                    one.growth.pace(u32::MAX, &one.path);
                }
                assert!(one.growth.target(&one.path) >= limits.window);
            }
        }
    }
}
