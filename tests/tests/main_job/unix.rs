//! Unix sockets at the far side: the tree's `unix` directory.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use sshnet_tests::ninep::{Client, Dialect, Mode, PATIENCE};
use sshnet_tests::sshd::Sshd;
use sshnet_tests::world::{Kind, World, private_directory, until};

on_each_pipe!(
    the_directories_share_the_numbers_and_list_their_own;
    but psusan:
    a_conversation_with_a_unix_socket,
    a_path_that_is_refused_is_told_in_the_far_sides_words,
    calls_to_a_path_are_taken,
);

/// Echoes to one caller after the other.
fn echo_at(path: &Path) {
    let listener = UnixListener::bind(path).expect("the path is free");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a caller");
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            let _ = stream.write_all(&bytes);
        }
    });
}

fn a_conversation_with_a_unix_socket(kind: Kind) {
    let there = private_directory();
    let path = there.path().join("echo");
    echo_at(&path);
    let path = path.to_str().expect("UTF-8");
    let world = World::new(kind);
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let (directory, ctl) = client.clone_of("unix").expect("there is room");
        ctl.control(&format!("connect {path}")).expect("it is there");
        assert_eq!(client.text(&format!("{directory}/remote")).unwrap().trim_end(), path);
        let status = client.text(&format!("{directory}/status")).unwrap();
        assert!(status.starts_with("Established "), "{status}");
        let data = client.open(&format!("{directory}/data"), Mode::Both).expect("data opens");
        data.write(b"there and back").wait_count().expect("it is taken");
        ctl.control("closewrite").expect("the other direction ends");
        assert_eq!(data.read_to_end().unwrap(), b"there and back", "{dialect:?}");
    }
}

fn the_directories_share_the_numbers_and_list_their_own(kind: Kind) {
    let world = World::new(kind);
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (tcp, _tcp_ctl) = client.clone_client().expect("there is room");
    let (unix, _unix_ctl) = client.clone_of("unix").expect("there is room");
    assert_eq!((&*tcp, &*unix), ("tcp/0", "unix/1"));
    let numbers = |protocol: &str| -> Vec<String> {
        let names = client.names(protocol);
        names.into_iter().filter(|name| name.parse::<u32>().is_ok()).collect()
    };
    assert_eq!(numbers("tcp"), ["0"]);
    assert_eq!(numbers("unix"), ["1"]);
    assert!(client.walk("tcp/1").is_err(), "it is the other directory's");
    assert!(client.walk("unix/0").is_err(), "it is the other directory's");
}

/// sshd says why to its log only, and to us the same words for every reason.
const SSHD_SAYS: &str = "connect failed: open failed";

fn a_path_that_is_refused_is_told_in_the_far_sides_words(kind: Kind) {
    let words = |far: &'static str| match kind {
        Kind::Openssh => SSHD_SAYS,
        _ => far,
    };
    let there = private_directory();
    let missing = there.path().join("nobody");
    let world = World::new(kind);
    refused(&world, &missing, words("No such file or directory"));
    let dead = there.path().join("dead");
    drop(UnixListener::bind(&dead).expect("the path is free"));
    refused(&world, &dead, words("Connection refused"));
}

/// Dials a path and holds the error to these words of the far side.
fn refused(world: &World, path: &Path, words: &str) {
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (directory, ctl) = client.clone_of("unix").expect("there is room");
    let error =
        ctl.control(&format!("connect {}", path.display())).expect_err("nobody takes calls there");
    let told = error.text.expect("an Rerror has a text");
    assert!(told.contains(words), "{told:?} is not {words:?}");
    let status = client.text(&format!("{directory}/status")).unwrap();
    assert!(status.starts_with("Closed ") && status.contains(words), "{status}");
}

/// AllowStreamLocalForwarding of sshd_config(5).
#[test]
fn a_forbidden_path_is_told_in_the_far_sides_words() {
    let there = private_directory();
    let path = there.path().join("echo");
    echo_at(&path);
    let world = World::with_sshd(Sshd::start(&["AllowStreamLocalForwarding no"]), &[]);
    refused(&world, &path, SSHD_SAYS);
}

fn calls_to_a_path_are_taken(kind: Kind) {
    let there = private_directory();
    let path = there.path().join("calls");
    let world = World::new(kind);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (directory, ctl) = client.clone_of("unix").expect("there is room");
    ctl.control(&format!("announce {}", path.display())).expect("it can be bound");
    let caller = path.clone();
    let caller = thread::spawn(move || {
        let mut stream = UnixStream::connect(&caller).expect("it is announced");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all(b"hello").expect("it is taken");
        stream.shutdown(std::net::Shutdown::Write).expect("a socket");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer comes");
        answer
    });
    let call = client.open(&format!("{directory}/listen"), Mode::Both).expect("a call comes");
    let number = String::from_utf8(call.read_at(0, 64).unwrap()).expect("a number");
    let taken = format!("unix/{}", number.trim());
    let data = client.open(&format!("{taken}/data"), Mode::Both).expect("data opens");
    assert_eq!(data.read_to_end().unwrap(), b"hello");
    data.write(b"and welcome").wait_count().expect("it is sent");
    call.control("hangup").expect("it ends");
    assert_eq!(caller.join().expect("no panic"), "and welcome");
    ctl.control("hangup").expect("it ends");
    until("nobody takes calls there", || UnixStream::connect(&path).is_err());
}
