//! The messages of RFC 4254, to and from bytes.
//!
//! Knows no state: not which channels there are, nor whether a message is in
//! place. Both sides of the protocol use it (the engine, and the far side that
//! the host has for its loopback pipe), so channel numbers are plain `u32`
//! here: `recipient` counts at the side that a message goes to, `sender` at the
//! side that it comes from.
//!
//! [`Message::decode`] is total: it answers every string of bytes with a message
//! or an error, and never panics. It is strict about lengths and about bytes
//! after the last field. It is liberal about what RFC 4254 leaves open: the
//! names of requests and channel types, and the bytes that belong to them.

use crate::wire::{Reader, WireError, Writer};
use alloc::vec::Vec;

const GLOBAL_REQUEST: u8 = 80;
const REQUEST_SUCCESS: u8 = 81;
const REQUEST_FAILURE: u8 = 82;
const CHANNEL_OPEN: u8 = 90;
const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
const CHANNEL_OPEN_FAILURE: u8 = 92;
const CHANNEL_WINDOW_ADJUST: u8 = 93;
const CHANNEL_DATA: u8 = 94;
const CHANNEL_EXTENDED_DATA: u8 = 95;
const CHANNEL_EOF: u8 = 96;
const CHANNEL_CLOSE: u8 = 97;
const CHANNEL_REQUEST: u8 = 98;
const CHANNEL_SUCCESS: u8 = 99;
const CHANNEL_FAILURE: u8 = 100;

/// Bytes before the data in a data message.
pub const DATA_HEADER: usize = 9;

/// Why a channel was not opened (RFC 4254 section 5.1).
pub mod reason {
    /// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED.
    pub const PROHIBITED: u32 = 1;
    /// SSH_OPEN_CONNECT_FAILED.
    pub const CONNECT_FAILED: u32 = 2;
    /// SSH_OPEN_UNKNOWN_CHANNEL_TYPE.
    pub const UNKNOWN_TYPE: u32 = 3;
    /// SSH_OPEN_RESOURCE_SHORTAGE.
    pub const RESOURCE_SHORTAGE: u32 = 4;
}

/// A message that cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// It has not even a type.
    #[error("empty message")]
    Empty,
    /// It is not one of RFC 4254's.
    #[error("message of unknown type {0}")]
    UnknownType(u8),
    /// Its type is known and its bytes don't fit.
    #[error("malformed message of type {0}: {1}")]
    Malformed(u8, WireError),
}

/// A message of RFC 4254.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Message<'a> {
    /// SSH_MSG_GLOBAL_REQUEST (section 4).
    GlobalRequest {
        /// Whether the other side is to answer.
        want_reply: bool,
        /// What is asked.
        request: Global<'a>,
    },
    /// SSH_MSG_REQUEST_SUCCESS (section 4).
    RequestSuccess {
        /// What belongs to the request: the port, for port 0 (section 7.1).
        data: &'a [u8],
    },
    /// SSH_MSG_REQUEST_FAILURE (section 4).
    RequestFailure,
    /// SSH_MSG_CHANNEL_OPEN (section 5.1).
    Open {
        /// The channel's number at the side that asks.
        sender: u32,
        /// Bytes that side accepts.
        window: u32,
        /// Bytes that side accepts in one message.
        packet: u32,
        /// What kind of channel.
        kind: Open<'a>,
    },
    /// SSH_MSG_CHANNEL_OPEN_CONFIRMATION (section 5.1).
    OpenConfirmation {
        /// The number at the side that asked.
        recipient: u32,
        /// The number at the side that confirms.
        sender: u32,
        /// Bytes the side that confirms accepts.
        window: u32,
        /// Bytes it accepts in one message.
        packet: u32,
        /// What belongs to the channel's type.
        data: &'a [u8],
    },
    /// SSH_MSG_CHANNEL_OPEN_FAILURE (section 5.1).
    OpenFailure {
        /// The number at the side that asked.
        recipient: u32,
        /// One of [`reason`].
        reason: u32,
        /// For people.
        description: &'a [u8],
        /// The description's language (RFC 3066).
        language: &'a [u8],
    },
    /// SSH_MSG_CHANNEL_WINDOW_ADJUST (section 5.2).
    WindowAdjust {
        /// The channel.
        recipient: u32,
        /// Bytes to add.
        bytes: u32,
    },
    /// SSH_MSG_CHANNEL_DATA (section 5.2).
    Data {
        /// The channel.
        recipient: u32,
        /// The bytes.
        data: &'a [u8],
    },
    /// SSH_MSG_CHANNEL_EXTENDED_DATA (section 5.2).
    ExtendedData {
        /// The channel.
        recipient: u32,
        /// What kind of data, such as 1 for stderr.
        code: u32,
        /// The bytes.
        data: &'a [u8],
    },
    /// SSH_MSG_CHANNEL_EOF (section 5.3).
    Eof {
        /// The channel.
        recipient: u32,
    },
    /// SSH_MSG_CHANNEL_CLOSE (section 5.3).
    Close {
        /// The channel.
        recipient: u32,
    },
    /// SSH_MSG_CHANNEL_REQUEST (section 5.4).
    Request {
        /// The channel.
        recipient: u32,
        /// What is asked.
        name: &'a [u8],
        /// Whether the other side is to answer.
        want_reply: bool,
        /// What belongs to the request.
        data: &'a [u8],
    },
    /// SSH_MSG_CHANNEL_SUCCESS (section 5.4).
    Success {
        /// The channel.
        recipient: u32,
    },
    /// SSH_MSG_CHANNEL_FAILURE (section 5.4).
    Failure {
        /// The channel.
        recipient: u32,
    },
}

/// What a global request asks (RFC 4254 section 7.1, OpenSSH PROTOCOL 2.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Global<'a> {
    /// `tcpip-forward`: take calls at this address.
    TcpipForward {
        /// The address to bind.
        address: &'a [u8],
        /// The port to bind; 0 for one that the other side picks.
        port: u32,
    },
    /// `cancel-tcpip-forward`: take no more calls there.
    CancelTcpipForward {
        /// The address, as it was asked for.
        address: &'a [u8],
        /// The port that was bound.
        port: u32,
    },
    /// `streamlocal-forward@openssh.com`: take calls at this Unix socket.
    StreamlocalForward {
        /// The path to bind.
        path: &'a [u8],
    },
    /// `cancel-streamlocal-forward@openssh.com`: take no more calls there.
    CancelStreamlocalForward {
        /// The path, as it was asked for.
        path: &'a [u8],
    },
    /// Any other.
    Other {
        /// The request's name.
        name: &'a [u8],
        /// What belongs to it.
        data: &'a [u8],
    },
}

/// What kind of channel is asked for (RFC 4254 section 7.2, OpenSSH PROTOCOL 2.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Open<'a> {
    /// `direct-tcpip`: connect to this address.
    DirectTcpip {
        /// The host to connect to.
        host: &'a [u8],
        /// The port to connect to.
        port: u32,
        /// Who asks: a numeric address.
        originator: &'a [u8],
        /// And its port.
        originator_port: u32,
    },
    /// `forwarded-tcpip`: a call came in.
    ForwardedTcpip {
        /// The address that was called.
        address: &'a [u8],
        /// The port that was called.
        port: u32,
        /// Who calls: a numeric address.
        originator: &'a [u8],
        /// And its port.
        originator_port: u32,
    },
    /// `direct-streamlocal@openssh.com`: connect to this Unix socket.
    DirectStreamlocal {
        /// The path.
        path: &'a [u8],
    },
    /// `forwarded-streamlocal@openssh.com`: a call came in at a Unix socket.
    ForwardedStreamlocal {
        /// The path.
        path: &'a [u8],
    },
    /// Any other.
    Other {
        /// The channel type.
        name: &'a [u8],
        /// What belongs to it.
        data: &'a [u8],
    },
}

impl<'a> Message<'a> {
    /// Reads one message, from its type byte on.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.byte("type").map_err(|_| MessageError::Empty)?;
        Self::decode_body(kind, reader)
            .map_err(|e| MessageError::Malformed(kind, e))?
            .ok_or(MessageError::UnknownType(kind))
    }

    /// The fields after the type byte; `None` where the type is unknown.
    fn decode_body(kind: u8, mut r: Reader<'a>) -> Result<Option<Self>, WireError> {
        let message = match kind {
            GLOBAL_REQUEST => {
                let name = r.string("request name")?;
                let want_reply = r.boolean("want reply")?;
                return Ok(Some(Self::GlobalRequest {
                    want_reply,
                    request: Global::decode(name, r)?,
                }));
            }
            REQUEST_SUCCESS => return Ok(Some(Self::RequestSuccess { data: r.rest() })),
            REQUEST_FAILURE => Self::RequestFailure,
            CHANNEL_OPEN => {
                let name = r.string("channel type")?;
                let sender = r.uint32("sender channel")?;
                let window = r.uint32("initial window size")?;
                let packet = r.uint32("maximum packet size")?;
                let kind = Open::decode(name, r)?;
                return Ok(Some(Self::Open { sender, window, packet, kind }));
            }
            CHANNEL_OPEN_CONFIRMATION => {
                return Ok(Some(Self::OpenConfirmation {
                    recipient: r.uint32("recipient channel")?,
                    sender: r.uint32("sender channel")?,
                    window: r.uint32("initial window size")?,
                    packet: r.uint32("maximum packet size")?,
                    data: r.rest(),
                }));
            }
            CHANNEL_OPEN_FAILURE => Self::OpenFailure {
                recipient: r.uint32("recipient channel")?,
                reason: r.uint32("reason code")?,
                description: r.string("description")?,
                language: r.string("language tag")?,
            },
            CHANNEL_WINDOW_ADJUST => Self::WindowAdjust {
                recipient: r.uint32("recipient channel")?,
                bytes: r.uint32("bytes to add")?,
            },
            CHANNEL_DATA => {
                Self::Data { recipient: r.uint32("recipient channel")?, data: r.string("data")? }
            }
            CHANNEL_EXTENDED_DATA => Self::ExtendedData {
                recipient: r.uint32("recipient channel")?,
                code: r.uint32("data type code")?,
                data: r.string("data")?,
            },
            CHANNEL_EOF => Self::Eof { recipient: r.uint32("recipient channel")? },
            CHANNEL_CLOSE => Self::Close { recipient: r.uint32("recipient channel")? },
            CHANNEL_REQUEST => {
                return Ok(Some(Self::Request {
                    recipient: r.uint32("recipient channel")?,
                    name: r.string("request type")?,
                    want_reply: r.boolean("want reply")?,
                    data: r.rest(),
                }));
            }
            CHANNEL_SUCCESS => Self::Success { recipient: r.uint32("recipient channel")? },
            CHANNEL_FAILURE => Self::Failure { recipient: r.uint32("recipient channel")? },
            _ => return Ok(None),
        };
        r.end()?;
        Ok(Some(message))
    }

    /// The message as bytes, from its type byte on.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Self::GlobalRequest { want_reply, request } => request.encode(want_reply),
            Self::RequestSuccess { data } => {
                Writer::new(1 + data.len()).byte(REQUEST_SUCCESS).raw(data).end()
            }
            Self::RequestFailure => Writer::new(1).byte(REQUEST_FAILURE).end(),
            Self::Open { sender, window, packet, kind } => kind.encode(sender, window, packet),
            Self::OpenConfirmation { recipient, sender, window, packet, data } => {
                Writer::new(17 + data.len())
                    .byte(CHANNEL_OPEN_CONFIRMATION)
                    .uint32(recipient)
                    .uint32(sender)
                    .uint32(window)
                    .uint32(packet)
                    .raw(data)
                    .end()
            }
            Self::OpenFailure { recipient, reason, description, language } => {
                Writer::new(17 + description.len() + language.len())
                    .byte(CHANNEL_OPEN_FAILURE)
                    .uint32(recipient)
                    .uint32(reason)
                    .string(description)
                    .string(language)
                    .end()
            }
            Self::WindowAdjust { recipient, bytes } => {
                Writer::new(9).byte(CHANNEL_WINDOW_ADJUST).uint32(recipient).uint32(bytes).end()
            }
            Self::Data { recipient, data } => {
                let mut message = data_header(recipient, data.len() as u32);
                message.extend_from_slice(data);
                message
            }
            Self::ExtendedData { recipient, code, data } => Writer::new(13 + data.len())
                .byte(CHANNEL_EXTENDED_DATA)
                .uint32(recipient)
                .uint32(code)
                .string(data)
                .end(),
            Self::Eof { recipient } => Writer::new(5).byte(CHANNEL_EOF).uint32(recipient).end(),
            Self::Close { recipient } => Writer::new(5).byte(CHANNEL_CLOSE).uint32(recipient).end(),
            Self::Request { recipient, name, want_reply, data } => {
                Writer::new(10 + name.len() + data.len())
                    .byte(CHANNEL_REQUEST)
                    .uint32(recipient)
                    .string(name)
                    .boolean(want_reply)
                    .raw(data)
                    .end()
            }
            Self::Success { recipient } => {
                Writer::new(5).byte(CHANNEL_SUCCESS).uint32(recipient).end()
            }
            Self::Failure { recipient } => {
                Writer::new(5).byte(CHANNEL_FAILURE).uint32(recipient).end()
            }
        }
    }
}

/// Starts a data message of `length` bytes of data, which the caller puts behind
/// it piece by piece.
pub(crate) fn data_header(recipient: u32, length: u32) -> Vec<u8> {
    Writer::new(DATA_HEADER + length as usize)
        .byte(CHANNEL_DATA)
        .uint32(recipient)
        .uint32(length)
        .end()
}

impl<'a> Global<'a> {
    /// The request's name on the wire.
    pub fn name(&self) -> &'a [u8] {
        match *self {
            Self::TcpipForward { .. } => b"tcpip-forward",
            Self::CancelTcpipForward { .. } => b"cancel-tcpip-forward",
            Self::StreamlocalForward { .. } => b"streamlocal-forward@openssh.com",
            Self::CancelStreamlocalForward { .. } => b"cancel-streamlocal-forward@openssh.com",
            Self::Other { name, .. } => name,
        }
    }

    fn decode(name: &'a [u8], mut r: Reader<'a>) -> Result<Self, WireError> {
        let request = match name {
            b"tcpip-forward" => {
                Self::TcpipForward { address: r.string("address")?, port: r.uint32("port")? }
            }
            b"cancel-tcpip-forward" => {
                Self::CancelTcpipForward { address: r.string("address")?, port: r.uint32("port")? }
            }
            b"streamlocal-forward@openssh.com" => {
                Self::StreamlocalForward { path: r.string("path")? }
            }
            b"cancel-streamlocal-forward@openssh.com" => {
                Self::CancelStreamlocalForward { path: r.string("path")? }
            }
            _ => {
                return Ok(Self::Other { name, data: r.rest() });
            }
        };
        r.end()?;
        Ok(request)
    }

    fn encode(&self, want_reply: bool) -> Vec<u8> {
        let name = self.name();
        let start = |length: usize| {
            Writer::new(6 + name.len() + length)
                .byte(GLOBAL_REQUEST)
                .string(name)
                .boolean(want_reply)
        };
        match *self {
            Self::TcpipForward { address, port } | Self::CancelTcpipForward { address, port } => {
                start(8 + address.len()).string(address).uint32(port).end()
            }
            Self::StreamlocalForward { path } | Self::CancelStreamlocalForward { path } => {
                start(4 + path.len()).string(path).end()
            }
            Self::Other { data, .. } => start(data.len()).raw(data).end(),
        }
    }
}

impl<'a> Open<'a> {
    /// The channel type on the wire.
    pub fn name(&self) -> &'a [u8] {
        match *self {
            Self::DirectTcpip { .. } => b"direct-tcpip",
            Self::ForwardedTcpip { .. } => b"forwarded-tcpip",
            Self::DirectStreamlocal { .. } => b"direct-streamlocal@openssh.com",
            Self::ForwardedStreamlocal { .. } => b"forwarded-streamlocal@openssh.com",
            Self::Other { name, .. } => name,
        }
    }

    fn decode(name: &'a [u8], mut r: Reader<'a>) -> Result<Self, WireError> {
        let open = match name {
            b"direct-tcpip" => Self::DirectTcpip {
                host: r.string("host to connect")?,
                port: r.uint32("port to connect")?,
                originator: r.string("originator address")?,
                originator_port: r.uint32("originator port")?,
            },
            b"forwarded-tcpip" => Self::ForwardedTcpip {
                address: r.string("connected address")?,
                port: r.uint32("connected port")?,
                originator: r.string("originator address")?,
                originator_port: r.uint32("originator port")?,
            },
            b"direct-streamlocal@openssh.com" => {
                let path = r.string("socket path")?;
                r.string("reserved string")?;
                r.uint32("reserved number")?;
                Self::DirectStreamlocal { path }
            }
            b"forwarded-streamlocal@openssh.com" => {
                let path = r.string("socket path")?;
                r.string("reserved string")?;
                Self::ForwardedStreamlocal { path }
            }
            _ => {
                return Ok(Self::Other { name, data: r.rest() });
            }
        };
        r.end()?;
        Ok(open)
    }

    fn encode(&self, sender: u32, window: u32, packet: u32) -> Vec<u8> {
        let name = self.name();
        let start = |length: usize| {
            Writer::new(17 + name.len() + length)
                .byte(CHANNEL_OPEN)
                .string(name)
                .uint32(sender)
                .uint32(window)
                .uint32(packet)
        };
        match *self {
            Self::DirectTcpip { host, port, originator, originator_port }
            | Self::ForwardedTcpip { address: host, port, originator, originator_port } => {
                start(16 + host.len() + originator.len())
                    .string(host)
                    .uint32(port)
                    .string(originator)
                    .uint32(originator_port)
                    .end()
            }
            Self::DirectStreamlocal { path } => {
                start(12 + path.len()).string(path).string(b"").uint32(0).end()
            }
            Self::ForwardedStreamlocal { path } => {
                start(8 + path.len()).string(path).string(b"").end()
            }
            Self::Other { data, .. } => start(data.len()).raw(data).end(),
        }
    }
}
