//! A bare reader and writer of an ssh master's socket in proxy mode (OpenSSH's
//! PROTOCOL.mux): what such a pipe can give at all.
//!
//! It keeps to sshnet-host's own terms (a private master, windows of 2 MiB) and
//! has nothing else of it: no engine, no queues, no file tree. Bytes that come in
//! are counted and thrown away where they were read.
//!
//! A master dies when it loses a connection that has channels, so they are closed
//! and their answers awaited, whatever was measured.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sshnet_core::message::{Message, Open};
use sshnet_core::wire::Writer;
use tempfile::TempDir;

use crate::process::Process;
use crate::service::piece;
use crate::ssh::Way;
use crate::wait::until;

const HELLO: u32 = 1;
const VERSION: u32 = 4;
const PROXY: u32 = 0x1000_000f;
const PROXY_ACCEPTED: u32 = 0x8000_000f;
const DATA: u8 = 94;

const WINDOW: u32 = 2 << 20;
const PACKET: u32 = 32_768;
/// Bytes after which the window is adjusted.
const ADJUST: u32 = WINDOW / 8;
/// Data messages written at a time.
const BATCH: usize = 8;
const BUFFER: usize = 512 << 10;
/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often one who waits for bytes looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A master and one connection to it in proxy mode.
pub(crate) struct Mux {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    next: u32,
    // Ended before the connection is closed, and after that the directory goes.
    master: Process,
    _dir: TempDir,
    /// From the master's start until proxy mode was on.
    pub(crate) up: Duration,
}

/// An open channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    ours: u32,
    theirs: u32,
    /// What may be sent.
    window: u32,
    packet: u32,
    closed: bool,
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.master.kill();
    }
}

impl Mux {
    /// Starts a master and turns a connection to it to proxy mode.
    pub(crate) fn start(way: &Way) -> Result<Self> {
        let dir = sshnet_tests::world::private_directory();
        let path = dir.path().join("m");
        let started = Instant::now();
        let mut master = way.master(&path)?;
        until(PATIENCE, || path.exists() || master.check().is_err())?;
        master.check()?;
        let stream = proxy(&path).context("ssh's control socket")?;
        let up = started.elapsed();
        stream.set_read_timeout(Some(LOOK))?;
        let buffer = vec![0; BUFFER];
        Ok(Self { stream, buffer, start: 0, end: 0, next: 0, master, _dir: dir, up })
    }

    /// Opens a channel to a port there.
    pub(crate) fn open(&mut self, port: u16) -> Result<Channel> {
        self.next += 1;
        let ours = self.next;
        let kind = Open::DirectTcpip {
            host: b"127.0.0.1",
            port: port.into(),
            originator: b"127.0.0.1",
            originator_port: 0,
        };
        self.send(&Message::Open { sender: ours, window: WINDOW, packet: PACKET, kind }.encode())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Data of another channel may come first.
            let message = self.next_before(deadline)?;
            match Message::decode(message)? {
                Message::OpenConfirmation { recipient, sender, window, packet, .. }
                    if recipient == ours =>
                {
                    return Ok(Channel { ours, theirs: sender, window, packet, closed: false });
                }
                Message::OpenFailure { description, .. } => {
                    bail!("refused: {}", String::from_utf8_lossy(description));
                }
                _ => {}
            }
        }
    }

    /// Closes channels and waits until the far side has agreed.
    pub(crate) fn close(&mut self, channels: &[Channel]) -> Result<()> {
        let mut open = 0;
        for channel in channels {
            self.send(&Message::Close { recipient: channel.theirs }.encode())?;
            open += usize::from(!channel.closed);
        }
        let deadline = Instant::now() + PATIENCE;
        while open > 0 {
            let message = self.next_before(deadline)?;
            if matches!(Message::decode(message), Ok(Message::Close { .. })) {
                open -= 1;
            }
        }
        Ok(())
    }

    /// Sends bytes and waits until as many have come back. The windows are not
    /// adjusted: a channel is good for 2 MiB of this.
    pub(crate) fn ping(&mut self, channel: &Channel, bytes: &[u8]) -> Result<()> {
        self.write(channel, bytes)?;
        self.until_bytes(bytes.len())
    }

    /// Sends bytes, if there are any.
    pub(crate) fn write(&self, channel: &Channel, data: &[u8]) -> Result<()> {
        if !data.is_empty() {
            self.send(&Message::Data { recipient: channel.theirs, data }.encode())?;
        }
        Ok(())
    }

    /// Waits until so many bytes have come.
    pub(crate) fn until_bytes(&mut self, mut left: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while left > 0 {
            if let Message::Data { data, .. } = Message::decode(self.next_before(deadline)?)? {
                left = left.saturating_sub(data.len());
            }
        }
        Ok(())
    }

    /// Reads what comes on these channels, and with `up` writes without end, until
    /// told to stop.
    pub(crate) fn run(
        &mut self,
        channels: &mut [Channel],
        up: bool,
        stop: &AtomicBool,
    ) -> Result<()> {
        let writer = self.stream.try_clone()?;
        let windows = Windows::default();
        windows.lock().channels = channels.iter().map(|c| (c.theirs, c.window)).collect();
        let theirs: HashMap<u32, u32> = channels.iter().map(|c| (c.ours, c.theirs)).collect();
        let packet = channels.iter().map(|c| c.packet).min().unwrap_or(PACKET);
        let closed = thread::scope(|scope| {
            if up {
                scope.spawn(|| {
                    if let Err(error) = write(&writer, &windows, packet) {
                        eprintln!("bare writer: {error}");
                    }
                });
            }
            let ended = self.read(&theirs, up.then_some(&windows), stop);
            windows.lock().over = true;
            windows.changed.notify_all();
            ended
        })?;
        for channel in channels {
            channel.closed = closed.contains(&channel.ours);
        }
        Ok(())
    }

    /// Answers with the channels that the far side has closed.
    fn read(
        &mut self,
        theirs: &HashMap<u32, u32>,
        windows: Option<&Windows>,
        stop: &AtomicBool,
    ) -> Result<Vec<u32>> {
        let mut consumed: HashMap<u32, u32> = HashMap::new();
        let mut closed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let Some(message) = self.next()? else { continue };
            let mut due = None;
            if let (Some(&DATA), Some(ours)) = (message.first(), message.get(1..).and_then(number))
            {
                let count = message.len() as u32 - 9;
                let consumed = consumed.entry(ours).or_default();
                *consumed += count;
                if *consumed >= ADJUST {
                    due = Some((ours, std::mem::take(consumed)));
                }
            } else {
                match Message::decode(message)? {
                    Message::WindowAdjust { recipient, bytes } => {
                        let Some(windows) = windows else { continue };
                        let theirs = theirs.get(&recipient).context("of no channel")?;
                        for (channel, window) in &mut windows.lock().channels {
                            *window += if channel == theirs { bytes } else { 0 };
                        }
                        windows.changed.notify_all();
                    }
                    Message::Close { recipient } => closed.push(recipient),
                    _ => {}
                }
            }
            if let Some((ours, bytes)) = due {
                let recipient = *theirs.get(&ours).context("of no channel")?;
                let adjust = framed(&Message::WindowAdjust { recipient, bytes }.encode());
                match windows {
                    None => (&self.stream).write_all(&adjust)?,
                    // The writer may be in the midst of a message.
                    Some(windows) => {
                        windows.lock().adjusts.extend(adjust);
                        windows.changed.notify_all();
                    }
                }
            }
        }
        Ok(closed)
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        (&self.stream).write_all(&framed(message))
    }

    fn next_before(&mut self, deadline: Instant) -> Result<&[u8]> {
        let length = loop {
            if let Some(length) = self.frame()? {
                break length;
            }
            if Instant::now() > deadline {
                bail!("ssh does not answer");
            }
        };
        Ok(self.take(length))
    }

    /// The next message; none where none came for a while.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        Ok(match self.frame()? {
            Some(length) => Some(self.take(length)),
            None => None,
        })
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let at = self.start + 5;
        self.start += 4 + length;
        self.buffer.get(at..self.start).unwrap_or_default()
    }

    /// The length of the next frame, once it is there.
    fn frame(&mut self) -> Result<Option<usize>> {
        loop {
            let there = self.buffer.get(self.start..self.end).unwrap_or_default();
            if let Some(length) = number(there) {
                let length = length as usize;
                if length < 2 || 4 + length > BUFFER / 2 {
                    bail!("ssh sent a frame of {length} bytes");
                }
                if there.len() >= 4 + length {
                    return Ok(Some(length));
                }
            }
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            } else if self.end > BUFFER / 2 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match self.stream.read(self.buffer.get_mut(self.end..).unwrap_or_default()) {
                Ok(0) => bail!("ssh has closed its control socket"),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What the writer is told by the reader.
#[derive(Default)]
struct Windows {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Their number of each channel, and what may be sent there.
    channels: Vec<(u32, u32)>,
    /// Frames that are to be written before data.
    adjusts: Vec<u8>,
    over: bool,
}

impl Windows {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(mut stream: &UnixStream, windows: &Windows, packet: u32) -> io::Result<()> {
    let data = piece();
    let mut turn = 0;
    loop {
        let (adjusts, channel, packets) = {
            let mut state = windows.lock();
            loop {
                if state.over {
                    return Ok(());
                }
                let count = state.channels.len();
                // A window of less than a packet is worth waiting for.
                let mut turns = (0..count).map(|i| (turn + i) % count);
                let next = turns.find(|&i| state.channels.get(i).is_some_and(|c| c.1 >= packet));
                let adjusts = std::mem::take(&mut state.adjusts);
                if let Some((channel, window)) = next.and_then(|i| state.channels.get_mut(i)) {
                    turn = next.unwrap_or(0) + 1;
                    let packets = (*window / packet).min(BATCH as u32);
                    *window -= packets * packet;
                    break (adjusts, *channel, packets);
                }
                if !adjusts.is_empty() {
                    break (adjusts, 0, 0);
                }
                state = windows.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        stream.write_all(&adjusts)?;
        let mut head = [0; 14];
        head.get_mut(..4).unwrap_or_default().copy_from_slice(&(packet + 10).to_be_bytes());
        head[5] = DATA;
        head.get_mut(6..10).unwrap_or_default().copy_from_slice(&channel.to_be_bytes());
        head.get_mut(10..).unwrap_or_default().copy_from_slice(&packet.to_be_bytes());
        let data = data.get(..packet as usize).unwrap_or_default();
        let mut slices: Vec<IoSlice<'_>> =
            (0..packets).flat_map(|_| [IoSlice::new(&head), IoSlice::new(data)]).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let count = stream.write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, count);
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len() + 1).unwrap_or(u32::MAX);
    Writer::new(message.len() + 5).uint32(length).byte(0).raw(message).end()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn proxy(path: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for (question, answer) in [((HELLO, VERSION), HELLO), ((PROXY, VERSION), PROXY_ACCEPTED)] {
        let (kind, value) = question;
        stream.write_all(&Writer::new(12).uint32(8).uint32(kind).uint32(value).end())?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        // Behind the version, there may be extensions.
        let mut packet = vec![0; (u32::from_be_bytes(length) as usize).min(1 << 16)];
        stream.read_exact(&mut packet)?;
        let expected = Writer::new(8).uint32(answer).uint32(value).end();
        if !packet.starts_with(&expected) {
            bail!("it answered {packet:02x?}");
        }
    }
    Ok(stream)
}
