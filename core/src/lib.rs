//! The engine of sshnet (skeleton; being written).
#![cfg_attr(target_family = "wasm", no_std)]
extern crate alloc;
pub mod message;
pub mod wire;
