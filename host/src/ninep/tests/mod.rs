//! The server by raw frames, each row of what clients rely on; the codec; the
//! client.
//!
//! A [`Wire`] is a connection to a server. What it says is a [`Request`], what it
//! hears the line that a log would show, without the tag: a test reads as a talk.

mod client;
mod codec;
mod dialects;
mod each;
mod engine;
mod fids;
mod files;
mod pending;
mod session;
mod short_reads;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use rs9p::fcall::FCall;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::codec::{Dialect, NOFID, NOTAG, Reply, Request, Stat, frame_tag};
use super::{MSIZE_MAX, Options, serve, trace};
use crate::tree::Tree;
use crate::tree::fake::Fake;

const DIALECTS: [Dialect; 3] = [Dialect::Plan9, Dialect::Unix, Dialect::Linux];

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client's end of a connection.
struct Wire {
    stream: DuplexStream,
    server: JoinHandle<std::io::Result<()>>,
    dialect: Dialect,
    tag: u16,
}

impl Wire {
    /// A connection on which nothing was said.
    fn bare(tree: Tree) -> Self {
        Self::granted(tree, Options::default())
    }

    fn granted(tree: Tree, options: Options) -> Self {
        let (stream, far) = tokio::io::duplex(64 << 10);
        let server = tokio::spawn(async move { serve(far, tree, &options).await });
        Self { stream, server, dialect: Dialect::Plan9, tag: 0 }
    }

    /// A connection on which fid 0 is the root.
    async fn new(tree: Tree, dialect: Dialect) -> Self {
        let mut wire = Self::bare(tree);
        wire.version(8192, dialect).await;
        wire.attach(0).await;
        wire
    }

    async fn plan9(fake: &Fake) -> Self {
        Self::new(fake.tree(), Dialect::Plan9).await
    }

    async fn version(&mut self, msize: u32, dialect: Dialect) {
        let version = dialect.version();
        self.dialect = dialect;
        let request = Request::Version { msize, version: version.as_bytes() };
        self.say_as(NOTAG, &request).await;
        let granted = msize.min(MSIZE_MAX);
        assert_eq!(self.hear(NOTAG).await, format!("Rversion msize {granted} version '{version}'"));
    }

    async fn attach(&mut self, fid: u32) {
        let request =
            Request::Attach { fid, afid: NOFID, uname: b"glenda", aname: b"", n_uname: !0 };
        assert_eq!(self.ask(&request).await, "Rattach qid (0000000000000000 0 d)");
    }

    /// Says something under the next tag.
    async fn say(&mut self, request: &Request<'_>) -> u16 {
        self.tag += 1;
        self.say_as(self.tag, request).await;
        self.tag
    }

    async fn say_as(&mut self, tag: u16, request: &Request<'_>) {
        self.say_raw(&request.encode(tag, self.dialect)).await;
    }

    async fn say_raw(&mut self, frame: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(frame)).await.expect("in time").expect("written");
    }

    /// The next frame.
    async fn frame(&mut self) -> Vec<u8> {
        let mut size = [0; 4];
        let stream = &mut self.stream;
        timeout(PATIENCE, stream.read_exact(&mut size)).await.expect("in time").expect("a frame");
        let mut frame = size.to_vec();
        frame.resize(u32::from_le_bytes(size) as usize, 0);
        let rest = stream.read_exact(&mut frame[4..]);
        timeout(PATIENCE, rest).await.expect("in time").expect("a whole frame");
        frame
    }

    /// The next message, which has this tag.
    async fn hear(&mut self, tag: u16) -> String {
        let frame = self.frame().await;
        let line = trace::line(&frame, self.dialect);
        assert_eq!(frame_tag(&frame), tag, "{line}");
        line.replacen(&format!(" tag {tag}"), "", 1)
    }

    /// Says something and hears the answer.
    async fn ask(&mut self, request: &Request<'_>) -> String {
        let tag = self.say(request).await;
        self.hear(tag).await
    }

    /// Says something, and gives the answer's frame.
    async fn ask_frame(&mut self, request: &Request<'_>) -> Vec<u8> {
        let tag = self.say(request).await;
        let frame = self.frame().await;
        assert_eq!(frame_tag(&frame), tag);
        frame
    }

    async fn walk(&mut self, fid: u32, newfid: u32, path: &str) -> String {
        let names = path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
        self.ask(&Request::Walk { fid, newfid, names }).await
    }

    /// What opens a fid for reading (0), writing (1) or both (2).
    fn opening(&self, fid: u32, mode: u8) -> Request<'static> {
        match self.dialect {
            Dialect::Linux => Request::Linux(FCall::TlOpen { fid, flags: mode.into() }),
            Dialect::Plan9 | Dialect::Unix => Request::Open { fid, mode },
        }
    }

    /// Walks from fid 0 and opens; the answer to the latter.
    async fn open(&mut self, fid: u32, path: &str, mode: u8) -> String {
        let walked = self.walk(0, fid, path).await;
        assert!(walked.starts_with("Rwalk"), "{walked}");
        self.ask(&self.opening(fid, mode)).await
    }

    /// The next message is an error: this text, this number, or both.
    async fn hear_refusal(&mut self, tag: u16, text: &str, errno: u32) {
        let frame = self.frame().await;
        let line = trace::line(&frame, self.dialect);
        assert_eq!(frame_tag(&frame), tag, "{line}");
        let ename = if self.dialect == Dialect::Linux { "" } else { text };
        let errno = if self.dialect == Dialect::Plan9 { 0 } else { errno };
        let refusal = Reply::Error { ename: ename.as_bytes(), errno };
        assert_eq!(Reply::decode(&frame, self.dialect), Ok(refusal), "{text}: {line}");
    }

    /// Says something, and hears that it is refused.
    async fn refused(&mut self, request: &Request<'_>, text: &str, errno: u32) {
        let tag = self.say(request).await;
        self.hear_refusal(tag, text, errno).await;
    }

    async fn read(&mut self, fid: u32, offset: u64, count: u32) -> String {
        self.ask(&Request::Read { fid, offset, count }).await
    }

    async fn write(&mut self, fid: u32, data: &[u8]) -> String {
        self.ask(&Request::Write { fid, offset: 0, data }).await
    }

    async fn clunk(&mut self, fid: u32) -> String {
        self.ask(&Request::Clunk { fid }).await
    }

    /// Nothing is on its way: the next thing heard is the answer to this.
    async fn silence(&mut self) {
        assert_eq!(self.ask(&Request::Flush { oldtag: 0xfff0 }).await, "Rflush");
    }

    /// The server ends the connection, and says nothing before.
    async fn ended(mut self) {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        read.expect("in time").expect("an end");
        assert_eq!(rest, []);
        timeout(PATIENCE, self.server).await.expect("in time").expect("no panic").ok();
    }

    /// Ends the connection, and waits until the server is through with it.
    async fn hang_up(self) {
        drop(self.stream);
        timeout(PATIENCE, self.server).await.expect("in time").expect("no panic").ok();
    }
}

/// A Twstat that asks for nothing.
fn sync() -> Stat<'static> {
    Stat {
        kind: !0,
        dev: !0,
        qid: super::codec::Qid { kind: !0, version: !0, path: !0 },
        mode: !0,
        atime: !0,
        mtime: !0,
        length: !0,
        name: b"",
        uid: b"",
        gid: b"",
        muid: b"",
        extension: b"",
        n_uid: !0,
        n_gid: !0,
        n_muid: !0,
    }
}

/// Waits until this holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

/// Numbers that look random: xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
