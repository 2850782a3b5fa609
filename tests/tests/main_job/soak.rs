//! Churn: conversations, refused dials, calls and 9P connections come and go, and
//! neither memory nor descriptors grow. A few seconds of it; `SSHNET_SOAK_SECONDS`
//! makes it more.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sshnet_tests::ninep::{Client, Dialect, IO, Mode};
use sshnet_tests::world::{Kind, PATIENCE, Service, World, descriptors_of, memory_of, until};

/// How long where nobody says.
const SECONDS: u64 = 9;
/// How many descriptors more there may be at one moment than at another.
const SPREAD: usize = 12;
/// A port where nobody takes calls. One that is merely free now may be given to an
/// announcement.
const CLOSED: u16 = 1;
/// How much memory may grow, in KiB, from the time when all has been used once.
const GROWTH: u64 = 16 << 10;

/// Conversations of each size, one after the other, on a 9P connection of their own.
fn converse(world: &World, echo: &Service, round: u64) {
    let client = Client::connect(&world.socket(), Dialect::ALL[round as usize % 3]);
    for size in [1, 1_000, IO as usize] {
        let (_, ctl, data) = client.dial(&echo.address()).expect("it answers");
        let sent = vec![round as u8; size];
        let write = data.write(&sent);
        let mut got = Vec::new();
        while got.len() < size {
            got.extend(data.read(IO).wait_data().expect("it is open"));
        }
        assert_eq!(write.wait_count(), Ok(size as u32));
        assert!(got == sent);
        ctl.close();
        data.close();
    }
    // OpenSSH remembers each of these.
    if round.is_multiple_of(8) {
        let (_, ctl) = client.clone_client().expect("there is room");
        ctl.control(&format!("connect 127.0.0.1!{CLOSED}")).expect_err("nobody is there");
    }
    if round.is_multiple_of(5) {
        // It goes with a request under way.
        let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
        let _pending = data.read(1);
        client.hang_up();
    }
}

/// A listener that is called a few times and given up.
fn call(world: &World) {
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (directory, ctl) = client.clone_client().expect("there is room");
    ctl.control("announce 127.0.0.1!0").expect("a free port");
    let local = client.text(&format!("{directory}/local")).expect("it is there");
    let (_, port) = local.trim_end().rsplit_once('!').expect("an address");
    let port: u16 = port.parse().expect("a port");
    for _ in 0..3 {
        let mut caller = TcpStream::connect(("127.0.0.1", port)).expect("it is announced");
        caller.write_all(b"hello").expect("it is taken");
        let taken = client.open(&format!("{directory}/listen"), Mode::Both).expect("the call");
        taken.control("hangup").expect("hangup is always possible");
        taken.close();
        caller.set_read_timeout(Some(PATIENCE)).expect("it may");
        // An end or an error: it had something under way.
        let end = caller.read(&mut [0; 1]).map_err(|error| error.kind());
        assert!(!matches!(end, Err(ErrorKind::WouldBlock)), "the caller hears nothing");
    }
    ctl.control("hangup").expect("hangup is always possible");
    ctl.close();
}

#[test]
fn under_churn_memory_and_descriptors_stay_flat() {
    let seconds = std::env::var("SSHNET_SOAK_SECONDS");
    let seconds = seconds.map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let world = World::new(Kind::Openssh);
    let echo = Service::echo();
    let pid = world.pid();
    converse(&world, &echo, 0);
    call(&world);
    let nobody = || {
        let client = Client::connect(&world.socket(), Dialect::Plan9);
        client.names("tcp") == ["clone", "stats"]
    };
    let idle = || {
        until("no client is left", nobody);
        let mut least = usize::MAX;
        // Those of the last connection are closed a moment later.
        for _ in 0..20 {
            least = least.min(descriptors_of(pid));
            thread::sleep(Duration::from_millis(20));
        }
        least
    };
    let before = idle();
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    let begun = Instant::now();
    let at = |part: u32| Duration::from_secs(seconds) * part / 3;
    let (warm, last) = thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let (world, echo, stop, rounds) = (&world, &echo, &stop, &rounds);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let round = rounds.fetch_add(1, Ordering::Relaxed);
                        match worker {
                            0 => call(world),
                            _ => converse(world, echo, round),
                        }
                    }
                })
            })
            .collect();
        let sample = |from: Duration, to: Duration| {
            let (mut memory, mut descriptors) = (0, 0);
            thread::sleep(from.saturating_sub(begun.elapsed()));
            while begun.elapsed() < to && workers.iter().all(|worker| !worker.is_finished()) {
                memory = memory.max(memory_of(pid));
                descriptors = descriptors.max(descriptors_of(pid));
                thread::sleep(Duration::from_millis(50));
            }
            (memory, descriptors)
        };
        let warm = sample(at(1), at(2));
        let last = sample(at(2), at(3));
        stop.store(true, Ordering::Relaxed);
        println!(
            "{} rounds in {seconds} s: {} KiB and {} descriptors at most in the second third, \
             {} and {} in the last",
            rounds.load(Ordering::Relaxed),
            warm.0,
            warm.1,
            last.0,
            last.1
        );
        (warm, last)
    });
    assert!(last.0 <= warm.0 + GROWTH, "memory grows: {} to {} KiB", warm.0, last.0);
    assert!(last.1 <= warm.1 + SPREAD, "descriptors grow: {} to {}", warm.1, last.1);
    let after = idle();
    println!("idle: {before} descriptors before, {after} after; {} KiB", memory_of(pid));
    assert!(after <= before, "{before} descriptors before, {after} after");
}
