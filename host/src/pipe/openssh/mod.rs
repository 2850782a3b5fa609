//! The pipe through OpenSSH: private ssh masters and their control sockets in
//! proxy mode (ssh(1), OpenSSH's PROTOCOL.mux).
//!
//! ```text
//!              +- route -> proxy connection ----------------------- ssh -> sshd
//! engine <-> Link         (dials)                                    |
//!              |                                                     |
//!              +- route -> far side <- our Unix socket <- connects --+  (calls)
//!              +- forwards ------------- control socket: listen there
//! ```
//!
//! There is one master, or several to share the dials; `masters` knows which, and
//! puts a fresh one in the place of a worn one.
//!
//! What was found about OpenSSH makes the rules of this module. A master dies
//! when a proxy connection is closed with a dial unanswered or refused, so the
//! one for dials is never closed before the master has ended. It mistakes the
//! answers to global requests of a proxy connection for its own, so none that
//! wants one is sent (`forwards`). It never forgets a failed dial, so there is
//! a limit to them (`route`). Apart from `tcpip-forward` without an answer,
//! only messages 90 to 100 go to it.
//!
//! This module refuses to know what is in a channel.

mod descriptor;
mod forwards;
mod master;
mod masters;
mod mux;
mod queue;
mod route;
#[cfg(test)]
mod tests;
mod traffic;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use self::master::{Master, Ready};
use self::masters::Masters;
use self::route::{FAILED_DIALS, Route};
use self::traffic::Shared;
use super::error::PipeError;
use super::{Link, Login};

/// Connections at a time, at most.
pub const CONNECTIONS: usize = 16;

/// How to reach the far host.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ssh program.
    pub program: PathBuf,
    /// What the user wants ssh to know, as words of its command line. None of
    /// them may break a private master (-f -M -O -S -W -G -Q -V).
    pub options: Vec<OsString>,
    /// `[user@]host`, as ssh takes it.
    pub destination: OsString,
    /// Whether calls are to come with their caller's address. The price: an
    /// announcement always succeeds, whether or not the far side could bind the
    /// port; port 0 is refused; and after a cancel the port is free only when
    /// the last of its calls has ended.
    pub caller_address: bool,
    /// Whether each dial has a socket of its own to ssh, in place of proxy mode: nothing
    /// that is done with those ends ssh. The price: no words of the far side, windows of
    /// ssh's, three descriptors of ssh's for each conversation.
    pub by_descriptor: bool,
    /// Over how many ssh connections dials are spread, [`CONNECTIONS`] at most.
    pub connections: usize,
    /// After how many failed dials an ssh gets no more; well before, another one is
    /// started in its place.
    pub failed_dials: u32,
    /// How long the far side may say nothing before ssh takes it for dead; 0 is for
    /// ever.
    pub keepalive: Duration,
}

impl Options {
    /// The `ssh` of the path, with nothing but a destination.
    pub fn new(destination: impl Into<OsString>) -> Self {
        Self {
            program: PathBuf::from("ssh"),
            options: Vec::new(),
            destination: destination.into(),
            caller_address: false,
            by_descriptor: false,
            connections: 1,
            failed_dials: FAILED_DIALS,
            keepalive: Duration::from_secs(60),
        }
    }
}

/// What starts ssh with its socket in this directory, for the starter.
pub(crate) fn command(options: &Options, login: Login, dir: &Path) -> io::Result<Command> {
    master::ordered(options, login, dir)
}

/// A pipe that is ready.
#[derive(Debug)]
pub struct Pipe {
    options: Options,
    first: Ready,
}

/// Starts ssh and waits until it is connected, for as long as it may be asking
/// the user for something. Dropping the future ends ssh. Where there are to be
/// several connections, the others are made while the pipe runs.
pub async fn start(options: Options, login: Login) -> Result<Pipe, PipeError> {
    let first = Master::start(&options, login).await?;
    Ok(Pipe { options, first })
}

impl Pipe {
    /// Carries messages until the outbox is closed, or ssh ends: then the error
    /// has ssh's own words. Either way, and when the future is dropped, ssh is
    /// ended and its directory removed. Of several ssh, only the end of one that
    /// listens, or is to, is the end of the pipe.
    pub async fn run(self, link: Link) -> Result<(), PipeError> {
        let Self { options, first } = self;
        let failed = if options.by_descriptor { u32::MAX } else { options.failed_dials };
        let shared = Arc::new(Shared::new(link, Route::new(failed)));
        let mut masters = Masters::new(&shared, options, first);
        let engine = async {
            while let Some(message) = shared.link.next().await {
                shared.outgoing(message)?;
            }
            Ok(())
        };
        let ended = tokio::select! {
            ended = engine => ended,
            ended = masters.serve() => Err(ended),
        };
        if ended.is_ok() {
            masters.settle().await;
        }
        masters.stop().await;
        ended
    }
}
