//! The server over the real engine, without a pipe.

use std::sync::OnceLock;
use std::time::SystemTime;

use super::*;
use crate::driver::Driver;
use crate::engine::{Config, Core, Sandbox, Service};
use crate::tree::Owner;

pub(super) fn driver() -> Driver {
    static CORE: OnceLock<Core> = OnceLock::new();
    let core = CORE.get_or_init(|| Core::embedded().expect("it compiles"));
    let mut limits = core.default_limits().expect("it has limits");
    limits.dial_wait = 0;
    let sandbox = Sandbox::for_limits(&limits);
    let config = Config {
        prefix: "/net".to_owned(),
        services: vec![Service { name: "ssh".to_owned(), port: 22 }],
        limits,
    };
    Driver::new(core.session(&config, sandbox).expect("a session"))
}

async fn wire(driver: &Driver) -> Wire {
    Wire::new(Tree::new(driver.clone(), Owner::current()), Dialect::Plan9).await
}

#[tokio::test]
async fn a_dial_without_a_pipe_fails_and_says_so() {
    let driver = driver();
    let mut wire = wire(&driver).await;
    wire.open(1, "tcp/clone", 2).await;
    assert_eq!(wire.read(1, 0, 100).await, "Rread count 1 '0'");
    assert!(wire.write(1, b"nonsense").await.starts_with("Rerror ename "));
    assert!(wire.write(1, b"connect far!80").await.starts_with("Rerror ename "));
    wire.open(2, "tcp/0/status", 0).await;
    let status = wire.read(2, 0, 1000).await;
    assert!(status.contains("'Closed"), "{status}");
    wire.open(3, "tcp/0/data", 2).await;
    assert!(wire.read(3, 0, 100).await.starts_with("Rerror ename "));
    wire.walk(0, 4, "tcp/0/listen").await;
    assert!(wire.ask(&Request::Open { fid: 4, mode: 2 }).await.starts_with("Rerror ename "));
    wire.open(5, "cs", 2).await;
    assert_eq!(wire.write(5, b"tcp!far!ssh").await, "Rwrite count 11");
    assert_eq!(wire.read(5, 0, 100).await, "Rread count 21 '/net/tcp/clone far!22'");
    assert_eq!(driver.clients().expect("an engine").len(), 1);
    for fid in 1..=3 {
        assert_eq!(wire.clunk(fid).await, "Rclunk");
    }
    assert_eq!(driver.clients().expect("an engine").len(), 0);
}

#[tokio::test]
async fn a_clients_files_say_when_its_state_began() {
    let before = SystemTime::now() - Duration::from_secs(1);
    let driver = driver();
    let tree = Tree::new(driver.clone(), Owner::current());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut wire = Wire::new(tree.clone(), Dialect::Plan9).await;
    wire.open(1, "tcp/clone", 2).await;
    let frame = wire.ask_frame(&Request::Stat { fid: 1 }).await;
    let Ok(Reply::Stat { stat }) = Reply::decode(&frame, Dialect::Plan9) else {
        panic!("no stat");
    };
    let began = SystemTime::UNIX_EPOCH + Duration::from_secs(stat.mtime.into());
    assert!(stat.mtime > tree.made(), "it began after the tree");
    assert!((before..=SystemTime::now()).contains(&began), "{began:?}");
    // And says the same whenever one asks.
    let since = driver.clients().expect("an engine")[0].since;
    let first = driver.wall_clock(since);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(driver.wall_clock(since), first);
}

#[tokio::test]
async fn a_listen_waits_for_the_pipe_until_it_is_flushed() {
    let driver = driver();
    let mut wire = wire(&driver).await;
    wire.open(1, "tcp/clone", 2).await;
    // With a pipe whose far side says nothing the announcement waits.
    let _link = driver.pipe_up();
    let announce = wire.say(&Request::Write { fid: 1, offset: 0, data: b"announce *!0" }).await;
    until("it waits", || driver.outstanding() == 1).await;
    assert_eq!(wire.ask(&Request::Flush { oldtag: announce }).await, "Rflush");
    assert_eq!(driver.outstanding(), 0);
    let dial = wire.say(&Request::Write { fid: 1, offset: 0, data: b"connect far!80" }).await;
    let clunk = wire.say(&Request::Clunk { fid: 1 }).await;
    let heard = wire.hear(dial).await;
    assert!(heard.starts_with("Rerror ename "), "{heard}");
    assert_eq!(wire.hear(clunk).await, "Rclunk");
}

#[tokio::test]
async fn a_connection_that_ends_leaves_no_client() {
    let driver = driver();
    let _link = driver.pipe_up();
    let mut wires = Vec::new();
    for _ in 0..3 {
        let mut wire = wire(&driver).await;
        for fid in 1..=5 {
            wire.open(fid, "tcp/clone", 2).await;
            wire.say(&Request::Write { fid, offset: 0, data: b"connect far!80" }).await;
        }
        wires.push(wire);
    }
    until("they dial", || driver.outstanding() == 15).await;
    for wire in wires {
        wire.hang_up().await;
    }
    assert_eq!(driver.outstanding(), 0);
    // Those that dialled are kept until the far side has answered; as if it never
    // had been there, they go with the pipe.
    driver.pipe_down("the test ends");
    assert_eq!(driver.clients().expect("an engine").len(), 0);
}
