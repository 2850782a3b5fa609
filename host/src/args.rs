//! The command line: which words are ours, which are a command's, which are ssh's.
//!
//! Our own options come first, and clap reads them. From the first word that is
//! none of them everything is ssh's, as it stands; [`ssh`] looks at it only to
//! find the destination and to refuse what cannot work. A first word that is the
//! name of a command is that command, unless `--` stands before it.

mod access;
pub mod address;
mod bare;
mod engine;
mod lasting;
mod peer;
mod shell;
pub mod ssh;
mod usage;
pub mod watch;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use self::access::Access;
use self::address::{Announced, Local, Target};
pub use self::engine::Core;
pub use self::lasting::Lasting;
use self::ssh::Far;
pub use self::usage::UsageError;
use self::watch::Watch;
use crate::pipe::openssh::CONNECTIONS;
use crate::pipe::{bare::Peer, far::permit::Permit};
use crate::users::Users;

const USAGE: &str = "\
sshnet-host [OPTIONS] [SSH OPTIONS] [USER@]HOST
       sshnet-host dial [-s SERVICE] HOST!PORT
       sshnet-host listen [-s SERVICE] ADDR!PORT COMMAND [ARG...]
       sshnet-host forward [-s SERVICE] [LADDR:]LPORT|PATH HOST!PORT ...
       sshnet-host socks [-s SERVICE] [ADDR:]PORT
       sshnet-host netstat|ls|cat|write|attach [-s SERVICE] ...
       sshnet-host peer [--permit HOST:PORT]... [--no-listen]
       sshnet-host demo";

const ABOUT: &str = "\
The TCP stack of a host that you reach by ssh, as files: dial from there and \
take calls there, over one ssh connection.

Without a command it connects to HOST by ssh and serves the file tree on a \
private Unix socket, by 9P, and with -m as files, until it is stopped.";

const AFTER: &str = "\
SSH OPTIONS
From the first word that is not one of the options above, everything goes to \
ssh as it stands: -p, -i, -J, -F, -o and so on, before or after HOST. Your \
~/.ssh/config, agent, passwords and host key questions work as always. \
Refused are options that cannot work here: -f -M -O -S -W -G -Q -V -s -P, and \
those for other forwardings: -L -R -D -w. Forwardings in ~/.ssh/config have no \
effect. '--' ends our options, for a host that has the name of a command.

EXAMPLES
  sshnet-host demo                      see it work, on this machine alone
  sshnet-host glenda@example.com        serve example.com's TCP stack
  sshnet-host -m ~/net example.com      and mount it on ~/net
  sshnet-host -s work -p 2222 gateway   call the service 'work'; ssh port 2222
  sshnet-host dial '10.0.0.7!80'        from there to port 80 of 10.0.0.7
  sshnet-host listen '*!8080' cat       take calls there, and echo
  sshnet-host forward 8080 intranet:80  make it port 8080 of this machine
  sshnet-host socks 1080                be a SOCKS5 proxy, for browsers
  sshnet-host --pipe bare --exec 'docker exec -i C psusan'
                                        serve the network of container C

EXIT STATUS
  0  it was stopped, or did what it was asked
  1  it failed; the last line on stderr says why
  2  the command line makes no sense";

const DIAL_AFTER: &str = "\
It ends when the far side ends the connection. When stdin ends, that \
direction is closed and the other goes on.

EXAMPLES
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | sshnet-host dial 'intranet!80'
  ssh -o ProxyCommand='sshnet-host dial %h!%p' inner";

const FORWARD_AFTER: &str = "\
LPORT alone is a port of 127.0.0.1 and, where there is one, of ::1: any user \
of this machine may connect to it. With an address of LADDR, or * for all, \
others may, too. Port 0 is one that is free. With a '/' in it, it is a Unix \
socket that is made at PATH, for you alone, and removed at the end. The far \
end may be a Unix socket, too: /PATH.

Where it listens is printed on stderr; and why, when a dial fails: that \
connection is then reset. It ends when the service ends. 1024 connections are \
served at a time; more wait.

EXAMPLES
  sshnet-host forward 5432 'db.internal!5432'
  sshnet-host forward 8080 'intranet!80' '*:2222' 'git!22'
  sshnet-host forward ./docker.sock /run/docker.sock";

const SOCKS_AFTER: &str = "\
PORT alone is a port of 127.0.0.1 and, where there is one, of ::1: any user of \
this machine may connect to it. With an address of this machine, or * for \
all, others may, too. Port 0 is one that is free; it is printed on stderr.

It dials (CONNECT) to names, IPv4 and IPv6 addresses and asks for no password. \
Names are looked up by the far host. It ends when the service ends. 1024 \
connections are served at a time; more wait. One that has not said within 30 \
seconds what it wants is closed.

EXAMPLES
  sshnet-host socks 1080
  curl --proxy socks5h://127.0.0.1:1080 http://intranet/
  git -c http.proxy=socks5h://127.0.0.1:1080 clone http://git.internal/it";

const LISTEN_AFTER: &str = "\
ADDR is an address of the far host, or * for all. Which ones may be bound is \
up to its sshd (GatewayPorts in sshd_config). Port 0 is one that it picks. \
The address is printed on stderr. COMMAND finds both ends of its call in \
SSHNET_LOCAL and SSHNET_REMOTE. A call ends when its COMMAND has ended and \
its output is sent.

EXAMPLES
  sshnet-host listen '127.0.0.1!7' cat
  sshnet-host listen '*!8080' sh -c 'echo you are $SSHNET_REMOTE'";

const WRITE_AFTER: &str = "\
Each line of stdin is a write of its own, without its newline; empty lines \
are left out. The first one that is refused ends it. To 'data' bytes are \
written as they come. The file is open until stdin ends: a client that was \
made by writing to clone lives so long.

EXAMPLES
  echo hangup | sshnet-host write tcp/0/ctl";

const ATTACH_AFTER: &str = "\
EXAMPLES
  From Plan 9, the network of a host that this machine serves:
    srv -e 'ssh me@this.machine sshnet-host attach' sshnet /n/sshnet";

const DIAL_USAGE: &str = "sshnet-host dial [-s SERVICE] HOST!PORT";
const FORWARD_USAGE: &str = "sshnet-host forward [-s SERVICE] [LADDR:]LPORT|PATH HOST!PORT ...";
const SOCKS_USAGE: &str = "sshnet-host socks [-s SERVICE] [ADDR:]PORT";
const LISTEN_USAGE: &str = "sshnet-host listen [-s SERVICE] ADDR!PORT COMMAND [ARG...]";

/// What clap reads.
#[derive(Debug, Parser)]
#[command(
    name = "sshnet-host",
    version,
    about = ABOUT,
    override_usage = USAGE,
    after_help = AFTER,
    max_term_width = 80,
    disable_help_subcommand = true,
    disable_version_flag = true
)]
struct CommandLine {
    /// Name of the service: its socket is NAME in a private directory, or NAME
    /// itself if there is a '/' in it. Without it: the name of the host.
    #[arg(short, value_name = "NAME")]
    service: Option<OsString>,

    #[command(flatten)]
    serving: Serving,

    /// Print the version.
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Option<Subcommands>,
}

/// Options that only serving has.
#[derive(Args, Debug)]
struct Serving {
    /// Mount the tree on the directory MTPT, by FUSE. It needs the package fuse3,
    /// and no root.
    #[arg(short, value_name = "MTPT")]
    mount: Option<PathBuf>,

    /// Where the tree will be: what the file cs answers with. Without it: MTPT
    /// with -m, else /net.
    #[arg(long, value_name = "PATH", value_parser = prefix)]
    prefix: Option<String>,

    /// Log every 9P message to stderr.
    #[arg(short = 'D')]
    debug: bool,

    #[command(flatten)]
    core: Core,

    /// Do not give up rights once the service is up: for looking into this program.
    #[arg(long)]
    keep_rights: bool,

    /// Close file descriptor N once the service is up, for scripts.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    ready_fd: Option<i32>,

    /// Show who calls, in 'remote', for announced ports. Costs: a refused
    /// announcement is not noticed, a port is not free while its calls last.
    #[arg(long)]
    caller_address: bool,

    /// Spread dials over N ssh connections, 16 at most, where one sshd is too slow.
    /// The first may ask for a password; the others must get in without.
    #[arg(long, value_name = "N", value_parser = connections, default_value = "1")]
    connections: usize,

    /// What leads to the far side. 'openssh-fd' is ssh, too, by a socket of its own for
    /// each dial, where ssh's proxy mode will not do. 'bare' is a program that speaks PuTTY's bare
    /// ssh-connection: psusan, or 'sshnet-host peer'. 'plan9' is one that does the
    /// ssh itself and passes on its messages, each as a packet. 'loopback' is this
    /// machine as its own far side, for trying things out. They take no HOST.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Kind::Openssh)]
    pipe: Kind,

    #[command(flatten)]
    bare: bare::Bare,

    #[command(flatten)]
    access: Access,

    #[command(flatten)]
    lasting: Lasting,

    #[command(flatten)]
    watch: Watch,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Kind {
    Openssh,
    OpensshFd,
    Bare,
    Plan9,
    Loopback,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Connect stdin and stdout to a service, dialled from the far host.
    #[command(after_help = DIAL_AFTER, override_usage = DIAL_USAGE)]
    Dial {
        #[command(flatten)]
        using: Using,
        /// HOST!PORT, tcp!HOST!PORT or HOST:PORT, there with an IPv6 address in
        /// brackets. PORT is a number or a name of /etc/services. Or a Unix socket
        /// over there: /PATH or unix!/PATH.
        #[arg(value_parser = address::target, value_name = "HOST!PORT")]
        target: Target,
    },
    /// Make far services ports, or Unix sockets, of this machine: for programs
    /// that connect to those.
    #[command(after_help = FORWARD_AFTER, override_usage = FORWARD_USAGE)]
    Forward {
        #[command(flatten)]
        using: Using,
        /// Where programs connect, and where each of their connections is dialled
        /// to, as for dial. One or more such pairs.
        #[arg(required = true, num_args = 2.., value_names = ["[LADDR:]LPORT|PATH", "HOST!PORT"])]
        pairs: Vec<String>,
    },
    /// Be a SOCKS5 proxy on a port of this machine that dials from the far host.
    #[command(after_help = SOCKS_AFTER, override_usage = SOCKS_USAGE)]
    Socks {
        #[command(flatten)]
        using: Using,
        /// Where programs connect.
        #[arg(value_parser = address::near, value_name = "[ADDR:]PORT")]
        local: Local,
    },
    /// Take calls at the far host: one COMMAND for each, with the connection as
    /// its stdin and stdout.
    #[command(after_help = LISTEN_AFTER, override_usage = LISTEN_USAGE)]
    Listen {
        #[command(flatten)]
        using: Using,
        /// ADDR!PORT, ADDR:PORT, or PORT alone for all addresses.
        #[arg(value_parser = address::announced, value_name = "ADDR!PORT")]
        address: Announced,
        /// What to run, and its arguments.
        #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// List the conversations: state, addresses, bytes, last error.
    Netstat {
        #[command(flatten)]
        using: Using,
        /// As an array of JSON objects, one on a line.
        #[arg(long)]
        json: bool,
    },
    /// List a directory of the tree.
    Ls {
        #[command(flatten)]
        using: Using,
        /// Such as tcp or tcp/0; without it the root.
        #[arg(default_value = "/", hide_default_value = true)]
        path: String,
    },
    /// Copy a file of the tree to stdout.
    Cat {
        #[command(flatten)]
        using: Using,
        /// Such as tcp/0/status.
        path: String,
    },
    /// Copy stdin to a file of the tree.
    #[command(after_help = WRITE_AFTER)]
    Write {
        #[command(flatten)]
        using: Using,
        /// Such as tcp/0/ctl.
        path: String,
    },
    /// Serve 9P on stdin and stdout, for whoever mounts it from there.
    #[command(after_help = ATTACH_AFTER)]
    Attach {
        #[command(flatten)]
        using: Using,
    },
    /// Be the far side of a bare ssh-connection on stdin and stdout, for who has it
    /// run here.
    #[command(after_help = peer::AFTER, override_usage = peer::USAGE)]
    Peer(peer::Peer),
    /// Print the completions for a shell.
    Completions {
        /// Which.
        shell: Shell,
    },
    /// Print the manual page, or that of a command: sshnet-host man | man -l -
    Man {
        /// The command.
        command: Option<String>,
    },
    /// Show the whole thing at work on this machine alone: no ssh, no root, no
    /// set-up.
    Demo,
}

/// The option of commands that use a service.
#[derive(Args, Debug)]
struct Using {
    /// The service to use. Without it: the one that is up; if there are several,
    /// they are listed.
    #[arg(short, value_name = "SERVICE")]
    service: Option<OsString>,
}

/// What is to be done.
#[derive(Debug, Eq, PartialEq)]
pub enum Action {
    /// Serve a far side.
    Serve(Box<Serve>),
    /// Connect stdin and stdout to a far service.
    Dial {
        /// By which service; `None`: the one that is up.
        service: Option<OsString>,
        /// Where to.
        target: Target,
    },
    /// Dial for programs of this machine.
    Forward {
        /// By which service; `None`: the one that is up.
        service: Option<OsString>,
        /// Where they connect, and where to that is dialled.
        pairs: Vec<(Local, Target)>,
    },
    /// Dial where programs of this machine say, by SOCKS5.
    Socks {
        /// By which service; `None`: the one that is up.
        service: Option<OsString>,
        /// Where they connect.
        local: Local,
    },
    /// Take calls at the far side.
    Listen {
        /// By which service; `None`: the one that is up.
        service: Option<OsString>,
        /// Where.
        address: Announced,
        /// What to run for each call.
        command: Vec<OsString>,
    },
    /// List the conversations.
    Netstat {
        /// Of which service; `None`: the one that is up. So for the others.
        service: Option<OsString>,
        /// For programs.
        json: bool,
    },
    /// Do something with a file of the tree.
    File {
        /// By which service.
        service: Option<OsString>,
        /// What.
        what: FileAction,
        /// The file.
        path: String,
    },
    /// Serve on stdin and stdout.
    Attach {
        /// Which service.
        service: Option<OsString>,
    },
    /// Be a far side on stdin and stdout.
    Peer(Permit),
    /// Print this.
    Print(String),
    /// Show it at work.
    Demo,
}

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileAction {
    /// To list what is in it.
    Ls,
    /// To copy it to stdout.
    Cat,
    /// To copy stdin to it.
    Write,
}

/// How to serve.
#[derive(Debug, Eq, PartialEq)]
pub struct Serve {
    /// The service's name; a path if there is a `/` in it.
    pub service: OsString,
    /// Where to mount the tree.
    pub mount: Option<PathBuf>,
    /// What `cs` puts before its answers; `None`: where the tree is mounted, or
    /// else /net.
    pub prefix: Option<String>,
    /// Whether to log every 9P message.
    pub debug: bool,
    /// The component to use, and what it may have.
    pub core: Core,
    /// What to close when the service is up.
    pub ready_fd: Option<i32>,
    /// Whether the process may do all the time what it may at first.
    pub keep_rights: bool,
    /// What leads to the far side.
    pub pipe: Pipe,
    /// What becomes of a connection that ends.
    pub lasting: Lasting,
    /// Where else to serve.
    pub listen: Option<Listen>,
    /// Whom to serve.
    pub users: Users,
    /// What to log, and where the figures are.
    pub watch: Watch,
    /// Whether a short read is no reason to end the next one.
    pub exact_reads: bool,
}

/// A TCP port of this machine to serve on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listen {
    /// Its address; port 0 is any that is free.
    pub address: SocketAddr,
    /// Whether to serve whoever connects.
    pub anybody: bool,
}

/// What leads to the far side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Pipe {
    /// ssh.
    Openssh(Openssh),
    /// Whoever speaks a bare connection.
    Bare(Peer),
    /// A command line whose writes are messages.
    Plan9(OsString),
    /// This machine is its own far side.
    Loopback,
}

/// How ssh leads there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Openssh {
    /// Its destination and options.
    pub far: Far,
    /// Whether calls are to come with their caller's address.
    pub caller_address: bool,
    /// Over how many connections dials are spread.
    pub connections: usize,
    /// Whether each dial has a socket of its own to ssh.
    pub by_descriptor: bool,
}

/// Reads a command line, the program's name included.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Action, UsageError> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    if words.is_empty() {
        words.push("sshnet-host".into());
    }
    let (mut ours, rest) = split(words);
    let is_command = matches!(rest, Rest::Command(_));
    let rest = match rest {
        Rest::Command(words) => {
            ours.extend(words);
            Vec::new()
        }
        Rest::Ssh(words) => words,
    };
    let line = CommandLine::try_parse_from(ours)?;
    match line.command {
        Some(command) => {
            if !line.serving.is_default() {
                return Err(UsageError::new(
                    "of the options before a command, only -s has a meaning; the others are for\n\
                     serving (for a host that has a command's name: sshnet-host ... -- NAME)",
                ));
            }
            action(command, line.service)
        }
        None if is_command => Err(UsageError::new("there is no command")),
        None => serve(line.service, line.serving, rest).map(|serve| Action::Serve(Box::new(serve))),
    }
}

fn action(command: Subcommands, service: Option<OsString>) -> Result<Action, UsageError> {
    Ok(match command {
        Subcommands::Dial { using, target } => {
            Action::Dial { service: using.service.or(service), target }
        }
        Subcommands::Forward { using, pairs: words } => {
            Action::Forward { service: using.service.or(service), pairs: pairs(&words)? }
        }
        Subcommands::Socks { using, local } => {
            Action::Socks { service: using.service.or(service), local }
        }
        Subcommands::Listen { using, address, command } => {
            Action::Listen { service: using.service.or(service), address, command }
        }
        Subcommands::Netstat { using, json } => {
            Action::Netstat { service: using.service.or(service), json }
        }
        Subcommands::Ls { using, path } => {
            Action::File { service: using.service.or(service), what: FileAction::Ls, path }
        }
        Subcommands::Cat { using, path } => {
            Action::File { service: using.service.or(service), what: FileAction::Cat, path }
        }
        Subcommands::Write { using, path } => {
            Action::File { service: using.service.or(service), what: FileAction::Write, path }
        }
        Subcommands::Attach { using } => Action::Attach { service: using.service.or(service) },
        Subcommands::Completions { .. } | Subcommands::Man { .. } | Subcommands::Peer(_)
            if service.is_some() =>
        {
            return Err(UsageError::new("-s has no meaning here: no service is used"));
        }
        Subcommands::Peer(peer) => Action::Peer(peer.permit()),
        Subcommands::Completions { shell } => Action::Print(shell::completions(shell)),
        Subcommands::Man { command } => Action::Print(shell::manual(command.as_deref())?),
        Subcommands::Demo if service.is_some() => {
            return Err(UsageError::new("demo takes no -s: it brings its own service"));
        }
        Subcommands::Demo => Action::Demo,
    })
}

/// Reads what `forward` is given.
fn pairs(words: &[String]) -> Result<Vec<(Local, Target)>, UsageError> {
    let bad = |word: &str, what: &str, why: String| {
        UsageError::new(format_args!("invalid value '{word}' for '<{what}>': {why}"))
    };
    let mut pairs = Vec::new();
    for pair in words.chunks(2) {
        let [local, target] = pair else {
            return Err(UsageError::new(format_args!(
                "'{}' has no HOST!PORT behind it, where it is to lead",
                pair.concat()
            )));
        };
        let local =
            address::near_or_path(local).map_err(|why| bad(local, "[LADDR:]LPORT|PATH", why))?;
        let target = address::target(target).map_err(|why| bad(target, "HOST!PORT", why))?;
        pairs.push((local, target));
    }
    Ok(pairs)
}

fn serve(
    service: Option<OsString>,
    serving: Serving,
    rest: Vec<OsString>,
) -> Result<Serve, UsageError> {
    let Serving {
        mount,
        prefix,
        debug,
        core,
        ready_fd,
        keep_rights,
        caller_address,
        connections,
        pipe,
        bare,
        access,
        lasting,
        watch,
    } = serving;
    let exact_reads = access.exact_reads;
    if let Some(fd) = ready_fd.filter(|fd| *fd < 3) {
        return Err(UsageError::new(format_args!(
            "--ready-fd {fd}: must be 3 or more (0 to 2 are stdin, stdout and stderr)"
        )));
    }
    if !matches!(pipe, Kind::Bare | Kind::Plan9) {
        bare.absent()?;
    }
    if pipe != Kind::Openssh && caller_address {
        return Err(UsageError::new("--caller-address is for --pipe openssh alone"));
    }
    if !matches!(pipe, Kind::Openssh | Kind::OpensshFd) && connections > 1 {
        return Err(UsageError::new("--connections is for ssh: the others have no more than one"));
    }
    let (pipe, name) = match pipe {
        Kind::Bare => (Pipe::Bare(bare.peer("bare", &rest)?), "bare".into()),
        Kind::Plan9 => match bare.peer("plan9", &rest)? {
            Peer::Command(command) => (Pipe::Plan9(command), "plan9".into()),
            Peer::Socket(_) => {
                return Err(UsageError::new("--connect: --pipe plan9 takes --exec COMMAND only"));
            }
        },
        Kind::Openssh | Kind::OpensshFd => {
            let far = ssh::read(rest).map_err(UsageError::new)?;
            let name = far.host();
            let by_descriptor = pipe == Kind::OpensshFd;
            (Pipe::Openssh(Openssh { far, caller_address, connections, by_descriptor }), name)
        }
        Kind::Loopback => {
            if let Some(word) = rest.first() {
                return Err(UsageError::new(format_args!(
                    "'{}': --pipe loopback takes no host and no ssh options",
                    word.display()
                )));
            }
            (Pipe::Loopback, "loopback".into())
        }
    };
    let service = service.unwrap_or(name);
    let (listen, users) = access.read(&service)?;
    Ok(Serve {
        service,
        mount,
        prefix,
        debug,
        core,
        ready_fd,
        keep_rights,
        pipe,
        lasting,
        listen,
        users,
        watch,
        exact_reads,
    })
}

impl Serving {
    fn is_default(&self) -> bool {
        self.mount.is_none()
            && self.prefix.is_none()
            && !self.debug
            && self.core == Core::default()
            && self.ready_fd.is_none()
            && !self.keep_rights
            && !self.caller_address
            && self.connections == 1
            && self.pipe == Kind::Openssh
            && self.bare == bare::Bare::default()
            && self.access == Access::default()
            && self.lasting == Lasting::default()
            && self.watch == Watch::default()
    }
}

/// What comes after our own options.
enum Rest {
    Command(Vec<OsString>),
    Ssh(Vec<OsString>),
}

/// Splits off the words that are ours; the first is the program's name.
fn split(words: Vec<OsString>) -> (Vec<OsString>, Rest) {
    let mut ours = Vec::new();
    let mut words = words.into_iter();
    ours.extend(words.next());
    while let Some(word) = words.next() {
        match kind(&word) {
            Word::Flag => ours.push(word),
            Word::WithValue => {
                ours.push(word);
                ours.extend(words.next());
            }
            Word::End => return (ours, Rest::Ssh(words.collect())),
            Word::Command => {
                return (ours, Rest::Command(std::iter::once(word).chain(words).collect()));
            }
            Word::Other => {
                return (ours, Rest::Ssh(std::iter::once(word).chain(words).collect()));
            }
        }
    }
    (ours, Rest::Ssh(Vec::new()))
}

enum Word {
    /// Ours, and complete.
    Flag,
    /// Ours; its value is the next word.
    WithValue,
    /// `--`
    End,
    /// The name of a command.
    Command,
    Other,
}

fn kind(word: &OsStr) -> Word {
    match word.as_bytes() {
        b"--" => Word::End,
        b"-s" | b"-m" | b"--prefix" | b"--core" | b"--ready-fd" | b"--pipe" | b"--listen"
        | b"--exec" | b"--connect" | b"--connections" | b"--core-memory" | b"--core-fuel"
        | b"--allow-user" | b"--dial-wait" | b"--keepalive" | b"--record" | b"--log-level"
        | b"--log-format" | b"--metrics" => Word::WithValue,
        b"-D" | b"-h" => Word::Flag,
        // Of long options ssh has none: clap says what is wrong with this one.
        [b'-', b'-', ..] | [b'-', b's' | b'm', ..] => Word::Flag,
        b"dial" | b"listen" | b"forward" | b"socks" | b"demo" => Word::Command,
        b"netstat" | b"ls" | b"cat" | b"write" | b"attach" => Word::Command,
        b"peer" | b"completions" | b"man" => Word::Command,
        _ => Word::Other,
    }
}

/// Reads how many ssh connections there are to be.
fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=CONNECTIONS) => Ok(count),
        _ => Err(format!("it must be 1 to {CONNECTIONS}")),
    }
}

/// Checks what is to stand before the answers of `cs`.
pub fn prefix(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err("it must start with '/'".to_owned());
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("spaces and control characters would break the answers of cs".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests;
