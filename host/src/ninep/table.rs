//! What a connection remembers: its fids, the tags of requests that are
//! outstanding, and the replies that are to be sent.
//!
//! All of it is under one lock, which the callbacks of requests take, so it is
//! never held while the tree is called. A tag leaves the table and its reply
//! enters the outbox in one step: whoever finds a tag gone can rely on its reply
//! being on its way before any that follows.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use rustix::io::Errno;
use tokio::sync::Notify;

use super::codec::{Dialect, RREAD_HEADER, Reply, read_header};
use super::shortfall::Shortfall;
use crate::tree::{Failure, Handle, Node, RequestId};

/// What replies that wait to be sent may cost before no more messages are read.
const OUTBOX_FULL: usize = 4 << 20;
/// Bytes that all reads of a connection that wait may ask for at once.
pub(crate) const READS_MAX: u32 = 8 << 20;
/// What a read that waits may always ask for.
pub(super) const READ_MIN: u32 = 512;
/// Bytes of a connection's writes that may wait.
pub(crate) const WRITES_MAX: u32 = 64 << 20;
/// Bytes of its writes that may wait though those of others take up much of what
/// all may have, as long as there is some left.
const WRITES_MIN: u32 = 2 << 20;
/// What all may have and only those who ask for no more than [`WRITES_MIN`] get.
const WRITES_RESERVE: u64 = 256 << 20;
/// Fids of a connection.
pub(super) const FIDS_MAX: usize = 65_536;
/// Requests of a connection that may be outstanding.
pub(crate) const TAGS_MAX: usize = 8_192;
/// Requests of a connection that may be outstanding though others have many.
pub(super) const TAGS_MIN: usize = 64;
/// What a reply costs beside its bytes: its place among those that wait, of which there
/// may be twice as many as are used, and what the allocator rounds up.
const FRAME_OVERHEAD: usize = 2 * size_of::<Frame>() + 32;
/// Replies for which there is always a place kept.
const PLACES_KEPT: usize = 1024;
/// Replies that are written at once.
const BATCH_FRAMES: usize = 256;
/// Bytes of replies above which a batch takes no more.
const BATCH_BYTES: usize = 1 << 20;

/// A connection's state, for its tasks and for callbacks.
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is a reply to be sent, or there will be none any more.
    filled: Notify,
    /// Replies were sent.
    drained: Notify,
}

/// See the module.
pub(super) struct State {
    pub(super) fids: HashMap<u32, Fid>,
    tags: HashMap<u16, Tag>,
    /// The tags of each fid's requests, by serial, so that a clunk looks at no others.
    tags_by_fid: BTreeMap<(u32, u64), u16>,
    /// Tells a tag's users apart: a request that was dropped by a Tversion must
    /// not answer for one made later.
    last_serial: u64,
    /// Opened for a fid that was gone by then; to be closed by who took it away.
    orphans: Vec<Handle>,
    reading: u32,
    writing: u32,
    outbox: VecDeque<Frame>,
    outbox_cost: usize,
    closed: bool,
}

/// A fid: a file, and perhaps an open one.
pub(super) struct Fid {
    pub(super) node: Node,
    pub(super) open: Open,
    /// Where the next read of the directory starts: the only offset it may have
    /// besides 0, and the cookie of the last entry before it.
    pub(super) cursor: (u64, u64),
    /// What the last read of a stream left to be desired, until the next one.
    pub(super) shortfall: Option<Shortfall>,
}

impl Fid {
    pub(super) fn new(node: Node) -> Self {
        Self { node, open: Open::No, cursor: (0, 0), shortfall: None }
    }
}

/// Whether a fid is open.
pub(super) enum Open {
    No,
    /// By this request.
    Opening(u64),
    Yes(Arc<Handle>),
}

/// A request that is outstanding.
struct Tag {
    serial: u64,
    fid: u32,
    /// `None` until the tree has answered with it.
    request: Option<RequestId>,
    cost: Cost,
    /// There is a Tflush for it: if it had no effect, it is not answered.
    flushed: bool,
}

/// What a request counts against.
#[derive(Clone, Copy)]
pub(super) enum Cost {
    Nothing,
    Read(u32),
    Write(u32),
}

/// A reply as it will be written.
pub(super) struct Frame {
    head: Head,
    payload: Vec<u8>,
    pub(super) dialect: Dialect,
}

enum Head {
    Whole(Vec<u8>),
    /// An Rread's, so that its payload stays where the engine put it.
    Read([u8; RREAD_HEADER]),
}

impl Frame {
    pub(super) fn new(tag: u16, reply: &Reply<'_>, dialect: Dialect) -> Self {
        Self::whole(reply.encode(tag, dialect), dialect)
    }

    pub(super) fn whole(frame: Vec<u8>, dialect: Dialect) -> Self {
        Self { head: Head::Whole(frame), payload: Vec::new(), dialect }
    }

    pub(super) fn read(tag: u16, payload: Vec<u8>, dialect: Dialect) -> Self {
        Self { head: Head::Read(read_header(tag, payload.len())), payload, dialect }
    }

    pub(super) fn failure(tag: u16, failure: &Failure, dialect: Dialect) -> Self {
        let errno = u32::try_from(failure.errno().raw_os_error()).unwrap_or(5);
        let reply = Reply::Error { ename: failure.text().as_bytes(), errno };
        Self::new(tag, &reply, dialect)
    }

    pub(super) fn head(&self) -> &[u8] {
        match &self.head {
            Head::Whole(frame) => frame,
            Head::Read(header) => header,
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(super) fn size(&self) -> usize {
        self.head().len() + self.payload.len()
    }

    /// What it costs while it waits: most of a short one's is not its bytes.
    pub(super) fn cost(&self) -> usize {
        self.size() + FRAME_OVERHEAD
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                fids: HashMap::new(),
                tags: HashMap::new(),
                tags_by_fid: BTreeMap::new(),
                last_serial: 0,
                orphans: Vec::new(),
                reading: 0,
                writing: 0,
                outbox: VecDeque::new(),
                outbox_cost: 0,
                closed: false,
            }),
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a reply to a request that never was outstanding.
    pub(super) fn send(&self, frame: Frame) {
        self.lock().push(frame);
        self.filled.notify_one();
    }

    /// Notes the tree's name for a request, unless it is over.
    pub(super) fn started(&self, tag: u16, serial: u64, request: Option<RequestId>) {
        if let (Some(request), Some(entry)) = (request, self.lock().tags.get_mut(&tag))
            && entry.serial == serial
        {
            entry.request = Some(request);
        }
    }

    /// Answers a request that was outstanding.
    pub(super) fn complete(&self, tag: u16, serial: u64, frame: Result<Frame, (Failure, Dialect)>) {
        {
            let mut state = self.lock();
            let Some(flushed) = state.take_tag(tag, serial) else { return };
            match frame {
                Ok(frame) => state.push(frame),
                Err((failure, _)) if flushed && failure.errno() == Errno::INTR => return,
                Err((failure, dialect)) => state.push(Frame::failure(tag, &failure, dialect)),
            }
        }
        self.filled.notify_one();
    }

    /// Answers a read of a stream, and notes what it lacks.
    pub(super) fn complete_stream_read(
        &self,
        tag: u16,
        serial: u64,
        fid: u32,
        frame: Frame,
        lacks: Option<Shortfall>,
    ) {
        {
            let mut state = self.lock();
            if state.take_tag(tag, serial).is_none() {
                return;
            }
            state.push_stream_read(fid, frame, lacks);
        }
        self.filled.notify_one();
    }

    /// The same of one that never was outstanding.
    pub(super) fn send_stream_read(&self, fid: u32, frame: Frame, lacks: Option<Shortfall>) {
        self.lock().push_stream_read(fid, frame, lacks);
        self.filled.notify_one();
    }

    /// Answers the request that was to open a fid, and could not.
    pub(super) fn fail_open(
        &self,
        tag: u16,
        serial: u64,
        fid: u32,
        failure: Failure,
        dialect: Dialect,
    ) {
        if let Some(entry) = self.lock().fids.get_mut(&fid)
            && matches!(entry.open, Open::Opening(by) if by == serial)
        {
            entry.open = Open::No;
        }
        self.complete(tag, serial, Err((failure, dialect)));
    }

    /// Answers the request that opened a fid. `frame` makes the reply.
    pub(super) fn complete_open(
        &self,
        tag: u16,
        serial: u64,
        fid: u32,
        handle: Handle,
        frame: impl FnOnce(Node) -> Frame,
    ) {
        {
            let mut state = self.lock();
            let awaited = state.take_tag(tag, serial).is_some();
            let node = handle.node();
            match state.fids.get_mut(&fid) {
                Some(entry) if matches!(entry.open, Open::Opening(by) if by == serial) => {
                    entry.node = node;
                    entry.open = Open::Yes(Arc::new(handle));
                    state.push(frame(node));
                }
                _ => {
                    state.orphans.push(handle);
                    if !awaited {
                        return;
                    }
                    // The fid was clunked while this was on its way.
                    let frame = frame(node);
                    state.push(Frame::failure(tag, &Failure::INTERRUPTED, frame.dialect));
                }
            }
        }
        self.filled.notify_one();
    }

    /// Lets the writer end when it has sent what is here.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
        self.drained.notify_one();
    }

    /// Waits until few enough replies wait to be sent.
    pub(super) async fn room(&self) {
        loop {
            {
                let state = self.lock();
                if state.outbox_cost <= OUTBOX_FULL || state.closed {
                    return;
                }
            }
            self.drained.notified().await;
        }
    }

    /// Waits for replies and takes some; `false` if there will be none any more.
    /// They count as waiting until [`Shared::replies_taken`].
    pub(super) async fn take_replies(&self, frames: &mut Vec<Frame>) -> bool {
        loop {
            {
                let mut state = self.lock();
                let mut bytes = 0;
                while bytes < BATCH_BYTES && frames.len() < BATCH_FRAMES {
                    let Some(frame) = state.outbox.pop_front() else { break };
                    bytes += frame.size();
                    frames.push(frame);
                }
                state.give_back_places();
                if !frames.is_empty() {
                    return true;
                }
                if state.closed {
                    return false;
                }
            }
            self.filled.notified().await;
            behind_the_pipe().await;
        }
    }

    /// Replies that cost so much were sent.
    pub(super) fn replies_taken(&self, cost: usize) {
        let below = {
            let mut state = self.lock();
            state.outbox_cost -= cost.min(state.outbox_cost);
            state.outbox_cost <= OUTBOX_FULL
        };
        if below {
            self.drained.notify_one();
        }
    }
}

/// Tasks that a message to the far side passes: who takes it from the engine, and who
/// writes it.
const HOPS: u32 = 2;

/// Lets others go on first. What a client asked of the far side is thus on its way
/// before the client is told anything, for to write to it is to wake it, which takes
/// as long as all else.
async fn behind_the_pipe() {
    let mut left = HOPS;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        // Behind those who are ready. `yield_now` would look for I/O in between.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl State {
    fn push(&mut self, frame: Frame) {
        if !self.closed {
            self.outbox_cost += frame.cost();
            self.outbox.push_back(frame);
        }
    }

    /// Gives memory back that a crowd of replies took, once they are gone.
    fn give_back_places(&mut self) {
        if self.outbox.is_empty() && self.outbox.capacity() > PLACES_KEPT {
            self.outbox = VecDeque::new();
        }
    }

    fn push_stream_read(&mut self, fid: u32, frame: Frame, lacks: Option<Shortfall>) {
        if let Some(entry) = self.fids.get_mut(&fid) {
            entry.shortfall = lacks;
        }
        self.push(frame);
    }

    /// What the replies that wait cost, and how many there would be place for.
    #[cfg(test)]
    pub(super) fn outbox_holds(&self) -> (usize, usize) {
        (self.outbox_cost, self.outbox.capacity())
    }

    /// Whether a request with this tag is outstanding.
    pub(super) fn is_outstanding(&self, tag: u16) -> bool {
        self.tags.contains_key(&tag)
    }

    /// Requests that are outstanding.
    pub(super) fn outstanding(&self) -> usize {
        self.tags.len()
    }

    /// Enters a request that will be answered later, and answers with its serial.
    pub(super) fn begin(&mut self, tag: u16, fid: u32, cost: Cost) -> u64 {
        self.last_serial += 1;
        let serial = self.last_serial;
        match cost {
            Cost::Nothing => {}
            Cost::Read(count) => self.reading += count,
            Cost::Write(count) => self.writing += count,
        }
        self.tags_by_fid.insert((fid, serial), tag);
        self.tags.insert(tag, Tag { serial, fid, request: None, cost, flushed: false });
        serial
    }

    /// What a read that waits may ask for: the less the more is asked for already, so
    /// that a few readers get all they want and many still get something.
    pub(super) fn read_count(&self, count: u32) -> u32 {
        let left = READS_MAX.saturating_sub(self.reading);
        count.min((left / 4).max(READ_MIN))
    }

    /// Whether so many bytes more may wait to be written, where all connections may
    /// have so many more: each has at most a part of what is free, so that those who
    /// wait leave something for the next.
    pub(super) fn may_write(&self, count: u32, free: u64) -> bool {
        let part = free.saturating_sub(WRITES_RESERVE) / 4;
        let most = u32::try_from(part).unwrap_or(u32::MAX).clamp(WRITES_MIN, WRITES_MAX);
        self.writing.saturating_add(count) <= most
    }

    /// Whether one more request may be outstanding, where all connections may have
    /// so many more: the same rule.
    pub(super) fn may_ask(&self, free: usize) -> bool {
        self.tags.len() < (free / 4).clamp(TAGS_MIN, TAGS_MAX)
    }

    /// Marks a request as flushed; answers with what the tree calls it.
    pub(super) fn flush(&mut self, tag: u16) -> Option<RequestId> {
        let entry = self.tags.get_mut(&tag)?;
        entry.flushed = true;
        entry.request
    }

    /// The requests that are outstanding on a fid, the last first: so that what is
    /// given up is not followed by what was behind it.
    pub(super) fn requests_on(&self, fid: u32) -> Vec<RequestId> {
        let own = self.tags_by_fid.range((fid, 0)..=(fid, u64::MAX)).rev();
        own.filter_map(|(_, tag)| self.tags.get(tag)?.request).collect()
    }

    /// Forgets every request and every fid; nothing of them is answered. What it
    /// answers with is to be flushed and closed.
    pub(super) fn reset(&mut self) -> (Vec<RequestId>, Vec<Arc<Handle>>) {
        let tags = std::mem::take(&mut self.tags);
        self.tags_by_fid.clear();
        let fids = std::mem::take(&mut self.fids);
        (self.reading, self.writing) = (0, 0);
        let open = fids.into_values().filter_map(|fid| match fid.open {
            Open::Yes(handle) => Some(handle),
            Open::No | Open::Opening(_) => None,
        });
        (last_first(tags.values()), open.collect())
    }

    /// The files that were opened for nobody.
    pub(super) fn take_orphans(&mut self) -> Vec<Handle> {
        std::mem::take(&mut self.orphans)
    }

    /// Ends a request: whether it was flushed, or `None` if it is over already.
    fn take_tag(&mut self, tag: u16, serial: u64) -> Option<bool> {
        if self.tags.get(&tag)?.serial != serial {
            return None;
        }
        let entry = self.tags.remove(&tag)?;
        self.tags_by_fid.remove(&(entry.fid, serial));
        match entry.cost {
            Cost::Nothing => {}
            Cost::Read(count) => self.reading -= count.min(self.reading),
            Cost::Write(count) => self.writing -= count.min(self.writing),
        }
        Some(entry.flushed)
    }
}

fn last_first<'t>(tags: impl Iterator<Item = &'t Tag>) -> Vec<RequestId> {
    let mut requests: Vec<_> = tags.filter_map(|tag| Some((tag.serial, tag.request?))).collect();
    requests.sort_unstable_by_key(|(serial, _)| Reverse(*serial));
    requests.into_iter().map(|(_, request)| request).collect()
}
