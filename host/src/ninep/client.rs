//! A client of 9P2000, for our own commands and tests.
//!
//! It speaks plain 9P2000 as section 5 of the Plan 9 manual has it, to a server
//! that asks for no authentication. It knows files by their paths, and nothing of
//! what they mean.
//!
//! Requests are sent in the order in which the methods are called, and not when
//! their futures are polled; so any number of them may be outstanding, reads and
//! writes of one file included. A future that is dropped before its answer has
//! come flushes its request. A [`File`] that is dropped is clunked.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use super::codec::{
    Dialect, FRAME_MIN, IO_HEADER, NOFID, NOTAG, Qid, RREAD_HEADER, Reply, Request, Stat, WALK_MAX,
    frame_tag, read_count, write_header,
};
use super::{MSIZE_MAX, MSIZE_MIN};
use crate::gather;
use crate::piped::{Piped, Siding};
use crate::tree::Access;

/// Why a request came to nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// The server said so, in these words.
    #[error("{0}")]
    Refused(String),
    /// The connection is over.
    #[error("the 9P connection ended: {0}")]
    Ended(String),
    /// The server does not keep to the protocol, or this client cannot.
    #[error("9P: {0}")]
    Protocol(&'static str),
}

/// A connection to a server. Clones are the same connection; it ends with the
/// last of them and of its files.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    msize: u32,
    /// Its two tasks: they end with it.
    _tasks: JoinSet<()>,
}

struct Shared {
    state: Mutex<State>,
    filled: Notify,
    /// Rings when there will be no answers any more.
    ended: Notify,
}

struct State {
    waiting: HashMap<u16, Waiting>,
    last_tag: u16,
    free_fids: Vec<u32>,
    next_fid: u32,
    /// Frames; what a Twrite carries is behind its header.
    outbox: VecDeque<(Vec<u8>, Payload)>,
    /// Why there will be no answers any more.
    ended: Option<String>,
}

/// What a write carries.
#[derive(Debug)]
pub enum Payload {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes in a pipe.
    Piped(Piped),
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl Payload {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Piped(piped) => piped.len(),
        }
    }

    /// The first so many of them, at most; what stays are the others.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.split_to(count.min(bytes.len()))),
            Self::Piped(piped) => Self::Piped(piped.split_to(count)),
        }
    }
}

/// Who waits for an answer.
enum Waiting {
    /// A future, and where what it reads may go.
    Future(oneshot::Sender<Answer>, Option<Arc<Siding>>),
    /// Nobody any more: its Tflush is on its way, and its tag in use until then.
    Nobody,
    /// The Tflush of this tag.
    Flush(u16),
    /// The Tclunk of this fid, which is free then whatever the answer.
    Clunk(u32),
}

/// A whole frame, or why there is none.
type Answer = Result<Frame, ClientError>;

/// A frame; the end of an Rread's data may be apart.
struct Frame {
    bytes: Bytes,
    apart: Option<(Piped, Bytes)>,
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

const ROOT: u32 = 0;
/// Bytes that are read at once where what is behind them may go to a siding.
const FIRST: usize = 4 << 10;

impl Client {
    /// Connects to a server on a Unix socket.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|error| ClientError::Ended(error.to_string()))?;
        Self::new(stream, MSIZE_MAX).await
    }

    /// Speaks to a server on this stream, in messages of at most `msize` bytes.
    pub async fn new(stream: UnixStream, msize: u32) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                waiting: HashMap::new(),
                last_tag: 0,
                free_fids: Vec::new(),
                next_fid: ROOT + 1,
                outbox: VecDeque::new(),
                ended: None,
            }),
            filled: Notify::new(),
            ended: Notify::new(),
        });
        let (reader, writer) = stream.into_split();
        let mut tasks = JoinSet::new();
        tasks.spawn(receive(reader, Arc::clone(&shared), msize));
        tasks.spawn(send(writer, Arc::clone(&shared)));
        let version = Request::Version { msize, version: b"9P2000" };
        let answer = Pending::new(&shared, &version).frame().await?;
        let msize = match decode(&answer)? {
            Reply::Version { msize: granted, version: b"9P2000" }
                if granted <= msize && granted >= MSIZE_MIN =>
            {
                granted
            }
            _ => return Err(ClientError::Protocol("the server does not speak 9P2000")),
        };
        let attach =
            Request::Attach { fid: ROOT, afid: NOFID, uname: b"", aname: b"", n_uname: !0 };
        let answer = Pending::new(&shared, &attach).frame().await?;
        match decode(&answer)? {
            Reply::Attach { .. } => {}
            _ => return Err(UNEXPECTED),
        }
        Ok(Self { inner: Arc::new(Inner { shared, msize, _tasks: tasks }) })
    }

    /// Bytes in a message, at most.
    pub fn msize(&self) -> u32 {
        self.inner.msize
    }

    /// Waits until the connection is over, and answers with why. Cancel-safe.
    pub async fn ended(&self) -> String {
        let shared = &self.inner.shared;
        loop {
            let ended = shared.ended.notified();
            if let Some(reason) = &shared.lock().ended {
                return reason.clone();
            }
            ended.await;
        }
    }

    /// Opens the file of this path from the root, of at most 16 names.
    pub async fn open(&self, path: &str, access: Access) -> Result<File, ClientError> {
        let names: Vec<&[u8]> =
            path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
        if names.len() > WALK_MAX {
            return Err(ClientError::Protocol("the path has too many names"));
        }
        let mode = match access {
            Access::Read => 0,
            Access::Write => 1,
            Access::ReadWrite => 2,
        };
        let wanted = names.len();
        // Both at once: if the walk fails, so does the other.
        let fid = Fid::new(self);
        let walk = Request::Walk { fid: ROOT, newfid: fid.number, names };
        let walk = Pending::new(&self.inner.shared, &walk);
        let open = Request::Open { fid: fid.number, mode };
        let open = Pending::new(&self.inner.shared, &open);
        let walked = walk.frame().await;
        let found = match walked.as_deref().map(decode) {
            Ok(Ok(Reply::Walk { qids })) if qids.len() == wanted => Ok(()),
            Ok(Ok(Reply::Walk { .. })) => Err(ClientError::Refused("file not found".to_owned())),
            Ok(Ok(_)) => Err(UNEXPECTED),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error.clone()),
        };
        let opened = open.frame().await;
        found?;
        match decode(&opened?)? {
            Reply::Open { qid, iounit } => {
                let most = self.inner.msize - IO_HEADER;
                let iounit = if iounit == 0 { most } else { iounit.min(most) };
                Ok(File { fid, qid, iounit, offset: Arc::default() })
            }
            _ => Err(UNEXPECTED),
        }
    }

    /// What is in a directory.
    pub async fn read_directory(&self, path: &str) -> Result<Vec<Entry>, ClientError> {
        let directory = self.open(path, Access::Read).await?;
        if !directory.qid().is_directory() {
            return Err(ClientError::Refused("it is not a directory".to_owned()));
        }
        let mut entries = Vec::new();
        loop {
            let part = directory.read(directory.iounit()).await?;
            let mut rest = &part[..];
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let (stat, after) = Stat::split(rest, Dialect::Plan9)
                    .map_err(|_| ClientError::Protocol("a directory has what is no entry"))?;
                let name = String::from_utf8_lossy(stat.name).into_owned();
                entries.push(Entry { name, qid: stat.qid, mtime: stat.mtime });
                rest = after;
            }
        }
        directory.clunk().await?;
        Ok(entries)
    }

    /// All that a file has to read.
    pub async fn read_file(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let file = self.open(path, Access::Read).await?;
        let mut text = Vec::new();
        loop {
            let part = file.read(file.iounit()).await?;
            if part.is_empty() {
                break;
            }
            text.extend_from_slice(&part);
        }
        file.clunk().await?;
        Ok(text)
    }
}

const UNEXPECTED: ClientError = ClientError::Protocol("the server answered something else");

/// Decodes an answer; an Rerror is an error.
fn decode(frame: &[u8]) -> Result<Reply<'_>, ClientError> {
    match Reply::decode(frame, Dialect::Plan9) {
        Ok(Reply::Error { ename, .. }) => {
            Err(ClientError::Refused(String::from_utf8_lossy(ename).into_owned()))
        }
        Ok(reply) => Ok(reply),
        Err(_) => Err(ClientError::Protocol("the server answered what is no message")),
    }
}

/// A name in a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// What has it.
    pub qid: Qid,
    /// When that was last changed: seconds since 1970.
    pub mtime: u32,
}

/// An open file.
pub struct File {
    fid: Fid,
    qid: Qid,
    iounit: u32,
    /// Where the next read or write starts: after what the finished ones moved.
    offset: Arc<AtomicU64>,
}

impl File {
    /// What was opened: of `clone`, the new `ctl`.
    pub fn qid(&self) -> Qid {
        self.qid
    }

    /// The connection that it was opened by.
    pub fn client(&self) -> &Client {
        &self.fid.client
    }

    /// Bytes that one read or write moves, at most.
    pub fn iounit(&self) -> u32 {
        self.iounit
    }

    /// Reads up to `count` bytes, or as many as one message holds, from where
    /// the last finished read or write of this file ended. None are its end.
    pub fn read(&self, count: u32) -> Read {
        self.read_at(self.offset.load(Ordering::Relaxed), count)
    }

    /// Reads from this place.
    pub fn read_at(&self, offset: u64, count: u32) -> Read {
        Read(self.receive_at(offset, count, None))
    }

    /// As [`File::read`]; much of it may go to this siding. Whoever gets it moves it on
    /// before what comes after it, so that a server that answers in another order than
    /// it was asked is one that fails.
    pub(crate) fn receive(&self, count: u32, siding: Option<&Arc<Siding>>) -> Receive {
        self.receive_at(self.offset.load(Ordering::Relaxed), count, siding)
    }

    fn receive_at(&self, offset: u64, count: u32, siding: Option<&Arc<Siding>>) -> Receive {
        let count = count.min(self.iounit);
        let request = Request::Read { fid: self.fid.number, offset, count };
        let pending = Pending::ask(self.shared(), |state, sender| {
            state.send(&request, Waiting::Future(sender, siding.cloned()))
        });
        Receive { pending, count, offset, end: Arc::clone(&self.offset) }
    }

    /// Writes these bytes, or as many as one message holds, and answers with how
    /// many were taken.
    pub fn write(&self, bytes: &[u8]) -> Write {
        let most = usize::try_from(self.iounit).unwrap_or(usize::MAX);
        self.write_bytes(Bytes::copy_from_slice(bytes.get(..most).unwrap_or(bytes)))
    }

    /// The same, of bytes that need not be copied, and must not be more.
    pub fn write_bytes(&self, data: impl Into<Payload>) -> Write {
        let data = data.into();
        let (fid, offset) = (self.fid.number, self.offset.load(Ordering::Relaxed));
        let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let write = (fid, offset, data);
        let pending = Pending::ask(self.shared(), |state, sender| state.send_write(write, sender));
        Write { pending, count, offset, end: Arc::clone(&self.offset) }
    }

    /// Writes all of these bytes, in as many messages as it takes.
    pub async fn write_all(&self, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let count = self.write(bytes).await?;
            if count == 0 {
                return Err(ClientError::Protocol("the server takes no bytes"));
            }
            bytes = bytes.get(usize::try_from(count).unwrap_or(0)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Ends the use of the file, and waits until that is done.
    pub async fn clunk(mut self) -> Result<(), ClientError> {
        let request = Request::Clunk { fid: self.fid.number };
        let pending = Pending::new(self.shared(), &request);
        self.fid.clunked = true;
        let answer = pending.frame().await;
        self.fid.forget();
        match decode(&answer?)? {
            Reply::Clunk => Ok(()),
            _ => Err(UNEXPECTED),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.fid.client.inner.shared
    }
}

/// A fid of ours. Dropped, it is clunked, whether it came to stand for a file or not.
struct Fid {
    client: Client,
    number: u32,
    clunked: bool,
}

impl Fid {
    fn new(client: &Client) -> Self {
        let mut state = client.inner.shared.lock();
        let number = state.free_fids.pop().unwrap_or_else(|| {
            state.next_fid += 1;
            state.next_fid - 1
        });
        Self { client: client.clone(), number, clunked: false }
    }

    /// The server has forgotten it: the number can be used again.
    fn forget(&self) {
        self.client.inner.shared.lock().free_fids.push(self.number);
    }
}

impl Drop for Fid {
    fn drop(&mut self) {
        if !self.clunked {
            let shared = &self.client.inner.shared;
            let mut state = shared.lock();
            let request = Request::Clunk { fid: self.number };
            if state.ended.is_none() && state.send(&request, Waiting::Clunk(self.number)).is_ok() {
                drop(state);
                shared.filled.notify_one();
            }
        }
    }
}

/// A read that was sent.
pub struct Read(Receive);

impl Future for Read {
    type Output = Result<Bytes, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|received| received.map(|received| received.bytes))
    }
}

/// A read that was sent, with a siding.
pub struct Receive {
    pending: Pending,
    count: u32,
    offset: u64,
    end: Arc<AtomicU64>,
}

/// What a read brought.
#[derive(Debug)]
pub struct Received {
    /// The first of it; without a siding all.
    pub(crate) bytes: Bytes,
    /// What is in the siding, and the last of it.
    pub(crate) rest: Option<(Piped, Bytes)>,
}

impl Future for Receive {
    type Output = Result<Received, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Frame { mut bytes, apart: rest } = ready!(self.pending.poll(cx))?;
        let length = match &rest {
            None => match decode(&bytes)? {
                Reply::Read { data } => data.len(),
                _ => return Poll::Ready(Err(UNEXPECTED)),
            },
            Some((piped, last)) => (bytes.len() - RREAD_HEADER) + piped.len() + last.len(),
        };
        if length as u64 > u64::from(self.count) {
            return Poll::Ready(Err(UNEXPECTED));
        }
        self.end.store(self.offset + length as u64, Ordering::Relaxed);
        // Of an Rread without data nothing is behind the header.
        let bytes = bytes.split_off(RREAD_HEADER.min(bytes.len()));
        Poll::Ready(Ok(Received { bytes, rest }))
    }
}

/// A write that was sent.
pub struct Write {
    pending: Pending,
    count: u32,
    offset: u64,
    end: Arc<AtomicU64>,
}

impl Future for Write {
    type Output = Result<u32, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let frame = ready!(self.pending.poll(cx))?;
        Poll::Ready(match decode(&frame)? {
            Reply::Write { count } if count <= self.count => {
                self.end.store(self.offset + u64::from(count), Ordering::Relaxed);
                Ok(count)
            }
            _ => Err(UNEXPECTED),
        })
    }
}

/// A request that was sent, and perhaps answered.
struct Pending {
    shared: Arc<Shared>,
    tag: u16,
    state: PendingState,
}

enum PendingState {
    Waiting(oneshot::Receiver<Answer>),
    /// It could not be sent.
    Failed(ClientError),
    Done,
}

impl Pending {
    fn new(shared: &Arc<Shared>, request: &Request<'_>) -> Self {
        Self::ask(shared, |state, sender| state.send(request, Waiting::Future(sender, None)))
    }

    fn ask(
        shared: &Arc<Shared>,
        send: impl FnOnce(&mut State, oneshot::Sender<Answer>) -> Result<u16, ClientError>,
    ) -> Self {
        let (sender, receiver) = oneshot::channel();
        let sent = send(&mut shared.lock(), sender);
        shared.filled.notify_one();
        let (tag, state) = match sent {
            Ok(tag) => (tag, PendingState::Waiting(receiver)),
            Err(error) => (NOTAG, PendingState::Failed(error)),
        };
        Self { shared: Arc::clone(shared), tag, state }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = match &mut self.state {
            PendingState::Waiting(receiver) => match ready!(Pin::new(receiver).poll(cx)) {
                Ok(answer) => answer,
                Err(_) => Err(ClientError::Ended("its tasks ended".to_owned())),
            },
            PendingState::Failed(error) => Err(error.clone()),
            PendingState::Done => Err(ClientError::Protocol("the answer was taken")),
        };
        self.state = PendingState::Done;
        Poll::Ready(answer)
    }

    async fn frame(mut self) -> Answer {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !matches!(self.state, PendingState::Waiting(_)) {
            return;
        }
        let mut state = self.shared.lock();
        let tag = self.tag;
        // If it is answered already there is nothing to flush.
        let Some(waiting) = state.waiting.get_mut(&tag) else { return };
        *waiting = Waiting::Nobody;
        let flush = Request::Flush { oldtag: tag };
        if state.send(&flush, Waiting::Flush(tag)).is_ok() {
            drop(state);
            self.shared.filled.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing comes any more: everybody who waits hears why.
    fn end(&self, reason: &str) {
        let waiting = {
            let mut state = self.lock();
            state.ended.get_or_insert_with(|| reason.to_owned());
            std::mem::take(&mut state.waiting)
        };
        for waiting in waiting.into_values() {
            if let Waiting::Future(sender, _) = waiting {
                // Who has gone does not need to know.
                let _ = sender.send(Err(ClientError::Ended(reason.to_owned())));
            }
        }
        self.filled.notify_one();
        self.ended.notify_waiters();
    }
}

impl State {
    fn send(&mut self, request: &Request<'_>, waiting: Waiting) -> Result<u16, ClientError> {
        let tag = if matches!(request, Request::Version { .. }) { NOTAG } else { self.free_tag()? };
        let frame = request.encode(tag, Dialect::Plan9);
        self.post(tag, (frame, Payload::Bytes(Bytes::new())), waiting)
    }

    fn send_write(
        &mut self,
        (fid, offset, data): (u32, u64, Payload),
        sender: oneshot::Sender<Answer>,
    ) -> Result<u16, ClientError> {
        let tag = self.free_tag()?;
        let frame = (write_header(tag, fid, offset, data.len()), data);
        self.post(tag, frame, Waiting::Future(sender, None))
    }

    fn post(
        &mut self,
        tag: u16,
        frame: (Vec<u8>, Payload),
        waiting: Waiting,
    ) -> Result<u16, ClientError> {
        if let Some(reason) = &self.ended {
            return Err(ClientError::Ended(reason.clone()));
        }
        self.waiting.insert(tag, waiting);
        self.outbox.push_back(frame);
        Ok(tag)
    }

    fn free_tag(&mut self) -> Result<u16, ClientError> {
        if self.waiting.len() >= usize::from(NOTAG) {
            return Err(ClientError::Protocol("too many requests"));
        }
        loop {
            self.last_tag = self.last_tag.wrapping_add(1);
            if self.last_tag != NOTAG && !self.waiting.contains_key(&self.last_tag) {
                return Ok(self.last_tag);
            }
        }
    }

    /// Where the data of this frame may go of which the first bytes are here.
    fn siding(&self, frame: &[u8]) -> Option<Arc<Siding>> {
        match self.waiting.get(&frame_tag(frame)) {
            Some(Waiting::Future(_, siding)) => siding.clone(),
            _ => None,
        }
    }

    fn answered(&mut self, frame: Frame) {
        let tag = frame_tag(&frame);
        match self.waiting.remove(&tag) {
            Some(Waiting::Future(sender, _)) => {
                // Who has gone flushes it, and finds it gone.
                let _ = sender.send(Ok(frame));
            }
            // Its tag is in use until the Rflush.
            Some(Waiting::Nobody) => {
                self.waiting.insert(tag, Waiting::Nobody);
            }
            Some(Waiting::Flush(oldtag)) => {
                self.waiting.remove(&oldtag);
            }
            Some(Waiting::Clunk(fid)) => self.free_fids.push(fid),
            None => tracing::debug!("the 9P server answered a request that was not made"),
        }
    }
}

/// Sends requests, as many at a time as there are.
async fn send(mut writer: OwnedWriteHalf, shared: Arc<Shared>) {
    loop {
        let mut frames: Vec<(Vec<u8>, Payload)> = {
            let mut state = shared.lock();
            if state.ended.is_some() {
                return;
            }
            state.outbox.drain(..).collect()
        };
        if frames.is_empty() {
            shared.filled.notified().await;
            continue;
        }
        if let Err(error) = send_frames(&mut writer, &mut frames).await {
            return shared.end(&error.to_string());
        }
    }
}

async fn send_frames(
    writer: &mut OwnedWriteHalf,
    frames: &mut [(Vec<u8>, Payload)],
) -> io::Result<()> {
    let mut pieces: Vec<IoSlice<'_>> = Vec::with_capacity(frames.len() * 2);
    for (head, data) in frames {
        pieces.push(IoSlice::new(head));
        match data {
            Payload::Bytes(data) if data.is_empty() => {}
            Payload::Bytes(data) => pieces.push(IoSlice::new(data)),
            Payload::Piped(data) => {
                gather::write_all(writer, &mut pieces).await?;
                pieces.clear();
                let socket: &UnixStream = writer.as_ref();
                while data.len() > 0 {
                    socket.async_io(Interest::WRITABLE, || data.move_on(socket)).await?;
                }
            }
        }
    }
    gather::write_all(writer, &mut pieces).await
}

async fn receive(reader: OwnedReadHalf, shared: Arc<Shared>, msize: u32) {
    let reason = match receive_frames(reader, &shared, msize).await {
        Ok(()) => "the server closed it".to_owned(),
        Err(error) => error.to_string(),
    };
    shared.end(&reason);
}

async fn receive_frames(mut reader: OwnedReadHalf, shared: &Shared, msize: u32) -> io::Result<()> {
    let mut input = BytesMut::new();
    let mut ask = 8 << 10;
    // The last Rread went to a siding: if the next is to, little of it may be here.
    let mut apart = false;
    loop {
        let mut missing = 0;
        while let Some(size) = input.first_chunk().map(|size| u32::from_le_bytes(*size)) {
            if size < FRAME_MIN || size > msize {
                let reason = "a frame's size is out of range";
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            missing = size.saturating_sub(input.len());
            if missing == 0 {
                apart &= read_count(&input).is_none();
                let frame = Frame { bytes: input.split_to(size).freeze(), apart: None };
                shared.lock().answered(frame);
            } else if let Some(siding) = siding(shared, &input, size) {
                let piped = siding.receive(reader.as_ref(), missing).await?;
                let mut last = vec![0; missing.saturating_sub(piped.len())];
                reader.read_exact(&mut last).await?;
                let rest = Some((piped, last.into()));
                shared.lock().answered(Frame { bytes: input.split().freeze(), apart: rest });
                (missing, apart) = (0, true);
            } else {
                break;
            }
        }
        let most = if apart { missing.max(FIRST) } else { ask };
        input.reserve(most);
        let room = if apart { most } else { input.capacity() - input.len() };
        match reader.read_buf(&mut (&mut input).limit(room)).await? {
            0 if input.has_remaining() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(()),
            filled if filled == room && !apart => ask = (ask * 2).min(256 << 10),
            _ => {}
        }
    }
}

/// Where the rest of a frame may go, if it is worth while.
fn siding(shared: &Shared, input: &[u8], size: usize) -> Option<Arc<Siding>> {
    let count = usize::try_from(read_count(input)?).ok()?;
    let fits = size.checked_sub(RREAD_HEADER) == Some(count);
    (fits && Siding::is_for(size - input.len())).then(|| shared.lock().siding(input)).flatten()
}
