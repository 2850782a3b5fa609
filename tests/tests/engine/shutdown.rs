//! `shutdown`: the end of a session, in order.

use sshnet_core::message::{Message, reason};
use sshnet_core::{ClientState, ErrorCode, Protocol};
use sshnet_tests::bench::{Bench, PACKET};
use sshnet_tests::peer::{call, cancel, completions, declined, exactly, send, told};

/// Every request ends, every channel is closed, every announcement cancelled.
#[test]
fn shutdown_ends_every_request_and_closes_every_channel() {
    let mut s = Bench::new();
    let line = s.dial_with(0, PACKET);
    s.read(1, line.id, 9);
    s.write(2, line.id, b"x");
    let listener = s.announce("*!99");
    s.hear(call(70, "", 99));
    let idle = s.announce("*!98");
    s.listen(3, idle);
    let dialing = s.client();
    let ours = s.connect(4, dialing);
    let canceled = |request| told(request, ErrorCode::Canceled, "terminated");
    exactly(
        &s.shutdown("terminated"),
        [
            send(Message::Close { recipient: line.theirs }),
            canceled(1),
            canceled(2),
            send(cancel("", 99)),
            declined(70, reason::CONNECT_FAILED, "nobody listens any more"),
            send(cancel("", 98)),
            canceled(3),
            canceled(4),
        ],
    );
    assert_eq!(s.ledger.outstanding(), []);
    assert_eq!(s.state(listener), ClientState::Closed);
    // The peer's answers are awaited, and a late one is answered.
    let effects = s.hear(Message::OpenConfirmation {
        recipient: ours,
        sender: 71,
        window: 9,
        packet: 9,
        data: b"",
    });
    exactly(&effects, [send(Message::Close { recipient: 71 })]);
    exactly(&s.hear(Message::Close { recipient: ours }), []);
    exactly(&s.hear(Message::Close { recipient: line.ours }), []);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
    assert_eq!(s.statistics().channels, 0);
}

/// Nothing new is begun.
#[test]
fn after_shutdown_every_request_is_canceled() {
    let mut s = Bench::new();
    let line = s.dial();
    s.shutdown("terminated");
    let canceled = |request| told(request, ErrorCode::Canceled, "terminated");
    exactly(&s.clone_client(1, Protocol::Tcp), [canceled(1)]);
    exactly(&s.control(2, line.id, "connect h!7"), [canceled(2)]);
    exactly(&s.read(3, line.id, 1), [canceled(3)]);
    exactly(&s.write(4, line.id, b"x"), [canceled(4)]);
    exactly(&s.listen(5, line.id), [canceled(5)]);
    exactly(&s.release(line.id), []);
    exactly(
        &s.hear(call(70, "", 99)),
        [declined(70, reason::PROHIBITED, "nothing is announced there")],
    );
}

/// The first reason is the reason.
#[test]
fn a_second_shutdown_changes_nothing() {
    let mut s = Bench::new();
    s.dial();
    assert_eq!(s.shutdown("first").len(), 1);
    exactly(&s.shutdown("second"), []);
    let effects = s.clone_client(1, Protocol::Tcp);
    assert_eq!(
        completions(&effects)[0].outcome.as_ref().map_err(|e| e.message.as_str()),
        Err("first")
    );
}

/// A pipe that goes or comes afterwards finds nothing to do.
#[test]
fn a_pipe_after_shutdown_announces_nothing() {
    let mut s = Bench::new();
    s.announce("*!99");
    s.shutdown("terminated");
    exactly(&s.pipe_down("gone"), []);
    exactly(&s.pipe_up(), []);
}
