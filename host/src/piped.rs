//! Bytes on their way from a pipe to a socket, which no process copies: splice(2)
//! hands on the pages that they are in.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::fcntl::{SpliceFFlags, splice};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::sys;

/// Fewer bytes are copied: that costs less.
const WORTH: u64 = 16 << 10;

/// A pipe of our own. What is in it nobody else can take, so that it may be announced
/// before it is moved on.
#[derive(Debug)]
pub(crate) struct Siding {
    to: PipeWriter,
    from: Arc<PipeReader>,
}

/// The next so many bytes of a siding: they are there.
#[derive(Debug)]
pub struct Piped {
    from: Arc<PipeReader>,
    length: usize,
}

impl Siding {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        let (from, to) = io::pipe()?;
        sys::widen_pipe(&to);
        Ok(Self { to, from: Arc::new(from) })
    }

    /// Takes up to so many of the bytes that are in a pipe, if there are enough for it
    /// to be worth while. None may also be for want of room.
    pub(crate) fn take(&self, pipe: impl AsFd, most: usize) -> Option<Piped> {
        let pipe = pipe.as_fd();
        if rustix::io::ioctl_fionread(pipe).ok()? < WORTH {
            return None;
        }
        match splice(pipe, None, &self.to, None, most, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(length @ 1..) => Some(Piped { from: Arc::clone(&self.from), length }),
            // Whoever reads it says why.
            Ok(0) | Err(_) => None,
        }
    }
}

impl Piped {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The first so many of them, at most; what stays are the others.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
        let length = count.min(self.length);
        self.length -= length;
        Self { from: Arc::clone(&self.from), length }
    }

    /// Moves them to a socket.
    pub(crate) async fn send(self, socket: &UnixStream) -> io::Result<()> {
        let mut left = self.length;
        while left > 0 {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            let move_on = || Ok(splice(&*self.from, None, socket, None, left, flags)?);
            match socket.async_io(Interest::WRITABLE, move_on).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                moved => left -= moved,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// A pipe that has so many bytes of a pattern in it.
    fn pipe(count: u32) -> (PipeReader, PipeWriter) {
        let (from, mut to) = io::pipe().unwrap();
        sys::widen_pipe(&from);
        to.write_all(&pattern(count)).unwrap();
        (from, to)
    }

    fn pattern(count: u32) -> Vec<u8> {
        (0..count).map(|n| (n % 251) as u8).collect()
    }

    async fn arrives(piped: Piped) -> Vec<u8> {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (count, mut got) = (piped.len(), Vec::new());
        let send = async move { piped.send(&near).await.unwrap() };
        let ((), read) = tokio::join!(send, far.read_to_end(&mut got));
        assert_eq!(read.unwrap(), count);
        got
    }

    #[tokio::test]
    async fn much_is_taken_and_little_is_left_to_be_read() {
        let siding = Siding::new().unwrap();
        let (from, _to) = pipe(50_000);
        let mut first = siding.take(&from, 20_000).unwrap();
        let second = siding.take(&from, usize::MAX).unwrap();
        assert_eq!((first.len(), second.len()), (20_000, 30_000));
        let start = first.split_to(7);
        let none = second.len();
        assert_eq!((start.len(), first.len(), none), (7, 19_993, 30_000));
        let mut got = arrives(start).await;
        got.extend(arrives(first).await);
        got.extend(arrives(second).await);
        assert!(got == pattern(50_000));
        let (few, _to) = pipe(10_000);
        assert!(siding.take(&few, usize::MAX).is_none());
    }

    /// It may be read then, and goes on when there is room.
    #[tokio::test]
    async fn a_siding_that_is_full_takes_nothing() {
        let siding = Siding::new().unwrap();
        let (from, mut to) = pipe(100_000);
        let mut taken = Vec::new();
        while let Some(piped) = siding.take(&from, usize::MAX) {
            taken.push(piped);
            to.write_all(&pattern(100_000)).unwrap();
        }
        assert!(taken.len() > 1 && taken.len() < 10, "{}", taken.len());
        let taken_last = taken.iter().map(Piped::len).sum::<usize>();
        let mut got = Vec::new();
        for piped in taken {
            got.extend(arrives(piped).await);
        }
        assert_eq!(got.len(), taken_last);
        assert!(siding.take(&from, usize::MAX).is_some());
    }

    #[tokio::test]
    async fn who_takes_nothing_more_is_an_error() {
        let siding = Siding::new().unwrap();
        let (from, _to) = pipe(50_000);
        let piped = siding.take(&from, usize::MAX).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert_eq!(piped.send(&near).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
