//! A line for each message, as Plan 9's `fcallfmt` writes them.
//!
//! They go to the log at the target [`TARGET`] and the level debug, which costs
//! nothing where nobody asks for them.

use std::fmt;

use rs9p::fcall::FCall;
use tracing::Level;

#[cfg(test)]
use super::codec::Dialect;
use super::codec::{Qid, Reply, Request, Stat, frame_kind, frame_tag};
use super::table::Frame;

/// The log target of 9P messages.
pub(super) const TARGET: &str = "sshnet::ninep";
/// Bytes of a payload that are shown.
const SHOWN: usize = 32;

pub(super) fn enabled() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// A message that came in.
pub(super) fn request(tag: u16, request: &Request<'_>) {
    if enabled() {
        tracing::debug!(target: TARGET, "{}", Line(tag, request));
    }
}

/// A frame that came in and is no message of this dialect.
pub(super) fn malformed(frame: &[u8]) {
    if enabled() {
        let (kind, tag) = (frame_kind(frame), frame_tag(frame));
        let bytes = Bytes(frame.get(7..).unwrap_or_default());
        tracing::debug!(target: TARGET, "type {kind} tag {tag} malformed {bytes}");
    }
}

/// A frame that goes out.
pub(super) fn reply(frame: &Frame) {
    let (head, payload) = (frame.head(), frame.payload());
    let tag = frame_tag(head);
    if !payload.is_empty() {
        tracing::debug!(target: TARGET, "{}", Line(tag, &Reply::Read { data: payload }));
        return;
    }
    match Reply::decode(head, frame.dialect) {
        Ok(reply) => tracing::debug!(target: TARGET, "{}", Line(tag, &reply)),
        // Rreaddir, which is encoded entry by entry.
        Err(_) => tracing::debug!(
            target: TARGET,
            "Rreaddir tag {tag} count {} {}",
            head.len().saturating_sub(11),
            Bytes(head.get(11..).unwrap_or_default())
        ),
    }
}

/// A message on a line.
pub(super) struct Line<'a, M>(pub(super) u16, pub(super) &'a M);

impl fmt::Display for Line<'_, Request<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = self.0;
        match self.1 {
            Request::Version { msize, version } => {
                write!(f, "Tversion tag {tag} msize {msize} version '{}'", Text(version))
            }
            Request::Auth { afid, uname, aname, .. } => {
                let (uname, aname) = (Text(uname), Text(aname));
                write!(f, "Tauth tag {tag} afid {afid} uname {uname} aname {aname}")
            }
            Request::Attach { fid, afid, uname, aname, .. } => {
                let (afid, uname, aname) = (*afid as i32, Text(uname), Text(aname));
                write!(f, "Tattach tag {tag} fid {fid} afid {afid} uname {uname} aname {aname}")
            }
            Request::Flush { oldtag } => write!(f, "Tflush tag {tag} oldtag {oldtag}"),
            Request::Walk { fid, newfid, names } => {
                write!(f, "Twalk tag {tag} fid {fid} newfid {newfid} nwname {}", names.len())?;
                names.iter().enumerate().try_for_each(|(i, name)| write!(f, " {i}:{}", Text(name)))
            }
            Request::Open { fid, mode } => write!(f, "Topen tag {tag} fid {fid} mode {mode}"),
            Request::Create { fid, name, perm, mode, .. } => {
                let name = Text(name);
                write!(f, "Tcreate tag {tag} fid {fid} name {name} perm {perm:o} mode {mode}")
            }
            Request::Read { fid, offset, count } => {
                write!(f, "Tread tag {tag} fid {fid} offset {offset} count {count}")
            }
            Request::Write { fid, offset, data } => {
                let (count, data) = (data.len(), Bytes(data));
                write!(f, "Twrite tag {tag} fid {fid} offset {offset} count {count} {data}")
            }
            Request::Clunk { fid } => write!(f, "Tclunk tag {tag} fid {fid}"),
            Request::Remove { fid } => write!(f, "Tremove tag {tag} fid {fid}"),
            Request::Stat { fid } => write!(f, "Tstat tag {tag} fid {fid}"),
            Request::Wstat { fid, stat } => {
                write!(f, "Twstat tag {tag} fid {fid} stat {}", Directory(stat))
            }
            Request::Linux(message) => linux(f, tag, message),
        }
    }
}

impl fmt::Display for Line<'_, Reply<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = self.0;
        match self.1 {
            Reply::Version { msize, version } => {
                write!(f, "Rversion tag {tag} msize {msize} version '{}'", Text(version))
            }
            Reply::Auth { aqid } => write!(f, "Rauth tag {tag} qid {aqid}"),
            Reply::Attach { qid } => write!(f, "Rattach tag {tag} qid {qid}"),
            Reply::Error { ename: b"", errno } => write!(f, "Rlerror tag {tag} ecode {errno}"),
            Reply::Error { ename, .. } => write!(f, "Rerror tag {tag} ename {}", Text(ename)),
            Reply::Flush => write!(f, "Rflush tag {tag}"),
            Reply::Walk { qids } => {
                write!(f, "Rwalk tag {tag} nwqid {}", qids.len())?;
                qids.iter().enumerate().try_for_each(|(i, qid)| write!(f, " {i}:{qid}"))
            }
            Reply::Open { qid, iounit } => write!(f, "Ropen tag {tag} qid {qid} iounit {iounit}"),
            Reply::Create { qid, iounit } => {
                write!(f, "Rcreate tag {tag} qid {qid} iounit {iounit}")
            }
            Reply::Read { data } => {
                write!(f, "Rread tag {tag} count {} {}", data.len(), Bytes(data))
            }
            Reply::Write { count } => write!(f, "Rwrite tag {tag} count {count}"),
            Reply::Clunk => write!(f, "Rclunk tag {tag}"),
            Reply::Remove => write!(f, "Rremove tag {tag}"),
            Reply::Stat { stat } => write!(f, "Rstat tag {tag} stat {}", Directory(stat)),
            Reply::Wstat => write!(f, "Rwstat tag {tag}"),
            Reply::Linux(message) => linux(f, tag, message),
        }
    }
}

impl fmt::Display for Qid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind & Self::DIRECTORY == 0 { "" } else { "d" };
        write!(f, "({:016x} {} {kind})", self.path, self.version)
    }
}

/// rs9p's messages say what they are, in Rust's way: without its punctuation it
/// is `fcallfmt`'s. Strings come escaped.
fn linux(f: &mut fmt::Formatter<'_>, tag: u16, message: &FCall) -> fmt::Result {
    let text = format!("{message:?}");
    let (name, fields) = text.split_once(' ').unwrap_or((&text, ""));
    write!(f, "{name} tag {tag}")?;
    fields
        .split([' ', ',', ':', '{', '}'])
        .filter(|word| !word.is_empty())
        .try_for_each(|word| write!(f, " {word}"))
}

/// A string of the peer's.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0)
    }
}

/// Bytes as they are where that is safe on a terminal and on one line.
fn escape(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| match byte {
        b'\'' | b'"' => write!(f, "{}", char::from(*byte)),
        _ => write!(f, "{}", byte.escape_ascii()),
    })
}

/// A payload, of which a part is shown.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.0.len() > SHOWN { "..." } else { "" };
        let shown = self.0.get(..SHOWN).unwrap_or(self.0);
        write!(f, "'{}'{more}", Text(shown))
    }
}

/// A stat.
struct Directory<'a>(&'a Stat<'a>);

impl fmt::Display for Directory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stat { qid, mode, atime, mtime, length, .. } = self.0;
        let [name, uid, gid, muid] = [self.0.name, self.0.uid, self.0.gid, self.0.muid].map(Text);
        write!(f, "'{name}' '{uid}' '{gid}' '{muid}' q {qid} m {mode:#o} ")?;
        write!(f, "at {atime} mt {mtime} l {length}")
    }
}

/// What the writer logs of a reply in this dialect; for tests.
#[cfg(test)]
pub(super) fn line(frame: &[u8], dialect: Dialect) -> String {
    match Request::decode(frame, dialect) {
        Ok(request) => Line(frame_tag(frame), &request).to_string(),
        Err(_) => match Reply::decode(frame, dialect) {
            Ok(reply) => Line(frame_tag(frame), &reply).to_string(),
            Err(error) => error.to_string(),
        },
    }
}
