//! The part of the command line that says what becomes of a connection that ends.

use std::time::Duration;

use clap::Args;

/// The longest wait before a connection is made again, where nobody says.
const LONGEST: Duration = Duration::from_secs(60);
/// The shortest keepalive: ssh counts in seconds, and asks three times.
const KEEPALIVE: u64 = 4;
/// The most of any of them: a day.
const DAY: u64 = 24 * 60 * 60;

/// Options for a connection that ends.
#[derive(Args, Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lasting {
    /// When the connection has ended, make it again: 'yes', with waits that grow to
    /// a minute, SECONDS for waits of no more than that, or 'no': end. Nobody is
    /// asked for a password then.
    // A type of its own keeps clap from taking the option's absence for `None`.
    #[arg(long, value_name = "yes|no|SECONDS", value_parser = again, require_equals = true,
          num_args = 0..=1, default_value = "yes", default_missing_value = "yes")]
    reconnect: Again,

    /// How long a dial waits while there is no connection; with 0 it fails at once.
    #[arg(long, value_name = "SECONDS", value_parser = dial_wait, default_value = "30")]
    dial_wait: Duration,

    /// When the far side has given no sign of life for so long, the connection has
    /// ended; with 0 it never has.
    #[arg(long, value_name = "SECONDS", value_parser = keepalive, default_value = "60")]
    keepalive: Duration,
}

/// Whether a connection is made again, and how long the waits may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Again(Option<Duration>);

impl Default for Lasting {
    fn default() -> Self {
        Self {
            reconnect: Again(Some(LONGEST)),
            dial_wait: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
        }
    }
}

impl Lasting {
    /// The longest wait before the connection is made again; `None`: it is not.
    pub fn reconnect(&self) -> Option<Duration> {
        self.reconnect.0
    }

    /// How long a dial waits for a connection.
    pub fn dial_wait(&self) -> Duration {
        // None will come up.
        self.reconnect.0.map_or(Duration::ZERO, |_| self.dial_wait)
    }

    /// How long the far side may say nothing; 0 is for ever.
    pub fn keepalive(&self) -> Duration {
        self.keepalive
    }
}

fn again(text: &str) -> Result<Again, String> {
    Ok(Again(match text {
        "yes" => Some(LONGEST),
        "no" => None,
        _ => match seconds(text)? {
            0 => return Err("the longest wait must be 1 at least; or say 'no'".to_owned()),
            seconds => Some(Duration::from_secs(seconds)),
        },
    }))
}

fn dial_wait(text: &str) -> Result<Duration, String> {
    seconds(text).map(Duration::from_secs)
}

fn keepalive(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        1..KEEPALIVE => Err(format!("it must be 0, or {KEEPALIVE} at least")),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds @ 0..=DAY) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(seconds),
        _ => Err(format!("it must be a number of seconds, {DAY} at most")),
    }
}
