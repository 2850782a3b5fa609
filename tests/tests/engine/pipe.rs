//! Pipes come and go; the session stays.

use sshnet_core::message::Message;
use sshnet_core::{ClientState, ErrorCode, Limits};
use sshnet_tests::bench::{Bench, PACKET, limits, taken, tight};
use sshnet_tests::peer::{
    among, call, cancel, client, completions, count, data, direct, done, error, exactly, fail,
    failed, forward, send, sent, told, warn,
};

/// When ssh ended, sshnet.c ended, and every request was left without an answer
/// (defect 16).
#[test]
fn when_the_pipe_goes_down_every_request_on_it_fails_with_the_reason() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    s.listen(1, listener);
    let line = s.dial_with(0, PACKET);
    s.read(2, line.id, 9);
    s.write(3, line.id, b"x");
    s.control(4, line.id, "closewrite");
    let dialing = s.client();
    s.connect(5, dialing);
    let announcing = s.client();
    s.control(6, announcing, "announce 1");
    let down = |request| told(request, ErrorCode::NetworkDown, "ssh: gone\\x0a");
    exactly(&s.pipe_down("ssh: gone\n"), [down(2), down(3), down(4), down(5), down(6)]);
    assert_eq!(s.state(line.id), ClientState::Finished);
    assert_eq!(s.state(dialing), ClientState::Closed);
    assert_eq!(s.state(announcing), ClientState::Closed);
    assert_eq!(s.state(listener), ClientState::Listen);
    assert_eq!(s.ledger.outstanding(), [1]);
    let figures = s.statistics();
    assert!(!figures.pipe_up);
    assert_eq!((figures.channels, figures.in_pipe, figures.queued), (0, 0, 0));
    assert_eq!((figures.unacknowledged, figures.windows), (0, 0));
}

/// What came before is still read, then the reason (defects 9, 16).
#[test]
fn what_came_before_the_pipe_went_down_can_still_be_read() {
    let mut s = Bench::new();
    let line = s.dial();
    s.hear(Message::Data { recipient: line.ours, data: b"last words" });
    exactly(&s.pipe_down("ssh ended"), []);
    assert_eq!(s.info(line.id).last_error.as_deref(), Some("ssh ended"));
    exactly(&s.read(1, line.id, 4), [data(1, "last")]);
    s.pipe_up();
    exactly(&s.read(2, line.id, 100), [data(2, " words")]);
    exactly(&s.read(3, line.id, 100), [told(3, ErrorCode::NetworkDown, "ssh ended")]);
    exactly(&s.write(4, line.id, b"x"), [told(4, ErrorCode::NetworkDown, "ssh ended")]);
}

/// What had ended with EOF before stays ended with EOF.
#[test]
fn eof_before_the_pipe_went_down_stays_eof() {
    let mut s = Bench::new();
    let line = s.dial();
    s.hear(Message::Eof { recipient: line.ours });
    s.pipe_down("ssh ended");
    exactly(&s.read(1, line.id, 100), [data(1, "")]);
    exactly(&s.write(2, line.id, b"x"), [told(2, ErrorCode::NetworkDown, "ssh ended")]);
}

/// Announced clients are announced again, and those who listen go on waiting.
#[test]
fn a_new_pipe_announces_again_and_listens_go_on() {
    let mut s = Bench::new();
    let a = s.announce("*!98");
    let b = s.announce("localhost!99");
    s.listen(1, a);
    s.pipe_down("gone");
    assert_eq!(s.info(a).last_error.as_deref(), Some("gone"));
    exactly(&s.pipe_up(), [send(forward("", 98)), send(forward("localhost", 99))]);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
    assert_eq!(s.info(a).last_error, None, "it is over");
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
    let effects = s.hear(call(70, "", 98));
    let (id, _) = taken(&effects);
    among(&effects, client(1, id));
    exactly(&s.control(2, b, "hangup"), [send(cancel("localhost", 99)), done(2)]);
}

/// For port 0 it is the port that was bound: those who know it must find it.
#[test]
fn port_0_is_announced_again_as_the_port_that_it_was() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "announce *!0");
    s.hear(Message::RequestSuccess { data: &40_000_u32.to_be_bytes() });
    s.pipe_down("gone");
    exactly(&s.pipe_up(), [send(forward("", 40_000))]);
}

/// Where the far side will not have it any more, who listens is told, and
/// `status` says why; another pipe tries again.
#[test]
fn an_announcement_that_is_refused_again_fails_those_who_listen() {
    let mut s = Bench::new();
    let id = s.announce("*!99");
    s.listen(1, id);
    s.pipe_down("gone");
    s.listen(2, id);
    s.pipe_up();
    let why = "the far side would not announce *!99";
    exactly(
        &s.hear(Message::RequestFailure),
        [failed(1, ErrorCode::AddressInUse, why), failed(2, ErrorCode::AddressInUse, why)],
    );
    exactly(&s.listen(3, id), [failed(3, ErrorCode::AddressInUse, why)]);
    s.blames(id, why);
    assert_eq!(s.state(id), ClientState::Listen);
    s.pipe_down("gone");
    exactly(&s.listen(3, id), [failed(3, ErrorCode::AddressInUse, why)]);
    exactly(&s.pipe_up(), [send(forward("", 99))]);
    s.hear(Message::RequestSuccess { data: b"" });
    exactly(&s.listen(4, id), []);
}

/// An announcement that is let go while it is asked for again is cancelled when
/// the answer comes.
#[test]
fn hangup_before_the_second_announcement_is_answered_cancels_it() {
    let mut s = Bench::new();
    let id = s.announce("*!99");
    s.pipe_down("gone");
    s.pipe_up();
    exactly(&s.control(1, id, "hangup"), [done(1)]);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [send(cancel("", 99))]);
    // Without a pipe there is nothing to cancel.
    s.hear(Message::RequestSuccess { data: b"" });
    let id = s.announce("*!97");
    s.pipe_down("gone");
    exactly(&s.release(id), []);
    exactly(&s.pipe_up(), []);
}

/// Calls that waited are gone with their pipe, and are no one's afterwards.
#[test]
fn calls_that_waited_are_gone_with_the_pipe() {
    let mut s = Bench::new();
    let id = s.announce("*!99");
    for theirs in 70..73 {
        s.hear(call(theirs, "", 99));
    }
    s.pipe_down("gone");
    assert_eq!(s.info(id).calls, 0);
    s.pipe_up();
    s.hear(Message::RequestSuccess { data: b"" });
    exactly(&s.listen(1, id), []);
    s.flush(1);
    // Their places in the backlog are free.
    for theirs in 70..73 {
        exactly(&s.hear(call(theirs, "", 99)), []);
    }
}

/// A new pipe is a new numbering: nothing of the old one's is left.
#[test]
fn channels_start_again_on_a_new_pipe() {
    let mut s = Bench::new();
    let line = s.dial();
    s.dial();
    s.control(1, line.id, "hangup");
    s.pipe_down("gone");
    assert_eq!(s.state(line.id), ClientState::Closed);
    s.pipe_up();
    exactly(&s.control(2, line.id, "connect h!1"), [send(direct(0, 65_536, 32_768, "h", 1))]);
    exactly(
        &s.hear(Message::Close { recipient: 1 }),
        [
            failed(
                2,
                ErrorCode::NetworkDown,
                "the far side sent a close for channel 1, which is not there",
            ),
            fail("the far side sent a close for channel 1, which is not there"),
        ],
    );
}

/// An answer that the old pipe owed is not expected from the new one.
#[test]
fn answers_that_were_owed_by_the_old_pipe_are_forgotten() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "announce *!99");
    s.pipe_down("gone");
    s.pipe_up();
    exactly(
        &s.hear(Message::RequestSuccess { data: b"" }),
        [warn("an answer came to no global request")],
    );
}

/// Up twice and down twice are passed over.
#[test]
fn a_pipe_that_is_up_cannot_come_up() {
    let mut s = Bench::without_pipe(limits());
    exactly(&s.pipe_down("never was"), []);
    exactly(&s.pipe_up(), []);
    let line = s.dial();
    exactly(&s.pipe_up(), [warn("the pipe is up already")]);
    assert_eq!(s.state(line.id), ClientState::Established);
    s.pipe_down("gone");
    exactly(&s.pipe_down("gone again"), []);
    assert_eq!(s.info(line.id).last_error.as_deref(), Some("gone"));
}

/// Messages without a pipe are nobody's.
#[test]
fn a_message_without_a_pipe_is_passed_over() {
    let mut s = Bench::new();
    let line = s.dial();
    s.pipe_down("gone");
    exactly(
        &s.hear(Message::Data { recipient: line.ours, data: b"late" }),
        [warn("a message came without a pipe")],
    );
    exactly(&s.took(1 << 40), []);
    assert_eq!(s.info(line.id).unread, 0);
}

/// With time to wait, a dial is made when there is a pipe.
#[test]
fn a_dial_waits_for_a_pipe() {
    let mut s = Bench::without_pipe(Limits { dial_wait: 5_000_000, ..limits() });
    let id = s.client();
    exactly(&s.control(1, id, "connect h!7"), [sshnet_tests::peer::wake(5_000_000)]);
    assert_eq!(s.state(id), ClientState::Dialing);
    exactly(&s.pipe_up(), [send(direct(0, 65_536, 32_768, "h", 7))]);
    // It waits for no second one.
    exactly(&s.pipe_down("gone"), [told(1, ErrorCode::NetworkDown, "gone")]);
}

/// A dial that waits can be given up as any other.
#[test]
fn a_dial_that_waits_for_a_pipe_is_given_up_like_any_other() {
    let mut s = Bench::without_pipe(Limits { dial_wait: 5_000_000, ..limits() });
    let id = s.client();
    s.control(1, id, "connect h!7");
    exactly(&s.flush(1), [failed(1, ErrorCode::Interrupted, "interrupted")]);
    s.control(2, id, "connect h!7");
    s.control(3, id, "hangup");
    s.control(4, id, "connect h!7");
    exactly(&s.release(id), [failed(4, ErrorCode::HungUp, "i/o on hungup channel")]);
    exactly(&s.pipe_up(), []);
}

/// A pipe that fails and comes back serves new conversations with the same client.
#[test]
fn a_finished_client_dials_again_over_the_new_pipe() {
    let mut s = Bench::new();
    let line = s.dial();
    s.hear(Message::Data { recipient: line.ours, data: b"of the old" });
    s.pipe_down("gone");
    assert_eq!(error(&s.control(1, line.id, "connect h!1")).code, ErrorCode::NetworkDown);
    s.pipe_up();
    let line = s.redial(line.id, 9, 9);
    exactly(&s.read(2, line.id, 9), []);
    exactly(&s.hear(Message::Data { recipient: line.ours, data: b"new" }), [data(2, "new")]);
    exactly(
        &s.write(3, line.id, b"x"),
        [send(Message::Data { recipient: line.theirs, data: b"x" }), count(3, 1)],
    );
}

/// A new pipe gets as much at once as there is room for, and the rest as it takes
/// it: the peer has not had a chance to read yet.
#[test]
fn many_listeners_are_announced_again_as_the_pipe_takes_it() {
    let (mut s, _) = Bench::with_listeners(300);
    s.pipe_down("gone");
    let mut effects = s.pipe_up();
    let mut port = 0;
    while !effects.is_empty() {
        let messages = sent(&effects);
        assert!(!messages.is_empty(), "{effects:?}");
        for message in messages {
            port += 1;
            assert_eq!(message, forward("", port));
        }
        let waits = s.statistics().in_pipe;
        assert!(waits < 1_100 && (waits >= 1_000 || port == 300), "{waits} at {port}");
        effects = s.took_all();
    }
    assert_eq!(port, 300, "all are announced");
}

/// Who waits for that can do meanwhile what it could without a pipe, and a call
/// comes when it is bound.
#[test]
fn who_waits_to_be_announced_again_may_hang_up_and_listen() {
    let (mut s, listeners) = Bench::with_listeners(300);
    s.pipe_down("gone");
    let first = sent(&s.pipe_up()).len();
    let (stays, goes) = (listeners[299], listeners[298]);
    exactly(&s.listen(1, stays), []);
    exactly(&s.control(2, goes, "hangup"), [done(2)]);
    // The address that was let go is announced at once, and once.
    exactly(&s.control(3, goes, "announce *!299"), [send(forward("", 299))]);
    let busy = error(&s.control(4, listeners[0], "announce *!300")).code;
    assert_eq!(busy, ErrorCode::IsConnected);
    for _ in 0..first {
        s.hear(Message::RequestSuccess { data: b"" });
    }
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(3)]);
    let mut again = 0;
    loop {
        let effects = s.took_all();
        if effects.is_empty() {
            break;
        }
        for message in sent(&effects) {
            assert_ne!(message, forward("", 299));
            again += 1;
            s.hear(Message::RequestSuccess { data: b"" });
        }
        assert!((1..=299 - first).contains(&again), "{again} after {first}: {effects:?}");
    }
    assert_eq!(first + again, 299);
    let (taker, _) = taken(&s.hear(call(70, "", 300)));
    assert_eq!(s.state(taker), ClientState::Established);
    // A pipe that goes in the middle of that is one of many.
    s.pipe_down("gone");
    s.pipe_up();
    s.pipe_down("gone");
    assert_eq!(s.state(stays), ClientState::Listen);
}

/// So are dials that waited for a pipe: one that finds no room in time says that the
/// far side is late, for there is a pipe.
#[test]
fn many_dials_that_waited_are_made_as_the_pipe_takes_it() {
    let mut s =
        Bench::without_pipe(Limits { clients: 100, requests: 200, dial_wait: 1_000, ..tight() });
    let ids: Vec<_> = (0..60).map(|_| s.client()).collect();
    for (request, id) in ids.iter().enumerate() {
        s.control(request as u64, *id, "connect h!7");
    }
    let mut made = sent(&s.pipe_up()).len();
    assert!((10..30).contains(&made), "{made}");
    let hung_up = failed(59, ErrorCode::HungUp, "i/o on hungup channel");
    exactly(&s.control(100, ids[59], "hangup"), [hung_up, done(100)]);
    made += sent(&s.took_all()).len();
    let effects = s.advance(1_000);
    let late = "the far side did not answer in time";
    assert_eq!(completions(&effects).len(), 59 - made);
    among(&effects, failed(58, ErrorCode::TimedOut, late));
    exactly(&s.took_all(), []);
}
