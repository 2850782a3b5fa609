//! Taking connections, whatever they come from.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// How long to wait when there are no descriptors left to take a connection with.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// What connections come from.
pub(crate) trait Accept {
    /// A connection.
    type Stream;

    /// Waits for one. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// The next connection. Those that are served meanwhile and have ended are
/// forgotten; `what` names one where none can be taken for a while.
pub(crate) async fn next<L: Accept>(
    listener: &L,
    served: &mut JoinSet<()>,
    what: &str,
) -> L::Stream {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = served.join_next() => continue,
        };
        match accepted {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!("cannot take {what}: {error}");
                tokio::time::sleep(NO_DESCRIPTORS).await;
            }
        }
    }
}
