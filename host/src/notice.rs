//! What the user is told on stderr.

use std::fmt::Display;
use std::io::Write;

/// Prints a line that says whose it is. If stderr is gone nobody wants it.
pub fn notice(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "sshnet-host: {what}");
}
