//! `socks`: RFC 1928 byte by byte, and curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use sshnet_tests::ninep::PATIENCE;
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::world::{Kind, Running, Service, World, run};

on_each_pipe!(
    names_and_numbers_are_dialled;
    but psusan:
    a_dial_that_fails_has_its_reply,
    curl_gets_a_page,
);

const CONNECT: u8 = 1;
const BIND: u8 = 2;
const UDP_ASSOCIATE: u8 = 3;

/// A request's address.
fn by_name(name: &str) -> Vec<u8> {
    let mut address = vec![3, u8::try_from(name.len()).expect("a short name")];
    address.extend_from_slice(name.as_bytes());
    address
}

fn by_number(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => [&[1], &ip.octets()[..]].concat(),
        IpAddr::V6(ip) => [&[4], &ip.octets()[..]].concat(),
    }
}

fn start(world: &World) -> (Running, u16) {
    let socks = Running::start(&mut world.command(&["socks", "0"]));
    socks.until_said("SOCKS5");
    let port = socks.port("SOCKS5");
    (socks, port)
}

fn connect(proxy: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Asks for this; the reply's code, and the connection.
fn ask(proxy: u16, command: u8, address: &[u8], port: u16) -> (u8, TcpStream) {
    let mut stream = connect(proxy);
    stream.write_all(&[5, 2, 2, 0]).expect("it is taken");
    let mut method = [0; 2];
    stream.read_exact(&mut method).expect("an answer");
    assert_eq!(method, [5, 0], "no password");
    let request = [&[5, command, 0], address, &port.to_be_bytes()].concat();
    stream.write_all(&request).expect("it is taken");
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).expect("a reply");
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1), "{reply:?}");
    (reply[1], stream)
}

#[track_caller]
fn ends(mut stream: TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("a clean end after the reply");
    assert_eq!(rest, b"");
}

#[track_caller]
fn echoes(mut stream: TcpStream) {
    stream.write_all(b"hello").expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut told = Vec::new();
    stream.read_to_end(&mut told).expect("a clean end");
    assert_eq!(told, b"hello");
}

fn names_and_numbers_are_dialled(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let (socks, proxy) = start(&world);
    let local = by_number(IpAddr::from([127, 0, 0, 1]));
    for address in [by_name("localhost"), by_name("127.0.0.1"), local.clone()] {
        let (code, stream) = ask(proxy, CONNECT, &address, echo.port);
        assert_eq!(code, 0, "{address:?}");
        echoes(stream);
    }
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(listener) => {
            let port = listener.local_addr().expect("it is bound").port();
            let taken = std::thread::spawn(move || listener.accept().expect("a call").0);
            let address = by_number(Ipv6Addr::LOCALHOST.into());
            let (code, mut stream) = ask(proxy, CONNECT, &address, port);
            assert_eq!(code, 0);
            stream.write_all(b"six").expect("it is taken");
            let mut told = [0; 3];
            taken.join().expect("no panic").read_exact(&mut told).expect("it comes");
            assert_eq!(&told, b"six");
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "this machine has no IPv6: {error}");
            eprintln!("left out: an IPv6 address, for this machine has none");
        }
    }
    // All in one go, as a client may that does not wait.
    let mut stream = connect(proxy);
    let request = [&[5, 1, 0, 5, CONNECT, 0], &local[..], &echo.port.to_be_bytes(), b"at once"];
    stream.write_all(&request.concat()).expect("it is taken");
    let mut reply = [0; 12 + 7];
    stream.read_exact(&mut reply).expect("a reply and the echo");
    assert_eq!((&reply[..4], &reply[12..]), (&[5, 0, 5, 0][..], &b"at once"[..]));
    let (status, said) = socks.stop("TERM");
    assert_eq!((status.code(), said.lines().count()), (Some(0), 1), "{said}");
}

fn a_dial_that_fails_has_its_reply(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let (socks, proxy) = start(&world);
    let local = by_number(IpAddr::from([127, 0, 0, 1]));
    let (code, stream) = ask(proxy, CONNECT, &local, free_port());
    assert_eq!(code, 5, "refused");
    ends(stream);
    let (code, stream) = ask(proxy, CONNECT, &by_name("nosuchhost.invalid"), 80);
    assert_eq!(code, 4, "no such host:\n{}", socks.said());
    ends(stream);
    for command in [BIND, UDP_ASSOCIATE, 9] {
        let (code, stream) = ask(proxy, command, &local, echo.port);
        assert_eq!(code, 7, "command {command}");
        ends(stream);
    }
    // A name must not become control messages of its own.
    for name in ["x\nhangup", "127.0.0.1!1!r", "a b", "", "*", "\u{1b}[2J"] {
        let (code, stream) = ask(proxy, CONNECT, &by_name(name), echo.port);
        assert_eq!(code, 1, "{name:?}");
        ends(stream);
    }
    assert!(!socks.said().contains('\u{1b}'), "control characters on stderr");
    let (code, stream) = ask(proxy, CONNECT, &local, echo.port);
    assert_eq!(code, 0);
    echoes(stream);
}

/// PermitOpen of sshd_config(5).
#[test]
fn a_forbidden_dial_is_not_allowed_by_ruleset() {
    let echo = Service::echo();
    let world = World::with_sshd(Sshd::start(&["PermitOpen 127.0.0.1:1"]), &[]);
    let (_socks, proxy) = start(&world);
    let (code, stream) = ask(proxy, CONNECT, &by_number(IpAddr::from([127, 0, 0, 1])), echo.port);
    assert_eq!(code, 2);
    ends(stream);
}

#[test]
fn bad_clients_are_refused_and_harm_no_other() {
    let world = World::new(Kind::Loopback);
    let echo = Service::echo();
    let (socks, proxy) = start(&world);
    let answer = |bytes: &[u8]| {
        let mut stream = connect(proxy);
        stream.write_all(bytes).expect("it is taken");
        let mut told = Vec::new();
        stream.read_to_end(&mut told).expect("a clean end");
        told
    };
    assert_eq!(answer(b"GET / HTTP/1.0\r\n\r\n"), b"");
    assert_eq!(answer(&[0xff; 5000]), b"");
    assert_eq!(answer(&[4, 1, 0, 80, 127, 0, 0, 1, 0]), [0, 91, 0, 0, 0, 0, 0, 0]);
    assert_eq!(answer(&[5, 1, 2]), [5, 255], "only with a password");
    assert_eq!(answer(&[5, 1, 0, 4, 1, 0]), [5, 0], "the version changes");
    let told = answer(&[5, 1, 0, 5, 1, 0, 77, 0, 0]);
    assert_eq!(told[..4], [5, 0, 5, 8], "an unknown kind of address");
    for words in ["does not speak SOCKS5", "speaks SOCKS4; set it to SOCKS5", "a password"] {
        assert!(socks.said().contains(words), "{words}:\n{}", socks.said());
    }
    // Some that break off, and some that are slow, at each point of the handshake.
    let whole = [&[5, 1, 0, 5, CONNECT, 0], &by_name("localhost")[..], &[0, 80]].concat();
    let started = Instant::now();
    let slow: Vec<TcpStream> = (0..whole.len())
        .map(|length| {
            drop(connect(proxy).write_all(&whole[..length]));
            let mut stream = connect(proxy);
            stream.write_all(&whole[..length]).expect("it is taken");
            stream
        })
        .collect();
    let local = by_number(IpAddr::from([127, 0, 0, 1]));
    let (code, stream) = ask(proxy, CONNECT, &local, echo.port);
    assert_eq!(code, 0);
    echoes(stream);
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        let mut told = Vec::new();
        // It ends, cleanly or not, and there was no reply.
        let _ = stream.read_to_end(&mut told);
        assert!(told.len() <= 2, "{told:?}");
        let waited = started.elapsed();
        assert!(waited >= Duration::from_secs(29), "closed after {waited:?}");
        assert!(waited < Duration::from_secs(55), "closed after {waited:?} only");
    }
}

fn curl_gets_a_page(kind: Kind) {
    let world = World::new(kind);
    let web = Service::new(|mut stream| {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("curl goes on");
            asked.push(byte[0]);
        }
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n");
    });
    let (_socks, proxy) = start(&world);
    let curl = |url: String| {
        let mut command = Command::new("curl");
        command.args(["--disable", "--silent", "--show-error", "--noproxy", ""]);
        command.args(["--socks5-hostname", &format!("127.0.0.1:{proxy}"), &url]);
        run(&mut command, b"")
    };
    let output = curl(format!("http://localhost:{}/", web.port));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"hello\n", "{said}");
    let output = curl(format!("http://localhost:{}/", free_port()));
    // Curl's number for what a proxy refuses.
    assert_eq!(output.status.code(), Some(97), "{}", String::from_utf8_lossy(&output.stderr));
}
