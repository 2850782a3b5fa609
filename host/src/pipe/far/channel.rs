//! One channel of the far side: a socket here, windows and the two halves of its
//! end there (RFC 4254 sections 5.2 and 5.3).
//!
//! ```text
//! Offered --confirmed--> Open --our CLOSE--> Closing --their CLOSE--> Closed
//!    |                     |                                            ^
//!    +--refused--> Closed  +--their CLOSE (answered at once)------------+
//! ```
//!
//! The peer's messages change the state at once, in whatever task brings them;
//! the channel's own task moves bytes and sees the change by its two bells. All
//! that goes out is put into the output under the channel's lock, so nothing
//! follows the CLOSE. Data that came before the peer's CLOSE still goes to the
//! socket; a socket that takes none of it for [`DRAIN`] is given up, and each where too
//! much waits: see [`LEAVINGS`].

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BufMut;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use sshnet_core::message::{DATA_HEADER, Message};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};

use super::{FarError, LEAVINGS, QUEUED, Shared};
use crate::warnings::FAR;

/// The most data that goes into one message.
const MESSAGE: u32 = 32 << 10;
/// Data shorter than this is put behind what waits already.
const SHORT: usize = 4 << 10;
/// A chunk that waits grows to no more than this.
const CHUNK: usize = 64 << 10;
/// How long a socket may take nothing once its channel is closed.
const DRAIN: Duration = Duration::from_secs(30);

/// A stream socket of this machine.
#[derive(Debug)]
pub enum Socket {
    /// Of TCP.
    Tcp(TcpStream),
    /// Of the Unix domain.
    Unix(UnixStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl Socket {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.readable().await,
            Self::Unix(s) => s.readable().await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.writable().await,
            Self::Unix(s) => s.writable().await,
        }
    }

    fn try_read(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.try_read_buf(buffer),
            Self::Unix(s) => s.try_read_buf(buffer),
        }
    }

    /// Waits until there is something to read; whether that is the end.
    async fn ended(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        loop {
            if self.readable().await.is_err() {
                return true;
            }
            let byte = &mut [0; 1];
            let peeked = match self {
                Self::Tcp(s) => {
                    s.try_io(Interest::READABLE, || Ok(recv(s, &mut byte[..], flags)?.0))
                }
                Self::Unix(s) => {
                    s.try_io(Interest::READABLE, || Ok(recv(s, &mut byte[..], flags)?.0))
                }
            };
            match peeked {
                Ok(length) => return length == 0,
                Err(error) if again(&error) => {}
                Err(_) => return true,
            }
        }
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.try_write_vectored(slices),
            Self::Unix(s) => s.try_write_vectored(slices),
        }
    }

    fn end_writing(&self) {
        // Fails where the connection is gone, and then there is nothing to end.
        let _ = match self {
            Self::Tcp(s) => shutdown(s, Shutdown::Write),
            Self::Unix(s) => shutdown(s, Shutdown::Write),
        };
    }
}

/// See the module's diagram.
enum Phase {
    Offered(oneshot::Sender<()>),
    Open(Peer),
    Closing,
    Closed,
}

/// The peer's side of an open channel.
struct Peer {
    number: u32,
    /// Bytes that it accepts.
    window: u32,
    /// Bytes that it accepts in one message.
    packet: u32,
    /// Whether our EOF is sent.
    ended: bool,
}

/// Where data from the peer goes.
enum Intake {
    /// To the socket.
    Open,
    /// To the socket; there will be no more.
    Ended,
    /// Nowhere: the socket takes no more. It is counted and dropped.
    Broken,
    /// All is written and the socket's half shut down.
    Done,
}

/// Bytes for the socket, from `start` on.
struct Chunk {
    bytes: Vec<u8>,
    start: usize,
}

struct Inner {
    phase: Phase,
    intake: Intake,
    /// Bytes that the peer may send.
    window: u32,
    /// Bytes written that the peer has not been told of.
    written: u32,
    chunks: VecDeque<Chunk>,
}

pub(super) struct Channel {
    number: u32,
    /// The peer is told of written bytes when they are so many.
    adjust: u32,
    inner: Mutex<Inner>,
    /// Rings for the task's half that reads the socket.
    reader: Notify,
    /// Rings for the half that writes it.
    writer: Notify,
}

impl Channel {
    fn new(number: u32, window: u32, phase: Phase) -> Self {
        Self {
            number,
            adjust: (window / 8).max(1),
            inner: Mutex::new(Inner {
                phase,
                intake: Intake::Open,
                window,
                written: 0,
                chunks: VecDeque::new(),
            }),
            reader: Notify::new(),
            writer: Notify::new(),
        }
    }

    /// A channel that the peer asked for and gets.
    pub(super) fn open(number: u32, ours: u32, peer: u32, window: u32, packet: u32) -> Self {
        let peer = Peer { number: peer, window, packet, ended: false };
        Self::new(number, ours, Phase::Open(peer))
    }

    /// A channel that the peer has yet to confirm.
    pub(super) fn offered(number: u32, ours: u32) -> (Self, oneshot::Receiver<()>) {
        let (opened, waiting) = oneshot::channel();
        (Self::new(number, ours, Phase::Offered(opened)), waiting)
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.reader.notify_one();
        self.writer.notify_one();
    }

    // What the peer sends.

    pub(super) fn confirmed(&self, peer: u32, window: u32, packet: u32) -> Result<(), FarError> {
        let mut inner = self.lock();
        let peer = Peer { number: peer, window, packet, ended: false };
        match std::mem::replace(&mut inner.phase, Phase::Open(peer)) {
            Phase::Offered(opened) => {
                // Fails where the far side ends just now.
                let _ = opened.send(());
                Ok(())
            }
            _ => Err(FarError::OutOfPlace(self.number)),
        }
    }

    pub(super) fn refused(&self) -> Result<(), FarError> {
        let mut inner = self.lock();
        match std::mem::replace(&mut inner.phase, Phase::Closed) {
            Phase::Offered(_) => Ok(()),
            _ => Err(FarError::OutOfPlace(self.number)),
        }
    }

    pub(super) fn adjusted(&self, shared: &Shared, bytes: u32) -> Result<(), FarError> {
        let mut inner = self.lock();
        match &mut inner.phase {
            Phase::Offered(_) => return Err(FarError::OutOfPlace(self.number)),
            Phase::Open(peer) => match peer.window.checked_add(bytes) {
                Some(window) => peer.window = window,
                None => {
                    FAR.warn(format_args!("channel {}: window past 2^32-1", self.number));
                    self.fail(&mut inner, shared);
                }
            },
            Phase::Closing | Phase::Closed => {}
        }
        drop(inner);
        self.reader.notify_one();
        Ok(())
    }

    /// Counts `length` bytes that came in; whether they are to be kept.
    fn counted(&self, inner: &mut Inner, shared: &Shared, length: usize) -> Result<bool, FarError> {
        match inner.phase {
            Phase::Offered(_) => return Err(FarError::OutOfPlace(self.number)),
            Phase::Open(_) => {}
            // Sent before the peer saw our CLOSE.
            Phase::Closing | Phase::Closed => return Ok(false),
        }
        let left = u32::try_from(length).ok().and_then(|n| inner.window.checked_sub(n));
        let (Some(left), Intake::Open | Intake::Broken) = (left, &inner.intake) else {
            FAR.warn(format_args!("channel {}: data past the window or after EOF", self.number));
            self.fail(inner, shared);
            return Ok(false);
        };
        inner.window = left;
        if matches!(inner.intake, Intake::Broken) {
            self.credit(inner, shared, length);
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes a message's data, which begins at `start`.
    pub(super) fn data(
        &self,
        shared: &Shared,
        bytes: Vec<u8>,
        start: usize,
    ) -> Result<(), FarError> {
        let length = bytes.len() - start;
        let mut inner = self.lock();
        if !self.counted(&mut inner, shared, length)? || length == 0 {
            return Ok(());
        }
        if shared.queued.fetch_add(length, Ordering::Relaxed) + length > QUEUED {
            shared.queued.fetch_sub(length, Ordering::Relaxed);
            FAR.warn(format_args!("channel {}: too much waits for sockets", self.number));
            self.fail(&mut inner, shared);
            return Ok(());
        }
        // Otherwise a peer that sends single bytes has us keep a block for each.
        match inner.chunks.back_mut() {
            Some(last) if length < SHORT && last.bytes.len() + length <= CHUNK => {
                last.bytes.extend_from_slice(bytes.get(start..).unwrap_or_default());
            }
            _ => inner.chunks.push_back(Chunk { bytes, start }),
        }
        drop(inner);
        self.writer.notify_one();
        Ok(())
    }

    /// TCP has no such data: it uses the window and goes nowhere.
    pub(super) fn extended_data(&self, shared: &Shared, length: usize) -> Result<(), FarError> {
        let mut inner = self.lock();
        if self.counted(&mut inner, shared, length)? {
            self.credit(&mut inner, shared, length);
        }
        Ok(())
    }

    pub(super) fn eof(&self) -> Result<(), FarError> {
        let mut inner = self.lock();
        if matches!(inner.phase, Phase::Offered(_)) {
            return Err(FarError::OutOfPlace(self.number));
        }
        if matches!(inner.intake, Intake::Open) {
            inner.intake = Intake::Ended;
        }
        drop(inner);
        self.writer.notify_one();
        Ok(())
    }

    pub(super) fn closed(&self, shared: &Shared) -> Result<(), FarError> {
        let mut inner = self.lock();
        match std::mem::replace(&mut inner.phase, Phase::Closed) {
            Phase::Offered(_) => return Err(FarError::OutOfPlace(self.number)),
            Phase::Open(peer) => {
                shared.output.control(Message::Close { recipient: peer.number }.encode());
            }
            Phase::Closing | Phase::Closed => {}
        }
        drop(inner);
        self.ring();
        Ok(())
    }

    /// We know no channel requests.
    pub(super) fn request(&self, shared: &Shared, want_reply: bool) -> Result<(), FarError> {
        let inner = self.lock();
        match &inner.phase {
            Phase::Offered(_) => Err(FarError::OutOfPlace(self.number)),
            Phase::Open(peer) => {
                if want_reply {
                    shared.output.control(Message::Failure { recipient: peer.number }.encode());
                }
                Ok(())
            }
            Phase::Closing | Phase::Closed => Ok(()),
        }
    }

    /// Ends the channel because the peer broke its rules.
    fn fail(&self, inner: &mut Inner, shared: &Shared) {
        self.close(inner, shared);
        forget(inner, shared);
        self.ring();
    }

    fn close(&self, inner: &mut Inner, shared: &Shared) {
        if let Phase::Open(peer) = &inner.phase {
            shared.output.control(Message::Close { recipient: peer.number }.encode());
            inner.phase = Phase::Closing;
        }
    }

    /// Gives the peer so many bytes of window back.
    fn credit(&self, inner: &mut Inner, shared: &Shared, bytes: usize) {
        // No more was taken than the window had.
        inner.written = inner.written.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if inner.written < self.adjust {
            return;
        }
        if let (Phase::Open(peer), Intake::Open | Intake::Broken) = (&inner.phase, &inner.intake) {
            let recipient = peer.number;
            let bytes = std::mem::take(&mut inner.written);
            inner.window = inner.window.saturating_add(bytes);
            shared.output.control(Message::WindowAdjust { recipient, bytes }.encode());
        }
    }

    // The task.

    /// Moves bytes until both sides have closed the channel, or we gave it up.
    pub(super) async fn converse(&self, shared: &Shared, socket: &Socket) {
        tokio::join!(self.read(shared, socket), self.write(shared, socket));
        // What a task that ended early left behind.
        forget(&mut self.lock(), shared);
    }

    /// The socket to the peer.
    async fn read(&self, shared: &Shared, socket: &Socket) {
        loop {
            let (recipient, most) = match &self.lock().phase {
                Phase::Open(peer) => (peer.number, peer.window.min(peer.packet).min(MESSAGE)),
                _ => return,
            };
            if most == 0 {
                // EOF needs no window (section 5.3).
                tokio::select! {
                    ended = socket.ended() => if ended { break },
                    () = self.reader.notified() => continue,
                }
                self.reader.notified().await;
                continue;
            }
            // No room is held, and no buffer, until there is something to read.
            tokio::select! {
                ready = socket.readable() => if ready.is_err() { break },
                () = self.reader.notified() => continue,
            }
            let room = tokio::select! {
                room = shared.output.room(most as usize) => room,
                () = self.reader.notified() => continue,
            };
            let Some(room) = room else { return };
            let mut message = Vec::with_capacity(DATA_HEADER + most as usize);
            message.extend_from_slice(&Message::Data { recipient, data: b"" }.encode());
            let read = socket.try_read(&mut (&mut message).limit(most as usize));
            match read {
                Ok(0) => break,
                Ok(length) => {
                    // At most `most`, a u32.
                    let length = length as u32;
                    if let Some(field) = message.get_mut(DATA_HEADER - 4..DATA_HEADER) {
                        field.copy_from_slice(&length.to_be_bytes());
                    }
                    let mut inner = self.lock();
                    let Phase::Open(peer) = &mut inner.phase else { return };
                    // Only this place takes from it.
                    peer.window = peer.window.saturating_sub(length);
                    shared.output.data(message, room);
                }
                Err(error) if again(&error) => {}
                // The rest of it is told by CLOSE.
                Err(_) => break,
            }
        }
        if let Some(dialler) = &shared.dialler
            && !(dialler.is_there)().await
        {
            // That will be told otherwise.
            return;
        }
        let mut inner = self.lock();
        if let Phase::Open(peer) = &mut inner.phase {
            peer.ended = true;
            shared.output.control(Message::Eof { recipient: peer.number }.encode());
        }
        self.close_if_done(&mut inner, shared);
    }

    /// The peer to the socket.
    async fn write(&self, shared: &Shared, socket: &Socket) {
        let mut chunks = VecDeque::new();
        loop {
            let closed = {
                let mut inner = self.lock();
                let closed = match inner.phase {
                    Phase::Closing => {
                        uncount(shared, &mut chunks);
                        return;
                    }
                    Phase::Closed => true,
                    Phase::Offered(_) | Phase::Open(_) => false,
                };
                if chunks.is_empty() {
                    std::mem::swap(&mut chunks, &mut inner.chunks);
                }
                if chunks.is_empty() && (closed || matches!(inner.intake, Intake::Ended)) {
                    break;
                }
                if closed && shared.queued.load(Ordering::Relaxed) > LEAVINGS {
                    chunks.append(&mut inner.chunks);
                    break;
                }
                closed
            };
            if chunks.is_empty() {
                // An idle channel keeps no queue, however long the last one was.
                chunks = VecDeque::new();
                self.writer.notified().await;
                continue;
            }
            let ready = if closed {
                match tokio::time::timeout(DRAIN, socket.writable()).await {
                    Ok(ready) => ready,
                    Err(_) => break,
                }
            } else {
                tokio::select! {
                    ready = socket.writable() => ready,
                    () = self.writer.notified() => continue,
                }
            };
            match ready.and_then(|()| write_some(socket, &mut chunks)) {
                Ok(written) => {
                    shared.queued.fetch_sub(written, Ordering::Relaxed);
                    self.credit(&mut self.lock(), shared, written);
                }
                Err(error) if again(&error) => {}
                Err(_) => {
                    let lost = uncount(shared, &mut chunks);
                    let mut inner = self.lock();
                    let lost = lost + forget(&mut inner, shared);
                    if matches!(inner.intake, Intake::Open) {
                        inner.intake = Intake::Broken;
                        self.credit(&mut inner, shared, lost);
                    }
                    self.close_if_done(&mut inner, shared);
                    return;
                }
            }
        }
        uncount(shared, &mut chunks);
        socket.end_writing();
        let mut inner = self.lock();
        inner.intake = Intake::Done;
        self.close_if_done(&mut inner, shared);
    }

    /// Sends CLOSE once neither direction can carry anything any more.
    fn close_if_done(&self, inner: &mut Inner, shared: &Shared) {
        let Phase::Open(peer) = &inner.phase else { return };
        if peer.ended && matches!(inner.intake, Intake::Done | Intake::Broken) {
            self.close(inner, shared);
        }
    }
}

/// Drops what waits; how many bytes.
fn forget(inner: &mut Inner, shared: &Shared) -> usize {
    uncount(shared, &mut inner.chunks)
}

fn uncount(shared: &Shared, chunks: &mut VecDeque<Chunk>) -> usize {
    let bytes = chunks.drain(..).map(|c| c.bytes.len() - c.start).sum();
    shared.queued.fetch_sub(bytes, Ordering::Relaxed);
    bytes
}

fn write_some(socket: &Socket, chunks: &mut VecDeque<Chunk>) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); 16];
    let mut count = 0;
    for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
        *slice = IoSlice::new(chunk.bytes.get(chunk.start..).unwrap_or_default());
        count += 1;
    }
    let written = socket.try_write(slices.get(..count).unwrap_or_default())?;
    let mut rest = written;
    while let Some(first) = chunks.front_mut() {
        let length = first.bytes.len() - first.start;
        if rest < length {
            first.start += rest;
            break;
        }
        rest -= length;
        chunks.pop_front();
    }
    Ok(written)
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
