//! A far side behind a link that takes time, in virtual time.
//!
//! The link carries so many bytes a second towards the engine, each half a round
//! trip after it left the queue before the link, which is as long as it gets. The
//! other direction takes its half of the round trip and nothing more. The far side
//! sends whatever the window lets it, and readers take it at once, slowly, or not
//! at all. The engine is told the time as the host tells it: in steps, and when it asked
//! for that.
//!
//! A far side can be a process as sshd is one, too: it reads what the window lets it
//! send, and has a time of its own, in which it does one thing after another.

use std::collections::VecDeque;

use sshnet_core::message::Message;
use sshnet_core::{ClientId, Effect, Limits, Protocol, Reply};

use crate::backlog::Backlog;
use crate::bench::Bench;
use crate::peer::call;

/// A microsecond and a second, in the link's own nanoseconds.
pub const MICRO: u64 = 1_000;
/// A millisecond.
pub const MILLI: u64 = 1_000_000;
/// A second.
pub const SECOND: u64 = 1_000_000_000;
/// What a source has that never ends.
pub const ENDLESS: u64 = u64::MAX;

/// The engine learns the time when it is so much later than it knows.
const STEP: u64 = 250 * MICRO;
const PACKET: u64 = 32_768;

/// What a process sends and copies in a second; what the link may have of it before it
/// has to wait; and the least time for a turn.
const SENDS: u64 = 700_000_000;
const COPIES: u64 = 3_000_000_000;
const SOCKET: u64 = 2_500_000;
const TURN: u64 = 10 * MICRO;

/// What the far side says to a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answers {
    /// What RFC 4254 asks of one who doesn't know it.
    Failure,
    /// That it was done.
    Success,
    /// Nothing.
    Never,
    /// Thrice, and once more with each window adjustment.
    TooOften,
}

/// How a conversation is read.
#[derive(Clone, Copy, Debug)]
pub enum Reader {
    /// At once.
    Fast,
    /// So many bytes a second.
    Slow(u64),
    /// Not at all.
    Never,
}

/// A conversation over the link.
#[derive(Debug)]
pub struct End {
    /// Its client.
    pub id: ClientId,
    /// Our number of its channel; none until the far side has it.
    ours: Option<u32>,
    /// Whether the engine knows that it is open.
    open: bool,
    /// What the far side may send, and what it has.
    window: u64,
    source: u64,
    /// What a process read of that and did not send.
    backlog: Option<Backlog>,
    reader: Reader,
    /// When a slow reader reads next.
    reads_at: u64,
    /// The read that waits.
    waits: Option<u64>,
    /// What was read.
    pub taken: u64,
}

/// The link, the engine at one end of it and the far side at the other.
pub struct Link {
    /// The engine.
    pub s: Bench,
    /// Bytes a second.
    pub rate: u64,
    trip: u64,
    answers: Answers,
    /// How late it is, in nanoseconds.
    pub now: u64,
    told: u64,
    /// When it asked to be told.
    wake: Option<u64>,
    /// When the link has sent all that waits for it.
    free: u64,
    /// When the process at the far side goes on.
    works: Option<u64>,
    /// When what arrives.
    down: VecDeque<(u64, Vec<u8>)>,
    up: VecDeque<(u64, Vec<u8>)>,
    /// Conversations, by the far side's number.
    pub ends: Vec<End>,
    /// When the far side heard questions.
    pub questions: Vec<u64>,
    /// The most that the windows of all took together.
    pub most: u64,
}

impl Link {
    /// A link of so many bytes a second and such a round trip in nanoseconds, to try
    /// our own engine on: see [`Bench::of_ours`].
    pub fn of_ours(limits: Limits, rate: u64, trip: u64, answers: Answers) -> Option<Self> {
        Some(Self {
            s: Bench::of_ours(limits)?,
            rate,
            trip,
            answers,
            now: 0,
            told: 0,
            wake: None,
            free: 0,
            works: None,
            down: VecDeque::new(),
            up: VecDeque::new(),
            ends: Vec::new(),
            questions: Vec::new(),
            most: 0,
        })
    }

    /// The pipe goes, with all that is in it.
    #[track_caller]
    pub fn pipe_down(&mut self) {
        self.tell();
        self.down.clear();
        self.up.clear();
        let effects = self.s.pipe_down("gone");
        self.perform(effects);
    }

    /// There is a pipe again.
    #[track_caller]
    pub fn pipe_up(&mut self) {
        self.tell();
        let effects = self.s.pipe_up();
        self.perform(effects);
    }

    /// A conversation in which the far side has so much to send: its number. It is
    /// under way a round trip later.
    #[track_caller]
    pub fn dial(&mut self, source: u64, reader: Reader) -> usize {
        self.tell();
        let id = self.s.client();
        let request = self.s.fresh();
        let effects = self.s.control(request, id, "connect example.net!7");
        self.end(id, source, reader);
        self.perform(effects);
        self.ends.len() - 1
    }

    /// The same, called by the far side.
    #[track_caller]
    pub fn call(&mut self, listener: ClientId, source: u64, reader: Reader) -> usize {
        let request = self.s.fresh();
        assert!(self.s.listen(request, listener).is_empty());
        self.tell();
        let number = self.ends.len() as u32;
        let effects = self.s.hear(call(number, "localhost", 80));
        let (id, _) = crate::bench::taken(&effects);
        self.end(id, source, reader);
        self.ends[number as usize].open = true;
        self.perform(effects);
        self.ends.len() - 1
    }

    fn end(&mut self, id: ClientId, source: u64, reader: Reader) {
        let reads_at = self.now;
        let end = End {
            id,
            ours: None,
            open: false,
            window: 0,
            source,
            backlog: None,
            reader,
            reads_at,
            waits: None,
            taken: 0,
        };
        self.ends.push(end);
    }

    /// A listener on `localhost!80`.
    pub fn listener(&mut self) -> ClientId {
        self.s.client_of(Protocol::Tcp);
        self.s.announce("localhost!80")
    }

    /// The far side has so much more to send.
    pub fn feed(&mut self, number: usize, bytes: u64) {
        self.ends[number].source = bytes;
        self.pump(number);
    }

    /// A conversation is read slowly from now on, at so many bytes a second.
    pub fn slow_down(&mut self, number: usize, rate: u64) {
        let end = &mut self.ends[number];
        end.reader = Reader::Slow(rate);
        end.reads_at = self.now;
    }

    /// A client is let go of.
    pub fn release(&mut self, id: ClientId) {
        self.tell();
        let effects = self.s.release(id);
        self.perform(effects);
    }

    /// What a conversation's window takes: what may come, and what is not read.
    pub fn held(&mut self, number: usize) -> u64 {
        let info = self.s.info(self.ends[number].id);
        u64::from(info.receive_window) + info.unread
    }

    /// Lets so much time pass.
    #[track_caller]
    pub fn run(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
    }

    /// Bytes a second that a conversation takes, over so much time.
    #[track_caller]
    pub fn rate_of(&mut self, number: usize, time: u64) -> u64 {
        let before = self.ends[number].taken;
        self.run(time);
        (u128::from(self.ends[number].taken - before) * u128::from(SECOND) / u128::from(time))
            as u64
    }

    /// When something happens next.
    fn next(&self) -> Option<u64> {
        let (down, up) = (self.down.front(), self.up.front());
        let reads = self.ends.iter().filter(|end| matches!(end.reader, Reader::Slow(_)));
        let reads = reads.filter(|end| end.waits.is_none()).map(|end| end.reads_at);
        let messages = down.into_iter().chain(up).map(|(at, _)| *at);
        messages.chain(reads).chain(self.wake).chain(self.works).min()
    }

    #[track_caller]
    fn step(&mut self) {
        let now = self.now;
        let is_due = |queue: &VecDeque<(u64, Vec<u8>)>| queue.front().is_some_and(|m| m.0 <= now);
        if is_due(&self.up)
            && let Some((_, message)) = self.up.pop_front()
        {
            return self.far(&message);
        }
        if self.works.take_if(|at| *at <= now).is_some() {
            return self.work();
        }
        self.tell();
        if is_due(&self.down)
            && let Some((_, message)) = self.down.pop_front()
        {
            if let Ok(Message::OpenConfirmation { sender, .. }) = Message::decode(&message) {
                self.ends[sender as usize].open = true;
            }
            let effects = self.s.hear_bytes(&message);
            self.perform(effects);
        }
        for number in 0..self.ends.len() {
            let end = &mut self.ends[number];
            match end.reader {
                Reader::Never => {}
                // The next read waits for the next data.
                Reader::Fast => while self.ends[number].waits.is_none() && self.read(number) {},
                Reader::Slow(rate) if end.waits.is_none() && end.reads_at <= now => {
                    end.reads_at = now + PACKET * SECOND / rate;
                    self.read(number);
                }
                Reader::Slow(_) => {}
            }
        }
        self.most = self.most.max(self.s.statistics().windows);
    }

    /// Reads from a conversation that is under way; answers whether it is.
    fn read(&mut self, number: usize) -> bool {
        if !self.ends[number].open {
            return false;
        }
        let request = self.s.fresh();
        self.ends[number].waits = Some(request);
        let effects = self.s.read(request, self.ends[number].id, PACKET as u32);
        self.perform(effects);
        true
    }

    fn tell(&mut self) {
        let asked = self.wake.take_if(|at| *at <= self.now).is_some();
        if asked || self.now >= self.told + STEP {
            self.told = self.now;
            let effects = self.s.advance(self.now / MICRO);
            self.perform(effects);
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => self.up.push_back((self.now + self.trip / 2, message)),
                Effect::Complete(done) => {
                    let of = |end: &&mut End| end.waits == Some(done.request);
                    if let Ok(Reply::Data(bytes)) = &done.outcome
                        && let Some(end) = self.ends.iter_mut().find(of)
                    {
                        assert!(!bytes.is_empty(), "an end that the far side did not send");
                        end.taken += bytes.len() as u64;
                        end.waits = None;
                    }
                }
                Effect::Wake(at) => self.wake = Some(at * MICRO),
                Effect::Warn(_) => {}
                Effect::Fail(why) => panic!("{why}"),
            }
        }
        self.s.took_all();
    }

    /// The far side hears a message.
    fn far(&mut self, message: &[u8]) {
        match Message::decode(message).expect("the engine sends messages") {
            Message::Open { sender, window, .. } => {
                let number = self.ends.iter().position(|end| end.ours.is_none());
                let number = number.expect("somebody dials");
                self.say(&Message::OpenConfirmation {
                    recipient: sender,
                    sender: number as u32,
                    window: 1 << 20,
                    packet: PACKET as u32,
                    data: b"",
                });
                self.begin(number, sender, window);
            }
            Message::OpenConfirmation { recipient, sender, window, .. } => {
                self.begin(recipient as usize, sender, window);
            }
            Message::WindowAdjust { recipient, bytes } => {
                let number = recipient as usize;
                self.ends[number].window += u64::from(bytes);
                if self.answers == Answers::TooOften {
                    self.answer(number, false);
                }
                self.pump(number);
            }
            Message::Request { recipient, want_reply: true, .. } => {
                self.questions.push(self.now);
                let number = recipient as usize;
                match self.answers {
                    Answers::Failure => self.answer(number, false),
                    Answers::Success => self.answer(number, true),
                    Answers::Never => {}
                    Answers::TooOften => {
                        for success in [true, false, true] {
                            self.answer(number, success);
                        }
                    }
                }
            }
            Message::Close { recipient } => {
                let end = &mut self.ends[recipient as usize];
                end.source = 0;
                let ours = end.ours.expect("it is open");
                self.say(&Message::Close { recipient: ours });
            }
            other => panic!("the far side heard {other:?}"),
        }
    }

    fn begin(&mut self, number: usize, ours: u32, window: u32) {
        let end = &mut self.ends[number];
        end.ours = Some(ours);
        end.window = window.into();
        self.pump(number);
    }

    fn answer(&mut self, number: usize, success: bool) {
        let Some(recipient) = self.ends[number].ours else { return };
        self.say(&match success {
            true => Message::Success { recipient },
            false => Message::Failure { recipient },
        });
    }

    /// From now on the far side's end of a conversation is a process.
    pub fn process(&mut self, number: usize) {
        self.ends[number].backlog = Some(Backlog::default());
        self.works = Some(self.now);
    }

    /// The link stands still for so long.
    pub fn halt(&mut self, time: u64) {
        self.free = self.free.max(self.now) + time;
    }

    /// A turn of the process: for each conversation it sends a packet, if the link takes
    /// one, and reads one.
    fn work(&mut self) {
        let waits = self.free.saturating_sub(self.now) * self.rate / SECOND;
        let mut time = 0;
        for number in 0..self.ends.len() {
            let end = &mut self.ends[number];
            let (Some(ours), Some(backlog)) = (end.ours, &mut end.backlog) else { continue };
            let sends = PACKET.min(end.window).min(backlog.bytes());
            if sends > 0 && waits < SOCKET {
                backlog.consume(sends);
                end.window -= sends;
                time += sends * SECOND / SENDS;
            }
            let reads = PACKET.min(end.window.saturating_sub(backlog.bytes())).min(end.source);
            if reads > 0 {
                end.source -= if end.source == ENDLESS { 0 } else { reads };
                time += backlog.append(reads) * SECOND / COPIES;
            }
            if sends > 0 && waits < SOCKET {
                let data = &[0; PACKET as usize][..sends as usize];
                self.say(&Message::Data { recipient: ours, data });
            }
            if sends + reads > 0 {
                self.works = Some(self.now + time.max(TURN));
            }
        }
    }

    /// Sends what the window lets through.
    fn pump(&mut self, number: usize) {
        if self.ends[number].backlog.is_some() {
            self.works.get_or_insert(self.now);
            return;
        }
        let zeros = [0; PACKET as usize];
        while let End { ours: Some(recipient), window, source, .. } = &mut self.ends[number]
            && *window > 0
            && *source > 0
        {
            let length = PACKET.min(*window).min(*source);
            *window -= length;
            *source -= if *source == ENDLESS { 0 } else { length };
            let recipient = *recipient;
            self.say(&Message::Data { recipient, data: &zeros[..length as usize] });
        }
    }

    /// Puts a message into the queue before the link.
    fn say(&mut self, message: &Message<'_>) {
        let bytes = message.encode();
        let time = bytes.len() as u64 * SECOND / self.rate;
        self.free = self.free.max(self.now) + time;
        self.down.push_back((self.free + self.trip / 2, bytes));
    }
}
