//! Who may send when: the pipe's room, and turns (RFC 4254 leaves both open).

use sshnet_core::message::{Global, Message};
use sshnet_core::{ClientState, Effect, ErrorCode, Limits};
use sshnet_tests::bench::{Bench, Line, PACKET, WINDOW, limits};
use sshnet_tests::peer::{count, data_sent, done, error, exactly, fail, send, sent, show};

/// The channels of the data messages, in order.
fn order(effects: &[Effect]) -> Vec<u32> {
    sent(effects)
        .iter()
        .filter_map(|message| match message {
            Message::Data { recipient, .. } => Some(*recipient),
            _ => None,
        })
        .collect()
}

/// A room for three packets of 1000 bytes.
fn narrow() -> Bench {
    Bench::with(Limits { packet: 1_000, room: 3_000, ..limits() })
}

/// In sshnet.c a full pipe blocked the whole program, and in the end both sides
/// (defect 24). Here data is made only while the pipe has room.
#[test]
fn data_is_made_only_while_the_pipe_has_room() {
    let mut s = narrow();
    let line = s.dial();
    s.took_all();
    let effects = s.write(1, line.id, vec![1; 10_000]);
    assert_eq!(order(&effects).len(), 3);
    assert_eq!(s.statistics().in_pipe, 3 * 1_009);
    assert_eq!(s.info(line.id).unsent, 7_000);
    exactly(&s.took(27), []);
    let effects = s.took(1);
    assert_eq!(order(&effects).len(), 1, "one byte of room is room");
    let mut got = 4_000;
    for _ in 0..6 {
        assert_eq!(s.ledger.in_pipe(), s.statistics().in_pipe);
        let effects = s.took(1_009);
        got += data_sent(&effects, line.theirs).len();
        if got == 10_000 {
            assert_eq!(effects.last(), Some(&count(1, 10_000)));
        }
    }
    assert_eq!(got, 10_000);
}

/// A peer that takes packets of one byte makes no event endless: 1,024 messages
/// are made, and more when the pipe has taken those. One that may send nothing
/// and has its turn does not count.
#[test]
fn an_event_makes_no_more_than_1024_data_messages() {
    let mut s = Bench::new();
    let (a, b) = (s.dial_with(WINDOW, 1), s.dial_with(0, PACKET));
    s.took_all();
    assert_eq!(order(&s.write(1, a.id, vec![1; 4_000])).len(), 1_024);
    assert_eq!(order(&s.write(2, b.id, b"x")).len(), 1_024);
    assert_eq!(order(&s.took_all()).len(), 1_024);
    assert_eq!(order(&s.took_all()).len(), 928);
    assert!(s.took_all().is_empty());
}

/// Taking more than there is counts as taking all.
#[test]
fn the_pipe_cannot_take_more_than_it_was_given() {
    let mut s = narrow();
    let line = s.dial();
    s.write(1, line.id, vec![1; 10_000]);
    s.took(u64::MAX);
    let in_pipe = s.statistics().in_pipe;
    assert!((3_000..=4_100).contains(&in_pipe), "{in_pipe}");
}

/// What is not data does not wait for room: a pipe full of an upload still
/// carries CLOSE, window and answers.
#[test]
fn other_messages_do_not_wait_for_room() {
    let mut s = narrow();
    let bulk = s.dial();
    let other = s.dial();
    s.took_all();
    s.write(1, bulk.id, vec![1; 10_000]);
    exactly(
        &s.control(2, other.id, "hangup"),
        [send(Message::Close { recipient: other.theirs }), done(2)],
    );
    let id = s.client();
    assert_eq!(sent(&s.control(3, id, "connect h!7")).len(), 1);
    let request =
        Message::Request { recipient: bulk.ours, name: b"x", want_reply: true, data: b"" };
    exactly(&s.hear(request), [send(Message::Failure { recipient: bulk.theirs })]);
}

/// A keystroke waits for one packet of each bulk upload, not for all of them.
#[test]
fn two_bulk_writers_and_a_keystroke_take_turns() {
    let mut s = narrow();
    let (a, b, c) = (s.dial(), s.dial(), s.dial());
    s.took_all();
    s.write(1, a.id, vec![1; 100_000]);
    s.write(2, b.id, vec![2; 100_000]);
    let effects = s.took_all();
    assert_eq!(order(&effects), [a.theirs, b.theirs, a.theirs]);
    exactly(&s.write(3, c.id, b"k"), []);
    let effects = s.took_all();
    assert_eq!(order(&effects), [b.theirs, a.theirs, c.theirs, b.theirs][..order(&effects).len()]);
    assert!(effects.contains(&count(3, 1)), "{}", show(&effects));
    // And they share what there is.
    let mut turns = [0_u32; 2];
    for _ in 0..20 {
        for channel in order(&s.took_all()) {
            turns[usize::from(channel == b.theirs)] += 1;
        }
    }
    assert!(turns[0].abs_diff(turns[1]) <= 1, "{turns:?}");
}

/// EOF keeps its place behind the data, and waits for room as data does.
#[test]
fn eof_keeps_its_place_behind_the_data() {
    let mut s = narrow();
    let line = s.dial();
    s.took_all();
    s.write(1, line.id, vec![1; 4_000]);
    exactly(&s.control(2, line.id, "closewrite"), []);
    let effects = s.took_all();
    assert_eq!(order(&effects).len(), 1);
    assert_eq!(
        effects[1..],
        [count(1, 4_000), send(Message::Eof { recipient: line.theirs }), done(2)]
    );
}

/// A conversation without window gives its turn away.
#[test]
fn a_conversation_without_window_blocks_nobody() {
    let mut s = narrow();
    let stuck = s.dial_with(0, PACKET);
    let line = s.dial();
    s.took_all();
    s.write(1, stuck.id, b"waits");
    exactly(
        &s.write(2, line.id, b"goes"),
        [send(Message::Data { recipient: line.theirs, data: b"goes" }), count(2, 4)],
    );
}

/// A peer that makes the engine answer and does not read fails the session
/// before memory does.
#[test]
fn a_flood_of_requests_without_reading_fails_the_session() {
    let mut s = Bench::with(Limits { packet: 1_000, room: 1_000, control: 4_096, ..limits() });
    let line = s.dial();
    s.took_all();
    let request =
        || Message::Request { recipient: line.ours, name: b"x", want_reply: true, data: b"" };
    // Room, a packet and the limit for the rest, in answers of 5 bytes.
    let most = (1_000 + 1_000 + 4_096) / 5;
    for _ in 0..most {
        exactly(&s.hear(request()), [send(Message::Failure { recipient: line.theirs })]);
    }
    assert_eq!(s.statistics().in_pipe, most * 5);
    exactly(
        &s.hear(request()),
        [
            send(Message::Failure { recipient: line.theirs }),
            fail("the far side asks for answers and does not read them"),
        ],
    );
    assert_eq!(s.state(line.id), ClientState::Finished);
    assert_eq!(s.statistics().in_pipe, 0);
}

/// One that reads may ask as much as it likes.
#[test]
fn a_peer_that_reads_may_ask_for_ever() {
    let mut s = Bench::with(Limits { room: 32_768, control: 4_096, ..limits() });
    let line = s.dial();
    let request =
        || Message::Request { recipient: line.ours, name: b"x", want_reply: true, data: b"" };
    for _ in 0..20_000 {
        s.hear(request());
        s.took_all();
    }
    assert!(s.statistics().pipe_up);
}

/// The users of the files cannot fail the session by dialing into a pipe that is
/// stuck: past half of the limit they are refused.
#[test]
fn dials_into_a_stuck_pipe_are_refused_before_the_session_fails() {
    let mut s = Bench::with(Limits {
        clients: 1_000,
        packet: 1_000,
        room: 1_000,
        control: 4_096,
        ..limits()
    });
    let mut refused = 0;
    for request in 0..200 {
        let id = s.client();
        let effects = s.control(request, id, "connect h!7");
        if sent(&effects).is_empty() {
            assert_eq!(error(&effects).code, ErrorCode::ResourceExhausted);
            let effects = s.control(1_000 + request, id, "announce 99");
            assert_eq!(error(&effects).code, ErrorCode::ResourceExhausted);
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
    assert!(s.statistics().pipe_up);
    assert!(s.statistics().in_pipe <= 1_000 + 4_096);
}

/// To the byte: half of what answers may come to is left to the peer, and past
/// all of it the session fails.
#[test]
fn a_stuck_pipe_has_its_limits_to_the_byte() {
    let narrow = || Bench::with(Limits { packet: 1_000, room: 1_000, control: 4_096, ..limits() });
    // Its answer has one byte.
    let ask = |s: &mut Bench| {
        let request = Global::Other { name: b"x", data: b"" };
        s.hear(Message::GlobalRequest { want_reply: true, request })
    };
    for (bytes, dialed) in [(1_000 + 2_048, true), (1_000 + 2_049, false)] {
        let mut s = narrow();
        let id = s.client();
        for _ in 0..bytes {
            ask(&mut s);
        }
        let effects = s.control(1, id, "connect h!7");
        assert_eq!(sent(&effects).len(), usize::from(dialed), "{bytes}");
    }
    let mut s = narrow();
    for _ in 0..1_000 + 1_000 + 4_096 {
        exactly(&ask(&mut s), [send(Message::RequestFailure)]);
    }
    let told = "the far side asks for answers and does not read them";
    exactly(&ask(&mut s), [send(Message::RequestFailure), fail(told)]);
}

/// What is sent and not acknowledged has a limit for the session; who waits at it
/// goes on when the peer gives window.
#[test]
fn uploads_wait_at_the_sessions_limit_and_go_on_when_acknowledged() {
    let limit = 100_000;
    let mut s = Bench::with(Limits {
        packet: 1_000,
        unacknowledged: limit,
        queued: 10 << 20,
        room: 10 << 20,
        ..limits()
    });
    let (a, b) = (s.dial_with(8 << 20, PACKET), s.dial_with(8 << 20, PACKET));
    let mut got = [0, 0];
    let mut note = |effects: &[Effect]| {
        for message in sent(effects) {
            if let Message::Data { recipient, data } = message {
                got[usize::from(recipient == b.theirs)] += data.len();
            }
        }
        got
    };
    note(&s.write(1, a.id, vec![1; 300_000]));
    let first = note(&[])[0];
    assert!(first >= 40_000, "one alone may have a good part of it: {first}");
    let both = note(&s.write(2, b.id, vec![2; 300_000]));
    assert!(both[1] >= 10_000, "there is always something left for the next: {both:?}");
    assert!(s.statistics().unacknowledged <= limit);
    let mut rounds = 0;
    let mut given = [0, 0];
    loop {
        let all = note(&[]);
        if all == [300_000, 300_000] {
            break;
        }
        for (i, line) in [a, b].into_iter().enumerate() {
            let bytes = (all[i] - given[i]) as u32;
            given[i] = all[i];
            note(&s.hear(Message::WindowAdjust { recipient: line.ours, bytes }));
            assert!(s.statistics().unacknowledged <= limit);
        }
        rounds += 1;
        assert!(rounds < 100, "no progress at {all:?}");
    }
    assert_eq!(s.ledger.outstanding(), []);
}

/// Bytes that are sent and not acknowledged when two uploads wait at the limit,
/// and the part of the pool that is free then.
fn at_the_limit(room: u32) -> (Bench, [Line; 2], [u64; 2], u64) {
    let limit = 100_000;
    let mut s = Bench::with(Limits {
        packet: 1_000,
        unacknowledged: limit,
        queued: 10 << 20,
        room,
        ..limits()
    });
    let lines = [s.dial_with(8 << 20, PACKET), s.dial_with(8 << 20, PACKET)];
    let mut held = [0, 0];
    for (i, line) in lines.into_iter().enumerate() {
        let mut effects = s.write(1 + i as u64, line.id, vec![1; 300_000]);
        while !effects.is_empty() {
            held[i] += data_sent(&effects, line.theirs).len() as u64;
            effects = s.took_all();
        }
    }
    // Each of the eight clients is sure of a packet; the rest is shared.
    let free = limit - 8 * 1_000 - held.iter().map(|held| held - 1_000).sum::<u64>();
    assert!(held[1] < held[0] && free < held[1], "{held:?} {free}");
    (s, lines, held, free)
}

/// Of those who wait at the limit, the one who needs least goes on, whoever's
/// bytes are acknowledged, and as soon as there is enough.
#[test]
fn who_needs_least_goes_on_when_anothers_bytes_are_acknowledged() {
    let (mut s, [a, b], held, free) = at_the_limit(10 << 20);
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
    let (mut s, [a, b], held, free) = at_the_limit(3_000);
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
    let (mut s, [a, _], held, _) = at_the_limit(10 << 20);
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

/// RFC 4254 section 5.2 (duty 8): a peer with a huge window need not raise it for
/// a long time. An upload past the limit on what is unacknowledged goes on, when
/// the peer otherwise shows that it has read it.
#[test]
fn a_peer_that_gives_one_huge_window_and_no_more_gets_the_whole_upload() {
    let mut s = Bench::with(Limits { unacknowledged: 100_000, ..limits() });
    let line = s.dial_with(u32::MAX, PACKET);
    let all = vec![3; 600_000];
    let mut effects = s.write(1, line.id, &all);
    let mut got = 0;
    for _ in 0..100 {
        got += data_sent(&effects, line.theirs).len();
        if got == all.len() {
            break;
        }
        // A peer does what it must: it refuses requests that it doesn't know.
        let asked = sent(&effects)
            .iter()
            .filter(|message| matches!(message, Message::Request { want_reply: true, .. }))
            .count();
        effects = s.took_all();
        for _ in 0..asked {
            effects.extend(s.hear(Message::Failure { recipient: line.ours }));
        }
    }
    assert_eq!(got, all.len(), "the upload stands still");
    assert_eq!(s.ledger.outstanding(), []);
}

/// Who hangs up and dials again while it waits for its turn has one turn afterwards,
/// however often it did so.
#[test]
fn a_client_that_dials_again_has_one_turn_as_all_the_others() {
    let mut s = narrow();
    let (mut a, b) = (s.dial(), s.dial());
    s.took_all();
    let bulk = vec![1; 100_000];
    s.write(1, b.id, &bulk);
    for request in 2..7 {
        s.write(request, a.id, &bulk);
        s.control(10 + request, a.id, "hangup");
        a = s.redial(a.id, WINDOW, PACKET);
    }
    s.write(7, a.id, &bulk);
    let mut turns = [0_u32; 2];
    for _ in 0..20 {
        for channel in order(&s.took_all()) {
            turns[usize::from(channel == b.theirs)] += 1;
        }
    }
    assert!(turns[0].abs_diff(turns[1]) <= 1, "{turns:?}");
    // So it is on the next pipe.
    s.pipe_down("gone");
    s.pipe_up();
    let (a, b) = (s.redial(a.id, WINDOW, PACKET), s.redial(b.id, WINDOW, PACKET));
    s.took_all();
    s.write(8, b.id, &bulk);
    s.write(9, a.id, &bulk);
    assert_eq!(order(&s.took_all()), [b.theirs, a.theirs, b.theirs]);
}

/// What many users end at once is not the peer's doing, who reads nothing just then
/// and asks for nothing.
#[test]
fn what_users_end_into_a_stuck_pipe_does_not_fail_the_session() {
    let mut s = Bench::with(Limits {
        clients: 400,
        packet: 1_000,
        room: 1_000,
        control: 4_096,
        ..limits()
    });
    for port in 1..300 {
        s.announce(&format!("*!{port}"));
        s.took_all();
    }
    let effects = s.shutdown("over");
    assert_eq!(sent(&effects).len(), 299);
    assert!(s.statistics().in_pipe > 1_000 + 1_000 + 4_096);
    // Nor is one answer to it one too many.
    let ask = Message::GlobalRequest {
        want_reply: true,
        request: Global::Other { name: b"x", data: b"" },
    };
    exactly(&s.hear(ask), [send(Message::RequestFailure)]);
    // What it may ask for is what it may always, of messages other than data.
    for _ in 1..4_096 {
        exactly(&s.hear(ask), [send(Message::RequestFailure)]);
    }
    let told = "the far side asks for answers and does not read them";
    exactly(&s.hear(ask), [send(Message::RequestFailure), fail(told)]);
}
