//! A 9P client of the tests' own, by raw frames: 9P2000, 9P2000.u, 9P2000.L.
//!
//! Written from the manuals and not from the host's codec, so that the two check
//! each other. Requests can be outstanding in any number; every wait has a limit.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long any reply may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The size of message that the tests ask for.
const MSIZE: u32 = 128 << 10;
/// What a read or write may carry.
pub const IO: u32 = 64 << 10;

/// Which 9P.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// 9P2000
    Plan9,
    /// 9P2000.u
    Unix,
    /// 9P2000.L
    Linux,
}

impl Dialect {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Plan9, Self::Unix, Self::Linux];

    /// What Tversion calls it.
    pub fn version(self) -> &'static str {
        match self {
            Self::Plan9 => "9P2000",
            Self::Unix => "9P2000.u",
            Self::Linux => "9P2000.L",
        }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// For reading.
    Read,
    /// For writing.
    Write,
    /// For both.
    Both,
}

/// An Rerror or Rlerror.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NineError {
    /// The text; none in 9P2000.L.
    pub text: Option<String>,
    /// The errno; none in 9P2000.
    pub errno: Option<u32>,
}

/// What a request came to.
pub type Answer<T> = Result<T, NineError>;

/// A frame as it came: type, and what follows the tag.
pub type Frame = (u8, Vec<u8>);

#[derive(Default)]
struct Waiting {
    tags: HashMap<u16, Sender<Frame>>,
    next: u16,
    gone: bool,
}

/// A connection. Clones are the same connection.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    stream: UnixStream,
    writer: Mutex<UnixStream>,
    waiting: Arc<Mutex<Waiting>>,
    dialect: Dialect,
    fids: AtomicU32,
    root: u32,
    /// Whether the server may end before it has answered.
    mortal: Arc<AtomicBool>,
}

/// A request that was sent.
pub struct Pending {
    tag: u16,
    what: String,
    reply: Receiver<Frame>,
    dialect: Dialect,
    mortal: Arc<AtomicBool>,
}

/// Builds what follows a tag.
#[derive(Default)]
pub struct Body(Vec<u8>);

#[allow(missing_docs, reason = "each puts a field of that size at the end")]
impl Body {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn string(self, value: &str) -> Self {
        let length = u16::try_from(value.len()).expect("a short string");
        self.u16(length).bytes(value.as_bytes())
    }

    pub fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }
}

/// A whole frame.
pub fn frame(kind: u8, tag: u16, body: Body) -> Vec<u8> {
    let size = u32::try_from(7 + body.0.len()).expect("a small frame");
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(tag.to_le_bytes());
    bytes.extend(body.0);
    bytes
}

/// Reads one frame; `None` at the end of the connection.
pub fn read_frame(stream: &mut impl Read) -> io::Result<Option<(u16, Frame)>> {
    let mut head = [0; 7];
    let mut filled = 0;
    while filled < head.len() {
        match stream.read(&mut head[filled..])? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    assert!((7..=MSIZE).contains(&size), "the server sent a frame of size {size}");
    let mut body = vec![0; size as usize - 7];
    stream.read_exact(&mut body)?;
    Ok(Some((u16::from_le_bytes([head[5], head[6]]), (head[4], body))))
}

/// Tversion as bytes.
pub fn tversion(version: &str) -> Vec<u8> {
    frame(100, 0xffff, Body::new().u32(MSIZE).string(version))
}

impl Client {
    /// Connects, agrees on the dialect, and attaches.
    pub fn connect(socket: &Path, dialect: Dialect) -> Self {
        let mut stream = UnixStream::connect(socket)
            .unwrap_or_else(|e| panic!("cannot connect to {}: {e}", socket.display()));
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all(&tversion(dialect.version())).expect("the server reads");
        let (tag, (kind, body)) =
            read_frame(&mut stream).expect("the server answers").expect("and stays");
        assert_eq!((tag, kind), (0xffff, 101), "Rversion");
        let mut fields = Fields(&body);
        assert!(fields.u32() <= MSIZE);
        assert_eq!(fields.string(), dialect.version());
        stream.set_read_timeout(None).expect("a socket");
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let inner = Inner {
            writer: Mutex::new(stream.try_clone().expect("a socket")),
            waiting: Arc::clone(&waiting),
            dialect,
            fids: AtomicU32::new(1),
            root: 0,
            mortal: Arc::default(),
            stream: stream.try_clone().expect("a socket"),
        };
        thread::spawn(move || deliver(stream, &waiting));
        let client = Self { inner: Arc::new(inner) };
        let mut attach = Body::new().u32(client.inner.root).u32(!0).string("tester").string("");
        if dialect != Dialect::Plan9 {
            attach = attach.u32(!0);
        }
        client.request("attach", 104, attach).wait().expect("attach");
        client
    }

    /// Ends the connection, with all that is open on it.
    pub fn hang_up(&self) {
        // It may have ended already.
        let _ = self.inner.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Its server is to be killed: what waits for an answer then fails.
    pub fn server_is_mortal(&self) {
        self.inner.mortal.store(true, Ordering::Relaxed);
    }

    /// The dialect that it speaks.
    pub fn dialect(&self) -> Dialect {
        self.inner.dialect
    }

    /// Sends a request; the reply can be waited for.
    pub fn request(&self, what: &str, kind: u8, body: Body) -> Pending {
        let (sender, reply) = channel();
        let tag = {
            let mut waiting = self.inner.waiting.lock().expect("no panic");
            loop {
                waiting.next = (waiting.next + 1) % 0xfffe;
                let tag = waiting.next;
                if !waiting.tags.contains_key(&tag) {
                    if !waiting.gone {
                        waiting.tags.insert(tag, sender);
                    }
                    break tag;
                }
            }
        };
        // A connection that is gone is noticed by who waits.
        let _ = self.inner.writer.lock().expect("no panic").write_all(&frame(kind, tag, body));
        let mortal = Arc::clone(&self.inner.mortal);
        Pending { tag, what: what.to_owned(), reply, dialect: self.inner.dialect, mortal }
    }

    fn fid(&self) -> u32 {
        self.inner.fids.fetch_add(1, Ordering::Relaxed)
    }

    /// Walks to a file, by its path from the root.
    pub fn walk(&self, path: &str) -> Answer<File> {
        let (file, walking, names) = self.walking(path);
        walked(file, walking, names)
    }

    /// Sends a walk; answers with what it is to, and of how many names it is.
    fn walking(&self, path: &str) -> (File, Pending, usize) {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let fid = self.fid();
        let mut body = Body::new().u32(self.inner.root).u32(fid).u16(names.len() as u16);
        for name in &names {
            body = body.string(name);
        }
        let walking = self.request(&format!("walk {path}"), 110, body);
        (
            File { client: self.clone(), fid, path: path.to_owned(), open: true },
            walking,
            names.len(),
        )
    }

    /// Walks to a file and opens it. Opening may take as long as it likes: the
    /// open is sent, and can be waited for.
    pub fn opening(&self, path: &str, mode: Mode) -> Answer<(File, Pending)> {
        let file = self.walk(path)?;
        let opening = self.send_open(&file, mode);
        Ok((file, opening))
    }

    /// The same so many times, all of it sent at once.
    pub fn opening_many(
        &self,
        path: &str,
        mode: Mode,
        count: usize,
    ) -> Answer<Vec<(File, Pending)>> {
        let sent: Vec<_> = (0..count)
            .map(|_| {
                let (file, walking, names) = self.walking(path);
                let opening = self.send_open(&file, mode);
                (file, walking, names, opening)
            })
            .collect();
        sent.into_iter()
            .map(|(file, walking, names, opening)| Ok((walked(file, walking, names)?, opening)))
            .collect()
    }

    fn send_open(&self, file: &File, mode: Mode) -> Pending {
        let what = format!("open {}", file.path);
        match self.inner.dialect {
            Dialect::Linux => {
                let flags = mode as u32;
                self.request(&what, 12, Body::new().u32(file.fid).u32(flags))
            }
            _ => self.request(&what, 112, Body::new().u32(file.fid).u8(mode as u8)),
        }
    }

    /// Opens a file that opens at once.
    pub fn open(&self, path: &str, mode: Mode) -> Answer<File> {
        let (file, pending) = self.opening(path, mode)?;
        pending.wait()?;
        Ok(file)
    }

    /// What a file that ends says, as text.
    pub fn text(&self, path: &str) -> Answer<String> {
        let file = self.open(path, Mode::Read)?;
        let mut out = Vec::new();
        loop {
            let piece = file.read_at(out.len() as u64, 4_096)?;
            if piece.is_empty() {
                return Ok(String::from_utf8(out).expect("text"));
            }
            out.extend(piece);
        }
    }

    /// The names in a directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        let directory = self.open(path, Mode::Read).expect("the directory opens");
        let mut names = Vec::new();
        let mut offset = 0_u64;
        loop {
            let linux = self.inner.dialect == Dialect::Linux;
            let body = Body::new().u32(directory.fid).u64(offset).u32(8_192);
            let reply = self
                .request(&format!("list {path}"), if linux { 40 } else { 116 }, body)
                .wait()
                .expect("the directory lists");
            let mut fields = Fields(&reply);
            let entries = fields.counted();
            if entries.is_empty() {
                return names;
            }
            let mut fields = Fields(entries);
            while !fields.0.is_empty() {
                if linux {
                    fields.skip(13);
                    offset = fields.u64();
                    fields.skip(1);
                    names.push(fields.string());
                } else {
                    let size = usize::from(fields.u16());
                    let mut stat = Fields(&fields.0[..size]);
                    // type dev qid mode atime mtime length
                    stat.skip(2 + 4 + 13 + 4 + 4 + 4 + 8);
                    names.push(stat.string());
                    fields.skip(size);
                }
            }
            if !linux {
                offset += entries.len() as u64;
            }
        }
    }

    /// Gives up on a request; returns when the server has agreed.
    pub fn flush(&self, pending: &Pending) {
        let body = Body::new().u16(pending.tag);
        self.request("flush", 108, body).wait().expect("a flush is never refused");
    }

    /// Asks `cs`.
    pub fn translate(&self, query: &str) -> Answer<String> {
        let cs = self.open("cs", Mode::Both)?;
        cs.write(query.as_bytes()).wait_count()?;
        let answer = cs.read_at(0, 4_096)?;
        Ok(String::from_utf8(answer).expect("text"))
    }

    /// A new client of the tree: its directory, and its `ctl`, which keeps it.
    pub fn clone_client(&self) -> Answer<(String, File)> {
        self.clone_of("tcp")
    }

    /// A new client in this protocol's directory.
    pub fn clone_of(&self, protocol: &str) -> Answer<(String, File)> {
        let ctl = self.open(&format!("{protocol}/clone"), Mode::Both)?;
        let number = String::from_utf8(ctl.read_at(0, 64)?).expect("a number");
        Ok((format!("{protocol}/{}", number.trim()), ctl))
    }

    /// A conversation with an address: its directory, `ctl` and `data`.
    pub fn dial(&self, address: &str) -> Answer<(String, File, File)> {
        let (directory, ctl) = self.clone_client()?;
        ctl.write(format!("connect {address}").as_bytes()).wait_count()?;
        let data = self.open(&format!("{directory}/data"), Mode::Both)?;
        Ok((directory, ctl, data))
    }
}

/// The file of a walk that went all the way.
fn walked(mut file: File, walking: Pending, names: usize) -> Answer<File> {
    let reply = walking.wait();
    let far = reply.as_ref().is_ok_and(|reply| usize::from(Fields(reply).u16()) == names);
    if far {
        return Ok(file);
    }
    // It stands for nothing, so there is nothing to clunk.
    file.open = false;
    reply.and(Err(NineError { text: None, errno: None }))
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Hands each reply to who waits for it.
fn deliver(mut stream: UnixStream, waiting: &Mutex<Waiting>) {
    while let Ok(Some((tag, reply))) = read_frame(&mut stream) {
        let sender = waiting.lock().expect("no panic").tags.remove(&tag);
        match sender {
            // Who gave up waiting has no use for it.
            Some(sender) => drop(sender.send(reply)),
            None => panic!("a reply of type {} to tag {tag}, which is not outstanding", reply.0),
        }
    }
    let mut waiting = waiting.lock().expect("no panic");
    waiting.gone = true;
    waiting.tags.clear();
}

impl Pending {
    /// What the reply carries. Panics when it takes too long, or when the
    /// connection ends before it.
    pub fn wait(self) -> Answer<Vec<u8>> {
        let what = self.what.clone();
        self.wait_for(PATIENCE).unwrap_or_else(|| panic!("{what}: no reply in {PATIENCE:?}"))
    }

    /// The same, with a limit of its own; `None` when it passed.
    pub fn wait_for(&self, limit: Duration) -> Option<Answer<Vec<u8>>> {
        match self.reply.recv_timeout(limit) {
            Ok((7, body)) => {
                assert_eq!(self.dialect, Dialect::Linux, "Rlerror is 9P2000.L's");
                Some(Err(NineError { text: None, errno: Some(Fields(&body).u32()) }))
            }
            Ok((107, body)) => {
                assert_ne!(self.dialect, Dialect::Linux, "Rerror is not 9P2000.L's");
                let mut fields = Fields(&body);
                let text = Some(fields.string());
                let errno = (self.dialect == Dialect::Unix).then(|| fields.u32());
                assert!(fields.0.is_empty(), "bytes after an Rerror");
                Some(Err(NineError { text, errno }))
            }
            Ok((_, body)) => Some(Ok(body)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                if self.mortal.load(Ordering::Relaxed) {
                    let text = Some("the server is gone".to_owned());
                    return Some(Err(NineError { text, errno: None }));
                }
                panic!("{}: the connection ended before the reply", self.what)
            }
        }
    }

    /// The bytes of an Rread.
    pub fn wait_data(self) -> Answer<Vec<u8>> {
        self.wait().map(|body| Fields(&body).counted().to_vec())
    }

    /// The count of an Rwrite.
    pub fn wait_count(self) -> Answer<u32> {
        self.wait().map(|body| Fields(&body).u32())
    }
}

/// A fid; dropped, it is clunked.
pub struct File {
    client: Client,
    fid: u32,
    path: String,
    /// Whether it is to be clunked.
    open: bool,
}

impl File {
    /// Sends a read at an offset.
    pub fn reading(&self, offset: u64, count: u32) -> Pending {
        let body = Body::new().u32(self.fid).u64(offset).u32(count);
        self.client.request(&format!("read {}", self.path), 116, body)
    }

    /// Reads at an offset.
    pub fn read_at(&self, offset: u64, count: u32) -> Answer<Vec<u8>> {
        self.reading(offset, count).wait_data()
    }

    /// Sends a read of a stream.
    pub fn read(&self, count: u32) -> Pending {
        self.reading(0, count)
    }

    /// Sends a write.
    pub fn write(&self, bytes: &[u8]) -> Pending {
        let length = u32::try_from(bytes.len()).expect("a small write");
        let body = Body::new().u32(self.fid).u64(0).u32(length).bytes(bytes);
        self.client.request(&format!("write {}", self.path), 118, body)
    }

    /// Writes a control message.
    pub fn control(&self, text: &str) -> Answer<()> {
        let count = self.write(text.as_bytes()).wait_count()?;
        assert_eq!(count as usize, text.len(), "a control message is taken whole");
        Ok(())
    }

    /// Reads a stream to its end.
    pub fn read_to_end(&self) -> Answer<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let piece = self.read(IO).wait_data()?;
            if piece.is_empty() {
                return Ok(out);
            }
            out.extend(piece);
        }
    }

    /// Clunks it, and waits for that.
    pub fn close(mut self) {
        let pending = self.clunk();
        pending.wait().expect("a clunk of an open fid is not refused");
        self.open = false;
    }

    fn clunk(&self) -> Pending {
        let body = Body::new().u32(self.fid);
        self.client.request(&format!("clunk {}", self.path), 120, body)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.open {
            drop(self.clunk());
        }
    }
}

/// Takes fields off a body. A reply that is too short is a fault of the server.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        assert!(count <= self.0.len(), "the reply is too short");
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn skip(&mut self, count: usize) {
        self.take(count);
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn string(&mut self) -> String {
        let length = usize::from(self.u16());
        String::from_utf8(self.take(length).to_vec()).expect("UTF-8")
    }

    fn counted(&mut self) -> &'a [u8] {
        let length = self.u32() as usize;
        self.take(length)
    }
}
