//! The parts of `sshnet-host` (skeleton; being written).
pub mod driver;
pub mod engine;
pub mod pipe;
pub mod sys;
