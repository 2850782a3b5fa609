//! A session under arbitrary calls, with the simulator's oracle on.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../tests/src/sim/oracle/mod.rs"]
#[allow(dead_code, reason = "the simulator uses more of it")]
mod oracle;
#[path = "../../../tests/src/fuzz/session.rs"]
mod session;

fuzz_target!(|bytes: &[u8]| session::check(bytes));
