//! A stack for tests: its requests wait until the test completes them.
//!
//! Callbacks run with its lock held, as the driver's do, so that code that would
//! deadlock there does so here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use super::{Capacity, Client as Shown, Owner, Stack, Tree};
use crate::driver::{Done, Outcome, RequestId};
use crate::engine::{ClientId, Error, ErrorCode, Protocol, Reply, TextFile};

/// When each client came into its state, counted from 1970.
pub(crate) const CHANGED: Duration = Duration::from_secs(86_400);

/// See the module. Clones are the same stack.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

struct State {
    clients: BTreeMap<u32, Client>,
    incarnations: BTreeMap<u32, u32>,
    waiting: BTreeMap<RequestId, Waiting>,
    last_request: RequestId,
    /// What a flushed write says it took.
    flushed_write: Option<u32>,
    /// So many requests wait, and after them so many are refused.
    refusals: (usize, usize),
    /// Requests that were refused.
    refused: usize,
    /// What writes brought, where they do not wait.
    at_once: Option<Vec<u8>>,
    capacity: Capacity,
}

impl Default for State {
    fn default() -> Self {
        Self {
            clients: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last_request: 0,
            flushed_write: None,
            refusals: (0, 0),
            refused: 0,
            at_once: None,
            capacity: Capacity { clients: 12_000, requests: 65_536, queued: 256 << 20 },
        }
    }
}

struct Client {
    id: ClientId,
    protocol: Protocol,
    references: u32,
}

impl Client {
    fn shown(&self) -> Shown {
        Shown { id: self.id, protocol: self.protocol, changed: UNIX_EPOCH + CHANGED }
    }
}

struct Waiting {
    client: ClientId,
    what: Asked,
    done: Done,
}

/// A request that waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    Control(Vec<u8>),
    Read(u32),
    Write(Vec<u8>),
    Listen,
}

impl Fake {
    pub(crate) fn tree(&self) -> Tree {
        let owner = Owner { uid: 7, gid: 8, user: "glenda".to_owned(), group: "plan9".to_owned() };
        Tree::new(self.clone(), owner)
    }

    /// Makes a client, as `clone` does.
    pub(crate) fn make(&self, protocol: Protocol) -> ClientId {
        self.lock().make(protocol)
    }

    /// What waits, in the order in which it was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.lock().waiting.values().map(|waiting| waiting.what.clone()).collect()
    }

    /// Completes the oldest request that waits.
    pub(crate) fn complete(&self, outcome: Outcome) {
        let mut state = self.lock();
        let (_, waiting) = state.waiting.pop_first().expect("a request waits");
        (waiting.done)(outcome);
    }

    /// Completes the latest request that waits.
    pub(crate) fn complete_last(&self, outcome: Outcome) {
        let mut state = self.lock();
        let (_, waiting) = state.waiting.pop_last().expect("a request waits");
        (waiting.done)(outcome);
    }

    /// Completes the oldest request, if one waits, with bytes that are made only
    /// then; whether there was one.
    pub(crate) fn try_complete(&self, bytes: impl FnOnce() -> Vec<u8>) -> bool {
        let mut state = self.lock();
        let Some((_, waiting)) = state.waiting.pop_first() else { return false };
        (waiting.done)(Ok(Reply::Data(bytes())));
        true
    }

    /// A call comes in for the oldest `listen` that waits.
    pub(crate) fn call(&self) -> ClientId {
        let client = self.make(Protocol::Tcp);
        self.complete(Ok(Reply::Client(client)));
        client
    }

    /// A call comes in for a `listen`, if one waits; whether it did.
    pub(crate) fn try_call(&self) -> bool {
        let mut state = self.lock();
        let Some((_, waiting)) = state.waiting.pop_first() else { return false };
        let client = state.make(Protocol::Tcp);
        (waiting.done)(Ok(Reply::Client(client)));
        true
    }

    /// Number and references of each client.
    pub(crate) fn references(&self) -> Vec<(u32, u32)> {
        self.lock().clients.values().map(|c| (c.id.number, c.references)).collect()
    }

    /// What trees that are made from now on believe that it takes.
    pub(crate) fn takes(&self, capacity: Capacity) {
        self.lock().capacity = capacity;
    }

    /// From now on a flushed write answers with this count.
    pub(crate) fn flush_writes_after(&self, count: u32) {
        self.lock().flushed_write = Some(count);
    }

    /// After so many requests that wait, so many are refused at once.
    pub(crate) fn refuse(&self, after: usize, count: usize) {
        self.lock().refusals = (after, count);
    }

    /// Requests that were refused so far.
    pub(crate) fn refused(&self) -> usize {
        self.lock().refused
    }

    /// From now on writes are taken at once.
    pub(crate) fn take_at_once(&self) {
        self.lock().at_once = Some(Vec::new());
    }

    /// What they brought since then.
    pub(crate) fn taken_at_once(&self) -> Vec<u8> {
        self.lock().at_once.clone().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics within")
    }

    fn wait(&self, client: ClientId, what: Asked, done: Done) -> RequestId {
        let mut state = self.lock();
        state.last_request += 1;
        let request = state.last_request;
        if state.refuses() {
            done(Err(error(ErrorCode::ResourceExhausted, "too many requests are outstanding")));
            return request;
        }
        if let (Asked::Write(bytes), Some(taken)) = (&what, &mut state.at_once) {
            taken.extend_from_slice(bytes);
            let count = u32::try_from(bytes.len()).expect("it is short");
            done(Ok(Reply::Count(count)));
            return request;
        }
        state.waiting.insert(request, Waiting { client, what, done });
        request
    }
}

impl State {
    fn make(&mut self, protocol: Protocol) -> ClientId {
        let number = (0..).find(|number| !self.clients.contains_key(number)).expect("endless");
        let incarnation = self.incarnations.entry(number).and_modify(|i| *i += 1).or_insert(0);
        let id = ClientId { number, incarnation: *incarnation };
        self.clients.insert(number, Client { id, protocol, references: 1 });
        id
    }

    fn refuses(&mut self) -> bool {
        let (after, count) = &mut self.refusals;
        if *after > 0 {
            *after -= 1;
            return false;
        }
        let refuses = *count > 0;
        *count -= usize::from(refuses);
        self.refused += usize::from(refuses);
        refuses
    }

    fn client(&mut self, id: ClientId) -> Result<&mut Client, Error> {
        self.clients
            .get_mut(&id.number)
            .filter(|client| client.id == id)
            .ok_or_else(|| error(ErrorCode::NoEntry, "no such client"))
    }
}

/// An error of the engine's.
pub(crate) fn error(code: ErrorCode, message: &str) -> Error {
    Error { code, message: message.to_owned() }
}

impl Stack for Fake {
    fn clone_client(&self, protocol: Protocol, done: Done) -> RequestId {
        let mut state = self.lock();
        state.last_request += 1;
        let client = state.make(protocol);
        done(Ok(Reply::Client(client)));
        state.last_request
    }

    fn control(&self, client: ClientId, text: &[u8], done: Done) -> RequestId {
        self.wait(client, Asked::Control(text.to_vec()), done)
    }

    fn read(&self, client: ClientId, count: u32, done: Done) -> RequestId {
        self.wait(client, Asked::Read(count), done)
    }

    fn write(&self, client: ClientId, bytes: &[u8], done: Done) -> RequestId {
        self.wait(client, Asked::Write(bytes.to_vec()), done)
    }

    fn listen(&self, client: ClientId, done: Done) -> RequestId {
        if let Err(error) = self.lock().client(client) {
            done(Err(error));
            return 0;
        }
        self.wait(client, Asked::Listen, done)
    }

    fn flush(&self, request: RequestId) {
        let mut state = self.lock();
        let Some(waiting) = state.waiting.remove(&request) else { return };
        let outcome = match (waiting.what, state.flushed_write) {
            (Asked::Write(_), Some(count)) => Ok(Reply::Count(count)),
            _ => Err(error(ErrorCode::Interrupted, "interrupted")),
        };
        (waiting.done)(outcome);
    }

    fn retain(&self, client: ClientId) -> Result<(), Error> {
        self.lock().client(client)?.references += 1;
        Ok(())
    }

    fn release(&self, client: ClientId) {
        let mut state = self.lock();
        let Ok(known) = state.client(client) else { return };
        known.references -= 1;
        if known.references > 0 {
            return;
        }
        state.clients.remove(&client.number);
        let (over, rest) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, waiting)| waiting.client == client);
        state.waiting = rest;
        for waiting in over.into_values() {
            (waiting.done)(Err(error(ErrorCode::HungUp, "hungup")));
        }
    }

    fn lookup(&self, number: u32) -> Result<Option<Shown>, Error> {
        Ok(self.lock().clients.get(&number).map(Client::shown))
    }

    fn text(&self, client: ClientId, file: TextFile) -> Result<String, Error> {
        let references = self.lock().client(client)?.references;
        Ok(match file {
            TextFile::Local => "::!0\n".to_owned(),
            TextFile::Remote => "far!80\n".to_owned(),
            TextFile::Status => format!("Closed {references}\n"),
        })
    }

    fn translate(&self, query: &str) -> Result<String, Error> {
        match query.strip_prefix("tcp!") {
            Some(rest) => Ok(format!("/net/tcp/clone {rest}")),
            None => Err(error(ErrorCode::InvalidArgument, "can't translate")),
        }
    }

    fn clients(&self) -> Result<Vec<Shown>, Error> {
        Ok(self.lock().clients.values().map(Client::shown).collect())
    }

    fn outstanding(&self) -> usize {
        self.lock().waiting.len()
    }

    fn stats(&self) -> Result<String, Error> {
        Ok(format!("clients {}\n", self.lock().clients.len()))
    }

    fn capacity(&self) -> Capacity {
        self.lock().capacity
    }
}
