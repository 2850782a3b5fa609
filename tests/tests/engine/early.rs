//! Reads and writes of a client that dials: they wait for its conversation, and are
//! the first of it.

use sshnet_core::message::{Message, reason};
use sshnet_core::{ClientId, ClientState, Effect, ErrorCode, Limits};
use sshnet_tests::bench::{Bench, limits};
use sshnet_tests::peer::{count, data, done, exactly, failed, send, sent, told};

const THEIRS: u32 = 70;
const HUNG_UP: &str = "i/o on hungup channel";

fn confirmation(recipient: u32, window: u32) -> Message<'static> {
    Message::OpenConfirmation { recipient, sender: THEIRS, window, packet: 32_768, data: b"" }
}

/// A client that dials with request 1, while request 2 reads and 3 and 4 write "abc"
/// and "de"; and the number of its channel.
fn dialing(s: &mut Bench) -> (ClientId, u32) {
    let id = s.client();
    let ours = s.connect(1, id);
    waits(s, id);
    (id, ours)
}

fn waits(s: &mut Bench, id: ClientId) {
    exactly(&s.read(2, id, 10), []);
    exactly(&s.write(3, id, b"abc"), []);
    exactly(&s.write(4, id, b"de"), []);
}

/// How all four end with the dial.
fn missed(code: ErrorCode, words: &str) -> [Effect; 4] {
    [1, 2, 3, 4].map(|request| failed(request, code, words))
}

/// Nothing of them is left.
fn is_over(s: &mut Bench, id: ClientId) {
    assert_eq!(s.state(id), ClientState::Closed);
    assert_eq!((s.info(id).requests, s.info(id).unsent, s.statistics().queued), (0, 0, 0));
}

#[test]
fn what_is_asked_while_a_client_dials_begins_the_conversation() {
    let mut s = Bench::new();
    let (id, ours) = dialing(&mut s);
    assert_eq!(s.status(id), "Dialing qin 0 qout 5 rx 0 tx 0 window 0/0\n");
    assert_eq!((s.info(id).requests, s.statistics().queued), (4, 5));
    let bytes = send(Message::Data { recipient: THEIRS, data: b"abcde" });
    exactly(&s.hear(confirmation(ours, 100)), [done(1), bytes, count(3, 3), count(4, 2)]);
    exactly(
        &s.write(5, id, b"f"),
        [send(Message::Data { recipient: THEIRS, data: b"f" }), count(5, 1)],
    );
    exactly(&s.hear(Message::Data { recipient: ours, data: b"xy" }), [data(2, "xy")]);
    assert_eq!((s.info(id).sent, s.info(id).received, s.statistics().queued), (6, 2, 0));
}

/// They keep to the window as any do.
#[test]
fn early_writes_wait_for_window() {
    let mut s = Bench::new();
    let (id, ours) = dialing(&mut s);
    let bytes = send(Message::Data { recipient: THEIRS, data: b"abcd" });
    exactly(&s.hear(confirmation(ours, 4)), [done(1), bytes, count(3, 3)]);
    assert_eq!((s.info(id).unsent, s.info(id).requests), (1, 2));
    exactly(&s.flush(4), [count(4, 1)]);
    assert_eq!(s.statistics().queued, 0);
}

/// What waits for nothing does not wait for this either.
#[test]
fn reads_and_writes_of_nothing_complete_while_a_client_dials() {
    let mut s = Bench::new();
    let id = s.client();
    s.connect(1, id);
    exactly(&s.read(2, id, 0), [data(2, "")]);
    exactly(&s.write(3, id, b""), [count(3, 0)]);
}

#[test]
fn early_requests_end_as_their_dial_does() {
    let mut s = Bench::new();
    let (id, ours) = dialing(&mut s);
    let refusal = Message::OpenFailure {
        recipient: ours,
        reason: reason::CONNECT_FAILED,
        description: b"Connection refused",
        language: b"",
    };
    let refused = [1, 2, 3, 4].map(|n| told(n, ErrorCode::ConnectionRefused, "Connection refused"));
    exactly(&s.hear(refusal), refused);
    is_over(&mut s, id);

    let (id, _) = dialing(&mut s);
    let [dial, read, first, second] = missed(ErrorCode::HungUp, HUNG_UP);
    exactly(&s.control(5, id, "hangup"), [dial, read, first, second, done(5)]);
    is_over(&mut s, id);

    let (id, _) = dialing(&mut s);
    exactly(&s.pipe_down("gone"), [1, 2, 3, 4].map(|n| told(n, ErrorCode::NetworkDown, "gone")));
    is_over(&mut s, id);

    s.pipe_up();
    let (id, _) = dialing(&mut s);
    exactly(&s.release(id), missed(ErrorCode::HungUp, HUNG_UP));

    let (id, _) = dialing(&mut s);
    exactly(&s.shutdown("over"), [1, 2, 3, 4].map(|n| told(n, ErrorCode::Canceled, "over")));
    is_over(&mut s, id);
}

/// A confirmation that allows no data is no conversation.
#[test]
fn early_requests_end_with_a_dial_that_comes_to_nothing() {
    let mut s = Bench::new();
    let (id, ours) = dialing(&mut s);
    let useless = Message::OpenConfirmation {
        recipient: ours,
        sender: THEIRS,
        window: 100,
        packet: 0,
        data: b"",
    };
    let [dial, read, first, second] = missed(ErrorCode::Other, "the far side accepts no data");
    let close = send(Message::Close { recipient: THEIRS });
    exactly(&s.hear(useless), [dial, read, first, second, close]);
    is_over(&mut s, id);
}

#[test]
fn early_requests_end_when_the_far_side_does_not_answer() {
    let mut s = Bench::with(Limits { dial_time: 1_000, ..limits() });
    let (id, _) = dialing(&mut s);
    exactly(&s.advance(1_000), missed(ErrorCode::TimedOut, "the far side did not answer in time"));
    is_over(&mut s, id);
}

/// Each may be given up alone, and then it has had no effect.
#[test]
fn an_early_request_that_is_flushed_leaves_the_others() {
    let mut s = Bench::new();
    let (id, ours) = dialing(&mut s);
    exactly(&s.flush(2), [failed(2, ErrorCode::Interrupted, "interrupted")]);
    exactly(&s.flush(3), [failed(3, ErrorCode::Interrupted, "interrupted")]);
    assert_eq!((s.info(id).requests, s.info(id).unsent, s.statistics().queued), (2, 2, 2));
    let bytes = send(Message::Data { recipient: THEIRS, data: b"de" });
    exactly(&s.hear(confirmation(ours, 100)), [done(1), bytes, count(4, 2)]);
    exactly(&s.hear(Message::Data { recipient: ours, data: b"x" }), []);
    exactly(&s.read(5, id, 1), [data(5, "x")]);
}

/// It was the dial that was given up: who waited for it is told what became of it, and
/// not that he was interrupted.
#[test]
fn a_dial_that_is_flushed_ends_what_waits_for_it() {
    let mut s = Bench::new();
    let (id, _) = dialing(&mut s);
    let [_, read, first, second] = missed(ErrorCode::HungUp, HUNG_UP);
    let dial = failed(1, ErrorCode::Interrupted, "interrupted");
    exactly(&s.flush(1), [dial, read, first, second]);
    is_over(&mut s, id);
}

/// What was written for one conversation never reaches another.
#[test]
fn a_client_that_dials_anew_takes_no_early_request_along() {
    let mut s = Bench::new();
    let (id, _) = dialing(&mut s);
    let effects = s.control(5, id, "hangup\nconnect example.net!9");
    let [Message::Open { sender, .. }] = sent(&effects)[..] else { panic!("{effects:?}") };
    exactly(&effects[..4], missed(ErrorCode::HungUp, HUNG_UP));
    assert_eq!((s.info(id).requests, s.statistics().queued), (1, 0));
    exactly(&s.write(6, id, b"this"), []);
    let bytes = send(Message::Data { recipient: THEIRS, data: b"this" });
    exactly(&s.hear(confirmation(sender, 100)), [done(5), bytes, count(6, 4)]);
}

/// The lines behind `connect` come after it, and after what was written by then.
#[test]
fn lines_behind_connect_find_the_early_writes_made() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "connect example.net!7\nclosewrite");
    waits(&mut s, id);
    exactly(
        &s.hear(confirmation(0, 100)),
        [
            send(Message::Data { recipient: THEIRS, data: b"abcde" }),
            count(3, 3),
            count(4, 2),
            send(Message::Eof { recipient: THEIRS }),
            done(1),
        ],
    );

    let id = s.client();
    s.control(1, id, "connect example.net!7\nhangup");
    s.write(3, id, b"abc");
    exactly(
        &s.hear(confirmation(1, 100)),
        [
            send(Message::Close { recipient: THEIRS }),
            failed(3, ErrorCode::HungUp, HUNG_UP),
            done(1),
        ],
    );
    assert_eq!(s.statistics().queued, 0);
}

/// So does an end of writing: behind it nothing can be written, and it comes last.
#[test]
fn an_early_end_of_writing_comes_after_the_early_writes() {
    let mut s = Bench::new();
    let (id, ours) = dialing(&mut s);
    exactly(&s.control(5, id, "closewrite"), []);
    assert_eq!(s.info(id).requests, 5);
    exactly(&s.write(6, id, b"f"), [failed(6, ErrorCode::HungUp, HUNG_UP)]);
    exactly(&s.write(7, id, b""), [failed(7, ErrorCode::HungUp, HUNG_UP)]);
    exactly(&s.control(8, id, "closewrite"), [failed(8, ErrorCode::HungUp, HUNG_UP)]);
    let bytes = |data| send(Message::Data { recipient: THEIRS, data });
    exactly(&s.hear(confirmation(ours, 4)), [done(1), bytes(b"abcd"), count(3, 3)]);
    let adjust = Message::WindowAdjust { recipient: ours, bytes: 1 };
    let eof = send(Message::Eof { recipient: THEIRS });
    exactly(&s.hear(adjust), [bytes(b"e"), count(4, 2), eof, done(5)]);
    exactly(&s.hear(Message::Data { recipient: ours, data: b"xy" }), [data(2, "xy")]);
}

/// Its other lines come after it, or never.
#[test]
fn lines_behind_an_early_end_of_writing_wait_with_it() {
    let mut s = Bench::new();
    let id = s.client();
    let ours = s.connect(1, id);
    exactly(&s.control(2, id, "closewrite\nhangup"), []);
    let eof = send(Message::Eof { recipient: THEIRS });
    let close = send(Message::Close { recipient: THEIRS });
    exactly(&s.hear(confirmation(ours, 100)), [done(1), eof, close, done(2)]);
    assert_eq!(s.state(id), ClientState::Teardown);
}

#[test]
fn an_early_end_of_writing_ends_as_its_dial_does() {
    let mut s = Bench::new();
    for flushed in [false, true] {
        let (id, ours) = dialing(&mut s);
        s.control(5, id, "closewrite");
        if flushed {
            // It alone is given up: the dial goes on, and may be written to.
            exactly(&s.flush(5), [failed(5, ErrorCode::Interrupted, "interrupted")]);
            exactly(&s.write(6, id, b"f"), []);
            assert_eq!((s.state(id), s.info(id).requests), (ClientState::Dialing, 5));
            let bytes = send(Message::Data { recipient: THEIRS, data: b"abcdef" });
            let written = [count(3, 3), count(4, 2), count(6, 1)];
            let effects = s.hear(confirmation(ours, 100));
            exactly(&effects[..2], [done(1), bytes]);
            exactly(&effects[2..], written);
        } else {
            let [dial, read, first, second] = missed(ErrorCode::HungUp, HUNG_UP);
            let end = failed(5, ErrorCode::HungUp, HUNG_UP);
            exactly(&s.control(6, id, "hangup"), [dial, read, first, second, end, done(6)]);
            is_over(&mut s, id);
        }
    }
}

/// A dial that ends writing itself finds that asked for already.
#[test]
fn a_dial_that_ends_writing_comes_second_to_an_early_end() {
    let mut s = Bench::new();
    let id = s.client();
    s.control(1, id, "connect example.net!7\nclosewrite");
    s.control(2, id, "closewrite");
    let eof = send(Message::Eof { recipient: THEIRS });
    let late = failed(1, ErrorCode::HungUp, HUNG_UP);
    exactly(&s.hear(confirmation(0, 100)), [late, eof, done(2)]);
}

/// They count against the limits that all have.
#[test]
fn early_writes_have_the_limit_of_all_writes() {
    let mut s = Bench::with(Limits { queued: 7, ..limits() });
    let (id, _) = dialing(&mut s);
    let full = "too many bytes wait to be sent";
    exactly(&s.write(5, id, b"fgh"), [failed(5, ErrorCode::ResourceExhausted, full)]);
    exactly(&s.write(6, id, b"fg"), []);
    s.control(7, id, "hangup");
    assert_eq!(s.statistics().queued, 0);
}

/// A dial that waits for a pipe has them wait, too.
#[test]
fn early_requests_wait_for_a_pipe() {
    let mut s = Bench::without_pipe(Limits { dial_wait: 5_000, ..limits() });
    let id = s.client();
    s.control(1, id, "connect example.net!7");
    waits(&mut s, id);
    s.pipe_up();
    let bytes = send(Message::Data { recipient: THEIRS, data: b"abcde" });
    exactly(&s.hear(confirmation(0, 100)), [done(1), bytes, count(3, 3), count(4, 2)]);
    assert_eq!(s.state(id), ClientState::Established);
}
