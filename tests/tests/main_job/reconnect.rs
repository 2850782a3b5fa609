//! A connection that ends is not the end: it is made again, and what cannot last is
//! told in its words.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use sshnet_tests::ninep::{Client, Dialect, File, Mode, PATIENCE};
use sshnet_tests::relay::Relay;
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::world::{
    Kind, Service, World, children_of, private_directory, program, signal, until,
};

on_pipe!(openssh, Openssh: a_connection_that_is_killed_is_made_again_and_everything_works,);
on_pipe!(bare_peer, BarePeer: a_connection_that_is_killed_is_made_again_and_everything_works,);
on_pipe!(bare_psusan, BarePsusan: a_connection_that_is_killed_is_made_again_and_everything_works,);

const ENETDOWN: u32 = 100;
const EADDRINUSE: u32 = 98;

/// Ends the connection as if the program behind it had failed.
fn kill(world: &World) {
    children_of(world.pid()).into_iter().for_each(|child| signal(child, "KILL"));
}

/// How often there was a new connection.
fn made_again(world: &World) -> usize {
    world.said().matches("connected again to").count()
}

fn until_made_again(world: &World, times: usize) {
    until("there is a new connection", || made_again(world) == times);
}

/// An announced client on this port: its directory and `ctl`.
fn announce(client: &Client, port: u16) -> (String, File) {
    let (directory, ctl) = client.clone_client().expect("there is room");
    ctl.control(&format!("announce 127.0.0.1!{port}")).expect("the port is free");
    (directory, ctl)
}

fn echoes(client: &Client, echo: &Service) {
    let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
    data.write(b"hello").wait_count().expect("it is open");
    assert_eq!(data.read(100).wait_data(), Ok(b"hello".to_vec()));
}

fn status(client: &Client, directory: &str) -> String {
    client.text(&format!("{directory}/status")).expect("it is there")
}

fn a_connection_that_is_killed_is_made_again_and_everything_works(kind: Kind) {
    let world = World::with(kind, &["--reconnect=1"]);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (listener, _ctl) = announce(&client, free_port());
    let local = client.text(&format!("{listener}/local")).expect("it is there");
    let port: u16 = local.trim_end().rsplit('!').next().expect("a port").parse().expect("a port");
    let (_listen, call) =
        client.opening(&format!("{listener}/listen"), Mode::Both).expect("it is there");
    for round in 1..=2 {
        let (directory, _ctl, data) = client.dial(&echo.address()).expect("it answers");
        data.write(b"x").wait_count().expect("it is open");
        until("the echo has come", || status(&client, &directory).contains(" qin 1 "));
        kill(&world);
        // What came before can be read, and then the end is told.
        assert_eq!(data.read(100).wait_data(), Ok(b"x".to_vec()));
        let error = data.read(100).wait().expect_err("its conversation is gone");
        assert_eq!(error.errno, Some(ENETDOWN));
        let told = status(&client, &directory);
        assert!(told.starts_with("Finished ") && told.contains("signal 9"), "{told}");
        until_made_again(&world, round);
        echoes(&client, &echo);
    }
    // The listener has its number, its address and who waited for a call.
    until("it is announced again", || status(&client, &listener).lines().count() == 1);
    assert_eq!(client.text(&format!("{listener}/local")), Ok(local));
    let mut caller = TcpStream::connect(("127.0.0.1", port)).expect("it is announced");
    caller.write_all(b"called").expect("it is taken");
    call.wait().expect("the call");
    let said = world.said();
    assert!(said.contains("the connection is gone: "), "{said}");
}

#[test]
fn when_sshd_is_away_it_is_tried_until_it_is_back() {
    let mut world = World::with(Kind::Openssh, &["--reconnect=1", "--dial-wait", "60"]);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    echoes(&client, &echo);
    world.sshd.as_mut().expect("there is one").kill();
    until("it says what fails", || {
        let said = world.said();
        said.contains("no new connection: ssh ended: ssh: connect to host")
            && said.contains("Connection refused")
            && said.contains("the next try in ")
    });
    // A dial waits meanwhile, and its status says so.
    let (directory, ctl) = client.clone_client().expect("there is room");
    let waits = ctl.write(format!("connect {}", echo.address()).as_bytes());
    until("it waits", || status(&client, &directory).starts_with("Dialing "));
    assert_eq!(made_again(&world), 0);
    world.sshd.as_mut().expect("there is one").start_again();
    waits.wait_count().expect("it is made when there is a connection");
    let data = client.open(&format!("{directory}/data"), Mode::Both).expect("data opens");
    data.write(b"late").wait_count().expect("it is open");
    assert_eq!(data.read(100).wait_data(), Ok(b"late".to_vec()));
    assert_eq!(made_again(&world), 1);
}

#[test]
fn a_dial_without_a_connection_fails_at_once_where_that_is_asked_for() {
    for (wait, errno, says) in [
        ("0", ENETDOWN, "there is no connection to the far side"),
        ("1", 110, "no connection came up in time"),
    ] {
        let mut world = World::with(Kind::Openssh, &["--dial-wait", wait]);
        let client = Client::connect(&world.socket(), Dialect::Linux);
        world.sshd.as_mut().expect("there is one").kill();
        until("it says so", || world.said().contains("the connection is gone"));
        let (directory, ctl) = client.clone_client().expect("there is room");
        let error = ctl.control("connect 127.0.0.1!1").expect_err("there is no connection");
        assert_eq!(error.errno, Some(errno));
        let told = status(&client, &directory);
        assert!(told.contains(says), "{told}");
    }
}

/// It ends with exit status 1, and says this.
#[track_caller]
fn ends(mut world: World, says: &[&str]) {
    let status = world.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", world.story());
    let said = world.said();
    assert!(says.iter().all(|what| said.contains(what)), "{said}");
    assert!(!world.socket().exists(), "the socket is left");
}

#[test]
fn a_key_that_is_refused_ends_it_with_sshs_words() {
    let world = World::with(Kind::Openssh, &["--reconnect=1"]);
    world.sshd.as_ref().expect("there is one").forget_user();
    kill(&world);
    let hint = "a service that is up asks nobody for a password or a key: start it again";
    ends(world, &["no new connection: ssh ended: ", "Permission denied (publickey)", hint]);
}

#[test]
fn a_host_key_that_has_changed_ends_it_with_sshs_words() {
    let mut world = World::with(Kind::Openssh, &["--reconnect=1"]);
    let sshd = world.sshd.as_mut().expect("there is one");
    sshd.kill();
    sshd.change_host_key();
    sshd.start_again();
    ends(world, &["REMOTE HOST IDENTIFICATION HAS CHANGED", "Host key verification failed"]);
}

/// That was good when it began.
#[test]
fn a_bad_option_in_the_configuration_ends_it_with_sshs_words() {
    let sshd = Sshd::start(&[]);
    let config = sshd.dir().join("ssh_config");
    std::fs::write(&config, "").expect("it can be written");
    let mut words = vec!["--reconnect=1".to_owned()];
    words.extend(["-F".to_owned(), config.display().to_string()]);
    // But for its own -F.
    words.extend(sshd.ssh_options().into_iter().skip(2));
    words.push(sshd.destination());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let world = World::launch(Some(sshd), &words);
    until("it serves", || world.said().contains("serving "));
    std::fs::write(&config, "NoSuchOption yes\n").expect("it can be written");
    kill(&world);
    ends(world, &["Bad configuration option: nosuchoption", "no new connection: "]);
}

/// It was there when it began.
#[test]
fn a_command_that_is_not_there_any_more_ends_it() {
    let directory = private_directory();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(program(), &link).expect("the place is free");
    let world = World::bare_with(&format!("{} peer", link.display()), &["--reconnect=1"]);
    std::fs::remove_file(&link).expect("it is there");
    kill(&world);
    ends(world, &["no new connection: the command ended: ", "not found (exit status 127)"]);
}

#[test]
fn a_port_that_is_not_to_be_had_again_says_so_and_the_others_are_back() {
    let mut world = World::with(Kind::Openssh, &["--reconnect=1"]);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (lost_port, kept_port) = (free_port(), free_port());
    let (lost, lost_ctl) = announce(&client, lost_port);
    let (kept, _ctl) = announce(&client, kept_port);
    let open = |directory: &str| {
        client.opening(&format!("{directory}/listen"), Mode::Both).expect("it is there")
    };
    let (_lost_listen, fails) = open(&lost);
    let (_kept_listen, call) = open(&kept);
    let sshd = world.sshd.as_mut().expect("there is one");
    sshd.kill();
    let mut other = None;
    until("another has the port", || {
        other = TcpListener::bind(("127.0.0.1", lost_port)).ok();
        other.is_some()
    });
    sshd.start_again();
    let error = fails.wait().expect_err("it is not to be had again");
    assert_eq!(error.errno, Some(EADDRINUSE));
    let told = status(&client, &lost);
    assert!(
        told.starts_with("Listen ") && told.contains("the far side would not announce"),
        "{told}"
    );
    let late = client.open(&format!("{lost}/listen"), Mode::Both);
    assert_eq!(late.err().and_then(|error| error.errno), Some(EADDRINUSE));
    until("the other is back", || status(&client, &kept).lines().count() == 1);
    let mut caller = TcpStream::connect(("127.0.0.1", kept_port)).expect("it is announced");
    caller.write_all(b"called").expect("it is taken");
    call.wait().expect("the call");
    // It can be asked for again.
    drop(other);
    lost_ctl.control("hangup").expect("hangup is always possible");
    until("it is announced", || {
        lost_ctl.control(&format!("announce 127.0.0.1!{lost_port}")).is_ok()
    });
}

/// While it waits, and while it logs in to one who says nothing.
#[test]
fn a_signal_ends_it_though_there_is_no_connection() {
    for silent in [false, true] {
        let mut world = World::with(Kind::Openssh, &["--reconnect=1", "--dial-wait", "3600"]);
        let client = Client::connect(&world.socket(), Dialect::Plan9);
        let sshd = world.sshd.as_mut().expect("there is one");
        sshd.kill();
        let port = sshd.port;
        let mut taken = None;
        if silent {
            until("another has the port", || {
                taken = TcpListener::bind(("127.0.0.1", port)).ok();
                taken.is_some()
            });
            until("it logs in", || {
                world.said().contains("the connection is gone")
                    && !children_of(world.pid()).is_empty()
            });
        } else {
            until("it fails", || world.said().contains("no new connection"));
        }
        let (_, ctl) = client.clone_client().expect("there is room");
        let waits = ctl.write(b"connect 127.0.0.1!1");
        let children = children_of(world.pid());
        signal(world.pid(), "TERM");
        waits.wait().expect_err("it ends with the service");
        assert_eq!(world.wait(PATIENCE).code(), Some(0), "{}", world.story());
        until("no ssh is left", || {
            children.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
        });
    }
}

/// Between the two is a relay that stands still, as a path that is gone.
#[test]
fn a_far_side_that_says_nothing_any_more_is_taken_for_dead() {
    for bare in [false, true] {
        let sshd = Sshd::start(&[]);
        let relay = Relay::to(sshd.port);
        let port = format!("Port={}", relay.port());
        let mut words = vec!["--reconnect=1", "--keepalive", "4"];
        let (options, destination) = (sshd.ssh_options(), sshd.destination());
        let line = format!(
            "ssh -o {port} {} {destination} {} peer",
            options.join(" "),
            program().display()
        );
        if bare {
            words.extend(["--pipe", "bare", "--exec", &line]);
        } else {
            words.extend(["-o", &port]);
            words.extend(options.iter().map(String::as_str));
            words.push(&destination);
        }
        let world = World::launch(Some(sshd), &words);
        until("it serves", || world.said().contains("serving "));
        let echo = Service::echo();
        let client = Client::connect(&world.socket(), Dialect::Linux);
        let (directory, _ctl, data) = client.dial(&echo.address()).expect("it answers");
        let read = data.read(1);
        relay.stand_still();
        let error = read.wait().expect_err("its conversation is gone");
        assert_eq!(error.errno, Some(ENETDOWN));
        let told = status(&client, &directory);
        let says = if bare { "no sign of life" } else { "not responding" };
        assert!(told.contains(says), "{told}");
        until_made_again(&world, 1);
        echoes(&client, &echo);
    }
}
