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

use std::ffi::{CStr, OsString};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::pipe::Login;
use crate::sys;

/// What ps(1) and top(1) show.
const NAME: &CStr = c"sshnet-starter";
/// Bytes of an order, at most: a path and a little more.
const ORDER: usize = 8 << 10;
/// Descriptors that go with an order: where the answers go, stderr, stdin, stdout.
const DESCRIPTORS: usize = 4;
/// Processes of a family that are found, at most; the kernel passes no more
/// descriptors at once than 253.
const FAMILY: usize = 250;

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

/// What the starter is told.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Message {
    Start(Order),
    /// Find the processes that this one has started.
    Family(Pid),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let path = |kind: &[u8], path: &PathBuf| [kind, path.as_os_str().as_bytes()].concat();
        match self {
            Self::Start(Order::Pipe { login, dir }) => {
                let login = if *login == Login::First { b'1' } else { b'2' };
                match dir {
                    None => vec![b'c', login],
                    Some(dir) => path(&[b's', login], dir),
                }
            }
            Self::Start(Order::Unmount { path: at }) => path(b"u", at),
            Self::Family(pid) => [b"f", &pid.as_raw_pid().to_ne_bytes()[..]].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let login = |byte: u8| match byte {
            b'1' => Some(Login::First),
            b'2' => Some(Login::Again),
            _ => None,
        };
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        let order = match bytes {
            [b'c', how] => Order::Pipe { login: login(*how)?, dir: None },
            [b's', how, dir @ ..] => Order::Pipe { login: login(*how)?, dir: Some(path(dir)) },
            [b'u', at @ ..] => Order::Unmount { path: path(at) },
            [b'f', pid @ ..] => {
                let pid = Pid::from_raw(i32::from_ne_bytes(pid.try_into().ok()?))?;
                return Some(Self::Family(pid));
            }
            _ => return None,
        };
        Some(Self::Start(order))
    }
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

/// What orders go over: each is a packet.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
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

/// The starter's side.
#[derive(Debug)]
pub struct Orders {
    orders: OwnedFd,
}

impl Orders {
    /// Starts what is ordered, by the commands that this makes of the orders, until
    /// the host has ended.
    pub fn serve(self, command: impl Fn(Order) -> io::Result<Command> + Send + Sync + 'static) {
        sys::raise_file_limit();
        sys::name_process(NAME);
        if let Err(error) = sys::outlive_signals() {
            tracing::warn!("signals end the process that starts programs, too: {error}");
        }
        // The user is asked at the beginning, or never.
        let asked = AtomicBool::new(false);
        let command = Arc::new(move |order| match order {
            Order::Pipe { login: Login::First, .. } if asked.swap(true, Ordering::Relaxed) => {
                Err(io::ErrorKind::InvalidInput.into())
            }
            order => command(order),
        });
        loop {
            let mut bytes = vec![0; ORDER];
            match receive::<DESCRIPTORS>(&self.orders, &mut bytes) {
                Ok((0, _)) => return,
                Ok((length, descriptors)) => {
                    bytes.truncate(length);
                    let command = Arc::clone(&command);
                    let obey = move || obey(&bytes, descriptors, &*command);
                    // Without a thread the host sees that nobody answers.
                    let _ = std::thread::Builder::new().name("order".to_owned()).spawn(obey);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Does one thing for the host, in a thread of its own, and tells it. If the host
/// has gone that is nothing to anybody.
fn obey(message: &[u8], descriptors: Vec<OwnedFd>, command: &dyn Fn(Order) -> io::Result<Command>) {
    let mut descriptors = descriptors.into_iter();
    let Some(told) = descriptors.next() else { return };
    let mut told = UnixStream::from(told);
    let started = match (Message::decode(message), descriptors.next()) {
        (Some(Message::Family(pid)), _) => {
            let found = sys::descendants(pid);
            let found: Vec<_> = found.iter().take(FAMILY).map(AsFd::as_fd).collect();
            let _ = send::<FAMILY>(told.as_fd(), &[0], &found);
            return;
        }
        (Some(Message::Start(order)), Some(stderr)) => {
            let streams = descriptors.next().zip(descriptors.next());
            // It would have the user's terminal for its own.
            let lacks = matches!(order, Order::Pipe { dir: None, .. }) && streams.is_none();
            let command =
                if lacks { Err(io::ErrorKind::InvalidInput.into()) } else { command(order) };
            command.and_then(|command| spawn(command, streams, stderr))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut child = match started {
        Ok(child) => Child::Ours(child),
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(NO_NUMBER);
            let _ = told.write_all(&number.to_ne_bytes());
            return;
        }
    };
    let number = [0, child.pid().as_raw_pid()].map(i32::to_ne_bytes).concat();
    // Told or not, it runs.
    let _ = told.write_all(&number);
    child.wait_unreaped();
    let _ = told.write_all(&[0]);
    let _ = told.read(&mut [0]);
    let status = child.reap().unwrap_or_default();
    let _ = told.write_all(&status.into_raw().to_ne_bytes());
}

fn send<const DESCRIPTORS: usize>(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// The length of what has come, and the descriptors that came with it.
fn receive<const DESCRIPTORS: usize>(
    socket: impl AsFd,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut buffers = [io::IoSliceMut::new(bytes)];
    let came = rustix::net::recvmsg(socket, &mut buffers, &mut control, flags)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((came.bytes, descriptors.flatten().collect()))
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
    fn messages_are_read_as_they_were_written() {
        let dir = || Some(PathBuf::from("/run/user/1\n/\u{fc}"));
        for message in [
            Message::Start(FIRST),
            Message::Start(Order::Pipe { login: Login::Again, dir: dir() }),
            Message::Start(Order::Unmount { path: PathBuf::from("/n") }),
            Message::Family(rustix::process::getpid()),
        ] {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes).as_ref(), Some(&message), "{bytes:?}");
        }
        for nonsense in [&b""[..], b"x", b"c", b"c3", b"c12", b"s", b"f123", b"f\0\0\0\0"] {
            assert_eq!(Message::decode(nonsense), None, "{nonsense:?}");
        }
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
