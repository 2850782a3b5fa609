//! Writes: split into packets, held back by windows, answered when they are sent.

use sshnet_core::message::Message;
use sshnet_core::{ClientState, Completion, Effect, ErrorCode, Reply};
use sshnet_tests::bench::{Bench, PACKET, WINDOW, limits};
use sshnet_tests::peer::{
    among, completions, count, data_sent, done, error, exactly, failed, send, sent, show,
};

/// Bytes in which each place is told from its neighbours.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8 ^ (i >> 8) as u8).collect()
}

/// RFC 4254 section 5.2: the data is the data.
#[test]
fn a_write_is_one_data_message_and_its_count() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(
        &s.write(1, line.id, b"hello"),
        [send(Message::Data { recipient: line.theirs, data: b"hello" }), count(1, 5)],
    );
    assert_eq!(s.info(line.id).sent, 5);
    assert_eq!(s.info(line.id).send_window, WINDOW - 5);
}

/// Nothing to send, nothing to wait for.
#[test]
fn a_write_of_no_bytes_is_answered_at_once() {
    let mut s = Bench::new();
    let line = s.dial_with(0, PACKET);
    exactly(&s.write(1, line.id, b""), [count(1, 0)]);
    // Even with others waiting before it.
    exactly(&s.write(2, line.id, b"x"), []);
    exactly(&s.write(3, line.id, b""), [count(3, 0)]);
}

/// RFC 4254 section 5.2 (duties 9, 11): messages of at most the peer's packet
/// size. sshnet.c answered a write that it had split with the size of its last
/// piece, so that callers sent the rest again (defect 1).
#[test]
fn a_write_of_any_size_is_split_at_the_packet_and_counted_whole() {
    for size in
        [0, 1, 2, 255, 256, 257, 32_511, 32_512, 32_767, 32_768, 32_769, 65_536, 100_000, 262_144]
    {
        for packet in [1_000, 32_512, 32_768, 65_536, u32::MAX] {
            let mut s = Bench::new();
            let line = s.dial_with(u32::MAX, packet);
            let bytes = pattern(size);
            let effects = s.write(1, line.id, &bytes);
            assert_eq!(data_sent(&effects, line.theirs), bytes, "{size} by {packet}");
            let most = packet.min(PACKET) as usize;
            for message in sent(&effects) {
                assert!(message.encode().len() <= 9 + most, "{size} by {packet}");
            }
            among(&effects, count(1, size as u32));
        }
    }
}

/// Packets of one byte are lawful, if absurd (duty 11).
#[test]
fn a_peer_may_ask_for_packets_of_one_byte() {
    let mut s = Bench::new();
    let line = s.dial_with(1_000, 1);
    let bytes = pattern(300);
    let effects = s.write(1, line.id, &bytes);
    assert_eq!(sent(&effects).len(), 300);
    assert_eq!(data_sent(&effects, line.theirs), bytes);
}

/// RFC 4254 section 5.2 (duty 9): a write larger than the window is sent as far
/// as it goes, and the rest as window comes; the count is that of the write
/// (sshnet.c: that of the last piece, defect 1).
#[test]
fn a_write_past_the_window_waits_for_window_and_is_counted_whole() {
    for size in [1, 2, 4_999, 5_000, 5_001, 8_192, 32_767, 32_768, 32_769, 262_144] {
        for window in [0, 1, 2, 5_000, 32_767, 32_768, 32_769, 100_000] {
            let mut s = Bench::new();
            let line = s.dial_with(window, PACKET);
            let bytes = pattern(size);
            let mut effects = s.write(1, line.id, &bytes);
            let mut got = data_sent(&effects, line.theirs);
            assert_eq!(got.len(), size.min(window as usize), "{size} in {window}");
            let mut rounds = 0;
            while got.len() < size {
                assert!(completions(&effects).is_empty(), "{size} in {window}: too early");
                effects = s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 40_000 });
                got.extend(data_sent(&effects, line.theirs));
                rounds += 1;
                assert!(rounds < 10, "{size} in {window}: no progress");
            }
            assert_eq!(got, bytes, "{size} in {window}");
            among(&effects, count(1, size as u32));
        }
    }
}

/// RFC 4254 section 5.2 (duty 8): windows to 2^32-1 work. In sshnet.c one of 2^31
/// and more was negative, and writers stood still for ever (defect 22).
#[test]
fn a_window_of_2_to_the_31_and_more_lets_writers_write() {
    for window in [0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff] {
        let mut s = Bench::new();
        let line = s.dial_with(window, PACKET);
        exactly(
            &s.write(1, line.id, b"x"),
            [send(Message::Data { recipient: line.theirs, data: b"x" }), count(1, 1)],
        );
        assert_eq!(s.info(line.id).send_window, window - 1);
    }
    // Raised there, too.
    let mut s = Bench::new();
    let line = s.dial_with(0x7fff_ffff, PACKET);
    exactly(&s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 0x8000_0000 }), []);
    assert_eq!(s.info(line.id).send_window, u32::MAX);
    exactly(
        &s.write(1, line.id, b"x"),
        [send(Message::Data { recipient: line.theirs, data: b"x" }), count(1, 1)],
    );
}

/// RFC 4254 section 5.2 (duty 8): a window must not be raised past 2^32-1. That
/// ends the channel and nothing else.
#[test]
fn a_window_raised_past_2_to_the_32_closes_the_channel() {
    let mut s = Bench::new();
    let other = s.dial();
    let line = s.dial_with(0xffff_fff0, PACKET);
    exactly(&s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 15 }), []);
    let effects = s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 1 });
    assert_eq!(sent(&effects), [Message::Close { recipient: line.theirs }]);
    assert_eq!(s.state(line.id), ClientState::Finished);
    s.blames(line.id, "the far side raised the window past 2^32-1");
    assert_eq!(s.state(other.id), ClientState::Established);
    assert!(s.statistics().pipe_up);
}

/// A window that opens by nothing changes nothing (duty 8).
#[test]
fn an_adjustment_by_zero_is_lawful() {
    let mut s = Bench::new();
    let line = s.dial_with(0, PACKET);
    exactly(&s.write(1, line.id, b"x"), []);
    exactly(&s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 0 }), []);
    assert_eq!(s.info(line.id).unsent, 1);
}

/// Writes are sent in order, and small ones share a packet; each is answered when
/// its own last byte is sent.
#[test]
fn writes_that_wait_share_packets_and_are_answered_in_order() {
    let mut s = Bench::new();
    let line = s.dial_with(0, 10);
    exactly(&s.write(1, line.id, b"abc"), []);
    exactly(&s.write(2, line.id, b"defghi"), []);
    exactly(&s.write(3, line.id, b"jklmnopq"), []);
    assert_eq!(s.info(line.id).unsent, 17);
    assert_eq!(s.info(line.id).requests, 3);
    exactly(
        &s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 4 }),
        [send(Message::Data { recipient: line.theirs, data: b"abcd" }), count(1, 3)],
    );
    exactly(
        &s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 100 }),
        [
            send(Message::Data { recipient: line.theirs, data: b"efghijklmn" }),
            count(2, 6),
            send(Message::Data { recipient: line.theirs, data: b"opq" }),
            count(3, 8),
        ],
    );
}

/// A call that was taken clamps its packets like a dial. sshnet.c did not: one
/// write of 32768 bytes ended the service (defect 2).
#[test]
fn a_call_that_was_taken_is_held_to_the_peers_packet_and_window() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    let request = s.fresh();
    s.listen(request, listener);
    let effects = s.hear(sshnet_tests::peer::call_with(70, 33_000, 32_768, "", 99));
    let (id, ours) = sshnet_tests::bench::taken(&effects);
    let bytes = pattern(40_000);
    let effects = s.write(1, id, &bytes);
    assert_eq!(data_sent(&effects, 70), bytes[..33_000]);
    let effects = s.hear(Message::WindowAdjust { recipient: ours, bytes: 7_000 });
    assert_eq!(data_sent(&effects, 70), bytes[33_000..]);
    among(&effects, count(1, 40_000));
}

/// A write without a conversation says which it is that is missing.
#[test]
fn a_write_without_a_conversation_is_refused() {
    let mut s = Bench::new();
    let id = s.client();
    let refused = |effects: &[Effect]| error(effects).code;
    assert_eq!(refused(&s.write(1, id, b"x")), ErrorCode::NotConnected);
    s.control(2, id, "announce *!1");
    assert_eq!(refused(&s.write(3, id, b"x")), ErrorCode::NotConnected);
    s.hear(Message::RequestSuccess { data: b"" });
    let listener = s.announce("*!2");
    assert_eq!(refused(&s.write(4, listener, b"x")), ErrorCode::NotConnected);
    let line = s.dial();
    s.control(5, line.id, "hangup");
    assert_eq!(refused(&s.write(6, line.id, b"x")), ErrorCode::HungUp);
}

/// What waits when the far side ends the conversation fails with the reason.
#[test]
fn writes_that_wait_fail_when_the_far_side_closes() {
    let mut s = Bench::new();
    let line = s.dial_with(2, PACKET);
    s.write(1, line.id, b"abc");
    s.write(2, line.id, b"def");
    exactly(
        &s.hear(Message::Close { recipient: line.ours }),
        [
            send(Message::Close { recipient: line.theirs }),
            failed(1, ErrorCode::ConnectionReset, "connection closed"),
            failed(2, ErrorCode::ConnectionReset, "connection closed"),
        ],
    );
    exactly(
        &s.write(3, line.id, b"x"),
        [failed(3, ErrorCode::ConnectionReset, "connection closed")],
    );
    assert_eq!(s.statistics().queued, 0);
    assert_eq!(s.statistics().unacknowledged, 0);
}

/// After the peer's EOF the way out is still open (RFC 4254 section 5.3, duty 13).
#[test]
fn writes_go_on_after_the_peers_eof() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(&s.hear(Message::Eof { recipient: line.ours }), []);
    exactly(
        &s.write(1, line.id, b"x"),
        [send(Message::Data { recipient: line.theirs, data: b"x" }), count(1, 1)],
    );
}

/// Every write of a long series comes out, each once and in order, however the
/// windows fall.
#[test]
fn a_long_series_of_writes_comes_out_whole() {
    let mut s = Bench::with(sshnet_core::Limits { requests: 4_096, ..limits() });
    let line = s.dial_with(10, 700);
    let all = pattern(150_000);
    let mut got = Vec::new();
    let mut answers = Vec::new();
    let mut step = |effects: Vec<Effect>| {
        got.extend(data_sent(&effects, line.theirs));
        for completion in completions(&effects) {
            match completion {
                Completion { request, outcome: Ok(Reply::Count(n)) } => {
                    answers.push((*request, *n))
                }
                _ => panic!("{}", show(&effects)),
            }
        }
    };
    let (mut at, mut request) = (0, 0);
    let mut expected = Vec::new();
    while at < all.len() {
        let size = (request * 37 % 1_900).min(all.len() - at).max(1);
        request += 1;
        step(s.write(request as u64, line.id, &all[at..at + size]));
        expected.push((request as u64, size as u32));
        at += size;
        if request % 3 == 0 {
            let bytes = (request * 13 % 3_000) as u32;
            step(s.hear(Message::WindowAdjust { recipient: line.ours, bytes }));
        }
    }
    step(s.hear(Message::WindowAdjust { recipient: line.ours, bytes: 150_000 }));
    assert_eq!(got, all);
    assert_eq!(answers, expected);
    exactly(
        &s.control(1 << 20, line.id, "closewrite"),
        [send(Message::Eof { recipient: line.theirs }), done(1 << 20)],
    );
}
