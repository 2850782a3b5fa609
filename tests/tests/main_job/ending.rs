//! The end: by a signal, by ssh, by sshd; nothing is left behind.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sshnet_tests::ninep::{Client, Dialect, Mode};
use sshnet_tests::world::{Kind, Service, World, children_of, files_below, signal, until};

on_each_pipe!(sigterm_ends_it_cleanly, ctrl_c_ends_it_cleanly,);

fn there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A service at work: a conversation, a read that waits, an announced port.
fn busy(world: &World, echo: &Service) -> (Client, Vec<sshnet_tests::ninep::Pending>) {
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, ctl, data) = client.dial(&echo.address()).expect("it answers");
    let (directory, listener) = client.clone_client().expect("there is room");
    listener.control("announce 127.0.0.1!0").expect("a free port");
    let (listen, open) =
        client.opening(&format!("{directory}/listen"), Mode::Both).expect("it is there");
    let pending = vec![data.read(100), open];
    // They stay open until the end.
    std::mem::forget((ctl, data, listener, listen));
    (client, pending)
}

fn ends_cleanly(kind: Kind, stop: impl Fn(&World)) {
    let echo = Service::echo();
    let mut world = World::new(kind);
    let (_client, pending) = busy(&world, &echo);
    let children = children_of(world.pid());
    assert_eq!(children.is_empty(), kind == Kind::Loopback, "{children:?}");
    let sessions = world.sshd.as_ref().map(|sshd| sshd.sessions()).unwrap_or_default();
    assert!(world.socket().exists());
    stop(&world);
    for request in pending {
        request.wait().expect_err("a request that waits at the end fails");
    }
    let status = world.wait(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{}", world.story());
    let alive: Vec<u32> = children.into_iter().filter(|&pid| there(pid)).collect();
    assert!(alive.is_empty(), "processes {alive:?} are left");
    let left = files_below(world.runtime());
    assert!(left.is_empty(), "{left:?} are left");
    until("sshd's session ends", || sessions.iter().all(|&pid| !there(pid)));
}

fn sigterm_ends_it_cleanly(kind: Kind) {
    ends_cleanly(kind, |world| signal(world.pid(), "TERM"));
}

/// The terminal sends it to the whole group, so ssh gets it as well.
fn ctrl_c_ends_it_cleanly(kind: Kind) {
    ends_cleanly(kind, |world| {
        let sent = Command::new("kill")
            .args(["-INT", "--", &format!("-{}", world.pid())])
            .status()
            .expect("kill: install the Debian package procps");
        assert!(sent.success());
    });
}

/// Ends within a second with exit status 1 and words, pending requests answered.
fn ends_with_words(mut world: World, kill: impl Fn(&mut World), words: &[&str]) {
    let echo = Service::echo();
    let (_client, pending) = busy(&world, &echo);
    let children = children_of(world.pid());
    let killed = Instant::now();
    kill(&mut world);
    for request in pending {
        let answer = request.wait_for(Duration::from_secs(2));
        answer.expect("an answer in time").expect_err("its conversation is gone");
    }
    let answered = killed.elapsed();
    assert!(answered < Duration::from_millis(1_500), "answered after {answered:?}");
    let status = world.wait(Duration::from_secs(5));
    let took = killed.elapsed();
    assert_eq!(status.code(), Some(1), "{}", world.story());
    assert!(took < Duration::from_millis(2_500), "it took {took:?}");
    let said = world.said();
    assert!(words.iter().any(|word| said.contains(word)), "{said}");
    assert!(children.iter().all(|&pid| !there(pid)), "ssh is left");
    let left = files_below(world.runtime());
    assert!(left.is_empty(), "{left:?} are left");
}

#[test]
fn when_ssh_is_killed_without_reconnect_it_ends_with_1() {
    let world = World::with(Kind::Openssh, &["--reconnect=no"]);
    ends_with_words(
        world,
        |world| {
            for child in children_of(world.pid()) {
                signal(child, "KILL");
            }
        },
        &["ssh"],
    );
}

#[test]
fn when_sshd_is_killed_without_reconnect_it_ends_with_1_and_sshs_last_words() {
    let world = World::with(Kind::Openssh, &["--reconnect=no"]);
    ends_with_words(
        world,
        |world| world.sshd.as_mut().expect("there is one").kill(),
        &["closed by remote host", "Connection reset", "Broken pipe"],
    );
}

/// A second service under the same name does not harm the first.
#[test]
fn a_name_in_use_is_refused_and_the_first_goes_on() {
    let echo = Service::echo();
    let world = World::new(Kind::Loopback);
    let mut second = world.command(&["-s", "s", "--pipe", "loopback"]);
    let output = sshnet_tests::world::run(&mut second, b"");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in use"), "{said}");
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    client.dial(&echo.address()).expect("the first still serves");
}
