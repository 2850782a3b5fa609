//! Several ssh connections behind one tree.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sshnet_tests::ninep::{Client, Dialect, IO, Mode, PATIENCE};
use sshnet_tests::sshd::Sshd;
use sshnet_tests::world::{Service, World, children_of, signal, until};

/// A service over two connections, both up; the processes of ssh, the first one's
/// first.
fn two() -> (World, [u32; 2]) {
    two_with("--reconnect=1")
}

fn two_with(option: &str) -> (World, [u32; 2]) {
    let world = World::with_sshd(Sshd::start(&[]), &["--connections", "2", option]);
    until("both are up", || world.said().contains("2 ssh connections are up"));
    let mut ssh = children_of(world.pid());
    ssh.sort_unstable();
    let ssh = ssh.try_into().expect("two processes of ssh");
    (world, ssh)
}

/// How often somebody has logged in.
fn logins(world: &World) -> usize {
    let log = world.sshd.as_ref().expect("there is one").log();
    log.matches("Accepted publickey").count()
}

#[test]
fn each_of_two_conversations_has_a_connection_and_ends_with_it_alone() {
    let (world, [_, second]) = two();
    assert_eq!(logins(&world), 2);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Unix);
    let (_, _ctl, stays) = client.dial(&echo.address()).expect("it answers");
    let (directory, _other_ctl, goes) = client.dial(&echo.address()).expect("it answers");
    let (listener, ctl) = client.clone_client().expect("there is room");
    ctl.control("announce 127.0.0.1!0").expect("a free port");
    let read = goes.read(100);
    let sessions = world.sshd.as_ref().expect("there is one").sessions().len();
    signal(second, "KILL");
    let error = read.wait().expect_err("its conversation is gone");
    assert_eq!(error.text.as_deref(), Some("connection closed"));
    let status = client.text(&format!("{directory}/status")).expect("it is there");
    assert!(status.contains("connection closed"), "{status}");
    until("it says so", || {
        world.said().contains("an ssh connection is gone, with 1 of the conversations")
    });
    until("one session of sshd is left", || {
        2 * world.sshd.as_ref().expect("there is one").sessions().len() == sessions
    });
    // All else goes on.
    stays.write(b"still here").wait_count().expect("it is open");
    assert_eq!(stays.read(100).wait_data(), Ok(b"still here".to_vec()));
    for _ in 0..3 {
        let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
        data.write(b"new").wait_count().expect("it is open");
        assert_eq!(data.read(100).wait_data(), Ok(b"new".to_vec()));
    }
    let local = client.text(&format!("{listener}/local")).expect("it is there");
    let (_, port) = local.trim_end().rsplit_once('!').expect("an address");
    let port: u16 = port.parse().expect("a port");
    let mut caller = TcpStream::connect(("127.0.0.1", port)).expect("it is announced");
    caller.write_all(b"hello").expect("it is taken");
    let (_listen, open) =
        client.opening(&format!("{listener}/listen"), Mode::Both).expect("it is there");
    open.wait().expect("the call");
}

/// When somebody dials, and not before.
#[test]
fn a_connection_that_is_gone_is_made_again_when_it_is_wanted() {
    let (world, [_, second]) = two();
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    signal(second, "KILL");
    until("it says so", || world.said().contains("an ssh connection is gone"));
    assert_eq!(logins(&world), 2);
    let mut kept = Vec::new();
    until("it is made again", || {
        kept.push(client.dial(&echo.address()).expect("it answers"));
        world.said().contains("an ssh connection is back: 2 are up")
    });
    assert_eq!(logins(&world), 3);
    // The next dials go there.
    let sessions = children_of(world.pid());
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
    data.write(b"new").wait_count().expect("it is open");
    assert_eq!(data.read(100).wait_data(), Ok(b"new".to_vec()));
}

/// The first listens, or is to, and the engine cannot be told that a listener ended.
#[test]
fn the_end_of_the_first_connection_is_the_end() {
    let (mut world, [first, _]) = two_with("--reconnect=no");
    signal(first, "KILL");
    let status = world.wait(Duration::from_secs(5));
    assert_eq!(status.code(), Some(1), "{}", world.story());
    assert!(world.said().contains("ssh ended: signal 9"), "{}", world.story());
}

/// By a configuration that has a key once, and none for those who come later.
#[test]
fn when_the_second_cannot_log_in_it_goes_on_with_the_first_and_says_so() {
    let sshd = Sshd::start(&[]);
    let path = |name: &str| sshd.dir().join(name).display().to_string();
    let config = format!(
        "Match exec \"mkdir {}\"\n  IdentityFile {}\nMatch all\n  IdentityFile none\n",
        path("once"),
        path("user")
    );
    std::fs::write(path("ssh_config"), config).expect("it can be written");
    let mut words = vec!["--connections".to_owned(), "3".to_owned()];
    words.extend(["-F".to_owned(), path("ssh_config")]);
    // But for its own -F and -i.
    words.extend(sshd.ssh_options().into_iter().skip(4));
    words.push(sshd.destination());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let world = World::launch(Some(sshd), &words);
    until("it says so", || {
        let said = world.said();
        let line = said.lines().find(|line| line.contains("going on with 1 of 3 ssh connections"));
        line.is_some_and(|line| line.contains("Permission denied")) && said.contains("serving ")
    });
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Linux);
    client.dial(&echo.address()).expect("it answers");
    assert_eq!(logins(&world), 1);
    // The third was not tried.
    assert_eq!(world.said().matches("Permission denied").count(), 2, "{}", world.said());
}

/// One that takes nothing, and has more to take than the engine lets wait.
#[test]
fn a_connection_that_stands_still_does_not_stop_the_other() {
    const WRITES: usize = 40;
    let (world, [_, second]) = two();
    let echo = Service::echo();
    let (say, heard) = std::sync::mpsc::channel();
    let say = std::sync::Mutex::new(say);
    let sink = Service::new(move |mut stream| {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = say.lock().expect("no panic").send(bytes.len());
    });
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, _ctl, moves) = client.dial(&echo.address()).expect("it answers");
    let (_, ctl, stands) = client.dial(&sink.address()).expect("it answers");
    signal(second, "STOP");
    let writes: Vec<_> = (0..WRITES).map(|_| stands.write(&[b'x'; IO as usize])).collect();
    // Bulk on the first, there and on a new conversation.
    let (_, _new_ctl, new) = client.dial(&echo.address()).expect("it answers");
    for data in [&moves, &new] {
        for round in 0..64 {
            let sent = vec![round; IO as usize];
            let write = data.write(&sent);
            let mut got = Vec::new();
            while got.len() < sent.len() {
                got.extend(data.read(IO).wait_data().expect("it is open"));
            }
            assert_eq!(write.wait_count(), Ok(IO));
            assert!(got == sent);
        }
    }
    let last = writes.last().expect("there is one");
    assert!(last.wait_for(Duration::ZERO).is_none(), "the other one does not stand still");
    signal(second, "CONT");
    for write in writes {
        assert_eq!(write.wait_count(), Ok(IO));
    }
    ctl.control("closewrite").expect("it is open");
    assert_eq!(heard.recv_timeout(PATIENCE).expect("an end"), WRITES * IO as usize);
}
