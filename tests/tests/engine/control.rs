//! `ctl`: lines, words, and what is not one (ip(3)).

use sshnet_core::message::{Message, reason};
use sshnet_core::{ClientState, ErrorCode, TextFile};
use sshnet_tests::bench::Bench;
use sshnet_tests::peer::{
    call, declined, direct, done, error, exactly, failed, refusal, send, sent,
};
use sshnet_tests::promise::{own, said};

/// ip(3): `echo -n` and `echo` both work; blanks and tabs separate words.
#[test]
fn a_line_may_end_with_a_newline_and_hold_any_blanks() {
    for text in [
        "connect h!7",
        "connect h!7\n",
        "  connect\t h!7  \n",
        "\n\nconnect h!7\n\n",
        "connect h!7\r\n",
        "connect h!7\0",
        "\0connect h!7\n\0",
    ] {
        let mut s = Bench::new();
        let id = s.client();
        exactly(&s.control(1, id, text), [send(direct(0, 65_536, 32_768, "h", 7))]);
        assert_eq!(s.text(id, TextFile::Remote).as_deref(), Ok("h!7\n"));
    }
}

/// Nothing asked, nothing wrong.
#[test]
fn an_empty_write_is_done_at_once() {
    let mut s = Bench::new();
    let id = s.client();
    for text in ["", "\n", " \n\t\n", "\0", "\r\n"] {
        exactly(&s.control(1, id, text), [done(1)]);
    }
    assert_eq!(s.state(id), ClientState::Closed);
}

/// Each line is carried out when the one before has taken effect.
#[test]
fn lines_take_effect_one_after_the_other() {
    let mut s = Bench::new();
    let id = s.client();
    exactly(
        &s.control(1, id, "hangup\nconnect h!7\nclosewrite\nhangup\nconnect h!8\n"),
        [send(direct(0, 65_536, 32_768, "h", 7))],
    );
    let effects = s.hear(Message::OpenConfirmation {
        recipient: 0,
        sender: 9,
        window: 5,
        packet: 5,
        data: b"",
    });
    exactly(
        &effects,
        [
            send(Message::Eof { recipient: 9 }),
            send(Message::Close { recipient: 9 }),
            send(direct(1, 65_536, 32_768, "h", 8)),
        ],
    );
    let effects = s.hear(Message::OpenConfirmation {
        recipient: 1,
        sender: 10,
        window: 5,
        packet: 5,
        data: b"",
    });
    exactly(&effects, [done(1)]);
}

/// The first line that fails ends it; the ones after are not looked at.
#[test]
fn the_first_bad_line_is_the_answer() {
    let mut s = Bench::new();
    let id = s.client();
    exactly(
        &s.control(1, id, "hangup\nbogus\nconnect h!7\n"),
        [failed(1, ErrorCode::InvalidArgument, "bad or inappropriate tcp control message: bogus")],
    );
    assert_eq!(s.state(id), ClientState::Closed);

    s.control(2, id, "connect h!7\nhangup\n");
    let effects = s.hear(Message::OpenFailure {
        recipient: 0,
        reason: 2,
        description: b"Connection refused",
        language: b"",
    });
    exactly(&effects, [failed(2, ErrorCode::ConnectionRefused, "Connection refused")]);
}

/// sshnet.c's text for what makes no sense, with what it was.
#[test]
fn what_makes_no_sense_is_bad_or_inappropriate() {
    let mut s = Bench::new();
    let id = s.client();
    for (text, why) in [
        ("connect", "connect needs host!port"),
        ("announce", "announce needs address!port"),
        ("connect h", "h is not host!port"),
        ("connect h!7 8 9", "connect does not take 9"),
        ("hangup now", "hangup does not take now"),
        ("closewrite 1", "closewrite does not take 1"),
        ("CONNECT h!7", "CONNECT"),
        ("connect h!70000", "port 70000 is not in 0 to 65535"),
        ("connect h!010", "port 010 has a leading zero"),
        ("connect h!nosuch", "service nosuch is unknown"),
        ("connect !7", "the host is missing"),
        ("connect h!", "the port is missing"),
        ("connect h!0", "port 0 cannot be called"),
        ("announce 65536", "port 65536 is not in 0 to 65535"),
    ] {
        let effects = s.control(1, id, text);
        let expected = format!("bad or inappropriate tcp control message: {why}");
        exactly(&effects, [failed(1, ErrorCode::InvalidArgument, &expected)]);
        s.blames(id, &expected);
    }
}

/// Bytes that are no text, or text that would disturb a terminal, come back as
/// an error that can be shown (RFC 4251 section 9.2, duty 26).
#[test]
fn junk_is_answered_with_words_that_can_be_shown() {
    let mut s = Bench::new();
    let id = s.client();
    for text in [
        b"\xff\xfe\xfd".as_slice(),
        b"\x1b[2J",
        b"connect \x1b[2J!7",
        b"connect h!\x07",
        b"\x01\x02\x03\x04",
        b"connect h!7 \x1b]0;x\x07",
    ] {
        let effects = s.control(1, id, text);
        let told = error(&effects);
        assert_eq!(told.code, ErrorCode::InvalidArgument, "{text:?}");
        assert!(told.message.len() <= 120);
        assert!(!told.message.chars().any(char::is_control), "{}", told.message);
    }
    assert!(sent(&s.control(2, id, b"\xc3")).is_empty());
}

/// sshnet.c: a local user killed the service with one long line (defect 12).
#[test]
fn a_write_longer_than_the_limit_is_refused_whole() {
    let mut s = Bench::new();
    let id = s.client();
    let fitting = format!("connect h!7{}", "\n".repeat(256 - 11));
    let effects = s.control(1, id, &fitting);
    assert_eq!(sent(&effects).len(), 1);
    s.flush(1);
    let told = "bad or inappropriate tcp control message: the line is too long";
    exactly(&s.control(2, id, fitting + "\n"), [failed(2, ErrorCode::InvalidArgument, told)]);
    s.blames(id, told);
    let huge = vec![b'x'; 1 << 20];
    assert_eq!(error(&s.control(3, id, huge)).code, ErrorCode::InvalidArgument);
}

/// A word of any length comes back within the 120 bytes of an error.
#[test]
fn an_error_about_a_long_word_is_cut() {
    let mut s = Bench::new();
    let id = s.client();
    let effects = s.control(1, id, "x".repeat(256));
    let start = "bad or inappropriate tcp control message: ";
    let told = own(&format!("{start}{}", "x".repeat(120 - start.len())));
    assert!(said(&error(&effects).message, &told));
}

/// `hangup` means the same whatever the client does, and is never an error.
#[test]
fn hangup_is_no_error_in_any_state() {
    let mut s = Bench::new();
    let closed = s.client();
    exactly(&s.control(1, closed, "hangup"), [done(1)]);
    let line = s.dial();
    exactly(
        &s.control(2, line.id, "hangup"),
        [send(Message::Close { recipient: line.theirs }), done(2)],
    );
    assert_eq!(s.state(line.id), ClientState::Teardown);
    exactly(&s.control(3, line.id, "hangup"), [done(3)]);
    assert_eq!(s.state(line.id), ClientState::Teardown);
}

/// ip(3)'s and dial(2)'s messages that have no meaning over ssh do no harm.
#[test]
fn messages_without_meaning_here_are_taken_and_change_nothing() {
    let mut s = Bench::new();
    let id = s.client();
    for text in ["accept 3", "keepalive", "keepalive 5000\n", "accept"] {
        exactly(&s.control(1, id, text), [done(1)]);
        assert_eq!(s.state(id), ClientState::Closed);
    }
    for (text, why) in [
        ("keepalive often", "keepalive takes milliseconds"),
        ("bind 7000", "the far side picks the local address"),
        ("reject", "there is nothing to reject"),
        ("connect h!7 70000", "port 70000 is not in 0 to 65535"),
    ] {
        let expected = format!("bad or inappropriate tcp control message: {why}");
        let effects = s.control(1, id, text);
        exactly(&effects, [failed(1, ErrorCode::InvalidArgument, &expected)]);
    }
}

/// `connect host!port!r localport` (ip(3)) dials; where it calls from is for the
/// far side to pick (sshnet.c refused it: defect 35).
#[test]
fn a_local_port_behind_connect_is_accepted() {
    for text in ["connect h!7 8000", "connect h!7!r", "connect h!7!r 0"] {
        let mut s = Bench::new();
        let id = s.client();
        s.control(1, id, text);
        assert_eq!(s.state(id), ClientState::Dialing, "{text}");
        assert_eq!(s.info(id).remote, "h!7");
    }
}

/// `reject` on an announced client refuses the call that waits longest, with the
/// reason given; it was never confirmed.
#[test]
fn reject_refuses_the_call_that_waits_longest() {
    let mut s = Bench::new();
    let id = s.announce("*!99");
    s.hear(call(70, "", 99));
    s.hear(call(71, "", 99));
    s.hear(call(72, "", 99));
    let why = "not today";
    let effects = s.control(1, id, "reject 0 not today");
    exactly(&effects, [send(refusal(70, reason::CONNECT_FAILED, why)), done(1)]);
    let effects = s.control(1, id, "reject");
    exactly(&effects, [declined(71, reason::CONNECT_FAILED, "rejected"), done(1)]);
    assert_eq!(s.info(id).calls, 1);
    s.control(1, id, "reject");
    let effects = s.control(1, id, "reject");
    let expected = "bad or inappropriate tcp control message: no call waits";
    exactly(&effects, [failed(1, ErrorCode::InvalidArgument, expected)]);
    assert_eq!(s.state(id), ClientState::Listen);
}

/// `reject` on a call that was taken ends it.
#[test]
fn reject_ends_a_call_that_was_taken() {
    let mut s = Bench::new();
    let line = s.dial();
    let effects = s.control(9, line.id, "reject 1 no");
    exactly(&effects, [send(Message::Close { recipient: line.theirs }), done(9)]);
    assert_eq!(s.state(line.id), ClientState::Teardown);
}
