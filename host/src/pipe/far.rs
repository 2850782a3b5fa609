//! The far side: the server's part of RFC 4254 on this machine's own sockets.
//!
//! A message of the peer goes in by [`Far::receive`], which never waits; the
//! answers come out of [`FarOutput::next`]. It dials for `direct-tcpip` and
//! `direct-streamlocal@openssh.com`, takes calls for `tcpip-forward` and
//! `streamlocal-forward@openssh.com` (RFC 4254 section 7, OpenSSH's PROTOCOL
//! section 2.4), and carries sockets that someone else accepted, by
//! [`Far::offer`]. Everything else is refused as the RFC asks.
//!
//! What the peer may do is said by a [`Permit`]; without one it may do all that this
//! process may. It refuses to know what carries its messages and who the peer is.
//!
//! Each conversation is one task with a socket (`channel`); it holds no buffer
//! while nothing moves. What waits is bounded everywhere: data towards a socket
//! by the window, data towards the peer by the room in `output`, answers by a
//! limit past which the peer counts as one that floods and does not read.

mod channel;
mod listen;
mod output;
pub mod permit;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::warnings::FAR;
use sshnet_core::message::{DATA_HEADER, Global, Message, MessageError, Open, reason};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use channel::Channel;
pub use channel::Socket;
use output::Output;
use permit::Permit;

/// Bytes that the peer may send ahead on one channel.
pub const WINDOW: u32 = 2 << 20;
/// Bytes that we accept in one message.
const PACKET: u32 = 32 << 10;
/// Channels at a time, those being dialled and offered included.
const CHANNELS: usize = 16 << 10;
/// Bytes for sockets that wait in memory, all channels together.
const QUEUED: usize = 256 << 20;
/// When so many wait, those of channels that are closed are given up: else whoever
/// leaves much to sockets that take nothing has the channels fail that are in use.
const LEAVINGS: usize = QUEUED / 2;
/// Global requests that wait for their turn.
const REQUESTS: usize = 4096;

/// The peer broke the protocol in a way that no single channel can answer for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FarError {
    /// A message makes no sense.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// A message is for a channel that does not exist.
    #[error("message for unknown channel {0}")]
    UnknownChannel(u32),
    /// A message does not fit the channel's state.
    #[error("message out of place for channel {0}")]
    OutOfPlace(u32),
    /// The peer asks and does not read the answers.
    #[error("peer sends and does not read")]
    Flood,
}

/// The far side. Dropping it ends all that it does.
pub struct Far {
    shared: Arc<Shared>,
    requests: mpsc::Sender<listen::Request>,
}

/// The messages that a [`Far`] has for its peer.
pub struct FarOutput {
    shared: Arc<Shared>,
}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What dials for a far side, in the place of this machine.
pub(super) struct Dialler {
    pub(super) dial: Box<dyn Fn(Target) -> Later<io::Result<Dialled>> + Send + Sync>,
    /// Whether that which dialled is still there: when it dies its sockets end, and
    /// the far services that they lead to have ended nothing.
    pub(super) is_there: Box<dyn Fn() -> Later<bool> + Send + Sync>,
}

/// A socket that leads where a dial was to, and what must not be closed before it.
pub(super) struct Dialled {
    pub(super) socket: Socket,
    pub(super) held: Option<UnixStream>,
}

/// What the tasks of one far side share.
struct Shared {
    window: u32,
    permit: Permit,
    /// `None`: this machine.
    dialler: Option<Dialler>,
    output: Output,
    table: Mutex<Table>,
    /// Bytes that wait for sockets.
    queued: AtomicUsize,
    /// Every task; `None` once the far side is gone.
    tasks: Mutex<Option<JoinSet<()>>>,
}

/// Channels by our number for them.
#[derive(Default)]
struct Table {
    channels: BTreeMap<u32, Arc<Channel>>,
    /// Dials that have no number yet.
    dialling: usize,
    next: u32,
}

impl Far {
    /// A far side with nothing going on, and its messages. Needs a tokio runtime.
    pub fn new() -> (Self, FarOutput) {
        Self::with(WINDOW, Permit::everything(), None)
    }

    /// One that lets the peer do this and no more.
    pub fn permitting(permit: Permit) -> (Self, FarOutput) {
        Self::with(WINDOW, permit, None)
    }

    /// One that lets the peer send so many bytes ahead on each channel.
    pub fn with_window(window: u32) -> (Self, FarOutput) {
        Self::with(window, Permit::everything(), None)
    }

    /// One whose dials this makes.
    pub(super) fn dialling(dialler: Dialler) -> (Self, FarOutput) {
        Self::with(WINDOW, Permit::everything(), Some(dialler))
    }

    fn with(window: u32, permit: Permit, dialler: Option<Dialler>) -> (Self, FarOutput) {
        let shared = Arc::new(Shared {
            window,
            permit,
            dialler,
            output: Output::new(),
            table: Mutex::default(),
            queued: AtomicUsize::new(0),
            tasks: Mutex::new(Some(JoinSet::new())),
        });
        let (requests, queue) = mpsc::channel(REQUESTS);
        shared.spawn(listen::serve(Arc::clone(&shared), queue));
        (Self { shared: Arc::clone(&shared), requests }, FarOutput { shared })
    }

    /// Takes one message of the peer, from its type byte on. Never waits.
    ///
    /// After an error the far side is of no more use.
    pub fn receive(&self, bytes: Vec<u8>) -> Result<(), FarError> {
        match Message::decode(&bytes)? {
            Message::GlobalRequest { want_reply, request } => self.global(want_reply, &request),
            // We ask for nothing, so these answer nothing.
            Message::RequestSuccess { .. } | Message::RequestFailure => Ok(()),
            Message::Open { sender, window, packet, kind } => {
                self.open(sender, window, packet, &kind);
                Ok(())
            }
            Message::OpenConfirmation { recipient, sender, window, packet, .. } => {
                self.channel(recipient)?.confirmed(sender, window, packet)
            }
            Message::OpenFailure { recipient, .. } => {
                self.channel(recipient)?.refused()?;
                self.shared.table().channels.remove(&recipient);
                Ok(())
            }
            Message::WindowAdjust { recipient, bytes } => match self.channel(recipient) {
                Ok(channel) => channel.adjusted(&self.shared, bytes),
                // One that crossed the end of its channel does no harm.
                Err(_) => Ok(()),
            },
            Message::Data { recipient, .. } => {
                self.channel(recipient)?.data(&self.shared, bytes, DATA_HEADER)
            }
            Message::ExtendedData { recipient, data, .. } => {
                self.channel(recipient)?.extended_data(&self.shared, data.len())
            }
            Message::Eof { recipient } => self.channel(recipient)?.eof(),
            Message::Close { recipient } => {
                self.channel(recipient)?.closed(&self.shared)?;
                self.shared.table().channels.remove(&recipient);
                Ok(())
            }
            Message::Request { recipient, want_reply, .. } => {
                self.channel(recipient)?.request(&self.shared, want_reply)
            }
            // We make no channel requests.
            Message::Success { .. } | Message::Failure { .. } => Ok(()),
        }
    }

    /// Offers the peer an accepted socket as a channel of this kind. At the limit
    /// of channels the socket is closed.
    pub fn offer(&self, socket: impl Into<Socket>, kind: Open<'_>) {
        self.shared.offer(socket.into(), kind);
    }

    /// Waits until what the peer sent is in the sockets, but not for long.
    pub async fn settle(&self, limit: Duration) {
        let settled = async {
            while self.shared.queued.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(limit, settled).await;
    }

    fn channel(&self, number: u32) -> Result<Arc<Channel>, FarError> {
        let table = self.shared.table();
        table.channels.get(&number).cloned().ok_or(FarError::UnknownChannel(number))
    }

    /// Global requests are carried out one after the other, so that they are
    /// answered in order (section 4).
    fn global(&self, want_reply: bool, request: &Global<'_>) -> Result<(), FarError> {
        let request = listen::Request::new(want_reply, request, &self.shared.permit);
        self.requests.try_send(request).map_err(|_| FarError::Flood)
    }

    fn open(&self, sender: u32, window: u32, packet: u32, kind: &Open<'_>) {
        let permit = &self.shared.permit;
        let target = match *kind {
            Open::DirectTcpip { host, port, .. } if permit.tcp(host, port) => {
                Target::Tcp(host.to_vec(), port)
            }
            Open::DirectStreamlocal { path } if permit.unix(path) => Target::Unix(path.to_vec()),
            Open::DirectTcpip { .. } | Open::DirectStreamlocal { .. } => {
                let words = "administratively prohibited";
                return self.shared.refuse(sender, reason::PROHIBITED, words);
            }
            _ => {
                let words = "unknown channel type";
                return self.shared.refuse(sender, reason::UNKNOWN_TYPE, words);
            }
        };
        if !self.shared.table().start_dial() {
            return self.shared.refuse(sender, reason::RESOURCE_SHORTAGE, "too many channels");
        }
        let shared = Arc::clone(&self.shared);
        self.shared.spawn(async move {
            let here = |socket| Dialled { socket, held: None };
            let dialled = match (&shared.dialler, target) {
                (Some(dialler), target) => (dialler.dial)(target).await,
                (None, Target::Tcp(host, port)) => {
                    dial_tcp(&host, port).await.map(Socket::Tcp).map(here)
                }
                (None, Target::Unix(path)) => dial_unix(&path).await.map(Socket::Unix).map(here),
            };
            match dialled {
                Ok(Dialled { socket, held: _held }) => {
                    let channel = shared.table().confirm_dial(|number| {
                        Channel::open(number, shared.window, sender, window, packet)
                    });
                    shared.output.control(
                        Message::OpenConfirmation {
                            recipient: sender,
                            sender: channel.number(),
                            window: shared.window,
                            packet: PACKET,
                            data: b"",
                        }
                        .encode(),
                    );
                    channel.converse(&shared, &socket).await;
                }
                Err(error) => {
                    shared.table().dialling -= 1;
                    shared.refuse(sender, reason::CONNECT_FAILED, &words(&error));
                }
            }
        });
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Aborts the tasks, which hold `shared` themselves.
        drop(self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl FarOutput {
    /// The next message for the peer. Cancel-safe. An error is the peer's.
    pub async fn next(&mut self) -> Result<Vec<u8>, FarError> {
        self.shared.output.next().await
    }

    /// The next message, if there is one already.
    pub fn try_next(&mut self) -> Option<Vec<u8>> {
        self.shared.output.try_next()
    }
}

/// Where a dial leads.
pub(super) enum Target {
    /// A host and a port.
    Tcp(Vec<u8>, u32),
    /// A path.
    Unix(Vec<u8>),
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tasks) = tasks.as_mut() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    fn refuse(&self, recipient: u32, reason: u32, words: &str) {
        let description = words.as_bytes();
        self.output.control(
            Message::OpenFailure { recipient, reason, description, language: b"en" }.encode(),
        );
    }

    fn offer(self: &Arc<Self>, socket: Socket, kind: Open<'_>) {
        let Some((channel, opened)) = self.table().offer(self.window) else {
            FAR.warn(format_args!("call refused: too many channels"));
            return;
        };
        self.output.control(
            Message::Open { sender: channel.number(), window: self.window, packet: PACKET, kind }
                .encode(),
        );
        let shared = Arc::clone(self);
        self.spawn(async move {
            if opened.await.is_ok() {
                channel.converse(&shared, &socket).await;
            }
        });
    }
}

impl Table {
    fn start_dial(&mut self) -> bool {
        let fits = self.channels.len() + self.dialling < CHANNELS;
        self.dialling += usize::from(fits);
        fits
    }

    fn confirm_dial(&mut self, make: impl FnOnce(u32) -> Channel) -> Arc<Channel> {
        self.dialling -= 1;
        let number = self.number();
        let channel = Arc::new(make(number));
        self.channels.insert(number, Arc::clone(&channel));
        channel
    }

    fn offer(&mut self, window: u32) -> Option<(Arc<Channel>, tokio::sync::oneshot::Receiver<()>)> {
        if self.channels.len() + self.dialling >= CHANNELS {
            return None;
        }
        let number = self.number();
        let (channel, opened) = Channel::offered(number, window);
        let channel = Arc::new(channel);
        self.channels.insert(number, Arc::clone(&channel));
        Some((channel, opened))
    }

    /// A number that no channel has. They go round, so that a late message
    /// does not meet a new channel.
    fn number(&mut self) -> u32 {
        while self.channels.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }
}

async fn dial_tcp(host: &[u8], port: u32) -> io::Result<TcpStream> {
    let mut last = None;
    for address in listen::resolve(host, port).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("Name or service not known")))
}

async fn dial_unix(path: &[u8]) -> io::Result<UnixStream> {
    UnixStream::connect(listen::path(path)?).await
}

/// What the system calls an error, as a C program would print it.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    match text.rsplit_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text.to_owned(),
    }
}
