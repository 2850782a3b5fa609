//! The end of one direction: `closewrite` and EOF (RFC 4254 section 5.3).

use sshnet_core::message::Message;
use sshnet_core::{ClientState, Effect, ErrorCode};
use sshnet_tests::bench::{Bench, PACKET};
use sshnet_tests::peer::{count, data, done, error, exactly, failed, send};

/// Duty 13: EOF ends our direction and nothing else; sshnet.c never sent one
/// (defect 34).
#[test]
fn closewrite_sends_eof_and_reading_goes_on() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(
        &s.control(1, line.id, "closewrite"),
        [send(Message::Eof { recipient: line.theirs }), done(1)],
    );
    assert_eq!(s.state(line.id), ClientState::Established);
    s.hear(Message::Data { recipient: line.ours, data: b"answer" });
    exactly(&s.read(2, line.id, 100), [data(2, "answer")]);
    s.hear(Message::Eof { recipient: line.ours });
    exactly(&s.read(3, line.id, 100), [data(3, "")]);
    exactly(
        &s.hear(Message::Close { recipient: line.ours }),
        [send(Message::Close { recipient: line.theirs })],
    );
    assert_eq!(s.info(line.id).last_error, None);
}

/// Duty 13: EOF needs no window, but goes out after the data before it.
#[test]
fn eof_goes_out_after_the_writes_before_it() {
    let mut s = Bench::new();
    let line = s.dial_with(3, PACKET);
    s.write(1, line.id, b"abcdef");
    exactly(&s.control(2, line.id, "closewrite"), []);
    exactly(
        &s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 3 }),
        [
            send(Message::Data { recipient: line.theirs, data: b"def" }),
            count(1, 6),
            send(Message::Eof { recipient: line.theirs }),
            done(2),
        ],
    );
    assert_eq!(s.info(line.id).send_window, 0);
}

/// Duty 14: after EOF no more data, so a write is refused from `closewrite` on.
#[test]
fn a_write_after_closewrite_is_refused() {
    let mut s = Bench::new();
    let line = s.dial_with(3, PACKET);
    s.write(1, line.id, b"abcdef");
    s.control(2, line.id, "closewrite");
    exactly(&s.write(3, line.id, b"x"), [failed(3, ErrorCode::HungUp, "i/o on hungup channel")]);
    s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 3 });
    exactly(&s.write(4, line.id, b""), [failed(4, ErrorCode::HungUp, "i/o on hungup channel")]);
}

/// There is one EOF (duty 14).
#[test]
fn a_second_closewrite_is_refused() {
    let mut s = Bench::new();
    let line = s.dial_with(0, PACKET);
    s.write(1, line.id, b"x");
    s.control(2, line.id, "closewrite");
    let code = |effects: &[Effect]| error(effects).code;
    assert_eq!(code(&s.control(3, line.id, "closewrite")), ErrorCode::HungUp);
    s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 1 });
    assert_eq!(code(&s.control(4, line.id, "closewrite")), ErrorCode::HungUp);
}

/// Without a conversation there is no direction to end.
#[test]
fn closewrite_without_a_conversation_is_refused() {
    let mut s = Bench::new();
    let code = |effects: &[Effect]| error(effects).code;
    let id = s.client();
    assert_eq!(code(&s.control(1, id, "closewrite")), ErrorCode::NotConnected);
    let listener = s.announce("*!1");
    assert_eq!(code(&s.control(2, listener, "closewrite")), ErrorCode::NotConnected);
    s.control(3, id, "announce 7");
    assert_eq!(code(&s.control(4, id, "closewrite")), ErrorCode::NotConnected);
    let line = s.dial();
    s.hear(Message::Close { recipient: line.ours });
    assert_eq!(code(&s.control(5, line.id, "closewrite")), ErrorCode::ConnectionReset);
}

/// Both directions may end in either order; the channel is closed by the peer or
/// by `hangup`, not by the second EOF.
#[test]
fn two_eofs_leave_the_channel_to_be_closed() {
    for ours_first in [false, true] {
        let mut s = Bench::new();
        let line = s.dial();
        if ours_first {
            s.control(1, line.id, "closewrite");
            exactly(&s.hear(Message::Eof { recipient: line.ours }), []);
        } else {
            exactly(&s.hear(Message::Eof { recipient: line.ours }), []);
            s.control(1, line.id, "closewrite");
        }
        assert_eq!(s.state(line.id), ClientState::Established);
        exactly(
            &s.control(2, line.id, "hangup"),
            [send(Message::Close { recipient: line.theirs }), done(2)],
        );
    }
}

/// A second EOF says nothing new.
#[test]
fn a_second_eof_from_the_peer_changes_nothing() {
    let mut s = Bench::new();
    let line = s.dial();
    s.hear(Message::Data { recipient: line.ours, data: b"x" });
    exactly(&s.hear(Message::Eof { recipient: line.ours }), []);
    exactly(&s.hear(Message::Eof { recipient: line.ours }), []);
    exactly(&s.read(1, line.id, 9), [data(1, "x")]);
    exactly(&s.read(2, line.id, 9), [data(2, "")]);
    assert_eq!(s.state(line.id), ClientState::Established);
}

/// A `closewrite` that waits fails like a write when the far side closes.
#[test]
fn a_closewrite_that_waits_fails_when_the_far_side_closes() {
    let mut s = Bench::new();
    let line = s.dial_with(0, PACKET);
    s.write(1, line.id, b"x");
    s.control(2, line.id, "closewrite");
    exactly(
        &s.hear(Message::Close { recipient: line.ours }),
        [
            send(Message::Close { recipient: line.theirs }),
            failed(1, ErrorCode::ConnectionReset, "connection closed"),
            failed(2, ErrorCode::ConnectionReset, "connection closed"),
        ],
    );
}

/// Flushed before EOF is sent, it is as if it had not been written.
#[test]
fn a_flushed_closewrite_leaves_the_direction_open() {
    let mut s = Bench::new();
    let line = s.dial_with(0, PACKET);
    s.write(1, line.id, b"x");
    s.control(2, line.id, "closewrite");
    exactly(&s.flush(2), [failed(2, ErrorCode::Interrupted, "interrupted")]);
    s.write(3, line.id, b"y");
    exactly(
        &s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 9 }),
        [send(Message::Data { recipient: line.theirs, data: b"xy" }), count(1, 1), count(3, 1)],
    );
}

/// A write that is flushed no longer stands before the EOF behind it.
#[test]
fn flushing_the_last_write_lets_the_eof_behind_it_go() {
    let mut s = Bench::new();
    let line = s.dial_with(1, PACKET);
    s.write(1, line.id, b"xyz");
    s.control(2, line.id, "closewrite");
    exactly(&s.flush(1), [count(1, 1), send(Message::Eof { recipient: line.theirs }), done(2)]);
}
