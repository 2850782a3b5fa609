//! What the messages about files say: qids, stats, directories, attributes.
//!
//! Each dialect says the same of a file in its own way. It follows stat(5), and
//! for 9P2000.L diod's protocol.md and Linux's `fs/9p`.

use rs9p::fcall::{
    DirEntry, FCall, GetAttrMask, Getlock, LockStatus, LockType, QId, QIdType, SetAttr,
    SetAttrMask, StatFs, Time,
};
use rs9p::serialize::Encodable;
use rustix::io::Errno;

use super::codec::{Dialect, IO_HEADER, Qid, Reply, Stat, patch};
use crate::tree::{Entries, Failure, Node, Tree};

/// A directory's bit in stat(5)'s mode.
const DMDIR: u32 = 0x8000_0000;
/// Kinds of files in Linux's `st_mode`.
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
/// Kinds of files in Linux's `d_type`.
const DT_DIR: u8 = 4;
const DT_REG: u8 = 8;
/// What Linux's statfs(2) calls 9P.
const V9FS_MAGIC: u32 = 0x0102_1997;
/// `qid[13] offset[8] type[1]` and the length of a name, `s[2]`.
const DIRENT_HEADER: usize = 24;

const COUNT_TOO_SMALL: Failure = Failure::fixed("count too small for an entry", Errno::INVAL);

pub(super) fn qid(node: Node) -> Qid {
    let kind = if node.is_directory() { Qid::DIRECTORY } else { 0 };
    Qid { kind, version: 0, path: node.path() }
}

fn linux_qid(node: Node) -> QId {
    let typ = if node.is_directory() { QIdType::DIR } else { QIdType::FILE };
    QId { typ, version: 0, path: node.path() }
}

/// What fits into a read or a write.
pub(super) fn iounit(msize: u32) -> u32 {
    msize - IO_HEADER
}

pub(super) fn opened(node: Node, msize: u32, dialect: Dialect) -> Reply<'static> {
    let iounit = iounit(msize);
    match dialect {
        Dialect::Plan9 | Dialect::Unix => Reply::Open { qid: qid(node), iounit },
        Dialect::Linux => Reply::Linux(FCall::RlOpen { qid: linux_qid(node), iounit }),
    }
}

/// Hands a file's stat to `with`; `changed` is [`Tree::changed`]'s.
pub(super) fn stat<T>(
    tree: &Tree,
    node: Node,
    changed: u32,
    with: impl FnOnce(&Stat<'_>) -> T,
) -> T {
    let owner = tree.owner();
    let name = node.name();
    with(&Stat {
        kind: 0,
        dev: 0,
        qid: qid(node),
        mode: plan9_mode(node),
        atime: changed,
        mtime: changed,
        length: 0,
        name: name.as_bytes(),
        uid: owner.user.as_bytes(),
        gid: owner.group.as_bytes(),
        muid: owner.user.as_bytes(),
        extension: b"",
        n_uid: owner.uid,
        n_gid: owner.gid,
        n_muid: owner.uid,
    })
}

fn plan9_mode(node: Node) -> u32 {
    node.mode() | if node.is_directory() { DMDIR } else { 0 }
}

fn linux_mode(node: Node) -> u32 {
    node.mode() | if node.is_directory() { S_IFDIR } else { S_IFREG }
}

/// Whether a Twstat asks for nothing that would be a change, but for times and a
/// length of 0, which every file has.
pub(super) fn may_set(tree: &Tree, node: Node, asked: &Stat<'_>) -> bool {
    let same = |asked: &[u8], is: &[u8]| asked.is_empty() || asked == is;
    let same_number = |asked: u32, is: u32| asked == !0 || asked == is;
    stat(tree, node, 0, |is| {
        same_number(asked.mode, is.mode)
            && (asked.length == !0 || asked.length == 0)
            && same(asked.name, is.name)
            && same(asked.uid, is.uid)
            && same(asked.gid, is.gid)
            && asked.extension.is_empty()
            && same_number(asked.n_uid, is.n_uid)
            && same_number(asked.n_gid, is.n_gid)
    })
}

/// The same of a Tsetattr.
pub(super) fn may_setattr(tree: &Tree, node: Node, valid: SetAttrMask, asked: &SetAttr) -> bool {
    let owner = tree.owner();
    (!valid.contains(SetAttrMask::UID) || asked.uid == owner.uid)
        && (!valid.contains(SetAttrMask::GID) || asked.gid == owner.gid)
        && (!valid.contains(SetAttrMask::MODE) || asked.mode & 0o7777 == node.mode())
        && (!valid.contains(SetAttrMask::SIZE) || asked.size == 0)
}

/// The entries that fit into a read of a directory, and where the next one starts.
pub(super) fn directory(
    tree: &Tree,
    entries: Entries,
    mut cookie: u64,
    count: u32,
    dialect: Dialect,
) -> Result<(Vec<u8>, u64), Failure> {
    let mut data = Vec::new();
    for entry in entries {
        let end = data.len();
        stat(tree, entry.node, entry.changed, |stat| stat.encode_to(&mut data, dialect));
        if data.len() > count as usize {
            data.truncate(end);
            // An empty answer would pass for the end.
            if end == 0 {
                return Err(COUNT_TOO_SMALL);
            }
            break;
        }
        cookie = entry.cookie;
    }
    Ok((data, cookie))
}

/// An Rreaddir of the entries that fit, as a whole frame.
pub(super) fn readdir(tag: u16, entries: Entries, count: u32) -> Result<Vec<u8>, Failure> {
    const RREADDIR: u8 = 41;
    const HEADER: usize = 11;
    let [t0, t1] = tag.to_le_bytes();
    let mut frame = vec![0, 0, 0, 0, RREADDIR, t0, t1, 0, 0, 0, 0];
    for entry in entries {
        let name = entry.node.name().into_owned();
        if frame.len() - HEADER + DIRENT_HEADER + name.len() > count as usize {
            if frame.len() == HEADER {
                return Err(COUNT_TOO_SMALL);
            }
            break;
        }
        let typ = if entry.node.is_directory() { DT_DIR } else { DT_REG };
        let entry = DirEntry { qid: linux_qid(entry.node), offset: entry.cookie, typ, name };
        entry.encode(&mut frame).map_err(|_| Failure::MISMATCH)?;
    }
    let size = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    patch(&mut frame, 0, &size.to_le_bytes());
    patch(&mut frame, 7, &(size - HEADER as u32).to_le_bytes());
    Ok(frame)
}

pub(super) fn getattr(tree: &Tree, node: Node, changed: u32) -> FCall {
    let time = Time { sec: u64::from(changed), nsec: 0 };
    FCall::RGetAttr {
        valid: GetAttrMask::BASIC,
        qid: linux_qid(node),
        stat: rs9p::fcall::Stat {
            mode: linux_mode(node),
            uid: tree.owner().uid,
            gid: tree.owner().gid,
            nlink: 1,
            rdev: 0,
            size: 0,
            blksize: 4096,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
        },
    }
}

pub(super) fn statfs() -> FCall {
    FCall::RStatFs {
        statfs: StatFs {
            typ: V9FS_MAGIC,
            bsize: 4096,
            blocks: 0,
            bfree: 0,
            bavail: 0,
            files: 0,
            ffree: 0,
            fsid: 0,
            namelen: 255,
        },
    }
}

/// A file here excludes nobody, and does not pretend to. Only to unlock is easy.
pub(super) fn lock(kind: LockType) -> Result<FCall, Failure> {
    if kind == LockType::UNLOCK {
        Ok(FCall::RLock { status: LockStatus::SUCCESS })
    } else {
        Err(Failure::NOT_SUPPORTED)
    }
}

/// Nobody holds a lock.
pub(super) fn getlock(asked: Getlock) -> FCall {
    FCall::RGetLock { flock: Getlock { typ: LockType::UNLOCK, ..asked } }
}
