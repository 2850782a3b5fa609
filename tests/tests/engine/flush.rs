//! `flush`: giving up on a request, and on nothing else.

use sshnet_core::message::Message;
use sshnet_core::{ClientState, ErrorCode};
use sshnet_tests::bench::{Bench, PACKET};
use sshnet_tests::peer::{among, count, data, exactly, failed, send};

/// A read that waits.
#[test]
fn a_flushed_read_takes_no_byte() {
    let mut s = Bench::new();
    let line = s.dial();
    s.read(1, line.id, 9);
    s.read(2, line.id, 9);
    exactly(&s.flush(1), [failed(1, ErrorCode::Interrupted, "interrupted")]);
    exactly(&s.hear(Message::Data { recipient: line.ours, data: b"x" }), [data(2, "x")]);
}

/// A write of which nothing is sent has had no effect.
#[test]
fn a_flushed_write_that_was_not_begun_is_never_sent() {
    let mut s = Bench::new();
    let line = s.dial_with(3, PACKET);
    s.write(1, line.id, b"abcdef");
    s.write(2, line.id, b"never");
    s.write(3, line.id, b"!");
    exactly(&s.flush(2), [failed(2, ErrorCode::Interrupted, "interrupted")]);
    exactly(
        &s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 100 }),
        [send(Message::Data { recipient: line.theirs, data: b"def!" }), count(1, 6), count(3, 1)],
    );
}

/// A write of which a part is sent says how much. sshnet.c said "interrupted",
/// and the caller sent it again (defect 8).
#[test]
fn a_flushed_write_that_is_half_sent_says_how_much_was() {
    let mut s = Bench::new();
    let line = s.dial_with(4, PACKET);
    s.write(1, line.id, b"abcdef");
    exactly(&s.flush(1), [count(1, 4)]);
    assert_eq!(s.info(line.id).unsent, 0);
    assert_eq!(s.statistics().queued, 0);
    // The next goes on from there.
    s.write(2, line.id, b"gh");
    exactly(
        &s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 100 }),
        [send(Message::Data { recipient: line.theirs, data: b"gh" }), count(2, 2)],
    );
}

/// Hanging up a half-sent write is no flush: it fails, since nobody knows what
/// of it arrives (sshnet.c lost the count there, too: defect 8).
#[test]
fn hangup_fails_a_half_sent_write() {
    let mut s = Bench::new();
    let line = s.dial_with(4, PACKET);
    s.write(1, line.id, b"abcdef");
    let effects = s.control(2, line.id, "hangup");
    among(&effects, failed(1, ErrorCode::HungUp, "i/o on hungup channel"));
}

/// What is done is done; what never was is nothing.
#[test]
fn flushing_a_request_that_is_not_outstanding_changes_nothing() {
    let mut s = Bench::new();
    let line = s.dial();
    s.write(1, line.id, b"x");
    exactly(&s.flush(1), []);
    exactly(&s.flush(99), []);
    exactly(&s.flush(0), []);
    exactly(&s.flush(u64::MAX), []);
    assert_eq!(s.state(line.id), ClientState::Established);
}

/// A control message whose later line waits is given up as a whole.
#[test]
fn flushing_a_control_message_stops_it_where_it_is() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "connect h!1\nannounce 99\n");
    exactly(&s.flush(1), [failed(1, ErrorCode::Interrupted, "interrupted")]);
    let effects = s.hear(Message::OpenConfirmation {
        recipient: 0,
        sender: 70,
        window: 9,
        packet: 9,
        data: b"",
    });
    exactly(&effects, [send(Message::Close { recipient: 70 })]);
    assert_eq!(s.state(id), ClientState::Closed);
}

/// A name is free again when its request is completed.
#[test]
fn a_requests_name_is_free_after_its_flush() {
    let mut s = Bench::new();
    let line = s.dial();
    for _ in 0..100 {
        exactly(&s.read(1, line.id, 9), []);
        exactly(&s.flush(1), [failed(1, ErrorCode::Interrupted, "interrupted")]);
    }
}
