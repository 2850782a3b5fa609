//! The commands: `dial`, `listen`, `demo`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};
use sshnet_tests::ninep::PATIENCE;
use sshnet_tests::sshd::free_port;
use sshnet_tests::world::{Kind, Service, World, command, private_directory, run, signal, until};

on_each_pipe!(
    dial_is_stdin_and_stdout_with_a_half_close,
    dial_ends_with_the_far_side_though_stdin_is_open,
    dial_takes_every_spelling_of_an_address,
    listen_runs_a_command_for_each_call;
    but psusan:
    a_dial_that_is_refused_says_why_and_exits_with_1,
);

/// The service answers only when it has seen the end of stdin, and stdout must
/// carry the answer after that.
fn dial_is_stdin_and_stdout_with_a_half_close(kind: Kind) {
    let world = World::new(kind);
    let service = Service::new(|mut stream| {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stream.read(&mut buffer).expect("the caller is there") {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        let digest = hash.finalize();
        stream.write_all(&digest).expect("the caller still reads");
    });
    let input: Vec<u8> = (0..4 << 20).map(|i: u32| (i / 3) as u8).collect();
    let output = run(&mut world.command(&["dial", "-s", "s", &service.address()]), &input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(output.stdout, Sha256::digest(&input).as_slice(), "{said}");
    assert_eq!(said, "");
    // And both ways at once.
    let echo = Service::echo();
    let output = run(&mut world.command(&["dial", "-s", "s", &echo.address()]), &input);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == input, "{} bytes came back", output.stdout.len());
}

fn dial_ends_with_the_far_side_though_stdin_is_open(kind: Kind) {
    let world = World::new(kind);
    let service = Service::new(|mut stream| {
        let mut request = [0; 8];
        stream.read_exact(&mut request).expect("the caller is there");
        stream.write_all(b"answer").expect("the caller still reads");
    });
    let mut dial = world
        .command(&["dial", &service.address()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = dial.stdin.take().expect("it is piped");
    stdin.write_all(b"question").expect("it is read");
    let mut status = None;
    until("dial has ended", || {
        status = dial.try_wait().expect("it is our child");
        status.is_some()
    });
    let mut answer = String::new();
    let mut stdout = dial.stdout.take().expect("it is piped");
    stdout.read_to_string(&mut answer).expect("it has ended");
    assert_eq!((status.and_then(|status| status.code()), &*answer), (Some(0), "answer"));
    drop(stdin);
}

fn dial_takes_every_spelling_of_an_address(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let port = echo.port;
    for words in [
        vec!["dial".to_owned(), format!("127.0.0.1!{port}")],
        vec!["dial".to_owned(), format!("tcp!127.0.0.1!{port}")],
        vec!["dial".to_owned(), format!("127.0.0.1:{port}")],
        vec!["dial".to_owned(), "-s".into(), "s".into(), format!("localhost!{port}")],
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = run(&mut world.command(&words), b"hello");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
        assert_eq!(output.stdout, b"hello", "{words:?}");
    }
}

fn a_dial_that_is_refused_says_why_and_exits_with_1(kind: Kind) {
    let world = World::new(kind);
    let address = format!("127.0.0.1!{}", free_port());
    let output = run(&mut world.command(&["dial", &address]), b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Connection refused"), "{said}");
    let output = run(&mut world.command(&["dial", "-s", "nosuch", &address]), b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nosuch"), "{said}");
    let output = run(&mut world.command(&["dial", "127.0.0.1!70000"]), b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("port 70000 is not in 0 to 65535"), "{said}");
    for bad in ["nonsense", "", "127.0.0.1!", "!7"] {
        let output = run(&mut world.command(&["dial", bad]), b"");
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        assert!(!output.stderr.is_empty());
    }
}

fn listen_runs_a_command_for_each_call(kind: Kind) {
    let world = World::new(kind);
    let mut words = vec!["listen", "-s", "s", "127.0.0.1!0", "sh", "-c"];
    words.push("read line; echo \"you said $line\"; cat");
    let mut listen: std::process::Child = world
        .command(&words)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stderr = BufReader::new(listen.stderr.take().expect("it is piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("it says where it listens");
    let port: u16 = line
        .split(|c: char| !c.is_ascii_digit())
        .rfind(|digits| !digits.is_empty())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("no port in {line:?}"));
    let mut calls: Vec<TcpStream> = (0..5)
        .map(|i| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it is announced");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            stream.write_all(format!("call {i}\nand more").as_bytes()).expect("it is taken");
            stream
        })
        .collect();
    for (i, stream) in calls.iter_mut().enumerate() {
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("a clean end");
        assert_eq!(answer, format!("you said call {i}\nand more"));
    }
    signal(listen.id(), "TERM");
    let status = listen.wait().expect("it is our child");
    assert_eq!(status.code(), Some(0), "{status}");
    until("the port is free again", || std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
}

/// The newcomer's first minute: nothing but the binary.
#[test]
fn the_demo_ends_with_0() {
    let directory = private_directory();
    let mut demo: Command = command(directory.path());
    demo.arg("demo").env_clear().env("XDG_RUNTIME_DIR", directory.path());
    let output = run(&mut demo, b"");
    let told = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}\n{said}");
    for word in ["clone", "ctl", "data", "status", "announce", "listen", "MB/s"] {
        assert!(told.contains(word), "the demo does not show {word}:\n{told}");
    }
    std::thread::sleep(Duration::from_millis(1));
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("it is there").collect();
    assert!(left.is_empty(), "the demo leaves {left:?}");
}
