//! The FUSE mount: the tree for programs that know only files.
//!
//! It is fuse(4)'s side of the same tree that [`crate::ninep`] serves. The library
//! speaks the kernel's protocol; here is what the kernel has to be told so that a
//! file may be a conversation. It knows no SSH, no engine and no 9P.
//!
//! - `net` is what each request of the kernel's does;
//! - `nodes` is the files that the kernel knows, `files` those that are open,
//!   `calls` what it waits for;
//! - `mount` is the life of a mount, `mounts` what is mounted where.
//!
//! # What the kernel is told, and why
//!
//! Reads and writes pass as they are (direct I/O), so that a short read is
//! answered when it comes; nothing is cached. Files that can block are streams: on
//! an ordinary file the kernel lets a read that waits hold up the writes of the
//! same descriptor. They have a fresh number at each look-up: writers of files of
//! one number wait for each other, and cannot even be killed then. So the inode
//! numbers of `clone`, `ctl`, `data` and `listen` change from look to look, and
//! cp(1), which compares them, refuses these files; cat(1) does not.
//!
//! A mount is its user's alone: the kernel lets nobody else in, not even root,
//! except where root itself has made it.

mod calls;
mod files;
mod mount;
mod mounts;
mod net;
mod nodes;

pub(crate) use self::mount::unmounting;
pub use self::mount::{MountError, Mounted, Mountpoint};
