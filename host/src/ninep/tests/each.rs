//! What must be the same in each dialect, and is said in each one's own way.

use rs9p::fcall::{Flock, GetAttrMask, Getlock, LockFlag, LockType, SetAttr, SetAttrMask, Time};

use super::*;
use crate::engine::{ErrorCode, Reply as Done};
use crate::tree::fake::{Asked, error};

/// A connection with a client: its `ctl` as fid 1, its `data` as fid 2, its
/// `listen` as fid 3, which is not open.
async fn dialled(fake: &Fake, dialect: Dialect) -> Wire {
    let mut wire = Wire::new(fake.tree(), dialect).await;
    wire.open(1, "tcp/clone", 2).await;
    wire.open(2, "tcp/0/data", 2).await;
    wire.walk(0, 3, "tcp/0/listen").await;
    wire
}

async fn waits(fake: &Fake, count: usize) {
    until("requests wait", || fake.asked().len() == count).await;
}

fn is_open(answer: &str) -> bool {
    answer.starts_with("Ropen") || answer.starts_with("RlOpen")
}

const READ: Request<'static> = Request::Read { fid: 2, offset: 0, count: 10 };
const WRITE: Request<'static> = Request::Write { fid: 2, offset: 0, data: b"hello" };
const CONNECT: Request<'static> = Request::Write { fid: 1, offset: 0, data: b"connect far!80" };

#[tokio::test]
async fn an_error_has_its_text_and_its_number() {
    for dialect in DIALECTS {
        let fake = Fake::default();
        let mut wire = dialled(&fake, dialect).await;
        let walk = |fid, newfid, names| Request::Walk { fid, newfid, names };
        let attach =
            |fid, afid, aname| Request::Attach { fid, afid, uname: b"u", aname, n_uname: 0 };
        let listed = wire.open(4, "tcp", 0).await;
        assert!(is_open(&listed), "{listed}");
        wire.walk(0, 5, "tcp/0/status").await;
        let status = wire.opening(5, 1);
        let again = wire.opening(2, 0);
        let directory = wire.opening(0, 1);
        let auth = Request::Auth { afid: 9, uname: b"u", aname: b"", n_uname: 0 };
        for (request, text, errno) in [
            (Request::Clunk { fid: 9 }, "unknown fid", 9),
            (walk(9, 10, vec![]), "unknown fid", 9),
            (walk(0, 2, vec![b"cs"]), "duplicate fid", 9),
            (attach(2, NOFID, b""), "duplicate fid", 9),
            (attach(9, 8, b""), "authentication not required", 2),
            (attach(9, NOFID, b"x"), "file not found", 2),
            (auth, "authentication not required", 2),
            (walk(0, 9, vec![b".."; 17]), "too many names in walk", 22),
            (walk(0, 9, vec![b"x"]), "file not found", 2),
            (walk(5, 9, vec![b"x"]), "not a directory", 20),
            (walk(2, 9, vec![]), "cannot clone open fid", 9),
            (status, "permission denied", 13),
            (directory, "Is a directory", 21),
            (again, "bad use of fid", 9),
            (Request::Read { fid: 3, offset: 0, count: 1 }, "bad use of fid", 9),
            (Request::Write { fid: 4, offset: 0, data: b"x" }, "permission denied", 13),
            (Request::Remove { fid: 5 }, "permission denied", 13),
            (Request::Clunk { fid: 5 }, "unknown fid", 9),
        ] {
            wire.refused(&request, text, errno).await;
        }
        // No such type, and a body that is too short.
        wire.say_raw(&[7, 0, 0, 0, 255, 99, 0]).await;
        wire.hear_refusal(99, "unknown message", 95).await;
        wire.say_raw(&[7, 0, 0, 0, 120, 99, 0]).await;
        wire.hear_refusal(99, "malformed message", 71).await;
        // What the engine says, cut to what Linux can take.
        let connect = wire.say(&CONNECT).await;
        waits(&fake, 1).await;
        fake.complete(Err(error(ErrorCode::ConnectionRefused, &"é".repeat(100))));
        wire.hear_refusal(connect, &"é".repeat(60), 111).await;
        assert_eq!(wire.clunk(0).await, "Rclunk");
    }
}

/// Linux clunks fids that never came to be, after a walk that went part of the way.
#[tokio::test]
async fn every_message_of_linux_on_a_fid_that_is_none_is_an_error_and_no_more() {
    let fake = Fake::default();
    let mut wire = Wire::new(fake.tree(), Dialect::Linux).await;
    let name = String::new;
    let (fid, dfid, gid, mode) = (9, 9, 0, 0);
    let time = Time { sec: 0, nsec: 0 };
    let stat = SetAttr { mode, uid: 0, gid, size: 0, atime: time, mtime: time };
    let (typ, start, length, proc_id) = (LockType::RDLOCK, 0, 0, 0);
    let flags = LockFlag::BLOCK;
    let flock = Flock { typ, flags, start, length, proc_id, client_id: name() };
    let getlock = Getlock { typ, start, length, proc_id, client_id: name() };
    for message in [
        FCall::TStatFs { fid },
        FCall::TlOpen { fid, flags: 0 },
        FCall::TlCreate { fid, name: name(), flags: 0, mode, gid },
        FCall::TSymlink { fid, name: name(), symtgt: name(), gid },
        FCall::TMkNod { dfid, name: name(), mode, major: 0, minor: 0, gid },
        FCall::TRename { fid, dfid, name: name() },
        FCall::TReadLink { fid },
        FCall::TGetAttr { fid, req_mask: GetAttrMask::ALL },
        FCall::TSetAttr { fid, valid: SetAttrMask::empty(), stat },
        FCall::TxAttrWalk { fid, newfid: 8, name: name() },
        FCall::TxAttrCreate { fid, name: name(), attr_size: 0, flags: 0 },
        FCall::TReadDir { fid, offset: 0, count: 100 },
        FCall::TFSync { fid },
        FCall::TLock { fid, flock },
        FCall::TGetLock { fid, flock: getlock },
        FCall::TLink { dfid, fid, name: name() },
        FCall::TMkDir { dfid, name: name(), mode, gid },
        FCall::TRenameAt { olddirfid: 0, oldname: name(), newdirfid: 9, newname: name() },
        FCall::TUnlinkAt { dirfd: 9, name: name(), flags: 0 },
    ] {
        wire.refused(&Request::Linux(message), "unknown fid", 9).await;
    }
    assert_eq!(wire.clunk(0).await, "Rclunk");
}

#[tokio::test]
async fn a_version_starts_over_in_any_dialect() {
    for (before, after) in DIALECTS.into_iter().zip(DIALECTS.into_iter().cycle().skip(1)) {
        let fake = Fake::default();
        let mut wire = dialled(&fake, before).await;
        let open = wire.opening(3, 2);
        for request in [READ, WRITE, CONNECT, open] {
            wire.say(&request).await;
        }
        waits(&fake, 4).await;
        wire.version(8192, after).await;
        assert_eq!((fake.asked(), fake.references()), (vec![], vec![]));
        // Neither fids nor tags of before are in use.
        wire.tag = 0;
        wire.refused(&Request::Clunk { fid: 0 }, "unknown fid", 9).await;
        wire.attach(0).await;
        assert!(is_open(&wire.open(1, "tcp/clone", 2).await));
        assert_eq!(fake.references(), [(0, 1)]);
    }
}

#[tokio::test]
async fn the_smallest_messages_are_enough_for_all() {
    for dialect in DIALECTS {
        let fake = Fake::default();
        let mut wire = Wire::bare(fake.tree());
        wire.version(256, dialect).await;
        wire.attach(0).await;
        assert!(wire.open(1, "tcp/clone", 2).await.ends_with("iounit 232"));
        let down_and_up = ["tcp", ".."].repeat(8).join("/");
        assert!(wire.walk(0, 2, &down_and_up).await.starts_with("Rwalk nwqid 16"));
        wire.open(3, "tcp/0", 0).await;
        let stat = match dialect {
            Dialect::Linux => {
                Request::Linux(FCall::TGetAttr { fid: 3, req_mask: GetAttrMask::ALL })
            }
            _ => Request::Stat { fid: 3 },
        };
        let answer = wire.ask(&stat).await;
        assert!(answer.starts_with("Rstat") || answer.starts_with("RGetAttr"), "{answer}");
        // A directory, message by message.
        let mut offset = 0;
        let mut entries = 0;
        loop {
            let read = match dialect {
                Dialect::Linux => Request::Linux(FCall::TReadDir { fid: 3, offset, count: !0 }),
                _ => Request::Read { fid: 3, offset, count: !0 },
            };
            let frame = wire.ask_frame(&read).await;
            assert!(frame.len() <= 256);
            let mut rest = &frame[11..];
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let size = if dialect == Dialect::Linux {
                    offset = u64::from_le_bytes(rest[13..21].try_into().expect("8 bytes"));
                    24 + usize::from(rest[22])
                } else {
                    2 + usize::from(rest[0])
                };
                if dialect != Dialect::Linux {
                    offset += size as u64;
                }
                rest = &rest[size..];
                entries += 1;
            }
        }
        assert_eq!(entries, 6);
        let read = wire.say(&Request::Read { fid: 1, offset: 0, count: !0 }).await;
        assert_eq!(wire.hear(read).await, "Rread count 1 '0'");
        // A frame that is a byte too long is none.
        wire.say_raw(&[1, 1, 0, 0, 118]).await;
        wire.ended().await;
    }
}

#[tokio::test]
async fn offsets_of_streams_have_64_bits_and_mean_nothing() {
    for dialect in DIALECTS {
        let fake = Fake::default();
        let mut wire = dialled(&fake, dialect).await;
        let mut tags = Vec::new();
        for offset in [u64::MAX, 1 << 63, 1 << 32, 0] {
            tags.push(wire.say(&Request::Read { fid: 2, offset, count: 10 }).await);
            tags.push(wire.say(&Request::Write { fid: 2, offset, data: b"hello" }).await);
        }
        waits(&fake, 8).await;
        // As they were said.
        for pair in fake.asked().chunks(2) {
            assert_eq!(pair, [Asked::Read(10), Asked::Write(b"hello".to_vec())]);
        }
        for tags in tags.chunks(2) {
            fake.complete(Ok(Done::Data(b"0123456789".to_vec())));
            fake.complete(Ok(Done::Count(5)));
            assert_eq!(wire.hear(tags[0]).await, "Rread count 10 '0123456789'");
            assert_eq!(wire.hear(tags[1]).await, "Rwrite count 5");
        }
    }
}

#[tokio::test]
async fn a_flush_ends_what_waits_and_is_all_that_is_heard() {
    for dialect in DIALECTS {
        let fake = Fake::default();
        let mut wire = dialled(&fake, dialect).await;
        let open = wire.opening(3, 2);
        for request in [&READ, &WRITE, &CONNECT, &open] {
            let tag = wire.say(request).await;
            waits(&fake, 1).await;
            assert_eq!(wire.ask(&Request::Flush { oldtag: tag }).await, "Rflush");
            assert_eq!(fake.asked(), []);
            // The tag and the fid can be used again.
            wire.say_as(tag, request).await;
            waits(&fake, 1).await;
            assert_eq!(wire.ask(&Request::Flush { oldtag: tag }).await, "Rflush");
        }
        wire.silence().await;
        assert_eq!(fake.references(), [(0, 2)]);
    }
}

#[tokio::test]
async fn what_took_effect_before_its_flush_answers_first() {
    for dialect in DIALECTS {
        let fake = Fake::default();
        fake.flush_writes_after(2);
        let mut wire = dialled(&fake, dialect).await;
        // A write of which a part is on its way.
        let write = wire.say(&WRITE).await;
        let flush = wire.say(&Request::Flush { oldtag: write }).await;
        assert_eq!(wire.hear(write).await, "Rwrite count 2");
        assert_eq!(wire.hear(flush).await, "Rflush");
        // A clone: the flush comes too late, and its client is there.
        wire.walk(0, 4, "tcp/clone").await;
        let clone = wire.opening(4, 2);
        let clone = wire.say(&clone).await;
        let flush = wire.say(&Request::Flush { oldtag: clone }).await;
        assert!(is_open(&wire.hear(clone).await));
        assert_eq!(wire.hear(flush).await, "Rflush");
        assert_eq!(wire.read(4, 0, 10).await, "Rread count 1 '1'");
        // A call that came: whoever took it has it.
        let listen = wire.opening(3, 2);
        let listen = wire.say(&listen).await;
        waits(&fake, 1).await;
        fake.call();
        let flush = wire.say(&Request::Flush { oldtag: listen }).await;
        assert!(is_open(&wire.hear(listen).await));
        assert_eq!(wire.hear(flush).await, "Rflush");
        assert_eq!(wire.read(3, 0, 10).await, "Rread count 1 '2'");
        assert_eq!(fake.references(), [(0, 2), (1, 1), (2, 1)]);
        // Bytes that were read.
        let read = wire.say(&READ).await;
        waits(&fake, 1).await;
        fake.complete(Ok(Done::Data(b"0123456789".to_vec())));
        let flush = wire.say(&Request::Flush { oldtag: read }).await;
        assert_eq!(wire.hear(read).await, "Rread count 10 '0123456789'");
        assert_eq!(wire.hear(flush).await, "Rflush");
        wire.silence().await;
    }
}

#[tokio::test]
async fn a_clunk_or_a_remove_interrupts_what_waits_on_its_fid() {
    for dialect in DIALECTS {
        for ending in [|fid| Request::Clunk { fid }, |fid| Request::Remove { fid }] {
            let fake = Fake::default();
            let mut wire = dialled(&fake, dialect).await;
            let open = wire.opening(3, 2);
            for (request, fid) in [(READ, 2), (open, 3), (CONNECT, 1)] {
                let waiting = wire.say(&request).await;
                waits(&fake, 1).await;
                let ended = wire.say(&ending(fid)).await;
                wire.hear_refusal(waiting, "Interrupted system call", 4).await;
                let frame = wire.frame().await;
                assert_eq!(frame_tag(&frame), ended, "{}", trace::line(&frame, dialect));
                assert_eq!(fake.asked(), []);
                wire.refused(&Request::Clunk { fid }, "unknown fid", 9).await;
            }
            assert_eq!(fake.references(), []);
        }
    }
}

#[tokio::test]
async fn an_end_with_everything_pending_leaves_nothing_behind() {
    for dialect in DIALECTS {
        let fake = Fake::default();
        let mut wire = dialled(&fake, dialect).await;
        let open = wire.opening(3, 2);
        for request in [&READ, &WRITE, &CONNECT, &open] {
            for _ in 0..3 {
                // fid 3 can be opened once: the others are refused.
                wire.say(request).await;
            }
        }
        waits(&fake, 10).await;
        // In the middle of a message.
        wire.say_raw(&[100, 0, 0, 0, 118]).await;
        wire.hang_up().await;
        assert_eq!((fake.asked(), fake.references()), (vec![], vec![]));
    }
}

/// Each call goes to exactly one: who is answered with it, or who listens next.
#[tokio::test]
async fn no_call_is_lost_when_listens_are_flushed_as_calls_come() {
    let fake = Fake::default();
    let mut wire = dialled(&fake, Dialect::Linux).await;
    let mut taken = 0;
    let mut came = 0;
    for round in 0..200 {
        let open = wire.opening(3, 2);
        let listen = wire.say(&open).await;
        waits(&fake, 1).await;
        // Before the flush, not before it is answered, or meanwhile.
        let early = round % 3 == 0 && fake.try_call();
        let calling = tokio::task::spawn_blocking({
            let fake = fake.clone();
            move || round % 3 == 1 && fake.try_call()
        });
        let flush = wire.say(&Request::Flush { oldtag: listen }).await;
        let frame = wire.frame().await;
        if frame_tag(&frame) == listen {
            assert!(is_open(&trace::line(&frame, Dialect::Linux)));
            taken += 1;
            assert_eq!(wire.hear(flush).await, "Rflush");
            assert_eq!(wire.clunk(3).await, "Rclunk");
            wire.walk(0, 3, "tcp/0/listen").await;
        } else {
            assert_eq!(frame_tag(&frame), flush);
        }
        came += usize::from(early) + usize::from(calling.await.expect("no panic"));
        assert_eq!((fake.asked(), fake.references()), (vec![], vec![(0, 2)]));
    }
    assert_eq!(taken, came);
    assert!((67..200).contains(&taken), "{taken} of 200");
}
