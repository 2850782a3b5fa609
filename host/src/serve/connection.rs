//! The connection to the far side: one pipe after another, as long as that may be.
//!
//! The first login may ask the user. The later ones may not: they come when nobody
//! expects to be asked. One that is refused, and would be the next time, ends it.
//! `reconnect` says how long to wait; this waits, and tells the driver and the user.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{SAME_SIGNAL, ServeError};
use crate::args;
use crate::driver::Driver;
use crate::notice::notice;
use crate::pipe::error::PipeError;
use crate::pipe::{self, Link, Login, bare, loopback, openssh, plan9};
use crate::reconnect::{Standing, Waits};
use crate::rights::Part;
use crate::signals::Signals;

/// How long the far side may take to agree to the end of all conversations.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the pipe may take to end after that.
const END: Duration = Duration::from_secs(3);
/// How long the users of the tree have to get their last errors where nothing went
/// wrong: the user waits for the prompt.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// A pipe that is ready to carry messages.
pub(super) struct Started {
    pipe: Box<dyn FnOnce(Link) -> Running + Send>,
}

type Running = Pin<Box<dyn Future<Output = Result<(), PipeError>> + Send>>;

/// How a pipe that ran has ended.
type Ended = Result<Result<(), PipeError>, tokio::task::JoinError>;

/// How to reach the far side, as often as need be.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) pipe: args::Pipe,
    /// How long it may say nothing; 0 is for ever.
    pub(super) keepalive: Duration,
}

impl Way {
    /// As the command line has it.
    pub(super) fn of(options: &args::Serve) -> Self {
        Self { pipe: options.pipe.clone(), keepalive: options.lasting.keepalive() }
    }

    /// What it leads to.
    pub(super) fn name(&self) -> String {
        match &self.pipe {
            args::Pipe::Openssh(ssh) => ssh.far.host().display().to_string(),
            args::Pipe::Bare(peer) => peer.to_string(),
            args::Pipe::Plan9(command) => bare::Peer::Command(command.clone()).to_string(),
            args::Pipe::Loopback => "this machine".to_owned(),
        }
    }

    /// Starts a pipe.
    pub(super) async fn start(&self, login: Login) -> Result<Started, PipeError> {
        let pipe: Box<dyn FnOnce(Link) -> Running + Send> = match self.pipe.clone() {
            args::Pipe::Openssh(ssh) => {
                let pipe = openssh::start(self.options(ssh), login).await?;
                Box::new(|link| Box::pin(pipe.run(link)))
            }
            args::Pipe::Bare(peer) => {
                let pipe = bare::start(peer, login, self.keepalive).await?;
                Box::new(|link| Box::pin(pipe.run(link)))
            }
            args::Pipe::Plan9(command) => {
                let pipe = plan9::start(command, login).await?;
                Box::new(|link| Box::pin(pipe.run(link)))
            }
            args::Pipe::Loopback => Box::new(|link| Box::pin(loopback::run(link))),
        };
        Ok(Started { pipe })
    }

    fn options(&self, ssh: args::Openssh) -> openssh::Options {
        let mut options = openssh::Options::new(ssh.far.destination);
        options.options = ssh.far.options;
        options.caller_address = ssh.caller_address;
        options.by_descriptor = ssh.by_descriptor;
        options.connections = ssh.connections;
        options.keepalive = self.keepalive;
        options
    }

    /// What starts the program that the pipe leads through, for the starter.
    pub(super) fn command(&self, login: Login, dir: Option<&Path>) -> io::Result<Command> {
        match (&self.pipe, dir) {
            (args::Pipe::Openssh(ssh), Some(dir)) => {
                openssh::command(&self.options(ssh.clone()), login, dir)
            }
            (args::Pipe::Bare(bare::Peer::Command(command)) | args::Pipe::Plan9(command), None) => {
                Ok(pipe::shell(command, login))
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// What this process is when the pipe is up.
    pub(super) fn part(&self) -> Part {
        match self.pipe {
            args::Pipe::Loopback => Part::FarSide,
            _ => Part::Carrier,
        }
    }
}

/// The connection of a service that is up.
pub(super) struct Connection {
    driver: Driver,
    way: Way,
    /// `None`: when it ends that is the end.
    waits: Option<Waits>,
    /// `None` while there is no connection.
    pipe: Option<JoinHandle<Result<(), PipeError>>>,
    up: Instant,
    /// How it stands; who wants to know subscribes.
    pub(super) standing: watch::Sender<Standing>,
}

impl Connection {
    /// Puts the first pipe to work. Waits between later ones are no longer than
    /// this; without it there are none.
    pub(super) fn new(driver: Driver, way: Way, first: Started, longest: Option<Duration>) -> Self {
        let seed = RandomState::new().build_hasher().finish();
        let pipe = Some(tokio::spawn((first.pipe)(driver.pipe_up())));
        Self {
            driver,
            way,
            waits: longest.map(|longest| Waits::new(longest, seed)),
            pipe,
            up: Instant::now(),
            standing: watch::Sender::new(Standing::first(SystemTime::now())),
        }
    }

    /// Makes the connection again whenever it has ended, until that is not to be;
    /// then answers why. Cancel-safe.
    pub(super) async fn kept(&mut self) -> ServeError {
        loop {
            let error = self.ended().await;
            let Some(waits) = self.waits.as_mut().filter(|_| !self.driver.is_gone()) else {
                return error;
            };
            let mut wait = waits.after_standing(self.up.elapsed());
            let reason = first_line(&error);
            self.driver.pipe_down(&reason);
            self.standing.send_modify(|standing| standing.ended(reason, SystemTime::now()));
            self.let_end().await;
            // Ctrl-C ends ssh, too: then there is nothing to say.
            sleep(SAME_SIGNAL).await;
            notice(format_args!("the connection is gone: {error};\na new one in {}", shown(wait)));
            loop {
                sleep(wait.saturating_sub(SAME_SIGNAL)).await;
                match self.way.start(Login::Again).await {
                    Ok(started) => {
                        self.take(started);
                        break;
                    }
                    Err(error) if error.is_lasting() => return not_again(error),
                    Err(error) => {
                        let Some(waits) = &mut self.waits else { return error.into() };
                        wait = waits.after_failure();
                        let next = shown(wait);
                        notice(format_args!("no new connection: {error};\nthe next try in {next}"));
                        let reason = first_line(&error);
                        self.standing.send_modify(|standing| standing.failed(reason));
                    }
                }
            }
        }
    }

    /// Puts a new pipe to work.
    fn take(&mut self, started: Started) {
        self.pipe = Some(tokio::spawn((started.pipe)(self.driver.pipe_up())));
        self.up = Instant::now();
        self.standing.send_modify(|standing| standing.made(SystemTime::now()));
        let name = self.way.name();
        match self.standing.borrow().attempts {
            0 => notice(format_args!("connected again to {name}")),
            failed => notice(format_args!("connected again to {name} after {failed} tries")),
        }
    }

    /// Waits until the pipe has ended, or the engine has given it up: why.
    async fn ended(&mut self) -> ServeError {
        let Some(pipe) = &mut self.pipe else {
            // It was about to be made again.
            return ServeError::Ended;
        };
        tokio::select! {
            ended = pipe => {
                self.pipe = None;
                why(ended, &self.driver).await
            }
            reason = self.driver.failure() => ServeError::Session(reason),
        }
    }

    /// Ends all conversations, then the pipe. A second signal makes it quick.
    pub(super) async fn shut_down(&mut self, signals: &mut Signals) {
        let driver = self.driver.clone();
        driver.shutdown("sshnet-host was stopped");
        let clean = async {
            let Some(pipe) = &mut self.pipe else {
                sleep(LAST_WORDS).await;
                return;
            };
            let deadline = Instant::now() + DRAIN;
            while !pipe.is_finished() && Instant::now() < deadline {
                match driver.statistics() {
                    Ok(statistics) if statistics.channels > 0 => {
                        sleep(Duration::from_millis(5)).await;
                    }
                    _ => break,
                }
            }
            driver.end_pipe();
            sleep(LAST_WORDS).await;
            // How it ended does not matter now: it may have had the same signal.
            if timeout_at(Instant::now() + END, &mut *pipe).await.is_ok() {
                self.pipe = None;
            }
        };
        tokio::select! {
            () = clean => {}
            () = signals.next() => {}
        }
        self.end().await;
    }

    /// Lets the pipe end by itself, now that nothing more is sent on it.
    async fn let_end(&mut self) {
        if let Some(pipe) = &mut self.pipe
            && timeout(DRAIN, &mut *pipe).await.is_ok()
        {
            self.pipe = None;
        }
        self.end().await;
    }

    /// Ends the pipe at once, if it has not ended.
    pub(super) async fn end(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            pipe.abort();
            let _ = timeout(END, &mut pipe).await;
        }
    }
}

/// Why a pipe ended that nobody asked to end.
async fn why(ended: Ended, driver: &Driver) -> ServeError {
    match ended {
        Ok(Err(error)) => error.into(),
        // The engine has given it up.
        Ok(Ok(())) => match timeout(SAME_SIGNAL, driver.failure()).await {
            Ok(reason) => ServeError::Session(reason),
            Err(_) => ServeError::Ended,
        },
        Err(error) => ServeError::System("the pipe ended", io::Error::other(error)),
    }
}

/// A login that would be refused again.
fn not_again(error: PipeError) -> ServeError {
    let hint = if error.is_denial() {
        ";\na service that is up asks nobody for a password or a key: start it again"
    } else {
        ""
    };
    ServeError::NotAgain(format!("{error}{hint}"))
}

/// The hints behind it are for the terminal.
fn first_line(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_end_matches(';').to_owned()
}

fn shown(wait: Duration) -> String {
    format!("{:.1} s", wait.as_secs_f64())
}
