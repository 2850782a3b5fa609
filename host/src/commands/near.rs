//! Sockets of this machine that programs connect to, and what becomes of each
//! connection: a conversation with the far side.
//!
//! All conversations go over one 9P connection. It knows nothing of why they are
//! dialled where they are.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::conversation::{Conversation, CopyError, join};
use super::share::{CONVERSATIONS, Share, Shares};
use super::{CommandError, Trying, connect};
use crate::accept::{self, Accept};
use crate::args::address::{Local, Target};
use crate::ninep::client::{Client, ClientError, File};
use crate::notice::notice;
use crate::services::{self, Service, ServiceError};
use crate::signals::Signals;
use crate::sys;
use crate::users::Users;

/// How often another port is tried when the one that the system chose for IPv4 is
/// in use for IPv6.
const ATTEMPTS: usize = 5;

/// Why programs cannot connect.
#[derive(Debug, thiserror::Error)]
pub enum NearError {
    /// The TCP port.
    #[error("cannot listen on {address}: {error}{}", advice(error))]
    Tcp {
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody listens on the Unix socket.
    #[error("{0} is in use: somebody listens on it.\nStop that one, or choose another path")]
    InUse(String),
    /// There is something, and it is no socket that may be replaced.
    #[error("{0} is there already, and {1}.\nRemove it, or choose another path")]
    Occupied(String, String),
    /// The Unix socket cannot be.
    #[error("cannot listen on {0}: {1}")]
    Unix(String, String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ".\nChoose another port, or 0 for one that is free",
        io::ErrorKind::PermissionDenied => ".\nChoose a port above 1023: those below are root's",
        io::ErrorKind::AddrNotAvailable => ".\nChoose an address that this machine has",
        _ => "",
    }
}

/// A socket that takes connections. A Unix socket is removed when it is dropped.
#[derive(Debug)]
pub enum Listener {
    /// Of TCP.
    Tcp(TcpListener),
    /// Of the Unix domain.
    Unix(UnixListener, Service),
}

/// A connection.
#[derive(Debug)]
pub enum Socket {
    /// Of TCP.
    Tcp(TcpStream),
    /// Of the Unix domain.
    Unix(UnixStream),
}

/// The sockets for this, which take connections from now on. Warns where others
/// than this machine's programs may connect.
async fn bind(local: &Local) -> Result<Vec<Listener>, NearError> {
    let listeners = match local {
        Local::Loopback(port) => loopback(*port).await?,
        Local::Everywhere(port) => vec![everywhere(*port).await?],
        Local::Address(address) => vec![tcp(*address).await?],
        Local::Path(path) => return Ok(vec![unix(path)?]),
    };
    for listener in &listeners {
        if let Ok(address) = listener.local_addr()
            && !address.ip().is_loopback()
        {
            notice(format_args!(
                "warning: whoever reaches {address} can dial as you do, without a password"
            ));
        }
    }
    Ok(listeners.into_iter().map(Listener::Tcp).collect())
}

async fn tcp(address: SocketAddr) -> Result<TcpListener, NearError> {
    TcpListener::bind(address).await.map_err(|error| NearError::Tcp { address, error })
}

/// The same port of both loopback addresses: `localhost` may be either.
async fn loopback(port: u16) -> Result<Vec<TcpListener>, NearError> {
    let mut attempts = 1;
    loop {
        let four = tcp((Ipv4Addr::LOCALHOST, port).into()).await?;
        let bound = four.local_addr();
        let bound = bound.map_err(|error| NearError::Tcp {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            error,
        })?;
        match tcp((Ipv6Addr::LOCALHOST, bound.port()).into()).await {
            Ok(six) => return Ok(vec![four, six]),
            Err(NearError::Tcp { error, .. })
                if error.kind() == io::ErrorKind::AddrInUse && port == 0 && attempts < ATTEMPTS =>
            {
                attempts += 1;
            }
            Err(NearError::Tcp { error, .. }) if error.kind() != io::ErrorKind::AddrInUse => {
                tracing::debug!("no IPv6 on the loopback: {error}");
                return Ok(vec![four]);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn everywhere(port: u16) -> Result<TcpListener, NearError> {
    match tcp((Ipv6Addr::UNSPECIFIED, port).into()).await {
        Err(NearError::Tcp { error, .. }) if error.kind() != io::ErrorKind::AddrInUse => {
            tracing::debug!("no IPv6: {error}");
            tcp((Ipv4Addr::UNSPECIFIED, port).into()).await
        }
        bound => bound,
    }
}

/// Made as a service's is: for this user alone, in place of a dead one only.
fn unix(path: &Path) -> Result<Listener, NearError> {
    let shown = path.display().to_string();
    let failed = |error: io::Error| NearError::Unix(shown.clone(), error.to_string());
    let (service, socket) =
        services::bind(path.as_os_str(), false).map_err(|error| match error {
            ServiceError::InUse { .. } => NearError::InUse(shown.clone()),
            ServiceError::Occupied { why, .. } => NearError::Occupied(shown.clone(), why),
            ServiceError::TooLong { length, .. } => {
                let why = format!("its path is {length} bytes long: choose a shorter one");
                NearError::Unix(shown.clone(), why)
            }
            ServiceError::Name { why, .. } => NearError::Unix(shown.clone(), format!("it {why}")),
            ServiceError::Bind { error, .. } => failed(error),
            other => NearError::Unix(shown.clone(), other.to_string()),
        })?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(Listener::Unix(UnixListener::from_std(socket).map_err(failed)?, service))
}

impl fmt::Display for Listener {
    /// `address:port`, or a path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("a TCP port"),
            },
            Self::Unix(_, service) => service.path().display().fmt(f),
        }
    }
}

impl Accept for Listener {
    type Stream = Socket;

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Who waits for an answer is not to wait for more to be said. And one
                // that went away without a word would keep its conversation for ever.
                let set = stream.set_nodelay(true);
                let alive = rustix::net::sockopt::set_socket_keepalive(&stream, true);
                if let Err(error) = set.and(alive.map_err(Into::into)) {
                    tracing::debug!("a connection's socket stays as it is: {error}");
                }
                Ok(Socket::Tcp(stream))
            }
            Self::Unix(listener, _) => loop {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().map(|peer| peer.uid());
                if Users::default().admits("a connection", user) {
                    return Ok(Socket::Unix(stream));
                }
            },
        }
    }
}

/// Listens at each of these places, and hands each connection to `serve` with what
/// its place is for; until a signal comes, which is no error, or the service ends.
pub async fn run<P, T>(
    service: Option<OsString>,
    places: Vec<(Local, P)>,
    serve: impl Fn(Dialer, P, Socket) -> T + Clone + Send + 'static,
) -> Result<(), CommandError>
where
    P: fmt::Display + Clone + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let mut signals = Signals::new().trying(|| "cannot catch signals".to_owned())?;
    let mut listening = JoinSet::new();
    let ended = tokio::select! {
        ended = listen(service, places, serve, &mut listening) => ended,
        () = signals.next() => Ok(()),
    };
    // When they are gone, so are their sockets.
    listening.shutdown().await;
    ended
}

async fn listen<P, T>(
    service: Option<OsString>,
    places: Vec<(Local, P)>,
    serve: impl Fn(Dialer, P, Socket) -> T + Clone + Send + 'static,
    listening: &mut JoinSet<()>,
) -> Result<(), CommandError>
where
    P: fmt::Display + Clone + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let client = connect(service).await?;
    sys::raise_file_limit();
    let mut bound = Vec::new();
    for (local, purpose) in places {
        bound.push((bind(&local).await?, purpose));
    }
    let dialer = Dialer { client: client.clone(), shares: Shares::default() };
    // More wait.
    let permits = Arc::new(Semaphore::new(CONVERSATIONS));
    for (listeners, purpose) in bound {
        let names: Vec<String> = listeners.iter().map(Listener::to_string).collect();
        notice(format_args!("listening on {} for {purpose}", names.join(" and ")));
        for listener in listeners {
            let (dialer, purpose, serve) = (dialer.clone(), purpose.clone(), serve.clone());
            let serve = move |socket| serve(dialer.clone(), purpose.clone(), socket);
            listening.spawn(take(listener, Arc::clone(&permits), serve));
        }
    }
    Err(CommandError::Over(client.ended().await))
}

/// Takes connections and serves them all at once, as far as there are permits,
/// until the future is dropped; that ends them, too.
async fn take<T>(listener: Listener, permits: Arc<Semaphore>, serve: impl Fn(Socket) -> T + Send)
where
    T: Future<Output = ()> + Send + 'static,
{
    let what = format!("a connection on {listener}");
    let mut connections = JoinSet::new();
    loop {
        let socket = accept::next(&listener, &mut connections, &what).await;
        // Nobody closes it.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let served = serve(socket);
        connections.spawn(async move {
            served.await;
            drop(permit);
        });
    }
}

/// Dials for many at once. Clones use the same 9P connection.
#[derive(Clone)]
pub struct Dialer {
    client: Client,
    shares: Shares,
}

/// A conversation that has begun; dropped, it is over.
pub struct Dialled {
    conversation: Conversation,
    data: File,
    share: Share,
    target: String,
}

impl Dialer {
    /// Dials. If that fails it says so to the user, but for the end of the service.
    pub async fn dial(&self, target: &Target) -> Result<Dialled, ClientError> {
        match Conversation::dial(&self.client, target).await {
            Ok((conversation, data)) => {
                let (target, share) = (target.to_string(), self.shares.join());
                Ok(Dialled { conversation, data, share, target })
            }
            Err(error) => {
                if !matches!(error, ClientError::Ended(_)) {
                    notice(format_args!("cannot dial {target}: {error}"));
                }
                Err(error)
            }
        }
    }
}

impl Dialled {
    /// Joins it to a connection until both directions of both have ended. If the far
    /// side breaks off, so does the connection. So it does if the service does not
    /// take or give all, and then the user is told.
    pub async fn join(self, mut socket: Socket) {
        let Self { conversation, data, share, target } = &self;
        let joined = match &mut socket {
            Socket::Tcp(stream) => {
                let (from, to) = stream.split();
                join(conversation, data, share, from, to).await
            }
            Socket::Unix(stream) => {
                let (from, to) = stream.split();
                join(conversation, data, share, from, to).await
            }
        };
        match joined {
            Ok(()) => return,
            Err(CopyError::Refused(error)) => {
                notice(format_args!("a connection to {target} is broken off: {error}"));
                // It may be over by now.
                let _ = conversation.control("hangup").await;
            }
            Err(error) => tracing::debug!("a conversation broke off: {error:?}"),
        }
        socket.reset();
    }
}

impl Socket {
    /// Closes it so that its program sees an error, where there is such a thing.
    pub fn reset(self) {
        if let Self::Tcp(stream) = self
            && let Err(error) = stream.set_zero_linger()
        {
            tracing::debug!("a connection is closed, not reset: {error}");
        }
    }
}
