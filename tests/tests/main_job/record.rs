//! `--record`: a session taken down, and replayed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use sshnet_core::Session;
use sshnet_tests::ninep::{Client, Dialect};
use sshnet_tests::replay::Recording;
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::subject::component::Component;
use sshnet_tests::world::{Service, World, signal};

/// A conversation, a dial that fails and a listener, through a real ssh to a real
/// sshd, have the same effects when they are replayed: on the component and on the
/// native engine.
#[test]
fn a_recorded_session_replays_to_the_same_effects_on_both_engines() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("recording");
    let name = file.to_str().expect("it is UTF-8");
    let mut world = World::with_sshd(Sshd::start(&[]), &["--record", name]);
    let mode = fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others could read what is sent");
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, talk, data) = client.dial(&echo.address()).expect("it can be dialed");
    data.write(b"a secret").wait_count().expect("it is sent");
    let mut got = Vec::new();
    while got.len() < 8 {
        got.extend(data.read(64).wait_data().expect("it comes back"));
    }
    assert_eq!(got, b"a secret");
    let (_, ctl) = client.clone_client().expect("there is room");
    ctl.control(&format!("connect 127.0.0.1!{}", free_port())).expect_err("nobody is there");
    let (_, ctl) = client.clone_client().expect("there is room");
    ctl.control("announce localhost!0").expect("it is bound");
    drop((talk, data, ctl, client));
    signal(world.pid(), "TERM");
    world.wait(Duration::from_secs(60));

    let text = fs::read_to_string(&file).expect("it is text");
    let recording = Recording::parse(&text).expect("it is whole");
    assert_eq!(recording.cut, None);
    assert!(recording.calls.len() > 20, "{} calls", recording.calls.len());
    let verbs = ["pipe-up", "receive", "write", "read", "retain", "shutdown", "error Connection"];
    for verb in verbs {
        assert!(text.contains(verb), "there is no {verb}");
    }
    recording.replay(&mut Component::new(&recording.config)).expect("the component agrees");
    recording.replay(&mut Session::new(recording.config.clone())).expect("the library agrees");

    // A program that is killed leaves a part, which replays up to its cut.
    for end in (0..text.len()).rev().step_by(text.len() / 7) {
        let Ok(part) = Recording::parse(&text[..end]) else { continue };
        assert!(part.calls.len() < recording.calls.len());
        part.replay(&mut Session::new(part.config.clone())).expect("so far it is the same");
    }
    // Another engine than the one recorded would show.
    let (last, answer) = recording.calls.last().expect("there are calls").clone();
    let mut other = Recording { calls: recording.calls.clone(), ..recording };
    other.calls.push((last, answer + "> wake 1\n"));
    other.replay(&mut Session::new(other.config.clone())).expect_err("it is not the same");
}

/// What is there is not overwritten, and no link is followed to what is elsewhere.
#[test]
fn a_recording_goes_to_a_new_file_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let (there, link, aim) =
        (dir.path().join("there"), dir.path().join("link"), dir.path().join("aim"));
    fs::write(&there, "mine").expect("it is written");
    symlink(&aim, &link).expect("it is made");
    for path in [&there, &link] {
        let words = ["--pipe", "loopback", "--record", path.to_str().expect("it is UTF-8")];
        let mut world = World::launch(None, &words);
        assert_eq!(world.wait(Duration::from_secs(60)).code(), Some(1));
        let said = world.story();
        assert!(said.contains("cannot record in") && said.contains("File exists"), "{said}");
    }
    assert_eq!(fs::read(&there).expect("it is there"), b"mine");
    assert!(!aim.exists());
}
