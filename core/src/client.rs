//! One client: the state it is in, and what each state holds.
//!
//! ```text
//!            connect            CONFIRMATION            CLOSE came
//!    Closed ---------> Dialing ------------> Established ----------> Finished
//!     ^ ^ ^               | FAILURE             | hangup                |
//!     | | +---------------+                     v                       |
//!     | |             CLOSE came            Teardown                    |
//!     | +--------------------------------------+                 hangup |
//!     +-----------------------------------------------------------------+
//!
//!            announce             bound              hangup
//!    Closed ---------> Announcing ------> Listen ------------> Closed
//! ```
//!
//! A new `connect` or `announce` may start from Teardown and Finished, too: the
//! old channel goes on being closed without the client. This module moves bytes
//! between queues and keeps the figures; what is said to the peer, and to whom a
//! request is answered, is the business of [`session`](crate::session).

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::ctl::{Announced, NOWHERE, Target};
use crate::effect::{
    ClientId, ClientInfo, ClientState, Error, Instant, Protocol, RequestId, TextFile,
};
use crate::queue::{Line, Piece, trim};
use crate::table::{Ours, Theirs};
use crate::window::{Budget, ReceiveWindow, SendWindow};

/// A read or a listen that waits, and how many bytes it wants.
pub(crate) type Wait = (RequestId, u32);

/// A write to `ctl` that waits for one of its lines to take effect.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) request: RequestId,
    pub(crate) text: Vec<u8>,
    /// Where the line after it starts.
    pub(crate) next: usize,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) protocol: Protocol,
    pub(crate) references: u32,
    pub(crate) state: State,
    pub(crate) local: String,
    pub(crate) remote: String,
    pub(crate) since: Instant,
    pub(crate) last_error: Option<String>,
    /// Whether it is in the queue of those that take turns to send. It may dial
    /// anew while it is.
    pub(crate) in_turn: bool,
}

/// What a client does, and what it has for it.
#[derive(Debug)]
pub(crate) enum State {
    Closed,
    Dialing(Dial),
    Announcing(Announcing),
    Listen(Listener),
    Established(Conversation),
    /// Hung up; the peer's CLOSE is awaited on this channel.
    Teardown(Ours),
    Finished(Remains),
}

/// A dial under way.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) control: Control,
    pub(crate) target: Target,
    /// None while there is no pipe.
    pub(crate) asked: Option<Asked>,
    pub(crate) early: Early,
}

/// What waits for a conversation to begin, to be its first requests.
#[derive(Debug, Default)]
pub(crate) struct Early {
    /// Nothing but reads.
    pub(crate) inbox: Inbox,
    pub(crate) writes: Line<Write>,
    /// Bytes in `writes`.
    pub(crate) unsent: u64,
    pub(crate) outgoing: Outgoing,
}

/// The channel that a dial asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) channel: Ours,
    /// The window that was offered.
    pub(crate) window: ReceiveWindow,
    pub(crate) at: Instant,
}

/// An announcement that the far side has not answered.
#[derive(Debug)]
pub(crate) struct Announcing {
    pub(crate) control: Control,
    /// Which request of ours the answer is to.
    pub(crate) serial: u64,
}

/// An announced client.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The address, with the port that was bound.
    pub(crate) address: Announced,
    pub(crate) bound: Bound,
    pub(crate) calls: VecDeque<Call>,
    /// `listen` requests that wait for a call.
    pub(crate) listens: Line<Wait>,
}

/// Whether the far side takes calls for a listener now.
#[derive(Debug)]
pub(crate) enum Bound {
    /// It does.
    Yes,
    /// It was not asked yet: there is no pipe, or no room in it.
    No,
    /// It was asked again, on a new pipe.
    Asked,
    /// It would not do it again.
    Refused(Error),
}

/// A call that waits, unconfirmed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) channel: Theirs,
    pub(crate) window: u32,
    pub(crate) packet: u32,
    /// The address called and the caller's, as `local` and `remote` show them.
    pub(crate) local: String,
    pub(crate) remote: String,
}

/// A conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) channel: Ours,
    pub(crate) peer: Theirs,
    /// Whether the peer began it.
    pub(crate) called: bool,
    pub(crate) inbox: Inbox,
    pub(crate) receive: ReceiveWindow,
    pub(crate) send: SendWindow,
    pub(crate) writes: Line<Write>,
    /// Bytes in `writes` that are not sent.
    pub(crate) unsent: u64,
    pub(crate) outgoing: Outgoing,
    /// Channel requests of ours that the peer has not answered.
    pub(crate) probes: u32,
    /// How many answers from now is the one that says that data has arrived.
    pub(crate) awaits_arrival: Option<u32>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// The direction away from here.
#[derive(Debug, Default)]
pub(crate) enum Outgoing {
    #[default]
    Open,
    /// EOF is to be sent after the writes that wait.
    Ending(Control),
    /// EOF is sent.
    Ended,
}

/// A write of which a part is not sent.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) request: RequestId,
    pub(crate) bytes: Piece,
    /// How many of its bytes were sent.
    pub(crate) sent: u32,
}

/// What is left of a conversation that the far side ended.
#[derive(Debug)]
pub(crate) struct Remains {
    /// Why nothing can be written any more.
    pub(crate) error: Error,
    pub(crate) inbox: Inbox,
    pub(crate) receive: ReceiveWindow,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// Bytes received and not read, and those who wait for more.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Large pieces, as they came.
    chunks: VecDeque<Piece>,
    /// What came after them in small pieces, put together: a peer that sends
    /// byte by byte must not make us keep a message for each.
    tail: Vec<u8>,
    length: usize,
    end: Option<End>,
    pub(crate) reads: Line<Wait>,
}

/// How the incoming direction ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// With EOF.
    Eof,
    /// Otherwise.
    Broken(Error),
}

/// A piece smaller than this is put together with its neighbours.
const SMALL: usize = 4_096;
/// Small pieces are put together up to this size.
const TAIL: usize = 16_384;

impl Inbox {
    /// Puts in what came.
    pub(crate) fn push(&mut self, data: Piece) {
        self.length += data.len();
        if data.len() < SMALL {
            self.tail.extend_from_slice(data.rest());
            if self.tail.len() >= TAIL {
                self.end_tail();
            }
        } else {
            self.end_tail();
            self.chunks.push_back(data);
        }
    }

    /// The small pieces that came last are a large one from now on.
    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.tail.shrink_to_fit();
            self.chunks.push_back(Piece::new(core::mem::take(&mut self.tail), 0));
        }
    }

    /// Nothing more will come. The first end counts.
    pub(crate) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Whether the peer sent EOF.
    pub(crate) fn ended(&self) -> bool {
        self.end.is_some()
    }

    /// Bytes not read.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Takes up to `count` bytes: none at end of file, `None` if one has to wait.
    pub(crate) fn take(&mut self, count: u32) -> Option<Result<Vec<u8>, Error>> {
        let count = self.length.min(count as usize);
        if self.length == 0 {
            return match &self.end {
                None => None,
                Some(End::Eof) => Some(Ok(Vec::new())),
                Some(End::Broken(error)) => Some(Err(error.clone())),
            };
        }
        self.length -= count;
        if count == self.tail.len() && self.chunks.is_empty() {
            return Some(Ok(core::mem::take(&mut self.tail)));
        }
        if let Some(chunk) = self.chunks.pop_front_if(|chunk| chunk.len() == count) {
            trim(&mut self.chunks);
            return Some(Ok(chunk.into_rest()));
        }
        let mut out = Vec::with_capacity(count);
        while out.len() < count {
            if let Some(chunk) = self.chunks.front_mut() {
                chunk.take(count - out.len(), &mut out);
                if chunk.is_empty() {
                    self.chunks.pop_front();
                }
            } else {
                self.end_tail();
            }
        }
        trim(&mut self.chunks);
        Some(Ok(out))
    }

    /// Drops what was not read; answers how much that was.
    pub(crate) fn clear(&mut self) -> usize {
        self.chunks = VecDeque::new();
        self.tail = Vec::new();
        core::mem::take(&mut self.length)
    }
}

impl Outgoing {
    /// EOF is not to be sent if this request asked for it.
    pub(crate) fn give_up(&mut self, request: RequestId) {
        if matches!(self, Self::Ending(control) if control.request == request) {
            *self = Self::Open;
        }
    }
}

impl Conversation {
    /// A new one over this channel.
    pub(crate) fn new(
        channel: Ours,
        peer: Theirs,
        called: bool,
        receive: ReceiveWindow,
        send: SendWindow,
        early: Early,
    ) -> Self {
        Self {
            channel,
            peer,
            called,
            inbox: early.inbox,
            receive,
            send,
            writes: early.writes,
            unsent: early.unsent,
            outgoing: early.outgoing,
            probes: 0,
            awaits_arrival: None,
            received: 0,
            sent: 0,
        }
    }

    /// Whether there is something to send, were there window and room for it.
    pub(crate) fn wants_turn(&self) -> bool {
        !self.writes.is_empty() || matches!(self.outgoing, Outgoing::Ending(_))
    }

    /// Moves `count` bytes off the front of the writes that wait into a message;
    /// requests whose last byte that was go to `done`.
    pub(crate) fn take_writes(
        &mut self,
        count: u32,
        uploads: &mut Budget,
        message: &mut Vec<u8>,
        mut done: impl FnMut(RequestId, u32),
    ) {
        let mut left = count as usize;
        while let Some(write) = self.writes.front_mut() {
            let taken = write.bytes.take(left, message);
            left -= taken;
            write.sent += taken as u32;
            if !write.bytes.is_empty() {
                break;
            }
            done(write.request, write.sent);
            self.writes.pop_front();
        }
        self.unsent = self.unsent.saturating_sub(u64::from(count));
        self.sent += u64::from(count);
        self.send.sent(count, uploads);
    }
}

impl Client {
    /// A new client, with one reference.
    pub(crate) fn new(id: ClientId, protocol: Protocol, since: Instant) -> Self {
        Self {
            id,
            protocol,
            references: 1,
            state: State::Closed,
            local: nowhere(protocol),
            remote: nowhere(protocol),
            since,
            last_error: None,
            in_turn: false,
        }
    }

    /// Goes to another state; answers the old one.
    pub(crate) fn enter(&mut self, state: State, now: Instant) -> State {
        self.since = now;
        core::mem::replace(&mut self.state, state)
    }

    /// Forgets the addresses and the error of what it did before.
    pub(crate) fn forget(&mut self) {
        self.local = nowhere(self.protocol);
        self.remote = nowhere(self.protocol);
        self.last_error = None;
    }

    /// The state's public name.
    pub(crate) fn state(&self) -> ClientState {
        match &self.state {
            State::Closed => ClientState::Closed,
            State::Dialing(_) | State::Announcing(_) => ClientState::Dialing,
            State::Listen(_) => ClientState::Listen,
            State::Established(_) => ClientState::Established,
            State::Teardown(_) => ClientState::Teardown,
            State::Finished(_) => ClientState::Finished,
        }
    }

    /// What one of its files reads.
    pub(crate) fn text(&self, file: TextFile) -> String {
        match file {
            TextFile::Local => format!("{}\n", self.local),
            TextFile::Remote => format!("{}\n", self.remote),
            TextFile::Status => {
                let info = self.info();
                let mut text = format!(
                    "{} qin {} qout {} rx {} tx {} window {}/{}\n",
                    info.state.name(),
                    info.unread,
                    info.unsent,
                    info.received,
                    info.sent,
                    info.receive_window,
                    info.send_window,
                );
                if let Some(error) = &self.last_error {
                    text.push_str(error);
                    text.push('\n');
                }
                text
            }
        }
    }

    /// A snapshot.
    pub(crate) fn info(&self) -> ClientInfo {
        let mut info = ClientInfo {
            id: self.id,
            protocol: self.protocol,
            state: self.state(),
            references: self.references,
            local: self.local.clone(),
            remote: self.remote.clone(),
            received: 0,
            sent: 0,
            unread: 0,
            unsent: 0,
            receive_window: 0,
            send_window: 0,
            requests: 0,
            calls: 0,
            since: self.since,
            last_error: self.last_error.clone(),
        };
        match &self.state {
            State::Closed | State::Teardown(_) => {}
            State::Dialing(Dial { early, .. }) => {
                info.unsent = early.unsent;
                info.requests = 1 + waiting(&early.inbox, &early.writes, &early.outgoing);
            }
            State::Announcing(_) => info.requests = 1,
            State::Listen(listener) => {
                info.requests = listener.listens.len() as u32;
                info.calls = listener.calls.len() as u32;
            }
            State::Established(c) => {
                info.received = c.received;
                info.sent = c.sent;
                info.unread = c.inbox.len() as u64;
                info.unsent = c.unsent;
                info.receive_window = c.receive.open();
                info.send_window = c.send.window();
                info.requests = waiting(&c.inbox, &c.writes, &c.outgoing);
            }
            State::Finished(remains) => {
                info.received = remains.received;
                info.sent = remains.sent;
                info.unread = remains.inbox.len() as u64;
            }
        }
        info
    }
}

/// How many requests wait in a conversation.
fn waiting(inbox: &Inbox, writes: &Line<Write>, outgoing: &Outgoing) -> u32 {
    let ending = u32::from(matches!(outgoing, Outgoing::Ending(_)));
    (inbox.reads.len() + writes.len()) as u32 + ending
}

fn nowhere(protocol: Protocol) -> String {
    match protocol {
        Protocol::Tcp => NOWHERE.to_string(),
        Protocol::Unix => "/".to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    /// A large piece is kept in the memory in which it came, and small ones are put
    /// together: what is held is little more than what they have.
    #[test]
    fn an_inbox_copies_small_pieces_and_holds_little_more_than_they_have() {
        for size in [1, 100, SMALL - 1, SMALL, SMALL + 1] {
            let mut inbox = Inbox::default();
            for pieces in 1..=100_000 / size {
                let bytes = vec![7; size];
                let came_in = bytes.as_ptr();
                inbox.push(Piece::new(bytes, 0));
                let last = inbox.chunks.back().map(|chunk| chunk.rest().as_ptr());
                assert_eq!(last == Some(came_in), size >= SMALL, "{size}");
                let tail = if size < SMALL { 2 * (TAIL + SMALL) } else { 0 };
                let place = size_of::<Piece>() * inbox.chunks.capacity();
                let most = 2 * pieces * size / SMALL + 4;
                assert!(place <= most * size_of::<Piece>(), "{size}: {pieces}");
                assert!(inbox.tail.capacity() <= tail, "{size}: {pieces}");
            }
        }
    }
}
