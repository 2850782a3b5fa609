//! The transport's own messages (RFC 4253 section 11), which a bare connection has
//! beside those of RFC 4254.
//!
//! Pure: it says what a message is for, and refuses to know what then happens.

use sshnet_core::wire::{Reader, Writer};

const DISCONNECT: u8 = 1;
const IGNORE: u8 = 2;
const UNIMPLEMENTED: u8 = 3;
const DEBUG: u8 = 4;
/// For private use (RFC 4250 section 4.1.1); OpenSSH's ping has this number.
const PING: u8 = 192;
/// SSH_DISCONNECT_PROTOCOL_ERROR.
pub const PROTOCOL_ERROR: u32 = 2;
/// SSH_DISCONNECT_BY_APPLICATION.
pub const BY_APPLICATION: u32 = 11;
/// So much of the other side's words is shown.
const WORDS: usize = 400;

/// What a message is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// The connection protocol's, RFC 4254.
    Connection,
    /// To be passed over.
    Nothing,
    /// The other side tells people this; whether they are to see it in any case.
    Words(String, bool),
    /// The other side ends the connection.
    Disconnect(Disconnect),
    /// Nobody knows it: it is to be answered with [`unimplemented()`].
    Unknown,
}

/// How the other side ended the connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Disconnect {
    /// RFC 4253's number for the reason.
    pub reason: u32,
    /// Its words, or that it has none.
    pub words: String,
}

/// What this message, from its type byte on, is for.
pub fn purpose(message: &[u8]) -> Purpose {
    let Some((&kind, rest)) = message.split_first() else { return Purpose::Nothing };
    let mut fields = Reader::new(rest);
    match kind {
        // Those that RFC 4254 defines, and no others in their ranges.
        80..=82 | 90..=100 => Purpose::Connection,
        IGNORE | UNIMPLEMENTED => Purpose::Nothing,
        DEBUG => {
            // One that is cut short has said what it has said.
            let display = fields.boolean("always_display").unwrap_or(false);
            Purpose::Words(shown(fields.string("message").unwrap_or_default()), display)
        }
        DISCONNECT => {
            let reason = fields.uint32("reason").unwrap_or(0);
            let words = shown(fields.string("description").unwrap_or_default());
            let words = if words.is_empty() { format!("reason {reason}") } else { words };
            Purpose::Disconnect(Disconnect { reason, words })
        }
        _ => Purpose::Unknown,
    }
}

/// The answer to a message that nobody knows: it was the one of this number,
/// counted from 0.
pub fn unimplemented(sequence: u32) -> Vec<u8> {
    Writer::new(5).byte(UNIMPLEMENTED).uint32(sequence).end()
}

/// A question for a sign of life: one who knows it answers, and so does one who does
/// not, with [`unimplemented()`].
pub fn ping() -> Vec<u8> {
    Writer::new(5).byte(PING).string(b"").end()
}

/// The last message: why we end the connection.
pub fn disconnect(reason: u32, words: &str) -> Vec<u8> {
    let words: String = words.chars().take(WORDS).collect();
    Writer::new(15 + words.len())
        .byte(DISCONNECT)
        .uint32(reason)
        .string(words.as_bytes())
        .string(b"en")
        .end()
}

/// The other side's words, without what a terminal would act on.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disconnect_has_the_other_sides_words() {
        let ended = |message: &[u8]| match purpose(message) {
            Purpose::Disconnect(disconnect) => (disconnect.reason, disconnect.words),
            other => panic!("{other:?}"),
        };
        assert_eq!(ended(&disconnect(11, "good\r\n\x1b[2Jbye")), (11, "good[2Jbye".to_owned()));
        assert_eq!(ended(&disconnect(2, "")), (2, "reason 2".to_owned()));
        assert_eq!(ended(&[1, 0, 0]), (0, "reason 0".to_owned()));
        assert_eq!(ended(&[1, 0, 0, 0, 3, 0, 0, 0, 9, b'x']), (3, "reason 3".to_owned()));
        assert_eq!(ended(&disconnect(2, &"é".repeat(1000))).1, "é".repeat(WORDS));
    }

    #[test]
    fn every_type_has_a_purpose() {
        for kind in 0..=u8::MAX {
            let purpose = purpose(&[kind]);
            match kind {
                80..=82 | 90..=100 => assert_eq!(purpose, Purpose::Connection, "{kind}"),
                1 => assert!(matches!(purpose, Purpose::Disconnect(_))),
                2 | 3 => assert_eq!(purpose, Purpose::Nothing),
                4 => assert_eq!(purpose, Purpose::Words(String::new(), false)),
                _ => assert_eq!(purpose, Purpose::Unknown, "{kind}"),
            }
        }
        let debug = [&[4, 1, 0, 0, 0, 2, b'h', b'i'][..], &[0, 0, 0, 0]].concat();
        assert_eq!(purpose(&debug), Purpose::Words("hi".into(), true));
        assert_eq!(purpose(&[]), Purpose::Nothing);
        assert_eq!(unimplemented(258), [3, 0, 0, 1, 2]);
    }
}
