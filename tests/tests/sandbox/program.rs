//! The program over a component that misbehaves: what its users see.

use std::time::Duration;

use sshnet_tests::hostile;
use sshnet_tests::ninep::{Client, Dialect, Mode, Pending};
use sshnet_tests::world::{World, run};

/// How long the program may take to end.
const END: Duration = Duration::from_secs(20);

/// The program with this component, and more options.
fn hostile(more: &[&str]) -> World {
    let core = hostile::component().to_str().expect("a plain path");
    let mut words = vec!["--pipe", "loopback", "--core", core, "--core-memory", "48"];
    words.extend(["--core-fuel", "400"]);
    words.extend(more);
    World::up(&words)
}

/// A request of each kind that waits, and what it is made on.
fn busy(client: &Client) -> (Vec<Pending>, String) {
    let (directory, ctl) = client.clone_client().expect("there is room");
    let data = client.open(&format!("{directory}/data"), Mode::Both).expect("it is there");
    let (listen, opening) =
        client.opening(&format!("{directory}/listen"), Mode::Both).expect("it is there");
    let pending = vec![data.read(1000), data.write(b"held"), ctl.write(b"wait"), opening];
    // Those of other clients.
    std::mem::forget((ctl, data, listen));
    (pending, directory)
}

fn ends_with(mut world: World, says: &str) {
    let status = world.wait(END);
    let said = world.said();
    assert_eq!(status.code(), Some(1), "{said}");
    let plain = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(plain.contains(says), "{said}\nhas not: {says}");
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    let left: Vec<_> = std::fs::read_dir(world.runtime()).expect("it is there").collect();
    assert!(left.is_empty(), "{left:?} are left");
}

/// Whoever waits gets an error, on each connection, and the program ends with words.
#[test]
fn a_core_that_misbehaves_ends_the_program_and_every_request_with_an_error() {
    for (misdeed, says) in [
        ("trap", "the session failed: the core failed: wasm trap: wasm `unreachable`"),
        ("spin", "the session failed: the core failed: it took more than its instructions"),
        ("eat", "the core failed: it wanted more than its 48 MiB of memory"),
        ("sink", "call stack exhausted"),
        ("strange", "the session failed: the core broke its contract: it completed request"),
        ("twice", "which is not outstanding"),
        ("huge", "it sent a message of 1048576 bytes"),
        ("fail", "the session failed: \\u{1b}[2J"),
    ] {
        println!("{misdeed}");
        // One that gives up its pipe would get another.
        let world = hostile(&["--reconnect=no"]);
        let one = Client::connect(&world.socket(), Dialect::Linux);
        let other = Client::connect(&world.socket(), Dialect::Plan9);
        let (mut pending, directory) = busy(&one);
        pending.extend(busy(&other).0);
        let ctl = one.open(&format!("{directory}/ctl"), Mode::Both).expect("it is there");
        ctl.control(&format!("{misdeed} control")).expect("it obeys");
        pending.push(ctl.write(b"hangup"));
        // To give up is not to fail: what waits does so until the session ends.
        let late = if misdeed == "twice" { pending.pop() } else { None };
        for request in pending {
            request.wait().expect_err("what waits ends with an error");
        }
        if let Some(request) = late {
            // It was completed once, as it should be.
            request.wait().expect("so it is answered");
        }
        std::mem::forget(ctl);
        ends_with(world, says);
    }
}

/// The host completes these itself.
#[test]
fn flush_clunk_and_disconnect_are_completed_whatever_the_core_does() {
    for misdeed in ["trap", "spin", "eat", "never", "twice"] {
        let begin = || {
            let world = hostile(&[]);
            let client = Client::connect(&world.socket(), Dialect::Plan9);
            let (directory, ctl) = client.clone_client().expect("there is room");
            let data = client.open(&format!("{directory}/data"), Mode::Both).expect("it is there");
            ctl.control(&format!("{misdeed} flush")).expect("it obeys");
            let read = data.read(1000);
            (world, client, ctl, data, read)
        };
        println!("{misdeed}: flush");
        let (world, client, ctl, data, read) = begin();
        client.flush(&read);
        std::mem::forget((ctl, data));
        ends_with(world, "the session failed: the core ");
        println!("{misdeed}: clunk");
        let (world, _client, ctl, data, _read) = begin();
        data.close();
        std::mem::forget(ctl);
        ends_with(world, "the session failed: the core ");
        println!("{misdeed}: disconnect");
        let (world, client, ctl, data, _read) = begin();
        client.hang_up();
        std::mem::forget((ctl, data));
        ends_with(world, "the session failed: the core ");
    }
}

/// At the end, too: SIGTERM ends it as if nothing were wrong.
#[test]
fn a_core_that_will_not_shut_down_is_left_behind() {
    for misdeed in ["trap", "spin", "never"] {
        let mut world = hostile(&[]);
        let client = Client::connect(&world.socket(), Dialect::Linux);
        let (pending, directory) = busy(&client);
        let ctl = client.open(&format!("{directory}/ctl"), Mode::Both).expect("it is there");
        ctl.control(&format!("{misdeed} shutdown")).expect("it obeys");
        sshnet_tests::world::signal(world.pid(), "TERM");
        for request in pending {
            request.wait().expect_err("what waits ends with an error");
        }
        std::mem::forget(ctl);
        assert_eq!(world.wait(END).code(), Some(0), "{}", world.story());
    }
}

/// A terminal that shows what a component, or the far side, says is not to act on it.
#[test]
fn what_a_core_says_is_shown_without_control_characters_and_not_without_end() {
    let world = hostile(&[]);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, ctl) = client.clone_client().expect("there is room");
    ctl.control("wordy release").expect("it obeys");
    let (_, other) = client.clone_client().expect("there is room");
    other.close();
    sshnet_tests::world::until("it warns", || world.said().contains("word 9"));
    for words in [["netstat"].as_slice(), &["netstat", "--json"]] {
        let shown = run(&mut world.command(words), b"");
        let text = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.status.success() && text.contains("1b"), "{text}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
    let said = world.said();
    assert!(said.contains("\\u{1b}[2J"), "{said}");
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    assert!(said.lines().count() < 60, "{said}");
}

#[test]
fn a_core_whose_limits_ask_for_too_much_is_told_which_option_gives_it() {
    let mut world = World::launch(None, &["--pipe", "loopback", "--core-memory", "1"]);
    assert_eq!(world.wait(END).code(), Some(1));
    let said = world.said();
    assert!(said.contains("1 MiB of memory (--core-memory gives it more)"), "{said}");
}
