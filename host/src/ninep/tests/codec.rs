//! The codec: golden bytes, round trips, rs9p's word, and any bytes at all.

use rs9p::fcall::{Data, FCall, Msg, QId, QIdType};
use rs9p::serialize::{read_msg, write_msg};

use super::*;
use crate::ninep::codec::{Qid, read_header};

fn qid(random: &mut Random) -> Qid {
    Qid { kind: (random.next() as u8) & 0x80, version: random.next() as u32, path: random.next() }
}

/// Some bytes of a text.
fn text(random: &mut Random) -> &'static [u8] {
    let text = b"the quick brown fox jumps over the lazy dog";
    let start = random.below(text.len() as u64) as usize;
    let length = random.below((text.len() - start + 1) as u64) as usize;
    &text[start..start + length]
}

fn stat(random: &mut Random, dialect: Dialect) -> Stat<'static> {
    let unix = dialect == Dialect::Unix;
    Stat {
        kind: random.next() as u16,
        dev: random.next() as u32,
        qid: qid(random),
        mode: random.next() as u32,
        atime: random.next() as u32,
        mtime: random.next() as u32,
        length: random.next(),
        name: text(random),
        uid: text(random),
        gid: text(random),
        muid: text(random),
        extension: if unix { text(random) } else { b"" },
        n_uid: if unix { 1 } else { !0 },
        n_gid: if unix { 2 } else { !0 },
        n_muid: if unix { 3 } else { !0 },
    }
}

/// A request that all dialects have.
fn shared_request(random: &mut Random, dialect: Dialect) -> Request<'static> {
    let (fid, newfid) = (random.next() as u32, random.next() as u32);
    let n_uname = if dialect == Dialect::Plan9 { !0 } else { random.next() as u32 };
    match random.below(9) {
        0 => Request::Version { msize: fid, version: text(random) },
        1 => Request::Auth { afid: fid, uname: text(random), aname: text(random), n_uname },
        2 => {
            let (uname, aname) = (text(random), text(random));
            Request::Attach { fid, afid: newfid, uname, aname, n_uname }
        }
        3 => Request::Flush { oldtag: fid as u16 },
        4 => {
            let names = (0..random.below(17)).map(|_| text(random)).collect();
            Request::Walk { fid, newfid, names }
        }
        5 => Request::Read { fid, offset: random.next(), count: newfid },
        6 => Request::Write { fid, offset: random.next(), data: text(random) },
        7 => Request::Clunk { fid },
        _ => Request::Remove { fid },
    }
}

fn plain_request(random: &mut Random, dialect: Dialect) -> Request<'static> {
    let fid = random.next() as u32;
    match random.below(4) {
        0 => Request::Open { fid, mode: random.next() as u8 },
        1 => Request::Create {
            fid,
            name: text(random),
            perm: random.next() as u32,
            mode: random.next() as u8,
            extension: if dialect == Dialect::Unix { text(random) } else { b"" },
        },
        2 => Request::Stat { fid },
        _ => Request::Wstat { fid, stat: stat(random, dialect) },
    }
}

fn shared_reply(random: &mut Random, dialect: Dialect) -> Reply<'static> {
    match random.below(10) {
        0 => Reply::Version { msize: random.next() as u32, version: text(random) },
        1 => Reply::Auth { aqid: qid(random) },
        2 => Reply::Attach { qid: qid(random) },
        3 => Reply::Flush,
        4 => Reply::Walk { qids: (0..random.below(17)).map(|_| qid(random)).collect() },
        5 => Reply::Read { data: text(random) },
        6 => Reply::Write { count: random.next() as u32 },
        7 => Reply::Clunk,
        8 => Reply::Error {
            ename: if dialect == Dialect::Linux { b"" } else { text(random) },
            errno: if dialect == Dialect::Plan9 { 0 } else { random.next() as u32 },
        },
        _ => Reply::Remove,
    }
}

fn plain_reply(random: &mut Random, dialect: Dialect) -> Reply<'static> {
    match random.below(4) {
        0 => Reply::Open { qid: qid(random), iounit: random.next() as u32 },
        1 => Reply::Create { qid: qid(random), iounit: random.next() as u32 },
        2 => Reply::Stat { stat: stat(random, dialect) },
        _ => Reply::Wstat,
    }
}

#[test]
fn messages_are_the_bytes_of_the_manual() {
    let walk = Request::Walk { fid: 1, newfid: 2, names: vec![b"tcp", b"0"] };
    let bytes = b"\x1a\0\0\0\x6e\x34\x12\x01\0\0\0\x02\0\0\0\x02\0\x03\0tcp\x01\x000";
    let mut expected = bytes.to_vec();
    expected[0] = expected.len() as u8;
    assert_eq!(walk.encode(0x1234, Dialect::Plan9), expected);
    let open = Reply::Open { qid: Qid { kind: 0x80, version: 1, path: 2 }, iounit: 3 };
    let bytes = b"\x18\0\0\0\x71\x01\0\x80\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0";
    assert_eq!(open.encode(1, Dialect::Plan9), bytes);
    let error = Reply::Error { ename: b"no", errno: 2 };
    assert_eq!(error.encode(1, Dialect::Plan9), b"\x0b\0\0\0\x6b\x01\0\x02\0no");
    assert_eq!(error.encode(1, Dialect::Unix), b"\x0f\0\0\0\x6b\x01\0\x02\0no\x02\0\0\0");
    assert_eq!(error.encode(1, Dialect::Linux), b"\x0b\0\0\0\x07\x01\0\x02\0\0\0");
    let read = Reply::Read { data: b"abc" }.encode(7, Dialect::Linux);
    assert_eq!(read, [&read_header(7, 3)[..], b"abc"].concat());
    // Twstat's stat has its size twice.
    let wstat = Request::Wstat { fid: 1, stat: sync() }.encode(1, Dialect::Plan9);
    assert_eq!(wstat.len(), 7 + 4 + 2 + 49);
    assert_eq!(wstat[11..15], [49, 0, 47, 0]);
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut random = Random(2);
    for round in 0..20_000 {
        let dialect = DIALECTS[round % 3];
        let tag = random.next() as u16;
        let plain = dialect != Dialect::Linux && random.below(2) == 0;
        let (request, reply) = if plain {
            (plain_request(&mut random, dialect), plain_reply(&mut random, dialect))
        } else {
            (shared_request(&mut random, dialect), shared_reply(&mut random, dialect))
        };
        let frame = request.encode(tag, dialect);
        assert_eq!(frame_tag(&frame), tag);
        assert_eq!(Request::decode(&frame, dialect), Ok(request));
        let frame = reply.encode(tag, dialect);
        assert_eq!(Reply::decode(&frame, dialect), Ok(reply));
    }
}

/// The same message as rs9p has it.
fn of_rs9p(request: &Request<'_>) -> FCall {
    let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    match request {
        Request::Version { msize, version } => {
            FCall::TVersion { msize: *msize, version: text(version) }
        }
        Request::Auth { afid, uname, aname, n_uname } => {
            FCall::TAuth { afid: *afid, uname: text(uname), aname: text(aname), n_uname: *n_uname }
        }
        Request::Attach { fid, afid, uname, aname, n_uname } => FCall::TAttach {
            fid: *fid,
            afid: *afid,
            uname: text(uname),
            aname: text(aname),
            n_uname: *n_uname,
        },
        Request::Flush { oldtag } => FCall::TFlush { oldtag: *oldtag },
        Request::Walk { fid, newfid, names } => FCall::TWalk {
            fid: *fid,
            newfid: *newfid,
            wnames: names.iter().map(|name| text(name)).collect(),
        },
        Request::Read { fid, offset, count } => {
            FCall::TRead { fid: *fid, offset: *offset, count: *count }
        }
        Request::Write { fid, offset, data } => {
            FCall::TWrite { fid: *fid, offset: *offset, data: Data(data.to_vec()) }
        }
        Request::Clunk { fid } => FCall::TClunk { fid: *fid },
        Request::Remove { fid } => FCall::TRemove { fid: *fid },
        other => panic!("{other:?}"),
    }
}

/// The same message as rs9p has it.
fn reply_of_rs9p(reply: &Reply<'_>) -> FCall {
    let qid = |qid: &Qid| QId {
        typ: QIdType::from_bits_truncate(qid.kind),
        version: qid.version,
        path: qid.path,
    };
    match reply {
        Reply::Version { msize, version } => FCall::RVersion {
            msize: *msize,
            version: String::from_utf8_lossy(version).into_owned(),
        },
        Reply::Auth { aqid } => FCall::RAuth { aqid: qid(aqid) },
        Reply::Attach { qid: root } => FCall::RAttach { qid: qid(root) },
        Reply::Error { errno, .. } => FCall::RlError { ecode: *errno },
        Reply::Flush => FCall::RFlush,
        Reply::Walk { qids } => FCall::RWalk { wqids: qids.iter().map(qid).collect() },
        Reply::Read { data } => FCall::RRead { data: Data(data.to_vec()) },
        Reply::Write { count } => FCall::RWrite { count: *count },
        Reply::Clunk => FCall::RClunk,
        Reply::Remove => FCall::RRemove,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rs9p_reads_and_writes_the_same_bytes() {
    let mut random = Random(3);
    for _ in 0..10_000 {
        let tag = random.next() as u16;
        let request = shared_request(&mut random, Dialect::Linux);
        let reply = shared_reply(&mut random, Dialect::Linux);
        for (frame, body) in [
            (request.encode(tag, Dialect::Linux), of_rs9p(&request)),
            (reply.encode(tag, Dialect::Linux), reply_of_rs9p(&reply)),
        ] {
            let message = Msg { tag, body };
            assert_eq!(read_msg(&mut &frame[4..]).expect("a message"), message);
            let mut theirs = Vec::new();
            write_msg(&mut theirs, &message).expect("memory");
            assert_eq!(theirs, frame[4..]);
        }
    }
}

#[test]
fn no_bytes_are_too_strange_to_decode() {
    let mut random = Random(4);
    for round in 0..200_000 {
        let dialect = DIALECTS[round % 3];
        let mut frame = if random.below(2) == 0 {
            (0..random.below(64)).map(|_| random.next() as u8).collect::<Vec<u8>>()
        } else {
            let mut frame = if random.below(2) == 0 {
                plain_request(&mut random, dialect).encode(1, dialect)
            } else {
                shared_request(&mut random, dialect).encode(1, dialect)
            };
            for _ in 0..=random.below(4) {
                let at = random.below(frame.len() as u64) as usize;
                frame[at] = random.next() as u8;
            }
            frame.truncate(random.below(frame.len() as u64 + 1) as usize);
            frame
        };
        if let Some(kind) = frame.get_mut(4)
            && random.below(4) == 0
        {
            // A type that there is.
            *kind = 8 + 2 * random.below(60) as u8;
        }
        // Whatever it is, it decodes to something that decodes to the same.
        if let Ok(request) = Request::decode(&frame, dialect) {
            let again = request.encode(frame_tag(&frame), dialect);
            if !matches!(request, Request::Linux(_)) {
                assert_eq!(again[4..], frame[4..]);
            }
            let line = trace::line(&frame, dialect);
            assert!(line.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{line}");
        }
        drop(Reply::decode(&frame, dialect));
    }
}

#[test]
fn a_log_line_is_fcallfmts() {
    let line = |request: &Request<'_>, dialect| trace::line(&request.encode(1, dialect), dialect);
    let walk = Request::Walk { fid: 0, newfid: 1, names: vec![b"tcp", b"clone"] };
    let expected = "Twalk tag 1 fid 0 newfid 1 nwname 2 0:tcp 1:clone";
    assert_eq!(line(&walk, Dialect::Plan9), expected);
    let data = b"connect far!80\n\x1b[2J, and then a good deal more";
    let write = Request::Write { fid: 1, offset: 0, data };
    let expected =
        "Twrite tag 1 fid 1 offset 0 count 46 'connect far!80\\n\\x1b[2J, and then a '...";
    assert_eq!(line(&write, Dialect::Plan9), expected);
    let open = Request::Linux(FCall::TlOpen { fid: 1, flags: 2 });
    assert_eq!(line(&open, Dialect::Linux), "TlOpen tag 1 fid 1 flags 2");
}
