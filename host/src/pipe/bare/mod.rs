//! The pipe over a bare ssh-connection: RFC 4254 alone, as PuTTY speaks it with
//! psusan(1) and between processes that share a connection, over whatever is a
//! secure channel already. So its far side is wherever a program can be run.
//!
//! ```text
//! engine <-> Link <-- incoming <- stdout -- a command, or the one
//!                 --> outgoing -> stdin ->  at a Unix socket
//! ```
//!
//! The peer answers global requests itself, and says who calls. What psusan does
//! not say is made up for by `ports`; apart from that this module refuses to know
//! what is in a message of RFC 4254.

pub mod frame;
mod ports;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod transport;

use std::ffi::OsString;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::ports::Ports;
use self::stream::{BATCH, BareError, Incoming, Outgoing, greet};
use self::transport::BY_APPLICATION;
use super::child::Child;
use super::error::PipeError;
use super::{Link, Login};

/// How often is looked whether something came, before the peer counts as dead.
const LOOKS: u32 = 4;
/// Messages written at a time.
const MESSAGES: usize = 256;
/// How long a command may take to say its version line: as long as sshd lets one
/// log in (LoginGraceTime), since it may be an ssh that asks for a password.
const ASKING: Duration = Duration::from_secs(120);
/// How long one at a socket may take, who asks nobody.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the last messages may take to be written.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the far side may take to close the connection then, or to say why it
/// takes no more.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How psusan's name for itself begins.
const PSUSAN: &str = "PSUSAN_";

/// Who speaks a bare connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// This command line, on its stdin and stdout.
    Command(OsString),
    /// Whoever takes connections at this Unix socket.
    Socket(PathBuf),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Command(command) => command.to_string_lossy(),
            Self::Socket(path) => path.to_string_lossy(),
        };
        // On one line, and without what a terminal would act on.
        let shown: String = text.chars().filter(|c| !c.is_control()).collect();
        write!(f, "'{shown}'")
    }
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A pipe that is ready.
pub struct Pipe {
    incoming: Incoming<Reader>,
    outgoing: Outgoing<Writer>,
    child: Option<Child>,
    /// The peer's name for itself.
    name: String,
    keepalive: Duration,
}

/// What both directions know of each other.
struct Shared {
    link: Link,
    /// Where the peer needs it.
    ports: Option<Mutex<Ports>>,
    /// Rings when there is something to ask again.
    again: Notify,
    /// Rings when a sign of life is to be asked for.
    ping: Notify,
}

/// Reaches the peer and exchanges version lines with it. Dropping the future ends
/// the command. The pipe ends when the peer has said nothing for so long, though it
/// was asked to; 0 is for ever.
pub async fn start(peer: Peer, login: Login, keepalive: Duration) -> Result<Pipe, PipeError> {
    let patience = match peer {
        Peer::Command(_) => ASKING,
        Peer::Socket(_) => ANSWER,
    };
    start_within(peer, login, patience, keepalive).await
}

async fn start_within(
    peer: Peer,
    login: Login,
    patience: Duration,
    keepalive: Duration,
) -> Result<Pipe, PipeError> {
    let (reader, writer, mut child): (Reader, Writer, _) = match peer {
        Peer::Command(command) => {
            let (child, stdout, stdin) = Child::start(&command, login).await?;
            (Box::new(stdout), Box::new(stdin), Some(child))
        }
        Peer::Socket(path) => {
            let connected = UnixStream::connect(&path).await;
            let stream = connected.map_err(|error| PipeError::Connect { path, error })?;
            let (reader, writer) = stream.into_split();
            (Box::new(reader), Box::new(writer), None)
        }
    };
    let told = |line: &str| match &child {
        Some(child) => child.said(line),
        None => tracing::info!("before the version line: {line}"),
    };
    match greet(reader, writer, patience, told).await {
        Ok((incoming, outgoing, name)) => Ok(Pipe { incoming, outgoing, child, name, keepalive }),
        Err(error) => Err(why(error, &mut child).await),
    }
}

/// Why the connection ended: where that was the end of the command, in its words.
async fn why(error: BareError, child: &mut Option<Child>) -> PipeError {
    match (error, child) {
        (BareError::Closed | BareError::Io(_), Some(child)) => child.ended().await,
        (error, Some(child)) => {
            child.end().await;
            error.into()
        }
        (error, None) => error.into(),
    }
}

/// How a direction ended.
enum Ended {
    /// The engine sends no more, and everything is written.
    ByEngine(Outgoing<Writer>),
    /// The connection has ended.
    Broken(BareError),
}

impl Pipe {
    /// Carries messages until the outbox is closed, which is no error, or the
    /// connection ends.
    pub async fn run(self, link: Link) -> Result<(), PipeError> {
        let Self { incoming, outgoing, mut child, name, keepalive } = self;
        let seed = RandomState::new().build_hasher().finish();
        let ports = name.starts_with(PSUSAN).then(|| Mutex::new(Ports::new(seed)));
        let shared = Arc::new(Shared { link, ports, again: Notify::new(), ping: Notify::new() });
        // All end with this, should it be dropped.
        let mut tasks = JoinSet::new();
        if !keepalive.is_zero() {
            tasks.spawn(watch(incoming.heard(), keepalive, Arc::clone(&shared)));
        }
        tasks.spawn(receive(incoming, Arc::clone(&shared)));
        tasks.spawn(send(outgoing, shared));
        let mut error = match next(&mut tasks).await {
            Ended::Broken(error) => error,
            Ended::ByEngine(outgoing) => {
                if let Some(child) = &child {
                    child.silence();
                }
                let end = outgoing.end(BY_APPLICATION, "sshnet-host has ended");
                // One that does not read is not waited for.
                let _ = timeout(DRAIN, end).await;
                // It closes its side in turn; whatever else it says is late.
                let _ = timeout(LAST_WORDS, next(&mut tasks)).await;
                tasks.shutdown().await;
                if let Some(child) = &mut child {
                    child.end().await;
                }
                return Ok(());
            }
        };
        // It takes no more: it may have said why.
        if let BareError::Io(_) = error
            && let Ok(Ended::Broken(reason)) = timeout(LAST_WORDS, next(&mut tasks)).await
        {
            error = reason;
        }
        // Closes its stdin and stdout.
        tasks.shutdown().await;
        Err(why(error, &mut child).await)
    }
}

/// How the next of both directions ended.
async fn next(tasks: &mut JoinSet<Ended>) -> Ended {
    match tasks.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => Ended::Broken(std::io::Error::other(error).into()),
        None => Ended::Broken(BareError::Closed),
    }
}

impl Shared {
    fn ports(&self) -> Option<MutexGuard<'_, Ports>> {
        let ports = self.ports.as_ref()?;
        Some(ports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands over a message that came in.
    fn receive(&self, message: &[u8]) {
        if Ports::is_answer(message)
            && let Some(mut ports) = self.ports()
        {
            let answers = ports.answers(message);
            drop(ports);
            self.again.notify_one();
            answers.iter().for_each(|answer| self.link.receive(answer));
        } else {
            self.link.receive(message);
        }
    }

    /// Puts a message of the engine behind those to be written; how many bytes wait.
    fn push(&self, outgoing: &mut Outgoing<Writer>, message: &[u8]) -> Result<usize, BareError> {
        let instead = self.ports().and_then(|mut ports| ports.sends(message));
        outgoing.push(instead.as_deref().unwrap_or(message))
    }
}

/// Asks for a sign of life where there was none for a while, and ends where there was
/// none for as long as it may take.
async fn watch(heard: Arc<AtomicU64>, keepalive: Duration, shared: Arc<Shared>) -> Ended {
    let (mut last, mut silent) = (0, 0);
    while silent < LOOKS {
        // What comes right after a look is a look older than it seems.
        tokio::time::sleep(keepalive / (LOOKS + 1)).await;
        let now = heard.load(Ordering::Relaxed);
        silent = if now == last { silent + 1 } else { 0 };
        last = now;
        if silent > 0 {
            shared.ping.notify_one();
        }
    }
    Ended::Broken(BareError::Dead)
}

/// Hands over what comes in.
async fn receive(mut incoming: Incoming<Reader>, shared: Arc<Shared>) -> Ended {
    loop {
        match incoming.next().await {
            Ok(Some(message)) => shared.receive(message),
            Ok(None) => return Ended::Broken(BareError::Closed),
            Err(error) => return Ended::Broken(error),
        }
    }
}

/// Writes what the engine sends, until it sends no more.
async fn send(mut outgoing: Outgoing<Writer>, shared: Arc<Shared>) -> Ended {
    match write(&mut outgoing, &shared).await {
        Ok(()) => Ended::ByEngine(outgoing),
        Err(error) => Ended::Broken(error),
    }
}

async fn write(outgoing: &mut Outgoing<Writer>, shared: &Shared) -> Result<(), BareError> {
    let link = &shared.link;
    loop {
        let first = tokio::select! {
            message = link.next() => match message {
                Some(message) => message,
                None => return Ok(()),
            },
            Some(answer) = outgoing.answer() => {
                outgoing.push(&answer)?;
                outgoing.write().await?;
                continue;
            }
            () = shared.ping.notified() => {
                outgoing.push(&transport::ping())?;
                outgoing.write().await?;
                continue;
            }
            () = shared.again.notified() => {
                while let Some(request) = shared.ports().and_then(|mut ports| ports.sends_again()) {
                    outgoing.push(&request)?;
                }
                outgoing.write().await?;
                continue;
            }
        };
        let mut waiting = shared.push(outgoing, &first)?;
        let mut taken = first.len() as u64;
        for _ in 1..MESSAGES {
            if waiting >= BATCH {
                break;
            }
            let Some(message) = link.try_next() else { break };
            waiting = shared.push(outgoing, &message)?;
            taken += message.len() as u64;
        }
        outgoing.write().await?;
        link.took(taken);
    }
}
