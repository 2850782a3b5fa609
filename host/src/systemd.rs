//! What systemd is told, and what it hands over.
//!
//! sd_notify(3): a datagram to the socket that `NOTIFY_SOCKET` names. Socket
//! activation, sd_listen_fds(3): file descriptor 3, if `LISTEN_PID` is this process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::sys;

/// The first file descriptor that is handed over.
const FIRST: i32 = 3;

/// Tells the manager, if there is one, how this is: `READY=1` and the like.
pub fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let told = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!("systemd is not told: {}: {error}", name.display());
    }
}

/// The socket that was handed over, if one was. Call it before anything is opened.
pub fn inherited() -> io::Result<Option<UnixListener>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        Some(1) => {}
        Some(count) if count > 1 => {
            return Err(io::Error::other(format!("{count} sockets, and one is served")));
        }
        _ => return Ok(None),
    }
    let fd = sys::take_inherited(FIRST)?;
    if !is_listening(&fd) {
        return Err(io::Error::other("it is no Unix socket that listens (ListenStream=/PATH)"));
    }
    Ok(Some(fd.into()))
}

fn is_listening(fd: &OwnedFd) -> bool {
    sockopt::socket_acceptconn(fd) == Ok(true)
        && sockopt::socket_type(fd) == Ok(SocketType::STREAM)
        && sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
}
