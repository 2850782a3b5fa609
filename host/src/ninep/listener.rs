//! Takes connections on a Unix socket, and on a TCP port of this machine.
//!
//! Each connection is asked who made it. The user who runs the server may use it, and
//! root, who mounts it for the kernel, and whom that user allows. The last have half of
//! the places at most, all together, so that there is one for the user's own commands.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::{Options, peer, serve_halves};
use crate::accept::{self, Accept};
use crate::tree::Tree;
use crate::users::{self, Users};
use crate::warnings::NEAR;

/// What is taken.
const CONNECTION: &str = "a 9P connection";

/// Who gets a place at a listener.
#[derive(Clone)]
pub(super) struct Door {
    users: Users,
    /// Places for all users besides the usual.
    others: usize,
    free: Arc<Semaphore>,
}

/// A place at a listener, for as long as it is kept.
pub(super) struct Place {
    _others: Option<OwnedSemaphorePermit>,
}

impl Door {
    pub(super) fn new(options: &Options) -> Self {
        let others = options.connections / 2;
        Self { users: options.users.clone(), others, free: Arc::new(Semaphore::new(others)) }
    }

    /// A place for a connection of this user's; if there is none, the log says why.
    pub(super) fn place(&self, user: io::Result<u32>) -> Option<Place> {
        let user = self.users.admitted(CONNECTION, user)?;
        if users::is_usual(user) {
            return Some(Place { _others: None });
        }
        let Ok(place) = Arc::clone(&self.free).try_acquire_owned() else {
            let most = self.others;
            NEAR.warn(format_args!(
                "{CONNECTION} of user {user} was refused: other users have {most} already"
            ));
            return None;
        };
        Some(Place { _others: Some(place) })
    }
}

/// Serves the tree to those who connect, until the future is dropped; that ends
/// their connections, too.
pub async fn listen(listener: UnixListener, tree: Tree, options: Options) -> io::Result<()> {
    let door = Door::new(&options);
    take(&listener, options.connections, |stream| {
        let (tree, options, door) = (tree.clone(), options.clone(), door.clone());
        async move {
            let user = stream.peer_cred().map(|peer| peer.uid());
            if let Some(_place) = door.place(user) {
                serve_unix(stream, tree, options).await;
            }
        }
    })
    .await
}

/// The same on a TCP port. `anybody` leaves out the question who it is that
/// connects; without it only this machine's processes can be told.
pub async fn listen_tcp(
    listener: TcpListener,
    anybody: bool,
    tree: Tree,
    options: Options,
) -> io::Result<()> {
    let door = Door::new(&options);
    take(&listener, options.connections, |stream| {
        let (tree, options, door) = (tree.clone(), options.clone(), door.clone());
        async move {
            if anybody {
                serve_tcp(stream, tree, options).await;
            } else if let Some(_place) = door.place(peer::user(&stream).await) {
                serve_tcp(stream, tree, options).await;
            }
        }
    })
    .await
}

/// Takes connections one by one and serves them all at once, up to a limit.
async fn take<L, T>(listener: &L, limit: usize, serve: impl Fn(L::Stream) -> T) -> io::Result<()>
where
    L: Accept,
    T: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let stream = accept::next(listener, &mut connections, CONNECTION).await;
        if connections.len() >= limit {
            NEAR.warn(format_args!("{CONNECTION} was refused: there are {limit} already"));
            continue;
        }
        connections.spawn(serve(stream));
    }
}

async fn serve_unix(stream: UnixStream, tree: Tree, options: Options) {
    let (reader, writer) = stream.into_split();
    ended(serve_halves(reader, writer, tree, &options).await);
}

async fn serve_tcp(stream: TcpStream, tree: Tree, options: Options) {
    // A client waits for each reply. And one that went away without a word
    // would keep its conversations for ever.
    let set = stream.set_nodelay(true);
    let set =
        set.and(rustix::net::sockopt::set_socket_keepalive(&stream, true).map_err(Into::into));
    if let Err(error) = set {
        tracing::debug!("a 9P connection's socket stays as it is: {error}");
    }
    let (reader, writer) = stream.into_split();
    ended(serve_halves(reader, writer, tree, &options).await);
}

fn ended(how: io::Result<()>) {
    if let Err(error) = how {
        tracing::debug!("a 9P connection ended: {error}");
    }
}
