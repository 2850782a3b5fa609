//! The control socket of an ssh master, as its PROTOCOL.mux describes it: the
//! greeting, remote forwardings, and the switch to proxy mode with its framing.
//!
//! Knows bytes and nothing of what they are for. A length is looked at before
//! anything is allocated for it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bytes::{Buf, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use sshnet_core::wire::{Reader, WireError, Writer};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

use crate::gather;

const HELLO: u32 = 0x0000_0001;
const TERMINATE: u32 = 0x1000_0005;
const STDIO_FORWARD: u32 = 0x1000_0008;
const OPEN_FORWARD: u32 = 0x1000_0006;
const CLOSE_FORWARD: u32 = 0x1000_0007;
const PROXY: u32 = 0x1000_000f;
const OK: u32 = 0x8000_0001;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;
const SESSION_OPENED: u32 = 0x8000_0006;
const REMOTE_PORT: u32 = 0x8000_0007;
const PROXY_ACCEPTED: u32 = 0x8000_000f;

const VERSION: u32 = 4;
const FORWARD_REMOTE: u32 = 2;
/// In place of a port: the host is a path.
const PORT_STREAMLOCAL: u32 = (-2_i32) as u32;

/// The longest packet in either direction.
const PACKET: usize = 256 << 10;
/// The shortest in proxy mode: padding length and message type.
const SHORTEST: usize = 2;
/// Bytes before the message in proxy mode: length and padding length.
const HEADER: usize = 5;

/// What went wrong on a control socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum MuxError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The master closed it.
    #[error("closed by ssh")]
    Closed,
    /// A packet of this length.
    #[error("packet of {0} bytes")]
    Length(usize),
    /// A packet that cannot be read.
    #[error("malformed packet: {0}")]
    Malformed(#[from] WireError),
    /// A packet that was not due.
    #[error("packet of type {0:#x} out of place")]
    OutOfPlace(u32),
    /// It speaks another version.
    #[error("version {0}, not 4")]
    Version(u32),
    /// It would not.
    #[error("refused: {0}")]
    Refused(String),
}

/// Where the far side is to take calls, or to dial, in ssh's terms.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Listen {
    /// An address and a port. Empty is this machine's loopback, `*` all addresses.
    Tcp(Vec<u8>, u32),
    /// A path.
    Unix(Vec<u8>),
}

impl Listen {
    /// A host and a port, or what stands for them.
    fn parts(&self) -> (&[u8], u32) {
        match self {
            Self::Tcp(address, port) => (address, *port),
            Self::Unix(path) => (path, PORT_STREAMLOCAL),
        }
    }
}

/// Passes a descriptor on, behind a byte that means nothing (ssh's monitor_fdpass.c).
fn pass(stream: &UnixStream, fd: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [IoSlice::new(&[0])];
    rustix::net::sendmsg(stream, &byte, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A control socket on which requests are made, one at a time.
#[derive(Debug)]
pub(super) struct Control {
    stream: UnixStream,
    request: u32,
}

impl Control {
    /// Connects to a master and greets it.
    pub(super) async fn connect(path: &Path) -> Result<Self, MuxError> {
        let mut control = Self { stream: UnixStream::connect(path).await?, request: 0 };
        control.send(Writer::new(8).uint32(HELLO).uint32(VERSION).end()).await?;
        let packet = control.receive().await?;
        let mut r = Reader::new(&packet);
        match r.uint32("type")? {
            HELLO => {}
            other => return Err(MuxError::OutOfPlace(other)),
        }
        // What follows the version are extensions, of which we know none.
        match r.uint32("version")? {
            VERSION => Ok(control),
            other => Err(MuxError::Version(other)),
        }
    }

    /// Turns the socket into one that carries RFC 4254's messages.
    pub(super) async fn proxy(mut self) -> Result<UnixStream, MuxError> {
        let id = self.next();
        self.send(Writer::new(8).uint32(PROXY).uint32(id).end()).await?;
        match self.answer(id).await? {
            Answer::Proxy => Ok(self.stream),
            other => Err(other.into_error()),
        }
    }

    /// Has the far side dial, and the conversation go on by this socket. Until its end
    /// the connection that this answers with must stay open.
    pub(super) async fn dial(
        mut self,
        to: &Listen,
        socket: &OwnedFd,
    ) -> Result<UnixStream, MuxError> {
        let id = self.next();
        let (host, port) = to.parts();
        let request = Writer::new(24 + host.len())
            .uint32(STDIO_FORWARD)
            .uint32(id)
            .string(b"")
            .string(host)
            .uint32(port)
            .end();
        self.send(request).await?;
        // What it reads from, and what it writes to.
        for _ in 0..2 {
            self.stream.async_io(Interest::WRITABLE, || pass(&self.stream, socket)).await?;
        }
        match self.answer(id).await? {
            Answer::Session => Ok(self.stream),
            other => Err(other.into_error()),
        }
    }

    /// Asks for calls at the far side, to be connected to a socket here.
    /// Answers with the port where the far side picked one.
    pub(super) async fn open(
        &mut self,
        listen: &Listen,
        connect: &Path,
    ) -> Result<Option<u32>, MuxError> {
        match self.forward(OPEN_FORWARD, listen, connect).await? {
            Answer::Ok => Ok(None),
            Answer::Port(port) => Ok(Some(port)),
            other => Err(other.into_error()),
        }
    }

    /// Ends that. All must be as it was asked for, a port of 0 too.
    pub(super) async fn close(&mut self, listen: &Listen, connect: &Path) -> Result<(), MuxError> {
        match self.forward(CLOSE_FORWARD, listen, connect).await? {
            Answer::Ok => Ok(()),
            other => Err(other.into_error()),
        }
    }

    /// Asks the master to end.
    pub(super) async fn terminate(&mut self) -> Result<(), MuxError> {
        let id = self.next();
        self.send(Writer::new(8).uint32(TERMINATE).uint32(id).end()).await
    }

    async fn forward(
        &mut self,
        kind: u32,
        listen: &Listen,
        connect: &Path,
    ) -> Result<Answer, MuxError> {
        let id = self.next();
        let (host, port) = listen.parts();
        let connect = connect.as_os_str().as_encoded_bytes();
        let request = Writer::new(32 + host.len() + connect.len())
            .uint32(kind)
            .uint32(id)
            .uint32(FORWARD_REMOTE)
            .string(host)
            .uint32(port)
            .string(connect)
            .uint32(PORT_STREAMLOCAL)
            .end();
        self.send(request).await?;
        self.answer(id).await
    }

    fn next(&mut self) -> u32 {
        self.request = self.request.wrapping_add(1);
        self.request
    }

    async fn send(&mut self, packet: Vec<u8>) -> Result<(), MuxError> {
        let framed = Writer::new(4 + packet.len()).string(&packet).end();
        Ok(self.stream.write_all(&framed).await?)
    }

    /// Reads no byte too many: what follows may be of proxy mode.
    async fn receive(&mut self) -> Result<Vec<u8>, MuxError> {
        let length = closed(self.stream.read_u32().await)? as usize;
        if length > PACKET {
            return Err(MuxError::Length(length));
        }
        let mut packet = vec![0; length];
        closed(self.stream.read_exact(&mut packet).await)?;
        Ok(packet)
    }

    async fn answer(&mut self, id: u32) -> Result<Answer, MuxError> {
        let packet = self.receive().await?;
        let mut r = Reader::new(&packet);
        let kind = r.uint32("type")?;
        if r.uint32("request")? != id {
            return Err(MuxError::OutOfPlace(kind));
        }
        Ok(match kind {
            OK => Answer::Ok,
            SESSION_OPENED => Answer::Session,
            PROXY_ACCEPTED => Answer::Proxy,
            REMOTE_PORT => Answer::Port(r.uint32("port")?),
            PERMISSION_DENIED | FAILURE => {
                Answer::Refused(String::from_utf8_lossy(r.string("reason")?).into_owned())
            }
            other => return Err(MuxError::OutOfPlace(other)),
        })
    }
}

enum Answer {
    Ok,
    Session,
    Proxy,
    Port(u32),
    Refused(String),
}

impl Answer {
    /// For an answer to another question.
    fn into_error(self) -> MuxError {
        match self {
            Self::Ok => MuxError::OutOfPlace(OK),
            Self::Session => MuxError::OutOfPlace(SESSION_OPENED),
            Self::Proxy => MuxError::OutOfPlace(PROXY_ACCEPTED),
            Self::Port(_) => MuxError::OutOfPlace(REMOTE_PORT),
            Self::Refused(reason) => MuxError::Refused(reason),
        }
    }
}

fn closed<T>(result: io::Result<T>) -> Result<T, MuxError> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => MuxError::Closed,
        _ => MuxError::Io(error),
    })
}

/// Messages that come in on a socket in proxy mode.
#[derive(Debug)]
pub(super) struct Frames {
    stream: OwnedReadHalf,
    buffer: BytesMut,
    /// Bytes at the front that were given out last.
    given: usize,
}

impl Frames {
    /// Reads up to so many bytes at a time.
    pub(super) fn new(stream: OwnedReadHalf, buffer: usize) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(buffer), given: 0 }
    }

    /// The next message; it may be changed in place. `None` at a clean end.
    pub(super) async fn next(&mut self) -> Result<Option<&mut [u8]>, MuxError> {
        self.buffer.advance(self.given);
        self.given = 0;
        let length = loop {
            let missing = match self.buffer.first_chunk() {
                None => 4 - self.buffer.len(),
                Some(field) => {
                    let length = u32::from_be_bytes(*field) as usize;
                    if !(SHORTEST..=PACKET).contains(&length) {
                        return Err(MuxError::Length(length));
                    }
                    match (4 + length).checked_sub(self.buffer.len()) {
                        None | Some(0) => break length,
                        Some(missing) => missing,
                    }
                }
            };
            self.buffer.reserve(missing);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(MuxError::Closed) };
            }
        };
        self.given = 4 + length;
        let frame = self.buffer.get_mut(4..4 + length).unwrap_or_default();
        match frame.split_first_mut() {
            // ssh never pads.
            Some((0, message)) => Ok(Some(message)),
            _ => Err(MuxError::Length(length)),
        }
    }
}

/// Writes messages to a socket in proxy mode, all in as few system calls as may
/// be. They must be no longer than a packet.
pub(super) async fn write_frames(
    stream: &mut (impl AsyncWrite + Unpin),
    messages: &[impl AsRef<[u8]>],
) -> io::Result<()> {
    let headers: Vec<[u8; HEADER]> = messages
        .iter()
        .map(|message| {
            let [a, b, c, d] = (message.as_ref().len() as u32 + 1).to_be_bytes();
            [a, b, c, d, 0]
        })
        .collect();
    let mut slices: Vec<IoSlice<'_>> = headers
        .iter()
        .zip(messages)
        .flat_map(|(header, message)| [IoSlice::new(header), IoSlice::new(message.as_ref())])
        .collect();
    gather::write_all(stream, &mut slices).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    async fn frames(bytes: &[u8]) -> (Vec<Vec<u8>>, Result<(), MuxError>) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut frames = Frames::new(near.into_split().0, 16);
        let mut messages = Vec::new();
        let read = async {
            while let Some(message) = frames.next().await? {
                messages.push(message.to_vec());
            }
            Ok(())
        };
        let write = async move {
            // In pieces, so that every boundary is somewhere in the middle.
            for piece in bytes.chunks(7) {
                far.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (read, ()) = tokio::join!(read, write);
        (messages, read)
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let messages: Vec<Vec<u8>> =
            [1, 2, 3, 16, 17, 1000, PACKET - 1].map(|length| vec![length as u8; length]).to_vec();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let mut bytes = Vec::new();
        let write = async {
            write_frames(&mut near, &messages).await.unwrap();
            drop(near);
        };
        tokio::join!(write, async { far.read_to_end(&mut bytes).await.unwrap() });
        let (read, end) = frames(&bytes).await;
        assert!(end.is_ok());
        assert!(read == messages);
    }

    #[tokio::test]
    async fn a_bad_length_is_an_error_before_anything_is_read() {
        for length in [0, 1, PACKET as u32 + 1, u32::MAX] {
            let (messages, end) = frames(&length.to_be_bytes()).await;
            assert!(messages.is_empty());
            assert!(matches!(end, Err(MuxError::Length(l)) if l == length as usize), "{end:?}");
        }
        let (_, padded) = frames(&[0, 0, 0, 2, 1, 97]).await;
        assert!(matches!(padded, Err(MuxError::Length(2))), "{padded:?}");
        let (messages, cut) = frames(&[0, 0, 0, 2, 0, 97, 0, 0]).await;
        assert_eq!(messages, [[97]]);
        assert!(matches!(cut, Err(MuxError::Closed)), "{cut:?}");
    }

    /// What comes of a master that sends these bytes.
    async fn greeted_with(bytes: &[u8]) -> Result<Option<u32>, MuxError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let master = UnixListener::bind(&path).unwrap();
        let send = async {
            let (mut stream, _) = master.accept().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let ask = async {
            let listen = Listen::Tcp(b"*".to_vec(), 0);
            Control::connect(&path).await?.open(&listen, Path::new("/socket")).await
        };
        tokio::join!(ask, send).0
    }

    #[tokio::test]
    async fn answers_are_held_against_their_question() {
        let hello = [0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 4];
        let with = |answer: &[u8]| [&hello[..], answer].concat();
        let port = with(&[0, 0, 0, 12, 0x80, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0x1f, 0x90]);
        assert_eq!(greeted_with(&port).await.unwrap(), Some(8080));
        let ok = with(&[0, 0, 0, 8, 0x80, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(greeted_with(&ok).await.unwrap(), None);
        let no = with(&[0, 0, 0, 14, 0x80, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, b'n', b'o']);
        let error = greeted_with(&no).await.unwrap_err();
        assert!(matches!(&error, MuxError::Refused(why) if why == "no"), "{error}");
        let other = with(&[0, 0, 0, 8, 0x80, 0, 0, 1, 0, 0, 0, 2]);
        let error = greeted_with(&other).await.unwrap_err();
        assert!(matches!(error, MuxError::OutOfPlace(OK)), "{error}");
        let error = greeted_with(&hello[..10]).await.unwrap_err();
        assert!(matches!(error, MuxError::Closed), "{error}");
        let error = greeted_with(&[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 3]).await.unwrap_err();
        assert!(matches!(error, MuxError::Version(3)), "{error}");
        let error = greeted_with(&[0xff; 4]).await.unwrap_err();
        assert!(matches!(error, MuxError::Length(_)), "{error}");
        let error = greeted_with(&[0, 0, 0, 1, 0]).await.unwrap_err();
        assert!(matches!(error, MuxError::Malformed(_)), "{error}");
    }
}
