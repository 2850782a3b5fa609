//! The command line of `peer`: what whoever it serves may do here.

use clap::Args;

use super::address;
use crate::pipe::far::permit::{Destination, Permit};

pub(super) const USAGE: &str = "sshnet-host peer [--permit HOST:PORT]... [--no-listen]";

pub(super) const AFTER: &str = "\
It is the other end of --pipe bare, and of PuTTY's 'plink -ssh-connection': it \
dials from this machine and takes calls here, with the rights of whoever runs \
it. It asks for no password: whoever has started it is at the other end. It \
ends with its stdin. With sshd it needs no right to forward: a command is \
enough.

A --permit that names a host lets that name or address through and no other \
spelling of it, as PermitOpen does (sshd_config(5)). With any --permit the only \
Unix sockets are those that one names.

EXAMPLES
  sshnet-host --pipe bare --exec 'ssh host sshnet-host peer'
  sshnet-host --pipe bare --exec 'docker exec -i C sshnet-host peer'
  plink -ssh-connection -batch -N -L 8080:intranet:80 \\
    -proxycmd 'ssh host sshnet-host peer' host
  In authorized_keys, for a key that is to reach one database and no more:
    restrict,command=\"sshnet-host peer --permit db:5432 --no-listen\" ssh-...";

/// Its options.
#[derive(Args, Debug)]
pub(super) struct Peer {
    /// Let it dial to HOST:PORT, and to nothing that no --permit names. '*' is any
    /// host or any port. With a '/' in front it is a Unix socket. Repeatable.
    #[arg(long, value_name = "HOST:PORT", value_parser = destination)]
    permit: Vec<Destination>,

    /// Let it take no calls here.
    #[arg(long)]
    no_listen: bool,
}

impl Peer {
    pub(super) fn permit(self) -> Permit {
        let dials = if self.permit.is_empty() { None } else { Some(self.permit) };
        Permit { dials, listen: !self.no_listen }
    }
}

/// Reads `host:port`, `host!port`, `[host]:port`, with `*` for any of either, or a
/// path.
fn destination(text: &str) -> Result<Destination, String> {
    if text.starts_with('/') {
        return Ok(Destination::Unix(text.as_bytes().to_vec()));
    }
    let (host, port) = address::parts(text)?;
    let host = host.ok_or("the port or the host is missing: write HOST:PORT")?;
    let port = match port {
        "*" => None,
        port => Some(port.parse().map_err(|_| format!("'{port}' is no port: write 1 to 65535"))?),
    };
    Ok(Destination::Tcp { host: (host != "*").then(|| host.to_owned()), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_permitted_is_read() {
        let tcp =
            |host: Option<&str>, port| Ok(Destination::Tcp { host: host.map(str::to_owned), port });
        for (text, means) in [
            ("db:5432", tcp(Some("db"), Some(5432))),
            ("db!5432", tcp(Some("db"), Some(5432))),
            ("[::1]:80", tcp(Some("::1"), Some(80))),
            ("*:80", tcp(None, Some(80))),
            ("db:*", tcp(Some("db"), None)),
            ("*:*", tcp(None, None)),
            ("/run/docker.sock", Ok(Destination::Unix(b"/run/docker.sock".to_vec()))),
        ] {
            assert_eq!(destination(text), means, "{text}");
        }
        for text in ["", "db", "80", "*", ":80", "db:", "db:http", "db:65536", "::1:80", "d b:1"] {
            assert!(destination(text).is_err(), "{text}");
        }
    }
}
