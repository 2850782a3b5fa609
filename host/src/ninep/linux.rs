//! The messages that 9P2000.L alone has, by rs9p's codec.
//!
//! Follows diod's protocol.md and what the Linux kernel really sends. rs9p trusts
//! its input: it allocates what a count says, and stops where it has enough. So it
//! is given nothing but what it is safe with: only requests of the types listed
//! here, none of which has a count of anything but the bytes of a string; it must
//! use up the frame; and what it will not decode is malformed.

use rs9p::fcall::{FCall, Msg};
use rs9p::serialize::{read_msg, write_msg};

use super::codec::{Malformed, frame_kind, patch};

/// Types of messages of 9P2000.L that are looked at by type.
const TFSYNC: u8 = 50;
const RREADDIR: u8 = 41;

/// Whether it is a request that 9P2000.L alone has.
pub fn is_request(kind: u8) -> bool {
    matches!(
        kind,
        8 | 12
            | 14
            | 16
            | 18
            | 20
            | 22
            | 24
            | 26
            | 30
            | 32
            | 40
            | TFSYNC
            | 52
            | 54
            | 70
            | 72
            | 74
            | 76
    )
}

/// Decodes a whole frame.
pub fn decode_request(frame: &[u8]) -> Result<FCall, Malformed> {
    if !is_request(frame_kind(frame)) {
        return Err(Malformed::Unknown);
    }
    let (message, rest) = read(frame)?;
    // Linux sends a `datasync[4]` that protocol.md does not have.
    let extra = if frame_kind(frame) == TFSYNC { 4 } else { 0 };
    if rest == 0 || rest == extra { Ok(message) } else { Err(Malformed::Body) }
}

/// Decodes a whole frame: a reply, for a log or a test. Rreaddir is not one: of
/// its count rs9p would make room for as many entries.
pub fn decode_reply(frame: &[u8]) -> Result<FCall, Malformed> {
    match frame_kind(frame).checked_sub(1) {
        Some(kind) if is_request(kind) && kind + 1 != RREADDIR => {}
        _ => return Err(Malformed::Unknown),
    }
    match read(frame)? {
        (message, 0) => Ok(message),
        _ => Err(Malformed::Body),
    }
}

fn read(frame: &[u8]) -> Result<(FCall, usize), Malformed> {
    let mut rest = frame.get(4..).unwrap_or_default();
    let message = read_msg(&mut rest).map_err(|_| Malformed::Body)?;
    Ok((message.body, rest.len()))
}

/// Encodes a message as a whole frame. Strings must be under 64 KiB.
pub fn encode(tag: u16, message: &FCall) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.reserve(160);
    // rs9p's encoder borrows a whole message.
    let message = Msg { tag, body: message.clone() };
    if write_msg(&mut out, &message).is_err() {
        // Writing to memory cannot fail.
        tracing::error!("rs9p did not encode a message");
    }
    let size = u32::try_from(out.len()).unwrap_or(u32::MAX);
    patch(&mut out, 0, &size.to_le_bytes());
    out
}
