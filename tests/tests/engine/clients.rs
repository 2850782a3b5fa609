//! Clients: numbers, handles, references.

use sshnet_core::message::Message;
use sshnet_core::{ClientId, ClientState, ErrorCode, Limits, Protocol, TextFile};
use sshnet_tests::bench::{Bench, limits};
use sshnet_tests::peer::{client, error, exactly, failed};

fn id(number: u32, incarnation: u32) -> ClientId {
    ClientId { number, incarnation }
}

/// ip(3): numbers from 0; the lowest free one is used first.
#[test]
fn the_lowest_free_number_is_used_first() {
    let mut s = Bench::new();
    for number in 0..4 {
        assert_eq!(s.client(), id(number, 0));
    }
    s.release(id(2, 0));
    s.release(id(0, 0));
    assert_eq!(s.client(), id(0, 1));
    assert_eq!(s.client(), id(2, 1));
    assert_eq!(s.client(), id(4, 0));
    let numbers: Vec<u32> = s.clients().iter().map(|info| info.id.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
}

/// sshnet.c used a slot again under the same qid: who had walked there opened
/// someone else's conversation (defect 37).
#[test]
fn a_handle_never_reaches_the_numbers_next_user() {
    let mut s = Bench::new();
    let old = s.client();
    s.release(old);
    let line = s.dial();
    assert_eq!(line.id, id(0, 1));
    let missing = "file does not exist";
    exactly(&s.read(1, old, 1), [failed(1, ErrorCode::NoEntry, missing)]);
    exactly(&s.write(2, old, b"x"), [failed(2, ErrorCode::NoEntry, missing)]);
    exactly(&s.control(3, old, "hangup"), [failed(3, ErrorCode::NoEntry, missing)]);
    exactly(&s.listen(4, old), [failed(4, ErrorCode::NoEntry, missing)]);
    assert_eq!(s.retain(old).map_err(|e| e.code), Err(ErrorCode::NoEntry));
    for file in [TextFile::Local, TextFile::Remote, TextFile::Status] {
        assert_eq!(s.text(old, file).map_err(|e| e.code), Err(ErrorCode::NoEntry));
    }
    exactly(&s.release(old), []);
    assert_eq!(s.state(line.id), ClientState::Established);
}

/// Numbers that never were: sshnet.c indexed its table with 16777215 (defect 13).
#[test]
fn a_number_that_is_not_there_is_no_client() {
    let mut s = Bench::new();
    s.client();
    for number in [1, 2, 0xff_ffff, 0x7fff_ffff, u32::MAX] {
        assert_eq!(s.lookup(number), None);
        assert_eq!(error(&s.read(1, id(number, 0), 1)).code, ErrorCode::NoEntry);
        exactly(&s.release(id(number, 0)), []);
    }
    assert_eq!(s.lookup(0).map(|info| info.id), Some(id(0, 0)));
}

/// A client lives as long as an open file refers to it.
#[test]
fn a_client_ends_with_its_last_reference() {
    let mut s = Bench::new();
    let line = s.dial();
    s.retain(line.id).expect("it is there");
    s.retain(line.id).expect("it is there");
    assert_eq!(s.info(line.id).references, 3);
    exactly(&s.release(line.id), []);
    exactly(&s.release(line.id), []);
    assert_eq!(s.state(line.id), ClientState::Established);
    assert_eq!(s.release(line.id).len(), 1);
    assert_eq!(s.lookup(0), None);
}

/// A new user of a number sees nothing of the last one's: sshnet.c kept its
/// addresses (defect 38).
#[test]
fn a_number_used_again_starts_afresh() {
    let mut s = Bench::new();
    let line = s.dial();
    s.hear(Message::Data { recipient: line.ours, data: b"unread" });
    s.release(line.id);
    let new = s.client();
    let info = s.info(new);
    assert_eq!(new, id(0, 1));
    assert_eq!(info.state, ClientState::Closed);
    assert_eq!((info.local.as_str(), info.remote.as_str()), ("::!0", "::!0"));
    assert_eq!((info.received, info.sent, info.unread, info.unsent), (0, 0, 0, 0));
    assert_eq!(info.last_error, None);
}

/// A number may be used very often.
#[test]
fn incarnations_count_the_uses_of_a_number() {
    let mut s = Bench::new();
    for incarnation in 0..1_000 {
        let made = s.client();
        assert_eq!(made, id(0, incarnation));
        s.release(made);
    }
    assert_eq!(s.statistics().clients, 0);
}

/// sshnet.c had no limit on clients (defect 29).
#[test]
fn a_clone_beyond_the_limit_is_refused() {
    let mut s = Bench::with(Limits { clients: 3, ..limits() });
    let first = s.client();
    s.client();
    s.client();
    let told = "too many clients";
    exactly(&s.clone_client(1, Protocol::Tcp), [failed(1, ErrorCode::ResourceExhausted, told)]);
    s.release(first);
    exactly(&s.clone_client(2, Protocol::Tcp), [client(2, id(0, 1))]);
}

/// Channels that are still being closed count as clients: a peer that never
/// closes can't make the table grow.
#[test]
fn channels_without_a_client_count_against_the_limit() {
    let mut s = Bench::with(Limits { clients: 3, ..limits() });
    let lines = [s.dial(), s.dial(), s.dial()];
    for line in lines {
        s.release(line.id);
    }
    exactly(
        &s.clone_client(1, Protocol::Tcp),
        [failed(1, ErrorCode::ResourceExhausted, "too many clients")],
    );
    s.hear(Message::Close { recipient: lines[1].ours });
    let id = s.client();
    // Nor by dialing and hanging up over and over with one client.
    s.connect(2, id);
    s.flush(2);
    let mut refused = 0;
    for request in 10..30 {
        let effects = s.control(request, id, "connect h!1");
        if effects.is_empty() {
            panic!("no answer and no dial");
        }
        match sshnet_tests::peer::sent(&effects)[..] {
            [] => {
                assert_eq!(error(&effects).code, ErrorCode::ResourceExhausted);
                refused += 1;
            }
            _ => drop(s.flush(request)),
        }
    }
    assert!(refused >= 18, "{refused} of 20 dials were refused");
    assert!(s.statistics().channels <= 4);
}

/// A dial that was given up counts until its channel is closed, and no longer,
/// however that comes about.
#[test]
fn a_dial_that_was_given_up_counts_until_its_channel_is_closed() {
    let mut s = Bench::with(Limits { clients: 3, ..limits() });
    let id = s.client();
    for _ in 0..10 {
        let ours = s.connect(1, id);
        s.flush(1);
        let theirs = s.channel();
        s.hear(Message::OpenConfirmation {
            recipient: ours,
            sender: theirs,
            window: 9,
            packet: 9,
            data: b"",
        });
        assert_eq!(s.statistics().channels, 1);
        s.hear(Message::Close { recipient: ours });
        assert_eq!(s.statistics().channels, 0);
    }
    s.client();
    s.client();
    // Client and channels together come to the limit, and not past it.
    s.release(ClientId { number: 1, incarnation: 0 });
    s.release(ClientId { number: 2, incarnation: 0 });
    for _ in 0..3 {
        s.connect(1, id);
        s.flush(1);
    }
    let told = "too many channels are still being closed";
    let effects = s.control(1, id, "connect h!7");
    exactly(&effects, [failed(1, ErrorCode::ResourceExhausted, told)]);
}

/// One table and one numbering for both protocols; each knows its own.
#[test]
fn both_protocols_share_the_numbers() {
    let mut s = Bench::new();
    let tcp = s.client_of(Protocol::Tcp);
    let unix = s.client_of(Protocol::Unix);
    assert_eq!((tcp, unix), (id(0, 0), id(1, 0)));
    let protocols: Vec<Protocol> = s.clients().iter().map(|info| info.protocol).collect();
    assert_eq!(protocols, [Protocol::Tcp, Protocol::Unix]);
}

/// A state is entered at a time.
#[test]
fn a_snapshot_says_since_when_the_state_lasts() {
    let mut s = Bench::new();
    s.advance(1_000);
    let id = s.client();
    assert_eq!(s.info(id).since, 1_000);
    s.advance(2_000);
    let ours = s.connect(1, id);
    assert_eq!(s.info(id).since, 2_000);
    s.advance(3_000);
    s.hear(Message::OpenConfirmation {
        recipient: ours,
        sender: 9,
        window: 9,
        packet: 9,
        data: b"",
    });
    assert_eq!(s.info(id).since, 3_000);
    s.advance(4_000);
    s.hear(Message::Close { recipient: ours });
    assert_eq!(s.info(id).since, 4_000);
}
