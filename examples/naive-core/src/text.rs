//! What people write and read: control messages (ip(3)), `cs` queries, addresses.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Display};

use crate::types::{Error, ErrorCode, Protocol};

/// Where a dial goes, or where calls are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A host or an address as it goes over the wire, and a port.
    Tcp(String, u16),
    /// A path.
    Unix(String),
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address, port) if address.is_empty() => write!(f, "*!{port}"),
            Self::Tcp(address, port) => write!(f, "{address}!{port}"),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// A control message.
#[derive(Debug)]
pub enum Command {
    /// `connect`.
    Connect(Place),
    /// `announce`.
    Announce(Place),
    /// `hangup`.
    Hangup,
    /// `closewrite`.
    CloseWrite,
    /// `reject`, and why.
    Reject(String),
    /// What has no meaning here and does no harm.
    Nothing,
}

/// An error with this text, made fit to be shown.
pub fn error(code: ErrorCode, text: &str) -> Error {
    Error { code, message: printable(text.as_bytes()) }
}

/// Text from outside as the contract shows it: escaped, and at most 120 bytes.
pub fn printable(text: &[u8]) -> String {
    let mut shown = String::new();
    let mut put = |piece: String| {
        let fits = shown.len() + piece.len() <= 120;
        if fits {
            shown.push_str(&piece);
        }
        fits
    };
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{feff}')
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
            let piece = match u32::from(c) {
                code if c.is_control() || hidden && code < 0x100 => format!("\\x{code:02x}"),
                code if hidden => format!("\\u{{{code:x}}}"),
                _ => c.to_string(),
            };
            if !put(piece) {
                return shown;
            }
        }
        for byte in chunk.invalid() {
            if !put(format!("\\x{byte:02x}")) {
                return shown;
            }
        }
    }
    shown
}

/// Reads words for one session.
#[derive(Debug)]
pub struct Words {
    /// Where the tree is.
    pub prefix: String,
    /// Ports by name.
    pub services: BTreeMap<String, u16>,
    /// Bytes in the name of a host, or in a path.
    pub name: usize,
    /// Bytes in a query.
    pub line: usize,
}

impl Words {
    /// Reads one control message.
    pub fn command(&self, protocol: Protocol, line: &[u8]) -> Result<Command, String> {
        let line = core::str::from_utf8(line).map_err(|_| "not UTF-8")?;
        let mut words = line.split([' ', '\t', '\r', '\0']).filter(|word| !word.is_empty());
        let Some(verb) = words.next() else { return Ok(Command::Nothing) };
        let command = match verb {
            "connect" => {
                let target = words.next().ok_or("connect needs an address")?;
                let target = self.target(protocol, target)?;
                if protocol == Protocol::Tcp
                    && let Some(port) = words.next()
                {
                    self.port(port)?;
                }
                Command::Connect(target)
            }
            "announce" => {
                let address = words.next().ok_or("announce needs an address")?;
                Command::Announce(self.announced(protocol, address)?)
            }
            "hangup" => Command::Hangup,
            "closewrite" => Command::CloseWrite,
            "reject" => {
                let why: Vec<&str> = words.skip(1).collect();
                return Ok(Command::Reject(why.join(" ")));
            }
            "accept" => {
                words.next();
                Command::Nothing
            }
            "keepalive" => {
                if words.next().is_some_and(|ms| !ms.bytes().all(|b| b.is_ascii_digit())) {
                    return Err("keepalive takes milliseconds".into());
                }
                Command::Nothing
            }
            _ => return Err(verb.into()),
        };
        match words.next() {
            Some(word) => Err(format!("{verb} does not take {word}")),
            None => Ok(command),
        }
    }

    fn target(&self, protocol: Protocol, text: &str) -> Result<Place, String> {
        if protocol == Protocol::Unix {
            return self.path(text);
        }
        let (host, port) = text.split_once('!').ok_or("no port")?;
        match self.port(port.strip_suffix("!r").unwrap_or(port))? {
            0 => Err("port 0 cannot be called".into()),
            port => Ok(Place::Tcp(self.host(host)?, port)),
        }
    }

    fn announced(&self, protocol: Protocol, text: &str) -> Result<Place, String> {
        if protocol == Protocol::Unix {
            return self.path(text);
        }
        let (address, port) = text.split_once('!').unwrap_or(("*", text));
        let port = self.port(port)?;
        Ok(Place::Tcp(if address == "*" { String::new() } else { self.host(address)? }, port))
    }

    fn host(&self, host: &str) -> Result<String, String> {
        let blank = host.chars().any(|c| c.is_control() || c.is_whitespace());
        if host.is_empty() || host.len() > self.name || blank {
            return Err("that is no name of a host".into());
        }
        Ok(host.into())
    }

    fn path(&self, path: &str) -> Result<Place, String> {
        let odd = path.chars().any(char::is_control);
        if !path.starts_with('/') || path.len() > self.name || odd {
            return Err("that is no path".into());
        }
        Ok(Place::Unix(path.into()))
    }

    fn port(&self, text: &str) -> Result<u16, String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let leading = text.len() > 1 && text.starts_with('0');
            return text.parse().ok().filter(|_| !leading).ok_or("that is no port".into());
        }
        self.services.get(text).copied().ok_or(format!("{text} is no service"))
    }

    /// Answers a `cs` query.
    pub fn translate(&self, query: &str) -> Result<String, Error> {
        let no = |why: &str| error(ErrorCode::InvalidArgument, why);
        if query.len() > self.line {
            return Err(no("the query is too long"));
        }
        let query = query.trim_end_matches(['\n', '\0']);
        let prefix = &self.prefix;
        match query.split_once('!').ok_or(no("no protocol"))? {
            ("tcp" | "net", rest) => {
                let (host, service) = rest.split_once('!').ok_or(no("no service"))?;
                let host = self.host(host).map_err(|why| no(&why))?;
                let named = service.bytes().any(|b| !b.is_ascii_digit()) && !service.contains('!');
                let port = self.port(service).map_err(|why| match named {
                    true => error(ErrorCode::NoEntry, &why),
                    false => no(&why),
                })?;
                Ok(format!("{prefix}/tcp/clone {host}!{port}"))
            }
            ("unix", path) => {
                let path = self.path(path).map_err(|why| no(&why))?;
                Ok(format!("{prefix}/unix/clone {path}"))
            }
            _ => Err(error(ErrorCode::NotSupported, "unknown protocol")),
        }
    }
}
