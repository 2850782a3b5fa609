//! `--pipe openssh-fd`: what its limits allow.

use sshnet_tests::ninep::{Client, Dialect};
use sshnet_tests::sshd::free_port;
use sshnet_tests::world::{Kind, Service, World, children_of, signal};

const ECONNREFUSED: u32 = 111;

/// No words of the far side: ssh says this of whatever fails.
#[test]
fn a_dial_that_fails_is_told_in_sshs_words_and_ssh_remembers_none() {
    let world = World::new(Kind::OpensshFd);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, _ctl, stays) = client.dial(&echo.address()).expect("it answers");
    let ssh = children_of(world.pid());
    let closed = free_port();
    let (directory, ctl) = client.clone_client().expect("there is room");
    for _ in 0..300 {
        let error = ctl.control(&format!("connect 127.0.0.1!{closed}")).expect_err("it is closed");
        assert_eq!(error.errno, Some(ECONNREFUSED));
    }
    let status = client.text(&format!("{directory}/status")).expect("it is there");
    assert!(status.contains("refused: Session open refused by peer"), "{status}");
    stays.write(b"still here").wait_count().expect("it is open");
    assert_eq!(stays.read(100).wait_data(), Ok(b"still here".to_vec()));
    assert_eq!(children_of(world.pid()), ssh, "the same ssh all the time");
}

/// When ssh dies its sockets end as they do when a far service has said all it had.
#[test]
fn the_death_of_ssh_is_no_end_of_what_the_far_side_says() {
    for _ in 0..5 {
        let world = World::with(Kind::OpensshFd, &["--reconnect=1"]);
        let echo = Service::echo();
        let client = Client::connect(&world.socket(), Dialect::Linux);
        let conversations: Vec<_> =
            (0..20).map(|_| client.dial(&echo.address()).expect("it answers")).collect();
        let reads: Vec<_> = conversations.iter().map(|(_, _, data)| data.read(100)).collect();
        children_of(world.pid()).into_iter().for_each(|ssh| signal(ssh, "KILL"));
        for read in reads {
            read.wait_data().expect_err("nobody has hung up");
        }
    }
}
