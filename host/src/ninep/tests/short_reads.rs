//! Reads of a stream that bring less than was asked for, as Linux fills them.

use super::*;
use crate::engine::{ErrorCode, Reply as Done};
use crate::tree::fake::{Asked, error};

/// Bytes that a read may ask for, in a connection of a [`Wire`].
const MOST: u32 = 8192 - 24;

/// A connection with a client's `data` as fid 2.
async fn data(fake: &Fake, dialect: Dialect) -> Wire {
    let mut wire = Wire::new(fake.tree(), dialect).await;
    open_data(&mut wire).await;
    wire
}

async fn open_data(wire: &mut Wire) {
    for (fid, path) in [(1, "tcp/clone"), (2, "tcp/0/data")] {
        wire.open(fid, path, 2).await;
    }
}

/// A read that waits until it is completed with this.
async fn brings(wire: &mut Wire, fake: &Fake, offset: u64, count: u32, what: &str) {
    let read = wire.say(&Request::Read { fid: 2, offset, count }).await;
    until("it waits", || fake.asked() == [Asked::Read(count)]).await;
    fake.complete(Ok(Done::Data(what.as_bytes().to_vec())));
    assert_eq!(wire.hear(read).await, format!("Rread count {} '{what}'", what.len()));
}

const EMPTY: &str = "Rread count 0 ''";

#[tokio::test]
async fn the_rest_of_a_short_read_is_nothing_once() {
    for dialect in [Dialect::Unix, Dialect::Linux] {
        let fake = Fake::default();
        let mut wire = data(&fake, dialect).await;
        brings(&mut wire, &fake, 0, 4096, "hello!").await;
        assert_eq!(wire.read(2, 6, 4090).await, EMPTY);
        assert_eq!(fake.asked(), []);
        // That was its answer: the same again is a read like others.
        brings(&mut wire, &fake, 6, 4090, "you").await;
        assert_eq!(wire.read(2, 9, 4087).await, EMPTY);
        // The program's next read.
        brings(&mut wire, &fake, 9, 4096, "there").await;
    }
}

#[tokio::test]
async fn a_program_that_wants_more_than_a_message_asks_for_a_whole_one_again() {
    let fake = Fake::default();
    let mut wire = data(&fake, Dialect::Linux).await;
    brings(&mut wire, &fake, 0, MOST, "hello").await;
    assert_eq!(wire.read(2, 5, MOST).await, EMPTY);
    brings(&mut wire, &fake, 5, MOST, "you").await;
    assert_eq!(wire.read(2, 8, MOST - 3).await, EMPTY);
}

#[tokio::test]
async fn other_reads_after_a_short_one_wait() {
    let fake = Fake::default();
    let mut wire = data(&fake, Dialect::Linux).await;
    let mut offset = 0;
    for (skip, count) in [(0, 4096), (0, 10), (1, 4090), (0, MOST)] {
        brings(&mut wire, &fake, offset, 4096, "hello!").await;
        offset += 6;
        brings(&mut wire, &fake, offset + skip, count, "x").await;
        offset += 100;
    }
    // After a full one, and after the end.
    brings(&mut wire, &fake, 0, 5, "hello").await;
    brings(&mut wire, &fake, 5, 5, "").await;
    brings(&mut wire, &fake, 5, 5, "hello").await;
}

#[tokio::test]
async fn a_client_of_9p2000_never_gets_an_empty_read_for_a_short_one() {
    let fake = Fake::default();
    let mut wire = data(&fake, Dialect::Plan9).await;
    brings(&mut wire, &fake, 0, 4096, "hello!").await;
    brings(&mut wire, &fake, 6, 4090, "you").await;
    brings(&mut wire, &fake, 9, MOST, "there").await;
}

#[tokio::test]
async fn exact_reads_wait_in_every_dialect() {
    for dialect in [Dialect::Unix, Dialect::Linux] {
        let fake = Fake::default();
        let options = Options { exact_reads: true, ..Options::default() };
        let mut wire = Wire::granted(fake.tree(), options);
        wire.version(8192, dialect).await;
        wire.attach(0).await;
        open_data(&mut wire).await;
        brings(&mut wire, &fake, 0, 4096, "hello!").await;
        brings(&mut wire, &fake, 6, 4090, "you").await;
    }
}

#[tokio::test]
async fn files_that_are_no_streams_are_read_as_ever() {
    let fake = Fake::default();
    let mut wire = data(&fake, Dialect::Linux).await;
    assert_eq!(wire.read(1, 0, 10).await, "Rread count 1 '0'");
    assert_eq!(wire.read(1, 1, 9).await, EMPTY);
    assert_eq!(wire.read(1, 0, 9).await, "Rread count 1 '0'");
}

#[tokio::test]
async fn the_rest_is_flushed_and_fails_as_any_read() {
    let fake = Fake::default();
    let mut wire = data(&fake, Dialect::Linux).await;
    brings(&mut wire, &fake, 0, 4096, "hello!").await;
    let rest = wire.say(&Request::Read { fid: 2, offset: 6, count: 4090 }).await;
    assert_eq!(wire.hear(rest).await, EMPTY);
    assert_eq!(wire.ask(&Request::Flush { oldtag: rest }).await, "Rflush");
    let read = wire.say(&Request::Read { fid: 2, offset: 6, count: 4096 }).await;
    until("it waits", || !fake.asked().is_empty()).await;
    assert_eq!(wire.ask(&Request::Flush { oldtag: read }).await, "Rflush");
    let read = wire.say(&Request::Read { fid: 2, offset: 6, count: 4096 }).await;
    until("it waits", || !fake.asked().is_empty()).await;
    fake.complete(Err(error(ErrorCode::ConnectionRefused, "no")));
    assert_eq!(wire.hear(read).await, "Rlerror ecode 111");
}

/// A flush of the rest must not take away what another read waits for.
#[tokio::test]
async fn the_rest_leaves_other_reads_alone() {
    let fake = Fake::default();
    let mut wire = data(&fake, Dialect::Linux).await;
    brings(&mut wire, &fake, 0, 4096, "hello!").await;
    wire.open(3, "tcp/0/data", 0).await;
    let other = wire.say(&Request::Read { fid: 3, offset: 0, count: 7 }).await;
    until("it waits", || fake.asked() == [Asked::Read(7)]).await;
    assert_eq!(wire.read(2, 6, 4090).await, EMPTY);
    fake.complete(Ok(Done::Data(b"you".to_vec())));
    assert_eq!(wire.hear(other).await, "Rread count 3 'you'");
}
