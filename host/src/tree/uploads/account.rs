//! What is parked and what the stack has of each conversation: the account that
//! [`Uploads`](super::Uploads) keeps. Calls nobody.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::driver::{self, Done, Outcome, interrupted};
use crate::engine::{ClientId, Error, ErrorCode, Reply};

/// Bytes that may be parked, of all conversations together.
pub(in crate::tree) const PARKED_MAX: u64 = 1 << 30;
/// Bytes of a conversation that the stack has at a time, at most: what keeps it
/// busy while its writer is told of one write and makes the next.
pub(super) const INSIDE_MAX: u64 = 2 << 20;
/// Which part of what is free a conversation may take.
const PART: u64 = 64;
/// What a conversation is always sure of, at most.
const FLOOR_MAX: u64 = 32 << 10;
/// Requests of a conversation that the stack has at a time, at most: small writes
/// would else take up all that it takes, in a few bytes.
pub(super) const PIECES_MAX: usize = 64;

/// What the conversations have in the stack, and what each may have.
///
/// A quarter of the stack's limit is set aside, so that each client is sure of a
/// little. The rest is a pool, of which each gets at most a part of what is free:
/// there is always something left for the next, and the limit is never reached.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) floor: u64,
    pub(super) pool: u64,
    /// What is taken of the pool.
    pub(super) used: u64,
}

impl Inside {
    pub(super) fn new(limit: u64, clients: u32) -> Self {
        let clients = u64::from(clients.max(1));
        let floor = (limit / 4 / clients).clamp(1, FLOOR_MAX);
        Self { floor, pool: limit.saturating_sub(floor.saturating_mul(clients)), used: 0 }
    }

    /// What a conversation may have now.
    pub(super) fn most(&self) -> u64 {
        let free = self.pool.saturating_sub(self.used);
        self.floor.saturating_add(free / PART).min(INSIDE_MAX)
    }

    /// What a conversation has went from one size to another.
    pub(super) fn change(&mut self, from: u64, to: u64) {
        let above = |size: u64| size.saturating_sub(self.floor);
        self.used = (self.used + above(to)).saturating_sub(above(from));
    }
}

pub(super) struct State {
    /// Those of which something is inside or parked, or to which the feeder is to
    /// come.
    pub(super) conversations: HashMap<ClientId, Conversation>,
    pub(super) parked: HashMap<u64, Parked>,
    last: u64,
    /// Bytes that are parked.
    pub(super) waiting: u64,
    pub(super) inside: Inside,
}

#[derive(Default)]
pub(super) struct Conversation {
    /// Bytes that the stack has.
    inside: u64,
    /// Requests that the stack has.
    pub(super) pieces: usize,
    /// What is parked, in order, which is that of the numbers; the first may be
    /// inside in part. While it is not empty, something is inside or the feeder is
    /// not away.
    pub(super) order: VecDeque<u64>,
    /// Control messages under way that dial nobody knows when: nothing is parked.
    dials: usize,
    pub(super) feeder: Feeder,
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
pub(super) enum Feeder {
    /// It is told when something of the conversation is over.
    #[default]
    Away,
    Told,
    Here,
    /// It will be told after a while.
    Later,
}

/// A request that did not go straight to the stack.
pub(super) struct Parked {
    client: ClientId,
    kind: Kind,
    /// What the stack did not take yet.
    rest: Bytes,
    /// How much of that it has.
    inside: usize,
    stage: Stage,
    pub(super) done: Done,
}

pub(super) enum Kind {
    Write {
        /// Bytes that the stack took.
        taken: u32,
    },
    Control,
}

/// ```text
///             feed             its name             over, all or in part
///    waits ---------> called ---------> asked -------------------------> gone
///      ^                | refused         |
///      +----------------+-----------------+ over, and there is a rest
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
pub(super) struct Piece {
    pub(super) client: ClientId,
    pub(super) id: u64,
    /// Bytes of the conversation.
    pub(super) count: u64,
}

/// What the stack is to be given next.
pub(super) enum Next {
    Write(Bytes),
    Control(Bytes),
}

/// Requests that are over, to be told when no lock is held.
pub(super) type Over = Vec<(Done, Outcome)>;

/// What becomes of a write at first.
pub(super) enum Way {
    Straight,
    Parked {
        id: u64,
        /// Nothing is under way that would wake the feeder.
        first: bool,
    },
    Refused,
}

impl Parked {
    pub(super) fn new(client: ClientId, kind: Kind, rest: Bytes, done: Done) -> Self {
        Self { client, kind, rest, inside: 0, stage: Stage::Waits, done }
    }

    /// Bytes that the stack was not given.
    pub(super) fn unsent(&self) -> usize {
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
    /// Nothing waits; the stack takes so many bytes of so many clients.
    pub(super) fn new(limit: u64, clients: u32) -> Self {
        Self {
            conversations: HashMap::new(),
            parked: HashMap::new(),
            last: 0,
            waiting: 0,
            inside: Inside::new(limit, clients),
        }
    }

    pub(super) fn has_parked(&self, client: ClientId) -> bool {
        self.conversations.get(&client).is_some_and(|c| !c.order.is_empty())
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The number of what was parked last.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn way(&mut self, client: ClientId, count: u64) -> Way {
        let (inside, pieces, parked, dials) = match self.conversations.get(&client) {
            Some(c) => (c.inside, c.pieces, c.order.len(), c.dials),
            None => (0, 0, 0, 0),
        };
        let fits = inside.saturating_add(count) <= self.inside.most() && pieces < PIECES_MAX;
        if parked == 0 && (fits || dials > 0) {
            return Way::Straight;
        }
        if self.waiting.saturating_add(count) > PARKED_MAX {
            return Way::Refused;
        }
        Way::Parked { id: self.next_id(), first: parked == 0 && pieces == 0 }
    }

    pub(super) fn park(&mut self, id: u64, parked: Parked) {
        self.waiting += parked.rest.len() as u64;
        self.conversations.entry(parked.client).or_default().order.push_back(id);
        self.parked.insert(id, parked);
    }

    /// The stack gets a request with so many bytes of a conversation.
    pub(super) fn enter(&mut self, client: ClientId, count: u64) {
        let conversation = self.conversations.entry(client).or_default();
        self.inside.change(conversation.inside, conversation.inside + count);
        conversation.inside += count;
        conversation.pieces += 1;
    }

    /// The stack is rid of it. The conversation is kept for what is done next.
    pub(super) fn leave(&mut self, client: ClientId, count: u64) {
        if let Some(conversation) = self.conversations.get_mut(&client) {
            let rest = conversation.inside.saturating_sub(count);
            self.inside.change(conversation.inside, rest);
            conversation.inside = rest;
            conversation.pieces = conversation.pieces.saturating_sub(1);
        }
    }

    pub(super) fn tidy(&mut self, client: ClientId) {
        if self.conversations.get(&client).is_some_and(Conversation::is_over) {
            self.conversations.remove(&client);
        }
    }

    /// The feeder has heard that it was told.
    pub(super) fn comes(&mut self, client: ClientId) {
        if let Some(conversation) = self.conversations.get_mut(&client)
            && conversation.feeder == Feeder::Told
        {
            conversation.feeder = Feeder::Away;
        }
        self.tidy(client);
    }

    /// Whether this one feeds: else another does, or will.
    pub(super) fn begin(&mut self, client: ClientId) -> bool {
        let Some(conversation) = self.conversations.get_mut(&client) else { return false };
        let begins = conversation.feeder == Feeder::Away;
        if begins {
            conversation.feeder = Feeder::Here;
        }
        begins
    }

    /// Takes the next of what is parked for the feeder, which is done if there is
    /// none.
    pub(super) fn next(&mut self, client: ClientId, spare: bool) -> Option<(Piece, Next)> {
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
        self.enter(client, count);
        Some((Piece { client, id, count }, next))
    }

    /// The stack was called with what [`State::next`] gave; it may be over by now.
    pub(super) fn called(&mut self, piece: Piece, request: driver::RequestId) {
        let Some(parked) = self.parked.get_mut(&piece.id) else { return };
        if matches!(parked.stage, Stage::Called) {
            parked.stage = Stage::Asked(request);
        }
        if parked.unsent() == 0 {
            self.unlist(piece.client, piece.id);
        }
    }

    /// Puts a piece back if the stack was just called with it, and nothing has ended
    /// what is parked since.
    pub(super) fn put_back(&mut self, piece: Piece) -> bool {
        let Some(conversation) = self.conversations.get(&piece.client) else { return false };
        let Some(parked) = self.parked.get_mut(&piece.id) else { return false };
        if !matches!(parked.stage, Stage::Called)
            || conversation.order.binary_search(&piece.id).is_err()
        {
            return false;
        }
        self.waiting += parked.inside as u64;
        parked.inside = 0;
        parked.stage = Stage::Waits;
        true
    }

    /// A piece is over: so is its write if that was the last of it, or if it was
    /// not taken whole.
    pub(super) fn piece_over(&mut self, piece: Piece, outcome: Outcome, over: &mut Over) {
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
    pub(super) fn give_up(&mut self, id: u64, over: &mut Over) -> Option<driver::RequestId> {
        let parked = self.parked.get_mut(&id)?;
        self.waiting -= parked.cut();
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

    /// The stack is asked to dial, and nobody will know when it does.
    pub(super) fn dials_later(&mut self, client: ClientId) {
        self.conversations.entry(client).or_default().dials += 1;
    }

    /// It has, or will not.
    pub(super) fn dialled(&mut self, client: ClientId) {
        if let Some(conversation) = self.conversations.get_mut(&client) {
            conversation.dials = conversation.dials.saturating_sub(1);
        }
        self.tidy(client);
    }

    /// A write has failed. If it was not given up alone its conversation is over:
    /// nothing more of it goes to the stack.
    pub(super) fn end(&mut self, client: ClientId, error: &Error, over: &mut Over) {
        if error.code != ErrorCode::Interrupted {
            self.end_until(self.last, client, error, over);
        }
    }

    /// A conversation is over of which this number and those before it were parked.
    pub(super) fn end_until(
        &mut self,
        last: u64,
        client: ClientId,
        error: &Error,
        over: &mut Over,
    ) {
        let Some(conversation) = self.conversations.get_mut(&client) else { return };
        let rest = conversation.order.partition_point(|id| *id <= last);
        for id in conversation.order.drain(..rest) {
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
    pub(super) fn take(&mut self, id: u64) -> Option<Parked> {
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
        let idle = self.pieces == 0 && self.feeder == Feeder::Away;
        idle && self.order.is_empty() && self.dials == 0
    }
}
