//! The bare pipe against peers made by hand, at a Unix socket and as a command, and
//! against psusan.

use sshnet_core::message::{Global, Message, Open, reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::pipe::testing::*;

const VERSION: &[u8] = b"SSHCONNECTION@putty.projects.tartarus.org-2.0-by_hand\r\n";

type Running = JoinHandle<Result<(), PipeError>>;

fn command(line: &str) -> Peer {
    Peer::Command(OsString::from(line))
}

async fn up(peer: Peer) -> (Engine, Running) {
    up_with(peer, Duration::ZERO).await
}

async fn up_with(peer: Peer, keepalive: Duration) -> (Engine, Running) {
    let pipe = start(peer, Login::First, keepalive).await;
    let pipe = pipe.unwrap_or_else(|error| panic!("{error}"));
    let (engine, link) = Engine::new();
    (engine, tokio::spawn(pipe.run(link)))
}

async fn ended(pipe: Running) -> Result<(), PipeError> {
    timeout(PATIENCE, pipe).await.expect("an end").unwrap()
}

/// A pipe, and the stream at the other end of it, greeted.
async fn by_hand() -> (Engine, Running, UnixStream) {
    by_hand_with(Duration::ZERO).await
}

async fn by_hand_with(keepalive: Duration) -> (Engine, Running, UnixStream) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peer");
    let listener = UnixListener::bind(&path).unwrap();
    let greeted = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(VERSION).await.unwrap();
        let mut line = vec![0; frame::version_line().len()];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(line, frame::version_line());
        stream
    };
    let ((engine, pipe), stream) = tokio::join!(up_with(Peer::Socket(path), keepalive), greeted);
    (engine, pipe, stream)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

async fn next(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut length)).await.expect("a message").unwrap();
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut message).await.unwrap();
    message
}

async fn failed(line: &str) -> String {
    let patience = if line.contains("sleep") { Duration::from_millis(900) } else { PATIENCE };
    match start_within(command(line), Login::First, patience, Duration::ZERO).await {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{line}"),
    }
}

#[tokio::test]
async fn messages_go_both_ways_whole_and_in_order() {
    let (mut engine, pipe, mut stream) = by_hand().await;
    let messages: Vec<Message<'_>> = vec![
        Message::Eof { recipient: 1 },
        Message::RequestSuccess { data: &[7; 36_862] },
        Message::Close { recipient: 1 },
    ];
    for message in &messages {
        stream.write_all(&framed(&message.encode())).await.unwrap();
        engine.send(message);
    }
    for message in &messages {
        assert!(engine.next().await == message.encode());
        assert!(next(&mut stream).await == message.encode());
    }
    engine.all_taken().await;
    engine.close();
    let disconnect = transport::purpose(&next(&mut stream).await);
    assert!(matches!(disconnect, transport::Purpose::Disconnect(d) if d.reason == 11));
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    ended(pipe).await.unwrap();
}

#[tokio::test]
async fn the_transports_messages_end_in_the_pipe_and_unknown_ones_are_answered_by_number() {
    let (mut engine, _pipe, mut stream) = by_hand().await;
    let ignore = [&[2, 0, 0, 0, 1][..], b"x"].concat();
    let debug = [&[4, 0, 0, 0, 0, 1][..], b"x", &[0; 4]].concat();
    let eof = Message::Eof { recipient: 1 }.encode();
    // The second and the fifth are known to nobody.
    for message in [&ignore[..], &[7, 0], &debug, &eof, &[83], &[3, 0, 0, 0, 9], &eof] {
        stream.write_all(&framed(message)).await.unwrap();
    }
    assert_eq!(engine.next().await, eof);
    assert_eq!(engine.next().await, eof);
    engine.quiet().await;
    assert_eq!(next(&mut stream).await, [3, 0, 0, 0, 1]);
    assert_eq!(next(&mut stream).await, [3, 0, 0, 0, 4]);
}

#[tokio::test]
async fn a_peer_that_gives_no_sign_of_life_is_asked_for_one_and_then_taken_for_dead() {
    let (_engine, pipe, mut stream) = by_hand_with(Duration::from_millis(500)).await;
    // Any answer will do, and whatever else it says.
    for answer in [transport::unimplemented(0), vec![2, 0, 0, 0, 0]] {
        assert_eq!(next(&mut stream).await, transport::ping());
        stream.write_all(&framed(&answer)).await.unwrap();
    }
    assert_eq!(next(&mut stream).await, transport::ping());
    let error = ended(pipe).await.unwrap_err().to_string();
    assert_eq!(error, "the far side gives no sign of life");
}

#[tokio::test]
async fn psusan_gives_a_sign_of_life_when_it_is_asked() {
    let keepalive = Duration::from_millis(400);
    let (mut engine, pipe) = up_with(command("psusan"), keepalive).await;
    tokio::time::sleep(3 * keepalive).await;
    dials_and_moves_a_mebibyte_both_ways(&mut engine).await;
    engine.close();
    ended(pipe).await.unwrap();
}

/// RFC 4253 section 11.1, of the transport messages (duty 27).
#[tokio::test]
async fn a_disconnect_ends_the_pipe_with_the_peers_words() {
    let (_engine, pipe, mut stream) = by_hand().await;
    let message = transport::disconnect(2, "not \x1b[1mtoday");
    stream.write_all(&framed(&message)).await.unwrap();
    let error = ended(pipe).await.unwrap_err().to_string();
    assert_eq!(error, "the far side ended the connection: not [1mtoday");
}

#[tokio::test]
async fn nonsense_ends_the_pipe_with_the_reason() {
    for (bytes, says) in [
        (&[0, 0, 0, 0][..], "a message of 0 bytes"),
        (&[0, 0, 0x90, 0], "a message of 36864 bytes, and 1 to 36863 is what there may be"),
        (&[0xff; 4], "a message of 4294967295 bytes"),
        (&[0, 0, 0, 9, 96], "the far side closed the connection"),
        (&[], "the far side closed the connection"),
    ] {
        let (_engine, pipe, mut stream) = by_hand().await;
        stream.write_all(bytes).await.unwrap();
        if says.ends_with("closed the connection") {
            drop(stream);
        }
        let error = ended(pipe).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_write_that_waits_holds_up_no_read() {
    let (mut engine, pipe, mut stream) = by_hand().await;
    // More than any socket takes, and nobody reads it.
    let data = vec![7; 32 << 10];
    for _ in 0..200 {
        engine.send(&Message::Data { recipient: 1, data: &data });
    }
    let eof = Message::Eof { recipient: 1 }.encode();
    for _ in 0..1000 {
        stream.write_all(&framed(&eof)).await.unwrap();
        assert_eq!(engine.next().await, eof);
    }
    // What was not written is not said to be.
    let mut left = 0;
    let read = async {
        for _ in 0..200 {
            assert_eq!(next(&mut stream).await.len(), (32 << 10) + 9);
            left += 1;
        }
    };
    timeout(PATIENCE, read).await.expect("all of it");
    engine.all_taken().await;
    engine.close();
    drop(stream);
    ended(pipe).await.unwrap();
}

#[tokio::test]
async fn one_that_asks_and_does_not_read_is_given_up() {
    let (_engine, pipe, mut stream) = by_hand().await;
    let flood = async { while stream.write_all(&framed(&[200]).repeat(1000)).await.is_ok() {} };
    timeout(PATIENCE, flood).await.expect("an end");
    let error = ended(pipe).await.unwrap_err().to_string();
    assert_eq!(error, "the far side sends and does not read");
}

#[tokio::test]
async fn a_banner_is_passed_over() {
    let version = "printf 'SSHCONNECTION@putty.projects.tartarus.org-2.0-sh\\r\\n'";
    let line = format!("echo; echo Welcome; {version}; cat >/dev/null; :");
    let (engine, pipe) = up(command(&line)).await;
    engine.close();
    ended(pipe).await.unwrap();
}

#[tokio::test]
async fn what_says_no_version_line_is_told_with_what_it_says() {
    for (line, says) in [
        ("exec sleep 1000", "no version line of a bare ssh-connection came within 0 seconds;"),
        ("echo Password:; exec sleep 1000", "(but 'Password:');\nis it psusan"),
        ("echo SSH-2.0-x; exec sleep 1000", "to reach that: sshnet-host [USER@]HOST"),
        ("echo no luck >&2; exit 3", "the command ended: no luck (exit status 3)"),
        ("echo no luck; exit 3", "the command ended: no luck (exit status 3)"),
        ("nosuchprogram-42 peer", "(exit status 127);\nthe program must be installed there"),
        ("tr '\\0' x </dev/zero", "none of it is the version line"),
    ] {
        let error = failed(line).await;
        assert!(error.contains(says), "{line}: {error}");
    }
    let missing = start(Peer::Socket("/nosuch/socket".into()), Login::First, Duration::ZERO).await;
    let error = missing.err().expect("nobody is there").to_string();
    assert!(error.starts_with("cannot connect to /nosuch/socket: No such file"), "{error}");
    assert!(error.contains("psusan --listen"), "{error}");
}

#[tokio::test]
async fn the_commands_end_is_told_in_its_words() {
    let version = "printf 'SSHCONNECTION@putty.projects.tartarus.org-2.0-sh\\r\\n'";
    let line = format!("{version}; read -r line; echo Connection reset by peer >&2; exit 255");
    let (engine, pipe) = up(command(&line)).await;
    let error = ended(pipe).await.unwrap_err().to_string();
    assert_eq!(error, "the command ended: Connection reset by peer (exit status 255)");
    drop(engine);
}

#[tokio::test]
async fn psusan_dials_and_moves_a_mebibyte_both_ways() {
    let (mut engine, pipe) = up(command("exec psusan")).await;
    dials_and_moves_a_mebibyte_both_ways(&mut engine).await;
    engine.close();
    let began = Instant::now();
    ended(pipe).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "it ends by itself");
}

#[tokio::test]
async fn psusan_takes_calls_and_says_who_calls() {
    let (mut engine, pipe) = up(command("exec psusan")).await;
    let originators = takes_calls(&mut engine).await;
    assert!(originators.iter().all(|o| o == "127.0.0.1"), "{originators:?}");
    engine.all_taken().await;
    engine.close();
    ended(pipe).await.unwrap();
}

/// It says yes before it has connected, so that a refusal is an end.
#[tokio::test]
async fn psusan_tells_a_refused_dial_by_closing_it_and_what_it_cannot_do_in_words() {
    let (mut engine, _pipe) = up(command("exec psusan")).await;
    let channel = engine.dial("127.0.0.1", free_port().await).await.expect("it says yes");
    assert_eq!(engine.next().await, Message::Close { recipient: channel.ours }.encode());
    engine.send(&Message::Close { recipient: channel.theirs });
    let (why, words) = engine.dial("host.invalid", 80).await.unwrap_err();
    assert_eq!((why, words.as_str()), (reason::CONNECT_FAILED, "Connection failed"));
    let unix = Open::DirectStreamlocal { path: b"/run/x" };
    let (why, words) = engine.open(1, 1000, 1000, unix).await.unwrap_err();
    assert_eq!(why, reason::UNKNOWN_TYPE);
    assert_eq!(words, "Unsupported channel type requested");
    assert_eq!(engine.global(Global::StreamlocalForward { path: b"/tmp/x" }).await, None);
}

#[tokio::test]
async fn a_caller_of_psusan_is_answered_though_its_first_window_is_small() {
    let (mut engine, _pipe) = up(command("exec psusan")).await;
    let reply = engine.announce("127.0.0.1", 0).await.expect("announced");
    let port = u32::from_be_bytes(reply.try_into().unwrap()) as u16;
    let mut caller = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (theirs, window, packet, ..) = engine.call().await;
    assert!(window <= 16 << 10, "{window}");
    let channel = engine.accept(9, (theirs, window, packet));
    let bytes = noise(4 << 20);
    let all = tokio::spawn(async move {
        let mut got = Vec::new();
        caller.shutdown().await.unwrap();
        caller.read_to_end(&mut got).await.unwrap();
        got
    });
    assert_eq!(engine.exchange(channel, &bytes).await, b"");
    assert!(all.await.unwrap() == bytes);
}

#[tokio::test]
async fn a_socket_of_psusans_does_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("psusan");
    let mut psusan = tokio::process::Command::new("psusan")
        .args(["--listen-once", "--listen"])
        .arg(&path)
        .kill_on_drop(true)
        .spawn()
        .expect("psusan: install the Debian package putty-tools");
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut engine, pipe) = up(Peer::Socket(path)).await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    let (channel, accepted) = tokio::join!(engine.dial("127.0.0.1", port), service.accept());
    let mut stream = accepted.unwrap().0;
    let theirs = channel.unwrap().theirs;
    engine.send(&Message::Data { recipient: theirs, data: b"hello" });
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    engine.close();
    ended(pipe).await.unwrap();
    timeout(PATIENCE, psusan.wait()).await.expect("it ends, too").unwrap();
}
