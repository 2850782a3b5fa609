//! The text of the tree: control messages, `cs` queries, addresses (ip(3), cs(8)).
//!
//! Words in, commands out. Knows the service names, and no client.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::cmp::Ordering;

use crate::config::Services;
use crate::effect::{Error, ErrorCode, Protocol};

/// Where a dial goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    Tcp { host: String, port: u16 },
    Unix { path: String },
}

/// Where calls are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Announced {
    /// The address as it goes over the wire: empty for all.
    Tcp {
        address: String,
        port: u16,
    },
    Unix {
        path: String,
    },
}

impl Announced {
    fn key(&self) -> (u32, &str) {
        match self {
            Self::Tcp { address, port } => (u32::from(*port), address),
            Self::Unix { path } => (1 << 16, path),
        }
    }
}

/// By port first: it tells most of them apart, and is compared at once.
impl Ord for Announced {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((port, text), (others, other)) = (self.key(), other.key());
        port.cmp(&others).then_with(|| text.cmp(other))
    }
}

impl PartialOrd for Announced {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One control message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Command {
    Connect(Target),
    Announce(Announced),
    Hangup,
    CloseWrite,
    /// Refuse the call, for this reason.
    Reject(String),
    /// An empty line, or a message that has no meaning here and does no harm.
    Nothing,
}

/// What `local` and `remote` read where there is nothing to say.
pub(crate) const NOWHERE: &str = "::!0";

impl core::fmt::Display for Target {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}!{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

impl core::fmt::Display for Announced {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Tcp { address, port } if address.is_empty() => write!(f, "*!{port}"),
            Self::Tcp { address, port } => write!(f, "{address}!{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

/// Reads text for one session.
#[derive(Debug)]
pub(crate) struct Parser {
    pub(crate) services: Services,
    pub(crate) prefix: String,
    /// Bytes in the name of a host or in a path.
    pub(crate) name: usize,
    /// Bytes in a query.
    pub(crate) line: usize,
}

impl Parser {
    /// Reads one control message.
    pub(crate) fn command(&self, protocol: Protocol, line: &[u8]) -> Result<Command, Error> {
        let bad = |why: &str| Error::bad_control(protocol, why);
        let line = core::str::from_utf8(line).map_err(|_| bad("not UTF-8"))?;
        let mut words = line.split([' ', '\t', '\r', '\0']).filter(|word| !word.is_empty());
        let Some(verb) = words.next() else { return Ok(Command::Nothing) };
        let needs = |what: &str| bad(&format!("{verb} needs {what}"));
        let command = match verb {
            "connect" => {
                let target = words.next().ok_or_else(|| needs("host!port"))?;
                let target = self.target(protocol, target).map_err(|e| bad(&e))?;
                // The far side picks the port that it calls from.
                if protocol == Protocol::Tcp
                    && let Some(port) = words.next()
                {
                    self.port(port).map_err(|e| bad(&e))?;
                }
                Command::Connect(target)
            }
            "announce" => {
                let address = words.next().ok_or_else(|| needs("address!port"))?;
                Command::Announce(self.announced(protocol, address).map_err(|e| bad(&e))?)
            }
            "hangup" => Command::Hangup,
            "closewrite" => Command::CloseWrite,
            "reject" => {
                // The number is that of the call's directory (dial(2)).
                words.next();
                let mut why = String::new();
                for word in words {
                    if !why.is_empty() {
                        why.push(' ');
                    }
                    why.push_str(word);
                }
                return Ok(Command::Reject(why));
            }
            // dial(2) writes it to whoever took the call: it is taken already.
            "accept" => {
                words.next();
                Command::Nothing
            }
            // ssh looks after the connection itself.
            "keepalive" => {
                let every = words.next().unwrap_or("0");
                if every.bytes().any(|b| !b.is_ascii_digit()) {
                    return Err(bad("keepalive takes milliseconds"));
                }
                Command::Nothing
            }
            "bind" => return Err(bad("the far side picks the local address")),
            _ => return Err(bad(verb)),
        };
        match words.next() {
            None => Ok(command),
            Some(word) => Err(bad(&format!("{verb} does not take {word}"))),
        }
    }

    fn target(&self, protocol: Protocol, text: &str) -> Result<Target, String> {
        match protocol {
            Protocol::Unix => Ok(Target::Unix { path: self.path(text)? }),
            Protocol::Tcp => {
                let (host, port) =
                    halves(text).ok_or_else(|| format!("{text} is not host!port"))?;
                // `!r` asks for a privileged port to call from (ip(3)): see above.
                let port = self.port(port.strip_suffix("!r").unwrap_or(port))?;
                if port == 0 {
                    return Err("port 0 cannot be called".to_owned());
                }
                Ok(Target::Tcp { host: self.host(host)?, port })
            }
        }
    }

    fn announced(&self, protocol: Protocol, text: &str) -> Result<Announced, String> {
        match protocol {
            Protocol::Unix => Ok(Announced::Unix { path: self.path(text)? }),
            Protocol::Tcp => {
                let (address, port) = halves(text).unwrap_or(("*", text));
                let port = self.port(port)?;
                let address = if address == "*" { String::new() } else { self.host(address)? };
                Ok(Announced::Tcp { address, port })
            }
        }
    }

    fn host(&self, host: &str) -> Result<String, String> {
        if host.is_empty() {
            return Err("the host is missing".to_owned());
        }
        if host.chars().any(char::is_whitespace) {
            return Err("the host's name has a blank".to_owned());
        }
        self.named("the host's name", host)
    }

    fn path(&self, path: &str) -> Result<String, String> {
        if !path.starts_with('/') {
            return Err(format!("{path} is not a path from the root"));
        }
        self.named("the path", path)
    }

    /// What names something at the far side, if it is fit to be sent there.
    fn named(&self, what: &str, name: &str) -> Result<String, String> {
        if name.len() > self.name {
            return Err(format!("{what} has {} bytes of at most {}", name.len(), self.name));
        }
        if name.chars().any(char::is_control) {
            return Err(format!("{what} has a control character"));
        }
        Ok(name.to_owned())
    }

    /// A port: a decimal number, or a service's name.
    fn port(&self, text: &str) -> Result<u16, String> {
        if text.is_empty() {
            return Err("the port is missing".to_owned());
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            // "010" would be 8 to some and 10 to others.
            if text.len() > 1 && text.starts_with('0') {
                return Err(format!("port {text} has a leading zero"));
            }
            return text.parse().map_err(|_| format!("port {text} is not in 0 to 65535"));
        }
        self.services.port(text).ok_or_else(|| format!("service {text} is unknown"))
    }

    /// Answers a `cs` query.
    pub(crate) fn translate(&self, query: &str) -> Result<String, Error> {
        let cannot = |why: &str| {
            Error::new(ErrorCode::InvalidArgument, format!("can't translate address: {why}"))
        };
        if query.len() > self.line {
            return Err(cannot("the query is too long"));
        }
        let query = query.trim_end_matches(['\n', '\0']);
        let (protocol, rest) = halves(query).ok_or_else(|| cannot("no protocol"))?;
        let prefix = &self.prefix;
        match protocol {
            "tcp" | "net" => {
                let (host, service) = halves(rest).ok_or_else(|| cannot("no service"))?;
                let host = self.host(host).map_err(|e| cannot(&e))?;
                if halves(service).is_some() {
                    return Err(cannot("more than three fields"));
                }
                let port = self.port(service).map_err(|why| {
                    let code = match service.bytes().all(|b| b.is_ascii_digit()) {
                        true => ErrorCode::InvalidArgument,
                        false => ErrorCode::NoEntry,
                    };
                    Error::new(code, format!("no translation found: {why}"))
                })?;
                Ok(format!("{prefix}/tcp/clone {host}!{port}"))
            }
            "unix" => {
                let path = self.path(rest).map_err(|e| cannot(&e))?;
                Ok(format!("{prefix}/unix/clone {path}"))
            }
            _ => Err(Error::new(ErrorCode::NotSupported, "unknown protocol")),
        }
    }
}

/// What is before the first `!` and what is behind it. (The standard library's
/// search for a character is several times as large.)
pub(crate) fn halves(text: &str) -> Option<(&str, &str)> {
    let at = text.bytes().position(|b| b == b'!')?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}
