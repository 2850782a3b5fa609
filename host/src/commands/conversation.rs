//! A client of the far stack as its files show it, and copying to and from one.
//!
//! Several reads and several writes are under way at a time: the tree answers them
//! in their order, and the time that one takes to get to the far side and back
//! does not count. How many there are, and how long, is [`Share`]'s.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::share::{CHUNK, Share};
use crate::args::address::Target;
use crate::ninep::client::{Client, ClientError, File, Payload, Receive, Received, Write};
use crate::piped::Siding;
use crate::tree::Access;

/// A client whose `ctl` is open.
pub struct Conversation {
    /// The directory that its own is in: `tcp` or `unix`.
    pub protocol: &'static str,
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
    /// The service would not take or give bytes of a conversation that goes on. It is
    /// to be hung up: some bytes are missing, and its ends must not take what they
    /// have for all.
    Refused(ClientError),
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

    /// A new client that has dialled, and its `data`.
    pub async fn dial(client: &Client, target: &Target) -> Result<(Self, File), ClientError> {
        let protocol = target.protocol();
        let ctl = client.open(&format!("{protocol}/clone"), Access::ReadWrite).await?;
        let conversation = Self { protocol, ..Self::of(ctl).await? };
        conversation.control(&format!("connect {target}")).await?;
        let data = conversation.data(client).await?;
        Ok((conversation, data))
    }

    /// The client of TCP that this `ctl` is of.
    pub async fn of(ctl: File) -> Result<Self, ClientError> {
        let text = ctl.read(64).await?;
        let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        let number = number.ok_or(ClientError::Protocol("ctl does not read as a number"))?;
        Ok(Self { protocol: "tcp", number, ctl })
    }

    /// The path of one of its files.
    pub fn path(&self, file: &str) -> String {
        format!("{}/{}/{file}", self.protocol, self.number)
    }

    /// Writes a control message, and waits until it has taken effect.
    pub async fn control(&self, message: &str) -> Result<(), ClientError> {
        self.ctl.write_all(message.as_bytes()).await
    }

    /// Ends our direction, if somebody has not done so already.
    pub async fn close_write(&self) -> Result<(), ClientError> {
        match self.control("closewrite").await {
            Err(ClientError::Refused(why)) if why == HUNG_UP => Ok(()),
            ended => ended,
        }
    }

    /// What it means that a read or write of its data failed.
    ///
    /// Where the conversation is over, that is all: a read gets what is left of it,
    /// and then says why. Where it goes on, the service refused this one request.
    pub async fn broken_by(&self, error: ClientError) -> CopyError {
        if !matches!(error, ClientError::Ended(_)) && self.goes_on().await {
            return CopyError::Refused(error);
        }
        CopyError::Far(error)
    }

    async fn goes_on(&self) -> bool {
        match self.text(self.ctl.client(), "status").await {
            Ok(status) => status.starts_with("Established "),
            Err(ClientError::Ended(_)) => false,
            // A service that refuses this, too, has reached its limits.
            Err(_) => true,
        }
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
    share: &'a Share,
    /// By which much may come.
    siding: Option<Arc<Siding>>,
    reads: VecDeque<Receive>,
}

impl<'a> Incoming<'a> {
    /// Starts reading.
    pub fn new(data: &'a File, share: &'a Share) -> Self {
        Self::by(None, data, share)
    }

    fn by(siding: Option<Arc<Siding>>, data: &'a File, share: &'a Share) -> Self {
        let mut incoming = Self { data, share, siding, reads: VecDeque::new() };
        incoming.ask();
        incoming
    }

    /// As many reads as there may be now. It may be fewer than there are.
    fn ask(&mut self) {
        let window = self.share.reads();
        let count = u32::try_from(window.chunk).unwrap_or(u32::MAX);
        while self.reads.len() < window.outstanding {
            self.reads.push_back(self.data.receive(count, self.siding.as_ref()));
        }
    }

    /// The next bytes; none at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Bytes, ClientError> {
        Ok(self.receive().await?.map(|received| received.bytes).unwrap_or_default())
    }

    /// The same, by the siding if there is one.
    async fn receive(&mut self) -> Result<Option<Received>, ClientError> {
        let Some(read) = self.reads.front_mut() else { return Ok(None) };
        let received = read.await;
        self.reads.pop_front();
        let received = received?;
        if received.bytes.is_empty() && received.rest.is_none() {
            self.reads.clear();
            return Ok(None);
        }
        self.ask();
        Ok(Some(received))
    }
}

/// What goes to the far side, in order.
pub struct Outgoing<'a> {
    data: &'a File,
    share: &'a Share,
    writes: VecDeque<(usize, Write)>,
}

impl<'a> Outgoing<'a> {
    /// Nothing is under way yet.
    pub fn new(data: &'a File, share: &'a Share) -> Self {
        Self { data, share, writes: VecDeque::new() }
    }

    /// Bytes that one more write may have now; none if there may be no more.
    pub fn room(&self) -> usize {
        let window = self.share.writes();
        if self.writes.len() < window.outstanding { window.chunk.min(self.most()) } else { 0 }
    }

    fn most(&self) -> usize {
        usize::try_from(self.data.iounit()).unwrap_or(usize::MAX).clamp(1, CHUNK)
    }

    /// Whether writes are under way.
    pub fn is_busy(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Makes one or more writes of these bytes.
    pub fn push(&mut self, mut bytes: Payload) {
        let most = self.most();
        while bytes.len() > 0 {
            let part = bytes.split_to(most);
            self.writes.push_back((part.len(), self.data.write_bytes(part)));
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

/// The other direction failed: a conversation that is over says so at once, when
/// it is read. If it says nothing for so long it was not over, and is now.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What the engine says of a direction, or a conversation, that was ended here.
const HUNG_UP: &str = "i/o on hungup channel";

/// Why a direction failed, for who copies the other one; `None` while it has not.
pub type Failed = watch::Sender<Option<ClientError>>;

/// Copies what comes from the far side, to its end. Once the other direction has
/// failed, it does not wait for ever.
pub async fn receive(
    data: &File,
    share: &Share,
    mut to: impl Sink,
    failed: &Failed,
) -> Result<(), CopyError> {
    let mut incoming = Incoming::by(to.siding(), data, share);
    let mut failed = failed.subscribe();
    loop {
        let overdue = async {
            // The sender is ours.
            let why = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            tokio::time::sleep(LAST_WORDS).await;
            why.unwrap_or(ClientError::Protocol("writing failed"))
        };
        let received = tokio::select! {
            received = incoming.receive() => received?,
            why = overdue => return Err(why.into()),
        };
        let Some(received) = received else { return Ok(to.end().await?) };
        to.put(received).await?;
    }
}

/// What is copied to.
pub trait Sink {
    /// What much of it may come by.
    fn siding(&self) -> Option<Arc<Siding>>;
    /// Writes all of this.
    fn put(&mut self, received: Received) -> impl Future<Output = io::Result<()>> + Send;
    /// That was all.
    fn end(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl<W: AsyncWrite + Unpin + Send> Sink for W {
    fn siding(&self) -> Option<Arc<Siding>> {
        None
    }

    async fn put(&mut self, received: Received) -> io::Result<()> {
        self.write_all(&received.bytes).await?;
        self.flush().await
    }

    async fn end(&mut self) -> io::Result<()> {
        self.shutdown().await
    }
}

/// Copies to the far side, to the end of `from`; all of it is sent then.
///
/// With `idle` it also ends when nothing has come for so long. Changing that takes
/// effect at once.
pub async fn send(
    data: &File,
    share: &Share,
    mut from: impl Source,
    mut idle: watch::Receiver<Option<Duration>>,
) -> Result<(), CopyError> {
    let mut outgoing = Outgoing::new(data, share);
    loop {
        let patience = *idle.borrow_and_update();
        let room = outgoing.room();
        tokio::select! {
            taken = from.take(room), if room > 0 => match taken {
                Ok(bytes) if bytes.len() == 0 => break,
                Ok(bytes) => outgoing.push(bytes),
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

/// What is copied from.
pub trait Source {
    /// Takes what is there, up to so many bytes; none at the end. Cancel-safe.
    fn take(&mut self, room: usize) -> impl Future<Output = io::Result<Payload>> + Send;
}

/// What is read.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    buffer: BytesMut,
}

impl<R> Reader<R> {
    /// Reads from this.
    pub fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new() }
    }
}

impl<R: AsyncRead + Unpin + Send> Source for Reader<R> {
    async fn take(&mut self, room: usize) -> io::Result<Payload> {
        self.buffer.reserve(room);
        let mut part = (&mut self.buffer).limit(room);
        self.from.read_buf(&mut part).await?;
        Ok(self.buffer.split().freeze().into())
    }
}

/// Copies what comes from a conversation, to its end.
pub async fn receive_all(
    conversation: &Conversation,
    data: &File,
    share: &Share,
    to: impl Sink,
    failed: &Failed,
) -> Result<(), CopyError> {
    match receive(data, share, to, failed).await {
        Err(CopyError::Far(error)) => Err(conversation.broken_by(error).await),
        received => received,
    }
}

/// Copies to a conversation, and ends that direction at the end of `from`.
///
/// That the conversation is over is no error here, and nor is it that it takes no
/// more then: its own direction shows why, to who copies that and has `failed`.
pub async fn send_all(
    conversation: &Conversation,
    data: &File,
    share: &Share,
    from: impl Source,
    idle: watch::Receiver<Option<Duration>>,
    failed: &Failed,
) -> Result<(), CopyError> {
    let sent = match send(data, share, from, idle).await {
        Ok(()) => conversation.close_write().await,
        Err(CopyError::Far(error)) => Err(error),
        Err(error) => return Err(error),
    };
    let Err(error) = sent else { return Ok(()) };
    match conversation.broken_by(error).await {
        CopyError::Far(error) => {
            failed.send_replace(Some(error));
            Ok(())
        }
        error => Err(error),
    }
}

/// Copies both ways until both have ended; the end of each is passed on when it
/// comes.
///
/// After an error this conversation is over, and what it was joined to is better
/// broken off than ended.
pub async fn join<R, W>(
    conversation: &Conversation,
    data: &File,
    share: &Share,
    from: R,
    to: W,
) -> Result<(), CopyError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let (_patience, idle) = watch::channel(None);
    let failed = Failed::new(None);
    let outgoing = send_all(conversation, data, share, Reader::new(from), idle, &failed);
    let incoming = receive_all(conversation, data, share, to, &failed);
    tokio::pin!(outgoing, incoming);
    tokio::select! {
        sent = &mut outgoing => {
            sent?;
            incoming.await
        }
        received = &mut incoming => match received {
            Err(error @ (CopyError::Far(_) | CopyError::Refused(_))) => Err(error),
            Ok(()) => outgoing.await,
            // Who reads no more may still have something to say. The far side is
            // heard on, or it would not listen either.
            Err(CopyError::Near(_)) => {
                let nobody = receive(data, share, tokio::io::sink(), &failed);
                tokio::pin!(nobody);
                tokio::select! {
                    sent = &mut outgoing => sent,
                    _ = &mut nobody => outgoing.await,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::share::Shares;
    use super::*;
    use crate::engine::ErrorCode;
    use crate::ninep::{Options, serve};
    use crate::tree::fake::{Asked, Fake, error};

    async fn conversation(fake: &Fake) -> (Conversation, File) {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let tree = fake.tree();
        tokio::spawn(async move { serve(far, tree, &Options::default()).await });
        let client = Client::new(near, 8192).await.unwrap();
        let conversation = Conversation::new(&client).await.unwrap();
        let data = conversation.data(&client).await.unwrap();
        (conversation, data)
    }

    /// Waits for this request, and lets it fail.
    async fn fails(fake: &Fake, asked: Asked, code: ErrorCode, message: &str) {
        while fake.asked() != [asked.clone()] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fake.complete(Err(error(code, message)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_conversation_that_is_over_without_a_last_word_ends_with_the_writers_error() {
        let fake = Fake::default();
        let (conversation, data) = conversation(&fake).await;
        let share = Shares::default().join();
        let (_patience, idle) = watch::channel(None);
        let failed = Failed::new(None);
        // This stack says of its clients that they are closed.
        let (sent, ()) = tokio::join!(
            send_all(&conversation, &data, &share, Reader::new(&b"hello"[..]), idle, &failed),
            fails(&fake, Asked::Write(b"hello".to_vec()), ErrorCode::NotConnected, "not connected"),
        );
        assert!(sent.is_ok(), "{sent:?}");
        let received = receive_all(&conversation, &data, &share, tokio::io::sink(), &failed).await;
        let why = ClientError::Refused("not connected".to_owned());
        assert!(matches!(&received, Err(CopyError::Far(error)) if *error == why), "{received:?}");
    }

    #[tokio::test]
    async fn a_direction_that_somebody_has_ended_is_ended() {
        let fake = Fake::default();
        let (conversation, _data) = conversation(&fake).await;
        for (message, ended) in [("i/o on hungup channel", true), ("not connected", false)] {
            let (closed, ()) = tokio::join!(
                conversation.close_write(),
                fails(&fake, Asked::Control(b"closewrite".to_vec()), ErrorCode::HungUp, message),
            );
            assert_eq!(closed.is_ok(), ended, "{message}");
        }
    }
}
