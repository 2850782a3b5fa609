//! The life of a mount: a place that can be used, the mounting, the end.
//!
//! A mount whose program has died blocks nothing, and answers everything with
//! ENOTCONN, until somebody clears it. So one of ours is cleared where the next is
//! to be, and at the end a mount is first taken out of the tree of files, whoever
//! uses it (`fusermount3 -u -z`), while it still is served: those who have files
//! open there keep them until the program ends, and nothing dead stays behind.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use fuse3::MountOptions;
use fuse3::raw::{self, MountHandle};
use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::mounts::{self, Mount, SOURCE, Table};
use super::net::Net;
use crate::notice::{notice, quoted};
use crate::starter::{self, Order};
use crate::sys;
use crate::tree::Tree;

const HELPER: &str = "fusermount3";
const DEVICE: &str = "/dev/fuse";
/// How long a look at the place may take: a mount there may be stuck.
const LOOK: Duration = Duration::from_secs(5);
/// How long the helper may take.
const HELP: Duration = Duration::from_secs(10);
/// Dead mounts of ours, one upon the other, that are cleared.
const STACKED: usize = 8;

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The place cannot be looked at.
    #[error("cannot mount on {}: {error}", path.display())]
    Place {
        /// The place.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The place is no place for a mount.
    #[error("cannot mount on {}: {why}", path.display())]
    Unfit {
        /// The place.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is another mount, whose program is dead.
    #[error(
        "the program that served the mount on {} has died; clear it with\n    \
         {HELPER} -u -z {}",
        path.display(),
        quoted(path)
    )]
    Dead {
        /// The place.
        path: PathBuf,
    },
    /// FUSE's helper is not there.
    #[error("cannot mount without {HELPER}: install the package fuse3")]
    NoHelper,
    /// FUSE's device cannot be used.
    #[error("cannot mount: {DEVICE}: {error}\n{}", advice(error))]
    Device {
        /// What the system said.
        error: io::Error,
    },
    /// The helper would not do it.
    #[error("cannot mount on {}: {error}", path.display())]
    Helper {
        /// The place.
        path: PathBuf,
        /// What was said.
        error: io::Error,
    },
    /// The mount is not served any more.
    #[error("the mount on {} has ended: {error}", path.display())]
    Ended {
        /// The place.
        path: PathBuf,
        /// What was said.
        error: io::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "its mode must be 0666, as udev makes it; as root: chmod 666 /dev/fuse"
        }
        _ => "the kernel's part of FUSE is missing; as root: modprobe fuse",
    }
}

/// A directory to mount on.
#[derive(Debug)]
pub struct Mountpoint {
    path: PathBuf,
}

impl Mountpoint {
    /// Looks whether the place can be used, and whether FUSE can. Clears a dead
    /// mount of ours there.
    pub async fn prepare(path: &Path) -> Result<Self, MountError> {
        let (done, outcome) = oneshot::channel();
        let asked = path.to_owned();
        // A thread of its own: where a mount is stuck it never ends, and a
        // runtime's end would wait for it.
        let looking = std::thread::Builder::new().name("mount point".to_owned());
        let looking = looking.spawn(move || drop(done.send(look(&asked))));
        looking.map_err(|error| MountError::Place { path: path.to_owned(), error })?;
        match timeout(LOOK, outcome).await {
            Ok(Ok(found)) => found.map(|path| Self { path }),
            Ok(Err(_)) | Err(_) => Err(MountError::Unfit {
                path: path.to_owned(),
                why: "it does not answer: what is mounted there is stuck",
            }),
        }
    }

    /// The place, as an absolute path without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts. From now on until [`Mounted::unmount`] the tree is there.
    pub async fn mount(self, tree: Tree) -> Result<Mounted, MountError> {
        let net = Net::new(tree);
        let mut options = MountOptions::default();
        options
            .fs_name(SOURCE)
            .custom_options("subtype=sshnet,nosuid,nodev,noatime")
            .nonempty(true);
        let mounting = raw::Session::new(options).mount_with_unprivileged(net.clone(), &self.path);
        let mounted = match timeout(HELP, mounting).await {
            Ok(mounted) => mounted,
            Err(_) => {
                // It may be half made.
                if mounts::on(&self.path).is_ok_and(|mount| mount.is_some_and(|m| m.is_ours())) {
                    let _ = detach(&self.path).await;
                }
                Err(io::Error::from(Errno::TIMEDOUT))
            }
        };
        let session = match mounted {
            Ok(session) => session,
            Err(error) => return Err(MountError::Helper { path: self.path, error }),
        };
        // Or a child that outlives us would keep the dead mount's users waiting.
        if let Err(error) = sys::keep_from_children(DEVICE) {
            tracing::warn!("{DEVICE} stays open in child processes: {error}");
        }
        let table = match Table::open() {
            Ok(table) => table,
            Err(error) => return Err(MountError::Place { path: self.path, error }),
        };
        let mount = table.on(&self.path).unwrap_or_default();
        let device = mount.filter(Mount::is_ours).map(|mount| mount.device);
        let session = Session::Served(ManuallyDrop::new(session));
        Ok(Mounted { path: self.path, table, device, net, session })
    }
}

/// A mount that is served.
pub struct Mounted {
    path: PathBuf,
    table: Table,
    /// Tells it from one that somebody makes on the same path while this is there.
    device: Option<String>,
    net: Net,
    session: Session,
}

/// ```text
/// Served -> Unmounted, Failed
/// ```
enum Session {
    /// Never dropped: the library would then unmount what is there by that time.
    Served(ManuallyDrop<MountHandle>),
    /// By somebody.
    Unmounted,
    /// It may still be there, dead.
    Failed,
}

impl Mounted {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until it is over: unmounted by somebody, which is no error.
    /// Cancel-safe.
    pub async fn ended(&mut self) -> Result<(), MountError> {
        let Session::Served(session) = &mut self.session else {
            return std::future::pending().await;
        };
        let ended = (&mut **session).await;
        self.session = if ended.is_ok() { Session::Unmounted } else { Session::Failed };
        self.net.end();
        ended.map_err(|error| MountError::Ended { path: self.path.clone(), error })
    }

    /// Takes the mount out of the tree of files. Who has files open there is served
    /// on as long as this program runs.
    pub async fn unmount(&mut self) {
        // It may have ended just now: what is there then is another's, though it may
        // have the same device number.
        let _ = timeout(Duration::ZERO, self.ended()).await;
        if let Session::Unmounted = self.session {
            return;
        }
        let there = match self.table.on(&self.path) {
            Ok(there) => there.map(|mount| mount.device),
            Err(error) => return tracing::warn!("cannot see what is mounted: {error}"),
        };
        // Somebody may have unmounted it lazily, and mounted something else.
        if there.is_none() || there != self.device {
            return;
        }
        if let Err(error) = detach(&self.path).await {
            notice(format_args!(
                "cannot unmount {}: {error}; do it with\n    {HELPER} -u -z {}",
                self.path.display(),
                quoted(&self.path)
            ));
        }
    }
}

fn detaching(path: &Path) -> Command {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new(HELPER);
    command.args([OsStr::new("-u"), OsStr::new("-z"), OsStr::new("--"), path.as_os_str()]);
    // Ctrl-C at a terminal must not end it, too.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn judged(status: ExitStatus, said: &[u8]) -> io::Result<()> {
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(said);
    let said = said.lines().last().unwrap_or_default();
    Err(io::Error::other(format!("{HELPER} failed: {}", said.escape_debug())))
}

/// What takes a mount out of the tree of files, for the starter: if it is one of ours.
pub(crate) fn unmounting(path: &Path) -> io::Result<Command> {
    match mounts::on(path)? {
        Some(mount) if mount.is_ours() => Ok(detaching(path)),
        _ => Err(Errno::INVAL.into()),
    }
}

async fn detach(path: &Path) -> io::Result<()> {
    let order = Order::Unmount { path: path.to_owned() };
    let command = detaching(path);
    let helping = tokio::task::spawn_blocking(move || {
        let (mut stderr, theirs) = io::pipe()?;
        let mut child = starter::start(order, None, theirs.into(), || command)?;
        let mut said = Vec::new();
        stderr.read_to_end(&mut said)?;
        child.wait_unreaped();
        judged(child.reap()?, &said)
    });
    let helped = timeout(HELP, helping).await.map_err(|_| io::Error::from(Errno::TIMEDOUT))?;
    helped.map_err(io::Error::other)?
}

/// Looks at the place; may hang where something else does.
fn look(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |error| MountError::Place { path: path.to_owned(), error };
    if !helper_is_there() {
        return Err(MountError::NoHelper);
    }
    let device = OpenOptions::new().read(true).write(true).open(DEVICE);
    device.map_err(|error| MountError::Device { error })?;
    for _ in 0..STACKED {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => {
                return Err(MountError::Unfit { path: path.to_owned(), why: "it is no directory" });
            }
            Err(error) if is_dead(&error) => clear(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = "there is no such directory";
                return Err(MountError::Unfit { path: path.to_owned(), why });
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let there = path.canonicalize().map_err(failed)?;
    let mounted = mounts::on(&there).map_err(failed)?;
    if mounted.is_some_and(|mount| mount.is_ours()) {
        let why = "another sshnet-host is mounted there";
        return Err(MountError::Unfit { path: there, why });
    }
    if std::fs::read_dir(&there).map_err(failed)?.next().is_some() {
        return Err(MountError::Unfit { path: there, why: "the directory is not empty" });
    }
    Ok(there)
}

fn is_dead(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error())
}

/// Clears a dead mount, if it is one of ours.
fn clear(path: &Path) -> Result<(), MountError> {
    let failed = |error| MountError::Place { path: path.to_owned(), error };
    // What is dead cannot be looked at: only its directory can.
    let absolute = std::path::absolute(path).map_err(failed)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(MountError::Dead { path: absolute });
    };
    let there = parent.canonicalize().map_err(failed)?.join(name);
    let mount = mounts::on(&there).map_err(failed)?;
    if !mount.is_some_and(|mount| mount.is_ours()) {
        return Err(MountError::Dead { path: there });
    }
    tracing::info!("clearing a dead mount on {}", there.display());
    let cleared =
        detaching(&there).output().and_then(|output| judged(output.status, &output.stderr));
    cleared.map_err(|error| {
        tracing::warn!("{error}");
        MountError::Dead { path: there }
    })
}

fn helper_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(HELPER).is_file())
}
