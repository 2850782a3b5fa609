//! What the engine answers: effects, replies and errors.
//!
//! The types of wit/types.wit as Rust types, for the native build and for
//! [`component`](crate) to translate. Knows nothing of how they come about.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// A client: its number, and which of the number's users it is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientId {
    /// The number in the file tree.
    pub number: u32,
    /// Counts the uses of this number, from 0.
    pub incarnation: u32,
}

/// The host's name for one outstanding request.
pub type RequestId = u64;

/// Microseconds since the session was made.
pub type Instant = u64;

/// What a client speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// Unix sockets.
    Unix,
}

impl Protocol {
    /// The name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

/// A file of a client that reads as text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TextFile {
    /// This end.
    Local,
    /// The other end.
    Remote,
    /// The state, figures and the last error.
    Status,
}

/// State of a client, as its `status` spells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientState {
    /// No conversation.
    Closed,
    /// The far side was asked for a conversation, or to bind a port.
    Dialing,
    /// The far side takes calls for this client.
    Listen,
    /// A conversation.
    Established,
    /// Hung up here; the far side has not yet agreed.
    Teardown,
    /// Ended by the far side or with the pipe.
    Finished,
}

impl ClientState {
    /// The word in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "Closed",
            Self::Dialing => "Dialing",
            Self::Listen => "Listen",
            Self::Established => "Established",
            Self::Teardown => "Teardown",
            Self::Finished => "Finished",
        }
    }
}

/// Why a request failed, for programs. Each names its errno.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    /// EACCES.
    AccessDenied,
    /// EADDRINUSE.
    AddressInUse,
    /// ECANCELED.
    Canceled,
    /// ECONNREFUSED.
    ConnectionRefused,
    /// ECONNRESET.
    ConnectionReset,
    /// EINTR.
    Interrupted,
    /// EINVAL.
    InvalidArgument,
    /// EISCONN.
    IsConnected,
    /// ENETDOWN.
    NetworkDown,
    /// ENOENT.
    NoEntry,
    /// ENOTCONN.
    NotConnected,
    /// EPROTONOSUPPORT.
    NotSupported,
    /// EPIPE.
    HungUp,
    /// ENOBUFS.
    ResourceExhausted,
    /// ETIMEDOUT.
    TimedOut,
    /// EIO.
    Other,
}

/// Bytes in the text of an error. Linux's 9P client has room for 127.
const MESSAGE: usize = 120;

/// Why a request failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl Error {
    /// An error with this text, which is made fit to show: see [`printable`].
    pub fn new(code: ErrorCode, message: impl AsRef<[u8]>) -> Self {
        Self { code, message: printable(message.as_ref()) }
    }

    pub(crate) fn bad_control(protocol: Protocol, why: &str) -> Self {
        let name = protocol.name();
        let message = alloc::format!("bad or inappropriate {name} control message: {why}");
        Self::new(ErrorCode::InvalidArgument, message)
    }

    pub(crate) fn hung_up() -> Self {
        Self::new(ErrorCode::HungUp, "i/o on hungup channel")
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(ErrorCode::Interrupted, "interrupted")
    }

    pub(crate) fn not_connected() -> Self {
        Self::new(ErrorCode::NotConnected, "not connected")
    }

    pub(crate) fn no_client() -> Self {
        Self::new(ErrorCode::NoEntry, "file does not exist")
    }

    pub(crate) fn closed_by_peer() -> Self {
        Self::new(ErrorCode::ConnectionReset, "connection closed")
    }

    pub(crate) fn exhausted(what: &str) -> Self {
        Self::new(ErrorCode::ResourceExhausted, what)
    }
}

/// Text from outside as it may be shown: control characters and what is not
/// UTF-8 are escaped as `\xNN`, and it is cut to 120 bytes (RFC 4251 section 9.2:
/// a terminal must not be handed what the far side says).
pub fn printable(text: &[u8]) -> String {
    let mut out = String::new();
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            let start = out.len();
            if c.is_control() || is_format(c) {
                escape(&mut out, c);
            } else {
                out.push(c);
            }
            if out.len() > MESSAGE {
                out.truncate(start);
                return out;
            }
        }
        for byte in chunk.invalid() {
            if out.len() + 4 > MESSAGE {
                return out;
            }
            escape(&mut out, char::from(*byte));
        }
    }
    out
}

/// Characters that end a line, that change the direction or order of the text
/// around them, or that cannot be seen.
fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

fn escape(out: &mut String, c: char) {
    let value = u32::from(c);
    // Writing to a String does not fail.
    let _ =
        if value < 0x100 { write!(out, "\\x{value:02x}") } else { write!(out, "\\u{{{value:x}}}") };
}

/// What a completed request carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// Every line took effect.
    Done,
    /// The new client.
    Client(ClientId),
    /// The bytes read.
    Data(Vec<u8>),
    /// The number of bytes written.
    Count(u32),
}

/// How a request ended.
pub type Outcome = Result<Reply, Error>;

/// The end of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Completion {
    /// Which request.
    pub request: RequestId,
    /// How it ended.
    pub outcome: Outcome,
}

/// Something the host must do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Write this message to the pipe.
    Send(Vec<u8>),
    /// Answer this request.
    Complete(Completion),
    /// Call `advance` at this time.
    Wake(Instant),
    /// Something was passed over.
    Warn(String),
    /// End the pipe.
    Fail(String),
}

/// A snapshot of one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientInfo {
    /// Which client.
    pub id: ClientId,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state.
    pub state: ClientState,
    /// Open files that refer to it.
    pub references: u32,
    /// What `local` reads, without the newline.
    pub local: String,
    /// What `remote` reads, without the newline.
    pub remote: String,
    /// Bytes received in this conversation.
    pub received: u64,
    /// Bytes sent in this conversation.
    pub sent: u64,
    /// Bytes received and not yet read.
    pub unread: u64,
    /// Bytes of writes not yet sent.
    pub unsent: u64,
    /// Bytes the peer may still send.
    pub receive_window: u32,
    /// Bytes the peer still accepts.
    pub send_window: u32,
    /// Requests not yet completed.
    pub requests: u32,
    /// Calls that wait for a `listen`.
    pub calls: u32,
    /// When the state was entered.
    pub since: Instant,
    /// The last error.
    pub last_error: Option<String>,
}

/// Figures of a session since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Statistics {
    /// Whether there is a pipe.
    pub pipe_up: bool,
    /// Clients now.
    pub clients: u32,
    /// Channels now, those being closed included.
    pub channels: u32,
    /// Messages received.
    pub messages_received: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Bytes of data received.
    pub bytes_received: u64,
    /// Bytes of data sent.
    pub bytes_sent: u64,
    /// Conversations established from here.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Calls taken by a `listen`.
    pub calls: u64,
    /// Calls refused.
    pub calls_refused: u64,
    /// Bytes in messages handed to the pipe and not yet taken.
    pub in_pipe: u64,
    /// Bytes received and not yet read, and those the peer may still send.
    pub windows: u64,
    /// Bytes of writes not yet sent.
    pub queued: u64,
    /// Bytes sent that the peer has not yet acknowledged.
    pub unacknowledged: u64,
}
