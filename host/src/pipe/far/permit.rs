//! What the far side's peer may have this machine do: where it may dial to, and
//! whether it may listen, as PermitOpen and PermitListen of sshd_config(5) say it.
//!
//! Pure. Names are held against names and addresses against addresses, and no name
//! is looked up: a place that is permitted by one name is not by another.

use std::net::IpAddr;

/// What is permitted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Permit {
    /// Where to; `None`: anywhere.
    pub dials: Option<Vec<Destination>>,
    /// Whether it may take calls here.
    pub listen: bool,
}

/// A place, or several.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// Of TCP.
    Tcp {
        /// A name or an address; `None`: any.
        host: Option<String>,
        /// `None`: any.
        port: Option<u16>,
    },
    /// The Unix socket with this path.
    Unix(Vec<u8>),
}

impl Permit {
    /// Everything.
    pub fn everything() -> Self {
        Self { dials: None, listen: true }
    }

    /// Whether it may dial to this port of a host.
    pub(super) fn tcp(&self, host: &[u8], port: u32) -> bool {
        let is = |place: &Destination| match place {
            Destination::Tcp { host: name, port: number } => {
                name.as_ref().is_none_or(|name| same(name, host))
                    && number.is_none_or(|number| u32::from(number) == port)
            }
            Destination::Unix(_) => false,
        };
        self.dials.as_ref().is_none_or(|places| places.iter().any(is))
    }

    /// Whether it may connect to this Unix socket.
    pub(super) fn unix(&self, path: &[u8]) -> bool {
        let is = |place: &Destination| matches!(place, Destination::Unix(one) if one == path);
        self.dials.as_ref().is_none_or(|places| places.iter().any(is))
    }
}

/// Whether both are one host, as far as their spelling tells.
fn same(name: &str, host: &[u8]) -> bool {
    let address = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    match (address(name), std::str::from_utf8(host).ok().and_then(address)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => name.as_bytes().eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(places: &[Destination]) -> Permit {
        Permit { dials: Some(places.to_vec()), listen: true }
    }

    fn tcp(host: Option<&str>, port: Option<u16>) -> Destination {
        Destination::Tcp { host: host.map(str::to_owned), port }
    }

    #[test]
    fn everything_is_everything_and_nothing_nothing() {
        assert!(Permit::everything().tcp(b"h", 1) && Permit::everything().unix(b"/x"));
        assert!(!only(&[]).tcp(b"h", 1) && !only(&[]).unix(b"/x"));
    }

    #[test]
    fn a_host_and_a_port_are_held_against_what_is_permitted() {
        let permit = only(&[tcp(Some("db"), Some(5432)), tcp(Some("::1"), None)]);
        for (host, port, may) in [
            ("db", 5432, true),
            ("DB", 5432, true),
            ("db", 5433, false),
            ("db", 5432 + 65_536, false),
            ("db.", 5432, false),
            ("xdb", 5432, false),
            ("", 5432, false),
            ("::1", 1, true),
            ("0:0:0:0:0:0:0:1", 65_535, true),
            ("::2", 1, false),
            ("127.0.0.1", 1, false),
        ] {
            assert_eq!(permit.tcp(host.as_bytes(), port), may, "{host} {port}");
        }
        assert!(!permit.tcp(b"\xff", 5432) && !permit.unix(b"db"));
        let permit = only(&[tcp(Some("127.0.0.1"), None)]);
        assert!(permit.tcp(b"::ffff:127.0.0.1", 80) && !permit.tcp(b"127.0.0.2", 80));
    }

    #[test]
    fn any_host_or_port_is_one_of_tcp() {
        let permit = only(&[tcp(None, Some(80))]);
        assert!(permit.tcp(b"anywhere", 80) && !permit.tcp(b"anywhere", 81));
        let permit = only(&[tcp(None, None)]);
        assert!(permit.tcp(b"\xff", 0) && !permit.unix(b"/x"));
        let permit = only(&[Destination::Unix(b"/x".to_vec())]);
        assert!(permit.unix(b"/x") && !permit.unix(b"/x/") && !permit.tcp(b"/x", 80));
    }
}
