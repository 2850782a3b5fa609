//! Why a pipe ended, for people.

use std::io;
use std::path::PathBuf;

use super::bare::stream::BareError;
use super::far::FarError;

/// What ssh says of a login that is refused for good: of the user, of the host that
/// is there, of its name, of ssh's own options.
const FOR_GOOD: &[&str] = &[
    "Too many authentication failures",
    "Host key verification failed",
    "Unable to negotiate with",
    "Name or service not known",
    "No address associated with hostname",
    "hostname contains invalid characters",
    "ad configuration option",
    "unsupported option",
    "Bad owner or permissions on",
    "Can't open user config file",
];
/// What it says where the host lets the user in by none of the ways in parentheses.
const DENIED: &str = ": Permission denied (";
/// What we put behind its last words.
const STATUS: &str = "exit status";
/// The shell's exit statuses where there is no such program, or it cannot be run.
const NO_PROGRAM: &[&str] = &["(exit status 126)", "(exit status 127)"];

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
    /// There is no pair of sockets for a command.
    #[error("cannot make a pair of sockets for the command: {0}")]
    Pair(#[source] io::Error),
    /// What a command says whose writes are messages.
    #[error("the command does not lead to an ssh server: {0}")]
    Plan9(String),
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

impl PipeError {
    /// Whether starting the pipe would fail in the same way the next time.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Run { .. } => true,
            _ if self.is_denial() => true,
            Self::Ended(words) => FOR_GOOD.iter().any(|good| words.contains(good)),
            // It may be an ssh.
            Self::Command(words) => {
                FOR_GOOD.iter().chain(NO_PROGRAM).any(|good| words.contains(good))
            }
            Self::Bare(error) => matches!(error, BareError::Frame(_)),
            Self::Connect { error, .. } => error.kind() == io::ErrorKind::PermissionDenied,
            Self::Plan9(_) => true,
            Self::Directory(_) | Self::Mux(_) | Self::Far(_) | Self::Pair(_) => false,
        }
    }

    /// Whether a user who is asked might get in.
    pub fn is_denial(&self) -> bool {
        let (Self::Ended(words) | Self::Command(words)) = self else { return false };
        // Without ways it is the system that denies ssh something.
        words.split_once(DENIED).is_some_and(|(_, ways)| !ways.starts_with(STATUS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_would_say_again_is_lasting_and_what_may_pass_is_not() {
        for (words, lasting) in [
            ("me@h: Permission denied (publickey,password). (exit status 255)", true),
            ("Host key verification failed. (exit status 255)", true),
            (
                "ssh: Could not resolve hostname h: Name or service not known (exit status 255)",
                true,
            ),
            ("c: terminating, 1 bad configuration options (exit status 255)", true),
            ("command-line: line 0: Bad configuration option: x (exit status 255)", true),
            ("Received disconnect from ::1 port 22:2: Too many authentication failures", true),
            ("ssh: connect to host h port 22: Connection refused (exit status 255)", false),
            ("ssh: connect to host h port 22: Permission denied (exit status 255)", false),
            ("ssh: Could not resolve hostname h: Temporary failure in name resolution", false),
            ("Connection to h closed by remote host. (exit status 255)", false),
            ("Timeout, server h not responding. (exit status 255)", false),
            ("kex_exchange_identification: read: Connection reset by peer", false),
            ("signal 9", false),
        ] {
            assert_eq!(PipeError::Ended(words.to_owned()).is_lasting(), lasting, "{words}");
            assert_eq!(PipeError::Command(words.to_owned()).is_lasting(), lasting, "{words}");
        }
        let missing = PipeError::Command("sh: 1: x: not found (exit status 127);\nhint".to_owned());
        assert!(missing.is_lasting() && !missing.is_denial());
        assert!(!PipeError::Command("exit status 1".to_owned()).is_lasting());
        assert!(PipeError::Ended("h: Permission denied (publickey).".to_owned()).is_denial());
    }
}
