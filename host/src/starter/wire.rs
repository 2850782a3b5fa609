//! What goes between the two processes: packets, and descriptors with them.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Pid;

use super::Order;
use crate::pipe::Login;

/// Bytes of an order, at most: a path and a little more.
pub(super) const ORDER: usize = 8 << 10;
/// Descriptors that go with an order: where the answers go, stderr, stdin, stdout.
pub(super) const DESCRIPTORS: usize = 4;
/// Processes of a family that are found, at most; the kernel passes no more
/// descriptors at once than 253.
pub(super) const FAMILY: usize = 250;

/// What the starter is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Message {
    Start(Order),
    /// Find the processes that this one has started.
    Family(Pid),
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let path = |kind: &[u8], path: &PathBuf| [kind, path.as_os_str().as_bytes()].concat();
        match self {
            Self::Start(Order::Pipe { login, dir }) => {
                let login = if *login == Login::First { b'1' } else { b'2' };
                match dir {
                    None => vec![b'c', login],
                    Some(dir) => path(&[b's', login], dir),
                }
            }
            Self::Start(Order::Unmount { path: at }) => path(b"u", at),
            Self::Family(pid) => [b"f", &pid.as_raw_pid().to_ne_bytes()[..]].concat(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let login = |byte: u8| match byte {
            b'1' => Some(Login::First),
            b'2' => Some(Login::Again),
            _ => None,
        };
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        let order = match bytes {
            [b'c', how] => Order::Pipe { login: login(*how)?, dir: None },
            [b's', how, dir @ ..] => Order::Pipe { login: login(*how)?, dir: Some(path(dir)) },
            [b'u', at @ ..] => Order::Unmount { path: path(at) },
            [b'f', pid @ ..] => {
                let pid = Pid::from_raw(i32::from_ne_bytes(pid.try_into().ok()?))?;
                return Some(Self::Family(pid));
            }
            _ => return None,
        };
        Some(Self::Start(order))
    }
}

/// What orders go over: each is a packet.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

pub(super) fn send<const DESCRIPTORS: usize>(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// The length of what has come, and the descriptors that came with it.
pub(super) fn receive<const DESCRIPTORS: usize>(
    socket: impl AsFd,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut buffers = [io::IoSliceMut::new(bytes)];
    let came = rustix::net::recvmsg(socket, &mut buffers, &mut control, flags)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((came.bytes, descriptors.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let dir = || Some(PathBuf::from("/run/user/1\n/\u{fc}"));
        for message in [
            Message::Start(Order::Pipe { login: Login::First, dir: None }),
            Message::Start(Order::Pipe { login: Login::Again, dir: dir() }),
            Message::Start(Order::Unmount { path: PathBuf::from("/n") }),
            Message::Family(rustix::process::getpid()),
        ] {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes).as_ref(), Some(&message), "{bytes:?}");
        }
        for nonsense in [&b""[..], b"x", b"c", b"c3", b"c12", b"s", b"f123", b"f\0\0\0\0"] {
            assert_eq!(Message::decode(nonsense), None, "{nonsense:?}");
        }
    }
}
