//! Time: deadlines, wake-ups, signs of life. It comes in as an argument.

use sshnet_core::message::Message;
use sshnet_core::{ClientState, Effect, ErrorCode, Limits};
use sshnet_tests::bench::{Bench, limits};
use sshnet_tests::peer::{
    among, direct, done, exactly, fail, failed, forward, send, sent, wake, warn,
};
use sshnet_tests::promise::another;

const LATE: &str = "the far side did not answer in time";

/// Asked for is a wake-up at this time, or by another engine than ours before it.
#[track_caller]
fn wakes_by(effects: &[Effect], at: u64) {
    let soon = |effect: &Effect| matches!(effect, Effect::Wake(asked) if *asked <= at);
    assert!(effects.last() == Some(&wake(at)) || another() && effects.iter().any(soon));
}

fn dial_time() -> Bench {
    Bench::with(Limits { dial_time: 1_000, ..limits() })
}

/// sshnet.c waited for ever (defect 23).
#[test]
fn a_dial_that_is_not_answered_fails_at_its_deadline() {
    let mut s = dial_time();
    s.advance(500);
    let id = s.client();
    exactly(
        &s.control(1, id, "connect h!7"),
        [send(direct(0, 65_536, 32_768, "h", 7)), wake(1_500)],
    );
    exactly(&s.advance(1_499), []);
    exactly(&s.advance(1_500), [failed(1, ErrorCode::TimedOut, LATE)]);
    assert_eq!(s.state(id), ClientState::Closed);
    s.blames(id, LATE);
    // Its late confirmation is closed (duty 19).
    let effects = s.hear(Message::OpenConfirmation {
        recipient: 0,
        sender: 70,
        window: 9,
        packet: 9,
        data: b"",
    });
    exactly(&effects, [send(Message::Close { recipient: 70 })]);
}

/// So has an announcement (defect 20).
#[test]
fn an_announcement_that_is_not_answered_fails_at_its_deadline() {
    let mut s = dial_time();
    let id = s.client();
    exactly(&s.control(1, id, "announce 99"), [send(forward("", 99)), wake(1_000)]);
    exactly(&s.advance(5_000), [failed(1, ErrorCode::TimedOut, LATE)]);
    assert_eq!(s.state(id), ClientState::Closed);
}

/// What was answered has no deadline any more.
#[test]
fn an_answered_dial_has_no_deadline() {
    let mut s = dial_time();
    let line = {
        let id = s.client();
        s.control(1, id, "connect h!7");
        s.hear(Message::OpenConfirmation {
            recipient: 0,
            sender: 70,
            window: 9,
            packet: 9,
            data: b"",
        });
        id
    };
    exactly(&s.advance(10_000), []);
    assert_eq!(s.state(line), ClientState::Established);
    let id = s.client();
    s.control(2, id, "connect h!7");
    s.flush(2);
    exactly(&s.advance(20_000), []);
}

/// The wake-up asked for is the first one that is needed, asked for once.
#[test]
fn the_first_deadline_is_the_one_to_wake_up_at() {
    let mut s = dial_time();
    let ids = [s.client(), s.client(), s.client()];
    let effects = s.control(1, ids[0], "connect h!7");
    wakes_by(&effects, 1_000);
    s.advance(300);
    // There is one already.
    exactly(&s.control(2, ids[1], "connect h!7"), [send(direct(1, 65_536, 32_768, "h", 7))]);
    s.advance(600);
    exactly(&s.control(3, ids[2], "announce 99"), [send(forward("", 99))]);
    exactly(&s.advance(1_000), [failed(1, ErrorCode::TimedOut, LATE), wake(1_300)]);
    exactly(
        &s.advance(2_000),
        [failed(2, ErrorCode::TimedOut, LATE), failed(3, ErrorCode::TimedOut, LATE)],
    );
    exactly(&s.advance(3_000), []);
}

/// A wake-up that comes early does no harm, and is asked for again.
#[test]
fn waking_up_early_is_harmless() {
    let mut s = dial_time();
    let (a, b) = (s.client(), s.client());
    s.control(1, a, "connect h!7");
    s.advance(400);
    s.control(2, b, "connect h!7");
    s.flush(1);
    // The wake-up for the first dial comes, and there is nothing to do for it.
    exactly(&s.advance(1_000), [wake(1_400)]);
    exactly(&s.advance(1_400), [failed(2, ErrorCode::TimedOut, LATE)]);
}

/// The contract: a time before the last one counts as the last one.
#[test]
fn time_does_not_go_back() {
    let mut s = dial_time();
    s.advance(5_000);
    exactly(&s.advance(10), []);
    let id = s.client();
    let effects = s.control(1, id, "connect h!7");
    wakes_by(&effects, 6_000);
    exactly(&s.advance(0), []);
    assert_eq!(s.state(id), ClientState::Dialing);
}

/// The end of time.
#[test]
fn a_deadline_past_the_end_of_time_never_comes() {
    let mut s = Bench::with(Limits { dial_time: u64::MAX, dial_wait: 1, ..limits() });
    s.advance(u64::MAX - 1);
    let id = s.client();
    exactly(&s.control(1, id, "connect h!7"), [send(direct(0, 65_536, 32_768, "h", 7))]);
    exactly(&s.advance(u64::MAX), []);
    assert_eq!(s.state(id), ClientState::Dialing);
}

/// A dial waits for a pipe so long and no longer.
#[test]
fn a_dial_that_finds_no_pipe_in_time_fails() {
    let mut s = Bench::without_pipe(Limits { dial_wait: 100, dial_time: 1_000, ..limits() });
    let id = s.client();
    exactly(&s.control(1, id, "connect h!7"), [wake(100)]);
    exactly(&s.advance(100), [failed(1, ErrorCode::TimedOut, "no connection came up in time")]);
    // Once made, it has the time of any dial.
    s.control(2, id, "connect h!7");
    s.advance(150);
    let effects = s.pipe_up();
    assert_eq!(sent(&effects).len(), 1);
    exactly(&s.advance(200), [wake(1_150)]);
    exactly(&s.advance(1_150), [failed(2, ErrorCode::TimedOut, LATE)]);
}

/// While the dials that waited for a pipe are made one after the other, as it takes
/// them, one that is made meanwhile keeps its time.
#[test]
fn a_dial_made_while_others_wait_for_room_keeps_its_deadline() {
    let mut s = Bench::without_pipe(Limits {
        packet: 256,
        room: 256,
        dial_time: 1_000,
        dial_wait: 5_000,
        ..limits()
    });
    let ids: Vec<_> = (0..8).map(|_| s.client()).collect();
    for request in 1..8 {
        s.control(request, ids[request as usize - 1], "connect h!7");
    }
    let made = sent(&s.pipe_up()).len();
    assert!(made < 7, "{made}");
    s.advance(100);
    assert_eq!(sent(&s.control(8, ids[7], "connect h!7")).len(), 1);
    s.advance(200);
    assert_eq!(made + sent(&s.took_all()).len() + sent(&s.took_all()).len(), 7);
    among(&s.advance(1_100), failed(8, ErrorCode::TimedOut, LATE));
}

fn keepalive() -> Bench {
    Bench::with(Limits { keepalive: 100, ..limits() })
}

fn probe(recipient: u32) -> Message<'static> {
    Message::Request { recipient, name: b"keepalive@openssh.com", want_reply: true, data: b"" }
}

/// The peer is asked for a sign of life, and nothing else is sent.
#[track_caller]
fn asked(effects: &[Effect], channel: u32) {
    let [message @ Message::Request { recipient, want_reply: true, .. }] = sent(effects)[..] else {
        panic!("{effects:?}")
    };
    assert!(recipient == channel && (message == probe(channel) || another()), "{message:?}");
}

/// A request that no peer knows has to be refused (RFC 4254 section 5.4), which
/// is a sign of life; without one the pipe is given up.
#[test]
fn a_silent_peer_is_asked_for_a_sign_of_life_and_then_given_up() {
    let mut s = keepalive();
    let line = s.dial();
    s.advance(99);
    assert_eq!(sent(&s.advance(99)), []);
    exactly(&s.advance(100), [send(probe(line.theirs)), wake(200)]);
    exactly(&s.advance(150), []);
    s.read(1, line.id, 9);
    let told = "the far side gives no sign of life";
    exactly(&s.advance(200), [failed(1, ErrorCode::NetworkDown, told), fail(told)]);
    assert_eq!(s.state(line.id), ClientState::Finished);
}

/// Any message is a sign of life, the refusal first of all; it is not reported
/// as an answer to nothing.
#[test]
fn an_answer_is_a_sign_of_life() {
    let mut s = keepalive();
    let line = s.dial();
    for round in 1..20 {
        let at = round * 100;
        asked(&s.advance(at), line.theirs);
        let effects = s.hear(Message::Failure { recipient: line.ours });
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Warn(_))));
    }
    exactly(
        &s.hear(Message::Failure { recipient: line.ours }),
        [warn("an answer came to no channel request")],
    );
}

/// While messages come nothing is asked for.
#[test]
fn a_peer_that_talks_is_not_asked() {
    let mut s = keepalive();
    let line = s.dial();
    for at in (50..2_000).step_by(50) {
        assert_eq!(sent(&s.advance(at)), []);
        s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 1 });
    }
}

/// Where nothing is open nothing is waited for.
#[test]
fn without_a_channel_no_sign_of_life_is_asked_for() {
    let mut s = keepalive();
    for at in (0..10_000).step_by(100) {
        assert_eq!(sent(&s.advance(at)), []);
        assert!(s.statistics().pipe_up);
    }
}

/// A host that slept finds a silence of hours. The peer gets its time to answer
/// all the same.
#[test]
fn after_a_long_sleep_the_peer_still_gets_its_time() {
    let mut s = keepalive();
    let line = s.dial();
    exactly(&s.advance(1_000_000), [send(probe(line.theirs)), wake(1_000_100)]);
    exactly(&s.advance(1_000_099), []);
    assert!(s.statistics().pipe_up);
    assert_eq!(sent(&s.hear(Message::Failure { recipient: line.ours })), []);
    assert_eq!(s.state(line.id), ClientState::Established);
}

/// A new pipe starts with its own time.
#[test]
fn a_new_pipe_is_heard_from_when_it_comes_up() {
    let mut s = keepalive();
    s.dial();
    s.advance(100);
    s.pipe_down("gone");
    s.advance(10_000);
    s.pipe_up();
    let line = s.dial();
    assert_eq!(sent(&s.advance(10_099)), []);
    asked(&s.advance(10_100), line.theirs);
    let id = s.client();
    s.control(1, id, "announce 9");
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(1)]);
}
