//! How our engine shares the pipe and what may be unacknowledged: whose turn it is, to
//! the message and to the byte.
//!
//! The contract asks for less: that all who have something to send take turns, and
//! that none waits who has less than its part on the way.

use sshnet_core::message::Message;
use sshnet_core::{ErrorCode, Limits};
use sshnet_tests::bench::{Bench, Line, PACKET, WINDOW, limits};
use sshnet_tests::peer::{
    among, count, data_sent, direct, exactly, failed, order, question, send, sent,
};

/// A room for three packets of 1000 bytes.
fn narrow() -> Limits {
    Limits { packet: 1_000, room: 3_000, ..limits() }
}

/// A peer that takes packets of one byte makes no event endless: 1,024 messages
/// are made, and more when the pipe has taken those. One that may send nothing
/// and has its turn does not count.
#[test]
fn an_event_makes_no_more_than_1024_data_messages() {
    let Some(mut s) = Bench::of_ours(limits()) else { return };
    let (a, b) = (s.dial_with(WINDOW, 1), s.dial_with(0, PACKET));
    s.took_all();
    assert_eq!(order(&s.write(1, a.id, vec![1; 4_000])).len(), 1_024);
    assert_eq!(order(&s.write(2, b.id, b"x")).len(), 1_024);
    assert_eq!(order(&s.took_all()).len(), 1_024);
    assert_eq!(order(&s.took_all()).len(), 928);
    assert!(s.took_all().is_empty());
}

/// A keystroke waits for one packet of each bulk upload, not for all of them.
#[test]
fn two_bulk_writers_and_a_keystroke_take_turns() {
    let Some(mut s) = Bench::of_ours(narrow()) else { return };
    let (a, b, c) = (s.dial(), s.dial(), s.dial());
    s.took_all();
    s.write(1, a.id, vec![1; 100_000]);
    s.write(2, b.id, vec![2; 100_000]);
    let effects = s.took_all();
    assert_eq!(order(&effects), [a.theirs, b.theirs, a.theirs]);
    exactly(&s.write(3, c.id, b"k"), []);
    let effects = s.took_all();
    assert_eq!(order(&effects), [b.theirs, a.theirs, c.theirs, b.theirs][..order(&effects).len()]);
    among(&effects, count(3, 1));
    // And they share what there is.
    let mut turns = [0_u32; 2];
    for _ in 0..20 {
        for channel in order(&s.took_all()) {
            turns[usize::from(channel == b.theirs)] += 1;
        }
    }
    assert!(turns[0].abs_diff(turns[1]) <= 1, "{turns:?}");
}

/// Who has nothing to send has no place among those who wait for the pipe, though its
/// window was opened just now.
#[test]
fn turns_come_in_the_order_of_the_writes() {
    let Some(mut s) = Bench::of_ours(narrow()) else { return };
    let (idle, first, bulk) = (s.dial(), s.dial(), s.dial());
    s.took_all();
    s.write(1, bulk.id, vec![1; 3_000]);
    assert!(s.statistics().in_pipe >= 3_000, "the pipe is full");
    exactly(&s.hear(Message::WindowAdjust { recipient: idle.ours, bytes: 9 }), []);
    s.write(2, first.id, b"x");
    s.write(3, idle.id, b"x");
    assert_eq!(order(&s.took_all()), [first.theirs, idle.theirs]);
}

/// Dials that waited for a pipe are made until it is full, and not past that.
#[test]
fn dials_that_waited_fill_the_room_to_the_byte() {
    let host = "h".repeat(10);
    let open = direct(0, 65_536, 256, &host, 7).encode().len() as u32;
    let limits = Limits { packet: 256, room: 4 * open, dial_wait: 1_000, ..limits() };
    assert_eq!(limits.room, 256, "no room is smaller than a packet");
    let Some(mut s) = Bench::of_ours(limits) else { return };
    s.pipe_down("gone");
    for request in 1..8 {
        let id = s.client();
        s.control(request, id, format!("connect {host}!7"));
    }
    assert_eq!(sent(&s.pipe_up()).len(), 4);
    assert_eq!(s.statistics().in_pipe, 256);
    assert_eq!(sent(&s.took(1)).len(), 1, "one byte of room is room");
    assert_eq!(sent(&s.took_all()).len(), 2);
}

/// One upload alone may have a good part of what may be unacknowledged, and there is
/// always something left for the next.
#[test]
fn one_upload_has_a_good_part_of_the_limit_and_leaves_some() {
    let limit = 100_000;
    let limits = Limits {
        packet: 1_000,
        unacknowledged: limit,
        queued: 10 << 20,
        room: 10 << 20,
        ..limits()
    };
    let Some(mut s) = Bench::of_ours(limits) else { return };
    let (a, b) = (s.dial_with(8 << 20, PACKET), s.dial_with(8 << 20, PACKET));
    let first = data_sent(&s.write(1, a.id, vec![1; 300_000]), a.theirs).len();
    assert!(first >= 40_000, "{first}");
    let second = data_sent(&s.write(2, b.id, vec![2; 300_000]), b.theirs).len();
    assert!(second >= 10_000, "{second}");
}

/// Bytes that are sent and not acknowledged when two uploads wait at the limit,
/// and the part of the pool that is free then.
fn at_the_limit(room: u32) -> Option<(Bench, [Line; 2], [u64; 2], u64)> {
    let limit = 100_000;
    let mut s = Bench::of_ours(Limits {
        packet: 1_000,
        unacknowledged: limit,
        queued: 10 << 20,
        room,
        ..limits()
    })?;
    let lines = [s.dial_with(8 << 20, PACKET), s.dial_with(8 << 20, PACKET)];
    let mut held = [0, 0];
    for (i, line) in lines.into_iter().enumerate() {
        let mut effects = s.write(1 + i as u64, line.id, vec![1; 300_000]);
        let mut rounds = 0;
        while !effects.is_empty() {
            held[i] += data_sent(&effects, line.theirs).len() as u64;
            effects = s.took_all();
            rounds += 1;
            assert!(rounds <= limit / 1_000, "no end at {held:?}: {effects:?}");
        }
    }
    // Each of the eight clients is sure of a packet; the rest is shared.
    let free = limit - 8 * 1_000 - held.iter().map(|held| held - 1_000).sum::<u64>();
    assert!(held[1] < held[0] && free < held[1], "{held:?} {free}");
    Some((s, lines, held, free))
}

/// Of those who wait at the limit, the one who needs least goes on, whoever's
/// bytes are acknowledged, and as soon as there is enough.
#[test]
fn who_needs_least_goes_on_when_anothers_bytes_are_acknowledged() {
    let Some((mut s, [a, b], held, free)) = at_the_limit(10 << 20) else { return };
    // To send another packet it needs as much again as it holds.
    let needs = u32::try_from(held[1] - free).expect("it is small");
    let adjust = |bytes| Message::WindowAdjust { recipient: a.ours, bytes };
    exactly(&s.hear(adjust(needs - 1)), []);
    assert_eq!(order(&s.hear(adjust(1))), [b.theirs]);
}

/// And it takes its turn behind those who have one, not after all of them are
/// done.
#[test]
fn who_goes_on_takes_turns_with_those_who_send() {
    let Some((mut s, [a, b], held, free)) = at_the_limit(3_000) else { return };
    let third = s.dial_with(8 << 20, PACKET);
    s.took_all();
    let effects = s.write(3, third.id, vec![3; 300_000]);
    assert_eq!(data_sent(&effects, third.theirs).len(), 3_000, "as much as there is room for");
    let bytes = u32::try_from(held[1] - free).expect("it is small") + 4_000;
    exactly(&s.hear(Message::WindowAdjust { recipient: a.ours, bytes }), []);
    let mut order = order(&s.took_all());
    order.sort_unstable();
    assert_eq!(order, [b.theirs, third.theirs, third.theirs]);
}

/// An answer says that what was sent before the question has arrived; what was
/// acknowledged in the meantime is not counted twice.
#[test]
fn an_answer_acknowledges_what_no_window_did() {
    let Some((mut s, [a, _], held, _)) = at_the_limit(10 << 20) else { return };
    assert_eq!(s.statistics().unacknowledged, held[0] + held[1]);
    let half = u32::try_from(held[0] / 2).expect("it is small");
    let mut effects = s.hear(Message::WindowAdjust { recipient: a.ours, bytes: half });
    effects.extend(s.took_all());
    let more: usize = order(&effects).iter().map(|_| 1_000).sum();
    let before = s.statistics().unacknowledged;
    assert_eq!(before, held[0] + held[1] - u64::from(half) + more as u64);
    let effects = s.hear(Message::Failure { recipient: a.ours });
    let sent = 1_000 * order(&effects).len() as u64;
    let arrived = before + sent - s.statistics().unacknowledged;
    assert_eq!(arrived, held[0] - u64::from(half));
}

/// Who hangs up in the middle of an upload has it on the way still: OpenSSH drops what
/// goes beyond 128 MiB, whosever it is. It counts until the peer has answered what was
/// asked behind it, or closes the channel.
#[test]
fn what_is_on_the_way_at_a_hangup_counts_until_it_has_arrived() {
    for closes in [false, true] {
        let Some((mut s, [a, b], held, free)) = at_the_limit(10 << 20) else { return };
        let all = held[0] + held[1];
        // It had asked once, when it came to the limit.
        exactly(
            &s.release(a.id),
            [
                question(a.theirs),
                send(Message::Close { recipient: a.theirs }),
                failed(1, ErrorCode::HungUp, "i/o on hungup channel"),
            ],
        );
        assert_eq!(s.statistics().unacknowledged, all);
        if closes {
            assert_eq!(order(&s.hear(Message::Close { recipient: a.ours }))[0], b.theirs);
        } else {
            exactly(&s.hear(Message::Failure { recipient: a.ours }), []);
            assert_eq!(s.statistics().unacknowledged, all);
            assert_eq!(order(&s.hear(Message::Success { recipient: a.ours }))[0], b.theirs);
            exactly(&s.hear(Message::Close { recipient: a.ours }), []);
        }
        let more = s.statistics().unacknowledged - held[1];
        assert!(more >= free, "{more} and not {free}");
    }
}

/// A little is not worth a question, nor is what a pipe took along that is gone.
#[test]
fn little_on_the_way_is_not_asked_for_and_another_pipe_owes_nothing() {
    let Some((mut s, [a, b], ..)) = at_the_limit(10 << 20) else { return };
    let line = s.dial();
    s.write(3, line.id, vec![1; 1_000]);
    exactly(&s.release(line.id), [send(Message::Close { recipient: line.theirs })]);
    s.release(a.id);
    s.pipe_down("gone");
    assert_eq!(s.statistics().unacknowledged, 0);
    s.pipe_up();
    let b = s.redial(b.id, 8 << 20, PACKET);
    assert!(!order(&s.write(4, b.id, vec![1; 300_000])).is_empty());
}
