//! `peer` in this process, with the bare pipe or bytes made by hand at its other
//! end.

use sshnet_core::message::{Global, Message, Open, reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::*;
use crate::pipe::Login;
use crate::pipe::bare::{self, frame};
use crate::pipe::error::PipeError;
use crate::pipe::far::permit::Destination;
use crate::pipe::testing::*;

type Ended<E> = JoinHandle<Result<(), E>>;

/// A peer, and a pipe to it.
async fn up(permit: Permit) -> (Engine, Ended<PipeError>, Ended<PeerError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peer");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = tokio::spawn(async move {
        let (reader, writer) = listener.accept().await.unwrap().0.into_split();
        serve(reader, writer, permit).await
    });
    let pipe = bare::start(bare::Peer::Socket(path), Login::First, Duration::ZERO).await;
    let pipe = pipe.unwrap_or_else(|error| panic!("{error}"));
    let (engine, link) = Engine::new();
    (engine, tokio::spawn(pipe.run(link)), peer)
}

/// The end from the engine's side, which is a good one for all.
async fn end(engine: Engine, pipe: Ended<PipeError>, peer: Ended<PeerError>) {
    engine.close();
    timeout(PATIENCE, pipe).await.expect("an end").unwrap().unwrap();
    timeout(PATIENCE, peer).await.expect("an end").unwrap().unwrap();
}

/// What a peer answers to these bytes behind a version line, and how it ends.
async fn answered(bytes: &[u8]) -> (Vec<Vec<u8>>, Result<(), PeerError>) {
    let (mut near, far) = UnixStream::pair().unwrap();
    let (reader, writer) = far.into_split();
    let peer = tokio::spawn(serve(reader, writer, Permit::everything()));
    near.write_all(&frame::version_line()).await.unwrap();
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let ended = timeout(PATIENCE, peer).await.expect("an end").unwrap();
    let mut all = Vec::new();
    near.read_to_end(&mut all).await.unwrap();
    let mut rest = all.strip_prefix(frame::version_line().as_slice()).expect("a version line");
    let mut messages = Vec::new();
    while let Some((length, more)) = rest.split_first_chunk() {
        let (message, more) = more.split_at(u32::from_be_bytes(*length) as usize);
        messages.push(message.to_vec());
        rest = more;
    }
    (messages, ended)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

#[tokio::test]
async fn the_peer_does_what_every_pipe_can() {
    let (mut engine, pipe, peer) = up(Permit::everything()).await;
    dials_and_moves_a_mebibyte_both_ways(&mut engine).await;
    refuses_in_the_systems_words(&mut engine).await;
    let originators = takes_calls(&mut engine).await;
    assert!(originators.iter().all(|o| o == "127.0.0.1"), "{originators:?}");
    engine.all_taken().await;
    end(engine, pipe, peer).await;
}

#[tokio::test]
async fn what_is_not_permitted_is_prohibited_administratively() {
    let (echo, other) = (echo().await, echo().await);
    let places = vec![
        Destination::Tcp { host: Some("127.0.0.1".into()), port: Some(echo.port()) },
        Destination::Unix(b"/nosuch/socket".to_vec()),
    ];
    let (mut engine, pipe, peer) = up(Permit { dials: Some(places), listen: false }).await;
    let prohibited = (reason::PROHIBITED, "administratively prohibited".to_owned());
    assert_eq!(engine.dial("127.0.0.1", other.port()).await.unwrap_err(), prohibited);
    assert_eq!(engine.dial("localhost", echo.port()).await.unwrap_err(), prohibited);
    let unix = |path| Open::DirectStreamlocal { path };
    assert_eq!(engine.open(1, 1, 1, unix(b"/run/x")).await.unwrap_err(), prohibited);
    let missing = engine.open(1, 1, 1, unix(b"/nosuch/socket")).await.unwrap_err();
    assert_eq!(missing.0, reason::CONNECT_FAILED, "{missing:?}");
    assert_eq!(engine.announce("127.0.0.1", 0).await, None);
    assert_eq!(engine.global(Global::StreamlocalForward { path: b"/tmp/nosuch" }).await, None);
    let channel = engine.dial("127.0.0.1", echo.port()).await.unwrap();
    assert_eq!(engine.exchange(channel, b"this one is").await, b"this one is");
    end(engine, pipe, peer).await;
}

#[tokio::test]
async fn it_ends_with_its_stdin_and_leaves_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calls");
    let (mut engine, pipe, peer) = up(Permit::everything()).await;
    let listen = Global::StreamlocalForward { path: path.as_os_str().as_encoded_bytes() };
    assert_eq!(engine.global(listen).await, Some(Vec::new()));
    assert!(path.exists());
    // Without a word, as when the other side is killed.
    pipe.abort();
    timeout(PATIENCE, peer).await.expect("an end").unwrap().unwrap();
    let gone = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the socket is gone");
}

#[tokio::test]
async fn a_session_is_refused_and_unknown_requests_are_answered() {
    let session = Message::Open {
        sender: 256,
        window: 1 << 14,
        packet: 1 << 14,
        kind: Open::Other { name: b"session", data: b"" },
    };
    let other = Global::Other { name: b"no-more-sessions@openssh.com", data: b"" };
    let request = |want_reply| Message::GlobalRequest { want_reply, request: other }.encode();
    let bytes = [
        framed(&[2, 0, 0, 0, 0]),
        framed(&[192]),
        framed(&session.encode()),
        framed(&request(false)),
        framed(&request(true)),
    ];
    let (mut near, far) = UnixStream::pair().unwrap();
    let (reader, writer) = far.into_split();
    let peer = tokio::spawn(serve(reader, writer, Permit::everything()));
    near.write_all(&[&frame::version_line()[..], &bytes.concat()].concat()).await.unwrap();
    let mut line = vec![0; frame::version_line().len()];
    near.read_exact(&mut line).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let length = timeout(PATIENCE, near.read_u32()).await.expect("an answer").unwrap();
        let mut message = vec![0; length as usize];
        near.read_exact(&mut message).await.unwrap();
        match message[0] {
            3 => assert_eq!(message, [3, 0, 0, 0, 1]),
            92 => match Message::decode(&message).unwrap() {
                Message::OpenFailure { recipient, reason, .. } => {
                    assert_eq!((recipient, reason), (256, reason::UNKNOWN_TYPE));
                }
                other => panic!("{other:?}"),
            },
            kind => assert_eq!(kind, 82),
        }
        kinds.push(message[0]);
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [3, 82, 92]);
    drop(near);
    timeout(PATIENCE, peer).await.expect("an end").unwrap().unwrap();
}

#[tokio::test]
async fn one_that_breaks_the_protocol_is_told_why_it_ends() {
    for (bytes, says) in [
        (framed(&Message::Eof { recipient: 7 }.encode()), "message for unknown channel 7"),
        (framed(&[90, 0, 0]), "malformed message of type 90"),
        (vec![0xff; 4], "a message of 4294967295 bytes"),
    ] {
        let (messages, ended) = answered(&bytes).await;
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        let [last] = messages.as_slice() else { panic!("{messages:?}") };
        match bare::transport::purpose(last) {
            bare::transport::Purpose::Disconnect(why) => {
                assert_eq!((why.reason, why.words), (PROTOCOL_ERROR, error));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_end_that_was_meant_is_no_error() {
    for bytes in [
        vec![],
        framed(&[2, 0, 0, 0, 0]),
        framed(&bare::transport::disconnect(BY_APPLICATION, "bye")),
        // Killed in the middle of a message.
        vec![0, 0, 0, 9, 94],
    ] {
        answered(&bytes).await.1.unwrap();
    }
    let (messages, ended) = answered(&framed(&bare::transport::disconnect(2, "why?"))).await;
    assert_eq!(ended.unwrap_err().to_string(), "the far side ended the connection: why?");
    assert!(messages.len() <= 1, "{messages:?}");
}
