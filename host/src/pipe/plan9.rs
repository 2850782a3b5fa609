//! The pipe that 9front's sshnet(4) has: a program that does the ssh, and on whose
//! standard input and output each write is one message of RFC 4254.
//!
//! There it is `ssh -X` on a Plan 9 pipe, which keeps the bounds of writes. Here it is
//! any command on a pair of sockets that does (SOCK_SEQPACKET, unix(7)). No length, no
//! version line, and none of the transport's messages: those are the program's. That
//! it has logged in shows when the far side refuses a channel of a type that there is
//! not (RFC 4254 section 5.1), as sshnet's shows when it has opened a session: but a
//! session may be forbidden.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use sshnet_core::message::{Message, Open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::child::Child;
use super::error::PipeError;
use super::{Link, Login};
use crate::sys;

/// The longest message: the engine asks for no more than 32 KiB of data in one, and
/// for no longer names.
const LONGEST: usize = 64 << 10;
/// How long it may take to log in: it may have to ask for a password.
const ASKING: Duration = Duration::from_secs(120);
/// Our number of the channel that is refused: the engine has none that high.
const PROBE: u32 = 1 << 24;
/// How long its end may take to show behind a write that failed.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// A pipe that is ready.
pub struct Pipe {
    child: Child,
    socket: Arc<Socket>,
    /// What the far side said before it was.
    early: Vec<Vec<u8>>,
}

/// Our end of the pair.
struct Socket(AsyncFd<OwnedFd>);

/// How a direction ended.
enum Ended {
    /// The engine sends no more, and everything is written.
    ByEngine,
    /// The command takes or gives no more.
    Broken(io::Error),
}

/// Runs a command line and waits until the far side answers. Dropping the future ends
/// the command.
pub async fn start(command: OsString, login: Login) -> Result<Pipe, PipeError> {
    let (socket, theirs) = pair().map_err(PipeError::Pair)?;
    let output = theirs.try_clone().map_err(PipeError::Pair)?;
    let mut child = Child::start_on(&command, login, theirs, output).await?;
    match timeout(ASKING, socket.answered()).await {
        Ok(Ok(early)) => Ok(Pipe { child, socket: Arc::new(socket), early }),
        Ok(Err(error)) => {
            drop(socket);
            Err(why(error, &mut child).await)
        }
        Err(_) => {
            drop(socket);
            child.end().await;
            Err(PipeError::Plan9(format!("no answer within {} seconds", ASKING.as_secs())))
        }
    }
}

/// Our end, and the command's.
fn pair() -> io::Result<(Socket, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((Socket(sys::watched(ours)?), theirs))
}

/// Why the connection ended: most often because the command has.
async fn why(error: io::Error, child: &mut Child) -> PipeError {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            child.end().await;
            PipeError::Plan9(error.to_string())
        }
        _ => child.ended().await,
    }
}

impl Socket {
    async fn send(&self, message: &[u8]) -> io::Result<()> {
        let send = |socket: &OwnedFd| Ok(rustix::net::send(socket, message, SendFlags::NOSIGNAL)?);
        // It takes all of a message or none.
        self.0.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// The next message, in this buffer.
    async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a mut [u8]> {
        let length = self
            .0
            .async_io(Interest::READABLE, |socket| {
                Ok(rustix::net::recv(socket, &mut *buffer, RecvFlags::TRUNC)?.1)
            })
            .await?;
        match buffer.get_mut(..length) {
            Some([]) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(message) => Ok(message),
            None => {
                let words = format!("a message of {length} bytes, and {LONGEST} is what may be");
                Err(io::Error::new(io::ErrorKind::InvalidData, words))
            }
        }
    }

    /// Waits until the far side says that it does not know what nobody knows; gives
    /// what it said before.
    async fn answered(&self) -> io::Result<Vec<Vec<u8>>> {
        let kind = Open::Other { name: b"none@sshnet", data: b"" };
        self.send(
            &Message::Open { sender: PROBE, window: 0, packet: LONGEST as u32, kind }.encode(),
        )
        .await?;
        let (mut buffer, mut early) = (vec![0; LONGEST], Vec::new());
        loop {
            let message = self.receive(&mut buffer).await?;
            match Message::decode(message) {
                Ok(Message::OpenFailure { recipient: PROBE, .. }) => return Ok(early),
                Ok(Message::OpenConfirmation { recipient: PROBE, .. }) => {
                    let words = "it has opened a channel of a type that there is not";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, words));
                }
                // One that cannot be read is the engine's to complain about.
                _ => early.push(message.to_vec()),
            }
        }
    }
}

impl Pipe {
    /// Carries messages until the outbox is closed, which is no error, or the command
    /// ends.
    pub async fn run(self, link: Link) -> Result<(), PipeError> {
        let Self { mut child, socket, early } = self;
        early.iter().for_each(|message| link.receive(message));
        // Both end with this, should it be dropped.
        let mut tasks = JoinSet::new();
        tasks.spawn(receive(Arc::clone(&socket), link.clone()));
        tasks.spawn(send(socket, link));
        let mut ended = next(&mut tasks).await;
        // It takes no more: it may have closed its end, too.
        if let Ended::Broken(_) = ended
            && let Ok(last) = timeout(LAST_WORDS, next(&mut tasks)).await
        {
            ended = last;
        }
        if let Ended::ByEngine = ended {
            child.silence();
        }
        // Closes its stdin and stdout.
        tasks.shutdown().await;
        match ended {
            Ended::ByEngine => {
                child.end().await;
                Ok(())
            }
            Ended::Broken(error) => Err(why(error, &mut child).await),
        }
    }
}

/// How the next of both directions ended.
async fn next(tasks: &mut JoinSet<Ended>) -> Ended {
    match tasks.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => Ended::Broken(io::Error::other(error)),
        None => Ended::Broken(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Hands over what comes in.
async fn receive(socket: Arc<Socket>, link: Link) -> Ended {
    let mut buffer = vec![0; LONGEST];
    loop {
        match socket.receive(&mut buffer).await {
            Ok(message) => link.receive(message),
            Err(error) => return Ended::Broken(error),
        }
        // One that sends without end is not to hold up the other direction.
        tokio::task::coop::consume_budget().await;
    }
}

/// Writes what the engine sends, until it sends no more.
async fn send(socket: Arc<Socket>, link: Link) -> Ended {
    while let Some(message) = link.next().await {
        if let Err(error) = socket.send(&message).await {
            return Ended::Broken(error);
        }
        link.took(message.len() as u64);
    }
    Ended::ByEngine
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn failed(line: &str) -> String {
        match start(line.into(), Login::First).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{line}"),
        }
    }

    #[tokio::test]
    async fn the_commands_end_is_told_in_its_words() {
        let told = failed("echo no such host >&2; exit 3").await;
        assert_eq!(told, "the command ended: no such host (exit status 3)");
        assert!(failed("nosuchprogram-42").await.contains("must be installed there"));
    }

    #[tokio::test]
    async fn what_is_too_long_or_opens_what_there_is_not_is_no_far_side() {
        let told = failed("head -c 70000 /dev/zero | dd bs=70000 iflag=fullblock; sleep 1").await;
        assert!(told.contains("a message of 70000 bytes, and 65536 is what may be"), "{told}");
        // 91 for our number, and all else as it may be.
        let told = failed("printf '\\133\\1\\0\\0\\0abcdefghijkl'; exec sleep 1000").await;
        assert!(told.contains("it has opened a channel of a type that there is not"), "{told}");
    }
}
