//! The decoder of 9P: total, and the encoder's inverse.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../tests/src/fuzz/ninep.rs"]
mod check;
#[path = "../../src/ninep/codec.rs"]
#[allow(dead_code, unreachable_pub, reason = "the server uses more of it")]
mod codec;
#[path = "../../src/ninep/linux.rs"]
#[allow(dead_code, unreachable_pub, reason = "the server uses more of it")]
mod linux;

fuzz_target!(|bytes: &[u8]| check::check(bytes));
