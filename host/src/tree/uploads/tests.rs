//! Writes that wait, over a stack whose requests the test completes.

mod dials;

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use super::account::{INSIDE_MAX, Inside, PIECES_MAX};
use super::*;
use crate::engine::{Protocol, Reply};
use crate::tree::fake::{Asked, Fake, error};
use crate::tree::{Access, Capacity, ClientFile, Failure, Handle, Node, Tree};

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

/// The engine's words.
fn full() -> Error {
    error(ErrorCode::ResourceExhausted, "too many requests are outstanding")
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
        Self::over(Fake::default())
    }

    /// The same over a stack that takes so few requests.
    fn crowded(requests: u32) -> Self {
        let fake = Fake::default();
        fake.takes(Capacity { clients: 100, requests, queued: 256 << 20 });
        Self::over(fake)
    }

    fn over(fake: Fake) -> Self {
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

    /// Whatever is parked, somebody comes for it; and it is in order.
    fn holds_together(&self) {
        let state = self.tree.shared.uploads.lock();
        for conversation in state.conversations.values() {
            assert!(conversation.order.iter().is_sorted());
            let somebody = conversation.pieces > 0 || conversation.feeder != Feeder::Away;
            assert!(somebody || conversation.order.is_empty());
        }
        let waiting: usize = state.parked.values().map(Parked::unsent).sum();
        assert_eq!(state.waiting, waiting as u64);
    }

    /// Nothing of what is written waits.
    fn is_idle(&self) -> bool {
        self.tree.shared.uploads.lock().conversations.is_empty()
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
async fn a_write_that_went_straight_is_told_of_a_refusal() {
    let scene = Scene::new();
    scene.fake.refuse(0, 1);
    let (refused, next) = (scene.write(b'a', 10), scene.write(b'b', 10));
    assert_eq!(refused.outcome(), Some(Err(Failure::from(full()))));
    assert_eq!(scene.inside(), ["b10"]);
    scene.taken(10);
    assert_eq!(next.outcome(), Some(Ok(10)));
    scene.is_empty();
}

#[tokio::test]
async fn a_refused_piece_is_sent_later_and_nothing_overtakes_it() {
    let scene = Scene::new();
    let (large, behind) = (scene.write(b'a', 2_500), scene.write(b'b', 10));
    // Nothing is inside then that would wake the feeder.
    scene.fake.refuse(0, 3);
    scene.taken(1_000);
    scene.becomes(&["a1000"]).await;
    assert_eq!((scene.fake.refused(), large.outcome()), (3, None));
    scene.taken(1_000);
    scene.becomes(&["a500", "b10"]).await;
    scene.taken(500);
    scene.taken(10);
    assert_eq!((large.outcome(), behind.outcome()), (Some(Ok(2_500)), Some(Ok(10))));
    scene.is_empty();
}

#[tokio::test]
async fn a_refused_piece_waits_for_what_is_inside() {
    let scene = Scene::new();
    let writes = [
        scene.write(b'a', 1_000),
        scene.write(b'b', 300),
        scene.write(b'c', 300),
        scene.write(b'd', 300),
    ];
    scene.fake.refuse(1, 1);
    scene.taken(1_000);
    scene.becomes(&["b300"]).await;
    tokio::time::sleep(5 * AGAIN).await;
    assert_eq!((scene.inside(), scene.fake.refused()), (vec!["b300".to_owned()], 1));
    scene.taken(300);
    scene.becomes(&["c300", "d300"]).await;
    scene.taken(300);
    scene.taken(300);
    for (write, count) in writes.iter().zip([1_000, 300, 300, 300]) {
        assert_eq!(write.outcome(), Some(Ok(count)));
    }
    scene.is_empty();
}

#[tokio::test]
async fn a_stack_that_stays_full_is_not_kept_busy() {
    let scene = Scene::new();
    scene.fake.refuse(0, usize::MAX);
    let began = std::time::Instant::now();
    let large = scene.write(b'a', 2_500);
    for _ in 0..100 {
        // Neither by those who come and go.
        let other = scene.write(b'b', 10);
        scene.tree.flush(other.name());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let most = began.elapsed().as_millis() / AGAIN.as_millis() + 1;
    assert!(scene.fake.refused() as u128 <= most, "{} and not {most}", scene.fake.refused());
    scene.tree.flush(large.name());
    assert_eq!(large.outcome(), Some(Err(Failure::INTERRUPTED)));
    // The feeder was to come again.
    tokio::time::sleep(5 * AGAIN).await;
    scene.is_empty();
}

#[tokio::test]
async fn a_refused_write_that_is_flushed_says_what_was_taken() {
    let scene = Scene::new();
    let (large, behind) = (scene.write(b'a', 2_500), scene.write(b'b', 10));
    scene.fake.refuse(0, 1);
    scene.taken(1_000);
    while scene.fake.refused() == 0 {
        tokio::task::yield_now().await;
    }
    scene.tree.flush(large.name());
    assert_eq!(large.outcome(), Some(Ok(1_000)));
    scene.becomes(&["b10"]).await;
    scene.taken(10);
    assert_eq!(behind.outcome(), Some(Ok(10)));
    scene.is_empty();
}

#[tokio::test]
async fn a_refused_end_of_writing_comes_later() {
    let scene = Scene::new();
    let (first, ended) = (scene.write(b'a', 1_500), scene.control("closewrite"));
    scene.taken(1_000);
    scene.fake.refuse(1, 1);
    scene.becomes(&["a500"]).await;
    assert_eq!(scene.fake.refused(), 1);
    scene.taken(500);
    assert_eq!((first.outcome(), ended.outcome()), (Some(Ok(1_500)), None));
    scene.becomes(&["closewrite"]).await;
    scene.fake.complete(Ok(Reply::Done));
    assert_eq!(ended.outcome(), Some(Ok(10)));
    scene.is_empty();
}

/// What else it says may have had an effect.
#[tokio::test]
async fn a_refused_end_of_writing_is_not_repeated_with_more() {
    let scene = Scene::new();
    let text = "closewrite\nannounce *!7";
    let (_first, ended) = (scene.write(b'a', 1_500), scene.control(text));
    scene.taken(1_000);
    scene.becomes(&["a500", text]).await;
    scene.taken(500);
    scene.fake.complete(Err(full()));
    assert_eq!(ended.outcome(), Some(Err(Failure::from(full()))));
    scene.is_empty();
}

/// It is not for want of room here then: so does a dial fail that the far side has no
/// room for, and the engine is not asked again.
#[tokio::test]
async fn a_late_refusal_ends_what_is_behind() {
    for parked in [false, true] {
        let scene = Scene::new();
        let first = scene.write(b'a', if parked { 1_500 } else { 1_000 });
        if parked {
            scene.taken(1_000);
            scene.becomes(&["a500"]).await;
        }
        let behind = [scene.write(b'b', 400), scene.write(b'c', 900), scene.control("closewrite")];
        scene.fake.complete(Err(full()));
        let failure = Some(Err(Failure::from(full())));
        assert_eq!(first.outcome(), if parked { Some(Ok(1_000)) } else { failure.clone() });
        if parked {
            // It was inside.
            assert_eq!(behind[0].outcome(), None);
            scene.fake.complete(Err(full()));
        }
        for write in behind {
            assert_eq!(write.outcome(), failure);
        }
        tokio::time::sleep(3 * AGAIN).await;
        scene.is_empty();
    }
}

#[tokio::test]
async fn thousands_of_small_writes_are_fed_in_order_and_a_few_at_a_time() {
    const COUNT: usize = 200_000;
    let scene = Scene::new();
    let began = std::time::Instant::now();
    let _straight = scene.write(b'a', 1_000);
    let over = Arc::new(Mutex::new(Vec::new()));
    for number in 0..COUNT {
        let over = Arc::clone(&over);
        let done = Box::new(move |outcome| {
            assert_eq!(outcome, Ok(1));
            lock(&over).push(number);
        });
        scene.data.write(&[number as u8], done);
    }
    scene.taken(1_000);
    let mut sent = Vec::new();
    while sent.len() < COUNT {
        let asked = scene.fake.asked();
        assert!(asked.len() <= PIECES_MAX, "{} at a time", asked.len());
        for what in asked {
            let Asked::Write(bytes) = what else { panic!("{what:?}") };
            sent.extend(bytes);
            scene.taken(1);
        }
        tokio::task::yield_now().await;
    }
    assert!(sent.iter().enumerate().all(|(number, byte)| *byte == number as u8));
    assert!(lock(&over).iter().copied().eq(0..COUNT));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    scene.is_empty();
}

/// Thousands that are given up on are, too, from whichever end.
#[tokio::test]
async fn thousands_of_small_writes_can_be_flushed() {
    for last_first in [false, true] {
        let scene = Scene::new();
        let _straight = scene.write(b'a', 1_000);
        let mut writes: Vec<_> = (0..50_000).map(|_| scene.write(b'b', 1)).collect();
        if last_first {
            writes.reverse();
        }
        let began = std::time::Instant::now();
        for write in &writes {
            scene.tree.flush(write.name());
            assert_eq!(write.outcome(), Some(Err(Failure::INTERRUPTED)));
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        scene.taken(1_000);
        scene.is_empty();
    }
}

#[tokio::test]
async fn small_writes_that_wait_go_straight_only_up_to_a_number() {
    let scene = Scene::new();
    let writes: Vec<_> = (0..=PIECES_MAX).map(|_| scene.write(b'a', 1)).collect();
    assert_eq!(scene.inside().len(), PIECES_MAX);
    scene.taken(1);
    scene.becomes(&["a1"; PIECES_MAX]).await;
    (0..PIECES_MAX).for_each(|_| scene.taken(1));
    assert!(writes.iter().all(|write| write.outcome() == Some(Ok(1))));
    scene.is_empty();
}

#[tokio::test]
async fn others_can_ask_while_conversations_have_thousands_parked() {
    let fake = Fake::default();
    fake.takes(Capacity { clients: 100, requests: 400, queued: 256 << 20 });
    let uploads = Uploads::new(Arc::new(fake.clone()));
    let clients: Vec<_> = (0..20).map(|_| fake.make(Protocol::Tcp)).collect();
    let over = Arc::new(Mutex::new(0));
    for client in &clients {
        for _ in 0..2_000 {
            let over = Arc::clone(&over);
            let done = Box::new(move |outcome| {
                // Those that go straight may be refused.
                if outcome == Ok(Reply::Count(1)) {
                    *lock(&over) += 1;
                }
            });
            uploads.write(*client, b"x", done);
        }
        // What is next finds room: those of before have handed on what they may.
        while fake.outstanding() > 250 {
            fake.complete(Ok(Reply::Count(1)));
        }
        tokio::task::yield_now().await;
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while *lock(&over) < clients.len() * 2_000 {
        assert!(std::time::Instant::now() < deadline, "{} are over", *lock(&over));
        for _ in 0..fake.outstanding().min(7) {
            fake.complete(Ok(Reply::Count(1)));
        }
        tokio::task::yield_now().await;
        // A quarter is free, but for one of each.
        assert!(fake.outstanding() <= 300 + clients.len(), "{}", fake.outstanding());
    }
    assert!(uploads.lock().conversations.is_empty());
}

/// Though those who ask directly have taken up all but one.
#[tokio::test]
async fn a_crowded_stack_gets_one_request_at_a_time_of_what_is_parked() {
    let scene = Scene::crowded(100);
    let others: Vec<_> = (0..90).map(|_| scene.control("hangup")).collect();
    let writes = [scene.write(b'a', 1_000), scene.write(b'b', 300), scene.write(b'c', 300)];
    let writing = |scene: &Scene| scene.inside().split_off(90);
    assert_eq!(writing(&scene), ["a1000"]);
    for (byte, count) in ["b300", "c300"].into_iter().zip([1_000, 300]) {
        scene.fake.complete_last(Ok(Reply::Count(count)));
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(writing(&scene), [byte]);
    }
    scene.fake.complete_last(Ok(Reply::Count(300)));
    assert_eq!(writes[2].outcome(), Some(Ok(300)));
    others.iter().for_each(|_| scene.fake.complete(Ok(Reply::Done)));
    scene.is_empty();
}

#[tokio::test]
async fn others_get_their_turn_while_much_is_fed() {
    let scene = Scene::new();
    let _straight = scene.write(b'a', 1_000);
    for _ in 0..20_000 {
        scene.write(b'b', 1);
    }
    scene.fake.take_at_once();
    scene.taken(1_000);
    let mut before = 0;
    while before < 20_000 {
        tokio::task::yield_now().await;
        let now = scene.fake.taken_at_once().len();
        assert!(now - before <= FEED_MAX, "{} in one turn", now - before);
        before = now;
    }
    // It need not be told of each that is over.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    scene.is_empty();
}

/// Writes, refusals, flushes and dials come as they may: of each write that much is
/// sent as it says, in order, and in the conversation that it was made for.
#[tokio::test]
async fn the_stream_is_what_the_answers_say() {
    for seed in 1..=300_u64 {
        let mut random = seed;
        let mut below = |limit: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % limit
        };
        let scene = Scene::new();
        // A conversation is its number; who is sent what is known only when it is.
        let (mut conversation, mut writes, mut sent) = (0, Vec::new(), Vec::new());
        let mut take_one = |scene: &Scene, conversation: u32, fails: bool| {
            let asked = scene.fake.asked().into_iter().next();
            match asked {
                Some(Asked::Write(bytes)) => {
                    scene.taken(bytes.len() as u32);
                    sent.extend(bytes.into_iter().map(|byte| (conversation, byte)));
                }
                // A dial. All that was to begin the conversation fails with it.
                Some(_) if fails => {
                    while scene.fake.outstanding() > 0 {
                        scene.fake.complete(Err(full()));
                    }
                }
                Some(_) => scene.fake.complete(Ok(Reply::Done)),
                None => {}
            }
        };
        for _ in 0..200 {
            match below(13) {
                0..4 => {
                    let count = [1, 10, 400, 1_000, 2_500][below(5)];
                    let byte = writes.len() as u8;
                    writes.push((conversation, byte, scene.write(byte, count)));
                }
                4 | 5 => scene.fake.refuse(below(3), below(4)),
                6 | 7 if !writes.is_empty() => {
                    let recent = writes.len().min(8);
                    let (_, _, write) = &writes[writes.len() - 1 - below(recent)];
                    if let Some(request) = write.request {
                        scene.tree.flush(request);
                    }
                }
                8 => {
                    let waiting = scene.fake.outstanding();
                    let dialled = scene.control("hangup\nconnect far!80");
                    if dialled.outcome().is_none() {
                        // The engine would have done so within the call.
                        let hung_up = error(ErrorCode::HungUp, "i/o on hungup channel");
                        (0..waiting).for_each(|_| scene.fake.complete(Err(hung_up.clone())));
                        conversation += 1;
                    }
                }
                9 | 10 => tokio::task::yield_now().await,
                _ => take_one(&scene, conversation, below(4) == 0),
            }
            scene.holds_together();
        }
        scene.fake.refuse(0, 2);
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while scene.fake.outstanding() > 0 || !scene.is_idle() {
            assert!(std::time::Instant::now() < deadline, "seed {seed} waits for ever");
            take_one(&scene, conversation, false);
            tokio::task::yield_now().await;
        }
        let mut expected = Vec::new();
        for (conversation, byte, write) in writes {
            let count = write.outcome().expect("it is over").unwrap_or(0);
            expected.extend(std::iter::repeat_n((conversation, byte), count as usize));
        }
        assert!(sent == expected, "seed {seed}");
        scene.is_empty();
    }
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
