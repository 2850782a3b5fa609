//! The receive window adapts to what a path carries and to what is read.

use sshnet_core::message::Message;
use sshnet_core::{Effect, Limits};
use sshnet_tests::bench::{Bench, limits};
use sshnet_tests::link::{Answers, ENDLESS, Link, MICRO, MILLI, Reader, SECOND};
use sshnet_tests::peer::{exactly, question, warn};

const MB: u64 = 1_000_000;
const MIB: u64 = 1 << 20;
/// What a conversation's window is at first, and the most that it may be.
const WINDOW: u64 = 2 * MIB;
const MOST: u64 = 15 * MIB;

/// The most that it may be where a round trip takes so many milliseconds.
fn most(trip: u64) -> u64 {
    MOST.min(WINDOW + 125_000 * trip)
}

fn link(rate: u64, trip: u64) -> Option<Link> {
    Link::of_ours(Limits::default(), rate, trip, Answers::Failure)
}

/// Whatever a path carries up to the largest window, four fifths of it are used
/// ten round trips after the conversation began. sshnet.c had a fixed window of 254
/// KiB (defect 32).
#[test]
fn ten_round_trips_later_a_conversation_has_four_fifths_of_what_the_path_carries() {
    let mut paths: Vec<(u64, u64)> = Vec::new();
    for rate in [1, 10, 100, 1_000] {
        for trip in [1, 20, 100, 300] {
            paths.push((rate, trip));
        }
    }
    // Between these: what a window carries before it doubles and after, a trial
    // that gains just enough and one that doesn't, and the largest.
    paths.extend([(20, 100), (22, 100), (24, 100), (26, 100), (30, 100), (36, 100), (44, 100)]);
    paths.extend([(60, 100), (80, 100), (90, 100), (7, 300), (8, 300), (50, 300), (750, 20)]);
    paths.extend([(150, 100), (400, 5), (500, 5), (1_000, 3), (1_000, 10), (1_500, 10)]);
    for (rate, trip) in paths.into_iter().filter(|(rate, trip)| rate * 1_000 * trip <= most(*trip))
    {
        let Some(mut link) = link(rate * MB, trip * MILLI) else { return };
        let one = link.dial(ENDLESS, Reader::Fast);
        // The dial, and ten.
        link.run(11 * trip * MILLI);
        let time = (4 * trip * MILLI).max(64 * 32_768 * SECOND / (rate * MB));
        let found = link.rate_of(one, time);
        assert!(
            found * 10 >= rate * MB * 8,
            "{rate} MB/s and {trip} ms: {} MB/s with a window of {} KiB",
            found / MB,
            link.held(one) >> 10
        );
        assert!(link.most <= most(trip), "{rate} MB/s and {trip} ms: {} bytes", link.most);
    }
}

/// Beyond a gigabit a second more than what everyone's window carries, nothing grows:
/// of windows so large OpenSSH's buffers take the most where its processor is slow,
/// and then it is.
#[test]
fn a_window_grows_by_what_a_gigabit_takes() {
    for trip in [5, 20, 60] {
        let Some(mut link) = link(2_000 * MB, trip * MILLI) else { return };
        let one = link.dial(ENDLESS, Reader::Fast);
        link.run(40 * trip * MILLI);
        assert!(link.most <= most(trip), "{trip} ms: {}", link.most);
        assert!(link.held(one) >= most(trip) * 7 / 8, "{trip} ms: {}", link.held(one));
    }
}

/// A window that has grown opens by twice what was taken and a little, and not by all
/// of it at once: the peer would send that at once, too.
#[test]
fn a_window_grows_by_what_is_taken() {
    let Some(mut link) = link(100 * MB, 100 * MILLI) else { return };
    let one = link.dial(ENDLESS, Reader::Fast);
    link.run(150 * MILLI);
    let (mut held, mut taken) = (link.held(one), link.ends[one].taken);
    while link.now < 2 * SECOND {
        link.run(MILLI);
        let new = link.held(one);
        let grown = new.saturating_sub(held);
        assert!(grown <= 2 * (link.ends[one].taken - taken) + 3 * MIB / 2, "{grown} at once");
        (held, taken) = (new, link.ends[one].taken);
    }
    assert!(held > 8 * MIB);
}

/// A window that has grown is given as it is used up, over a round trip: what goes out
/// in one piece comes back in one, and again, faster than programs on the way get it on.
#[test]
fn what_a_grown_window_carries_does_not_come_in_one_piece() {
    let Some(mut link) = link(1_000 * MB, 100 * MILLI) else { return };
    let one = link.dial(ENDLESS, Reader::Fast);
    link.run(2 * SECOND);
    let mean = link.rate_of(one, SECOND) / 100;
    for _ in 0..100 {
        let most = mean * 3 / 2 + MIB / 2;
        let before = link.ends[one].taken;
        link.run(10 * MILLI);
        let taken = link.ends[one].taken - before;
        assert!(taken <= most, "{taken} in 10 ms, of {mean}");
    }
}

/// When the network halts sshd reads what a window allows into its buffer, and copies
/// that for each packet that it adds: 5 to 15 MB/s are left. While it is given window
/// for each packet it sends, that lasts as long as the network has its moments.
#[test]
fn after_the_network_halted_openssh_is_soon_fast_again() {
    for (halts, time, soon) in [(1, 100, 4), (1, 200, 9), (5, 50, 7), (20, 40, 5)] {
        let Some(mut link) = link(600 * MB, 100 * MILLI) else { return };
        let one = link.dial(ENDLESS, Reader::Fast);
        link.process(one);
        link.run(3 * SECOND / 2);
        let mut taken = Vec::new();
        for trip in 0..soon + 10 {
            if trip < halts {
                link.halt(time * MILLI);
            }
            taken.push(link.rate_of(one, 100 * MILLI) / MB);
        }
        let found = taken[soon..].iter().sum::<u64>() / 10;
        assert!(found >= 100, "{halts} of {time} ms: {found} MB/s, {taken:?}");
    }
}

/// One that was called grows, too: there is no dial to time, only the question.
#[test]
fn a_call_grows_as_a_dial_does() {
    let Some(mut link) = link(100 * MB, 100 * MILLI) else { return };
    let listener = link.listener();
    let one = link.call(listener, ENDLESS, Reader::Fast);
    link.run(SECOND + 200 * MILLI);
    assert!(link.rate_of(one, SECOND) >= 80 * MB);
}

/// A path without delay is full with what everyone has, and OpenSSH collapses
/// where more waits.
#[test]
fn without_delay_no_window_grows() {
    for trip in [50 * MICRO, 200 * MICRO, MILLI] {
        let Some(mut link) = link(1_000 * MB, trip) else { return };
        let one = link.dial(ENDLESS, Reader::Fast);
        link.run(100 * MILLI);
        assert!(link.rate_of(one, SECOND / 5) >= 800 * MB, "{trip}");
        assert!(link.most <= WINDOW, "{trip}: {}", link.most);
    }
}

/// A queue makes round trips longer that are measured behind it; a window that
/// followed these would make the queue longer.
#[test]
fn a_window_does_not_feed_on_the_queue_that_it_makes() {
    // Two megabytes wait before links that hold a tenth of that.
    for (rate, trip, time) in [(2, 20, 34), (1, 200, 34), (50, 4, 2)] {
        let Some(mut link) = link(rate * MB, trip * MILLI) else { return };
        let one = link.dial(ENDLESS, Reader::Fast);
        link.run(time * SECOND);
        assert!(link.rate_of(one, SECOND) >= rate * MB * 9 / 10);
        assert!(link.most <= WINDOW, "{rate} MB/s and {trip} ms: {}", link.most);
        assert_eq!(link.questions.len() as u64, 1 + time / 11, "measured under load, too");
    }
}

/// Where a larger window gains nothing it is taken back, and not tried again for
/// two seconds.
#[test]
fn a_rate_that_does_not_rise_takes_growth_back() {
    let Some(mut link) = link(21 * MB, 100 * MILLI) else { return };
    let one = link.dial(ENDLESS, Reader::Fast);
    link.run(400 * MILLI);
    assert!(link.most > WINDOW, "it is tried: {}", link.most);
    for _ in 0..3 {
        link.run(SECOND);
        assert!(link.held(one) <= WINDOW, "it is taken back: {}", link.held(one));
        let since = link.now;
        link.most = 0;
        while link.most <= WINDOW {
            link.run(10 * MILLI);
            assert!(link.now - since < 3 * SECOND, "it is tried again");
        }
        // It took some of that second.
        assert!(link.now - since >= SECOND, "it rests: {}", link.now - since);
        assert!(link.most <= 2 * WINDOW);
    }
}

/// Who does not read gets what everyone has at first, and no more.
#[test]
fn a_reader_that_does_not_read_holds_its_first_window() {
    let Some(mut link) = link(100 * MB, 100 * MILLI) else { return };
    let one = link.dial(ENDLESS, Reader::Never);
    link.run(30 * SECOND);
    assert_eq!(link.held(one), WINDOW);
    assert_eq!(link.most, WINDOW);
}

/// A reader that takes a tenth of what the link carries needs a tenth of the
/// window, whatever the peer would send.
#[test]
fn a_slow_reader_holds_no_more_than_it_needs() {
    for (rate, trip) in [(100, 100), (10, 20), (1_000, 1), (40, 300)] {
        let Some(mut link) = link(rate * MB, trip * MILLI) else { return };
        let slow = rate * MB / 10;
        let one = link.dial(ENDLESS, Reader::Slow(slow));
        link.run(2 * SECOND);
        assert!(link.rate_of(one, SECOND) >= slow * 8 / 10);
        assert!(link.most <= WINDOW, "{rate} MB/s and {trip} ms: {}", link.most);
    }
    // It takes 4 MB in a round trip.
    let Some(mut link) = link(400 * MB, 100 * MILLI) else { return };
    let one = link.dial(ENDLESS, Reader::Slow(40 * MB));
    link.run(2 * SECOND);
    assert!(link.rate_of(one, SECOND) >= 32 * MB);
    link.run(8 * SECOND);
    assert!(link.most <= 8 * MIB, "{}", link.most);
}

/// A conversation that grew and is then read slowly gives back what it grew.
#[test]
fn a_reader_that_becomes_slow_gives_back_what_its_window_grew() {
    let Some(mut link) = link(100 * MB, 100 * MILLI) else { return };
    let one = link.dial(ENDLESS, Reader::Fast);
    link.run(2 * SECOND);
    assert!(link.held(one) > 8 * MIB);
    link.slow_down(one, 2 * MB);
    // It reads what has come, and gets no more for it.
    link.run(10 * SECOND);
    assert!(link.held(one) <= WINDOW, "{}", link.held(one));
    assert!(link.rate_of(one, SECOND) >= 19 * MB / 10);
}

/// And so does one whose link becomes slow.
#[test]
fn a_link_that_becomes_slow_takes_windows_back() {
    let Some(mut link) = link(100 * MB, 100 * MILLI) else { return };
    let one = link.dial(ENDLESS, Reader::Fast);
    link.run(2 * SECOND);
    assert!(link.held(one) > 8 * MIB);
    link.rate = 4 * MB;
    link.run(8 * SECOND);
    assert!(link.held(one) <= WINDOW, "{}", link.held(one));
    assert!(link.rate_of(one, SECOND) >= 38 * MB / 10);
}

/// After ten seconds in which nothing came a conversation starts as it did at
/// first.
#[test]
fn after_a_while_without_data_nothing_is_left_of_what_a_window_grew() {
    let Some(mut link) = link(100 * MB, 100 * MILLI) else { return };
    let one = link.dial(ENDLESS, Reader::Fast);
    link.run(2 * SECOND);
    assert!(link.held(one) > 8 * MIB);
    link.feed(one, 0);
    link.run(11 * SECOND);
    // What was granted can't be revoked; it is used up.
    let granted = link.held(one);
    assert!(granted > 8 * MIB);
    link.rate = 8 * MB;
    link.feed(one, granted);
    link.run(3 * SECOND);
    assert!(link.held(one) <= WINDOW, "{}", link.held(one));
}

/// On a path without delay it is the sum of the windows that waits: those that are
/// busy share what one alone has.
#[test]
fn without_delay_those_that_are_busy_share_a_window() {
    for (count, most) in [(1, 2), (8, 2), (16, 2), (32, 4)] {
        let Some(mut link) = link(400 * MB, 100 * MICRO) else { return };
        let idle = link.dial(0, Reader::Fast);
        for _ in 0..count {
            link.dial(ENDLESS, Reader::Fast);
        }
        link.run(300 * MILLI);
        let held: Vec<u64> = (1..=count).map(|number| link.held(number)).collect();
        let sum: u64 = held.iter().sum();
        assert!(sum <= most * MIB, "{count}: {sum}");
        assert!(held.iter().all(|held| *held >= 64 << 10), "{count}: {held:?}");
        assert_eq!(link.held(idle), WINDOW, "what is granted stays");
        // They lose nothing by it, and none starves.
        let before: Vec<u64> = link.ends.iter().map(|end| end.taken).collect();
        link.run(100 * MILLI);
        let taken: Vec<u64> =
            link.ends.iter().zip(before).skip(1).map(|(end, before)| end.taken - before).collect();
        let sum: u64 = taken.iter().sum();
        assert!(sum >= 38 * MB, "{count}: {sum}");
        let fair = sum / count as u64;
        assert!(taken.iter().all(|taken| (fair / 2..=fair * 2).contains(taken)), "{taken:?}");
        // A new one has its part.
        let new = link.dial(0, Reader::Fast);
        link.run(10 * MILLI);
        assert!(link.held(new) <= WINDOW / count as u64 + (128 << 10), "{}", link.held(new));
        // When the others are done the last has it all.
        for number in 2..=count {
            link.feed(number, 0);
        }
        link.run(300 * MILLI);
        assert!(link.held(1) >= WINDOW * 7 / 8, "{}", link.held(1));
    }
}

/// Those who take little are not counted as busy, and take nothing away.
#[test]
fn many_that_take_little_take_nothing_from_one_that_is_busy() {
    let limits = Limits { windows: 256 * MIB, ..Limits::default() };
    let Some(mut link) = Link::of_ours(limits, 200 * MB, 100 * MICRO, Answers::Failure) else {
        return;
    };
    for _ in 0..20 {
        link.dial(ENDLESS, Reader::Slow(MB / 2));
    }
    let busy = link.dial(ENDLESS, Reader::Fast);
    link.run(SECOND);
    assert!(link.held(busy) >= WINDOW * 7 / 8, "{}", link.held(busy));
}

/// On a long path each has what it needs.
#[test]
fn on_a_long_path_nobody_shares() {
    let Some(mut link) = link(40 * MB, 100 * MILLI) else { return };
    for _ in 0..8 {
        link.dial(ENDLESS, Reader::Fast);
    }
    link.run(3 * SECOND);
    for number in 0..8 {
        assert!(link.held(number) >= WINDOW * 7 / 8 - 32_768, "{}", link.held(number));
    }
}

/// However many grow, all windows together stay within what the session may hold.
#[test]
fn growth_stays_within_the_budget_of_the_session() {
    let windows = 24 * MIB;
    let limits = Limits { clients: 64, windows, ..Limits::default() };
    let Some(mut link) = Link::of_ours(limits, 100 * MB, 100 * MILLI, Answers::Failure) else {
        return;
    };
    for round in 0..6 {
        for _ in 0..8 {
            link.dial(ENDLESS, if round == 2 { Reader::Never } else { Reader::Fast });
        }
        link.run(SECOND);
        assert!(link.most <= windows, "{}", link.most);
    }
    let before: Vec<u64> = link.ends.iter().map(|end| end.taken).collect();
    link.run(SECOND);
    let fast = |number: &usize| !(16..24).contains(number);
    let starved = (0..48).filter(fast).filter(|&n| link.ends[n].taken == before[n]);
    assert_eq!(starved.count(), 0, "somebody gets nothing");
}

/// A question needs an answer, and which does not matter.
#[test]
fn a_question_that_is_answered_with_success_measures_as_well() {
    let Some(mut link) = Link::of_ours(Limits::default(), 100 * MB, 100 * MILLI, Answers::Success)
    else {
        return;
    };
    let listener = link.listener();
    let one = link.call(listener, ENDLESS, Reader::Fast);
    link.run(2 * SECOND);
    assert!(link.rate_of(one, SECOND) >= 80 * MB);
}

/// RFC 4254 section 5.4: a peer has to answer. One that doesn't is asked once, and
/// its calls keep their first window; a dial has told how long the path is.
#[test]
fn a_peer_that_never_answers_is_not_asked_again() {
    let Some(mut link) = Link::of_ours(Limits::default(), 100 * MB, 100 * MILLI, Answers::Never)
    else {
        return;
    };
    let listener = link.listener();
    let one = link.call(listener, ENDLESS, Reader::Fast);
    link.run(12 * SECOND);
    assert_eq!(link.most, WINDOW);
    assert!(link.rate_of(one, SECOND) >= 15 * MB);
    assert_eq!(link.questions.len(), 1);
    let two = link.dial(ENDLESS, Reader::Fast);
    link.feed(one, 0);
    link.run(2 * SECOND);
    assert!(link.rate_of(two, SECOND) >= 80 * MB);
    assert_eq!(link.questions.len(), 1);
}

/// A peer that answers what it was not asked makes a path look short at worst.
#[test]
fn a_peer_that_answers_too_often_gains_nothing() {
    let Some(mut link) = Link::of_ours(Limits::default(), 100 * MB, 100 * MILLI, Answers::TooOften)
    else {
        return;
    };
    let one = link.dial(ENDLESS, Reader::Fast);
    link.run(12 * SECOND);
    assert!(link.rate_of(one, SECOND) >= 15 * MB);
    assert!(link.most <= MOST);

    let Some(mut s) = Bench::of_ours(Limits { window_max: 1 << 20, ..limits() }) else { return };
    let line = s.dial();
    exactly(&s.hear(Message::Failure { recipient: line.ours }), []);
    exactly(
        &s.hear(Message::Failure { recipient: line.ours }),
        [warn("an answer came to no channel request")],
    );
}

/// One small message for each pipe, before data can come, and not one for each
/// dial; nothing more while little flows, and a question every ten seconds while
/// much does.
#[test]
fn questions_are_few() {
    let Some(mut link) = link(2 * MB, 20 * MILLI) else { return };
    for _ in 0..20 {
        let one = link.dial(5_000, Reader::Fast);
        link.run(100 * MILLI);
        assert_eq!(link.ends[one].taken, 5_000);
        let id = link.ends[one].id;
        link.release(id);
        link.run(2 * SECOND);
    }
    assert_eq!(link.questions.len(), 1);
    let one = link.dial(0, Reader::Fast);
    link.run(60 * SECOND);
    assert_eq!(link.questions.len(), 1);
    link.feed(one, ENDLESS);
    link.run(60 * SECOND);
    let asked = link.questions.len() - 1;
    assert!((5..=7).contains(&asked), "{asked}");
    let often = |pair: &[u64]| pair[1] - pair[0] < 10 * SECOND - MILLI;
    assert!(!link.questions.windows(2).any(often), "{:?}", link.questions);
}

/// The first question goes out with the dial's end, and costs it nothing.
#[test]
fn the_first_conversation_of_a_pipe_asks_the_first_question() {
    let Some(mut s) = Bench::of_ours(Limits { window_max: 1 << 20, ..limits() }) else { return };
    for round in 0..2 {
        let id = s.client();
        let request = s.fresh();
        let ours = s.connect(request, id);
        let theirs = s.channel();
        let confirmation = Message::OpenConfirmation {
            recipient: ours,
            sender: theirs,
            window: 9,
            packet: 9,
            data: b"",
        };
        let effects = s.hear(confirmation);
        assert!(matches!(effects[0], Effect::Complete(_)));
        assert_eq!(effects[1..], [question(theirs)], "{round}");
        let line = s.dial();
        exactly(&s.hear(Message::Data { recipient: line.ours, data: b"x" }), []);
        // Another pipe, another path.
        s.pipe_down("it ends");
        s.pipe_up();
    }
}

/// What a dial waits for a pipe is no part of the round trip that it measures: its
/// conversation has what the path carries as soon as one that did not wait.
#[test]
fn the_wait_for_a_pipe_is_no_part_of_a_round_trip() {
    let trip = 100 * MILLI;
    let limits = Limits { dial_wait: 10_000_000, ..Limits::default() };
    let Some(mut link) = Link::of_ours(limits, 100 * MB, trip, Answers::Never) else { return };
    link.pipe_down();
    let one = link.dial(ENDLESS, Reader::Fast);
    link.run(5 * SECOND);
    link.pipe_up();
    link.run(11 * trip);
    let found = link.rate_of(one, 4 * trip);
    assert!(found >= 80 * MB, "{} MB/s", found / MB);
}

/// Windows that may not change are left alone, and nothing is measured for them.
#[test]
fn a_session_whose_windows_may_not_grow_asks_nothing() {
    let limits = Limits { window_max: 2 << 20, ..Limits::default() };
    for trip in [100 * MICRO, 100 * MILLI] {
        let Some(mut link) = Link::of_ours(limits, 100 * MB, trip, Answers::Failure) else {
            return;
        };
        for _ in 0..4 {
            link.dial(ENDLESS, Reader::Fast);
        }
        link.run(3 * SECOND);
        assert_eq!(link.questions, []);
        for number in 0..4 {
            assert!(link.held(number) >= WINDOW * 7 / 8 - 32_768);
            assert!(link.held(number) <= WINDOW);
        }
    }
}
