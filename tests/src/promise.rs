//! What is asked of the engine under test: of ours everything, of another what the
//! contract promises (wit/).
//!
//! Tests say what our engine answers, to the last word. `SSHNET_CORE=FILE` puts
//! another component in its place, and then [`same`] compares by the contract,
//! which leaves an engine free
//!
//! - in its own words: texts that come from [`own`] may be any that can be shown;
//! - in how it cuts data into messages, and in how much window it gives when;
//! - in the order of what has no order: messages for one channel have one, global
//!   requests have one, reads that are answered have one, and so on, but not a
//!   message for one channel and the completion of a request for another;
//! - in asking to be woken earlier and more often than it must, and in warning of
//!   more than it must.
//!
//! The ledger and the oracle hold every engine to windows, budgets and wake-ups
//! whatever is asked here. What is of our engine alone is in the test program
//! `quality`: its tests start with [`crate::bench::Bench::of_ours`], or ask
//! [`ours`].

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;

use sshnet_core::message::{Message, Open};
use sshnet_core::{Completion, Effect, Reply};

/// Whether another component than ours is under test.
pub fn another() -> bool {
    cfg!(feature = "component") && std::env::var_os("SSHNET_CORE").is_some()
}

/// Whether a test of our engine's quality is to run. If not, that is said on
/// stderr, past the harness, which would keep it to itself.
pub fn ours() -> bool {
    if another() {
        let test = std::thread::current();
        let name = test.name().unwrap_or("a test");
        let _ = writeln!(
            std::io::stderr(),
            "not run: {name} is about the quality of sshnet's own engine, not the contract"
        );
    }
    !another()
}

/// Stands for any text of the engine's own. No engine can say it.
pub const ANY: &str = "\0";

/// A text of our engine's own. The contract promises that there is one.
pub fn own(text: &str) -> String {
    if another() { ANY.to_owned() } else { text.to_owned() }
}

/// Whether an engine said this, which may be its [`own`] words.
pub fn said(text: &str, expected: &str) -> bool {
    if expected == ANY { presentable(text) } else { text == expected }
}

/// Whether our engine's words begin so; any other's are words.
pub fn begins(text: &str, start: &str) -> bool {
    if another() { presentable(text) } else { text.starts_with(start) }
}

/// Whether our engine's words end so; any other's are words.
pub fn ends(text: &str, end: &str) -> bool {
    if another() { presentable(text) } else { text.ends_with(end) }
}

fn presentable(text: &str) -> bool {
    !text.is_empty() && text.len() <= 120 && !text.chars().any(char::is_control)
}

/// Whether these are the effects that were expected: ours in this order and no
/// others, another's as far as the contract promises.
pub fn same(effects: &[Effect], expected: &[Effect]) -> bool {
    if another() { by_the_contract(effects, expected) } else { effects == expected }
}

/// Whether these effects are, by the contract, those that were expected.
pub fn by_the_contract(effects: &[Effect], expected: &[Effect]) -> bool {
    let (found, expected) = (Told::of(effects), Told::of(expected));
    let warned = found.warnings >= expected.warnings.min(1);
    warned
        && found.kinds.keys().eq(expected.kinds.keys())
        && found.kinds.iter().zip(&expected.kinds).all(|((kind, found), (_, expected))| {
            found.len() == expected.len()
                && match kind {
                    Kind::Failed => expected.iter().all(|e| found.iter().any(|f| f.is(e))),
                    _ => found.iter().zip(expected).all(|(found, expected)| found.is(expected)),
                }
        })
}

/// Among which effects there is an order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    /// Messages for this channel of the peer's.
    Channel(u32),
    /// Channels that are asked for.
    Opens,
    /// Global requests.
    Globals,
    /// Answers to the peer's.
    GlobalAnswers,
    Done,
    Clients,
    Reads,
    Writes,
    /// Requests that failed: these have no order.
    Failed,
    Failure,
}

/// An effect without what the contract leaves open.
#[derive(Debug)]
enum Item {
    /// A message whose own words are put aside.
    Message(Vec<u8>, Option<String>),
    /// Data messages for one channel, as one.
    Data(Vec<u8>),
    Completion(Completion),
    Failure(String),
}

impl Item {
    /// Whether it is what was expected.
    fn is(&self, expected: &Self) -> bool {
        match (self, expected) {
            (Self::Message(found, words), Self::Message(expected, own)) => {
                let words_fit = match (words, own) {
                    (Some(words), Some(own)) => said(words, own),
                    (words, own) => words == own,
                };
                found == expected && words_fit
            }
            (Self::Data(found), Self::Data(expected)) => found == expected,
            (Self::Failure(found), Self::Failure(expected)) => said(found, expected),
            (Self::Completion(found), Self::Completion(expected)) => {
                found.request == expected.request
                    && match (&found.outcome, &expected.outcome) {
                        (Err(found), Err(expected)) => {
                            found.code == expected.code && said(&found.message, &expected.message)
                        }
                        (found, expected) => found == expected,
                    }
            }
            _ => false,
        }
    }
}

/// Effects by kind, in order.
#[derive(Debug, Default)]
struct Told {
    kinds: BTreeMap<Kind, Vec<Item>>,
    warnings: usize,
}

impl Told {
    fn of(effects: &[Effect]) -> Self {
        let mut told = Self::default();
        for effect in effects {
            match effect {
                Effect::Wake(_) => {}
                Effect::Warn(_) => told.warnings += 1,
                Effect::Fail(why) => told.put(Kind::Failure, Item::Failure(why.clone())),
                Effect::Complete(completion) => {
                    let kind = match completion.outcome {
                        Ok(Reply::Done) => Kind::Done,
                        Ok(Reply::Client(_)) => Kind::Clients,
                        Ok(Reply::Data(_)) => Kind::Reads,
                        Ok(Reply::Count(_)) => Kind::Writes,
                        Err(_) => Kind::Failed,
                    };
                    told.put(kind, Item::Completion(completion.clone()));
                }
                Effect::Send(bytes) => told.message(bytes),
            }
        }
        told
    }

    fn put(&mut self, kind: Kind, item: Item) {
        self.kinds.entry(kind).or_default().push(item);
    }

    fn message(&mut self, bytes: &[u8]) {
        let message = Message::decode(bytes)
            .unwrap_or_else(|error| panic!("the engine sent {bytes:02x?}: {error}"));
        let plain = |message: Message<'_>| Item::Message(message.encode(), None);
        match message {
            Message::WindowAdjust { .. } => {}
            Message::Data { recipient, data } => {
                let items = self.kinds.entry(Kind::Channel(recipient)).or_default();
                match items.last_mut() {
                    Some(Item::Data(joined)) => joined.extend_from_slice(data),
                    _ => items.push(Item::Data(data.to_vec())),
                }
            }
            Message::Open { sender, packet, kind, .. } => {
                let kind = match kind {
                    // Who asks has a numeric address, whichever (RFC 4254 section 7.2).
                    Open::DirectTcpip { host, port, originator, originator_port } => {
                        let text = std::str::from_utf8(originator).ok();
                        let numeric = text.is_some_and(|text| text.parse::<IpAddr>().is_ok());
                        let originator: &[u8] = if numeric { b"" } else { originator };
                        let originator_port = originator_port.saturating_sub(65_535);
                        Open::DirectTcpip { host, port, originator, originator_port }
                    }
                    other => other,
                };
                self.put(Kind::Opens, plain(Message::Open { sender, window: 0, packet, kind }));
            }
            Message::OpenConfirmation { recipient, sender, packet, data, .. } => {
                let message =
                    Message::OpenConfirmation { recipient, sender, window: 0, packet, data };
                self.put(Kind::Channel(recipient), plain(message));
            }
            Message::OpenFailure { recipient, reason, description, .. } => {
                let words = String::from_utf8_lossy(description).into_owned();
                let message =
                    Message::OpenFailure { recipient, reason, description: b"", language: b"" };
                self.put(Kind::Channel(recipient), Item::Message(message.encode(), Some(words)));
            }
            // Which request it is that the peer has to refuse is the engine's choice.
            Message::Request { recipient, want_reply, .. } => {
                let message = Message::Request { recipient, name: b"", want_reply, data: b"" };
                self.put(Kind::Channel(recipient), plain(message));
            }
            Message::GlobalRequest { .. } => self.put(Kind::Globals, plain(message)),
            Message::RequestSuccess { .. } | Message::RequestFailure => {
                self.put(Kind::GlobalAnswers, plain(message));
            }
            Message::ExtendedData { recipient, .. }
            | Message::Eof { recipient }
            | Message::Close { recipient }
            | Message::Success { recipient }
            | Message::Failure { recipient } => {
                self.put(Kind::Channel(recipient), plain(message));
            }
        }
    }
}
