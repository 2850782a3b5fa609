//! A process behind a pipe: its start, its last words, how it ended.
//!
//! It ends with this program, whatever happens to it; its stderr is shown as it
//! comes, and the last of it kept for errors. Refuses to know what it is for, and
//! when it is to end.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStderr;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::starter::{self, Order};
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
    /// Its number; `None` once it is to be reaped; until then it is surely its own.
    pid: Mutex<Option<Pid>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = *self.lock() {
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

impl Process {
    /// Starts what is ordered, with this standard input and output if it is to have
    /// any, in a thread of this name. Its stderr is for us. `command` is what does it
    /// where there is no starter.
    pub(super) async fn start(
        order: Order,
        streams: Option<(OwnedFd, OwnedFd)>,
        command: Command,
        name: &str,
    ) -> io::Result<Self> {
        sys::raise_file_limit();
        let (stderr, theirs) = io::pipe()?;
        let stderr = ChildStderr::from_std(OwnedFd::from(stderr).into())?;
        let (started, start) = oneshot::channel();
        let (ended, exit) = watch::channel(None);
        // It is to end when the thread that started it ends: so this one stays as
        // long as it does.
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || {
            run(|| starter::start(order, streams, theirs.into(), || command), started, &ended);
        })?;
        let shared = start.await.map_err(|_| io::Error::other("its thread ended"))??;
        let words = Arc::new(Words::default());
        let stderr = tokio::spawn(listen(stderr, Arc::clone(&words)));
        Ok(Self { shared, exit, words, stderr })
    }

    /// Its number, as long as it has it.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<Pid> {
        *self.shared.lock()
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
        let pid = self.shared.lock();
        pid.map(starter::descendants).unwrap_or_default()
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

/// Runs it to its end, in a thread of its own.
fn run(
    start: impl FnOnce() -> io::Result<starter::Child>,
    started: oneshot::Sender<io::Result<Arc<Shared>>>,
    ended: &watch::Sender<Option<ExitStatus>>,
) {
    let mut child = match start() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let shared = Arc::new(Shared { pid: Mutex::new(Some(child.pid())) });
    if started.send(Ok(Arc::clone(&shared))).is_err() {
        // Whoever started it is gone already.
        shared.signal(Signal::KILL);
    }
    child.wait_unreaped();
    shared.lock().take();
    // Without a status it is an end all the same.
    let _ = ended.send(Some(child.reap().unwrap_or_default()));
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
