//! The messages of 9P2000 and 9P2000.u, and of 9P2000.L those it shares with them.
//!
//! Follows section 5 of the Plan 9 manual, intro(5) and on; for 9P2000.u Ron
//! Minnich and others' `9p2000.u` draft. What 9P2000.L alone has is in
//! [`super::linux`]. It knows bytes and messages; which message is lawful when is
//! the connection's business.
//!
//! Decoding is total. It never panics, copies no payload, and allocates nothing
//! whose size a number in the message says: what a message holds is in the frame,
//! and the frame is here.

use rs9p::fcall::FCall;

use super::linux;

/// What a tag field holds in Tversion.
pub const NOTAG: u16 = !0;
/// What a fid field holds where there is none.
pub const NOFID: u32 = !0;
/// Names in a Twalk, at most.
pub const WALK_MAX: usize = 16;
/// What a message takes beyond its payload, at most: a round 24 for 23.
pub const IO_HEADER: u32 = 24;
/// `size[4] type[1] tag[2]`: what every frame has.
pub const FRAME_MIN: u32 = 7;

/// Types of messages. A reply's is its request's plus one.
#[allow(missing_docs, reason = "each is the message of that name")]
pub mod kind {
    pub const RLERROR: u8 = 7;
    pub const TVERSION: u8 = 100;
    pub const TAUTH: u8 = 102;
    pub const TATTACH: u8 = 104;
    pub const RERROR: u8 = 107;
    pub const TFLUSH: u8 = 108;
    pub const TWALK: u8 = 110;
    pub const TOPEN: u8 = 112;
    pub const TCREATE: u8 = 114;
    pub const TREAD: u8 = 116;
    pub const RREAD: u8 = 117;
    pub const TWRITE: u8 = 118;
    pub const TCLUNK: u8 = 120;
    pub const TREMOVE: u8 = 122;
    pub const TSTAT: u8 = 124;
    pub const TWSTAT: u8 = 126;
}

/// Which 9P a connection speaks.
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
    /// The dialect to speak with a client that offers this version: its own, or
    /// for an unknown one of the family the one that all of them know.
    pub fn negotiate(version: &[u8]) -> Option<Self> {
        match version {
            b"9P2000.L" => Some(Self::Linux),
            b"9P2000.u" => Some(Self::Unix),
            b"9P2000" => Some(Self::Plan9),
            _ if version.starts_with(b"9P2000.") => Some(Self::Plan9),
            _ => None,
        }
    }

    /// What Rversion calls it.
    pub fn version(self) -> &'static str {
        match self {
            Self::Plan9 => "9P2000",
            Self::Unix => "9P2000.u",
            Self::Linux => "9P2000.L",
        }
    }
}

/// What the server says of a file's identity.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Qid {
    /// [`Qid::DIRECTORY`] or 0.
    pub kind: u8,
    /// 0 for every file of ours.
    pub version: u32,
    /// Tells the file from every other.
    pub path: u64,
}

impl Qid {
    /// The kind of a directory.
    pub const DIRECTORY: u8 = 0x80;

    /// Whether it is a directory's.
    pub fn is_directory(self) -> bool {
        self.kind & Self::DIRECTORY != 0
    }
}

/// A directory entry as stat(5) has it. A number of all ones and an empty string
/// mean, in Twstat, that the field is not to change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs, reason = "the fields of stat(5), by their names there")]
pub struct Stat<'a> {
    pub kind: u16,
    pub dev: u32,
    pub qid: Qid,
    pub mode: u32,
    pub atime: u32,
    pub mtime: u32,
    pub length: u64,
    pub name: &'a [u8],
    pub uid: &'a [u8],
    pub gid: &'a [u8],
    pub muid: &'a [u8],
    /// The rest is 9P2000.u's; what 9P2000 sends has all ones there.
    pub extension: &'a [u8],
    pub n_uid: u32,
    pub n_gid: u32,
    pub n_muid: u32,
}

/// A T-message.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields of section 5 of the manual, by their names there")]
pub enum Request<'a> {
    Version {
        msize: u32,
        version: &'a [u8],
    },
    Auth {
        afid: u32,
        uname: &'a [u8],
        aname: &'a [u8],
        n_uname: u32,
    },
    Attach {
        fid: u32,
        afid: u32,
        uname: &'a [u8],
        aname: &'a [u8],
        n_uname: u32,
    },
    Flush {
        oldtag: u16,
    },
    Walk {
        fid: u32,
        newfid: u32,
        names: Vec<&'a [u8]>,
    },
    Open {
        fid: u32,
        mode: u8,
    },
    Create {
        fid: u32,
        name: &'a [u8],
        perm: u32,
        mode: u8,
        extension: &'a [u8],
    },
    Read {
        fid: u32,
        offset: u64,
        count: u32,
    },
    Write {
        fid: u32,
        offset: u64,
        data: &'a [u8],
    },
    Clunk {
        fid: u32,
    },
    Remove {
        fid: u32,
    },
    Stat {
        fid: u32,
    },
    Wstat {
        fid: u32,
        stat: Stat<'a>,
    },
    /// One that only 9P2000.L has.
    Linux(FCall),
}

/// An R-message.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields of section 5 of the manual, by their names there")]
pub enum Reply<'a> {
    Version {
        msize: u32,
        version: &'a [u8],
    },
    Auth {
        aqid: Qid,
    },
    Attach {
        qid: Qid,
    },
    /// Rerror, or in 9P2000.L Rlerror.
    Error {
        ename: &'a [u8],
        errno: u32,
    },
    Flush,
    Walk {
        qids: Vec<Qid>,
    },
    Open {
        qid: Qid,
        iounit: u32,
    },
    Create {
        qid: Qid,
        iounit: u32,
    },
    Read {
        data: &'a [u8],
    },
    Write {
        count: u32,
    },
    Clunk,
    Remove,
    Stat {
        stat: Stat<'a>,
    },
    Wstat,
    /// One that only 9P2000.L has.
    Linux(FCall),
}

/// Why a frame is no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// Its type is none, or none of this dialect, or goes the other way.
    #[error("unknown message")]
    Unknown,
    /// A walk of more than [`WALK_MAX`] names.
    #[error("too many names in walk")]
    Names,
    /// The body ends too early or too late, or contradicts itself.
    #[error("malformed message")]
    Body,
}

/// The type of a whole frame, 0 if there is none.
pub fn frame_kind(frame: &[u8]) -> u8 {
    frame.get(4).copied().unwrap_or(0)
}

/// The tag of a whole frame.
pub fn frame_tag(frame: &[u8]) -> u16 {
    match frame {
        [_, _, _, _, _, low, high, ..] => u16::from_le_bytes([*low, *high]),
        _ => NOTAG,
    }
}

/// What is left to decode of a body.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn of(frame: &'a [u8]) -> Self {
        Self(frame.get(FRAME_MIN as usize..).unwrap_or_default())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Body)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Body)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// `count[4] data[count]`
    fn data(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.u32()?;
        self.take(usize::try_from(count).map_err(|_| Malformed::Body)?)
    }

    fn qid(&mut self) -> Result<Qid, Malformed> {
        Ok(Qid { kind: self.u8()?, version: self.u32()?, path: self.u64()? })
    }

    /// `n[2] stat[n]`, where a stat begins with its own `size[2]`.
    fn stat(&mut self, dialect: Dialect) -> Result<Stat<'a>, Malformed> {
        let length = self.u16()?;
        let mut outer = Fields(self.take(usize::from(length))?);
        let length = outer.u16()?;
        let mut fields = Fields(outer.take(usize::from(length))?);
        outer.end()?;
        let stat = fields.stat_body(dialect)?;
        fields.end()?;
        Ok(stat)
    }

    fn stat_body(&mut self, dialect: Dialect) -> Result<Stat<'a>, Malformed> {
        let mut stat = Stat {
            kind: self.u16()?,
            dev: self.u32()?,
            qid: self.qid()?,
            mode: self.u32()?,
            atime: self.u32()?,
            mtime: self.u32()?,
            length: self.u64()?,
            name: self.string()?,
            uid: self.string()?,
            gid: self.string()?,
            muid: self.string()?,
            extension: b"",
            n_uid: !0,
            n_gid: !0,
            n_muid: !0,
        };
        if dialect == Dialect::Unix {
            stat.extension = self.string()?;
            stat.n_uid = self.u32()?;
            stat.n_gid = self.u32()?;
            stat.n_muid = self.u32()?;
        }
        Ok(stat)
    }

    /// `n_uname[4]`, which 9P2000 does not have.
    fn n_uname(&mut self, dialect: Dialect) -> Result<u32, Malformed> {
        if dialect == Dialect::Plan9 { Ok(!0) } else { self.u32() }
    }

    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Body) }
    }
}

impl<'a> Request<'a> {
    /// Decodes a whole frame, its size field included.
    pub fn decode(frame: &'a [u8], dialect: Dialect) -> Result<Self, Malformed> {
        let mut f = Fields::of(frame);
        let plain = dialect != Dialect::Linux;
        let request = match frame_kind(frame) {
            kind::TVERSION => Self::Version { msize: f.u32()?, version: f.string()? },
            kind::TAUTH => Self::Auth {
                afid: f.u32()?,
                uname: f.string()?,
                aname: f.string()?,
                n_uname: f.n_uname(dialect)?,
            },
            kind::TATTACH => Self::Attach {
                fid: f.u32()?,
                afid: f.u32()?,
                uname: f.string()?,
                aname: f.string()?,
                n_uname: f.n_uname(dialect)?,
            },
            kind::TFLUSH => Self::Flush { oldtag: f.u16()? },
            kind::TWALK => {
                let (fid, newfid) = (f.u32()?, f.u32()?);
                let count = usize::from(f.u16()?);
                if count > WALK_MAX {
                    return Err(Malformed::Names);
                }
                let names = (0..count).map(|_| f.string()).collect::<Result<_, _>>()?;
                Self::Walk { fid, newfid, names }
            }
            kind::TOPEN if plain => Self::Open { fid: f.u32()?, mode: f.u8()? },
            kind::TCREATE if plain => Self::Create {
                fid: f.u32()?,
                name: f.string()?,
                perm: f.u32()?,
                mode: f.u8()?,
                extension: if dialect == Dialect::Unix { f.string()? } else { b"" },
            },
            kind::TREAD => Self::Read { fid: f.u32()?, offset: f.u64()?, count: f.u32()? },
            kind::TWRITE => Self::Write { fid: f.u32()?, offset: f.u64()?, data: f.data()? },
            kind::TCLUNK => Self::Clunk { fid: f.u32()? },
            kind::TREMOVE => Self::Remove { fid: f.u32()? },
            kind::TSTAT if plain => Self::Stat { fid: f.u32()? },
            kind::TWSTAT if plain => Self::Wstat { fid: f.u32()?, stat: f.stat(dialect)? },
            _ if plain => return Err(Malformed::Unknown),
            _ => return linux::decode_request(frame).map(Self::Linux),
        };
        f.end()?;
        Ok(request)
    }

    /// Encodes it as a whole frame. A string of more than 64 KiB loses its end.
    pub fn encode(&self, tag: u16, dialect: Dialect) -> Vec<u8> {
        let body = match self {
            Self::Version { msize, version } => {
                Body::new(kind::TVERSION, tag).u32(*msize).string(version)
            }
            Self::Auth { afid, uname, aname, n_uname } => Body::new(kind::TAUTH, tag)
                .u32(*afid)
                .string(uname)
                .string(aname)
                .n_uname(*n_uname, dialect),
            Self::Attach { fid, afid, uname, aname, n_uname } => Body::new(kind::TATTACH, tag)
                .u32(*fid)
                .u32(*afid)
                .string(uname)
                .string(aname)
                .n_uname(*n_uname, dialect),
            Self::Flush { oldtag } => Body::new(kind::TFLUSH, tag).u16(*oldtag),
            Self::Walk { fid, newfid, names } => {
                let count = u16::try_from(names.len()).unwrap_or(u16::MAX);
                let body = Body::new(kind::TWALK, tag).u32(*fid).u32(*newfid).u16(count);
                names.iter().take(usize::from(count)).fold(body, |body, name| body.string(name))
            }
            Self::Open { fid, mode } => Body::new(kind::TOPEN, tag).u32(*fid).u8(*mode),
            Self::Create { fid, name, perm, mode, extension } => {
                let body = Body::new(kind::TCREATE, tag).u32(*fid).string(name).u32(*perm);
                let body = body.u8(*mode);
                if dialect == Dialect::Unix { body.string(extension) } else { body }
            }
            Self::Read { fid, offset, count } => {
                Body::new(kind::TREAD, tag).u32(*fid).u64(*offset).u32(*count)
            }
            Self::Write { fid, offset, data } => {
                Body::sized(kind::TWRITE, tag, data.len()).u32(*fid).u64(*offset).data(data)
            }
            Self::Clunk { fid } => Body::new(kind::TCLUNK, tag).u32(*fid),
            Self::Remove { fid } => Body::new(kind::TREMOVE, tag).u32(*fid),
            Self::Stat { fid } => Body::new(kind::TSTAT, tag).u32(*fid),
            Self::Wstat { fid, stat } => {
                Body::new(kind::TWSTAT, tag).u32(*fid).counted_stat(stat, dialect)
            }
            Self::Linux(message) => return linux::encode(tag, message),
        };
        body.finish()
    }
}

impl<'a> Reply<'a> {
    /// Decodes a whole frame, its size field included.
    pub fn decode(frame: &'a [u8], dialect: Dialect) -> Result<Self, Malformed> {
        let mut f = Fields::of(frame);
        let plain = dialect != Dialect::Linux;
        const fn r(kind: u8) -> u8 {
            kind + 1
        }
        let reply = match frame_kind(frame) {
            kind::RLERROR if !plain => Self::Error { ename: b"", errno: f.u32()? },
            kind::RERROR if plain => Self::Error {
                ename: f.string()?,
                errno: if dialect == Dialect::Unix { f.u32()? } else { 0 },
            },
            k if k == r(kind::TVERSION) => Self::Version { msize: f.u32()?, version: f.string()? },
            k if k == r(kind::TAUTH) => Self::Auth { aqid: f.qid()? },
            k if k == r(kind::TATTACH) => Self::Attach { qid: f.qid()? },
            k if k == r(kind::TFLUSH) => Self::Flush,
            k if k == r(kind::TWALK) => {
                let count = usize::from(f.u16()?);
                if count > WALK_MAX {
                    return Err(Malformed::Names);
                }
                let qids = (0..count).map(|_| f.qid()).collect::<Result<_, _>>()?;
                Self::Walk { qids }
            }
            k if k == r(kind::TOPEN) && plain => Self::Open { qid: f.qid()?, iounit: f.u32()? },
            k if k == r(kind::TCREATE) && plain => Self::Create { qid: f.qid()?, iounit: f.u32()? },
            kind::RREAD => Self::Read { data: f.data()? },
            k if k == r(kind::TWRITE) => Self::Write { count: f.u32()? },
            k if k == r(kind::TCLUNK) => Self::Clunk,
            k if k == r(kind::TREMOVE) => Self::Remove,
            k if k == r(kind::TSTAT) && plain => Self::Stat { stat: f.stat(dialect)? },
            k if k == r(kind::TWSTAT) && plain => Self::Wstat,
            _ if plain => return Err(Malformed::Unknown),
            _ => return linux::decode_reply(frame).map(Self::Linux),
        };
        f.end()?;
        Ok(reply)
    }

    /// Encodes it as a whole frame.
    pub fn encode(&self, tag: u16, dialect: Dialect) -> Vec<u8> {
        let body = match self {
            Self::Version { msize, version } => {
                Body::new(kind::TVERSION + 1, tag).u32(*msize).string(version)
            }
            Self::Auth { aqid } => Body::new(kind::TAUTH + 1, tag).qid(*aqid),
            Self::Attach { qid } => Body::new(kind::TATTACH + 1, tag).qid(*qid),
            Self::Error { errno, .. } if dialect == Dialect::Linux => {
                Body::new(kind::RLERROR, tag).u32(*errno)
            }
            Self::Error { ename, errno } => {
                let body = Body::new(kind::RERROR, tag).string(ename);
                if dialect == Dialect::Unix { body.u32(*errno) } else { body }
            }
            Self::Flush => Body::new(kind::TFLUSH + 1, tag),
            Self::Walk { qids } => {
                let count = u16::try_from(qids.len()).unwrap_or(u16::MAX);
                let body = Body::sized(kind::TWALK + 1, tag, qids.len() * 13).u16(count);
                qids.iter().take(usize::from(count)).fold(body, |body, qid| body.qid(*qid))
            }
            Self::Open { qid, iounit } => Body::new(kind::TOPEN + 1, tag).qid(*qid).u32(*iounit),
            Self::Create { qid, iounit } => {
                Body::new(kind::TCREATE + 1, tag).qid(*qid).u32(*iounit)
            }
            Self::Read { data } => Body::sized(kind::RREAD, tag, data.len()).data(data),
            Self::Write { count } => Body::new(kind::TWRITE + 1, tag).u32(*count),
            Self::Clunk => Body::new(kind::TCLUNK + 1, tag),
            Self::Remove => Body::new(kind::TREMOVE + 1, tag),
            Self::Stat { stat } => {
                Body::sized(kind::TSTAT + 1, tag, 128).counted_stat(stat, dialect)
            }
            Self::Wstat => Body::new(kind::TWSTAT + 1, tag),
            Self::Linux(message) => return linux::encode(tag, message),
        };
        body.finish()
    }
}

impl<'a> Stat<'a> {
    /// Decodes the entry that a directory's text starts with; answers with the
    /// rest, too.
    pub fn split(text: &'a [u8], dialect: Dialect) -> Result<(Self, &'a [u8]), Malformed> {
        let mut outer = Fields(text);
        let length = outer.u16()?;
        let mut fields = Fields(outer.take(usize::from(length))?);
        let stat = fields.stat_body(dialect)?;
        fields.end()?;
        Ok((stat, outer.0))
    }

    /// Appends it as it stands in a directory's contents.
    pub fn encode_to(&self, out: &mut Vec<u8>, dialect: Dialect) {
        let start = out.len();
        let body = Body(std::mem::take(out)).u16(0).stat_fields(self, dialect);
        *out = body.0;
        let length = out.len() - start - 2;
        patch(out, start, &u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
    }
}

/// Bytes of an Rread before its data.
pub const RREAD_HEADER: usize = 11;

/// The header of an Rread, for a payload that is kept apart from it.
pub fn read_header(tag: u16, payload: usize) -> [u8; RREAD_HEADER] {
    let count = u32::try_from(payload).unwrap_or(u32::MAX);
    let [s0, s1, s2, s3] = count.saturating_add(RREAD_HEADER as u32).to_le_bytes();
    let [t0, t1] = tag.to_le_bytes();
    let [c0, c1, c2, c3] = count.to_le_bytes();
    [s0, s1, s2, s3, kind::RREAD, t0, t1, c0, c1, c2, c3]
}

/// How much data an Rread says that it has, of which the first bytes are here.
pub fn read_count(frame: &[u8]) -> Option<u32> {
    match frame {
        [_, _, _, _, kind::RREAD, _, _, c0, c1, c2, c3, ..] => {
            Some(u32::from_le_bytes([*c0, *c1, *c2, *c3]))
        }
        _ => None,
    }
}

/// What a Twrite has before its data, which is kept apart from it.
pub fn write_header(tag: u16, fid: u32, offset: u64, data: usize) -> Vec<u8> {
    let mut header = Request::Write { fid, offset, data: &[] }.encode(tag, Dialect::Plan9);
    let count = u32::try_from(data).unwrap_or(u32::MAX);
    let size = u32::try_from(header.len()).unwrap_or(u32::MAX).saturating_add(count);
    patch(&mut header, 0, &size.to_le_bytes());
    let at = header.len().saturating_sub(4);
    patch(&mut header, at, &count.to_le_bytes());
    header
}

/// Puts these bytes over those at this place.
pub(super) fn patch(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A frame that is being written.
struct Body(Vec<u8>);

impl Body {
    fn new(kind: u8, tag: u16) -> Self {
        Self::sized(kind, tag, 0)
    }

    fn sized(kind: u8, tag: u16, payload: usize) -> Self {
        Self(Vec::with_capacity(40 + payload)).u32(0).u8(kind).u16(tag)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn string(self, string: &[u8]) -> Self {
        let length = u16::try_from(string.len()).unwrap_or(u16::MAX);
        let kept = string.get(..usize::from(length)).unwrap_or_default();
        self.u16(length).bytes(kept)
    }

    fn data(self, data: &[u8]) -> Self {
        self.u32(u32::try_from(data.len()).unwrap_or(u32::MAX)).bytes(data)
    }

    fn qid(self, qid: Qid) -> Self {
        self.u8(qid.kind).u32(qid.version).u64(qid.path)
    }

    fn n_uname(self, n_uname: u32, dialect: Dialect) -> Self {
        if dialect == Dialect::Plan9 { self } else { self.u32(n_uname) }
    }

    fn stat_fields(self, stat: &Stat<'_>, dialect: Dialect) -> Self {
        let body = self
            .u16(stat.kind)
            .u32(stat.dev)
            .qid(stat.qid)
            .u32(stat.mode)
            .u32(stat.atime)
            .u32(stat.mtime)
            .u64(stat.length)
            .string(stat.name)
            .string(stat.uid)
            .string(stat.gid)
            .string(stat.muid);
        if dialect != Dialect::Unix {
            return body;
        }
        body.string(stat.extension).u32(stat.n_uid).u32(stat.n_gid).u32(stat.n_muid)
    }

    fn counted_stat(self, stat: &Stat<'_>, dialect: Dialect) -> Self {
        let mut body = self.u16(0);
        let start = body.0.len();
        stat.encode_to(&mut body.0, dialect);
        let length = u16::try_from(body.0.len() - start).unwrap_or(u16::MAX);
        patch(&mut body.0, start - 2, &length.to_le_bytes());
        body
    }

    fn finish(mut self) -> Vec<u8> {
        let size = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        patch(&mut self.0, 0, &size.to_le_bytes());
        self.0
    }
}
