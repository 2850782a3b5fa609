//! Writes that wait.
//!
//! A write that the far side has no room for waits, for as long as its reader
//! likes, and what waits in the stack counts against one limit for all. So that
//! those who wait never make others fail, a conversation has only a part of that
//! limit at a time, see [`Inside`], and only [`PIECES_MAX`] requests. What is beyond
//! is parked here, in order, and handed on as the stack gets rid of what it has. A
//! write that finds nothing parked and room in its part goes straight to the stack.
//!
//! ```text
//!    write --fits--------------------------> the stack --> done
//!      |                                      ^    |
//!      +--does not--> parked --feed-----------+    | what is over wakes the feeder
//!                        ^                         |
//!                        +--there is a rest of it--+
//!                        +--it was refused---------+
//! ```
//!
//! The stack may still be full, of what others ask. A write that goes straight is
//! then refused, as without this module. One that was parked is not: a part of it
//! may be on its way, and what is behind it would follow with a hole between. So
//! the refused piece goes back to its place, and is sent later: when something of
//! its conversation is over, or after a while if the stack has nothing of it.
//!
//! Nobody sees the difference: a write is answered once; what is behind it in the
//! conversation stays behind; one that is flushed or fails when a part of it was
//! taken is answered with that part, and nothing more of it is sent. Knows no fids
//! and no files; of control messages only which ones matter here.
//!
//! What is over is told within a callback of the stack's, which must not call it.
//! So one task feeds; or whoever parks a write where nothing is under way. Each
//! hands on only so much at a time, for there is one thread for all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

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
/// Requests of a conversation that the stack has at a time, at most: small writes
/// would else take up all that it takes, in a few bytes.
const PIECES_MAX: usize = 64;
/// Pieces that are handed on before others get their turn.
const FEED_MAX: usize = 256;
/// How long what was refused waits where nothing is under way that would wake the
/// feeder.
const AGAIN: Duration = Duration::from_millis(4);
/// Clients that try again at once, so that a stack that stays full is not kept
/// busy with saying so.
const AGAIN_MAX: usize = 256;

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
    /// Requests of parked writes are made while the stack has fewer than these: the
    /// rest is for those who ask directly.
    crowded: usize,
    /// The feeder's turn has come for this client, of which something is parked.
    over: mpsc::UnboundedSender<ClientId>,
    /// This client is to try again later.
    refused: mpsc::UnboundedSender<ClientId>,
}

struct State {
    /// Those of which something is inside or parked, or to which the feeder is to
    /// come.
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
    /// Requests that the stack has.
    pieces: usize,
    /// Requests that the stack was given so far.
    given: u64,
    /// What is parked, in order, which is that of the numbers; the first may be
    /// inside in part. While it is not empty, something is inside or the feeder is
    /// not away.
    order: VecDeque<u64>,
    feeder: Feeder,
}

/// Where the feeder is, as a conversation sees it. So it is told once and not each
/// time, and two never feed one conversation.
///
/// ```text
///            something is over          its turn
///     away --------------------> told -----------> here --+
///      ^                          ^ |                     | nothing more may go
///      |                          | +---- enough for now -+
///      +--------------------------|-----------------------+
///                                 |                       | refused, nothing inside
///                                 +------- later <--------+
///                                  a while
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Feeder {
    /// It is told when something of the conversation is over.
    #[default]
    Away,
    Told,
    Here,
    /// It will be told after a while.
    Later,
}

/// A request that did not go straight to the stack.
struct Parked {
    client: ClientId,
    kind: Kind,
    /// What the stack did not take yet.
    rest: Bytes,
    /// How much of that it has.
    inside: usize,
    stage: Stage,
    /// Nobody waits for it any more than until it is over.
    flushed: bool,
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
///      +----------------+-----------------+ over, and there is a rest; or refused
/// ```
enum Stage {
    Waits,
    /// The stack is being called.
    Called,
    /// The stack has it under this name.
    Asked(driver::RequestId),
}

/// What the stack was given of a request.
#[derive(Clone, Copy)]
struct Piece {
    client: ClientId,
    id: u64,
    /// Bytes of the conversation.
    count: u64,
    /// Which it is of what the stack was given of the conversation.
    number: u64,
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
        let requests = usize::try_from(capacity.requests).unwrap_or(usize::MAX);
        let (over, woken) = mpsc::unbounded_channel();
        let (refused, later) = mpsc::unbounded_channel();
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
            crowded: requests - requests / 4,
            over,
            refused,
        });
        tokio::spawn(feeding(Arc::downgrade(&uploads), woken));
        tokio::spawn(trying_again(Arc::downgrade(&uploads), later));
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

    /// Gives the stack what it may have of what is parked for this client, or so
    /// much of it that others must have their turn.
    fn feed(self: &Arc<Self>, client: ClientId) {
        if !self.lock().begin(client) {
            return;
        }
        for _ in 0..FEED_MAX {
            if !self.hand_on(client) {
                return;
            }
        }
        self.call_feeder(&mut self.lock(), client, Feeder::Here);
    }

    /// Gives the stack the next piece, if it may have one.
    fn hand_on(self: &Arc<Self>, client: ClientId) -> bool {
        let _turn = lock(&self.turn);
        let spare = self.stack.outstanding() < self.crowded;
        let Some((piece, next)) = self.lock().next(client, spare) else { return false };
        let uploads = Arc::clone(self);
        let request = match next {
            Next::Write(bytes) => {
                let done = Box::new(move |outcome| uploads.piece_over(piece, outcome));
                self.stack.write(client, &bytes, done)
            }
            Next::Control(text) => {
                let again = may_be_repeated(&text);
                let done = Box::new(move |outcome| uploads.control_over(piece, again, outcome));
                self.control_now(client, &text, done)
            }
        };
        self.lock().called(piece, request);
        true
    }

    /// A write that went straight to the stack is over.
    fn straight_over(&self, client: ClientId, count: u64, done: Done, outcome: Outcome) {
        let mut behind = Over::new();
        {
            let mut state = self.lock();
            state.leave(client, count);
            if let Err(error) = &outcome
                && !matches!(error.code, ErrorCode::Interrupted | ErrorCode::ResourceExhausted)
            {
                state.end(client, error, &mut behind);
            }
            self.after(&mut state, client);
        }
        done(outcome);
        tell(behind);
    }

    /// A piece of a parked write is over. What is behind it fails with it: it would
    /// follow on a hole.
    fn piece_over(&self, piece: Piece, outcome: Outcome) {
        let mut over = Over::new();
        {
            let mut state = self.lock();
            state.leave(piece.client, piece.count);
            if is_refusal(&outcome) && state.put_back(piece) {
                self.after_refusal(&mut state, piece.client);
                return;
            }
            let outcome = state.unless_flushed(piece, outcome);
            let error = outcome.as_ref().err().cloned();
            state.piece_over(piece, outcome, &mut over);
            if let Some(error) = error.filter(|error| error.code != ErrorCode::Interrupted) {
                state.end(piece.client, &error, &mut over);
            }
            self.after(&mut state, piece.client);
        }
        tell(over);
    }

    fn control_over(&self, piece: Piece, again: bool, outcome: Outcome) {
        let parked = {
            let mut state = self.lock();
            state.leave(piece.client, piece.count);
            if again && is_refusal(&outcome) && state.put_back(piece) {
                self.after_refusal(&mut state, piece.client);
                return;
            }
            let parked = state.take(piece.id);
            self.after(&mut state, piece.client);
            parked
        };
        if let Some(parked) = parked {
            (parked.done)(outcome);
        }
    }

    /// Something is over: it may be the turn of what is parked.
    fn after(&self, state: &mut State, client: ClientId) {
        self.call_feeder(state, client, Feeder::Away);
    }

    /// A piece is back in its place. The feeder must not try it again at once.
    fn after_refusal(&self, state: &mut State, client: ClientId) {
        let Some(conversation) = state.conversations.get_mut(&client) else { return };
        if !matches!(conversation.feeder, Feeder::Away | Feeder::Here) {
            return;
        }
        conversation.feeder = Feeder::Away;
        if conversation.pieces == 0 {
            conversation.feeder = Feeder::Later;
            self.send(&self.refused, client);
        }
    }

    /// Tells the feeder to come from where it is, if something is parked.
    fn call_feeder(&self, state: &mut State, client: ClientId, from: Feeder) {
        if let Some(conversation) = state.conversations.get_mut(&client)
            && conversation.feeder == from
        {
            conversation.feeder = Feeder::Away;
            if !conversation.order.is_empty() {
                conversation.feeder = Feeder::Told;
                self.send(&self.over, client);
            }
        }
        state.tidy(client);
    }

    fn send(&self, to: &mpsc::UnboundedSender<ClientId>, client: ClientId) {
        if to.send(client).is_err() {
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

/// Feeds those of which something is over, as long as there are uploads.
async fn feeding(uploads: Weak<Uploads>, mut woken: mpsc::UnboundedReceiver<ClientId>) {
    while let Some(client) = woken.recv().await {
        let Some(uploads) = uploads.upgrade() else { return };
        uploads.lock().comes(client);
        uploads.feed(client);
        drop(uploads);
        // There may always be a next client.
        tokio::task::yield_now().await;
    }
}

/// Calls the feeder to those who were refused and whom nothing else would wake.
async fn trying_again(uploads: Weak<Uploads>, mut later: mpsc::UnboundedReceiver<ClientId>) {
    let mut clients = Vec::new();
    while later.recv_many(&mut clients, AGAIN_MAX).await > 0 {
        tokio::time::sleep(AGAIN).await;
        let Some(uploads) = uploads.upgrade() else { return };
        let mut state = uploads.lock();
        for client in clients.drain(..) {
            uploads.call_feeder(&mut state, client, Feeder::Later);
        }
    }
}

impl Parked {
    fn new(client: ClientId, kind: Kind, rest: Bytes, done: Done) -> Self {
        Self { client, kind, rest, inside: 0, stage: Stage::Waits, flushed: false, done }
    }

    /// Bytes that the stack was not given.
    fn unsent(&self) -> usize {
        self.rest.len().saturating_sub(self.inside)
    }

    /// Forgets them, and says how many they were.
    fn cut(&mut self) -> u64 {
        let unsent = self.unsent();
        self.rest.truncate(self.inside);
        unsent as u64
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
        let (inside, pieces, parked) = match self.conversations.get(&client) {
            Some(c) => (c.inside, c.pieces, c.order.len()),
            None => (0, 0, 0),
        };
        let fits = inside.saturating_add(count) <= self.inside.most() && pieces < PIECES_MAX;
        if parked == 0 && fits {
            return Way::Straight;
        }
        if self.waiting.saturating_add(count) > PARKED_MAX {
            return Way::Refused;
        }
        Way::Parked { id: self.next_id(), first: parked == 0 && pieces == 0 }
    }

    fn park(&mut self, id: u64, parked: Parked) {
        self.waiting += parked.rest.len() as u64;
        self.conversations.entry(parked.client).or_default().order.push_back(id);
        self.parked.insert(id, parked);
    }

    /// The stack gets a request with so many bytes of a conversation. Answers with
    /// the number that this is.
    fn enter(&mut self, client: ClientId, count: u64) -> u64 {
        let conversation = self.conversations.entry(client).or_default();
        self.inside.change(conversation.inside, conversation.inside + count);
        conversation.inside += count;
        conversation.pieces += 1;
        conversation.given += 1;
        conversation.given
    }

    /// The stack is rid of it. The conversation is kept for what is done next.
    fn leave(&mut self, client: ClientId, count: u64) {
        if let Some(conversation) = self.conversations.get_mut(&client) {
            let rest = conversation.inside.saturating_sub(count);
            self.inside.change(conversation.inside, rest);
            conversation.inside = rest;
            conversation.pieces = conversation.pieces.saturating_sub(1);
        }
    }

    fn tidy(&mut self, client: ClientId) {
        if self.conversations.get(&client).is_some_and(Conversation::is_over) {
            self.conversations.remove(&client);
        }
    }

    /// The feeder has heard that it was told.
    fn comes(&mut self, client: ClientId) {
        if let Some(conversation) = self.conversations.get_mut(&client)
            && conversation.feeder == Feeder::Told
        {
            conversation.feeder = Feeder::Away;
        }
        self.tidy(client);
    }

    /// Whether this one feeds: else another does, or will.
    fn begin(&mut self, client: ClientId) -> bool {
        let Some(conversation) = self.conversations.get_mut(&client) else { return false };
        let begins = conversation.feeder == Feeder::Away;
        if begins {
            conversation.feeder = Feeder::Here;
        }
        begins
    }

    /// Takes the next of what is parked for the feeder, which is done if there is
    /// none.
    fn next(&mut self, client: ClientId, spare: bool) -> Option<(Piece, Next)> {
        let next = self.try_next(client, spare);
        if next.is_none() {
            if let Some(conversation) = self.conversations.get_mut(&client)
                && conversation.feeder == Feeder::Here
            {
                conversation.feeder = Feeder::Away;
            }
            self.tidy(client);
        }
        next
    }

    /// The next of what is parked, if the stack may have it now: a whole write where
    /// there is room for it, else as much as may be, alone. One request of each
    /// conversation may always be made: nothing else would wake the feeder.
    fn try_next(&mut self, client: ClientId, spare: bool) -> Option<(Piece, Next)> {
        let conversation = self.conversations.get(&client)?;
        let (inside, pieces) = (conversation.inside, conversation.pieces);
        let may_ask = pieces == 0 || (spare && pieces < PIECES_MAX);
        if conversation.feeder != Feeder::Here || !may_ask {
            return None;
        }
        let id = *conversation.order.front()?;
        let parked = self.parked.get_mut(&id)?;
        if !matches!(parked.stage, Stage::Waits) {
            return None;
        }
        let length = match parked.kind {
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
        let bytes = parked.rest.slice(..length);
        parked.inside = length;
        parked.stage = Stage::Called;
        self.waiting -= length as u64;
        let (count, next) = match parked.kind {
            Kind::Control => (0, Next::Control(bytes)),
            Kind::Write { .. } => (length as u64, Next::Write(bytes)),
        };
        let number = self.enter(client, count);
        Some((Piece { client, id, count, number }, next))
    }

    /// The stack was called with what [`State::next`] gave; it may be over by now.
    fn called(&mut self, piece: Piece, request: driver::RequestId) {
        let Some(parked) = self.parked.get_mut(&piece.id) else { return };
        if matches!(parked.stage, Stage::Called) {
            parked.stage = Stage::Asked(request);
        }
        if parked.unsent() == 0 {
            self.unlist(piece.client, piece.id);
        }
    }

    /// Puts a piece back that the stack refused. Not if it was given something
    /// behind it, which would then come first: no engine refuses so late.
    fn put_back(&mut self, piece: Piece) -> bool {
        let Some(conversation) = self.conversations.get_mut(&piece.client) else { return false };
        let Some(parked) = self.parked.get_mut(&piece.id) else { return false };
        if conversation.given != piece.number || parked.flushed {
            return false;
        }
        self.waiting += parked.inside as u64;
        parked.inside = 0;
        parked.stage = Stage::Waits;
        if let Err(at) = conversation.order.binary_search(&piece.id) {
            conversation.order.insert(at, piece.id);
        }
        true
    }

    /// Of who was not waited for any more it does not matter that it was refused.
    fn unless_flushed(&self, piece: Piece, outcome: Outcome) -> Outcome {
        let flushed = self.parked.get(&piece.id).is_some_and(|parked| parked.flushed);
        if flushed && is_refusal(&outcome) { Err(interrupted()) } else { outcome }
    }

    /// A piece is over: so is its write if that was the last of it, or if it was
    /// not taken whole.
    fn piece_over(&mut self, piece: Piece, outcome: Outcome, over: &mut Over) {
        let Some(parked) = self.parked.get_mut(&piece.id) else { return };
        if let (Kind::Write { taken }, Ok(Reply::Count(more))) = (&mut parked.kind, &outcome) {
            let more = u64::from(*more).min(piece.count);
            *taken = taken.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
            if more == piece.count && parked.unsent() > 0 {
                drop(parked.rest.split_to(parked.inside));
                parked.inside = 0;
                parked.stage = Stage::Waits;
                return;
            }
        }
        if let Some(parked) = self.take(piece.id) {
            let outcome = parked.outcome(outcome);
            over.push((parked.done, outcome));
        }
    }

    /// Gives up on a request: what is not inside is forgotten, and so is all of it
    /// if nothing is. Else this is what the stack calls it.
    fn give_up(&mut self, id: u64, over: &mut Over) -> Option<driver::RequestId> {
        let parked = self.parked.get_mut(&id)?;
        self.waiting -= parked.cut();
        parked.flushed = true;
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
        // What is inside must not come back.
        conversation.given += 1;
        for id in std::mem::take(&mut conversation.order) {
            let Some(parked) = self.parked.get_mut(&id) else { continue };
            self.waiting -= parked.cut();
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
        self.waiting -= parked.unsent() as u64;
        self.unlist(parked.client, id);
        Some(parked)
    }

    fn unlist(&mut self, client: ClientId, id: u64) {
        if let Some(conversation) = self.conversations.get_mut(&client)
            // A search from an end would be long: they are given up last first, and
            // done first first.
            && let Ok(at) = conversation.order.binary_search(&id)
        {
            conversation.order.remove(at);
        }
        self.tidy(client);
    }
}

impl Conversation {
    fn is_over(&self) -> bool {
        self.pieces == 0 && self.order.is_empty() && self.feeder == Feeder::Away
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

/// Whether the stack has no room now.
fn is_refusal(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|error| error.code == ErrorCode::ResourceExhausted)
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

/// Whether a text that was refused had no effect: for there is nothing in it that
/// the stack could refuse but the request.
fn may_be_repeated(text: &[u8]) -> bool {
    verbs(text).all(|verb| matches!(verb, b"accept" | b"keepalive" | b"closewrite"))
}

/// Whether a text may end one conversation and begin another.
fn dials(text: &[u8]) -> bool {
    verbs(text).any(|verb| verb == b"connect")
}

#[cfg(test)]
mod tests;
