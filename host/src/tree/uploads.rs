//! Writes that wait.
//!
//! A write that the far side has no room for waits, for as long as its reader
//! likes, and what waits in the stack counts against one limit for all. So that
//! those who wait never make others fail, a conversation has only a part of that
//! limit at a time: see [`Inside`]. What is beyond is parked here, in order, and
//! handed on as the stack gets rid of what it has. A write that finds nothing
//! parked and room in its part goes straight to the stack.
//!
//! ```text
//!    write --fits--------------------------> the stack --> done
//!      |                                      ^    |
//!      +--does not--> parked --feed-----------+    | what is over wakes the feeder
//!                        ^                         |
//!                        +--there is a rest of it--+
//! ```
//!
//! Nobody sees the difference: a write is answered once; what is behind it in the
//! conversation stays behind; one that is flushed or fails when a part of it was
//! taken is answered with that part, and nothing more of it is sent. Knows no fids
//! and no files; of control messages only which ones matter here.
//!
//! What is over is told within a callback of the stack's, which must not call it.
//! So one task feeds; or whoever parks a write where nothing is under way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{RequestId, Stack};
use crate::driver::{self, Done, Outcome};
use crate::engine::{ClientId, Error, ErrorCode, Reply};

/// Bytes that may be parked, of all conversations together.
pub(super) const PARKED_MAX: u64 = 1 << 30;
/// Bytes of a conversation that the stack has at a time, at most: what keeps it
/// busy while its writer is told of one write and makes the next.
const INSIDE_MAX: u64 = 2 << 20;
/// Which part of what is free a conversation may take.
const PART: u64 = 64;
/// What a conversation is always sure of, at most.
const FLOOR_MAX: u64 = 32 << 10;

/// What the conversations have in the stack, and what each may have.
///
/// A quarter of the stack's limit is set aside, so that each client is sure of a
/// little. The rest is a pool, of which each gets at most a part of what is free:
/// there is always something left for the next, and the limit is never reached.
#[derive(Debug)]
struct Inside {
    floor: u64,
    pool: u64,
    /// What is taken of the pool.
    used: u64,
}

impl Inside {
    fn new(limit: u64, clients: u32) -> Self {
        let clients = u64::from(clients.max(1));
        let floor = (limit / 4 / clients).clamp(1, FLOOR_MAX);
        Self { floor, pool: limit.saturating_sub(floor.saturating_mul(clients)), used: 0 }
    }

    /// What a conversation may have now.
    fn most(&self) -> u64 {
        let free = self.pool.saturating_sub(self.used);
        self.floor.saturating_add(free / PART).min(INSIDE_MAX)
    }

    /// What a conversation has went from one size to another.
    fn change(&mut self, from: u64, to: u64) {
        let above = |size: u64| size.saturating_sub(self.floor);
        self.used = (self.used + above(to)).saturating_sub(above(from));
    }
}

/// See the module.
pub(super) struct Uploads {
    stack: Arc<dyn Stack>,
    state: Mutex<State>,
    /// Held by who hands on what is parked, and by who takes it back: so that the
    /// stack's name for a piece is known by then. No callback takes it.
    turn: Mutex<()>,
    /// Something of this client's is over, and more is parked.
    over: mpsc::UnboundedSender<ClientId>,
}

struct State {
    /// Those of which something is inside or parked.
    conversations: HashMap<ClientId, Conversation>,
    parked: HashMap<u64, Parked>,
    last: u64,
    /// Bytes that are parked.
    waiting: u64,
    inside: Inside,
}

#[derive(Default)]
struct Conversation {
    /// Bytes that the stack has.
    inside: u64,
    /// What is parked, in order; the first may be inside in part. While it is not
    /// empty, something is inside or the feeder has been told.
    order: VecDeque<u64>,
}

/// A request that did not go straight to the stack.
struct Parked {
    client: ClientId,
    kind: Kind,
    /// What the stack was not given yet.
    rest: Bytes,
    stage: Stage,
    done: Done,
}

enum Kind {
    Write {
        /// Bytes that the stack took.
        taken: u32,
    },
    Control,
}

/// ```text
///             feed             its name             over, all or in part
///    waits ---------> called ---------> asked -------------------------> gone
///      ^                |                 |
///      +----------------+-----------------+ over, and there is a rest
/// ```
enum Stage {
    Waits,
    /// The stack is being called.
    Called,
    /// The stack has it under this name.
    Asked(driver::RequestId),
}

/// What the stack is to be given next.
enum Next {
    Write(Bytes),
    Control(Bytes),
}

/// Requests that are over, to be told when no lock is held.
type Over = Vec<(Done, Outcome)>;

/// What becomes of a write at first.
enum Way {
    Straight,
    Parked {
        id: u64,
        /// Nothing is under way that would wake the feeder.
        first: bool,
    },
    Refused,
}

impl Uploads {
    /// Nothing waits. Must be called within a tokio runtime, which then feeds.
    pub(super) fn new(stack: Arc<dyn Stack>) -> Arc<Self> {
        let capacity = stack.capacity();
        let (over, mut woken) = mpsc::unbounded_channel();
        let uploads = Arc::new(Self {
            stack,
            state: Mutex::new(State {
                conversations: HashMap::new(),
                parked: HashMap::new(),
                last: 0,
                waiting: 0,
                inside: Inside::new(capacity.queued, capacity.clients),
            }),
            turn: Mutex::new(()),
            over,
        });
        let feeding = Arc::downgrade(&uploads);
        tokio::spawn(async move {
            while let Some(client) = woken.recv().await {
                let Some(uploads) = feeding.upgrade() else { return };
                uploads.feed(client);
            }
        });
        uploads
    }

    /// Writes bytes to a conversation. Completes as the stack's `write` does.
    pub(super) fn write(
        self: &Arc<Self>,
        client: ClientId,
        bytes: &[u8],
        done: Done,
    ) -> Option<RequestId> {
        if bytes.is_empty() {
            // It says whether one may write, and waits for nothing.
            return Some(RequestId::Stack(self.stack.write(client, bytes, done)));
        }
        let count = bytes.len() as u64;
        let mut state = self.lock();
        match state.way(client, count) {
            Way::Straight => {
                state.enter(client, count);
                drop(state);
                let uploads = Arc::clone(self);
                let done =
                    Box::new(move |outcome| uploads.straight_over(client, count, done, outcome));
                Some(RequestId::Stack(self.stack.write(client, bytes, done)))
            }
            Way::Refused => {
                drop(state);
                done(Err(refusal()));
                None
            }
            Way::Parked { id, first } => {
                let rest = Bytes::copy_from_slice(bytes);
                state.park(id, Parked::new(client, Kind::Write { taken: 0 }, rest, done));
                drop(state);
                if first {
                    self.feed(client);
                }
                Some(RequestId::Upload(id))
            }
        }
    }

    /// Carries out control messages. Completes as the stack's `control` does.
    pub(super) fn control(
        self: &Arc<Self>,
        client: ClientId,
        text: &[u8],
        done: Done,
    ) -> Option<RequestId> {
        let mut state = self.lock();
        if ends_writing(text) && state.has_parked(client) {
            if state.waiting.saturating_add(text.len() as u64) > PARKED_MAX {
                drop(state);
                done(Err(refusal()));
                return None;
            }
            let id = state.next_id();
            let text = Bytes::copy_from_slice(text);
            state.park(id, Parked::new(client, Kind::Control, text, done));
            return Some(RequestId::Upload(id));
        }
        drop(state);
        Some(RequestId::Stack(self.control_now(client, text, done)))
    }

    /// A client that has dialled has another conversation: what was parked for the
    /// last one must not reach this one.
    fn control_now(
        self: &Arc<Self>,
        client: ClientId,
        text: &[u8],
        done: Done,
    ) -> driver::RequestId {
        if !dials(text) {
            return self.stack.control(client, text, done);
        }
        let uploads = Arc::clone(self);
        let dialled = Box::new(move |outcome: Outcome| {
            let mut over = Over::new();
            if outcome.is_ok() {
                uploads.lock().end(client, &hung_up(), &mut over);
            }
            tell(over);
            done(outcome);
        });
        self.stack.control(client, text, dialled)
    }

    /// Gives up on what was parked under this number: when this returns it is
    /// completed.
    pub(super) fn flush(&self, id: u64) {
        let turn = lock(&self.turn);
        let mut over = Over::new();
        let asked = self.lock().give_up(id, &mut over);
        if let Some(asked) = asked {
            self.stack.flush(asked);
        }
        drop(turn);
        tell(over);
    }

    /// Bytes that may still be parked.
    pub(super) fn free(&self) -> u64 {
        PARKED_MAX.saturating_sub(self.lock().waiting)
    }

    /// Gives the stack what it may have of what is parked for this client.
    fn feed(self: &Arc<Self>, client: ClientId) {
        loop {
            let turn = lock(&self.turn);
            let Some((id, next)) = self.lock().next(client) else { return };
            let uploads = Arc::clone(self);
            let request = match next {
                Next::Write(piece) => {
                    let count = piece.len() as u64;
                    let done =
                        Box::new(move |outcome| uploads.piece_over(client, id, count, outcome));
                    self.stack.write(client, &piece, done)
                }
                Next::Control(text) => {
                    let done = Box::new(move |outcome| uploads.control_over(id, outcome));
                    self.control_now(client, &text, done)
                }
            };
            self.lock().called(client, id, request);
            drop(turn);
        }
    }

    /// A write that went straight to the stack is over.
    fn straight_over(&self, client: ClientId, count: u64, done: Done, outcome: Outcome) {
        let mut behind = Over::new();
        {
            let mut state = self.lock();
            state.leave(client, count);
            self.after(&mut state, client, outcome.as_ref().err(), &mut behind);
        }
        done(outcome);
        tell(behind);
    }

    /// A piece of a parked write is over.
    fn piece_over(&self, client: ClientId, id: u64, count: u64, outcome: Outcome) {
        let mut over = Over::new();
        {
            let mut state = self.lock();
            state.leave(client, count);
            let error = outcome.as_ref().err().cloned();
            state.piece_over(id, count, outcome, &mut over);
            self.after(&mut state, client, error.as_ref(), &mut over);
        }
        tell(over);
    }

    fn control_over(&self, id: u64, outcome: Outcome) {
        let parked = self.lock().take(id);
        if let Some(parked) = parked {
            (parked.done)(outcome);
        }
    }

    /// What is behind a request that is over: it has failed, too, where the
    /// conversation has; else it may be its turn.
    fn after(&self, state: &mut State, client: ClientId, error: Option<&Error>, over: &mut Over) {
        if let Some(error) = error
            && !matches!(error.code, ErrorCode::Interrupted | ErrorCode::ResourceExhausted)
        {
            state.end(client, error, over);
        }
        if state.has_parked(client) && self.over.send(client).is_err() {
            tracing::debug!(
                "what is parked for client {} stays: the tree has ended",
                client.number
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Parked {
    fn new(client: ClientId, kind: Kind, rest: Bytes, done: Done) -> Self {
        Self { client, kind, rest, stage: Stage::Waits, done }
    }

    /// What was taken of it; if nothing, how it ended last.
    fn outcome(&self, last: Outcome) -> Outcome {
        match self.kind {
            Kind::Write { taken: taken @ 1.. } => Ok(Reply::Count(taken)),
            Kind::Write { .. } | Kind::Control => last,
        }
    }
}

impl State {
    fn has_parked(&self, client: ClientId) -> bool {
        self.conversations.get(&client).is_some_and(|c| !c.order.is_empty())
    }

    fn next_id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn way(&mut self, client: ClientId, count: u64) -> Way {
        let (inside, parked) = match self.conversations.get(&client) {
            Some(conversation) => (conversation.inside, conversation.order.len()),
            None => (0, 0),
        };
        if parked == 0 && inside.saturating_add(count) <= self.inside.most() {
            return Way::Straight;
        }
        if self.waiting.saturating_add(count) > PARKED_MAX {
            return Way::Refused;
        }
        Way::Parked { id: self.next_id(), first: parked == 0 && inside == 0 }
    }

    fn park(&mut self, id: u64, parked: Parked) {
        self.waiting += parked.rest.len() as u64;
        self.conversations.entry(parked.client).or_default().order.push_back(id);
        self.parked.insert(id, parked);
    }

    /// The stack gets so many bytes of a conversation.
    fn enter(&mut self, client: ClientId, count: u64) {
        let conversation = self.conversations.entry(client).or_default();
        self.inside.change(conversation.inside, conversation.inside + count);
        conversation.inside += count;
    }

    /// The stack is rid of them.
    fn leave(&mut self, client: ClientId, count: u64) {
        if let Some(conversation) = self.conversations.get_mut(&client) {
            let rest = conversation.inside.saturating_sub(count);
            self.inside.change(conversation.inside, rest);
            conversation.inside = rest;
        }
        self.tidy(client);
    }

    fn tidy(&mut self, client: ClientId) {
        if self.conversations.get(&client).is_some_and(|c| c.inside == 0 && c.order.is_empty()) {
            self.conversations.remove(&client);
        }
    }

    /// Takes the next of what is parked, if the stack may have it now: a whole
    /// write where there is room for it, else as much as may be, alone.
    fn next(&mut self, client: ClientId) -> Option<(u64, Next)> {
        let conversation = self.conversations.get(&client)?;
        let (inside, id) = (conversation.inside, *conversation.order.front()?);
        let parked = self.parked.get_mut(&id)?;
        if !matches!(parked.stage, Stage::Waits) {
            return None;
        }
        let count = match parked.kind {
            Kind::Control => parked.rest.len(),
            Kind::Write { .. } => {
                let most = self.inside.most();
                let room = usize::try_from(most.saturating_sub(inside)).unwrap_or(usize::MAX);
                if parked.rest.len() > room && inside > 0 {
                    return None;
                }
                parked.rest.len().min(room)
            }
        };
        let piece = parked.rest.split_to(count);
        parked.stage = Stage::Called;
        self.waiting -= count as u64;
        let next = match parked.kind {
            Kind::Control => Next::Control(piece),
            Kind::Write { .. } => Next::Write(piece),
        };
        if matches!(next, Next::Write(_)) {
            self.enter(client, count as u64);
        }
        Some((id, next))
    }

    /// The stack was called with what [`State::next`] gave; it may be over by now.
    fn called(&mut self, client: ClientId, id: u64, request: driver::RequestId) {
        let Some(parked) = self.parked.get_mut(&id) else { return };
        if matches!(parked.stage, Stage::Called) {
            parked.stage = Stage::Asked(request);
        }
        if parked.rest.is_empty() {
            self.unlist(client, id);
        }
    }

    /// A piece is over: so is its write if that was the last of it, or if it was
    /// not taken whole.
    fn piece_over(&mut self, id: u64, count: u64, outcome: Outcome, over: &mut Over) {
        let Some(parked) = self.parked.get_mut(&id) else { return };
        if let (Kind::Write { taken }, Ok(Reply::Count(more))) = (&mut parked.kind, &outcome) {
            let more = u64::from(*more).min(count);
            *taken = taken.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
            if more == count && !parked.rest.is_empty() {
                parked.stage = Stage::Waits;
                return;
            }
        }
        if let Some(parked) = self.take(id) {
            let outcome = parked.outcome(outcome);
            over.push((parked.done, outcome));
        }
    }

    /// Gives up on a request: what is not inside is forgotten, and so is all of it
    /// if nothing is. Else this is what the stack calls it.
    fn give_up(&mut self, id: u64, over: &mut Over) -> Option<driver::RequestId> {
        let parked = self.parked.get_mut(&id)?;
        self.waiting -= parked.rest.len() as u64;
        parked.rest.clear();
        match parked.stage {
            Stage::Asked(request) => return Some(request),
            // Its turn is held by who calls; it is completed by the stack.
            Stage::Called => return None,
            Stage::Waits => {}
        }
        if let Some(parked) = self.take(id) {
            let outcome = parked.outcome(Err(interrupted()));
            over.push((parked.done, outcome));
        }
        None
    }

    /// A conversation is over: nothing more of it goes to the stack.
    fn end(&mut self, client: ClientId, error: &Error, over: &mut Over) {
        let Some(conversation) = self.conversations.get_mut(&client) else { return };
        for id in std::mem::take(&mut conversation.order) {
            let Some(parked) = self.parked.get_mut(&id) else { continue };
            self.waiting -= parked.rest.len() as u64;
            parked.rest.clear();
            // The stack completes what it has.
            if matches!(parked.stage, Stage::Waits)
                && let Some(parked) = self.parked.remove(&id)
            {
                let outcome = parked.outcome(Err(error.clone()));
                over.push((parked.done, outcome));
            }
        }
        self.tidy(client);
    }

    /// Takes a request out.
    fn take(&mut self, id: u64) -> Option<Parked> {
        let parked = self.parked.remove(&id)?;
        self.waiting -= parked.rest.len() as u64;
        self.unlist(parked.client, id);
        Some(parked)
    }

    fn unlist(&mut self, client: ClientId, id: u64) {
        if let Some(conversation) = self.conversations.get_mut(&client)
            // They are given up last first, and done first first.
            && let Some(at) = conversation.order.iter().rposition(|other| *other == id)
        {
            conversation.order.remove(at);
        }
        self.tidy(client);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(over: Over) {
    for (done, outcome) in over {
        done(outcome);
    }
}

/// The engine's words, where it is the engine that is full.
fn refusal() -> Error {
    let message = "too many bytes wait to be sent".to_owned();
    Error { code: ErrorCode::ResourceExhausted, message }
}

fn interrupted() -> Error {
    Error { code: ErrorCode::Interrupted, message: "interrupted".to_owned() }
}

fn hung_up() -> Error {
    Error { code: ErrorCode::HungUp, message: "i/o on hungup channel".to_owned() }
}

/// The first words of a text's control messages.
fn verbs(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | 0));
        words.find(|word| !word.is_empty())
    })
}

/// Whether a text begins with what takes effect after the writes before it. (What
/// is before that and means nothing may wait as well.)
fn ends_writing(text: &[u8]) -> bool {
    verbs(text).find(|verb| !matches!(*verb, b"accept" | b"keepalive")) == Some(b"closewrite")
}

/// Whether a text may end one conversation and begin another.
fn dials(text: &[u8]) -> bool {
    verbs(text).any(|verb| verb == b"connect")
}

#[cfg(test)]
mod tests;
