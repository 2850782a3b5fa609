//! TCP services of this machine, which stand at the far side of what is measured
//! and count the bytes that they move.
//!
//! A throughput is measured here and not at the near end, so that it means the
//! same whatever the near end is: a socket, a pipe, a file that dd reads.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::until;

/// Bytes in one read or write of a bulk stream.
pub(crate) const PIECE: usize = 256 << 10;

/// What a service does with a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    /// Sends without end.
    Source,
    /// Reads without end.
    Sink,
    /// Both at once.
    Duplex,
    /// Gives back what it gets.
    Echo,
    /// Sends one byte and waits for the end.
    Greet,
}

impl Work {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Source, Self::Sink, Self::Duplex, Self::Echo, Self::Greet];
}

/// A running service; it lives as long as the program.
pub(crate) struct Service {
    pub(crate) work: Work,
    pub(crate) port: u16,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    moved: AtomicU64,
    open: AtomicUsize,
}

impl Service {
    /// Starts one on the loopback, with a thread or two for each connection.
    pub(crate) fn start(work: Work) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen")?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = Arc::clone(&shared);
                counts.open.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    // Every conversation is broken off at some time.
                    let _ = serve(work, stream, &counts);
                    counts.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { work, port, counts })
    }

    /// Bytes moved so far, in both directions together.
    pub(crate) fn moved(&self) -> u64 {
        self.counts.moved.load(Ordering::Relaxed)
    }

    /// Waits until there are so many connections.
    pub(crate) fn until_open(&self, count: usize) -> Result<()> {
        until(Duration::from_secs(20), || self.counts.open.load(Ordering::Relaxed) == count)
            .with_context(|| format!("{:?}: not {count} connections", self.work))
    }
}

fn serve(work: Work, mut stream: TcpStream, counts: &Counts) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match work {
        Work::Source => source(&stream, counts),
        Work::Sink => sink(&stream, counts),
        Work::Duplex => thread::scope(|scope| {
            scope.spawn(|| {
                let _ = source(&stream, counts);
            });
            let ended = sink(&stream, counts);
            stream.shutdown(Shutdown::Both)?;
            ended
        }),
        Work::Echo => {
            let mut buffer = [0; 4096];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => stream.write_all(buffer.get(..count).unwrap_or_default())?,
                }
            }
        }
        Work::Greet => {
            stream.write_all(b"!")?;
            sink(&stream, counts)
        }
    }
}

fn source(mut stream: &TcpStream, counts: &Counts) -> std::io::Result<()> {
    let bytes = piece();
    loop {
        let count = stream.write(&bytes)?;
        counts.moved.fetch_add(count as u64, Ordering::Relaxed);
    }
}

fn sink(mut stream: &TcpStream, counts: &Counts) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => counts.moved.fetch_add(count as u64, Ordering::Relaxed),
        };
    }
}

/// What bulk streams carry.
pub(crate) fn piece() -> Vec<u8> {
    (0..PIECE).map(|i| (i % 251) as u8).collect()
}
