//! The file tree: names, modes, qids, walks, and what opening a file does.
//!
//! ```text
//!     cs
//!     tcp/    clone   N/    ctl  data  listen  local  remote  status
//!             stats
//!     unix/   clone   N/    ...
//! ```
//!
//! It is the tree of sshnet(4) and ip(3). A file is a [`Node`]: a value, not a
//! thing that is kept. What an open file remembers is in its [`Handle`]; writes that
//! wait are in `uploads`, so that they make no others fail. The tree knows no
//! dialect of 9P, no fids and no tags, and nothing of FUSE; it reaches the engine
//! through [`Stack`] alone.
//!
//! Where it differs from sshnet.c, on purpose: a qid names the client's
//! incarnation too, so that a node that was walked to and not yet opened never
//! turns into another user's connection; the modes name the user who runs the
//! server as the only one who may; names of clients are taken literally, so `-1`,
//! `00` and `+1` do not exist; `listen` is listed.

mod failure;
#[cfg(test)]
pub(crate) mod fake;
mod handle;
mod owner;
mod stack;
#[cfg(test)]
mod tests;
mod uploads;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

pub use self::failure::{Failure, TEXT_MAX};
pub use self::handle::{Entries, Entry, Handle, ReadDone, WriteDone};
pub use self::owner::Owner;
pub use self::stack::{Capacity, Client, Stack};
use self::uploads::Uploads;
use crate::driver::{self, Outcome};
use crate::engine::{ClientId, Error, ErrorCode, Protocol, Reply};

/// A file of the tree. It may be one of a client that is gone: opening it says so.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Node {
    /// `/`
    Root,
    /// `/cs`
    Cs,
    /// `/tcp` or `/unix`
    Protocol(Protocol),
    /// `/tcp/clone`
    Clone(Protocol),
    /// `/tcp/stats`
    Stats,
    /// `/tcp/N`
    Client(Protocol, ClientId),
    /// `/tcp/N/ctl` and its neighbours
    File(Protocol, ClientId, ClientFile),
}

/// A file in a client's directory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs, reason = "each is the file of that name")]
pub enum ClientFile {
    Ctl,
    Data,
    Listen,
    Local,
    Remote,
    Status,
}

/// The directories of the root.
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("unix", Protocol::Unix)];

/// The files of a client, in the order in which they are listed.
const CLIENT_FILES: [(&str, ClientFile); 6] = [
    ("ctl", ClientFile::Ctl),
    ("data", ClientFile::Data),
    ("listen", ClientFile::Listen),
    ("local", ClientFile::Local),
    ("remote", ClientFile::Remote),
    ("status", ClientFile::Status),
];

/// The kind of `stats` in a qid: behind those of a client's files.
const STATS_KIND: u64 = 5 + CLIENT_FILES.len() as u64;

/// Bits of a client's number in a qid: a number that needs more is not shown.
const NUMBER_BITS: u32 = 26;

impl Node {
    /// Whether it is a directory.
    pub fn is_directory(self) -> bool {
        matches!(self, Self::Root | Self::Protocol(_) | Self::Client(..))
    }

    /// Its permission bits. The owner is the user who runs the server, and
    /// nobody else may do anything.
    pub fn mode(self) -> u32 {
        match self {
            Self::Root | Self::Protocol(_) | Self::Client(..) => 0o500,
            Self::Stats
            | Self::File(.., ClientFile::Local | ClientFile::Remote | ClientFile::Status) => 0o400,
            Self::Cs | Self::Clone(_) | Self::File(..) => 0o600,
        }
    }

    /// What tells it from every other file of this server's life time: `qid.path`.
    ///
    /// From the lowest bit: kind (4 bits), protocol (2), client number (26),
    /// incarnation (32). The root is 0.
    pub fn path(self) -> u64 {
        let (kind, protocol, client) = match self {
            Self::Root => (0, None, None),
            Self::Cs => (1, None, None),
            Self::Protocol(protocol) => (2, Some(protocol), None),
            Self::Clone(protocol) => (3, Some(protocol), None),
            Self::Stats => (STATS_KIND, Some(Protocol::Tcp), None),
            Self::Client(protocol, client) => (4, Some(protocol), Some(client)),
            Self::File(protocol, client, file) => (5 + file as u64, Some(protocol), Some(client)),
        };
        let protocol = match protocol {
            None => 0,
            Some(Protocol::Tcp) => 1,
            Some(Protocol::Unix) => 2,
        };
        let client = client.map_or(0, |client| {
            let number = u64::from(client.number) & ((1 << NUMBER_BITS) - 1);
            u64::from(client.incarnation) << NUMBER_BITS | number
        });
        client << 6 | protocol << 4 | kind
    }

    /// Its name in its directory; the root's is `/`.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Root => "/".into(),
            Self::Cs => "cs".into(),
            Self::Protocol(Protocol::Tcp) => "tcp".into(),
            Self::Protocol(Protocol::Unix) => "unix".into(),
            Self::Clone(_) => "clone".into(),
            Self::Stats => "stats".into(),
            Self::Client(_, client) => client.number.to_string().into(),
            Self::File(.., file) => {
                let known = CLIENT_FILES.iter().find(|(_, other)| *other == file);
                known.map_or("", |(name, _)| name).into()
            }
        }
    }

    /// The directory that it is in; the root is in itself.
    pub fn parent(self) -> Self {
        match self {
            Self::Root | Self::Cs | Self::Protocol(_) => Self::Root,
            Self::Clone(protocol) | Self::Client(protocol, _) => Self::Protocol(protocol),
            Self::Stats => Self::Protocol(Protocol::Tcp),
            Self::File(protocol, client, _) => Self::Client(protocol, client),
        }
    }

    fn client(self) -> Option<(Protocol, ClientId)> {
        match self {
            Self::Client(protocol, client) | Self::File(protocol, client, _) => {
                Some((protocol, client))
            }
            Self::Root | Self::Cs | Self::Protocol(_) | Self::Clone(_) | Self::Stats => None,
        }
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    /// Whether it includes reading.
    pub fn reads(self) -> bool {
        self != Self::Write
    }

    /// Whether it includes writing.
    pub fn writes(self) -> bool {
        self != Self::Read
    }

    fn allowed_by(self, mode: u32) -> bool {
        !(self.reads() && mode & 0o400 == 0 || self.writes() && mode & 0o200 == 0)
    }
}

/// Called once with the file that was opened, or why it was not.
///
/// [`crate::driver::Done`]'s rules hold: it may run with the driver's lock held.
/// To drop the handle there is fine.
pub type OpenDone = Box<dyn FnOnce(Result<Handle, Failure>) + Send>;

/// Names a request that may be outstanding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestId {
    /// The stack has it.
    Stack(driver::RequestId),
    /// It was not wholly in the stack when it was made: see `uploads`.
    Upload(u64),
}

/// The tree over one stack. Clones are the same tree.
#[derive(Clone)]
pub struct Tree {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    stack: Arc<dyn Stack>,
    uploads: Arc<Uploads>,
    owner: Owner,
    made: u32,
    /// Entries that listings of directories keep.
    listed: AtomicUsize,
    /// References that were dropped where the stack could not be called.
    late: mpsc::UnboundedSender<ClientId>,
}

impl Tree {
    /// The tree over this stack. Must be called within a tokio runtime, which
    /// then releases what is dropped without being closed, and writes what waits.
    pub fn new(stack: impl Stack, owner: Owner) -> Self {
        let stack: Arc<dyn Stack> = Arc::new(stack);
        let (late, mut dropped) = mpsc::unbounded_channel();
        let releasing = Arc::clone(&stack);
        tokio::spawn(async move {
            while let Some(client) = dropped.recv().await {
                releasing.release(client);
            }
        });
        let made = seconds(SystemTime::now());
        let listed = AtomicUsize::new(0);
        let uploads = Uploads::new(Arc::clone(&stack));
        Self { shared: Arc::new(Shared { stack, uploads, owner, made, listed, late }) }
    }

    /// Who owns every file.
    pub fn owner(&self) -> &Owner {
        &self.shared.owner
    }

    /// When the tree was made: seconds since 1970.
    pub fn made(&self) -> u32 {
        self.shared.made
    }

    /// When a file was last read and changed, in seconds since 1970, if it is still
    /// there. A client's files changed when its state last did; the others are as
    /// they were made.
    pub fn changed(&self, node: Node) -> Result<u32, Failure> {
        self.shared.changed(node)
    }

    /// The file of this name in a directory. Asks the engine about clients, and
    /// about nothing else.
    pub fn walk(&self, from: Node, name: &[u8]) -> Result<Node, Failure> {
        if !from.is_directory() {
            return Err(Failure::NOT_DIRECTORY);
        }
        if name == b".." {
            return Ok(from.parent());
        }
        match from {
            Node::Root if name == b"cs" => Ok(Node::Cs),
            Node::Root => PROTOCOLS
                .iter()
                .find(|(known, _)| known.as_bytes() == name)
                .map(|(_, protocol)| Node::Protocol(*protocol))
                .ok_or(Failure::NOT_FOUND),
            Node::Protocol(protocol) if name == b"clone" => Ok(Node::Clone(protocol)),
            Node::Protocol(Protocol::Tcp) if name == b"stats" => Ok(Node::Stats),
            Node::Protocol(protocol) => {
                let number = client_number(name).ok_or(Failure::NOT_FOUND)?;
                match self.shared.stack.lookup(number)? {
                    Some(client) if client.protocol == protocol => {
                        Ok(Node::Client(protocol, client.id))
                    }
                    _ => Err(Failure::NOT_FOUND),
                }
            }
            Node::Client(protocol, client) => {
                let file = CLIENT_FILES.iter().find(|(known, _)| known.as_bytes() == name);
                let (_, file) = file.ok_or(Failure::NOT_FOUND)?;
                self.exists(from)?;
                Ok(Node::File(protocol, client, *file))
            }
            Node::Cs | Node::Clone(_) | Node::Stats | Node::File(..) => Err(Failure::NOT_DIRECTORY),
        }
    }

    /// Whether the file is still there. What never changes is in [`Node`].
    pub fn exists(&self, node: Node) -> Result<(), Failure> {
        self.changed(node).map(drop)
    }

    /// Opens a file: `done` gets a handle, which may be one for another file.
    /// `clone` becomes the `ctl` of a new client, and so does `listen` as soon as
    /// there is a call. While it waits for that it holds no reference to the
    /// client that is announced: whoever announced it does.
    ///
    /// Answers with the request where one was made; it may be outstanding.
    pub fn open(&self, node: Node, access: Access, done: OpenDone) -> Option<RequestId> {
        if node.is_directory() && access.writes() {
            done(Err(Failure::IS_DIRECTORY));
            return None;
        }
        if !access.allowed_by(node.mode()) {
            done(Err(Failure::PERMISSION));
            return None;
        }
        match node {
            Node::Root | Node::Cs | Node::Protocol(_) | Node::Stats => {
                done(Ok(Handle::new(self, node, access, None)));
                None
            }
            // A directory's files are the same whatever becomes of the client:
            // no reference, so that a shell's `cd` keeps no conversation open.
            Node::Client(..) => {
                done(self.exists(node).map(|()| Handle::new(self, node, access, None)));
                None
            }
            Node::Clone(protocol) => {
                let done = self.opened(protocol, access, done);
                Some(RequestId::Stack(self.shared.stack.clone_client(protocol, done)))
            }
            Node::File(protocol, client, ClientFile::Listen) => {
                let done = self.opened(protocol, access, done);
                Some(RequestId::Stack(self.shared.stack.listen(client, done)))
            }
            Node::File(_, client, _) => {
                done(match self.shared.stack.retain(client) {
                    Ok(()) => Ok(Handle::new(self, node, access, Some(client))),
                    Err(error) => Err(gone(error)),
                });
                None
            }
        }
    }

    /// Gives up on a request: when this returns it is completed.
    pub fn flush(&self, request: RequestId) {
        match request {
            RequestId::Stack(request) => self.shared.stack.flush(request),
            RequestId::Upload(id) => self.shared.uploads.flush(id),
        }
    }

    /// Requests that may still be made, of all who use the tree together.
    pub fn requests_free(&self) -> usize {
        let stack = &self.shared.stack;
        let most = usize::try_from(stack.capacity().requests).unwrap_or(usize::MAX);
        most.saturating_sub(stack.outstanding())
    }

    /// Bytes of writes that may still wait, of all who use the tree together, beside
    /// those that the stack has.
    pub fn waiting_free(&self) -> u64 {
        self.shared.uploads.free()
    }

    /// Completes the opening of a file that makes a client.
    fn opened(
        &self,
        protocol: Protocol,
        access: Access,
        done: OpenDone,
    ) -> Box<dyn FnOnce(Outcome) + Send> {
        let tree = self.clone();
        Box::new(move |outcome| {
            done(match outcome {
                Ok(Reply::Client(client)) => {
                    let node = Node::File(protocol, client, ClientFile::Ctl);
                    Ok(Handle::new(&tree, node, access, Some(client)))
                }
                Ok(_) => Err(Failure::MISMATCH),
                Err(error) => Err(gone(error)),
            });
        })
    }
}

impl Shared {
    fn changed(&self, node: Node) -> Result<u32, Failure> {
        let Some((protocol, id)) = node.client() else { return Ok(self.made) };
        match self.stack.lookup(id.number)? {
            Some(client) if (client.id, client.protocol) == (id, protocol) => {
                Ok(seconds(client.changed))
            }
            _ => Err(Failure::NOT_FOUND),
        }
    }
}

/// Since 1970, as 9P2000 counts them.
fn seconds(time: SystemTime) -> u32 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// An engine that knows no such client means the file.
fn gone(error: Error) -> Failure {
    match error.code {
        ErrorCode::NoEntry => Failure::NOT_FOUND,
        _ => error.into(),
    }
}

/// A client's name, read strictly: each number has one name.
fn client_number(name: &[u8]) -> Option<u32> {
    let digits = matches!(name, [b'0'] | [b'1'..=b'9', ..]) && name.len() <= 8;
    let mut number = 0_u32;
    for byte in name.iter().filter(|_| digits) {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number = number * 10 + u32::from(digit);
    }
    (digits && number < 1 << NUMBER_BITS).then_some(number)
}
