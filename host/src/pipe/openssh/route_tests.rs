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

/// What an engine's dial is answered with.
fn refused(answer: Result<Outgoing, RouteError>) -> (u32, u32, String) {
    let Ok(Outgoing::Answer(answer)) = answer else { panic!("{answer:?}") };
    match Message::decode(&answer).unwrap() {
        Message::OpenFailure { recipient, reason, description, .. } => {
            (recipient, reason, String::from_utf8(description.to_vec()).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

/// A dial that is confirmed; the number that the engine sees.
fn dialled(route: &mut Route, master: ConnectionId, ours: u32, theirs: u32) -> u32 {
    assert_eq!(route.outgoing(&mut open(ours)), Ok(Outgoing::To(master)));
    let mut message = confirmation(ours, theirs);
    assert_eq!(route.incoming(master, &mut message), Ok(Incoming::Deliver));
    number(&message, 5).unwrap()
}

#[test]
fn where_masters_are_missing_a_dial_says_that_one_is_wanted() {
    let mut route = Route::new(FAILED_DIALS);
    let master = route.add(Kind::Master);
    dialled(&mut route, master, 1, 1);
    assert!(!route.take_news() && !route.take_wanted());
    route.want(true);
    assert!(!route.take_news() && !route.take_wanted());
    dialled(&mut route, master, 2, 2);
    assert!(route.take_news() && route.take_wanted());
    assert!(!route.take_news() && !route.take_wanted());
    route.want(false);
    dialled(&mut route, master, 3, 3);
    assert!(!route.take_news() && !route.take_wanted());
}

#[test]
fn a_dial_goes_to_a_master_and_its_channel_has_a_number_of_ours() {
    let mut route = Route::new(FAILED_DIALS);
    assert_eq!(refused(route.outgoing(&mut open(5))), (5, 4, WORN.to_owned()));
    let (one, two) = (route.add(Kind::Master), route.add(Kind::Master));
    let listener = route.add(Kind::Listener(one));
    let far = route.add(Kind::Far(one));
    let mut message = open(5);
    assert_eq!(route.outgoing(&mut message), Ok(Outgoing::To(one)));
    assert_eq!(message, open(5), "as it was");
    for other in [listener, two, far] {
        let stray = route.incoming(other, &mut confirmation(5, 77));
        assert_eq!(stray, Err(RouteError::Unknown(91, 5)));
    }
    let mut message = confirmation(5, 77);
    assert_eq!(route.incoming(one, &mut message), Ok(Incoming::Deliver));
    assert_eq!(message, confirmation(5, 0));
    let mut message = data(0, b"bytes");
    assert_eq!(route.outgoing(&mut message), Ok(Outgoing::To(one)));
    assert_eq!(message, data(77, b"bytes"));
    route.retire(two);
    assert_eq!(route.outgoing(&mut open(6)), Ok(Outgoing::To(one)));
    assert_eq!((route.channels(one), route.channels(two)), (2, 0));
}

#[test]
fn dials_go_to_the_master_with_the_fewest_channels_and_of_two_to_the_one_dialled_longer_ago() {
    let mut route = Route::new(FAILED_DIALS);
    let masters = [(); 3].map(|()| route.add(Kind::Master));
    let [one, two, three] = masters;
    for ours in 0..9 {
        dialled(&mut route, masters[ours as usize % 3], ours, ours);
    }
    for theirs in [1, 4] {
        route.incoming(two, &mut close(theirs)).unwrap();
        route.outgoing(&mut close(theirs)).unwrap();
    }
    assert_eq!(masters.map(|id| route.channels(id)), [3, 1, 3]);
    for (ours, master) in [(20, two), (21, two), (22, one), (23, three), (24, two)] {
        assert_eq!(route.outgoing(&mut open(ours)), Ok(Outgoing::To(master)), "{ours}");
    }
}

#[test]
fn a_master_that_gives_no_sign_of_life_is_not_dialled_on_and_on() {
    let mut route = Route::new(FAILED_DIALS);
    let (silent, other) = (route.add(Kind::Master), route.add(Kind::Master));
    let mut to_silent = 0;
    for ours in 0..100 {
        match route.outgoing(&mut open(ours)) {
            Ok(Outgoing::To(id)) if id == silent => to_silent += 1,
            Ok(Outgoing::To(id)) if id == other => {
                route.incoming(other, &mut confirmation(ours, ours)).unwrap();
            }
            way => panic!("{way:?}"),
        }
    }
    assert_eq!(to_silent, UNHEARD);
    // When it is heard of again it has the fewest.
    route.incoming(silent, &mut confirmation(0, 0)).unwrap();
    assert_eq!(route.outgoing(&mut open(100)), Ok(Outgoing::To(silent)));
    // Where all are silent, none is worse than the others.
    route.retire(other);
    for ours in 101..200 {
        assert_eq!(route.outgoing(&mut open(ours)), Ok(Outgoing::To(silent)));
    }
}

#[test]
fn the_end_of_a_connection_ends_each_channel_once() {
    let mut route = Route::new(FAILED_DIALS);
    let (master, other) = (route.add(Kind::Master), route.add(Kind::Master));
    route.retire(other);
    let far = route.add(Kind::Far(master));
    let open_one = dialled(&mut route, master, 1, 11);
    let closed_here = dialled(&mut route, master, 2, 12);
    route.outgoing(&mut close(closed_here)).unwrap();
    let closed_there = dialled(&mut route, master, 3, 13);
    route.incoming(master, &mut close(3)).unwrap();
    assert_eq!(route.outgoing(&mut open(4)), Ok(Outgoing::To(master)));
    let mut calls = [open(21), open(22)];
    for call in &mut calls {
        assert_eq!(route.incoming(far, call), Ok(Incoming::Deliver));
    }
    let [taken, refused] = calls.map(|call| number(&call, sender_of_open(&call).unwrap()).unwrap());

    let ended = route.end(master, "gone");
    assert_eq!(ended.connections, BTreeSet::from([master, far]));
    let expected = Message::OpenFailure {
        recipient: 4,
        reason: reason::CONNECT_FAILED,
        description: b"gone",
        language: b"en",
    };
    assert_eq!(ended.messages, [expected.encode(), close(1), close(2)]);
    assert_eq!(route.end(master, "gone").messages, Vec::<Vec<u8>>::new());
    // What came too late from there.
    assert_eq!(route.incoming(master, &mut data(1, b"late")), Ok(Incoming::Drop));
    assert_eq!(route.incoming(far, &mut open(23)), Ok(Incoming::Drop));
    // What the engine says before it has heard, and then.
    assert_eq!(route.outgoing(&mut data(open_one, b"x")), Ok(Outgoing::Drop));
    for number in [open_one, closed_there] {
        assert_eq!(route.outgoing(&mut close(number)), Ok(Outgoing::Drop));
        assert_eq!(route.outgoing(&mut close(number)), Err(RouteError::Unknown(CLOSE, number)));
    }
    let answer = route.outgoing(&mut confirmation(taken, 5));
    assert_eq!(answer, Ok(Outgoing::Answer(close(5))));
    assert_eq!(route.outgoing(&mut close(taken)), Ok(Outgoing::Drop));
    assert_eq!(route.outgoing(&mut failure(refused)), Ok(Outgoing::Drop));
    assert!(route.ours.is_empty() && route.channels.iter().all(Option::is_none));
    assert_eq!(route.masters(), 1);
}

#[test]
fn a_retired_master_stays_until_its_last_channel_call_and_listener_have_ended() {
    let mut route = Route::new(FAILED_DIALS);
    let master = route.add(Kind::Master);
    let far = route.add(Kind::Far(master));
    let seen = dialled(&mut route, master, 1, 1);
    route.hold(master);
    let mut call = open(9);
    route.incoming(far, &mut call).unwrap();
    assert!(!route.take_news());
    route.retire(master);
    assert!(route.take_news() && !route.remove(master));
    route.outgoing(&mut close(seen)).unwrap();
    assert!(!route.take_news());
    route.incoming(master, &mut close(1)).unwrap();
    assert!(route.take_news() && !route.remove(master));
    route.release(master);
    assert!(route.take_news() && !route.held(master) && !route.remove(master));
    route.outgoing(&mut failure(number(&call, sender_of_open(&call).unwrap()).unwrap())).unwrap();
    assert!(route.take_news());
    let listener = route.add(Kind::Listener(master));
    assert!(!route.remove(master));
    assert!(route.remove(listener) && route.take_news());
    assert!(route.remove(master) && !route.remove(master));
    assert!(route.connections.is_empty());
}

#[test]
fn an_entry_is_free_after_both_closes() {
    for engine_first in [true, false] {
        let mut route = Route::new(FAILED_DIALS);
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
    let mut route = Route::new(FAILED_DIALS);
    let master = route.add(Kind::Master);
    for number in 0..FAILED_DIALS {
        assert_eq!(route.outgoing(&mut open(number)), Ok(Outgoing::To(master)));
        assert_eq!(route.incoming(master, &mut failure(number)), Ok(Incoming::Deliver));
        // Somebody is told in time.
        assert_eq!(route.take_news(), number + 1 >= worn(FAILED_DIALS));
    }
    assert_eq!(route.failed(master), FAILED_DIALS);
    assert_eq!(refused(route.outgoing(&mut open(1))), (1, 4, WORN.to_owned()));
    route.refuse_with(Some("why".to_owned()));
    assert_eq!(refused(route.outgoing(&mut open(1))), (1, 4, "why".to_owned()));
    // Another master is as good as new.
    let next = route.add(Kind::Master);
    assert_eq!(route.outgoing(&mut open(1)), Ok(Outgoing::To(next)));
}

/// It dies of 16,384, whether they are open or have failed.
#[test]
fn a_master_gets_no_more_channels_than_it_has() {
    let mut route = Route::new(FAILED_DIALS);
    let master = route.add(Kind::Master);
    for number in 0..10_000 {
        assert_eq!(route.outgoing(&mut open(number)), Ok(Outgoing::To(master)));
        route.incoming(master, &mut failure(number)).unwrap();
    }
    let mut channels = 0;
    while route.outgoing(&mut open(channels)) == Ok(Outgoing::To(master)) {
        channels += 1;
    }
    assert_eq!(channels as usize, OF_MASTER - 10_000);
}

#[test]
fn calls_of_a_retired_connection_are_refused() {
    let mut route = Route::new(FAILED_DIALS);
    let master = route.add(Kind::Master);
    let listener = route.add(Kind::Listener(master));
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
    let mut route = Route::new(FAILED_DIALS);
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
    /// Whether its connection has ended by itself.
    gone: bool,
    /// How often the engine was told that it has ended.
    ended: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Dialling,
    Offered,
    Open,
    ClosedHere,
    ClosedThere,
}

/// A connection as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Peer {
    id: ConnectionId,
    kind: Kind,
    failed: u32,
    retired: bool,
    /// The number of the last dial, and dials since it was heard.
    dialled: u64,
    unheard: u32,
}

/// Peers number from 0 each for itself, so their numbers are the same all the
/// time; each message must come to its own channel under its own number. Masters
/// come, wear, are retired, end when they are idle, and die.
#[test]
fn every_message_finds_its_channel_and_every_channel_its_end() {
    let mut died = 0;
    for seed in 1..=40 {
        died += Simulation::new(seed).run();
    }
    assert!(died > 100, "only {died} connections died");
}

/// Failed dials that a master may have here.
const FEW: u32 = 40;

struct Simulation {
    random: Random,
    route: Route,
    peers: Vec<Peer>,
    lines: Vec<Line>,
    dials: u64,
    /// Connections that died with channels on them.
    died: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let (random, route) = (Random(seed), Route::new(FEW));
        Self { random, route, peers: Vec::new(), lines: Vec::new(), dials: 0, died: 0 }
    }

    fn run(mut self) -> usize {
        self.add_master();
        for _ in 0..5000 {
            match self.random.below(200) {
                0 if self.peers.len() < 12 => self.add_master(),
                1 => self.retire(),
                2 => self.remove_idle(),
                3 if self.random.below(3) == 0 => self.die(),
                _ if self.lines.is_empty() || self.random.below(6) == 0 => self.begin(),
                _ => {
                    let index = self.random.below(self.lines.len());
                    self.go_on(index);
                }
            }
            for peer in &self.peers {
                let open = self.lines.iter().filter(|l| l.connection == peer.id).count();
                assert_eq!(self.route.channels(peer.id), open, "of {peer:?}");
                assert_eq!(self.route.failed(peer.id), peer.failed);
            }
        }
        while !self.peers.is_empty() {
            self.die();
        }
        while !self.lines.is_empty() {
            self.go_on(0);
        }
        let route = &self.route;
        assert!(route.ours.is_empty() && route.connections.is_empty());
        assert!(route.channels.iter().all(Option::is_none));
        assert_eq!(route.free.len(), route.channels.len());
        assert!(route.channels.len() <= 200, "numbers are used again");
        self.died
    }

    fn add(&mut self, kind: Kind) -> ConnectionId {
        let id = self.route.add(kind);
        let peer = Peer { id, kind, failed: 0, retired: false, dialled: 0, unheard: 0 };
        self.peers.push(peer);
        id
    }

    fn add_master(&mut self) {
        let master = self.add(Kind::Master);
        self.add(Kind::Far(master));
        if self.random.below(3) == 0 {
            self.add(Kind::Listener(master));
        }
    }

    fn retire(&mut self) {
        if self.peers.is_empty() {
            return;
        }
        let index = self.random.below(self.peers.len());
        self.peers[index].retired = true;
        self.route.retire(self.peers[index].id);
    }

    fn remove_idle(&mut self) {
        let idle = |peers: &[Peer], lines: &[Line], of: ConnectionId| {
            let on = |id| lines.iter().any(|line| line.connection == id);
            !on(of)
                && peers
                    .iter()
                    .filter(|peer| peer.kind.of() == Some(of))
                    .all(|peer| matches!(peer.kind, Kind::Far(_)) && !on(peer.id))
        };
        for peer in self.peers.clone() {
            if !peer.retired || matches!(peer.kind, Kind::Far(_)) {
                continue;
            }
            let idle = idle(&self.peers, &self.lines, peer.id);
            assert_eq!(self.route.remove(peer.id), idle, "{peer:?}");
            if idle {
                self.peers.retain(|p| p.id != peer.id && p.kind.of() != Some(peer.id));
            }
        }
    }

    /// A connection ends by itself; what the engine hears is what it must hear.
    fn die(&mut self) {
        if self.peers.is_empty() {
            return;
        }
        let id = self.peers[self.random.below(self.peers.len())].id;
        let ended = self.route.end(id, "dead");
        let dead = |peer: &Peer| peer.id == id || peer.kind.of() == Some(id);
        let expected: BTreeSet<_> = self.peers.iter().filter(|p| dead(p)).map(|p| p.id).collect();
        assert_eq!(ended.connections, expected);
        self.peers.retain(|peer| !dead(peer));
        let lines = self.lines.iter_mut().filter(|l| expected.contains(&l.connection));
        lines.for_each(|line| line.gone = true);
        self.died += usize::from(!ended.messages.is_empty());
        for message in ended.messages {
            let told = number(&message, 1).unwrap();
            let of_it = |l: &Line| l.gone && l.phase != Phase::Offered && l.ours == told;
            let index = self.lines.iter().position(of_it).expect("a channel of the dead");
            let line = &mut self.lines[index];
            line.ended += 1;
            assert_eq!(line.ended, 1, "told twice");
            match (message[0], line.phase) {
                (FAILURE, Phase::Dialling) | (CLOSE, Phase::ClosedHere) => {
                    self.lines.swap_remove(index);
                }
                (CLOSE, Phase::Open) => line.phase = Phase::ClosedThere,
                what => panic!("{what:?}"),
            }
        }
        let silent = |l: &Line| l.gone && !matches!(l.phase, Phase::Offered | Phase::ClosedThere);
        assert!(!self.lines.iter().any(silent), "one was not told");
        assert!(self.lines.iter().all(|l| l.phase != Phase::ClosedThere || l.ended == 1));
    }

    /// A dial, or a call.
    fn begin(&mut self) {
        if self.lines.len() >= 200 {
            return;
        }
        let line = |connection, phase| Line {
            connection,
            theirs: u32::MAX,
            seen: u32::MAX,
            ours: u32::MAX,
            phase,
            gone: false,
            ended: 0,
        };
        if self.random.below(2) == 0 {
            let ours = self.ours_free();
            let mut message = open(ours);
            let way = self.route.outgoing(&mut message);
            let Some(index) = self.next_master() else {
                assert_eq!(refused(way).0, ours);
                return;
            };
            let peer = &mut self.peers[index];
            assert_eq!(way, Ok(Outgoing::To(peer.id)));
            self.dials += 1;
            peer.dialled = self.dials;
            peer.unheard += 1;
            self.lines.push(Line { ours, ..line(peer.id, Phase::Dialling) });
        } else if !self.peers.is_empty() {
            let index = self.random.below(self.peers.len());
            let Peer { id, retired, .. } = self.peers[index];
            let theirs = self.theirs_free(id);
            let mut message = open(theirs);
            let way = self.route.incoming(id, &mut message);
            self.peers[index].unheard = 0;
            if retired {
                assert!(matches!(way, Ok(Incoming::Answer(_))), "{way:?}");
                return;
            }
            assert_eq!(way, Ok(Incoming::Deliver));
            let seen = number(&message, sender_of_open(&message).unwrap()).unwrap();
            assert_eq!(message, open(seen), "nothing else was changed");
            assert!(self.lines.iter().all(|l| l.seen != seen), "number given twice");
            self.lines.push(Line { theirs, seen, ..line(id, Phase::Offered) });
        }
    }

    fn next_master(&self) -> Option<usize> {
        let free = |p: &Peer| p.kind == Kind::Master && !p.retired && p.failed < FEW;
        let free = self.peers.iter().enumerate().filter(|(_, peer)| free(peer));
        let least = free.min_by_key(|(_, peer)| {
            let channels = self.lines.iter().filter(|l| l.connection == peer.id).count();
            (peer.unheard >= UNHEARD, channels, peer.dialled)
        });
        least.map(|(index, _)| index)
    }

    /// A message from the peer of a channel.
    fn hear(&mut self, line: Line, mut message: Vec<u8>) -> Vec<u8> {
        assert_eq!(self.route.incoming(line.connection, &mut message), Ok(Incoming::Deliver));
        let peer = self.peers.iter_mut().find(|peer| peer.id == line.connection).unwrap();
        peer.unheard = 0;
        peer.failed += u32::from(message[0] == FAILURE);
        message
    }

    /// A message of the engine for a channel; it must come out as the other one.
    fn say(&mut self, line: Line, mut message: Vec<u8>, expected: &[u8]) {
        let way = self.route.outgoing(&mut message);
        if line.gone {
            assert_eq!(way, Ok(Outgoing::Drop));
        } else {
            assert_eq!((way, message.as_slice()), (Ok(Outgoing::To(line.connection)), expected));
        }
    }

    /// Something happens to a channel.
    fn go_on(&mut self, index: usize) {
        let line = self.lines[index];
        let Line { connection, theirs, seen, gone, .. } = line;
        let next = match (line.phase, self.random.below(4)) {
            (Phase::Dialling, 0) => {
                self.hear(line, failure(line.ours));
                None
            }
            (Phase::Dialling, _) => {
                let theirs = self.theirs_free(connection);
                let message = self.hear(line, confirmation(line.ours, theirs));
                let seen = number(&message, 5).unwrap();
                assert_eq!(message, confirmation(line.ours, seen));
                assert!(self.lines.iter().all(|l| l.seen != seen), "number given twice");
                Some(Line { theirs, seen, phase: Phase::Open, ..line })
            }
            (Phase::Offered, 0) => {
                self.say(line, failure(seen), &failure(theirs));
                None
            }
            (Phase::Offered, _) => {
                let ours = self.ours_free();
                let mut message = confirmation(seen, ours);
                let way = self.route.outgoing(&mut message);
                if gone {
                    assert_eq!(way, Ok(Outgoing::Answer(close(ours))));
                    Some(Line { ours, phase: Phase::ClosedThere, ended: 1, ..line })
                } else {
                    assert_eq!(way, Ok(Outgoing::To(connection)));
                    assert_eq!(message, confirmation(theirs, ours));
                    Some(Line { ours, phase: Phase::Open, ..line })
                }
            }
            (Phase::Open | Phase::ClosedThere, 0) => {
                self.say(line, close(seen), &close(theirs));
                (line.phase == Phase::Open).then_some(Line { phase: Phase::ClosedHere, ..line })
            }
            (Phase::Open | Phase::ClosedHere, 1) => {
                self.hear(line, close(line.ours));
                let (phase, ended) = (Phase::ClosedThere, line.ended + 1);
                (line.phase == Phase::Open).then_some(Line { phase, ended, ..line })
            }
            (Phase::Open | Phase::ClosedThere, 2) => {
                self.say(line, data(seen, b"out"), &data(theirs, b"out"));
                Some(line)
            }
            (Phase::Open | Phase::ClosedHere, 3) => {
                let message = self.hear(line, data(line.ours, b"in"));
                assert_eq!(message, data(line.ours, b"in"));
                Some(line)
            }
            _ => Some(line),
        };
        match next {
            Some(line) => self.lines[index] = line,
            None => {
                self.lines.swap_remove(index);
            }
        }
    }

    fn ours_free(&self) -> u32 {
        let used = |n| self.lines.iter().any(|l| l.phase != Phase::Offered && l.ours == n);
        (0..).find(|n| !used(*n)).unwrap()
    }

    fn theirs_free(&self, connection: ConnectionId) -> u32 {
        let used = |n| self.lines.iter().any(|l| l.connection == connection && l.theirs == n);
        (0..).find(|n| !used(*n)).unwrap()
    }
}
