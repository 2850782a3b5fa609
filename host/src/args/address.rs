//! Addresses as people write them, into what `ctl` takes.
//!
//! Plan 9 writes `tcp!host!port` (dial(2)), everybody else `host:port`; both are
//! understood where there is only one way to read them. Whether a port exists, and
//! what a name stands for, the engine and the far side know.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a dial goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target(String);

/// Where calls are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announced(String);

impl fmt::Display for Target {
    /// `host!port`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Announced {
    /// `address!port`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads `host!port`, `tcp!host!port`, `host:port` or `[host]:port`.
pub fn target(text: &str) -> Result<Target, String> {
    let (host, port) = parts(text)?;
    match host {
        Some("*") => Err("'*' is all addresses, and cannot be dialled".to_owned()),
        Some(host) => Ok(Target(format!("{host}!{port}"))),
        None => Err("the port is missing: write HOST!PORT".to_owned()),
    }
}

/// Reads the same, and a port alone: then of all addresses.
pub fn announced(text: &str) -> Result<Announced, String> {
    let (address, port) = parts(text)?;
    match address {
        Some(address) => Ok(Announced(format!("{address}!{port}"))),
        None if port.bytes().all(|b| b.is_ascii_digit()) => Ok(Announced(format!("*!{port}"))),
        None => Err("the port is missing: write ADDR!PORT, or *!PORT for all".to_owned()),
    }
}

/// Reads `tcp!address!port` of this machine, where the tree is to be served: the
/// address as a number, `localhost`, or `*` for all of them.
pub fn here(text: &str) -> Result<SocketAddr, String> {
    const FORM: &str = "write tcp!127.0.0.1!PORT";
    let (ip, port) = match text.split('!').collect::<Vec<_>>().as_slice() {
        ["tcp", ip, port] => (*ip, *port),
        [protocol, _, _] => return Err(format!("\nthe protocol '{protocol}' is not tcp: {FORM}")),
        _ => return Err(format!("\n{FORM}")),
    };
    let ip = match ip {
        "localhost" => IpAddr::from(Ipv4Addr::LOCALHOST),
        "*" => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ip => ip.parse().map_err(|_| format!("\n'{ip}' is no IP address: {FORM}"))?,
    };
    let port = port.parse().map_err(|_| format!("\n'{port}' is no port: {FORM}"))?;
    Ok(SocketAddr::new(ip, port))
}

/// The host, if there is one, and the port.
fn parts(text: &str) -> Result<(Option<&str>, &str), String> {
    // It becomes a word of a control message.
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("there are spaces or control characters in it".to_owned());
    }
    let (host, port) = match text.split('!').collect::<Vec<_>>().as_slice() {
        ["tcp" | "net", host, port] | [host, port] => (Some(*host), *port),
        [_] => colon(text)?,
        [protocol, _, _] => return Err(format!("the protocol '{protocol}' is not tcp")),
        _ => return Err("there are too many '!' in it".to_owned()),
    };
    if host == Some("") {
        return Err("the host is missing".to_owned());
    }
    if port.is_empty() {
        return Err("the port is missing".to_owned());
    }
    // An address in brackets means the same to everybody, but not to ctl.
    let host = host.map(|host| {
        host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
    });
    Ok((host, port))
}

/// `host:port`, `[host]:port` or a single word.
fn colon(text: &str) -> Result<(Option<&str>, &str), String> {
    if text.starts_with('[') {
        let end = text.rfind(']').ok_or("the ']' is missing")?;
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((Some(host), port)),
            None => Err(format!("the port is missing: write {host}:PORT")),
        };
    }
    match text.rsplit_once(':') {
        None => Ok((None, text)),
        Some((host, _)) if host.contains(':') => {
            Err("for an IPv6 address write [ADDR]:PORT or ADDR!PORT".to_owned())
        }
        Some((host, port)) => Ok((Some(host), port)),
    }
}
