//! Our own standard input and output.
//!
//! Where one is a pipe, it is opened once more: what is not to block is then our
//! view of it alone, and not that of whoever shares it with us, as a shell does.
//! So the runtime can wait for it, and no byte goes through another thread. And it is
//! made to hold more, so that each side has its turn less often. The
//! rest (a terminal, a file, a socket, a pipe that is somebody else's) is read and
//! written by a thread that may block.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Stdin, Stdout};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use crate::sys;

/// Standard input.
#[derive(Debug)]
pub(super) enum Input {
    /// A pipe.
    Pipe(Receiver),
    /// Anything else.
    Other(Stdin),
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
