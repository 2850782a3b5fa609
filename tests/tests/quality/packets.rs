//! How our engine cuts what is written into messages: into as few as may be.

use sshnet_tests::bench::{Bench, PACKET, limits};
use sshnet_tests::peer::sent;

/// Each message but the last is full.
#[test]
fn a_write_makes_no_more_messages_than_it_must() {
    for size in [0_usize, 1, 999, 1_000, 1_001, 32_768, 32_769, 65_536, 100_000, 262_144] {
        for packet in [1_000, 32_512, 32_768, 65_536, u32::MAX] {
            let Some(mut s) = Bench::of_ours(limits()) else { return };
            let line = s.dial_with(u32::MAX, packet);
            let effects = s.write(1, line.id, vec![1; size]);
            let most = packet.min(PACKET) as usize;
            assert_eq!(sent(&effects).len(), size.div_ceil(most), "{size} by {packet}");
        }
    }
}
