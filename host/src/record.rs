//! Recordings: every event that the engine was told, and what it answered, as text.
//!
//! What an engine answers depends on the calls before it and on nothing else, so a
//! recording is a whole session, and can be replayed on any engine: `just replay`.
//! It holds what was sent, in the clear.
//!
//! ```text
//! sshnet recording 1
//! prefix 2f6e6574
//! service 80 68747470
//! limits clients=12000 backlog=128 ...
//! clone 1 tcp
//! > complete 1 client 0.0
//! .
//! ```
//!
//! Behind the configuration each call has a line, with its arguments in the order of
//! wit/engine.wit; behind `>` is each effect of it; a `.` ends them. A call without
//! it is the last: the program was killed, or the engine trapped. Texts and bytes are
//! in hexadecimal, none are `-`; clients are `number.incarnation`. Questions are not
//! there, but for `retain`: they change nothing.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::engine::{ClientId, Config, Effect, Error, Protocol, Reply};
use crate::notice::notice;

/// A recording under way.
pub struct Recording {
    /// None once it could not be written on.
    file: Option<File>,
}

impl Recording {
    /// Begins one in a new file, of a session with this configuration. What is there
    /// already is not touched, nor is what a link leads to: O_EXCL follows none.
    pub fn create(path: &Path, config: &Config) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        if let Err(error) = file.write_all(head(config).as_bytes()) {
            // Or it would be in the way of the next.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(Self { file: Some(file) })
    }

    /// Takes down a call of this method: before it is made, for it may trap.
    pub(crate) fn call(&mut self, method: &str, arguments: &[&dyn Word]) {
        let mut line = method.trim_start_matches("call_").replace('_', "-");
        for argument in arguments {
            line.push(' ');
            line.push_str(&argument.word());
        }
        line.push('\n');
        self.put(&line);
    }

    /// Takes down what the call answered.
    pub(crate) fn answer(&mut self, answer: &impl Answer) {
        let mut lines = answer.lines();
        lines.push_str(".\n");
        self.put(&lines);
    }

    /// One write for each call and each answer, so that a program which is killed
    /// leaves what it has done. Who serves goes on without a recording.
    fn put(&mut self, text: &str) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(text.as_bytes()) {
            self.file = None;
            notice(format_args!("the recording ends here, and the service goes on: {error}"));
        }
    }
}

fn head(config: &Config) -> String {
    let mut head = format!("sshnet recording 1\nprefix {}\n", hex(config.prefix.as_bytes()));
    for service in &config.services {
        let _ = writeln!(head, "service {} {}", service.port, hex(service.name.as_bytes()));
    }
    macro_rules! limits {
        ($($field:ident)*) => { concat!("limits", $(" ", stringify!($field), "={}",)* "\n") };
    }
    macro_rules! put {
        ($($field:ident)*) => {
            let _ = write!(head, limits!($($field)*), $(config.limits.$field),*);
        };
    }
    put!(clients backlog calls requests line name queued unacknowledged windows window
        window_max packet room control dial_time dial_wait keepalive);
    head
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// An argument of a call.
pub(crate) trait Word {
    fn word(&self) -> String;
}

impl Word for u32 {
    fn word(&self) -> String {
        self.to_string()
    }
}

impl Word for u64 {
    fn word(&self) -> String {
        self.to_string()
    }
}

impl Word for &str {
    fn word(&self) -> String {
        hex(self.as_bytes())
    }
}

impl Word for &[u8] {
    fn word(&self) -> String {
        hex(self)
    }
}

impl Word for ClientId {
    fn word(&self) -> String {
        format!("{}.{}", self.number, self.incarnation)
    }
}

impl Word for Protocol {
    fn word(&self) -> String {
        match self {
            Self::Tcp => "tcp".into(),
            Self::Unix => "unix".into(),
        }
    }
}

/// What a call answers that can change something.
pub(crate) trait Answer {
    fn lines(&self) -> String;
}

impl Answer for Vec<Effect> {
    fn lines(&self) -> String {
        self.iter().fold(String::new(), |lines, effect| lines + "> " + &told(effect) + "\n")
    }
}

impl Answer for Result<(), Error> {
    fn lines(&self) -> String {
        match self {
            Ok(()) => "> done\n".into(),
            Err(error) => format!("> {}\n", failed(error)),
        }
    }
}

fn told(effect: &Effect) -> String {
    match effect {
        Effect::Send(message) => format!("send {}", hex(message)),
        Effect::Wake(at) => format!("wake {at}"),
        Effect::Warn(what) => format!("warn {}", hex(what.as_bytes())),
        Effect::Fail(why) => format!("fail {}", hex(why.as_bytes())),
        Effect::Complete(completion) => {
            let outcome = match &completion.outcome {
                Ok(Reply::Done) => "done".into(),
                Ok(Reply::Client(client)) => format!("client {}", client.word()),
                Ok(Reply::Data(bytes)) => format!("data {}", hex(bytes)),
                Ok(Reply::Count(count)) => format!("count {count}"),
                Err(error) => failed(error),
            };
            format!("complete {} {outcome}", completion.request)
        }
    }
}

fn failed(error: &Error) -> String {
    // As it is in wit/types.wit, but with capitals.
    let code = format!("{:?}", error.code);
    let code = code.rsplit("::").next().unwrap_or_default();
    format!("error {code} {}", hex(error.message.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Core;

    #[test]
    fn a_recording_that_cannot_be_written_on_ends_and_the_engine_goes_on() {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let core = Core::embedded().expect("the component fits");
        let limits = core.default_limits().expect("it has some");
        let config = Config { prefix: "/net".into(), services: Vec::new(), limits };
        let sandbox = crate::engine::Sandbox::for_limits(&limits);
        let mut engine = core.session(&config, sandbox).expect("a session");
        engine.record(Recording { file: Some(full) });
        for request in 1..4 {
            let effects = engine.clone_client(request, Protocol::Tcp).expect("it answers");
            assert_eq!(effects.len(), 1);
        }
    }

    /// Nor tries to write again, and warn again, at each call.
    #[test]
    fn a_recording_that_cannot_be_written_on_has_ended() {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let mut recording = Recording { file: Some(full) };
        recording.call("clone", &[&1_u64]);
        assert!(recording.file.is_none());
        recording.call("clone", &[&2_u64]);
    }
}
