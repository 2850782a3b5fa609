//! The far side against real sockets.

use std::time::Duration;

use sshnet_core::message::{Global, Message, Open, reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::pipe::error::PipeError;
use crate::pipe::loopback;
use crate::pipe::testing::*;

fn loopback() -> (Engine, JoinHandle<Result<(), PipeError>>) {
    let (engine, link) = Engine::new();
    (engine, tokio::spawn(loopback::run(link)))
}

async fn end(engine: Engine, pipe: JoinHandle<Result<(), PipeError>>) {
    engine.close();
    timeout(PATIENCE, pipe).await.expect("an end").unwrap().unwrap();
}

fn tcp(host: &str, port: u16) -> Open<'_> {
    Open::DirectTcpip {
        host: host.as_bytes(),
        port: port.into(),
        originator: b"::1",
        originator_port: 0,
    }
}

#[tokio::test]
async fn the_loopback_does_what_every_pipe_can() {
    let (mut engine, pipe) = loopback();
    dials_and_moves_a_mebibyte_both_ways(&mut engine).await;
    refuses_in_the_systems_words(&mut engine).await;
    let originators = takes_calls(&mut engine).await;
    assert!(originators.iter().all(|o| o == "127.0.0.1"), "{originators:?}");
    engine.all_taken().await;
    end(engine, pipe).await;
}

#[tokio::test]
async fn all_addresses_are_one_listener_for_both_families() {
    let (mut engine, _pipe) = loopback();
    let port = engine.announce("", 0).await.expect("announced");
    let port = u32::from_be_bytes(port.try_into().unwrap()) as u16;
    for address in ["127.0.0.1", "::1"] {
        let _caller = TcpStream::connect((address, port)).await.unwrap();
        let (_, _, _, called, _, originator) = engine.call().await;
        assert_eq!((called.as_str(), originator.as_str()), ("", address));
    }
}

#[tokio::test]
async fn tiny_windows_and_packets_are_honoured() {
    let (mut engine, _pipe) = loopback();
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kind = tcp("127.0.0.1", service.local_addr().unwrap().port());
    let (channel, accepted) = tokio::join!(engine.open(7, 10, 3, kind), service.accept());
    let (channel, mut stream) = (channel.unwrap(), accepted.unwrap().0);
    stream.write_all(b"0123456789abcdef").await.unwrap();
    stream.shutdown().await.unwrap();
    for (adjust, expected) in [(0, &b"0123456789"[..]), (4, b"abcd")] {
        if adjust > 0 {
            engine.send(&Message::WindowAdjust { recipient: channel.theirs, bytes: adjust });
        }
        let mut got = Vec::new();
        while got.len() < expected.len() {
            match Message::decode(&engine.next().await).unwrap() {
                Message::Data { recipient: 7, data } => {
                    assert!((1..=3).contains(&data.len()));
                    got.extend_from_slice(data);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, expected);
        engine.quiet().await;
    }
    engine.send(&Message::WindowAdjust { recipient: channel.theirs, bytes: 2 });
    assert_eq!(engine.next().await, Message::Data { recipient: 7, data: b"ef" }.encode());
    // The window is used up, which does not hold EOF.
    assert_eq!(engine.next().await, Message::Eof { recipient: 7 }.encode());
}

#[tokio::test]
async fn each_half_ends_by_itself() {
    let (mut engine, _pipe) = loopback();
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    let (channel, accepted) = tokio::join!(engine.dial("127.0.0.1", port), service.accept());
    let (channel, mut stream) = (channel.unwrap(), accepted.unwrap().0);
    engine.send(&Message::Data { recipient: channel.theirs, data: b"last words" });
    engine.send(&Message::Eof { recipient: channel.theirs });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
    engine.quiet().await;
    stream.write_all(b"answer").await.unwrap();
    let ours = channel.ours;
    assert_eq!(engine.next().await, Message::Data { recipient: ours, data: b"answer" }.encode());
    drop(stream);
    assert_eq!(engine.next().await, Message::Eof { recipient: ours }.encode());
    assert_eq!(engine.next().await, Message::Close { recipient: ours }.encode());
    // Nothing follows CLOSE, whatever is asked.
    engine.send(&Message::Request {
        recipient: channel.theirs,
        name: b"keepalive@openssh.com",
        want_reply: true,
        data: b"",
    });
    engine.quiet().await;
    engine.send(&Message::Close { recipient: channel.theirs });
    engine.quiet().await;
}

#[tokio::test]
async fn data_before_close_reaches_the_socket_and_close_is_answered_at_once() {
    let (mut engine, _pipe) = loopback();
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    let (channel, accepted) = tokio::join!(engine.dial("127.0.0.1", port), service.accept());
    let (channel, mut stream) = (channel.unwrap(), accepted.unwrap().0);
    let bytes = noise(WINDOW as usize);
    for data in bytes.chunks(32 << 10) {
        engine.send(&Message::Data { recipient: channel.theirs, data });
    }
    engine.send(&Message::Close { recipient: channel.theirs });
    loop {
        match Message::decode(&engine.next().await).unwrap() {
            Message::WindowAdjust { .. } => {}
            Message::Close { recipient } if recipient == channel.ours => break,
            other => panic!("{other:?}"),
        }
    }
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert!(got == bytes);
}

#[tokio::test]
async fn data_past_the_window_closes_the_channel() {
    let (far, mut output) = Far::with_window(1000);
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    let kind = tcp("127.0.0.1", port);
    far.receive(Message::Open { sender: 1, window: 0, packet: 100, kind }.encode()).unwrap();
    let confirmed = output.next().await.unwrap();
    let Message::OpenConfirmation { sender, window: 1000, .. } =
        Message::decode(&confirmed).unwrap()
    else {
        panic!("{confirmed:?}")
    };
    far.receive(Message::Data { recipient: sender, data: &[0; 1001] }.encode()).unwrap();
    assert_eq!(output.next().await.unwrap(), Message::Close { recipient: 1 }.encode());
    far.receive(Message::Data { recipient: sender, data: &[0; 1001] }.encode()).unwrap();
    far.receive(Message::Close { recipient: sender }.encode()).unwrap();
    let gone = far.receive(Message::Close { recipient: sender }.encode());
    assert_eq!(gone, Err(FarError::UnknownChannel(sender)));
    assert_ended(service.accept().await.unwrap().0).await;
}

#[tokio::test]
async fn a_socket_that_takes_nothing_holds_up_no_other() {
    let (mut engine, _pipe) = loopback();
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    let (stuck, accepted) = tokio::join!(engine.dial("127.0.0.1", port), service.accept());
    let (stuck, _stream) = (stuck.unwrap(), accepted.unwrap().0);
    let mut left = stuck.window;
    while left > 0 {
        let length = left.min(stuck.packet);
        let data = vec![0; length as usize];
        engine.send(&Message::Data { recipient: stuck.theirs, data: &data });
        left -= length;
    }
    // What the kernel takes is credited first.
    while let Ok(message) = timeout(Duration::from_millis(300), engine.next()).await {
        let message = Message::decode(&message).unwrap();
        assert!(matches!(message, Message::WindowAdjust { .. }), "{message:?}");
    }
    dials_and_moves_a_mebibyte_both_ways(&mut engine).await;
}

/// What is left behind for sockets that take nothing fails no channel that is in use.
#[tokio::test]
async fn what_closed_channels_leave_makes_room_for_the_others() {
    const MUCH: u32 = 60 << 20;
    let (far, mut output) = Far::with_window(MUCH);
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    let mut silent = Vec::new();
    for sender in 0..5 {
        let kind = tcp("127.0.0.1", port);
        far.receive(Message::Open { sender, window: 0, packet: 100, kind }.encode()).unwrap();
        silent.push(service.accept().await.unwrap().0);
        let recipient = loop {
            match Message::decode(&output.next().await.unwrap()).unwrap() {
                Message::OpenConfirmation { sender, .. } => break sender,
                Message::WindowAdjust { .. } | Message::Close { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        for _ in 0..MUCH / (32 << 10) {
            let data = &[0; 32 << 10];
            far.receive(Message::Data { recipient, data }.encode()).unwrap();
        }
        if sender < 4 {
            far.receive(Message::Close { recipient }.encode()).unwrap();
        }
        while let Ok(message) = timeout(Duration::from_millis(50), output.next()).await {
            let closed = Message::decode(&message.unwrap()) == Ok(Message::Close { recipient: 4 });
            assert!(!closed, "the one that is in use was closed");
        }
    }
    assert!(far.shared.queued.load(Ordering::Relaxed) <= LEAVINGS + MUCH as usize);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_costs_bounded_memory() {
    let (far, output) = Far::new();
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    for sender in 0..100 {
        let kind = tcp("127.0.0.1", port);
        let open = Message::Open { sender, window: u32::MAX, packet: u32::MAX, kind };
        far.receive(open.encode()).unwrap();
    }
    for _ in 0..100 {
        let mut stream = service.accept().await.unwrap().0;
        tokio::spawn(async move { while stream.write_all(&[0; 1 << 16]).await.is_ok() {} });
    }
    // It fills up, and then stays as it is.
    let waiting = || output.shared.output.waiting();
    let filled = timeout(Duration::from_secs(30), async {
        while waiting() < 500_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(filled.await.is_ok(), "{}", waiting());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(waiting() < 1_200_000, "{}", waiting());
}

#[tokio::test]
async fn what_it_does_not_know_is_refused_in_order() {
    let (mut engine, _pipe) = loopback();
    let kind = Open::Other { name: b"session", data: b"" };
    assert_eq!(engine.open(1, 1, 1, kind).await.unwrap_err().0, reason::UNKNOWN_TYPE);
    let kind = Open::ForwardedTcpip { address: b"", port: 1, originator: b"", originator_port: 1 };
    assert_eq!(engine.open(1, 1, 1, kind).await.unwrap_err().0, reason::UNKNOWN_TYPE);
    let other = Global::Other { name: b"keepalive@openssh.com", data: b"" };
    engine.send(&Message::GlobalRequest { want_reply: false, request: other });
    assert_eq!(engine.global(other).await, None);
    let bad = Global::TcpipForward { address: b"127.0.0.1", port: 65_536 };
    assert_eq!(engine.global(bad).await, None);
    let silent = Global::TcpipForward { address: b"127.0.0.1", port: 0 };
    engine.send(&Message::GlobalRequest { want_reply: false, request: silent });
    engine.quiet().await;
}

#[tokio::test]
async fn channel_requests_are_answered() {
    let (mut engine, _pipe) = loopback();
    let channel = engine.dial("127.0.0.1", echo().await.port()).await.unwrap();
    for want_reply in [true, false] {
        let (recipient, name, data) = (channel.theirs, b"winadj@putty", b"");
        engine.send(&Message::Request { recipient, name, want_reply, data });
    }
    assert_eq!(engine.next().await, Message::Failure { recipient: channel.ours }.encode());
    engine.quiet().await;
}

#[tokio::test]
async fn unix_sockets_are_dialled_and_listened_at() {
    let dir = tempfile::tempdir().unwrap();
    let (mut engine, _pipe) = loopback();
    let path = dir.path().join("service");
    let kind = |path| Open::DirectStreamlocal { path };
    let bytes = path.as_os_str().as_encoded_bytes();
    let missing = engine.open(1, 1, 1, kind(bytes)).await.unwrap_err();
    assert_eq!(missing, (reason::CONNECT_FAILED, "No such file or directory".to_owned()));
    let service = UnixListener::bind(&path).unwrap();
    let channel = engine.open(1, 100, 100, kind(bytes)).await.unwrap();
    let mut stream = service.accept().await.unwrap().0;
    stream.write_all(b"hello").await.unwrap();
    let hello = Message::Data { recipient: channel.ours, data: b"hello" }.encode();
    assert_eq!(engine.next().await, hello);

    let path = dir.path().join("calls");
    let bytes = path.as_os_str().as_encoded_bytes();
    let listen = Global::StreamlocalForward { path: bytes };
    let cancel = Global::CancelStreamlocalForward { path: bytes };
    assert_eq!(engine.global(cancel).await, None);
    assert_eq!(engine.global(listen).await, Some(Vec::new()));
    assert_eq!(engine.global(listen).await, None);
    let _caller = UnixStream::connect(&path).await.unwrap();
    let open = engine.next().await;
    let Message::Open { kind: Open::ForwardedStreamlocal { path: called }, .. } =
        Message::decode(&open).unwrap()
    else {
        panic!("{open:?}")
    };
    assert_eq!(called, bytes);
    assert_eq!(engine.global(cancel).await, Some(Vec::new()));
    assert!(!path.exists());
}

#[tokio::test]
async fn nonsense_ends_the_pipe_with_the_reason() {
    for (message, words) in [
        (vec![94, 0, 0, 0, 9, 0, 0, 0, 1, b'x'], "far side: message for unknown channel 9"),
        (vec![94, 0, 0], "far side: malformed message of type 94"),
        (vec![2], "far side: message of unknown type 2"),
        (vec![], "far side: empty message"),
    ] {
        let (engine, link) = Engine::new();
        engine.push(message);
        let error = loopback::run(link).await.unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }
}

#[tokio::test]
async fn idle_channels_are_still_there() {
    let (mut engine, pipe) = loopback();
    let echo = echo().await;
    let mut channels = Vec::new();
    for sender in 0..300 {
        let kind = tcp("127.0.0.1", echo.port());
        channels.push(engine.open(sender, 1 << 20, 32 << 10, kind).await.unwrap());
    }
    for channel in channels.into_iter().rev() {
        assert_eq!(engine.exchange(channel, b"still there").await, b"still there");
    }
    end(engine, pipe).await;
}
