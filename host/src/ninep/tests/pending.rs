//! Requests that wait: flushed, clunked, abandoned, too many.

use super::super::table::{Cost, Frame, Shared};
use super::*;
use crate::engine::{ErrorCode, Protocol, Reply as Done};
use crate::tree::fake::{Asked, error};
use crate::tree::{Capacity, RequestId};

/// A connection with a client: its `ctl` as fid 1, its `data` as fid 2.
async fn dialled(fake: &Fake) -> Wire {
    let mut wire = Wire::plan9(fake).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    wire
}

async fn waits(fake: &Fake, count: usize) {
    until("requests wait", || fake.asked().len() == count).await;
}

#[tokio::test]
async fn a_flushed_read_is_not_answered() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    let read = wire.say(&Request::Read { fid: 2, offset: 0, count: 10 }).await;
    assert_eq!(wire.ask(&Request::Flush { oldtag: read }).await, "Rflush");
    assert_eq!(fake.asked(), []);
    // Its tag is free, and the file goes on.
    wire.say_as(read, &Request::Read { fid: 2, offset: 0, count: 10 }).await;
    waits(&fake, 1).await;
    fake.complete(Ok(Done::Data(b"x".to_vec())));
    assert_eq!(wire.hear(read).await, "Rread count 1 'x'");
}

#[tokio::test]
async fn what_took_effect_is_answered_before_its_rflush() {
    let fake = Fake::default();
    fake.flush_writes_after(2);
    let mut wire = dialled(&fake).await;
    let write = wire.say(&Request::Write { fid: 2, offset: 0, data: b"hello" }).await;
    let flush = wire.say(&Request::Flush { oldtag: write }).await;
    assert_eq!(wire.hear(write).await, "Rwrite count 2");
    assert_eq!(wire.hear(flush).await, "Rflush");
    wire.silence().await;
}

#[tokio::test]
async fn a_flush_of_nothing_of_a_flush_and_of_itself_is_answered() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    assert_eq!(wire.ask(&Request::Flush { oldtag: 4711 }).await, "Rflush");
    assert_eq!(wire.ask(&Request::Flush { oldtag: NOTAG }).await, "Rflush");
    wire.say_as(50, &Request::Flush { oldtag: 50 }).await;
    assert_eq!(wire.hear(50).await, "Rflush");
    // Of a request, of that flush, and of the request again, all at once.
    wire.say_as(60, &Request::Read { fid: 2, offset: 0, count: 10 }).await;
    wire.say_as(61, &Request::Flush { oldtag: 60 }).await;
    wire.say_as(62, &Request::Flush { oldtag: 61 }).await;
    wire.say_as(63, &Request::Flush { oldtag: 60 }).await;
    for tag in 61..=63 {
        assert_eq!(wire.hear(tag).await, "Rflush");
    }
    // With the tag of what it flushes.
    wire.say_as(70, &Request::Read { fid: 2, offset: 0, count: 10 }).await;
    wire.say_as(70, &Request::Flush { oldtag: 70 }).await;
    assert_eq!(wire.hear(70).await, "Rflush");
    wire.silence().await;
    assert_eq!(fake.asked(), []);
}

#[tokio::test]
async fn a_flushed_listen_opens_nothing_and_can_be_opened_again() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    wire.walk(0, 3, "tcp/0/listen").await;
    let open = wire.say(&Request::Open { fid: 3, mode: 2 }).await;
    waits(&fake, 1).await;
    // While it is being opened it is neither open nor a place to walk from.
    assert_eq!(wire.read(3, 0, 10).await, "Rerror ename bad use of fid");
    assert_eq!(wire.walk(3, 4, "").await, "Rerror ename cannot clone open fid");
    let again = wire.ask(&Request::Open { fid: 3, mode: 2 }).await;
    assert_eq!(again, "Rerror ename bad use of fid");
    assert_eq!(wire.ask(&Request::Flush { oldtag: open }).await, "Rflush");
    assert_eq!(fake.asked(), []);
    let open = wire.say(&Request::Open { fid: 3, mode: 2 }).await;
    waits(&fake, 1).await;
    fake.call();
    assert!(wire.hear(open).await.starts_with("Ropen"));
    assert_eq!(wire.read(3, 0, 10).await, "Rread count 1 '1'");
    assert_eq!(wire.clunk(3).await, "Rclunk");
    assert_eq!(fake.references(), [(0, 2)]);
}

#[tokio::test]
async fn a_listen_that_fails_leaves_the_fid_unopened() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    wire.walk(0, 3, "tcp/0/listen").await;
    let open = wire.say(&Request::Open { fid: 3, mode: 2 }).await;
    waits(&fake, 1).await;
    fake.complete(Err(error(ErrorCode::InvalidArgument, "no address set")));
    assert_eq!(wire.hear(open).await, "Rerror ename no address set");
    assert_eq!(wire.walk(3, 4, "").await, "Rwalk nwqid 0");
}

/// Entry 15 of sshnet.c's defects.
#[tokio::test]
async fn a_clunk_interrupts_what_waits_on_its_fid_and_nothing_else() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    wire.open(3, "tcp/0/data", 2).await;
    let read = wire.say(&Request::Read { fid: 2, offset: 0, count: 10 }).await;
    let other = wire.say(&Request::Read { fid: 3, offset: 0, count: 20 }).await;
    waits(&fake, 2).await;
    let clunk = wire.say(&Request::Clunk { fid: 2 }).await;
    assert_eq!(wire.hear(read).await, "Rerror ename Interrupted system call");
    assert_eq!(wire.hear(clunk).await, "Rclunk");
    assert_eq!(fake.asked(), [Asked::Read(20)]);
    fake.complete(Ok(Done::Data(Vec::new())));
    assert_eq!(wire.hear(other).await, "Rread count 0 ''");
    // A listen, too.
    wire.walk(0, 4, "tcp/0/listen").await;
    let open = wire.say(&Request::Open { fid: 4, mode: 2 }).await;
    waits(&fake, 1).await;
    let clunk = wire.say(&Request::Clunk { fid: 4 }).await;
    assert_eq!(wire.hear(open).await, "Rerror ename Interrupted system call");
    assert_eq!(wire.hear(clunk).await, "Rclunk");
    assert_eq!(fake.references(), [(0, 2)]);
}

/// Entry 15 of sshnet.c's defects: the server stood still for good.
#[tokio::test]
async fn the_last_clunk_of_a_client_answers_what_waits_on_it_elsewhere() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    wire.walk(0, 3, "tcp/0/listen").await;
    let open = wire.say(&Request::Open { fid: 3, mode: 2 }).await;
    waits(&fake, 1).await;
    assert_eq!(wire.clunk(2).await, "Rclunk");
    let clunk = wire.say(&Request::Clunk { fid: 1 }).await;
    assert_eq!(wire.hear(open).await, "Rerror ename hungup");
    assert_eq!(wire.hear(clunk).await, "Rclunk");
    assert_eq!(fake.references(), []);
}

#[tokio::test]
async fn a_connection_that_ends_leaves_nothing_behind() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    wire.open(3, "tcp/clone", 2).await;
    wire.walk(0, 4, "tcp/0/listen").await;
    wire.say(&Request::Open { fid: 4, mode: 2 }).await;
    wire.say(&Request::Read { fid: 2, offset: 0, count: 10 }).await;
    wire.say(&Request::Write { fid: 2, offset: 0, data: b"x" }).await;
    wire.say(&Request::Write { fid: 1, offset: 0, data: b"connect far!80" }).await;
    waits(&fake, 4).await;
    wire.hang_up().await;
    assert_eq!(fake.asked(), []);
    assert_eq!(fake.references(), []);
}

#[tokio::test]
async fn a_server_that_is_dropped_leaves_nothing_behind() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    wire.say(&Request::Read { fid: 2, offset: 0, count: 10 }).await;
    waits(&fake, 1).await;
    wire.server.abort();
    until("it is let go", || fake.references().is_empty() && fake.asked().is_empty()).await;
}

/// Entry 25 of sshnet.c's defects: one request that waited held up all.
#[tokio::test]
async fn blocked_requests_hold_up_nobody() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    let reads = 1000;
    for tag in 1000..1000 + reads {
        wire.say_as(tag, &Request::Read { fid: 2, offset: 0, count: 10 }).await;
    }
    assert!(wire.walk(0, 5, "cs").await.starts_with("Rwalk"));
    assert_eq!(wire.read(1, 0, 10).await, "Rread count 1 '0'");
    assert_eq!(wire.ask(&Request::Flush { oldtag: 1500 }).await, "Rflush");
    for tag in (1000..1000 + reads).filter(|tag| *tag != 1500) {
        fake.complete(Ok(Done::Data(tag.to_string().into_bytes())));
        // Strictly in order.
        assert_eq!(wire.hear(tag).await, format!("Rread count 4 '{tag}'"));
    }
}

/// All connections have one thread, and a read brings hundreds of messages.
#[tokio::test]
async fn messages_that_take_long_leave_others_their_turns() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    for _ in 0..2_000 {
        fake.make(Protocol::Tcp);
    }
    wire.open(3, "tcp", 0).await;
    let listing = Request::Read { fid: 3, offset: 0, count: 100 };
    let mut frames: Vec<u8> =
        (100..1_100).flat_map(|tag| listing.encode(tag, Dialect::Plan9)).collect();
    let last = Request::Read { fid: 2, offset: 0, count: 10 };
    frames.extend(last.encode(1_100, Dialect::Plan9));
    wire.say_raw(&frames).await;
    let mut turns = 0;
    while fake.asked().is_empty() {
        tokio::task::yield_now().await;
        turns += 1;
    }
    assert!(turns >= 8, "{turns}");
}

#[tokio::test]
async fn no_byte_is_lost_or_doubled_when_reads_are_flushed_as_data_comes() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    let mut random = Random(1);
    let mut sent = 0_u64;
    let mut heard = 0_u64;
    for round in 0..300 {
        let tags: Vec<u16> = (0..8).map(|n| 100 + n).collect();
        for tag in &tags {
            wire.say_as(*tag, &Request::Read { fid: 2, offset: 0, count: 10 }).await;
        }
        waits(&fake, 8).await;
        let count = random.below(9) as usize;
        // Some of it always comes before the flushes, however busy the machine is.
        let early = if round % 2 == 0 { count / 2 } else { 0 };
        for _ in 0..early {
            sent += u64::from(fake.try_complete(|| b"x".to_vec()));
        }
        let data = tokio::task::spawn_blocking({
            let fake = fake.clone();
            let count = count - early;
            move || {
                // While the flushes go on: what is still there gets a number.
                let mut given = 0;
                for _ in 0..count {
                    given += u64::from(fake.try_complete(|| b"x".to_vec()));
                }
                given
            }
        });
        for tag in &tags {
            wire.say_as(200 + *tag, &Request::Flush { oldtag: *tag }).await;
        }
        let mut flushed = 0;
        while flushed < tags.len() {
            let frame = wire.frame().await;
            match trace::line(&frame, Dialect::Plan9) {
                line if line.starts_with("Rread") => {
                    // Never after its Rflush.
                    assert!(frame_tag(&frame) >= 100 + flushed as u16, "{line}");
                    heard += 1;
                }
                line if line.starts_with("Rflush") => {
                    assert_eq!(frame_tag(&frame), 300 + flushed as u16);
                    flushed += 1;
                }
                line => panic!("{line}"),
            }
        }
        sent += data.await.expect("no panic");
        assert_eq!(fake.asked(), []);
    }
    assert_eq!(sent, heard);
    assert!(sent > 100, "{sent} reads met their data");
}

/// A connection that is full of replies to tags 100 to 104, which nobody takes, and
/// a read of tag 200 that comes after them.
async fn full(fake: &Fake) -> Wire {
    let mut wire = Wire::bare(fake.tree());
    wire.version(1 << 20, Dialect::Plan9).await;
    wire.attach(0).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    // Each brings more than the connection holds, until it is full.
    for tag in 100..105 {
        wire.say_as(tag, &Request::Read { fid: 2, offset: 0, count: 1 << 20 }).await;
        waits(fake, 1).await;
        fake.complete(Ok(Done::Data(vec![0; (1 << 20) - 1024])));
    }
    wire.say_as(200, &Request::Read { fid: 2, offset: 0, count: 1 }).await;
    wire
}

/// Entry 25 of sshnet.c's defects: one slow client of 9P stalled all the others.
#[tokio::test]
async fn a_client_that_takes_no_replies_is_not_listened_to() {
    let fake = Fake::default();
    let mut wire = full(&fake).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.asked(), [], "it goes on reading");
    // Others are served.
    let mut other = Wire::plan9(&fake).await;
    assert!(other.walk(0, 1, "tcp/0/status").await.starts_with("Rwalk nwqid 3"));
    // And so is this one, when it takes its replies.
    for tag in 100..105 {
        assert!(wire.hear(tag).await.starts_with("Rread count 1047552"));
    }
    waits(&fake, 1).await;
    fake.complete(Ok(Done::Data(vec![1])));
    assert_eq!(wire.hear(200).await, "Rread count 1 '\\x01'");
}

/// An Rflush is 7 bytes, and costs many times that while it waits.
#[tokio::test]
async fn short_replies_that_nobody_takes_count_for_what_they_cost() {
    let shared = Shared::new();
    let mut sent = 0;
    while timeout(Duration::ZERO, shared.room()).await.is_ok() {
        shared.send(Frame::new(0, &Reply::Flush, Dialect::Plan9));
        sent += 1;
    }
    assert!((10_000..60_000).contains(&sent), "{sent}");
    // What has gone counts no more, and takes no memory.
    let mut gone = 0;
    while gone < sent {
        let mut frames = Vec::new();
        assert!(shared.take_replies(&mut frames).await);
        gone += frames.len();
        shared.replies_taken(frames.iter().map(Frame::cost).sum());
    }
    assert_eq!(shared.lock().outbox_holds(), (0, 0));
}

/// Its replies fill the connection, and it goes away without having taken them.
#[tokio::test]
async fn a_client_that_goes_with_its_replies_unread_leaves_nothing_behind() {
    let fake = Fake::default();
    let wire = full(&fake).await;
    wire.hang_up().await;
    assert_eq!((fake.asked(), fake.references()), (vec![], vec![]));
}

#[tokio::test]
async fn the_more_reads_wait_the_less_each_may_ask_for() {
    let fake = Fake::default();
    let mut wire = Wire::bare(fake.tree());
    wire.version(1 << 20, Dialect::Plan9).await;
    wire.attach(0).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    for tag in 1000..1200 {
        wire.say_as(tag, &Request::Read { fid: 2, offset: 0, count: 1 << 20 }).await;
    }
    waits(&fake, 200).await;
    let counts: Vec<u32> = fake
        .asked()
        .into_iter()
        .map(|asked| match asked {
            Asked::Read(count) => count,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts[0], (1 << 20) - 24);
    assert!(counts.iter().all(|count| *count >= 512));
    assert!(counts.iter().sum::<u32>() <= (8 << 20) + 200 * 512);
    // What ends makes room again.
    for _ in 0..200 {
        fake.complete(Ok(Done::Data(Vec::new())));
    }
    for tag in 1000..1200 {
        wire.hear(tag).await;
    }
    wire.say(&Request::Read { fid: 2, offset: 0, count: 1 << 20 }).await;
    waits(&fake, 1).await;
    assert_eq!(fake.asked(), [Asked::Read((1 << 20) - 24)]);
}

#[tokio::test]
async fn writes_that_wait_have_a_limit() {
    let fake = Fake::default();
    let mut wire = Wire::bare(fake.tree());
    wire.version(1 << 20, Dialect::Plan9).await;
    wire.attach(0).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    let data = vec![0; 1 << 19];
    for tag in 1000..1128 {
        wire.say_as(tag, &Request::Write { fid: 2, offset: 0, data: &data }).await;
    }
    assert_eq!(wire.write(2, b"x").await, "Rerror ename No buffer space available");
    fake.complete(Ok(Done::Count(1 << 19)));
    assert_eq!(wire.hear(1000).await, "Rwrite count 524288");
    let write = wire.say(&Request::Write { fid: 2, offset: 0, data: b"x" }).await;
    assert_eq!(wire.ask(&Request::Flush { oldtag: write }).await, "Rflush");
    // All the others are taken, and in the order in which they were sent.
    for tag in 1001..1128 {
        until("one is under way", || !fake.asked().is_empty()).await;
        fake.complete(Ok(Done::Count(1 << 19)));
        assert_eq!(wire.hear(tag).await, "Rwrite count 524288");
    }
    assert_eq!(fake.asked(), []);
}

/// The more all others have waiting, the less each may; and each may something.
#[test]
fn what_waits_to_be_written_leaves_something_for_the_next() {
    const MIB: u64 = 1 << 20;
    let shared = Shared::new();
    let state = shared.lock();
    for (free, most) in [(1024, 64), (512, 64), (256 + 40, 10), (256, 2), (1, 2)] {
        assert!(state.may_write(most << 20, free * MIB), "{free}");
        assert!(!state.may_write((most << 20) + 1, free * MIB), "{free}");
    }
    // Those who are greedy leave what is set aside, however many they are.
    let mut free = 1024 * MIB;
    for _ in 0..1000 {
        let most = (1..=64).rev().find(|most| state.may_write(most << 20, free)).unwrap_or(0);
        if most > 2 {
            free -= u64::from(most) * MIB;
        }
    }
    assert!(free >= 256 * MIB);
}

/// The same for requests.
#[tokio::test]
async fn requests_that_wait_leave_something_for_the_next() {
    let fake = Fake::default();
    fake.takes(Capacity { clients: 10, requests: 2_000, queued: 1 << 20 });
    let mut wires = Vec::new();
    let mut reads = Vec::new();
    for number in 0..10 {
        let mut wire = Wire::plan9(&fake).await;
        wire.open(1, "tcp/clone", 2).await;
        wire.open(2, &format!("tcp/{number}/data"), 2).await;
        let before = fake.asked().len();
        for tag in 100..600 {
            wire.say_as(tag, &Request::Read { fid: 2, offset: 0, count: 1 }).await;
        }
        // What is refused is said before this is.
        wire.say_as(50, &Request::Flush { oldtag: NOTAG }).await;
        let mut refused = 0;
        while frame_tag(&wire.frame().await) != 50 {
            refused += 1;
        }
        reads.push(fake.asked().len() - before);
        assert_eq!(reads[number] + refused, 500);
        wires.push(wire);
    }
    // A fifth of what was free each time, and never less than some.
    assert_eq!((reads[0], reads[1]), (400, 320));
    assert_eq!(reads[9], 64);
    assert!(reads.iter().sum::<usize>() < 2_000);
    for wire in wires {
        wire.hang_up().await;
    }
    assert_eq!(fake.asked(), []);
}

/// Thousands of requests that wait make no clunk of another fid slow.
#[test]
fn a_clunk_looks_at_the_requests_of_its_fid_alone() {
    let shared = Shared::new();
    for tag in 0..8_192 {
        let serial = shared.lock().begin(tag, 1, Cost::Nothing);
        shared.started(tag, serial, Some(RequestId::Stack(serial)));
    }
    let shortest = |fid, count| {
        let look = || {
            let began = std::time::Instant::now();
            assert_eq!(shared.lock().requests_on(fid).len(), count);
            began.elapsed()
        };
        (0..50).map(|_| look()).min()
    };
    let (all, none) = (shortest(1, 8_192), shortest(2, 0));
    assert!(none.map(|none| none * 50) < all, "{none:?} {all:?}");
    // The last first; and those that are over are none any more.
    let last_first: Vec<_> = (1..=8_192).rev().map(RequestId::Stack).collect();
    assert!(shared.lock().requests_on(1) == last_first);
    for (tag, serial) in (0..8_192).zip(1..) {
        shared.complete(tag, serial, Ok(Frame::new(tag, &Reply::Flush, Dialect::Plan9)));
    }
    assert!(shared.lock().requests_on(1).is_empty());
}

#[tokio::test]
async fn a_clunk_gives_up_the_writes_that_wait_on_its_fid() {
    let fake = Fake::default();
    let mut wire = Wire::bare(fake.tree());
    wire.version(1 << 20, Dialect::Plan9).await;
    wire.attach(0).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    wire.open(3, "tcp/0/data", 2).await;
    let data = vec![b'x'; 1 << 19];
    for tag in 100..110 {
        wire.say_as(tag, &Request::Write { fid: 2, offset: 0, data: &data }).await;
    }
    let behind = wire.say(&Request::Write { fid: 3, offset: 0, data: b"behind" }).await;
    let clunk = wire.say(&Request::Clunk { fid: 2 }).await;
    // The last first: so that none goes on in the place of one before it.
    for tag in (100..110).rev() {
        assert_eq!(wire.hear(tag).await, "Rerror ename Interrupted system call");
    }
    assert_eq!(wire.hear(clunk).await, "Rclunk");
    until("the other goes on", || fake.asked() == [Asked::Write(b"behind".to_vec())]).await;
    fake.complete(Ok(Done::Count(6)));
    assert_eq!(wire.hear(behind).await, "Rwrite count 6");
    // And so it is when the connection ends.
    for tag in 100..110 {
        wire.say_as(tag, &Request::Write { fid: 3, offset: 0, data: &data }).await;
    }
    waits(&fake, 4).await;
    wire.hang_up().await;
    assert_eq!((fake.asked(), fake.references()), (vec![], vec![]));
}

#[tokio::test]
async fn requests_that_wait_have_a_limit() {
    let fake = Fake::default();
    let mut wire = dialled(&fake).await;
    for tag in 100..100 + 8192 {
        wire.say_as(tag, &Request::Read { fid: 2, offset: 0, count: 1 }).await;
    }
    assert_eq!(wire.read(2, 0, 1).await, "Rerror ename too many requests");
    // What makes room is done all the same.
    wire.say_as(50, &Request::Clunk { fid: 0 }).await;
    assert_eq!(wire.hear(50).await, "Rclunk");
    assert_eq!(wire.ask(&Request::Flush { oldtag: 100 }).await, "Rflush");
    wire.say_as(100, &Request::Read { fid: 2, offset: 0, count: 1 }).await;
    waits(&fake, 8192).await;
    wire.hang_up().await;
    assert_eq!(fake.asked(), []);
}

#[tokio::test]
async fn two_connections_have_their_own_fids_and_tags() {
    let fake = Fake::default();
    let mut one = dialled(&fake).await;
    let mut two = Wire::plan9(&fake).await;
    two.open(1, "tcp/0/status", 0).await;
    assert_eq!(fake.references(), [(0, 3)]);
    let read = one.say(&Request::Read { fid: 2, offset: 0, count: 10 }).await;
    waits(&fake, 1).await;
    assert_eq!(two.ask(&Request::Flush { oldtag: read }).await, "Rflush");
    waits(&fake, 1).await;
    two.hang_up().await;
    assert_eq!(fake.references(), [(0, 2)]);
    fake.make(Protocol::Unix);
    fake.complete(Ok(Done::Data(b"y".to_vec())));
    assert_eq!(one.hear(read).await, "Rread count 1 'y'");
}
