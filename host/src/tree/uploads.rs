//! Writes that wait.
//!
//! A write that the far side has no room for waits, for as long as its reader
//! likes, and what waits in the stack counts against one limit for all. So that
//! those who wait never make others fail, a conversation has only a part of that
//! limit at a time and only so many requests, see [`account`]. What is beyond
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
//! The stack may still be full, of what others ask, which it says at once. A write
//! that goes straight is then refused, as without this module. One that was parked is
//! not: a part of it may be on its way, and what is behind it would follow with a hole
//! between. So the refused piece goes back to its place, and is sent later: when
//! something of its conversation is over, or after a while if the stack has nothing of
//! it. (What fails later with the same error is final: so does a dial that the far
//! side has no room for, with all that was to be sent.)
//!
//! While a control message is under way that dials at a time which nothing tells, the
//! stack alone knows which conversation a write is for: then nothing is parked.
//!
//! Nobody sees the difference: a write is answered once; what is behind it in the
//! conversation stays behind; one that is flushed or fails when a part of it was
//! taken is answered with that part, and nothing more of it is sent. Knows no fids
//! and no files; of control messages only which ones matter here.
//!
//! What is over is told within a callback of the stack's, which must not call it.
//! So one task feeds; or whoever parks a write where nothing is under way. Each
//! hands on only so much at a time, for there is one thread for all.

mod account;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use self::account::{Feeder, Kind, Next, Over, PARKED_MAX, Parked, Piece, State, Way};
use super::{RequestId, Stack};
use crate::driver::{self, Done, Outcome};
use crate::engine::{ClientId, Error, ErrorCode};

/// Pieces that are handed on before others get their turn.
const FEED_MAX: usize = 256;
/// How long what was refused waits where nothing is under way that would wake the
/// feeder.
const AGAIN: Duration = Duration::from_millis(4);
/// Clients that try again at once, so that a stack that stays full is not kept
/// busy with saying so.
const AGAIN_MAX: usize = 256;

/// See the module.
pub(super) struct Uploads {
    stack: Arc<dyn Stack>,
    state: Mutex<State>,
    /// Held by who hands on what is parked, by who takes it back, so that the stack's
    /// name for a piece is known by then, and by who may end its conversation. No
    /// callback takes it.
    turn: Mutex<()>,
    /// Requests of parked writes are made while the stack has fewer than these: the
    /// rest is for those who ask directly.
    crowded: usize,
    /// The feeder's turn has come for this client, of which something is parked.
    over: mpsc::UnboundedSender<ClientId>,
    /// This client is to try again later.
    refused: mpsc::UnboundedSender<ClientId>,
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
            state: Mutex::new(State::new(capacity.queued, capacity.clients)),
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
        let turn = lock(&self.turn);
        let request = self.control_now(client, text, done);
        drop(turn);
        Some(RequestId::Stack(request))
    }

    /// Asks the stack, which may end one conversation and begin another with that:
    /// what is parked by then was written to the first. Nothing of it must reach the
    /// second, and a stack takes writes as soon as it dials. If it says at once that
    /// the text is done or refused, it dials nothing. The turn is the caller's.
    fn control_now(
        self: &Arc<Self>,
        client: ClientId,
        text: &[u8],
        done: Done,
    ) -> driver::RequestId {
        if !dials(text) {
            return self.stack.control(client, text, done);
        }
        let later = dials_later(text);
        let last = {
            let mut state = self.lock();
            if later {
                state.dials_later(client);
            }
            state.last()
        };
        let answered = Arc::new(AtomicBool::new(false));
        let (uploads, told) = (Arc::clone(self), Arc::clone(&answered));
        let asking = std::thread::current().id();
        let done = Box::new(move |outcome| {
            // What another thread is told was not told at once.
            told.store(std::thread::current().id() == asking, Ordering::Relaxed);
            if later {
                uploads.lock().dialled(client);
            }
            done(outcome);
        });
        let request = self.stack.control(client, text, done);
        if !answered.load(Ordering::Relaxed) {
            let mut over = Over::new();
            self.lock().end_until(last, client, &hung_up(), &mut over);
            tell(over);
        }
        request
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
            // (Of one that is refused at once nothing is behind.)
            if let Err(error) = &outcome {
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
            if self.puts_back(&mut state, piece, &outcome) {
                return;
            }
            let error = outcome.as_ref().err().cloned();
            state.piece_over(piece, outcome, &mut over);
            if let Some(error) = error {
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
            if again && self.puts_back(&mut state, piece, &outcome) {
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

    /// Puts a piece back in its place if the stack refused it for want of room. The
    /// feeder must not try it again at once.
    fn puts_back(&self, state: &mut State, piece: Piece, outcome: &Outcome) -> bool {
        let full = matches!(outcome, Err(error) if error.code == ErrorCode::ResourceExhausted);
        let is_back = full && state.put_back(piece);
        if is_back
            && let Some(conversation) = state.conversations.get_mut(&piece.client)
            && matches!(conversation.feeder, Feeder::Away | Feeder::Here)
        {
            conversation.feeder = Feeder::Away;
            if conversation.pieces == 0 {
                conversation.feeder = Feeder::Later;
                self.send(&self.refused, piece.client);
            }
        }
        is_back
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

/// The engine's words, where it is the conversation that is over.
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

/// Whether it may do so when something before that in it has taken effect, which
/// nothing tells.
fn dials_later(text: &[u8]) -> bool {
    let mut verbs = verbs(text);
    let waits = |verb: &[u8]| matches!(verb, b"connect" | b"announce" | b"closewrite");
    verbs.any(waits) && verbs.any(|verb| verb == b"connect")
}
