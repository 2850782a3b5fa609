//! What is measured, side by side: each subject with a connection of its own to
//! one sshd, up all the time, so that they can take turns.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::mux::Mux;
use crate::ninep::{Conversation, Nine};
use crate::process::Process;
use crate::service::{PIECE, Service, Work, piece};
use crate::ssh::{Forward, Way};

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Subject {
    /// A TCP connection through `ssh -L`.
    Forward,
    /// `ssh -W`, with pipes.
    Stdio,
    /// A bare reader and writer of an ssh master's socket.
    Bare,
    /// `sshnet-host dial`, with pipes.
    Dial,
    /// dd on the mount of `sshnet-host`.
    Fuse,
    /// A 9P client of `sshnet-host`.
    NineP,
    /// The same, of one with two ssh connections.
    Spread,
}

impl Subject {
    /// All of them, in the order of their turns.
    pub(crate) const ALL: [Self; 7] =
        [Self::Forward, Self::Stdio, Self::Bare, Self::Dial, Self::Fuse, Self::NineP, Self::Spread];

    /// As tables and files name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Forward => "ssh -L",
            Self::Stdio => "ssh -W",
            Self::Bare => "bare proxy socket",
            Self::Dial => "sshnet dial",
            Self::Fuse => "sshnet FUSE",
            Self::NineP => "sshnet 9P",
            Self::Spread => "sshnet 9P, 2 ssh",
        }
    }

    fn is_sshnet(self) -> bool {
        matches!(self, Self::Dial | Self::Fuse | Self::NineP)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The subjects' connections. What no subject needs is not there.
pub(crate) struct Rig {
    services: Arc<Vec<Service>>,
    way: Way,
    forward: Option<Forward>,
    mux: Option<Arc<Mutex<Mux>>>,
    host: Option<Host>,
    /// The one with two ssh connections.
    spread: Option<Host>,
}

/// Bulk streams that run until they are told to stop.
#[derive(Default)]
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    tcp: Vec<TcpStream>,
    unix: Vec<UnixStream>,
    processes: Vec<Process>,
    threads: Vec<JoinHandle<()>>,
    mux: Option<JoinHandle<Result<()>>>,
    /// What keeps conversations open.
    files: Vec<File>,
}

impl Flow {
    /// Fails if one of its processes has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// Breaks off everything.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        // Each of them may have ended already.
        self.tcp.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        self.unix.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        self.processes.iter_mut().for_each(Process::kill);
        for thread in self.threads {
            if thread.join().is_err() {
                bail!("a stream's thread panicked");
            }
        }
        match self.mux.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(ended)) => ended.context("the bare reader"),
            Some(Err(_)) => bail!("the bare reader panicked"),
        }
    }

    /// Moves bytes between memory and these ends, as far as the work needs it.
    fn copy<R, W>(&mut self, work: Work, from: R, to: W)
    where
        R: Read + Send + 'static,
        W: Write + Send + 'static,
    {
        if matches!(work, Work::Source | Work::Duplex) {
            self.threads.push(thread::spawn(move || drain(from)));
        }
        if matches!(work, Work::Sink | Work::Duplex) {
            self.threads.push(thread::spawn(move || fill(to)));
        }
    }

    fn child(&mut self, work: Work, command: &mut Command) -> Result<()> {
        if work == Work::Source {
            command.stdin(Stdio::null());
        }
        let mut process = Process::start(command)?;
        let stdin = process.child.stdin.take();
        let stdout = process.child.stdout.take().context("it is piped")?;
        match stdin {
            Some(stdin) => self.copy(work, stdout, stdin),
            None => self.copy(work, stdout, std::io::sink()),
        }
        self.processes.push(process);
        Ok(())
    }
}

fn drain(mut from: impl Read) {
    let mut buffer = vec![0; PIECE];
    while from.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

fn fill(mut to: impl Write) {
    let bytes = piece();
    while to.write_all(&bytes).is_ok() {}
}

/// Before each dial the end of the last one is let go by: sshd's words on that hold
/// up those that it says next, for 40 ms, until they are acknowledged (RFC 896).
const PAUSE: Duration = Duration::from_millis(3);

/// Sends bytes and waits until as many have come back.
pub(crate) type Pinger = Box<dyn FnMut(&[u8]) -> Result<()>>;

impl Rig {
    /// Connects these subjects; without `all`, those alone that are measured on a
    /// path with delay.
    pub(crate) fn start(
        way: Way,
        services: Arc<Vec<Service>>,
        subjects: &[Subject],
        all: bool,
    ) -> Result<Self> {
        let has = |subject| subjects.contains(&subject);
        let forward = match has(Subject::Forward) {
            true => Some(Forward::start(&way, services.iter().map(|service| service.port))?),
            false => None,
        };
        let mux = match has(Subject::Bare) {
            true => Some(Arc::new(Mutex::new(Mux::start(&way)?))),
            false => None,
        };
        let host = match subjects.iter().any(|subject| subject.is_sshnet()) {
            true => Some(Host::start(way.words(), all && has(Subject::Fuse), 1)?),
            false => None,
        };
        let spread = match all && has(Subject::Spread) {
            true => Some(Host::start(way.words(), false, 2)?),
            false => None,
        };
        Ok(Self { services, way, forward, mux, host, spread })
    }

    /// The service that does this.
    pub(crate) fn service(&self, work: Work) -> Result<&Service> {
        self.services.iter().find(|service| service.work == work).context("there is each of them")
    }

    fn forward(&self) -> Result<&Forward> {
        self.forward.as_ref().context("ssh -L was not started")
    }

    fn mux(&self) -> Result<Arc<Mutex<Mux>>> {
        self.mux.clone().context("the bare proxy was not started")
    }

    /// The program under test.
    pub(crate) fn host(&self) -> Result<&Host> {
        self.host.as_ref().context("sshnet-host was not started")
    }

    fn nine(&self) -> Result<Nine> {
        Nine::connect(&self.host()?.socket())
    }

    /// Starts so many bulk streams with a service.
    pub(crate) fn flow(&self, subject: Subject, work: Work, streams: usize) -> Result<Flow> {
        let port = self.service(work)?.port;
        let mut flow = Flow::default();
        if subject == Subject::Bare {
            flow.mux = Some(self.bare(work, streams, &flow.stop)?);
            return Ok(flow);
        }
        for _ in 0..streams {
            match subject {
                Subject::Forward => {
                    let stream = self.forward()?.connect(port)?;
                    flow.copy(work, stream.try_clone()?, stream.try_clone()?);
                    flow.tcp.push(stream);
                }
                Subject::Stdio => flow.child(work, &mut self.way.stdio(port))?,
                Subject::Dial => flow.child(work, &mut self.host()?.dial(port)?)?,
                Subject::Fuse => self.dd(&mut flow, work, port)?,
                Subject::NineP => raw(self.host()?, &mut flow, work, port)?,
                Subject::Spread => {
                    let host = self.spread.as_ref().context("it was not started")?;
                    raw(host, &mut flow, work, port)?;
                }
                Subject::Bare => {}
            }
        }
        Ok(flow)
    }

    fn bare(
        &self,
        work: Work,
        streams: usize,
        stop: &Arc<AtomicBool>,
    ) -> Result<JoinHandle<Result<()>>> {
        let mux = self.mux()?;
        let port = self.service(work)?.port;
        let stop = Arc::clone(stop);
        Ok(thread::spawn(move || {
            let mut mux = mux.lock().unwrap_or_else(PoisonError::into_inner);
            let mut channels = (0..streams).map(|_| mux.open(port)).collect::<Result<Vec<_>>>()?;
            let up = matches!(work, Work::Sink | Work::Duplex);
            let ended = mux.run(&mut channels, up, &stop);
            mux.close(&channels)?;
            ended
        }))
    }

    fn dd(&self, flow: &mut Flow, work: Work, port: u16) -> Result<()> {
        let (ctl, data) = self.host()?.dial_by_mount(port)?;
        flow.files.push(ctl);
        let mut start = |from: String, to: String| {
            let mut dd = Command::new("dd");
            dd.arg("bs=128k").arg(from).arg(to);
            dd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            flow.processes.push(Process::start(&mut dd)?);
            anyhow::Ok(())
        };
        let data = data.display();
        if matches!(work, Work::Source | Work::Duplex) {
            start(format!("if={data}"), "of=/dev/null".to_owned())?;
        }
        if matches!(work, Work::Sink | Work::Duplex) {
            start("if=/dev/zero".to_owned(), format!("of={data}"))?;
        }
        Ok(())
    }

    /// A conversation with the echo service.
    pub(crate) fn pinger(&self, subject: Subject) -> Result<Pinger> {
        let port = self.service(Work::Echo)?.port;
        Ok(match subject {
            Subject::Forward => {
                let stream = self.forward()?.connect(port)?;
                ends(stream.try_clone()?, stream)
            }
            Subject::Stdio | Subject::Dial => {
                let mut command = match subject {
                    Subject::Stdio => self.way.stdio(port),
                    _ => self.host()?.dial(port)?,
                };
                let mut process = Process::start(&mut command)?;
                let to = process.child.stdin.take().context("it is piped")?;
                let from = process.child.stdout.take().context("it is piped")?;
                let mut ping = ends(from, to);
                Box::new(move |bytes| {
                    process.check()?;
                    ping(bytes)
                })
            }
            Subject::Bare => {
                let mux = self.mux()?;
                let open = mux.lock().unwrap_or_else(PoisonError::into_inner).open(port)?;
                let channel = BareChannel { mux, open: vec![open] };
                Box::new(move |bytes| channel.ping(bytes))
            }
            Subject::Fuse => {
                let (ctl, data) = self.host()?.dial_by_mount(port)?;
                let from = File::options().read(true).write(true).open(data)?;
                let mut ping = ends(from.try_clone()?, from);
                Box::new(move |bytes| {
                    let _kept = &ctl;
                    ping(bytes)
                })
            }
            Subject::Spread => bail!("a stream is on one ssh connection"),
            Subject::NineP => {
                let mut nine = self.nine()?;
                let conversation = dial(&mut nine, port)?;
                Box::new(move |bytes| nine.exchange(conversation.data, bytes, bytes.len()))
            }
        })
    }

    /// Makes new conversations and waits for the first byte of each; answers with
    /// how long each took, in seconds. The far side speaks first (`Greet`), or
    /// once it was spoken to (`Echo`).
    pub(crate) fn dials(&self, subject: Subject, work: Work, count: usize) -> Result<Vec<f64>> {
        let port = self.service(work)?.port;
        let word: &[u8] = if work == Work::Echo { b"?" } else { b"" };
        let mut nine = match subject {
            Subject::NineP => Some(self.nine()?),
            _ => None,
        };
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            thread::sleep(PAUSE);
            let mut first = [0];
            let started = Instant::now();
            let mut spent = || times.push(started.elapsed().as_secs_f64());
            match subject {
                Subject::Forward => {
                    let mut stream = self.forward()?.connect(port)?;
                    stream.write_all(word)?;
                    stream.read_exact(&mut first)?;
                    spent();
                }
                Subject::Stdio | Subject::Dial => {
                    let mut command = match subject {
                        Subject::Stdio => self.way.stdio(port),
                        _ => self.host()?.dial(port)?,
                    };
                    let mut process = Process::start(&mut command)?;
                    let mut to = process.child.stdin.take().context("it is piped")?;
                    let mut from = process.child.stdout.take().context("it is piped")?;
                    to.write_all(word)?;
                    from.read_exact(&mut first)?;
                    spent();
                }
                Subject::Bare => {
                    let mux = self.mux()?;
                    let mut mux = mux.lock().unwrap_or_else(PoisonError::into_inner);
                    let channel = mux.open(port)?;
                    mux.write(&channel, word)?;
                    mux.until_bytes(first.len())?;
                    spent();
                    mux.close(&[channel])?;
                }
                Subject::Fuse => {
                    let (ctl, data) = self.host()?.dial_by_mount(port)?;
                    let mut data = File::options().read(true).write(true).open(data)?;
                    data.write_all(word)?;
                    data.read_exact(&mut first)?;
                    spent();
                    drop(ctl);
                }
                Subject::Spread => bail!("a conversation is on one ssh connection"),
                Subject::NineP => {
                    let nine = nine.as_mut().context("connected above")?;
                    let conversation = nine.greet(port, word)?;
                    spent();
                    nine.hang_up(&[conversation])?;
                }
            }
        }
        Ok(times)
    }

    /// Fails if the program under test has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.host.as_mut().map_or(Ok(()), Host::check)
    }
}

fn dial(nine: &mut Nine, port: u16) -> Result<Conversation> {
    nine.dial(port, 1)?.pop().context("one was asked for")
}

/// A bulk stream by 9P.
fn raw(host: &Host, flow: &mut Flow, work: Work, port: u16) -> Result<()> {
    let mut nine = Nine::connect(&host.socket())?;
    let conversation = dial(&mut nine, port)?;
    flow.unix.push(nine.socket()?);
    if work == Work::Duplex {
        // A connection for each direction: one that reads does not write.
        let mut writer = Nine::connect(&host.socket())?;
        flow.unix.push(writer.socket()?);
        let data = writer.join(&conversation)?;
        flow.threads.push(thread::spawn(move || drop(writer.upload(data))));
    }
    let data = conversation.data;
    flow.threads.push(thread::spawn(move || {
        // It ends when the socket is shut down.
        let _ = if work == Work::Sink { nine.upload(data) } else { nine.download(data) };
    }));
    Ok(())
}

fn ends<R, W>(mut from: R, mut to: W) -> Pinger
where
    R: Read + 'static,
    W: Write + 'static,
{
    let mut buffer = vec![0; 4096];
    Box::new(move |bytes| {
        to.write_all(bytes)?;
        from.read_exact(buffer.get_mut(..bytes.len()).context("a small ping")?)?;
        Ok(())
    })
}

/// A channel that is closed when it is dropped.
struct BareChannel {
    mux: Arc<Mutex<Mux>>,
    open: Vec<crate::mux::Channel>,
}

impl BareChannel {
    fn ping(&self, bytes: &[u8]) -> Result<()> {
        let mut mux = self.mux.lock().unwrap_or_else(PoisonError::into_inner);
        self.open.iter().try_for_each(|channel| mux.ping(channel, bytes))
    }
}

impl Drop for BareChannel {
    fn drop(&mut self) {
        let mut mux = self.mux.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = mux.close(&self.open) {
            eprintln!("bare proxy: {error}");
        }
    }
}
