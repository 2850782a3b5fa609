//! The messages of RFC 4254 as bytes: each one's golden form, and what happens
//! to all others.

use sshnet_core::message::{Global, Message, MessageError, Open};
use sshnet_core::wire::WireError;

/// Each message and its bytes, written down from RFC 4254 and not by our codec.
fn golden() -> Vec<(Message<'static>, Vec<u8>)> {
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| {
                let pair = std::str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(pair, 16).expect("hexadecimal")
            })
            .collect()
    };
    let text = |before: &str, string: &str, after: &str| {
        let mut bytes = hex(before);
        bytes.extend((string.len() as u32).to_be_bytes());
        bytes.extend(string.bytes());
        bytes.extend(hex(after));
        bytes
    };
    let open = |kind| Message::Open { sender: 1, window: 0x20_0000, packet: 0x8000, kind };
    let numbers = "00000001 00200000 00008000";
    vec![
        (
            Message::GlobalRequest {
                want_reply: true,
                request: Global::TcpipForward { address: b"", port: 8_080 },
            },
            text("50", "tcpip-forward", "01 00000000 00001f90"),
        ),
        (
            Message::GlobalRequest {
                want_reply: true,
                request: Global::CancelTcpipForward { address: b"::1", port: 0xffff },
            },
            text("50", "cancel-tcpip-forward", "01 00000003 3a3a31 0000ffff"),
        ),
        (
            Message::GlobalRequest {
                want_reply: false,
                request: Global::StreamlocalForward { path: b"/s" },
            },
            text("50", "streamlocal-forward@openssh.com", "00 00000002 2f73"),
        ),
        (
            Message::GlobalRequest {
                want_reply: false,
                request: Global::CancelStreamlocalForward { path: b"/s" },
            },
            text("50", "cancel-streamlocal-forward@openssh.com", "00 00000002 2f73"),
        ),
        (
            Message::GlobalRequest {
                want_reply: true,
                request: Global::Other { name: b"keepalive@openssh.com", data: b"\x01\x02" },
            },
            text("50", "keepalive@openssh.com", "01 0102"),
        ),
        (Message::RequestSuccess { data: b"" }, hex("51")),
        (Message::RequestSuccess { data: &[0, 0, 0x1f, 0x90] }, hex("51 00001f90")),
        (Message::RequestFailure, hex("52")),
        (
            open(Open::DirectTcpip { host: b"ab", port: 7, originator: b"::", originator_port: 9 }),
            text(
                "5a",
                "direct-tcpip",
                &format!("{numbers} 00000002 6162 00000007 00000002 3a3a 00000009"),
            ),
        ),
        (
            open(Open::ForwardedTcpip {
                address: b"",
                port: 80,
                originator: b"::1",
                originator_port: 65_535,
            }),
            text(
                "5a",
                "forwarded-tcpip",
                &format!("{numbers} 00000000 00000050 00000003 3a3a31 0000ffff"),
            ),
        ),
        (
            open(Open::DirectStreamlocal { path: b"/s" }),
            text(
                "5a",
                "direct-streamlocal@openssh.com",
                &format!("{numbers} 00000002 2f73 00000000 00000000"),
            ),
        ),
        (
            open(Open::ForwardedStreamlocal { path: b"/s" }),
            text(
                "5a",
                "forwarded-streamlocal@openssh.com",
                &format!("{numbers} 00000002 2f73 00000000"),
            ),
        ),
        (
            open(Open::Other { name: b"x11", data: b"\xff" }),
            text("5a", "x11", &format!("{numbers} ff")),
        ),
        (
            Message::OpenConfirmation {
                recipient: 1,
                sender: 0xffff_ffff,
                window: 0x8000_0000,
                packet: 2,
                data: b"",
            },
            hex("5b 00000001 ffffffff 80000000 00000002"),
        ),
        (
            Message::OpenFailure { recipient: 1, reason: 4, description: b"no", language: b"en" },
            hex("5c 00000001 00000004 00000002 6e6f 00000002 656e"),
        ),
        (Message::WindowAdjust { recipient: 1, bytes: 0x0102_0304 }, hex("5d 00000001 01020304")),
        (Message::Data { recipient: 1, data: b"hi" }, hex("5e 00000001 00000002 6869")),
        (Message::Data { recipient: 1, data: b"" }, hex("5e 00000001 00000000")),
        (
            Message::ExtendedData { recipient: 1, code: 1, data: b"err" },
            hex("5f 00000001 00000001 00000003 657272"),
        ),
        (Message::Eof { recipient: 0x0100_0000 }, hex("60 01000000")),
        (Message::Close { recipient: 1 }, hex("61 00000001")),
        (
            Message::Request { recipient: 1, name: b"shell", want_reply: true, data: b"\x07" },
            hex("62 00000001 00000005 7368656c6c 01 07"),
        ),
        (Message::Success { recipient: 1 }, hex("63 00000001")),
        (Message::Failure { recipient: 1 }, hex("64 00000001")),
    ]
}

/// RFC 4254: every message byte for byte, both ways. OPEN_FAILURE has its
/// language tag (section 5.1, duty 4); sshnet.c left it out, and OpenSSH ended
/// the connection (defect 10).
#[test]
fn every_message_has_its_golden_bytes() {
    for (message, bytes) in golden() {
        let encoded = message.encode();
        assert_eq!(encoded, bytes, "{message:?}");
        // A component hands it out as it is, or has to copy it first.
        assert_eq!(encoded.capacity(), encoded.len(), "{message:?}");
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

/// RFC 4251 section 5 (duty 26): a message that ends within a field is an error,
/// wherever it ends. The exceptions are those whose last field may be anything.
#[test]
fn a_message_cut_short_anywhere_is_an_error_or_a_shorter_message() {
    for (message, bytes) in golden() {
        for length in 0..bytes.len() {
            match Message::decode(&bytes[..length]) {
                Err(MessageError::Empty) => assert_eq!(length, 0),
                Err(MessageError::Malformed(kind, WireError::Short(_))) => {
                    assert_eq!(kind, bytes[0]);
                }
                Ok(shorter) => assert_eq!(shorter.encode(), bytes[..length], "{message:?}"),
                Err(other) => panic!("{message:?} cut to {length}: {other}"),
            }
        }
    }
}

/// sshnet.c took bytes after a data message's string for data, outside of the
/// window (defect 6). Where a message has a last field, nothing may follow it.
#[test]
fn bytes_after_the_last_field_are_an_error() {
    for (message, mut bytes) in golden() {
        bytes.push(0);
        let decoded = Message::decode(&bytes);
        let open_ended = match message {
            Message::RequestSuccess { .. }
            | Message::OpenConfirmation { .. }
            | Message::Request { .. } => true,
            Message::GlobalRequest { request, .. } => matches!(request, Global::Other { .. }),
            Message::Open { kind, .. } => matches!(kind, Open::Other { .. }),
            _ => false,
        };
        if open_ended {
            assert_eq!(decoded.expect("it may go on").encode(), bytes);
        } else {
            assert_eq!(
                decoded,
                Err(MessageError::Malformed(bytes[0], WireError::Trailing(1))),
                "{message:?}"
            );
        }
    }
}

/// RFC 4251 section 5 (duty 26): all values but 0 are TRUE.
#[test]
fn any_boolean_but_zero_is_true() {
    for value in [1, 2, 0x80, 0xff] {
        let mut bytes = golden()[0].1.clone();
        let at = 1 + 4 + b"tcpip-forward".len();
        bytes[at] = value;
        let message = Message::decode(&bytes).expect("it is one");
        assert!(matches!(message, Message::GlobalRequest { want_reply: true, .. }), "{value}");
    }
}

/// A length past the end is held against what is there, never allocated.
#[test]
fn a_string_longer_than_its_message_is_an_error() {
    for length in [3_u32, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let mut bytes = vec![94, 0, 0, 0, 1];
        bytes.extend(length.to_be_bytes());
        bytes.extend(b"hi");
        assert_eq!(
            Message::decode(&bytes),
            Err(MessageError::Malformed(94, WireError::Short("data")))
        );
    }
}

/// All 256 types: RFC 4254's are known, no other is.
#[test]
fn only_the_types_of_rfc_4254_are_known() {
    for kind in 0..=255_u8 {
        let known = matches!(kind, 80..=82 | 90..=100);
        let unknown = Message::decode(&[kind]) == Err(MessageError::UnknownType(kind));
        assert_eq!(known, !unknown, "{kind}");
    }
}

/// A sequence of numbers that is the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Decoding is total: whatever the bytes, it answers. What it reads as a message
/// it writes again, the same but for the booleans' and reserved fields' values.
#[test]
fn decoding_is_total_and_encoding_its_inverse() {
    let golden = golden();
    let mut numbers = Numbers(1);
    let mut messages = 0;
    for _ in 0..200_000 {
        let mut bytes = golden[numbers.below(golden.len())].1.clone();
        for _ in 0..numbers.below(4) {
            let at = numbers.below(bytes.len());
            match numbers.below(5) {
                0 => bytes[at] = numbers.next() as u8,
                1 => bytes[at] ^= 1 << numbers.below(8),
                2 => bytes.truncate(at + 1),
                3 => bytes.extend(numbers.next().to_be_bytes()),
                _ => bytes.insert(at, numbers.next() as u8),
            }
        }
        if let Ok(message) = Message::decode(&bytes) {
            messages += 1;
            let again = message.encode();
            assert_eq!(Message::decode(&again), Ok(message));
        }
    }
    for _ in 0..200_000 {
        let mut bytes: Vec<u8> = (0..numbers.below(40)).map(|_| numbers.next() as u8).collect();
        if let Some(kind) = bytes.first_mut() {
            *kind = 80 + *kind % 21;
        }
        messages += u32::from(Message::decode(&bytes).is_ok());
    }
    assert!(messages > 50_000, "{messages} were messages: the test misses its point");
}
