//! What each of the kernel's requests does: fuse(4)'s side of the tree.
//!
//! Every request is a task, so that one that waits holds up no other. The kernel
//! puts one after the other what must be in order: the writes to an open file.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuse3::raw::Filesystem;
use fuse3::raw::prelude::{
    DirectoryEntry, DirectoryEntryPlus, FileAttr, ReplyAttr, ReplyCreated, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyInit, ReplyOpen, ReplyStatFs, ReplyWrite,
    Request,
};
use fuse3::{Errno, FileType, Result, SetAttr, Timestamp};
use futures_util::stream::{self, Stream};
use rustix::io::Errno as Code;

use super::calls::{Call, Calls};
use super::files::{File, Files, Kind};
use super::nodes::{Nodes, listed};
use crate::tree::{Access, Failure, Node, Owner, Tree};

/// Bytes in a write of the kernel's, at most, and in a read.
const MAX_WRITE: NonZeroU32 = NonZeroU32::new(1 << 20).expect("it is not 0");
/// Nothing is to be remembered: files come and go without the kernel's doing.
const TTL: Duration = Duration::ZERO;

/// Flags of Linux's open(2).
const O_TRUNC: u32 = 0o1000;
/// Flags of the answer to an open: pass reads and writes on as they are; there are
/// no places in the file, and so no lock that lets a read hold up a write.
const DIRECT_IO: u32 = 1;
const STREAM: u32 = 1 << 4;
/// Offsets in a directory before the tree's own: of `.` and of `..`.
const DOTS: u64 = 2;

const STALE: Failure = Failure::fixed("stale file handle", Code::STALE);
const BAD_FILE: Failure = Failure::fixed("bad file descriptor", Code::BADF);

/// The tree, as the kernel asks for it. Clones are the same.
#[derive(Clone)]
pub(super) struct Net(Arc<Shared>);

struct Shared {
    tree: Tree,
    nodes: Mutex<Nodes>,
    files: Files,
    calls: Calls,
}

fn errno(failure: Failure) -> Errno {
    tracing::debug!("fuse: {failure}");
    failure.errno().raw_os_error().into()
}

impl Net {
    pub(super) fn new(tree: Tree) -> Self {
        Self(Arc::new(Shared {
            tree,
            nodes: Mutex::default(),
            files: Files::default(),
            calls: Calls::default(),
        }))
    }

    /// The kernel asks no more: ends what waits and closes what is open.
    pub(super) fn end(&self) {
        let (known, open) = (self.nodes().len(), self.0.files.len());
        tracing::debug!("fuse: at the end the kernel knows {known} files and has {open} open");
        self.0.calls.interrupt_all(&self.0.tree);
        self.0.files.end();
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        // Each change of it is one step.
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, number: u64) -> std::result::Result<Node, Failure> {
        self.nodes().find(number).ok_or(STALE)
    }

    fn file(&self, number: u64) -> std::result::Result<Arc<File>, Failure> {
        self.0.files.find(number).ok_or(BAD_FILE)
    }

    fn attributes(&self, number: u64, node: Node) -> FileAttr {
        let tree = &self.0.tree;
        let owner = tree.owner();
        // An open file may be one of a client that is gone.
        let changed = tree.changed(node).unwrap_or(tree.made());
        let time = Timestamp::new(changed.into(), 0);
        FileAttr {
            ino: number,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            kind: kind(node),
            perm: u16::try_from(node.mode()).unwrap_or(0),
            nlink: 1,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            blksize: 4096,
        }
    }

    async fn open_node(
        &self,
        call: &Call<'_>,
        node: Node,
        flags: u32,
    ) -> std::result::Result<(u64, Arc<File>), Failure> {
        let access = match flags & 3 {
            0 => Access::Read,
            1 => Access::Write,
            2 => Access::ReadWrite,
            _ => return Err(Failure::INVALID),
        };
        // To truncate is nothing, for who may write.
        if flags & O_TRUNC != 0 && node.mode() & 0o200 == 0 {
            return Err(Failure::PERMISSION);
        }
        let tree = &self.0.tree;
        let handle = call.ask(tree, |done| tree.open(node, access, done)).await?;
        Ok(self.0.files.insert(handle))
    }

    async fn read_file(
        &self,
        call: &Call<'_>,
        file: &File,
        offset: u64,
        size: u32,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let tree = &self.0.tree;
        let handle = &file.handle;
        match &file.kind {
            Kind::Placed => call.ask(tree, |done| handle.read(offset, size, done)).await,
            // The rest of a read that is too large for one request. The first part
            // was there in full, and its reader must not wait for more.
            Kind::Data if offset > 0 => {
                match call.ask_now(tree, |done| handle.read(offset, size, done)).await {
                    Err(failure) if failure == Failure::INTERRUPTED => Ok(Vec::new()),
                    outcome => outcome,
                }
            }
            Kind::Data => call.ask(tree, |done| handle.read(offset, size, done)).await,
            Kind::Text(place) => {
                let start = *lock(place);
                let text = call.ask(tree, |done| handle.read(start, size, done)).await?;
                *lock(place) = if text.is_empty() { 0 } else { start + text.len() as u64 };
                Ok(text)
            }
        }
    }

    async fn write_file(
        &self,
        call: &Call<'_>,
        file: &File,
        data: &[u8],
    ) -> std::result::Result<u32, Failure> {
        let tree = &self.0.tree;
        let handle = &file.handle;
        if let Kind::Text(place) = &file.kind {
            *lock(place) = 0;
        }
        call.ask(tree, |done| handle.write(data, done)).await
    }

    /// `(name, file, offset of the next)` from an offset on.
    fn entries(
        &self,
        number: u64,
        fh: u64,
        offset: u64,
    ) -> std::result::Result<Vec<(OsString, Node, i64)>, Failure> {
        let node = self.node(number)?;
        let file = self.file(fh)?;
        let dots = [(".", node), ("..", node.parent())].into_iter().zip(1_u32..);
        let dots = dots.filter(|(_, next)| u64::from(*next) > offset);
        let mut entries: Vec<_> =
            dots.map(|((name, node), next)| (name.into(), node, i64::from(next))).collect();
        for entry in file.handle.entries(offset.saturating_sub(DOTS))? {
            let next = i64::try_from(entry.cookie.saturating_add(DOTS)).unwrap_or(i64::MAX);
            entries.push((entry.node.name().into_owned().into(), entry.node, next));
        }
        Ok(entries)
    }
}

fn kind(node: Node) -> FileType {
    if node.is_directory() { FileType::Directory } else { FileType::RegularFile }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether nothing is asked that would be a change, but for times and a length of
/// 0, which every file has.
fn may_set(owner: &Owner, node: Node, asked: &SetAttr) -> bool {
    asked.uid.is_none_or(|uid| uid == owner.uid)
        && asked.gid.is_none_or(|gid| gid == owner.gid)
        && asked.mode.is_none_or(|mode| mode & 0o7777 == node.mode())
        && asked.size.is_none_or(|size| size == 0)
}

impl Filesystem for Net {
    async fn init(&self, _: Request) -> Result<ReplyInit> {
        Ok(ReplyInit::new(MAX_WRITE))
    }

    async fn destroy(&self, _: Request) {
        self.end();
    }

    async fn lookup(&self, _: Request, parent: u64, name: &OsStr) -> Result<ReplyEntry> {
        let parent = self.node(parent).map_err(errno)?;
        let node = match name.as_bytes() {
            b"." => parent,
            name => self.0.tree.walk(parent, name).map_err(errno)?,
        };
        let number = self.nodes().look_up(node);
        Ok(ReplyEntry { ttl: TTL, attr: self.attributes(number, node), generation: 0 })
    }

    async fn forget(&self, _: Request, number: u64, lookups: u64) {
        self.nodes().forget(number, lookups);
    }

    async fn batch_forget(&self, _: Request, numbers: &[(u64, u64)]) {
        let mut nodes = self.nodes();
        for (number, lookups) in numbers {
            nodes.forget(*number, *lookups);
        }
    }

    // A file's attributes are the same as long as it is open, though its client
    // may be gone: whether it is still there was asked when it was looked up.
    async fn getattr(&self, _: Request, number: u64, _: Option<u64>, _: u32) -> Result<ReplyAttr> {
        let node = self.node(number).map_err(errno)?;
        Ok(ReplyAttr { ttl: TTL, attr: self.attributes(number, node) })
    }

    async fn setattr(
        &self,
        _: Request,
        number: u64,
        _: Option<u64>,
        asked: SetAttr,
    ) -> Result<ReplyAttr> {
        let node = self.node(number).map_err(errno)?;
        if !may_set(self.0.tree.owner(), node, &asked) {
            return Err(errno(Failure::NOT_PERMITTED));
        }
        Ok(ReplyAttr { ttl: TTL, attr: self.attributes(number, node) })
    }

    async fn access(&self, _: Request, number: u64, mask: u32) -> Result<()> {
        let node = self.node(number).map_err(errno)?;
        if mask & 7 & !(node.mode() >> 6) != 0 {
            return Err(errno(Failure::PERMISSION));
        }
        Ok(())
    }

    async fn open(&self, request: Request, number: u64, flags: u32) -> Result<ReplyOpen> {
        let call = self.0.calls.begin(request.unique);
        let node = self.node(number).map_err(errno)?;
        let (fh, file) = self.open_node(&call, node, flags).await.map_err(errno)?;
        let stream = if file.is_stream() { STREAM } else { 0 };
        Ok(ReplyOpen { fh, flags: DIRECT_IO | stream })
    }

    async fn read(
        &self,
        request: Request,
        _: u64,
        fh: u64,
        offset: u64,
        size: u32,
    ) -> Result<ReplyData> {
        let call = self.0.calls.begin(request.unique);
        let file = self.file(fh).map_err(errno)?;
        let data = self.read_file(&call, &file, offset, size).await.map_err(errno)?;
        Ok(ReplyData { data: data.into() })
    }

    async fn write(
        &self,
        request: Request,
        _: u64,
        fh: u64,
        _: u64,
        data: &[u8],
        _: u32,
        _: u32,
    ) -> Result<ReplyWrite> {
        let call = self.0.calls.begin(request.unique);
        let file = self.file(fh).map_err(errno)?;
        let written = self.write_file(&call, &file, data).await.map_err(errno)?;
        Ok(ReplyWrite { written })
    }

    async fn release(&self, _: Request, _: u64, fh: u64, _: u32, _: u64, _: bool) -> Result<()> {
        self.0.files.close(fh);
        Ok(())
    }

    async fn opendir(&self, request: Request, number: u64, _: u32) -> Result<ReplyOpen> {
        let call = self.0.calls.begin(request.unique);
        let node = self.node(number).map_err(errno)?;
        let (fh, _) = self.open_node(&call, node, 0).await.map_err(errno)?;
        Ok(ReplyOpen { fh, flags: 0 })
    }

    async fn readdir<'a>(
        &'a self,
        _: Request,
        number: u64,
        fh: u64,
        offset: i64,
    ) -> Result<ReplyDirectory<impl Stream<Item = Result<DirectoryEntry>> + Send + 'a>> {
        let offset = u64::try_from(offset).unwrap_or(u64::MAX);
        let entries = self.entries(number, fh, offset).map_err(errno)?;
        let entries = entries.into_iter().map(|(name, node, offset)| {
            Ok(DirectoryEntry { inode: listed(node), kind: kind(node), name, offset })
        });
        Ok(ReplyDirectory { entries: stream::iter(entries) })
    }

    // The kernel asks for this where it thinks that each file is looked up next.
    // Entries without a number say: look it up. Others would count as look-ups,
    // those too that then find no place in the answer.
    async fn readdirplus<'a>(
        &'a self,
        _: Request,
        number: u64,
        fh: u64,
        offset: u64,
        _: u64,
    ) -> Result<ReplyDirectoryPlus<impl Stream<Item = Result<DirectoryEntryPlus>> + Send + 'a>>
    {
        let entries = self.entries(number, fh, offset).map_err(errno)?;
        let entries = entries.into_iter().map(|(name, node, offset)| {
            Ok(DirectoryEntryPlus {
                inode: listed(node),
                generation: 0,
                kind: kind(node),
                name,
                offset,
                attr: self.attributes(0, node),
                entry_ttl: TTL,
                attr_ttl: TTL,
            })
        });
        Ok(ReplyDirectoryPlus { entries: stream::iter(entries) })
    }

    async fn releasedir(&self, _: Request, _: u64, fh: u64, _: u32) -> Result<()> {
        self.0.files.close(fh);
        Ok(())
    }

    async fn fsyncdir(&self, _: Request, _: u64, _: u64, _: bool) -> Result<()> {
        Ok(())
    }

    async fn statfs(&self, _: Request, _: u64) -> Result<ReplyStatFs> {
        Ok(ReplyStatFs {
            blocks: 0,
            bfree: 0,
            bavail: 0,
            files: 0,
            ffree: 0,
            bsize: 4096,
            namelen: 255,
            frsize: 4096,
        })
    }

    async fn interrupt(&self, _: Request, unique: u64) -> Result<()> {
        if self.0.calls.interrupt(unique, &self.0.tree) {
            return Ok(());
        }
        // Not known yet, or over: the kernel knows which.
        Err(Code::AGAIN.raw_os_error().into())
    }

    // No file of this tree can be made, moved or taken away.

    async fn create(&self, _: Request, _: u64, _: &OsStr, _: u32, _: u32) -> Result<ReplyCreated> {
        Err(errno(Failure::PERMISSION))
    }

    async fn mknod(&self, _: Request, _: u64, _: &OsStr, _: u32, _: u32) -> Result<ReplyEntry> {
        Err(errno(Failure::PERMISSION))
    }

    async fn mkdir(&self, _: Request, _: u64, _: &OsStr, _: u32, _: u32) -> Result<ReplyEntry> {
        Err(errno(Failure::PERMISSION))
    }

    async fn symlink(&self, _: Request, _: u64, _: &OsStr, _: &OsStr) -> Result<ReplyEntry> {
        Err(errno(Failure::PERMISSION))
    }

    async fn link(&self, _: Request, _: u64, _: u64, _: &OsStr) -> Result<ReplyEntry> {
        Err(errno(Failure::PERMISSION))
    }

    async fn unlink(&self, _: Request, _: u64, _: &OsStr) -> Result<()> {
        Err(errno(Failure::PERMISSION))
    }

    async fn rmdir(&self, _: Request, _: u64, _: &OsStr) -> Result<()> {
        Err(errno(Failure::PERMISSION))
    }

    async fn rename(&self, _: Request, _: u64, _: &OsStr, _: u64, _: &OsStr) -> Result<()> {
        Err(errno(Failure::PERMISSION))
    }

    async fn rename2(
        &self,
        _: Request,
        _: u64,
        _: &OsStr,
        _: u64,
        _: &OsStr,
        _: u32,
    ) -> Result<()> {
        Err(errno(Failure::PERMISSION))
    }
}
