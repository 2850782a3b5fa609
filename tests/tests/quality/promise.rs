//! What is asked of another component than ours: neither more nor less than the contract
//! promises.

use sshnet_core::message::Message;
use sshnet_core::{Effect, ErrorCode};
use sshnet_tests::peer::{count, data, done, send, told};
use sshnet_tests::promise::{ANY, by_the_contract, said};

fn piece(data: &[u8]) -> Effect {
    send(Message::Data { recipient: 1, data })
}

#[test]
fn what_the_contract_leaves_open_is_not_asked() {
    let expected = [
        piece(b"abcd"),
        count(1, 4),
        send(Message::Close { recipient: 2 }),
        told(2, ErrorCode::HungUp, ANY),
        Effect::Wake(7),
    ];
    let found = [
        Effect::Warn("of nothing".into()),
        told(2, ErrorCode::HungUp, "gone"),
        send(Message::Close { recipient: 2 }),
        piece(b"a"),
        send(Message::WindowAdjust { recipient: 1, bytes: 9 }),
        piece(b"bcd"),
        count(1, 4),
    ];
    assert!(by_the_contract(&found, &expected));
}

#[test]
fn what_the_contract_promises_is_asked() {
    let eof = || send(Message::Eof { recipient: 1 });
    let expected = [piece(b"ab"), count(1, 2), eof(), done(2), told(3, ErrorCode::Other, "no")];
    let one_other = |at: usize, effect: Effect| {
        let mut found = expected.clone();
        found[at] = effect;
        found
    };
    assert!(by_the_contract(&expected, &expected));
    assert!(!by_the_contract(&expected[1..], &expected), "a message is missing");
    assert!(!by_the_contract(&expected[..4], &expected), "a failure is missing");
    assert!(!by_the_contract(&expected, &expected[..4]), "one too many");
    for (at, effect) in [
        (0, piece(b"ax")),
        (1, count(1, 1)),
        (1, count(9, 2)),
        (2, send(Message::Eof { recipient: 2 })),
        (2, send(Message::Close { recipient: 1 })),
        (3, data(2, b"")),
        (4, told(3, ErrorCode::Other, "yes")),
        (4, told(3, ErrorCode::HungUp, "no")),
    ] {
        assert!(!by_the_contract(&one_other(at, effect.clone()), &expected), "{effect:?}");
    }
    let early = [eof(), piece(b"ab"), count(1, 2), done(2), told(3, ErrorCode::Other, "no")];
    assert!(!by_the_contract(&early, &expected), "EOF before the data");
}

#[test]
fn a_warning_is_asked_for_where_one_is_promised() {
    let warning = [Effect::Warn(ANY.into())];
    assert!(!by_the_contract(&[], &warning));
    assert!(by_the_contract(&[Effect::Warn("of something".into())], &warning));
}

#[test]
fn words_of_its_own_have_to_be_words() {
    assert!(said("anything", ANY));
    assert!(!said("", ANY));
    assert!(!said("\x1b[2J", ANY));
    assert!(!said(&"x".repeat(121), ANY));
    assert!(!said("anything", "something"));
}
