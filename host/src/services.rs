//! Services by name: a private directory, and a Unix socket in it for each.
//!
//! Who can connect to a socket has the far host's network, so the directory is
//! the user's alone: `$XDG_RUNTIME_DIR/sshnet`, or where there is no such place
//! `/tmp/sshnet-UID`, which anybody could have made before us, so that it is
//! looked at each time. A socket that a dead process left is replaced; one that
//! somebody listens on, or that is not ours, never is.
//!
//! It knows nothing of what is said on the sockets.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::sys;

/// Bytes of the path of a socket: 108 with the zero at the end.
const PATH_MAX: usize = 107;
/// How long another process may hold the directory's lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often the directory is made anew when another process's end removes it.
const ATTEMPTS: usize = 5;

/// Why there is no such service, or cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A name that cannot be one.
    #[error("the service name '{name}' {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The path of a socket has a limit.
    #[error(
        "the socket's path is {length} bytes long, and {PATH_MAX} is the most:\n{}\n\
         choose a shorter name with -s",
        path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// The directory cannot be trusted.
    #[error("the directory for services, {}, {why}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody serves under this name.
    #[error(
        "service {name} is in use: another sshnet-host serves on\n{}\n\
         stop that one, or choose another name with -s",
        path.display()
    )]
    InUse {
        /// The name.
        name: String,
        /// Its socket.
        path: PathBuf,
    },
    /// There is something, and it is not a socket of ours.
    #[error("{} is there already, and {why}: choose another name with -s", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// The system would not do it.
    #[error("cannot make the socket {}: {error}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is no service to use.
    #[error(
        "no service is up: start one, in another terminal, with\n    \
         sshnet-host [USER@]HOST"
    )]
    None,
    /// There are several to choose from.
    #[error("several services are up; choose one with -s:\n{}", indented(names))]
    Several {
        /// Their names.
        names: Vec<OsString>,
    },
    /// There is no service of this name.
    #[error("no service '{name}' is up{}", others(up))]
    NotUp {
        /// The name.
        name: String,
        /// Those that are.
        up: Vec<OsString>,
    },
    /// A socket is there, and cannot be used.
    #[error("cannot connect to service '{name}', {}: {error}", path.display())]
    Connect {
        /// The name.
        name: String,
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

fn indented(names: &[OsString]) -> String {
    let names = names.iter().map(|name| format!("    {}", name.display()));
    names.collect::<Vec<_>>().join("\n")
}

fn others(up: &[OsString]) -> String {
    if up.is_empty() {
        "; nor is any other.\nStart it, in another terminal, with: sshnet-host -s NAME [USER@]HOST"
            .to_owned()
    } else {
        format!("; these are:\n{}", indented(up))
    }
}

/// A socket that takes connections. Dropping it removes the socket, if it still
/// is the one that was made, and the directory, if that is the one for services
/// and empty.
#[derive(Debug)]
pub struct Service {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Keeps the inode's number from being used again.
    _file: Option<OwnedFd>,
    directory: Option<PathBuf>,
}

/// Makes the socket of a service. Connections wait on it from now on. It is for this
/// user alone, unless `others` may connect: then whoever takes the connections asks
/// each who made it.
pub fn bind(service: &OsStr, others: bool) -> Result<(Service, UnixListener), ServiceError> {
    let place = Place::of(service)?;
    for _ in 1..ATTEMPTS {
        match place.bind(service, others) {
            // The last service in the directory has just ended, and removed it.
            Err(ServiceError::Bind { error, .. })
                if place.ours && error.kind() == io::ErrorKind::NotFound => {}
            bound => return bound,
        }
    }
    place.bind(service, others)
}

/// Connects to a service; without a name to the one that is up.
pub fn connect(service: Option<&OsStr>) -> Result<UnixStream, ServiceError> {
    let Some(service) = service else {
        let mut up = up()?;
        return match up.len() {
            0 => Err(ServiceError::None),
            1 => Ok(up.remove(0).1),
            _ => {
                Err(ServiceError::Several { names: up.into_iter().map(|(name, _)| name).collect() })
            }
        };
    };
    Place::of(service)?.connect(service)
}

fn not_up(name: String) -> ServiceError {
    let up = up().unwrap_or_default();
    ServiceError::NotUp { name, up: up.into_iter().map(|(name, _)| name).collect() }
}

/// The services of the directory that take connections, by name.
fn up() -> Result<Vec<(OsString, UnixStream)>, ServiceError> {
    let directory = directory();
    if !is_there(&directory)? {
        return Ok(Vec::new());
    }
    let listing = fs::read_dir(&directory).map_err(|error| refused(&directory, &error))?;
    let mut up: Vec<_> = listing
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .filter_map(|entry| Some((entry.file_name(), UnixStream::connect(entry.path()).ok()?)))
        .collect();
    up.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(up)
}

/// Where a service's socket is.
struct Place {
    path: PathBuf,
    directory: PathBuf,
    /// Whether it is in the directory for services, which we make and remove.
    ours: bool,
}

impl Place {
    fn of(service: &OsStr) -> Result<Self, ServiceError> {
        let bad = |why| {
            let name = service.to_string_lossy().escape_debug().to_string();
            Err(ServiceError::Name { name, why })
        };
        let bytes = service.as_bytes();
        if bytes.is_empty() {
            return bad("is empty");
        }
        if service.to_string_lossy().chars().any(char::is_control) {
            return bad("has control characters in it");
        }
        let ours = !bytes.contains(&b'/');
        let (path, directory) = if ours {
            if matches!(bytes, b"." | b"..") {
                return bad("is a directory's");
            }
            let directory = directory();
            (directory.join(service), directory)
        } else {
            let path = PathBuf::from(service);
            if path.file_name().is_none() || bytes.ends_with(b"/") {
                return bad("is a directory's");
            }
            let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
            (path, directory)
        };
        let length = path.as_os_str().len();
        if length > PATH_MAX {
            return Err(ServiceError::TooLong { path, length });
        }
        Ok(Self { path, directory, ours })
    }

    fn bind(&self, service: &OsStr, others: bool) -> Result<(Service, UnixListener), ServiceError> {
        let failed = |error| ServiceError::Bind { path: self.path.clone(), error };
        if self.ours {
            make(&self.directory)?;
        }
        let _lock = lock(&self.directory).map_err(failed)?;
        self.clear(service)?;
        let listener = listen(&self.path, others).map_err(failed)?;
        let made = fs::symlink_metadata(&self.path).map_err(failed)?;
        let service = Service {
            path: self.path.clone(),
            device: made.dev(),
            inode: made.ino(),
            _file: hold(&self.path),
            directory: self.ours.then(|| self.directory.clone()),
        };
        Ok((service, listener))
    }

    /// Connects to the service, where nobody else can have put another in its place.
    fn connect(self, service: &OsStr) -> Result<UnixStream, ServiceError> {
        let name = service.display().to_string();
        // Whoever makes the directory from here on is not asked.
        if self.ours && !is_there(&self.directory)? {
            return Err(not_up(name));
        }
        UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => not_up(name),
            _ => ServiceError::Connect { name, path: self.path, error },
        })
    }

    /// Removes a socket that a dead process of ours has left. With the lock held
    /// nobody is between bind and listen.
    fn clear(&self, service: &OsStr) -> Result<(), ServiceError> {
        let path = &self.path;
        let found = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(ServiceError::Bind { path: path.clone(), error }),
            Ok(found) => found,
        };
        let occupied =
            |why: &str| Err(ServiceError::Occupied { path: path.clone(), why: why.to_owned() });
        if !found.file_type().is_socket() {
            return occupied("is not a socket");
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return occupied("is another user's");
        }
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
                .map_err(|error| ServiceError::Bind { path: path.clone(), error }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Whatever else it is, somebody is there.
            _ => {
                let (name, path) = (service.display().to_string(), path.clone());
                Err(ServiceError::InUse { name, path })
            }
        }
    }
}

/// A socket that nobody else may connect to, at any moment; or one that others may.
fn listen(path: &Path, others: bool) -> io::Result<UnixListener> {
    if others { sys::listen_openly(path) } else { sys::listen_privately(path) }
}

/// The file as such, without opening what it stands for.
fn hold(path: &Path) -> Option<OwnedFd> {
    #[cfg(target_os = "linux")]
    return rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok();
    #[cfg(not(target_os = "linux"))]
    return None;
}

/// The directory's lock: it goes with the file.
fn lock(directory: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(opened.into()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = format!("{} is locked by another process", directory.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, what));
            }
            // A file system without locks: bind itself fails where there is one.
            Err(rustix::io::Errno::NOLCK | rustix::io::Errno::OPNOTSUPP) => {
                return Ok(opened.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The directory for services, whether it is there or not.
fn directory() -> PathBuf {
    directory_below(std::env::var_os("XDG_RUNTIME_DIR"), Path::new("/tmp"))
}

fn directory_below(runtime: Option<OsString>, tmp: &Path) -> PathBuf {
    let runtime = runtime.map(PathBuf::from).filter(|path| path.is_absolute());
    // With sudo it may be another user's.
    match runtime.filter(|path| private(path).is_ok()) {
        Some(runtime) => runtime.join("sshnet"),
        None => tmp.join(format!("sshnet-{}", rustix::process::geteuid().as_raw())),
    }
}

fn make(directory: &Path) -> Result<(), ServiceError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(refused(directory, &error))
        }
        _ => private(directory),
    }
}

/// Whether the path is a directory that is ours and closed to all others.
fn private(path: &Path) -> Result<(), ServiceError> {
    let found = fs::symlink_metadata(path).map_err(|error| refused(path, &error))?;
    closed(path, &found)
}

/// Whether there is something at the path; if so, it is such a directory.
fn is_there(path: &Path) -> Result<bool, ServiceError> {
    match fs::symlink_metadata(path) {
        Ok(found) => closed(path, &found).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(refused(path, &error)),
    }
}

fn closed(path: &Path, found: &fs::Metadata) -> Result<(), ServiceError> {
    let bad = |why: String| Err(ServiceError::Directory { path: path.to_owned(), why });
    if found.is_symlink() {
        return bad("is a symbolic link, which somebody else may have made: remove it".to_owned());
    }
    if !found.is_dir() {
        return bad("is not a directory: remove it".to_owned());
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return bad(format!("belongs to another user (uid {})", found.uid()));
    }
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return bad(format!("is open to others (mode {mode:03o}): chmod 700 it"));
    }
    Ok(())
}

fn refused(path: &Path, error: &io::Error) -> ServiceError {
    ServiceError::Directory { path: path.to_owned(), why: format!("cannot be used: {error}") }
}

impl Service {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the socket, if it still is the one that was made.
    pub fn withdraw(&self) {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => {
                if let Err(error) = fs::remove_file(&self.path) {
                    tracing::warn!("cannot remove {}: {error}", self.path.display());
                }
            }
            _ => {}
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.withdraw();
        if let Some(directory) = &self.directory {
            // Fails while there are others in it.
            let _ = fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests;
