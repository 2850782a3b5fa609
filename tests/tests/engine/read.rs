//! Reads: what came, as much as is asked for, and how it ended.

use sshnet_core::message::Message;
use sshnet_core::{ClientState, Effect, ErrorCode};
use sshnet_tests::bench::{Bench, Line};
use sshnet_tests::peer::{among, data, done, error, exactly, failed, send};

fn comes(s: &mut Bench, line: Line, bytes: &[u8]) -> Vec<Effect> {
    s.hear(Message::Data { recipient: line.ours, data: bytes })
}

/// A read takes what is there and no more than was asked for.
#[test]
fn a_read_takes_a_part_and_leaves_the_rest() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(&comes(&mut s, line, b"hello, world"), []);
    assert_eq!(s.info(line.id).unread, 12);
    exactly(&s.read(1, line.id, 5), [data(1, "hello")]);
    exactly(&s.read(2, line.id, 100), [data(2, ", world")]);
    exactly(&s.read(3, line.id, 100), []);
    exactly(&comes(&mut s, line, b"!"), [data(3, "!")]);
    assert_eq!(s.info(line.id).received, 13);
}

/// sshnet.c answered a read from one message at most (defect 33).
#[test]
fn a_read_gathers_what_came_in_many_messages() {
    let mut s = Bench::new();
    let line = s.dial();
    let mut all = Vec::new();
    for size in [1, 100, 5_000, 2, 4_096, 4_095, 9_000, 16_384, 3, 1] {
        let piece: Vec<u8> = (0..size).map(|i| (all.len() + i) as u8).collect();
        comes(&mut s, line, &piece);
        all.extend(piece);
    }
    let effects = s.read(1, line.id, 1);
    among(&effects, data(1, &all[..1]));
    let effects = s.read(2, line.id, 20_000);
    among(&effects, data(2, &all[1..20_001]));
    let effects = s.read(3, line.id, u32::MAX);
    among(&effects, data(3, &all[20_001..]));
}

/// Every size of read against every size of message: the bytes are the bytes.
#[test]
fn bytes_come_in_order_however_they_are_cut() {
    for piece in [1, 7, 4_095, 4_096, 4_097, 32_767, 32_768] {
        for asked in [1_000, 4_096, 8_191, 65_536] {
            let mut s = Bench::new();
            let line = s.dial();
            let all: Vec<u8> = (0..60_000_u32).map(|i| (i % 253) as u8).collect();
            let all = &all[..if piece < 100 { 3_000 } else { 60_000 }];
            for part in all.chunks(piece) {
                exactly(&comes(&mut s, line, part), []);
            }
            let mut got = Vec::new();
            while got.len() < all.len() {
                let request = s.fresh();
                let effects = s.read(request, line.id, asked);
                let expected = &all[got.len()..all.len().min(got.len() + asked as usize)];
                among(&effects, data(request, expected));
                got.extend_from_slice(expected);
            }
        }
    }
}

/// Reads that wait are answered in the order in which they were made.
#[test]
fn reads_that_wait_are_answered_in_order() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(&s.read(1, line.id, 3), []);
    exactly(&s.read(2, line.id, 100), []);
    exactly(&s.read(3, line.id, 100), []);
    assert_eq!(s.info(line.id).requests, 3);
    exactly(&comes(&mut s, line, b"abcdef"), [data(1, "abc"), data(2, "def")]);
    exactly(&s.hear(Message::Eof { recipient: line.ours }), [data(3, "")]);
}

/// A read of nothing is not an end of file that has to be waited for.
#[test]
fn a_read_of_no_bytes_is_answered_at_once() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(&s.read(1, line.id, 0), [data(1, "")]);
    comes(&mut s, line, b"x");
    exactly(&s.read(2, line.id, 0), [data(2, "")]);
    exactly(&s.read(3, line.id, 9), [data(3, "x")]);
}

/// RFC 4254 section 5.2: an empty data message says nothing. sshnet.c answered
/// a read with it, which is an end of file (defect 7).
#[test]
fn an_empty_data_message_is_no_end_of_file() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(&s.read(1, line.id, 9), []);
    exactly(&comes(&mut s, line, b""), []);
    exactly(&comes(&mut s, line, b"x"), [data(1, "x")]);
    exactly(&comes(&mut s, line, b""), []);
    exactly(&s.read(2, line.id, 9), []);
}

/// RFC 4254 section 5.3 (duty 13): what came before EOF is read first, then
/// nothing, again and again.
#[test]
fn eof_is_read_after_what_came_before_it() {
    let mut s = Bench::new();
    let line = s.dial();
    comes(&mut s, line, b"last words");
    exactly(&s.hear(Message::Eof { recipient: line.ours }), []);
    assert_eq!(s.state(line.id), ClientState::Established);
    exactly(&s.read(1, line.id, 100), [data(1, "last words")]);
    for request in 2..5 {
        exactly(&s.read(request, line.id, 100), [data(request, "")]);
    }
}

/// RFC 4254 section 5.3 (duty 17): what came before CLOSE reaches the reader,
/// though the CLOSE is answered at once (duty 15).
#[test]
fn what_came_before_close_can_still_be_read() {
    let mut s = Bench::new();
    let line = s.dial();
    comes(&mut s, line, b"last words");
    s.hear(Message::Eof { recipient: line.ours });
    exactly(
        &s.hear(Message::Close { recipient: line.ours }),
        [send(Message::Close { recipient: line.theirs })],
    );
    assert_eq!(s.state(line.id), ClientState::Finished);
    assert_eq!(s.info(line.id).unread, 10);
    exactly(&s.read(1, line.id, 4), [data(1, "last")]);
    exactly(&s.read(2, line.id, 100), [data(2, " words")]);
    exactly(&s.read(3, line.id, 100), [data(3, "")]);
    assert_eq!(s.info(line.id).last_error, None);
}

/// A conversation that ends without EOF was cut off, and says so. In sshnet.c
/// that looked like a clean end (defect 9).
#[test]
fn a_close_without_eof_is_no_end_of_file() {
    let mut s = Bench::new();
    let line = s.dial();
    comes(&mut s, line, b"half a");
    s.hear(Message::Close { recipient: line.ours });
    exactly(&s.read(1, line.id, 100), [data(1, "half a")]);
    exactly(&s.read(2, line.id, 100), [failed(2, ErrorCode::ConnectionReset, "connection closed")]);
    s.blames(line.id, "connection closed");
}

/// A read that waits is told, too (defect 9).
#[test]
fn a_read_that_waits_when_close_comes_without_eof_fails() {
    let mut s = Bench::new();
    let line = s.dial();
    s.read(1, line.id, 100);
    exactly(
        &s.hear(Message::Close { recipient: line.ours }),
        [
            send(Message::Close { recipient: line.theirs }),
            failed(1, ErrorCode::ConnectionReset, "connection closed"),
        ],
    );
}

/// What was not read when the client hung up is gone. sshnet.c gave it to the
/// client's next conversation, whose window it then credited (defect 5).
#[test]
fn bytes_of_the_last_conversation_never_reach_the_next() {
    let mut s = Bench::new();
    let line = s.dial();
    comes(&mut s, line, b"of the first");
    s.control(1, line.id, "hangup");
    assert_eq!(s.statistics().windows, 0);
    // More of the first comes before the peer has heard of it, and then its end.
    exactly(&comes(&mut s, line, b"more of it"), []);
    exactly(&s.hear(Message::Close { recipient: line.ours }), []);
    assert_eq!(s.state(line.id), ClientState::Closed);
    let next = s.redial(line.id, 100, 100);
    assert_eq!(s.info(next.id).unread, 0);
    exactly(&s.read(2, next.id, 100), []);
    exactly(&comes(&mut s, next, b"second"), [data(2, "second")]);
}

/// The same without waiting for the peer's CLOSE, and from a conversation that
/// the far side ended (defect 5).
#[test]
fn a_client_dials_again_before_its_last_channel_is_closed() {
    let mut s = Bench::new();
    let line = s.dial();
    comes(&mut s, line, b"of the first");
    s.control(1, line.id, "hangup");
    let next = s.redial(line.id, 100, 100);
    assert_ne!(next.ours, line.ours);
    exactly(&comes(&mut s, line, b"late"), []);
    exactly(&s.hear(Message::Close { recipient: line.ours }), []);
    assert_eq!(s.state(line.id), ClientState::Established);
    exactly(&s.read(2, next.id, 100), []);
    comes(&mut s, next, b"x");

    comes(&mut s, next, b"unread");
    s.hear(Message::Close { recipient: next.ours });
    assert_eq!(s.state(next.id), ClientState::Finished);
    let third = s.redial(next.id, 100, 100);
    exactly(&s.read(3, third.id, 100), []);
    exactly(&comes(&mut s, third, b"third"), [data(3, "third")]);
}

/// A read without a conversation says which it is that is missing.
#[test]
fn a_read_without_a_conversation_is_refused() {
    let mut s = Bench::new();
    let id = s.client();
    let refused = |effects: &[Effect]| error(effects).code;
    assert_eq!(refused(&s.read(1, id, 1)), ErrorCode::NotConnected);
    assert_eq!(refused(&s.read(1, id, 0)), ErrorCode::NotConnected);
    let listener = s.announce("*!1");
    assert_eq!(refused(&s.read(2, listener, 1)), ErrorCode::NotConnected);
    s.control(3, id, "announce *!2");
    assert_eq!(refused(&s.read(4, id, 1)), ErrorCode::NotConnected);
    s.control(5, id, "hangup");
    let line = s.dial();
    s.read(6, line.id, 1);
    exactly(
        &s.control(7, line.id, "hangup"),
        [
            send(Message::Close { recipient: line.theirs }),
            failed(6, ErrorCode::HungUp, "i/o on hungup channel"),
            done(7),
        ],
    );
    assert_eq!(refused(&s.read(8, line.id, 1)), ErrorCode::HungUp);
}
