//! The signals that end a command.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::sys;

/// SIGINT, SIGTERM and SIGHUP: caught from when this is made.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where the user wanted it ignored.
    hangup: Option<Signal>,
}

impl Signals {
    /// Catches them. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let ignored = sys::hangup_ignored();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if ignored { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    /// Waits for one. Cancel-safe.
    pub async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}
