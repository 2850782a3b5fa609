//! An engine that misbehaves when it is told to: the sandbox is tried with it.
//!
//! It is a component of the world `sshnet:core/core` without any ssh: it makes
//! clients, and every other request waits until it is flushed. What is written to
//! `ctl`, `MISDEED EVENT`, arms a misdeed, which is done at the next such event; a
//! prefix `/MISDEED/EVENT` arms one from the start. `dial` is done at once. See
//! `Misdeed` for what there is. The tests are in tests/tests/sandbox.
#![cfg_attr(target_family = "wasm", no_std)]

#[cfg(target_family = "wasm")]
extern crate alloc;
#[cfg(target_family = "wasm")]
mod component;
#[cfg(target_family = "wasm")]
#[path = "../../../core/src/rt.rs"]
mod rt;
