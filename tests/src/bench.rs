//! A subject with its ledger, and the most common moves of a peer and a user.
//!
//! The methods of [`Bench`] are the functions of the contract; each event's
//! effects go through the [`Ledger`] before a test sees them. Beside them are
//! scripts for what most tests start from: a conversation that was dialed, an
//! announced client, a call.

use sshnet_core::message::Message;
use sshnet_core::{
    ClientId, ClientInfo, ClientState, Config, Effect, Error, Limits, Protocol, Reply, Service,
    Statistics, TextFile,
};

use crate::ledger::Ledger;
use crate::peer::{call, client, completions, done, exactly, question, send};
use crate::promise::{ours, own, said};
use crate::subject::{Pair, Subject};

/// Small limits, without deadlines: what a test doesn't set to be otherwise.
pub fn limits() -> Limits {
    Limits {
        clients: 8,
        backlog: 3,
        calls: 5,
        requests: 64,
        line: 256,
        name: 64,
        queued: 1 << 20,
        unacknowledged: 4 << 20,
        windows: 1 << 20,
        window: 65_536,
        window_max: 65_536,
        packet: 32_768,
        room: 2 << 20,
        control: 65_536,
        dial_time: 0,
        dial_wait: 0,
        keepalive: 0,
    }
}

/// The same for a pipe that is soon full: a message of 1,000 bytes of data, and 4,096
/// bytes of others.
pub fn tight() -> Limits {
    Limits { packet: 1_000, room: 1_000, control: 4_096, ..limits() }
}

/// A configuration with these limits and a few services.
pub fn config(limits: Limits) -> Config {
    let service = |name: &str, port| Service { name: name.to_owned(), port };
    Config {
        prefix: "/net".to_owned(),
        services: vec![service("echo", 7), service("ssh", 22), service("ssh", 2_222)],
        limits,
    }
}

/// An established client and its channel's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The client.
    pub id: ClientId,
    /// The channel's number at the engine: what a peer's message is addressed to.
    pub ours: u32,
    /// The channel's number at the peer: what the engine's messages are addressed to.
    pub theirs: u32,
}

/// The engine under test.
pub struct Bench {
    subject: Pair,
    /// What must hold anyway.
    pub ledger: Ledger,
    requests: u64,
    channels: u32,
}

/// What the peer of [`Bench::dial`] accepts.
pub const WINDOW: u32 = 1 << 20;
/// And in one packet.
pub const PACKET: u32 = 32_768;

impl Bench {
    /// A session with a pipe and [`limits`].
    pub fn new() -> Self {
        Self::with(limits())
    }

    /// A session with a pipe and these limits.
    #[track_caller]
    pub fn with(limits: Limits) -> Self {
        let mut bench = Self::without_pipe(limits);
        bench.pipe_up();
        bench
    }

    /// A session for a test of our engine's quality: none if another component is
    /// under test, for then there is nothing to be tested.
    pub fn of_ours(limits: Limits) -> Option<Self> {
        ours().then(|| Self::with(limits))
    }

    /// A session with so many listeners, at the ports from 1 on, and limits that have no
    /// room for a message for each.
    #[track_caller]
    pub fn with_listeners(count: u16) -> (Self, Vec<ClientId>) {
        let mut s = Self::with(Limits { clients: 400, ..tight() });
        let announce = |port| {
            let listener = s.announce(&format!("*!{port}"));
            s.took_all();
            listener
        };
        let listeners = (1..=count).map(announce).collect();
        (s, listeners)
    }

    /// A session without a pipe.
    pub fn without_pipe(limits: Limits) -> Self {
        Self {
            subject: Pair::new(&config(limits)),
            ledger: Ledger::default(),
            // Far from the names that tests give to their requests.
            requests: 1 << 40,
            channels: 100,
        }
    }

    /// A name for a request that no test uses.
    pub fn fresh(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// A channel number for the peer, not used before.
    pub fn channel(&mut self) -> u32 {
        self.channels += 1;
        self.channels
    }

    #[track_caller]
    fn event(&mut self, call: impl FnOnce(&mut Pair) -> Vec<Effect>) -> Vec<Effect> {
        let effects = call(&mut self.subject);
        self.ledger.effects(&effects);
        effects
    }

    #[track_caller]
    fn request(
        &mut self,
        request: u64,
        call: impl FnOnce(&mut Pair) -> Vec<Effect>,
    ) -> Vec<Effect> {
        self.ledger.request(request);
        self.event(call)
    }

    /// `pipe-up`.
    #[track_caller]
    pub fn pipe_up(&mut self) -> Vec<Effect> {
        self.ledger.pipe_up();
        self.event(Subject::pipe_up)
    }

    /// `pipe-down`.
    #[track_caller]
    pub fn pipe_down(&mut self, reason: &str) -> Vec<Effect> {
        self.ledger.pipe_down();
        self.event(|s| s.pipe_down(reason))
    }

    /// `receive`, of a message that is one.
    #[track_caller]
    pub fn hear(&mut self, message: Message<'_>) -> Vec<Effect> {
        self.hear_bytes(&message.encode())
    }

    /// `receive`.
    #[track_caller]
    pub fn hear_bytes(&mut self, message: &[u8]) -> Vec<Effect> {
        self.ledger.received(message);
        self.event(|s| s.receive(message))
    }

    /// `pipe-took`.
    #[track_caller]
    pub fn took(&mut self, bytes: u64) -> Vec<Effect> {
        self.ledger.took(bytes);
        self.event(|s| s.pipe_took(bytes))
    }

    /// The pipe takes all that it was given; answers what the engine sends then.
    #[track_caller]
    pub fn took_all(&mut self) -> Vec<Effect> {
        let bytes = self.ledger.in_pipe();
        self.took(bytes)
    }

    /// `advance`.
    #[track_caller]
    pub fn advance(&mut self, now: u64) -> Vec<Effect> {
        self.event(|s| s.advance(now))
    }

    /// `shutdown`.
    #[track_caller]
    pub fn shutdown(&mut self, reason: &str) -> Vec<Effect> {
        self.event(|s| s.shutdown(reason))
    }

    /// `clone`.
    #[track_caller]
    pub fn clone_client(&mut self, request: u64, protocol: Protocol) -> Vec<Effect> {
        self.request(request, |s| s.clone_client(request, protocol))
    }

    /// `control`.
    #[track_caller]
    pub fn control(
        &mut self,
        request: u64,
        client: ClientId,
        text: impl AsRef<[u8]>,
    ) -> Vec<Effect> {
        self.request(request, |s| s.control(request, client, text.as_ref()))
    }

    /// `read`.
    #[track_caller]
    pub fn read(&mut self, request: u64, client: ClientId, count: u32) -> Vec<Effect> {
        self.request(request, |s| s.read(request, client, count))
    }

    /// `write`.
    #[track_caller]
    pub fn write(
        &mut self,
        request: u64,
        client: ClientId,
        bytes: impl AsRef<[u8]>,
    ) -> Vec<Effect> {
        self.request(request, |s| s.write(request, client, bytes.as_ref()))
    }

    /// `listen`.
    #[track_caller]
    pub fn listen(&mut self, request: u64, client: ClientId) -> Vec<Effect> {
        self.request(request, |s| s.listen(request, client))
    }

    /// `flush`. The request is completed afterwards, whatever it was.
    #[track_caller]
    pub fn flush(&mut self, request: u64) -> Vec<Effect> {
        let effects = self.event(|s| s.flush(request));
        assert!(!self.ledger.outstanding().contains(&request), "flushed and still outstanding");
        effects
    }

    /// `retain`.
    pub fn retain(&mut self, client: ClientId) -> Result<(), Error> {
        self.subject.retain(client)
    }

    /// `release`.
    #[track_caller]
    pub fn release(&mut self, client: ClientId) -> Vec<Effect> {
        self.event(|s| s.release(client))
    }

    /// `lookup`.
    pub fn lookup(&mut self, number: u32) -> Option<ClientInfo> {
        self.subject.lookup(number)
    }

    /// `text`.
    pub fn text(&mut self, client: ClientId, file: TextFile) -> Result<String, Error> {
        self.subject.text(client, file)
    }

    /// `translate`.
    pub fn translate(&mut self, query: &str) -> Result<String, Error> {
        self.subject.translate(query)
    }

    /// `clients`.
    pub fn clients(&mut self) -> Vec<ClientInfo> {
        self.subject.clients()
    }

    /// `statistics`.
    pub fn statistics(&mut self) -> Statistics {
        self.subject.statistics()
    }

    /// The snapshot of a client that is there.
    #[track_caller]
    pub fn info(&mut self, id: ClientId) -> ClientInfo {
        let info = self.lookup(id.number).unwrap_or_else(|| panic!("there is no {id:?}"));
        assert_eq!(info.id, id, "the number has another client");
        info
    }

    /// A client's state.
    #[track_caller]
    pub fn state(&mut self, id: ClientId) -> ClientState {
        self.info(id).state
    }

    /// Fails unless this is a client's last error, in the engine's own words.
    #[track_caller]
    pub fn blames(&mut self, id: ClientId, words: &str) {
        let last = self.info(id).last_error.unwrap_or_default();
        assert!(said(&last, &own(words)), "the last error is {last:?}");
    }

    /// The peer sends all that it may and leaves so many bytes of its window;
    /// answers what it sent. No read may wait.
    #[track_caller]
    pub fn fill(&mut self, line: Line, leave: u32) -> Vec<u8> {
        let mut sent = Vec::new();
        let first = self.info(line.id).receive_window;
        loop {
            let window = self.info(line.id).receive_window;
            let held = sent.len() + window as usize;
            assert!(held <= first as usize, "{held} bytes of a window of {first}");
            let length = window.saturating_sub(leave).min(PACKET) as usize;
            if length == 0 {
                assert_eq!(window, leave, "there was less window");
                return sent;
            }
            let piece: Vec<u8> = (0..length).map(|i| (sent.len() + i) as u8).collect();
            exactly(&self.hear(Message::Data { recipient: line.ours, data: &piece }), []);
            sent.extend(piece);
        }
    }

    /// What a client's `status` reads.
    #[track_caller]
    pub fn status(&mut self, id: ClientId) -> String {
        self.text(id, TextFile::Status).expect("the client is there")
    }

    /// Makes a client.
    #[track_caller]
    pub fn client(&mut self) -> ClientId {
        self.client_of(Protocol::Tcp)
    }

    /// Makes a client of this protocol.
    #[track_caller]
    pub fn client_of(&mut self, protocol: Protocol) -> ClientId {
        let request = self.fresh();
        let effects = self.clone_client(request, protocol);
        let made = match completions(&effects)[..] {
            [completion] => match completion.outcome {
                Ok(Reply::Client(id)) => id,
                ref other => panic!("clone answered {other:?}"),
            },
            _ => panic!("clone answered {effects:?}"),
        };
        exactly(&effects, [client(request, made)]);
        made
    }

    /// A conversation with a peer that accepts [`WINDOW`] and [`PACKET`].
    #[track_caller]
    pub fn dial(&mut self) -> Line {
        self.dial_with(WINDOW, PACKET)
    }

    /// A conversation with a peer that accepts so much.
    #[track_caller]
    pub fn dial_with(&mut self, window: u32, packet: u32) -> Line {
        let id = self.client();
        self.redial(id, window, packet)
    }

    /// Dials with a client that is there.
    #[track_caller]
    pub fn redial(&mut self, id: ClientId, window: u32, packet: u32) -> Line {
        let request = self.fresh();
        let ours = self.connect(request, id);
        let theirs = self.channel();
        let effects = self.hear(Message::OpenConfirmation {
            recipient: ours,
            sender: theirs,
            window,
            packet,
            data: b"",
        });
        // The first of a pipe may ask how long a round trip takes.
        match effects.strip_suffix(&[question(theirs)]) {
            Some(effects) => exactly(effects, [done(request)]),
            None => exactly(&effects, [done(request)]),
        }
        assert_eq!(self.state(id), ClientState::Established);
        Line { id, ours, theirs }
    }

    /// Asks for a conversation; answers the number of its channel.
    #[track_caller]
    pub fn connect(&mut self, request: u64, id: ClientId) -> u32 {
        let effects = self.control(request, id, "connect example.net!7");
        let opened = effects.iter().find_map(|effect| match effect {
            Effect::Send(message) => match Message::decode(message) {
                Ok(Message::Open { sender, .. }) => Some(sender),
                _ => None,
            },
            _ => None,
        });
        opened.unwrap_or_else(|| panic!("no channel was asked for: {effects:?}"))
    }

    /// An announced client: `text` is `address!port`, with the address as it
    /// goes over the wire (`*` aside).
    #[track_caller]
    pub fn announce(&mut self, text: &str) -> ClientId {
        let id = self.client();
        let request = self.fresh();
        self.control(request, id, format!("announce {text}"));
        let effects = self.hear(Message::RequestSuccess { data: b"" });
        exactly(&effects, [done(request)]);
        assert_eq!(self.state(id), ClientState::Listen);
        id
    }

    /// A call to the client that announced `address!port`, taken.
    #[track_caller]
    pub fn accept(&mut self, listener: ClientId, address: &str, port: u32) -> Line {
        let request = self.fresh();
        assert!(self.listen(request, listener).is_empty(), "a call waited already");
        let theirs = self.channel();
        let effects = self.hear(call(theirs, address, port));
        let (id, ours) = taken(&effects);
        let window = self.info(id).receive_window;
        exactly(
            &effects,
            [
                send(Message::OpenConfirmation {
                    recipient: theirs,
                    sender: ours,
                    window,
                    packet: PACKET,
                    data: b"",
                }),
                client(request, id),
            ],
        );
        Line { id, ours, theirs }
    }

    /// Reads all that is there, and what the window is then worth: the bytes, and
    /// the sum of the adjustments.
    #[track_caller]
    pub fn drain(&mut self, line: Line) -> (Vec<u8>, u64) {
        let unread = u32::try_from(self.info(line.id).unread).expect("less than 4 GiB");
        let request = self.fresh();
        let effects = self.read(request, line.id, unread);
        let mut bytes = Vec::new();
        let mut granted = 0;
        for effect in &effects {
            match effect {
                Effect::Complete(completion) => match &completion.outcome {
                    Ok(Reply::Data(data)) => bytes.extend_from_slice(data),
                    other => panic!("read answered {other:?}"),
                },
                Effect::Send(message) => match Message::decode(message) {
                    Ok(Message::WindowAdjust { bytes, .. }) => granted += u64::from(bytes),
                    other => panic!("read sent {other:?}"),
                },
                Effect::Wake(_) => {}
                other => panic!("read had the effect {other:?}"),
            }
        }
        (bytes, granted)
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

/// The client that took a call, and its channel's number, from the effects.
#[track_caller]
pub fn taken(effects: &[Effect]) -> (ClientId, u32) {
    let id = completions(effects).iter().find_map(|completion| match completion.outcome {
        Ok(Reply::Client(id)) => Some(id),
        _ => None,
    });
    let ours = crate::peer::sent(effects).iter().find_map(|message| match message {
        Message::OpenConfirmation { sender, .. } => Some(*sender),
        _ => None,
    });
    match (id, ours) {
        (Some(id), Some(ours)) => (id, ours),
        _ => panic!("no call was taken:\n{}", crate::peer::show(effects)),
    }
}
