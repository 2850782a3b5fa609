//! Nothing to say for a long time.

use std::time::Duration;

use sshnet_tests::ninep::{Client, Dialect};
use sshnet_tests::sshd::Sshd;
use sshnet_tests::world::{Service, World};

/// An sshd with ClientAliveInterval asks on the first open channel, which is
/// ours, and ends the connection of who does not answer. `SSHNET_IDLE_SECONDS`
/// makes it longer than 20 seconds.
#[test]
fn an_idle_conversation_outlives_sshds_questions() {
    let seconds = match std::env::var("SSHNET_IDLE_SECONDS") {
        Ok(text) => text.parse().expect("SSHNET_IDLE_SECONDS is a number"),
        Err(_) => 20,
    };
    let echo = Service::echo();
    let sshd = Sshd::start(&["ClientAliveInterval 2", "ClientAliveCountMax 2"]);
    let world = World::with_sshd(sshd, &[]);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
    let read = data.read(100);
    assert!(read.wait_for(Duration::from_secs(seconds)).is_none(), "something came");
    data.write(b"still here").wait_count().unwrap_or_else(|e| panic!("{e:?}\n{}", world.story()));
    assert_eq!(read.wait_data(), Ok(b"still here".to_vec()));
}
