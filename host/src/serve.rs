//! Serving: from a command line to a far side's tree on a socket, and the end of it.
//!
//! ```text
//! socket bound -> core compiled -> pipe started -> mounted -> "serving"
//!            "serving" -> signal: unmount, shut down
//!                      -> pipe ended, and not to be had again: unmount, fail
//! ```
//!
//! The socket is bound first, so that a name in use is known before ssh asks for a
//! password; so is the mount point looked at. Whoever connects before the pipe is
//! up waits. At the end the tree's users get their errors before the program goes.

mod connection;
pub mod names;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::connection::{Connection, Way};
use crate::args::{self, watch::Place};
use crate::driver::Driver;
use crate::engine::{Config, Core, Engine, EngineError, Limits, Sandbox};
use crate::fuse::{self, MountError, Mounted, Mountpoint};
use crate::metrics;
use crate::ninep;
use crate::notice::{notice, printable};
use crate::pipe::Login;
use crate::pipe::error::PipeError;
use crate::record::Recording;
use crate::rights;
use crate::services::{self, ServiceError};
use crate::signals::Signals;
use crate::starter::Order;
use crate::sys;
use crate::systemd;
use crate::tree::{Owner, Tree};

/// Where the tree is taken to be when nobody says.
const DEFAULT_PREFIX: &str = "/net";
/// A signal that comes so soon after the end of ssh has ended ssh, too: Ctrl-C
/// goes to all processes of the terminal.
const SAME_SIGNAL: Duration = Duration::from_millis(200);
/// How long the users of the tree have to get their last errors.
const LAST_ERRORS: Duration = Duration::from_millis(300);
/// Bytes of what systemd is told of the state, at most.
const STATUS: usize = 500;
/// How long ssh has to give the terminal back when it is not needed any more.
const TERMINAL: Duration = Duration::from_millis(100);

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error("{0}")]
    Service(#[from] ServiceError),
    /// The component.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// There is no recording.
    #[error("cannot record in {}: {error}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The pipe could not be started, or has ended.
    #[error("{0}")]
    Pipe(#[from] PipeError),
    /// It has ended, and would not be let in again.
    #[error("no new connection: {0}")]
    NotAgain(String),
    /// There is no mount, or none any more.
    #[error("{0}")]
    Mount(#[from] MountError),
    /// The mount point cannot stand in answers of `cs`.
    #[error("cs cannot answer with the mount point {}: {why};\ngive --prefix", path.display())]
    Prefix {
        /// The mount point.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The engine gave up.
    #[error("the session failed: {0}")]
    Session(String),
    /// The pipe ended without a reason.
    #[error("the pipe ended")]
    Ended,
    /// A signal came too early.
    #[error("stopped before it was up")]
    Stopped,
    /// The TCP port.
    #[error("cannot listen on tcp!{}!{}: {error}", address.ip(), address.port())]
    Tcp {
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The system would not do it.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

/// What the starter is to run for an order.
pub fn command(options: &args::Serve, order: Order) -> io::Result<Command> {
    match order {
        Order::Pipe { login, dir } => Way::of(options).command(login, dir.as_deref()),
        Order::Unmount { path } => fuse::unmounting(&path),
    }
}

/// Serves until a signal comes (which is no error) or the pipe ends. Closes
/// `ready` when the service is up.
pub async fn run(
    options: args::Serve,
    ready: Option<OwnedFd>,
    inherited: Option<StdListener>,
) -> Result<(), ServeError> {
    let way = Way::of(&options);
    let mut signals = Signals::new().map_err(|e| ServeError::System("cannot catch signals", e))?;
    sys::raise_file_limit();
    let others = options.users.has_others();
    let (service, socket) = match inherited {
        // It is systemd's, and stays.
        Some(socket) => (None, socket),
        None => {
            let (service, socket) = services::bind(&options.service, others)?;
            (Some(service), socket)
        }
    };
    let place = match (&service, socket.local_addr()) {
        (Some(service), _) => service.path().display().to_string(),
        (None, Ok(address)) => {
            address.as_pathname().map_or_else(String::new, |path| path.display().to_string())
        }
        (None, Err(_)) => String::new(),
    };
    let listener = listener(socket)?;
    let (metrics, _metrics_socket) = metrics(options.watch.metrics, others).await?;
    let (tcp, also) = tcp_listener(options.listen).await?;
    let mountpoint = match &options.mount {
        Some(path) => Some(Mountpoint::prepare(path).await?),
        None => None,
    };
    let prefix = prefix(options.prefix, mountpoint.as_ref())?;
    // The component is compiled while ssh logs in.
    let lasting = options.lasting;
    let engine =
        tokio::task::spawn_blocking(move || engine(&options.core, &prefix, lasting.dial_wait()));
    let engine = async {
        engine.await.map_err(|e| ServeError::System("the compiler ended", io::Error::other(e)))?
    };
    let first = async { Ok(way.start(Login::First).await?) };
    let started = tokio::select! {
        biased;
        () = signals.next() => Err(ServeError::Stopped),
        started = async { tokio::try_join!(engine, first) } => started,
    };
    let (engine, first) = match started {
        Err(ServeError::Stopped) => {
            sleep(TERMINAL).await;
            return Err(ServeError::Stopped);
        }
        Err(_) if timeout(SAME_SIGNAL, signals.next()).await.is_ok() => {
            return Err(ServeError::Stopped);
        }
        started => started?,
    };
    let (name, part) = (way.name(), way.part());
    let driver = Driver::new(engine);
    let mut connection = Connection::new(driver.clone(), way, first, lasting.reconnect());
    let tree = Tree::new(driver.clone(), Owner::current());
    let mut mounted = match mountpoint {
        None => None,
        Some(mountpoint) => match mountpoint.mount(tree.clone()).await {
            Ok(mounted) => Some(mounted),
            Err(error) => {
                connection.shut_down(&mut signals).await;
                return Err(error.into());
            }
        },
    };
    let users = options.users;
    let granted = ninep::Options {
        exact_reads: options.exact_reads,
        users: users.clone(),
        ..ninep::Options::default()
    };
    let mut ninep = tokio::spawn(listen(listener, tcp, tree, granted));
    let mut metrics =
        JoinSet::from_iter(metrics.map(|listener| metrics::serve(listener, users, driver.clone())));
    if !options.keep_rights {
        ninep::prepare_users();
        rights::give_up(part);
    }
    let mut serving = format!("serving {name} on {place}{also}");
    if let Some(mounted) = &mounted {
        serving.push_str(&format!(", mounted on {}", mounted.path().display()));
    }
    notice(&serving);
    systemd::notify(&format!("READY=1\nSTATUS={}", printable(serving, STATUS)));
    drop(ready);

    let ended = tokio::select! {
        () = signals.next() => None,
        error = mount_ended(&mut mounted) => Some(error.into()),
        error = connection.kept() => Some(error),
        ended = &mut ninep => Some(ServeError::System("cannot take 9P connections", match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => io::Error::other("the listener ended"),
            Err(error) => io::Error::other(error),
        })),
    };
    // Nobody can come any more. The directory goes later: ssh has its own in it.
    systemd::notify("STOPPING=1");
    metrics.shutdown().await;
    if let Some(service) = &service {
        service.withdraw();
    }
    if let Some(mounted) = &mut mounted {
        mounted.unmount().await;
    }
    let Some(error) = ended else {
        connection.shut_down(&mut signals).await;
        ninep.abort();
        return Ok(());
    };
    let reason = error.to_string();
    driver.pipe_down(&reason);
    // There will be no other: those who wait for a call hear of it, too.
    driver.shutdown(&reason);
    let grace = Instant::now() + LAST_ERRORS;
    let stopped = timeout(SAME_SIGNAL, signals.next()).await.is_ok();
    tokio::time::sleep_until(grace).await;
    ninep.abort();
    connection.end().await;
    if stopped { Ok(()) } else { Err(error) }
}

/// What `cs` is to put before its answers.
fn prefix(given: Option<String>, mountpoint: Option<&Mountpoint>) -> Result<String, ServeError> {
    let path = match (given, mountpoint) {
        (Some(prefix), _) => return Ok(prefix),
        (None, None) => return Ok(DEFAULT_PREFIX.to_owned()),
        (None, Some(mountpoint)) => mountpoint.path(),
    };
    let text = path.to_str().ok_or_else(|| "it is not UTF-8".to_owned());
    let prefix = text.and_then(args::prefix);
    prefix.map_err(|why| ServeError::Prefix { path: path.to_owned(), why })
}

/// Waits until the mount has failed. One that was unmounted is nothing that could
/// end the service: there is still the socket.
async fn mount_ended(mounted: &mut Option<Mounted>) -> MountError {
    if let Some(mounted) = mounted {
        match mounted.ended().await {
            Ok(()) => notice(format_args!(
                "{} was unmounted; the socket is still served",
                mounted.path().display()
            )),
            Err(error) => return error,
        }
    }
    std::future::pending().await
}

/// Makes the engine, from this component or the one built in.
/// Dials wait so long for a connection.
pub fn engine(
    options: &args::Core,
    prefix: &str,
    dial_wait: Duration,
) -> Result<Engine, ServeError> {
    let core = match &options.file {
        Some(path) => Core::from_file(path)?,
        None => Core::embedded()?,
    };
    let limits = core.default_limits()?;
    let dial_wait = u64::try_from(dial_wait.as_micros()).unwrap_or(u64::MAX);
    let limits = Limits { dial_wait, ..limits };
    let sandbox = Sandbox::given(&limits, options.memory, options.fuel)?;
    let services = names::services();
    let config = Config { prefix: prefix.to_owned(), services, limits };
    let mut engine = core.session(&config, sandbox)?;
    if let Some(path) = &options.record {
        let recording = Recording::create(path, &config)
            .map_err(|error| ServeError::Record { path: path.clone(), error })?;
        engine.record(recording);
    }
    Ok(engine)
}

/// Registers a socket with the runtime.
pub fn listener(socket: StdListener) -> Result<UnixListener, ServeError> {
    let failed = |error| ServeError::System("cannot listen", error);
    socket.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(socket).map_err(failed)
}

/// A TCP port to serve on, and whether to serve anybody there.
type Tcp = Option<(TcpListener, bool)>;

/// Binds the TCP port, if there is to be one; and says where it is.
async fn tcp_listener(listen: Option<args::Listen>) -> Result<(Tcp, String), ServeError> {
    let Some(args::Listen { address, anybody }) = listen else { return Ok((None, String::new())) };
    let failed = |error| ServeError::Tcp { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let bound = format!("tcp!{}!{}", bound.ip(), bound.port());
    if anybody {
        notice(format_args!(
            "--insecure-listen: whoever reaches {bound} has the far network as you have it"
        ));
    }
    Ok((Some((listener, anybody)), format!(" and {bound}")))
}

/// Makes the place where the figures are, if there is to be one. A Unix socket goes
/// with what it answers.
async fn metrics(
    place: Option<Place>,
    others: bool,
) -> Result<(Option<metrics::Listener>, Option<services::Service>), ServeError> {
    match place {
        None => Ok((None, None)),
        Some(Place::Path(path)) => {
            let (service, socket) = services::bind(path.as_os_str(), others)?;
            Ok((Some(metrics::Listener::Unix(listener(socket)?)), Some(service)))
        }
        Some(Place::Port(address)) => {
            let failed = |error| ServeError::Tcp { address, error };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            notice(format_args!("metrics on http://{bound}/metrics"));
            Ok((Some(metrics::Listener::Tcp(listener)), None))
        }
    }
}

/// Takes 9P connections wherever they come from.
async fn listen(
    listener: UnixListener,
    tcp: Tcp,
    tree: Tree,
    options: ninep::Options,
) -> io::Result<()> {
    let unix = ninep::listen(listener, tree.clone(), options.clone());
    match tcp {
        None => unix.await,
        Some((listener, anybody)) => tokio::select! {
            ended = unix => ended,
            ended = ninep::listen_tcp(listener, anybody, tree, options) => ended,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    /// What a command line starts for an order, as words.
    fn started(line: &str, order: Order) -> Option<Vec<String>> {
        let words = std::iter::once("sshnet-host").chain(line.split('|')).map(Into::into);
        let Ok(args::Action::Serve(options)) = args::parse(words) else { panic!("{line}") };
        let command = command(&options, order).ok()?;
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Some(words.map(|word| word.to_str().expect("text").to_owned()).collect())
    }

    #[test]
    fn what_a_command_line_does_not_say_is_not_started() {
        let private = tempfile::tempdir().unwrap();
        let mode = |mode| std::fs::set_permissions(&private, PermissionsExt::from_mode(mode));
        mode(0o700).unwrap();
        let pipe = |dir| Order::Pipe { login: Login::Again, dir };
        let dir = || Some(private.path().to_owned());

        let ssh = started("-p|2222|me@far", pipe(dir())).unwrap();
        let socket = private.path().join("m").display().to_string();
        assert_eq!(ssh[..4], ["ssh", "-M", "-S", &socket]);
        assert_eq!(ssh[ssh.len() - 4..], ["-p", "2222", "--", "me@far"]);
        let shell = started("--pipe|bare|--exec|ssh far psusan", pipe(None)).unwrap();
        assert_eq!(shell, ["/bin/sh", "-c", "ssh far psusan"]);
        let shell = started("--pipe|plan9|--exec|nine", pipe(None)).unwrap();
        assert_eq!(shell, ["/bin/sh", "-c", "nine"]);

        for (line, order) in [
            ("far", pipe(None)),
            ("far", pipe(Some(PathBuf::from("/nonexistent")))),
            ("far", pipe(Some(PathBuf::from("/tmp")))),
            ("--pipe|bare|--exec|psusan", pipe(dir())),
            ("--pipe|bare|--connect|/socket", pipe(None)),
            ("--pipe|loopback", pipe(None)),
            ("--pipe|loopback", pipe(dir())),
            ("far", Order::Unmount { path: PathBuf::from("/") }),
            ("far", Order::Unmount { path: private.path().to_owned() }),
        ] {
            assert_eq!(started(line, order.clone()), None, "{line}: {order:?}");
        }
        mode(0o755).unwrap();
        assert_eq!(started("far", pipe(dir())), None, "it is open to others");
    }
}
