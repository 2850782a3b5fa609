//! Limits: each at the limit and one past it. (Those of calls, windows, clients,
//! the pipe and the clock are where those are.)

use sshnet_core::message::Message;
use sshnet_core::{ClientState, ErrorCode, Limits, Protocol};
use sshnet_tests::bench::{Bench, Line, PACKET, limits};
use sshnet_tests::peer::{
    among, count, data, data_sent, done, error, exactly, failed, send, sent, warn,
};
use sshnet_tests::promise::another;

/// Requests outstanding at once.
#[test]
fn a_request_beyond_the_limit_is_refused() {
    let mut s = Bench::with(Limits { requests: 3, ..limits() });
    let line = s.dial();
    for request in 1..4 {
        exactly(&s.read(request, line.id, 1), []);
    }
    let told = "too many requests are outstanding";
    exactly(&s.read(4, line.id, 1), [failed(4, ErrorCode::ResourceExhausted, told)]);
    assert_eq!(s.info(line.id).last_error, None, "status tells of control messages");
    exactly(&s.control(5, line.id, "hangup"), [failed(5, ErrorCode::ResourceExhausted, told)]);
    s.blames(line.id, told);
    s.flush(2);
    exactly(&s.read(6, line.id, 1), []);
}

/// Bytes of writes that wait. Past the limit nothing of the write is taken.
#[test]
fn a_write_beyond_the_bytes_that_may_wait_is_refused_whole() {
    let mut s = Bench::with(Limits { queued: 100, ..limits() });
    let a = s.dial_with(0, PACKET);
    let b = s.dial_with(0, PACKET);
    exactly(&s.write(1, a.id, [1; 60]), []);
    exactly(&s.write(2, b.id, [2; 40]), []);
    assert_eq!(s.statistics().queued, 100);
    let told = "too many bytes wait to be sent";
    exactly(&s.write(3, b.id, [3; 1]), [failed(3, ErrorCode::ResourceExhausted, told)]);
    exactly(&s.write(4, a.id, [3; 1]), [failed(4, ErrorCode::ResourceExhausted, told)]);
    exactly(&s.write(5, a.id, []), [count(5, 0)]);
    // What is sent makes room.
    let effects = s.hear(Message::WindowAdjust { recipient: a.ours, bytes: 60 });
    exactly(&effects, [send(Message::Data { recipient: a.theirs, data: &[1; 60] }), count(1, 60)]);
    exactly(&s.write(6, b.id, [3; 60]), []);
    assert_eq!(error(&s.write(7, b.id, [3; 1])).code, ErrorCode::ResourceExhausted);
    // And so does a conversation that ends.
    s.release(b.id);
    assert_eq!(s.statistics().queued, 0);
}

/// A request is not carried out under a name that is outstanding, and its
/// namesake is not harmed.
#[test]
fn a_name_that_is_outstanding_is_not_used_twice() {
    let mut s = Bench::new();
    let line = s.dial();
    s.read(1, line.id, 9);
    let warning = || warn("request 1 is outstanding already");
    exactly(&s.write(1, line.id, b"x"), [warning()]);
    exactly(&s.read(1, line.id, 9), [warning()]);
    exactly(&s.control(1, line.id, "hangup"), [warning()]);
    exactly(&s.listen(1, line.id), [warning()]);
    exactly(&s.clone_client(1, Protocol::Tcp), [warning()]);
    assert_eq!(s.statistics().clients, 1);
    exactly(&s.hear(Message::Data { recipient: line.ours, data: b"x" }), [data(1, "x")]);
}

/// A limit that can't work is raised to the least that can.
#[test]
fn limits_of_zero_are_raised_to_ones_that_work() {
    let zero = Limits {
        clients: 0,
        backlog: 0,
        calls: 0,
        requests: 0,
        line: 0,
        name: 0,
        queued: 0,
        unacknowledged: 0,
        windows: 0,
        window: 0,
        window_max: 0,
        packet: 0,
        room: 0,
        control: 0,
        dial_time: 0,
        dial_wait: 0,
        keepalive: 0,
    };
    let mut s = Bench::with(zero);
    let id = s.client();
    let effects = s.control(1, id, "connect h!7");
    let [Message::Open { sender, window, packet, .. }] = sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(packet, 256);
    assert!((1..=1_024).contains(&window), "{window}");
    let confirmation = Message::OpenConfirmation {
        recipient: sender,
        sender: 70,
        window: 9,
        packet: 9,
        data: b"",
    };
    exactly(&s.hear(confirmation), [done(1)]);
    exactly(&s.hear(Message::Data { recipient: sender, data: b"x" }), []);
    exactly(&s.read(2, id, 9), [data(2, "x")]);
    // No byte may wait, so none is taken.
    assert_eq!(error(&s.write(3, id, b"x")).code, ErrorCode::ResourceExhausted);
}

/// The largest limits are lawful, too.
#[test]
fn limits_without_end_work() {
    let mut s = Bench::with(Limits {
        clients: 1 << 16,
        backlog: u32::MAX,
        calls: 1 << 16,
        requests: u32::MAX,
        line: u32::MAX,
        name: u32::MAX,
        queued: u64::MAX,
        unacknowledged: u64::MAX,
        windows: u64::MAX,
        window: u32::MAX,
        window_max: u32::MAX,
        packet: u32::MAX,
        room: u32::MAX,
        control: u32::MAX,
        dial_time: u64::MAX,
        dial_wait: u64::MAX,
        keepalive: u64::MAX,
    });
    let id = s.client();
    let effects = s.control(1, id, format!("connect {}!7", "x".repeat(100_000)));
    let [Message::Open { window, packet, .. }] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(packet, 32_768);
    assert!(window == u32::MAX || another(), "{window}");
    let confirmation = Message::OpenConfirmation {
        recipient: 0,
        sender: 70,
        window: u32::MAX,
        packet: u32::MAX,
        data: b"",
    };
    s.hear(confirmation);
    assert_eq!(s.state(id), ClientState::Established);
    let effects = s.write(2, id, vec![1; 1 << 20]);
    among(&effects, count(2, 1 << 20));
}

/// A packet limit of ours holds for what we send as well.
#[test]
fn our_packet_limit_holds_for_both_directions() {
    let mut s = Bench::with(Limits { packet: 300, ..limits() });
    let line = s.dial();
    let effects = s.write(1, line.id, [1; 301]);
    assert_eq!(data_sent(&effects, line.theirs), [1; 301]);
    assert!(sent(&effects).iter().all(|message| message.encode().len() <= 9 + 300));
    exactly(&s.hear(Message::Data { recipient: line.ours, data: &[1; 300] }), []);
    s.hear(Message::Data { recipient: line.ours, data: &[1; 301] });
    assert_eq!(s.state(line.id), ClientState::Finished);
}

/// A host's name, at the limit and past it, in `connect`, `announce` and `cs`.
#[test]
fn a_name_beyond_the_limit_is_refused_everywhere() {
    let mut s = Bench::new();
    let id = s.client();
    for (length, fits) in [(64, true), (65, false)] {
        let name = "x".repeat(length);
        assert_eq!(s.translate(&format!("tcp!{name}!7")).is_ok(), fits, "{length}");
        for verb in ["connect", "announce"] {
            let effects = s.control(1, id, format!("{verb} {name}!7"));
            assert_eq!(sent(&effects).len(), usize::from(fits), "{verb} {length}");
            s.flush(1);
            s.hear(Message::RequestFailure);
        }
    }
}

/// A path, at the limit and past it.
#[test]
fn a_path_beyond_the_limit_is_refused() {
    let mut s = Bench::new();
    let id = s.client_of(Protocol::Unix);
    for (length, fits) in [(64, true), (65, false)] {
        let path = format!("/{}", "x".repeat(length - 1));
        for verb in ["connect", "announce"] {
            let effects = s.control(1, id, format!("{verb} {path}"));
            assert_eq!(sent(&effects).len(), usize::from(fits), "{verb} {length}");
            s.flush(1);
            s.hear(Message::RequestFailure);
        }
    }
}

/// A query, at the limit and past it.
#[test]
fn a_query_beyond_the_limit_is_refused() {
    let mut s = Bench::with(Limits { name: 1_000, ..limits() });
    let query = |length: usize| format!("tcp!{}!7", "x".repeat(length - 6));
    assert!(s.translate(&query(256)).is_ok());
    assert_eq!(s.translate(&query(257)).map_err(|e| e.code), Err(ErrorCode::InvalidArgument));
}

/// The least that the limits on the session's bytes can be: a byte for each client.
fn a_byte_for_each() -> Limits {
    let clients = 1_024;
    let bytes = u64::from(clients);
    Limits { clients, packet: 256, windows: bytes, unacknowledged: bytes, ..limits() }
}

/// All windows together, to the byte: each client has the one that it is sure of,
/// also when all the others have theirs; the peer may send that, and not one more.
#[test]
fn at_the_limit_on_windows_each_client_has_a_byte_and_no_more() {
    let mut s = Bench::with(a_byte_for_each());
    let lines: Vec<_> = (0..1_024).map(|_| s.dial()).collect();
    assert_eq!(s.statistics().windows, 1_024);
    for line in [lines[0], lines[1_023]] {
        assert_eq!(s.info(line.id).receive_window, 1);
        exactly(&s.hear(Message::Data { recipient: line.ours, data: b"x" }), []);
        // Read, it may send another.
        let adjust = send(Message::WindowAdjust { recipient: line.theirs, bytes: 1 });
        exactly(&s.read(1, line.id, 9), [data(1, "x"), adjust]);
        assert_eq!(s.statistics().windows, 1_024);
        exactly(&s.hear(Message::Data { recipient: line.ours, data: b"y" }), []);
    }
    let effects = s.hear(Message::Data { recipient: lines[0].ours, data: b"z" });
    assert_eq!(sent(&effects), [Message::Close { recipient: lines[0].theirs }]);
    assert_eq!(s.info(lines[0].id).unread, 1);
    assert_eq!(s.state(lines[1_023].id), ClientState::Established);
    // Two bytes are one too many at once, too.
    let effects = s.hear(Message::Data { recipient: lines[1].ours, data: b"zz" });
    assert_eq!(sent(&effects), [Message::Close { recipient: lines[1].theirs }]);
    assert_eq!(s.statistics().windows, 1_023);
}

/// All that is sent and not acknowledged, to the byte.
#[test]
fn at_the_limit_on_what_is_unacknowledged_each_client_sends_a_byte_and_no_more() {
    let mut s = Bench::with(Limits { requests: 2_000, ..a_byte_for_each() });
    let lines: Vec<_> = (0..1_024).map(|_| s.dial()).collect();
    s.took_all();
    let byte = |line: Line, data| send(Message::Data { recipient: line.theirs, data });
    for (request, line) in lines.iter().enumerate() {
        let ask = Message::Request {
            recipient: line.theirs,
            name: b"keepalive@openssh.com",
            want_reply: true,
            data: b"",
        };
        let effects = s.write(request as u64, line.id, b"abc");
        exactly(&effects, [byte(*line, b"a"), send(ask)]);
    }
    assert_eq!(s.statistics().unacknowledged, 1_024);
    let last = lines[1_023];
    // Nothing is acknowledged by nothing; one byte makes place for one.
    exactly(&s.hear(Message::WindowAdjust { recipient: last.ours, bytes: 0 }), []);
    let effects = s.hear(Message::WindowAdjust { recipient: last.ours, bytes: 1 });
    exactly(&effects, [byte(last, b"b")]);
    assert_eq!(s.statistics().unacknowledged, 1_024);
    let effects = s.hear(Message::WindowAdjust { recipient: last.ours, bytes: 1 });
    exactly(&effects, [byte(last, b"c"), count(1_023, 3)]);
    assert_eq!(s.info(lines[0].id).unsent, 2);
}
