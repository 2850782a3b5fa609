//! Channel requests and global requests: each is answered, in order (RFC 4254
//! sections 4 and 5.4).

use sshnet_core::message::{Global, Message};
use sshnet_core::{ClientState, ErrorCode};
use sshnet_tests::bench::Bench;
use sshnet_tests::peer::{cancel, done, exactly, failed, forward, send, warn};

fn global(name: &[u8], want_reply: bool) -> Message<'_> {
    Message::GlobalRequest { want_reply, request: Global::Other { name, data: b"data" } }
}

/// Duty 18: OpenSSH asks `keepalive@openssh.com` on the first open channel and
/// ends the connection of who does not answer, as sshnet.c did not (defect 11).
#[test]
fn a_channel_request_that_wants_a_reply_is_refused() {
    let mut s = Bench::new();
    let line = s.dial();
    for name in ["keepalive@openssh.com", "winadj@putty.projects.tartarus.org", "shell", ""] {
        let request = Message::Request {
            recipient: line.ours,
            name: name.as_bytes(),
            want_reply: true,
            data: b"anything",
        };
        exactly(&s.hear(request), [send(Message::Failure { recipient: line.theirs })]);
    }
}

/// Duty 18: no answer where none is wanted.
#[test]
fn a_channel_request_that_wants_no_reply_is_passed_over() {
    let mut s = Bench::new();
    let line = s.dial();
    for name in ["eow@openssh.com", "exit-status"] {
        let request = Message::Request {
            recipient: line.ours,
            name: name.as_bytes(),
            want_reply: false,
            data: b"",
        };
        exactly(&s.hear(request), []);
    }
    assert_eq!(s.state(line.id), ClientState::Established);
}

/// Duty 18: they are still answered when one or both directions have ended.
#[test]
fn channel_requests_are_answered_after_eof() {
    let mut s = Bench::new();
    let line = s.dial();
    s.control(1, line.id, "closewrite");
    s.hear(Message::Eof { recipient: line.ours });
    let request =
        Message::Request { recipient: line.ours, name: b"x", want_reply: true, data: b"" };
    exactly(&s.hear(request), [send(Message::Failure { recipient: line.theirs })]);
}

/// An answer that nobody asked for changes nothing.
#[test]
fn an_answer_to_no_channel_request_is_passed_over() {
    let mut s = Bench::new();
    let line = s.dial();
    for message in
        [Message::Success { recipient: line.ours }, Message::Failure { recipient: line.ours }]
    {
        exactly(&s.hear(message), [warn("an answer came to no channel request")]);
    }
    assert_eq!(s.state(line.id), ClientState::Established);
}

/// Duty 1: every global request that wants a reply gets one, and at once, so the
/// replies are in order. sshnet.c left them to 9front's ssh.
#[test]
fn a_global_request_that_wants_a_reply_is_refused() {
    let mut s = Bench::new();
    for name in ["keepalive@openssh.com", "no-more-sessions@openssh.com", "", "x\x1b[2J"] {
        exactly(&s.hear(global(name.as_bytes(), true)), [send(Message::RequestFailure)]);
    }
    // Those too that only a server has to know (section 7.1).
    exactly(&s.hear(forward("", 80)), [send(Message::RequestFailure)]);
    exactly(&s.hear(cancel("", 80)), [send(Message::RequestFailure)]);
}

/// Duty 1: no answer where none is wanted; OpenSSH sends its host keys so.
#[test]
fn a_global_request_that_wants_no_reply_is_passed_over() {
    let mut s = Bench::new();
    exactly(&s.hear(global(b"hostkeys-00@openssh.com", false)), []);
    exactly(&s.hear(global(b"\x1b[2J", false)), [warn("global request \\x1b[2J passed over")]);
}

/// Duty 2: our own global requests are answered in order, the first answer to
/// the first request.
#[test]
fn answers_belong_to_our_requests_in_order() {
    let mut s = Bench::new();
    let (a, b, c) = (s.client(), s.client(), s.client());
    exactly(&s.control(1, a, "announce 1001"), [send(forward("", 1_001))]);
    exactly(&s.control(2, b, "announce 1002"), [send(forward("", 1_002))]);
    exactly(&s.control(3, c, "announce 1003"), [send(forward("", 1_003))]);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(1)]);
    exactly(
        &s.hear(Message::RequestFailure),
        [failed(2, ErrorCode::AddressInUse, "the far side would not announce *!1002")],
    );
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(3)]);
}

/// Duty 2: an answer to nothing is passed over, not taken for the next one's.
#[test]
fn an_answer_to_no_global_request_is_passed_over() {
    let mut s = Bench::new();
    let warning = || warn("an answer came to no global request");
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [warning()]);
    exactly(&s.hear(Message::RequestFailure), [warning()]);
    let id = s.client();
    s.control(1, id, "announce 1001");
    assert_eq!(s.state(id), ClientState::Dialing);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(1)]);
}
