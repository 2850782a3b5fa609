//! Why an operation on a file failed: a text for people, an errno for programs.
//!
//! 9P2000 carries the text, 9P2000.L and FUSE the errno, 9P2000.u both. This is
//! the one table that says which goes with which. Clients also turn texts back
//! into numbers: Linux compares the whole text with a list of its own, 9pfuse
//! looks for a word in it. So a text here is one that Linux knows where there is
//! one, and has 9pfuse's word in it; of several, Plan 9's.

use std::borrow::Cow;

use rustix::io::Errno;

use crate::engine::{Error, ErrorCode};
use crate::notice::printable;

/// Bytes in a text: Linux drops a connection that sends it 128 or more.
pub const TEXT_MAX: usize = 120;

/// Why an operation on a file failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    text: Cow<'static, str>,
    errno: Errno,
}

impl Failure {
    /// There is no such file, or none any more.
    pub const NOT_FOUND: Self = Self::fixed("file not found", Errno::NOENT);
    /// The file's mode does not allow it.
    pub const PERMISSION: Self = Self::fixed("permission denied", Errno::ACCESS);
    /// No file of this tree can be changed in this way, whoever asks.
    pub const NOT_PERMITTED: Self = Self::fixed("Operation not permitted", Errno::PERM);
    /// A walk, or a reading of entries, from a file that is no directory.
    pub const NOT_DIRECTORY: Self = Self::fixed("not a directory", Errno::NOTDIR);
    /// A directory was to be written, or read as if it were a file.
    pub const IS_DIRECTORY: Self = Self::fixed("Is a directory", Errno::ISDIR);
    /// `cs` has no answer: nothing was asked, or what was asked failed.
    pub const NO_QUERY: Self = Self::fixed("cs read without write", Errno::INVAL);
    /// The user gave up on the request before it had an effect.
    pub const INTERRUPTED: Self = Self::fixed("Interrupted system call", Errno::INTR);
    /// The engine answered something else than what was asked.
    pub const MISMATCH: Self = Self::fixed("i/o error", Errno::IO);
    /// The arguments make no sense.
    pub const INVALID: Self = Self::fixed("Invalid argument", Errno::INVAL);
    /// This tree has no such operation.
    pub const NOT_SUPPORTED: Self = Self::fixed("Operation not supported", Errno::OPNOTSUPP);

    /// A failure of a text that never changes, at most [`TEXT_MAX`] bytes.
    pub const fn fixed(text: &'static str, errno: Errno) -> Self {
        assert!(text.len() <= TEXT_MAX);
        Self { text: Cow::Borrowed(text), errno }
    }

    /// For people: at most [`TEXT_MAX`] bytes, no control characters.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// For programs.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let errno = match error.code {
            ErrorCode::AccessDenied => Errno::ACCESS,
            ErrorCode::AddressInUse => Errno::ADDRINUSE,
            ErrorCode::Canceled => Errno::CANCELED,
            ErrorCode::ConnectionRefused => Errno::CONNREFUSED,
            ErrorCode::ConnectionReset => Errno::CONNRESET,
            // Its text is the engine's word for it, which no client knows.
            ErrorCode::Interrupted => return Self::INTERRUPTED,
            ErrorCode::InvalidArgument => Errno::INVAL,
            ErrorCode::IsConnected => Errno::ISCONN,
            ErrorCode::NetworkDown => Errno::NETDOWN,
            ErrorCode::NoEntry => Errno::NOENT,
            ErrorCode::NotConnected => Errno::NOTCONN,
            ErrorCode::NotSupported => Errno::PROTONOSUPPORT,
            ErrorCode::HungUp => Errno::PIPE,
            ErrorCode::ResourceExhausted => Errno::NOBUFS,
            ErrorCode::TimedOut => Errno::TIMEDOUT,
            ErrorCode::Other => Errno::IO,
        };
        // The engine keeps to both rules; another component may not.
        let mut text = printable(error.message, TEXT_MAX);
        if text.is_empty() {
            text.push_str("i/o error");
        }
        Self { text: Cow::Owned(text), errno }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_is_cut_at_a_character_and_escaped() {
        let long = Error { code: ErrorCode::Other, message: "é".repeat(100) };
        assert_eq!(Failure::from(long).text(), "é".repeat(60));
        let control = Error { code: ErrorCode::Other, message: "a\nb\u{1b}".into() };
        assert_eq!(Failure::from(control).text(), "a\\nb\\u{1b}");
        let empty = Error { code: ErrorCode::Other, message: String::new() };
        assert_eq!(Failure::from(empty).text(), "i/o error");
    }

    #[test]
    fn an_interruption_has_the_text_that_clients_know() {
        let error = Error { code: ErrorCode::Interrupted, message: "interrupted".into() };
        assert_eq!(Failure::from(error), Failure::INTERRUPTED);
    }
}
