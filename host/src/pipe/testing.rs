//! For tests: a driver's and engine's place at a pipe, with messages made by
//! hand, and what every kind of pipe must be able to do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sshnet_core::message::{Global, Message, Open, reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Link, Outbox, Upstream};

/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

struct Inbox {
    messages: mpsc::UnboundedSender<Vec<u8>>,
    took: Arc<AtomicU64>,
}

impl Upstream for Inbox {
    fn receive(&self, message: &[u8]) {
        let _ = self.messages.send(message.to_vec());
    }

    fn took(&self, bytes: u64) {
        self.took.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Sends and receives messages.
pub(crate) struct Engine {
    outbox: Arc<Outbox>,
    inbox: mpsc::UnboundedReceiver<Vec<u8>>,
    took: Arc<AtomicU64>,
    sent: u64,
}

/// A channel, seen from here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(crate) ours: u32,
    pub(crate) theirs: u32,
    pub(crate) window: u32,
    pub(crate) packet: u32,
}

impl Engine {
    pub(crate) fn new() -> (Self, Link) {
        let (messages, inbox) = mpsc::unbounded_channel();
        let took = Arc::new(AtomicU64::new(0));
        let outbox = Arc::new(Outbox::new());
        let upstream = Inbox { messages, took: Arc::clone(&took) };
        let link = Link::new(Arc::new(upstream), Arc::clone(&outbox));
        (Self { outbox, inbox, took, sent: 0 }, link)
    }

    pub(crate) fn send(&mut self, message: &Message<'_>) {
        let bytes = message.encode();
        self.sent += bytes.len() as u64;
        self.outbox.push(bytes);
    }

    /// Sends what is no message.
    pub(crate) fn push(&self, bytes: Vec<u8>) {
        self.outbox.push(bytes);
    }

    pub(crate) fn close(&self) {
        self.outbox.close();
    }

    pub(crate) async fn next(&mut self) -> Vec<u8> {
        timeout(PATIENCE, self.inbox.recv()).await.expect("a message").expect("a pipe")
    }

    pub(crate) async fn quiet(&mut self) {
        let message = timeout(Duration::from_millis(200), self.inbox.recv()).await;
        assert!(message.is_err(), "{message:?}");
    }

    /// Every byte that was sent is reported as taken, and not one more.
    pub(crate) async fn all_taken(&self) {
        let taken = async {
            while self.took.load(Ordering::Relaxed) < self.sent {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, taken).await.expect("all is taken");
        assert_eq!(self.took.load(Ordering::Relaxed), self.sent);
    }

    pub(crate) async fn open(
        &mut self,
        ours: u32,
        window: u32,
        packet: u32,
        kind: Open<'_>,
    ) -> Result<Channel, (u32, String)> {
        self.send(&Message::Open { sender: ours, window, packet, kind });
        let answer = self.next().await;
        match Message::decode(&answer).unwrap() {
            Message::OpenConfirmation { recipient, sender, window, packet, .. } => {
                assert_eq!(recipient, ours);
                Ok(Channel { ours, theirs: sender, window, packet })
            }
            Message::OpenFailure { recipient, reason, description, language: _ } => {
                assert_eq!(recipient, ours);
                Err((reason, String::from_utf8(description.to_vec()).unwrap()))
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn dial(&mut self, host: &str, port: u16) -> Result<Channel, (u32, String)> {
        let kind = Open::DirectTcpip {
            host: host.as_bytes(),
            port: port.into(),
            originator: b"::1",
            originator_port: 0,
        };
        self.open(u32::from(port), 1 << 20, 32 << 10, kind).await
    }

    /// Waits for a call; gives its sender number, address, port and originator.
    pub(crate) async fn call(&mut self) -> (u32, u32, u32, String, u32, String) {
        let open = self.next().await;
        match Message::decode(&open).unwrap() {
            Message::Open {
                sender,
                window,
                packet,
                kind: Open::ForwardedTcpip { address, port, originator, .. },
            } => (
                sender,
                window,
                packet,
                String::from_utf8(address.to_vec()).unwrap(),
                port,
                String::from_utf8(originator.to_vec()).unwrap(),
            ),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn accept(&mut self, ours: u32, call: (u32, u32, u32)) -> Channel {
        let (theirs, window, packet) = call;
        self.send(&Message::OpenConfirmation {
            recipient: theirs,
            sender: ours,
            window: 1 << 20,
            packet: 32 << 10,
            data: b"",
        });
        Channel { ours, theirs, window, packet }
    }

    /// Refuses a call, by its sender number.
    pub(crate) fn refuse(&mut self, theirs: u32) {
        self.send(&Message::OpenFailure {
            recipient: theirs,
            reason: reason::PROHIBITED,
            description: b"no",
            language: b"",
        });
    }

    /// Sends all of this and EOF as the window allows, takes what comes until
    /// EOF and CLOSE, answers that, and gives the bytes.
    pub(crate) async fn exchange(&mut self, channel: Channel, bytes: &[u8]) -> Vec<u8> {
        let Channel { ours, theirs, mut window, packet } = channel;
        let (mut rest, mut got) = (bytes, Vec::new());
        let (mut eof_sent, mut eof, mut granted) = (false, false, 0);
        loop {
            while !rest.is_empty() && window > 0 {
                let (now, later) = rest.split_at(rest.len().min(window.min(packet) as usize));
                self.send(&Message::Data { recipient: theirs, data: now });
                window -= now.len() as u32;
                rest = later;
            }
            if rest.is_empty() && !eof_sent {
                eof_sent = true;
                self.send(&Message::Eof { recipient: theirs });
            }
            let message = self.next().await;
            match Message::decode(&message).unwrap() {
                Message::WindowAdjust { recipient, bytes } if recipient == ours => window += bytes,
                Message::Data { recipient, data } if recipient == ours => {
                    assert!(!eof, "data after EOF");
                    got.extend_from_slice(data);
                    granted += data.len() as u32;
                    if granted > 1 << 18 {
                        self.send(&Message::WindowAdjust { recipient: theirs, bytes: granted });
                        granted = 0;
                    }
                }
                Message::Eof { recipient } if recipient == ours => eof = true,
                Message::Close { recipient } if recipient == ours => break,
                // Such as psusan's winadj@putty.projects.tartarus.org.
                Message::Request { recipient, want_reply, .. } if recipient == ours => {
                    if want_reply {
                        self.send(&Message::Failure { recipient: theirs });
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(eof, "CLOSE without EOF");
        self.send(&Message::Close { recipient: theirs });
        got
    }

    /// Asks for a listener; the reply's data.
    pub(crate) async fn announce(&mut self, address: &str, port: u16) -> Option<Vec<u8>> {
        let request = Global::TcpipForward { address: address.as_bytes(), port: port.into() };
        self.global(request).await
    }

    pub(crate) async fn cancel(&mut self, address: &str, port: u16) -> Option<Vec<u8>> {
        let request = Global::CancelTcpipForward { address: address.as_bytes(), port: port.into() };
        self.global(request).await
    }

    pub(crate) async fn global(&mut self, request: Global<'_>) -> Option<Vec<u8>> {
        self.send(&Message::GlobalRequest { want_reply: true, request });
        let reply = self.next().await;
        match Message::decode(&reply).unwrap() {
            Message::RequestSuccess { data } => Some(data.to_vec()),
            Message::RequestFailure => None,
            other => panic!("{other:?}"),
        }
    }
}

/// A TCP service that sends back what it gets, until EOF.
pub(crate) async fn echo() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// A port at which nobody listens.
pub(crate) async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Waits until a port can be bound again.
pub(crate) async fn port_is_free(port: u16) {
    let freed = async {
        // Without SO_REUSEADDR's leniency this would find connections, too.
        while TcpListener::bind(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, freed).await.expect("the port is free again");
}

/// What every pipe can do.
pub(crate) async fn dials_and_moves_a_mebibyte_both_ways(engine: &mut Engine) {
    let echo = echo().await;
    let bytes = noise(1 << 20);
    for _ in 0..2 {
        let channel = engine.dial("127.0.0.1", echo.port()).await.unwrap();
        assert!(engine.exchange(channel, &bytes).await == bytes);
    }
    engine.all_taken().await;
}

pub(crate) async fn refuses_in_the_systems_words(engine: &mut Engine) {
    let port = free_port().await;
    let refused = engine.dial("127.0.0.1", port).await.unwrap_err();
    assert_eq!(refused, (2, "Connection refused".to_owned()));
    let (reason, words) = engine.dial("host.invalid", 80).await.unwrap_err();
    assert_eq!(reason, 2);
    // The second is what resolvers say that have no network.
    let known = ["Name or service not known", "Temporary failure in name resolution"];
    assert!(known.contains(&words.as_str()), "{words}");
}

/// Calls at a port that the far side picks, then at a fixed one, then at a busy
/// one. Gives the originators.
pub(crate) async fn takes_calls(engine: &mut Engine) -> Vec<String> {
    let mut originators = Vec::new();
    let fixed = free_port().await;
    for asked in [0, fixed, 0, fixed] {
        let reply = engine.announce("127.0.0.1", asked).await.expect("announced");
        let port = match asked {
            0 => u32::from_be_bytes(reply.try_into().unwrap()) as u16,
            port => {
                assert_eq!(reply, b"");
                port
            }
        };
        let busy = engine.announce("127.0.0.1", port).await;
        assert_eq!(busy, None, "announced twice");
        for number in 0..3 {
            let mut caller = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (theirs, window, packet, address, called, originator) = engine.call().await;
            assert_eq!((address.as_str(), called), ("127.0.0.1", port.into()));
            originators.push(originator);
            let channel = engine.accept(number, (theirs, window, packet));
            let bytes = noise(100_000);
            let caller = tokio::spawn(async move {
                let (mut read, mut write) = caller.split();
                let mut got = Vec::new();
                tokio::try_join!(
                    async {
                        write.write_all(b"question").await?;
                        write.shutdown().await
                    },
                    read.read_to_end(&mut got)
                )
                .unwrap();
                got
            });
            assert_eq!(engine.exchange(channel, &bytes).await, b"question");
            assert!(caller.await.unwrap() == bytes);
        }
        assert_eq!(engine.cancel("127.0.0.1", port).await, Some(Vec::new()));
        assert_eq!(engine.cancel("127.0.0.1", port).await, None);
        port_is_free(port).await;
    }
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = holder.local_addr().unwrap().port();
    assert_eq!(engine.announce("127.0.0.1", port).await, None, "busy");
    drop(holder);
    // And once it is not busy any more, calls come through.
    for _ in 0..3 {
        assert_eq!(engine.announce("127.0.0.1", port).await, Some(Vec::new()));
        let caller = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (theirs, ..) = engine.call().await;
        engine.refuse(theirs);
        assert_ended(caller).await;
        assert_eq!(engine.cancel("127.0.0.1", port).await, Some(Vec::new()));
        port_is_free(port).await;
    }
    originators
}

/// Its other end is gone.
pub(crate) async fn assert_ended(mut stream: TcpStream) {
    let ended = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("an end");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}
