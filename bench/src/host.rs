//! The program under test.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::Process;
use crate::wait::until;

/// How long it may take to be up.
const UP: Duration = Duration::from_secs(20);
/// How long it may take to end.
const END: Duration = Duration::from_secs(10);

/// A running `sshnet-host`.
pub(crate) struct Host {
    process: Process,
    dir: TempDir,
    /// From its start until it served.
    pub(crate) start: Duration,
}

/// Where it is: what was built beside this program, or `SSHNET_HOST`.
pub(crate) fn program() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("sshnet-host");
    let path = std::env::var_os("SSHNET_HOST").map_or(beside, PathBuf::from);
    if !path.exists() {
        bail!("there is no {}: build it, as `just bench` does", path.display());
    }
    Ok(path)
}

impl Host {
    /// Starts it with these words and waits until it serves, by so many ssh
    /// connections. With `mounted`, its tree is at [`Host::mount`], too.
    pub(crate) fn start<'a>(
        words: impl Iterator<Item = &'a str>,
        mounted: bool,
        connections: usize,
    ) -> Result<Self> {
        let dir = sshnet_tests::world::private_directory();
        let mut command = command(dir.path())?;
        command.args(["-s", "s"]);
        if mounted {
            let mount = dir.path().join("net");
            fs::create_dir(&mount)?;
            command.arg("-m").arg(mount);
        }
        let mut up = "serving ";
        if connections > 1 {
            command.args(["--connections", &connections.to_string()]);
            up = "ssh connections are up";
        }
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut process = Process::start(&mut command)?;
        let stderr = process.child.stderr.take().context("it is piped")?;
        let (sender, said) = channel();
        thread::spawn(move || {
            // Read to its end, or it would be in the way of who writes there.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send((Instant::now(), line));
            }
        });
        let mut words = String::new();
        loop {
            match said.recv_timeout(UP) {
                Ok((at, line)) if line.contains(up) => {
                    return Ok(Self { process, dir, start: at - started });
                }
                Ok((_, line)) => words = words + &line + "\n",
                Err(RecvTimeoutError::Timeout) => bail!("sshnet-host is not up:\n{words}"),
                Err(RecvTimeoutError::Disconnected) => bail!("sshnet-host ended:\n{words}"),
            }
        }
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("sshnet").join("s")
    }

    /// Where its tree is mounted.
    pub(crate) fn mount(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    /// `dial`, with the conversation on its stdin and stdout.
    pub(crate) fn dial(&self, port: u16) -> Result<Command> {
        let mut command = command(self.dir.path())?;
        command.args(["dial", "-s", "s", &format!("127.0.0.1!{port}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(command)
    }

    /// A conversation by the mount: its `ctl`, which keeps it, and where `data` is.
    pub(crate) fn dial_by_mount(&self, port: u16) -> Result<(File, PathBuf)> {
        let tcp = self.mount().join("tcp");
        let mut ctl = File::options().read(true).write(true).open(tcp.join("clone"))?;
        let mut number = [0; 16];
        let count = ctl.read(&mut number)?;
        let number = std::str::from_utf8(number.get(..count).unwrap_or_default())?.trim();
        let data = tcp.join(number).join("data");
        ctl.write_all(format!("connect 127.0.0.1!{port}").as_bytes())?;
        Ok((ctl, data))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // With this it unmounts.
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = until(END, || self.process.check().is_err());
    }
}

fn command(runtime: &Path) -> Result<Command> {
    let mut command = Command::new(program()?);
    command
        .env("XDG_RUNTIME_DIR", runtime)
        .env("TMPDIR", runtime)
        .env_remove("SSH_AUTH_SOCK")
        .env_remove("RUST_LOG");
    Ok(command)
}
