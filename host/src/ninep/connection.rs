//! One connection: reads messages and does what they say.
//!
//! Each message is done as far as it can be before the next is looked at. What
//! this task alone changes are the fids (but for what opening a file makes of
//! one); it waits for nothing but the client.
//!
//! Where the manual and the clients leave a choice, it is taken thus. A flushed
//! request that had no effect is not answered, and one that had is answered
//! before its Rflush. Clunking a fid interrupts what waits on it. A Tversion that
//! is answered with an Rversion starts over, whatever version it says.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rs9p::fcall::FCall;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::answer::{self, qid};
use super::codec::{
    Dialect, FRAME_MIN, IO_HEADER, Malformed, NOFID, Reply, Request, Stat, frame_kind, frame_tag,
    kind,
};
use super::shortfall::Shortfall;
use super::table::{Cost, FIDS_MAX, Fid, Frame, Open, Shared, TAGS_MIN};
use super::{MSIZE_MAX, MSIZE_MIN, Options, trace};
use crate::tree::{Access, Failure, Handle, Node, OpenDone, Tree};

/// What a frame may have before a Tversion says what it may have.
const FIRST_MSIZE: u32 = 8192;
/// Bytes that the first read from a client asks for, and the most that one does.
const INPUT: (usize, usize) = (8 << 10, 256 << 10);
/// How long a connection does messages before others have their turn. All of them,
/// and the far side, have one thread.
const TURN: Duration = Duration::from_millis(1);

const NO_VERSION: Failure = Failure::fixed("version not negotiated", Errno::PROTO);
const MSIZE_TOO_SMALL: Failure = Failure::fixed("message size too small", Errno::INVAL);
const DUPLICATE_TAG: Failure = Failure::fixed("duplicate tag", Errno::INVAL);
const TOO_MANY_TAGS: Failure = Failure::fixed("too many requests", Errno::AGAIN);
const UNKNOWN_FID: Failure = Failure::fixed("unknown fid", Errno::BADF);
const DUPLICATE_FID: Failure = Failure::fixed("duplicate fid", Errno::BADF);
const TOO_MANY_FIDS: Failure = Failure::fixed("too many fids", Errno::NFILE);
const BAD_FID: Failure = Failure::fixed("bad use of fid", Errno::BADF);
const CLONE_OPEN: Failure = Failure::fixed("cannot clone open fid", Errno::BADF);
// What diod's clients take for "go on without", besides the text of lib9p.
const NO_AUTH: Failure = Failure::fixed("authentication not required", Errno::NOENT);
const NO_BUFFERS: Failure = Failure::fixed("No buffer space available", Errno::NOBUFS);
const TOO_LONG: Failure = Failure::fixed("Message too long", Errno::MSGSIZE);

/// Open modes of open(5), and flags of Linux's open(2) in Tlopen.
const OTRUNC: u8 = 0x10;
const ORCLOSE: u8 = 0x40;
const O_TRUNC: u32 = 0o1000;

/// What a request comes to at once: a reply, or nothing because the reply comes
/// later or went already.
type Answer<'a> = Result<Option<Reply<'a>>, Failure>;

/// A connection's reading end.
pub(super) struct Connection {
    tree: Tree,
    shared: Arc<Shared>,
    /// What Tversion may raise `msize` to.
    msize_max: u32,
    exact_reads: bool,
    msize: u32,
    /// What is spoken since the last Tversion.
    dialect: Option<Dialect>,
}

impl Connection {
    pub(super) fn new(tree: Tree, shared: Arc<Shared>, options: &Options) -> Self {
        let msize_max = options.msize.clamp(MSIZE_MIN, MSIZE_MAX);
        let exact_reads = options.exact_reads;
        Self { tree, shared, msize_max, exact_reads, msize: FIRST_MSIZE, dialect: None }
    }

    /// Reads messages until there are none any more, or one that is no frame.
    pub(super) async fn run<R>(mut self, mut reader: R) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
    {
        let mut input = BytesMut::new();
        let mut ask = INPUT.0;
        let mut held = Duration::ZERO;
        loop {
            while let Some(size) = self.frame_size(&input)? {
                self.shared.room().await;
                let frame = input.split_to(size);
                let began = Instant::now();
                self.message(&frame);
                held += began.elapsed();
                // One read may bring hundreds of messages that take long.
                if held >= TURN {
                    held = Duration::ZERO;
                    tokio::task::yield_now().await;
                }
            }
            // It grows with what came, not with what a size field says.
            input.reserve(ask);
            let room = input.capacity() - input.len();
            match reader.read_buf(&mut input).await? {
                0 => return Ok(()),
                filled if filled == room => ask = INPUT.1.min(ask * 2),
                _ => {}
            }
        }
    }

    /// The size of the frame at the start of what came in, once it is whole.
    fn frame_size(&self, input: &[u8]) -> io::Result<Option<usize>> {
        let Some(size) = input.first_chunk() else { return Ok(None) };
        let size = u32::from_le_bytes(*size);
        if size < FRAME_MIN || size > self.msize {
            tracing::debug!(target: trace::TARGET, "a frame of {size} bytes ends the connection");
            let reason = "a frame's size is out of range";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok((input.len() >= size).then_some(size))
    }

    fn message(&mut self, frame: &[u8]) {
        let tag = frame_tag(frame);
        if frame_kind(frame) == kind::TVERSION {
            return self.version(tag, frame);
        }
        // Clients that have not said what they speak hear 9P2000's Rerror.
        let dialect = self.dialect.unwrap_or(Dialect::Plan9);
        let answer = self.request(tag, frame);
        let frame = match answer {
            Ok(None) => return,
            Ok(Some(reply)) => {
                let frame = Frame::new(tag, &reply, dialect);
                if frame.size() > self.msize as usize {
                    Frame::failure(tag, &TOO_LONG, dialect)
                } else {
                    frame
                }
            }
            Err(failure) => Frame::failure(tag, &failure, dialect),
        };
        self.shared.send(frame);
    }

    fn version(&mut self, tag: u16, frame: &[u8]) {
        // It reads the same in each.
        let dialect = Dialect::Plan9;
        let failure = match Request::decode(frame, dialect) {
            Ok(Request::Version { msize, .. }) if msize < MSIZE_MIN => MSIZE_TOO_SMALL,
            Ok(request @ Request::Version { msize, version }) => {
                trace::request(tag, &request);
                self.reset();
                self.dialect = Dialect::negotiate(version);
                let msize = msize.min(self.msize_max);
                self.msize = if self.dialect.is_some() { msize } else { FIRST_MSIZE };
                let version = self.dialect.map_or("unknown", Dialect::version).as_bytes();
                return self.shared.send(Frame::new(
                    tag,
                    &Reply::Version { msize, version },
                    dialect,
                ));
            }
            Ok(_) => malformed(Malformed::Unknown),
            Err(error) => malformed(error),
        };
        let dialect = self.dialect.unwrap_or(dialect);
        self.shared.send(Frame::failure(tag, &failure, dialect));
    }

    /// Ends everything that the client had begun, without a word.
    fn reset(&self) {
        let (requests, open) = self.shared.lock().reset();
        requests.into_iter().for_each(|request| self.tree.flush(request));
        open.iter().for_each(|handle| handle.close());
        self.close_orphans();
    }

    /// Closes what was opened while its fid went away.
    fn close_orphans(&self) {
        let orphans = self.shared.lock().take_orphans();
        orphans.iter().for_each(Handle::close);
    }

    fn request<'a>(&self, tag: u16, frame: &'a [u8]) -> Answer<'a> {
        let Some(dialect) = self.dialect else { return Err(NO_VERSION) };
        let request = match Request::decode(frame, dialect) {
            Ok(request) => request,
            Err(error) => {
                trace::malformed(frame);
                return Err(malformed(error));
            }
        };
        trace::request(tag, &request);
        let crowded = {
            let state = self.shared.lock();
            let flushes_itself = matches!(request, Request::Flush { oldtag } if oldtag == tag);
            if state.is_outstanding(tag) && !flushes_itself {
                return Err(DUPLICATE_TAG);
            }
            // Those that make room are never outstanding.
            let makes_room = matches!(
                request,
                Request::Flush { .. } | Request::Clunk { .. } | Request::Remove { .. }
            );
            state.outstanding() >= TAGS_MIN && !makes_room
        };
        if crowded {
            let free = self.tree.requests_free();
            if !self.shared.lock().may_ask(free) {
                return Err(TOO_MANY_TAGS);
            }
        }
        let call = Call { connection: self, tag, dialect };
        match request {
            Request::Version { .. } => Err(malformed(Malformed::Unknown)),
            Request::Auth { .. } => Err(NO_AUTH),
            Request::Attach { fid, afid, aname, .. } => call.attach(fid, afid, aname),
            Request::Flush { oldtag } => call.flush(oldtag),
            Request::Walk { fid, newfid, names } => call.walk(fid, newfid, &names),
            Request::Open { fid, mode } => call.plan9_open(fid, mode),
            // The tree has no file that a client could make or take away.
            Request::Create { fid, .. } => call.fid(fid).and(Err(Failure::PERMISSION)),
            Request::Read { fid, offset, count } => call.read(fid, offset, count),
            Request::Write { fid, data, .. } => call.write(fid, data),
            Request::Clunk { fid } => call.clunk(fid).map(|()| Some(Reply::Clunk)),
            Request::Remove { fid } => call.clunk(fid).and(Err(Failure::PERMISSION)),
            Request::Stat { fid } => call.stat(fid),
            Request::Wstat { fid, stat } => call.wstat(fid, &stat),
            Request::Linux(message) => call.linux(message),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reset();
        self.shared.close();
    }
}

fn malformed(error: Malformed) -> Failure {
    match error {
        Malformed::Unknown => Failure::fixed("unknown message", Errno::OPNOTSUPP),
        Malformed::Names => Failure::fixed("too many names in walk", Errno::INVAL),
        Malformed::Body => Failure::fixed("malformed message", Errno::PROTO),
    }
}

/// A message that is being done.
struct Call<'c> {
    connection: &'c Connection,
    tag: u16,
    dialect: Dialect,
}

impl Call<'_> {
    fn shared(&self) -> &Arc<Shared> {
        &self.connection.shared
    }

    fn tree(&self) -> &Tree {
        &self.connection.tree
    }

    /// The file that a fid stands for, and it as an open one.
    fn fid(&self, fid: u32) -> Result<(Node, Option<Arc<Handle>>), Failure> {
        let state = self.shared().lock();
        let entry = state.fids.get(&fid).ok_or(UNKNOWN_FID)?;
        let handle = match &entry.open {
            Open::Yes(handle) => Some(Arc::clone(handle)),
            Open::No | Open::Opening(_) => None,
        };
        Ok((entry.node, handle))
    }

    fn open_file(&self, fid: u32) -> Result<Arc<Handle>, Failure> {
        self.fid(fid)?.1.ok_or(BAD_FID)
    }

    /// Lets a number that stands for nothing stand for a file.
    fn new_fid(&self, fid: u32, node: Node) -> Result<(), Failure> {
        let mut state = self.shared().lock();
        if fid == NOFID {
            return Err(BAD_FID);
        }
        if state.fids.contains_key(&fid) {
            return Err(DUPLICATE_FID);
        }
        if state.fids.len() >= FIDS_MAX {
            return Err(TOO_MANY_FIDS);
        }
        state.fids.insert(fid, Fid::new(node));
        Ok(())
    }

    /// Who may attach was asked when the connection was made: `uname` is a claim.
    fn attach(&self, fid: u32, afid: u32, aname: &[u8]) -> Answer<'static> {
        if afid != NOFID {
            return Err(NO_AUTH);
        }
        if !matches!(aname, b"" | b"/") {
            return Err(Failure::NOT_FOUND);
        }
        self.new_fid(fid, Node::Root)?;
        Ok(Some(Reply::Attach { qid: qid(Node::Root) }))
    }

    fn flush(&self, oldtag: u16) -> Answer<'static> {
        let request = self.shared().lock().flush(oldtag);
        if let Some(request) = request {
            self.tree().flush(request);
        }
        Ok(Some(Reply::Flush))
    }

    fn walk(&self, fid: u32, newfid: u32, names: &[&[u8]]) -> Answer<'static> {
        let start = {
            let state = self.shared().lock();
            let entry = state.fids.get(&fid).ok_or(UNKNOWN_FID)?;
            // intro(5) wants no open fid here; Linux and diod's tools walk from
            // open directories, where it does no harm.
            match entry.open {
                Open::Yes(_) if !entry.node.is_directory() || newfid == fid => {
                    return Err(CLONE_OPEN);
                }
                Open::Opening(_) => return Err(CLONE_OPEN),
                Open::Yes(_) | Open::No => {}
            }
            if newfid != fid && state.fids.contains_key(&newfid) {
                return Err(DUPLICATE_FID);
            }
            entry.node
        };
        let mut node = start;
        let mut qids = Vec::with_capacity(names.len());
        for name in names {
            match self.tree().walk(node, name) {
                Ok(next) => node = next,
                Err(failure) if qids.is_empty() => return Err(failure),
                Err(_) => break,
            }
            qids.push(qid(node));
        }
        if qids.len() == names.len() {
            if newfid == fid {
                self.shared().lock().fids.insert(fid, Fid::new(node));
            } else {
                self.new_fid(newfid, node)?;
            }
        }
        Ok(Some(Reply::Walk { qids }))
    }

    fn plan9_open(&self, fid: u32, mode: u8) -> Answer<'static> {
        let (node, _) = self.fid(fid)?;
        if mode & ORCLOSE != 0 {
            return Err(Failure::PERMISSION);
        }
        let access = match mode & 3 {
            1 => Access::Write,
            2 => Access::ReadWrite,
            // To execute is to read.
            _ => Access::Read,
        };
        self.open(fid, node, access, mode & OTRUNC != 0)
    }

    fn linux_open(&self, fid: u32, flags: u32) -> Answer<'static> {
        let (node, _) = self.fid(fid)?;
        let access = match flags & 3 {
            0 => Access::Read,
            1 => Access::Write,
            2 => Access::ReadWrite,
            _ => return Err(Failure::INVALID),
        };
        self.open(fid, node, access, flags & O_TRUNC != 0)
    }

    fn open(&self, fid: u32, node: Node, access: Access, truncates: bool) -> Answer<'static> {
        if truncates && node.is_directory() {
            return Err(Failure::IS_DIRECTORY);
        }
        if truncates && node.mode() & 0o200 == 0 {
            return Err(Failure::PERMISSION);
        }
        let serial = {
            let mut state = self.shared().lock();
            match state.fids.get(&fid).map(|entry| &entry.open) {
                None => return Err(UNKNOWN_FID),
                Some(Open::Opening(_) | Open::Yes(_)) => return Err(BAD_FID),
                Some(Open::No) => {}
            }
            let serial = state.begin(self.tag, fid, Cost::Nothing);
            if let Some(entry) = state.fids.get_mut(&fid) {
                entry.open = Open::Opening(serial);
            }
            serial
        };
        let (tag, dialect, msize) = (self.tag, self.dialect, self.connection.msize);
        let shared = Arc::clone(self.shared());
        let done: OpenDone = Box::new(move |opened| match opened {
            Ok(handle) => shared.complete_open(tag, serial, fid, handle, |node| {
                Frame::new(tag, &answer::opened(node, msize, dialect), dialect)
            }),
            Err(failure) => shared.fail_open(tag, serial, fid, failure, dialect),
        });
        let request = self.tree().open(node, access, done);
        self.shared().started(tag, serial, request);
        Ok(None)
    }

    fn read(&self, fid: u32, offset: u64, count: u32) -> Answer<'static> {
        let handle = self.open_file(fid)?;
        let (tag, dialect) = (self.tag, self.dialect);
        let count = count.min(self.connection.msize - IO_HEADER);
        if handle.node().is_directory() && dialect != Dialect::Linux {
            let data = self.read_directory(fid, &handle, offset, count)?;
            self.shared().send(Frame::read(tag, data, dialect));
            return Ok(None);
        }
        if handle.is_stream() && dialect != Dialect::Plan9 && !self.connection.exact_reads {
            return self.read_stream(fid, &handle, offset, count);
        }
        let granted = self.shared().lock().read_count(count);
        if granted < count
            && let Some(outcome) = self.read_now(&handle, offset, count)
        {
            self.shared().send(Frame::read(tag, outcome?, dialect));
            return Ok(None);
        }
        let serial = self.shared().lock().begin(tag, fid, Cost::Read(granted));
        let shared = Arc::clone(self.shared());
        let request = handle.read(
            offset,
            granted,
            Box::new(move |outcome| {
                let frame = outcome.map(|data| Frame::read(tag, data, dialect));
                shared.complete(tag, serial, frame.map_err(|failure| (failure, dialect)));
            }),
        );
        self.shared().started(tag, serial, request);
        Ok(None)
    }

    /// What a read gets that does not wait; `None` where it would have to. It is no
    /// burden to others, however much it is: nothing more is done for this client
    /// until it takes the answer.
    fn read_now(
        &self,
        handle: &Handle,
        offset: u64,
        count: u32,
    ) -> Option<Result<Vec<u8>, Failure>> {
        let (sender, outcome) = std::sync::mpsc::channel();
        // The other end is here.
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        if let Some(request) = handle.read(offset, count, done) {
            // What had nothing to read is over with this; no byte is lost.
            self.tree().flush(request);
        }
        match outcome.try_recv() {
            Ok(Err(failure)) if failure.errno() == Errno::INTR => None,
            outcome => outcome.ok(),
        }
    }

    /// A read for a client that fills its reads: the rest of a short one is what
    /// is there, and does not wait.
    fn read_stream(&self, fid: u32, handle: &Handle, offset: u64, asked: u32) -> Answer<'static> {
        let (tag, dialect) = (self.tag, self.dialect);
        let most = self.connection.msize - IO_HEADER;
        let (granted, is_rest) = {
            let mut state = self.shared().lock();
            let lacked = state.fids.get_mut(&fid).and_then(|entry| entry.shortfall.take());
            let is_rest = lacked.is_some_and(|lacked| lacked.is_asked_for(offset, asked, most));
            (state.read_count(asked), is_rest)
        };
        if is_rest || granted < asked {
            match self.read_now(handle, offset, asked) {
                Some(outcome) => {
                    let data = outcome?;
                    let lacks = Shortfall::of(offset, asked, data.len(), most);
                    self.shared().send_stream_read(fid, Frame::read(tag, data, dialect), lacks);
                    return Ok(None);
                }
                None if is_rest => {
                    let frame = Frame::read(tag, Vec::new(), dialect);
                    self.shared().send_stream_read(fid, frame, None);
                    return Ok(None);
                }
                None => {}
            }
        }
        let serial = self.shared().lock().begin(tag, fid, Cost::Read(granted));
        let shared = Arc::clone(self.shared());
        let request = handle.read(
            offset,
            granted,
            Box::new(move |outcome| match outcome {
                Ok(data) => {
                    let lacks = Shortfall::of(offset, asked, data.len(), most);
                    let frame = Frame::read(tag, data, dialect);
                    shared.complete_stream_read(tag, serial, fid, frame, lacks);
                }
                Err(failure) => shared.complete(tag, serial, Err((failure, dialect))),
            }),
        );
        self.shared().started(tag, serial, request);
        Ok(None)
    }

    fn read_directory(
        &self,
        fid: u32,
        handle: &Handle,
        offset: u64,
        count: u32,
    ) -> Result<Vec<u8>, Failure> {
        let (end, cookie) = match self.shared().lock().fids.get(&fid) {
            _ if offset == 0 => (0, 0),
            Some(entry) if entry.cursor.0 == offset => entry.cursor,
            _ => return Err(Failure::fixed("bad offset in directory read", Errno::SPIPE)),
        };
        let (data, cookie) =
            answer::directory(self.tree(), handle.entries(cookie)?, cookie, count, self.dialect)?;
        if let Some(entry) = self.shared().lock().fids.get_mut(&fid) {
            entry.cursor = (end + data.len() as u64, cookie);
        }
        Ok(data)
    }

    fn write(&self, fid: u32, data: &[u8]) -> Answer<'static> {
        let handle = self.open_file(fid)?;
        let (tag, dialect) = (self.tag, self.dialect);
        let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let free = self.tree().waiting_free();
        let serial = {
            let mut state = self.shared().lock();
            if !state.may_write(count, free) {
                return Err(NO_BUFFERS);
            }
            state.begin(tag, fid, Cost::Write(count))
        };
        let shared = Arc::clone(self.shared());
        let request = handle.write(
            data,
            Box::new(move |outcome| {
                let frame = outcome.map(|count| Frame::new(tag, &Reply::Write { count }, dialect));
                shared.complete(tag, serial, frame.map_err(|failure| (failure, dialect)));
            }),
        );
        self.shared().started(tag, serial, request);
        Ok(None)
    }

    /// The fid is free from here on, so that what waits on it is over before the
    /// reply is.
    fn clunk(&self, fid: u32) -> Result<(), Failure> {
        let (entry, requests) = {
            let mut state = self.shared().lock();
            let entry = state.fids.remove(&fid).ok_or(UNKNOWN_FID)?;
            (entry, state.requests_on(fid))
        };
        requests.into_iter().for_each(|request| self.tree().flush(request));
        match entry.open {
            Open::Yes(handle) => handle.close(),
            Open::Opening(_) => self.connection.close_orphans(),
            Open::No => {}
        }
        Ok(())
    }

    fn stat(&self, fid: u32) -> Answer<'static> {
        let (node, _) = self.fid(fid)?;
        let changed = self.tree().changed(node)?;
        let frame = answer::stat(self.tree(), node, changed, |stat| {
            Frame::new(self.tag, &Reply::Stat { stat: *stat }, self.dialect)
        });
        if frame.size() > self.connection.msize as usize {
            return Err(TOO_LONG);
        }
        self.shared().send(frame);
        Ok(None)
    }

    /// Nothing can be changed; what programs ask for as a matter of course
    /// (truncation, new times, a sync) is nothing to us.
    fn wstat(&self, fid: u32, stat: &Stat<'_>) -> Answer<'static> {
        let (node, _) = self.fid(fid)?;
        self.tree().exists(node)?;
        if answer::may_set(self.tree(), node, stat) {
            Ok(Some(Reply::Wstat))
        } else {
            Err(Failure::NOT_PERMITTED)
        }
    }

    fn linux(&self, message: FCall) -> Answer<'static> {
        for fid in message.fids() {
            self.fid(fid)?;
        }
        let reply = match message {
            FCall::TlOpen { fid, flags } => return self.linux_open(fid, flags),
            FCall::TReadDir { fid, offset, count } => return self.readdir(fid, offset, count),
            FCall::TStatFs { .. } => answer::statfs(),
            FCall::TGetAttr { fid, .. } => {
                let (node, _) = self.fid(fid)?;
                answer::getattr(self.tree(), node, self.tree().changed(node)?)
            }
            FCall::TSetAttr { fid, valid, stat } => {
                let (node, _) = self.fid(fid)?;
                self.tree().exists(node)?;
                if !answer::may_setattr(self.tree(), node, valid, &stat) {
                    return Err(Failure::NOT_PERMITTED);
                }
                FCall::RSetAttr
            }
            FCall::TFSync { .. } => FCall::RFSync,
            FCall::TLock { flock, .. } => answer::lock(flock.typ)?,
            FCall::TGetLock { flock, .. } => answer::getlock(flock),
            FCall::TReadLink { .. } => return Err(Failure::INVALID),
            FCall::TxAttrWalk { .. } | FCall::TxAttrCreate { .. } => {
                return Err(Failure::NOT_SUPPORTED);
            }
            // The rest would make, move or take away files.
            _ => return Err(Failure::PERMISSION),
        };
        Ok(Some(Reply::Linux(reply)))
    }

    fn readdir(&self, fid: u32, offset: u64, count: u32) -> Answer<'static> {
        let handle = self.open_file(fid)?;
        let count = count.min(self.connection.msize - IO_HEADER);
        let frame = answer::readdir(self.tag, handle.entries(offset)?, count)?;
        self.shared().send(Frame::whole(frame, self.dialect));
        Ok(None)
    }
}
