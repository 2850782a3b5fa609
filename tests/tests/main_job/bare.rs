//! Bare connections: what psusan does otherwise, `peer` behind ssh and behind
//! PuTTY's plink, and the end of the command that speaks one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sshnet_tests::ninep::{Client, Dialect, PATIENCE};
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::world::{
    Kind, Running, Service, World, children_of, command, private_directory, program, run, signal,
    until,
};

/// `peer` of the program under test, with these options.
fn peer(options: &str) -> String {
    format!("{} peer {options}", program().display())
}

fn there(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// It says yes before it has connected. Then the conversation just ends.
#[test]
fn a_dial_that_psusan_could_not_make_ends_at_once() {
    let world = World::new(Kind::BarePsusan);
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (_, _ctl, data) = client.dial(&format!("127.0.0.1!{}", free_port())).expect("it says yes");
    assert!(data.read_to_end().map_or(true, |bytes| bytes.is_empty()));
    let (directory, ctl) = client.clone_client().expect("there is room");
    let error = ctl.control("connect nosuchhost.invalid!80").expect_err("there is none");
    let told = error.text.expect("an Rerror has a text");
    assert!(told.contains("Connection failed"), "{told}");
    let status = client.text(&format!("{directory}/status")).expect("it is there");
    assert!(status.starts_with("Closed ") && status.contains("Connection failed"), "{status}");
    let (_, ctl) = client.clone_of("unix").expect("there is room");
    let error = ctl.control("connect /nosuch/socket").expect_err("psusan knows none");
    let told = error.text.expect("an Rerror has a text");
    assert!(told.contains("Unsupported channel type requested"), "{told}");
}

/// An sshd that allows commands and no forwarding.
#[test]
fn a_peer_behind_ssh_needs_no_right_to_forward() {
    let sshd = Sshd::start(&["DisableForwarding yes"]);
    let ssh = format!("ssh {} {}", sshd.ssh_options().join(" "), sshd.destination());
    let world = World::bare(&format!("{ssh} {}", peer("")));
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
    data.write(b"hello").wait_count().expect("the write");
    assert_eq!(data.read(100).wait_data(), Ok(b"hello".to_vec()));
    let (directory, ctl) = client.clone_client().expect("there is room");
    ctl.control("announce 127.0.0.1!0").expect("a free port");
    let local = client.text(&format!("{directory}/local")).expect("it is there");
    assert!(local.starts_with("127.0.0.1!") && !local.starts_with("127.0.0.1!0"), "{local}");
    let sessions = sshd.sessions();
    assert!(!sessions.is_empty());
    drop(client);
    let mut world = world;
    signal(world.pid(), "TERM");
    assert_eq!(world.wait(PATIENCE).code(), Some(0), "{}", world.story());
    until("nothing is left at the far side", || !sessions.iter().any(|&pid| there(pid)));
}

#[test]
fn a_peer_that_permits_little_says_that_the_rest_is_prohibited() {
    const EACCES: u32 = 13;
    let (echo, other) = (Service::echo(), Service::echo());
    let world = World::bare(&peer(&format!("--permit 127.0.0.1:{} --no-listen", echo.port)));
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let (_, _ctl, data) = client.dial(&echo.address()).expect("it is permitted");
        data.write(b"hello").wait_count().expect("the write");
        assert_eq!(data.read(100).wait_data(), Ok(b"hello".to_vec()));
        let (directory, ctl) = client.clone_client().expect("there is room");
        let connect = format!("connect {}", other.address());
        let error = ctl.control(&connect).expect_err("it is not permitted");
        if dialect != Dialect::Plan9 {
            assert_eq!(error.errno, Some(EACCES), "{dialect:?}");
        }
        let status = client.text(&format!("{directory}/status")).expect("it is there");
        assert!(status.contains("administratively prohibited"), "{status}");
        ctl.control("announce 127.0.0.1!0").expect_err("it takes no calls");
    }
}

/// Its status, within seconds, and what it said.
fn serves_not(command_line: &str) -> String {
    let directory = private_directory();
    let mut serve = command(directory.path());
    let output = run(serve.args(["-s", "s", "--pipe", "bare", "--exec", command_line]), b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_command_that_speaks_no_bare_connection_is_told_in_its_words() {
    let said = serves_not("nosuchprogram-42");
    assert!(said.contains("not found") && said.contains("must be installed there"), "{said}");
    let said = serves_not("echo Permission denied >&2; exit 255");
    assert!(said.starts_with("Permission denied\n"), "stderr is shown as it comes: {said}");
    assert!(said.contains("the command ended: Permission denied (exit status 255)"), "{said}");
    let directory = private_directory();
    let mut serve = command(directory.path());
    let output = run(serve.args(["--pipe", "bare", "--connect", "/nosuch/socket"]), b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot connect to /nosuch/socket"), "{said}");
}

/// Whichever of both is killed, the other does not stay.
#[test]
fn the_command_and_the_service_end_with_each_other() {
    for kind in [Kind::BarePeer, Kind::BarePsusan] {
        let mut world = World::with(kind, &["--reconnect=no"]);
        let echo = Service::echo();
        let client = Client::connect(&world.socket(), Dialect::Linux);
        let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
        let waiting = data.read(100);
        let children = children_of(world.pid());
        assert!(!children.is_empty());
        let killed = Instant::now();
        children.iter().for_each(|&child| signal(child, "KILL"));
        let answer = waiting.wait_for(Duration::from_secs(2));
        answer.expect("an answer in time").expect_err("its conversation is gone");
        assert_eq!(world.wait(PATIENCE).code(), Some(1), "{}", world.story());
        assert!(killed.elapsed() < Duration::from_millis(2_500), "{:?}", killed.elapsed());
        assert!(world.said().contains("the command ended: signal 9"), "{}", world.said());

        let mut world = World::new(kind);
        let children = children_of(world.pid());
        signal(world.pid(), "KILL");
        world.wait(PATIENCE);
        until("the command is gone", || !children.iter().any(|&child| there(child)));
    }
}

/// One that ends neither with its stdin nor when it is told to, and starts others
/// meanwhile.
#[test]
fn a_stubborn_command_is_killed_with_all_that_it_has_started() {
    // Nobody else sleeps so long.
    let sleep = format!("sleep 9{}", std::process::id());
    let line = format!("trap '' TERM; {}; {sleep} & {sleep}; {sleep}", peer(""));
    let mut world = World::bare(&line);
    let children = children_of(world.pid());
    assert_eq!(children.len(), 2, "a shell and a peer: {children:?}");
    signal(world.pid(), "TERM");
    assert_eq!(world.wait(Duration::from_secs(6)).code(), Some(0), "{}", world.story());
    let sleeps = || {
        let named = |entry: std::fs::DirEntry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ") == sleep
        };
        std::fs::read_dir("/proc").expect("Linux").flatten().any(named)
    };
    until("all of it is gone", || !sleeps() && !children.iter().any(|&child| there(child)));
}

#[test]
fn psusan_at_a_socket_serves_several_times() {
    let directory = private_directory();
    let path = directory.path().join("psusan");
    let name = path.display().to_string();
    let psusan = Running::start(Command::new("psusan").args(["--listen", &name]));
    until("psusan listens", || path.exists());
    let echo = Service::echo();
    for _ in 0..2 {
        let mut serve = World::launch(None, &["--pipe", "bare", "--connect", &name]);
        until("it serves", || serve.said().contains("serving '"));
        let output = run(&mut serve.command(&["dial", &echo.address()]), b"hello");
        assert_eq!(output.stdout, b"hello", "{}", serve.story());
        signal(serve.pid(), "TERM");
        assert_eq!(serve.wait(PATIENCE).code(), Some(0), "{}", serve.story());
    }
    psusan.stop("TERM");
}

/// A plink that forwards through `peer`; and a PuTTY directory of its own for it.
fn plink(home: &Path, peer: &str, words: &[&str]) -> Command {
    let mut plink = Command::new("plink");
    plink
        .env("HOME", home)
        .args(["-ssh-connection", "-batch", "-proxycmd", peer])
        .args(words)
        .arg("peer");
    plink
}

fn there_and_back(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut writer = stream.try_clone().expect("a socket");
    let bytes = bytes.to_vec();
    let up = thread::spawn(move || {
        writer.write_all(&bytes).expect("it is taken");
        writer.shutdown(Shutdown::Write).expect("it is open");
    });
    let mut told = Vec::new();
    stream.read_to_end(&mut told).expect("a clean end");
    up.join().expect("the upload");
    told
}

fn connected(port: u16) -> TcpStream {
    let mut stream = None;
    until("somebody listens", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    stream.expect("it is there")
}

#[test]
fn plink_forwards_both_ways_through_a_peer() {
    let home = private_directory();
    let echo = Service::echo();
    let (near, far) = (free_port(), free_port());
    let leads_to = format!("127.0.0.1:{}", echo.port);
    let local = format!("127.0.0.1:{near}:{leads_to}");
    let remote = format!("127.0.0.1:{far}:{leads_to}");
    let words = ["-N", "-L", &local, "-R", &remote];
    let plink = Running::start(&mut plink(home.path(), &peer(""), &words));
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|i| (i / 7) as u8).collect();
    // Dialled by the peer, and taken by it.
    for port in [near, far] {
        let stream = connected(port);
        assert!(there_and_back(stream, &bytes) == bytes, "not what was sent");
    }
    // At the far end nobody listens: the peer says so, and goes on.
    drop(echo);
    let (_, said) = plink.stop("TERM");
    assert_eq!(said, "");
    until("the far port is free again", || TcpStream::connect(("127.0.0.1", far)).is_err());
}

#[test]
fn plink_is_refused_a_session_and_what_is_not_permitted() {
    let home = private_directory();
    let mut session = plink(home.path(), &peer(""), &[]);
    let output = run(&mut session, b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("Server refused to open main channel"), "{said}");
    let echo = Service::echo();
    let near = free_port();
    let local = format!("127.0.0.1:{near}:127.0.0.1:{}", echo.port);
    let little = peer("--permit nowhere:1");
    let plink = Running::start(&mut plink(home.path(), &little, &["-v", "-N", "-L", &local]));
    let mut stream = connected(near);
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let ended = stream.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    plink.until_said("administratively prohibited");
    plink.stop("TERM");
}

/// It was started, and whoever did that has gone.
#[test]
fn a_peer_ends_with_its_stdin_and_leaves_nothing() {
    let directory = private_directory();
    let path = directory.path().join("calls");
    let mut world = World::new(Kind::BarePeer);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, ctl) = client.clone_of("unix").expect("there is room");
    ctl.control(&format!("announce {}", path.display())).expect("it can be bound");
    UnixStream::connect(&path).expect("it listens");
    let children = children_of(world.pid());
    signal(world.pid(), "KILL");
    world.wait(PATIENCE);
    until("the peer is gone", || !children.iter().any(|&child| there(child)));
    assert!(!path.exists(), "the socket is left");
    // And before a word was said.
    let output = run(Command::new(program()).arg("peer").stdin(Stdio::piped()), b"");
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stdout.starts_with(b"SSHCONNECTION@putty.projects.tartarus.org-2.0-sshnet_host")
    );
    assert!(output.stderr.is_empty());
}
