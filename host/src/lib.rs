//! The parts of `sshnet-host`: the TCP stack of a host reached by ssh, as files.
//!
//! ```text
//! commands, serve -> ninep, fuse -> tree -> driver -> engine (the component)
//!                                              |
//!                                              +----> pipe -> ssh -> the far host
//! peer -----------------------------------------------> pipe, its far side
//! ```
//!
//! Each part knows those below it and nothing else.
//!
//! # In another program
//!
//! The engine, the driver, a pipe and the tree are four calls. Here the far side is this
//! machine; [`pipe::openssh::start`] leads to another.
//!
//! ```
//! use sshnet_host::driver::{Done, Driver};
//! use sshnet_host::engine::{Config, Core, Protocol, Reply, Sandbox};
//! use sshnet_host::pipe::loopback;
//! use sshnet_host::tree::{Owner, Tree};
//! use sshnet_host::ninep;
//! use tokio::io::AsyncWriteExt;
//! use tokio::net::{TcpListener, UnixStream};
//!
//! /// Waits for the outcome of a request.
//! async fn outcome<T>(make: impl FnOnce(Done) -> T) -> Result<Reply, String> {
//!     let (tell, told) = tokio::sync::oneshot::channel();
//!     make(Box::new(|outcome| drop(tell.send(outcome))));
//!     told.await.map_err(|gone| gone.to_string())?.map_err(|error| error.message)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let core = Core::embedded()?;
//! let limits = core.default_limits()?;
//! let config = Config { prefix: "/net".into(), services: Vec::new(), limits };
//! let driver = Driver::new(core.session(&config, Sandbox::for_limits(&limits))?);
//! tokio::spawn(loopback::run(driver.pipe_up()));
//!
//! // Serve the files to a 9P client, on any stream.
//! let (stream, client) = UnixStream::pair()?;
//! let tree = Tree::new(driver.clone(), Owner::current());
//! tokio::spawn(async move { ninep::serve(stream, tree, &ninep::Options::default()).await });
//!
//! // Or do without files: dial, and read what the far service says.
//! let service = TcpListener::bind("127.0.0.1:0").await?;
//! let dial = format!("connect 127.0.0.1!{}", service.local_addr()?.port());
//! tokio::spawn(async move { service.accept().await?.0.write_all(b"hello").await });
//! let Reply::Client(id) = outcome(|done| driver.clone_client(Protocol::Tcp, done)).await? else {
//!     return Err("it is no client".into());
//! };
//! outcome(|done| driver.control(id, dial.as_bytes(), done)).await?;
//! let said = outcome(|done| driver.read(id, 100, done)).await?;
//! assert_eq!(said, Reply::Data(b"hello".to_vec()));
//! driver.release(id);
//! # drop(client);
//! # Ok(())
//! # }
//! ```

mod accept;
pub mod args;
pub mod commands;
mod compiler;
pub mod driver;
pub mod engine;
pub mod figures;
pub mod fuse;
mod gather;
mod json;
pub mod log;
pub mod metrics;
pub mod ninep;
pub mod notice;
pub mod peer;
pub mod pipe;
mod piped;
pub mod reconnect;
pub mod record;
pub mod rights;
pub mod runtime;
pub mod serve;
pub mod services;
pub mod signals;
pub mod starter;
pub mod sys;
pub mod systemd;
pub mod tree;
pub mod users;
mod warnings;
