//! Taking calls at the far side, through ssh.
//!
//! The engine asks with the global requests of RFC 4254 section 7.1 and waits
//! for the answer. A proxy connection cannot carry that: the answer would be
//! taken for one to a question of the master's own. So the requests end here:
//!
//! - By default the master is asked, on its control socket, for a remote
//!   forwarding to a Unix socket in our private directory. That gives real
//!   errors, the port for port 0, and a port that is free after the cancel. What
//!   is lost is who calls: the master itself does, so `originator` is `::` and 0.
//! - With `caller_address`, each listener is a proxy connection of its own, on
//!   which `tcpip-forward` goes out without asking for an answer. Calls come in
//!   with the caller's address. The price: whether the port was bound is never
//!   known, so the answer is always success; port 0 is refused; and the port is
//!   not free before the last of its calls has ended, since the end of that
//!   connection, which frees the port, would end them as well. A dial to the
//!   port that comes back as a call would show that it was bound, but the far
//!   side may forbid that dial, or the port may not be reachable from there
//!   under its bind address; so there is no such check.
//!
//! Requests are carried out one after the other, which is the order of the
//! answers. Of those, one is not the far side's: an address and port that is
//! announced already is refused here.
//!
//! There may be several masters; listeners are made on one, the *home*. When another
//! takes its place they stay where they are, and are cancelled there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sshnet_core::message::{Global, Message, Open};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::mux::{Control, Listen, MuxError};
use super::route::ConnectionId;
use super::traffic::{Shared, Tasks, attach};
use crate::pipe::error::PipeError;
use crate::pipe::far::Far;
use crate::sys;
use crate::warnings::NEAR;

/// Requests that wait for their turn; the ones past it are refused in theirs.
const REQUESTS: usize = 4096;
/// Listeners at a time.
const LISTENERS: usize = 4096;
/// Failed listeners whose socket's name is remembered.
const NAMES: usize = 64 << 10;
/// How long a listener rests when the system has no socket to spare.
const REST: Duration = Duration::from_millis(100);
/// How often a cancelled listener looks whether its last call has ended.
const LOOK: Duration = Duration::from_millis(200);

/// The engine's requests, in order.
#[derive(Debug, Default)]
pub(super) struct Requests {
    queue: Mutex<VecDeque<Request>>,
    filled: Notify,
}

#[derive(Debug)]
enum Request {
    Listen {
        place: Place,
        want_reply: bool,
    },
    Cancel {
        place: Place,
        want_reply: bool,
    },
    /// So many in a row that are refused.
    Refuse(usize),
}

/// Where calls are taken, in the engine's words.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Place {
    Tcp(Vec<u8>, u32),
    Unix(Vec<u8>),
}

impl Requests {
    /// Puts in a request. Never waits.
    pub(super) fn push(&self, want_reply: bool, request: &Global<'_>) {
        let tcp = |address: &[u8], port| Place::Tcp(address.to_vec(), port);
        let request = match *request {
            Global::TcpipForward { address, port } => {
                Request::Listen { place: tcp(address, port), want_reply }
            }
            Global::CancelTcpipForward { address, port } => {
                Request::Cancel { place: tcp(address, port), want_reply }
            }
            Global::StreamlocalForward { path } => {
                Request::Listen { place: Place::Unix(path.to_vec()), want_reply }
            }
            Global::CancelStreamlocalForward { path } => {
                Request::Cancel { place: Place::Unix(path.to_vec()), want_reply }
            }
            Global::Other { name, .. } => {
                tracing::warn!("{} is not sent to ssh", name.escape_ascii());
                Request::Refuse(want_reply.into())
            }
        };
        let mut queue = self.lock();
        let length = queue.len();
        let refused = match &request {
            Request::Refuse(count) => Some(*count),
            Request::Listen { want_reply, .. } if length >= REQUESTS => Some((*want_reply).into()),
            // A cancel frees something, so it has more room.
            Request::Cancel { want_reply, .. } if length >= 2 * REQUESTS => {
                Some((*want_reply).into())
            }
            _ => None,
        };
        match (refused, queue.back_mut()) {
            (Some(more), Some(Request::Refuse(count))) => *count += more,
            (Some(count), _) => queue.push_back(Request::Refuse(count)),
            (None, _) => queue.push_back(request),
        }
        drop(queue);
        self.filled.notify_one();
    }

    async fn next(&self) -> Request {
        loop {
            if let Some(request) = self.lock().pop_front() {
                return request;
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A master on which listeners are made. It is held as long as it is the home, and
/// once for each of its listeners.
pub(super) struct Home {
    id: ConnectionId,
    /// A control socket of our own.
    control: Control,
    /// Where the master takes more connections.
    path: PathBuf,
    /// Where our sockets are.
    dir: PathBuf,
    /// What takes the calls that it hands over.
    far: Arc<Far>,
    listeners: usize,
    /// Names of sockets by the place of a listener that failed once. The master
    /// remembers the socket that it was told then, and goes on connecting calls
    /// for that place to it, whatever it is told later.
    names: HashMap<Place, PathBuf>,
}

impl Home {
    pub(super) fn new(
        id: ConnectionId,
        control: Control,
        path: PathBuf,
        dir: PathBuf,
        far: Arc<Far>,
    ) -> Self {
        Self { id, control, path, dir, far, listeners: 0, names: HashMap::new() }
    }
}

/// What carries out the requests.
pub(super) struct Forwards {
    shared: Arc<Shared>,
    home: Home,
    /// What takes its place.
    next: mpsc::Receiver<Home>,
    /// Earlier ones that still have listeners.
    earlier: BTreeMap<ConnectionId, Home>,
    caller_address: bool,
    /// With the master that each is on.
    listeners: HashMap<Place, (ConnectionId, Listener)>,
    name: u64,
    /// What works on the proxy connections of listeners.
    proxies: Tasks,
}

/// A place where calls are taken.
enum Listener {
    /// By the master, which connects to our socket.
    Socket { asked: Listen, path: PathBuf, tasks: JoinSet<()> },
    /// By a proxy connection.
    Proxy { id: ConnectionId },
}

impl Forwards {
    pub(super) fn new(
        shared: Arc<Shared>,
        home: Home,
        next: mpsc::Receiver<Home>,
        caller_address: bool,
    ) -> Self {
        Self {
            shared,
            home,
            next,
            earlier: BTreeMap::new(),
            caller_address,
            listeners: HashMap::new(),
            name: 0,
            proxies: Tasks::new(),
        }
    }

    /// Carries out requests; ends only when a master does that has listeners or is
    /// to have some, and says which.
    pub(super) async fn serve(mut self) -> (ConnectionId, Result<(), PipeError>) {
        let shared = Arc::clone(&self.shared);
        loop {
            let request = tokio::select! {
                biased;
                Some(home) = self.next.recv() => {
                    self.move_to(home);
                    continue;
                }
                request = shared.requests.next() => request,
                Some(ended) = self.proxies.join_next() => {
                    if let Ok((id, Err(error))) = ended
                        && let Some(master) = self.proxy_broke(id, &error)
                    {
                        return (master, Err(error));
                    }
                    continue;
                }
            };
            let (answer, want_reply) = match request {
                Request::Refuse(count) => {
                    for _ in 0..count {
                        shared.link.receive(&Message::RequestFailure.encode());
                    }
                    continue;
                }
                Request::Listen { place, want_reply } => {
                    let answer = self.listen(place).await;
                    (answer.map_err(|error| (self.home.id, error)), want_reply)
                }
                Request::Cancel { place, want_reply } => (self.cancel(&place).await, want_reply),
            };
            let reply = match &answer {
                Ok(data) => Message::RequestSuccess { data }.encode(),
                Err((_, error @ MuxError::Refused(_))) => {
                    tracing::info!("calls at the far side: {error}");
                    Message::RequestFailure.encode()
                }
                Err((master, error)) => return (*master, Err(PipeError::Mux(error.to_string()))),
            };
            if want_reply {
                shared.link.receive(&reply);
            }
        }
    }

    /// Makes listeners there from now on.
    fn move_to(&mut self, home: Home) {
        let old = std::mem::replace(&mut self.home, home);
        self.let_go(old.id);
        if old.listeners > 0 {
            self.earlier.insert(old.id, old);
        }
    }

    /// A proxy connection of a listener broke. Gives its master if that is the end.
    fn proxy_broke(&self, id: ConnectionId, error: &PipeError) -> Option<ConnectionId> {
        // It may have ended with its master.
        let master = self.shared.route().of(id)?;
        if self.shared.route().held(master) {
            return Some(master);
        }
        // The listener was cancelled, and only its last calls were there.
        self.shared.end(id, &error.to_string());
        None
    }

    fn let_go(&self, master: ConnectionId) {
        self.shared.route().release(master);
        self.shared.tell();
    }

    /// Takes a listener of the home into the table.
    fn insert(&mut self, place: Place, listener: Listener) {
        self.shared.route().hold(self.home.id);
        self.home.listeners += 1;
        self.listeners.insert(place, (self.home.id, listener));
    }

    /// Answers with the reply's data.
    async fn listen(&mut self, place: Place) -> Result<Vec<u8>, MuxError> {
        if self.listeners.contains_key(&place) {
            return Err(MuxError::Refused("announced already".to_owned()));
        }
        if self.listeners.len() >= LISTENERS {
            return Err(MuxError::Refused("too many listeners".to_owned()));
        }
        match place {
            Place::Tcp(address, port) if self.caller_address => {
                if port == 0 {
                    let words = "no port 0 where the caller's address is wanted";
                    return Err(MuxError::Refused(words.to_owned()));
                }
                let listener = self.by_proxy(&address, port).await?;
                self.insert(Place::Tcp(address, port), listener);
                Ok(Vec::new())
            }
            place => self.by_socket(place).await,
        }
    }

    async fn by_socket(&mut self, place: Place) -> Result<Vec<u8>, MuxError> {
        let path = match self.home.names.get(&place) {
            Some(path) => path.clone(),
            None => {
                self.name += 1;
                self.home.dir.join(format!("f{}", self.name))
            }
        };
        let refused = |error: io::Error| MuxError::Refused(error.to_string());
        let mut sockets = vec![Bound::new(path.clone()).map_err(refused)?];
        let asked = asked(&place);
        let allocated = match self.home.control.open(&asked, &path).await {
            Ok(allocated) => allocated,
            Err(error) => {
                let picked = matches!(place, Place::Tcp(_, 0));
                if !picked && self.home.names.len() < NAMES {
                    self.home.names.insert(place, path);
                }
                return Err(error);
            }
        };
        let (place, data) = match (place, allocated) {
            (Place::Tcp(address, 0), Some(port)) => {
                let place = Place::Tcp(address, port);
                // See `names`.
                if let Some(other) = self.home.names.get(&place) {
                    match Bound::new(other.clone()) {
                        Ok(socket) => sockets.push(socket),
                        Err(error) => tracing::warn!("{}: {error}", other.display()),
                    }
                }
                (place, port.to_be_bytes().to_vec())
            }
            (Place::Tcp(_, 0), None) => return Err(MuxError::Refused("no port".to_owned())),
            (place, _) => (place, Vec::new()),
        };
        let mut tasks = JoinSet::new();
        for socket in sockets {
            tasks.spawn(take(Arc::clone(&self.home.far), socket, place.clone()));
        }
        self.insert(place, Listener::Socket { asked, path, tasks });
        Ok(data)
    }

    async fn by_proxy(&mut self, address: &[u8], port: u32) -> Result<Listener, MuxError> {
        let connect = async { Control::connect(&self.home.path).await?.proxy().await };
        // Nothing depends on this connection yet.
        let stream = connect.await.map_err(|error| MuxError::Refused(error.to_string()))?;
        let (id, _) = attach(&self.shared, stream, Some(self.home.id), &mut self.proxies);
        let request = Global::TcpipForward { address, port };
        self.shared.answer(id, Message::GlobalRequest { want_reply: false, request }.encode());
        Ok(Listener::Proxy { id })
    }

    /// Answers with the reply's data, or the master that it failed on.
    async fn cancel(&mut self, place: &Place) -> Result<Vec<u8>, (ConnectionId, MuxError)> {
        let Some((master, listener)) = self.listeners.remove(place) else {
            return Err((self.home.id, MuxError::Refused("not announced".to_owned())));
        };
        let home = match self.earlier.get_mut(&master) {
            Some(earlier) => earlier,
            None => &mut self.home,
        };
        match listener {
            Listener::Socket { asked, path, mut tasks } => {
                let closed = home.control.close(&asked, &path).await;
                tasks.shutdown().await;
                match closed {
                    Ok(()) | Err(MuxError::Refused(_)) => {}
                    // It is still held, as one whose end is the pipe's.
                    Err(error) => return Err((master, error)),
                }
                self.forget(master);
                closed.map(|()| Vec::new()).map_err(|error| (master, error))
            }
            Listener::Proxy { id } => {
                let shared = Arc::clone(&self.shared);
                shared.route().retire(id);
                self.proxies.spawn(async move {
                    while shared.route().channels(id) > 0 {
                        tokio::time::sleep(LOOK).await;
                    }
                    // Its writer shuts the connection down, its reader sees the end.
                    shared.detach(id);
                    (id, Ok(()))
                });
                self.forget(master);
                Ok(Vec::new())
            }
        }
    }

    /// A master has a listener less.
    fn forget(&mut self, master: ConnectionId) {
        if self.home.id == master {
            self.home.listeners -= 1;
        } else if let Some(earlier) = self.earlier.get_mut(&master) {
            earlier.listeners -= 1;
            if earlier.listeners == 0 {
                self.earlier.remove(&master);
            }
        }
        self.let_go(master);
    }
}

/// In PROTOCOL.mux an empty address is the loopback and `*` is what the RFC has
/// the empty one for: all addresses.
fn asked(place: &Place) -> Listen {
    match place {
        Place::Tcp(address, port) if address.is_empty() => Listen::Tcp(b"*".to_vec(), *port),
        Place::Tcp(address, port) => Listen::Tcp(address.clone(), *port),
        Place::Unix(path) => Listen::Unix(path.clone()),
    }
}

/// A socket in our directory.
struct Bound {
    socket: UnixListener,
    path: PathBuf,
}

impl Bound {
    fn new(path: PathBuf) -> io::Result<Self> {
        let socket = sys::listen_privately(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixListener::from_std(socket)?, path })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes the master's connections as calls.
async fn take(far: Arc<Far>, bound: Bound, place: Place) {
    loop {
        match bound.socket.accept().await {
            Ok((stream, _)) if ours(&stream) => match &place {
                Place::Tcp(address, port) => {
                    let (originator, originator_port) = (b"::", 0);
                    let port = *port;
                    let call = Open::ForwardedTcpip { address, port, originator, originator_port };
                    far.offer(stream, call);
                }
                Place::Unix(path) => {
                    far.offer(stream, Open::ForwardedStreamlocal { path });
                }
            },
            Ok(_) => NEAR.warn(format_args!("a stranger called {}", bound.path.display())),
            Err(error) => {
                tracing::warn!("call not taken: {error}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether this user's process is at the other end, or root's.
fn ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}
