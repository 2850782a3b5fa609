//! `peer`: this machine as the far side of somebody else's bare ssh-connection, on
//! stdin and stdout: for a sshnet-host or a plink that has it run here.
//!
//! ```text
//! stdin  -> incoming -> far side -> sockets of this machine
//! stdout <- outgoing <-
//! ```
//!
//! Whoever has started it may do as much by himself, so nobody is asked for a
//! password; a [`Permit`] says where that is not so. It ends with its stdin.

use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::pipe::bare::stream::{BATCH, BareError, Incoming, Outgoing, greet};
use crate::pipe::bare::transport::{BY_APPLICATION, PROTOCOL_ERROR};
use crate::pipe::far::permit::Permit;
use crate::pipe::far::{Far, FarError, FarOutput};
use crate::rights::{self, Part};
use crate::signals::Signals;
use crate::sys;

/// How long the other side may take to say its version line.
const GREETING: Duration = Duration::from_secs(120);
/// How long data on its way to sockets is waited for at the end.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the last words may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Messages written at a time.
const MESSAGES: usize = 256;

/// Why it did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There is no program at the other end.
    #[error(
        "peer speaks to a program, and stdin is a terminal; have one run it:\n\
         sshnet-host --pipe bare --exec 'ssh HOST sshnet-host peer'"
    )]
    Terminal,
    /// The connection.
    #[error("{0}")]
    Bare(#[from] BareError),
    /// The other side broke the protocol of what it carries.
    #[error("the far side broke the protocol: {0}")]
    Far(#[from] FarError),
    /// The system would not do it.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
}

/// Serves stdin and stdout until the one ends, or a signal comes.
pub async fn run(permit: Permit) -> Result<(), PeerError> {
    let mut signals = Signals::new().map_err(PeerError::Signals)?;
    if io::stdin().is_terminal() {
        return Err(PeerError::Terminal);
    }
    sys::raise_file_limit();
    rights::give_up(Part::FarSide);
    tokio::select! {
        ended = serve(tokio::io::stdin(), tokio::io::stdout(), permit) => ended,
        () = signals.next() => Ok(()),
    }
}

/// Serves this stream until it ends.
async fn serve<R, W>(reader: R, writer: W, permit: Permit) -> Result<(), PeerError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut incoming, mut outgoing, _) = match greet(reader, writer, GREETING, |_| {}).await {
        Ok(streams) => streams,
        // It was not needed.
        Err(BareError::Closed) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let (far, mut output) = Far::permitting(permit);
    let ended = tokio::select! {
        ended = receive(&mut incoming, &far) => ended,
        ended = send(&mut outgoing, &mut output) => ended,
    };
    match ended {
        Err(PeerError::Bare(error)) if is_end(&error) => Ok(()),
        Err(error) => {
            // It may be that it cannot be told, or will not hear it.
            let words = error.to_string();
            let end = outgoing.end(PROTOCOL_ERROR, &words);
            let _ = timeout(LAST_WORDS, end).await;
            Err(error)
        }
        Ok(()) => {
            far.settle(SETTLE).await;
            Ok(())
        }
    }
}

/// Whether the other side has had enough, or is gone.
fn is_end(error: &BareError) -> bool {
    match error {
        BareError::Disconnected(why) => why.reason == BY_APPLICATION,
        BareError::Closed => true,
        BareError::Io(error) => error.kind() == io::ErrorKind::BrokenPipe,
        _ => false,
    }
}

/// Takes what the other side sends, until it has sent all.
async fn receive<R>(incoming: &mut Incoming<R>, far: &Far) -> Result<(), PeerError>
where
    R: AsyncRead + Unpin,
{
    while let Some(message) = incoming.next().await? {
        far.receive(message.to_vec())?;
        // One that sends without end is not to hold up the other direction.
        tokio::task::coop::consume_budget().await;
    }
    Ok(())
}

/// Writes what the far side has for the other side.
async fn send<W>(outgoing: &mut Outgoing<W>, output: &mut FarOutput) -> Result<(), PeerError>
where
    W: AsyncWrite + Unpin,
{
    loop {
        let first = tokio::select! {
            message = output.next() => message?,
            Some(answer) = outgoing.answer() => answer,
        };
        let mut waiting = outgoing.push(&first)?;
        for _ in 1..MESSAGES {
            if waiting >= BATCH {
                break;
            }
            let Some(message) = output.try_next() else { break };
            waiting = outgoing.push(&message)?;
        }
        outgoing.write().await?;
    }
}

#[cfg(test)]
mod tests;
