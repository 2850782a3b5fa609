//! Our own standard input and output.
//!
//! Where one is a pipe, it is opened once more: what is not to block is then our
//! view of it alone, and not that of whoever shares it with us, as a shell does.
//! So the runtime can wait for it, and no byte goes through another thread. And it is
//! made to hold more, so that each side has its turn less often. What is sent from it
//! is not copied where it is much, see [`crate::piped`]. The
//! rest (a terminal, a file, a socket, a pipe that is somebody else's) is read and
//! written by a thread that may block.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Stdin, Stdout};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use super::conversation::{Reader, Source};
use crate::ninep::client::Payload;
use crate::piped::Siding;
use crate::sys;

/// Standard input.
#[derive(Debug)]
pub(super) enum Input {
    /// A pipe.
    Pipe(Receiver),
    /// Anything else.
    Other(Stdin),
}

/// Standard input, to be sent.
#[derive(Debug)]
pub(super) enum Sent {
    /// A pipe, whose bytes need not be copied where they are many.
    Pipe {
        /// It.
        pipe: Receiver,
        /// For many.
        siding: Siding,
        /// For few.
        buffer: BytesMut,
    },
    /// Anything else.
    Other(Reader<Input>),
}

/// Standard output. What was written is on its way when it is flushed.
#[derive(Debug)]
pub(super) enum Output {
    /// A pipe.
    Pipe(Sender),
    /// Anything else.
    Other(Stdout),
}

/// Standard input. Must be called within a runtime.
pub(super) fn input() -> Input {
    match OpenOptions::new().open_receiver(sys::STDIN) {
        Ok(pipe) => {
            sys::widen_pipe(&pipe);
            Input::Pipe(pipe)
        }
        // The other way says what is wrong, if anything is.
        Err(_) => Input::Other(tokio::io::stdin()),
    }
}

/// Standard input, to be sent. Must be called within a runtime.
pub(super) fn sent() -> Sent {
    Sent::new(input())
}

/// Standard output. Must be called within a runtime.
pub(super) fn output() -> Output {
    match OpenOptions::new().open_sender(sys::STDOUT) {
        Ok(pipe) => {
            sys::widen_pipe(&pipe);
            Output::Pipe(pipe)
        }
        Err(_) => Output::Other(tokio::io::stdout()),
    }
}

impl Sent {
    fn new(input: Input) -> Self {
        match (input, Siding::new()) {
            (Input::Pipe(pipe), Ok(siding)) => Self::Pipe { pipe, siding, buffer: BytesMut::new() },
            // It is for speed: a user may have no more pipes.
            (input, _) => Self::Other(Reader::new(input)),
        }
    }
}

impl Source for Sent {
    async fn take(&mut self, room: usize) -> io::Result<Payload> {
        let (pipe, siding, buffer) = match self {
            Self::Pipe { pipe, siding, buffer } => (pipe, siding, buffer),
            Self::Other(input) => return input.take(room).await,
        };
        loop {
            pipe.readable().await?;
            if let Some(piped) = siding.take(&*pipe, room) {
                return Ok(Payload::Piped(piped));
            }
            buffer.reserve(room);
            match pipe.try_read_buf(&mut (&mut *buffer).limit(room)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(|_| buffer.split().freeze().into()),
            }
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_read(cx, buffer),
            Self::Other(stdin) => Pin::new(stdin).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            Self::Other(stdout) => Pin::new(stdout).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_flush(cx),
            Self::Other(stdout) => Pin::new(stdout).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_shutdown(cx),
            Self::Other(stdout) => Pin::new(stdout).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::net::UnixStream;
    use tokio::sync::watch;

    use super::super::conversation::{Conversation, send};
    use super::super::share::Shares;
    use super::*;
    use crate::ninep::client::Client;
    use crate::ninep::{Options, serve};
    use crate::tree::fake::Fake;

    /// Large parts go through the siding and small ones do not, as they come; it is one
    /// stream, and its end is its end.
    #[tokio::test]
    async fn all_of_a_pipe_is_sent_in_order() {
        for msize in [8_192, 256 << 10] {
            let fake = Fake::default();
            fake.take_at_once();
            let (near, far) = UnixStream::pair().unwrap();
            let tree = fake.tree();
            tokio::spawn(async move { serve(far, tree, &Options::default()).await });
            let client = Client::new(near, msize).await.unwrap();
            let conversation = Conversation::new(&client).await.unwrap();
            let data = conversation.data(&client).await.unwrap();

            let bytes: Vec<u8> =
                (0..8_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let (from, mut to) = io::pipe().unwrap();
            sys::widen_pipe(&from);
            let written = bytes.clone();
            let writer = std::thread::spawn(move || {
                let mut rest = &written[..];
                for count in [1, 100_000, 5_000, 20_000, 300_000, 16_384].into_iter().cycle() {
                    let part = rest.split_off(..count.min(rest.len())).unwrap();
                    to.write_all(part).unwrap();
                    if rest.is_empty() {
                        break;
                    }
                    if count == 5_000 {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                }
            });
            let input = Input::Pipe(Receiver::from_owned_fd(from.into()).unwrap());
            let source = Sent::new(input);
            assert!(matches!(source, Sent::Pipe { .. }));
            let (_patience, idle) = watch::channel(None);
            send(&data, &Shares::default().join(), source, idle).await.unwrap();
            writer.join().unwrap();
            assert!(fake.taken_at_once() == bytes, "{} bytes", fake.taken_at_once().len());
        }
    }
}
