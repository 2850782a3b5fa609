//! The part of the command line that is ssh's.
//!
//! It is read with ssh's own rules (getopt(3) with the option string of OpenSSH
//! 9.2, options after the host included) and not changed: the destination is
//! split off, and what cannot work with a connection of our own is refused, with
//! the reason. What ssh makes of the rest is its own business.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The options of ssh(1); a colon follows those that take an argument.
const OPTIONS: &[u8] = b"1246ab:c:e:fgi:kl:m:no:p:qstvxAB:CD:E:F:GI:J:KL:MNO:PQ:R:S:TVw:W:XYy";

/// Options that are refused, and why.
const REFUSED: &[(u8, &str)] = &[
    (b'f', "sends ssh to the background, where its end would go unnoticed; use '&'"),
    (b'M', MASTER),
    (b'S', MASTER),
    (b'O', "controls another ssh, and makes no connection"),
    (b'W', "makes the connection into a single stream; 'sshnet-host dial' does that"),
    (b'G', "prints the configuration, and makes no connection"),
    (b'Q', "prints what ssh knows, and makes no connection"),
    (b'V', "prints ssh's version, and makes no connection; ours: --version"),
    (b's', "is for a subsystem of ssh here; our own '-s SERVICE' comes before ssh's options"),
    (b'P', "has two meanings, by the version of ssh; for a tag use -o Tag=NAME"),
    (b'L', FORWARD),
    (b'R', FORWARD),
    (b'D', "is a forwarding, and there are none here; our own '-D' comes before ssh's options"),
    (b'w', FORWARD),
];

/// Keywords of `-o` that are refused, in lower case, and why.
const REFUSED_KEYWORDS: &[(&str, &str)] = &[
    ("controlmaster", MASTER),
    ("controlpath", MASTER),
    ("controlpersist", MASTER),
    ("forkafterauthentication", "sends ssh to the background, where its end would go unnoticed"),
    ("sessiontype", "is for a session, and there is none here"),
    ("remotecommand", "is a command for the far host, and none is run here"),
    ("localforward", FORWARD),
    ("remoteforward", FORWARD),
    ("dynamicforward", FORWARD),
    ("tunnel", FORWARD),
    ("stdinnull", "is for a session, and there is none here"),
    ("clearallforwardings", "is always on here"),
];

const MASTER: &str = "is in the way: sshnet-host runs a private master connection of its own";
const FORWARD: &str =
    "is a forwarding, and there are none here; use 'sshnet-host dial' and 'sshnet-host listen'";

/// Where ssh goes, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Far {
    /// ssh's options, as they were given.
    pub options: Vec<OsString>,
    /// `[user@]host` or `ssh://[user@]host[:port]`.
    pub destination: OsString,
}

/// Why ssh's words will not do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SshError {
    /// There is no destination.
    #[error("the host is missing: sshnet-host [OPTIONS] [SSH OPTIONS] [USER@]HOST")]
    NoDestination,
    /// An option cannot work here.
    #[error("ssh's option {option} {why}")]
    Refused {
        /// As it was given.
        option: String,
        /// Why.
        why: &'static str,
    },
    /// An option is none of ssh's.
    #[error("unknown option {0}: neither sshnet-host nor ssh has it")]
    Unknown(String),
    /// A long option: ssh has none.
    #[error("'{0}' comes too late: our own options come before ssh's, and ssh has no long ones")]
    Long(String),
    /// An option needs an argument.
    #[error("ssh's option -{0} needs an argument")]
    NoArgument(char),
    /// There is something after the destination.
    #[error(
        "'{word}' after the host '{host}': a command for the far host is not run here\n\
         (our options come before ssh's, and -D takes no argument)"
    )]
    Command {
        /// Its first word.
        word: String,
        /// What was taken for the host.
        host: String,
    },
    /// The destination cannot be one.
    #[error("the host '{0}' {1}")]
    BadDestination(String, &'static str),
}

/// Reads ssh's words.
pub fn read(words: Vec<OsString>) -> Result<Far, SshError> {
    let mut options = Vec::new();
    let mut destination: Option<OsString> = None;
    let mut words = words.into_iter();
    let mut only_words = false;
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" && !only_words {
            only_words = true;
        } else if bytes.starts_with(b"--") && !only_words {
            return Err(SshError::Long(shown(&word)));
        } else if bytes.starts_with(b"-") && bytes.len() > 1 && !only_words {
            if let Some(letter) = cluster(&word)? {
                let argument = words.next().ok_or(SshError::NoArgument(letter.into()))?;
                vet(letter, &argument)?;
                options.extend([word, argument]);
            } else {
                options.push(word);
            }
        } else if let Some(host) = &destination {
            let (word, host) = (shown(&word), shown(host));
            return Err(SshError::Command { word, host });
        } else {
            check(&word)?;
            destination = Some(word);
        }
    }
    let destination = destination.ok_or(SshError::NoDestination)?;
    Ok(Far { options, destination })
}

/// Looks at a word of options. Answers with the last one's letter if its argument
/// is the next word.
fn cluster(word: &OsStr) -> Result<Option<u8>, SshError> {
    let mut letters = word.as_bytes().get(1..).unwrap_or_default();
    while let Some((letter, rest)) = letters.split_first() {
        let known = OPTIONS.iter().position(|known| known == letter && *known != b':');
        let Some(at) = known else {
            return Err(SshError::Unknown(named(*letter, word)));
        };
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| refused == letter) {
            let option = named(*letter, word);
            return Err(SshError::Refused { option, why });
        }
        if OPTIONS.get(at + 1) == Some(&b':') {
            if rest.is_empty() {
                return Ok(Some(*letter));
            }
            vet(*letter, OsStr::from_bytes(rest))?;
            return Ok(None);
        }
        letters = rest;
    }
    Ok(None)
}

/// An option, and the word that it is in where that has more.
fn named(letter: u8, word: &OsStr) -> String {
    match word.len() {
        2 => shown(word),
        _ => format!("-{} (in '{}')", letter.escape_ascii(), shown(word)),
    }
}

/// Looks at an option's argument.
fn vet(letter: u8, argument: &OsStr) -> Result<(), SshError> {
    if letter != b'o' {
        return Ok(());
    }
    let text = argument.to_string_lossy();
    // As readconf.c has it: blanks, perhaps a quote, the keyword, a blank or '='.
    let keyword: String = text
        .trim_start()
        .trim_start_matches('"')
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    match REFUSED_KEYWORDS.iter().find(|(refused, _)| *refused == keyword) {
        Some((_, why)) => Err(SshError::Refused { option: format!("-o {}", shown(argument)), why }),
        None => Ok(()),
    }
}

/// Whether it can be a destination. These are the rules of newer versions of ssh,
/// which older ones have not: a name may end up in a ProxyCommand.
fn check(destination: &OsStr) -> Result<(), SshError> {
    let bad = |why| Err(SshError::BadDestination(shown(destination), why));
    let Parts { user, host } = Parts::of(destination);
    let metacharacter = |b: &u8| b"'`\";&<>|(){}".contains(b);
    if host.is_empty() {
        return bad("is empty");
    }
    if host.starts_with(b"-") || user.is_some_and(|user| user.starts_with(b"-")) {
        return bad("starts with '-'");
    }
    if host.iter().chain(user.unwrap_or_default()).any(u8::is_ascii_control) {
        return bad("has control characters in it");
    }
    if host.iter().any(|b| metacharacter(b) || b"$\\".contains(b) || b.is_ascii_whitespace()) {
        return bad("has characters in it that no host's name has");
    }
    let user = user.unwrap_or_default();
    if user.iter().any(metacharacter)
        || user.ends_with(b"\\")
        || user.windows(2).any(|w| w == b" -")
    {
        return bad("has characters in it that no user's name has");
    }
    Ok(())
}

/// A destination, taken apart as far as we need.
struct Parts<'a> {
    user: Option<&'a [u8]>,
    host: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(destination: &'a OsStr) -> Self {
        let bytes = destination.as_bytes();
        let uri = bytes.strip_prefix(b"ssh://");
        // Of a URI, what is between the scheme and a slash.
        let rest = match uri {
            Some(rest) => rest.split(|b| *b == b'/').next().unwrap_or(rest),
            None => bytes,
        };
        let (user, host) = match rest.iter().rposition(|b| *b == b'@') {
            Some(at) => (rest.get(..at), rest.get(at + 1..).unwrap_or_default()),
            None => (None, rest),
        };
        Self { user, host: if uri.is_some() { without_port(host) } else { host } }
    }
}

/// `host:port` or `[host]:port` without the port.
fn without_port(host: &[u8]) -> &[u8] {
    if let Some(inner) = host.strip_prefix(b"[") {
        return inner.split(|b| *b == b']').next().unwrap_or(inner);
    }
    host.split(|b| *b == b':').next().unwrap_or(host)
}

impl Far {
    /// The host's name, without user and port.
    pub fn host(&self) -> OsString {
        OsString::from_vec(Parts::of(&self.destination).host.to_owned())
    }
}

/// A word as it can be printed.
fn shown(word: &OsStr) -> String {
    word.to_string_lossy().escape_debug().to_string().replace("\\'", "'")
}
