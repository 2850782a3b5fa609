//! Fids: attaching, walking, clunking.

use super::*;
use crate::engine::Protocol;

#[tokio::test]
async fn a_fid_that_is_none_is_an_error_and_no_more() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    let requests = [
        Request::Walk { fid: 9, newfid: 10, names: vec![] },
        Request::Open { fid: 9, mode: 0 },
        Request::Create { fid: 9, name: b"x", perm: 0, mode: 0, extension: b"" },
        Request::Read { fid: 9, offset: 0, count: 1 },
        Request::Write { fid: 9, offset: 0, data: b"x" },
        Request::Clunk { fid: 9 },
        Request::Remove { fid: 9 },
        Request::Stat { fid: 9 },
        Request::Wstat { fid: 9, stat: sync() },
    ];
    for request in requests {
        assert_eq!(wire.ask(&request).await, "Rerror ename unknown fid", "{request:?}");
    }
    assert_eq!(wire.clunk(0).await, "Rclunk");
}

#[tokio::test]
async fn attaching_wants_the_root_and_no_authentication() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    let auth = Request::Auth { afid: 5, uname: b"u", aname: b"", n_uname: !0 };
    assert_eq!(wire.ask(&auth).await, "Rerror ename authentication not required");
    assert_eq!(wire.clunk(5).await, "Rerror ename unknown fid");
    let attach = |fid, afid, aname| Request::Attach { fid, afid, uname: b"u", aname, n_uname: !0 };
    let refused = wire.ask(&attach(1, 5, b"")).await;
    assert_eq!(refused, "Rerror ename authentication not required");
    assert_eq!(wire.ask(&attach(1, NOFID, b"/tcp")).await, "Rerror ename file not found");
    assert!(wire.ask(&attach(1, NOFID, b"/")).await.starts_with("Rattach"));
    assert_eq!(wire.ask(&attach(1, NOFID, b"")).await, "Rerror ename duplicate fid");
    assert_eq!(wire.ask(&attach(NOFID, NOFID, b"")).await, "Rerror ename bad use of fid");
    wire.attach(2).await;
}

#[tokio::test]
async fn a_walk_makes_its_fid_whole_or_not_at_all() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    assert!(wire.walk(0, 1, "tcp").await.starts_with("Rwalk nwqid 1 0:"));
    // The first name fails: an error. A later one: what there is, and no fid.
    assert_eq!(wire.walk(0, 2, "nothing/cs").await, "Rerror ename file not found");
    assert!(wire.walk(0, 2, "tcp/5/ctl").await.starts_with("Rwalk nwqid 1 0:"));
    assert!(wire.walk(0, 2, "cs/x").await.starts_with("Rwalk nwqid 1 0:"));
    assert_eq!(wire.clunk(2).await, "Rerror ename unknown fid");
    assert_eq!(wire.walk(0, 1, "cs").await, "Rerror ename duplicate fid");
    // On itself: moved, or left where it was.
    assert!(wire.walk(1, 1, "clone/x").await.starts_with("Rwalk nwqid 1"));
    assert!(wire.walk(1, 1, "clone").await.starts_with("Rwalk nwqid 1"));
    assert_eq!(wire.walk(1, 3, "x").await, "Rerror ename not a directory");
    assert_eq!(wire.walk(1, 3, "").await, "Rwalk nwqid 0");
    assert_eq!(wire.walk(1, 1, "").await, "Rwalk nwqid 0");
    assert_eq!(wire.clunk(3).await, "Rclunk");
}

#[tokio::test]
async fn a_walk_has_at_most_16_names() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    let up = |count| Request::Walk { fid: 0, newfid: 1, names: vec![b"..".as_slice(); count] };
    assert_eq!(wire.ask(&up(17)).await, "Rerror ename too many names in walk");
    assert!(wire.ask(&up(16)).await.starts_with("Rwalk nwqid 16 0:(0000000000000000 0 d) 1:"));
    // A count that is a lie.
    let mut frame = up(16).encode(9, Dialect::Plan9);
    frame[15..17].copy_from_slice(&[0xff, 0xff]);
    wire.say_raw(&frame).await;
    assert_eq!(wire.hear(9).await, "Rerror ename too many names in walk");
    frame[15..17].copy_from_slice(&[15, 0]);
    wire.say_raw(&frame).await;
    assert_eq!(wire.hear(9).await, "Rerror ename malformed message");
}

/// Entries 13 and 14 of sshnet.c's defects.
#[tokio::test]
async fn names_of_clients_are_taken_literally() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = Wire::plan9(&fake).await;
    assert!(wire.walk(0, 1, "tcp/0").await.starts_with("Rwalk nwqid 2"));
    for name in ["-1", "00", "+1", "+0", "1", "0\0", "\u{ff10}"] {
        let names = vec![b"tcp".as_slice(), name.as_bytes()];
        let walked = wire.ask(&Request::Walk { fid: 0, newfid: 2, names }).await;
        assert!(walked.starts_with("Rwalk nwqid 1 "), "{name}: {walked}");
    }
    let not_text = vec![b"\xff\xfe".as_slice()];
    let walked = wire.ask(&Request::Walk { fid: 0, newfid: 2, names: not_text }).await;
    assert_eq!(walked, "Rerror ename file not found");
    // Up from the root is the root; from a client, its protocol.
    let up = wire.walk(0, 2, "..").await;
    assert_eq!(up, "Rwalk nwqid 1 0:(0000000000000000 0 d)");
    let down_and_up = wire.walk(1, 3, "../..").await;
    assert!(down_and_up.ends_with("1:(0000000000000000 0 d)"), "{down_and_up}");
}

#[tokio::test]
async fn open_directories_can_be_walked_from_and_open_files_not() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp", 0).await;
    assert!(wire.walk(1, 2, "clone").await.starts_with("Rwalk nwqid 1"));
    assert_eq!(wire.walk(1, 3, "").await, "Rwalk nwqid 0");
    assert_eq!(wire.walk(1, 1, "clone").await, "Rerror ename cannot clone open fid");
    wire.open(4, "tcp/clone", 2).await;
    assert_eq!(wire.walk(4, 5, "").await, "Rerror ename cannot clone open fid");
    assert_eq!(wire.walk(4, 4, "").await, "Rerror ename cannot clone open fid");
}

#[tokio::test]
async fn a_number_is_free_as_soon_as_its_clunk_is_sent() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    for _ in 0..100 {
        wire.say(&Request::Walk { fid: 0, newfid: 1, names: vec![b"cs"] }).await;
        wire.say(&Request::Clunk { fid: 1 }).await;
    }
    for tag in (2..=201).step_by(2) {
        assert!(wire.hear(tag).await.starts_with("Rwalk"));
        assert_eq!(wire.hear(tag + 1).await, "Rclunk");
    }
}

#[tokio::test]
async fn remove_clunks_and_refuses() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    wire.open(1, "tcp/clone", 2).await;
    assert_eq!(wire.ask(&Request::Remove { fid: 1 }).await, "Rerror ename permission denied");
    assert_eq!(wire.clunk(1).await, "Rerror ename unknown fid");
    assert_eq!(fake.references(), []);
}

#[tokio::test]
async fn fids_have_a_limit() {
    let fake = Fake::default();
    let mut wire = Wire::plan9(&fake).await;
    let frames: Vec<u8> = (1..65_536)
        .flat_map(|newfid| {
            Request::Walk { fid: 0, newfid, names: vec![] }.encode(1, Dialect::Plan9)
        })
        .collect();
    for frames in frames.chunks(17 * 128) {
        wire.say_raw(frames).await;
        for _ in 0..frames.len() / 17 {
            assert_eq!(wire.hear(1).await, "Rwalk nwqid 0");
        }
    }
    assert_eq!(wire.walk(0, 70_000, "").await, "Rerror ename too many fids");
    assert_eq!(wire.clunk(65_535).await, "Rclunk");
    assert_eq!(wire.walk(0, 70_000, "").await, "Rwalk nwqid 0");
}
