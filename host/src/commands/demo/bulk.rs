//! A lot of data to a service and back, checked byte by byte.

use std::time::Instant;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::CommandError;
use crate::commands::Trying;
use crate::commands::conversation::{Incoming, Outgoing};
use crate::commands::share::{CHUNK, Shares};
use crate::ninep::client::File;

/// Bytes that go there, and that come back.
pub(super) const AMOUNT: usize = 64 << 20;
/// The data repeats itself after so many bytes, which is no multiple of anything:
/// what is lost, doubled or out of order shows.
const PERIOD: usize = (1 << 20) - 3;

/// A service that sends back what it gets.
pub(super) async fn echo(listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 256 << 10];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return stream.shutdown().await,
                    count => stream.write_all(buffer.get(..count).unwrap_or_default()).await?,
                }
            }
        });
    }
}

/// Sends the data, takes it back, compares. Answers with how fast that was.
pub(super) async fn exchange(data: &File) -> Result<String, CommandError> {
    let pattern = Pattern::new();
    let started = Instant::now();
    let failed = || "the transfer broke off".to_owned();
    let share = Shares::default().join();
    let send = async {
        let mut outgoing = Outgoing::new(data, &share);
        let mut sent = 0;
        while sent < AMOUNT {
            if outgoing.room() == 0 {
                outgoing.done().await.trying(failed)?;
            }
            let part = pattern.at(sent, (AMOUNT - sent).min(CHUNK));
            sent += part.len();
            outgoing.push(part.into());
        }
        outgoing.finish().await.trying(failed)
    };
    let receive = async {
        // One read at a time would do as well, and take longer.
        let mut incoming = Incoming::new(data, &share);
        let mut received = 0;
        while received < AMOUNT {
            let bytes = incoming.next().await.trying(failed)?;
            let mut rest = bytes;
            if rest.is_empty() {
                return Err(CommandError::Mismatch(format!("it ended after {received} bytes")));
            }
            while !rest.is_empty() {
                let right = pattern.at(received, rest.len());
                if rest.get(..right.len()) != Some(&*right) {
                    let what = format!("what came back differs near byte {received}");
                    return Err(CommandError::Mismatch(what));
                }
                received += right.len();
                rest.advance(right.len());
            }
        }
        Ok(())
    };
    tokio::try_join!(send, receive)?;
    let seconds = started.elapsed().as_secs_f64();
    let rate = AMOUNT as f64 / 1e6 / seconds;
    let amount = AMOUNT >> 20;
    Ok(format!(
        "{amount} MiB there and {amount} MiB back in {seconds:.2} s: {rate:.0} MB/s each way"
    ))
}

/// Data that is easily known again.
struct Pattern(Bytes);

impl Pattern {
    fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes = std::iter::repeat_with(|| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        });
        Self(bytes.take(PERIOD).collect())
    }

    /// At most so many bytes from this place on, and at least one.
    fn at(&self, place: usize, length: usize) -> Bytes {
        let start = place % PERIOD;
        self.0.slice(start..(start + length).min(PERIOD))
    }
}
