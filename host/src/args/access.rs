//! Options that say how the tree is served, besides on the user's own socket, and to
//! whom.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

use clap::Args;

use super::{Listen, UsageError, address};
use crate::users::{self, Users};

/// As clap reads them.
#[derive(Args, Debug, Default, Eq, PartialEq)]
pub(super) struct Access {
    /// Serve 9P on a TCP port of this machine, too: tcp!127.0.0.1!PORT. Only you
    /// and root may connect. Port 0 is one that is free.
    #[arg(long, value_name = "ADDR", value_parser = address::here)]
    listen: Option<SocketAddr>,

    /// Let --listen have any address, and serve whoever connects to it: they
    /// have the far network as you have it.
    #[arg(long, requires = "listen")]
    insecure_listen: bool,

    /// Let USER connect, too, by name or number: to the socket, which must not be in
    /// the private directory (-s /PATH), or to --listen. Once for each. They have the
    /// far network as you have it.
    #[arg(long, value_name = "USER", value_parser = users::number)]
    allow_user: Vec<u32>,

    /// Answer reads for 9P2000.L and .u as for 9P2000: for clients that go on
    /// reading until they have all they want. Linux then waits for all of it.
    #[arg(long)]
    pub(super) exact_reads: bool,
}

impl Access {
    /// Where else to serve, and whom, if that makes sense.
    pub(super) fn read(self, service: &OsStr) -> Result<(Option<Listen>, Users), UsageError> {
        let anybody = self.insecure_listen;
        if let Some(address) = self.listen.filter(|at| !anybody && !at.ip().is_loopback()) {
            return Err(UsageError::new(format_args!(
                "--listen {}: it must be an address of this machine\n\
                 alone, such as 127.0.0.1: 9P asks for no password. --insecure-listen takes any\n\
                 address, and lets anybody in",
                address.ip()
            )));
        }
        let users = Users::with(self.allow_user);
        let reachable = self.listen.is_some() || service.as_bytes().contains(&b'/');
        if users.has_others() && !reachable {
            return Err(UsageError::new(
                "--allow-user: the socket is in a directory that is yours alone; give it\n\
                 another place with -s /PATH, or a port with --listen",
            ));
        }
        Ok((self.listen.map(|address| Listen { address, anybody }), users))
    }
}
