//! What the account of a session consists of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sshnet_core::{ClientId, ClientState, Protocol};

#[derive(Clone, Debug, Default)]
pub(super) struct Pipe {
    pub(super) in_pipe: u64,
    /// How many of them at most are answers to what the peer did.
    pub(super) answers: u64,
    pub(super) channels: BTreeMap<u32, Channel>,
    /// The peer's OPENs that are not answered.
    pub(super) calls: VecDeque<Waiting>,
    /// Our global requests that are not answered.
    pub(super) awaited: VecDeque<Awaited>,
    pub(super) heard: u64,
    /// When a sign of life was asked for since then.
    pub(super) probed: Option<u64>,
    /// When anything was asked on a channel.
    pub(super) asked: Option<u64>,
    /// The question whose answer tells how long a round trip takes: our number of
    /// its channel, and which of the answers there it is, counted from now.
    pub(super) timed: Option<(u32, usize)>,
}

#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) theirs: u32,
    pub(super) window: u32,
    pub(super) packet: u32,
    pub(super) port: Option<u32>,
}

#[derive(Clone, Debug)]
pub(super) enum Awaited {
    Bind { owner: Option<ClientId>, serial: u64, place: Place },
    Cancel,
}

/// Where calls are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Tcp(Vec<u8>, u32),
    Unix(Vec<u8>),
}

impl Place {
    /// As `local` shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Tcp(address, port) if address.is_empty() => format!("*!{port}"),
            Self::Tcp(address, port) => format!("{}!{port}", String::from_utf8_lossy(address)),
            Self::Unix(path) => String::from_utf8_lossy(path).into_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    Opening {
        window: u32,
        since: u64,
    },
    Open,
    /// CLOSE is sent.
    Closing,
}

#[derive(Clone, Debug)]
pub(super) struct Channel {
    pub(super) phase: Phase,
    pub(super) theirs: u32,
    pub(super) owner: Option<ClientId>,
    /// The engine has to send CLOSE in this event, because the peer sent it.
    pub(super) closed: bool,
    /// The same, because the peer broke a rule.
    pub(super) violated: bool,
    /// What was on the way when it was hung up, and the answers until it has arrived.
    pub(super) parting: Option<(u64, usize)>,
}

#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) protocol: Protocol,
    pub(super) references: u32,
    pub(super) state: State,
    pub(super) since: u64,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Closed,
    /// On this channel, with the requests that its conversation begins with.
    Dialing(Option<u32>, Box<Conversation>),
    Announcing {
        serial: u64,
    },
    Listen(Listener),
    Established(Box<Conversation>),
    Teardown(u32),
    Finished(Box<Conversation>),
}

impl State {
    /// Whether it can only be while there is a pipe.
    pub(super) fn wants_pipe(&self) -> bool {
        match self {
            Self::Closed | Self::Finished(_) | Self::Listen(_) | Self::Dialing(None, _) => false,
            Self::Dialing(Some(_), _)
            | Self::Announcing { .. }
            | Self::Established(_)
            | Self::Teardown(_) => true,
        }
    }

    pub(super) fn public(&self) -> ClientState {
        match self {
            Self::Closed => ClientState::Closed,
            Self::Dialing(..) | Self::Announcing { .. } => ClientState::Dialing,
            Self::Listen(_) => ClientState::Listen,
            Self::Established(_) => ClientState::Established,
            Self::Teardown(_) => ClientState::Teardown,
            Self::Finished(_) => ClientState::Finished,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) place: Place,
    pub(super) bound: Bound,
    pub(super) listens: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Bound {
    Yes,
    No,
    Asked(u64),
    Refused,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Conversation {
    pub(super) channel: u32,
    /// Bytes the peer accepts.
    pub(super) window: u32,
    pub(super) packet: u32,
    pub(super) unacknowledged: u64,
    /// How many of them were sent before the question whether they arrived.
    pub(super) asked: u64,
    /// Our channel requests that are not answered; true for that question.
    pub(super) asks: VecDeque<bool>,
    /// Bytes the peer may still send.
    pub(super) open: u32,
    /// Received and not read.
    pub(super) inbound: VecDeque<u8>,
    pub(super) received: u64,
    pub(super) ended: bool,
    pub(super) broken: bool,
    pub(super) reads: VecDeque<u64>,
    /// Writes that wait: the request, its bytes, how many are sent.
    pub(super) writes: VecDeque<(u64, Vec<u8>, usize)>,
    pub(super) sent: u64,
    pub(super) eof_sent: bool,
}

impl Conversation {
    pub(super) fn acknowledge(&mut self, bytes: u64) {
        let bytes = bytes.min(self.unacknowledged);
        self.unacknowledged -= bytes;
        self.asked = self.asked.saturating_sub(bytes);
    }

    pub(super) fn unsent(&self) -> u64 {
        self.writes.iter().map(|(_, bytes, sent)| (bytes.len() - sent) as u64).sum()
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) client: Option<ClientId>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Clone,
    Control { more: bool },
    Read { count: u32 },
    Write { empty: bool },
    Listen,
}

/// What is kept for the length of one event.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    /// Requests that must not wait.
    pub(super) must_complete: Vec<u64>,
    /// The request that is flushed.
    pub(super) flushed: Option<u64>,
    /// Clients whose control messages may have had effects.
    pub(super) controlled: BTreeSet<ClientId>,
    /// The client whose last reference went.
    pub(super) released: Option<ClientId>,
    /// Writes whose last byte was sent.
    pub(super) written: BTreeMap<u64, usize>,
    /// Conversations of calls that were taken, for `listen`s to complete with.
    pub(super) taken: VecDeque<(u32, Box<Conversation>, Option<u32>)>,
    /// A call for a client that announced its address, by the peer's number.
    pub(super) called: Option<(u32, ClientId)>,
    pub(super) owed_refusals: Vec<u32>,
    pub(super) owed_failures: Vec<u32>,
    pub(super) owed_global_failures: u32,
    pub(super) owed_cancels: Vec<Place>,
    pub(super) owed_probe: bool,
    /// Whom the last message gave window.
    pub(super) granted: Option<u32>,
    /// Whom it gave window when a round trip was to be measured.
    pub(super) owed_trip: Option<u32>,
    /// Conversations that began, by our number.
    pub(super) begun: Vec<u32>,
    /// Channels that a hangup closes next, having asked whether all has arrived.
    pub(super) parted: BTreeSet<u32>,
    /// Channels that a hangup has to close.
    pub(super) owed_closes: BTreeSet<u32>,
    /// The peer broke a rule that the session has to fail for.
    pub(super) fault: Option<&'static str>,
    pub(super) failed: bool,
    /// The client whose dial was refused, and for which reason.
    pub(super) refused: Option<(ClientId, u32)>,
    pub(super) timed_out: bool,
    /// A message came in.
    pub(super) heard: bool,
}
