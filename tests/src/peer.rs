//! Messages and effects in a form that can be compared and printed.
//!
//! Tests say exactly which effects an event has, in order, and [`exactly`] fails
//! on any other, on one more and on one less (of another component than ours it asks
//! what the contract promises: see [`promise`](crate::promise)). What was sent is
//! printed as the message that it is.

use std::fmt::Write as _;

use sshnet_core::message::{Global, Message, Open};
use sshnet_core::{ClientId, Completion, Effect, Error, ErrorCode, Reply};

use crate::promise::{own, same};

/// The message goes to the peer.
pub fn send(message: Message<'_>) -> Effect {
    Effect::Send(message.encode())
}

/// The request ends, every line of it done.
pub fn done(request: u64) -> Effect {
    Effect::Complete(Completion { request, outcome: Ok(Reply::Done) })
}

/// The request ends with this client.
pub fn client(request: u64, id: ClientId) -> Effect {
    Effect::Complete(Completion { request, outcome: Ok(Reply::Client(id)) })
}

/// The read ends with these bytes.
pub fn data(request: u64, bytes: impl AsRef<[u8]>) -> Effect {
    let bytes = bytes.as_ref().to_vec();
    Effect::Complete(Completion { request, outcome: Ok(Reply::Data(bytes)) })
}

/// The write ends, so many of its bytes taken.
pub fn count(request: u64, count: u32) -> Effect {
    Effect::Complete(Completion { request, outcome: Ok(Reply::Count(count)) })
}

/// The request fails with this error, which the engine puts into words.
pub fn failed(request: u64, code: ErrorCode, message: &str) -> Effect {
    told(request, code, &own(message))
}

/// The request fails with this error, in words that came from outside.
pub fn told(request: u64, code: ErrorCode, message: &str) -> Effect {
    let error = Error { code, message: message.to_owned() };
    Effect::Complete(Completion { request, outcome: Err(error) })
}

/// The host is to call again at this time.
pub fn wake(at: u64) -> Effect {
    Effect::Wake(at)
}

/// This was out of place and passed over.
pub fn warn(what: &str) -> Effect {
    Effect::Warn(what.to_owned())
}

/// The session fails.
pub fn fail(why: &str) -> Effect {
    Effect::Fail(own(why))
}

/// A question that every peer must answer (RFC 4254 section 5.4).
pub fn question(recipient: u32) -> Effect {
    let name = b"keepalive@openssh.com";
    send(Message::Request { recipient, name, want_reply: true, data: b"" })
}

/// A `direct-tcpip` open, as the engine sends it.
pub fn direct(sender: u32, window: u32, packet: u32, host: &str, port: u32) -> Message<'_> {
    let kind = Open::DirectTcpip {
        host: host.as_bytes(),
        port,
        originator: b"127.0.0.1",
        originator_port: 0,
    };
    Message::Open { sender, window, packet, kind }
}

/// A call to `address!port` from 192.0.2.7!4000, with a window of 1 MiB and
/// packets of 32 KiB.
pub fn call(sender: u32, address: &str, port: u32) -> Message<'_> {
    call_with(sender, 1 << 20, 32_768, address, port)
}

/// A call with this window and packet.
pub fn call_with(sender: u32, window: u32, packet: u32, address: &str, port: u32) -> Message<'_> {
    let kind = Open::ForwardedTcpip {
        address: address.as_bytes(),
        port,
        originator: b"192.0.2.7",
        originator_port: 4_000,
    };
    Message::Open { sender, window, packet, kind }
}

/// A `tcpip-forward` that wants a reply.
pub fn forward(address: &str, port: u32) -> Message<'_> {
    Message::GlobalRequest {
        want_reply: true,
        request: Global::TcpipForward { address: address.as_bytes(), port },
    }
}

/// A `cancel-tcpip-forward` that wants a reply.
pub fn cancel(address: &str, port: u32) -> Message<'_> {
    Message::GlobalRequest {
        want_reply: true,
        request: Global::CancelTcpipForward { address: address.as_bytes(), port },
    }
}

/// A refusal of a call, as the engine sends it.
pub fn refusal(recipient: u32, reason: u32, description: &str) -> Message<'_> {
    Message::OpenFailure { recipient, reason, description: description.as_bytes(), language: b"en" }
}

/// A call is refused, in the engine's own words.
pub fn declined(recipient: u32, reason: u32, words: &str) -> Effect {
    send(refusal(recipient, reason, &own(words)))
}

/// Fails unless these are the effects, in this order.
#[track_caller]
pub fn exactly<const N: usize>(effects: &[Effect], expected: [Effect; N]) {
    if !same(effects, &expected) {
        panic!("expected:\n{}but there was:\n{}", show(&expected), show(effects));
    }
}

/// Fails unless this is one of the effects.
#[track_caller]
pub fn among(effects: &[Effect], expected: Effect) {
    let expected = [expected];
    if !effects.iter().any(|effect| same(std::slice::from_ref(effect), &expected)) {
        panic!("expected:\n{}among:\n{}", show(&expected), show(effects));
    }
}

/// Why the session fails in this event; it must.
#[track_caller]
pub fn failure(effects: &[Effect]) -> &str {
    let why = effects.iter().find_map(|effect| match effect {
        Effect::Fail(why) => Some(why.as_str()),
        _ => None,
    });
    why.unwrap_or_else(|| panic!("the session does not fail:\n{}", show(effects)))
}

/// The messages among the effects.
pub fn sent(effects: &[Effect]) -> Vec<Message<'_>> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send(message) => Some(decoded(message)),
            _ => None,
        })
        .collect()
}

/// The channels of the data messages among the effects, in order.
pub fn order(effects: &[Effect]) -> Vec<u32> {
    sent(effects)
        .iter()
        .filter_map(|message| match message {
            Message::Data { recipient, .. } => Some(*recipient),
            _ => None,
        })
        .collect()
}

/// The bytes of the data messages among the effects, whose channel must be this.
#[track_caller]
pub fn data_sent(effects: &[Effect], channel: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in sent(effects) {
        if let Message::Data { recipient, data } = message {
            assert_eq!(recipient, channel, "data for another channel");
            bytes.extend_from_slice(data);
        }
    }
    bytes
}

/// The errors and replies among the effects.
pub fn completions(effects: &[Effect]) -> Vec<&Completion> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Complete(completion) => Some(completion),
            _ => None,
        })
        .collect()
}

/// The one error with which an event ended its only request.
#[track_caller]
pub fn error(effects: &[Effect]) -> &Error {
    match completions(effects)[..] {
        [Completion { outcome: Err(error), .. }] => error,
        _ => panic!("expected one request to fail, but there was:\n{}", show(effects)),
    }
}

/// A message that the engine made, which must be one.
fn decoded(message: &[u8]) -> Message<'_> {
    Message::decode(message)
        .unwrap_or_else(|error| panic!("the engine sent {message:02x?}: {error}"))
}

/// Effects for people, one on each line.
pub fn show(effects: &[Effect]) -> String {
    let mut out = String::new();
    for effect in effects {
        match effect {
            Effect::Send(message) => match Message::decode(message) {
                Ok(Message::Data { recipient, data }) => {
                    let start = data[..data.len().min(24)].escape_ascii();
                    let length = data.len();
                    let _ = writeln!(out, "  Send Data to {recipient}, {length} bytes: {start}");
                }
                Ok(message) => {
                    let _ = writeln!(out, "  Send {message:?}");
                }
                Err(error) => {
                    let _ = writeln!(out, "  Send {message:02x?} ({error})");
                }
            },
            Effect::Complete(Completion { request, outcome: Ok(Reply::Data(bytes)) }) => {
                let start = bytes[..bytes.len().min(24)].escape_ascii();
                let length = bytes.len();
                let _ = writeln!(out, "  Complete {request}: Data, {length} bytes: {start}");
            }
            Effect::Complete(Completion { request, outcome }) => {
                let _ = writeln!(out, "  Complete {request}: {outcome:?}");
            }
            other => {
                let _ = writeln!(out, "  {other:?}");
            }
        }
    }
    if effects.is_empty() {
        out.push_str("  nothing\n");
    }
    out
}
