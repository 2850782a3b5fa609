//! Pipes to a far side: one module per kind.
//!
//! A pipe carries whole messages of RFC 4254 in order, from their type byte on.
//! The engine speaks plain RFC 4254 with one peer; what a kind of pipe cannot do,
//! or needs done differently, its module makes up for.
//!
//! [`Link`] is all that a pipe sees of the rest of the program. The driver puts
//! messages into its [`Outbox`]; the pipe takes them from there, says how much it
//! took, and hands over what comes in.

pub mod bare;
mod child;
pub mod error;
pub mod far;
pub mod loopback;
pub mod openssh;
pub mod plan9;
mod process;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use self::child::shell;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Whether somebody may be asked, for a password or whatever else it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Login {
    /// The user is there, and waits for it.
    First,
    /// Nobody expects to be asked. (An exception is an askpass program that ssh is
    /// told to use always: it asks nobody on the terminal, it may not be a person who
    /// answers, and whoever set it wants it asked.)
    Again,
}

impl Login {
    /// Whether ssh may ask (ssh(1), ENVIRONMENT).
    fn may_ask(self) -> bool {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        self == Self::First
            || set("SSH_ASKPASS").is_some()
                && set("SSH_ASKPASS_REQUIRE").is_some_and(|how| how == "force")
    }
}

/// Where a pipe delivers: the driver, or a test.
pub trait Upstream: Send + Sync + 'static {
    /// One message came in, from its type byte on. Returns at once.
    fn receive(&self, message: &[u8]);

    /// So many bytes of messages from the outbox are on their way.
    fn took(&self, bytes: u64);
}

/// A pipe's connection to the driver.
#[derive(Clone)]
pub struct Link {
    upstream: Arc<dyn Upstream>,
    outbox: Arc<Outbox>,
}

impl Link {
    /// Connects an upstream and the outbox that it fills.
    pub fn new(upstream: Arc<dyn Upstream>, outbox: Arc<Outbox>) -> Self {
        Self { upstream, outbox }
    }

    /// Hands over one message that came in.
    pub fn receive(&self, message: &[u8]) {
        self.upstream.receive(message);
    }

    /// The next message to send; waits for one. `None`: the pipe is to end
    /// cleanly, everything before has been taken out.
    ///
    /// Cancel-safe. Its bytes count as waiting until [`Link::took`].
    pub async fn next(&self) -> Option<Vec<u8>> {
        self.outbox.next().await
    }

    /// The next message to send, if there is one already.
    pub fn try_next(&self) -> Option<Vec<u8>> {
        self.outbox.try_next()
    }

    /// Says that so many bytes of messages were written.
    pub fn took(&self, bytes: u64) {
        self.upstream.took(bytes);
    }
}

/// Messages on their way to a pipe. What waits here is bounded by the engine's
/// `room` and `control` limits.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Vec<u8>>,
    closed: bool,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts in a message; one that comes after [`Outbox::close`] is dropped.
    pub fn push(&self, message: Vec<u8>) {
        {
            let mut queue = self.lock();
            if queue.closed {
                return;
            }
            queue.messages.push_back(message);
        }
        self.filled.notify_one();
    }

    /// Lets the pipe end once it has taken what is here.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// The next message; waits for one. `None` once closed and empty. There is
    /// one taker at a time.
    pub async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut queue = self.lock();
                if let Some(message) = queue.messages.pop_front() {
                    return Some(message);
                }
                if queue.closed {
                    // For whoever asks again.
                    self.filled.notify_one();
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// The next message, if there is one already.
    pub fn try_next(&self) -> Option<Vec<u8>> {
        self.lock().messages.pop_front()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
