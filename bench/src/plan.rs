//! What is measured, in which order, and how each is done.
//!
//! Within a measurement the subjects take turns, one run each, over and over: a
//! machine that is slow for a while is slow for all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sshnet_host::engine::Core;
use sshnet_tests::sshd::Sshd;
use sshnet_tests::world::children_of;

use crate::engine::Running;
use crate::host::Host;
use crate::idle;
use crate::mux::Mux;
use crate::process::spent;
use crate::relay::Relay;
use crate::results::{Measurement, Series, median, percentile};
use crate::rig::{Rig, Subject};
use crate::service::{Service, Work};
use crate::ssh::Way;
use crate::wait::until;

/// Ciphers, by the names that measurements have and ssh has.
const CIPHERS: [(&str, &str); 2] =
    [("chacha20", "chacha20-poly1305@openssh.com"), ("aes128-gcm", "aes128-gcm@openssh.com")];
/// Milliseconds of round trip that are added.
const ROUND_TRIPS: [u64; 3] = [0, 20, 100];
/// What takes part where a connection of its own would mostly measure connecting.
const SHARED: [Subject; 4] = [Subject::Forward, Subject::Bare, Subject::Dial, Subject::NineP];
const PING: [u8; 64] = [b'p'; 64];

/// One measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Task {
    Bulk { cipher: usize, round_trip: u64, work: Work, streams: usize },
    Ping { round_trip: u64 },
    LoadedPing,
    Dial { work: Work },
    Idle { ssh: bool, count: usize },
    Engine { inward: bool },
    Start,
}

/// All of them, those with one rig together.
pub(crate) fn all() -> Vec<Task> {
    let mut tasks = Vec::new();
    let bulk = |cipher, round_trip, work, streams| Task::Bulk { cipher, round_trip, work, streams };
    for (work, streams) in [
        (Work::Source, 1),
        (Work::Sink, 1),
        (Work::Duplex, 1),
        (Work::Source, 2),
        (Work::Source, 4),
        (Work::Source, 8),
        (Work::Sink, 8),
    ] {
        tasks.push(bulk(0, 0, work, streams));
    }
    tasks.extend([Task::Ping { round_trip: 0 }, Task::LoadedPing]);
    tasks.extend([Work::Echo, Work::Greet].map(|work| Task::Dial { work }));
    for (work, streams) in
        [(Work::Source, 1), (Work::Sink, 1), (Work::Duplex, 1), (Work::Source, 8)]
    {
        tasks.push(bulk(1, 0, work, streams));
    }
    for round_trip in ROUND_TRIPS.into_iter().filter(|ms| *ms > 0) {
        tasks.push(bulk(0, round_trip, Work::Source, 1));
        tasks.push(bulk(0, round_trip, Work::Sink, 1));
        tasks.push(Task::Ping { round_trip });
    }
    tasks.extend([Task::Engine { inward: true }, Task::Engine { inward: false }, Task::Start]);
    for ssh in [true, false] {
        tasks.extend([1_000, 10_000].map(|count| Task::Idle { ssh, count }));
    }
    tasks
}

impl Task {
    /// What a filter goes by. Figures of one task begin with this.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Bulk { cipher, round_trip, work, streams } => {
                let way = match work {
                    Work::Source => "down",
                    Work::Sink => "up",
                    _ => "both",
                };
                let streams = if streams > 1 { format!("-{streams}") } else { String::new() };
                match round_trip {
                    0 => format!("{way}{streams}/{}", CIPHERS.get(cipher).map_or("", |c| c.0)),
                    ms => format!("{way}{streams}/rtt{ms}"),
                }
            }
            Self::Ping { round_trip: 0 } => "ping".to_owned(),
            Self::Ping { round_trip } => format!("ping/rtt{round_trip}"),
            Self::LoadedPing => "ping-loaded".to_owned(),
            Self::Dial { work: Work::Greet } => "dial-greeted".to_owned(),
            Self::Dial { .. } => "dial".to_owned(),
            Self::Idle { ssh, count } => {
                format!("idle/{}/{count}", if ssh { "ssh" } else { "loopback" })
            }
            Self::Engine { inward } => format!("engine/{}", if inward { "in" } else { "out" }),
            Self::Start => "start".to_owned(),
        }
    }

    /// The rig that it needs: a cipher and a round trip.
    fn rig(self) -> Option<(usize, u64)> {
        match self {
            Self::Bulk { cipher, round_trip, .. } => Some((cipher, round_trip)),
            Self::Ping { round_trip } => Some((0, round_trip)),
            Self::LoadedPing | Self::Dial { .. } => Some((0, 0)),
            Self::Idle { .. } | Self::Engine { .. } | Self::Start => None,
        }
    }

    fn subjects(self) -> Vec<Subject> {
        let all = |subject: &Subject| match self {
            Self::LoadedPing => matches!(subject, Subject::Forward | Subject::NineP),
            Self::Bulk { round_trip: 1.., .. } | Self::Ping { round_trip: 1.. } => {
                SHARED.contains(subject)
            }
            Self::Bulk { streams: 2, .. } => *subject != Subject::Stdio,
            // Each stream would be a connection of its own.
            Self::Bulk { streams: 3.., .. } => !matches!(subject, Subject::Stdio | Subject::Spread),
            _ => *subject != Subject::Spread,
        };
        Subject::ALL.into_iter().filter(all).collect()
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Turns.
    pub(crate) repetitions: usize,
    /// Of a stream, before it is measured.
    warm: Duration,
    /// Of the measurement of a stream.
    pub(crate) stretch: Duration,
    /// Of a series of pings.
    pub(crate) pings: Duration,
    /// Dials in a turn.
    dials: usize,
    /// Packets through the engine in a turn.
    packets: u32,
}

impl Pace {
    /// For figures to be quoted.
    pub(crate) fn full() -> Self {
        Self {
            repetitions: 5,
            warm: Duration::from_millis(150),
            stretch: Duration::from_millis(400),
            pings: Duration::from_millis(300),
            dials: 100,
            packets: 40_000,
        }
    }

    /// For a first look.
    pub(crate) fn quick() -> Self {
        Self {
            repetitions: 2,
            warm: Duration::from_millis(100),
            stretch: Duration::from_millis(250),
            pings: Duration::from_millis(100),
            dials: 20,
            packets: 10_000,
        }
    }
}

/// What all measurements share.
pub(crate) struct Bench {
    sshd: Sshd,
    services: Arc<Vec<Service>>,
    pace: Pace,
    /// Those of which there is to be a figure.
    subjects: Vec<Subject>,
    rig: Option<((usize, u64), Rig)>,
}

impl Bench {
    /// Starts an sshd.
    pub(crate) fn new(pace: Pace, subjects: Vec<Subject>) -> Result<Self> {
        let services = Work::ALL.into_iter().map(Service::start).collect::<Result<_>>()?;
        let sshd = Sshd::start(&["LogLevel INFO"]);
        Ok(Self { sshd, services: Arc::new(services), pace, subjects, rig: None })
    }

    /// Measures.
    pub(crate) fn run(&mut self, task: Task) -> Result<Vec<Measurement>> {
        let name = task.name();
        if let Some(of) = task.rig() {
            self.make(of)?;
        } else {
            self.rig = None;
        }
        let measured = match task {
            Task::Bulk { .. } => self.bulk(task),
            Task::Ping { .. } | Task::LoadedPing => self.ping(task),
            Task::Dial { work } => self.dial(task, work),
            Task::Idle { ssh, count } => self.idle(ssh, count),
            Task::Engine { inward } => self.engine(inward, name.clone()),
            Task::Start => self.start(name.clone()),
        };
        if let Some((_, rig)) = &mut self.rig {
            rig.check()?;
        }
        measured.with_context(|| name)
    }

    fn way(&self, cipher: usize, port: u16) -> Way {
        Way::new(&self.sshd, CIPHERS.get(cipher).map_or("", |cipher| cipher.1), port)
    }

    fn make(&mut self, of: (usize, u64)) -> Result<()> {
        if self.rig.as_ref().is_some_and(|(is, _)| *is == of) {
            return Ok(());
        }
        self.rig = None;
        let (cipher, round_trip) = of;
        let port = match round_trip {
            0 => self.sshd.port,
            ms => Relay::start(self.sshd.port, Duration::from_millis(ms))?.port,
        };
        let way = self.way(cipher, port);
        let services = Arc::clone(&self.services);
        self.rig = Some((of, Rig::start(way, services, &self.subjects, round_trip == 0)?));
        Ok(())
    }

    fn rig(&self) -> Result<&Rig> {
        self.rig.as_ref().map(|(_, rig)| rig).context("it was made")
    }

    /// Lets the subjects take turns; a turn answers with one figure for each of
    /// the measurements that are made at the same time.
    fn turns<const N: usize>(
        &self,
        task: Task,
        mut turn: impl FnMut(Subject) -> Result<[f64; N]>,
    ) -> Result<[Vec<Series>; N]> {
        let mut subjects = task.subjects();
        subjects.retain(|subject| self.subjects.contains(subject));
        let mut runs: Vec<[Vec<f64>; N]> =
            subjects.iter().map(|_| std::array::from_fn(|_| Vec::new())).collect();
        for _ in 0..self.pace.repetitions {
            for (subject, runs) in subjects.iter().zip(&mut runs) {
                let figures = turn(*subject).with_context(|| subject.name())?;
                for (runs, figure) in runs.iter_mut().zip(figures) {
                    runs.push(figure);
                }
            }
        }
        let mut series: [Vec<Series>; N] = std::array::from_fn(|_| Vec::new());
        for (subject, runs) in subjects.iter().zip(runs) {
            for (series, runs) in series.iter_mut().zip(runs) {
                series.push(Series::new(subject, runs));
            }
        }
        Ok(series)
    }

    fn bulk(&self, task: Task) -> Result<Vec<Measurement>> {
        let Task::Bulk { cipher, round_trip, work, streams } = task else {
            bail!("not a bulk stream");
        };
        let rig = self.rig()?;
        let service = rig.service(work)?;
        // Windows that grow do so in some round trips. What they grew too much is taken
        // back within some more, which is measured with the rest.
        let round_trip = Duration::from_millis(round_trip);
        let trips = if work == Work::Source { 20 } else { 5 };
        let warm = self.pace.warm + 12 * round_trip;
        let stretch = self.pace.stretch + trips * round_trip;
        let mut processor: BTreeMap<String, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
        let [mut series] = self.turns(task, |subject| {
            service.until_open(0)?;
            let before = service.moved();
            let mut flow = rig.flow(subject, work, streams)?;
            service.until_open(streams)?;
            until(Duration::from_secs(20), || service.moved() > before).context("no bytes move")?;
            thread::sleep(warm);
            let spent_before = spent();
            let (started, before) = (Instant::now(), service.moved());
            thread::sleep(stretch);
            // On a machine that is busy with other things, it may take longer.
            until(Duration::from_secs(20), || service.moved() > before)
                .context("no bytes move any more")?;
            let (time, moved) = (started.elapsed(), service.moved() - before);
            let programs = processor.entry(subject.to_string()).or_default();
            for (program, after) in spent() {
                let before = spent_before.get(&program).copied().unwrap_or(0.0);
                programs.entry(program).or_default().push((after - before) * 1e9 / moved as f64);
            }
            flow.check()?;
            flow.stop()?;
            service.until_open(0)?;
            Ok([moved as f64 / time.as_secs_f64() / 1e6])
        })?;
        for series in &mut series {
            let programs = processor.remove(&series.subject).unwrap_or_default();
            let programs = programs.into_iter().map(|(name, runs)| (name, median(&runs)));
            // Some are up all the time and have nothing to do with it.
            series.processor = programs.filter(|(_, spent)| *spent > 0.005).collect();
        }
        let way = match work {
            Work::Source => "down",
            Work::Sink => "up",
            _ => "both ways, sum",
        };
        let (cipher, _) = CIPHERS.get(cipher).context("a cipher")?;
        let streams = match streams {
            1 => "one stream".to_owned(),
            count => format!("{count} streams"),
        };
        let delay = match round_trip.as_millis() {
            0 => String::new(),
            ms => format!(", {ms} ms of round trip added"),
        };
        let title = format!("{streams} {way}, {cipher}{delay}");
        Ok(vec![Measurement { name: task.name(), title, unit: "MB/s", series }])
    }

    fn ping(&self, task: Task) -> Result<Vec<Measurement>> {
        let rig = self.rig()?;
        let loaded = task == Task::LoadedPing;
        let service = rig.service(Work::Duplex)?;
        let (least, delay) = match task {
            Task::Ping { round_trip: ms @ 1.. } => (10, format!(", {ms} ms of round trip added")),
            _ => (100, String::new()),
        };
        let [p50, p99] = self.turns(task, |subject| {
            let mut flow = None;
            if loaded {
                service.until_open(0)?;
                flow = Some(rig.flow(subject, Work::Duplex, 8)?);
                service.until_open(8)?;
                thread::sleep(self.pace.warm);
            }
            let mut ping = rig.pinger(subject)?;
            ping(&PING)?;
            let started = Instant::now();
            let mut times = Vec::new();
            while times.len() < least || started.elapsed() < self.pace.pings {
                let at = Instant::now();
                ping(&PING)?;
                times.push(at.elapsed().as_secs_f64() * 1e6);
            }
            drop(ping);
            if let Some(mut flow) = flow {
                flow.check()?;
                flow.stop()?;
                service.until_open(0)?;
            }
            Ok([percentile(&times, 50.0), percentile(&times, 99.0)])
        })?;
        let what = match loaded {
            true => "64-byte ping-pong beside 8 streams both ways".to_owned(),
            false => format!("64-byte ping-pong{delay}"),
        };
        Ok(both(&task.name(), &what, "us", p50, p99))
    }

    fn dial(&self, task: Task, work: Work) -> Result<Vec<Measurement>> {
        let rig = self.rig()?;
        let (most, what) = match work {
            // There it is mostly a delayed acknowledgement of TCP's that is
            // measured, which holds up what sshd says next.
            Work::Greet => (20, "new conversation to the far side's first word"),
            _ => (usize::MAX, "new conversation to its first byte echoed"),
        };
        let [p50, p99] = self.turns(task, |subject| {
            let count = match subject {
                Subject::Stdio => self.pace.dials.div_ceil(50),
                Subject::Dial => self.pace.dials.div_ceil(5),
                _ => self.pace.dials,
            };
            let times = rig.dials(subject, work, count.min(most))?;
            Ok([percentile(&times, 50.0) * 1e6, percentile(&times, 99.0) * 1e6])
        })?;
        Ok(both(&task.name(), what, "us", p50, p99))
    }

    fn idle(&self, ssh: bool, count: usize) -> Result<Vec<Measurement>> {
        let way = self.way(0, self.sshd.port);
        let before = self.sshd.sessions();
        let host = match ssh {
            true => Host::start(way.words(), false, 1)?,
            false => Host::start(["--pipe", "loopback"].into_iter(), false, 1)?,
        };
        let mut who = vec![(if ssh { "sshnet-host" } else { "with its far half" }, host.pid())];
        if ssh {
            who.extend(children_of(host.pid()).into_iter().map(|pid| ("its ssh", pid)));
            let sessions = self.sshd.sessions();
            let ours = sessions.into_iter().filter(|pid| !before.contains(pid));
            who.extend(ours.map(|pid| ("sshd's process", pid)));
        }
        let pids: Vec<u32> = who.iter().map(|(_, pid)| *pid).collect();
        let cost = idle::measure(&host, &pids, count)?;
        // As many as there came to be, which may be fewer.
        let name = Task::Idle { ssh, count: cost.count }.name();
        let mut what = format!("{} conversations, ", cost.count);
        what += if ssh { "through ssh" } else { "through the loopback pipe" };
        if let Some(limit) = &cost.limit {
            what += &format!(" (no more: {limit})");
        }
        let memory = |pick: fn(&(f64, f64)) -> f64| {
            let kib = cost.memory.iter().map(|both| pick(both) / 1024.0);
            who.iter().zip(kib).map(|((who, _), kib)| Series::new(who, vec![kib])).collect()
        };
        let one = |part: &str, title: &str, unit, series| Measurement {
            name: format!("{name}/{part}"),
            title: format!("{what}: {title}"),
            unit,
            series,
        };
        let time = |seconds| vec![Series::new("sshnet 9P", vec![seconds])];
        Ok(vec![
            one("memory", "memory of each, idle", "KiB", memory(|both| both.0)),
            one("memory-after", "memory of each, after 1 KiB", "KiB", memory(|both| both.1)),
            one("open", "time to establish all", "s", time(cost.open)),
            one("echo", "time for each to echo 1 KiB", "s", time(cost.echo)),
        ])
    }

    fn engine(&self, inward: bool, name: String) -> Result<Vec<Measurement>> {
        let mut component = Running::component()?;
        let mut native = Running::native()?;
        let mut runs = [Vec::new(), Vec::new()];
        for _ in 0..self.pace.repetitions {
            for (running, runs) in [&mut component, &mut native].into_iter().zip(&mut runs) {
                runs.push(match inward {
                    true => running.inward(self.pace.packets)?,
                    false => running.outward(self.pace.packets)?,
                });
            }
        }
        let [component, native] = runs;
        let series = vec![Series::new("component", component), Series::new("native", native)];
        let way = if inward { "in and read" } else { "written and sent" };
        let title = format!("the engine: 32 KiB packet {way}");
        let packets = Measurement {
            name: format!("{name}/packets"),
            title: title.clone() + ", in a second",
            unit: "packets/s",
            series: series
                .iter()
                .map(|s| Series::new(&s.subject, s.runs.iter().map(|us| 1e6 / us).collect()))
                .collect(),
        };
        Ok(vec![Measurement { name, title, unit: "us", series }, packets])
    }

    fn start(&self, name: String) -> Result<Vec<Measurement>> {
        let way = self.way(0, self.sshd.port);
        let (mut ssh, mut ours, mut compile) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.pace.repetitions {
            let started = Instant::now();
            Core::embedded()?;
            compile.push(started.elapsed().as_secs_f64() * 1e3);
            ssh.push(Mux::start(&way)?.up.as_secs_f64() * 1e3);
            ours.push(Host::start(way.words(), false, 1)?.start.as_secs_f64() * 1e3);
        }
        let series = vec![
            Series::new("ssh -M", ssh),
            Series::new("sshnet-host", ours),
            Series::new("compiling the core alone", compile),
        ];
        let title = "from start to ready, on the loopback".to_owned();
        Ok(vec![Measurement { name, title, unit: "ms", series }])
    }
}

fn both(
    name: &str,
    what: &str,
    unit: &'static str,
    p50: Vec<Series>,
    p99: Vec<Series>,
) -> Vec<Measurement> {
    let one = |part: &str, series| Measurement {
        name: format!("{name}/{part}"),
        title: format!("{what}: {part}"),
        unit,
        series,
    };
    vec![one("p50", p50), one("p99", p99)]
}
