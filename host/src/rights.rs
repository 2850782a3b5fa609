//! What this process may ask the kernel for once it is up, by seccomp(2).
//!
//! From then on it reads what a far side and 9P clients send, so it keeps what it
//! needs for that and no more: a list of system calls, some of them with a look at an
//! argument; any other does not exist for it. It starts no program (the
//! [`crate::starter`] does), opens no file, and makes sockets of this machine alone;
//! unless it is the far side itself, whose part it is to reach others. All threads
//! lose the same, for good.
//!
//! A path is nothing that seccomp sees. So it may still connect to Unix sockets, and
//! remove files; it has to, for its own.

use std::collections::BTreeMap;

use nix::libc::{self, c_long};
use seccompiler::SeccompCmpArgLen::{self, Dword, Qword};
use seccompiler::SeccompCmpOp::{self, Eq, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

/// What a process is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// It passes on what a pipe and its clients say.
    Carrier,
    /// It is the far side, too: it dials and takes calls, by name and by path.
    FarSide,
}

/// Why rights are still there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RightsError(String);

/// Gives up, in all threads, what this part does not need; or warns that it cannot.
pub fn give_up(part: Part) {
    let apply = |filter: BpfProgram| seccompiler::apply_filter_all_threads(&filter);
    if let Err(error) = filter(part).and_then(|filter| apply(filter).map_err(refused)) {
        tracing::warn!("this process keeps its rights: {error}");
    }
}

fn refused(error: impl std::fmt::Display) -> RightsError {
    RightsError(error.to_string())
}

/// System calls that every part makes, of kinds that do no harm by themselves: with
/// descriptors, memory, time, threads and signals; and to make and remove a directory
/// and the sockets in it.
#[rustfmt::skip]
const ALWAYS: &[c_long] = &[
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2,
    libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64, libc::SYS_pwritev,
    libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_splice, libc::SYS_close,
    libc::SYS_close_range, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_pipe2,
    libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_fadvise64, libc::SYS_flock,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_fstatfs,
    libc::SYS_statfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_mkdirat, libc::SYS_unlinkat,
    libc::SYS_umask,
    libc::SYS_connect, libc::SYS_bind, libc::SYS_listen,
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_shutdown, libc::SYS_sendto,
    libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_recvfrom, libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    libc::SYS_signalfd4,
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_mincore,
    libc::SYS_memfd_create, libc::SYS_membarrier,
    libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_set_robust_list, libc::SYS_rseq,
    libc::SYS_set_tid_address, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_times,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending, libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_kill, libc::SYS_tkill,
    libc::SYS_tgkill, libc::SYS_pidfd_send_signal, libc::SYS_wait4, libc::SYS_waitid,
    libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_getrandom, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid,
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_uname,
    libc::SYS_sysinfo, libc::SYS_getrusage,
];

/// The same by their old names, which newer machines do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALWAYS_OLD: &[c_long] = &[
    libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_dup2,
    libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create,
    libc::SYS_epoll_wait, libc::SYS_eventfd, libc::SYS_time, libc::SYS_getrlimit,
    libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_OLD: &[c_long] = &[];

/// What a far side makes, too. To find a name's address it opens files, and the C
/// library loads code for it.
#[rustfmt::skip]
const FAR_SIDE: &[c_long] = &[
    libc::SYS_openat, libc::SYS_socket, libc::SYS_mmap, libc::SYS_mprotect,
];
#[cfg(target_arch = "x86_64")]
const FAR_SIDE_OLD: &[c_long] = &[libc::SYS_open];
#[cfg(not(target_arch = "x86_64"))]
const FAR_SIDE_OLD: &[c_long] = &[];

/// What is asked of a descriptor: not to block, to be closed in children, how much can
/// be read, whether it is a terminal and how large. The numbers are those of Linux on
/// each architecture that the filter is for; nothing types into a terminal.
const IOCTLS: [u64; 6] = [
    0x5421,      // FIONBIO
    0x5451,      // FIOCLEX
    0x541b,      // FIONREAD
    0x5401,      // TCGETS
    0x802c_542a, // TCGETS2
    0x5413,      // TIOCGWINSZ
];
/// In arguments: that of [`libc::prctl`] by which the C library names memory.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// What each part does with one of its arguments looked at.
fn looked_at(part: Part) -> Result<Vec<(c_long, Vec<SeccompRule>)>, RightsError> {
    let directory = |argument| {
        let access = libc::O_TMPFILE | libc::O_CREAT | libc::O_ACCMODE;
        one(argument, Dword, MaskedEq(number(access)), number(libc::O_DIRECTORY))
    };
    let code = |argument| one(argument, Qword, MaskedEq(number(libc::PROT_EXEC)), 0);
    let thread = number(libc::CLONE_THREAD);
    let mut rules = vec![
        // A thread, and no process.
        (libc::SYS_clone, vec![one(0, Qword, MaskedEq(thread), thread)?]),
        (
            libc::SYS_ioctl,
            IOCTLS.iter().map(|code| one(1, Dword, Eq, *code)).collect::<Result<_, _>>()?,
        ),
        // Of this process alone.
        (libc::SYS_prlimit64, vec![one(0, Dword, Eq, 0)?]),
        // For a socket that is not bound yet. A directory would do, too.
        (libc::SYS_fchmod, vec![one(1, Dword, Eq, 0o600)?]),
        (libc::SYS_socketpair, vec![one(0, Dword, Eq, number(libc::AF_UNIX))?]),
        (
            libc::SYS_prctl,
            vec![one(0, Dword, Eq, number(libc::PR_SET_NAME))?, one(0, Dword, Eq, PR_SET_VMA)?],
        ),
    ];
    if part == Part::Carrier {
        rules.extend([
            (libc::SYS_openat, vec![directory(2)?]),
            (libc::SYS_socket, vec![one(0, Dword, Eq, number(libc::AF_UNIX))?]),
            (libc::SYS_mmap, vec![code(2)?]),
            (libc::SYS_mprotect, vec![code(2)?]),
        ]);
        #[cfg(target_arch = "x86_64")]
        rules.push((libc::SYS_open, vec![directory(1)?]));
    }
    Ok(rules)
}

/// One argument of a call, which is to be so.
fn one(
    argument: u8,
    length: SeccompCmpArgLen,
    is: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, RightsError> {
    all(vec![condition(argument, length, is, value)?])
}

fn all(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, RightsError> {
    SeccompRule::new(conditions).map_err(refused)
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    is: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, RightsError> {
    SeccompCondition::new(argument, length, is, value).map_err(refused)
}

/// A flag or a number of C's, which is not negative.
fn number(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

fn filter(part: Part) -> Result<BpfProgram, RightsError> {
    let mut whole = [ALWAYS, ALWAYS_OLD].concat();
    if part == Part::FarSide {
        whole.extend([FAR_SIDE, FAR_SIDE_OLD].concat());
    }
    let whole = whole.into_iter().map(|call| (call, Vec::new()));
    let rules: BTreeMap<i64, _> = whole.chain(looked_at(part)?).collect();
    // As of a kernel that does not have them: a C library then makes an older one.
    let missing = SeccompAction::Errno(number(libc::ENOSYS) as u32);
    let architecture = std::env::consts::ARCH.try_into().map_err(refused)?;
    let filter = SeccompFilter::new(rules, missing, SeccompAction::Allow, architecture);
    filter.and_then(BpfProgram::try_from).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{self, File};
    use std::io;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;
    use std::thread;

    use rustix::fs::Mode;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    use wasmtime::{Engine, Module};

    /// `(module (func))`: to run it, machine code is made.
    const FUNCTION: &[u8] =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x04\x01\x02\0\x0b";

    /// Does it in a thread that has given up what this part does not need.
    fn as_part<T: Send>(part: Part, work: impl FnOnce() -> T + Send) -> T {
        let filter = filter(part).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                seccompiler::apply_filter(&filter).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    fn is_missing<T: std::fmt::Debug>(what: &str, outcome: io::Result<T>) {
        let error = outcome.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{what}: {error}");
    }

    #[test]
    fn a_carrier_opens_no_file_starts_no_program_and_reaches_no_network() {
        let there = tempfile::tempdir().unwrap();
        let (file, link) = (there.path().join("file"), there.path().join("link"));
        fs::write(&file, "secret").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (directory, flags) = (File::open(there.path()).unwrap(), SocketFlags::CLOEXEC);
        let wasmtime = Engine::default();
        Module::new(&wasmtime, FUNCTION).unwrap();
        as_part(Part::Carrier, || {
            is_missing("read", File::open(&file));
            is_missing("write", File::options().append(true).open(&file));
            is_missing("create", File::create(there.path().join("new")));
            is_missing("rename", fs::rename(&file, &link));
            is_missing("link", fs::hard_link(&file, &link));
            is_missing("symbolic link", std::os::unix::fs::symlink(&file, &link));
            is_missing(
                "mode",
                fs::set_permissions(&file, fs::metadata(&file).unwrap().permissions()),
            );
            is_missing("program", Command::new("/bin/true").status());
            is_missing("connect", std::net::TcpStream::connect(address));
            is_missing("bind", TcpListener::bind("127.0.0.1:0"));
            is_missing("fork", crate::sys::fork());
            let pair = |family| rustix::net::socketpair(family, SocketType::STREAM, flags, None);
            is_missing("sockets", pair(AddressFamily::INET).map_err(io::Error::from));
            let open = rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o777));
            is_missing("mode of a directory", open.map_err(io::Error::from));
            let code = Module::new(&wasmtime, FUNCTION).unwrap_err();
            assert!(format!("{code:#}").contains("os error 38"), "{code:#}");
        });
        assert_eq!(fs::read_to_string(&file).unwrap(), "secret");
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_carrier_has_memory_threads_directories_and_sockets_of_this_machine() {
        let there = tempfile::tempdir().unwrap();
        as_part(Part::Carrier, || {
            let directory = there.path().join("directory");
            fs::create_dir(&directory).unwrap();
            let socket = directory.join("socket");
            let _listener = UnixListener::bind(&socket).unwrap();
            let _stream = UnixStream::connect(&socket).unwrap();
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
            fs::remove_dir_all(&directory).unwrap();
            let large = thread::Builder::new().name("named".to_owned());
            let large = large.spawn(|| vec![1_u8; 64 << 20]).unwrap().join().unwrap();
            assert_eq!(large.last(), Some(&1));
            let runtime = crate::runtime::build().unwrap();
            let blocking = async { tokio::task::spawn_blocking(|| 7).await };
            assert_eq!(runtime.block_on(blocking).unwrap(), 7);
        });
    }

    #[test]
    fn a_far_side_reaches_others_by_name_and_starts_no_program() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        as_part(Part::FarSide, || {
            std::net::TcpStream::connect(("localhost", port)).unwrap();
            TcpListener::bind("127.0.0.1:0").unwrap();
            is_missing("program", Command::new("/bin/true").status());
            is_missing("link", fs::hard_link("/nothing", "/nowhere"));
        });
    }
}
