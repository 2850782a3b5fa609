//! The starter: a second process of this program, which starts ssh and fusermount3
//! for the first, so that the one which reads what others send need not be able to.
//!
//! ```text
//! host -- order, descriptors --> starter -- fork, exec --> ssh, COMMAND, fusermount3
//!      <-- number, exit status --
//! ```
//!
//! It is forked before anything else is done, and so has the command line, too: an
//! order says which program it is time for, never with what arguments. Whoever has
//! taken over the host can have started what the user wanted started, and nothing
//! else. It ends with the host, and what it has started ends with it.
//!
//! Where nobody has made one, as in another program that uses this crate, processes
//! are started here.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::pipe::Login;
use crate::sys;

mod orders;
mod wire;

pub use orders::Orders;
use wire::{DESCRIPTORS, FAMILY, Message, pair, receive, send};

/// How long a look at a family may take: who waits for it does nothing else.
const LOOK: Duration = Duration::from_secs(2);

/// In place of an error's number, which is more than 0: it has none.
const NO_NUMBER: i32 = -1;

/// This process's starter, if it has one.
static STARTER: OnceLock<Starter> = OnceLock::new();

/// What is to be started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Order {
    /// What leads to the far side.
    Pipe {
        /// Whether it may ask the user.
        login: Login,
        /// The directory for ssh's socket.
        dir: Option<PathBuf>,
    },
    /// What takes a mount of ours out of the tree of files.
    Unmount {
        /// Where it is.
        path: PathBuf,
    },
}

/// The one process or the other.
#[derive(Debug)]
pub enum Split {
    /// The one that goes on.
    Host,
    /// The starter, which is to do [`Orders::serve`] and then to end.
    Starter(Orders),
}

/// Becomes two processes. Call it while there is one thread.
pub fn split() -> io::Result<Split> {
    let (ours, theirs) = pair()?;
    match sys::fork()? {
        Some(pid) => {
            // Fails where there is one already, and there is none.
            let _ = STARTER.set(Starter { orders: ours, pid });
            Ok(Split::Host)
        }
        None => {
            drop(ours);
            Ok(Split::Starter(Orders { orders: theirs }))
        }
    }
}

/// Has the starter end, and waits for that.
pub fn end() {
    let Some(starter) = STARTER.get() else { return };
    let _ = rustix::net::shutdown(&starter.orders, Shutdown::Both);
    // Somebody may have stopped it.
    let _ = rustix::process::kill_process(starter.pid, Signal::CONT);
    while let Err(Errno::INTR) = rustix::process::waitpid(Some(starter.pid), WaitOptions::empty()) {
    }
}

/// Starts what is ordered: the starter does, or without one this process, by the
/// command that is given. It gets these for its standard input and output, if any,
/// and this for its standard error.
///
/// It gets SIGTERM when the calling thread ends; so that one is to stay as long.
pub(crate) fn start(
    order: Order,
    streams: Option<(OwnedFd, OwnedFd)>,
    stderr: OwnedFd,
    command: impl FnOnce() -> Command,
) -> io::Result<Child> {
    match STARTER.get() {
        Some(starter) => starter.start(order, streams, stderr),
        None => spawn(command(), streams, stderr).map(Child::Ours),
    }
}

/// The processes that a child has started, and those that they have; but for those
/// whose parent has ended already.
pub(crate) fn descendants(child: Pid) -> Vec<sys::Process> {
    let Some(starter) = STARTER.get() else { return sys::descendants(child) };
    starter.descendants(child).unwrap_or_else(|error| {
        tracing::debug!("what process {child} has started is not known: {error}");
        Vec::new()
    })
}

fn spawn(
    mut command: Command,
    streams: Option<(OwnedFd, OwnedFd)>,
    stderr: OwnedFd,
) -> io::Result<process::Child> {
    if let Some((stdin, stdout)) = streams {
        command.stdin(stdin).stdout(stdout);
    }
    command.stderr(stderr);
    sys::spawn_tied(&mut command)
}

/// A process that was started. Its number is its own until [`Child::reap`].
#[derive(Debug)]
pub(crate) enum Child {
    /// By us.
    Ours(process::Child),
    /// By the starter.
    Starters {
        /// Its number.
        pid: Pid,
        /// Here the starter answers.
        told: UnixStream,
    },
}

impl Child {
    pub(crate) fn pid(&self) -> Pid {
        match self {
            Self::Ours(child) => Pid::from_child(child),
            Self::Starters { pid, .. } => *pid,
        }
    }

    /// Waits for its end; or for the starter's, with which it ends.
    pub(crate) fn wait_unreaped(&mut self) {
        match self {
            Self::Ours(child) => sys::wait_unreaped(Pid::from_child(child)),
            Self::Starters { told, .. } => {
                let _ = told.read_exact(&mut [0]);
            }
        }
    }

    /// How it has ended. From now on its number may be another's.
    pub(crate) fn reap(self) -> io::Result<ExitStatus> {
        match self {
            Self::Ours(mut child) => child.wait(),
            Self::Starters { mut told, .. } => {
                told.write_all(&[0])?;
                Ok(ExitStatus::from_raw(number(&mut told)?))
            }
        }
    }
}

fn number(told: &mut UnixStream) -> io::Result<i32> {
    let mut bytes = [0; 4];
    told.read_exact(&mut bytes).map_err(|_| gone())?;
    Ok(i32::from_ne_bytes(bytes))
}

/// Nothing can be started any more.
fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the process that starts programs has ended")
}

/// The host's side.
#[derive(Debug)]
struct Starter {
    orders: OwnedFd,
    pid: Pid,
}

impl Starter {
    fn start(
        &self,
        order: Order,
        streams: Option<(OwnedFd, OwnedFd)>,
        stderr: OwnedFd,
    ) -> io::Result<Child> {
        let mut with = vec![stderr];
        with.extend(streams.into_iter().flat_map(<[OwnedFd; 2]>::from));
        let mut told = self.tell(&Message::Start(order), &with)?;
        match number(&mut told)? {
            0 => {}
            NO_NUMBER => return Err(io::Error::other("it was refused")),
            number => return Err(io::Error::from_raw_os_error(number)),
        }
        let pid = Pid::from_raw(number(&mut told)?).ok_or_else(gone)?;
        Ok(Child::Starters { pid, told })
    }

    fn descendants(&self, child: Pid) -> io::Result<Vec<sys::Process>> {
        let told = self.tell(&Message::Family(child), &[])?;
        told.set_read_timeout(Some(LOOK))?;
        let (_, found) = receive::<FAMILY>(&told, &mut [0])?;
        Ok(found.into_iter().map(sys::Process::from).collect())
    }

    /// Sends a message, and gives that on which the answers come.
    fn tell(&self, message: &Message, with: &[OwnedFd]) -> io::Result<UnixStream> {
        let (told, teller) = UnixStream::pair()?;
        let mut descriptors = vec![teller.as_fd()];
        descriptors.extend(with.iter().map(AsFd::as_fd));
        send::<DESCRIPTORS>(self.orders.as_fd(), &message.encode(), &descriptors).map_err(
            |error| if error.kind() == io::ErrorKind::BrokenPipe { gone() } else { error },
        )?;
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;
    use std::process::Stdio;

    /// A starter in a thread, which knows one program.
    fn starter(program: &'static str) -> Starter {
        let (orders, theirs) = pair().unwrap();
        let known = move |order| match order {
            Order::Pipe { login: Login::First, dir: None } => {
                let mut command = Command::new("sh");
                command.args(["-c", program]).stdin(Stdio::null());
                Ok(command)
            }
            Order::Pipe { .. } => Ok(Command::new("/nonexistent/program")),
            Order::Unmount { .. } => Err(io::ErrorKind::InvalidInput.into()),
        };
        std::thread::spawn(move || Orders { orders: theirs }.serve(known));
        Starter { orders, pid: rustix::process::getpid() }
    }

    const FIRST: Order = Order::Pipe { login: Login::First, dir: None };

    /// For one that neither reads nor writes.
    fn streams() -> Option<(OwnedFd, OwnedFd)> {
        let (reader, writer) = io::pipe().unwrap();
        Some((reader.into(), writer.into()))
    }

    #[test]
    fn what_is_started_has_the_descriptors_that_were_sent_and_tells_how_it_ended() {
        let starter = starter("read word; echo got $word; echo complaint >&2; exit 7");
        let (stdin, mut ours) = io::pipe().unwrap();
        let (mut out, stdout) = io::pipe().unwrap();
        let (mut err, stderr) = io::pipe().unwrap();
        let streams = Some((stdin.into(), stdout.into()));
        let mut child = starter.start(FIRST, streams, stderr.into()).unwrap();
        ours.write_all(b"this\n").unwrap();
        let (mut said, mut complained) = (String::new(), String::new());
        out.read_to_string(&mut said).unwrap();
        err.read_to_string(&mut complained).unwrap();
        assert_eq!((said.as_str(), complained.as_str()), ("got this\n", "complaint\n"));
        child.wait_unreaped();
        // It is dead, and its number is still its own.
        let stat = format!("/proc/{}/stat", child.pid());
        assert!(std::fs::read_to_string(&stat).unwrap().contains(") Z "));
        assert_eq!(child.reap().unwrap().code(), Some(7));
        assert!(!Path::new(&stat).exists());
    }

    #[test]
    fn a_program_that_is_not_there_and_an_order_that_is_none_are_errors() {
        let starter = starter("true");
        let stderr = || OwnedFd::from(io::pipe().unwrap().1);
        let order = Order::Pipe { login: Login::Again, dir: None };
        let error = starter.start(order, streams(), stderr()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let order = Order::Unmount { path: PathBuf::from("/") };
        let error = starter.start(order, None, stderr()).unwrap_err();
        assert_eq!(error.to_string(), "it was refused");
        // It still does what it may.
        let mut child = starter.start(FIRST, streams(), stderr()).unwrap();
        child.wait_unreaped();
        assert!(child.reap().unwrap().success());
    }

    #[test]
    fn the_user_is_asked_once_and_no_program_has_the_users_terminal() {
        let starter = starter("true");
        let stderr = || OwnedFd::from(io::pipe().unwrap().1);
        let error = starter.start(FIRST, None, stderr()).unwrap_err();
        assert_eq!(error.to_string(), "it was refused");
        let starter = self::starter("true");
        starter.start(FIRST, streams(), stderr()).unwrap();
        let error = starter.start(FIRST, streams(), stderr()).unwrap_err();
        assert_eq!(error.to_string(), "it was refused");
    }

    #[test]
    fn a_family_is_found_and_signalled_by_who_may_look_at_nothing() {
        let starter = starter("sleep 1000 & sleep 1000; true");
        let (_out, stderr) = io::pipe().unwrap();
        let mut child = starter.start(FIRST, streams(), stderr.into()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let family = loop {
            let family = starter.descendants(child.pid()).unwrap();
            if family.len() == 2 {
                break family;
            }
            assert!(std::time::Instant::now() < deadline, "{family:?}");
            std::thread::yield_now();
        };
        for process in family {
            process.signal(Signal::KILL);
        }
        child.wait_unreaped();
        assert!(child.reap().unwrap().success());
    }

    #[test]
    fn without_its_starter_nothing_is_started_and_the_error_says_why() {
        let (orders, theirs) = pair().unwrap();
        drop(theirs);
        let starter = Starter { orders, pid: rustix::process::getpid() };
        let error = starter.start(FIRST, None, io::pipe().unwrap().1.into()).unwrap_err();
        assert!(error.to_string().contains("that starts programs has ended"), "{error}");
    }
}
