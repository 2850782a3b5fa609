//! Bad input: a clear error, and nothing else is harmed.

use std::io::Write;
use std::os::unix::net::UnixStream;

use sshnet_tests::ninep::{Body, Client, Dialect, PATIENCE, frame, read_frame, tversion};
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::world::{Kind, Service, World, command, private_directory, run};

const ENOENT: u32 = 2;
const EINVAL: u32 = 22;

/// ssh's own words, exit status 1, and nothing left behind.
#[test]
fn a_wrong_host_is_told_in_sshs_own_words() {
    let directory = private_directory();
    let port = free_port().to_string();
    for (words, expected) in [
        (vec!["-F", "none", "nosuchhost.invalid"], "Could not resolve hostname nosuchhost.invalid"),
        (vec!["-F", "none", "-p", &port, "127.0.0.1"], "Connection refused"),
    ] {
        let output = run(command(directory.path()).args(["-s", "s"]).args(&words), b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
        let left: Vec<_> = std::fs::read_dir(directory.path()).expect("it is there").collect();
        assert!(left.is_empty(), "{left:?} are left");
    }
}

/// Who is not let in is told so.
#[test]
fn a_wrong_key_is_told_in_sshs_own_words() {
    let (sshd, other) = (Sshd::start(&[]), Sshd::start(&[]));
    let directory = private_directory();
    // The first sshd, with the key of the other.
    let mut options = other.ssh_options();
    let at = options.iter().position(|word| word == "-p").expect("there is a port");
    options[at + 1] = sshd.port.to_string();
    let output =
        run(command(directory.path()).args(["-s", "s"]).args(options).arg(sshd.destination()), b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_with_the_reason() {
    let directory = private_directory();
    for (words, reason) in [
        (vec![], ""),
        (vec!["--pipe", "nosuch"], "nosuch"),
        (vec!["-M", "host"], "-M"),
        (vec!["-f", "host"], "-f"),
        (vec!["-W", "h:1", "host"], "-W"),
        (vec!["--core"], "--core"),
        (vec!["--ready-fd", "x", "host"], "x"),
        (vec!["listen", "127.0.0.1!0"], "COMMAND"),
        (vec!["dial"], "HOST!PORT"),
    ] {
        let output = run(command(directory.path()).args(&words), b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(!said.is_empty() && said.contains(reason), "{words:?}: {said}");
    }
    // An option that neither we nor ssh know.
    let output = run(command(directory.path()).args(["--nosuch-option", "127.0.0.1"]), b"");
    assert!(matches!(output.status.code(), Some(1 | 2)));
    assert!(!output.stderr.is_empty());
}

/// In all dialects: words that make no sense, ports that cannot be, files that
/// are not there. The same connection goes on.
#[test]
fn what_makes_no_sense_in_the_tree_is_an_error_and_nothing_more() {
    let echo = Service::echo();
    let world = World::new(Kind::Loopback);
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let (directory, ctl) = client.clone_client().expect("there is room");
        for line in
            ["bogus", "connect", "connect h!70000", "connect h!-1", "announce x!y!z", "\u{7f}"]
        {
            let error = ctl.control(line).expect_err(line);
            if let Some(text) = &error.text {
                assert!(text.starts_with("bad or inappropriate tcp control message"), "{text}");
            }
            if let Some(errno) = error.errno {
                assert_eq!(errno, EINVAL, "{line}");
            }
        }
        let number = directory.trim_start_matches("tcp/");
        for path in [
            "tcp/-1",
            "tcp/00",
            "tcp/+1",
            "tcp/01",
            "tcp/99999",
            "tcp/4294967296",
            "tcp/0x0",
            "nosuch",
            "tcp/ 0",
            &format!("tcp/0{number}"),
            &format!("{directory}/nosuch"),
        ] {
            let error = client.walk(path).map(|_| ()).expect_err(path);
            // A walk that goes a part of the way answers with that part.
            if let Some(errno) = error.errno {
                assert_eq!(errno, ENOENT, "{path}");
            }
        }
        client.walk("..").expect("the root's parent is the root");
        client.walk(&format!("{directory}/../../cs")).expect("up and down again");
        // The connection and the client are as before.
        ctl.control(&format!("connect {}", echo.address())).expect("it answers");
    }
}

/// A connection that breaks the framing ends; others do not notice.
#[test]
fn a_frame_of_an_impossible_size_ends_its_connection_alone() {
    let world = World::new(Kind::Loopback);
    let witness = Client::connect(&world.socket(), Dialect::Plan9);
    for size in [0_u32, 3, 6, 0x7fff_ffff, u32::MAX] {
        for version_first in [false, true] {
            let mut stream = UnixStream::connect(world.socket()).expect("it serves");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            if version_first {
                stream.write_all(&tversion("9P2000")).expect("it reads");
                read_frame(&mut stream).expect("it answers").expect("and stays");
            }
            let mut bytes = size.to_le_bytes().to_vec();
            bytes.extend([104, 1, 0, 0, 0, 0, 0]);
            // It may be gone before all of it is written.
            let _ = stream.write_all(&bytes);
            match read_frame(&mut stream) {
                Ok(None) | Err(_) => {}
                Ok(Some((_, (kind, _)))) => {
                    assert!(matches!(kind, 7 | 107), "size {size}: a reply of type {kind}");
                    assert!(matches!(read_frame(&mut stream), Ok(None) | Err(_)), "and the end");
                }
            }
        }
    }
    witness.clone_client().expect("the witness is not harmed");
}

/// version(5): a protocol that is not known is answered with `unknown`, and the
/// client may try another.
#[test]
fn an_unknown_protocol_is_answered_with_unknown() {
    let world = World::new(Kind::Loopback);
    let mut stream = UnixStream::connect(world.socket()).expect("it serves");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    for (asked, told) in
        [("9P1999", "unknown"), ("Styx", "unknown"), ("", "unknown"), ("9P2000.L", "9P2000.L")]
    {
        stream.write_all(&tversion(asked)).expect("it reads");
        let (tag, (kind, body)) = read_frame(&mut stream).expect("it answers").expect("and stays");
        assert_eq!((tag, kind), (0xffff, 101), "{asked:?}");
        let length = usize::from(u16::from_le_bytes([body[4], body[5]]));
        assert_eq!(&body[6..6 + length], told.as_bytes(), "{asked:?}");
    }
    // Nothing goes before a version.
    let mut stream = UnixStream::connect(world.socket()).expect("it serves");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let attach = Body::new().u32(0).u32(!0).string("tester").string("");
    stream.write_all(&frame(104, 1, attach)).expect("it reads");
    match read_frame(&mut stream) {
        Ok(None) | Err(_) => {}
        Ok(Some((_, (kind, _)))) => assert!(matches!(kind, 7 | 107), "a reply of type {kind}"),
    }
}
