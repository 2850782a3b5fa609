//! `forward`: ports and Unix sockets of this machine that lead to far services.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use sshnet_tests::ninep::{Client, Dialect, PATIENCE};
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::world::{Kind, Running, Service, World, private_directory, run, until};

on_each_pipe!(
    a_port_leads_to_a_far_service,
    a_unix_socket_leads_to_a_far_service,
    each_direction_ends_by_itself,
    fifty_connections_at_once_keep_their_bytes_apart,
    one_that_does_not_read_stalls_no_other,
    one_that_goes_without_reading_leaves_nothing;
    but psusan:
    a_far_unix_socket_is_forwarded_and_dialled,
    a_failed_dial_resets_the_connection_and_says_why,
);

/// More than anybody but psusan takes without being read from.
const MUCH: usize = 64 << 20;

/// Bytes that tell where they belong.
fn pattern(of: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 7 + of * 31 + i * of) as u8).collect()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Sends all, ends that direction, and takes what comes back.
fn there_and_back(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a socket");
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).expect("it is taken");
            writer.shutdown(Shutdown::Write).expect("it is open");
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("a clean end");
        back
    })
}

fn a_port_leads_to_a_far_service(kind: Kind) {
    let world = World::new(kind);
    let (one, two) = (
        Service::echo(),
        Service::new(|mut stream| {
            let _ = stream.write_all(b"the other\n");
        }),
    );
    // Port 0, the same on both loopbacks; and more than one pair.
    let words = ["forward", "0", &one.address(), "127.0.0.1:0", &two.address(), "-s", "s"];
    let forward = Running::start(&mut world.command(&words));
    let line = forward.until_said(&one.address());
    let port = forward.port(&one.address());
    let bytes = pattern(1, 3 << 20);
    assert!(there_and_back(connect(port), &bytes) == bytes, "not what was sent");
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        assert!(line.contains(&format!("127.0.0.1:{port} and [::1]:{port} ")), "{line}");
        let stream = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("it listens");
        assert_eq!(there_and_back(stream, b"by IPv6"), b"by IPv6");
    }
    let mut told = String::new();
    connect(forward.port(&two.address())).read_to_string(&mut told).expect("a clean end");
    assert_eq!(told, "the other\n");
    let (status, said) = forward.stop("INT");
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(said.lines().count(), 2, "one line for each pair, and no more:\n{said}");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody listens still");
}

fn a_unix_socket_leads_to_a_far_service(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let directory = private_directory();
    let path = directory.path().join("sock");
    let name = path.display().to_string();
    let words = ["forward", &name, &echo.address()];
    let forward = Running::start(&mut world.command(&words));
    forward.until_said(&echo.address());
    let found = fs::metadata(&path).expect("it is there");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(b"hello").expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut told = Vec::new();
    stream.read_to_end(&mut told).expect("a clean end");
    assert_eq!(told, b"hello");
    // Nobody takes it over while it is in use.
    let output = run(&mut world.command(&words), b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is in use") && said.contains("choose another path"), "{said}");
    let (status, said) = forward.stop("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!path.exists(), "the socket is left");
    // One that a dead process left is replaced.
    drop(UnixListener::bind(&path).expect("the place is free"));
    let forward = Running::start(&mut world.command(&words));
    forward.until_said(&echo.address());
    drop(UnixStream::connect(&path).expect("it listens"));
    forward.stop("TERM");
    // What is no socket is not touched.
    fs::write(&path, "precious").expect("a file");
    let output = run(&mut world.command(&words), b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not a socket") && said.contains("another path"), "{said}");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
}

fn a_far_unix_socket_is_forwarded_and_dialled(kind: Kind) {
    let world = World::new(kind);
    let directory = private_directory();
    let path = directory.path().join("far");
    let listener = UnixListener::bind(&path).expect("the place is free");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut from, mut to) = (stream.try_clone().expect("a socket"), stream);
            let _ = std::io::copy(&mut from, &mut to);
        }
    });
    let name = path.display().to_string();
    let forward = Running::start(&mut world.command(&["forward", "0", &name]));
    forward.until_said(&name);
    assert_eq!(there_and_back(connect(forward.port(&name)), b"hello"), b"hello");
    let output = run(&mut world.command(&["dial", &format!("unix!{name}")]), b"and again");
    assert_eq!(output.stdout, b"and again", "{}", String::from_utf8_lossy(&output.stderr));
}

fn each_direction_ends_by_itself(kind: Kind) {
    let world = World::new(kind);
    // This one answers when it has seen the end, that one ends and goes on reading.
    let answers = Service::new(|mut stream| {
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).expect("a clean end");
        stream.write_all(&asked).expect("the caller reads");
    });
    let (sender, heard) = channel();
    let sender = std::sync::Mutex::new(sender);
    let listens = Service::new(move |mut stream| {
        stream.write_all(b"last words").expect("the caller reads");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut said = Vec::new();
        let clean = stream.read_to_end(&mut said).is_ok();
        let _ = sender.lock().expect("no panic").send((said, clean));
    });
    let words = ["forward", "0", &answers.address(), "0", &listens.address()];
    let forward = Running::start(&mut world.command(&words));
    forward.until_said(&listens.address());
    let bytes = pattern(3, 1 << 20);
    let told = there_and_back(connect(forward.port(&answers.address())), &bytes);
    assert!(told == bytes, "not what was sent");
    if kind == Kind::OpensshFd {
        // ssh ends both directions with what the far side says, as it does with -W.
        return;
    }
    let mut stream = connect(forward.port(&listens.address()));
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("a clean end");
    assert_eq!(told, "last words");
    // Longer than a dial waits for its stdin then.
    thread::sleep(Duration::from_millis(800));
    stream.write_all(&bytes).expect("the other direction is open");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let (said, clean) = heard.recv_timeout(PATIENCE).expect("it ends there");
    assert!(clean && said == bytes, "{} bytes", said.len());
}

fn a_failed_dial_resets_the_connection_and_says_why(kind: Kind) {
    let world = World::new(kind);
    let address = format!("127.0.0.1!{}", free_port());
    let forward = Running::start(&mut world.command(&["forward", "0", &address]));
    forward.until_said(&address);
    for _ in 0..2 {
        let mut stream = connect(forward.port(&address));
        let error = stream.read(&mut [0; 1]).expect_err("no end of file: an error");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    let (_, said) = forward.stop("TERM");
    let why = format!("cannot dial {address}: Connection refused");
    assert_eq!(said.matches(&why).count(), 2, "{said}");
    assert_eq!(said.lines().count(), 3, "one line for each failure:\n{said}");
}

fn fifty_connections_at_once_keep_their_bytes_apart(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let forward = Running::start(&mut world.command(&["forward", "0", &echo.address()]));
    forward.until_said(&echo.address());
    // All are open before the first says a word.
    let streams: Vec<TcpStream> = (0..50).map(|_| connect(forward.port(&echo.address()))).collect();
    let all: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(of, stream)| {
            thread::spawn(move || {
                let bytes = pattern(of, (256 << 10) + of);
                there_and_back(stream, &bytes) == bytes
            })
        })
        .collect();
    for (of, same) in all.into_iter().enumerate() {
        assert!(same.join().expect("no panic"), "connection {of} got something else");
    }
    let (status, said) = forward.stop("TERM");
    assert_eq!((status.code(), said.lines().count()), (Some(0), 1), "{said}");
}

fn one_that_does_not_read_stalls_no_other(kind: Kind) {
    let world = World::new(kind);
    let endless = Service::new(|mut stream| while stream.write_all(&[7; 64 << 10]).is_ok() {});
    let deaf = Service::new(|stream| {
        // Until the caller is gone.
        let _ = stream.set_read_timeout(None);
        while stream.peek(&mut [0; 1]).is_ok_and(|count| count > 0) {
            thread::sleep(Duration::from_millis(50));
        }
    });
    let echo = Service::echo();
    let words = ["forward", "0", &endless.address(), "0", &deaf.address(), "0", &echo.address()];
    let forward = Running::start(&mut world.command(&words));
    forward.until_said(&echo.address());
    let unread: Vec<_> = (0..10).map(|_| connect(forward.port(&endless.address()))).collect();
    let unheard: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = connect(forward.port(&deaf.address()));
            stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
            thread::spawn(move || {
                // As much as anybody takes.
                while stream.write_all(&[9; 64 << 10]).is_ok() {}
                stream
            })
        })
        .collect();
    let unheard: Vec<_> = unheard.into_iter().map(|t| t.join().expect("no panic")).collect();
    let bytes = pattern(5, 1 << 20);
    assert!(there_and_back(connect(forward.port(&echo.address())), &bytes) == bytes);
    drop((unread, unheard));
    forward.stop("TERM");
}

/// It is gone with much under way in both directions: what it has sent still goes
/// to the far side, which takes it only while somebody takes its answers.
fn one_that_goes_without_reading_leaves_nothing(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let directory = private_directory();
    let path = directory.path().join("sock");
    let words = ["forward", &path.display().to_string(), &echo.address()];
    let forward = Running::start(&mut world.command(&words));
    forward.until_said(&echo.address());
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
    // psusan reads on whatever is taken of it, and keeps the rest in its memory: there
    // the writer never has to wait.
    let mut sent = 0;
    while sent < MUCH
        && let Ok(count) = stream.write(&[7; 65_536])
    {
        sent += count;
    }
    drop(stream);
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    until("no conversation is left", || client.names("tcp") == ["clone", "stats"]);
}

#[test]
fn a_port_in_use_is_told_with_what_to_do() {
    let world = World::new(Kind::Loopback);
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback has ports");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    for words in [vec!["forward", &port, "h!1"], vec!["socks", &port]] {
        let output = run(&mut world.command(&words), b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("in use") && said.contains("Choose another port"), "{said}");
    }
}

#[test]
fn an_address_that_others_reach_is_warned_about() {
    let world = World::new(Kind::Loopback);
    let echo = Service::echo();
    for address in ["*:0", "0.0.0.0:0", "[::]:0"] {
        if address == "[::]:0" && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            assert!(std::env::var_os("CI").is_none(), "this machine has no IPv6");
            eprintln!("left out: {address}, for this machine has no IPv6");
            continue;
        }
        let words = ["forward", address, &echo.address()];
        let forward = Running::start(&mut world.command(&words));
        forward.until_said(" for ");
        assert!(forward.said().contains("warning: whoever reaches"), "{}", forward.said());
        let port = forward.port(&echo.address());
        if address != "[::]:0" {
            assert_eq!(there_and_back(connect(port), b"hello"), b"hello");
        }
        forward.stop("TERM");
    }
}

#[test]
fn without_a_service_it_says_what_to_do_and_with_it_it_ends() {
    let mut world = World::new(Kind::Loopback);
    let echo = Service::echo();
    for words in [vec!["forward", "0", "h!1"], vec!["socks", "0"]] {
        let nothing = private_directory();
        let mut command = sshnet_tests::world::command(nothing.path());
        let output = run(command.args(&words), b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("no service is up: start one"), "{said}");
    }
    let address = echo.address();
    let directory = private_directory();
    let path = directory.path().join("sock").display().to_string();
    let mut forward = world.command(&["forward", "0", &address, &path, &address]);
    let forward = Running::start(&mut forward);
    let socks = Running::start(&mut world.command(&["socks", "0"]));
    forward.until_said(&path);
    socks.until_said("SOCKS5");
    let mut open = connect(forward.port(&address));
    open.write_all(b"x").expect("it is taken");
    open.read_exact(&mut [0]).expect("the echo");
    sshnet_tests::world::signal(world.pid(), "TERM");
    assert_eq!(world.wait(PATIENCE).code(), Some(0));
    for command in [forward, socks] {
        let (status, said) = command.wait();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("the service has ended; start it"), "{said}");
    }
    assert!(!std::path::Path::new(&path).exists(), "the socket is left");
    // An end or an error, and no hang.
    let _ = open.read(&mut [0]);
}

/// The example in `dial --help`.
#[test]
fn dial_is_a_proxy_command_of_ssh() {
    let world = World::with_sshd(Sshd::start(&[]), &[]);
    let sshd = world.sshd.as_ref().expect("it was given one");
    let program = sshnet_tests::world::program().display();
    let output = run(
        Command::new("ssh")
            .env("XDG_RUNTIME_DIR", world.runtime())
            .env_remove("SSH_AUTH_SOCK")
            .arg("-o")
            .arg(format!("ProxyCommand='{program}' dial -s s %h!%p"))
            .args(sshd.ssh_options())
            .arg(sshd.destination())
            .arg("cat; echo done"),
        &pattern(2, 1 << 20),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", world.story());
    let mut expected = pattern(2, 1 << 20);
    expected.extend_from_slice(b"done\n");
    assert!(output.stdout == expected, "{} bytes came back: {said}", output.stdout.len());
}
