//! The codec under any bytes.

use sshnet_core::message::{Message, MessageError, Open};

/// Decoding any bytes ends in a message or an error; a message that is encoded
/// and decoded again is the same, and so are the bytes, but for what is named in
/// [`canonical`].
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
    assert_eq!(encoded, canonical(&message, bytes), "{message:?} has two forms");
}

/// The bytes of a message in the form that encoding makes. All that may differ:
///
/// - a boolean other than 0 is 1 (RFC 4251 section 5): the "want reply" of global
///   and of channel requests;
/// - the reserved string, and the reserved number behind it, of a channel for a
///   Unix socket are empty and 0 (OpenSSH PROTOCOL section 2.4).
fn canonical(message: &Message<'_>, bytes: &[u8]) -> Vec<u8> {
    let mut canonical = bytes.to_vec();
    let mut want_reply = |at: usize| canonical[at] = canonical[at].min(1);
    match message {
        Message::GlobalRequest { request, .. } => want_reply(1 + 4 + request.name().len()),
        Message::Request { name, .. } => want_reply(1 + 4 + 4 + name.len()),
        Message::Open { kind, .. } => {
            let (path, number) = match kind {
                Open::DirectStreamlocal { path } => (path, 4),
                Open::ForwardedStreamlocal { path } => (path, 0),
                _ => return canonical,
            };
            let start = 1 + 4 + kind.name().len() + 12 + 4 + path.len();
            let reserved = &bytes[start..];
            let length = u32::from_be_bytes(reserved[..4].try_into().expect("four bytes"));
            assert_eq!(reserved.len(), 4 + length as usize + number, "more is lost: {message:?}");
            canonical.truncate(start);
            canonical.resize(start + 4 + number, 0);
        }
        _ => {}
    }
    canonical
}
