//! Dials in which ssh is given one end of a pair of sockets (MUX_C_NEW_STDIO_FWD in
//! OpenSSH's PROTOCOL.mux, what `ssh -W` uses): the way where proxy mode is refused or
//! distrusted. The other end is behind our own far side.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::mux::{Control, Listen, MuxError};
use crate::pipe::far::{Dialled, Dialler, Socket, Target};

/// How long a master that is there may take to say so: it may have no descriptor left.
const ANSWER: Duration = Duration::from_secs(2);
/// Connections to ssh that are begun at a time: it lets no more than 64 wait.
const AT_ONCE: usize = 32;

/// What dials by the master that has its control socket there.
pub(super) fn dialler(control: PathBuf) -> Dialler {
    let master = Arc::new(Master { control, turns: Semaphore::new(AT_ONCE) });
    let same = Arc::clone(&master);
    Dialler {
        dial: Box::new(move |target| {
            let master = Arc::clone(&master);
            Box::pin(async move { master.dial(target).await.map_err(io::Error::other) })
        }),
        is_there: Box::new(move || {
            let master = Arc::clone(&same);
            Box::pin(async move {
                !matches!(timeout(ANSWER, master.connect()).await, Ok(Err(error)) if is_gone(&error))
            })
        }),
    }
}

/// Whether there is no master any more; any other failure is of one that is there.
fn is_gone(error: &MuxError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    match error {
        MuxError::Closed => true,
        MuxError::Io(error) => matches!(
            error.kind(),
            BrokenPipe | ConnectionRefused | ConnectionReset | NotFound | UnexpectedEof
        ),
        _ => false,
    }
}

/// The master, as dials see it.
struct Master {
    control: PathBuf,
    turns: Semaphore,
}

impl Master {
    async fn connect(&self) -> Result<Control, MuxError> {
        // Fails only where it is closed, and it never is.
        let _turn = self.turns.acquire().await;
        Control::connect(&self.control).await
    }

    async fn dial(&self, target: Target) -> Result<Dialled, MuxError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let to = match target {
            Target::Tcp(host, port) => Listen::Tcp(host, port),
            Target::Unix(path) => Listen::Unix(path),
        };
        let held = self.connect().await?.dial(&to, &OwnedFd::from(theirs)).await?;
        Ok(Dialled { socket: Socket::Unix(UnixStream::from_std(ours)?), held: Some(held) })
    }
}
