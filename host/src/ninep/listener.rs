//! Takes connections on a Unix socket, and on a TCP port of this machine.
//!
//! Each connection is asked who made it. The user who runs the server may use it, and
//! root, who mounts it for the kernel, and whom that user allows.

use std::future::Future;
use std::io;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::{Options, peer, serve_halves};
use crate::accept::{self, Accept};
use crate::tree::Tree;
use crate::warnings::NEAR;

/// What is taken.
const CONNECTION: &str = "a 9P connection";

/// Serves the tree to those who connect, until the future is dropped; that ends
/// their connections, too.
pub async fn listen(listener: UnixListener, tree: Tree, options: Options) -> io::Result<()> {
    take(&listener, options.connections, |stream| {
        let (tree, options) = (tree.clone(), options.clone());
        async move {
            let user = stream.peer_cred().map(|peer| peer.uid());
            if options.users.admits(CONNECTION, user) {
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
    take(&listener, options.connections, |stream| {
        let (tree, options) = (tree.clone(), options.clone());
        async move {
            if anybody || options.users.admits(CONNECTION, peer::user(&stream).await) {
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
