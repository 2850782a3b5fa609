//! The far side: a peer that keeps RFC 4254, one that keeps it lazily, and one
//! that doesn't.

use std::collections::VecDeque;

use sshnet_core::message::{Global, Message, Open, reason};

use super::prng::Prng;

/// How a peer behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Keeps every rule.
    Lawful,
    /// Keeps every rule, and takes its time: small windows, rare adjustments.
    Lazy,
    /// Breaks a rule now and then.
    Hostile,
}

/// What a peer does of its own accord, as indices into [`Manners::acts`].
const ACTS: usize = 10;

/// What kind of peer a run has.
#[derive(Clone, Debug)]
pub struct Manners {
    /// How it behaves.
    pub mode: Mode,
    /// How often it does what: see [`Peer::act`].
    pub acts: [u64; ACTS],
    /// The windows that it opens.
    pub windows: Vec<u32>,
    /// The packet sizes that it accepts.
    pub packets: Vec<u32>,
    /// It refuses one in so many dials and announcements.
    pub refuses: u64,
    /// It answers one in so many CLOSEs at once, and the others when it likes.
    pub slow: u64,
    /// A hostile one breaks a rule one time in so many.
    pub evil: u64,
    /// What it then aims at.
    pub aim: Aim,
}

/// Which channels a hostile peer sends to what doesn't belong there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Aim {
    /// All of them.
    Any,
    /// Those that the engine asked for.
    Opening,
    /// Those that the engine closed.
    Closing,
    /// Those on which it has sent EOF itself.
    HalfOpen,
}

impl Manners {
    /// Manners by chance.
    pub fn swarm(rng: &mut Prng) -> Self {
        let mode = [Mode::Lawful, Mode::Lawful, Mode::Lazy, Mode::Hostile][rng.below(4) as usize];
        let mut acts = [0; ACTS];
        for weight in &mut acts {
            *weight = rng.pick(&[0, 1, 1, 4, 16]);
        }
        // Without answers nothing happens at all.
        acts[0] = acts[0].max(8);
        acts[4] = rng.pick(&[0, 0, 1]);
        let all = [0, 1, 100, 32_512, 1 << 31, u32::MAX, 2 << 20];
        let windows = match mode {
            Mode::Lazy => vec![0, 1, 100],
            _ => (0..3).map(|_| rng.pick(&all)).collect(),
        };
        let packets = (0..2).map(|_| rng.pick(&[1, 100, 32_512, 32_768, 1 << 31, u32::MAX]));
        let packets = packets.collect();
        Self {
            mode,
            acts,
            windows,
            packets,
            refuses: rng.pick(&[3, 8, 1000]),
            slow: rng.pick(&[1, 5, 30]),
            evil: rng.pick(&[5, 20, 200]),
            aim: rng.pick(&[Aim::Any, Aim::Any, Aim::Opening, Aim::Closing, Aim::HalfOpen]),
        }
    }
}

/// A channel, at the peer.
#[derive(Clone, Debug)]
struct End {
    /// The engine's number.
    theirs: u32,
    open: bool,
    /// What may be sent to the engine.
    window: u64,
    packet: u32,
    /// What the engine may still send.
    granted: u32,
    /// What the engine sent and got no new window for.
    consumed: u32,
    sent_eof: bool,
    sent_close: bool,
    got_close: bool,
}

/// The far side of one pipe.
#[derive(Clone, Debug)]
pub struct Peer {
    manners: Manners,
    ends: Vec<Option<End>>,
    /// The engine's OPENs that are not answered: its number, window and packet.
    asked: VecDeque<(u32, u32, u32)>,
    /// Our numbers of the channels on which it asked something, in order.
    owed: VecDeque<u32>,
    /// Where calls are taken: address and port, or a path.
    bound: Vec<(Vec<u8>, Option<u32>)>,
    /// What goes to the engine.
    out: Vec<Vec<u8>>,
    port: u32,
}

impl Peer {
    /// A peer to whom nothing was said yet.
    pub fn new(manners: Manners) -> Self {
        Self {
            manners,
            ends: Vec::new(),
            asked: VecDeque::new(),
            owed: VecDeque::new(),
            bound: Vec::new(),
            out: Vec::new(),
            port: 40_000,
        }
    }

    /// What it has to say.
    pub fn take_out(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.out)
    }

    fn say(&mut self, message: &Message<'_>) {
        self.out.push(message.encode());
    }

    fn insert(&mut self, end: End) -> u32 {
        let free = self.ends.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        self.ends[number] = Some(end);
        number as u32
    }

    fn end(&mut self, number: u32) -> Option<&mut End> {
        self.ends.get_mut(number as usize)?.as_mut()
    }

    /// The engine said this.
    pub fn hear(&mut self, bytes: &[u8], rng: &mut Prng) {
        let Ok(message) = Message::decode(bytes) else { return };
        match message {
            Message::Open { sender, window, packet, .. } => {
                self.asked.push_back((sender, window, packet));
            }
            Message::GlobalRequest { want_reply, request } => {
                let answer = self.bind(request, rng);
                if want_reply {
                    self.say(&match &answer {
                        Some(data) => Message::RequestSuccess { data },
                        None => Message::RequestFailure,
                    });
                }
            }
            Message::OpenConfirmation { recipient, sender, window, packet, .. } => {
                if let Some(end) = self.end(recipient) {
                    end.theirs = sender;
                    end.window = window.into();
                    end.packet = packet;
                    end.open = true;
                }
            }
            Message::OpenFailure { recipient, .. } => {
                if let Some(slot) = self.ends.get_mut(recipient as usize) {
                    *slot = None;
                }
            }
            Message::WindowAdjust { recipient, bytes } => {
                if let Some(end) = self.end(recipient) {
                    end.window += u64::from(bytes);
                }
            }
            Message::Data { recipient, data } => {
                if let Some(end) = self.end(recipient) {
                    end.granted = end.granted.saturating_sub(data.len() as u32);
                    end.consumed = end.consumed.saturating_add(data.len() as u32);
                }
            }
            Message::Close { recipient } => {
                let Some(end) = self.end(recipient) else { return };
                end.got_close = true;
                if end.sent_close {
                    self.free(recipient);
                } else if rng.one_in(self.manners.slow) {
                    self.close(recipient);
                }
            }
            Message::Request { recipient, want_reply: true, .. } => {
                // One who breaks the rules answers twice, or never.
                let times = match self.manners.mode == Mode::Hostile && rng.one_in(3) {
                    true => rng.pick(&[0, 2]),
                    false => 1,
                };
                self.owed.extend((0..times).map(|_| recipient));
                if rng.one_in(self.manners.slow) {
                    self.reply(rng);
                }
            }
            _ => {}
        }
    }

    /// Answers what was asked on the channels.
    fn reply(&mut self, rng: &mut Prng) {
        for number in std::mem::take(&mut self.owed) {
            let end = self.end(number).filter(|end| !end.sent_close);
            if let Some(recipient) = end.map(|end| end.theirs) {
                self.say(&match rng.one_in(4) {
                    true => Message::Success { recipient },
                    false => Message::Failure { recipient },
                });
            }
        }
    }

    fn free(&mut self, number: u32) {
        self.owed.retain(|owed| *owed != number);
        if let Some(slot) = self.ends.get_mut(number as usize) {
            *slot = None;
        }
    }

    fn close(&mut self, number: u32) {
        let Some(end) = self.end(number) else { return };
        end.sent_close = true;
        let (theirs, done) = (end.theirs, end.got_close);
        self.say(&Message::Close { recipient: theirs });
        if done {
            self.free(number);
        }
    }

    /// Answers a global request: what belongs to the answer, or `None` to refuse.
    fn bind(&mut self, request: Global<'_>, rng: &mut Prng) -> Option<Vec<u8>> {
        let refuses = rng.one_in(self.manners.refuses);
        match request {
            Global::TcpipForward { address, port } => {
                let any = port == 0;
                let port = if any { self.port } else { port };
                self.port += u32::from(any);
                let place = (address.to_vec(), Some(port));
                if refuses || self.bound.contains(&place) {
                    return None;
                }
                self.bound.push(place);
                Some(if any { port.to_be_bytes().to_vec() } else { Vec::new() })
            }
            Global::StreamlocalForward { path } => {
                let place = (path.to_vec(), None);
                if refuses || self.bound.contains(&place) {
                    return None;
                }
                self.bound.push(place);
                Some(Vec::new())
            }
            Global::CancelTcpipForward { address, port } => {
                self.unbind(&(address.to_vec(), Some(port)))
            }
            Global::CancelStreamlocalForward { path } => self.unbind(&(path.to_vec(), None)),
            Global::Other { .. } => None,
        }
    }

    fn unbind(&mut self, place: &(Vec<u8>, Option<u32>)) -> Option<Vec<u8>> {
        let at = self.bound.iter().position(|bound| bound == place)?;
        self.bound.remove(at);
        Some(Vec::new())
    }

    /// The number of a channel that is open and not yet closed from here.
    fn pick(&self, rng: &mut Prng) -> Option<u32> {
        let open = |end: &End| end.open && !end.sent_close;
        let open: Vec<u32> = (0..self.ends.len())
            .filter(|n| self.ends[*n].as_ref().is_some_and(open))
            .map(|n| n as u32)
            .collect();
        (!open.is_empty()).then(|| rng.pick(&open))
    }

    /// Does something of its own accord.
    pub fn act(&mut self, rng: &mut Prng) {
        if self.manners.mode == Mode::Hostile && rng.one_in(self.manners.evil) {
            self.misbehave(rng);
        } else {
            self.behave(rng);
        }
    }

    fn behave(&mut self, rng: &mut Prng) {
        match rng.weighted(&self.manners.acts) {
            0 => {
                self.reply(rng);
                self.answer(rng);
            }
            1 => self.send_data(rng, false),
            2 => self.adjust(rng),
            3 => {
                if let Some(end) = self.pick(rng).and_then(|n| self.end(n))
                    && !end.sent_eof
                {
                    end.sent_eof = true;
                    let theirs = end.theirs;
                    self.say(&Message::Eof { recipient: theirs });
                }
            }
            4 => {
                if let Some(number) = self.pick(rng) {
                    self.close(number);
                }
            }
            5 => self.call(rng),
            6 => {
                if let Some(end) = self.pick(rng).and_then(|n| self.end(n)) {
                    let recipient = end.theirs;
                    let name =
                        rng.pick(&[&b"eow@openssh.com"[..], b"winadj@putty.projects.tartarus.org"]);
                    let want_reply = rng.one_in(2);
                    self.say(&Message::Request { recipient, name, want_reply, data: b"" });
                }
            }
            7 => {
                let name = rng.pick(&[&b"keepalive@openssh.com"[..], b"hostkeys-00@openssh.com"]);
                let request = Global::Other { name, data: b"" };
                self.say(&Message::GlobalRequest { want_reply: rng.one_in(2), request });
            }
            8 => self.send_data(rng, true),
            _ => {
                let name = rng.pick(&[&b"session"[..], b"x11", b"auth-agent@openssh.com"]);
                let kind = Open::Other { name, data: b"" };
                self.open(kind, rng);
            }
        }
    }

    fn answer(&mut self, rng: &mut Prng) {
        let Some((theirs, window, packet)) = self.asked.pop_front() else { return };
        if rng.one_in(self.manners.refuses) {
            let description = rng.pick(&[
                &b"Connection refused"[..],
                b"",
                b"open failed",
                b"\xff\xfe\x1b[2J bell\x07",
                &[b'x'; 300],
            ]);
            let reason = rng.pick(&[
                reason::PROHIBITED,
                reason::CONNECT_FAILED,
                reason::UNKNOWN_TYPE,
                reason::RESOURCE_SHORTAGE,
                77,
            ]);
            self.say(&Message::OpenFailure {
                recipient: theirs,
                reason,
                description,
                language: b"",
            });
            return;
        }
        let granted = rng.pick(&self.manners.windows);
        let ours = self.insert(End {
            theirs,
            open: true,
            window: window.into(),
            packet,
            granted,
            consumed: 0,
            sent_eof: false,
            sent_close: false,
            got_close: false,
        });
        let packet = rng.pick(&self.manners.packets);
        self.say(&Message::OpenConfirmation {
            recipient: theirs,
            sender: ours,
            window: granted,
            packet,
            data: b"",
        });
    }

    fn open(&mut self, kind: Open<'_>, rng: &mut Prng) {
        let window = rng.pick(&self.manners.windows);
        let packet = rng.pick(&self.manners.packets);
        let sender = self.insert(End {
            theirs: 0,
            open: false,
            window: 0,
            packet: 0,
            granted: window,
            consumed: 0,
            sent_eof: false,
            sent_close: false,
            got_close: false,
        });
        self.say(&Message::Open { sender, window, packet, kind });
    }

    fn call(&mut self, rng: &mut Prng) {
        let originator = &b"192.0.2.7"[..];
        if self.bound.is_empty() || rng.one_in(10) {
            let kind = match rng.one_in(2) {
                true => Open::DirectTcpip { host: b"a", port: 1, originator, originator_port: 2 },
                false => Open::ForwardedTcpip {
                    address: b"nowhere",
                    port: 9,
                    originator,
                    originator_port: 2,
                },
            };
            return self.open(kind, rng);
        }
        let (address, port) = self.bound[rng.below(self.bound.len() as u64) as usize].clone();
        match port {
            Some(port) => self.open(
                Open::ForwardedTcpip { address: &address, port, originator, originator_port: 2 },
                rng,
            ),
            None => self.open(Open::ForwardedStreamlocal { path: &address }, rng),
        }
    }

    fn send_data(&mut self, rng: &mut Prng, extended: bool) {
        let Some(end) = self.pick(rng).and_then(|n| self.end(n)) else { return };
        if end.sent_eof {
            return;
        }
        let most = end.window.min(end.packet.into());
        let length = rng.pick(&[0, 1, 2, 100, 1000, 5000, u64::MAX, u64::MAX]).min(most);
        end.window -= length;
        let recipient = end.theirs;
        let data = rng.bytes(length as usize);
        self.say(&match extended {
            true => Message::ExtendedData { recipient, code: 1, data: &data },
            false => Message::Data { recipient, data: &data },
        });
    }

    fn adjust(&mut self, rng: &mut Prng) {
        let lazy = self.manners.mode == Mode::Lazy;
        let Some(end) = self.pick(rng).and_then(|n| self.end(n)) else { return };
        // What was consumed comes back; and sometimes more, to get small windows
        // going.
        let more = if lazy { rng.pick(&[0, 1, 50]) } else { rng.pick(&[0, 1000, 40_000]) };
        let bytes = end.consumed.saturating_add(more).min(u32::MAX - end.granted);
        let bytes = if rng.one_in(3) { bytes.min(1) } else { bytes };
        end.consumed = end.consumed.saturating_sub(bytes);
        end.granted += bytes;
        let recipient = end.theirs;
        self.say(&Message::WindowAdjust { recipient, bytes });
    }

    /// Breaks a rule.
    fn misbehave(&mut self, rng: &mut Prng) {
        let like = |fits: &dyn Fn(&&End) -> bool| {
            let live = |end: &&End| end.open && !end.sent_close;
            self.ends.iter().flatten().filter(live).find(fits).map(|end| end.theirs)
        };
        let target = match self.manners.aim {
            Aim::Any => {
                let some = self.pick(rng).and_then(|n| self.end(n)).map_or(0, |end| end.theirs);
                let other = rng.below(8) as u32;
                Some(rng.pick(&[some, some, some, other, 1 << 20]))
            }
            Aim::Opening => self.asked.front().map(|(theirs, ..)| *theirs),
            Aim::Closing => like(&|end| end.got_close),
            Aim::HalfOpen => like(&|end| end.sent_eof && !end.got_close),
        };
        let Some(any) = target else {
            // There is none: something lawful brings one about.
            return self.behave(rng);
        };
        if self.manners.aim != Aim::Any || rng.one_in(2) {
            let message = out_of_place(any, rng);
            self.out.push(message);
            return;
        }
        let garbage = rng.bytes(40);
        let window = self.pick(rng).and_then(|n| self.end(n)).map_or(0, |end| end.window);
        let message = match rng.below(15) {
            0 => garbage[..rng.below(40) as usize].to_vec(),
            1 => Vec::new(),
            2 => {
                Message::Data { recipient: any, data: &rng.bytes(window.min(40_000) as usize + 1) }
                    .encode()
            }
            3 => Message::Data { recipient: any, data: &rng.bytes(33_000) }.encode(),
            4 => Message::WindowAdjust { recipient: any, bytes: u32::MAX }.encode(),
            5 => Message::OpenConfirmation {
                recipient: any,
                sender: 1000 + rng.below(1000) as u32,
                window: 1,
                packet: rng.pick(&[0, 1, 32_768]),
                data: b"",
            }
            .encode(),
            6 => Message::OpenFailure {
                recipient: any,
                reason: 9,
                description: &garbage,
                language: &garbage,
            }
            .encode(),
            7 => Message::RequestSuccess { data: &garbage[..2] }.encode(),
            8 => Message::RequestFailure.encode(),
            9 => {
                // A length of 2^32-1.
                let mut message = Message::Data { recipient: any, data: b"x" }.encode();
                message[5..9].fill(0xff);
                message
            }
            10 => match self.asked.pop_front() {
                Some((recipient, ..)) => Message::OpenConfirmation {
                    recipient,
                    sender: 2000 + rng.below(100_000) as u32,
                    window: 9,
                    packet: 0,
                    data: b"",
                }
                .encode(),
                None => {
                    Message::Request { recipient: any, name: &garbage, want_reply: true, data: b"" }
                        .encode()
                }
            },
            11 => Message::Data { recipient: any, data: b"" }.encode(),
            12 => Message::Open {
                sender: 5000 + rng.below(100_000) as u32,
                window: 1,
                packet: 0,
                kind: Open::ForwardedTcpip {
                    address: &garbage,
                    port: u32::MAX,
                    originator: &garbage,
                    originator_port: u32::MAX,
                },
            }
            .encode(),
            _ => {
                // A lawful message with a flipped bit, or cut short.
                self.answer(rng);
                let mut message = self.out.pop().unwrap_or(garbage);
                if rng.one_in(2) {
                    message.truncate(rng.below(message.len() as u64) as usize);
                } else {
                    let at = rng.below(message.len() as u64) as usize;
                    message[at] ^= 1 << rng.below(8);
                }
                message
            }
        };
        self.out.push(message);
    }

    /// Becomes lawful and generous, and settles everything that is open: answers
    /// every dial, and takes everything.
    pub fn settle(&mut self, rng: &mut Prng) {
        self.manners.mode = Mode::Lawful;
        self.manners.windows = vec![1 << 20];
        self.manners.packets = vec![32_768];
        self.reply(rng);
        while !self.asked.is_empty() {
            self.answer(rng);
        }
        for number in 0..self.ends.len() as u32 {
            let Some(end) = self.end(number).filter(|end| end.open && !end.sent_close) else {
                continue;
            };
            if end.got_close {
                self.close(number);
                continue;
            }
            let bytes = end.consumed.max((1 << 20) - end.granted.min(1 << 20));
            let bytes = bytes.min(u32::MAX - end.granted);
            if bytes > 0 {
                end.consumed = 0;
                end.granted += bytes;
                let recipient = end.theirs;
                self.say(&Message::WindowAdjust { recipient, bytes });
            }
        }
    }

    /// Ends every conversation, with EOF where there was none.
    pub fn leave(&mut self) {
        for number in 0..self.ends.len() as u32 {
            let Some(end) = self.end(number).filter(|end| end.open && !end.sent_close) else {
                continue;
            };
            let recipient = end.theirs;
            if !std::mem::replace(&mut end.sent_eof, true) {
                self.say(&Message::Eof { recipient });
            }
            self.close(number);
        }
    }
}

/// A message for this channel, whatever state it is in.
fn out_of_place(recipient: u32, rng: &mut Prng) -> Vec<u8> {
    let sender = 1_000 + rng.below(100_000) as u32;
    match rng.below(10) {
        0 => Message::OpenConfirmation { recipient, sender, window: 1, packet: 1, data: b"" },
        1 => Message::OpenFailure { recipient, reason: 2, description: b"no", language: b"" },
        2 => Message::WindowAdjust { recipient, bytes: 1 },
        3 => Message::Data { recipient, data: b"x" },
        4 => Message::ExtendedData { recipient, code: 1, data: b"x" },
        5 => Message::Eof { recipient },
        6 => Message::Close { recipient },
        7 => Message::Request { recipient, name: b"x", want_reply: true, data: b"" },
        8 => Message::Success { recipient },
        _ => Message::Failure { recipient },
    }
    .encode()
}
