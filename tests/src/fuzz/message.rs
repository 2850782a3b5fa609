//! The codec under any bytes.

use sshnet_core::message::{Message, MessageError};

/// Decoding any bytes ends in a message or an error; a message that is encoded
/// and decoded again is the same, and so are bytes that are in canonical form:
/// those that encoding makes.
pub fn check(bytes: &[u8]) {
    let message = match Message::decode(bytes) {
        Ok(message) => message,
        Err(MessageError::Empty) => {
            assert!(bytes.is_empty());
            return;
        }
        Err(MessageError::UnknownType(kind)) => {
            assert!(bytes[0] == kind && !(80..=82).contains(&kind) && !(90..=100).contains(&kind));
            return;
        }
        Err(MessageError::Malformed(kind, _)) => {
            assert_eq!(bytes[0], kind);
            // What is cut short stays so when it is cut shorter.
            return;
        }
    };
    let encoded = message.encode();
    assert_eq!(encoded.capacity(), encoded.len(), "the length was not known before: {message:?}");
    let again = Message::decode(&encoded).expect("what was encoded can be decoded");
    assert_eq!(again, message);
    assert_eq!(again.encode(), encoded);
    // Bytes have another form only where a boolean is neither 0 nor 1, or where
    // OpenSSH's reserved fields aren't empty.
    if encoded.len() == bytes.len() && encoded != bytes {
        let differs = encoded.iter().zip(bytes).filter(|(a, b)| a != b);
        let fields: Vec<_> = differs.map(|(a, b)| (*a, *b)).collect();
        let boolean = matches!(fields[..], [(1, b)] if b > 1);
        let reserved = matches!(
            message,
            Message::Open { kind: sshnet_core::message::Open::DirectStreamlocal { .. }, .. }
        ) && fields.iter().all(|(a, _)| *a == 0);
        assert!(boolean || reserved, "{message:?} has two forms");
    }
}
