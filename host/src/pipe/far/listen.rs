//! Global requests of the far side's peer: taking calls (RFC 4254 section 7.1,
//! OpenSSH's PROTOCOL section 2.4).
//!
//! One task carries out the requests in the order in which they came and owns
//! every listener. A request that succeeds is answered when the sockets are
//! bound, a cancel when they are closed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sshnet_core::message::{Global, Message, Open};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::permit::Permit;
use super::{Shared, Socket, words};
use crate::sys;

/// Addresses and paths listened at, at a time.
const LISTENERS: usize = 16 << 10;
/// How long a listener rests when the system has no socket to spare.
const REST: Duration = Duration::from_millis(100);

/// A global request of the peer.
pub(super) struct Request {
    want_reply: bool,
    what: What,
}

enum What {
    Listen(Place),
    Cancel(Place),
    /// What nobody knows, or is not permitted.
    Refused,
}

/// Where calls are taken, in the peer's words.
#[derive(Clone, Eq, Hash, PartialEq)]
enum Place {
    Tcp(Vec<u8>, u32),
    Unix(Vec<u8>),
}

impl Request {
    /// What it asks, or nothing where that is not permitted.
    pub(super) fn new(want_reply: bool, request: &Global<'_>, permit: &Permit) -> Self {
        let what = match *request {
            Global::TcpipForward { .. } | Global::StreamlocalForward { .. } if !permit.listen => {
                What::Refused
            }
            Global::TcpipForward { address, port } => {
                What::Listen(Place::Tcp(address.to_vec(), port))
            }
            Global::CancelTcpipForward { address, port } => {
                What::Cancel(Place::Tcp(address.to_vec(), port))
            }
            Global::StreamlocalForward { path } => What::Listen(Place::Unix(path.to_vec())),
            Global::CancelStreamlocalForward { path } => What::Cancel(Place::Unix(path.to_vec())),
            Global::Other { .. } => What::Refused,
        };
        Self { want_reply, what }
    }
}

/// A socket's file, removed with it.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Carries out requests as long as there is someone to make them.
pub(super) async fn serve(shared: Arc<Shared>, mut requests: mpsc::Receiver<Request>) {
    // Each with the tasks that take its calls.
    let mut listeners: HashMap<Place, JoinSet<()>> = HashMap::new();
    while let Some(Request { want_reply, what }) = requests.recv().await {
        let answer = match what {
            What::Listen(place)
                if listeners.len() < LISTENERS && !listeners.contains_key(&place) =>
            {
                match listen(&shared, place).await {
                    Ok((place, data, tasks)) => {
                        listeners.insert(place, tasks);
                        Some(data)
                    }
                    Err(error) => {
                        tracing::info!("calls cannot be taken: {}", words(&error));
                        None
                    }
                }
            }
            What::Cancel(place) => match listeners.remove(&place) {
                Some(mut tasks) => {
                    tasks.shutdown().await;
                    Some(Vec::new())
                }
                None => None,
            },
            What::Listen(_) | What::Refused => None,
        };
        if want_reply {
            shared.output.control(match &answer {
                Some(data) => Message::RequestSuccess { data }.encode(),
                None => Message::RequestFailure.encode(),
            });
        }
    }
}

/// Binds; gives the place with its real port, the reply's data, and the tasks.
async fn listen(shared: &Arc<Shared>, place: Place) -> io::Result<(Place, Vec<u8>, JoinSet<()>)> {
    let mut tasks = JoinSet::new();
    match place {
        Place::Tcp(address, port) => {
            let (sockets, bound) = bind_tcp(&address, port).await?;
            for socket in sockets {
                tasks.spawn(take_tcp(Arc::clone(shared), socket, address.clone(), bound));
            }
            // The reply carries a port only where the far side picked it.
            let data = if port == 0 { bound.to_be_bytes().to_vec() } else { Vec::new() };
            Ok((Place::Tcp(address, bound), data, tasks))
        }
        Place::Unix(name) => {
            let path = path(&name)?.to_owned();
            let socket = sys::listen_privately(&path)?;
            let file = Bound(path);
            socket.set_nonblocking(true)?;
            let socket = UnixListener::from_std(socket)?;
            tasks.spawn(take_unix(Arc::clone(shared), socket, file, name.clone()));
            Ok((Place::Unix(name), Vec::new(), tasks))
        }
    }
}

/// Binds every address that the name stands for, all at the same port.
async fn bind_tcp(address: &[u8], port: u32) -> io::Result<(Vec<TcpListener>, u32)> {
    let any = |ip: IpAddr| -> io::Result<SocketAddr> { Ok(SocketAddr::new(ip, valid(port)?)) };
    let addresses = match address {
        // Both families by one socket, where the machine has both.
        b"" | b"*" => {
            let both = any(Ipv6Addr::UNSPECIFIED.into())?;
            match TcpListener::bind(both).await {
                Err(e) if absent(&e) => vec![any(Ipv4Addr::UNSPECIFIED.into())?],
                socket => return with_port(vec![socket?]),
            }
        }
        b"localhost" => {
            vec![any(Ipv4Addr::LOCALHOST.into())?, any(Ipv6Addr::LOCALHOST.into())?]
        }
        _ => resolve(address, port).await?,
    };
    let mut sockets: Vec<TcpListener> = Vec::new();
    let mut missing = None;
    for mut address in addresses {
        if let (0, Some(first)) = (port, sockets.first()) {
            address.set_port(first.local_addr()?.port());
        }
        match TcpListener::bind(address).await {
            Ok(socket) => sockets.push(socket),
            // A family that the machine does not have.
            Err(error) if absent(&error) => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if sockets.is_empty() => Err(error),
        _ => with_port(sockets),
    }
}

fn with_port(sockets: Vec<TcpListener>) -> io::Result<(Vec<TcpListener>, u32)> {
    let first = sockets.first().ok_or_else(|| io::Error::other("Name or service not known"))?;
    let port = first.local_addr()?.port();
    Ok((sockets, port.into()))
}

fn absent(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn valid(port: u32) -> io::Result<u16> {
    u16::try_from(port).map_err(|_| io::Error::other("Port number not in 0 to 65535"))
}

/// The addresses of a host, with a port.
pub(super) async fn resolve(host: &[u8], port: u32) -> io::Result<Vec<SocketAddr>> {
    let port = valid(port)?;
    let host =
        std::str::from_utf8(host).map_err(|_| io::Error::other("Name or service not known"))?;
    // Numbers need none of the threads that ask for names.
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// The file that a path names.
pub(super) fn path(bytes: &[u8]) -> io::Result<&Path> {
    // An empty or a zero first byte would name a socket outside the file system.
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(rustix::io::Errno::INVAL.into());
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

async fn take_tcp(shared: Arc<Shared>, socket: TcpListener, address: Vec<u8>, port: u32) {
    loop {
        match socket.accept().await {
            Ok((stream, caller)) => {
                let _ = stream.set_nodelay(true);
                let originator = caller.ip().to_canonical().to_string();
                shared.offer(
                    Socket::Tcp(stream),
                    Open::ForwardedTcpip {
                        address: &address,
                        port,
                        originator: originator.as_bytes(),
                        originator_port: caller.port().into(),
                    },
                );
            }
            Err(error) => rest(&error).await,
        }
    }
}

async fn take_unix(shared: Arc<Shared>, socket: UnixListener, _file: Bound, path: Vec<u8>) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                shared.offer(Socket::Unix(stream), Open::ForwardedStreamlocal { path: &path });
            }
            Err(error) => rest(&error).await,
        }
    }
}

/// A call that was gone before it was taken costs nothing; being out of
/// sockets passes only with time.
async fn rest(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::warn!("call not taken: {}", words(error));
        tokio::time::sleep(REST).await;
    }
}
