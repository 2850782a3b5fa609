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
