//! A session under any calls.
//!
//! The input is read as a list of calls of a few bytes each. Small numbers stand
//! for clients, channels and requests, so that what is named mostly exists; some
//! calls carry a message or a control line from the input as it is. The oracle
//! judges every answer.

use sshnet_core::message::{Global, Message, Open};
use sshnet_core::{ClientId, Limits, Protocol, Session, TextFile};

use super::oracle::{Call, Machine, Model, Seen, call};

/// Takes pieces off the front of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(bytes)
    }

    /// A number: small ones, powers of two and their neighbours.
    fn number(&mut self) -> Option<u32> {
        let byte = u32::from(self.byte()?);
        Some(match byte >> 5 {
            0..=3 => byte,
            4 => 1 << (byte & 31),
            5 => u32::MAX >> (byte & 31),
            6 => (byte & 31) * 1_000,
            _ => u32::MAX - (byte & 31),
        })
    }
}

/// A session, its oracle, and the names used so far.
struct World {
    session: Session,
    model: Model,
    request: u64,
    now: u64,
    fresh: u32,
    /// `SSHNET_FUZZ_PRINT` is set: every call is printed, with its answer.
    loud: bool,
}

/// Small limits and large ones.
fn limits(choice: u8) -> Limits {
    let small = choice & 1 == 0;
    let tiny = choice & 2 == 0;
    Limits {
        clients: if small { 3 } else { 8 },
        backlog: 2,
        calls: if small { 2 } else { 8 },
        requests: if tiny { 4 } else { 64 },
        line: 64,
        name: 32,
        queued: if tiny { 600 } else { 1 << 20 },
        unacknowledged: if tiny { 1_024 } else { 1 << 20 },
        windows: if small { 1_024 } else { 1 << 20 },
        window: if tiny { 256 } else { 4_096 },
        window_max: 4_096,
        packet: 256,
        room: if small { 256 } else { 4_096 },
        control: 4_096,
        dial_time: if choice & 4 == 0 { 0 } else { 100 },
        dial_wait: if choice & 8 == 0 { 0 } else { 100 },
        keepalive: if choice & 16 == 0 { 0 } else { 50 },
    }
}

/// Runs this input; panics where the oracle objects.
pub fn check(bytes: &[u8]) {
    let mut input = Input(bytes);
    let limits = limits(input.byte().unwrap_or(0));
    let mut world = World {
        session: Session::new(call::config(limits)),
        model: Model::new(limits, false),
        request: 0,
        now: 0,
        fresh: 100,
        loud: std::env::var_os("SSHNET_FUZZ_PRINT").is_some(),
    };
    while let Some(call) = world.next(&mut input) {
        world.perform(&call);
    }
}

impl World {
    fn perform(&mut self, call: &Call) {
        let answer = self.session.perform(call);
        if self.loud {
            eprintln!("{call}\n    {answer:?}");
        }
        let clients = self.session.snapshot();
        let figures = self.session.figures();
        let seen = Seen { call, effects: answer.effects(), clients: &clients, figures: &figures };
        let verdict = match answer {
            super::oracle::Answer::Effects(_) => self.model.observe(&seen),
            _ => self.model.asked(call, &answer),
        };
        if let Err(why) = verdict {
            panic!("{why}: at {:.100}", call.to_string());
        }
    }

    fn client(&self, input: &mut Input<'_>) -> Option<ClientId> {
        let byte = input.byte()?;
        let number = u32::from(byte & 7);
        let found = self.session.lookup(number).map(|info| info.id);
        let stale = ClientId { number, incarnation: u32::from(byte >> 4) };
        Some(found.filter(|_| byte & 8 == 0).unwrap_or(stale))
    }

    /// A name of its own, or now and then one that may be in use.
    fn request(&mut self) -> u64 {
        self.request += 1;
        self.request
    }

    fn line(&mut self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let choice = input.byte()?;
        for step in [choice & 7, (choice >> 3) & 7] {
            self.fresh += 1;
            let line = match step {
                0 | 1 => format!("connect h!{}\n", self.fresh),
                2 => format!("connect /s{}\n", self.fresh),
                3 => format!("announce {}\n", choice >> 6),
                4 => "closewrite\n".to_string(),
                5 => "hangup\n".to_string(),
                6 => format!("announce /p{}\n", choice >> 6),
                _ if choice & 64 == 0 => "reject 1 no\n".to_string(),
                _ => break,
            };
            text.extend_from_slice(line.as_bytes());
        }
        if choice & 64 != 0 && text.len() > 1 {
            text.pop();
        }
        Some(text)
    }

    fn message(&mut self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let kind = input.byte()?;
        let recipient = u32::from(input.byte()? & 15);
        self.fresh += 1;
        let sender = if kind & 128 == 0 { self.fresh } else { recipient };
        let data = [b'd'; 300];
        let message = match kind & 15 {
            0 | 1 => {
                let (window, packet) = (input.number()?, input.number()?);
                Message::OpenConfirmation { recipient, sender, window, packet, data: b"" }
            }
            2 => {
                let reason = input.number()?;
                let description = input.bytes()?;
                Message::OpenFailure { recipient, reason, description, language: b"" }
            }
            3 => Message::WindowAdjust { recipient, bytes: input.number()? },
            4 | 5 => {
                let length = input.number()?.min(300) as usize;
                Message::Data { recipient, data: &data[..length] }
            }
            6 => {
                let length = input.number()?.min(300) as usize;
                Message::ExtendedData { recipient, code: 1, data: &data[..length] }
            }
            7 => Message::Eof { recipient },
            8 => Message::Close { recipient },
            9 => {
                let want_reply = kind & 16 == 0;
                Message::Request { recipient, name: b"x", want_reply, data: b"" }
            }
            10 => Message::Failure { recipient },
            11 => Message::GlobalRequest {
                want_reply: kind & 16 == 0,
                request: Global::Other { name: b"x", data: b"" },
            },
            12 => return Some(Message::RequestSuccess { data: &sender.to_be_bytes() }.encode()),
            13 => Message::RequestFailure,
            _ => {
                let (window, packet) = (input.number()?, input.number()?);
                let kind = match kind & 16 {
                    0 => Open::ForwardedTcpip {
                        address: b"",
                        port: recipient & 3,
                        originator: b"o",
                        originator_port: 1,
                    },
                    _ => Open::ForwardedStreamlocal { path: b"/p1" },
                };
                Message::Open { sender, window, packet, kind }
            }
        };
        Some(message.encode())
    }

    fn next(&mut self, input: &mut Input<'_>) -> Option<Call> {
        Some(match input.byte()? & 31 {
            0 | 1 => Call::Clone(self.request(), Protocol::Tcp),
            2 => Call::Clone(self.request(), Protocol::Unix),
            3..=6 => {
                let id = self.client(input)?;
                let text = self.line(input)?;
                Call::Control(self.request(), id, text)
            }
            7 => {
                let id = self.client(input)?;
                let text = input.bytes()?.to_vec();
                Call::Control(self.request(), id, text)
            }
            8 | 9 => {
                let id = self.client(input)?;
                Call::Read(self.request(), id, input.number()?)
            }
            10 | 11 => {
                let id = self.client(input)?;
                let length = input.number()?.min(2_000) as usize;
                let bytes = (0..length).map(|at| at as u8).collect();
                Call::Write(self.request(), id, bytes)
            }
            12 => {
                let id = self.client(input)?;
                Call::Listen(self.request(), id)
            }
            13 => Call::Flush(self.request.saturating_sub(input.byte()?.into())),
            14 => Call::Release(self.client(input)?),
            15 => Call::Retain(self.client(input)?),
            16 | 17 => Call::PipeUp,
            18 => Call::PipeDown("down".into()),
            19 | 20 => Call::PipeTook(input.number()?.into()),
            21 => {
                self.now += u64::from(input.byte()?);
                Call::Advance(self.now)
            }
            22 => Call::Receive(input.bytes()?.to_vec()),
            23 if input.byte()? == 0xff => Call::Shutdown("over".into()),
            23 => Call::Text(self.client(input)?, TextFile::Status),
            24 => Call::Lookup(input.byte()?.into()),
            // A name that may be outstanding.
            25 => {
                let id = self.client(input)?;
                Call::Read(self.request.saturating_sub(input.byte()?.into()), id, 7)
            }
            _ => Call::Receive(self.message(input)?),
        })
    }
}
