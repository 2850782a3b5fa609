//! Calls: they wait unconfirmed, and become clients when someone listens.

use sshnet_core::message::{Message, Open, reason};
use sshnet_core::{ClientState, Effect, ErrorCode, Limits, TextFile};
use sshnet_tests::bench::{Bench, limits, taken};
use sshnet_tests::peer::{
    among, call, call_with, cancel, client, declined, done, error, exactly, failed, send,
};

/// A call that finds someone listening is confirmed at once.
#[test]
fn a_call_completes_the_listen_that_waits() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    exactly(&s.listen(1, listener), []);
    assert_eq!(s.info(listener).requests, 1);
    let effects = s.hear(call(70, "", 99));
    let (id, ours) = taken(&effects);
    exactly(
        &effects,
        [
            send(Message::OpenConfirmation {
                recipient: 70,
                sender: ours,
                window: 65_536,
                packet: 32_768,
                data: b"",
            }),
            client(1, id),
        ],
    );
    assert_eq!(s.state(id), ClientState::Established);
    assert_eq!(s.info(id).references, 1);
    assert_eq!(s.state(listener), ClientState::Listen);
    assert_eq!(s.statistics().calls, 1);
    assert_eq!(s.text(id, TextFile::Local).as_deref(), Ok("*!99\n"));
    assert_eq!(s.text(id, TextFile::Remote).as_deref(), Ok("192.0.2.7!4000\n"));
}

/// In sshnet.c a call was lost unless someone listened at that moment, which is
/// never so between two of them (defect 17). Here it waits, costs no window, and
/// is confirmed when it is taken.
#[test]
fn a_call_waits_unconfirmed_until_someone_listens() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    exactly(&s.hear(call(70, "", 99)), []);
    exactly(&s.hear(call(71, "", 99)), []);
    assert_eq!(s.info(listener).calls, 2);
    assert_eq!(s.statistics().windows, 0);
    assert_eq!(s.statistics().channels, 0);
    // In the order in which they came.
    for theirs in [70, 71] {
        let effects = s.listen(1, listener);
        let (id, ours) = taken(&effects);
        exactly(
            &effects,
            [
                send(Message::OpenConfirmation {
                    recipient: theirs,
                    sender: ours,
                    window: 65_536,
                    packet: 32_768,
                    data: b"",
                }),
                client(1, id),
            ],
        );
    }
    exactly(&s.listen(2, listener), []);
}

/// Those who listen are served in their order.
#[test]
fn those_who_listen_get_one_call_each_in_order() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    s.listen(1, listener);
    s.listen(2, listener);
    for (request, theirs) in [(1, 70), (2, 71)] {
        let effects = s.hear(call(theirs, "", 99));
        let (id, _) = taken(&effects);
        among(&effects, client(request, id));
    }
}

/// A thousand calls and one who takes them: none is lost (defect 17).
#[test]
fn a_thousand_calls_in_bursts_are_all_taken_by_one_accept_loop() {
    let mut s = Bench::with(Limits { backlog: 128, calls: 128, ..limits() });
    let listener = s.announce("*!99");
    let mut next = 1_000;
    for burst in 0..10 {
        for _ in 0..100 {
            exactly(&s.hear(call(next, "", 99)), []);
            next += 1;
        }
        for i in 0..100 {
            let effects = s.listen(1, listener);
            let (id, ours) = taken(&effects);
            let theirs = 1_000 + burst * 100 + i;
            exactly(&s.release(id), [send(Message::Close { recipient: theirs })]);
            exactly(&s.hear(Message::Close { recipient: ours }), []);
        }
    }
    assert_eq!(s.statistics().calls, 1_000);
    assert_eq!(s.statistics().calls_refused, 0);
    assert_eq!(s.statistics().clients, 1);
}

/// Section 5.1 (duty 5): beyond the backlog a call is refused for lack of room,
/// with the language tag that sshnet.c forgot (duty 4, defect 10).
#[test]
fn a_call_beyond_the_backlog_is_refused() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    for theirs in 70..73 {
        exactly(&s.hear(call(theirs, "", 99)), []);
    }
    exactly(
        &s.hear(call(73, "", 99)),
        [declined(73, reason::RESOURCE_SHORTAGE, "too many calls wait")],
    );
    assert_eq!(s.info(listener).calls, 3);
    assert_eq!(s.statistics().calls_refused, 1);
    // One taken, one more may wait.
    s.listen(1, listener);
    exactly(&s.hear(call(74, "", 99)), []);
}

/// The calls of the whole session have a limit as well.
#[test]
fn calls_beyond_the_sessions_limit_are_refused() {
    let mut s = Bench::new();
    let a = s.announce("*!98");
    let b = s.announce("*!99");
    for theirs in 70..73 {
        exactly(&s.hear(call(theirs, "", 98)), []);
    }
    for theirs in 73..75 {
        exactly(&s.hear(call(theirs, "", 99)), []);
    }
    exactly(
        &s.hear(call(75, "", 99)),
        [declined(75, reason::RESOURCE_SHORTAGE, "too many calls wait")],
    );
    assert_eq!((s.info(a).calls, s.info(b).calls), (3, 2));
    // A listener that goes makes room.
    s.release(a);
    s.hear(Message::RequestSuccess { data: b"" });
    exactly(&s.hear(call(76, "", 99)), []);
}

/// With a backlog of 0 only who listens already gets a call.
#[test]
fn without_a_backlog_a_call_needs_someone_who_listens() {
    let mut s = Bench::with(Limits { backlog: 0, ..limits() });
    let listener = s.announce("*!99");
    exactly(
        &s.hear(call(70, "", 99)),
        [declined(70, reason::RESOURCE_SHORTAGE, "too many calls wait")],
    );
    s.listen(1, listener);
    taken(&s.hear(call(71, "", 99)));
}

/// When the announcement ends, the calls that wait are refused.
#[test]
fn hangup_refuses_the_calls_that_wait() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    s.hear(call(70, "", 99));
    s.hear(call(71, "", 99));
    let refused =
        |recipient| declined(recipient, reason::CONNECT_FAILED, "nobody listens any more");
    exactly(
        &s.control(1, listener, "hangup"),
        [send(cancel("", 99)), refused(70), refused(71), done(1)],
    );
    assert_eq!(s.info(listener).calls, 0);
}

/// A flushed listen takes no call.
#[test]
fn a_flushed_listen_takes_no_call() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    s.listen(1, listener);
    exactly(&s.flush(1), [failed(1, ErrorCode::Interrupted, "interrupted")]);
    exactly(&s.hear(call(70, "", 99)), []);
    assert_eq!(s.info(listener).calls, 1);
}

/// `listen` needs an announcement; sshnet.c's words.
#[test]
fn listen_without_an_announcement_is_refused() {
    let mut s = Bench::new();
    let id = s.client();
    exactly(&s.listen(1, id), [failed(1, ErrorCode::InvalidArgument, "no address set")]);
    s.control(2, id, "announce 1");
    assert_eq!(error(&s.listen(3, id)).code, ErrorCode::InvalidArgument);
    let line = s.dial();
    assert_eq!(error(&s.listen(4, line.id)).code, ErrorCode::InvalidArgument);
}

/// Section 5.1 (duty 3): a type that is not known MUST be refused, whatever
/// follows its first fields; sshnet.c said nothing (defect 21). Sections 6.1 and
/// 7.2 (duty 7): a client takes no sessions and no `direct-tcpip`.
#[test]
fn channels_that_a_client_does_not_take_are_refused() {
    let mut s = Bench::new();
    s.announce("*!99");
    let other = |name, data| Open::Other { name, data };
    let direct = Open::DirectTcpip { host: b"h", port: 99, originator: b"::1", originator_port: 1 };
    let cases: [(Open<'_>, u32, &str); 8] = [
        (other(b"session", b""), reason::PROHIBITED, "not a server"),
        (direct, reason::PROHIBITED, "not a server"),
        (Open::DirectStreamlocal { path: b"/s" }, reason::PROHIBITED, "not a server"),
        (other(b"direct-x@example.com", b""), reason::PROHIBITED, "not a server"),
        (other(b"x11", b"\0\0\0\x03::1\0\0\x10\0"), reason::UNKNOWN_TYPE, "unknown channel type"),
        (other(b"auth-agent@openssh.com", b""), reason::UNKNOWN_TYPE, "unknown channel type"),
        (other(b"", b"\xff\xff\xff\xff"), reason::UNKNOWN_TYPE, "unknown channel type"),
        (other(&[b'x'; 9_000], b""), reason::UNKNOWN_TYPE, "unknown channel type"),
    ];
    for (kind, code, why) in cases {
        exactly(
            &s.hear(Message::Open { sender: 70, window: 9, packet: 9, kind }),
            [declined(70, code, why)],
        );
    }
    assert_eq!(s.statistics().channels, 0);
}

/// Section 5.2 (duty 11): a call that allows no data is none. In sshnet.c the
/// first write to it never ended (defect 2).
#[test]
fn a_call_that_allows_no_packet_is_refused() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    exactly(
        &s.hear(call_with(70, 9, 0, "", 99)),
        [declined(70, reason::CONNECT_FAILED, "maximum packet size of 0")],
    );
    assert_eq!(s.info(listener).calls, 0);
}

/// What the caller says of itself is shown escaped, and cannot look like another
/// file's line (RFC 4251 section 9.2, duty 26; defect 40).
#[test]
fn the_callers_address_is_shown_escaped() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    s.listen(1, listener);
    let kind = Open::ForwardedTcpip {
        address: b"",
        port: 99,
        originator: b"1!2\n\x1b[2J\xff",
        originator_port: u32::MAX,
    };
    let effects = s.hear(Message::Open { sender: 70, window: 9, packet: 9, kind });
    let (id, _) = taken(&effects);
    assert_eq!(
        s.text(id, TextFile::Remote).as_deref(),
        Ok("1\\x212\\x0a\\x1b[2J\\xff!4294967295\n")
    );
}

/// When there are as many clients as may be, who listens is told, and the call
/// goes on waiting.
#[test]
fn a_listen_beyond_the_clients_fails_and_keeps_the_call() {
    let mut s = Bench::with(Limits { clients: 2, ..limits() });
    let listener = s.announce("*!99");
    let id = s.client();
    s.listen(1, listener);
    exactly(
        &s.hear(call(70, "", 99)),
        [failed(1, ErrorCode::ResourceExhausted, "too many clients")],
    );
    assert_eq!(s.info(listener).calls, 1);
    s.release(id);
    let effects: Vec<Effect> = s.listen(2, listener);
    taken(&effects);
}

/// A conversation that was a call is one like any other.
#[test]
fn a_call_that_was_taken_reads_writes_and_ends() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    let line = s.accept(listener, "", 99);
    s.hear(Message::Data { recipient: line.ours, data: b"question" });
    let (bytes, _) = s.drain(line);
    assert_eq!(bytes, b"question");
    exactly(
        &s.write(1, line.id, b"answer"),
        [
            send(Message::Data { recipient: line.theirs, data: b"answer" }),
            sshnet_tests::peer::count(1, 6),
        ],
    );
    // It outlives its listener.
    s.release(listener);
    exactly(
        &s.control(2, line.id, "closewrite"),
        [send(Message::Eof { recipient: line.theirs }), done(2)],
    );
    exactly(
        &s.hear(Message::Close { recipient: line.ours }),
        [send(Message::Close { recipient: line.theirs })],
    );
}
