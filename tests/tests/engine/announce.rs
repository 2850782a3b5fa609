//! `announce`: ports at the far side, bound and let go (RFC 4254 section 7.1).

use sshnet_core::message::{Global, Message, reason};
use sshnet_core::{ClientState, ErrorCode, Limits, Protocol, TextFile};
use sshnet_tests::bench::{Bench, limits};
use sshnet_tests::peer::{
    among, call, cancel, declined, done, error, exactly, failed, forward, send, sent,
};

/// What an address is refused with of which the far side has yet to say whether it
/// is bound.
const ASKED: &str = "the far side was asked for the address and has not answered";

/// Duty 21: a reply is wanted, and `announce` is done when it has come. sshnet.c
/// wanted none and reported a busy port as announced (defect 20).
#[test]
fn an_announcement_is_done_when_the_far_side_has_bound_the_port() {
    let mut s = Bench::new();
    let id = s.client();
    exactly(&s.control(1, id, "announce *!8080"), [send(forward("", 8_080))]);
    assert_eq!(s.state(id), ClientState::Dialing);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(1)]);
    assert_eq!(s.state(id), ClientState::Listen);
    assert_eq!(s.text(id, TextFile::Local).as_deref(), Ok("*!8080\n"));
}

/// A busy or forbidden port is an error; sshnet.c counted it as made (defect 20).
#[test]
fn an_announcement_that_the_far_side_refuses_fails() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "announce 127.0.0.1!80");
    let told = "the far side would not announce 127.0.0.1!80";
    exactly(&s.hear(Message::RequestFailure), [failed(1, ErrorCode::AddressInUse, told)]);
    assert_eq!(s.state(id), ClientState::Closed);
    s.blames(id, told);
    // The address is free for another try.
    exactly(&s.control(2, id, "announce 127.0.0.1!80"), [send(forward("127.0.0.1", 80))]);
}

/// Duty 22: the addresses of RFC 4254 go over the wire as they are; `*` and none
/// are all of them (defect 35).
#[test]
fn an_address_goes_over_the_wire_as_it_was_given() {
    for (text, address, port) in [
        ("*!7", "", 7),
        ("7", "", 7),
        ("echo", "", 7),
        ("0.0.0.0!7", "0.0.0.0", 7),
        ("::!7", "::", 7),
        ("localhost!ssh", "localhost", 22),
        ("127.0.0.1!65535", "127.0.0.1", 65_535),
        ("::1!1", "::1", 1),
        ("*!0", "", 0),
    ] {
        let mut s = Bench::new();
        let id = s.client();
        exactly(&s.control(1, id, format!("announce {text}")), [send(forward(address, port))]);
    }
}

/// Duty 21: for port 0 the reply has the port, which `local` then shows. In
/// sshnet.c no call ever matched it (defect 20).
#[test]
fn port_0_is_announced_as_the_port_that_was_bound() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "announce *!0");
    exactly(&s.hear(Message::RequestSuccess { data: &40_000_u32.to_be_bytes() }), [done(1)]);
    assert_eq!(s.text(id, TextFile::Local).as_deref(), Ok("*!40000\n"));
    s.accept(id, "", 40_000);
    exactly(&s.control(2, id, "hangup"), [send(cancel("", 40_000)), done(2)]);
}

/// A reply without a sound port is no announcement (duty 21).
#[test]
fn port_0_without_a_port_in_the_reply_fails() {
    for data in [b"".as_slice(), b"\0\0\0", &[0, 0, 0, 0], &[0, 1, 0, 0], &[0xff, 0xff, 0xff, 0xff]]
    {
        let mut s = Bench::new();
        let id = s.client();
        s.control(1, id, "announce *!0");
        let effects = s.hear(Message::RequestSuccess { data });
        exactly(
            &effects,
            [failed(1, ErrorCode::Other, "the far side did not say which port it bound")],
        );
        assert_eq!(s.state(id), ClientState::Closed);
    }
}

/// Several may ask for port 0 at once; each gets its own.
#[test]
fn port_0_is_never_announced_already() {
    let mut s = Bench::new();
    let (a, b) = (s.client(), s.client());
    s.control(1, a, "announce *!0");
    exactly(&s.control(2, b, "announce *!0"), [send(forward("", 0))]);
    exactly(&s.hear(Message::RequestSuccess { data: &40_000_u32.to_be_bytes() }), [done(1)]);
    exactly(&s.hear(Message::RequestSuccess { data: &40_001_u32.to_be_bytes() }), [done(2)]);
    let line = s.accept(b, "", 40_001);
    assert_eq!(s.text(line.id, TextFile::Local).as_deref(), Ok("*!40001\n"));
}

/// One address is announced once. sshnet.c let a second client announce it, and
/// closing one ended both (defect 18).
#[test]
fn an_address_that_is_announced_already_is_refused_here() {
    let mut s = Bench::new();
    s.announce("*!99");
    let id = s.client();
    let told = "the address is announced already";
    exactly(&s.control(1, id, "announce 99"), [failed(1, ErrorCode::AddressInUse, told)]);
    // While it is only asked for, too.
    s.control(2, id, "announce *!98");
    let other = s.client();
    exactly(&s.control(3, other, "announce *!98"), [failed(3, ErrorCode::AddressInUse, ASKED)]);
    // Another address of the same port is another address.
    exactly(&s.control(4, other, "announce ::1!99"), [send(forward("::1", 99))]);
}

/// Duty 23: the announcement is cancelled with the address it was made with and
/// the port that was bound; then the address is free again.
#[test]
fn hangup_cancels_exactly_what_was_announced() {
    let mut s = Bench::new();
    let a = s.announce("127.0.0.1!99");
    let b = s.announce("localhost!99");
    exactly(&s.control(1, a, "hangup"), [send(cancel("127.0.0.1", 99)), done(1)]);
    assert_eq!(s.state(a), ClientState::Closed);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
    exactly(&s.release(b), [send(cancel("localhost", 99))]);
    exactly(&s.control(2, a, "announce localhost!99"), [send(forward("localhost", 99))]);
}

/// Duty 6: two clients on one port and two addresses each get their own calls.
/// sshnet.c looked at the port alone (defect 18).
#[test]
fn a_call_goes_to_the_client_that_announced_its_address() {
    let mut s = Bench::new();
    let a = s.announce("192.0.2.1!99");
    let b = s.announce("192.0.2.2!99");
    s.hear(call(70, "192.0.2.2", 99));
    assert_eq!((s.info(a).calls, s.info(b).calls), (0, 1));
    s.hear(call(71, "192.0.2.1", 99));
    assert_eq!((s.info(a).calls, s.info(b).calls), (1, 1));
}

/// Duties 6, 22: servers name the address that was asked for or the one that was
/// called; where only one client can be meant, it is.
#[test]
fn an_address_spelled_otherwise_goes_to_the_only_one_that_it_can_mean() {
    for (announced, called) in [
        ("*!99", ""),
        ("*!99", "0.0.0.0"),
        ("*!99", "::"),
        ("*!99", "192.0.2.1"),
        ("0.0.0.0!99", ""),
        ("0.0.0.0!99", "192.0.2.1"),
        ("::!99", "2001:db8::1"),
        ("localhost!99", "127.0.0.1"),
        ("localhost!99", "::1"),
        ("127.0.0.1!99", "localhost"),
        ("127.0.0.1!99", ""),
    ] {
        let mut s = Bench::new();
        let id = s.announce(announced);
        exactly(&s.hear(call(70, called, 99)), []);
        assert_eq!(s.info(id).calls, 1, "{announced} called as {called}");
    }
}

/// Duty 6: what was not announced MUST be refused.
#[test]
fn a_call_to_an_address_that_is_not_announced_is_refused() {
    let refused = |recipient| declined(recipient, reason::PROHIBITED, "nothing is announced there");
    let mut s = Bench::new();
    exactly(&s.hear(call(70, "", 99)), [refused(70)]);
    s.announce("127.0.0.1!99");
    exactly(&s.hear(call(71, "127.0.0.1", 98)), [refused(71)]);
    exactly(&s.hear(call(72, "192.0.2.1", 99)), [refused(72)]);
    exactly(&s.hear(call(73, "127.0.0.1", 99 + 65_536)), [refused(73)]);
    exactly(&s.hear(call(74, "\u{fffd}", 99)), [refused(74)]);
    // Where it could mean two, it means none.
    s.announce("::1!99");
    exactly(&s.hear(call(75, "localhost", 99)), [refused(75)]);
    exactly(&s.hear(call(76, "", 99)), [refused(76)]);
    assert_eq!(s.statistics().calls_refused, 7);
}

/// Section 7.1 (duty 6): calls may still come in until the cancel is answered;
/// nobody takes them.
#[test]
fn a_call_after_the_cancel_is_refused() {
    let mut s = Bench::new();
    let id = s.announce("*!99");
    s.control(1, id, "hangup");
    exactly(
        &s.hear(call(70, "", 99)),
        [declined(70, reason::PROHIBITED, "nothing is announced there")],
    );
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
}

/// An announcement that was given up while the far side thought is cancelled when
/// it answers.
#[test]
fn an_announcement_that_was_given_up_is_cancelled_when_it_is_bound() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "announce *!99");
    exactly(&s.flush(1), [failed(1, ErrorCode::Interrupted, "interrupted")]);
    assert_eq!(s.state(id), ClientState::Closed);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [send(cancel("", 99))]);
    // For port 0 it is the port of the answer.
    s.control(2, id, "announce *!0");
    s.control(3, id, "hangup");
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
    exactly(
        &s.hear(Message::RequestSuccess { data: &4_000_u32.to_be_bytes() }),
        [send(cancel("", 4_000))],
    );
    // One that was refused needs no cancel.
    s.hear(Message::RequestSuccess { data: b"" });
    s.control(4, id, "announce *!98");
    s.release(id);
    exactly(&s.hear(Message::RequestFailure), []);
}

/// The address of one that was given up is another's only when the far side has
/// let go of it: else the cancel would end the new announcement (defect 18).
#[test]
fn a_cancel_never_ends_a_later_announcement_of_the_same_address() {
    let mut s = Bench::new();
    let (a, b) = (s.client(), s.client());
    s.control(1, a, "announce *!99");
    s.flush(1);
    exactly(&s.control(2, b, "announce *!99"), [failed(2, ErrorCode::AddressInUse, ASKED)]);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [send(cancel("", 99))]);
    // Asked for behind the cancel, whose answer is not taken for its own.
    exactly(&s.control(3, b, "announce *!99"), [send(forward("", 99))]);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
    assert_eq!(s.state(b), ClientState::Dialing);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(3)]);
    // Nor does the end of who gave it up.
    exactly(&s.release(a), []);
    s.accept(b, "", 99);
}

/// A `hangup` in each state of an announcement ends it; sshnet.c refused it
/// (defects 19, 23).
#[test]
fn hangup_ends_an_announcement_and_those_who_listen() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "announce *!99");
    exactly(
        &s.control(2, id, "hangup"),
        [failed(1, ErrorCode::HungUp, "i/o on hungup channel"), done(2)],
    );
    s.hear(Message::RequestFailure);
    let id = s.announce("*!99");
    s.listen(3, id);
    s.listen(4, id);
    exactly(
        &s.control(5, id, "hangup"),
        [
            send(cancel("", 99)),
            failed(3, ErrorCode::HungUp, "i/o on hungup channel"),
            failed(4, ErrorCode::HungUp, "i/o on hungup channel"),
            done(5),
        ],
    );
}

/// The number of a listener that is gone is reused by one that has nothing to do
/// with those who listened. In sshnet.c the next dial's confirmation answered
/// the old listen (defect 19).
#[test]
fn who_listened_is_answered_before_the_number_is_used_again() {
    let mut s = Bench::new();
    let id = s.announce("*!99");
    s.listen(1, id);
    exactly(
        &s.release(id),
        [send(cancel("", 99)), failed(1, ErrorCode::HungUp, "i/o on hungup channel")],
    );
    let line = s.dial();
    assert_eq!(line.id.number, id.number);
    assert_eq!(s.ledger.outstanding(), []);
}

/// Without a pipe nothing can be bound.
#[test]
fn announce_without_a_pipe_fails_with_network_down() {
    let mut s = Bench::without_pipe(limits());
    let id = s.client();
    assert_eq!(error(&s.control(1, id, "announce 1")).code, ErrorCode::NetworkDown);
    assert_eq!(s.state(id), ClientState::Closed);
}

/// OpenSSH PROTOCOL section 2.4: Unix sockets at the far side.
#[test]
fn a_unix_client_announces_a_path() {
    let mut s = Bench::new();
    let id = s.client_of(Protocol::Unix);
    let streamlocal = |cancel| Message::GlobalRequest {
        want_reply: true,
        request: match cancel {
            false => Global::StreamlocalForward { path: b"/run/s" },
            true => Global::CancelStreamlocalForward { path: b"/run/s" },
        },
    };
    exactly(&s.control(1, id, "announce /run/s"), [send(streamlocal(false))]);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(1)]);
    s.listen(2, id);
    let kind = sshnet_core::message::Open::ForwardedStreamlocal { path: b"/run/s" };
    let effects = s.hear(Message::Open { sender: 70, window: 9, packet: 9, kind });
    let (taker, _) = sshnet_tests::bench::taken(&effects);
    assert_eq!(s.info(taker).protocol, Protocol::Unix);
    assert_eq!(s.text(taker, TextFile::Local).as_deref(), Ok("/run/s\n"));
    let kind = sshnet_core::message::Open::ForwardedStreamlocal { path: b"/run/other" };
    exactly(
        &s.hear(Message::Open { sender: 71, window: 9, packet: 9, kind }),
        [declined(71, reason::PROHIBITED, "nothing is announced there")],
    );
    exactly(&s.control(3, id, "hangup"), [send(streamlocal(true)), done(3)]);
}

/// A path is bytes at the far side: one that is not UTF-8 is not the path that looks
/// like it here, and nobody can have announced it.
#[test]
fn a_call_to_a_path_that_is_not_utf_8_is_refused() {
    let mut s = Bench::new();
    let id = s.client_of(Protocol::Unix);
    s.control(1, id, "announce /run/\u{fffd}");
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(1)]);
    let kind = sshnet_core::message::Open::ForwardedStreamlocal { path: b"/run/\xff" };
    exactly(
        &s.hear(Message::Open { sender: 70, window: 9, packet: 9, kind }),
        [declined(70, reason::PROHIBITED, "nothing is announced there")],
    );
}

/// The port that the far side picks may be one that a client has announced: that
/// cannot be.
#[test]
fn a_port_that_is_picked_twice_fails_the_second_announcement() {
    let mut s = Bench::new();
    s.announce("*!40000");
    let id = s.client();
    s.control(1, id, "announce *!0");
    let bound = 40_000_u32.to_be_bytes();
    let effects = s.hear(Message::RequestSuccess { data: &bound });
    let told = "the far side bound *!40000 twice";
    among(&effects, failed(1, ErrorCode::Other, told));
    assert_eq!(s.state(id), ClientState::Closed);
}

/// Unless that client has it no more: on this pipe the far side refused it.
#[test]
fn a_port_that_was_refused_to_one_client_may_be_picked_for_another() {
    let mut s = Bench::new();
    s.announce("*!40000");
    s.pipe_down("gone");
    s.pipe_up();
    s.hear(Message::RequestFailure);
    let id = s.client();
    s.control(1, id, "announce *!0");
    let bound = 40_000_u32.to_be_bytes();
    exactly(&s.hear(Message::RequestSuccess { data: &bound }), [done(1)]);
    assert_eq!(s.state(id), ClientState::Listen);
}

/// The answer to an announcement that was given up is not one to the next of the
/// same client.
#[test]
fn an_answer_to_what_was_given_up_is_none_to_what_came_next() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "announce *!98");
    s.control(2, id, "hangup");
    s.control(3, id, "announce *!99");
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [send(cancel("", 98))]);
    assert_eq!(s.ledger.outstanding(), [3]);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [done(3)]);
}

/// Who is busy is told that, also where the address is taken.
#[test]
fn a_client_in_use_is_told_so_whatever_it_announces() {
    let mut s = Bench::new();
    let listening = s.announce("*!98");
    let dialing = s.client();
    s.connect(1, dialing);
    let talking = s.dial().id;
    for id in [listening, dialing, talking] {
        let effects = s.control(2, id, "announce *!98");
        exactly(&effects, [failed(2, ErrorCode::IsConnected, "the client is in use")]);
    }
}

/// On the next pipe both ask for it. The first that the far side gives it to takes
/// the calls.
#[test]
fn of_two_who_ask_again_for_one_address_the_first_that_gets_it_has_it() {
    let mut s = Bench::new();
    let first = s.announce("*!40000");
    s.pipe_down("gone");
    s.pipe_up();
    s.hear(Message::RequestFailure);
    let second = s.client();
    s.control(1, second, "announce *!0");
    s.hear(Message::RequestSuccess { data: &40_000_u32.to_be_bytes() });
    s.pipe_down("gone");
    s.pipe_up();
    s.listen(2, first);
    s.listen(3, second);
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), []);
    let effects = s.hear(call(70, "", 40_000));
    assert!(s.ledger.outstanding() == [3], "{effects:?}");
    let told = "the far side bound *!40000 twice";
    exactly(&s.hear(Message::RequestSuccess { data: b"" }), [failed(3, ErrorCode::Other, told)]);
    s.blames(second, told);
}

/// An address that was asked for in vain belongs to nobody here, and yet it cannot
/// be asked for again before the far side has answered: what it then binds is let
/// go, and must not be another's by that time. The error says which of both it is.
#[test]
fn an_address_that_was_given_up_is_free_when_the_far_side_has_answered() {
    for bound in [false, true] {
        for late in [false, true] {
            let mut s = Bench::with(Limits { dial_time: 1_000, ..limits() });
            let id = s.client();
            s.control(1, id, "announce *!99");
            if late {
                s.advance(1_000);
            } else {
                s.flush(1);
            }
            for who in [id, s.client()] {
                let effects = s.control(2, who, "announce *!99");
                exactly(&effects, [failed(2, ErrorCode::AddressInUse, ASKED)]);
            }
            if bound {
                let effects = s.hear(Message::RequestSuccess { data: b"" });
                exactly(&effects, [send(cancel("", 99))]);
            } else {
                exactly(&s.hear(Message::RequestFailure), []);
            }
            assert_eq!(sent(&s.control(3, id, "announce *!99")), [forward("", 99)]);
        }
    }
}

/// What was asked for on a pipe that is gone is owed by nobody.
#[test]
fn an_address_that_was_asked_for_on_an_earlier_pipe_is_free() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "announce *!99");
    s.pipe_down("gone");
    s.pipe_up();
    exactly(&s.control(2, id, "announce *!99"), [send(forward("", 99))]);
}
