//! Messages on their way to the far side's peer.
//!
//! There are two kinds. Data waits for room *before* it is read from its socket,
//! so that a peer who does not read costs the kernel's memory and no more of
//! ours. All else answers the peer and cannot wait, since whoever waits there
//! does not read; it has a limit instead, and passing it is the peer's fault.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::FarError;

/// Bytes of data that may wait for the peer.
const ROOM: usize = 1 << 20;
/// Bytes of other messages that may wait for the peer.
const CONTROL: usize = 16 << 20;
/// What a message costs beside its bytes.
const OVERHEAD: usize = 64;

pub(super) struct Output {
    queue: Mutex<Queue>,
    filled: Notify,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Queue {
    /// With the room that a message holds until it is taken.
    messages: VecDeque<(Vec<u8>, Option<OwnedSemaphorePermit>)>,
    control: usize,
    flooded: bool,
}

impl Queue {
    fn take(&mut self) -> Option<Vec<u8>> {
        let (message, room) = self.messages.pop_front()?;
        if room.is_none() {
            self.control -= message.len() + OVERHEAD;
        }
        Some(message)
    }
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            queue: Mutex::default(),
            filled: Notify::new(),
            room: Arc::new(Semaphore::new(ROOM)),
        }
    }

    /// Sends a message that is no data, at once.
    pub(super) fn control(&self, message: Vec<u8>) {
        {
            let mut queue = self.lock();
            queue.control += message.len() + OVERHEAD;
            if queue.control > CONTROL {
                queue.flooded = true;
            }
            if !queue.flooded {
                queue.messages.push_back((message, None));
            }
        }
        self.filled.notify_one();
    }

    /// Waits for room for a data message of so many bytes.
    pub(super) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes + OVERHEAD).ok()?;
        Arc::clone(&self.room).acquire_many_owned(bytes).await.ok()
    }

    /// Sends a data message for which there is room.
    pub(super) fn data(&self, message: Vec<u8>, room: OwnedSemaphorePermit) {
        self.lock().messages.push_back((message, Some(room)));
        self.filled.notify_one();
    }

    /// The next message; waits for one. There is one taker.
    pub(super) async fn next(&self) -> Result<Vec<u8>, FarError> {
        loop {
            {
                let mut queue = self.lock();
                if queue.flooded {
                    return Err(FarError::Flood);
                }
                if let Some(message) = queue.take() {
                    return Ok(message);
                }
            }
            self.filled.notified().await;
        }
    }

    /// The next message, if there is one already.
    pub(super) fn try_next(&self) -> Option<Vec<u8>> {
        self.lock().take()
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().messages.iter().map(|(message, _)| message.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
