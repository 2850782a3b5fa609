//! The open file: what it remembers between one read or write and the next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Access, CLIENT_FILES, ClientFile, Failure, NUMBER_BITS, Node, PROTOCOLS, RequestId, Shared,
    Tree, seconds,
};
use crate::engine::{ClientId, Protocol, Reply, TextFile};

/// Called once with what was read, or why nothing was.
///
/// [`crate::driver::Done`]'s rules hold.
pub type ReadDone = Box<dyn FnOnce(Result<Vec<u8>, Failure>) + Send>;

/// Called once with how many bytes were taken, or why none were.
///
/// [`crate::driver::Done`]'s rules hold.
pub type WriteDone = Box<dyn FnOnce(Result<u32, Failure>) + Send>;

/// An open file.
///
/// [`Handle::close`] gives back its reference to its client at once. A handle
/// that is dropped instead (the only thing a callback may do) gives it back from
/// a task of the tree's.
pub struct Handle {
    node: Node,
    access: Access,
    kind: Kind,
    reference: Reference,
}

enum Kind {
    Directory(Mutex<Option<Listing>>),
    Cs(Mutex<Option<Answer>>),
    /// The text is the one taken by the last read at offset 0, so that a reader
    /// who takes it in parts sees one state.
    Text(ClientId, ClientFile, Mutex<Option<String>>),
    /// The same of `stats`.
    Stats(Mutex<Option<String>>),
    /// A stream: its place is in the conversation, and offsets mean nothing.
    Data(ClientId),
}

/// What `cs` answered, and how much of it has been read.
struct Answer {
    text: String,
    read: usize,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Where reading goes on after this entry: not 0, and greater than those of
    /// the entries before it. A client's follows from its number, so that it
    /// means the same when others have gone.
    pub cookie: u64,
    /// The file.
    pub node: Node,
    /// When it was last changed, as [`Tree::changed`] says it.
    pub changed: u32,
}

/// A directory's entries as of its last read from the start, kept for the reads
/// that go on from there. It saves them work and no more: cookies say the same of
/// a fresh look, so what all handles keep together can have a limit.
struct Listing {
    entries: Arc<[Entry]>,
    shared: Arc<Shared>,
}

/// Entries that the listings of a tree may keep.
const LISTED_MAX: usize = 1 << 19;

impl Listing {
    fn keep(entries: &Arc<[Entry]>, shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.listed.fetch_add(entries.len(), Ordering::Relaxed);
        let listing = Self { entries: Arc::clone(entries), shared: Arc::clone(shared) };
        (before + entries.len() <= LISTED_MAX).then_some(listing)
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.shared.listed.fetch_sub(self.entries.len(), Ordering::Relaxed);
    }
}

/// The entries of a directory after a cookie, as of one moment.
pub struct Entries {
    snapshot: Arc<[Entry]>,
    next: usize,
}

impl Iterator for Entries {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let entry = self.snapshot.get(self.next).copied();
        self.next += usize::from(entry.is_some());
        entry
    }
}

impl Handle {
    /// Takes over a reference to the client, where there is one.
    pub(super) fn new(tree: &Tree, node: Node, access: Access, client: Option<ClientId>) -> Self {
        let kind = match node {
            Node::Root | Node::Protocol(_) | Node::Client(..) => Kind::Directory(Mutex::default()),
            // `clone` opens as a `ctl`.
            Node::Cs | Node::Clone(_) => Kind::Cs(Mutex::default()),
            Node::Stats => Kind::Stats(Mutex::default()),
            Node::File(_, client, ClientFile::Data) => Kind::Data(client),
            Node::File(_, client, file) => Kind::Text(client, file, Mutex::default()),
        };
        let reference = Reference {
            shared: Arc::clone(&tree.shared),
            held: AtomicBool::new(client.is_some()),
            client: client.unwrap_or(ClientId { number: 0, incarnation: 0 }),
        };
        Self { node, access, kind, reference }
    }

    /// The file that was opened: not the one that was asked for where that was
    /// `clone` or `listen`.
    pub fn node(&self) -> Node {
        self.node
    }

    /// What it was opened for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Whether reads and writes pass bytes of a conversation.
    pub fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Data(_))
    }

    /// Reads up to `count` bytes. The offset counts in texts alone. None at all
    /// are the end of the file.
    ///
    /// Answers with the request where one was made; it may be outstanding.
    pub fn read(&self, offset: u64, count: u32, done: ReadDone) -> Option<RequestId> {
        if !self.access.reads() {
            done(Err(Failure::PERMISSION));
            return None;
        }
        match &self.kind {
            Kind::Directory(_) => done(Err(Failure::IS_DIRECTORY)),
            Kind::Cs(answer) => done(read_answer(answer, count)),
            Kind::Text(client, file, text) => {
                done(read_text(text, offset, count, || self.text(*client, *file)));
            }
            Kind::Stats(text) => {
                let stack = &self.reference.shared.stack;
                done(read_text(text, offset, count, || Ok(stack.stats()?)));
            }
            Kind::Data(client) => {
                let most = usize::try_from(count).unwrap_or(usize::MAX);
                let done = Box::new(move |outcome| {
                    done(match outcome {
                        Ok(Reply::Data(bytes)) if bytes.len() <= most => Ok(bytes),
                        Ok(_) => Err(Failure::MISMATCH),
                        Err(error) => Err(Failure::from(error)),
                    });
                });
                let stack = &self.reference.shared.stack;
                return Some(RequestId::Stack(stack.read(*client, count, done)));
            }
        }
        None
    }

    /// Writes bytes. Offsets mean nothing to a file of this tree that can be
    /// written.
    ///
    /// Answers with the request where one was made; it may be outstanding.
    pub fn write(&self, bytes: &[u8], done: WriteDone) -> Option<RequestId> {
        if !self.access.writes() {
            done(Err(Failure::PERMISSION));
            return None;
        }
        let given = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let finish = move |outcome| {
            done(match outcome {
                Ok(Reply::Done) => Ok(given),
                // More than was given would be a lie to the client.
                Ok(Reply::Count(count)) => Ok(count.min(given)),
                Ok(_) => Err(Failure::MISMATCH),
                Err(error) => Err(Failure::from(error)),
            });
        };
        let uploads = &self.reference.shared.uploads;
        match &self.kind {
            Kind::Cs(answer) => {
                let translated = self.translate(bytes);
                let (text, outcome) = match translated {
                    Ok(text) => (Some(Answer { text, read: 0 }), Ok(Reply::Done)),
                    // An old answer must not pass for this question's.
                    Err(error) => (None, Err(error)),
                };
                *lock(answer) = text;
                finish(outcome);
                None
            }
            Kind::Data(client) => uploads.write(*client, bytes, Box::new(finish)),
            // Of the texts and directories only `ctl` can be opened for writing.
            Kind::Text(client, ..) => uploads.control(*client, bytes, Box::new(finish)),
            Kind::Stats(_) | Kind::Directory(_) => {
                finish(Ok(Reply::Data(Vec::new())));
                None
            }
        }
    }

    /// The entries of a directory after this cookie; 0 is the start, and takes
    /// a fresh look. A client that has gone since then is still listed, and
    /// opening it says that it is gone.
    pub fn entries(&self, cookie: u64) -> Result<Entries, Failure> {
        let Kind::Directory(kept) = &self.kind else { return Err(Failure::NOT_DIRECTORY) };
        let before = match cookie {
            0 => None,
            _ => lock(kept).as_ref().map(|listing| Arc::clone(&listing.entries)),
        };
        let snapshot = match before {
            Some(snapshot) => snapshot,
            None => {
                let fresh: Arc<[Entry]> = self.list()?.into();
                *lock(kept) = Listing::keep(&fresh, &self.reference.shared);
                fresh
            }
        };
        let next = snapshot.partition_point(|entry| entry.cookie <= cookie);
        if next == snapshot.len() {
            *lock(kept) = None;
        }
        Ok(Entries { snapshot, next })
    }

    /// Ends the use of the file. Calls the stack.
    pub fn close(&self) {
        self.reference.close();
    }

    fn translate(&self, query: &[u8]) -> Result<String, crate::engine::Error> {
        let query = String::from_utf8_lossy(query);
        let query = query.strip_suffix('\n').unwrap_or(&query);
        self.reference.shared.stack.translate(query)
    }

    fn text(&self, client: ClientId, file: ClientFile) -> Result<String, Failure> {
        let stack = &self.reference.shared.stack;
        Ok(match file {
            ClientFile::Ctl | ClientFile::Data | ClientFile::Listen => client.number.to_string(),
            ClientFile::Local => stack.text(client, TextFile::Local)?,
            ClientFile::Remote => stack.text(client, TextFile::Remote)?,
            ClientFile::Status => stack.text(client, TextFile::Status)?,
        })
    }

    fn list(&self) -> Result<Vec<Entry>, Failure> {
        let shared = &self.reference.shared;
        let fixed = |nodes: Vec<Node>, changed| {
            let entry = |(node, cookie)| Entry { cookie, node, changed };
            nodes.into_iter().zip(1..).map(entry).collect()
        };
        Ok(match self.node {
            Node::Protocol(protocol) => {
                let mut entries: Vec<Entry> = fixed(vec![Node::Clone(protocol)], shared.made);
                let clients = shared.stack.clients()?;
                entries.extend(
                    clients
                        .into_iter()
                        .filter(|client| client.protocol == protocol)
                        .filter(|client| client.id.number < 1 << NUMBER_BITS)
                        .map(|client| Entry {
                            cookie: u64::from(client.id.number) + 2,
                            node: Node::Client(protocol, client.id),
                            changed: seconds(client.changed),
                        }),
                );
                // The engine answers by number; another component may not.
                entries.sort_by_key(|entry| entry.cookie);
                if protocol == Protocol::Tcp {
                    // Behind all that clients can have.
                    let cookie = (1 << NUMBER_BITS) + 2;
                    entries.push(Entry { cookie, node: Node::Stats, changed: shared.made });
                }
                entries
            }
            Node::Client(protocol, client) => fixed(
                CLIENT_FILES.iter().map(|(_, file)| Node::File(protocol, client, *file)).collect(),
                // Its directory is listed though it may be gone.
                shared.changed(self.node).unwrap_or(shared.made),
            ),
            _ => {
                let directories = PROTOCOLS.iter().map(|(_, protocol)| Node::Protocol(*protocol));
                fixed(std::iter::once(Node::Cs).chain(directories).collect(), shared.made)
            }
        })
    }
}

/// Reads a text that is made anew for each read of its start.
fn read_text(
    kept: &Mutex<Option<String>>,
    offset: u64,
    count: u32,
    make: impl FnOnce() -> Result<String, Failure>,
) -> Result<Vec<u8>, Failure> {
    let before = if offset == 0 { None } else { lock(kept).clone() };
    let text = match before {
        Some(text) => text,
        None => {
            let fresh = make()?;
            *lock(kept) = Some(fresh.clone());
            fresh
        }
    };
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    Ok(part(text.as_bytes(), start, count).to_vec())
}

fn read_answer(answer: &Mutex<Option<Answer>>, count: u32) -> Result<Vec<u8>, Failure> {
    let mut answer = lock(answer);
    let answer = answer.as_mut().ok_or(Failure::NO_QUERY)?;
    let bytes = part(answer.text.as_bytes(), answer.read, count).to_vec();
    answer.read += bytes.len();
    Ok(bytes)
}

/// At most `count` of these bytes from `start` on.
fn part(bytes: &[u8], start: usize, count: u32) -> &[u8] {
    let rest = bytes.get(start..).unwrap_or_default();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    rest.get(..count).unwrap_or(rest)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open file's reference to its client, given back exactly once.
struct Reference {
    shared: Arc<Shared>,
    client: ClientId,
    held: AtomicBool,
}

impl Reference {
    fn close(&self) {
        if self.held.swap(false, Ordering::Relaxed) {
            self.shared.stack.release(self.client);
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // This may be within a callback of the stack's.
        if self.held.swap(false, Ordering::Relaxed) && self.shared.late.send(self.client).is_err() {
            tracing::debug!("client {} is not released: the tree has ended", self.client.number);
        }
    }
}
