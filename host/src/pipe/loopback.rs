//! The loopback pipe: a far side in this very process, on this machine's own
//! sockets, instead of ssh and another host.
//!
//! Knows no protocol: [`Far`] does.

use std::time::Duration;

use super::far::Far;
use super::{Link, error::PipeError};

/// How long data on its way to sockets is waited for at the end.
const SETTLE: Duration = Duration::from_secs(1);

/// Serves until the outbox is closed, or the engine breaks the protocol.
pub async fn run(link: Link) -> Result<(), PipeError> {
    let (far, mut output) = Far::new();
    let inward = async {
        while let Some(message) = link.next().await {
            let length = message.len() as u64;
            far.receive(message)?;
            link.took(length);
        }
        Ok(())
    };
    let outward = async {
        loop {
            link.receive(&output.next().await?);
            // The engine's windows bound what is on the way; this only lets
            // the other direction have its turn.
            tokio::task::coop::consume_budget().await;
        }
    };
    let ended: Result<(), PipeError> = tokio::select! {
        ended = inward => ended,
        ended = outward => ended,
    };
    ended?;
    far.settle(SETTLE).await;
    Ok(())
}
