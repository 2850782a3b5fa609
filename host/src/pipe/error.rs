//! Why a pipe ended, for people.

use std::io;
use std::path::PathBuf;

use super::bare::stream::BareError;
use super::far::FarError;

/// Why a pipe could not be started, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// There is no safe place for the sockets shared with ssh.
    #[error("private directory for ssh: {0}")]
    Directory(#[source] io::Error),
    /// The program is not there, or cannot be run.
    #[error("cannot run {}: {error}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The ssh process ended: its own words, then how.
    #[error("ssh ended: {0}")]
    Ended(String),
    /// The ssh process lives and does not answer as a multiplexing master.
    #[error("multiplexing with ssh: {0}")]
    Mux(String),
    /// The peer of our own far side broke the protocol.
    #[error("far side: {0}")]
    Far(#[from] FarError),
    /// A bare connection ended, or could not be made.
    #[error("{0}")]
    Bare(#[from] BareError),
    /// The command that spoke it ended: its own words, then how.
    #[error("the command ended: {0}")]
    Command(String),
    /// There is nobody to speak it with.
    #[error(
        "cannot connect to {}: {error};\nis something up there? (such as psusan --listen PATH)",
        path.display()
    )]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}
