//! What is said of a command line that makes no sense, and of one that asks for help.

use clap::error::ErrorKind;

/// A command line that makes no sense, or one that asks for help.
#[derive(Debug)]
pub struct UsageError {
    pub(super) text: String,
    /// Whether the text is what was asked for.
    pub(super) help: bool,
}

impl UsageError {
    pub(super) fn new(what: impl std::fmt::Display) -> Self {
        let text = wrapped(&format!("sshnet-host: {what}"));
        Self { text: format!("{text}\nFor help: sshnet-host --help\n"), help: false }
    }

    /// Prints it where it belongs; answers with the exit status.
    pub fn print(&self) -> u8 {
        use std::io::Write;
        // Where nobody listens there is nobody to tell.
        if self.help {
            let _ = std::io::stdout().write_all(self.text.as_bytes());
            return 0;
        }
        let _ = std::io::stderr().write_all(self.text.as_bytes());
        2
    }
}

/// Text in lines of at most 80 columns, where its words are short enough.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 80;
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.lines().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let mut column = 0;
        for word in line.split(' ') {
            let width = word.chars().count();
            if column > 0 && column + 1 + width > WIDTH {
                out.push('\n');
                column = 0;
            } else if column > 0 {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += width;
        }
    }
    out
}

impl From<clap::Error> for UsageError {
    fn from(error: clap::Error) -> Self {
        let text = error.render().to_string();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Self { text, help: true },
            _ => {
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                // The usage that clap appends is longer than what was wrong.
                let text = text.split("\n\nUsage:").next().unwrap_or(text);
                Self::new(text.trim_end())
            }
        }
    }
}
