//! The parts of `sshnet-host` (skeleton; being written).
pub mod pipe;
pub mod sys;
