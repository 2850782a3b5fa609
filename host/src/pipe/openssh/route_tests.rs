//! The table against models of the engine and of the peers behind it.

use super::*;
use sshnet_core::message::Open;

/// xorshift64*: the same run for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

fn open(sender: u32) -> Vec<u8> {
    let kind = Open::DirectStreamlocal { path: b"/a/path" };
    Message::Open { sender, window: 1, packet: 2, kind }.encode()
}

fn confirmation(recipient: u32, sender: u32) -> Vec<u8> {
    Message::OpenConfirmation { recipient, sender, window: 3, packet: 4, data: b"x" }.encode()
}

fn failure(recipient: u32) -> Vec<u8> {
    Message::OpenFailure { recipient, reason: 2, description: b"no", language: b"" }.encode()
}

fn data(recipient: u32, data: &[u8]) -> Vec<u8> {
    Message::Data { recipient, data }.encode()
}

fn close(recipient: u32) -> Vec<u8> {
    Message::Close { recipient }.encode()
}

#[test]
fn a_dial_goes_to_the_newest_master_and_its_channel_has_a_number_of_ours() {
    let mut route = Route::new();
    let listener = route.add(Kind::Listener);
    assert_eq!(route.outgoing(&mut open(5)), Err(RouteError::NoMaster));
    let (old, new) = (route.add(Kind::Master), route.add(Kind::Master));
    let later = route.add(Kind::Listener);
    let mut message = open(5);
    assert_eq!(route.outgoing(&mut message), Ok(Outgoing::To(new)));
    assert_eq!(message, open(5), "as it was");
    for other in [listener, old, later] {
        let stray = route.incoming(other, &mut confirmation(5, 77));
        assert_eq!(stray, Err(RouteError::Unknown(91, 5)));
    }
    let mut message = confirmation(5, 77);
    assert_eq!(route.incoming(new, &mut message), Ok(Incoming::Deliver));
    assert_eq!(message, confirmation(5, 0));
    let mut message = data(0, b"bytes");
    assert_eq!(route.outgoing(&mut message), Ok(Outgoing::To(new)));
    assert_eq!(message, data(77, b"bytes"));
    route.retire(new);
    assert_eq!(route.outgoing(&mut open(6)), Ok(Outgoing::To(old)));
    assert_eq!((route.channels(new), route.channels(old)), (1, 1));
}

#[test]
fn an_entry_is_free_after_both_closes() {
    for engine_first in [true, false] {
        let mut route = Route::new();
        let master = route.add(Kind::Master);
        let mut call = open(9);
        assert_eq!(route.incoming(master, &mut call), Ok(Incoming::Deliver));
        assert_eq!(call, open(0));
        let mut answer = confirmation(0, 4);
        assert_eq!(route.outgoing(&mut answer), Ok(Outgoing::To(master)));
        assert_eq!(answer, confirmation(9, 4));
        let (mut out, mut back) = (close(0), close(4));
        if engine_first {
            assert_eq!(route.outgoing(&mut out), Ok(Outgoing::To(master)));
            assert_eq!(route.outgoing(&mut close(0)), Err(RouteError::OutOfPlace(97, 0)));
            assert_eq!(route.outgoing(&mut data(0, b"")), Err(RouteError::OutOfPlace(94, 0)));
            // They have not seen our CLOSE.
            assert_eq!(route.incoming(master, &mut data(4, b"")), Ok(Incoming::Deliver));
        }
        assert_eq!(route.incoming(master, &mut back), Ok(Incoming::Deliver));
        if !engine_first {
            assert_eq!(
                route.incoming(master, &mut data(4, b"")),
                Err(RouteError::OutOfPlace(94, 4))
            );
            assert_eq!(route.channels(master), 1);
            assert!(!route.remove(master));
            // It has not seen their CLOSE.
            assert_eq!(route.outgoing(&mut data(0, b"")), Ok(Outgoing::To(master)));
            assert_eq!(route.outgoing(&mut out), Ok(Outgoing::To(master)));
        }
        assert_eq!((out, back), (close(9), close(4)));
        assert_eq!(route.channels(master), 0);
        assert_eq!(route.outgoing(&mut data(0, b"")), Err(RouteError::Unknown(94, 0)));
        assert_eq!(route.incoming(master, &mut data(4, b"")), Err(RouteError::Unknown(94, 4)));
        // These may cross the end.
        let mut late = Message::WindowAdjust { recipient: 4, bytes: 1 }.encode();
        assert_eq!(route.incoming(master, &mut late), Ok(Incoming::Drop));
        assert!(route.remove(master));
        assert!(!route.remove(master));
    }
}

#[test]
fn a_master_with_too_many_failed_dials_gets_no_more() {
    let mut route = Route::new();
    let master = route.add(Kind::Master);
    for number in 0..FAILED_DIALS {
        assert_eq!(route.outgoing(&mut open(number)), Ok(Outgoing::To(master)));
        assert_eq!(route.incoming(master, &mut failure(number)), Ok(Incoming::Deliver));
    }
    assert_eq!(route.failed(master), FAILED_DIALS);
    let Ok(Outgoing::Answer(answer)) = route.outgoing(&mut open(1)) else { panic!("sent") };
    let answer = Message::decode(&answer).unwrap();
    assert!(matches!(answer, Message::OpenFailure { recipient: 1, reason: 4, .. }), "{answer:?}");
    // Another master is as good as new.
    let next = route.add(Kind::Master);
    assert_eq!(route.outgoing(&mut open(1)), Ok(Outgoing::To(next)));
}

#[test]
fn calls_of_a_retired_connection_are_refused() {
    let mut route = Route::new();
    let listener = route.add(Kind::Listener);
    assert_eq!(route.incoming(listener, &mut open(1)), Ok(Incoming::Deliver));
    route.retire(listener);
    let Ok(Incoming::Answer(answer)) = route.incoming(listener, &mut open(2)) else { panic!() };
    let answer = Message::decode(&answer).unwrap();
    assert!(matches!(answer, Message::OpenFailure { recipient: 2, .. }), "{answer:?}");
    assert_eq!(route.channels(listener), 1);
    assert_eq!(route.outgoing(&mut failure(0)), Ok(Outgoing::To(listener)));
    assert_eq!(route.channels(listener), 0);
}

#[test]
fn nonsense_is_an_error_and_changes_nothing() {
    let mut route = Route::new();
    let master = route.add(Kind::Master);
    let mut random = Random(7);
    for _ in 0..100_000 {
        let length = random.below(20);
        let mut message: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        if let Some(kind) = message.first_mut() {
            *kind = [80, 90, 91, 92, 93, 94, 97, 98, 100, 101][random.below(10)];
        }
        let before = message.clone();
        // Of these, only a well-formed open may get through.
        if route.outgoing(&mut message).is_err() {
            assert_eq!(message, before);
        }
        let mut cut = open(3);
        cut.truncate(random.below(20));
        assert!(route.incoming(master, &mut cut).is_err());
    }
}

/// A channel as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Line {
    connection: ConnectionId,
    /// The number at the peer, and the one that the engine sees.
    theirs: u32,
    seen: u32,
    ours: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Dialling,
    Offered,
    Open,
    ClosedHere,
    ClosedThere,
}

/// Peers number from 0 each for itself, so their numbers are the same all the
/// time; each message must come to its own channel under its own number.
#[test]
fn every_message_finds_its_channel() {
    for seed in 1..=30 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut random = Random(seed);
    let mut route = Route::new();
    let mut connections = vec![route.add(Kind::Master)];
    for kind in [Kind::Listener, Kind::Master, Kind::Listener] {
        connections.push(route.add(kind));
    }
    let newest = connections[2];
    let mut lines: Vec<Line> = Vec::new();
    let mut failed = 0;
    for _ in 0..5000 {
        let free = |used: &dyn Fn(&Line) -> Option<u32>, lines: &[Line]| {
            (0..).find(|n| lines.iter().all(|line| used(line) != Some(*n))).unwrap()
        };
        let ours = free(&|l| (l.phase != Phase::Offered).then_some(l.ours), &lines);
        if lines.is_empty() || random.below(6) == 0 && lines.len() < 200 {
            let (theirs, seen) = (u32::MAX, u32::MAX);
            if random.below(2) == 0 {
                let mut message = open(ours);
                assert_eq!(route.outgoing(&mut message), Ok(Outgoing::To(newest)));
                let phase = Phase::Dialling;
                lines.push(Line { connection: newest, theirs, seen, ours, phase });
            } else {
                let connection = connections[random.below(connections.len())];
                let theirs = theirs_free(&lines, connection);
                let mut message = open(theirs);
                assert_eq!(route.incoming(connection, &mut message), Ok(Incoming::Deliver));
                let seen = number(&message, sender_of_open(&message).unwrap()).unwrap();
                assert_eq!(message, open(seen), "nothing else was changed");
                assert!(lines.iter().all(|l| l.seen != seen), "number given twice");
                let phase = Phase::Offered;
                lines.push(Line { connection, theirs, seen, ours: u32::MAX, phase });
            }
            continue;
        }
        let index = random.below(lines.len());
        let line = lines[index];
        let Line { connection, theirs, seen, .. } = line;
        let to = Ok(Outgoing::To(connection));
        let next = match (line.phase, random.below(4)) {
            (Phase::Dialling, 0) => {
                let mut message = failure(line.ours);
                assert_eq!(route.incoming(connection, &mut message), Ok(Incoming::Deliver));
                failed += 1;
                None
            }
            (Phase::Dialling, _) => {
                let theirs = theirs_free(&lines, connection);
                let mut message = confirmation(line.ours, theirs);
                assert_eq!(route.incoming(connection, &mut message), Ok(Incoming::Deliver));
                let seen = number(&message, 5).unwrap();
                assert_eq!(message, confirmation(line.ours, seen));
                assert!(lines.iter().all(|l| l.seen != seen), "number given twice");
                Some(Line { theirs, seen, phase: Phase::Open, ..line })
            }
            (Phase::Offered, 0) => {
                let mut message = failure(seen);
                assert_eq!(route.outgoing(&mut message), to);
                assert_eq!(message, failure(theirs));
                None
            }
            (Phase::Offered, _) => {
                let mut message = confirmation(seen, ours);
                assert_eq!(route.outgoing(&mut message), to);
                assert_eq!(message, confirmation(theirs, ours));
                Some(Line { ours, phase: Phase::Open, ..line })
            }
            (Phase::Open | Phase::ClosedThere, 0) => {
                let mut message = close(seen);
                assert_eq!(route.outgoing(&mut message), to);
                assert_eq!(message, close(theirs));
                let phase = Phase::ClosedHere;
                (line.phase == Phase::Open).then_some(Line { phase, ..line })
            }
            (Phase::Open | Phase::ClosedHere, 1) => {
                let mut message = close(line.ours);
                assert_eq!(route.incoming(connection, &mut message), Ok(Incoming::Deliver));
                let phase = Phase::ClosedThere;
                (line.phase == Phase::Open).then_some(Line { phase, ..line })
            }
            (Phase::Open | Phase::ClosedThere, 2) => {
                let mut message = data(seen, b"out");
                assert_eq!(route.outgoing(&mut message), to);
                assert_eq!(message, data(theirs, b"out"));
                Some(line)
            }
            (Phase::Open | Phase::ClosedHere, 3) => {
                let mut message = data(line.ours, b"in");
                assert_eq!(route.incoming(connection, &mut message), Ok(Incoming::Deliver));
                assert_eq!(message, data(line.ours, b"in"));
                Some(line)
            }
            _ => Some(line),
        };
        match next {
            Some(line) => lines[index] = line,
            None => {
                lines.swap_remove(index);
            }
        }
        let open: usize = connections.iter().map(|c| route.channels(*c)).sum();
        assert_eq!(open, lines.len());
    }
    assert_eq!(route.failed(newest), failed);
    assert!(route.channels.len() <= 200, "numbers are used again");
}

fn theirs_free(lines: &[Line], connection: ConnectionId) -> u32 {
    let used = |n| lines.iter().any(|l| l.connection == connection && l.theirs == n);
    (0..).find(|n| !used(*n)).unwrap()
}
