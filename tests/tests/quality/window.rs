//! How our engine gives receive window: how much for what, and when.
//!
//! The contract asks for less: that the peer is never left without window when all
//! was read, and never given more than the limits.

use sshnet_core::message::Message;
use sshnet_core::{Effect, Limits};
use sshnet_tests::bench::{Bench, Line, limits};
use sshnet_tests::peer::{data, exactly, send, sent};

fn comes(s: &mut Bench, line: Line, length: usize) -> Vec<Effect> {
    s.hear(Message::Data { recipient: line.ours, data: &vec![7; length] })
}

/// How much the effects let the peer send.
fn granted(effects: &[Effect]) -> u64 {
    sent(effects)
        .iter()
        .map(|message| match message {
            Message::WindowAdjust { bytes, .. } => u64::from(*bytes),
            other => panic!("{other:?}"),
        })
        .sum()
}

/// Window is given back for what is read, in pieces worth a message: sshnet.c
/// waited for half of it, which halves what a path with delay carries (defect 32).
#[test]
fn window_is_given_for_what_was_read_in_pieces_worth_a_message() {
    let Some(mut s) = Bench::of_ours(limits()) else { return };
    let line = s.dial();
    comes(&mut s, line, 32_768);
    comes(&mut s, line, 32_768);
    // Nothing for what only came.
    assert_eq!(s.info(line.id).receive_window, 0);
    // A packet's worth: half of this small window.
    exactly(&s.read(1, line.id, 32_767), [data(1, vec![7; 32_767])]);
    exactly(
        &s.read(2, line.id, 1),
        [data(2, [7]), send(Message::WindowAdjust { recipient: line.theirs, bytes: 32_768 })],
    );
    assert_eq!(s.info(line.id).receive_window, 32_768);
}

/// What others gave up is there for whoever reads next, and a read that only waits is
/// no reason to give window.
#[test]
fn a_read_that_takes_nothing_gives_no_window() {
    let limits = Limits { windows: 160_000, ..limits() };
    let Some(mut s) = Bench::of_ours(limits) else { return };
    let others: Vec<Line> = (0..7).map(|_| s.dial()).collect();
    let line = s.dial();
    let window = s.info(line.id).receive_window;
    assert!(window < 16_384, "{window}");
    for other in others {
        s.control(1, other.id, "hangup");
    }
    exactly(&s.read(2, line.id, 100_000), []);
    let effects = comes(&mut s, line, 1_000);
    assert!(s.info(line.id).receive_window > window, "{effects:?}");
}

/// A reader that keeps up never lets the window fall below what is in force: the
/// sum of grants is that of the bytes read, to within a message's worth.
#[test]
fn a_reader_that_keeps_up_keeps_the_window_open() {
    let Some(mut s) = Bench::of_ours(limits()) else { return };
    let line = s.dial();
    let mut given: u64 = 65_536;
    let mut taken = 0;
    for size in (0..400).map(|i| 1 + i * 997 % 30_000) {
        assert!(given - taken >= size as u64, "the window closed on {size} bytes");
        let effects = comes(&mut s, line, size);
        given += granted(&effects);
        taken += size as u64;
        let (bytes, more) = s.drain(line);
        assert_eq!(bytes.len(), size);
        given += more;
        assert!(given <= taken + 65_536, "more than the window");
        assert!(given + 32_768 > taken + 65_536, "less than it should be");
    }
}

/// Of a window too small for an eighth of it to be worth a message, half is.
#[test]
fn half_of_a_small_window_is_worth_a_message() {
    let limits = Limits { window: 32_768, window_max: 32_768, ..limits() };
    let Some(mut s) = Bench::of_ours(limits) else { return };
    let line = s.dial();
    let window = s.info(line.id).receive_window;
    assert_eq!(window, 32_768);
    s.hear(Message::Data { recipient: line.ours, data: &[1; 16_383] });
    assert_eq!(s.drain(line).1, 0);
    s.hear(Message::Data { recipient: line.ours, data: b"x" });
    assert_eq!(s.drain(line).1, 16_384);
}

/// Of a large window an eighth is worth a message, and less is not.
#[test]
fn an_eighth_of_a_large_window_is_worth_a_message() {
    let window = 1 << 20;
    let limits = Limits { windows: 1 << 30, window, window_max: window, ..limits() };
    let Some(mut s) = Bench::of_ours(limits) else { return };
    let line = s.dial();
    assert_eq!(s.info(line.id).receive_window, window);
    for _ in 0..3 {
        s.hear(Message::Data { recipient: line.ours, data: &[1; 32_768] });
        assert_eq!(s.drain(line).1, 0);
    }
    s.hear(Message::Data { recipient: line.ours, data: &[1; 32_768] });
    assert_eq!(s.drain(line).1, 4 * 32_768);
}
