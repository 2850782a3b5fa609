//! A bare 9P client: frames in and out of a socket on one thread, with many
//! requests under way, and no copy of what is read.
//!
//! What it measures is the server, so it does as little as a client can.

use std::collections::{HashMap, VecDeque};
use std::io::{BufReader, IoSlice, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sshnet_tests::ninep::{Body, frame};

use crate::service::piece;

const TVERSION: u8 = 100;
const TATTACH: u8 = 104;
const RERROR: u8 = 107;
const TWALK: u8 = 110;
const TOPEN: u8 = 112;
const TREAD: u8 = 116;
const TWRITE: u8 = 118;
const TCLUNK: u8 = 120;
const NOTAG: u16 = !0;
const NOFID: u32 = !0;
const ORDWR: u8 = 2;
const ROOT: u32 = 0;

/// Bytes in one read or write.
const IO: u32 = 128 << 10;
/// Bytes of a message.
const MSIZE: u32 = IO + 24;
/// Reads, or writes, under way at a time.
const UNDER_WAY: u16 = 16;
const BUFFER: usize = 512 << 10;
/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub(crate) struct Nine {
    stream: UnixStream,
    /// The same, for answers one by one: many come with one system call.
    answers: BufReader<UnixStream>,
    fids: u32,
}

/// A conversation: the fids of its `ctl` and `data`.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) number: String,
    ctl: u32,
    pub(crate) data: u32,
}

/// What follows the tag of an answer.
type Answer = Vec<u8>;

impl Nine {
    /// Connects and attaches, by 9P2000.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("sshnet-host's socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let answers = BufReader::new(stream.try_clone()?);
        let mut nine = Self { stream, answers, fids: ROOT };
        nine.stream.write_all(&frame(TVERSION, NOTAG, Body::new().u32(MSIZE).string("9P2000")))?;
        nine.answer()?;
        let attach = Body::new().u32(ROOT).u32(NOFID).string("bench").string("");
        nine.all(vec![(TATTACH, attach)])?;
        Ok(nine)
    }

    /// The socket, to be shut down from elsewhere.
    pub(crate) fn socket(&self) -> Result<UnixStream> {
        Ok(self.stream.try_clone()?)
    }

    fn answer(&mut self) -> Result<(u16, Answer)> {
        let mut head = [0; 7];
        self.answers.read_exact(&mut head).context("sshnet-host's answer")?;
        let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let mut body = vec![0; (size as usize).saturating_sub(head.len()).min(MSIZE as usize)];
        self.answers.read_exact(&mut body)?;
        if head[4] == RERROR {
            bail!("sshnet-host answers: {}", String::from_utf8_lossy(&body));
        }
        Ok((u16::from_le_bytes([head[5], head[6]]), body))
    }

    /// Makes all these requests at once; answers in their order.
    fn all(&mut self, requests: Vec<(u8, Body)>) -> Result<Vec<Answer>> {
        let tags = self.ask(0, requests)?;
        let mut came = HashMap::new();
        tags.map(|tag| self.answer_to(tag, &mut came)).collect()
    }

    /// Makes these requests, with tags from this one on: those.
    fn ask(&mut self, first: u16, requests: Vec<(u8, Body)>) -> Result<Range<u16>> {
        let tags = first..first + u16::try_from(requests.len())?;
        let frames = requests.into_iter().zip(tags.clone());
        let frames: Vec<_> = frames.map(|((kind, body), tag)| frame(kind, tag, body)).collect();
        self.stream.write_all(&frames.concat())?;
        Ok(tags)
    }

    /// The answer to the request with this tag, among those that came before it.
    fn answer_to(&mut self, tag: u16, came: &mut HashMap<u16, Answer>) -> Result<Answer> {
        loop {
            if let Some(answer) = came.remove(&tag) {
                return Ok(answer);
            }
            let (tag, answer) = self.answer()?;
            came.insert(tag, answer);
        }
    }

    fn fid(&mut self) -> u32 {
        self.fids += 1;
        self.fids
    }

    /// What opens a file for a fid.
    fn open(path: &str, fid: u32) -> [(u8, Body); 2] {
        let names: Vec<&str> = path.split('/').collect();
        let walk = Body::new().u32(ROOT).u32(fid).u16(names.len() as u16);
        let walk = names.iter().fold(walk, |body, name| body.string(name));
        [(TWALK, walk), (TOPEN, Body::new().u32(fid).u8(ORDWR))]
    }

    /// Opens so many conversations at once with a port there.
    pub(crate) fn dial(&mut self, port: u16, count: usize) -> Result<Vec<Conversation>> {
        Ok(self.dial_with(port, count, |_| Vec::new())?.0)
    }

    /// Opens a conversation, says this word in it, if there is one, and waits for the
    /// first byte that comes.
    pub(crate) fn greet(&mut self, port: u16, word: &[u8]) -> Result<Conversation> {
        let says = |data| {
            let says = (!word.is_empty()).then(|| (TWRITE, write(data, word)));
            std::iter::once(read(data, 1)).chain(says).collect()
        };
        let (mut conversations, answers) = self.dial_with(port, 1, says)?;
        if answers.get(2).is_none_or(|read| payload(read).is_empty()) {
            bail!("the conversation ended");
        }
        conversations.pop().context("one was asked for")
    }

    /// Opens so many at once. It waits for the numbers of the clients, and while they
    /// dial opens their `data` and asks for what is first there: a server does in order
    /// what it is sent. Answers with what the walks, the opens and those are answered.
    fn dial_with(
        &mut self,
        port: u16,
        count: usize,
        first: impl Fn(u32) -> Vec<(u8, Body)>,
    ) -> Result<(Vec<Conversation>, Vec<Answer>)> {
        let ctls: Vec<u32> = (0..count).map(|_| self.fid()).collect();
        let connect = format!("connect 127.0.0.1!{port}");
        let dial = |ctl: &u32| {
            let [walk, open] = Self::open("tcp/clone", *ctl);
            [walk, open, read(*ctl, 64), (TWRITE, write(*ctl, connect.as_bytes()))]
        };
        let dials = self.ask(0, ctls.iter().flat_map(dial).collect())?;
        let mut came = HashMap::new();
        let mut asked = Vec::new();
        let mut conversations = Vec::new();
        for (ctl, tag) in ctls.into_iter().zip(dials.clone().skip(2).step_by(4)) {
            let number = self.answer_to(tag, &mut came)?;
            let number = String::from_utf8_lossy(payload(&number)).trim().to_owned();
            let data = self.fid();
            asked.extend(Self::open(&format!("tcp/{number}/data"), data));
            asked.extend(first(data));
            conversations.push(Conversation { number, ctl, data });
        }
        let asked = self.ask(dials.end, asked)?;
        for tag in dials.filter(|tag| tag % 4 != 2) {
            self.answer_to(tag, &mut came)?;
        }
        let answers = asked.map(|tag| self.answer_to(tag, &mut came)).collect::<Result<_>>()?;
        Ok((conversations, answers))
    }

    /// Opens another connection's conversation.
    pub(crate) fn join(&mut self, other: &Conversation) -> Result<u32> {
        let fid = self.fid();
        self.all(Self::open(&format!("tcp/{}/data", other.number), fid).into())?;
        Ok(fid)
    }

    /// Closes conversations.
    pub(crate) fn hang_up(&mut self, conversations: &[Conversation]) -> Result<()> {
        let fids = conversations.iter().flat_map(|c| [c.data, c.ctl]);
        self.all(fids.map(|fid| (TCLUNK, Body::new().u32(fid))).collect())?;
        Ok(())
    }

    /// Reads of these files, at once.
    pub(crate) fn read(&mut self, fids: &[u32], count: u32) -> Result<Vec<Vec<u8>>> {
        let answers = self.all(fids.iter().map(|fid| read(*fid, count)).collect())?;
        Ok(answers.iter().map(|answer| payload(answer).to_vec()).collect())
    }

    /// Writes to these files, at once.
    pub(crate) fn write(&mut self, fids: &[u32], bytes: &[u8]) -> Result<()> {
        let twrite = |fid: &u32| (TWRITE, write(*fid, bytes));
        let answers = self.all(fids.iter().map(twrite).collect())?;
        let count = (bytes.len() as u32).to_le_bytes();
        if answers.iter().any(|answer| *answer != count) {
            bail!("a write was cut short");
        }
        Ok(())
    }

    /// Sends bytes, if there are any, and waits until so many have come.
    pub(crate) fn exchange(&mut self, fid: u32, bytes: &[u8], mut left: usize) -> Result<()> {
        let mut requests = vec![read(fid, left as u32)];
        if !bytes.is_empty() {
            requests.push((TWRITE, write(fid, bytes)));
        }
        let answers = self.all(requests)?;
        left -= answers.first().map_or(0, |read| payload(read).len()).min(left);
        while left > 0 {
            for piece in self.read(&[fid], left as u32)? {
                if piece.is_empty() {
                    bail!("the conversation ended");
                }
                left -= piece.len().min(left);
            }
        }
        Ok(())
    }

    /// Reads without end. It fails when the socket is shut down.
    pub(crate) fn download(&mut self, fid: u32) -> Result<()> {
        let tread = |tag| frame(TREAD, tag, Body::new().u32(fid).u64(0).u32(IO));
        let treads: Vec<Vec<u8>> = (0..UNDER_WAY).map(tread).collect();
        self.stream.write_all(&treads.concat())?;
        let mut buffer = vec![0; BUFFER];
        let (mut start, mut end) = (0, 0);
        let mut again = Vec::new();
        loop {
            // Past what was read, a frame at a time.
            while let Some(head) = buffer.get(start..end).and_then(|there| there.first_chunk::<7>())
            {
                let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
                let tag = u16::from_le_bytes([head[5], head[6]]);
                if head[4] == RERROR || size <= 11 {
                    bail!("a read failed, or there was no more");
                }
                again.extend_from_slice(treads.get(usize::from(tag)).context("a tag of ours")?);
                start += size;
                if start >= end {
                    break;
                }
            }
            self.stream.write_all(&again)?;
            again.clear();
            if start < end {
                // The start of a header.
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
            } else {
                // What is left of a payload comes next.
                (start, end) = (start - end, 0);
            }
            match self.stream.read(buffer.get_mut(end..).unwrap_or_default())? {
                0 => bail!("the connection ended"),
                count => end += count,
            }
            // A payload that is longer still.
            if start > end {
                (start, end) = (start - end, 0);
            }
        }
    }

    /// Writes without end. It fails when the socket is shut down.
    pub(crate) fn upload(&mut self, fid: u32) -> Result<()> {
        let data = piece();
        let data = data.get(..IO as usize).context("a piece holds it")?;
        let mut free: VecDeque<u16> = (0..UNDER_WAY).collect();
        let mut buffer = vec![0; BUFFER];
        let (mut start, mut end) = (0, 0);
        loop {
            let heads: Vec<Vec<u8>> = free.drain(..).map(|tag| twrite_head(tag, fid)).collect();
            let mut slices: Vec<IoSlice<'_>> =
                heads.iter().flat_map(|head| [IoSlice::new(head), IoSlice::new(data)]).collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                let count = self.stream.write_vectored(rest)?;
                IoSlice::advance_slices(&mut rest, count);
            }
            match self.stream.read(buffer.get_mut(end..).unwrap_or_default())? {
                0 => bail!("the connection ended"),
                count => end += count,
            }
            // Answers to writes all have this size.
            while let Some(answer) = buffer.get(start..end).and_then(|b| b.first_chunk::<11>()) {
                if answer[..4] != [11, 0, 0, 0] || answer[7..] != IO.to_le_bytes() {
                    bail!("a write failed");
                }
                free.push_back(u16::from_le_bytes([answer[5], answer[6]]));
                start += answer.len();
            }
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
    }
}

fn read(fid: u32, count: u32) -> (u8, Body) {
    (TREAD, Body::new().u32(fid).u64(0).u32(count))
}

/// What an answer to a read carries.
fn payload(answer: &Answer) -> &[u8] {
    answer.get(4..).unwrap_or_default()
}

fn write(fid: u32, bytes: &[u8]) -> Body {
    Body::new().u32(fid).u64(0).u32(bytes.len() as u32).bytes(bytes)
}

/// A Twrite of [`IO`] bytes, up to those.
fn twrite_head(tag: u16, fid: u32) -> Vec<u8> {
    let mut head = frame(TWRITE, tag, Body::new().u32(fid).u64(0).u32(IO));
    let size = (head.len() as u32 + IO).to_le_bytes();
    head.splice(..4, size);
    head
}
