//! Calls and answers as values, and logs of calls as text.
//!
//! What a session answers depends on the calls before it and on nothing else, so
//! a log of calls is a whole run. As text it has one call a line; bytes are in
//! hexadecimal. The first line has the limits.

use std::fmt::Write as _;

use sshnet_core::{
    ClientId, ClientInfo, Config, Effect, Error, Limits, Protocol, Service, Session, Statistics,
    TextFile,
};

/// One call of the contract.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "each is the function of the same name in wit/engine.wit")]
pub enum Call {
    PipeUp,
    PipeDown(String),
    Receive(Vec<u8>),
    PipeTook(u64),
    Advance(u64),
    Shutdown(String),
    Clone(u64, Protocol),
    Control(u64, ClientId, Vec<u8>),
    Read(u64, ClientId, u32),
    Write(u64, ClientId, Vec<u8>),
    Listen(u64, ClientId),
    Flush(u64),
    Retain(ClientId),
    Release(ClientId),
    Lookup(u32),
    Text(ClientId, TextFile),
    Translate(String),
}

/// What a call answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Of an event.
    Effects(Vec<Effect>),
    /// Of `retain`.
    Retained(Result<(), Error>),
    /// Of `lookup`.
    Found(Option<ClientInfo>),
    /// Of `text` and `translate`.
    Text(Result<String, Error>),
}

impl Answer {
    /// The effects of an event; a question has none.
    pub fn effects(&self) -> &[Effect] {
        match self {
            Self::Effects(effects) => effects,
            _ => &[],
        }
    }
}

/// What calls can be made on.
pub trait Machine {
    /// Makes a call. A trap is a panic.
    fn perform(&mut self, call: &Call) -> Answer;
    /// The snapshot of all clients.
    fn snapshot(&mut self) -> Vec<ClientInfo>;
    /// The session's figures.
    fn figures(&mut self) -> Statistics;
}

impl Machine for Session {
    fn perform(&mut self, call: &Call) -> Answer {
        Answer::Effects(match call {
            Call::PipeUp => self.pipe_up(),
            Call::PipeDown(reason) => self.pipe_down(reason),
            Call::Receive(message) => self.receive(message.clone()),
            Call::PipeTook(bytes) => self.pipe_took(*bytes),
            Call::Advance(now) => self.advance(*now),
            Call::Shutdown(reason) => self.shutdown(reason),
            Call::Clone(request, protocol) => self.clone_client(*request, *protocol),
            Call::Control(request, client, text) => self.control(*request, *client, text),
            Call::Read(request, client, count) => self.read(*request, *client, *count),
            Call::Write(request, client, bytes) => self.write(*request, *client, bytes.clone()),
            Call::Listen(request, client) => self.listen(*request, *client),
            Call::Flush(request) => self.flush(*request),
            Call::Release(client) => self.release(*client),
            Call::Retain(client) => return Answer::Retained(self.retain(*client)),
            Call::Lookup(number) => return Answer::Found(self.lookup(*number)),
            Call::Text(client, file) => return Answer::Text(self.text(*client, *file)),
            Call::Translate(query) => return Answer::Text(self.translate(query)),
        })
    }

    fn snapshot(&mut self) -> Vec<ClientInfo> {
        self.clients()
    }

    fn figures(&mut self) -> Statistics {
        self.statistics()
    }
}

/// The configuration that every run has but for its limits.
pub fn config(limits: Limits) -> Config {
    let service = |name: &str, port| Service { name: name.into(), port };
    Config {
        prefix: "/net".into(),
        services: vec![service("ssh", 22), service("http", 80)],
        limits,
    }
}

/// Names the limits in the order in which a transcript has them.
macro_rules! limits {
    ($of:expr, $do:ident) => {
        $do!($of; clients backlog calls requests line name queued unacknowledged windows window
            window_max packet room control dial_time dial_wait keepalive)
    };
}

/// The first line of a transcript.
pub fn limits_line(limits: &Limits) -> String {
    let mut line = String::from("limits");
    macro_rules! put {
        ($of:expr; $($field:ident)*) => { $( let _ = write!(line, concat!(" ", stringify!($field), "={}"), $of.$field); )* };
    }
    limits!(limits, put);
    line
}

/// Reads the first line of a transcript.
pub fn parse_limits(line: &str) -> Option<Limits> {
    let mut limits = Limits::default();
    for word in line.strip_prefix("limits")?.split_whitespace() {
        let (name, value) = word.split_once('=')?;
        macro_rules! take {
            ($of:expr; $($field:ident)*) => {
                match name { $( stringify!($field) => $of.$field = value.parse().ok()?, )* _ => return None }
            };
        }
        limits!(limits, take);
    }
    Some(limits)
}

/// Bytes as a transcript has them.
pub fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads bytes of a transcript.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return Some(Vec::new());
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn parse_id(text: &str) -> Option<ClientId> {
    let (number, incarnation) = text.split_once('.')?;
    Some(ClientId { number: number.parse().ok()?, incarnation: incarnation.parse().ok()? })
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = |c: &ClientId| format!("{}.{}", c.number, c.incarnation);
        match self {
            Self::PipeUp => write!(f, "pipe-up"),
            Self::PipeDown(reason) => write!(f, "pipe-down {}", hex(reason.as_bytes())),
            Self::Receive(message) => write!(f, "receive {}", hex(message)),
            Self::PipeTook(bytes) => write!(f, "pipe-took {bytes}"),
            Self::Advance(now) => write!(f, "advance {now}"),
            Self::Shutdown(reason) => write!(f, "shutdown {}", hex(reason.as_bytes())),
            Self::Clone(request, protocol) => write!(f, "clone {request} {}", protocol.name()),
            Self::Control(request, client, text) => {
                write!(f, "control {request} {} {}", id(client), hex(text))
            }
            Self::Read(request, client, count) => {
                write!(f, "read {request} {} {count}", id(client))
            }
            Self::Write(request, client, bytes) => {
                write!(f, "write {request} {} {}", id(client), hex(bytes))
            }
            Self::Listen(request, client) => write!(f, "listen {request} {}", id(client)),
            Self::Flush(request) => write!(f, "flush {request}"),
            Self::Retain(client) => write!(f, "retain {}", id(client)),
            Self::Release(client) => write!(f, "release {}", id(client)),
            Self::Lookup(number) => write!(f, "lookup {number}"),
            Self::Text(client, file) => write!(f, "text {} {file:?}", id(client)),
            Self::Translate(query) => write!(f, "translate {}", hex(query.as_bytes())),
        }
    }
}

impl Call {
    /// Reads one line of a transcript.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let verb = words.next()?;
        let mut word = || words.next();
        let text = |word: Option<&str>| String::from_utf8(unhex(word?)?).ok();
        Some(match verb {
            "pipe-up" => Self::PipeUp,
            "pipe-down" => Self::PipeDown(text(word())?),
            "receive" => Self::Receive(unhex(word()?)?),
            "pipe-took" => Self::PipeTook(word()?.parse().ok()?),
            "advance" => Self::Advance(word()?.parse().ok()?),
            "shutdown" => Self::Shutdown(text(word())?),
            "clone" => {
                let request = word()?.parse().ok()?;
                let protocol = match word()? {
                    "unix" => Protocol::Unix,
                    _ => Protocol::Tcp,
                };
                Self::Clone(request, protocol)
            }
            "control" => Self::Control(word()?.parse().ok()?, parse_id(word()?)?, unhex(word()?)?),
            "read" => Self::Read(word()?.parse().ok()?, parse_id(word()?)?, word()?.parse().ok()?),
            "write" => Self::Write(word()?.parse().ok()?, parse_id(word()?)?, unhex(word()?)?),
            "listen" => Self::Listen(word()?.parse().ok()?, parse_id(word()?)?),
            "flush" => Self::Flush(word()?.parse().ok()?),
            "retain" => Self::Retain(parse_id(word()?)?),
            "release" => Self::Release(parse_id(word()?)?),
            "lookup" => Self::Lookup(word()?.parse().ok()?),
            "text" => {
                let client = parse_id(word()?)?;
                let file = match word()? {
                    "Local" => TextFile::Local,
                    "Remote" => TextFile::Remote,
                    _ => TextFile::Status,
                };
                Self::Text(client, file)
            }
            "translate" => Self::Translate(text(word())?),
            _ => return None,
        })
    }
}

/// A whole run as text.
pub fn transcript(limits: &Limits, calls: &[Call]) -> String {
    let mut text = limits_line(limits);
    text.push('\n');
    for call in calls {
        let _ = writeln!(text, "{call}");
    }
    text
}

/// Reads a run from text: lines that start with `#` are remarks.
pub fn parse_transcript(text: &str) -> Option<(Limits, Vec<Call>)> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let limits = parse_limits(lines.next()?)?;
    let calls = lines.map(Call::parse).collect::<Option<Vec<_>>>()?;
    Some((limits, calls))
}
