//! The private ssh master: its directory, its start, its end.
//!
//! The master is ours alone (ssh(1), ControlMaster in ssh_config(5)) and stays
//! in the foreground, so that it can ask for passwords on the terminal and ends
//! when we end. Knows nothing of what is said on its control socket beyond the
//! greeting that shows that it is ready.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Options;
use super::mux::{Control, MuxError};
use crate::pipe::Login;
use crate::pipe::error::PipeError;
use crate::pipe::process::Process;
use crate::starter::Order;

/// ssh binds the path with a dot and 16 random letters behind it, and a socket
/// address holds 108 bytes with the zero at the end.
const CONTROL_PATH: usize = 90;
/// How often a start looks whether the socket is there.
const LOOK: Duration = Duration::from_millis(20);
/// How long a master may take to answer once its socket is there.
const READY: Duration = Duration::from_secs(10);
/// How long a master that was told to end may take for it.
const END: Duration = Duration::from_secs(2);

/// Neutralises whatever in the user's configuration would make the connection
/// more than a carrier of channels. None is newer than OpenSSH 7.6.
#[rustfmt::skip]
const FIXED: &[&str] = &[
    "-N",
    "-n",
    "-T",
    "-x",
    "-a",
    "-o", "ControlMaster=yes",
    "-o", "ControlPersist=no",
    "-o", "ClearAllForwardings=yes",
    "-o", "PermitLocalCommand=no",
    "-o", "RemoteCommand=none",
    "-o", "RequestTTY=no",
    "-o", "EscapeChar=none",
    "-o", "Tunnel=no",
    "-o", "ConnectTimeout=30",
    "-o", "LogLevel=INFO",
];

/// A directory of our own that nobody else can look into, removed with this.
#[derive(Debug)]
pub(super) struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Makes one below `$XDG_RUNTIME_DIR`, or in /tmp where that will not do.
    fn new() -> io::Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Self::below(runtime.as_deref())
    }

    fn below(runtime: Option<&Path>) -> io::Result<Self> {
        if let Some(runtime) = runtime.filter(|path| path.is_absolute()) {
            match Self::runtime(runtime) {
                Ok(dir) => return Ok(dir),
                Err(error) => tracing::debug!("{}: {error}", runtime.display()),
            }
        }
        Self::unused(Path::new("/tmp"), "sshnet-")
    }

    fn runtime(runtime: &Path) -> io::Result<Self> {
        private(runtime)?;
        let parent = runtime.join("sshnet");
        match DirBuilder::new().mode(0o700).create(&parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => private(&parent)?,
        }
        Self::unused(&parent, &format!("{}-", std::process::id()))
    }

    /// Makes a directory of a name that nobody can foresee.
    fn unused(parent: &Path, prefix: &str) -> io::Result<Self> {
        let random = RandomState::new().hash_one(());
        let path = parent.join(format!("{prefix}{random:016x}"));
        fit(&path)?;
        // Fails where there is anything of that name.
        DirBuilder::new().mode(0o700).create(&path)?;
        let dir = Self(path);
        private(&dir.0)?;
        Ok(dir)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn control(&self) -> PathBuf {
        control(&self.0)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::debug!("{}: {error}", self.0.display());
        }
    }
}

fn control(dir: &Path) -> PathBuf {
    dir.join("m")
}

/// Whether the path is a directory that is ours and closed to all others.
fn private(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && own && found.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} is not private to this user", path.display())))
    }
}

/// Whether ssh can have its socket in there, and takes the path as it stands.
fn fit(dir: &Path) -> io::Result<()> {
    let path = control(dir);
    let bytes = path.as_os_str().as_bytes();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+,:@=".contains(b);
    if bytes.len() <= CONTROL_PATH && bytes.iter().all(plain) {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} will not do as a ControlPath", path.display())))
    }
}

/// Asks nothing and fails instead: for a login that the user has not begun.
const UNATTENDED: &[&str] = &["-o", "BatchMode=yes"];

/// ssh asks for a sign of life so many times, and then waits once more.
const ASKED: u64 = 3;

/// Has ssh end when the far side has said nothing for so long.
fn alive(keepalive: Duration) -> [String; 4] {
    let interval = keepalive.as_secs() / (ASKED + 1);
    let option = || "-o".to_owned();
    [
        option(),
        format!("ServerAliveInterval={interval}"),
        option(),
        format!("ServerAliveCountMax={ASKED}"),
    ]
}

/// What starts a master with its socket in this directory.
fn command(options: &Options, login: Login, dir: &Path) -> Command {
    let mut command = Command::new(&options.program);
    command
        .arg("-M")
        .arg("-S")
        .arg(control(dir))
        // Of an option given twice, ssh takes the first.
        .args(if login.may_ask() { &[] } else { UNATTENDED })
        .args(FIXED)
        .args(alive(options.keepalive))
        .args(&options.options)
        .args([OsStr::new("--"), &options.destination])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The same in the starter: if ssh can have its socket there, and it is ours alone.
pub(super) fn ordered(options: &Options, login: Login, dir: &Path) -> io::Result<Command> {
    private(dir)?;
    fit(dir)?;
    Ok(command(options, login, dir))
}

/// A master that is ready: with one connection in proxy mode, if dials are to go
/// there, and one for requests.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) master: Master,
    pub(super) proxy: Option<UnixStream>,
    pub(super) control: Control,
}

/// A running master. Dropping it tells it to end and removes its directory.
#[derive(Debug)]
pub(super) struct Master {
    process: Process,
    dir: PrivateDir,
}

impl Master {
    /// Starts ssh and waits until it is ready.
    pub(super) async fn start(options: &Options, login: Login) -> Result<Ready, PipeError> {
        let dir = PrivateDir::new().map_err(PipeError::Directory)?;
        let mut master = Self::spawn(options, login, dir).await?;
        let path = master.dir.control();
        // As long as it lives, it may be asking for a password.
        while !path.exists() {
            if timeout(LOOK, master.exited()).await.is_ok() {
                return Err(master.ended().await);
            }
        }
        let connect = async {
            let proxy = match options.by_descriptor {
                true => None,
                false => Some(Control::connect(&path).await?.proxy().await?),
            };
            let control = Control::connect(&path).await?;
            Ok::<_, MuxError>((proxy, control))
        };
        let connected = tokio::select! {
            () = master.exited() => None,
            connected = timeout(READY, connect) => Some(connected),
        };
        match connected {
            Some(Ok(Ok((proxy, control)))) => {
                master.process.words().forget();
                Ok(Ready { master, proxy, control })
            }
            Some(Ok(Err(error))) => Err(master.broken(PipeError::Mux(error.to_string())).await),
            Some(Err(_)) => {
                let error = format!("no answer in {} seconds", READY.as_secs());
                Err(PipeError::Mux(error))
            }
            None => Err(master.ended().await),
        }
    }

    async fn spawn(options: &Options, login: Login, dir: PrivateDir) -> Result<Self, PipeError> {
        let order = Order::Pipe { login, dir: Some(dir.path().to_owned()) };
        let command = command(options, login, dir.path());
        match Process::start(order, None, command, "ssh").await {
            Ok(process) => Ok(Self { process, dir }),
            Err(error) => Err(PipeError::Run { program: options.program.clone(), error }),
        }
    }

    /// The process, as long as it is one.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<i32> {
        self.process.pid().map(|pid| pid.as_raw_nonzero().get())
    }

    /// Where other sockets may be put.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where it takes more connections.
    pub(super) fn control(&self) -> PathBuf {
        self.dir.control()
    }

    /// Waits for its end, and does not keep it from being dropped.
    pub(super) fn exited(&self) -> impl Future<Output = ()> + Send + use<> {
        self.process.exit()
    }

    /// What it said when it ended.
    pub(super) async fn ended(&mut self) -> PipeError {
        self.exited().await;
        let ended = self.process.ended().await;
        // One that goes to the background by the user's configuration leaves
        // a child of its own behind.
        if ended.code == Some(0)
            && let Ok(mut control) = Control::connect(&self.dir.control()).await
        {
            let _ = control.terminate().await;
            let why = "it went to the background (ForkAfterAuthentication)";
            return PipeError::Ended(why.to_owned());
        }
        // One that was killed has said nothing about it: what it said before is
        // about something else.
        PipeError::Ended(match ended.last_line {
            Some(line) if ended.signal.is_none() => format!("{line} ({})", ended.how),
            _ => ended.how,
        })
    }

    /// Why a connection to it broke: most often because it ends.
    pub(super) async fn broken(&mut self, error: PipeError) -> PipeError {
        match timeout(END, self.exited()).await {
            Ok(()) => self.ended().await,
            Err(_) => error,
        }
    }

    /// Tells it to end.
    pub(super) fn terminate(&self) {
        self.process.silence();
        self.process.signal(Signal::TERM);
    }

    /// Ends it, before anybody closes a connection to it.
    pub(super) async fn stop(&self) {
        self.terminate();
        if timeout(END, self.exited()).await.is_err() {
            self.process.signal(Signal::KILL);
            self.exited().await;
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.process.silence();
        if self.process.has_ended() {
            return;
        }
        self.process.signal(Signal::TERM);
        let process = self.process.signaller();
        let kill = move || {
            std::thread::sleep(END);
            process.signal(Signal::KILL);
        };
        // Should the program end before that, the system sends the signal again.
        let _ = std::thread::Builder::new().name("ssh end".to_owned()).spawn(kill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> tempfile::TempDir {
        tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir()
            .unwrap()
    }

    #[test]
    fn the_directory_is_private_and_goes_with_its_owner() {
        let runtime = scratch();
        let dir = PrivateDir::below(Some(runtime.path())).unwrap();
        let path = dir.path().to_owned();
        assert!(path.starts_with(runtime.path().join("sshnet")));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_runtime_directory_that_will_not_do_is_passed_over() {
        let open = scratch();
        fs::set_permissions(open.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let long = scratch();
        let long_path = long.path().join("x".repeat(80));
        DirBuilder::new().mode(0o700).create(&long_path).unwrap();
        let link = scratch();
        let linked = link.path().join("link");
        std::os::unix::fs::symlink(long.path(), &linked).unwrap();
        for runtime in [open.path(), &long_path, &linked, Path::new("relative")] {
            let dir = PrivateDir::below(Some(runtime)).unwrap();
            assert!(dir.path().starts_with("/tmp/"), "{}", dir.path().display());
            assert!(!dir.path().starts_with(runtime));
            assert!(dir.control().as_os_str().len() <= CONTROL_PATH);
        }
    }

    #[test]
    fn a_symlink_in_place_of_our_directory_is_not_followed() {
        let (runtime, elsewhere) = (scratch(), scratch());
        std::os::unix::fs::symlink(elsewhere.path(), runtime.path().join("sshnet")).unwrap();
        let dir = PrivateDir::below(Some(runtime.path())).unwrap();
        assert!(!dir.path().starts_with(runtime.path()));
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
