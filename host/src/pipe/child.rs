//! A program behind a pipe: a command line of the user's, its family, its end.
//!
//! It is started by the shell, for what a user writes is a command line, and stays
//! in our process group: so it may ask for passwords on the terminal, and Ctrl-C
//! reaches it; but one that is started again has no terminal to ask on. Its stderr is
//! shown as it comes, and the last of it kept for errors.
//! When it is to end it is left alone for a while, since its stdin has ended; then
//! told by SIGTERM; then killed; and so are the processes that it has started.
//! Refuses to know what is said on its stdin and stdout.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::Login;
use super::error::PipeError;
use super::process::{LAST_WORDS, Process};
use crate::starter::Order;
use crate::sys;

/// What runs the command.
const SHELL: &str = "/bin/sh";
/// How long it may take to end when its stdin has ended, and again when it was told.
const GRACE: Duration = Duration::from_millis(800);
/// How long one that nobody waits for may take when it was told.
const SHORT_GRACE: Duration = Duration::from_millis(150);
/// How often it is looked at then.
const LOOK: Duration = Duration::from_millis(5);
/// The shell's exit status where there is no such program.
const NOT_FOUND: i32 = 127;

/// A running program. Dropping it ends it, at once.
#[derive(Debug)]
pub(super) struct Child {
    process: Process,
}

impl Child {
    /// Starts a command line, and gives its stdout and stdin.
    pub(super) async fn start(
        command: &OsStr,
        login: Login,
    ) -> Result<(Self, ChildStdout, ChildStdin), PipeError> {
        let (theirs, stdin) = io::pipe().map_err(failed)?;
        let (stdout, theirs_too) = io::pipe().map_err(failed)?;
        let child = Self::start_on(command, login, theirs.into(), theirs_too.into()).await?;
        let stdin = ChildStdin::from_std(OwnedFd::from(stdin).into()).map_err(failed)?;
        let stdout = ChildStdout::from_std(OwnedFd::from(stdout).into()).map_err(failed)?;
        Ok((child, stdout, stdin))
    }

    /// Starts a command line with this stdin and stdout of ours.
    pub(super) async fn start_on(
        command: &OsStr,
        login: Login,
        stdin: OwnedFd,
        stdout: OwnedFd,
    ) -> Result<Self, PipeError> {
        let order = Order::Pipe { login, dir: None };
        let streams = Some((stdin, stdout));
        let started = Process::start(order, streams, shell(command, login), "command").await;
        Ok(Self { process: started.map_err(failed)? })
    }

    /// It has said this line elsewhere than on stderr.
    pub(super) fn said(&self, line: &str) {
        self.process.words().said(line);
    }

    /// What it says from now on is for nobody.
    pub(super) fn silence(&self) {
        self.process.silence();
    }

    /// Ends it, now that its stdin and stdout are closed. Returns when it and what
    /// it has started are gone.
    pub(super) async fn end(&self) {
        self.silence();
        self.stop().await;
    }

    async fn stop(&self) {
        // When the shell is gone there is no way to find those that it has started;
        // and it may start more as long as it lives.
        let mut family = self.process.descendants();
        for signal in [Signal::TERM, Signal::KILL] {
            let gone = async {
                self.process.exit().await;
                for process in &family {
                    process.gone().await;
                }
            };
            if timeout(GRACE, gone).await.is_ok() {
                return;
            }
            self.signal_all(signal, &mut family);
        }
        self.process.exit().await;
    }

    /// Sends a signal to it and to its family, old and new.
    fn signal_all(&self, signal: Signal, family: &mut Vec<sys::Process>) {
        if signal == Signal::KILL {
            // Then it starts no more that would not be found.
            self.process.signal(Signal::STOP);
        }
        family.extend(self.process.descendants());
        self.process.signal(signal);
        for process in family {
            process.signal(signal);
        }
    }

    /// Why it has ended, as it has closed its stdout or takes no more on stdin. One
    /// that lives on after that is ended.
    pub(super) async fn ended(&mut self) -> PipeError {
        let by_itself = timeout(LAST_WORDS, self.process.exit()).await.is_ok();
        if !by_itself {
            self.stop().await;
        }
        let ended = self.process.ended().await;
        let how = if by_itself { ended.how } else { "it closed its stdout".to_owned() };
        // One that was killed has said nothing about it: what it said before is
        // about something else.
        let words = ended.last_line.filter(|_| ended.signal.is_none() || !by_itself);
        let hint = match ended.code {
            Some(NOT_FOUND) if by_itself => ";\nthe program must be installed there, on the PATH",
            _ => "",
        };
        PipeError::Command(match words {
            Some(line) => format!("{line} ({how}){hint}"),
            None => format!("{how}{hint}"),
        })
    }
}

/// What runs a command line.
pub(crate) fn shell(command: &OsStr, login: Login) -> Command {
    let mut shell = Command::new(SHELL);
    shell.arg("-c").arg(command);
    if !login.may_ask() {
        // An ssh in it asks on the terminal, which it has no more then, or else by a
        // window.
        shell.env("SSH_ASKPASS_REQUIRE", "never");
        sys::without_terminal(&mut shell);
    }
    shell
}

fn failed(error: io::Error) -> PipeError {
    PipeError::Run { program: PathBuf::from(SHELL), error }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.silence();
        if self.process.has_ended() {
            return;
        }
        let mut family = Vec::new();
        self.signal_all(Signal::TERM, &mut family);
        // The program may end right after this, and then nobody is left to kill it.
        let deadline = Instant::now() + SHORT_GRACE;
        while !self.process.has_ended() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        self.signal_all(Signal::KILL, &mut family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn started(command: &str) -> (Child, ChildStdout, ChildStdin) {
        Child::start(OsStr::new(command), Login::First).await.unwrap()
    }

    /// Numbers of processes, one a line.
    async fn numbers(stdout: &mut ChildStdout, count: usize) -> Vec<u32> {
        let mut text = String::new();
        while text.lines().count() < count || !text.ends_with('\n') {
            let mut buffer = [0; 100];
            let length = stdout.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{text}");
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// It is gone, or dead and waits for its parent.
    fn gone(pid: u32) -> bool {
        let path = format!("/proc/{pid}/stat");
        !Path::new(&path).exists()
            || std::fs::read_to_string(path).is_ok_and(|stat| stat.contains(") Z"))
    }

    fn until_gone(pids: &[u32]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !pids.iter().all(|pid| gone(*pid)) {
            assert!(Instant::now() < deadline, "{pids:?} are left");
            std::thread::sleep(LOOK);
        }
    }

    #[tokio::test]
    async fn one_that_reads_its_stdin_is_left_to_end_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ended");
        let command = format!("cat; echo by itself >{}", file.display());
        let (child, mut stdout, mut stdin) = started(&command).await;
        stdin.write_all(b"7\n").await.unwrap();
        assert_eq!(numbers(&mut stdout, 1).await, [7]);
        drop((stdin, stdout));
        child.end().await;
        assert_eq!(std::fs::read_to_string(file).unwrap(), "by itself\n");
    }

    #[tokio::test]
    async fn one_that_will_not_end_is_killed_with_all_that_it_has_started() {
        let stubborn = "trap '' TERM; (sh -c 'echo $$; exec sleep 1000'; :) & echo $$; \
                        sleep 1000; sleep 1000";
        let (child, mut stdout, stdin) = started(stubborn).await;
        let pids = numbers(&mut stdout, 2).await;
        drop(stdin);
        let began = Instant::now();
        child.end().await;
        // serve waits no longer than 3 seconds.
        assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
        until_gone(&pids);
        // And the same when nobody waits.
        let (child, mut stdout, _stdin) = started(stubborn).await;
        let pids = numbers(&mut stdout, 2).await;
        drop(child);
        until_gone(&pids);
    }

    #[tokio::test]
    async fn its_end_is_told_in_its_last_words() {
        for (command, says) in [
            ("echo first >&2; printf 'the\\033[1m last\\n\\n' >&2; exit 3", "the[1m last (exit"),
            ("exit 3", "the command ended: exit status 3"),
            ("echo about something else >&2; kill -9 $$", "the command ended: signal 9"),
            ("nosuchprogram-42", "not found (exit status 127);\nthe program must be installed"),
            ("exec >&-; echo so >&2; sleep 1000", "so (it closed its stdout)"),
        ] {
            let (mut child, mut stdout, _stdin) = started(command).await;
            assert_eq!(stdout.read(&mut [0; 1]).await.unwrap(), 0);
            let error = child.ended().await.to_string();
            assert!(error.contains(says), "{command}: {error}");
        }
    }
}
