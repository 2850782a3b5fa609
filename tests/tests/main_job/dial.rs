//! Dials: names, refusals, the end from either side.

use std::io::{Read, Write};
use std::net::{Shutdown, ToSocketAddrs};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use sshnet_tests::ninep::{Client, Dialect, Mode, NineError};
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::world::{Kind, Service, World, until};

on_each_pipe!(
    cs_translates_names_and_numbers,
    the_first_words_need_not_wait_for_the_dial,
    the_near_side_hangs_up,
    the_far_side_hangs_up,
    a_client_dials_again_after_a_hangup;
    but psusan:
    a_refused_dial_is_told_in_the_far_sides_words,
    a_name_that_does_not_resolve_is_told_in_the_far_sides_words,
);

const EACCES: u32 = 13;
const ECONNREFUSED: u32 = 111;

/// Dials with each dialect and holds the error to a text and a number: the text
/// in 9P2000 and 9P2000.u, the number in 9P2000.u and 9P2000.L, and the text in
/// `status` for all.
fn fails(world: &World, address: &str, text: &str, errno: u32) {
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let (directory, ctl) = client.clone_client().expect("there is room");
        let error = ctl.control(&format!("connect {address}")).expect_err("it cannot be dialed");
        let NineError { text: told, errno: number } = &error;
        if dialect != Dialect::Linux {
            let told = told.as_deref().expect("an Rerror has a text");
            assert!(told.contains(text), "{dialect:?}: {told:?} is not {text:?}");
        }
        if dialect != Dialect::Plan9 {
            assert_eq!(*number, Some(errno), "{dialect:?}: {error:?}");
        }
        let status = client.text(&format!("{directory}/status")).expect("it is there");
        assert!(status.starts_with("Closed "), "{status}");
        assert!(status.lines().nth(1).is_some_and(|line| line.contains(text)), "{status}");
    }
}

fn a_refused_dial_is_told_in_the_far_sides_words(kind: Kind) {
    let world = World::new(kind);
    let port = free_port();
    fails(&world, &format!("127.0.0.1!{port}"), "Connection refused", ECONNREFUSED);
}

fn a_name_that_does_not_resolve_is_told_in_the_far_sides_words(kind: Kind) {
    // The far side is this machine, so its words are this machine's.
    let words = match ("nosuchhost.invalid", 80).to_socket_addrs() {
        Err(error) => error.to_string(),
        Ok(_) => panic!("this machine resolves nosuchhost.invalid"),
    };
    let words = words.rsplit(": ").next().expect("there is a last one").to_owned();
    fails(&World::new(kind), "nosuchhost.invalid!80", &words, ECONNREFUSED);
}

/// PermitOpen of sshd_config(5).
#[test]
fn a_forbidden_dial_is_told_in_the_far_sides_words() {
    let echo = Service::echo();
    let allowed = Service::echo();
    let permit = format!("PermitOpen 127.0.0.1:{}", allowed.port);
    let world = World::with_sshd(Sshd::start(&[&permit]), &[]);
    fails(&world, &echo.address(), "administratively prohibited", EACCES);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    client.dial(&allowed.address()).expect("this one is allowed");
}

/// Whoever dials may write and read before the far side has answered.
fn the_first_words_need_not_wait_for_the_dial(kind: Kind) {
    let (world, echo) = (World::new(kind), Service::echo());
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let (directory, ctl) = client.clone_client().expect("there is room");
        let data = client.open(&format!("{directory}/data"), Mode::Both).expect("it is there");
        let dialled = ctl.write(format!("connect {}", echo.address()).as_bytes());
        let (read, written) = (data.read(100), data.write(b"hello"));
        assert_eq!(dialled.wait_count().map(|count| count > 0), Ok(true), "{dialect:?}");
        assert_eq!(written.wait_count(), Ok(5), "{dialect:?}");
        assert_eq!(read.wait_data().as_deref(), Ok(&b"hello"[..]), "{dialect:?}");
    }
}

fn cs_translates_names_and_numbers(kind: Kind) {
    let world = World::new(kind);
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        for (query, answer) in [
            ("tcp!example.net!22", "/net/tcp/clone example.net!22"),
            ("tcp!example.net!ssh", "/net/tcp/clone example.net!22"),
            ("net!127.0.0.1!http", "/net/tcp/clone 127.0.0.1!80"),
        ] {
            let told = client.translate(query).expect("it is a query");
            assert_eq!(told.trim_end(), answer, "{dialect:?}");
        }
        for query in ["nonsense", "tcp!h!70000", "tcp!h!nosuchservice", "ipx!h!7"] {
            client.translate(query).expect_err(query);
        }
    }
}

/// A service that says what its caller said, and how that ended.
fn confessor() -> (Service, std::sync::mpsc::Receiver<(Vec<u8>, bool)>) {
    let (sender, heard) = channel();
    let sender = Mutex::new(sender);
    let service = Service::new(move |mut stream| {
        stream.write_all(b"welcome\n").expect("the caller is there");
        let mut bytes = Vec::new();
        let clean = stream.read_to_end(&mut bytes).is_ok();
        let _ = sender.lock().expect("no panic").send((bytes, clean));
    });
    (service, heard)
}

fn the_near_side_hangs_up(kind: Kind) {
    let world = World::new(kind);
    let (service, heard) = confessor();
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (directory, ctl, data) = client.dial(&service.address()).expect("it answers");
    data.write(b"goodbye\n").wait_count().expect("the write");
    assert_eq!(data.read(100).wait_data(), Ok(b"welcome\n".to_vec()));
    let waiting = data.read(100);
    ctl.control("hangup").expect("hangup is always possible");
    waiting.wait_data().expect_err("a read that waits when it is hung up");
    let (said, _) = heard.recv_timeout(sshnet_tests::ninep::PATIENCE).expect("it ends there, too");
    assert_eq!(said, b"goodbye\n");
    until("the client is closed", || {
        client.text(&format!("{directory}/status")).expect("it is there").starts_with("Closed ")
    });
    // The same by closing the files.
    let (_, ctl, data) = client.dial(&service.address()).expect("it answers");
    data.write(b"gone\n").wait_count().expect("the write");
    data.close();
    ctl.close();
    let (said, _) = heard.recv_timeout(sshnet_tests::ninep::PATIENCE).expect("it ends there, too");
    assert_eq!(said, b"gone\n");
}

fn the_far_side_hangs_up(kind: Kind) {
    let world = World::new(kind);
    let service = Service::new(|mut stream| {
        stream.write_all(b"last words\n").expect("the caller is there");
        let _ = stream.shutdown(Shutdown::Write);
        // Until the caller has gone, too: that end is another matter.
        let _ = stream.read(&mut [0; 100]);
    });
    let client = Client::connect(&world.socket(), Dialect::Unix);
    let (_, ctl, data) = client.dial(&service.address()).expect("it answers");
    assert_eq!(data.read_to_end(), Ok(b"last words\n".to_vec()));
    assert_eq!(data.read(1).wait_data(), Ok(Vec::new()), "the end stays the end");
    ctl.control("hangup").expect("hangup is always possible");
}

fn a_client_dials_again_after_a_hangup(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (directory, ctl) = client.clone_client().expect("there is room");
    for round in 1..10 {
        ctl.control(&format!("connect {}", echo.address())).expect("it answers");
        let data = client.open(&format!("{directory}/data"), Mode::Both).expect("data opens");
        let said = format!("round {round}\n");
        data.write(said.as_bytes()).wait_count().expect("the write");
        if round % 2 == 0 {
            let told = data.read(100).wait_data().expect("the read");
            assert_eq!(String::from_utf8_lossy(&told), said);
        } else {
            // Left unread, and the next must not see it.
            until("the echo has come", || {
                let status = client.text(&format!("{directory}/status")).expect("it is there");
                status.contains(&format!(" qin {} ", said.len()))
            });
        }
        ctl.control("hangup").expect("hangup is always possible");
    }
}
