//! A client of the far stack as its files show it, and copying to and from one.
//!
//! Several reads and several writes are under way at a time: the tree answers them
//! in their order, and the time that one takes to get to the far side and back
//! does not count.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::ninep::client::{Client, ClientError, File, Read, Write};
use crate::tree::Access;

/// Bytes in one read or write.
pub const CHUNK: u32 = 128 << 10;
/// Reads, and writes, under way at a time.
pub const OUTSTANDING: usize = 8;

/// A client whose `ctl` is open.
pub struct Conversation {
    /// Its number: N of `tcp/N`.
    pub number: u32,
    /// `tcp/N/ctl`
    pub ctl: File,
}

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// The far side's.
    Far(ClientError),
    /// Ours.
    Near(io::Error),
}

impl From<ClientError> for CopyError {
    fn from(error: ClientError) -> Self {
        Self::Far(error)
    }
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Near(error)
    }
}

impl Conversation {
    /// A new client: what opening `tcp/clone` makes.
    pub async fn new(client: &Client) -> Result<Self, ClientError> {
        Self::of(client.open("tcp/clone", Access::ReadWrite).await?).await
    }

    /// The client that this `ctl` is of.
    pub async fn of(ctl: File) -> Result<Self, ClientError> {
        let text = ctl.read(64).await?;
        let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        let number = number.ok_or(ClientError::Protocol("ctl does not read as a number"))?;
        Ok(Self { number, ctl })
    }

    /// The path of one of its files.
    pub fn path(&self, file: &str) -> String {
        format!("tcp/{}/{file}", self.number)
    }

    /// Writes a control message, and waits until it has taken effect.
    pub async fn control(&self, message: &str) -> Result<(), ClientError> {
        self.ctl.write_all(message.as_bytes()).await
    }

    /// Opens `data`.
    pub async fn data(&self, client: &Client) -> Result<File, ClientError> {
        client.open(&self.path("data"), Access::ReadWrite).await
    }

    /// What one of its text files reads, without the newline.
    pub async fn text(&self, client: &Client, file: &str) -> Result<String, ClientError> {
        let text = client.read_file(&self.path(file)).await?;
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }
}

/// What comes from the far side, in order.
pub struct Incoming<'a> {
    data: &'a File,
    reads: VecDeque<Read>,
}

impl<'a> Incoming<'a> {
    /// Starts reading.
    pub fn new(data: &'a File) -> Self {
        Self { data, reads: (0..OUTSTANDING).map(|_| data.read(CHUNK)).collect() }
    }

    /// The next bytes; none at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Bytes, ClientError> {
        let Some(read) = self.reads.front_mut() else { return Ok(Bytes::new()) };
        let bytes = read.await;
        self.reads.pop_front();
        let bytes = bytes?;
        if bytes.is_empty() {
            self.reads.clear();
        } else {
            self.reads.push_back(self.data.read(CHUNK));
        }
        Ok(bytes)
    }
}

/// What goes to the far side, in order.
pub struct Outgoing<'a> {
    data: &'a File,
    writes: VecDeque<(usize, Write)>,
}

impl<'a> Outgoing<'a> {
    /// Nothing is under way yet.
    pub fn new(data: &'a File) -> Self {
        Self { data, writes: VecDeque::new() }
    }

    /// Whether one more write may be made now.
    pub fn has_room(&self) -> bool {
        self.writes.len() < OUTSTANDING
    }

    /// Whether writes are under way.
    pub fn is_busy(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Makes one or more writes of these bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let most = usize::try_from(CHUNK.min(self.data.iounit())).unwrap_or(usize::MAX);
        for part in bytes.chunks(most.max(1)) {
            self.writes.push_back((part.len(), self.data.write(part)));
        }
    }

    /// Waits until the first of the writes is done. Cancel-safe.
    pub async fn done(&mut self) -> Result<(), ClientError> {
        let Some((length, write)) = self.writes.front_mut() else { return Ok(()) };
        let (length, count) = (*length, write.await);
        self.writes.pop_front();
        if usize::try_from(count?).ok() != Some(length) {
            return Err(ClientError::Protocol("a write was cut short"));
        }
        Ok(())
    }

    /// Waits until all are done.
    pub async fn finish(&mut self) -> Result<(), ClientError> {
        while self.is_busy() {
            self.done().await?;
        }
        Ok(())
    }
}

/// Copies what comes from the far side, to its end.
pub async fn receive<W>(data: &File, mut to: W) -> Result<(), CopyError>
where
    W: AsyncWrite + Unpin,
{
    let mut incoming = Incoming::new(data);
    loop {
        let bytes = incoming.next().await?;
        if bytes.is_empty() {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
}

/// Copies to the far side, to the end of `from`; all of it is sent then.
///
/// With `idle` it also ends when nothing has come for so long. Changing that takes
/// effect at once.
pub async fn send<R>(
    data: &File,
    mut from: R,
    mut idle: tokio::sync::watch::Receiver<Option<Duration>>,
) -> Result<(), CopyError>
where
    R: AsyncRead + Unpin,
{
    let mut outgoing = Outgoing::new(data);
    let mut buffer = vec![0; CHUNK as usize];
    loop {
        let patience = *idle.borrow_and_update();
        tokio::select! {
            read = from.read(&mut buffer), if outgoing.has_room() => match read {
                Ok(0) => break,
                Ok(count) => outgoing.push(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody else has made our stdin so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(error.into()),
            },
            done = outgoing.done(), if outgoing.is_busy() => done?,
            Ok(()) = idle.changed() => {}
            () = tokio::time::sleep(patience.unwrap_or_default()),
                if patience.is_some() && !outgoing.is_busy() => break,
        }
    }
    Ok(outgoing.finish().await?)
}
