//! The parts of `sshnet-host`: the engine in its sandbox, the driver that joins
//! it to I/O, the pipes to a far side, the file tree, the 9P server.
//!
//! A layer knows the one below it and nothing else: [`ninep`] knows no ssh,
//! [`tree`] no 9P, [`pipe`] no engine, [`engine`] no fid.
pub mod driver;
pub mod engine;
pub mod ninep;
pub mod pipe;
pub mod sys;
pub mod tree;
