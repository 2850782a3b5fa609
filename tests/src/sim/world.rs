//! The world of a run: users of the files, the pipe, the clock, the faults.

use std::collections::VecDeque;

use sshnet_core::{ClientId, ClientState, Effect, Limits, Protocol, Reply, TextFile};

use super::oracle::{Call, Coverage};
use super::peer::{Manners, Mode, Peer};
use super::prng::Prng;
use super::run::{Failure, Machines, Run};

/// What users do, as indices into [`Options::users`].
const USES: usize = 12;
/// What happens, as indices into [`Options::events`].
const EVENTS: usize = 8;

/// What a run does at all, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the session may hold.
    pub limits: Limits,
    /// What the peer is like.
    pub manners: Manners,
    /// How often users do what.
    pub users: [u64; USES],
    /// How often what else happens.
    pub events: [u64; EVENTS],
    /// How many things happen.
    pub steps: u64,
    /// The session is shut down before they have all happened.
    pub ends: bool,
    /// The most messages that move at once.
    pub burst: u64,
    /// One in so many things that users do makes no sense where it is done.
    pub foolish: u64,
    /// How far the clock goes at once.
    pub tick: u64,
    /// After so many messages or so the host starts or ceases to tell the engine at
    /// once what the pipe took; in between it learns of it later than the peer.
    pub late: u64,
    /// How long a message of the peer is on its way.
    pub delay: u64,
    /// One in so many users who get nowhere hang up and start over.
    pub patience: u64,
}

impl Options {
    /// Options by chance: a run does some things not at all and others often.
    pub fn swarm(rng: &mut Prng) -> Self {
        let manners = Manners::swarm(rng);
        let mut users = [0; USES];
        for weight in &mut users {
            *weight = rng.pick(&[0, 1, 2, 4, 16]);
        }
        users[0] = users[0].max(1);
        users[1] = users[1].max(4);
        // What ends things is rarer than what begins them, or nothing gets far.
        for end in [8, 10, 11] {
            users[end] = rng.pick(&[0, 1, 2, 4]);
        }
        let mut events = [0; EVENTS];
        for weight in &mut events {
            *weight = rng.pick(&[2, 4, 16]);
        }
        // The pipe breaks, the session is asked, and nobody moves the clock, in
        // some runs only.
        events[5] = rng.pick(&[0, 1, 2]);
        events[6] = rng.pick(&[0, 0, 0, 1]);
        let flaky = events[6] > 0 && rng.one_in(3);
        if !flaky {
            for weight in &mut events[1..5] {
                *weight *= 4;
            }
        }
        events[7] = rng.pick(&[0, 0, 1]);
        let mut limits = limits(rng);
        // In some runs the pipe stands still more often than not, and its users
        // write all the same.
        let stalls = rng.one_in(4);
        if stalls {
            limits.room = limits.packet;
            limits.queued = 1 << 20;
            limits.clients = limits.clients.min(8);
            users[6] = 64;
        }
        // A peer that gives a sign of life too late for a session is not lawful.
        let delay = rng.pick(&[0, 0, 3_000, 40_000]);
        let delay = if limits.keepalive > 0 { delay.min(limits.keepalive / 2) } else { delay };
        Self {
            limits,
            manners,
            users,
            events,
            steps: rng.pick(&[500, 2_000, 5_000]),
            ends: rng.one_in(6),
            burst: rng.pick(&[1, 3, 20]),
            foolish: rng.pick(&[3, 10, 100]),
            // Windows grow where the time is that of the round trips.
            tick: if delay > 0 { 100 } else { rng.pick(&[1, 100, 2_000, 1_000_000]) },
            late: if stalls { 30 } else { rng.pick(&[u64::MAX, 3, 100]) },
            delay,
            patience: if stalls { 16 } else { rng.pick(&[4, 30, 1_000]) },
        }
    }
}

fn limits(rng: &mut Prng) -> Limits {
    let packet = rng.pick(&[256, 1_000, 32_768]);
    let wide = u64::from(packet);
    let window = rng.pick(&[packet, packet * 3, 2 << 20]).max(packet);
    Limits {
        clients: rng.pick(&[1, 2, 8, 32]),
        backlog: rng.pick(&[0, 1, 4]),
        calls: rng.pick(&[0, 2, 8]),
        requests: rng.pick(&[1, 4, 1_000, 1_000]),
        line: rng.pick(&[64, 4_096]),
        name: rng.pick(&[16, 1_024]),
        queued: rng.pick(&[0, 1, 1_000, 1 << 20, 1 << 20]),
        unacknowledged: rng.pick(&[4 * wide, 16 * wide, 64 << 20]),
        windows: rng.pick(&[4 * wide, 16 * wide, 64 << 20]),
        window,
        window_max: rng.pick(&[window, 15 << 20]).max(window),
        packet,
        room: rng.pick(&[packet, 3 * packet, 1 << 20]),
        control: rng.pick(&[4_096, 4 << 20]),
        dial_time: rng.pick(&[0, 300, 100_000]),
        dial_wait: rng.pick(&[0, 0, 300, 100_000]),
        keepalive: rng.pick(&[0, 0, 500, 5_000]),
    }
}

/// A run under way.
struct World {
    run: Run,
    rng: Prng,
    options: Options,
    peer: Option<Peer>,
    /// Messages handed to the pipe and not taken: how long they are, and they.
    handed: VecDeque<Vec<u8>>,
    /// Bytes taken of which the engine was not told.
    taken: u64,
    /// It is not told of any just now.
    silent: bool,
    /// Messages on their way to the peer.
    out: VecDeque<Vec<u8>>,
    /// Messages on their way to the engine, and when they come.
    back: VecDeque<(u64, Vec<u8>)>,
    /// References that are owed a release.
    held: Vec<ClientId>,
    gone: Vec<ClientId>,
    request: u64,
    now: u64,
    ports: u16,
}

/// What a run that found nothing has to tell.
#[derive(Debug)]
pub struct Report {
    /// Calls made.
    pub calls: usize,
    /// Pairs of states and events met.
    pub coverage: Coverage,
}

/// Runs a seed.
pub fn run(seed: u64, machines: Machines<'_>) -> Result<Report, Box<Failure>> {
    let mut rng = Prng::new(seed);
    let options = Options::swarm(&mut rng);
    let lawful = options.manners.mode != Mode::Hostile;
    let run = Run::new(options.limits, lawful, machines);
    let mut world = World {
        run,
        rng,
        options,
        peer: None,
        handed: VecDeque::new(),
        taken: 0,
        silent: false,
        out: VecDeque::new(),
        back: VecDeque::new(),
        held: Vec::new(),
        gone: Vec::new(),
        request: 1,
        now: 0,
        ports: 1,
    };
    match world.live() {
        Ok(()) => {
            let coverage = world.run.coverage().clone();
            Ok(Report { calls: world.run.len(), coverage })
        }
        Err(why) => Err(Box::new(world.run.failed(why))),
    }
}

impl World {
    fn live(&mut self) -> Result<(), String> {
        if !self.rng.one_in(4) {
            self.pipe_up()?;
        }
        let end = self.rng.below(self.options.steps);
        for step in 0..self.options.steps {
            if self.options.ends && step == end {
                self.call(Call::Shutdown("the program ends".into()))?;
            }
            self.step()?;
        }
        self.converge()
    }

    /// Makes a call, and does what its effects ask for.
    fn call(&mut self, call: Call) -> Result<(), String> {
        let answer = self.run.call(call)?;
        for effect in answer.effects() {
            match effect {
                Effect::Send(message) => self.handed.push_back(message.clone()),
                Effect::Complete(done) => {
                    if let Ok(Reply::Client(id)) = done.outcome {
                        self.held.push(id);
                    }
                }
                Effect::Fail(_) => self.cut(),
                Effect::Wake(_) | Effect::Warn(_) => {}
            }
        }
        Ok(())
    }

    /// What is on its way is lost.
    fn cut(&mut self) {
        self.peer = None;
        self.handed.clear();
        self.taken = 0;
        self.out.clear();
        self.back.clear();
    }

    fn pipe_up(&mut self) -> Result<(), String> {
        if self.peer.is_none() {
            self.peer = Some(Peer::new(self.options.manners.clone()));
        }
        self.call(Call::PipeUp)
    }

    fn step(&mut self) -> Result<(), String> {
        // Without a pipe little happens: somebody starts another.
        if self.peer.is_none() && self.rng.one_in(25) {
            return self.pipe_up();
        }
        match self.rng.weighted(&self.options.events) {
            0 => self.user(),
            1 => self.pipe_takes(),
            2 => {
                self.peer_hears();
                Ok(())
            }
            3 => {
                if let Some(peer) = &mut self.peer {
                    peer.act(&mut self.rng);
                }
                self.peer_says();
                Ok(())
            }
            4 => self.engine_hears(),
            5 => {
                let wake = self.run.model().wake();
                self.now = match wake {
                    Some(at) if self.rng.one_in(3) => self.now.max(at),
                    _ => self.now + self.rng.below(self.options.tick) + 1,
                };
                let late = if self.rng.one_in(20) { 1 } else { self.now };
                self.call(Call::Advance(late))
            }
            6 => self.flap(),
            _ => self.other(),
        }
    }

    fn pipe_takes(&mut self) -> Result<(), String> {
        let most = self.rng.below(self.options.burst) + 1;
        let count = (most as usize).min(self.handed.len());
        let nothing = count == 0 && (self.taken == 0 || self.silent);
        if nothing && !self.rng.one_in(20) {
            return Ok(());
        }
        self.take(count);
        self.silent ^= self.rng.one_in(self.options.late);
        if self.silent { Ok(()) } else { self.tell_taken() }
    }

    /// The pipe takes so many messages.
    fn take(&mut self, count: usize) {
        for message in self.handed.drain(..count) {
            self.taken += message.len() as u64;
            self.out.push_back(message);
        }
    }

    fn tell_taken(&mut self) -> Result<(), String> {
        let bytes = std::mem::take(&mut self.taken);
        self.call(Call::PipeTook(bytes))
    }

    fn peer_hears(&mut self) {
        for _ in 0..=self.rng.below(self.options.burst) {
            let (Some(peer), Some(message)) = (&mut self.peer, self.out.pop_front()) else {
                return;
            };
            peer.hear(&message, &mut self.rng);
            self.peer_says();
        }
    }

    /// What the peer has to say is on its way.
    fn peer_says(&mut self) {
        if let Some(peer) = &mut self.peer {
            let at = self.now + self.options.delay;
            self.back.extend(peer.take_out().into_iter().map(|message| (at, message)));
        }
    }

    fn engine_hears(&mut self) -> Result<(), String> {
        // Where nothing has come, time may pass until something does.
        if let Some(&(at, _)) = self.back.front()
            && at > self.now
            && self.rng.one_in(4)
        {
            self.now = at;
            self.call(Call::Advance(at))?;
        }
        for _ in 0..=self.rng.below(self.options.burst) {
            let now = self.now;
            let Some((_, message)) = self.back.pop_front_if(|(at, _)| *at <= now) else { break };
            self.call(Call::Receive(message))?;
        }
        Ok(())
    }

    fn flap(&mut self) -> Result<(), String> {
        if self.peer.is_some() && !self.rng.one_in(8) {
            self.cut();
            return self.call(Call::PipeDown("the ssh program ended\n\x1b[1m".into()));
        }
        self.pipe_up()
    }

    fn other(&mut self) -> Result<(), String> {
        let id = self.any_client();
        let call = match self.rng.below(8) {
            0 => Call::Retain(id),
            1 => Call::Lookup(id.number),
            2 => Call::Text(id, TextFile::Status),
            3 => Call::Text(id, TextFile::Local),
            4 => Call::Text(id, TextFile::Remote),
            5 => Call::Translate("tcp!example.com!ssh".into()),
            6 => Call::Receive(vec![self.rng.below(256) as u8; 3]),
            _ => return Ok(()),
        };
        // A message out of nowhere is for a session without a pipe, or for one
        // whose peer is bad.
        if matches!(call, Call::Receive(_))
            && self.peer.is_some()
            && self.options.manners.mode != Mode::Hostile
        {
            return Ok(());
        }
        let held =
            matches!(call, Call::Retain(_)) && self.run.clients().iter().any(|info| info.id == id);
        if held {
            self.held.push(id);
        }
        self.call(call)
    }

    /// A client, most often one that is there.
    fn any_client(&mut self) -> ClientId {
        if !self.gone.is_empty() && self.rng.one_in(10) {
            return self.rng.pick(&self.gone);
        }
        if self.held.is_empty() || self.rng.one_in(100) {
            return ClientId { number: self.rng.below(40) as u32, incarnation: 0 };
        }
        self.rng.pick(&self.held)
    }

    fn next_request(&mut self) -> u64 {
        // Now and then a name that is still in use.
        if self.rng.one_in(200)
            && let Some(&name) = self.run.model().waiting().first()
        {
            return name;
        }
        self.request += 1;
        self.request
    }

    /// A user does something.
    fn user(&mut self) -> Result<(), String> {
        let weights = self.options.users;
        let clients = self.run.clients().len() as u64;
        let want = 1 + u64::from(self.options.limits.clients) / 2;
        if self.held.is_empty() || self.rng.below(weights[0] + 4) < weights[0] && clients < want {
            return self.clone_client();
        }
        if self.rng.one_in(self.options.patience) {
            return self.start_over();
        }
        let id = self.any_client();
        let state = self.run.clients().iter().find(|info| info.id == id).map(|info| info.state);
        if self.rng.one_in(self.options.foolish) {
            return self.be_foolish(id);
        }
        // What makes sense in this state.
        let fitting: &[usize] = match state {
            Some(ClientState::Closed) => &[1, 2, 3, 11],
            Some(ClientState::Dialing) if self.rng.one_in(4) => &[4, 5, 6, 8, 9, 10, 11],
            Some(ClientState::Dialing) => &[],
            Some(ClientState::Listen) => &[7, 8, 10, 11],
            Some(ClientState::Established) => &[4, 5, 6, 8, 9, 10, 11],
            Some(ClientState::Teardown) => &[1, 2, 11],
            Some(ClientState::Finished) => &[1, 2, 4, 8, 11],
            None => &[],
        };
        let mut now = [0; USES];
        for index in fitting {
            now[*index] = weights[*index];
        }
        if now.iter().all(|weight| *weight == 0) {
            return Ok(());
        }
        let action = self.rng.weighted(&now);
        let request = self.next_request();
        let call = match action {
            1 => Call::Control(request, id, self.connect(id)),
            2 => Call::Control(request, id, self.announce(id)),
            3 => Call::Control(request, id, self.lines(id)),
            4 | 5 => {
                let count = self.rng.pick(&[0, 1, 10, 4_096, 100_000, u32::MAX]);
                Call::Read(request, id, count)
            }
            6 => Call::Write(request, id, self.payload()),
            7 if self.rng.one_in(8) => Call::Control(request, id, b"reject 7 not today".to_vec()),
            7 => Call::Listen(request, id),
            8 => Call::Control(request, id, b"hangup\n".to_vec()),
            9 => {
                let mut text = b"closewrite".to_vec();
                if self.rng.one_in(3) {
                    text.extend_from_slice(b"\nhangup\n");
                    text.extend_from_slice(&self.connect(id));
                }
                Call::Control(request, id, text)
            }
            10 => return self.flush(),
            _ => return self.release(id),
        };
        self.call(call)
    }

    /// One who gets nowhere, because the pipe or the peer takes nothing, hangs up
    /// and does the same again.
    fn start_over(&mut self) -> Result<(), String> {
        let full = self.run.figures().in_pipe >= u64::from(self.options.limits.room);
        let stuck: Vec<_> = self
            .run
            .clients()
            .iter()
            .filter(|info| match info.state {
                ClientState::Established => info.unsent > 0 && (full || info.send_window == 0),
                ClientState::Listen => full,
                _ => false,
            })
            .map(|info| (info.id, info.state))
            .collect();
        if stuck.is_empty() {
            return Ok(());
        }
        let (id, state) = self.rng.pick(&stuck);
        let mut text = b"hangup\n".to_vec();
        text.extend(match state {
            ClientState::Listen => self.announce(id),
            _ => self.connect(id),
        });
        let request = self.next_request();
        self.call(Call::Control(request, id, text))
    }

    fn clone_client(&mut self) -> Result<(), String> {
        let request = self.next_request();
        let protocol = if self.rng.one_in(4) { Protocol::Unix } else { Protocol::Tcp };
        self.call(Call::Clone(request, protocol))
    }

    fn flush(&mut self) -> Result<(), String> {
        let waiting = self.run.model().waiting();
        let request = match waiting.is_empty() || self.rng.one_in(30) {
            true => self.rng.below(self.request + 2),
            false => self.rng.pick(&waiting),
        };
        self.call(Call::Flush(request))
    }

    /// Does what may make no sense here.
    fn be_foolish(&mut self, id: ClientId) -> Result<(), String> {
        let request = self.next_request();
        let call = match self.rng.below(13) {
            0 => Call::Read(request, id, 5),
            1 => Call::Write(request, id, b"foolish".to_vec()),
            2 => Call::Listen(request, id),
            3 => Call::Control(request, id, b"closewrite".to_vec()),
            4 => Call::Control(request, id, self.announce(id)),
            5 => Call::Control(request, id, self.connect(id)),
            6 => Call::Control(request, id, b"hangup".to_vec()),
            7 | 8 => Call::Control(request, id, self.nonsense()),
            9 => return self.flush(),
            10 => return self.clone_client(),
            11 if !self.held.contains(&id) => Call::Release(id),
            11 => return self.release(id),
            _ => return self.other(),
        };
        self.call(call)
    }

    fn payload(&mut self) -> Vec<u8> {
        let packet = self.options.limits.packet as usize;
        let length = self.rng.pick(&[0, 1, 7, 900, packet, packet + 1, 3 * packet, 9 * packet]);
        self.rng.bytes(length)
    }

    fn unix(&self, id: ClientId) -> bool {
        self.run.clients().iter().any(|info| info.id == id && info.protocol == Protocol::Unix)
    }

    /// A target of its own for each dial, so that one can be told from another.
    fn connect(&mut self, id: ClientId) -> Vec<u8> {
        self.ports = self.ports.wrapping_add(1).max(1);
        let port = self.ports;
        match self.unix(id) {
            true => format!("connect /run/{port}"),
            false => format!("connect host!{port}"),
        }
        .into_bytes()
    }

    fn announce(&mut self, id: ClientId) -> Vec<u8> {
        let port = 100 + self.rng.below(6);
        match (self.unix(id), self.rng.below(4)) {
            (true, _) => format!("announce /tmp/{port}"),
            (_, 0) => "announce 0".to_string(),
            (_, 1) => format!("announce 127.0.0.1!{port}"),
            (_, 2) => format!("announce {port}\n"),
            _ => format!("announce *!{port}"),
        }
        .into_bytes()
    }

    fn lines(&mut self, id: ClientId) -> Vec<u8> {
        let first = self.connect(id);
        let mut lines = match self.rng.below(3) {
            0 => self.announce(id),
            _ => first,
        };
        let rest = self.rng.pick(&[
            &b"\nclosewrite"[..],
            b"\nhangup",
            b"\n\n\t\nclosewrite\n",
            b"\nclosewrite\nhangup\n",
            b"\nhangup\n",
        ]);
        lines.extend_from_slice(rest);
        if rest.ends_with(b"hangup\n") && self.rng.one_in(2) {
            lines.extend_from_slice(&self.connect(id));
        }
        lines
    }

    fn nonsense(&mut self) -> Vec<u8> {
        match self.rng.below(6) {
            0 => self.rng.bytes(20),
            1 => vec![b'x'; 5_000],
            2 => b"connect".to_vec(),
            3 => b"connect a!0x50".to_vec(),
            4 => b"frobnicate \xff".to_vec(),
            _ => b"\n \n".to_vec(),
        }
    }

    /// Lets go of one reference that is held.
    fn release(&mut self, id: ClientId) -> Result<(), String> {
        let Some(at) = self.held.iter().position(|held| *held == id) else { return Ok(()) };
        self.held.swap_remove(at);
        if !self.held.contains(&id) {
            self.gone.push(id);
        }
        self.call(Call::Release(id))
    }

    /// Moves everything that is on its way, until nothing moves any more.
    fn drain(&mut self) -> Result<(), String> {
        for _ in 0..20_000 {
            let rests = self.handed.is_empty() && self.out.is_empty() && self.back.is_empty();
            if rests && self.taken == 0 {
                return Ok(());
            }
            self.take(self.handed.len());
            self.tell_taken()?;
            while let (Some(peer), Some(message)) = (&mut self.peer, self.out.pop_front()) {
                peer.hear(&message, &mut self.rng);
                self.peer_says();
            }
            if let Some(peer) = &mut self.peer {
                peer.settle(&mut self.rng);
            }
            self.peer_says();
            while let Some((_, message)) = self.back.pop_front() {
                self.call(Call::Receive(message))?;
            }
        }
        Err("not live: the pipe does not come to rest".into())
    }

    /// The faults stop: everything has to come to an end.
    fn converge(&mut self) -> Result<(), String> {
        if self.options.manners.mode == Mode::Hostile {
            // Its channels are beyond repair; the next pipe has a lawful peer.
            self.options.manners.mode = Mode::Lawful;
            if self.peer.is_some() {
                self.cut();
                self.call(Call::PipeDown("the peer is bad".into()))?;
            }
        }
        if self.peer.is_none() {
            self.pipe_up()?;
        }
        if let Some(peer) = &mut self.peer {
            peer.settle(&mut self.rng);
        }
        self.peer_says();
        self.drain()?;
        // Everyone reads all there is, and the peer takes all that is written.
        for _ in 0..200 {
            self.read_all()?;
            if let Some(peer) = &mut self.peer {
                peer.settle(&mut self.rng);
            }
            self.peer_says();
            self.drain()?;
            if self.run.clients().iter().all(|info| info.unsent == 0 && info.unread == 0) {
                break;
            }
        }
        for info in self.run.clients() {
            if info.unsent > 0 || info.unread > 0 || info.state == ClientState::Dialing {
                return Err(format!("not live: {info:?}"));
            }
        }
        // The peer ends every conversation: reads end, too.
        if let Some(peer) = &mut self.peer {
            peer.leave();
        }
        self.peer_says();
        self.drain()?;
        for info in self.run.clients() {
            if matches!(info.state, ClientState::Established | ClientState::Teardown) {
                return Err(format!("not live: {info:?}"));
            }
            if info.requests > 0 && info.state != ClientState::Listen {
                return Err(format!("not live: {info:?}"));
            }
        }
        for request in self.run.model().waiting() {
            self.call(Call::Flush(request))?;
        }
        for id in std::mem::take(&mut self.held) {
            self.call(Call::Release(id))?;
        }
        self.drain()?;
        if let Some(peer) = &mut self.peer {
            peer.leave();
        }
        self.peer_says();
        self.drain()?;
        let figures = self.run.figures();
        let rest = [
            figures.clients.into(),
            figures.channels.into(),
            figures.in_pipe,
            figures.windows,
            figures.queued,
            figures.unacknowledged,
        ];
        if rest != [0; 6] {
            return Err(format!("not live: something is left: {figures:?}"));
        }
        Ok(())
    }

    /// Everyone who has something to read reads it.
    fn read_all(&mut self) -> Result<(), String> {
        let unread: Vec<_> =
            self.run.clients().iter().filter(|info| info.unread > 0).map(|info| info.id).collect();
        for id in unread {
            // The limit on requests may leave no place for another.
            for request in self.run.model().waiting() {
                if self.run.model().waiting().len() >= self.options.limits.requests as usize {
                    self.call(Call::Flush(request))?;
                }
            }
            self.request += 1;
            self.call(Call::Read(self.request, id, u32::MAX))?;
        }
        Ok(())
    }
}
