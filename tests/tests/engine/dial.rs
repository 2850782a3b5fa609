//! `connect`: from the line in `ctl` to the far side's answer.

use sshnet_core::message::{Message, Open, reason};
use sshnet_core::{ClientState, ErrorCode, Protocol, TextFile};
use sshnet_tests::bench::{Bench, limits};
use sshnet_tests::peer::{direct, done, error, exactly, fail, failed, send, sent, told, warn};
use sshnet_tests::promise::{begins, ends, own, said};

fn confirmation(recipient: u32, window: u32, packet: u32) -> Message<'static> {
    Message::OpenConfirmation { recipient, sender: 70, window, packet, data: b"" }
}

fn failure(recipient: u32, reason: u32, description: &[u8]) -> Message<'_> {
    Message::OpenFailure { recipient, reason, description, language: b"" }
}

/// RFC 4254 section 7.2: the open names the host as the user does, and the
/// originator as a numeric address (duty 24). No `session` is opened first
/// (duty 28; sshnet.c: a session channel that it never used, defect 30).
#[test]
fn a_dial_is_one_direct_tcpip_open_and_completes_when_confirmed() {
    let mut s = Bench::new();
    let id = s.client();
    let effects = s.control(1, id, "connect example.net!7");
    exactly(&effects, [send(direct(0, 65_536, 32_768, "example.net", 7))]);
    assert_eq!(s.state(id), ClientState::Dialing);
    exactly(&s.hear(confirmation(0, 1_000, 500)), [done(1)]);
    assert_eq!(s.state(id), ClientState::Established);
    assert_eq!(s.info(id).send_window, 1_000);
    assert_eq!(s.statistics().dials, 1);
}

/// RFC 4254 section 5.1 (duty 5): each reason is an error of its own; the text
/// is the far side's. sshnet.c dropped the code (defect 40).
#[test]
fn a_refusal_is_told_in_the_far_sides_own_words() {
    let cases = [
        (reason::PROHIBITED, "administratively prohibited", ErrorCode::AccessDenied),
        (reason::CONNECT_FAILED, "Connection refused", ErrorCode::ConnectionRefused),
        (reason::CONNECT_FAILED, "Name or service not known", ErrorCode::ConnectionRefused),
        (reason::UNKNOWN_TYPE, "no such type", ErrorCode::NotSupported),
        (reason::RESOURCE_SHORTAGE, "out of channels", ErrorCode::ResourceExhausted),
        (0, "zero", ErrorCode::Other),
        (0xfe00_0000, "private use", ErrorCode::Other),
    ];
    for (code, words, expected) in cases {
        let mut s = Bench::new();
        let id = s.client();
        let ours = s.connect(1, id);
        exactly(&s.hear(failure(ours, code, words.as_bytes())), [told(1, expected, words)]);
        assert_eq!(s.state(id), ClientState::Closed);
        assert_eq!(s.info(id).last_error.as_deref(), Some(words));
        assert_eq!(s.statistics().dials_failed, 1);
        assert_eq!(s.statistics().channels, 0);
    }
}

/// Where the far side has no words, or OpenSSH's "open failed", the reason code
/// speaks (duty 5, defect 40).
#[test]
fn a_refusal_without_words_is_told_by_its_reason() {
    let cases: [(u32, &[u8], &str); 6] = [
        (1, b"", "administratively prohibited"),
        (2, b"", "connect failed"),
        (3, b"", "unknown channel type"),
        (4, b"", "resource shortage"),
        (1, b"open failed", "administratively prohibited: open failed"),
        (77, b"", "refused by the far side"),
    ];
    for (code, words, expected) in cases {
        let mut s = Bench::new();
        let id = s.client();
        let ours = s.connect(1, id);
        let effects = s.hear(failure(ours, code, words));
        let told = &error(&effects).message;
        assert!(said(told, &own(expected)), "{told}");
    }
}

/// RFC 4251 section 9.2 (duty 26): what the far side says is made fit for a
/// terminal and for 9P's 127 bytes. sshnet.c handed it on raw (defect 40).
#[test]
fn a_refusals_words_are_escaped_and_cut_to_120_bytes() {
    let mut s = Bench::new();
    let id = s.client();
    let ours = s.connect(1, id);
    let effects = s.hear(failure(ours, 2, b"\x1b]0;owned\x07\r\n\xff\x9b ok \xc2\x85"));
    let shown = &error(&effects).message;
    assert_eq!(shown, "\\x1b]0;owned\\x07\\x0d\\x0a\\xff\\x9b ok \\x85");

    // Cut between characters, never within one or within an escape.
    for (words, length) in
        [("x".repeat(300), 120), ("\u{20ac}".repeat(100), 120), ("\u{7}".repeat(99), 120)]
    {
        let ours = s.connect(2, id);
        let effects = s.hear(failure(ours, 2, words.as_bytes()));
        assert_eq!(error(&effects).message.len(), length, "{words:.9}");
    }
    let words = [b"y".repeat(118), b"\x1b[2J".to_vec()].concat();
    let ours = s.connect(3, id);
    assert_eq!(error(&s.hear(failure(ours, 2, &words))).message, "y".repeat(118));
}

/// Text that reverses what is shown after it, that ends a line in some programs, or
/// that cannot be seen is escaped as well (duty 26).
#[test]
fn a_refusal_cannot_turn_the_text_around_nor_hide_it() {
    let mut s = Bench::new();
    let id = s.client();
    for (words, told) in [
        ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
        ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
        ("a\u{61c}b\u{200b}c\u{200d}d", "a\\u{61c}b\\u{200b}c\\u{200d}d"),
        ("a\u{2060}b\u{feff}c\u{ad}d", "a\\u{2060}b\\u{feff}c\\xadd"),
        // What these stand beside is text.
        ("\u{200a}\u{2010}\u{2027}\u{202f}\u{2070}", "\u{200a}\u{2010}\u{2027}\u{202f}\u{2070}"),
    ] {
        let ours = s.connect(1, id);
        let effects = s.hear(failure(ours, 2, words.as_bytes()));
        assert_eq!(error(&effects).message, told);
        assert_eq!(s.status(id).lines().last(), Some(told));
    }
}

/// The error stays in `status` until the next `connect`; 9P2000.L and FUSE can
/// carry only its number.
#[test]
fn the_last_error_is_kept_until_the_next_connect() {
    let mut s = Bench::new();
    let id = s.client();
    let ours = s.connect(1, id);
    s.hear(failure(ours, 2, b"Connection refused"));
    assert!(s.status(id).ends_with("\nConnection refused\n"), "{}", s.status(id));
    s.connect(2, id);
    assert_eq!(s.info(id).last_error, None);
    assert_eq!(s.status(id).lines().count(), 1);
}

/// RFC 4254 section 5.1: after a refusal the number is free, and the same client
/// may dial again. sshnet.c leaked a client that nobody released (defect 26).
#[test]
fn after_a_refusal_the_client_dials_again_under_the_same_channel_number() {
    let mut s = Bench::new();
    let id = s.client();
    for request in 1..50 {
        let ours = s.connect(request, id);
        assert_eq!(ours, 0);
        s.hear(failure(ours, 2, b"Connection refused"));
    }
    assert_eq!(s.statistics().windows, 0);
}

/// RFC 4254 section 5.1, 5.3 (duty 19): a dial that was given up and is then
/// confirmed is closed at once, and its number is free only after the peer's CLOSE.
#[test]
fn a_confirmation_that_comes_after_the_dial_was_given_up_is_closed() {
    let mut s = Bench::new();
    let id = s.client();
    let first = s.connect(1, id);
    exactly(&s.flush(1), [failed(1, ErrorCode::Interrupted, "interrupted")]);
    assert_eq!(s.state(id), ClientState::Closed);
    let second = s.connect(2, id);
    assert_ne!(first, second);
    exactly(&s.hear(confirmation(first, 9, 9)), [send(Message::Close { recipient: 70 })]);
    // What the peer sent before it saw our CLOSE is passed over.
    exactly(&s.hear(Message::Data { recipient: first, data: b"late" }), []);
    exactly(&s.hear(Message::WindowAdjust { recipient: first, bytes: 5 }), []);
    exactly(&s.hear(Message::Eof { recipient: first }), []);
    let third = s.client();
    assert_ne!(s.connect(3, third), first);
    exactly(&s.hear(Message::Close { recipient: first }), []);
    let fourth = s.client();
    assert_eq!(s.connect(4, fourth), first);
    assert_eq!(s.state(id), ClientState::Dialing);
}

/// The same with a refusal: it only frees the number (duty 19).
#[test]
fn a_refusal_that_comes_after_the_dial_was_given_up_frees_the_number() {
    let mut s = Bench::new();
    let id = s.client();
    let first = s.connect(1, id);
    s.control(2, id, "hangup");
    exactly(&s.hear(failure(first, 2, b"Connection refused")), []);
    s.blames(id, "i/o on hungup channel");
    assert_eq!(s.connect(3, id), first);
}

/// sshnet.c answered `hangup` while dialing with "bad or inappropriate" and had
/// no way to stop a dial (defect 23).
#[test]
fn hangup_ends_a_dial_at_once() {
    let mut s = Bench::new();
    let id = s.client();
    s.connect(1, id);
    exactly(
        &s.control(2, id, "hangup"),
        [failed(1, ErrorCode::HungUp, "i/o on hungup channel"), done(2)],
    );
    assert_eq!(s.state(id), ClientState::Closed);
}

/// RFC 4254 section 5.2 (duty 11): a packet size of 0 allows no data at all, so
/// it is no conversation. sshnet.c sent empty messages for ever (defect 2).
#[test]
fn a_confirmation_that_allows_no_packet_fails_the_dial() {
    let mut s = Bench::new();
    let id = s.client();
    let ours = s.connect(1, id);
    exactly(
        &s.hear(confirmation(ours, 1_000, 0)),
        [
            failed(1, ErrorCode::Other, "the far side accepts no data"),
            send(Message::Close { recipient: 70 }),
        ],
    );
    assert_eq!(s.state(id), ClientState::Closed);
    exactly(&s.hear(Message::Close { recipient: ours }), []);
    assert_eq!(s.statistics().channels, 0);
}

/// RFC 4254 section 7 (duty 25): strict decimal to 65535. sshnet.c took 70000,
/// and 010 for 8 (defect 36).
#[test]
fn a_port_is_a_strict_decimal_number_or_a_known_name() {
    let mut s = Bench::new();
    let id = s.client();
    for port in ["1", "7", "65535", "echo", "ssh"] {
        let effects = s.control(1, id, format!("connect h!{port}"));
        assert!(matches!(sent(&effects)[..], [Message::Open { .. }]), "{port}");
        s.flush(1);
    }
    for port in [
        "",
        "0",
        "00",
        "010",
        "0x50",
        "+80",
        "-1",
        "65536",
        "70000",
        "4294967297",
        "8 x",
        "80!",
        "80!1!2",
        "99999999999999999999999",
        "nosuch",
        "\u{664}",
        "1e3",
    ] {
        let effects = s.control(2, id, format!("connect h!{port}"));
        let refused = error(&effects);
        assert_eq!(refused.code, ErrorCode::InvalidArgument, "{port}");
        assert!(
            begins(&refused.message, "bad or inappropriate tcp control message: "),
            "{port}: {}",
            refused.message
        );
        assert_eq!(s.state(id), ClientState::Closed);
    }
}

/// Of several services with one name the first counts.
#[test]
fn a_service_name_dials_its_first_port() {
    let mut s = Bench::new();
    let id = s.client();
    exactly(&s.control(1, id, "connect h!ssh"), [send(direct(0, 65_536, 32_768, "h", 22))]);
}

/// The user's own words: host names go over the wire as they are given.
#[test]
fn a_host_goes_over_the_wire_as_it_was_given() {
    let mut s = Bench::new();
    let id = s.client();
    for host in ["::1", "fe80::1%eth0", "b\u{fc}cher.example", "localhost", "[::1]"] {
        let effects = s.control(1, id, format!("connect {host}!7"));
        let [Message::Open { kind: Open::DirectTcpip { host: asked, port: 7, .. }, .. }] =
            sent(&effects)[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!(asked, host.as_bytes());
        assert_eq!(s.text(id, TextFile::Remote).expect("it is there"), format!("{host}!7\n"));
        s.hear(failure(0, 2, b"no"));
    }
}

/// sshnet.c: a host name of 32 KB killed the whole service (defect 12), an empty
/// one was sent (defect 36).
#[test]
fn a_host_that_cannot_be_one_is_refused() {
    let mut s = Bench::new();
    let id = s.client();
    let longest = "x".repeat(64);
    let effects = s.control(1, id, format!("connect {longest}!7"));
    assert!(matches!(sent(&effects)[..], [Message::Open { .. }]));
    s.flush(1);
    for host in [String::new(), "x".repeat(65), "a\u{85}b".into(), "a\u{1b}b".into()] {
        let effects = s.control(2, id, format!("connect {host}!7"));
        assert_eq!(error(&effects).code, ErrorCode::InvalidArgument, "{host:?}");
    }
}

/// ip(3): a second `connect` on a conversation is an error, and changes nothing.
#[test]
fn connect_on_a_client_in_use_is_refused() {
    let mut s = Bench::new();
    let id = s.client();
    let ours = s.connect(1, id);
    let code = |effects: &[_]| error(effects).code;
    assert_eq!(code(&s.control(2, id, "connect h!1")), ErrorCode::IsConnected);
    assert_eq!(code(&s.control(3, id, "announce 1")), ErrorCode::IsConnected);
    exactly(&s.hear(confirmation(ours, 9, 9)), [done(1)]);
    assert_eq!(code(&s.control(4, id, "connect h!1")), ErrorCode::IsConnected);
    assert_eq!(code(&s.control(5, id, "announce 1")), ErrorCode::IsConnected);
    assert_eq!(s.state(id), ClientState::Established);
    let listener = s.announce("*!99");
    assert_eq!(code(&s.control(6, listener, "connect h!1")), ErrorCode::IsConnected);
    assert_eq!(code(&s.control(7, listener, "announce 1")), ErrorCode::IsConnected);
}

/// A pipe confirms in any order.
#[test]
fn dials_are_answered_in_the_peers_order() {
    let mut s = Bench::new();
    let (a, b) = (s.client(), s.client());
    let (first, second) = (s.connect(1, a), s.connect(2, b));
    exactly(&s.hear(confirmation(second, 9, 9)), [done(2)]);
    assert_eq!(s.state(a), ClientState::Dialing);
    exactly(&s.hear(failure(first, 2, b"no")), [told(1, ErrorCode::ConnectionRefused, "no")]);
}

/// RFC 4254 section 5.1: a second answer to one open, or an answer to none, is
/// a fault for which no channel can be blamed.
#[test]
fn a_second_answer_to_a_dial_fails_the_session() {
    let mut s = Bench::new();
    let line = s.dial();
    let effects = s.hear(confirmation(line.ours, 1, 1));
    exactly(
        &effects,
        [fail("the far side sent a confirmation for channel 0, which was opened before")],
    );
    assert_eq!(s.state(line.id), ClientState::Finished);

    let mut s = Bench::new();
    let line = s.dial();
    exactly(
        &s.hear(failure(line.ours, 2, b"no")),
        [fail("the far side sent a refusal for channel 0, which was opened before")],
    );

    let mut s = Bench::new();
    exactly(
        &s.hear(confirmation(7, 1, 1)),
        [fail("the far side sent a confirmation for channel 7, which is not there")],
    );
}

/// RFC 4254 section 5.3 (duty 19): a channel that is not yet open cannot be
/// closed, nor carry data or anything else.
#[test]
fn nothing_but_an_answer_may_come_on_a_channel_that_is_not_open_yet() {
    let messages = |recipient| {
        [
            Message::Close { recipient },
            Message::Eof { recipient },
            Message::Data { recipient, data: b"x" },
            Message::ExtendedData { recipient, code: 1, data: b"x" },
            Message::WindowAdjust { recipient, bytes: 1 },
            Message::Request { recipient, name: b"x", want_reply: true, data: b"" },
            Message::Success { recipient },
            Message::Failure { recipient },
        ]
    };
    for message in messages(0) {
        let mut s = Bench::new();
        let id = s.client();
        s.connect(1, id);
        let effects = s.hear(message);
        let why = error(&effects).message.clone();
        assert!(ends(&why, "for channel 0 before opening it"), "{why}");
        exactly(&effects, [failed(1, ErrorCode::NetworkDown, &why), fail(&why)]);
        assert!(!s.statistics().pipe_up);
    }
}

/// Without a pipe, and without time to wait for one, a dial fails at once.
#[test]
fn a_dial_without_a_pipe_fails_with_network_down() {
    let mut s = Bench::without_pipe(limits());
    let id = s.client();
    exactly(
        &s.control(1, id, "connect h!1"),
        [failed(1, ErrorCode::NetworkDown, "there is no connection to the far side")],
    );
    assert_eq!(s.state(id), ClientState::Closed);
    exactly(&s.hear(confirmation(0, 1, 1)), [warn("a message came without a pipe")]);
}

/// OpenSSH PROTOCOL section 2.4: a Unix socket is dialed by its path, with two
/// reserved fields.
#[test]
fn a_unix_client_dials_a_path() {
    let mut s = Bench::new();
    let id = s.client_of(Protocol::Unix);
    let kind = Open::DirectStreamlocal { path: b"/run/x.sock" };
    exactly(
        &s.control(1, id, "connect /run/x.sock"),
        [send(Message::Open { sender: 0, window: 65_536, packet: 32_768, kind })],
    );
    exactly(&s.hear(confirmation(0, 9, 9)), [done(1)]);
    for bad in ["relative", "", "h!7", &format!("/{}", "x".repeat(64))] {
        let other = s.client_of(Protocol::Unix);
        let effects = s.control(2, other, format!("connect {bad}"));
        let refused = error(&effects);
        assert_eq!(refused.code, ErrorCode::InvalidArgument, "{bad}");
        assert!(begins(&refused.message, "bad or inappropriate unix control message: "));
        s.release(other);
    }
}

/// Words of any length come back within the 120 bytes of an error, cut between
/// characters and not within what stands for one.
#[test]
fn the_far_sides_words_are_cut_between_characters() {
    let mut s = Bench::new();
    let id = s.client();
    for (words, shown) in [
        ([&[b'x'; 120][..], b""].concat(), "x".repeat(120)),
        ([&[b'x'; 121][..], b""].concat(), "x".repeat(120)),
        ([&[b'x'; 116][..], b"\xff"].concat(), "x".repeat(116) + "\\xff"),
        ([&[b'x'; 117][..], b"\xff"].concat(), "x".repeat(117)),
        ([&[b'x'; 116][..], b"\n"].concat(), "x".repeat(116) + "\\x0a"),
        ([&[b'x'; 117][..], b"\ny"].concat(), "x".repeat(117)),
        ([&[b'x'; 119][..], "\u{e9}".as_bytes()].concat(), "x".repeat(119)),
    ] {
        let ours = s.connect(1, id);
        let effects = s.hear(failure(ours, reason::CONNECT_FAILED, &words));
        exactly(&effects, [told(1, ErrorCode::ConnectionRefused, &shown)]);
    }
}
