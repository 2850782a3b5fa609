//! Who may send when: the pipe's room, and turns (RFC 4254 leaves both open).

use sshnet_core::message::{Global, Message, reason};
use sshnet_core::{ClientId, ClientState, Effect, ErrorCode, Limits};
use sshnet_tests::bench::{Bench, Line, PACKET, limits, taken, tight};
use sshnet_tests::peer::{
    among, call, count, data_sent, done, error, exactly, fail, order, refusal, send, sent,
};

/// A room for three packets of 1000 bytes.
fn narrow() -> Bench {
    Bench::with(Limits { packet: 1_000, room: 3_000, ..limits() })
}

/// In sshnet.c a full pipe blocked the whole program, and in the end both sides
/// (defect 24). Here data is made only while the pipe has room.
#[test]
fn data_is_made_only_while_the_pipe_has_room() {
    let room = 3_000;
    let mut s = narrow();
    let line = s.dial();
    s.took_all();
    let mut got = 0;
    let mut effects = s.write(1, line.id, vec![1; 10_000]);
    loop {
        got += data_sent(&effects, line.theirs).len();
        let in_pipe = s.statistics().in_pipe;
        assert_eq!(s.ledger.in_pipe(), in_pipe);
        let last = sent(&effects).last().map_or(0, |message| message.encode().len() as u64);
        assert!(in_pipe - last < room, "{in_pipe} in the pipe, and the last of them {last}");
        assert_eq!(s.info(line.id).unsent, 10_000 - got as u64);
        if got == 10_000 {
            break;
        }
        exactly(&s.took(in_pipe - room), []);
        effects = s.took(1);
        assert!(!order(&effects).is_empty(), "one byte of room is room");
    }
    among(&effects, count(1, 10_000));
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

/// A keystroke waits for a message of each bulk upload, not for all of one; and they
/// share what there is.
#[test]
fn a_keystroke_waits_for_no_upload_to_end() {
    let mut s = narrow();
    let (a, b, c) = (s.dial(), s.dial(), s.dial());
    s.took_all();
    s.write(1, a.id, vec![1; 100_000]);
    s.write(2, b.id, vec![2; 100_000]);
    s.took_all();
    exactly(&s.write(3, c.id, b"k"), []);
    let mut rounds = 0;
    while s.info(c.id).unsent > 0 {
        s.took_all();
        rounds += 1;
        assert!(rounds <= 2, "a keystroke waits");
    }
    let before = [s.info(a.id).sent, s.info(b.id).sent];
    for _ in 0..20 {
        s.took_all();
    }
    let more = [s.info(a.id).sent - before[0], s.info(b.id).sent - before[1]];
    assert!(more[0].abs_diff(more[1]) <= 1_000, "{more:?}");
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
    exactly(
        &effects,
        [
            send(Message::Data { recipient: line.theirs, data: &[1; 1_000] }),
            count(1, 4_000),
            send(Message::Eof { recipient: line.theirs }),
            done(2),
        ],
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
    let mut s = Bench::with(tight());
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

/// Nor may it make our users answer: what they send is its doing, too, where it is for
/// a call, or for data that they read.
#[test]
fn what_a_peer_makes_users_send_fails_the_session_when_it_does_not_read() {
    type Round = fn(&mut Bench, ClientId, Line);
    let rounds: [(&str, Round); 3] = [
        ("calls that are taken and hung up", |s, listener, _| {
            s.hear(call(70, "", 99));
            let (id, ours) = taken(&s.listen(1, listener));
            exactly(&s.release(id), [send(Message::Close { recipient: 70 })]);
            s.hear(Message::Close { recipient: ours });
        }),
        ("calls that are rejected", |s, listener, line| {
            s.hear(call(70, "", 99));
            let reason = "x".repeat(200);
            let sent = send(refusal(70, reason::CONNECT_FAILED, &reason));
            exactly(&s.control(1, listener, format!("reject 0 {reason}")), [sent, done(1)]);
            s.hear(Message::Data { recipient: line.ours, data: b"" });
        }),
        ("data that is read", |s, _, line| {
            while s.info(line.id).receive_window >= 1_000 {
                s.hear(Message::Data { recipient: line.ours, data: &[7; 1_000] });
            }
            assert!(s.drain(line).1 > 0, "there is window again");
            s.hear(Message::Data { recipient: line.ours, data: b"" });
        }),
    ];
    let limit = 1_000 + 1_000 + 4_096;
    for (what, round) in rounds {
        let mut s = Bench::with(tight());
        let listener = s.announce("*!99");
        let line = s.dial();
        s.took_all();
        let mut most = 0;
        while s.statistics().pipe_up {
            most = s.statistics().in_pipe;
            // A round is of 226 bytes at most.
            assert!(most <= limit + 226, "{what}: {most}");
            round(&mut s, listener, line);
        }
        assert!(most > limit - 226, "{what}: {most} was too much");
    }
}

/// A call that was taken at once: the client and the engine's number of its channel.
fn accepted(s: &mut Bench, listener: ClientId, port: u32) -> (ClientId, u32) {
    s.listen(1, listener);
    let theirs = s.channel();
    taken(&s.hear(call(theirs, "", port)))
}

/// It is not to blame for what they end by themselves: the CLOSE of a dial counts for
/// nothing, that of a call as its confirmation did.
#[test]
fn a_peer_is_to_blame_for_the_end_of_calls_and_not_of_dials() {
    for called in [false, true] {
        let mut s = Bench::with(Limits { clients: 1_302, windows: 1 << 30, ..tight() });
        let listener = s.announce("*!99");
        let mut lines = Vec::new();
        for _ in 0..1_300 {
            lines.push(if called { accepted(&mut s, listener, 99).0 } else { s.dial().id });
            s.took_all();
        }
        for id in lines {
            s.release(id);
        }
        assert_eq!(s.statistics().in_pipe, 1_300 * 5);
        s.hear(Message::GlobalRequest {
            want_reply: false,
            request: Global::Other { name: b"hostkeys-00@openssh.com", data: b"" },
        });
        assert_eq!(s.statistics().pipe_up, !called);
    }
}

/// What was taken is no longer owed, however much it was.
#[test]
fn what_a_peer_has_read_is_not_held_against_it() {
    let (mut s, _) = Bench::with_listeners(299);
    let listener = s.announce("*!300");
    for closes_first in [false, true] {
        for _ in 0..1_000 {
            let (id, ours) = accepted(&mut s, listener, 300);
            if closes_first {
                s.hear(Message::Close { recipient: ours });
            }
            s.release(id);
            if !closes_first {
                s.hear(Message::Close { recipient: ours });
            }
            s.took_all();
        }
    }
    s.shutdown("over");
    assert!(s.statistics().in_pipe > 1_000 + 1_000 + 4_096);
    let request = Global::Other { name: b"x", data: b"" };
    let ask = Message::GlobalRequest { want_reply: true, request };
    exactly(&s.hear(ask), [send(Message::RequestFailure)]);
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
    let mut s = Bench::with(Limits { clients: 1_000, ..tight() });
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
    let narrow = || Bench::with(tight());
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
    let both = note(&s.write(2, b.id, vec![2; 300_000]));
    assert!(both[1] > 0, "there is always something left for the next: {both:?}");
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
        a = s.redial(a.id, 8 << 20, PACKET);
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
    let (a, b) = (s.redial(a.id, 8 << 20, PACKET), s.redial(b.id, 8 << 20, PACKET));
    s.took_all();
    s.write(8, b.id, &bulk);
    s.write(9, a.id, &bulk);
    let order = order(&s.took_all());
    assert!(order.len() > 1 && order.windows(2).all(|pair| pair[0] != pair[1]), "{order:?}");
}

/// What many users end at once is not the peer's doing, who reads nothing just then
/// and asks for nothing.
#[test]
fn what_users_end_into_a_stuck_pipe_does_not_fail_the_session() {
    let (mut s, _) = Bench::with_listeners(299);
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
