//! Many conversations, one after the other and at once: nothing is left of them.

use std::collections::VecDeque;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use sshnet_host::sys::raise_file_limit;
use sshnet_tests::ninep::{Client, Dialect, File, Mode};
use sshnet_tests::world::{Kind, World, private_directory, until};

/// As many as there are in a batch, all under way at once.
const BATCH: usize = 250;
/// What a process may hold more after 100,000 conversations: what is left of a
/// byte for each is far above it.
const SLACK: u64 = 4 << 20;

/// Takes callers, and keeps so many of those that came last.
fn listen_at(path: &Path, kept: usize) {
    let listener = UnixListener::bind(path).expect("the path is free");
    thread::spawn(move || {
        let mut callers: VecDeque<UnixStream> = VecDeque::new();
        for caller in listener.incoming() {
            callers.push_back(caller.expect("a caller"));
            if callers.len() > kept {
                callers.pop_front();
            }
        }
    });
}

/// Bytes of memory and descriptors that a process holds.
fn held(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has some");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    (kib << 10, files)
}

/// Opens a batch of conversations, all at once.
fn dial(client: &Client, path: &Path) -> Vec<File> {
    let opening = client.opening_many("unix/clone", Mode::Both, BATCH).expect("there is room");
    let connect = format!("connect {}", path.display());
    let dialling: Vec<_> = opening
        .into_iter()
        .map(|(ctl, opened)| {
            opened.wait().expect("there is room");
            let dialled = ctl.write(connect.as_bytes());
            (ctl, dialled)
        })
        .collect();
    dialling
        .into_iter()
        .map(|(ctl, dialled)| {
            dialled.wait_count().expect("it is there");
            ctl
        })
        .collect()
}

/// Over Unix sockets: a TCP port is in use for a while after its conversation.
#[test]
fn a_hundred_thousand_conversations_leave_nothing_behind() {
    let there = private_directory();
    let path = there.path().join("s");
    listen_at(&path, 2 * BATCH);
    let world = World::new(Kind::Loopback);
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let gone = |client: &Client| client.names("unix") == ["clone"];
    // What is made once, and kept for the next.
    for _ in 0..20 {
        drop(dial(&client, &path));
    }
    until("they are gone", || gone(&client));
    let before = held(world.pid());
    for _ in 0..100_000 / BATCH {
        drop(dial(&client, &path));
    }
    until("they are gone", || gone(&client));
    until("their descriptors are closed", || held(world.pid()).1 <= before.1);
    let after = held(world.pid());
    assert!(after.0 < before.0 + SLACK, "{} bytes, then {}", before.0, after.0);
    let (directory, _ctl) = client.clone_of("unix").expect("there is room");
    assert_eq!(directory, "unix/0", "the numbers are free again");
}

#[test]
fn ten_thousand_conversations_at_once() {
    let there = private_directory();
    let path = there.path().join("s");
    raise_file_limit();
    listen_at(&path, 10_000);
    let world = World::new(Kind::Loopback);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let open: Vec<File> = (0..10_000 / BATCH).flat_map(|_| dial(&client, &path)).collect();
    assert_eq!(open.len(), 10_000);
    assert_eq!(client.names("unix").len(), 10_001);
    for number in [0, 5_000, 9_999] {
        let status = client.text(&format!("unix/{number}/status")).expect("it is there");
        assert!(status.starts_with("Established "), "{status}");
    }
    drop(open);
    until("they are gone", || client.names("unix") == ["clone"]);
}
