//! What the component costs, in wasm fuel: about one for each instruction, the
//! same on every machine and in every run.
//!
//! This is about the quality of an engine and not about the contract: it runs on
//! the component that the host embeds, and not where another is under test.

use sshnet_core::message::Message;
use sshnet_host::engine::{
    ClientId, Config, Core, Effect, Engine, EngineError, Limits, Protocol, Reply, Sandbox,
};
use sshnet_tests::promise::ours;

/// What one operation may burn on average, with ten clients around it.
///
/// A budget is what was measured and a tenth; whoever makes an operation dearer
/// says so by changing it here.
const BUDGETS: [(&str, u64); 12] = [
    ("64 bytes of data in, and a read that waits for them", 4_850),
    ("32 KiB of data in, and a read that waits for them", 41_000),
    ("64 bytes of data in, and read", 4_200),
    ("32 KiB of data in, and read", 40_600),
    ("64 bytes written and sent", 4_900),
    ("32 KiB written and sent", 41_000),
    ("dial", 17_000),
    ("accept", 17_700),
    ("close", 10_900),
    ("announce", 22_900),
    ("hangup of a listener", 12_600),
    ("a read that is flushed", 5_600),
];

/// How often an operation is done for its average.
const TIMES: u32 = 200;

const LARGE: usize = 32_768;
const SMALL: usize = 64;

/// Limits under which nothing is refused to so many and those who are measured.
fn among(crowd: u32) -> Limits {
    Limits {
        clients: crowd + TIMES + 2,
        calls: 1_024,
        backlog: 128,
        requests: crowd + 2 * TIMES,
        line: 1_024,
        name: 255,
        queued: 1 << 30,
        unacknowledged: 1 << 40,
        windows: 1 << 40,
        window: 1 << 20,
        window_max: 15 << 20,
        packet: 32_768,
        room: 1 << 30,
        control: 1 << 20,
        dial_time: 60_000_000_000,
        dial_wait: 10_000_000_000,
        keepalive: 0,
    }
}

/// An engine, and the fuel that its calls burnt.
struct Meter {
    engine: Engine,
    burnt: u64,
    requests: u64,
    theirs: u32,
    /// In microseconds.
    now: u64,
}

/// A conversation, and the engine's number of its channel.
#[derive(Clone, Copy)]
struct Line {
    id: ClientId,
    ours: u32,
}

impl Meter {
    /// A session with a pipe, in the sandbox for its limits, but for the memory if
    /// that is given.
    fn new(core: &Core, limits: Limits, memory: Option<usize>) -> Self {
        let mut sandbox = Sandbox::for_limits(&limits);
        sandbox.memory = memory.unwrap_or(sandbox.memory);
        let config = Config { prefix: "/net".into(), services: Vec::new(), limits };
        let engine = core.session(&config, sandbox).expect("a session");
        let mut meter = Self { engine, burnt: 0, requests: 0, theirs: 0, now: 0 };
        meter.call(Engine::pipe_up);
        meter
    }

    /// A session with so many conversations, each with a read that waits, and
    /// one listener.
    fn among(core: &Core, crowd: u32) -> (Self, ClientId) {
        let mut meter = Self::new(core, among(crowd), None);
        for _ in 0..crowd {
            // On a path of 50 ms, on which windows may grow.
            let line = meter.dial_in(50_000);
            meter.read(line, LARGE);
        }
        let request = meter.request();
        let listener = meter.made(|engine| engine.clone_client(request, Protocol::Tcp));
        let request = meter.request();
        meter.call(|engine| engine.control(request, listener, b"announce localhost!80"));
        meter.hear(Message::RequestSuccess { data: b"" });
        (meter, listener)
    }

    fn request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// Every call goes through here; what it sends is taken by the pipe at once,
    /// which is part of its cost.
    fn call(
        &mut self,
        call: impl FnOnce(&mut Engine) -> Result<Vec<Effect>, EngineError>,
    ) -> Vec<Effect> {
        let effects = call(&mut self.engine).expect("no trap");
        self.burnt += self.engine.fuel_burnt();
        let sent: usize = effects
            .iter()
            .map(|effect| match effect {
                Effect::Send(message) => message.len(),
                _ => 0,
            })
            .sum();
        if sent > 0 {
            let more = self.engine.pipe_took(sent as u64).expect("no trap");
            self.burnt += self.engine.fuel_burnt();
            assert!(more.is_empty(), "more was sent: {more:?}");
        }
        effects
    }

    fn hear(&mut self, message: Message<'_>) -> Vec<Effect> {
        let bytes = message.encode();
        self.call(|engine| engine.receive(&bytes))
    }

    /// The client that a call made.
    fn made(
        &mut self,
        call: impl FnOnce(&mut Engine) -> Result<Vec<Effect>, EngineError>,
    ) -> ClientId {
        self.call(call)
            .iter()
            .find_map(|effect| match effect {
                Effect::Complete(completion) => match completion.outcome {
                    Ok(Reply::Client(id)) => Some(id),
                    _ => None,
                },
                _ => None,
            })
            .expect("a client was made")
    }

    fn dial(&mut self) -> Line {
        self.dial_with(0, 1 << 30)
    }

    /// The far side takes so long to answer.
    fn dial_in(&mut self, time: u64) -> Line {
        self.dial_with(time, 1 << 30)
    }

    /// A conversation with a peer that takes so long to answer, and accepts so much.
    fn dial_with(&mut self, time: u64, window: u32) -> Line {
        let request = self.request();
        let id = self.made(|engine| engine.clone_client(request, Protocol::Tcp));
        let request = self.request();
        let effects = self.call(|engine| engine.control(request, id, b"connect example.net!7"));
        let ours = opened(&effects);
        if time > 0 {
            self.now += time;
            let now = self.now;
            self.call(|engine| engine.advance(now));
        }
        self.theirs += 1;
        let theirs = self.theirs;
        let confirmation = Message::OpenConfirmation {
            recipient: ours,
            sender: theirs,
            window,
            packet: 32_768,
            data: b"",
        };
        assert!(completed(&self.hear(confirmation)), "the dial ends");
        Line { id, ours }
    }

    fn control(&mut self, id: ClientId, text: &[u8]) -> bool {
        let request = self.request();
        completed(&self.call(|engine| engine.control(request, id, text)))
    }

    /// A client that asked for a port, which the far side has yet to bind.
    fn ask_for(&mut self, port: u32) -> ClientId {
        let request = self.request();
        let id = self.made(|engine| engine.clone_client(request, Protocol::Tcp));
        assert!(!self.control(id, format!("announce localhost!{port}").as_bytes()));
        id
    }

    fn bound(&mut self) {
        assert!(completed(&self.hear(Message::RequestSuccess { data: b"" })));
    }

    fn accept(&mut self, listener: ClientId) -> Line {
        let request = self.request();
        self.call(|engine| engine.listen(request, listener));
        self.theirs += 1;
        let theirs = self.theirs;
        let bytes = sshnet_tests::peer::call(theirs, "localhost", 80).encode();
        let mut ours = None;
        let id = self.made(|engine| {
            let effects = engine.receive(&bytes)?;
            ours = effects.iter().find_map(|effect| match effect {
                Effect::Send(message) => match Message::decode(message) {
                    Ok(Message::OpenConfirmation { sender, .. }) => Some(sender),
                    _ => None,
                },
                _ => None,
            });
            Ok(effects)
        });
        Line { id, ours: ours.expect("the call is taken") }
    }

    fn read(&mut self, line: Line, count: usize) -> bool {
        let request = self.request();
        completed(&self.call(|engine| engine.read(request, line.id, count as u32)))
    }

    fn data_in(&mut self, line: Line, bytes: &[u8]) -> bool {
        completed(&self.hear(Message::Data { recipient: line.ours, data: bytes }))
    }

    fn write(&mut self, line: Line, bytes: &[u8]) -> bool {
        let request = self.request();
        completed(&self.call(|engine| engine.write(request, line.id, bytes)))
    }

    fn close(&mut self, line: Line) {
        self.call(|engine| engine.release(line.id));
        self.hear(Message::Close { recipient: line.ours });
    }

    /// What the operation burns on average.
    fn average(&mut self, mut operation: impl FnMut(&mut Self)) -> u64 {
        let before = self.burnt;
        for _ in 0..TIMES {
            operation(self);
        }
        (self.burnt - before) / u64::from(TIMES)
    }
}

fn completed(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::Complete(completion) => completion.outcome.is_ok(),
        _ => false,
    })
}

fn opened(effects: &[Effect]) -> u32 {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Send(message) => match Message::decode(message) {
                Ok(Message::Open { sender, .. }) => Some(sender),
                _ => None,
            },
            _ => None,
        })
        .expect("a channel is asked for")
}

/// What each operation of [`BUDGETS`] burns, among so many other conversations.
fn measure(core: &Core, crowd: u32) -> Vec<u64> {
    let (mut meter, listener) = Meter::among(core, crowd);
    let line = meter.dial();
    let (small, large) = (vec![7; SMALL], vec![7; LARGE]);
    let mut burnt = Vec::new();
    for bytes in [&small, &large] {
        burnt.push(meter.average(|meter| {
            assert!(!meter.read(line, bytes.len()));
            assert!(meter.data_in(line, bytes));
        }));
    }
    for bytes in [&small, &large] {
        burnt.push(meter.average(|meter| {
            assert!(!meter.data_in(line, bytes));
            assert!(meter.read(line, bytes.len()));
        }));
    }
    for bytes in [&small, &large] {
        burnt.push(meter.average(|meter| assert!(meter.write(line, bytes))));
    }
    let mut lines = Vec::new();
    burnt.push(meter.average(|meter| lines.push(meter.dial())));
    let closing = meter.average(|meter| {
        if let Some(line) = lines.pop() {
            meter.close(line);
        }
    });
    burnt.push(meter.average(|meter| lines.push(meter.accept(listener))));
    for line in lines {
        meter.close(line);
    }
    burnt.push(closing);
    let mut listeners = Vec::new();
    burnt.push(meter.average(|meter| {
        listeners.push(meter.ask_for(1_000 + listeners.len() as u32));
        meter.bound();
    }));
    burnt.push(meter.average(|meter| {
        if let Some(id) = listeners.pop() {
            assert!(meter.control(id, b"hangup"));
            meter.hear(Message::RequestSuccess { data: b"" });
        }
    }));
    burnt.push(meter.average(|meter| {
        assert!(!meter.read(line, LARGE));
        let request = meter.requests;
        meter.call(|engine| engine.flush(request));
    }));
    burnt
}

/// The component of the host, if it is the one to be tested.
fn core() -> Option<Core> {
    ours().then(|| Core::embedded().expect("the component fits"))
}

#[test]
fn no_operation_burns_more_fuel_than_its_budget() {
    let Some(core) = core() else { return };
    let burnt = measure(&core, 10);
    println!("{:>8} {:>8}", "fuel", "budget");
    let mut over = Vec::new();
    for ((what, budget), burnt) in BUDGETS.into_iter().zip(burnt) {
        println!("{burnt:>8} {budget:>8}  {what}");
        if burnt > budget {
            over.push(format!("{what}: {burnt}, and may burn {budget}"));
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}

#[test]
fn with_10_000_clients_no_operation_burns_more_than_a_fifth_more_fuel_than_with_10() {
    let Some(core) = core() else { return };
    let (few, many) = (measure(&core, 10), measure(&core, 10_000));
    println!("{:>8} {:>8} {:>6}", "10", "10,000", "ratio");
    let mut over = Vec::new();
    for (((what, _), few), many) in BUDGETS.into_iter().zip(few).zip(many) {
        let ratio = many as f64 / few as f64;
        println!("{few:>8} {many:>8} {ratio:>6.2}  {what}");
        if many * 10 > few * 12 {
            over.push(format!("{what}: {many}, and {few} with ten clients"));
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}

/// What was announced and not answered is found without a search. (Each port comes
/// before those that were asked for earlier, which a list in order minds most.)
#[test]
fn among_5000_unanswered_announcements_one_burns_at_most_a_fifth_more_fuel_than_among_10() {
    let core = Core::embedded().expect("the component fits");
    let measured = [10, 5_000].map(|crowd| {
        let mut meter = Meter::new(&core, among(crowd), None);
        let mut asked = Vec::new();
        let mut ask = |meter: &mut Meter| asked.push(meter.ask_for(60_000 - asked.len() as u32));
        for _ in 0..crowd {
            ask(&mut meter);
        }
        let asking = meter.average(ask);
        let bound = meter.average(Meter::bound);
        let mut listeners = asked.into_iter();
        let hangup = meter.average(|meter| {
            assert!(listeners.next().is_some_and(|id| meter.control(id, b"hangup")));
        });
        [asking, bound, hangup]
    });
    let [few, many] = measured;
    for ((what, few), many) in ["asked for", "bound", "hung up"].into_iter().zip(few).zip(many) {
        println!("{few:>8} {many:>8}  {what}");
        assert!(many * 10 <= few * 12, "{what}: {many}, and {few} among ten");
    }
}

/// Of thousands of requests that wait at one client any is given up for what it costs
/// where few do.
#[test]
fn among_40_000_requests_of_a_client_one_is_flushed_for_a_fifth_more_fuel_than_among_400() {
    let Some(core) = core() else { return };
    type Ask = fn(&mut Meter, Line) -> bool;
    let kinds: [(&str, Ask); 3] = [
        ("read", |meter, line| meter.read(line, 1)),
        ("write", |meter, line| meter.write(line, b"x")),
        ("listen", |meter, line| {
            let request = meter.request();
            completed(&meter.call(|engine| engine.listen(request, line.id)))
        }),
    ];
    for (what, ask) in kinds {
        let burnt = [400, 40_000].map(|crowd| {
            let mut meter = Meter::new(&core, Limits { requests: crowd, ..among(1) }, None);
            let line = if what == "listen" {
                let id = meter.ask_for(99);
                meter.bound();
                Line { id, ours: 0 }
            } else {
                meter.dial_with(0, 0)
            };
            let first = meter.requests + 1;
            assert!((0..crowd).all(|_| !ask(&mut meter, line)));
            // From the middle on, where it is the farthest from both ends.
            let mut request = first + u64::from(crowd / 2 - TIMES / 2);
            meter.average(|meter| {
                assert!(!meter.call(|engine| engine.flush(request)).is_empty());
                request += 1;
            })
        });
        println!("{what}: {burnt:?}");
        assert!(burnt[1] * 10 <= burnt[0] * 12, "{what}: {burnt:?}");
    }
}

/// Names are the choice of whoever announces them. However alike they are, four times
/// as many are announced on a new pipe for little more than four times as much.
#[test]
fn listeners_are_announced_again_in_proportion_to_their_number_whatever_their_names() {
    let Some(core) = core() else { return };
    let burnt = [500, 2_000].map(|crowd| {
        let mut meter = Meter::new(&core, among(crowd), None);
        for number in 0..crowd {
            let request = meter.request();
            let id = meter.made(|engine| engine.clone_client(request, Protocol::Unix));
            let text = format!("announce /{}{number:04}", "a".repeat(100));
            assert!(!meter.control(id, text.as_bytes()));
            meter.bound();
        }
        meter.call(|engine| engine.pipe_down("gone"));
        let before = meter.burnt;
        let asked = meter.call(Engine::pipe_up).len();
        assert_eq!(asked, crowd as usize);
        meter.burnt - before
    });
    println!("{burnt:?}");
    assert!(burnt[1] * 10 <= burnt[0] * 48, "{burnt:?}");
}

/// The lines of a control message are found in one go: four times as many cost four
/// times as much.
#[test]
fn a_control_message_burns_fuel_in_proportion_to_its_lines() {
    let Some(core) = core() else { return };
    let mut meter = Meter::new(&core, Limits { line: 1 << 18, ..among(1) }, None);
    let line = meter.dial();
    let burnt = [1 << 16, 1 << 18].map(|lines| {
        let before = meter.burnt;
        assert!(meter.control(line.id, &vec![b'\n'; lines]));
        meter.burnt - before
    });
    println!("{burnt:?}");
    assert!(burnt[1] * 10 <= burnt[0] * 44, "{burnt:?}");
}

/// A session for so many clients in a sandbox of so many bytes, of which the
/// component has 1 MiB for its stack.
fn confined(core: &Core, clients: u32, memory: usize) -> Meter {
    Meter::new(core, Limits { clients, requests: 1 << 16, ..among(1) }, Some(memory))
}

/// 64 writes of 1 MiB of which the peer takes all but a byte each: what counts as
/// waiting is 64 bytes, and what they hold is not 64 MiB.
#[test]
fn a_write_that_is_almost_sent_holds_almost_no_memory() {
    const BYTES: usize = 1 << 20;
    let Some(core) = core() else { return };
    let mut meter = confined(&core, 64, 16 << 20);
    let bytes = vec![7; BYTES];
    for _ in 0..64 {
        let line = meter.dial_with(0, BYTES as u32 - 1);
        assert!(!meter.write(line, &bytes));
    }
    assert_eq!(meter.engine.statistics().expect("no trap").queued, 64);
}

/// As much in what comes, in large messages and in small ones, of which all but a
/// byte is read: the peer may then close, and nobody need come back for the byte.
#[test]
fn data_that_is_almost_read_holds_almost_no_memory() {
    let Some(core) = core() else { return };
    for pieces in [vec![LARGE], vec![4_000; 4], vec![LARGE, 4_000, 4_000]] {
        let mut meter = confined(&core, 2_000, 16 << 20);
        let all: usize = pieces.iter().sum();
        for _ in 0..2_000 {
            let line = meter.dial();
            for length in &pieces {
                meter.data_in(line, &vec![7; *length]);
            }
            assert!(meter.read(line, all - 1));
            meter.hear(Message::Close { recipient: line.ours });
        }
        assert_eq!(meter.engine.statistics().expect("no trap").windows, 2_000);
    }
}

/// Ten conversations that had 17,000 reads and as many writes waiting, one after the
/// other, of which one of each is left.
#[test]
fn a_queue_that_was_long_holds_almost_no_memory() {
    const MANY: usize = 17_000;
    let Some(core) = core() else { return };
    let mut meter = confined(&core, 10, 10 << 20);
    for _ in 0..10 {
        let line = meter.dial_with(0, 0);
        for _ in 0..MANY {
            meter.read(line, 1);
        }
        for _ in 0..MANY {
            meter.write(line, b"x");
        }
        for _ in 0..16 {
            meter.data_in(line, &[7; 1_000]);
            meter.hear(Message::WindowAdjust { recipient: line.ours, bytes: 1_000 });
        }
        meter.data_in(line, &[7; 999]);
        meter.hear(Message::WindowAdjust { recipient: line.ours, bytes: 999 });
        let info = meter.engine.lookup(line.id.number).expect("no trap").expect("it is there");
        assert_eq!((info.requests, info.unsent), (2, 1));
    }
}

/// Many conversations that had 10,000 writes waiting, which then all went at once.
#[test]
fn a_queue_that_was_emptied_at_once_holds_almost_no_memory() {
    const MANY: u32 = 10_000;
    let Some(core) = core() else { return };
    let mut meter = confined(&core, 60, 10 << 20);
    for _ in 0..60 {
        let line = meter.dial_with(0, 0);
        for _ in 0..MANY {
            meter.write(line, b"x");
        }
        meter.hear(Message::WindowAdjust { recipient: line.ours, bytes: MANY });
        assert_eq!(meter.engine.statistics().expect("no trap").queued, 0);
    }
}

/// sshnet.c took 33 KB for each of such messages (defect 28). In a sandbox of 4 MiB, of
/// which the component has a stack of 1 MiB: more than some ten bytes for each would
/// trap.
#[test]
fn data_that_comes_byte_by_byte_is_held_in_little_more_memory() {
    const BYTES: usize = 250_000;
    let Some(core) = core() else { return };
    let limits = Limits { window: 1 << 18, window_max: 1 << 18, ..among(1) };
    let mut meter = Meter::new(&core, limits, Some(4 << 20));
    let line = meter.dial();
    for _ in 0..BYTES {
        meter.data_in(line, b"x");
    }
    let info = meter.engine.lookup(line.id.number).expect("no trap").expect("it is there");
    assert_eq!(info.unread, BYTES as u64);
    assert!(meter.read(line, LARGE));
}
