//! The message codec: total, and the same both ways.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../tests/src/fuzz/message.rs"]
mod message;

fuzz_target!(|bytes: &[u8]| message::check(bytes));
