//! The worked exchange of wit/README.md, replayed.

use std::fs;
use std::path::Path;

use sshnet_core::message::Message;
use sshnet_core::{ClientId, Completion, Config, Effect, Limits, Protocol, Reply};
use sshnet_tests::peer::{sent, show};
use sshnet_tests::promise::{another, same};
use sshnet_tests::subject::{Pair, Subject};

/// One line: its words, of which those in quotes are text with Rust's escapes.
struct Line<'a> {
    words: Vec<&'a str>,
    bytes: Vec<u8>,
}

/// Reads a line. Words that are a quoted text or hexadecimal, from the word at `from`
/// on, make up the bytes.
fn line(text: &str, from: usize) -> Line<'_> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"').expect("a quote ends") + 2,
            None => rest.find(' ').unwrap_or(rest.len()),
        };
        words.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    let mut bytes = Vec::new();
    for word in words.iter().skip(from) {
        match word.strip_prefix('"') {
            Some(quoted) => {
                let text = quoted.trim_end_matches('"').replace("\\r", "\r").replace("\\n", "\n");
                bytes.extend(text.bytes());
            }
            None => bytes.extend(word.as_bytes().chunks(2).map_while(|pair| {
                u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).ok()
            })),
        }
    }
    Line { words, bytes }
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().ok().unwrap_or_else(|| panic!("{word} is no number"))
}

fn client(word: &str) -> ClientId {
    let (number, incarnation) = word.split_once('.').expect("number.incarnation");
    ClientId { number: self::number(number), incarnation: self::number(incarnation) }
}

fn call(subject: &mut Pair, text: &str) -> Vec<Effect> {
    let verb = text.split(' ').next().unwrap_or_default();
    let from = match verb {
        "control" | "write" => 3,
        _ => 1,
    };
    let Line { words, bytes } = line(text, from);
    match verb {
        "pipe-up" => subject.pipe_up(),
        "pipe-took" => subject.pipe_took(number(words[1])),
        "receive" => subject.receive(&bytes),
        "clone" => subject.clone_client(number(words[1]), Protocol::Tcp),
        "control" => subject.control(number(words[1]), client(words[2]), &bytes),
        "read" => subject.read(number(words[1]), client(words[2]), number(words[3])),
        "write" => subject.write(number(words[1]), client(words[2]), &bytes),
        "release" => subject.release(client(words[1])),
        other => panic!("what is {other}?"),
    }
}

fn effect(text: &str) -> Effect {
    let from = if text.trim().starts_with("send") { 1 } else { 3 };
    let Line { words, bytes } = line(text, from);
    let complete =
        |reply| Effect::Complete(Completion { request: number(words[1]), outcome: Ok(reply) });
    match words[0] {
        "send" => Effect::Send(bytes),
        "wake" => Effect::Wake(number(words[1])),
        "complete" => complete(match words[2] {
            "done" => Reply::Done,
            "client" => Reply::Client(client(words[3])),
            "count" => Reply::Count(number(words[3])),
            "data" => Reply::Data(bytes),
            other => panic!("what is {other}?"),
        }),
        other => panic!("what is {other}?"),
    }
}

/// Whether it asks something on a channel, as an engine may or may not.
fn asks(effect: &Effect) -> bool {
    matches!(sent(std::slice::from_ref(effect))[..], [Message::Request { .. }])
}

/// Byte for byte, with the default limits.
#[test]
fn the_worked_exchange_is_what_an_engine_answers() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/README.md");
    let readme = fs::read_to_string(readme).expect("wit has a README");
    let (_, exchange) = readme.split_once("<!-- the exchange -->\n```\n").expect("it is there");
    let (exchange, _) = exchange.split_once("```").expect("it ends");
    let limits = Limits::default();
    let config = Config { prefix: "/net".into(), services: Vec::new(), limits };
    let mut subject = Pair::new(&config);
    let mut lines = exchange.lines().peekable();
    let mut calls = 0;
    while let Some(text) = lines.next() {
        let mut effects = call(&mut subject, text);
        let mut expected = Vec::new();
        while let Some(text) = lines.next_if(|line| line.starts_with(' ')) {
            expected.push(effect(text));
        }
        if another() {
            effects.retain(|effect| !asks(effect));
            expected.retain(|effect| !asks(effect));
        }
        assert!(
            same(&effects, &expected),
            "{text} answered\n{}not\n{}",
            show(&effects),
            show(&expected)
        );
        calls += 1;
    }
    assert!(calls > 10, "it has only {calls} calls");
    assert_eq!(subject.statistics().clients, 0);
}
