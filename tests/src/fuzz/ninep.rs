//! The decoder of 9P under any bytes.

use super::codec::{Dialect, Malformed, Reply, Request, frame_kind, frame_tag};

/// The first byte chooses the dialect, the rest is a frame. Decoding it ends in a
/// message or an error; and a message that is encoded and decoded again is the same.
pub fn check(bytes: &[u8]) {
    let Some((choice, frame)) = bytes.split_first() else { return };
    let dialect = match choice % 3 {
        0 => Dialect::Plan9,
        1 => Dialect::Unix,
        _ => Dialect::Linux,
    };
    let tag = frame_tag(frame);
    match Request::decode(frame, dialect) {
        Ok(request) => {
            let encoded = request.encode(tag, dialect);
            assert_eq!(size(&encoded), encoded.len(), "{request:?}");
            assert_eq!((frame_kind(&encoded), frame_tag(&encoded)), (frame_kind(frame), tag));
            let again = Request::decode(&encoded, dialect).expect("what was encoded is a message");
            assert_eq!(again, request);
            assert_eq!(again.encode(tag, dialect), encoded);
        }
        Err(Malformed::Unknown | Malformed::Names | Malformed::Body) => {}
    }
    if let Ok(reply) = Reply::decode(frame, dialect) {
        let encoded = reply.encode(tag, dialect);
        assert_eq!(size(&encoded), encoded.len(), "{reply:?}");
        let again = Reply::decode(&encoded, dialect).expect("what was encoded is a message");
        assert_eq!(again, reply);
    }
}

/// What a frame says of its size.
fn size(frame: &[u8]) -> usize {
    let size = frame.first_chunk().map_or(0, |size| u32::from_le_bytes(*size));
    usize::try_from(size).expect("it is in memory")
}
