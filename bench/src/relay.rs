//! A delay line between ssh and sshd: what comes in goes out some time later.
//!
//! It limits no rate: what is under way may be as much as the fastest of what is
//! measured here gets through in the longest delay.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Bytes of one direction that may be under way.
const UNDER_WAY: usize = 256 << 20;
/// Bytes read at a time.
const PIECE: usize = 128 << 10;

/// A relay; it lives as long as the program.
pub(crate) struct Relay {
    pub(crate) port: u16,
}

impl Relay {
    /// Relays a port of its own to this one, with half of `round_trip` each way.
    pub(crate) fn start(to: u16, round_trip: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen")?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if let Err(error) = join(near, to, round_trip / 2) {
                    eprintln!("relay: {error}");
                }
            }
        });
        Ok(Self { port })
    }
}

fn join(near: TcpStream, to: u16, delay: Duration) -> io::Result<()> {
    let far = TcpStream::connect(("127.0.0.1", to))?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    one_way(near.try_clone()?, far.try_clone()?, delay);
    one_way(far, near, delay);
    Ok(())
}

#[derive(Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When each piece is due. An empty one is the end.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    broken: bool,
}

fn one_way(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let line = Arc::new(Line::default());
    let other = Arc::clone(&line);
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            // A broken connection is an end.
            let count = from.read(&mut buffer).unwrap_or(0);
            let piece = buffer.get(..count).unwrap_or_default().to_vec();
            let mut state = line.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.bytes > UNDER_WAY && !state.broken {
                state = line.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.bytes += count;
            state.pieces.push_back((Instant::now() + delay, piece));
            let over = count == 0 || state.broken;
            drop(state);
            line.changed.notify_all();
            if over {
                return;
            }
        }
    });
    thread::spawn(move || {
        let line = other;
        loop {
            let mut state = line.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (due, piece) = loop {
                match state.pieces.pop_front() {
                    Some(first) => break first,
                    None => {
                        state = line.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(state);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let written = if piece.is_empty() {
                to.shutdown(Shutdown::Write).and(Err(io::ErrorKind::UnexpectedEof.into()))
            } else {
                to.write_all(&piece)
            };
            let mut state = line.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.bytes -= piece.len();
            state.broken = written.is_err();
            drop(state);
            line.changed.notify_all();
            if written.is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than one delay's worth at a time, in order, to the end; and a round
    /// trip takes what was asked for, though others are under way.
    #[test]
    fn bytes_come_late_whole_and_in_order() {
        let far = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let round_trip = Duration::from_millis(60);
        let relay = Relay::start(far.local_addr().unwrap().port(), round_trip).unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = far.accept().unwrap();
            let mut all = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                all.extend_from_slice(&buffer[..count]);
                stream.write_all(&buffer[..count]).unwrap();
            }
            all
        });
        let mut near = TcpStream::connect(("127.0.0.1", relay.port)).unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let started = Instant::now();
        near.write_all(&sent[..1]).unwrap();
        near.read_exact(&mut [0]).unwrap();
        assert!(started.elapsed() >= round_trip, "{:?}", started.elapsed());
        let mut writer = near.try_clone().unwrap();
        let rest = sent[1..].to_vec();
        thread::spawn(move || {
            writer.write_all(&rest).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        near.read_to_end(&mut back).unwrap();
        assert!(back == sent[1..], "other bytes came back");
        assert!(echo.join().unwrap() == sent, "other bytes got there");
    }
}
