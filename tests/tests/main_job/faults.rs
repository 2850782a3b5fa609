//! Whatever there is to kill is killed, at random moments and under load: ssh, sshd,
//! its sessions, the path between them, a 9P client; the component, and the program.
//!
//! Every request ends, and ends once (the client of these tests panics at a second
//! reply); what a reader got is the beginning of what was sent, byte for byte, and so
//! is what the far side got; the service is back within [`BACK`], with its socket, its
//! mount and its listener; and at the end nothing is left. `SSHNET_FAULT_ROUNDS` makes
//! it more rounds, `SSHNET_FAULT_SEED` others.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sshnet_tests::ninep::{Client, Dialect, File, Mode, Pending};
use sshnet_tests::relay::Relay;
use sshnet_tests::sim::prng::Prng;
use sshnet_tests::sshd::{Sshd, free_port};
use sshnet_tests::world::{
    Service, World, children_of, descriptors_of, files_below, private_directory, signal, until,
};

/// Rounds where nobody asks for more.
const ROUNDS: u64 = 20;
/// The service is back so soon after a fault: 4 seconds to notice it, 1 to wait, and
/// some to log in on a machine that has much to do.
const BACK: Duration = Duration::from_secs(30);
/// A request is answered so soon after its conversation has ended.
const ANSWERED: Duration = Duration::from_secs(15);
/// Conversations at a time.
const WORKERS: usize = 4;
/// A write.
const PIECE: usize = 8 << 10;

/// What is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    Ssh,
    Sshd,
    Sessions,
    /// The path ends, and both ends hear of it.
    Cut,
    /// The path carries nothing more, and nobody hears of it.
    Silence,
    Client,
}

const FAULTS: [Fault; 6] =
    [Fault::Ssh, Fault::Sshd, Fault::Sessions, Fault::Cut, Fault::Silence, Fault::Client];

/// A byte of a conversation: no two of them, and neither direction, are alike.
fn byte(of: u64, up: bool, at: u64) -> u8 {
    (at / 5 * 31 + at + of * 17 + u64::from(up) * 101) as u8
}

fn bytes(of: u64, up: bool, from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64).map(|at| byte(of, up, at)).collect()
}

/// Whether this is what follows; moves on behind it.
fn follows(of: u64, up: bool, at: &mut u64, got: &[u8]) -> bool {
    let right = got.iter().zip(*at..).all(|(b, at)| *b == byte(of, up, at));
    *at += got.len() as u64;
    right
}

/// What the far side has seen that may not be.
type Wrong = Arc<Mutex<Vec<String>>>;

/// The far end of conversations: it is told which one it is, and then both directions
/// go on until their end.
fn far_end(wrong: &Wrong) -> Service {
    let wrong = Arc::clone(wrong);
    Service::new(move |mut stream| {
        let mut number = [0; 8];
        if stream.read_exact(&mut number).is_err() {
            return;
        }
        let number = u64::from_le_bytes(number);
        let mut down = stream.try_clone().expect("a socket");
        let sender = thread::spawn(move || {
            let mut at = 0;
            while down.write_all(&bytes(number, false, at, PIECE)).is_ok() {
                at += PIECE as u64;
                // The load is many conversations, not much of each.
                thread::sleep(Duration::from_millis(2));
            }
        });
        let (mut at, mut buffer) = (0, vec![0; 64 << 10]);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if !follows(number, true, &mut at, &buffer[..count]) {
                let what = format!("conversation {number}: not what was sent, before {at}");
                wrong.lock().expect("no panic").push(what);
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
        let _ = sender.join();
    })
}

/// What a worker and who disturbs it share.
#[derive(Default)]
struct Worker {
    stop: AtomicBool,
    /// Its client is to go, as one that is killed.
    killed: AtomicBool,
    /// Bytes that it has read.
    moved: AtomicU64,
}

impl Worker {
    /// Has one conversation after the other.
    fn work(&self, socket: &Path, address: &str, numbers: &AtomicU64) {
        let mut dialects = Dialect::ALL.iter().cycle();
        while !self.stop.load(Ordering::Relaxed) {
            let client = Client::connect(socket, *dialects.next().expect("it has no end"));
            // While there is no connection it waits.
            if let Ok((_, ctl, data)) = client.dial(address) {
                self.converse(&client, &ctl, &data, numbers.fetch_add(1, Ordering::Relaxed));
                if !self.killed.swap(false, Ordering::Relaxed) {
                    ctl.close();
                    data.close();
                }
            }
        }
    }

    fn converse(&self, client: &Client, ctl: &File, data: &File, number: u64) {
        let mut writes = VecDeque::from([data.write(&number.to_le_bytes())]);
        let mut reads: VecDeque<Pending> = VecDeque::new();
        let (mut sent, mut read) = (0, 0);
        let mut took = |bytes: Vec<u8>| {
            // Rread's count comes first.
            let bytes = bytes.get(4..).expect("a count");
            assert!(follows(number, false, &mut read, bytes), "{number}: not what was sent");
            self.moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            !bytes.is_empty()
        };
        let mut open = true;
        while open {
            if self.killed.load(Ordering::Relaxed) {
                client.hang_up();
                return;
            }
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            while writes.len() < 4 {
                writes.push_back(data.write(&bytes(number, true, sent, PIECE)));
                sent += PIECE as u64;
            }
            while reads.len() < 2 {
                reads.push_back(data.read(32 << 10));
            }
            if let Some(answer) = reads.front().and_then(|r| r.wait_for(Duration::from_millis(5))) {
                reads.pop_front();
                open &= answer.is_ok_and(&mut took);
            }
            while let Some(answer) = writes.front().and_then(|w| w.wait_for(Duration::ZERO)) {
                writes.pop_front();
                open &= answer.is_ok();
            }
        }
        if open {
            // Stopped by us.
            ctl.control("hangup").expect("hangup is always possible");
        }
        for request in reads {
            let answer = request.wait_for(ANSWERED).expect("a read is answered");
            let _ = answer.is_ok_and(&mut took);
        }
        for request in writes {
            let _ = request.wait_for(ANSWERED).expect("a write is answered");
        }
    }
}

/// The announced client, and what a call to it comes to.
struct Listener {
    client: Client,
    directory: String,
    ctl: File,
    port: u16,
}

impl Listener {
    fn new(world: &World) -> Self {
        let client = Client::connect(&world.socket(), Dialect::Linux);
        let (directory, ctl) = client.clone_client().expect("there is room");
        let port = free_port();
        ctl.control(&format!("announce 127.0.0.1!{port}")).expect("the port is free");
        Self { client, directory, ctl, port }
    }

    /// Waits until calls come through. Where the far side did not know yet that the
    /// last connection is gone, the port was not to be had, and is asked for again.
    fn is_back(&self) {
        let limit = Instant::now() + BACK;
        loop {
            let status = self.client.text(&format!("{}/status", self.directory));
            let status = status.expect("it is there");
            if status.starts_with("Listen ") && status.lines().count() == 1 {
                break;
            }
            assert!(Instant::now() < limit, "the listener is not back: {status}");
            if status.contains("would not announce") || status.starts_with("Closed ") {
                self.ctl.control("hangup").expect("hangup is always possible");
                // It fails until the port is free.
                let _ = self.ctl.control(&format!("announce 127.0.0.1!{}", self.port));
            }
            thread::sleep(Duration::from_millis(50));
        }
        let mut caller = TcpStream::connect(("127.0.0.1", self.port)).expect("it is announced");
        caller.write_all(b"called").expect("it is taken");
        let ctl = self.client.open(&format!("{}/listen", self.directory), Mode::Both);
        let ctl = ctl.expect("the call");
        let number = String::from_utf8(ctl.read_at(0, 64).expect("ctl reads")).expect("a number");
        let data = self.client.open(&format!("tcp/{}/data", number.trim()), Mode::Both);
        let said = data.expect("data opens").read(100).wait_data();
        assert_eq!(said, Ok(b"called".to_vec()));
    }
}

/// Whether bytes go there and back on a new conversation, at the first attempt that is
/// not overtaken by the end of a connection.
fn is_back(world: &World, echo: &Service) {
    let limit = Instant::now() + BACK;
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    while Instant::now() < limit {
        let Ok((_, ctl, data)) = client.dial(&echo.address()) else { continue };
        let there = data.write(b"hello").wait_count();
        let back = data.read(100).wait_data();
        ctl.close();
        data.close();
        if there == Ok(5) && back == Ok(b"hello".to_vec()) {
            return;
        }
    }
    panic!("the service is not back within {BACK:?}:\n{}", world.story());
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("it is a number"))
}

#[test]
fn whatever_is_killed_under_load_every_request_ends_and_the_service_is_back() {
    let (rounds, seed) =
        (number("SSHNET_FAULT_ROUNDS", ROUNDS), number("SSHNET_FAULT_SEED", 20_261_126));
    let sshd = Sshd::start(&[]);
    let relay = Relay::to(sshd.port);
    let port = format!("Port={}", relay.port());
    let mountpoint = private_directory();
    let mounted = mountpoint.path().to_str().expect("it is UTF-8").to_owned();
    let (options, destination) = (sshd.ssh_options(), sshd.destination());
    let mut words = vec!["-m", &mounted, "--prefix", "/net"];
    words.extend(["--reconnect=1", "--keepalive", "4", "--dial-wait", "20", "-o", &port]);
    words.extend(options.iter().map(String::as_str));
    words.push(&destination);
    let mut world = World::launch(Some(sshd), &words);
    until("it serves", || world.said().contains("serving "));
    let listener = Listener::new(&world);
    let echo = Service::echo();
    is_back(&world, &echo);
    let wrong = Wrong::default();
    let far = far_end(&wrong);
    let before = (
        descriptors_of(world.pid()),
        children_of(world.pid()).len(),
        files_below(world.runtime()).len(),
    );

    let numbers = Arc::new(AtomicU64::new(0));
    let workers: Vec<Arc<Worker>> = (0..WORKERS).map(|_| Arc::default()).collect();
    let threads: Vec<_> = workers
        .iter()
        .map(|worker| {
            let (worker, numbers) = (Arc::clone(worker), Arc::clone(&numbers));
            let (socket, address) = (world.socket(), far.address());
            thread::spawn(move || worker.work(&socket, &address, &numbers))
        })
        .collect();

    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let mut random = Prng::new(seed.wrapping_add(round));
        let fault = random.pick(&FAULTS);
        // Under load: all of them have read something since the last fault.
        let moved: Vec<u64> = workers.iter().map(|w| w.moved.load(Ordering::Relaxed)).collect();
        until("everybody works", || {
            assert!(threads.iter().all(|thread| !thread.is_finished()), "{}", world.story());
            workers.iter().zip(&moved).all(|(w, moved)| w.moved.load(Ordering::Relaxed) > *moved)
        });
        thread::sleep(Duration::from_millis(random.below(300)));
        let made = world.said().matches("connected again to").count();
        let begun = Instant::now();
        let sshd = world.sshd.as_mut().expect("there is one");
        match fault {
            Fault::Ssh => {
                for child in children_of(world.pid()) {
                    signal(child, "KILL");
                }
            }
            Fault::Sshd => {
                sshd.kill();
                thread::sleep(Duration::from_millis(random.below(1_500)));
                world.sshd.as_mut().expect("there is one").start_again();
            }
            Fault::Sessions => {
                // One may end with another.
                for session in sshd.sessions() {
                    let _ = Command::new("kill").args(["-KILL", &session.to_string()]).status();
                }
            }
            Fault::Cut => relay.cut(),
            Fault::Silence => relay.stand_still(),
            Fault::Client => {
                let worker = random.below(WORKERS as u64) as usize;
                workers[worker].killed.store(true, Ordering::Relaxed);
            }
        }
        if fault != Fault::Client {
            until(&format!("there is a new connection after {fault:?}"), || {
                world.said().matches("connected again to").count() > made
            });
        }
        is_back(&world, &echo);
        longest = longest.max(begun.elapsed());
        // What of the old path is still open at the far side would keep the port.
        if fault == Fault::Silence {
            relay.cut_still();
        }
        listener.is_back();
        let names = std::fs::read_dir(&mounted).expect("it is mounted").count();
        assert_eq!(names, 3, "cs, tcp and unix on the mount");
        assert!(wrong.lock().expect("no panic").is_empty(), "round {round}: {wrong:?}");
        println!("round {round}: {fault:?}, back after {:?}", begun.elapsed());
    }
    println!("{rounds} rounds, {numbers:?} conversations, back after {longest:?} at most");

    for worker in &workers {
        worker.stop.store(true, Ordering::Relaxed);
    }
    for thread in threads {
        thread.join().expect("a worker saw nothing that may not be");
    }
    assert!(wrong.lock().expect("no panic").is_empty(), "{wrong:?}");
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    until("the listener alone is left", || client.names("tcp") == ["clone", "0", "stats"]);
    drop(client);
    until("nothing is left of what was", || {
        let now = (
            descriptors_of(world.pid()),
            children_of(world.pid()).len(),
            files_below(world.runtime()).len(),
        );
        // A descriptor or two of the runtime's come with the first reconnection.
        now.0 <= before.0 + 2 && (now.1, now.2) == (before.1, before.2)
    });
    drop(listener);
    let children = children_of(world.pid());
    signal(world.pid(), "TERM");
    let status = world.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{}", world.story());
    let there = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    until("no process is left", || !children.iter().any(there));
    let left = files_below(world.runtime());
    assert!(left.is_empty(), "{left:?} are left");
    let mounts = std::fs::read_to_string("/proc/mounts").expect("Linux");
    assert!(!mounts.contains(&mounted), "the mount is left");
    let sshd = world.sshd.as_ref().expect("there is one");
    until("sshd's sessions end", || sshd.sessions().is_empty());
}

/// How the program dies of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Death {
    /// Its component traps: it wants more memory than it may have.
    Component,
    /// It is killed.
    Killed,
}

/// What the component may have, in MiB: enough for those who read.
const MEMORY: &str = "8";

/// Has the component hold all that it may for a far service that reads nothing, and
/// for that more than it may have.
fn stuff(world: &World, deaf: &Service) {
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let mut held = Vec::new();
    while !world.said().contains("the core failed") {
        let Ok((_, ctl, data)) = client.dial(&deaf.address()) else { break };
        let writes: Vec<_> = (0..40).map(|_| data.write(&[7; 120 << 10])).collect();
        held.push((ctl, data, writes));
        assert!(held.len() < 100, "it has all the memory that it wants");
    }
    for (ctl, data, writes) in held {
        for write in writes {
            let _ = write.wait_for(ANSWERED).expect("a write is answered");
        }
        std::mem::forget((ctl, data));
    }
}

/// Nothing but the mount of one that was killed is left, and that goes with the next.
#[test]
fn whenever_the_program_dies_under_load_every_request_ends_and_the_next_one_serves() {
    let (rounds, seed) =
        (number("SSHNET_FAULT_ROUNDS", ROUNDS) / 5, number("SSHNET_FAULT_SEED", 20_261_127));
    let mountpoint = private_directory();
    let mounted = mountpoint.path().to_str().expect("it is UTF-8").to_owned();
    let is_mounted = || std::fs::read_to_string("/proc/mounts").expect("Linux").contains(&mounted);
    let there = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| !status.contains("State:\tZ"))
    };
    let wrong = Wrong::default();
    let (echo, far) = (Service::echo(), far_end(&wrong));
    let deaf = Service::new(|stream| {
        thread::sleep(ANSWERED);
        drop(stream);
    });
    let mut sshd = Some(Sshd::start(&[]));
    for round in 0..=rounds {
        let mut world = World::with_sshd(
            sshd.take().expect("it came back"),
            &["-m", &mounted, "--prefix", "/net", "--core-memory", MEMORY],
        );
        is_back(&world, &echo);
        let workers: Vec<Arc<Worker>> = (0..WORKERS).map(|_| Arc::default()).collect();
        let threads: Vec<_> = workers
            .iter()
            .zip(0..)
            .map(|(worker, number)| {
                let (worker, socket, address) = (Arc::clone(worker), world.socket(), far.address());
                let number = round * WORKERS as u64 + number;
                thread::spawn(move || {
                    let client = Client::connect(&socket, Dialect::Linux);
                    client.server_is_mortal();
                    let (_, ctl, data) = client.dial(&address).expect("it answers");
                    worker.converse(&client, &ctl, &data, number);
                    // They are gone with the service.
                    std::mem::forget((ctl, data));
                })
            })
            .collect();
        until("everybody works", || workers.iter().all(|w| w.moved.load(Ordering::Relaxed) > 0));
        let mut random = Prng::new(seed.wrapping_add(round));
        thread::sleep(Duration::from_millis(random.below(300)));
        let children = children_of(world.pid());
        assert!(!children.is_empty(), "{}", world.story());
        // The last one ends as it should.
        let death = (round < rounds).then(|| random.pick(&[Death::Component, Death::Killed]));
        println!("round {round}: {death:?}");
        match death {
            Some(Death::Component) => stuff(&world, &deaf),
            Some(Death::Killed) => signal(world.pid(), "KILL"),
            None => signal(world.pid(), "TERM"),
        }
        let status = world.wait(Duration::from_secs(10));
        for thread in threads {
            thread.join().expect("a worker saw nothing that may not be");
        }
        assert!(wrong.lock().expect("no panic").is_empty(), "{wrong:?}");
        until("no process is left", || !children.iter().any(there));
        if death == Some(Death::Killed) {
            assert_eq!(status.code(), None);
        } else {
            let code = i32::from(death.is_some());
            assert_eq!(status.code(), Some(code), "{}", world.story());
            assert_eq!(world.said().contains("the core failed: it wanted"), death.is_some());
            let left = files_below(world.runtime());
            assert!(left.is_empty(), "{left:?} are left");
            assert!(!is_mounted(), "the mount is left");
        }
        let there = world.sshd.as_ref().expect("there is one");
        until("sshd's sessions end", || there.sessions().is_empty());
        sshd = world.sshd.take();
    }
}
