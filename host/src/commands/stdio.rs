//! Our own standard input and output.
//!
//! Where one is a pipe, it is opened once more: what is not to block is then our
//! view of it alone, and not that of whoever shares it with us, as a shell does.
//! So the runtime can wait for it, and no byte goes through another thread. And it is
//! made to hold more, so that each side has its turn less often. What is sent from it or
//! received by it is not copied where it is much, see [`crate::piped`]. The
//! rest (a terminal, a file, a socket, a pipe that is somebody else's) is read and
//! written by a thread that may block.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, Stdin, Stdout};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use super::conversation::{Reader, Sink, Source};
use crate::ninep::client::{self, Payload};
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

/// Standard output, for what is received.
#[derive(Debug)]
pub(super) struct Received {
    to: Output,
    /// For a pipe.
    siding: Option<Arc<Siding>>,
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

/// Standard output, for what is received. Must be called within a runtime.
pub(super) fn received() -> Received {
    Received::new(output())
}

impl Received {
    fn new(to: Output) -> Self {
        let siding = match &to {
            Output::Pipe(_) => Siding::new().ok().map(Arc::new),
            Output::Other(_) => None,
        };
        Self { to, siding }
    }
}

impl Sink for Received {
    fn siding(&self) -> Option<Arc<Siding>> {
        self.siding.clone()
    }

    async fn put(&mut self, received: client::Received) -> io::Result<()> {
        self.to.write_all(&received.bytes).await?;
        if let (Some((mut piped, last)), Output::Pipe(pipe)) = (received.rest, &mut self.to) {
            while piped.len() > 0 {
                pipe.writable().await?;
                match pipe.try_io(|| piped.move_on(&*pipe)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    moved => moved?,
                }
            }
            pipe.write_all(&last).await?;
        }
        self.to.flush().await
    }

    async fn end(&mut self) -> io::Result<()> {
        self.to.shutdown().await
    }
}

impl Sent {
    fn new(input: Input) -> Self {
        if let Input::Pipe(pipe) = input {
            // It is for speed: a user may have no more pipes.
            return match Siding::new() {
                Ok(siding) => Self::Pipe { pipe, siding, buffer: BytesMut::new() },
                Err(_) => Self::Other(Reader::new(Input::Pipe(pipe))),
            };
        }
        Self::Other(Reader::new(input))
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
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use tokio::net::UnixStream;
    use tokio::sync::watch;

    use super::super::conversation::{Conversation, Failed, receive, send};
    use super::super::share::Shares;
    use super::*;
    use crate::ninep::client::{Client, File};
    use crate::ninep::{Options, serve};
    use crate::tree::fake::Fake;

    async fn data(fake: &Fake, msize: u32) -> File {
        let (near, far) = UnixStream::pair().unwrap();
        let tree = fake.tree();
        tokio::spawn(async move { serve(far, tree, &Options::default()).await });
        let client = Client::new(near, msize).await.unwrap();
        let conversation = Conversation::new(&client).await.unwrap();
        conversation.data(&client).await.unwrap()
    }

    fn pattern() -> Vec<u8> {
        (0..8_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    /// The same the other way.
    #[tokio::test]
    async fn all_that_is_received_gets_to_a_pipe_in_order() {
        for msize in [8_192, 256 << 10] {
            let fake = Fake::default();
            let data = data(&fake, msize).await;
            let bytes = pattern();
            let (mut from, to) = io::pipe().unwrap();
            let reader = std::thread::spawn(move || {
                // All that may be under way is there by then.
                std::thread::sleep(Duration::from_millis(100));
                let mut got = Vec::new();
                from.read_to_end(&mut got).unwrap();
                got
            });
            let most = usize::try_from(data.iounit()).unwrap().min(128 << 10);
            let feed = async {
                let mut rest = &bytes[..];
                for count in [1, 100_000, 128 << 10, 20_000, 128 << 10, 4_000].into_iter().cycle() {
                    let part = rest.split_off(..count.min(most).min(rest.len())).unwrap();
                    while !fake.try_complete(|| part.to_vec()) {
                        tokio::time::sleep(Duration::from_micros(100)).await;
                    }
                    if part.is_empty() {
                        break;
                    }
                }
            };
            let to = Received::new(Output::Pipe(Sender::from_owned_fd(to.into()).unwrap()));
            assert!(to.siding.is_some());
            let share = Shares::default().join();
            let failed = Failed::new(None);
            let (received, ()) = tokio::join!(receive(&data, &share, to, &failed), feed);
            received.unwrap();
            let got = reader.join().unwrap();
            assert!(got == bytes, "{} bytes", got.len());
        }
    }

    /// Large parts go through the siding and small ones do not, as they come; it is one
    /// stream, and its end is its end.
    #[tokio::test]
    async fn all_of_a_pipe_is_sent_in_order() {
        for msize in [8_192, 256 << 10] {
            let fake = Fake::default();
            fake.take_at_once();
            let data = data(&fake, msize).await;
            let bytes = pattern();
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
                        std::thread::sleep(Duration::from_millis(1));
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
