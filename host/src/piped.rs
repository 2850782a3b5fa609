//! Bytes on their way between a pipe and a socket, which no process copies: splice(2)
//! hands on the pages that they are in. Who has put pages into the pipe in the same way,
//! and changes them before they are at the other side, changes what is read there.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::sys;

/// Fewer bytes are copied: that costs less.
const WORTH: usize = 16 << 10;

/// A pipe of our own. What is in it nobody else can take, so that it may be announced
/// before it is moved on.
#[derive(Debug)]
pub struct Siding {
    to: PipeWriter,
    /// How many bytes have come in.
    came: AtomicU64,
    track: Arc<Track>,
}

#[derive(Debug)]
struct Track {
    from: PipeReader,
    /// How many bytes have been moved on.
    gone: AtomicU64,
}

/// So many bytes of a siding: they are there, behind those that came before. Where
/// those were not moved on, but dropped, nor can these be.
#[derive(Debug)]
pub struct Piped {
    track: Arc<Track>,
    start: u64,
    length: usize,
}

impl Siding {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        let (from, to) = io::pipe()?;
        sys::widen_pipe(&to);
        let track = Arc::new(Track { from, gone: AtomicU64::new(0) });
        Ok(Self { to, came: AtomicU64::new(0), track })
    }

    /// Takes up to so many of the bytes that are in a pipe, if there are enough for it
    /// to be worth while. None may also be for want of room.
    pub(crate) fn take(&self, pipe: impl AsFd, most: usize) -> Option<Piped> {
        let pipe = pipe.as_fd();
        let there = usize::try_from(rustix::io::ioctl_fionread(pipe).ok()?).ok()?;
        if !Self::is_for(most.min(there)) {
            return None;
        }
        match sys::splice(pipe, &self.to, most) {
            Ok(length @ 1..) => {
                let mut piped = self.piped();
                self.came(&mut piped, length);
                Some(piped)
            }
            // Whoever reads it says why.
            Ok(0) | Err(_) => None,
        }
    }

    /// Takes the next so many bytes of a socket, whenever they come; or fewer, where it
    /// is full before, or the rest has to be read for another reason.
    pub(crate) async fn receive(&self, socket: &UnixStream, count: usize) -> io::Result<Piped> {
        let mut piped = self.piped();
        while piped.length < count {
            let left = count - piped.length;
            let take = || match sys::splice(socket, &self.to, left) {
                Ok(taken) => Ok(taken),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && rustix::io::ioctl_fionread(socket) == Ok(0) =>
                {
                    Err(error)
                }
                Err(_) => Ok(0),
            };
            match socket.async_io(Interest::READABLE, take).await? {
                // Whoever reads on hears of an end.
                0 => break,
                taken => self.came(&mut piped, taken),
            }
        }
        Ok(piped)
    }

    fn piped(&self) -> Piped {
        let start = self.came.load(Ordering::Relaxed);
        Piped { track: Arc::clone(&self.track), start, length: 0 }
    }

    fn came(&self, piped: &mut Piped, count: usize) {
        piped.length += count;
        self.came.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Whether so many bytes are better not copied.
    pub(crate) fn is_for(count: usize) -> bool {
        count >= WORTH
    }
}

impl Piped {
    /// How many are left of them.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The first so many of them, at most; what stays are the others.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
        let first = Self { track: Arc::clone(&self.track), ..*self };
        let length = count.min(self.length);
        self.pass(length);
        Self { length, ..first }
    }

    /// Moves as many of them as it takes to what must not block.
    pub(crate) fn move_on(&mut self, to: impl AsFd) -> io::Result<()> {
        if self.track.gone.load(Ordering::Relaxed) != self.start {
            return Err(io::Error::other("bytes that came before these are in the way"));
        }
        match sys::splice(&self.track.from, to, self.length)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            moved => {
                self.track.gone.fetch_add(moved as u64, Ordering::Relaxed);
                self.pass(moved);
                Ok(())
            }
        }
    }

    fn pass(&mut self, count: usize) {
        self.start += count as u64;
        self.length = self.length.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        let send = async move {
            let mut piped = piped;
            while piped.len() > 0 {
                near.async_io(Interest::WRITABLE, || piped.move_on(&near)).await.unwrap();
            }
        };
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
    async fn a_socket_is_received_from_as_far_as_was_said_or_there_is_room() {
        let siding = Siding::new().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let sent = tokio::spawn(async move {
            far.write_all(&pattern(8_000_000)).await.unwrap();
            far
        });
        let first = siding.receive(&near, 100_000).await.unwrap();
        assert_eq!(first.len(), 100_000);
        let mut got = arrives(first).await;
        let second = siding.receive(&near, 7_900_000).await.unwrap();
        assert!(second.len() > 10_000 && second.len() < 4_000_000, "{}", second.len());
        assert_eq!(siding.receive(&near, 10).await.unwrap().len(), 0);
        got.extend(arrives(second).await);
        while got.len() < 8_000_000 {
            let more = siding.receive(&near, 8_000_000 - got.len()).await.unwrap();
            got.extend(arrives(more).await);
        }
        assert!(got == pattern(8_000_000));
        drop(sent.await.unwrap());
        // Who reads hears of the end.
        assert_eq!(siding.receive(&near, 10).await.unwrap().len(), 0);
    }

    /// What is behind bytes that nobody moved on would pass for them; what is before them
    /// is what it is.
    #[tokio::test]
    async fn nothing_is_moved_on_behind_what_was_dropped() {
        let siding = Siding::new().unwrap();
        let (from, _to) = pipe(90_000);
        let mut pieces = [(); 3].map(|()| siding.take(&from, 30_000).unwrap());
        let start = pieces[0].split_to(10_000);
        let [first, dropped, mut behind] = pieces;
        drop(dropped);
        assert_eq!(arrives(start).await, pattern(10_000));
        assert_eq!(arrives(first).await, &pattern(30_000)[10_000..]);
        let (near, _far) = UnixStream::pair().unwrap();
        let error = behind.move_on(&near).unwrap_err();
        assert_eq!(error.to_string(), "bytes that came before these are in the way");
        assert!(siding.take(&from, 1).is_none());
    }

    #[tokio::test]
    async fn who_takes_nothing_more_is_an_error() {
        let siding = Siding::new().unwrap();
        let (from, _to) = pipe(50_000);
        let mut piped = siding.take(&from, usize::MAX).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert_eq!(piped.move_on(&near).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
