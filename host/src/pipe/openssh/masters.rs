//! Which ssh masters there are, and when one is started.
//!
//! ```text
//! the first --up--> the others, one after the other
//! live --failed dials--> worn --its successor is up--> retired --idle--> (ended)
//! live, retired --ends by itself--> (its conversations end; or the pipe does)
//! (one of the live ones is missing) --a dial--> another
//! ```
//!
//! The first login may ask the user; the later ones may not (`BatchMode`), for they
//! come when nobody expects to be asked, and for what was answered already. When one
//! of the others cannot log in, the rest is not tried: they would fail in the same
//! way, and hosts bar those who fail too often. When one ends by itself, the next
//! dial has it replaced, but not sooner than after a wait (`reconnect`).
//!
//! A master that has seen many failed dials gets a successor in time, and ends
//! with its last conversation and listener. When a login for that fails, dials go on
//! to the worn one up to its limit, and then are refused; there are a few attempts
//! on the way there.
//!
//! Listeners are made on one master, the *home*; the engine cannot be told of the
//! end of a listener. So when a master ends that is the home, or still has a
//! listener, the pipe ends.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::Options;
use super::descriptor;
use super::forwards::{Forwards, Home};
use super::master::{Master, Ready};
use super::mux::Control;
use super::route::{self, ConnectionId, Kind};
use super::traffic::{Shared, Tasks, attach, attach_far};
use crate::notice::notice;
use crate::pipe::Login;
use crate::pipe::error::PipeError;
use crate::pipe::far::Far;
use crate::reconnect::Waits;

/// Retired masters at a time, beyond those that are wanted.
const RETIRED: usize = 4;
/// The longest wait before one that has ended by itself is replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);
/// How often a successor's login is tried.
const ATTEMPTS: u32 = 4;
/// How long the last messages may take to get to ssh.
const DRAIN: Duration = Duration::from_secs(5);
/// How long ssh may then take to pass them on.
const SETTLE: Duration = Duration::from_millis(300);
/// How often is looked whether they are.
const LOOK: Duration = Duration::from_millis(5);

/// The masters of one pipe.
pub(super) struct Masters {
    shared: Arc<Shared>,
    options: Options,
    // These before the tasks: when this is dropped, ssh is told to end before its
    // connections are closed.
    members: BTreeMap<ConnectionId, Member>,
    /// The one that is being started, if one is.
    start: JoinSet<(Purpose, Result<Ready, PipeError>)>,
    tasks: Tasks,
    /// How many of those that are wanted from the beginning are still to be started.
    missing: usize,
    /// How many have ended by themselves and are to be replaced.
    lost: usize,
    /// When the last one was up.
    up: Instant,
    waits: Waits,
    /// None is replaced before this.
    not_before: Instant,
    home: ConnectionId,
    homes: mpsc::Sender<Home>,
}

/// A master at work.
struct Member {
    master: Master,
    /// Takes the calls that it hands over.
    far: Arc<Far>,
    far_id: ConnectionId,
    tasks: Vec<AbortHandle>,
    /// How often its successor's login was tried.
    tried: u32,
    retired: bool,
}

/// What a master is started for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// To share the dials with the others.
    Join,
    /// The same, where one has ended.
    Replace,
    /// To take the place of this one.
    Succeed(ConnectionId),
}

impl Masters {
    /// Puts the first one to work, and what carries out requests on it.
    pub(super) fn new(shared: &Arc<Shared>, options: Options, first: Ready) -> Self {
        let mut tasks = Tasks::new();
        let (id, member, control) = admit(shared, first, &mut tasks);
        let home = home(shared, id, &member, control);
        // A home waits there no longer than it is held, and so many there can be.
        let (homes, next) = mpsc::channel(options.connections + RETIRED);
        let forwards = Forwards::new(Arc::clone(shared), home, next, options.caller_address);
        tasks.spawn(forwards.serve());
        Self {
            shared: Arc::clone(shared),
            members: BTreeMap::from([(id, member)]),
            start: JoinSet::new(),
            tasks,
            missing: options.connections.saturating_sub(1),
            lost: 0,
            up: Instant::now(),
            waits: Waits::new(REPLACED_WITHIN, RandomState::new().build_hasher().finish()),
            not_before: Instant::now(),
            options,
            home: id,
            homes,
        }
    }

    /// Looks after them until the pipe has to end, and says why. Cancel-safe.
    pub(super) async fn serve(&mut self) -> PipeError {
        loop {
            self.end_idle().await;
            self.start_due();
            tokio::select! {
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok((id, ended)) => {
                        if let Some(error) = self.broke(id, ended).await {
                            return error;
                        }
                    }
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => return PipeError::Mux(format!("task ended: {error}")),
                },
                Some(started) = self.start.join_next() => match started {
                    Ok((purpose, started)) => self.started(purpose, started),
                    Err(error) => return PipeError::Mux(format!("task ended: {error}")),
                },
                () = self.shared.news.notified() => {}
            }
        }
    }

    /// Starts a master, if one is due and none is being started.
    fn start_due(&mut self) {
        if !self.start.is_empty() {
            return;
        }
        let purpose = if self.missing > 0 {
            self.missing -= 1;
            Purpose::Join
        } else if self.lost > 0
            && Instant::now() >= self.not_before
            && self.shared.route().take_wanted()
        {
            self.lost -= 1;
            Purpose::Replace
        } else if let Some(worn) = self.worn() {
            let retired = self.members.values().filter(|member| member.retired).count();
            if retired >= RETIRED {
                let words = format!("too many failed dials, and {retired} worn ssh still in use");
                self.shared.route().refuse_with(Some(words));
                return;
            }
            if let Some(member) = self.members.get_mut(&worn) {
                member.tried += 1;
            }
            Purpose::Succeed(worn)
        } else {
            return;
        };
        let options = self.options.clone();
        self.start.spawn(async move { (purpose, Master::start(&options, Login::Again).await) });
    }

    /// A master whose successor's login is to be tried now.
    fn worn(&self) -> Option<ConnectionId> {
        let route = self.shared.route();
        let limit = self.options.failed_dials;
        let mut live = self.members.iter().filter(|(_, member)| !member.retired);
        live.find(|(id, member)| due(route.failed(**id), member.tried, limit)).map(|(id, _)| *id)
    }

    /// One is up, or could not log in.
    fn started(&mut self, purpose: Purpose, started: Result<Ready, PipeError>) {
        match (purpose, started) {
            (Purpose::Join, Ok(ready)) => {
                self.join(ready);
                if self.missing == 0 {
                    notice(format_args!("{} ssh connections are up", self.members.len()));
                }
            }
            (Purpose::Join, Err(error)) => {
                self.missing = 0;
                notice(format_args!(
                    "going on with {} of {} ssh connections: {error}",
                    self.members.len(),
                    self.options.connections
                ));
            }
            (Purpose::Replace, Ok(ready)) => {
                self.join(ready);
                self.up = Instant::now();
                self.shared.route().want(self.lost > 0);
                notice(format_args!("an ssh connection is back: {} are up", self.members.len()));
            }
            (Purpose::Replace, Err(error)) => {
                let wait = self.waits.after_failure();
                self.not_before = Instant::now() + wait;
                self.lost = if error.is_lasting() { 0 } else { self.lost + 1 };
                self.shared.route().want(self.lost > 0);
                notice(format_args!(
                    "going on with {} ssh connections: {error}",
                    self.members.len()
                ));
            }
            (Purpose::Succeed(worn), Ok(ready)) => {
                let (new, control) = self.join(ready);
                self.shared.route().refuse_with(None);
                self.retire(worn);
                if self.home == worn {
                    self.move_home(new, control);
                }
            }
            (Purpose::Succeed(_), Err(error)) => {
                notice(format_args!("no new ssh in place of a worn one: {error}"));
                let words = format!("too many failed dials, and no new ssh: {error}");
                self.shared.route().refuse_with(Some(words));
            }
        }
    }

    fn join(&mut self, ready: Ready) -> (ConnectionId, Control) {
        let (id, member, control) = admit(&self.shared, ready, &mut self.tasks);
        self.members.insert(id, member);
        (id, control)
    }

    /// Nothing new goes to this one.
    fn retire(&mut self, id: ConnectionId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.retired = true;
            self.shared.route().retire(id);
        }
    }

    /// New listeners go to this one.
    fn move_home(&mut self, id: ConnectionId, control: Control) {
        let Some(member) = self.members.get(&id) else { return };
        match self.homes.try_send(home(&self.shared, id, member, control)) {
            Ok(()) => self.home = id,
            // It goes on listening where it did.
            Err(error) => {
                tracing::error!("listeners stay on a worn ssh: {error}");
                self.shared.route().release(id);
            }
        }
    }

    /// Something that works on a master has ended: so has the master, or it is of no
    /// more use. Gives the reason if that is the end of the pipe.
    async fn broke(&mut self, id: ConnectionId, ended: Result<(), PipeError>) -> Option<PipeError> {
        // What remains of one that was ended here ends without a word.
        let member = self.members.get_mut(&id)?;
        let held = self.shared.route().held(id);
        if !held {
            // Nothing more is begun there while its last words are awaited.
            self.shared.route().retire(id);
        }
        let error = match ended {
            Ok(()) => PipeError::Mux("connection closed by ssh".to_owned()),
            // The engine's fault.
            Err(error @ PipeError::Far(_)) => return Some(error),
            Err(error) => error,
        };
        let error = match error {
            PipeError::Mux(_) => member.master.broken(error).await,
            error => error,
        };
        if held {
            return Some(error);
        }
        let retired = member.retired;
        let conversations = self.shared.end(id, &error.to_string());
        notice(format_args!(
            "an ssh connection is gone, with {conversations} of the conversations: {error}"
        ));
        self.discard(id).await;
        if !retired {
            self.lost += 1;
            self.not_before = Instant::now() + self.waits.after_standing(self.up.elapsed());
            self.shared.route().want(true);
        }
        None
    }

    /// Ends those that are retired and not needed any more.
    async fn end_idle(&mut self) {
        for id in self.idle() {
            tracing::info!("a worn ssh has ended its last conversation");
            self.discard(id).await;
        }
    }

    fn idle(&self) -> Vec<ConnectionId> {
        let mut route = self.shared.route();
        let retired = self.members.iter().filter(|(_, member)| member.retired);
        retired.map(|(id, _)| *id).filter(|id| route.remove(*id)).collect()
    }

    /// Ends a master that the table does not know any more.
    async fn discard(&mut self, id: ConnectionId) {
        let Some(member) = self.members.remove(&id) else { return };
        self.shared.detach(id);
        self.shared.detach(member.far_id);
        member.master.stop().await;
        for task in member.tasks {
            task.abort();
        }
    }

    /// Gives the last messages time to get through ssh.
    pub(super) async fn settle(&self) {
        let handed_over = async {
            for member in self.members.values() {
                member.far.settle(SETTLE).await;
            }
        };
        let _ = timeout(SETTLE, handed_over).await;
        let written = async {
            while !self.members.keys().all(|id| self.shared.is_written(*id)) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if timeout(DRAIN, written).await.is_err() {
            tracing::warn!("ssh does not take the last messages");
            return;
        }
        // The peer's CLOSE shows that ours got there.
        let closed = async {
            while self.members.keys().any(|id| self.shared.route().channels(*id) > 0) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = timeout(SETTLE, closed).await;
    }

    /// Ends them all, before anybody closes a connection to them.
    pub(super) async fn stop(mut self) {
        self.start.shutdown().await;
        for member in self.members.values() {
            member.master.terminate();
        }
        for member in self.members.values() {
            member.master.stop().await;
        }
        self.tasks.shutdown().await;
    }
}

/// Puts a master to work.
fn admit(shared: &Arc<Shared>, ready: Ready, tasks: &mut Tasks) -> (ConnectionId, Member, Control) {
    let Ready { master, proxy, control } = ready;
    let (id, far_id, far, mut handles) = match proxy {
        Some(proxy) => {
            let (id, [reading, writing]) = attach(shared, proxy, None, tasks);
            let (far_id, far, carrying) = attach_far(shared, Kind::Far(id), Far::new(), tasks);
            (id, far_id, far, vec![reading, writing, carrying])
        }
        None => {
            let far = Far::dialling(descriptor::dialler(master.control()));
            let (id, far, carrying) = attach_far(shared, Kind::Master, far, tasks);
            (id, id, far, vec![carrying])
        }
    };
    let exit = master.exited();
    let watching = tasks.spawn(async move {
        exit.await;
        (id, Err(PipeError::Mux("ended".to_owned())))
    });
    handles.push(watching);
    (id, Member { master, far, far_id, tasks: handles, tried: 0, retired: false }, control)
}

/// A master as those see it who listen there; it is held.
fn home(shared: &Shared, id: ConnectionId, member: &Member, control: Control) -> Home {
    shared.route().hold(id);
    let (path, dir) = (member.master.control(), member.master.dir().to_owned());
    Home::new(id, control, path, dir, Arc::clone(&member.far))
}

/// Whether a successor's login is to be tried, by the failed dials that a master may
/// have: from three quarters of them on, and not at every one.
fn due(failed: u32, tried: u32, limit: u32) -> bool {
    tried < ATTEMPTS && failed >= route::worn(limit) + tried * (limit / (3 * ATTEMPTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_tried_a_few_times_on_the_way_to_the_limit() {
        let limit = route::FAILED_DIALS;
        let mut tried = Vec::new();
        for failed in 0..=limit {
            if due(failed, tried.len() as u32, limit) {
                tried.push(failed);
            }
        }
        assert_eq!(tried, [9_000, 10_000, 11_000, 12_000]);
    }
}
