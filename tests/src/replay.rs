//! Recordings of `sshnet-host --record`, replayed.
//!
//! `host/src/record.rs` says how they are written. What they are compared with is put
//! down here anew, from the engine's own types.

use std::fmt::Write as _;

use sshnet_core::{Config, Effect, Error, Reply, Service};

use crate::sim::oracle::call::{hex, parse_limits, unhex};
use crate::sim::oracle::{Answer, Call, Machine};

/// A recording.
#[derive(Debug)]
pub struct Recording {
    /// How the session was made.
    pub config: Config,
    /// Its calls, and what each answered.
    pub calls: Vec<(Call, String)>,
    /// The call under way when the program was killed, or the engine trapped.
    pub cut: Option<Call>,
}

impl Recording {
    /// Reads one, as far as it goes.
    pub fn parse(text: &str) -> Result<Self, String> {
        // What has no newline was not written to its end.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines().enumerate().peekable();
        let mut no_more = || "it ends before its first call".to_owned();
        let head = lines.next().map(|(_, line)| line);
        if head != Some("sshnet recording 1") {
            return Err("it is no recording of sshnet-host, or of another version".into());
        }
        let (mut prefix, mut services) = (String::new(), Vec::new());
        let limits = loop {
            let (at, line) = lines.next().ok_or_else(&mut no_more)?;
            let words: Vec<&str> = line.split(' ').collect();
            let text = |word: &str| unhex(word).and_then(|bytes| String::from_utf8(bytes).ok());
            let read = match words[..] {
                ["prefix", word] => text(word).map(|word| prefix = word),
                ["service", port, name] => port
                    .parse()
                    .ok()
                    .zip(text(name))
                    .map(|(port, name)| services.push(Service { name, port })),
                _ => match parse_limits(line) {
                    Some(limits) => break limits,
                    None => None,
                },
            };
            read.ok_or_else(|| format!("line {}: what is {line:.60}?", at + 1))?;
        };
        let mut recording =
            Self { config: Config { prefix, services, limits }, calls: Vec::new(), cut: None };
        while let Some((at, line)) = lines.next() {
            let call = Call::parse(line);
            let call = call.ok_or_else(|| format!("line {}: what is {line:.60}?", at + 1))?;
            let mut answer = String::new();
            while let Some((_, effect)) = lines.next_if(|(_, line)| line.starts_with("> ")) {
                answer.push_str(effect);
                answer.push('\n');
            }
            if lines.next_if(|(_, line)| *line == ".").is_some() {
                recording.calls.push((call, answer));
            } else if lines.peek().is_none() {
                recording.cut = Some(call);
            } else {
                return Err(format!("line {}: its answer does not end", at + 1));
            }
        }
        Ok(recording)
    }

    /// Makes the calls; the error is the first that answers otherwise. That which has
    /// no answer is made, too: it may be the one that traps.
    pub fn replay(&self, machine: &mut dyn Machine) -> Result<(), String> {
        for (at, (call, then)) in self.calls.iter().enumerate() {
            let now = lines(&machine.perform(call));
            if now != *then {
                return Err(format!(
                    "call {}: {:.160}\nanswered then\n{then}and now\n{now}",
                    at + 1,
                    call.to_string()
                ));
            }
        }
        if let Some(call) = &self.cut {
            machine.perform(call);
        }
        Ok(())
    }
}

/// An answer as a recording has it.
fn lines(answer: &Answer) -> String {
    match answer {
        Answer::Retained(Ok(())) => "> done\n".into(),
        Answer::Retained(Err(error)) => format!("> {}\n", failed(error)),
        answer => answer.effects().iter().fold(String::new(), |mut lines, effect| {
            let _ = match effect {
                Effect::Send(message) => writeln!(lines, "> send {}", hex(message)),
                Effect::Wake(at) => writeln!(lines, "> wake {at}"),
                Effect::Warn(what) => writeln!(lines, "> warn {}", hex(what.as_bytes())),
                Effect::Fail(why) => writeln!(lines, "> fail {}", hex(why.as_bytes())),
                Effect::Complete(done) => {
                    let outcome = match &done.outcome {
                        Ok(Reply::Done) => "done".into(),
                        Ok(Reply::Client(id)) => format!("client {}.{}", id.number, id.incarnation),
                        Ok(Reply::Data(bytes)) => format!("data {}", hex(bytes)),
                        Ok(Reply::Count(count)) => format!("count {count}"),
                        Err(error) => failed(error),
                    };
                    writeln!(lines, "> complete {} {outcome}", done.request)
                }
            };
            lines
        }),
    }
}

fn failed(error: &Error) -> String {
    format!("error {:?} {}", error.code, hex(error.message.as_bytes()))
}
