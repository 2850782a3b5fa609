//! Messages on their way between the engine and the connections behind the pipe.
//!
//! Each connection has a task that reads it and one that writes it, so that none
//! waits for another; the table (`route`) says whose a message is. Knows neither
//! why there is a connection nor when one is made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sshnet_core::message::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::forwards::Requests;
use super::mux::{Frames, write_frames};
use super::queue::Account;
use super::route::{ConnectionId, Incoming, Kind, Outgoing, Route, RouteError};
use crate::pipe::Link;
use crate::pipe::error::PipeError;
use crate::pipe::far::{Far, FarOutput};
use crate::warnings::FAR;

/// Bytes read at a time from the connection for dials, and written to any.
const BATCH: usize = 256 << 10;
/// Bytes read at a time from the connection of a listener.
const LISTENER_BATCH: usize = 64 << 10;
/// Messages written at a time: a system call takes 1024 pieces.
const MESSAGES: usize = 256;
/// SSH_MSG_GLOBAL_REQUEST.
const GLOBAL_REQUEST: u8 = 80;
/// How long a connection may take nothing before the others go on without it.
const STALL: Duration = Duration::from_millis(250);

/// What works on the connections; of each the connection (of our far side, the
/// master), and how it ended.
pub(super) type Tasks = JoinSet<(ConnectionId, Result<(), PipeError>)>;

/// Where messages for a connection go.
#[derive(Clone)]
enum Destination {
    /// To the task that writes to a proxy connection. What waits there still counts
    /// as not taken, or has a bound of its own.
    Proxy(mpsc::UnboundedSender<Vec<u8>>, Arc<Account>),
    /// To our own far side.
    Far(Arc<Far>),
}

/// What the tasks of one pipe share.
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) requests: Requests,
    /// Somebody is to look after the masters: see [`Route::take_news`].
    pub(super) news: Notify,
    route: Mutex<Route>,
    destinations: Mutex<HashMap<ConnectionId, Destination>>,
}

impl Shared {
    /// Nothing but the way to the engine.
    pub(super) fn new(link: Link, route: Route) -> Self {
        Self {
            link,
            requests: Requests::default(),
            news: Notify::new(),
            route: Mutex::new(route),
            destinations: Mutex::default(),
        }
    }

    /// The table. Who changes it so that a master may have to be looked after calls
    /// [`Shared::tell`] then.
    pub(super) fn route(&self) -> MutexGuard<'_, Route> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn destinations(&self) -> MutexGuard<'_, HashMap<ConnectionId, Destination>> {
        self.destinations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes who looks after the masters, if there is a reason.
    pub(super) fn tell(&self) {
        self.pass_on(&mut self.route());
    }

    fn pass_on(&self, route: &mut Route) {
        if route.take_news() {
            self.news.notify_one();
        }
    }

    /// Whether a connection's writer has not been let go.
    fn attached(&self, id: ConnectionId) -> bool {
        self.destinations().contains_key(&id)
    }

    /// Sends a message of our own to a proxy connection.
    pub(super) fn answer(&self, id: ConnectionId, message: Vec<u8>) {
        if let Some(Destination::Proxy(writer, account)) = self.destinations().get(&id) {
            account.answered(message.len() as u64);
            // Fails where the connection broke, and then nobody misses it.
            let _ = writer.send(message);
        }
    }

    /// Lets a connection's writer end when it has written everything.
    pub(super) fn detach(&self, id: ConnectionId) {
        self.destinations().remove(&id);
    }

    /// Whether everything for a connection was written.
    pub(super) fn is_written(&self, id: ConnectionId) -> bool {
        match self.destinations().get(&id) {
            Some(Destination::Proxy(_, account)) => account.is_empty(),
            Some(Destination::Far(_)) | None => true,
        }
    }

    fn took(&self, bytes: u64) {
        if bytes > 0 {
            self.link.took(bytes);
        }
    }

    /// A connection has ended by itself: so have its channels, and dials that wait
    /// are told these words. Answers how many channels and dials that were.
    pub(super) fn end(&self, id: ConnectionId, words: &str) -> usize {
        // Held until the engine knows, as in `incoming`.
        let mut route = self.route();
        let ended = route.end(id, words);
        for message in &ended.messages {
            self.link.receive(message);
        }
        drop(route);
        for id in &ended.connections {
            let gone = self.destinations().remove(id);
            if let Some(Destination::Proxy(_, account)) = gone {
                self.took(account.end());
            }
        }
        self.tell();
        ended.messages.len()
    }

    /// Sends one message of the engine on its way.
    pub(super) fn outgoing(&self, mut message: Vec<u8>) -> Result<(), PipeError> {
        let length = message.len() as u64;
        if message.first() == Some(&GLOBAL_REQUEST)
            && let Ok(Message::GlobalRequest { want_reply, request }) = Message::decode(&message)
        {
            self.requests.push(want_reply, &request);
            self.link.took(length);
            return Ok(());
        }
        let way = {
            let mut route = self.route();
            let way = route.outgoing(&mut message);
            self.pass_on(&mut route);
            way
        };
        match way {
            Ok(Outgoing::To(id)) => {
                let destination = self.destinations().get(&id).cloned();
                match destination {
                    Some(Destination::Far(far)) => far.receive(message)?,
                    Some(Destination::Proxy(writer, account)) => {
                        // Taken when it is written, as a rule.
                        self.took(account.sent(length));
                        let _ = writer.send(message);
                        return Ok(());
                    }
                    // It has just ended.
                    None => {}
                }
            }
            Ok(Outgoing::Answer(answer)) => self.link.receive(&answer),
            Ok(Outgoing::Drop) => {}
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
        let answer = match route.incoming(from, message) {
            Ok(Incoming::Deliver) => {
                self.link.receive(message);
                None
            }
            Ok(Incoming::Answer(answer)) => Some(answer),
            Ok(Incoming::Drop) => None,
            Err(error @ RouteError::Type(_)) => {
                FAR.warn(format_args!("from ssh: {error}"));
                None
            }
            Err(error) => return Err(PipeError::Mux(error.to_string())),
        };
        self.pass_on(&mut route);
        Ok(answer)
    }
}

/// Puts a proxy connection to a master to work. `of` is the master of a listener;
/// without it the connection is a new master's, for dials.
pub(super) fn attach(
    shared: &Arc<Shared>,
    stream: UnixStream,
    of: Option<ConnectionId>,
    tasks: &mut Tasks,
) -> (ConnectionId, [AbortHandle; 2]) {
    let kind = of.map_or(Kind::Master, Kind::Listener);
    let id = shared.route().add(kind);
    let (read, write) = stream.into_split();
    let (writer, messages) = mpsc::unbounded_channel();
    let account = Arc::new(Account::default());
    shared.destinations().insert(id, Destination::Proxy(writer, Arc::clone(&account)));
    let buffer = if kind == Kind::Master { BATCH } else { LISTENER_BATCH };
    let reading = read_proxy(Arc::clone(shared), id, Frames::new(read, buffer));
    let writing = write_proxy(Arc::clone(shared), kind, write, messages, Arc::clone(&account));
    let shared = Arc::clone(shared);
    let handles = [
        tasks.spawn(async move { (id, reading.await) }),
        tasks.spawn(async move {
            let ended = writing.await;
            shared.took(account.end());
            (id, ended)
        }),
    ];
    (id, handles)
}

/// Puts a far side of our own to work: for the calls that a master hands over, or, with
/// a dialler, for all that there is on a new master.
pub(super) fn attach_far(
    shared: &Arc<Shared>,
    kind: Kind,
    (far, output): (Far, FarOutput),
    tasks: &mut Tasks,
) -> (ConnectionId, Arc<Far>, AbortHandle) {
    let far = Arc::new(far);
    let id = shared.route().add(kind);
    let master = kind.of().unwrap_or(id);
    shared.destinations().insert(id, Destination::Far(Arc::clone(&far)));
    let carrying = far_side(Arc::clone(shared), id, Arc::clone(&far), output);
    let handle = tasks.spawn(async move { (master, carrying.await) });
    (id, far, handle)
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
            Ok(None) if !shared.attached(id) => {
                shared.route().remove(id);
                shared.tell();
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
    mut messages: mpsc::UnboundedReceiver<Vec<u8>>,
    account: Arc<Account>,
) -> Result<(), PipeError> {
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, MESSAGES).await > 0 {
        // In turns, so that a long queue does not make one long turn of it.
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|message| {
                let fits = bytes == 0 || bytes + message.len() <= BATCH;
                bytes += message.len();
                fits
            });
            let (now, later) = rest.split_at(fit.count());
            let mut writing = std::pin::pin!(write_frames(&mut stream, now));
            loop {
                tokio::select! {
                    biased;
                    written = &mut writing => {
                        written.map_err(|error| PipeError::Mux(error.to_string()))?;
                        break;
                    }
                    () = account.passed() => {
                        let error = "it does not take what is sent to it".to_owned();
                        return Err(PipeError::Mux(error));
                    }
                    // Where there is no other, nobody waits for this one in vain.
                    () = tokio::time::sleep(STALL) => if shared.route().masters() > 1 {
                        shared.took(account.stalled());
                    },
                }
            }
            shared.took(account.written(now.iter().map(|message| message.len() as u64).sum()));
            rest = later;
        }
        batch.clear();
    }
    match kind {
        // ssh dies of its end where a dial has failed.
        Kind::Master => stream.forget(),
        Kind::Listener(_) | Kind::Far(_) => drop(stream.shutdown().await),
    }
    Ok(())
}

/// Calls that ssh handed over as sockets, to the engine.
async fn far_side(
    shared: Arc<Shared>,
    id: ConnectionId,
    far: Arc<Far>,
    mut output: FarOutput,
) -> Result<(), PipeError> {
    loop {
        let mut message = output.next().await?;
        if let Some(answer) = shared.incoming(id, &mut message)? {
            far.receive(answer)?;
        }
        tokio::task::coop::consume_budget().await;
    }
}
