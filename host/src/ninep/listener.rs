//! Takes connections on a Unix socket.
//!
//! A socket's mode keeps others out where it counts for sockets at all; so each
//! connection is asked who made it. The user who runs the server may use it, and
//! root, who mounts it for the kernel.

use std::io;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::{Options, serve_halves};
use crate::tree::Tree;

/// How long to wait when there are no descriptors left to take a connection with.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Serves the tree to those who connect, until the future is dropped; that ends
/// their connections, too.
pub async fn listen(listener: UnixListener, tree: Tree, options: Options) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot take a 9P connection: {error}");
                tokio::time::sleep(NO_DESCRIPTORS).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
            Ok(peer) => {
                tracing::warn!("a 9P connection of user {} was refused", peer.uid());
                continue;
            }
            Err(error) => {
                tracing::warn!("a 9P connection of an unknown user was refused: {error}");
                continue;
            }
        }
        if connections.len() >= options.connections {
            tracing::warn!("a 9P connection was refused: there are {} already", connections.len());
            continue;
        }
        connections.spawn(serve_stream(stream, tree.clone(), options.clone()));
    }
}

async fn serve_stream(stream: UnixStream, tree: Tree, options: Options) {
    let (reader, writer) = stream.into_split();
    if let Err(error) = serve_halves(reader, writer, tree, &options).await {
        tracing::debug!("a 9P connection ended: {error}");
    }
}
