//! The driver over a component that misbehaves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use sshnet_host::driver::{Done, Driver, Outcome};
use sshnet_host::engine::{ClientId, Config, Core, ErrorCode, Protocol, Reply, Sandbox, TextFile};
use sshnet_tests::hostile;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Little, so that it is soon used up.
const SANDBOX: Sandbox = Sandbox { memory: 48 << 20, fuel: 400_000_000 };

/// Misdeeds that can be done at any event, and what is said of them.
const ANYWHERE: [(&str, &str); 4] = [
    ("trap", "the core failed: wasm trap: wasm `unreachable` instruction executed"),
    ("spin", "the core failed: it took more than its instructions for one call"),
    ("eat", "the core failed: it wanted more than its 48 MiB of memory (--core-memory"),
    ("sink", "the core failed: wasm trap: call stack exhausted"),
];

/// Those of events that have effects.
const IN_EFFECTS: [(&str, &str); 6] = [
    ("swamp", "the core failed"),
    ("twice", "the core broke its contract: it completed request"),
    ("strange", "it completed request 18446744073709551615, which is not outstanding"),
    ("empty", "it sent a message of 0 bytes"),
    ("huge", "it sent a message of 1048576 bytes"),
    ("flood", "bytes before the pipe took any"),
];

/// Requests that wait, and how they ended.
#[derive(Clone, Default)]
struct Waiting {
    ended: Arc<Mutex<Vec<(&'static str, Outcome)>>>,
    made: Arc<AtomicUsize>,
}

impl Waiting {
    fn done(&self, what: &'static str) -> Done {
        self.made.fetch_add(1, Ordering::Relaxed);
        let ended = Arc::clone(&self.ended);
        Box::new(move |outcome| ended.lock().unwrap().push((what, outcome)))
    }

    fn ended(&self) -> Vec<(&'static str, Outcome)> {
        self.ended.lock().unwrap().clone()
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

/// A driver over the component, with a pipe that takes nothing and one request of
/// each kind outstanding.
struct Bench {
    driver: Driver,
    link: sshnet_host::pipe::Link,
    client: ClientId,
    waiting: Waiting,
    read: u64,
}

fn core() -> &'static Core {
    static CORE: OnceLock<Core> = OnceLock::new();
    CORE.get_or_init(|| Core::from_file(hostile::component()).expect("it fits the world"))
}

impl Bench {
    /// With a misdeed armed from the start, `/MISDEED/EVENT`, or with another prefix.
    fn new(prefix: &str) -> Self {
        let limits = core().default_limits().expect("it has limits");
        let config = Config { prefix: prefix.to_owned(), services: Vec::new(), limits };
        let driver = Driver::new(core().session(&config, SANDBOX).expect("a session"));
        let link = driver.pipe_up();
        let waiting = Waiting::default();
        driver.clone_client(Protocol::Tcp, waiting.done("clone"));
        let client = ClientId { number: 0, incarnation: 0 };
        let read = driver.read(client, 1000, waiting.done("read"));
        driver.write(client, b"held", waiting.done("write"));
        driver.listen(client, waiting.done("listen"));
        driver.control(client, b"wait", waiting.done("control"));
        Self { driver, link, client, waiting, read }
    }

    fn arm(&self, misdeed: &str, event: &str) {
        let text = format!("{misdeed} {event}");
        self.driver.control(self.client, text.as_bytes(), self.waiting.done("arm"));
        let armed = self.waiting.ended().pop();
        assert_eq!(armed, Some(("arm", Ok(Reply::Done))), "{text}");
    }

    /// Has the event happen.
    fn happen(&self, event: &str) {
        let Self { driver, link, client, waiting, read } = self;
        match event {
            "pipe-up" => drop(driver.pipe_up()),
            "pipe-down" => driver.pipe_down("the test says so"),
            "receive" => link.receive(b"\x50"),
            "pipe-took" => link.took(1),
            "advance" => {
                // It is told the time before what happens next.
                std::thread::sleep(Duration::from_millis(5));
                driver.release(*client);
            }
            "shutdown" => driver.shutdown("the test says so"),
            "clone" => drop(driver.clone_client(Protocol::Tcp, waiting.done("clone"))),
            "control" => drop(driver.control(*client, b"dial", waiting.done("control"))),
            "read" => drop(driver.read(*client, 10, waiting.done("read"))),
            "write" => drop(driver.write(*client, b"x", waiting.done("write"))),
            "listen" => drop(driver.listen(*client, waiting.done("listen"))),
            "flush" => driver.flush(*read),
            "retain" => drop(driver.retain(*client)),
            "release" => driver.release(*client),
            "lookup" => drop(driver.lookup(0)),
            "text" => drop(driver.text(*client, TextFile::Status)),
            "translate" => drop(driver.translate("tcp!a!1")),
            "clients" => drop(driver.clients()),
            "statistics" => drop(driver.statistics()),
            other => panic!("no event {other}"),
        }
    }

    /// All that was asked has ended, each once, the engine is gone, and this is said.
    async fn contained(&self, says: &str) {
        let failure = tokio::time::timeout(PATIENCE, self.driver.failure()).await;
        let failure = failure.expect("the driver says that its engine is gone");
        let plain = failure.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(plain.contains(says), "{plain}\nhas not: {says}");
        assert_eq!(self.driver.outstanding(), 0);
        let ended = self.waiting.ended();
        assert_eq!(ended.len(), self.waiting.made(), "each request ends once: {ended:?}");
        // What waited has an error, and so has whatever is asked from now on.
        let later = Waiting::default();
        self.driver.read(self.client, 10, later.done("later"));
        self.driver.flush(self.read);
        self.driver.release(self.client);
        match later.ended().pop() {
            Some((_, Err(error))) => assert_eq!(error.code, ErrorCode::Other),
            other => panic!("{other:?}"),
        }
        self.driver.clients().expect_err("there is no engine");
        // The pipe ends, so that whoever runs it goes on.
        let ended = async { while self.link.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("the pipe's messages end");
        // A new pipe changes nothing of that.
        let link = self.driver.pipe_up();
        assert_eq!(tokio::time::timeout(PATIENCE, link.next()).await, Ok(None));
        tokio::time::timeout(PATIENCE, self.driver.failure()).await.expect("it stays gone");
    }
}

const EVENTS: [&str; 13] = [
    "pipe-up",
    "pipe-down",
    "receive",
    "pipe-took",
    "advance",
    "shutdown",
    "clone",
    "control",
    "read",
    "write",
    "listen",
    "flush",
    "release",
];
const QUESTIONS: [&str; 6] = ["retain", "lookup", "text", "translate", "clients", "statistics"];

#[tokio::test]
async fn a_core_that_traps_spins_or_eats_memory_at_any_event_is_contained() {
    for (misdeed, says) in ANYWHERE {
        for event in EVENTS.into_iter().chain(QUESTIONS) {
            println!("{misdeed} at {event}");
            let bench = Bench::new("/net");
            bench.arm(misdeed, event);
            bench.happen(event);
            bench.contained(says).await;
        }
    }
}

/// What makes no request has none that it could complete twice, but for one that
/// waits.
#[tokio::test]
async fn a_core_whose_effects_are_garbage_is_contained() {
    for (misdeed, says) in IN_EFFECTS {
        for event in EVENTS {
            // What is sent without a pipe goes nowhere, whatever it is.
            if misdeed == "flood" && event == "pipe-down" {
                continue;
            }
            println!("{misdeed} at {event}");
            let bench = Bench::new("/net");
            bench.arm(misdeed, event);
            bench.happen(event);
            bench.contained(says).await;
        }
    }
}

#[tokio::test]
async fn a_core_that_completes_a_request_with_what_was_not_asked_for_is_contained() {
    for (misdeed, event) in
        [("other", "read"), ("other", "write"), ("other", "control"), ("more", "read")]
    {
        let bench = Bench::new("/net");
        bench.arm(misdeed, event);
        bench.happen(event);
        bench.contained("with what was not asked for").await;
    }
    for event in ["clone", "listen", "write", "control"] {
        let bench = Bench::new("/net");
        bench.arm("more", event);
        bench.happen(event);
        bench.contained("with what was not asked for").await;
    }
}

/// A flush ends its request, and the end of the session ends all of them.
#[tokio::test]
async fn a_core_that_never_answers_is_made_up_for() {
    let bench = Bench::new("/net");
    bench.arm("never", "flush");
    bench.happen("flush");
    let flushed = bench.waiting.ended().into_iter().find(|(what, _)| *what == "read");
    match flushed {
        Some((_, Err(error))) => assert_eq!(error.code, ErrorCode::Interrupted),
        other => panic!("{other:?}"),
    }
    bench.contained("it did not complete request 2 when that was flushed").await;

    let bench = Bench::new("/net");
    bench.arm("never", "shutdown");
    bench.happen("shutdown");
    bench.contained("open when it was shut down").await;
}

/// It could have the timer turn without end, and nothing else would have its turn.
#[tokio::test]
async fn a_core_that_wants_to_be_woken_at_once_each_time_holds_up_nobody() {
    let bench = Bench::new("/net");
    bench.arm("restless", "pipe-took");
    bench.happen("pipe-took");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.driver.flush(bench.read);
    assert_eq!(bench.driver.outstanding(), 3, "it works all the same");
}

#[tokio::test]
async fn a_core_that_gives_up_does_so_in_words_that_can_be_shown() {
    let bench = Bench::new("/net");
    bench.arm("fail", "pipe-took");
    bench.happen("pipe-took");
    let failure = bench.driver.failure().await;
    assert!(failure.len() <= 400, "{} bytes", failure.len());
    assert!(failure.starts_with("\\u{1b}[2J\\u{7}\\r\\n"), "{failure}");
    assert!(!failure.chars().any(char::is_control), "{failure:?}");
}

#[tokio::test]
async fn a_core_that_fails_before_it_is_up_is_an_error() {
    for (misdeed, says) in ANYWHERE {
        let limits = core().default_limits().expect("it has limits");
        let prefix = format!("/{misdeed}/constructor");
        let config = Config { prefix, services: Vec::new(), limits };
        let error = core().session(&config, SANDBOX).err().expect("no session").to_string();
        let plain = error.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(plain.contains(says), "{plain}");
    }
    let bench = Bench::new("/trap/pipe-up");
    bench.contained("unreachable").await;
}
