//! What the tree asks of the far host's stack.

use std::time::SystemTime;

use crate::driver::{Done, Driver, RequestId};
use crate::engine::{ClientId, ClientInfo, Error, Protocol, TextFile};
use crate::figures::{figures, text};

/// What the tree shows of a client besides its texts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Client {
    /// Which it is.
    pub id: ClientId,
    /// Where its directory is.
    pub protocol: Protocol,
    /// When the state began in which it is.
    pub changed: SystemTime,
}

/// What a stack takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capacity {
    /// Clients at once.
    pub clients: u32,
    /// Requests outstanding at once.
    pub requests: u32,
    /// Bytes of writes that wait to be sent.
    pub queued: u64,
}

/// A stack whose clients the tree shows: the driver, or a test's.
///
/// The driver's rules are the trait's: a [`Done`] runs exactly once, perhaps
/// before the call that made the request returns, and must not call the stack;
/// no lock that a `Done` takes may be held over a call. What is refused for want of
/// room here is over before the call returns; so is a `control` that does nothing
/// that takes time, or is refused before it does.
#[allow(missing_docs, reason = "each method is the driver's of the same name")]
pub trait Stack: Send + Sync + 'static {
    fn clone_client(&self, protocol: Protocol, done: Done) -> RequestId;
    fn control(&self, client: ClientId, text: &[u8], done: Done) -> RequestId;
    fn read(&self, client: ClientId, count: u32, done: Done) -> RequestId;
    fn write(&self, client: ClientId, bytes: &[u8], done: Done) -> RequestId;
    fn listen(&self, client: ClientId, done: Done) -> RequestId;
    fn flush(&self, request: RequestId);
    fn retain(&self, client: ClientId) -> Result<(), Error>;
    fn release(&self, client: ClientId);
    fn lookup(&self, number: u32) -> Result<Option<Client>, Error>;
    fn text(&self, client: ClientId, file: TextFile) -> Result<String, Error>;
    fn translate(&self, query: &str) -> Result<String, Error>;
    fn clients(&self) -> Result<Vec<Client>, Error>;
    fn outstanding(&self) -> usize;
    /// What `tcp/stats` reads.
    fn stats(&self) -> Result<String, Error>;
    fn capacity(&self) -> Capacity;
}

impl Stack for Driver {
    fn clone_client(&self, protocol: Protocol, done: Done) -> RequestId {
        Self::clone_client(self, protocol, done)
    }

    fn control(&self, client: ClientId, text: &[u8], done: Done) -> RequestId {
        Self::control(self, client, text, done)
    }

    fn read(&self, client: ClientId, count: u32, done: Done) -> RequestId {
        Self::read(self, client, count, done)
    }

    fn write(&self, client: ClientId, bytes: &[u8], done: Done) -> RequestId {
        Self::write(self, client, bytes, done)
    }

    fn listen(&self, client: ClientId, done: Done) -> RequestId {
        Self::listen(self, client, done)
    }

    fn flush(&self, request: RequestId) {
        Self::flush(self, request);
    }

    fn retain(&self, client: ClientId) -> Result<(), Error> {
        Self::retain(self, client)
    }

    fn release(&self, client: ClientId) {
        Self::release(self, client);
    }

    fn lookup(&self, number: u32) -> Result<Option<Client>, Error> {
        let info = Self::lookup(self, number)?;
        Ok(info.map(|info| shown(self, &info)))
    }

    fn text(&self, client: ClientId, file: TextFile) -> Result<String, Error> {
        Self::text(self, client, file)
    }

    fn translate(&self, query: &str) -> Result<String, Error> {
        Self::translate(self, query)
    }

    fn clients(&self) -> Result<Vec<Client>, Error> {
        Ok(Self::clients(self)?.iter().map(|info| shown(self, info)).collect())
    }

    fn outstanding(&self) -> usize {
        Self::outstanding(self)
    }

    fn stats(&self) -> Result<String, Error> {
        Ok(text(&figures(&self.statistics()?, self.outstanding())))
    }

    fn capacity(&self) -> Capacity {
        let limits = self.limits();
        Capacity { clients: limits.clients, requests: limits.requests, queued: limits.queued }
    }
}

fn shown(driver: &Driver, info: &ClientInfo) -> Client {
    Client { id: info.id, protocol: info.protocol, changed: driver.wall_clock(info.since) }
}
