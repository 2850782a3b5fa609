//! The end of a channel: CLOSE both ways, from every state (RFC 4254 section 5.3).

use sshnet_core::message::Message;
use sshnet_core::{ClientState, ErrorCode};
use sshnet_tests::bench::{Bench, PACKET};
use sshnet_tests::peer::{count, data, done, exactly, fail, failed, send, sent};

/// Duty 15: CLOSE is answered at once. sshnet.c answered when the last file was
/// closed, perhaps never (defect 27).
#[test]
fn close_is_answered_at_once_though_files_are_open() {
    let mut s = Bench::new();
    let line = s.dial();
    s.retain(line.id).expect("it is there");
    exactly(
        &s.hear(Message::Close { recipient: line.ours }),
        [send(Message::Close { recipient: line.theirs })],
    );
    assert_eq!(s.statistics().channels, 0);
    assert_eq!(s.info(line.id).references, 2);
}

/// Duties 15, 16: one CLOSE from each side, in either order, and none after it.
#[test]
fn each_side_closes_once() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(
        &s.control(1, line.id, "hangup"),
        [send(Message::Close { recipient: line.theirs }), done(1)],
    );
    assert_eq!(s.statistics().channels, 1);
    exactly(&s.hear(Message::Close { recipient: line.ours }), []);
    assert_eq!(s.state(line.id), ClientState::Closed);
    assert_eq!(s.statistics().channels, 0);
    exactly(&s.release(line.id), []);
}

/// Both sides may close at once: the two CLOSEs cross (duty 15).
#[test]
fn closes_that_cross_are_both_answers() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(&s.release(line.id), [send(Message::Close { recipient: line.theirs })]);
    exactly(&s.hear(Message::Close { recipient: line.ours }), []);
    assert_eq!(s.statistics().channels, 0);
}

/// Duty 15: the number is free only when both have closed. sshnet.c freed it
/// with the client (defects 4, 26).
#[test]
fn a_channel_number_is_free_after_both_closes() {
    let mut s = Bench::new();
    let line = s.dial();
    s.release(line.id);
    let next = s.dial();
    assert_eq!(next.id.number, line.id.number, "the client's number is free");
    assert_ne!(next.ours, line.ours, "the channel's is not");
    s.hear(Message::Close { recipient: line.ours });
    let third = s.dial();
    assert_eq!(third.ours, line.ours);
}

/// A second CLOSE is for a channel that is not there (duty 20).
#[test]
fn a_second_close_fails_the_session() {
    let mut s = Bench::new();
    let line = s.dial();
    s.hear(Message::Close { recipient: line.ours });
    exactly(
        &s.hear(Message::Close { recipient: line.ours }),
        [fail("the far side sent a close for channel 0, which is not there")],
    );
}

/// The last reference ends a conversation, whatever waits.
#[test]
fn the_last_release_closes_the_conversation_and_ends_its_requests() {
    let mut s = Bench::new();
    let line = s.dial_with(0, PACKET);
    s.read(1, line.id, 9);
    s.write(2, line.id, b"x");
    s.control(3, line.id, "closewrite");
    exactly(
        &s.release(line.id),
        [
            send(Message::Close { recipient: line.theirs }),
            failed(1, ErrorCode::HungUp, "i/o on hungup channel"),
            failed(2, ErrorCode::HungUp, "i/o on hungup channel"),
            failed(3, ErrorCode::HungUp, "i/o on hungup channel"),
        ],
    );
    assert_eq!(s.lookup(line.id.number), None);
    assert_eq!(s.statistics().queued, 0);
    assert_eq!(s.statistics().windows, 0);
}

/// The last reference gives a dial up; its confirmation is closed (duty 19).
#[test]
fn the_last_release_gives_a_dial_up() {
    let mut s = Bench::new();
    let id = s.client();
    let ours = s.connect(1, id);
    exactly(&s.release(id), [failed(1, ErrorCode::HungUp, "i/o on hungup channel")]);
    assert_eq!(s.lookup(0), None);
    let effects = s.hear(Message::OpenConfirmation {
        recipient: ours,
        sender: 70,
        window: 9,
        packet: 9,
        data: b"",
    });
    exactly(&effects, [send(Message::Close { recipient: 70 })]);
    exactly(&s.hear(Message::Close { recipient: ours }), []);
    assert_eq!(s.statistics().channels, 0);
}

/// A client that was hung up is free for anything else at once, and its old
/// channel is closed behind its back.
#[test]
fn a_hung_up_client_announces_before_the_peers_close() {
    let mut s = Bench::new();
    let line = s.dial();
    s.control(1, line.id, "hangup");
    s.control(2, line.id, "announce 99");
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(2)]);
    exactly(&s.hear(Message::Close { recipient: line.ours }), []);
    assert_eq!(s.state(line.id), ClientState::Listen);
}

/// What the far side ended can be hung up to drop what was not read.
#[test]
fn hangup_on_a_finished_conversation_drops_what_was_not_read() {
    let mut s = Bench::new();
    let line = s.dial();
    s.hear(Message::Data { recipient: line.ours, data: b"unread" });
    s.hear(Message::Close { recipient: line.ours });
    exactly(&s.control(1, line.id, "hangup"), [done(1)]);
    assert_eq!(s.state(line.id), ClientState::Closed);
    assert_eq!(s.statistics().windows, 0);
}

/// Duty 18: after our CLOSE a request of the peer's is not answered (duty 16).
#[test]
fn after_our_close_nothing_is_answered() {
    let mut s = Bench::new();
    let line = s.dial();
    s.control(1, line.id, "hangup");
    for message in [
        Message::Data { recipient: line.ours, data: b"x" },
        Message::ExtendedData { recipient: line.ours, code: 1, data: b"x" },
        Message::WindowAdjust { recipient: line.ours, bytes: 1 },
        Message::Eof { recipient: line.ours },
        Message::Request { recipient: line.ours, name: b"x", want_reply: true, data: b"" },
        Message::Success { recipient: line.ours },
        Message::Failure { recipient: line.ours },
    ] {
        exactly(&s.hear(message), []);
    }
    exactly(&s.hear(Message::Close { recipient: line.ours }), []);
}

/// Duty 17: writes that were answered have been sent before the CLOSE.
#[test]
fn a_write_that_was_answered_goes_out_before_close() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(
        &s.write(1, line.id, b"x"),
        [send(Message::Data { recipient: line.theirs, data: b"x" }), count(1, 1)],
    );
    assert_eq!(sent(&s.release(line.id)), [Message::Close { recipient: line.theirs }]);
}

/// A peer that never closes holds a channel number, but not the client (defect
/// 26); the session goes on.
#[test]
fn a_peer_that_never_closes_holds_no_client() {
    let mut s = Bench::new();
    for _ in 0..5 {
        let line = s.dial();
        s.release(line.id);
    }
    assert_eq!(s.statistics().channels, 5);
    assert_eq!(s.statistics().clients, 0);
    let line = s.dial();
    s.hear(Message::Data { recipient: line.ours, data: b"x" });
    exactly(&s.read(1, line.id, 9), [data(1, "x")]);
}
