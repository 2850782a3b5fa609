//! Rights: what the processes may ask the kernel for once the service is up.

use std::fs;
use std::path::Path;

use sshnet_tests::ninep::{Client, Dialect};
use sshnet_tests::world::{Kind, STARTER, Service, World, children_of, signal, until};

/// Of seccomp(2): what a filter decides.
const FILTERED: &str = "2";
const NOT_FILTERED: &str = "0";

/// A field of /proc/PID/status.
fn field(status: &Path, name: &str) -> String {
    let text = fs::read_to_string(status).expect("it runs");
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    values.next().expect("Linux has it").trim().to_owned()
}

fn status(pid: u32) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string()).join("status")
}

/// The process that starts programs for this one.
fn starter(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.expect("it runs");
    let mut pids = children.split_whitespace().map(|child| child.parse().expect("a number"));
    pids.find(|child| field(&status(*child), "Name") == STARTER)
}

fn once_it_is_up_every_thread_has_given_up_rights_and_no_program_has(kind: Kind) {
    let world = World::new(kind);
    let threads = fs::read_dir(format!("/proc/{}/task", world.pid())).expect("it runs");
    for thread in threads {
        let status = thread.expect("it is there").path().join("status");
        assert_eq!(field(&status, "Seccomp"), FILTERED, "{}", status.display());
        assert_eq!(field(&status, "NoNewPrivs"), "1");
    }
    let starter = starter(world.pid()).expect("it is there");
    let programs = children_of(world.pid());
    assert_eq!(programs.is_empty(), kind == Kind::Loopback, "{programs:?}");
    // A peer is one of ours, and gives up its own.
    let ours = |pid: &u32| field(&status(*pid), "Name") == "sshnet-host";
    for pid in programs.into_iter().filter(|pid| !ours(pid)).chain([starter]) {
        assert_eq!(field(&status(pid), "Seccomp"), NOT_FILTERED, "{pid}");
        assert_eq!(field(&status(pid), "NoNewPrivs"), "0");
    }
    // And it does what it is for.
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
    data.write(b"through").wait_count().expect("it is open");
    assert_eq!(data.read(100).wait_data(), Ok(b"through".to_vec()));
}

on_each_pipe!(once_it_is_up_every_thread_has_given_up_rights_and_no_program_has);

#[test]
fn what_it_starts_gets_every_signal() {
    let world = World::new(Kind::Openssh);
    let held_back = |pid| field(&status(pid), "SigBlk");
    let starter = starter(world.pid()).expect("it is there");
    assert_ne!(held_back(starter), "0000000000000000");
    let programs = children_of(world.pid());
    assert_eq!(programs.len(), 1, "ssh");
    for ssh in programs {
        assert_eq!(held_back(ssh), "0000000000000000");
    }
}

#[test]
fn when_it_is_killed_its_starter_and_ssh_end_too() {
    let world = World::new(Kind::Openssh);
    let mut others = children_of(world.pid());
    others.extend(starter(world.pid()));
    assert_eq!(others.len(), 2);
    signal(world.pid(), "KILL");
    until("they are gone", || {
        others.iter().all(|pid| {
            fs::read_to_string(status(*pid)).map_or(true, |text| text.contains("State:\tZ"))
        })
    });
}

#[test]
fn it_keeps_its_rights_if_it_is_told_to() {
    let world = World::with(Kind::Openssh, &["--keep-rights"]);
    assert_eq!(field(&status(world.pid()), "Seccomp"), NOT_FILTERED);
    assert_eq!(starter(world.pid()), None);
    assert_eq!(children_of(world.pid()).len(), 1);
}
