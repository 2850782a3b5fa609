//! Calls: announced ports, those who call them, and the ports' end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use sshnet_tests::ninep::{Client, Dialect, File, Mode, PATIENCE};
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::world::{Kind, Service, World, until};

on_each_pipe!(
    twenty_calls_are_taken_and_answered_and_the_port_is_free_again,
    port_0_is_one_that_the_far_side_picks,
    a_busy_port_is_refused,
    calls_wait_until_someone_listens,
    the_caller_hangs_up_or_the_taker,
);

const EADDRINUSE: u32 = 98;

/// An announced client: its directory, `ctl`, and port.
fn announce(client: &Client, address: &str) -> (String, File, u16) {
    let (directory, ctl) = client.clone_client().expect("there is room");
    ctl.control(&format!("announce {address}")).unwrap_or_else(|e| panic!("{address}: {e:?}"));
    let local = client.text(&format!("{directory}/local")).expect("it is there");
    let port = local.trim_end().rsplit('!').next().and_then(|port| port.parse().ok());
    (directory, ctl, port.unwrap_or_else(|| panic!("local is {local:?}")))
}

/// Takes a call that is there or comes: its directory, `ctl` and `data`.
fn take(client: &Client, listener: &str) -> (String, File, File) {
    let ctl = client.open(&format!("{listener}/listen"), Mode::Both).expect("a call comes");
    opened(client, ctl)
}

fn opened(client: &Client, ctl: File) -> (String, File, File) {
    let number = String::from_utf8(ctl.read_at(0, 64).expect("ctl reads")).expect("a number");
    let directory = format!("tcp/{}", number.trim());
    let data = client.open(&format!("{directory}/data"), Mode::Both).expect("data opens");
    (directory, ctl, data)
}

fn caller(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is announced");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

fn until_free(port: u16) {
    until("the port is free again", || TcpListener::bind(("127.0.0.1", port)).is_ok());
}

fn twenty_calls_are_taken_and_answered_and_the_port_is_free_again(kind: Kind) {
    let world = World::new(kind);
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let port = free_port();
    let (directory, ctl, announced) = announce(&client, &format!("127.0.0.1!{port}"));
    assert_eq!(announced, port);
    let callers: Vec<_> = (0..20)
        .map(|i| {
            thread::spawn(move || {
                let mut stream = caller(port);
                stream.write_all(format!("question {i}").as_bytes()).expect("it is taken");
                stream.shutdown(Shutdown::Write).expect("it is open");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("it is answered");
                assert_eq!(answer, format!("answer to question {i}"));
            })
        })
        .collect();
    for _ in 0..20 {
        let (_, ctl, data) = take(&client, &directory);
        let question = String::from_utf8(data.read_to_end().expect("the read")).expect("text");
        data.write(format!("answer to {question}").as_bytes()).wait_count().expect("the write");
        ctl.control("hangup").expect("hangup is always possible");
    }
    for caller in callers {
        caller.join().expect("each gets its own answer");
    }
    ctl.control("hangup").expect("hangup is always possible");
    until_free(port);
    // The same port again, and free again when its files are closed.
    drop(ctl);
    let (_, ctl, _) = announce(&client, &format!("127.0.0.1!{port}"));
    drop(caller(port));
    ctl.close();
    until_free(port);
}

fn port_0_is_one_that_the_far_side_picks(kind: Kind) {
    let world = World::new(kind);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (first, one, a) = announce(&client, "127.0.0.1!0");
    let (second, two, b) = announce(&client, "127.0.0.1!0");
    assert!(a != 0 && b != 0 && a != b, "{a} and {b}");
    for (directory, port) in [(&first, a), (&second, b)] {
        let mut stream = caller(port);
        stream.write_all(b"hello").expect("it is taken");
        let (_, _ctl, data) = take(&client, directory);
        assert_eq!(data.read(100).wait_data(), Ok(b"hello".to_vec()));
    }
    for (ctl, port) in [(one, a), (two, b)] {
        ctl.control("hangup").expect("hangup is always possible");
        until_free(port);
    }
}

/// By another program, and by another client of ours.
fn a_busy_port_is_refused(kind: Kind) {
    let world = World::new(kind);
    let other = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback has ports");
    let busy = other.local_addr().expect("it is bound").port();
    let mine = Client::connect(&world.socket(), Dialect::Plan9);
    let (_, ctl, ours) = announce(&mine, "127.0.0.1!0");
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        for port in [busy, ours] {
            let (directory, ctl) = client.clone_client().expect("there is room");
            let error =
                ctl.control(&format!("announce 127.0.0.1!{port}")).expect_err("the port is in use");
            if dialect != Dialect::Plan9 {
                assert_eq!(error.errno, Some(EADDRINUSE), "{dialect:?}");
            }
            let status = client.text(&format!("{directory}/status")).expect("it is there");
            assert!(status.lines().count() == 2, "{status}");
        }
    }
    ctl.control("hangup").expect("hangup is always possible");
    until_free(ours);
    drop(other);
    // Meanwhile the kernel may have given it to a connection of another test.
    let again = || ctl.control(&format!("announce 127.0.0.1!{busy}")).is_ok();
    until("the port is free", again);
}

/// A call is not lost between two opens of `listen`.
fn calls_wait_until_someone_listens(kind: Kind) {
    let world = World::new(kind);
    let client = Client::connect(&world.socket(), Dialect::Unix);
    let (directory, _ctl, port) = announce(&client, "127.0.0.1!0");
    let mut callers: Vec<TcpStream> = (0..10)
        .map(|i| {
            let mut stream = caller(port);
            stream.write_all(&[b'a' + i]).expect("it is taken");
            stream
        })
        .collect();
    let mut seen = Vec::new();
    for _ in 0..10 {
        let (_, _ctl, data) = take(&client, &directory);
        let letter = data.read(1).wait_data().expect("the read");
        data.write(&letter).wait_count().expect("the write");
        seen.extend(letter);
    }
    seen.sort_unstable();
    assert_eq!(seen, b"abcdefghij");
    for (i, stream) in callers.iter_mut().enumerate() {
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("it is answered");
        assert_eq!(answer[0], b'a' + i as u8);
    }
    // And an open that waits is ended by a flush, by a hangup.
    let (_file, waiting) =
        client.opening(&format!("{directory}/listen"), Mode::Both).expect("it is there");
    client.flush(&waiting);
}

fn the_caller_hangs_up_or_the_taker(kind: Kind) {
    let world = World::new(kind);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (directory, _ctl, port) = announce(&client, "127.0.0.1!0");
    let mut stream = caller(port);
    stream.write_all(b"bye").expect("it is taken");
    drop(stream);
    let (_, ctl, data) = take(&client, &directory);
    assert_eq!(data.read_to_end(), Ok(b"bye".to_vec()));
    drop((ctl, data));

    let mut stream = caller(port);
    let (_, ctl, data) = take(&client, &directory);
    data.write(b"bye").wait_count().expect("the write");
    ctl.control("hangup").expect("hangup is always possible");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("a clean end");
    assert_eq!(said, b"bye");
}

/// Without `--caller-address` OpenSSH does not say who calls; with it `remote`
/// does. (The loopback pipe always does.)
#[test]
fn with_caller_address_remote_is_the_callers() {
    let world = World::with_sshd(Sshd::start(&[]), &["--caller-address"]);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let port = free_port();
    let (directory, ctl, _) = announce(&client, &format!("127.0.0.1!{port}"));
    // sshd is not asked to say when it has bound the port, so the first call may
    // come too early. (It is refused then, or taken: it hangs up at once.)
    let mut early = None;
    until("the port is bound", || {
        early = TcpStream::connect(("127.0.0.1", port)).ok();
        early.is_some()
    });
    drop(early);
    let (_, first, _) = take(&client, &directory);
    drop(first);
    for _ in 0..3 {
        let mut stream = caller(port);
        let here = stream.local_addr().expect("it is connected");
        let (taken, _ctl, data) = take(&client, &directory);
        let remote = client.text(&format!("{taken}/remote")).expect("it is there");
        assert_eq!(remote, format!("127.0.0.1!{}\n", here.port()));
        stream.write_all(b"question").expect("it is taken");
        assert_eq!(data.read(100).wait_data(), Ok(b"question".to_vec()));
        data.write(b"answer").wait_count().expect("the write");
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).expect("it is answered");
    }
    // Dials go on beside it.
    let echo = Service::echo();
    client.dial(&echo.address()).expect("it answers");
    ctl.control("hangup").expect("hangup is always possible");
    until_free(port);
}

/// The hand-over of a call from OpenSSH moves what was sent before it was taken,
/// and its end, in both directions.
#[test]
fn a_call_handed_over_by_openssh_moves_bulk_both_ways() {
    let world = World::new(Kind::Openssh);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (directory, _ctl, port) = announce(&client, "127.0.0.1!0");
    let size = 8 << 20;
    let call = thread::spawn(move || {
        let stream = caller(port);
        let mut writer = stream.try_clone().expect("a socket");
        let up = thread::spawn(move || {
            writer.write_all(&vec![b'q'; size]).expect("it is read");
            writer.shutdown(Shutdown::Write).expect("it is open");
        });
        let mut reader = stream;
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).expect("a clean end");
        up.join().expect("the upload");
        answer
    });
    let (_, ctl, data) = take(&client, &directory);
    let mut length = 0;
    loop {
        let piece = data.read(65_536).wait_data().expect("the read");
        if piece.is_empty() {
            break;
        }
        assert!(piece.iter().all(|&byte| byte == b'q'));
        length += piece.len();
        data.write(&vec![b'a'; piece.len()]).wait_count().expect("the write");
    }
    assert_eq!(length, size);
    ctl.control("closewrite").expect("the conversation is open");
    let answer = call.join().expect("the call");
    assert_eq!(answer.len(), size);
    assert!(answer.iter().all(|&byte| byte == b'a'));
}
