//! The part of the command line that says who speaks a bare connection, or is the
//! command of another kind of pipe.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;

use super::UsageError;
use crate::pipe::bare::Peer;

/// Options of `--pipe bare`.
#[derive(Args, Debug, Default, Eq, PartialEq)]
pub(super) struct Bare {
    /// With --pipe bare or plan9: run COMMAND, by /bin/sh, and speak on its stdin
    /// and stdout. It is ended with sshnet-host.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    exec: Option<OsString>,

    /// With --pipe bare: speak to who takes connections at the Unix socket PATH.
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    connect: Option<PathBuf>,
}

impl Bare {
    /// The peer of a pipe of this kind; `rest` are the words behind our own options.
    pub(super) fn peer(self, pipe: &str, rest: &[OsString]) -> Result<Peer, UsageError> {
        if let Some(word) = rest.first() {
            let example = match pipe {
                "bare" => "; an ssh goes into the command: --exec 'ssh HOST sshnet-host peer'",
                _ => "",
            };
            return Err(UsageError::new(format_args!(
                "'{}': --pipe {pipe} takes no host and no ssh options{example}",
                word.display()
            )));
        }
        match self {
            Self { exec: Some(command), connect: None } => {
                if command.as_bytes().iter().all(u8::is_ascii_whitespace) {
                    return Err(UsageError::new("--exec: there is no command"));
                }
                if command.as_bytes().contains(&0) {
                    return Err(UsageError::new("--exec: there is a zero byte in the command"));
                }
                Ok(Peer::Command(command))
            }
            Self { exec: None, connect: Some(path) } => Ok(Peer::Socket(path)),
            Self { exec: Some(_), connect: Some(_) } => Err(UsageError::new(
                "--exec and --connect: --pipe bare takes one of them, a command or a socket",
            )),
            Self { exec: None, connect: None } if pipe != "bare" => Err(UsageError::new(
                format_args!("--pipe {pipe}: who is to speak is missing: --exec COMMAND"),
            )),
            Self { exec: None, connect: None } => Err(UsageError::new(
                "--pipe bare: who is to speak it is missing: --exec COMMAND or \
                 --connect PATH, such as --exec psusan",
            )),
        }
    }

    /// Refuses the options where they have no meaning.
    pub(super) fn absent(&self) -> Result<(), UsageError> {
        let option = match (&self.exec, &self.connect) {
            (Some(_), _) => "--exec",
            (None, Some(_)) => "--connect",
            (None, None) => return Ok(()),
        };
        Err(UsageError::new(format_args!("{option} is for --pipe bare: put that before it")))
    }
}
