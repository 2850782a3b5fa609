//! Both directions of a bare connection over any stream of bytes: the greeting,
//! and then the messages of RFC 4254.
//!
//! The transport's messages end here: a DISCONNECT is an error with the other
//! side's words, IGNORE and DEBUG go nowhere, and what nobody knows is answered.
//! The directions wait for each other nowhere, so that no write holds up a read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::frame::{FrameError, Greeting, HEADER, Input, LONGEST, version_line};
use super::transport::{self, Disconnect, Purpose};
use crate::warnings::FAR;

/// Bytes that are written at a time.
pub const BATCH: usize = 256 << 10;
/// Answers to unknown messages that may wait to be written.
const ANSWERS: usize = 64;

/// Why a bare connection ended, or never was one.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    /// What comes is no bare connection.
    #[error("the far side does not speak a bare ssh-connection: {0}")]
    Frame(#[from] FrameError),
    /// The other side has said why it ends it.
    #[error("the far side ended the connection: {}", .0.words)]
    Disconnected(Disconnect),
    /// It has ended it without a word.
    #[error("the far side closed the connection")]
    Closed,
    /// It asks, and does not read the answers.
    #[error("the far side sends and does not read")]
    Flood,
    /// It said nothing that is a version line.
    #[error(
        "no version line of a bare ssh-connection came within {0} seconds{1};\n\
         is it psusan or 'sshnet-host peer' that runs there?"
    )]
    Silent(u64, String),
    /// It was asked for a sign of life.
    #[error("the far side gives no sign of life")]
    Dead,
    /// The system would not do it.
    #[error("the connection to the far side broke: {0}")]
    Io(#[from] io::Error),
}

/// Messages that come in.
#[derive(Debug)]
pub struct Incoming<R> {
    reader: R,
    input: Input,
    /// How many came before, modulo 2^32: what UNIMPLEMENTED calls them by.
    count: u32,
    /// How often something came.
    heard: Arc<AtomicU64>,
    answers: mpsc::Sender<Vec<u8>>,
}

/// Messages that go out.
#[derive(Debug)]
pub struct Outgoing<W> {
    writer: W,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are written.
    written: usize,
    answers: mpsc::Receiver<Vec<u8>>,
}

/// Exchanges version lines; both sides send theirs at once. Whatever other lines
/// come first are told, one by one. Waits no longer than this. Gives the other
/// side's name for itself, too.
pub async fn greet<R, W>(
    mut reader: R,
    mut writer: W,
    patience: Duration,
    mut told: impl FnMut(&str),
) -> Result<(Incoming<R>, Outgoing<W>, String), BareError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = Input::default();
    let mut last = String::new();
    let hear = async {
        loop {
            match input.greeting()? {
                Greeting::Version(name) => return Ok(name),
                Greeting::Other(line) => {
                    told(&line);
                    if !line.trim().is_empty() {
                        last = line;
                    }
                }
                Greeting::Wanting => match reader.read(input.space()).await? {
                    0 => return Err(BareError::Closed),
                    length => input.filled(length),
                },
            }
        }
    };
    let say = async {
        writer.write_all(&version_line()).await?;
        writer.flush().await
    };
    // Of one that reads nothing the words are of use still.
    let Ok((heard, said)) = timeout(patience, async { tokio::join!(hear, say) }).await else {
        let last = match last.as_str() {
            "" => String::new(),
            last => format!(" (but '{last}')"),
        };
        return Err(BareError::Silent(patience.as_secs(), last));
    };
    let name = heard?;
    said?;
    tracing::debug!("the far side is {name}");
    let (sender, answers) = mpsc::channel(ANSWERS);
    let incoming = Incoming { reader, input, count: 0, heard: Arc::default(), answers: sender };
    let outgoing = Outgoing { writer, buffer: Vec::new(), written: 0, answers };
    Ok((incoming, outgoing, name))
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    /// Counts what comes, whatever it is.
    pub fn heard(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.heard)
    }

    /// The next message of RFC 4254. `None` where the other side has closed the
    /// connection between two messages.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, BareError> {
        let at = loop {
            let Some(at) = self.input.next_message()? else {
                match self.reader.read(self.input.space()).await? {
                    0 if self.input.is_empty() => return Ok(None),
                    0 => return Err(BareError::Closed),
                    length => {
                        self.heard.fetch_add(1, Ordering::Relaxed);
                        self.input.filled(length);
                    }
                }
                continue;
            };
            let sequence = self.count;
            self.count = self.count.wrapping_add(1);
            match transport::purpose(self.input.message(at.clone())) {
                Purpose::Connection => break at,
                Purpose::Nothing => {}
                Purpose::Words(words, true) => FAR.warn(format_args!("the far side says: {words}")),
                Purpose::Words(words, false) => tracing::debug!("the far side says: {words}"),
                Purpose::Disconnect(why) => return Err(BareError::Disconnected(why)),
                Purpose::Unknown => {
                    let answer = transport::unimplemented(sequence);
                    // One that cannot be written any more is missed by nobody.
                    if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.try_send(answer) {
                        return Err(BareError::Flood);
                    }
                }
            }
        };
        Ok(Some(self.input.message(at)))
    }
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    /// The next answer that the incoming direction has for the other side; `None`
    /// when there will be none. Cancel-safe.
    pub async fn answer(&mut self) -> Option<Vec<u8>> {
        self.answers.recv().await
    }

    /// Puts a message behind those that are to be written; how many bytes wait.
    pub fn push(&mut self, message: &[u8]) -> Result<usize, BareError> {
        if message.is_empty() || message.len() > LONGEST {
            return Err(FrameError::Length(message.len() as u32).into());
        }
        self.buffer.reserve(HEADER + message.len());
        self.buffer.extend_from_slice(&(message.len() as u32).to_be_bytes());
        self.buffer.extend_from_slice(message);
        Ok(self.buffer.len())
    }

    /// Writes all that was pushed. Cancel-safe: the next one goes on.
    pub async fn write(&mut self) -> Result<(), BareError> {
        while let Some(rest @ [_, ..]) = self.buffer.get(self.written..) {
            match self.writer.write(rest).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                written => self.written += written,
            }
        }
        // The standard output keeps what is behind the last newline.
        self.writer.flush().await?;
        self.buffer.clear();
        self.written = 0;
        // After a full batch the next may be a byte.
        self.buffer.shrink_to(BATCH);
        Ok(())
    }

    /// Says why this side ends the connection, and ends its direction.
    pub async fn end(mut self, reason: u32, words: &str) -> Result<(), BareError> {
        self.push(&transport::disconnect(reason, words))?;
        self.write().await?;
        Ok(self.writer.shutdown().await?)
    }
}
