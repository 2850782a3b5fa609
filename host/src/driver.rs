//! The driver: the only place where the engine and I/O meet.
//!
//! It owns the engine. An event goes in, the engine answers with effects, and
//! those are performed in order before the next event. It is a lock, not a task:
//! whoever has an event (a 9P connection, the pipe's reader, the timer) brings it
//! itself and leaves with the effects performed. A call of the engine takes a
//! microsecond or two, less than waking another task, and a ping-pong through
//! the file tree pays for each wake-up twice.
//!
//! A request's [`Done`] is called exactly once, with the driver's lock held,
//! perhaps before the call that made the request returns. So it must not wait,
//! and must not call the driver; and no lock that a `Done` takes may be held
//! while the driver is called.
//!
//! Requests complete whatever the component does. One that traps, or does what its
//! contract does not let it do, is not asked again: all that waits ends with an
//! error, and so does the session. What it says is passed on to logs and users as
//! text that can be shown, and no faster than somebody can read it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};

use crate::engine::{
    ClientId, ClientInfo, Completion, Effect, Effects, Engine, EngineError, Error, ErrorCode,
    Limits, Protocol, Reply, Statistics, TextFile,
};
use crate::notice::{escaped, printable};
use crate::pipe::{Link, Outbox, Upstream};
use crate::warnings::FAR;

/// How a request ended.
pub type Outcome = Result<Reply, Error>;

/// Called once with the outcome of a request.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Names a request that may be outstanding.
pub type RequestId = u64;

/// A time that the engine has not been told is at most this old, in microseconds.
/// The engine measures round trips, and what it does differs below two milliseconds
/// and above; so it costs up to 4,000 of its shortest calls a second.
const TIME_STEP: u64 = 250;
/// How far two clocks that were not set are apart at most: one is looked at after
/// the other.
const CLOCKS_AGREE: Duration = Duration::from_secs(2);
/// How long the timer waits at least from one wake-up to the next, for the engine
/// may ask for one at once each time.
const TIMER_STEP: Duration = Duration::from_millis(1);
/// Bytes of a message that the engine sends, at most: several times those of a
/// lawful one.
const MESSAGE_MAX: usize = 256 << 10;
/// Bytes that may wait for the pipe whatever the engine's limits.
const PIPE_MIN: u64 = 4 << 20;
/// Bytes of the reason for which the engine gives up.
const REASON_MAX: usize = 400;

/// A session's driver. Clones are the same driver.
#[derive(Clone)]
pub struct Driver {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    made: Instant,
    limits: Limits,
    /// The engine asked for another wake-up time, or the driver is gone.
    wake: Arc<Notify>,
    /// Why the pipe has to end, or the engine is gone.
    failure: watch::Sender<Option<String>>,
}

/// A request that is outstanding.
struct Pending {
    expects: Expects,
    done: Done,
}

/// What a request is completed with, if it is not with an error.
#[derive(Clone, Copy)]
enum Expects {
    Client,
    Done,
    /// So many bytes at most.
    Data(usize),
    /// So many at most.
    Count(usize),
}

impl Expects {
    fn allows(self, reply: &Reply) -> bool {
        match (self, reply) {
            (Self::Client, Reply::Client(_)) | (Self::Done, Reply::Done) => true,
            (Self::Data(most), Reply::Data(bytes)) => bytes.len() <= most,
            (Self::Count(most), Reply::Count(count)) => *count as usize <= most,
            _ => false,
        }
    }
}

struct State {
    /// `None` once it has trapped or broken its contract.
    engine: Option<Engine>,
    pending: HashMap<RequestId, Pending>,
    last_request: RequestId,
    told: u64,
    /// When the session began, by the clock on the wall.
    began: SystemTime,
    wake_at: Option<u64>,
    pipe: Option<Arc<Outbox>>,
    /// Bytes of messages that the pipe has not taken.
    in_pipe: u64,
    /// Counts the pipes, so that a late word of an old one is not taken for the
    /// new one's.
    pipe_number: u64,
}

impl Driver {
    /// Drives this engine; there is no pipe yet. Must be called within a tokio
    /// runtime, which then runs the engine's timer.
    pub fn new(engine: Engine) -> Self {
        let limits = *engine.limits();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                engine: Some(engine),
                pending: HashMap::new(),
                last_request: 0,
                told: 0,
                began: SystemTime::now(),
                wake_at: None,
                pipe: None,
                in_pipe: 0,
                pipe_number: 0,
            }),
            made: Instant::now(),
            limits,
            wake: Arc::new(Notify::new()),
            failure: watch::Sender::new(None),
        });
        tokio::spawn(timer(Arc::downgrade(&shared)));
        Self { shared }
    }

    /// There is a pipe: the engine may use it from now on.
    pub fn pipe_up(&self) -> Link {
        let outbox = Arc::new(Outbox::new());
        let mut state = self.lock();
        if let Some(old) = state.pipe.replace(Arc::clone(&outbox)) {
            old.close();
            self.event(&mut state, |engine| engine.pipe_down("another pipe took its place"));
        }
        state.pipe_number += 1;
        state.in_pipe = 0;
        let end = PipeEnd { driver: self.clone(), number: state.pipe_number };
        if state.engine.is_some() {
            self.shared.failure.send_replace(None);
        } else {
            outbox.close();
        }
        self.event(&mut state, Engine::pipe_up);
        drop(state);
        Link::new(Arc::new(end), outbox)
    }

    /// The pipe is gone, for this reason.
    pub fn pipe_down(&self, reason: &str) {
        let mut state = self.lock();
        if let Some(pipe) = state.pipe.take() {
            pipe.close();
            state.pipe_number += 1;
            self.event(&mut state, |engine| engine.pipe_down(reason));
        }
    }

    /// Ends the session: every request is completed, every channel closed. The
    /// pipe stays, so that the peer's answers can be awaited.
    pub fn shutdown(&self, reason: &str) {
        let mut state = self.lock();
        self.event(&mut state, |engine| engine.shutdown(reason));
        if let Some(request) = state.pending.keys().next().copied() {
            let what = format!("it left request {request} open when it was shut down");
            self.die(&mut state, &EngineError::Breach(what));
        }
    }

    /// Lets the pipe end once it has sent what it was given.
    pub fn end_pipe(&self) {
        if let Some(pipe) = &self.lock().pipe {
            pipe.close();
        }
    }

    /// Whether the engine is gone, and so nothing can be done any more.
    pub fn is_gone(&self) -> bool {
        self.lock().engine.is_none()
    }

    /// Waits until the engine is gone or has had to give up the pipe, and says why.
    pub async fn failure(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives in `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Makes a client. Completes with [`Reply::Client`].
    pub fn clone_client(&self, protocol: Protocol, done: Done) -> RequestId {
        self.request(Expects::Client, done, |engine, request| {
            engine.clone_client(request, protocol)
        })
    }

    /// Carries out control messages. Completes with [`Reply::Done`].
    pub fn control(&self, client: ClientId, text: &[u8], done: Done) -> RequestId {
        self.request(Expects::Done, done, |engine, request| engine.control(request, client, text))
    }

    /// Reads from a conversation. Completes with [`Reply::Data`].
    pub fn read(&self, client: ClientId, count: u32, done: Done) -> RequestId {
        let expects = Expects::Data(count as usize);
        self.request(expects, done, |engine, request| engine.read(request, client, count))
    }

    /// Writes to a conversation. Completes with [`Reply::Count`].
    pub fn write(&self, client: ClientId, bytes: &[u8], done: Done) -> RequestId {
        let expects = Expects::Count(bytes.len());
        self.request(expects, done, |engine, request| engine.write(request, client, bytes))
    }

    /// Takes a call. Completes with [`Reply::Client`].
    pub fn listen(&self, client: ClientId, done: Done) -> RequestId {
        self.request(Expects::Client, done, |engine, request| engine.listen(request, client))
    }

    /// Gives up on a request: when this returns it is completed.
    pub fn flush(&self, request: RequestId) {
        let mut state = self.lock();
        if !state.pending.contains_key(&request) {
            return;
        }
        self.event(&mut state, |engine| engine.flush(request));
        if let Some(pending) = state.pending.remove(&request) {
            (pending.done)(Err(interrupted()));
            let what = format!("it did not complete request {request} when that was flushed");
            self.die(&mut state, &EngineError::Breach(what));
        }
    }

    /// One more open file refers to this client.
    pub fn retain(&self, client: ClientId) -> Result<(), Error> {
        self.question(|engine| engine.retain(client)).and_then(|answer| answer)
    }

    /// An open file that referred to this client is gone.
    pub fn release(&self, client: ClientId) {
        let mut state = self.lock();
        self.event(&mut state, |engine| engine.release(client));
    }

    /// The client that has this number now.
    pub fn lookup(&self, number: u32) -> Result<Option<ClientInfo>, Error> {
        self.question(|engine| engine.lookup(number))
    }

    /// What a client's `local`, `remote` or `status` reads.
    pub fn text(&self, client: ClientId, file: TextFile) -> Result<String, Error> {
        self.question(|engine| engine.text(client, file)).and_then(|answer| answer).map(plain)
    }

    /// Answers a `cs` query.
    pub fn translate(&self, query: &str) -> Result<String, Error> {
        self.question(|engine| engine.translate(query)).and_then(|answer| answer).map(plain)
    }

    /// Every client, by number.
    pub fn clients(&self) -> Result<Vec<ClientInfo>, Error> {
        self.question(Engine::clients)
    }

    /// When it was this late in the session, counted back from now: what was a
    /// minute ago stays that when the clock is set. Time that the machine slept does
    /// not count.
    pub fn wall_clock(&self, at: u64) -> SystemTime {
        let session = Duration::from_micros(self.now());
        let began = SystemTime::now().checked_sub(session).unwrap_or(UNIX_EPOCH);
        let mut state = self.lock();
        // The answer is to be the same each time.
        let moved = began.duration_since(state.began).unwrap_or_else(|error| error.duration());
        if moved > CLOCKS_AGREE {
            state.began = began;
        }
        state.began.checked_add(Duration::from_micros(at)).unwrap_or(began)
    }

    /// Figures of the session.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        self.question(Engine::statistics)
    }

    /// What the engine was told that it may hold.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Requests not yet completed.
    pub fn outstanding(&self) -> usize {
        self.lock().pending.len()
    }

    fn request(
        &self,
        expects: Expects,
        done: Done,
        call: impl FnOnce(&mut Engine, RequestId) -> Effects,
    ) -> RequestId {
        let mut state = self.lock();
        state.last_request += 1;
        let request = state.last_request;
        if state.engine.is_none() {
            done(Err(gone()));
        } else {
            state.pending.insert(request, Pending { expects, done });
            self.event(&mut state, |engine| call(engine, request));
        }
        request
    }

    fn question<T>(
        &self,
        ask: impl FnOnce(&mut Engine) -> Result<T, EngineError>,
    ) -> Result<T, Error> {
        let mut state = self.lock();
        let Some(engine) = &mut state.engine else { return Err(gone()) };
        match ask(engine) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.die(&mut state, &error);
                Err(gone())
            }
        }
    }

    /// Tells the engine the time, then the event, and performs the effects.
    fn event(&self, state: &mut State, call: impl FnOnce(&mut Engine) -> Effects) {
        let now = self.now();
        if now >= state.told + TIME_STEP {
            state.told = now;
            self.engine_call(state, |engine| engine.advance(now));
        }
        self.engine_call(state, call);
    }

    fn engine_call(&self, state: &mut State, call: impl FnOnce(&mut Engine) -> Effects) {
        let Some(engine) = &mut state.engine else { return };
        match call(engine) {
            Ok(effects) => self.perform(state, effects),
            Err(error) => self.die(state, &error),
        }
    }

    fn perform(&self, state: &mut State, effects: Vec<Effect>) {
        for effect in effects {
            let performed = match effect {
                Effect::Send(message) => self.send(state, message),
                Effect::Complete(completion) => complete(state, completion),
                Effect::Wake(at) => {
                    state.wake_at = Some(at);
                    self.shared.wake.notify_one();
                    Ok(())
                }
                Effect::Warn(what) => {
                    FAR.warn(format_args!("{}", printable(what, REASON_MAX)));
                    Ok(())
                }
                Effect::Fail(reason) => {
                    if let Some(pipe) = state.pipe.take() {
                        pipe.close();
                        state.pipe_number += 1;
                    }
                    self.fail(printable(reason, REASON_MAX));
                    Ok(())
                }
            };
            if let Err(what) = performed {
                return self.die(state, &EngineError::Breach(what));
            }
        }
    }

    fn send(&self, state: &mut State, message: Vec<u8>) -> Result<(), String> {
        let size = message.len();
        if size == 0 || size > MESSAGE_MAX {
            return Err(format!("it sent a message of {size} bytes"));
        }
        let Some(pipe) = &state.pipe else {
            FAR.warn(format_args!("the core sent a message without a pipe"));
            return Ok(());
        };
        state.in_pipe += size as u64;
        // It counts for itself, and may go past its limit by what is urgent: but not
        // as far as that.
        let limits = &self.shared.limits;
        let most = 4 * (u64::from(limits.room) + u64::from(limits.control)) + PIPE_MIN;
        if state.in_pipe > most {
            return Err(format!("it sent {} bytes before the pipe took any", state.in_pipe));
        }
        pipe.push(message);
        Ok(())
    }

    /// The engine is gone: nothing waits for it any more.
    fn die(&self, state: &mut State, error: &EngineError) {
        if let EngineError::Trap(trap) = error {
            tracing::info!("{}", trap.trace());
        }
        state.engine = None;
        state.wake_at = None;
        if let Some(pipe) = state.pipe.take() {
            pipe.close();
        }
        for (_, pending) in state.pending.drain() {
            (pending.done)(Err(gone()));
        }
        self.fail(error.to_string());
    }

    fn fail(&self, reason: String) {
        self.shared.failure.send_replace(Some(reason));
    }

    fn now(&self) -> u64 {
        u64::try_from(self.shared.made.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A `Done` that panicked has been taken out; the state is whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text of the engine's as a file of it can hold it, which may be shown on a
/// terminal. Ours writes control characters out itself.
fn plain(text: String) -> String {
    escaped(text, |c| c.is_control() && c != '\n')
}

/// Ends a request as the engine says.
fn complete(state: &mut State, completion: Completion) -> Result<(), String> {
    let Completion { request, outcome } = completion;
    let Some(pending) = state.pending.remove(&request) else {
        return Err(format!("it completed request {request}, which is not outstanding"));
    };
    if outcome.as_ref().is_ok_and(|reply| !pending.expects.allows(reply)) {
        (pending.done)(Err(gone()));
        return Err(format!("it completed request {request} with what was not asked for"));
    }
    (pending.done)(outcome);
    Ok(())
}

/// How a request ends that was given up.
pub(crate) fn interrupted() -> Error {
    Error { code: ErrorCode::Interrupted, message: "interrupted".to_owned() }
}

fn gone() -> Error {
    Error { code: ErrorCode::Other, message: "the protocol engine has failed".into() }
}

/// Tells the engine the time when it asked for that, as long as there is a driver.
async fn timer(shared: std::sync::Weak<Shared>) {
    loop {
        let Some(driver) = shared.upgrade().map(|shared| Driver { shared }) else { return };
        let (wait, due) = {
            let mut state = driver.lock();
            let now = driver.now();
            let due = state.wake_at.is_some_and(|at| at <= now);
            if due {
                state.wake_at = None;
                state.told = now;
                driver.engine_call(&mut state, |engine| engine.advance(now));
            }
            let wait = state.wake_at.map(|at| at.saturating_sub(driver.now()));
            (wait.map(Duration::from_micros), due)
        };
        // The driver may go while this waits.
        let wake = Arc::clone(&driver.shared.wake);
        drop(driver);
        if due {
            tokio::time::sleep(TIMER_STEP).await;
        }
        match wait {
            None => wake.notified().await,
            Some(wait) => {
                tokio::select! {
                    () = wake.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// What a pipe sees of the driver, for as long as it is the driver's pipe.
struct PipeEnd {
    driver: Driver,
    number: u64,
}

impl PipeEnd {
    fn event(&self, call: impl FnOnce(&mut Engine) -> Effects) {
        let mut state = self.driver.lock();
        if state.pipe_number == self.number {
            self.driver.event(&mut state, call);
        }
    }
}

impl Upstream for PipeEnd {
    fn receive(&self, message: &[u8]) {
        self.event(|engine| engine.receive(message));
    }

    fn took(&self, bytes: u64) {
        let mut state = self.driver.lock();
        if state.pipe_number == self.number {
            state.in_pipe = state.in_pipe.saturating_sub(bytes);
            self.driver.event(&mut state, |engine| engine.pipe_took(bytes));
        }
    }
}
