//! Options for those who watch a service: its log, its figures.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::address;
use crate::log::{Format, Level};

/// What to log, and where the figures are.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct Watch {
    /// Log what is at least so bad to stderr; without it what RUST_LOG asks for, or
    /// else warnings.
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub log_level: Option<Level>,

    /// How the log and the notices look; ssh's own words stay as they are.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: Format,

    /// Serve the figures of tcp/stats by HTTP, as Prometheus reads them: at
    /// tcp!127.0.0.1!PORT, or on the Unix socket /PATH. Who may connect for 9P may do
    /// so here.
    #[arg(long, value_name = "ADDR", value_parser = place)]
    pub metrics: Option<Place>,
}

/// Where the figures are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// On a port of this machine.
    Port(SocketAddr),
    /// On a Unix socket.
    Path(PathBuf),
}

fn place(text: &str) -> Result<Place, String> {
    if text.contains('/') {
        return Ok(Place::Path(text.into()));
    }
    let address = address::here(text)?;
    if !address.ip().is_loopback() {
        return Err("\nit must be an address of this machine alone, such as 127.0.0.1".to_owned());
    }
    Ok(Place::Port(address))
}
