//! What 9P2000.u and 9P2000.L have of their own.

use rs9p::fcall::{
    FCall, Flock, GetAttrMask, LockFlag, LockStatus, LockType, SetAttr, SetAttrMask, Time,
};

use super::*;
use crate::engine::{ErrorCode, Protocol};
use crate::ninep::linux;
use crate::tree::fake::error;

async fn linux_wire(fake: &Fake) -> Wire {
    Wire::new(fake.tree(), Dialect::Linux).await
}

impl Wire {
    async fn linux(&mut self, message: FCall) -> FCall {
        let frame = self.ask_frame(&Request::Linux(message)).await;
        match Reply::decode(&frame, Dialect::Linux) {
            Ok(Reply::Linux(reply)) => reply,
            Ok(Reply::Error { errno, .. }) => FCall::RlError { ecode: errno },
            other => panic!("{other:?}"),
        }
    }

    /// Says it and hears an Rlerror with this number.
    async fn refuses(&mut self, message: FCall, errno: u32) {
        let said = format!("{message:?}");
        assert_eq!(self.linux(message).await, FCall::RlError { ecode: errno }, "{said}");
    }
}

const EPERM: u32 = 1;
const ENOENT: u32 = 2;
const EBADF: u32 = 9;
const EACCES: u32 = 13;
const ENOTDIR: u32 = 20;
const EISDIR: u32 = 21;
const EINVAL: u32 = 22;
const EOPNOTSUPP: u32 = 95;

#[tokio::test]
async fn errors_are_a_text_or_a_number_or_both() {
    for (dialect, no_file, refused) in [
        (Dialect::Plan9, "Rerror ename file not found", "Rerror ename no route"),
        (Dialect::Unix, "Rerror ename file not found", "Rerror ename no route"),
        (Dialect::Linux, "Rlerror ecode 2", "Rlerror ecode 111"),
    ] {
        let fake = Fake::default();
        let mut wire = Wire::new(fake.tree(), dialect).await;
        let frame = wire.ask_frame(&Request::Walk { fid: 0, newfid: 1, names: vec![b"x"] }).await;
        let line = trace::line(&frame, dialect).replacen(" tag 2", "", 1);
        assert_eq!(line, no_file);
        let errno = match Reply::decode(&frame, dialect) {
            Ok(Reply::Error { errno, .. }) => errno,
            other => panic!("{other:?}"),
        };
        assert_eq!(errno, if dialect == Dialect::Plan9 { 0 } else { ENOENT });
        wire.walk(0, 1, "tcp/clone").await;
        match dialect {
            Dialect::Linux => drop(wire.linux(FCall::TlOpen { fid: 1, flags: 2 }).await),
            _ => drop(wire.ask(&Request::Open { fid: 1, mode: 2 }).await),
        }
        let write = wire.say(&Request::Write { fid: 1, offset: 0, data: b"connect x!1" }).await;
        until("it waits", || fake.asked().len() == 1).await;
        fake.complete(Err(error(ErrorCode::ConnectionRefused, "no route")));
        assert_eq!(wire.hear(write).await, refused);
    }
}

#[tokio::test]
async fn unix_has_its_own_fields() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = Wire::new(fake.tree(), Dialect::Unix).await;
    wire.walk(0, 1, "tcp/0/data").await;
    let frame = wire.ask_frame(&Request::Stat { fid: 1 }).await;
    match Reply::decode(&frame, Dialect::Unix) {
        Ok(Reply::Stat { stat }) => {
            assert_eq!((stat.n_uid, stat.n_gid, stat.n_muid), (7, 8, 7));
            assert_eq!(stat.extension, b"");
        }
        other => panic!("{other:?}"),
    }
    // What a shell's `>` sends.
    assert!(wire.ask(&Request::Open { fid: 1, mode: 0x11 }).await.starts_with("Ropen"));
    let truncate = Stat { length: 0, mtime: 5, ..sync() };
    assert_eq!(wire.ask(&Request::Wstat { fid: 1, stat: truncate }).await, "Rwstat");
    let chown = Stat { n_uid: 0, ..sync() };
    let answer = wire.ask(&Request::Wstat { fid: 1, stat: chown }).await;
    assert_eq!(answer, "Rerror ename Operation not permitted");
    // A directory's entries are the same stats.
    wire.open(2, "tcp/0", 0).await;
    let frame = wire.ask_frame(&Request::Read { fid: 2, offset: 0, count: 8000 }).await;
    let entry = u16::from_le_bytes([frame[11], frame[12]]);
    assert_eq!(entry, 47 + 3 + 6 + 5 + 6 + 2 + 12);
}

#[tokio::test]
async fn linux_opens_with_its_own_flags() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = linux_wire(&fake).await;
    let shell = 0x8041;
    for (path, flags, answer) in [
        ("tcp/0/data", shell, Ok(())),
        ("tcp/0/data", 0x8000 | 0x400 | 0x800 | 0x200 | 2, Ok(())),
        ("tcp/0/status", 0x8000, Ok(())),
        ("tcp/0/status", 1, Err(EACCES)),
        ("tcp/0/status", 0x200, Err(EACCES)),
        ("tcp/0/data", 3, Err(EINVAL)),
        ("tcp", 0x10000 | 0x8000, Ok(())),
        ("tcp", 2, Err(EISDIR)),
    ] {
        wire.walk(0, 1, path).await;
        match (wire.linux(FCall::TlOpen { fid: 1, flags }).await, answer) {
            (FCall::RlOpen { iounit, .. }, Ok(())) => assert_eq!(iounit, 8168),
            (FCall::RlError { ecode }, Err(errno)) => assert_eq!(ecode, errno),
            (other, _) => panic!("{path} {flags:#x}: {other:?}"),
        }
        wire.clunk(1).await;
    }
    // Messages of the others are none of its own.
    let open = Request::Open { fid: 0, mode: 0 }.encode(9, Dialect::Plan9);
    wire.say_raw(&open).await;
    assert_eq!(wire.hear(9).await, format!("Rlerror ecode {EOPNOTSUPP}"));
}

#[tokio::test]
async fn linux_gets_attributes() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = linux_wire(&fake).await;
    for (path, mode) in [("", 0o040_500), ("tcp/0/ctl", 0o100_600), ("tcp/0/status", 0o100_400)] {
        wire.walk(0, 1, path).await;
        let ask = FCall::TGetAttr { fid: 1, req_mask: GetAttrMask::ALL };
        match wire.linux(ask).await {
            FCall::RGetAttr { valid, stat, .. } => {
                assert_eq!(valid, GetAttrMask::BASIC);
                assert_eq!((stat.mode, stat.uid, stat.gid), (mode, 7, 8));
                assert_eq!((stat.nlink, stat.size, stat.blksize), (1, 0, 4096));
                let of_a_client = stat.mtime.sec == crate::tree::fake::CHANGED.as_secs();
                assert_eq!(of_a_client, path.starts_with("tcp/0"), "{path}");
                assert_eq!((stat.atime, stat.ctime), (stat.mtime, stat.mtime));
            }
            other => panic!("{other:?}"),
        }
        wire.clunk(1).await;
    }
    match wire.linux(FCall::TStatFs { fid: 0 }).await {
        FCall::RStatFs { statfs } => assert_eq!(statfs.typ, 0x0102_1997),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn linux_sets_nothing_but_what_shells_set() {
    let fake = Fake::default();
    fake.make(Protocol::Tcp);
    let mut wire = linux_wire(&fake).await;
    wire.walk(0, 1, "tcp/0/data").await;
    let stat = |mode, size| {
        let time = Time { sec: 1, nsec: 2 };
        SetAttr { mode, uid: 0, gid: 0, size, atime: time, mtime: time }
    };
    let owner = |uid, gid| SetAttr { uid, gid, ..stat(0, 0) };
    let both = SetAttrMask::UID | SetAttrMask::GID;
    let all_times = SetAttrMask::from_bits_truncate(0x1f0);
    for (valid, set, accepted) in [
        (SetAttrMask::from_bits_truncate(0x68), stat(0, 0), true),
        (all_times, stat(0, 0), true),
        (SetAttrMask::SIZE, stat(0, 1), false),
        (SetAttrMask::MODE, stat(0o100_600, 0), true),
        (SetAttrMask::MODE, stat(0o644, 0), false),
        (SetAttrMask::UID, owner(7, 0), true),
        (SetAttrMask::GID, owner(0, 8), true),
        (both, owner(7, 8), true),
        (both, owner(7, 9), false),
        (both, owner(6, 8), false),
        (SetAttrMask::UID, stat(0, 0), false),
        (SetAttrMask::GID, stat(0, 0), false),
    ] {
        let answer = wire.linux(FCall::TSetAttr { fid: 1, valid, stat: set }).await;
        let expected = if accepted { FCall::RSetAttr } else { FCall::RlError { ecode: EPERM } };
        assert_eq!(answer, expected, "{valid:?} {set:?}");
    }
}

#[tokio::test]
async fn linux_has_no_attributes_links_or_locks_here() {
    let fake = Fake::default();
    let mut wire = linux_wire(&fake).await;
    let name = || "x".to_owned();
    wire.refuses(FCall::TxAttrWalk { fid: 0, newfid: 1, name: name() }, EOPNOTSUPP).await;
    assert_eq!(wire.clunk(1).await, format!("Rlerror ecode {EBADF}"));
    let create = FCall::TxAttrCreate { fid: 0, name: name(), attr_size: 1, flags: 0 };
    wire.refuses(create, EOPNOTSUPP).await;
    wire.refuses(FCall::TReadLink { fid: 0 }, EINVAL).await;
    wire.refuses(FCall::TlCreate { fid: 0, name: name(), flags: 1, mode: 0, gid: 0 }, EACCES).await;
    wire.refuses(FCall::TMkDir { dfid: 0, name: name(), mode: 0, gid: 0 }, EACCES).await;
    wire.refuses(FCall::TUnlinkAt { dirfd: 0, name: name(), flags: 0 }, EACCES).await;
    wire.refuses(FCall::TRename { fid: 0, dfid: 0, name: name() }, EACCES).await;
    let lock = |typ| FCall::TLock {
        fid: 0,
        flock: Flock {
            typ,
            flags: LockFlag::BLOCK,
            start: 0,
            length: 0,
            proc_id: 1,
            client_id: "me".to_owned(),
        },
    };
    wire.refuses(lock(LockType::WRLOCK), EOPNOTSUPP).await;
    let unlocked = wire.linux(lock(LockType::UNLOCK)).await;
    assert_eq!(unlocked, FCall::RLock { status: LockStatus::SUCCESS });
    wire.refuses(lock(LockType::RDLOCK), EOPNOTSUPP).await;
}

#[tokio::test]
async fn linux_syncs_in_both_lengths() {
    let fake = Fake::default();
    let mut wire = linux_wire(&fake).await;
    assert_eq!(wire.linux(FCall::TFSync { fid: 0 }).await, FCall::RFSync);
    wire.say_raw(&[15, 0, 0, 0, 50, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0]).await;
    assert_eq!(wire.hear(9).await, "RFSync");
    for extra in [1, 3, 5] {
        let mut frame = vec![11 + extra, 0, 0, 0, 50, 9, 0, 0, 0, 0, 0];
        frame.resize(11 + usize::from(extra), 0);
        wire.say_raw(&frame).await;
        assert_eq!(wire.hear(9).await, "Rlerror ecode 71");
    }
    // The message that would make rs9p allocate what it says.
    wire.say_raw(&[11, 0, 0, 0, 41, 5, 0, 0xff, 0xff, 0xff, 0xff]).await;
    assert_eq!(wire.hear(5).await, format!("Rlerror ecode {EOPNOTSUPP}"));
}

/// Cookie and name of each entry of an Rreaddir.
fn entries(frame: &[u8]) -> Vec<(u64, String)> {
    assert_eq!(frame[4], 41, "{}", trace::line(frame, Dialect::Linux));
    let count = u32::from_le_bytes([frame[7], frame[8], frame[9], frame[10]]);
    assert_eq!(count as usize, frame.len() - 11);
    let mut rest = &frame[11..];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let cookie = u64::from_le_bytes(rest[13..21].try_into().expect("8 bytes"));
        let directory = rest[0] == 0x80;
        assert_eq!(rest[21], if directory { 4 } else { 8 });
        let length = usize::from(u16::from_le_bytes([rest[22], rest[23]]));
        let (entry, after) = rest.split_at(24 + length);
        entries.push((cookie, String::from_utf8_lossy(&entry[24..]).into_owned()));
        rest = after;
    }
    entries
}

#[tokio::test]
async fn linux_reads_directories_by_cookies_that_last() {
    let fake = Fake::default();
    let clients: Vec<_> = (0..100).map(|_| fake.make(Protocol::Tcp)).collect();
    let mut wire = linux_wire(&fake).await;
    wire.walk(0, 1, "tcp").await;
    wire.refuses(FCall::TReadDir { fid: 1, offset: 0, count: 100 }, EBADF).await;
    wire.linux(FCall::TlOpen { fid: 1, flags: 0x8000 }).await;
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let ask = Request::Linux(FCall::TReadDir { fid: 1, offset, count: 500 });
        let frame = wire.ask_frame(&ask).await;
        assert!(frame.len() <= 511);
        let entries = entries(&frame);
        let Some((last, _)) = entries.last() else { break };
        offset = *last;
        names.extend(entries.into_iter().map(|(_, name)| name));
    }
    let numbers = (0..100).map(|n: u32| n.to_string());
    let all: Vec<String> =
        ["clone".to_owned()].into_iter().chain(numbers).chain(["stats".to_owned()]).collect();
    assert_eq!(names, all);
    // From a cookie on, in another opening, when others have gone.
    for client in &clients[..40] {
        crate::tree::Stack::release(&fake, *client);
    }
    wire.walk(0, 2, "tcp").await;
    wire.linux(FCall::TlOpen { fid: 2, flags: 0 }).await;
    let after_49 = 49 + 2;
    let ask = Request::Linux(FCall::TReadDir { fid: 2, offset: after_49, count: 8000 });
    let seen = entries(&wire.ask_frame(&ask).await);
    assert_eq!(seen.first(), Some(&(52, "50".to_owned())));
    assert_eq!(seen.len(), 51);
    wire.refuses(FCall::TReadDir { fid: 2, offset: 0, count: 20 }, EINVAL).await;
    let read = wire.read(2, 0, 100).await;
    assert_eq!(read, format!("Rlerror ecode {EISDIR}"));
    wire.walk(0, 3, "cs").await;
    wire.linux(FCall::TlOpen { fid: 3, flags: 2 }).await;
    wire.refuses(FCall::TReadDir { fid: 3, offset: 0, count: 100 }, ENOTDIR).await;
}

#[test]
fn only_requests_are_decoded_for_the_server() {
    for kind in 0..=255 {
        let frame = [11, 0, 0, 0, kind, 1, 0, 0xff, 0xff, 0xff, 0xff];
        if !linux::is_request(kind) {
            assert!(linux::decode_request(&frame).is_err(), "{kind}");
        }
    }
}
