//! Addresses as people write them, into what `ctl` takes.
//!
//! Plan 9 writes `tcp!host!port` (dial(2)), everybody else `host:port`; both are
//! understood where there is only one way to read them. Whether a port exists, and
//! what a name stands for, the engine and the far side know.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Where a dial goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    protocol: &'static str,
    address: String,
}

/// Where programs of this machine connect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Local {
    /// To this TCP port of the loopback's addresses; port 0 is one that is free. So
    /// for the others.
    Loopback(u16),
    /// To this one of all addresses.
    Everywhere(u16),
    /// To this one.
    Address(SocketAddr),
    /// To a Unix socket.
    Path(PathBuf),
}

/// Where calls are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announced(String);

impl Target {
    /// A port of a host, whose name somebody else has given.
    pub fn tcp(host: &str, port: u16) -> Result<Self, String> {
        // A '!' would make a port of what follows.
        if host.contains('!') {
            return Err("there is a '!' in the host's name".to_owned());
        }
        of_tcp(&format!("{host}!{port}"))
    }

    /// The directory of the tree where it is dialled.
    pub fn protocol(&self) -> &'static str {
        self.protocol
    }
}

impl fmt::Display for Target {
    /// `host!port`, or a path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl fmt::Display for Announced {
    /// `address!port`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads `host!port`, `tcp!host!port`, `host:port` or `[host]:port`; and, for a Unix
/// socket, `/path` or `unix!/path`.
pub fn target(text: &str) -> Result<Target, String> {
    let path = text.strip_prefix("unix!").unwrap_or(text);
    if path.starts_with('/') {
        is_word(path)?;
        return Ok(Target { protocol: "unix", address: path.to_owned() });
    }
    of_tcp(text)
}

fn of_tcp(text: &str) -> Result<Target, String> {
    let (host, port) = parts(text)?;
    match host {
        Some("*") => Err("'*' is all addresses, and cannot be dialled".to_owned()),
        Some(host) => Ok(Target { protocol: "tcp", address: format!("{host}!{port}") }),
        None => Err("the port is missing: write HOST!PORT".to_owned()),
    }
}

/// Reads `port` of the loopback, `address:port` or `address!port` of this machine, the
/// address as a number, `localhost`, or `*` for all of them.
pub fn near(text: &str) -> Result<Local, String> {
    const FORM: &str = "write PORT or ADDR:PORT";
    let (host, port) = parts(text)?;
    let port = port.parse().map_err(|_| format!("'{port}' is no port: {FORM}"))?;
    Ok(match host {
        None | Some("localhost") => Local::Loopback(port),
        Some("*") => Local::Everywhere(port),
        Some(host) => {
            let ip = host.parse().map_err(|_| format!("'{host}' is no IP address: {FORM}"))?;
            Local::Address(SocketAddr::new(ip, port))
        }
    })
}

/// Reads the same; and, with a `/` in it, the path of a Unix socket.
pub fn near_or_path(text: &str) -> Result<Local, String> {
    if text.contains('/') { Ok(Local::Path(text.into())) } else { near(text) }
}

/// Reads what [`target`] does of TCP, and a port alone: then of all addresses.
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

/// Whether it can be a word of a control message.
fn is_word(text: &str) -> Result<(), String> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("there are spaces or control characters in it".to_owned());
    }
    Ok(())
}

/// The host, if there is one, and the port.
pub(super) fn parts(text: &str) -> Result<(Option<&str>, &str), String> {
    is_word(text)?;
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
