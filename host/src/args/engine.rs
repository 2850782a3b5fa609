//! Options that say which engine is used, and what it may have.

use std::path::PathBuf;

use clap::{Args, value_parser};

/// The engine, and what it may have.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct Core {
    /// Use the engine in this file, a WebAssembly component of the world
    /// sshnet:core/core, in place of the one built in.
    #[arg(long = "core", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Let the engine have so many MiB of memory. Without it: what its own limits
    /// take, 2048 at most.
    #[arg(long = "core-memory", value_name = "MIB", value_parser = value_parser!(u32).range(1..=4096))]
    pub memory: Option<u32>,

    /// Let a call of the engine take so many million instructions. Without it: what
    /// its own limits take, 8000 at most.
    #[arg(long = "core-fuel", value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub fuel: Option<u32>,

    /// Record every call of the engine, and what it answers, in FILE, which must not
    /// be there yet: to replay it on an engine. It holds what is sent, in the clear.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}
