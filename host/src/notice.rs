//! What the user is told on stderr.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write;

use crate::log;

/// Prints a line that says whose it is. If stderr is gone nobody wants it.
pub fn notice(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", log::line("info", &what.to_string()));
}

/// The same of what ended it.
pub fn failure(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", log::line("error", &what.to_string()));
}

/// A text of somebody else's that can be shown: control characters are written out,
/// and it has at most so many bytes.
pub(crate) fn printable(text: String, most: usize) -> String {
    let mut text = escaped(text, char::is_control);
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// The text with these characters written out.
pub(crate) fn escaped(text: String, which: impl Fn(char) -> bool) -> String {
    if !text.contains(&which) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if which(c) { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// How a word is written in a command for a shell.
pub(crate) fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_not_take_it_for_one() {
        for (word, quoted_word) in [
            ("/mnt/a-b_c.d", "/mnt/a-b_c.d"),
            ("/mnt/it's mine", r"'/mnt/it'\''s mine'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), quoted_word);
        }
    }
}
