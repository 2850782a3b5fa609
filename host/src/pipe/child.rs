//! A program behind a pipe: its process, its words, its end.
//!
//! It is started by the shell, for what a user writes is a command line, and stays
//! in our process group: so it may ask for passwords on the terminal, and Ctrl-C
//! reaches it. Its stderr is shown as it comes, and the last of it kept for errors.
//! When it is to end it is left alone for a while, since its stdin has ended; then
//! told by SIGTERM; then killed; and so are the processes that it has started.
//! Refuses to know what is said on its stdin and stdout.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::error::PipeError;
use crate::sys;

/// What runs the command.
const SHELL: &str = "/bin/sh";
/// How much of its words is kept.
const KEPT: usize = 8 << 10;
/// How much of its last line goes into an error.
const WORDS: usize = 400;
/// How long it may take to end when its stdin has ended, and again when it was told.
const GRACE: Duration = Duration::from_millis(800);
/// How long one that nobody waits for may take when it was told.
const SHORT_GRACE: Duration = Duration::from_millis(150);
/// How often it is looked at then.
const LOOK: Duration = Duration::from_millis(5);
/// How long its last words are waited for: another process may hold its stderr.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// The shell's exit status where there is no such program.
const NOT_FOUND: i32 = 127;

/// The last that it said.
#[derive(Debug, Default)]
struct Words {
    kept: Mutex<VecDeque<u8>>,
    /// Nobody wants to see its comment on an end that we made.
    quiet: AtomicBool,
}

impl Words {
    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps it, and shows it to the user.
    fn add(&self, said: &[u8]) {
        {
            let mut kept = self.lock();
            kept.extend(said);
            let excess = kept.len().saturating_sub(KEPT);
            kept.drain(..excess);
        }
        if !self.quiet.load(Ordering::Relaxed) {
            // If stderr is gone nobody wants it.
            let _ = io::stderr().write_all(said);
        }
    }

    /// The last line, without what a terminal would act on.
    fn last_line(&self) -> Option<String> {
        let kept = self.lock().iter().copied().collect::<Vec<u8>>();
        let text = String::from_utf8_lossy(&kept);
        let line = text
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty() && !line.starts_with("Warning: Permanently added"))?;
        Some(line.chars().filter(|c| !c.is_control()).take(WORDS).collect())
    }
}

/// The process, as its own thread and we see it.
#[derive(Debug)]
struct Process {
    /// `None` once reaped; until then the number is surely its own.
    child: Mutex<Option<(process::Child, Pid)>>,
}

impl Process {
    fn lock(&self) -> MutexGuard<'_, Option<(process::Child, Pid)>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some((_, pid)) = *self.lock() {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Those that it has started, and that they have.
    fn descendants(&self) -> Vec<sys::Process> {
        let child = self.lock();
        child.as_ref().map(|(_, pid)| sys::descendants(*pid)).unwrap_or_default()
    }

    /// Sends a signal to it and to its family, old and new.
    fn signal_all(&self, signal: Signal, family: &mut Vec<sys::Process>) {
        if signal == Signal::KILL {
            // Then it starts no more that would not be found.
            self.signal(Signal::STOP);
        }
        family.extend(self.descendants());
        self.signal(signal);
        for process in family {
            process.signal(signal);
        }
    }
}

/// A running program. Dropping it ends it, at once.
#[derive(Debug)]
pub(super) struct Child {
    process: Arc<Process>,
    exit: watch::Receiver<Option<ExitStatus>>,
    words: Arc<Words>,
    stderr: JoinHandle<()>,
}

impl Child {
    /// Starts a command line, and gives its stdout and stdin.
    pub(super) async fn start(
        command: &OsStr,
    ) -> Result<(Self, ChildStdout, ChildStdin), PipeError> {
        let failed = |error| PipeError::Run { program: PathBuf::from(SHELL), error };
        sys::raise_file_limit();
        let mut shell = Command::new(SHELL);
        shell
            .arg("-c")
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (started, start) = oneshot::channel();
        let (ended, exit) = watch::channel(None);
        // It is to end when the thread that started it ends: so this one stays as
        // long as it does.
        let thread = std::thread::Builder::new().name("command".to_owned());
        thread.spawn(move || run(&mut shell, started, &ended)).map_err(failed)?;
        let start = start.await.map_err(|_| failed(io::Error::other("its thread ended")))?;
        let Started { process, stdin, stdout, stderr } = start.map_err(failed)?;
        let words = Arc::new(Words::default());
        let stderr = ChildStderr::from_std(stderr).map_err(failed)?;
        let stderr = tokio::spawn(listen(stderr, Arc::clone(&words)));
        let child = Self { process, exit, words, stderr };
        let stdout = ChildStdout::from_std(stdout).map_err(failed)?;
        let stdin = ChildStdin::from_std(stdin).map_err(failed)?;
        Ok((child, stdout, stdin))
    }

    /// It has said this line elsewhere than on stderr.
    pub(super) fn said(&self, line: &str) {
        self.words.add(line.as_bytes());
        self.words.add(b"\n");
    }

    /// What it says from now on is for nobody.
    pub(super) fn silence(&self) {
        self.words.quiet.store(true, Ordering::Relaxed);
    }

    /// Waits for its end.
    async fn exited(&mut self) {
        // Fails where the thread is gone, and then so is the process.
        let _ = self.exit.wait_for(Option::is_some).await;
    }

    /// Ends it, now that its stdin and stdout are closed. Returns when it and what
    /// it has started are gone.
    pub(super) async fn end(&mut self) {
        self.silence();
        self.stop().await;
    }

    async fn stop(&mut self) {
        // When the shell is gone there is no way to find those that it has started;
        // and it may start more as long as it lives.
        let mut family = self.process.descendants();
        for signal in [Signal::TERM, Signal::KILL] {
            let gone = async {
                self.exited().await;
                for process in &family {
                    process.gone().await;
                }
            };
            if timeout(GRACE, gone).await.is_ok() {
                return;
            }
            self.process.signal_all(signal, &mut family);
        }
        self.exited().await;
    }

    /// Why it has ended, as it has closed its stdout or takes no more on stdin. One
    /// that lives on after that is ended.
    pub(super) async fn ended(&mut self) -> PipeError {
        let by_itself = timeout(LAST_WORDS, self.exited()).await.is_ok();
        if !by_itself {
            self.stop().await;
        }
        if !self.stderr.is_finished() {
            let _ = timeout(LAST_WORDS, &mut self.stderr).await;
        }
        let status = *self.exit.borrow();
        let (code, signal) = match status {
            Some(status) => (status.code(), status.signal()),
            None => (None, None),
        };
        let how = match (by_itself, code, signal) {
            (false, _, _) => "it closed its stdout".to_owned(),
            (true, Some(code), _) => format!("exit status {code}"),
            (true, None, Some(signal)) => format!("signal {signal}"),
            (true, None, None) => "exit status unknown".to_owned(),
        };
        // One that was killed has said nothing about it: what it said before is
        // about something else.
        let words = self.words.last_line().filter(|_| signal.is_none() || !by_itself);
        let hint = match code {
            Some(NOT_FOUND) if by_itself => ";\nthe program must be installed there, on the PATH",
            _ => "",
        };
        PipeError::Command(match words {
            Some(line) => format!("{line} ({how}){hint}"),
            None => format!("{how}{hint}"),
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stderr.abort();
        self.silence();
        if self.exit.borrow().is_some() {
            return;
        }
        let mut family = Vec::new();
        self.process.signal_all(Signal::TERM, &mut family);
        // The program may end right after this, and then nobody is left to kill it.
        let deadline = Instant::now() + SHORT_GRACE;
        while self.exit.borrow().is_none() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        self.process.signal_all(Signal::KILL, &mut family);
    }
}

/// What a process is begun with.
struct Started {
    process: Arc<Process>,
    stdin: process::ChildStdin,
    stdout: process::ChildStdout,
    stderr: process::ChildStderr,
}

/// Runs it to its end, in a thread of its own.
fn run(
    command: &mut Command,
    started: oneshot::Sender<io::Result<Started>>,
    ended: &watch::Sender<Option<ExitStatus>>,
) {
    let mut child = match sys::spawn_tied(command) {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_child(&child);
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let process = Arc::new(Process { child: Mutex::new(Some((child, pid))) });
    let told = started.send(match pipes {
        (Some(stdin), Some(stdout), Some(stderr)) => {
            Ok(Started { process: Arc::clone(&process), stdin, stdout, stderr })
        }
        _ => Err(io::Error::other("it has no pipes")),
    });
    if told.is_err() {
        // Whoever started it is gone already.
        process.signal(Signal::KILL);
    }
    sys::wait_unreaped(pid);
    let reaped = process.lock().take().and_then(|(mut child, _)| child.wait().ok());
    // Without a status it is an end all the same.
    let _ = ended.send(Some(reaped.unwrap_or_default()));
}

async fn listen(mut stderr: ChildStderr, words: Arc<Words>) {
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        words.add(buffer.get(..length).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;
    use tokio::io::AsyncWriteExt;

    async fn started(command: &str) -> (Child, ChildStdout, ChildStdin) {
        Child::start(OsStr::new(command)).await.unwrap()
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
        let (mut child, mut stdout, mut stdin) = started(&command).await;
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
        let (mut child, mut stdout, stdin) = started(stubborn).await;
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

    #[test]
    fn what_is_kept_of_its_words_is_bounded() {
        let words = Words::default();
        words.quiet.store(true, Ordering::Relaxed);
        assert_eq!(words.last_line(), None);
        words.add(&vec![b'x'; 3 * KEPT]);
        assert_eq!(words.lock().len(), KEPT);
        assert_eq!(words.last_line().unwrap().len(), WORDS);
    }
}
