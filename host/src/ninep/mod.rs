//! 9P: the tree for programs that speak it, and a client for our own commands.
//!
//! The server speaks 9P2000, 9P2000.u and 9P2000.L on one table of fids and one
//! of tags. It follows section 5 of the Plan 9 manual; for 9P2000.L, diod's
//! protocol.md; and where real clients read either differently, what they do.
//! It knows no SSH and no engine: files are [`crate::tree`]'s.
//!
//! - [`codec`] is the messages and their bytes, [`linux`] those that 9P2000.L
//!   alone has;
//! - `table` is what a connection remembers: fids, tags, replies to be sent;
//! - `connection` is what each message does; `answer` what stat and directories say;
//! - `listener` takes connections on a Unix socket or a TCP port, `peer` finds out
//!   who makes them;
//! - `shortfall` is how a read that came out short reaches Linux's programs;
//! - [`client`] is the other side.
//!
//! What clients can rely on, rule by rule and each with its tests, is in README.md
//! beside this file.
//!
//! # Order
//!
//! A connection has one task that reads messages and does what they say, one by
//! one, waiting for nothing but room for replies. What blocks (a read, a write,
//! the opening of `listen`) is a request of the stack's, and is answered by
//! whoever completes it; one more task writes the replies. So messages take effect
//! in the order in which they were sent, and none holds up another. After
//! a millisecond of messages others have their turn: there is one thread for all.
//!
//! # Bounds
//!
//! What a client can make a connection hold is bounded: it is not listened to
//! while it does not take its replies, its reads that wait get shorter the more
//! there are, its writes fail when too much of them waits, and fids and tags have
//! limits.
//! Of what all clients may hold together each has at most a part of what is free,
//! so that those who wait leave something for the next.

mod answer;
pub mod client;
pub mod codec;
mod connection;
pub mod linux;
mod listener;
mod peer;
mod shortfall;
mod table;
#[cfg(test)]
mod tests;
mod trace;
mod writer;

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

pub use self::listener::{listen, listen_tcp};
pub(crate) use self::peer::{prepare as prepare_users, user as user_of};
#[cfg(test)]
pub(crate) use self::table::TAGS_MAX;
pub(crate) use self::table::{READS_MAX, WRITES_MAX};
use crate::tree::Tree;
use crate::users::Users;

/// What a server grants its clients.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes in a message, at most: from 256 to [`MSIZE_MAX`].
    pub msize: u32,
    /// Connections that a listener serves at once.
    pub connections: usize,
    /// Whether a client of 9P2000.u or 9P2000.L that asks for the rest of a read
    /// waits for it, as one of 9P2000 does. See `shortfall`.
    pub exact_reads: bool,
    /// Who may connect.
    pub users: Users,
}

impl Default for Options {
    fn default() -> Self {
        Self { msize: MSIZE_MAX, connections: 1024, exact_reads: false, users: Users::default() }
    }
}

/// The largest message that is offered to a client, in bytes.
pub const MSIZE_MAX: u32 = 1 << 20;
/// The largest message that a client must take, in bytes.
pub const MSIZE_MIN: u32 = 256;

/// Serves the tree on a connection until its client ends it, breaks the framing
/// or stops taking replies. Whatever it had open is closed by then.
pub async fn serve<S>(stream: S, tree: Tree, options: &Options) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    serve_halves(reader, writer, tree, options).await
}

/// [`serve`] on a connection whose directions are apart, such as standard input
/// and output.
///
/// When the future is dropped everything is closed at once.
pub async fn serve_halves<R, W>(
    reader: R,
    writer: W,
    tree: Tree,
    options: &Options,
) -> io::Result<()>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::new(table::Shared::new());
    let mut writers = JoinSet::new();
    writers.spawn(writer::write_replies(writer, Arc::clone(&shared)));
    let connection = connection::Connection::new(tree, Arc::clone(&shared), options);
    let ended = tokio::select! {
        ended = connection.run(reader) => ended,
        // It ends by itself only when the client does not take replies.
        written = writers.join_next() => return finished(written),
    };
    // The last replies, if the client still takes them.
    let last = tokio::time::timeout(writer::LAST_REPLIES, writers.join_next()).await;
    ended.and(last.map_or(Ok(()), finished))
}

fn finished(written: Option<Result<io::Result<()>, tokio::task::JoinError>>) -> io::Result<()> {
    match written {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(io::Error::other(error)),
        None => Ok(()),
    }
}
