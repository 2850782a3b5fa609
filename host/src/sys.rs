//! What only the system itself can do, and the host's only unsafe code.
//!
//! Another Unix needs another version of this file and of no other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::SigSet;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use wasmtime::component::Component;

/// What opens our standard input anew, where it is a pipe.
pub const STDIN: &str = "/proc/self/fd/0";
/// The same of standard output.
pub const STDOUT: &str = "/proc/self/fd/1";

/// Connections that may wait to be taken; the system may have less.
const BACKLOG: i32 = 4096;
/// Bytes that a widened pipe holds: two requests' worth.
const PIPE: i32 = 256 << 10;

/// The component that this program was built with, as machine code.
#[allow(unsafe_code)]
pub fn compiled_component(wasmtime: &wasmtime::Engine) -> wasmtime::Result<Component> {
    let code = include_bytes!(env!("SSHNET_CORE_COMPILED"));
    // SAFETY: these bytes are part of this program, as the build script had them from
    // the wasmtime that is part of it, too.
    unsafe { Component::deserialize(wasmtime, code) }
}

/// A socket that takes connections at a path, and of this user's alone, from the
/// moment on in which it is there.
pub fn listen_privately(path: &Path) -> io::Result<UnixListener> {
    listen_as(path, Mode::RUSR | Mode::WUSR)
}

/// A socket at a path that every user may connect to, whatever the umask. It is made
/// so: whoever may write the directory could lead a later chmod to another file.
///
/// The umask is the process's, so that this is for when no other thread makes files.
pub fn listen_openly(path: &Path) -> io::Result<UnixListener> {
    /// Two at once would take each other's umask for the one to set again.
    static UMASK: Mutex<()> = Mutex::new(());
    let _alone = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    let before = rustix::process::umask(Mode::empty());
    let socket = listen_as(path, Mode::from_raw_mode(0o666));
    rustix::process::umask(before);
    socket
}

fn listen_as(path: &Path, mode: Mode) -> io::Result<UnixListener> {
    let (family, kind, flags) = (AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    // On Linux bind gives the file the mode that the socket has, less the umask.
    rustix::fs::fchmod(&socket, mode)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Err(error) = rustix::net::listen(&socket, BACKLOG) {
        let _ = std::fs::remove_file(path);
        return Err(error.into());
    }
    Ok(UnixListener::from(socket))
}

/// Lets a pipe hold more than the 64 KiB that it has at first, if it may.
pub fn widen_pipe(pipe: impl AsFd) {
    // For some users, or too many such pipes, it may not: then it goes on as it was.
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE));
}

/// Moves up to so many bytes between a pipe and something else, if it can be done at
/// once: the pages that they are in, and nobody copies them.
pub fn splice(from: impl AsFd, to: impl AsFd, count: usize) -> io::Result<usize> {
    loop {
        let flags = nix::fcntl::SpliceFFlags::SPLICE_F_NONBLOCK;
        match nix::fcntl::splice(&from, None, &to, None, count, flags) {
            Err(nix::Error::EINTR) => {}
            moved => return Ok(moved?),
        }
    }
}

/// Lets the allocator keep what is freed for what is allocated next.
///
/// glibc gives memory back to the system from 128 KiB on, and gets it again page by
/// page: a tenth of the time of a bulk stream, whose blocks come and go by the
/// quarter of a MiB. It does so from twice the size of the largest block that was
/// ever freed on (mallopt(3), M_MMAP_THRESHOLD). This one is never touched.
pub fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(16 << 20)));
}

/// Becomes two processes: the one that goes on gets the other's number, the other
/// nothing. Call it while there is one thread.
#[allow(unsafe_code)]
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: with one thread there is no other that could hold a lock or be amid
    // anything, so that the new process may do whatever this one may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(None),
        nix::unistd::ForkResult::Parent { child } => Ok(Pid::from_raw(child.as_raw())),
    }
}

/// The signals that go to all processes of a terminal, and what `kill` sends if it is
/// not told otherwise.
const OUTLIVED: [nix::sys::signal::Signal; 5] = {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP]
};

/// Lets none of those signals end or stop the calling thread and the threads that it starts.
/// What [`spawn_tied`] starts gets them.
pub fn outlive_signals() -> io::Result<()> {
    Ok(SigSet::from_iter(OUTLIVED).thread_block()?)
}

/// Names this process, for ps(1) and top(1).
pub fn name_process(name: &std::ffi::CStr) {
    // It is for people: nothing depends on it.
    let _ = nix::sys::prctl::set_name(name);
}

/// Starts a child that gets SIGTERM when the calling *thread* ends: call it from
/// one that outlives the child, or ends with the process.
#[allow(unsafe_code)]
pub fn spawn_tied(command: &mut Command) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;

    let parent = rustix::process::getpid();
    let outlived = SigSet::from_iter(OUTLIVED);
    let tie = move || {
        outlived.thread_unblock()?;
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        // The parent may have ended before the line above.
        if rustix::process::getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes three system calls and
    // nothing else: it takes no lock and allocates no memory.
    unsafe { command.pre_exec(tie) };
    command.spawn()
}

/// Takes the terminal from a command that is not started yet.
#[allow(unsafe_code)]
pub fn without_terminal(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    let leave = || Ok(rustix::process::setsid().map(drop)?);
    // SAFETY: between fork and exec the closure makes one system call and nothing
    // else: it takes no lock and allocates no memory.
    unsafe { command.pre_exec(leave) };
}

/// Watches a descriptor for what can be read and written. Must be called within a
/// tokio runtime.
#[allow(unsafe_code)]
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: it is one number all the time, and open until it is dropped, which is
    // when it is not watched any more.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Waits for a child's end and leaves it unreaped, so that its number stays its
/// own.
pub fn wait_unreaped(child: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(child), options) {}
}

/// Lets this process and its children open as many files as they may.
pub fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
            tracing::debug!("limit of open files stays: {error}");
        }
    }
}

/// Takes over a file descriptor that this process was started with, other than the
/// standard ones, and keeps it from children. Call it before anything else is opened: then a number in use is
/// not one of our own.
#[allow(unsafe_code)]
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: it is not -1. If nothing is open there the call says so, and does
    // nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and it is nobody else's: nothing in this process has
    // opened anything yet.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Keeps every descriptor of a device of this process's from its children.
///
/// For one that a library has got from another process and left open to them.
#[allow(unsafe_code)]
pub fn keep_from_children(device: &str) -> io::Result<()> {
    let wanted = rustix::fs::stat(device)?.st_rdev;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        // SAFETY: it is not -1. Another thread may have closed it by now, or opened
        // something else by its number: then nothing is found out, or a mark is set
        // that this program sets on all of its files.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(found) = rustix::fs::fstat(borrowed) else { continue };
        let is_device = rustix::fs::FileType::from_raw_mode(found.st_mode).is_char_device();
        if is_device && found.st_rdev == wanted {
            rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

/// Whether this process was started with SIGHUP ignored, as by nohup(1).
pub fn hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (Signal::HUP.as_raw() - 1) != 0)
}

/// A process that is not our child, and surely that one for as long as this is kept.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl From<OwnedFd> for Process {
    fn from(pidfd: OwnedFd) -> Self {
        Self(pidfd)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Process {
    /// The one that has this number now.
    fn open(pid: Pid) -> io::Result<Self> {
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// Sends it a signal, if it is there.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.0, signal);
    }

    /// Waits for its end. Must be called within a tokio runtime.
    #[allow(unsafe_code)]
    pub async fn gone(&self) {
        let fd = self.0.as_fd();
        // SAFETY: `fd` is one number all the time, and open as long as `self` is
        // borrowed, which is as long as this waits.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        // Where that cannot be waited for it is not waited for.
        if let Ok(fd) = registered {
            let _ = fd.readable().await;
        }
    }
}

/// The processes that a process has started, and those that they have; but for
/// those whose parent has ended already.
pub fn descendants(of: Pid) -> Vec<Process> {
    let mut found = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            let Ok(process) = Process::open(child) else { continue };
            // Its number may have become another's before it was opened.
            if parent_of(child) == Some(parent) {
                found.push(process);
                parents.push(child);
            }
        }
    }
    found
}

fn children(of: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| {
        Pid::from_raw(entry.file_name().to_str()?.parse().ok().filter(|pid| *pid > 0)?)
    });
    pids.filter(|pid| parent_of(*pid) == Some(of)).collect()
}

/// By proc_pid_stat(5).
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // After the name, which may hold anything: state, then parent.
    let (_, rest) = stat.rsplit_once(") ")?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok().filter(|pid| *pid > 0)?;
    Pid::from_raw(parent)
}
