//! Writes that wait, over a stack whose requests the test completes.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use super::*;
use crate::engine::Protocol;
use crate::tree::fake::{Asked, Fake, error};
use crate::tree::{Access, ClientFile, Failure, Handle, Node, Tree};

/// A part that a conversation gets for itself is so many bytes here.
const MOST: usize = 1_000;

/// A stack, a tree over it, and a client's `ctl` and `data`.
struct Scene {
    fake: Fake,
    tree: Tree,
    client: ClientId,
    ctl: Handle,
    data: Handle,
}

/// A write that was made.
struct Written {
    request: Option<RequestId>,
    told: Receiver<Result<u32, Failure>>,
}

impl Written {
    /// How it ended, if it has.
    fn outcome(&self) -> Option<Result<u32, Failure>> {
        match self.told.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("it is told once"),
        }
    }

    fn name(&self) -> RequestId {
        self.request.expect("it may be outstanding")
    }
}

impl Scene {
    /// In which a conversation that waits alone has [`MOST`] bytes inside.
    fn new() -> Self {
        let fake = Fake::default();
        let tree = fake.tree();
        tree.shared.uploads.lock().inside = Inside { floor: MOST as u64, pool: 0, used: 0 };
        let client = fake.make(Protocol::Tcp);
        let open = |file| {
            let (sender, receiver) = channel();
            let node = Node::File(Protocol::Tcp, client, file);
            let done = Box::new(move |opened| sender.send(opened).expect("it is awaited"));
            tree.open(node, Access::ReadWrite, done);
            receiver.try_recv().expect("at once").expect("it is there")
        };
        let (ctl, data) = (open(ClientFile::Ctl), open(ClientFile::Data));
        Self { fake, tree, client, ctl, data }
    }

    fn to(file: &Handle, bytes: &[u8]) -> Written {
        let (sender, told) = channel();
        // Nobody may be left to be told.
        let request = file.write(bytes, Box::new(move |outcome| drop(sender.send(outcome))));
        Written { request, told }
    }

    /// Writes so many of these.
    fn write(&self, byte: u8, count: usize) -> Written {
        Self::to(&self.data, &vec![byte; count])
    }

    fn control(&self, text: &str) -> Written {
        Self::to(&self.ctl, text.as_bytes())
    }

    /// What the stack has, in short: a letter and how many of it, or a text.
    fn inside(&self) -> Vec<String> {
        let asked = self.fake.asked();
        let name = |asked| match asked {
            Asked::Write(bytes) => format!("{}{}", char::from(bytes[0]), bytes.len()),
            Asked::Control(text) => String::from_utf8(text).expect("a text"),
            other => panic!("{other:?}"),
        };
        asked.into_iter().map(name).collect()
    }

    /// Waits until the feeder has done this.
    async fn becomes(&self, inside: &[&str]) {
        for _ in 0..2_000 {
            if self.inside() == inside {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{:?} and not {inside:?}", self.inside());
    }

    /// The oldest piece is taken whole.
    fn taken(&self, count: u32) {
        self.fake.complete(Ok(Reply::Count(count)));
    }

    /// Nothing is kept of what is over.
    fn is_empty(&self) {
        let state = self.tree.shared.uploads.lock();
        assert!(state.conversations.is_empty() && state.parked.is_empty());
        assert_eq!((state.waiting, state.inside.used), (0, 0));
        assert_eq!(self.fake.asked(), []);
    }
}

#[tokio::test]
async fn what_fits_goes_straight_to_the_stack() {
    let scene = Scene::new();
    let (first, second) = (scene.write(b'a', 600), scene.write(b'b', 400));
    assert_eq!(scene.inside(), ["a600", "b400"]);
    assert!(matches!((first.name(), second.name()), (RequestId::Stack(_), RequestId::Stack(_))));
    scene.taken(600);
    assert_eq!((first.outcome(), second.outcome()), (Some(Ok(600)), None));
    scene.tree.flush(second.name());
    assert_eq!(second.outcome(), Some(Err(Failure::INTERRUPTED)));
    scene.is_empty();
}

#[tokio::test]
async fn what_does_not_fit_waits_and_keeps_its_place() {
    let scene = Scene::new();
    let writes = [
        scene.write(b'a', 900),
        scene.write(b'b', 200),
        // It would fit, and does not overtake.
        scene.write(b'c', 50),
        scene.write(b'd', 800),
    ];
    assert_eq!(scene.inside(), ["a900"]);
    scene.taken(900);
    assert_eq!(writes[0].outcome(), Some(Ok(900)));
    scene.becomes(&["b200", "c50"]).await;
    scene.taken(200);
    scene.becomes(&["c50", "d800"]).await;
    let last = scene.write(b'e', 150);
    scene.taken(50);
    scene.taken(800);
    scene.taken(150);
    for (write, count) in writes[1..].iter().zip([200, 50, 800]) {
        assert_eq!(write.outcome(), Some(Ok(count)));
    }
    assert_eq!(last.outcome(), Some(Ok(150)));
    scene.is_empty();
}

#[tokio::test]
async fn a_write_that_never_fits_goes_in_pieces_and_is_answered_once() {
    let scene = Scene::new();
    let (large, small) = (scene.write(b'a', 2_500), scene.write(b'b', 10));
    // The first at once: nothing else would wake the feeder.
    assert_eq!(scene.inside(), ["a1000"]);
    scene.taken(1_000);
    scene.becomes(&["a1000"]).await;
    assert_eq!(large.outcome(), None);
    scene.taken(1_000);
    scene.becomes(&["a500", "b10"]).await;
    scene.taken(500);
    assert_eq!((large.outcome(), small.outcome()), (Some(Ok(2_500)), None));
    scene.taken(10);
    assert_eq!(small.outcome(), Some(Ok(10)));
    scene.is_empty();
}

#[tokio::test]
async fn a_write_of_nothing_never_waits() {
    let scene = Scene::new();
    let _full = scene.write(b'a', 2_000);
    assert!(matches!(Scene::to(&scene.data, b"").name(), RequestId::Stack(_)));
}

#[tokio::test]
async fn a_parked_write_that_is_flushed_has_no_effect() {
    let scene = Scene::new();
    let writes = [scene.write(b'a', 1_000), scene.write(b'b', 500), scene.write(b'c', 500)];
    scene.tree.flush(writes[1].name());
    assert_eq!(writes[1].outcome(), Some(Err(Failure::INTERRUPTED)));
    // Of what is over nothing is heard.
    scene.tree.flush(writes[1].name());
    scene.taken(1_000);
    scene.becomes(&["c500"]).await;
    scene.taken(500);
    assert_eq!(writes[2].outcome(), Some(Ok(500)));
    scene.is_empty();
}

#[tokio::test]
async fn a_write_flushed_between_two_pieces_says_what_was_taken() {
    let scene = Scene::new();
    let (large, behind) = (scene.write(b'a', 2_500), scene.write(b'b', 10));
    scene.taken(1_000);
    // The feeder has not run: this task has not waited.
    assert_eq!(scene.inside(), Vec::<String>::new());
    scene.tree.flush(large.name());
    assert_eq!(large.outcome(), Some(Ok(1_000)));
    scene.becomes(&["b10"]).await;
    scene.taken(10);
    assert_eq!(behind.outcome(), Some(Ok(10)));
    scene.is_empty();
}

#[tokio::test]
async fn a_write_flushed_within_a_piece_adds_what_is_on_its_way() {
    let scene = Scene::new();
    scene.fake.flush_writes_after(7);
    let (large, behind) = (scene.write(b'a', 2_500), scene.write(b'b', 10));
    scene.taken(1_000);
    scene.becomes(&["a1000"]).await;
    scene.tree.flush(large.name());
    assert_eq!(large.outcome(), Some(Ok(1_007)));
    scene.becomes(&["b10"]).await;
    scene.taken(10);
    assert_eq!(behind.outcome(), Some(Ok(10)));
    scene.is_empty();
}

#[tokio::test]
async fn a_write_flushed_within_its_first_piece_is_interrupted() {
    let scene = Scene::new();
    let large = scene.write(b'a', 2_500);
    assert_eq!(scene.inside(), ["a1000"]);
    scene.tree.flush(large.name());
    assert_eq!(large.outcome(), Some(Err(Failure::INTERRUPTED)));
    scene.is_empty();
}

#[tokio::test]
async fn an_error_in_the_middle_is_told_at_the_next_write() {
    let scene = Scene::new();
    let (large, behind) = (scene.write(b'a', 2_500), scene.write(b'b', 10));
    scene.taken(1_000);
    scene.becomes(&["a1000"]).await;
    scene.fake.complete(Err(error(ErrorCode::ConnectionReset, "reset")));
    assert_eq!(large.outcome(), Some(Ok(1_000)));
    // And what waits behind it need not ask.
    let failure = Failure::from(error(ErrorCode::ConnectionReset, "reset"));
    assert_eq!(behind.outcome(), Some(Err(failure)));
    scene.is_empty();
}

#[tokio::test]
async fn a_refusal_ends_the_write_that_is_refused_and_no_other() {
    let scene = Scene::new();
    let (large, behind) = (scene.write(b'a', 2_500), scene.write(b'b', 10));
    let full = error(ErrorCode::ResourceExhausted, "too many requests are outstanding");
    scene.fake.complete(Err(full.clone()));
    assert_eq!(large.outcome(), Some(Err(Failure::from(full))));
    scene.becomes(&["b10"]).await;
    scene.taken(10);
    assert_eq!(behind.outcome(), Some(Ok(10)));
    scene.is_empty();
}

#[tokio::test]
async fn an_end_of_the_conversation_ends_all_that_is_parked_in_order() {
    let scene = Scene::new();
    let straight = scene.write(b'a', 1_000);
    let order = Arc::new(Mutex::new(Vec::new()));
    for number in 0..10 {
        let order = Arc::clone(&order);
        let done = Box::new(move |outcome: Result<u32, Failure>| {
            assert_eq!(outcome.expect_err("it failed").text(), "hungup");
            lock(&order).push(number);
        });
        scene.data.write(&[b'b'; 900], done);
    }
    let ended = scene.control("closewrite");
    scene.fake.complete(Err(error(ErrorCode::HungUp, "hungup")));
    assert_eq!(straight.outcome().map(|outcome| outcome.is_err()), Some(true));
    assert_eq!(*lock(&order), (0..10).collect::<Vec<_>>());
    assert_eq!(ended.outcome().map(|outcome| outcome.is_err()), Some(true));
    scene.is_empty();
}

#[tokio::test]
async fn the_last_reference_ends_what_is_parked() {
    let scene = Scene::new();
    let (large, behind) = (scene.write(b'a', 2_500), scene.write(b'b', 10));
    scene.ctl.close();
    scene.data.close();
    scene.fake.release(scene.client);
    for write in [&large, &behind] {
        let outcome = write.outcome().expect("it is over");
        assert_eq!(outcome.expect_err("its client is gone").text(), "hungup");
    }
    scene.is_empty();
}

#[tokio::test]
async fn an_end_of_writing_comes_after_the_writes_before_it() {
    let scene = Scene::new();
    let (first, second) = (scene.write(b'a', 1_000), scene.write(b'b', 1_000));
    let ended = scene.control("keepalive\ncloseWrite\n");
    let text = "\n accept 3\nclosewrite\n";
    let (ended_after, late) = (scene.control(text), scene.write(b'c', 10));
    // What is no end of writing does not wait: nor what is misspelled.
    assert_eq!(scene.inside(), ["a1000", "keepalive\ncloseWrite\n"]);
    scene.taken(1_000);
    scene.becomes(&["keepalive\ncloseWrite\n", "b1000", text]).await;
    scene.fake.complete(Ok(Reply::Done));
    assert_eq!(ended.outcome(), Some(Ok(21)));
    scene.taken(1_000);
    assert_eq!((first.outcome(), second.outcome()), (Some(Ok(1_000)), Some(Ok(1_000))));
    scene.becomes(&[text, "c10"]).await;
    scene.fake.complete(Ok(Reply::Done));
    assert_eq!(ended_after.outcome(), Some(Ok(text.len() as u32)));
    scene.fake.complete(Err(error(ErrorCode::HungUp, "hungup")));
    assert_eq!(late.outcome().map(|outcome| outcome.is_err()), Some(true));
    scene.is_empty();
}

#[tokio::test]
async fn an_end_of_writing_can_be_flushed_while_it_waits_and_then() {
    let scene = Scene::new();
    let (_first, _second) = (scene.write(b'a', 1_000), scene.write(b'b', 1_000));
    let (one, two) = (scene.control("closewrite"), scene.control("closewrite"));
    scene.tree.flush(one.name());
    assert_eq!(one.outcome(), Some(Err(Failure::INTERRUPTED)));
    scene.taken(1_000);
    scene.becomes(&["b1000", "closewrite"]).await;
    scene.tree.flush(two.name());
    assert_eq!(two.outcome(), Some(Err(Failure::INTERRUPTED)));
    scene.taken(1_000);
    scene.is_empty();
}

#[tokio::test]
async fn a_new_conversation_gets_nothing_of_the_last_one() {
    let scene = Scene::new();
    let (straight, parked) = (scene.write(b'a', 1_000), scene.write(b'b', 1_000));
    // The stack takes the one just before the client hangs up and dials, and the
    // feeder does not come to run.
    scene.taken(1_000);
    let dialled = scene.control("hangup\nconnect far!80");
    scene.fake.complete(Ok(Reply::Done));
    assert_eq!(dialled.outcome(), Some(Ok(21)));
    assert_eq!(straight.outcome(), Some(Ok(1_000)));
    let outcome = parked.outcome().expect("it is over");
    assert_eq!(outcome.expect_err("its conversation is").text(), "i/o on hungup channel");
    tokio::time::sleep(Duration::from_millis(20)).await;
    scene.is_empty();
}

#[tokio::test]
async fn a_dial_that_fails_ends_nothing() {
    let scene = Scene::new();
    let (_straight, parked) = (scene.write(b'a', 1_000), scene.write(b'b', 1_000));
    scene.taken(1_000);
    scene.control("connect far!80");
    scene.fake.complete(Err(error(ErrorCode::IsConnected, "the client is in use")));
    scene.becomes(&["b1000"]).await;
    scene.taken(1_000);
    assert_eq!(parked.outcome(), Some(Ok(1_000)));
    scene.is_empty();
}

#[tokio::test]
async fn an_answer_of_more_than_was_given_is_not_passed_on() {
    let scene = Scene::new();
    let large = scene.write(b'a', 1_500);
    scene.taken(u32::MAX);
    scene.becomes(&["a500"]).await;
    scene.taken(u32::MAX);
    assert_eq!(large.outcome(), Some(Ok(1_500)));
    scene.is_empty();
}

#[tokio::test]
async fn what_is_parked_has_a_limit() {
    let scene = Scene::new();
    let _straight = scene.write(b'a', 1_000);
    scene.tree.shared.uploads.lock().waiting = PARKED_MAX - 10;
    let (fits, refused) = (scene.write(b'b', 8), scene.write(b'c', 3));
    assert_eq!(fits.outcome(), None);
    let failure = refused.outcome().expect("at once").expect_err("it is too much");
    assert_eq!(failure, Failure::from(refusal()));
    assert_eq!(scene.tree.waiting_free(), 2);
    // Who waits for nothing is not concerned.
    let other = scene.fake.make(Protocol::Tcp);
    let (sender, _told) = channel();
    let done = Box::new(move |outcome| drop(sender.send(outcome)));
    let request = scene.tree.shared.uploads.write(other, b"x", done);
    assert!(matches!(request, Some(RequestId::Stack(_))));
}

#[test]
fn however_many_wait_the_limit_is_not_reached_and_each_has_something() {
    let limit = 256 << 20;
    let mut inside = Inside::new(limit, 12_000);
    let mut total = 0;
    assert_eq!(inside.most(), INSIDE_MAX);
    for held in 0..12_000 {
        let most = inside.most();
        assert!(most >= 4 << 10, "{most} for one beside {held}");
        inside.change(0, most);
        total += most;
        assert!(total <= limit, "{total} bytes of {held}");
    }
    // Half a MiB for the hundredth.
    let mut inside = Inside::new(limit, 12_000);
    for _ in 0..100 {
        inside.change(0, inside.most());
    }
    assert!(inside.most() > 1 << 19, "{}", inside.most());
}

#[test]
fn limits_that_make_no_sense_still_let_a_byte_through() {
    for (limit, clients) in [(0, 0), (0, 12_000), (10, u32::MAX), (u64::MAX, u32::MAX)] {
        let mut inside = Inside::new(limit, clients);
        let most = inside.most();
        assert!((1..=INSIDE_MAX).contains(&most), "{limit} {clients}");
        inside.change(0, most);
        inside.change(most, 0);
        assert_eq!(inside.most(), most);
    }
}
