//! The pipe through OpenSSH: a private ssh master and its control socket in
//! proxy mode (ssh(1), OpenSSH's PROTOCOL.mux).
//!
//! ```text
//!              +- route -> proxy connection ----------------------- ssh -> sshd
//! engine <-> Link         (dials)                                    |
//!              |                                                     |
//!              +- route -> far side <- our Unix socket <- connects --+  (calls)
//!              +- forwards ------------- control socket: listen there
//! ```
//!
//! What was found about OpenSSH makes the rules of this module. A master dies
//! when a proxy connection is closed with a dial unanswered or refused, so the
//! one for dials is never closed before the master has ended. It mistakes the
//! answers to global requests of a proxy connection for its own, so none that
//! wants one is sent (`forwards`). It never forgets a failed dial, so there is
//! a limit to them (`route`). Apart from `tcpip-forward` without an answer,
//! only messages 90 to 100 go to it.
//!
//! This module refuses to know what is in a channel.

mod forwards;
mod master;
mod mux;
mod route;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sshnet_core::message::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::forwards::{Forwards, Requests};
use self::master::Master;
use self::mux::{Control, Frames, write_frames};
use self::route::{ConnectionId, Incoming, Kind, Outgoing, Route, RouteError};
use super::Link;
use super::error::PipeError;
use super::far::{Far, FarOutput};

/// Bytes read at a time from the connection for dials, and written to any.
const BATCH: usize = 256 << 10;
/// Bytes read at a time from the connection of a listener.
const LISTENER_BATCH: usize = 64 << 10;
/// Messages written at a time: a system call takes 1024 pieces.
const MESSAGES: usize = 256;
/// SSH_MSG_GLOBAL_REQUEST.
const GLOBAL_REQUEST: u8 = 80;
/// How long the last messages may take to get to ssh.
const DRAIN: Duration = Duration::from_secs(5);
/// How long ssh may then take to pass them on.
const SETTLE: Duration = Duration::from_millis(300);

/// How to reach the far host.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ssh program.
    pub program: PathBuf,
    /// What the user wants ssh to know, as words of its command line. None of
    /// them may break a private master (-f -M -O -S -W -G -Q -V).
    pub options: Vec<OsString>,
    /// `[user@]host`, as ssh takes it.
    pub destination: OsString,
    /// Whether calls are to come with their caller's address. The price: an
    /// announcement always succeeds, whether or not the far side could bind the
    /// port; port 0 is refused; and after a cancel the port is free only when
    /// the last of its calls has ended.
    pub caller_address: bool,
}

impl Options {
    /// The `ssh` of the path, with nothing but a destination.
    pub fn new(destination: impl Into<OsString>) -> Self {
        Self {
            program: PathBuf::from("ssh"),
            options: Vec::new(),
            destination: destination.into(),
            caller_address: false,
        }
    }
}

/// A pipe that is ready.
#[derive(Debug)]
pub struct Pipe {
    master: Master,
    proxy: UnixStream,
    control: Control,
    caller_address: bool,
}

/// Starts ssh and waits until it is connected, for as long as it may be asking
/// the user for something. Dropping the future ends ssh.
pub async fn start(options: Options) -> Result<Pipe, PipeError> {
    let (master, proxy, control) = Master::start(&options).await?;
    Ok(Pipe { master, proxy, control, caller_address: options.caller_address })
}

/// A message for a proxy connection.
struct Parcel {
    message: Vec<u8>,
    /// What the engine is told of when it is written.
    taken: u64,
}

impl AsRef<[u8]> for Parcel {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

/// What the tasks of one pipe share.
struct Shared {
    link: Link,
    route: Mutex<Route>,
    /// To the tasks that write to proxy connections. What waits there still
    /// counts as not taken, so the engine bounds it.
    writers: Mutex<HashMap<ConnectionId, mpsc::UnboundedSender<Parcel>>>,
    far: Far,
    /// The far side's place in the route.
    far_id: ConnectionId,
    requests: Requests,
}

impl Shared {
    fn route(&self) -> MutexGuard<'_, Route> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writers(&self) -> MutexGuard<'_, HashMap<ConnectionId, mpsc::UnboundedSender<Parcel>>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message of the engine to a proxy connection.
    fn send(&self, id: ConnectionId, message: Vec<u8>) {
        let taken = message.len() as u64;
        self.write(id, Parcel { message, taken });
    }

    /// Sends a message of our own to a proxy connection.
    fn answer(&self, id: ConnectionId, message: Vec<u8>) {
        self.write(id, Parcel { message, taken: 0 });
    }

    fn write(&self, id: ConnectionId, parcel: Parcel) {
        if let Some(writer) = self.writers().get(&id) {
            // Fails where the connection broke, which ends the pipe.
            let _ = writer.send(parcel);
        }
    }

    /// Lets a connection's writer end when it has written everything.
    fn detach(&self, id: ConnectionId) {
        self.writers().remove(&id);
    }

    /// Sends one message of the engine on its way.
    fn outgoing(&self, mut message: Vec<u8>) -> Result<(), PipeError> {
        let length = message.len() as u64;
        if message.first() == Some(&GLOBAL_REQUEST)
            && let Ok(Message::GlobalRequest { want_reply, request }) = Message::decode(&message)
        {
            self.requests.push(want_reply, &request);
            self.link.took(length);
            return Ok(());
        }
        let way = self.route().outgoing(&mut message);
        match way {
            Ok(Outgoing::To(id)) if id == self.far_id => self.far.receive(message)?,
            Ok(Outgoing::To(id)) => {
                // Taken when it is written.
                self.send(id, message);
                return Ok(());
            }
            Ok(Outgoing::Answer(answer)) => self.link.receive(&answer),
            Err(error) => tracing::warn!("not sent: {error}"),
        }
        self.link.took(length);
        Ok(())
    }

    /// Delivers one message of a connection; gives the answer that it gets
    /// instead.
    fn incoming(
        &self,
        from: ConnectionId,
        message: &mut [u8],
    ) -> Result<Option<Vec<u8>>, PipeError> {
        // Held until the message is delivered, so that a number that is free
        // again is not given to the engine twice at a time.
        let mut route = self.route();
        match route.incoming(from, message) {
            Ok(Incoming::Deliver) => self.link.receive(message),
            Ok(Incoming::Answer(answer)) => return Ok(Some(answer)),
            Ok(Incoming::Drop) => {}
            Err(error @ RouteError::Type(_)) => tracing::warn!("from ssh: {error}"),
            Err(error) => return Err(PipeError::Mux(error.to_string())),
        }
        Ok(None)
    }
}

impl Pipe {
    /// Carries messages until the outbox is closed, or ssh ends: then the error
    /// has ssh's own words. Either way, and when the future is dropped, ssh is
    /// ended and its directory removed.
    pub async fn run(self, link: Link) -> Result<(), PipeError> {
        let Self { master, proxy, control, caller_address } = self;
        let (far, output) = Far::new();
        let mut route = Route::new();
        let far_id = route.add(Kind::Listener);
        let shared = Arc::new(Shared {
            link,
            route: Mutex::new(route),
            writers: Mutex::default(),
            far,
            far_id,
            requests: Requests::default(),
        });
        let mut tasks = JoinSet::new();
        // Declared after the tasks: when this future is dropped, ssh is told to
        // end before its connections are closed.
        let mut master = master;
        let id = attach(&shared, proxy, Kind::Master, &mut tasks);
        tasks.spawn(far_side(Arc::clone(&shared), output));
        let (path, dir) = (master.control(), master.dir().to_owned());
        let forwards = Forwards::new(Arc::clone(&shared), control, path, dir, caller_address);
        tasks.spawn(forwards.serve());

        let engine = async {
            while let Some(message) = shared.link.next().await {
                shared.outgoing(message)?;
            }
            Ok(())
        };
        let ended = tokio::select! {
            ended = engine => ended,
            ended = first_error(&mut tasks) => Err(ended),
            () = master.exited() => Err(master.ended().await),
        };
        let ended = match ended {
            Ok(()) => {
                shared.settle(id, &mut tasks).await;
                Ok(())
            }
            Err(ended @ PipeError::Mux(_)) => Err(master.broken(ended).await),
            ended => ended,
        };
        master.stop().await;
        tasks.shutdown().await;
        ended
    }
}

impl Shared {
    /// Gives the last messages time to get through ssh.
    async fn settle(&self, id: ConnectionId, tasks: &mut JoinSet<Result<(), PipeError>>) {
        self.far.settle(SETTLE).await;
        let Some(writer) = self.writers().remove(&id) else { return };
        // The writer of the connection for dials ends, but does not close it.
        let written = async {
            drop(writer);
            while let Some(ended) = tasks.join_next().await {
                if matches!(ended, Ok(Ok(()))) {
                    break;
                }
            }
        };
        if timeout(DRAIN, written).await.is_err() {
            tracing::warn!("ssh does not take the last messages");
            return;
        }
        // The peer's CLOSE shows that ours got there.
        let closed = async {
            while self.route().channels(id) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(SETTLE, closed).await;
    }
}

async fn first_error(tasks: &mut JoinSet<Result<(), PipeError>>) -> PipeError {
    match tasks.join_next().await {
        Some(Ok(Err(error))) => error,
        Some(Ok(Ok(()))) | None => PipeError::Mux("connection closed by ssh".to_owned()),
        Some(Err(error)) => PipeError::Mux(format!("task ended: {error}")),
    }
}

/// Puts a proxy connection to work: a task that reads it and one that writes it.
fn attach(
    shared: &Arc<Shared>,
    stream: UnixStream,
    kind: Kind,
    tasks: &mut JoinSet<Result<(), PipeError>>,
) -> ConnectionId {
    let id = shared.route().add(kind);
    let (read, write) = stream.into_split();
    let (writer, messages) = mpsc::unbounded_channel();
    shared.writers().insert(id, writer);
    let buffer = if kind == Kind::Master { BATCH } else { LISTENER_BATCH };
    tasks.spawn(read_proxy(Arc::clone(shared), id, Frames::new(read, buffer)));
    tasks.spawn(write_proxy(Arc::clone(shared), kind, write, messages));
    id
}

/// From ssh to the engine. Ends well only after our own half was shut down.
async fn read_proxy(
    shared: Arc<Shared>,
    id: ConnectionId,
    mut frames: Frames,
) -> Result<(), PipeError> {
    loop {
        match frames.next().await {
            Ok(Some(message)) => {
                if let Some(answer) = shared.incoming(id, message)? {
                    shared.answer(id, answer);
                }
            }
            Ok(None) if !shared.writers().contains_key(&id) => {
                shared.route().remove(id);
                return Ok(());
            }
            Ok(None) => return Err(PipeError::Mux("connection closed by ssh".to_owned())),
            Err(error) => return Err(PipeError::Mux(error.to_string())),
        }
    }
}

/// From the engine to ssh, as much at a time as waits.
async fn write_proxy(
    shared: Arc<Shared>,
    kind: Kind,
    mut stream: OwnedWriteHalf,
    mut messages: mpsc::UnboundedReceiver<Parcel>,
) -> Result<(), PipeError> {
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, MESSAGES).await > 0 {
        // In turns, so that a long queue does not make one long turn of it.
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|parcel| {
                let fits = bytes == 0 || bytes + parcel.message.len() <= BATCH;
                bytes += parcel.message.len();
                fits
            });
            let (now, later) = rest.split_at(fit.count());
            write_frames(&mut stream, now).await.map_err(|e| PipeError::Mux(e.to_string()))?;
            shared.link.took(now.iter().map(|parcel| parcel.taken).sum());
            rest = later;
        }
        batch.clear();
    }
    match kind {
        // ssh dies of its end where a dial has failed.
        Kind::Master => stream.forget(),
        Kind::Listener => drop(stream.shutdown().await),
    }
    Ok(())
}

/// Calls that ssh handed over as sockets, to the engine.
async fn far_side(shared: Arc<Shared>, mut output: FarOutput) -> Result<(), PipeError> {
    loop {
        let mut message = output.next().await?;
        if let Some(answer) = shared.incoming(shared.far_id, &mut message)? {
            shared.far.receive(answer)?;
        }
        tokio::task::coop::consume_budget().await;
    }
}
