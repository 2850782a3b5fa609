//! Versions, tags and frames.

use super::*;

#[tokio::test]
async fn versions_are_negotiated_down_to_what_both_know() {
    let fake = Fake::default();
    for (offered, answered) in [
        ("9P2000", "9P2000"),
        ("9P2000.u", "9P2000.u"),
        ("9P2000.L", "9P2000.L"),
        ("9P2000.e", "9P2000"),
        ("9P2000.", "9P2000"),
        ("9P2000L", "unknown"),
        ("9P1999", "unknown"),
        ("", "unknown"),
    ] {
        let mut wire = Wire::bare(fake.tree());
        let version = offered.as_bytes();
        wire.say_as(NOTAG, &Request::Version { msize: 8192, version }).await;
        assert_eq!(wire.hear(NOTAG).await, format!("Rversion msize 8192 version '{answered}'"));
    }
}

#[tokio::test]
async fn the_message_size_is_between_256_bytes_and_1_mib() {
    let fake = Fake::default();
    let mut wire = Wire::bare(fake.tree());
    for (asked, granted) in [(256, 256), (4096, 4096), (1 << 20, 1 << 20), (!0, 1 << 20)] {
        wire.say_as(NOTAG, &Request::Version { msize: asked, version: b"9P2000" }).await;
        let answer = format!("Rversion msize {granted} version '9P2000'");
        assert_eq!(wire.hear(NOTAG).await, answer);
    }
    for asked in [0, 255] {
        wire.say_as(7, &Request::Version { msize: asked, version: b"9P2000" }).await;
        assert_eq!(wire.hear(7).await, "Rerror ename message size too small");
    }
}

#[tokio::test]
async fn everything_works_in_256_bytes() {
    let fake = Fake::default();
    let mut wire = Wire::bare(fake.tree());
    wire.version(256, Dialect::Plan9).await;
    wire.attach(0).await;
    fake.make(crate::engine::Protocol::Tcp);
    assert!(wire.walk(0, 1, "tcp/../tcp/../tcp/../tcp/../tcp/../tcp/../tcp/0").await.len() > 13);
    assert!(wire.ask(&Request::Stat { fid: 1 }).await.starts_with("Rstat stat '0'"));
    assert!(wire.ask(&Request::Open { fid: 1, mode: 0 }).await.ends_with("iounit 232"));
    let mut offset = 0;
    let mut reads = 0;
    loop {
        let frame = wire.ask_frame(&Request::Read { fid: 1, offset, count: 8192 }).await;
        assert!(frame.len() <= 256);
        match Reply::decode(&frame, Dialect::Plan9) {
            Ok(Reply::Read { data: b"" }) => break,
            Ok(Reply::Read { data }) => offset += data.len() as u64,
            other => panic!("{other:?}"),
        }
        reads += 1;
    }
    assert!(reads > 1, "6 entries in {reads} reads");
}

#[tokio::test]
async fn nothing_is_answered_before_the_version_but_with_an_error() {
    let fake = Fake::default();
    let mut wire = Wire::bare(fake.tree());
    let attach = Request::Attach { fid: 0, afid: NOFID, uname: b"", aname: b"", n_uname: !0 };
    assert_eq!(wire.ask(&attach).await, "Rerror ename version not negotiated");
    assert_eq!(wire.clunk(0).await, "Rerror ename version not negotiated");
    wire.version(8192, Dialect::Linux).await;
    wire.attach(0).await;
    // An unknown version starts over, too.
    wire.say_as(3, &Request::Version { msize: 8192, version: b"9X" }).await;
    wire.dialect = Dialect::Plan9;
    assert_eq!(wire.hear(3).await, "Rversion msize 8192 version 'unknown'");
    assert_eq!(wire.clunk(0).await, "Rerror ename version not negotiated");
}

#[tokio::test]
async fn a_version_starts_over_without_a_word_of_what_was() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    wire.say(&Request::Read { fid: 2, offset: 0, count: 100 }).await;
    wire.say(&Request::Write { fid: 1, offset: 0, data: b"connect far!80" }).await;
    until("both wait", || fake.asked().len() == 2).await;
    wire.version(8192, Dialect::Plan9).await;
    assert_eq!(fake.asked(), []);
    assert_eq!(fake.references(), []);
    assert_eq!(wire.clunk(1).await, "Rerror ename unknown fid");
    wire.attach(0).await;
    // The tags of before are free.
    wire.tag = 0;
    assert_eq!(wire.clunk(0).await, "Rclunk");
}

#[tokio::test]
async fn a_duplicate_tag_is_refused_and_the_first_goes_on() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    let tag = wire.say(&Request::Read { fid: 2, offset: 0, count: 100 }).await;
    wire.say_as(tag, &Request::Stat { fid: 1 }).await;
    assert_eq!(wire.hear(tag).await, "Rerror ename duplicate tag");
    fake.complete(Ok(crate::engine::Reply::Data(b"x".to_vec())));
    assert_eq!(wire.hear(tag).await, "Rread count 1 'x'");
    wire.say_as(tag, &Request::Clunk { fid: 1 }).await;
    assert_eq!(wire.hear(tag).await, "Rclunk");
}

#[tokio::test]
async fn a_frame_of_an_impossible_size_ends_the_connection() {
    for size in [0, 3, 6, 8193, u32::MAX] {
        let fake = Fake::default();
        let mut wire = Wire::plan9(&fake).await;
        wire.open(1, "tcp/clone", 2).await;
        let mut frame = size.to_le_bytes().to_vec();
        frame.extend([0; 16]);
        wire.say_raw(&frame).await;
        wire.ended().await;
        assert_eq!(fake.references(), []);
    }
}

#[tokio::test]
async fn what_is_no_message_is_answered_with_an_error() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    // Terror, Rread, a type of 9P2000.L, one that nobody has.
    for kind in [106, 117, 24, 255, 0] {
        wire.say_raw(&[7, 0, 0, 0, kind, 9, 0]).await;
        assert_eq!(wire.hear(9).await, "Rerror ename unknown message");
    }
    // Too short, too long, and a count that is not the payload's.
    wire.say_raw(&[8, 0, 0, 0, 120, 9, 0, 1]).await;
    assert_eq!(wire.hear(9).await, "Rerror ename malformed message");
    wire.say_raw(&[12, 0, 0, 0, 120, 9, 0, 1, 0, 0, 0, 0]).await;
    assert_eq!(wire.hear(9).await, "Rerror ename malformed message");
    let mut write = Request::Write { fid: 0, offset: 0, data: b"abc" }.encode(9, Dialect::Plan9);
    write[19] = 2;
    wire.say_raw(&write).await;
    assert_eq!(wire.hear(9).await, "Rerror ename malformed message");
    wire.silence().await;
}

#[tokio::test]
async fn messages_may_come_in_any_pieces() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    let mut talk = Vec::new();
    for tag in 1..=50 {
        talk.extend(
            Request::Walk { fid: 0, newfid: 5, names: vec![b"cs"] }.encode(tag, Dialect::Plan9),
        );
        talk.extend(Request::Clunk { fid: 5 }.encode(tag, Dialect::Plan9));
    }
    for piece in talk.chunks(5) {
        wire.say_raw(piece).await;
        tokio::task::yield_now().await;
    }
    for tag in 1..=50 {
        assert!(wire.hear(tag).await.starts_with("Rwalk nwqid 1"));
        assert_eq!(wire.hear(tag).await, "Rclunk");
    }
}
