//! The commands that use a service: `dial`, `listen`, `forward`, `socks`, those for
//! its files; and `demo`, which brings its own.
//!
//! They are ordinary 9P clients: nothing here that another program could not do.

pub mod attach;
pub mod conversation;
pub mod demo;
pub mod dial;
pub mod files;
pub mod forward;
pub mod listen;
pub mod near;
pub mod netstat;
pub mod share;
pub mod socks;
mod stdio;

use std::ffi::OsString;
use std::io;

use tokio::net::UnixStream;

use crate::ninep::MSIZE_MAX;
use crate::ninep::client::{Client, ClientError};
use crate::services::{self, ServiceError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no service to use.
    #[error("{0}")]
    Service(#[from] ServiceError),
    /// Programs of this machine cannot be let in.
    #[error("{0}")]
    Near(#[from] near::NearError),
    /// It was up, and is not any more.
    #[error("the service has ended; start it, then this again\n({0})")]
    Over(String),
    /// The service or the far side would not do it.
    #[error("{0}: {1}")]
    Refused(String, ClientError),
    /// The system would not do it.
    #[error("{0}: {1}")]
    System(String, io::Error),
    /// Something came out otherwise than it must.
    #[error("{0}")]
    Mismatch(String),
}

/// Says what was tried when it fails.
trait Trying<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, CommandError>;
}

impl<T> Trying<T> for Result<T, ClientError> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, CommandError> {
        self.map_err(|error| match error {
            ClientError::Ended(why) => CommandError::Over(why),
            error => CommandError::Refused(what(), error),
        })
    }
}

impl<T> Trying<T> for io::Result<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::System(what(), error))
    }
}

/// A stream to a service, or to the one that is up.
fn stream(service: Option<OsString>) -> Result<UnixStream, CommandError> {
    let stream = services::connect(service.as_deref())?;
    let what = || "cannot use the service's socket".to_owned();
    stream.set_nonblocking(true).trying(what)?;
    UnixStream::from_std(stream).trying(what)
}

/// A connection to it.
async fn connect(service: Option<OsString>) -> Result<Client, CommandError> {
    let stream = stream(service)?;
    let client = Client::new(stream, MSIZE_MAX).await;
    // One that ends it before a word may be up, and busy.
    client.map_err(|error| CommandError::Refused("cannot speak to the service".to_owned(), error))
}
