//! The receive window: what the peer may send, and what it is told (RFC 4254
//! section 5.2).

use sshnet_core::message::Message;
use sshnet_core::{ClientState, Effect, ErrorCode, Limits};
use sshnet_tests::bench::{Bench, Line, limits};
use sshnet_tests::peer::{data, error, exactly, failed, send, sent, warn};

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

/// RFC 4254 section 5.2 (duty 9): the peer may fill its window exactly. One byte
/// more would leave a hole in the stream; sshnet.c dropped the packet and went on
/// (defect 3). The channel is closed, what came can be read, everyone is told.
#[test]
fn data_past_the_window_closes_the_channel() {
    let mut s = Bench::new();
    let other = s.dial();
    let line = s.dial();
    let all = s.fill(line, 0);
    assert_eq!(s.info(line.id).receive_window, 0);
    exactly(&comes(&mut s, line, 0), []);
    exactly(
        &comes(&mut s, line, 1),
        [
            warn("client 1: the far side sent data past the window"),
            send(Message::Close { recipient: line.theirs }),
        ],
    );
    assert_eq!(s.state(line.id), ClientState::Finished);
    assert_eq!(s.info(line.id).unread, all.len() as u64);
    let effects = s.read(1, line.id, u32::MAX);
    exactly(&effects, [data(1, all)]);
    let told = "the far side sent data past the window";
    exactly(&s.read(2, line.id, 1), [failed(2, ErrorCode::Other, told)]);
    exactly(&s.write(3, line.id, "x"), [failed(3, ErrorCode::Other, told)]);
    s.blames(line.id, told);
    assert_eq!(s.state(other.id), ClientState::Established);
}

/// A packet larger than what is left of a window that is not empty: sshnet.c
/// took it (defect 3).
#[test]
fn a_packet_larger_than_what_is_left_of_the_window_closes_the_channel() {
    let mut s = Bench::new();
    let line = s.dial();
    let all = s.fill(line, 768);
    let effects = comes(&mut s, line, 769);
    assert_eq!(sent(&effects), [Message::Close { recipient: line.theirs }]);
    assert_eq!(s.info(line.id).unread, all.len() as u64);
}

/// RFC 4254 section 5.2 (duty 10): we said how large a packet may be.
#[test]
fn a_packet_larger_than_we_allow_closes_the_channel() {
    let mut s = Bench::new();
    let line = s.dial();
    exactly(&comes(&mut s, line, 32_768), []);
    let line = s.dial();
    let effects = comes(&mut s, line, 32_769);
    assert_eq!(sent(&effects), [Message::Close { recipient: line.theirs }]);
    s.blames(line.id, "the far side sent a packet that is too large");
}

/// After a violation the channel is only waiting for the peer's CLOSE; nothing is
/// sent on it any more (RFC 4254 section 5.3, duty 16).
#[test]
fn what_follows_a_violation_is_passed_over_until_close() {
    let mut s = Bench::new();
    let line = s.dial();
    comes(&mut s, line, 32_769);
    for message in [
        Message::Data { recipient: line.ours, data: b"x" },
        Message::ExtendedData { recipient: line.ours, code: 1, data: b"x" },
        Message::WindowAdjust { recipient: line.ours, bytes: u32::MAX },
        Message::Request { recipient: line.ours, name: b"x", want_reply: true, data: b"" },
        Message::Eof { recipient: line.ours },
    ] {
        exactly(&s.hear(message), []);
    }
    assert_eq!(s.statistics().channels, 1);
    exactly(&s.hear(Message::Close { recipient: line.ours }), []);
    assert_eq!(s.statistics().channels, 0);
}

/// A read that waits takes the bytes as they come, and window is given at once.
#[test]
fn a_waiting_read_is_credited_when_data_comes() {
    let mut s = Bench::new();
    let line = s.dial();
    s.read(1, line.id, 32_768);
    exactly(
        &comes(&mut s, line, 32_768),
        [
            data(1, vec![7; 32_768]),
            send(Message::WindowAdjust { recipient: line.theirs, bytes: 32_768 }),
        ],
    );
}

/// RFC 4254 section 5.2 (duty 12): extended data takes the same window. There is
/// no file for it, so it is credited at once; sshnet.c passed it over without,
/// and the channel stood still (defect 11).
#[test]
fn extended_data_is_dropped_and_its_window_given_back() {
    let mut s = Bench::new();
    let line = s.dial();
    let stderr = |data| Message::ExtendedData { recipient: line.ours, code: 1, data };
    let mut given = u64::from(s.info(line.id).receive_window);
    for _ in 0..64 {
        let effects = s.hear(stderr(&[1; 8_192]));
        given = given - 8_192 + granted(&effects);
        assert!(given >= 8_192, "the window closes");
        assert_eq!(u64::from(s.info(line.id).receive_window), given);
    }
    assert_eq!(s.info(line.id).unread, 0);
    assert_eq!(s.info(line.id).received, 0);
    exactly(&s.read(1, line.id, 9), []);
}

/// It is held to the window and the packet as well (duty 12).
#[test]
fn extended_data_past_the_window_or_the_packet_closes_the_channel() {
    let mut s = Bench::new();
    let line = s.dial();
    s.fill(line, 768);
    let effects = s.hear(Message::ExtendedData { recipient: line.ours, code: 1, data: &[1; 769] });
    assert_eq!(sent(&effects), [Message::Close { recipient: line.theirs }]);
    let line = s.dial();
    let effects =
        s.hear(Message::ExtendedData { recipient: line.ours, code: 1, data: &[1; 32_769] });
    assert_eq!(sent(&effects), [Message::Close { recipient: line.theirs }]);
}

/// RFC 4254 section 5.3 (duties 14, 16): who has sent EOF needs no window, and
/// after our CLOSE nothing may be sent. sshnet.c credited channels after its
/// CLOSE, perhaps another's by then (defect 4).
#[test]
fn no_window_is_given_after_eof_or_close() {
    let mut s = Bench::new();
    // Nor once it is closed, which the ledger sees to as well.
    let nothing = |effects: &[Effect], request, bytes: &[u8]| {
        exactly(effects, [data(request, bytes)]);
        assert_eq!(granted(effects), 0);
    };
    let line = s.dial();
    let all = s.fill(line, 0);
    let (most, rest) = all.split_at(all.len() * 2 / 3);
    s.hear(Message::Eof { recipient: line.ours });
    nothing(&s.read(1, line.id, most.len() as u32), 1, most);
    s.hear(Message::Close { recipient: line.ours });
    nothing(&s.read(2, line.id, u32::MAX), 2, rest);

    let line = s.dial();
    let all = s.fill(line, 0);
    s.hear(Message::Close { recipient: line.ours });
    nothing(&s.read(3, line.id, u32::MAX), 3, &all);

    let line = s.dial();
    s.fill(line, 0);
    s.control(4, line.id, "hangup");
    assert_eq!(error(&s.read(5, line.id, 65_536)).code, ErrorCode::HungUp);
}

/// RFC 4254 section 5.3 (duty 14): after EOF there is no more data. sshnet.c
/// took it if there was window (duty 14).
#[test]
fn data_after_the_peers_eof_closes_the_channel() {
    for extended in [false, true] {
        let mut s = Bench::new();
        let line = s.dial();
        comes(&mut s, line, 3);
        s.hear(Message::Eof { recipient: line.ours });
        let effects = if extended {
            s.hear(Message::ExtendedData { recipient: line.ours, code: 1, data: b"x" })
        } else {
            comes(&mut s, line, 1)
        };
        assert_eq!(sent(&effects), [Message::Close { recipient: line.theirs }]);
        assert_eq!(s.state(line.id), ClientState::Finished);
        // What came before EOF is whole, and so is its end.
        exactly(&s.read(1, line.id, 100), [data(1, [7; 3])]);
        exactly(&s.read(2, line.id, 100), [data(2, "")]);
        let told = "the far side sent data after its end of file";
        s.blames(line.id, told);
    }
}

/// The windows of all conversations together stay within the budget, whatever
/// they do; there is always some left for the next.
#[test]
fn all_windows_together_stay_within_the_budget() {
    let budget = 1 << 20;
    let mut s = Bench::with(Limits {
        clients: 64,
        windows: budget,
        window: 1 << 20,
        window_max: 1 << 20,
        ..limits()
    });
    let mut lines = Vec::new();
    for _ in 0..64 {
        let line = s.dial();
        assert!(s.info(line.id).receive_window > 0, "no window for conversation {}", lines.len());
        assert!(s.statistics().windows <= budget);
        lines.push(line);
    }
    // The peer sends all that it may, nobody reads.
    for line in &lines {
        let mut left = s.info(line.id).receive_window as usize;
        while left > 0 {
            let piece = left.min(32_768);
            exactly(&comes(&mut s, *line, piece), []);
            left -= piece;
        }
    }
    assert!(s.statistics().windows <= budget);
    // Now all read: each gets window again, and the sum is kept.
    for line in &lines {
        let (_, given) = s.drain(*line);
        assert!(given > 0, "a reader was not credited");
        assert!(s.statistics().windows <= budget);
    }
    let open: u64 = lines.iter().map(|line| u64::from(s.info(line.id).receive_window)).sum();
    assert_eq!(open, s.statistics().windows);
    // And when they are gone nothing is left of it.
    for line in lines {
        s.release(line.id);
    }
    assert_eq!(s.statistics().windows, 0);
}

/// RFC 4254 section 5.2: the window offered is what can be kept; a conversation
/// that ended and was not read still counts.
#[test]
fn unread_bytes_of_ended_conversations_count_against_the_budget() {
    let mut s = Bench::new();
    let line = s.dial();
    comes(&mut s, line, 20_000);
    s.hear(Message::Close { recipient: line.ours });
    assert_eq!(s.statistics().windows, 20_000);
    s.read(1, line.id, 5_000);
    assert_eq!(s.statistics().windows, 15_000);
    s.release(line.id);
    assert_eq!(s.statistics().windows, 0);
}
