//! What goes to stderr besides the words of ssh: the log, and the form of notices.
//!
//! As text it is for a person at a terminal; as JSON, one object a line, for
//! whatever collects logs.

use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::json::quoted;

/// How lines on stderr look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// An object a line: time, in seconds since 1970; level; message.
    Json,
}

/// The least that is logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Whether notices are JSON, too.
static JSON: AtomicBool = AtomicBool::new(false);

/// Logs to stderr what is asked for: by the level, or else by `RUST_LOG`, or else
/// warnings; and with `messages` every 9P message. The FUSE library's are not for
/// users: it warns of each interruption that comes late, which is nothing.
pub fn start(level: Option<Level>, format: Format, messages: bool) {
    let asked = match level {
        Some(level) => Some(EnvFilter::new(format!("{},fuse3=off", level.name()))),
        None => EnvFilter::try_from_default_env().ok(),
    };
    let mut filter = asked.unwrap_or_else(|| EnvFilter::new("warn,fuse3=off"));
    if messages && let Ok(directive) = "sshnet::ninep=debug".parse() {
        filter = filter.add_directive(directive);
    }
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // It fails where there is one already, and there is none.
    let _ = match format {
        Format::Text => tracing::subscriber::set_global_default(
            subscriber
                .with_ansi(io::stderr().is_terminal())
                .with_target(false)
                .without_time()
                .compact()
                .finish(),
        ),
        Format::Json => {
            JSON.store(true, Ordering::Relaxed);
            tracing::subscriber::set_global_default(subscriber.event_format(Json).finish())
        }
    };
}

/// A notice as a line on stderr.
pub(crate) fn line(level: &str, what: &str) -> String {
    if JSON.load(Ordering::Relaxed) {
        object(SystemTime::now(), level, what)
    } else {
        format!("sshnet-host: {what}")
    }
}

fn object(time: SystemTime, level: &str, message: &str) -> String {
    let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    let message = quoted(message);
    format!("{{\"time\":{seconds}.{millis:03},\"level\":\"{level}\",\"message\":{message}}}")
}

struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        writeln!(writer, "{}", object(SystemTime::now(), &level, &message.0))
    }
}

/// An event's message, and what it carries behind it.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        // Writing to memory cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_is_one_whatever_is_said() {
        let time = UNIX_EPOCH + std::time::Duration::from_millis(1_234_005);
        let line = object(time, "warn", "two\nlines, \"quoted\" \u{1b}[2J");
        assert_eq!(
            line,
            "{\"time\":1234.005,\"level\":\"warn\",\
             \"message\":\"two\\u000alines, \\\"quoted\\\" \\u001b[2J\"}"
        );
    }
}
