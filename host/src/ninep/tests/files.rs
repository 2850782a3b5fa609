//! Opening, reading, writing, stat and directories in 9P2000.

use super::*;
use crate::engine::{ErrorCode, Protocol, Reply as Done};
use crate::tree::fake::{self, Asked, error};

/// When a client of the fake's came into its state.
const CHANGED: u32 = fake::CHANGED.as_secs() as u32;

#[tokio::test]
async fn opening_clone_makes_the_fid_a_new_ctl() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    let first = wire.open(1, "tcp/clone", 2).await;
    let second = wire.open(2, "tcp/clone", 2).await;
    assert!(first.starts_with("Ropen qid (") && first.ends_with("iounit 8168"), "{first}");
    assert_ne!(first, second);
    assert_eq!(wire.read(1, 0, 100).await, "Rread count 1 '0'");
    assert_eq!(wire.read(1, 1, 100).await, "Rread count 0 ''");
    assert_eq!(wire.read(2, 0, 100).await, "Rread count 1 '1'");
    assert!(wire.ask(&Request::Stat { fid: 2 }).await.starts_with("Rstat stat 'ctl'"));
    // It is the file that a walk finds.
    let walked = wire.walk(0, 3, "tcp/1/ctl").await;
    let qid = second.split(['(', ')']).nth(1).expect("a qid");
    assert!(walked.contains(qid), "{walked} {qid}");
    assert_eq!(wire.clunk(1).await, "Rclunk");
    assert_eq!(fake.references(), [(1, 1)]);
    // The number's next user is another file.
    let third = wire.open(1, "tcp/clone", 2).await;
    assert_eq!(wire.read(1, 0, 100).await, "Rread count 1 '0'");
    assert_ne!(first, third);
}

#[tokio::test]
async fn a_fid_of_a_client_that_is_gone_opens_nobody_elses() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.walk(0, 2, "tcp/0/data").await;
    wire.walk(0, 3, "tcp/0").await;
    wire.clunk(1).await;
    wire.open(1, "tcp/clone", 2).await;
    for fid in [2, 3] {
        let stat = wire.ask(&Request::Stat { fid }).await;
        assert_eq!(stat, "Rerror ename file not found");
        let open = wire.ask(&Request::Open { fid, mode: 0 }).await;
        assert_eq!(open, "Rerror ename file not found");
        assert_eq!(wire.clunk(fid).await, "Rclunk");
    }
    assert_eq!(fake.references(), [(0, 1)]);
}

#[tokio::test]
async fn open_modes_are_held_against_the_files_modes() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = Wire::plan9(&fake).await;
    let denied = "Rerror ename permission denied";
    let directory = "Rerror ename Is a directory";
    let ok = "Ropen";
    for (path, mode, answer) in [
        ("tcp/0/status", 0, ok),
        ("tcp/0/status", 1, denied),
        ("tcp/0/status", 2, denied),
        ("tcp/0/status", 3, ok),
        ("tcp/0/status", 0x10, denied),
        ("tcp/0/data", 0x10 | 1, ok),
        ("tcp/0/data", 0x80 | 1, ok),
        ("tcp/0/data", 0x20 | 2, ok),
        ("tcp/0/data", 0x40, denied),
        ("tcp/0/data", 0xf0, denied),
        ("cs", 0x10 | 2, ok),
        ("tcp", 0, ok),
        ("tcp", 3, ok),
        ("tcp", 1, directory),
        ("tcp", 2, directory),
        ("tcp", 0x10, directory),
    ] {
        let opened = wire.open(1, path, mode).await;
        assert!(opened.starts_with(answer), "{path} {mode:#x}: {opened}");
        wire.clunk(1).await;
    }
    assert_eq!(fake.references(), [(0, 1)]);
}

#[tokio::test]
async fn a_fid_is_opened_once_and_used_for_what_it_was_opened_for() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = Wire::plan9(&fake).await;
    wire.walk(0, 1, "tcp/0/data").await;
    assert_eq!(wire.read(1, 0, 1).await, "Rerror ename bad use of fid");
    assert_eq!(wire.write(1, b"x").await, "Rerror ename bad use of fid");
    wire.ask(&Request::Open { fid: 1, mode: 1 }).await;
    let again = wire.ask(&Request::Open { fid: 1, mode: 1 }).await;
    assert_eq!(again, "Rerror ename bad use of fid");
    assert_eq!(wire.read(1, 0, 1).await, "Rerror ename permission denied");
    wire.open(2, "tcp/0/data", 0).await;
    assert_eq!(wire.write(2, b"x").await, "Rerror ename permission denied");
}

#[tokio::test]
async fn data_is_a_stream_whatever_the_offsets() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    let first = wire.say(&Request::Read { fid: 2, offset: u64::MAX, count: u32::MAX }).await;
    let second = wire.say(&Request::Read { fid: 2, offset: 1 << 33, count: 10 }).await;
    let third = wire.say(&Request::Write { fid: 2, offset: 1 << 40, data: b"abc" }).await;
    wire.silence().await;
    // What a message can hold, in the order in which it was asked.
    let asked = [Asked::Read(8168), Asked::Read(10), Asked::Write(b"abc".to_vec())];
    assert_eq!(fake.asked(), asked);
    fake.complete(Ok(Done::Data(b"hello".to_vec())));
    fake.complete(Ok(Done::Data(Vec::new())));
    fake.complete(Ok(Done::Count(3)));
    assert_eq!(wire.hear(first).await, "Rread count 5 'hello'");
    assert_eq!(wire.hear(second).await, "Rread count 0 ''");
    assert_eq!(wire.hear(third).await, "Rwrite count 3");
}

#[tokio::test]
async fn a_write_is_never_answered_with_more_than_it_had() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp/clone", 2).await;
    let tag = wire.say(&Request::Write { fid: 1, offset: 1, data: b"hangup\n" }).await;
    until("it waits", || fake.asked() == [Asked::Control(b"hangup\n".to_vec())]).await;
    fake.complete(Ok(Done::Done));
    assert_eq!(wire.hear(tag).await, "Rwrite count 7");
    wire.open(2, "tcp/0/data", 2).await;
    let tag = wire.say(&Request::Write { fid: 2, offset: 0, data: b"1234567" }).await;
    until("it waits", || fake.asked().len() == 1).await;
    fake.complete(Ok(Done::Count(1000)));
    assert_eq!(wire.hear(tag).await, "Rwrite count 7");
}

/// Linux takes such an answer for a fault of the server.
#[tokio::test]
async fn a_read_is_never_answered_with_more_than_was_asked_for() {
    for dialect in DIALECTS {
        let fake = Fake::default();
        let mut wire = Wire::new(fake.tree(), dialect).await;
        wire.open(1, "tcp/clone", 2).await;
        wire.open(2, "tcp/0/data", 2).await;
        let tag = wire.say(&Request::Read { fid: 2, offset: 0, count: 4 }).await;
        until("it waits", || fake.asked() == [Asked::Read(4)]).await;
        fake.complete(Ok(Done::Data(b"12345".to_vec())));
        wire.hear_refusal(tag, "i/o error", 5).await;
    }
}

#[tokio::test]
async fn the_engines_words_reach_the_client_within_120_bytes() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp/clone", 2).await;
    for (said, heard) in [
        ("Connection refused".to_owned(), "Connection refused".to_owned()),
        ("x".repeat(500), "x".repeat(120)),
    ] {
        let tag = wire.say(&Request::Write { fid: 1, offset: 0, data: b"connect far!1" }).await;
        until("it waits", || fake.asked().len() == 1).await;
        fake.complete(Err(error(ErrorCode::ConnectionRefused, &said)));
        assert_eq!(wire.hear(tag).await, format!("Rerror ename {heard}"));
    }
}

#[tokio::test]
async fn cs_answers_on_the_same_fid() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "cs", 2).await;
    assert_eq!(wire.read(1, 0, 100).await, "Rerror ename cs read without write");
    assert_eq!(wire.write(1, b"nonsense").await, "Rerror ename can't translate");
    assert_eq!(wire.write(1, b"tcp!far!80").await, "Rwrite count 10");
    assert_eq!(wire.read(1, 0, 100).await, "Rread count 21 '/net/tcp/clone far!80'");
    assert_eq!(wire.read(1, 21, 100).await, "Rread count 0 ''");
}

#[tokio::test]
async fn stat_says_who_owns_it_and_what_it_is() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = Wire::plan9(&fake).await;
    for (path, name, mode) in [
        ("", "/", 0x8000_0140_u32),
        ("tcp", "tcp", 0x8000_0140),
        ("tcp/0", "0", 0x8000_0140),
        ("cs", "cs", 0o600),
        ("tcp/0/data", "data", 0o600),
        ("tcp/0/local", "local", 0o400),
    ] {
        wire.walk(0, 1, path).await;
        let frame = wire.ask_frame(&Request::Stat { fid: 1 }).await;
        let Ok(Reply::Stat { stat }) = Reply::decode(&frame, Dialect::Plan9) else {
            panic!("{path}: no stat");
        };
        assert_eq!(String::from_utf8_lossy(stat.name), name);
        assert_eq!((stat.mode, stat.length, stat.qid.version), (mode, 0, 0), "{path}");
        assert_eq!(u32::from(stat.qid.kind), mode >> 24);
        assert_eq!(
            (stat.uid, stat.gid, stat.muid),
            (&b"glenda"[..], &b"plan9"[..], &b"glenda"[..])
        );
        let of_a_client = path.starts_with("tcp/0");
        assert_eq!(stat.mtime == CHANGED, of_a_client, "{path}: {}", stat.mtime);
        assert_eq!(stat.atime, stat.mtime);
        wire.clunk(1).await;
    }
}

#[tokio::test]
async fn wstat_accepts_what_programs_ask_for_and_nothing_else() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = Wire::plan9(&fake).await;
    wire.walk(0, 1, "tcp/0/data").await;
    let refused = "Rerror ename Operation not permitted";
    for (stat, answer) in [
        (sync(), "Rwstat"),
        (Stat { length: 0, ..sync() }, "Rwstat"),
        (Stat { length: 0, mtime: 1, atime: 2, ..sync() }, "Rwstat"),
        (Stat { mode: 0o600, name: b"data", uid: b"glenda", gid: b"plan9", ..sync() }, "Rwstat"),
        (Stat { length: 1, ..sync() }, refused),
        (Stat { mode: 0o666, ..sync() }, refused),
        (Stat { name: b"other", ..sync() }, refused),
        (Stat { uid: b"root", ..sync() }, refused),
        (Stat { gid: b"root", ..sync() }, refused),
    ] {
        assert_eq!(wire.ask(&Request::Wstat { fid: 1, stat }).await, answer, "{stat:?}");
    }
    let create = Request::Create { fid: 0, name: b"x", perm: 0o666, mode: 1, extension: b"" };
    assert_eq!(wire.ask(&create).await, "Rerror ename permission denied");
}

/// The names in a directory, by reads of this many bytes.
async fn list(wire: &mut Wire, fid: u32, count: u32) -> Vec<String> {
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let frame = wire.ask_frame(&Request::Read { fid, offset, count }).await;
        let Ok(Reply::Read { data }) = Reply::decode(&frame, Dialect::Plan9) else {
            panic!("{}", trace::line(&frame, Dialect::Plan9));
        };
        if data.is_empty() {
            return names;
        }
        assert!(data.len() <= count as usize);
        offset += data.len() as u64;
        let mut rest = data;
        // Whole entries: each is as long as it says, and they use up the data.
        while let Some((size, after)) = rest.split_first_chunk() {
            let (stat, after) = after.split_at(usize::from(u16::from_le_bytes(*size)));
            let length = usize::from(u16::from_le_bytes([stat[39], stat[40]]));
            names.push(String::from_utf8_lossy(&stat[41..41 + length]).into_owned());
            rest = after;
        }
    }
}

#[tokio::test]
async fn directories_are_read_whole_entry_by_whole_entry() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    for _ in 0..200 {
        fake.make(Protocol::Tcp);
    }
    wire.open(1, "", 0).await;
    assert_eq!(list(&mut wire, 1, 8192).await, ["cs", "tcp", "unix"]);
    wire.open(2, "tcp/7", 0).await;
    let files = ["ctl", "data", "listen", "local", "remote", "status"];
    assert_eq!(list(&mut wire, 2, 8192).await, files);
    wire.open(3, "tcp", 0).await;
    let clients = (0..200).map(|n: u32| n.to_string());
    let all: Vec<String> =
        ["clone".to_owned()].into_iter().chain(clients).chain(["stats".to_owned()]).collect();
    for count in [8192, 2048, 200, 100] {
        // From the start again, each time.
        assert_eq!(list(&mut wire, 3, count).await, all, "by {count}");
    }
    assert_eq!(wire.read(3, 0, 20).await, "Rerror ename count too small for an entry");
    let frame = wire.ask_frame(&Request::Read { fid: 3, offset: 0, count: 300 }).await;
    let end = frame.len() as u64 - 11;
    let bad = "Rerror ename bad offset in directory read";
    assert_eq!(wire.read(3, end - 1, 300).await, bad);
    assert_eq!(wire.read(3, end + 1, 300).await, bad);
    assert!(wire.read(3, end, 300).await.starts_with("Rread count"));
}

#[tokio::test]
async fn a_listing_skips_nobody_when_clients_go() {
    let fake = Fake::default();
    let clients: Vec<_> = (0..20).map(|_| fake.make(Protocol::Tcp)).collect();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp", 0).await;
    let frame = wire.ask_frame(&Request::Read { fid: 1, offset: 0, count: 400 }).await;
    let offset = frame.len() as u64 - 11;
    for client in &clients[..4] {
        crate::tree::Stack::release(&fake, *client);
    }
    let frame = wire.ask_frame(&Request::Read { fid: 1, offset, count: 8000 }).await;
    let text = String::from_utf8_lossy(&frame).into_owned();
    assert!((10..20).all(|number| text.contains(&number.to_string())));
}
