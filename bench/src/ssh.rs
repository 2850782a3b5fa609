//! ssh as it comes: `-L`, `-W`, and a master.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use sshnet_tests::sshd::{Sshd, free_port};

use crate::process::Process;
use crate::wait::until;

/// How long ssh may take to be up.
const UP: Duration = Duration::from_secs(20);

/// How to get to the sshd: the same words for everything that is measured.
#[derive(Clone)]
pub(crate) struct Way {
    words: Vec<String>,
    destination: String,
}

impl Way {
    /// By this cipher, through this port: sshd's own, or a relay's.
    pub(crate) fn new(sshd: &Sshd, cipher: &str, port: u16) -> Self {
        // Of options given twice the first counts.
        let mut words = vec!["-p".to_owned(), port.to_string(), "-c".to_owned(), cipher.to_owned()];
        words.extend(sshd.ssh_options());
        Self { words, destination: sshd.destination() }
    }

    /// Options and destination, for the end of a command line of sshnet-host.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str).chain([self.destination.as_str()])
    }

    fn command(&self, ours: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(ours).args(&self.words).arg("--").arg(&self.destination);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env_remove("SSH_AUTH_SOCK");
        command
    }

    /// `ssh -W`: a connection of its own, with the conversation on its stdin and
    /// stdout.
    pub(crate) fn stdio(&self, port: u16) -> Command {
        let mut command = self.command(&["-T", "-W", &format!("127.0.0.1:{port}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// A master as sshnet-host starts its own, with its socket here.
    pub(crate) fn master(&self, socket: &Path) -> Result<Process> {
        let socket = socket.to_str().context("a path")?;
        Process::start(&mut self.command(&[
            "-M",
            "-S",
            socket,
            "-N",
            "-n",
            "-T",
            "-x",
            "-a",
            "-o",
            "ControlPersist=no",
        ]))
    }
}

/// A running `ssh -L`.
pub(crate) struct Forward {
    process: Process,
    /// The port there, and the one here.
    ports: Vec<(u16, u16)>,
}

impl Forward {
    /// Forwards a port of ours to each of these.
    pub(crate) fn start(way: &Way, to: impl Iterator<Item = u16>) -> Result<Self> {
        let ports: Vec<(u16, u16)> = to.map(|port| (port, free_port())).collect();
        let mut words = vec!["-N".to_owned(), "-T".to_owned()];
        words.extend(["-o".to_owned(), "ExitOnForwardFailure=yes".to_owned()]);
        for (there, here) in &ports {
            words.extend(["-L".to_owned(), format!("127.0.0.1:{here}:127.0.0.1:{there}")]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = Process::start(&mut way.command(&words))?;
        let mut forward = Self { process, ports };
        let (_, last) = *forward.ports.last().context("nothing to forward")?;
        until(UP, || TcpStream::connect(("127.0.0.1", last)).is_ok())
            .context("ssh -L is not up")?;
        forward.process.check()?;
        Ok(forward)
    }

    /// A new conversation with a port there.
    pub(crate) fn connect(&self, port: u16) -> Result<TcpStream> {
        let found = self.ports.iter().find(|(there, _)| *there == port);
        let (_, here) = found.context("that port is not forwarded")?;
        let stream = TcpStream::connect(("127.0.0.1", *here)).context("ssh -L")?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
