//! What a session is given when it is made: where its tree is, the service
//! names, and the limits on what it may hold.

use alloc::string::String;
use alloc::vec::Vec;

use crate::effect::Instant;

/// A service name and its TCP port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// The name, such as `ssh`.
    pub name: String,
    /// The port, such as 22.
    pub port: u16,
}

/// Everything a session takes from its surroundings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Where the tree is, such as `/net`.
    pub prefix: String,
    /// Service names; of several with one name the first counts.
    pub services: Vec<Service>,
    /// What the engine may hold.
    pub limits: Limits,
}

/// What the engine may hold, and how long it waits: see `limits` in
/// wit/types.wit for each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Clients at once.
    pub clients: u32,
    /// Calls that wait for one announced client.
    pub backlog: u32,
    /// Calls that wait in the whole session.
    pub calls: u32,
    /// Requests outstanding at once.
    pub requests: u32,
    /// Bytes in one write to `ctl`, and in one `cs` query.
    pub line: u32,
    /// Bytes in the name of a host or in a path.
    pub name: u32,
    /// Bytes of writes that wait to be sent.
    pub queued: u64,
    /// Bytes sent that the peer has not yet acknowledged.
    pub unacknowledged: u64,
    /// Bytes received and not yet read, and those that the peer may still send.
    pub windows: u64,
    /// A conversation's receive window at its start; on a path without delay, what
    /// those that are busy share.
    pub window: u32,
    /// What a conversation's receive window may grow to. If that is `window`, none
    /// changes.
    pub window_max: u32,
    /// Bytes of data in one message.
    pub packet: u32,
    /// Bytes handed to the pipe above which no more data messages are made.
    pub room: u32,
    /// Bytes of other messages that may wait in the pipe beyond `room`.
    pub control: u32,
    /// How long a dial or an announcement waits for an answer; 0 is for ever.
    pub dial_time: Instant,
    /// How long a dial waits for a pipe; 0 is not at all.
    pub dial_wait: Instant,
    /// After this long without a message the peer is asked for one; 0 is never.
    pub keepalive: Instant,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A channel of an OpenSSH master is one of 16,384, those of calls and
            // of failed dials included.
            clients: 12_000,
            backlog: 128,
            calls: 4_096,
            requests: 65_536,
            line: 4_096,
            name: 1_024,
            // As much as makes a writer fast, for many that are not read at once.
            queued: 256 << 20,
            // OpenSSH drops messages silently where more than 128 MiB wait in one
            // of its buffers; half of that, in each direction.
            unacknowledged: 64 << 20,
            windows: 64 << 20,
            // OpenSSH's own, and the best on a path without delay.
            window: 2 << 20,
            // OpenSSH ends a connection whose channel holds 16 MiB.
            window_max: 15 << 20,
            packet: 32_768,
            room: 1 << 20,
            control: 4 << 20,
            dial_time: 150_000_000,
            dial_wait: 0,
            keepalive: 0,
        }
    }
}

impl Limits {
    /// The limits with each value that can't work raised to the least that can.
    pub(crate) fn sane(mut self) -> Self {
        self.packet = self.packet.clamp(256, 32_768);
        self.clients = self.clients.max(1);
        self.requests = self.requests.max(1);
        self.line = self.line.max(64);
        self.name = self.name.max(16);
        // Each client is sure of a byte, or it would stall.
        let least = u64::from(self.clients).max(4 * u64::from(self.packet));
        self.unacknowledged = self.unacknowledged.max(least);
        self.windows = self.windows.max(least);
        self.window = self.window.max(self.packet);
        self.window_max = self.window_max.max(self.window);
        self.room = self.room.max(self.packet);
        self.control = self.control.max(4_096);
        self
    }
}

/// Service names by name.
#[derive(Debug, Default)]
pub(crate) struct Services {
    /// In the order of the names, each of which is there once.
    ports: Vec<(String, u16)>,
}

impl Services {
    pub(crate) fn new(services: Vec<Service>) -> Self {
        let mut known = Self::default();
        for Service { name, port } in services {
            // Of two ports for a name the first is kept.
            if let Err(place) = known.place(&name) {
                known.ports.insert(place, (name, port));
            }
        }
        known
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.ports.binary_search_by(|(known, _)| known.as_str().cmp(name))
    }

    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        let place = self.place(name).ok()?;
        self.ports.get(place).map(|&(_, port)| port)
    }
}
