//! A service that refuses a write, while the conversation goes on: nothing of it
//! may look complete, and the user is told at once.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sshnet_tests::refusing::{self, REFUSAL};
use sshnet_tests::world::{Running, command, private_directory, run, until};

/// Less than it would take to wait for the far side's last words.
const AT_ONCE: Duration = Duration::from_secs(8);

#[test]
fn a_dial_that_cannot_send_all_says_so_and_exits_with_1() {
    let directory = private_directory();
    let _said = refusing::serve(directory.path());
    let start = Instant::now();
    let output = run(command(directory.path()).args(["dial", "far!80"]), &[7; 300_000]);
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said, format!("sshnet-host: cannot send to far!80: {REFUSAL}\n"));
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn a_forwarded_connection_that_cannot_send_all_is_reset_and_named() {
    let directory = private_directory();
    let said = refusing::serve(directory.path());
    let forward = Running::start(command(directory.path()).args(["forward", "0", "far!80"]));
    let mut stream = TcpStream::connect(("127.0.0.1", forward.port("far!80"))).expect("it listens");
    stream.set_read_timeout(Some(AT_ONCE)).expect("a socket");
    stream.write_all(b"hello").expect("it is taken");
    let error = stream.read(&mut [0; 1]).expect_err("no end of file: an error");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    forward.until_said(&format!("a connection to far!80 is broken off: {REFUSAL}"));
    assert_eq!(*said.lock().expect("no panic"), ["connect far!80", "hangup"]);
}

#[test]
fn a_call_whose_command_cannot_say_all_is_hung_up_and_named() {
    let directory = private_directory();
    let said = refusing::serve(directory.path());
    // It ends with the call, whatever it would still do.
    let mut words = vec!["listen", "127.0.0.1!7", "sh", "-c"];
    words.push("head -c 300000 /dev/zero; exec sleep 1000");
    let listen = Running::start(command(directory.path()).args(&words));
    listen.until_said(&format!("a call broke off: cannot send to 127.0.0.1!7: {REFUSAL}"));
    until("it is hung up", || said.lock().expect("no panic").len() == 2);
    assert_eq!(*said.lock().expect("no panic"), ["announce 127.0.0.1!7", "hangup"]);
    let (status, said) = listen.stop("TERM");
    assert_eq!((status.code(), said.lines().count()), (Some(0), 2), "{said}");
}
