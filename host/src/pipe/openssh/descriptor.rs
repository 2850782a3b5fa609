//! Dials in which ssh is given one end of a pair of sockets (MUX_C_NEW_STDIO_FWD in
//! OpenSSH's PROTOCOL.mux, what `ssh -W` uses): the way where proxy mode is refused or
//! distrusted. The other end is behind our own far side.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::mux::{Control, Listen, MuxError};
use crate::pipe::far::{Dialled, Dialler, Socket, Target};

/// Connections to ssh that are begun at a time: it lets no more than 64 wait.
const AT_ONCE: usize = 32;

/// What dials by the master that has its control socket there.
pub(super) fn dialler(control: PathBuf) -> Dialler {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    Box::new(move |target| {
        let (control, turns) = (control.clone(), Arc::clone(&turns));
        Box::pin(async move { dial(&control, &turns, target).await.map_err(io::Error::other) })
    })
}

async fn dial(control: &Path, turns: &Semaphore, target: Target) -> Result<Dialled, MuxError> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let to = match target {
        Target::Tcp(host, port) => Listen::Tcp(host, port),
        Target::Unix(path) => Listen::Unix(path),
    };
    let control = {
        // Fails only where it is closed, and it never is.
        let _turn = turns.acquire().await;
        Control::connect(control).await?
    };
    let held = control.dial(&to, &OwnedFd::from(theirs)).await?;
    Ok(Dialled { socket: Socket::Unix(UnixStream::from_std(ours)?), held: Some(held) })
}
