//! The shortest host of the engine: dials one far service, and puts the conversation
//! on its stdin and stdout.
//!
//!     sshnet-example CORE.wasm HOST!PORT COMMAND...
//!
//! The command's stdin and stdout are the pipe to the far side: PuTTY's bare
//! ssh-connection, as `psusan` and `ssh HOST psusan` speak it.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use wasmtime::component::{Component, Linker, ResourceAny};
use wasmtime::{Engine, Store};

#[allow(missing_docs, unreachable_pub, reason = "generated from the WIT package")]
mod core {
    wasmtime::component::bindgen!({ path: "../../wit", world: "core" });
}

use self::core::Core;
use self::core::exports::sshnet::core::types::{ClientId, Config, Effect, Protocol, Reply};

type Failure = Box<dyn Error>;

/// Bytes of a frame: what OpenSSH takes for a packet.
const LONGEST: usize = 256 << 10;

// Names of requests: there is one of each at a time.
const CLONE: u64 = 0;
const DIAL: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 3;
const END: u64 = 4;

/// What the other threads tell.
enum Event {
    /// A message came on the pipe.
    Message(Vec<u8>),
    /// There is no more of them, and why.
    PipeEnd(io::Error),
    /// Bytes came on stdin; none are its end. The next come when these are sent.
    Input(Vec<u8>),
}

/// The engine, the pipe, and what is still to be done.
struct Host {
    store: Store<()>,
    core: Core,
    session: ResourceAny,
    pipe: ChildStdin,
    started: Instant,
    wake: Option<u64>,
    completed: VecDeque<(u64, Reply)>,
}

impl Host {
    /// Makes a call of the engine's, and performs what it answers.
    fn call(
        &mut self,
        call: impl FnOnce(&Core, &mut Store<()>, ResourceAny) -> wasmtime::Result<Vec<Effect>>,
    ) -> Result<(), Failure> {
        let mut effects = call(&self.core, &mut self.store, self.session)?;
        loop {
            let taken = self.perform(effects)?;
            if taken == 0 {
                return Ok(());
            }
            let session = self.core.sshnet_core_engine().session();
            effects = session.call_pipe_took(&mut self.store, self.session, taken)?;
        }
    }

    /// Performs effects; answers how many bytes of messages the pipe took.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<u64, Failure> {
        let mut taken = 0;
        for effect in effects {
            match effect {
                Effect::Send(message) => {
                    self.pipe.write_all(&(message.len() as u32).to_be_bytes())?;
                    self.pipe.write_all(&message)?;
                    taken += message.len() as u64;
                }
                Effect::Complete(completion) => {
                    let reply = completion.outcome.map_err(|error| error.message)?;
                    self.completed.push_back((completion.request, reply));
                }
                Effect::Wake(at) => self.wake = Some(at),
                Effect::Warn(what) => eprintln!("{what}"),
                Effect::Fail(why) => return Err(why.into()),
            }
        }
        self.pipe.flush()?;
        Ok(taken)
    }

    /// The next event; until then time passes.
    fn next(&mut self, events: &Receiver<Event>) -> Result<Event, Failure> {
        loop {
            let now = self.started.elapsed().as_micros() as u64;
            if self.wake.is_some_and(|at| at <= now) {
                self.wake = None;
            }
            self.call(|core, store, s| {
                core.sshnet_core_engine().session().call_advance(store, s, now)
            })?;
            let wait = self.wake.map_or(u64::MAX >> 20, |at| at.saturating_sub(now));
            if let Ok(event) = events.recv_timeout(std::time::Duration::from_micros(wait)) {
                return Ok(event);
            }
        }
    }

    fn control(&mut self, request: u64, id: ClientId, text: &str) -> Result<(), Failure> {
        self.call(|core, store, s| {
            let session = core.sshnet_core_engine().session();
            session.call_control(store, s, request, id, text.as_bytes())
        })
    }

    fn read(&mut self, id: ClientId) -> Result<(), Failure> {
        self.call(|core, store, s| {
            core.sshnet_core_engine().session().call_read(store, s, READ, id, 65_536)
        })
    }
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, address, program, arguments @ ..] = &words[..] else {
        return Err("usage: sshnet-example CORE.wasm HOST!PORT COMMAND...".into());
    };

    // The pipe.
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = child.stdin.take().ok_or("no pipe")?;
    let mut from = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let greeting = "SSHCONNECTION@putty.projects.tartarus.org-2.0-";
    write!(pipe, "{greeting}sshnet_example\r\n")?;
    pipe.flush()?;
    let mut line = String::new();
    from.read_line(&mut line)?;
    if !line.starts_with(greeting) {
        return Err(format!("that is no bare ssh-connection: {line:?}").into());
    }

    // The component. It has no imports, so there is nothing to give it.
    let engine = Engine::default();
    let component = Component::from_file(&engine, file)?;
    let mut store = Store::new(&engine, ());
    let core = Core::instantiate(&mut store, &component, &Linker::new(&engine))?;
    let limits = core.sshnet_core_engine().call_default_limits(&mut store)?;
    let config = Config { prefix: "/net".into(), services: Vec::new(), limits };
    let session = core.sshnet_core_engine().session().call_constructor(&mut store, &config)?;
    let (started, completed) = (Instant::now(), VecDeque::new());
    let mut host = Host { store, core, session, pipe, started, wake: None, completed };

    let (sender, events) = channel();
    let (go, may) = channel();
    let input = sender.clone();
    thread::spawn(move || listen(&mut from, &sender));
    thread::spawn(move || type_in(&input, &may));

    host.call(|core, store, s| core.sshnet_core_engine().session().call_pipe_up(store, s))?;
    host.call(|core, store, s| {
        core.sshnet_core_engine().session().call_clone(store, s, CLONE, Protocol::Tcp)
    })?;
    let Some((_, Reply::Client(id))) = host.completed.pop_front() else {
        return Err("no client".into());
    };
    host.control(DIAL, id, &format!("connect {address}"))?;
    loop {
        match host.next(&events)? {
            Event::Message(message) => host.call(|core, store, s| {
                core.sshnet_core_engine().session().call_receive(store, s, &message)
            })?,
            Event::PipeEnd(why) => return Err(format!("the pipe ended: {why}").into()),
            Event::Input(bytes) if bytes.is_empty() => host.control(END, id, "closewrite")?,
            Event::Input(bytes) => host.call(|core, store, s| {
                core.sshnet_core_engine().session().call_write(store, s, WRITE, id, &bytes)
            })?,
        }
        while let Some(done) = host.completed.pop_front() {
            match done {
                (_, Reply::Data(bytes)) if bytes.is_empty() => return Ok(()),
                (_, Reply::Data(bytes)) => {
                    io::stdout().write_all(&bytes)?;
                    io::stdout().flush()?;
                    host.read(id)?;
                }
                // It has connected: from here on bytes go both ways.
                (DIAL, _) => {
                    host.read(id)?;
                    go.send(())?;
                }
                (WRITE, _) => go.send(())?,
                _ => {}
            }
        }
    }
}

/// Tells of each message on the pipe, for as long as there are any.
fn listen(from: &mut impl Read, sender: &Sender<Event>) {
    let mut next = || -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(io::Error::other(format!("a frame of {length} bytes")));
        }
        let mut message = vec![0; length];
        from.read_exact(&mut message)?;
        Ok(message)
    };
    let why = loop {
        match next() {
            Ok(message) => {
                if sender.send(Event::Message(message)).is_err() {
                    return;
                }
            }
            Err(error) => break error,
        }
    };
    drop(sender.send(Event::PipeEnd(why)));
}

/// Tells of what is typed, a piece whenever there may be one.
fn type_in(sender: &Sender<Event>, may: &Receiver<()>) {
    let mut buffer = vec![0; 32_768];
    while may.recv().is_ok() {
        let count = io::stdin().read(&mut buffer).unwrap_or(0);
        let sent = sender.send(Event::Input(buffer[..count].to_vec()));
        if count == 0 || sent.is_err() {
            return;
        }
    }
}
