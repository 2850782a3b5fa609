//! The task that writes a connection's replies, as many at a time as there are.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::table::{Frame, Shared};
use super::trace;
use crate::gather;

/// How long a connection that is ending waits for its last replies to be taken.
pub(super) const LAST_REPLIES: Duration = Duration::from_secs(1);

/// Writes replies until the outbox is closed and empty.
pub(super) async fn write_replies<W>(mut writer: W, shared: Arc<Shared>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut frames = Vec::new();
    while shared.take_replies(&mut frames).await {
        if trace::enabled() {
            frames.iter().for_each(trace::reply);
        }
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(frames.len() * 2);
        for frame in &frames {
            slices.push(IoSlice::new(frame.head()));
            if !frame.payload().is_empty() {
                slices.push(IoSlice::new(frame.payload()));
            }
        }
        gather::write_all(&mut writer, &mut slices).await?;
        writer.flush().await?;
        let cost = frames.iter().map(Frame::cost).sum();
        frames.clear();
        shared.replies_taken(cost);
    }
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::ninep::codec::{Dialect, Reply};

    /// Even where the reply is there first, to an earlier request of the same client's.
    #[tokio::test]
    async fn what_is_asked_of_the_far_side_is_on_its_way_before_the_reply() {
        let (mut client, far) = tokio::io::duplex(1 << 10);
        let shared = Arc::new(Shared::new());
        tokio::spawn(write_replies(far, Arc::clone(&shared)));
        let (engine, mut messages) = mpsc::unbounded_channel();
        let (pipe, mut written) = mpsc::unbounded_channel();
        let (say, told) = oneshot::channel();
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                pipe.send(message).expect("somebody writes it");
            }
        });
        tokio::spawn(async move {
            written.recv().await.expect("a message");
            let told = tokio::select! {
                biased;
                _ = client.read_u8() => true,
                () = std::future::ready(()) => false,
            };
            say.send((told, client)).expect("the test waits");
        });
        // All of them wait.
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        shared.send(Frame::new(1, &Reply::Write { count: 9 }, Dialect::Plan9));
        engine.send(()).expect("somebody takes it");
        let (told, mut client) = told.await.expect("it was written");
        assert!(!told, "the reply was written first");
        assert_eq!(client.read_u32_le().await.expect("a reply"), 11);
        shared.close();
    }
}
