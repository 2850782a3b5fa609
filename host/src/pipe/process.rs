//! A process behind a pipe: its start, its last words, how it ended.
//!
//! It ends with this program, whatever happens to it; its stderr is shown as it
//! comes, and the last of it kept for errors. Refuses to know what it is for, and
//! when it is to end.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::sys;

/// How much of its words is kept.
const KEPT: usize = 8 << 10;
/// How much of its last line goes into an error.
const WORDS: usize = 400;
/// How long its last words are waited for: another process may hold its stderr.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(300);

/// The last that it said.
#[derive(Debug, Default)]
pub(super) struct Words {
    kept: Mutex<VecDeque<u8>>,
    /// Nobody wants to see its comment on an end that we made.
    quiet: AtomicBool,
}

impl Words {
    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, said: &[u8]) {
        let mut kept = self.lock();
        kept.extend(said);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
    }

    /// It has said this line elsewhere than on stderr: keeps and shows it.
    pub(super) fn said(&self, line: &str) {
        self.keep(format!("{line}\n").as_bytes());
        if !self.are_for_nobody() {
            // If stderr is gone nobody wants it.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    fn are_for_nobody(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// From here on other words count.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    /// The last line, without what a terminal would act on.
    pub(super) fn last_line(&self) -> Option<String> {
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
struct Shared {
    /// `None` once reaped; until then the number is surely its own.
    child: Mutex<Option<(process::Child, Pid)>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<(process::Child, Pid)>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some((_, pid)) = *self.lock() {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Sends signals to a process for as long as it is there.
#[derive(Clone, Debug)]
pub(super) struct Signaller(Arc<Shared>);

impl Signaller {
    pub(super) fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }
}

/// A process that was started. Dropping it ends nothing but what listens to it.
#[derive(Debug)]
pub(super) struct Process {
    shared: Arc<Shared>,
    exit: watch::Receiver<Option<ExitStatus>>,
    words: Arc<Words>,
    stderr: JoinHandle<()>,
}

/// Its standard input and output, where they are pipes.
pub(super) type Pipes = (Option<ChildStdin>, Option<ChildStdout>);

impl Process {
    /// Starts it, in a thread of this name. Its stderr is for us.
    pub(super) async fn start(mut command: Command, name: &str) -> io::Result<(Self, Pipes)> {
        sys::raise_file_limit();
        command.stderr(Stdio::piped());
        let (started, start) = oneshot::channel();
        let (ended, exit) = watch::channel(None);
        // It is to end when the thread that started it ends: so this one stays as
        // long as it does.
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || run(command, started, &ended))?;
        let start = start.await.map_err(|_| io::Error::other("its thread ended"))?;
        let Started { shared, stdin, stdout, stderr } = start?;
        let stdin = stdin.map(ChildStdin::from_std).transpose()?;
        let stdout = stdout.map(ChildStdout::from_std).transpose()?;
        let stderr = ChildStderr::from_std(stderr)?;
        let words = Arc::new(Words::default());
        let stderr = tokio::spawn(listen(stderr, Arc::clone(&words)));
        Ok((Self { shared, exit, words, stderr }, (stdin, stdout)))
    }

    /// Its number, as long as it has it.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<Pid> {
        self.shared.lock().as_ref().map(|(_, pid)| *pid)
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.shared.signal(signal);
    }

    /// What can signal it when this is gone.
    pub(super) fn signaller(&self) -> Signaller {
        Signaller(Arc::clone(&self.shared))
    }

    /// Those that it has started, and that they have.
    pub(super) fn descendants(&self) -> Vec<sys::Process> {
        // Held, so that its number stays its own.
        let child = self.shared.lock();
        child.as_ref().map(|(_, pid)| sys::descendants(*pid)).unwrap_or_default()
    }

    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    /// What it says from now on is for nobody.
    pub(super) fn silence(&self) {
        self.words.quiet.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits for its end, and borrows nothing.
    pub(super) fn exit(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut exit = self.exit.clone();
        async move {
            // Fails where the thread is gone, and then so is the process.
            let _ = exit.wait_for(Option::is_some).await;
        }
    }

    /// How it ended, and its last line where that is about its end: one that was
    /// killed has said nothing about it.
    pub(super) async fn ended(&mut self) -> Ended {
        if !self.stderr.is_finished() {
            let _ = timeout(LAST_WORDS, &mut self.stderr).await;
        }
        let status = *self.exit.borrow();
        let code = status.and_then(|status| status.code());
        let signal = status.and_then(|status| status.signal());
        let how = match (code, signal) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "exit status unknown".to_owned(),
        };
        Ended { code, signal, how, last_line: self.words.last_line() }
    }
}

/// How a process ended.
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    /// In words.
    pub(super) how: String,
    /// The last that it said.
    pub(super) last_line: Option<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stderr.abort();
        self.silence();
    }
}

/// What a process is begun with.
struct Started {
    shared: Arc<Shared>,
    stdin: Option<process::ChildStdin>,
    stdout: Option<process::ChildStdout>,
    stderr: process::ChildStderr,
}

/// Runs it to its end, in a thread of its own.
fn run(
    mut command: Command,
    started: oneshot::Sender<io::Result<Started>>,
    ended: &watch::Sender<Option<ExitStatus>>,
) {
    let child = sys::spawn_tied(&mut command);
    // It holds what the child was given, and so would keep it open.
    drop(command);
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_child(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let shared = Arc::new(Shared { child: Mutex::new(Some((child, pid))) });
    let told = started.send(match stderr {
        Some(stderr) => Ok(Started { shared: Arc::clone(&shared), stdin, stdout, stderr }),
        None => Err(io::Error::other("no stderr")),
    });
    if told.is_err() {
        // Whoever started it is gone already.
        shared.signal(Signal::KILL);
    }
    sys::wait_unreaped(pid);
    let reaped = shared.lock().take().and_then(|(mut child, _)| child.wait().ok());
    // Without a status it is an end all the same.
    let _ = ended.send(Some(reaped.unwrap_or_default()));
}

/// Keeps what it says, and shows it to the user.
async fn listen(mut stderr: ChildStderr, words: Arc<Words>) {
    let mut buffer = [0; 1024];
    let mut ours = tokio::io::stderr();
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        let said = buffer.get(..length).unwrap_or_default();
        words.keep(said);
        if !words.are_for_nobody() {
            let _ = ours.write_all(said).await;
            let _ = ours.flush().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_kept_and_is_safe_to_print() {
        let words = Words::default();
        assert_eq!(words.last_line(), None);
        words.keep(b"first\r\n\x1b[31mlast\x07\r\n\n");
        assert_eq!(words.last_line().unwrap(), "[31mlast");
        words.keep(&vec![b'x'; 3 * KEPT]);
        assert_eq!(words.lock().len(), KEPT);
        assert_eq!(words.last_line().unwrap().len(), WORDS);
    }
}
