//! Command lines: what is taken, and as what; what is refused, and why.

use std::time::Duration;

use super::*;
use crate::log::{Format, Level};

fn parsed(line: &str) -> Result<Action, UsageError> {
    parse(std::iter::once("sshnet-host").chain(line.split_whitespace()).map(OsString::from))
}

fn served(line: &str) -> Serve {
    match parsed(line) {
        Ok(Action::Serve(serve)) => *serve,
        other => panic!("{line}: {other:?}"),
    }
}

/// ssh's options, its destination, the service's name.
fn far(line: &str) -> (String, String, String) {
    let serve = served(line);
    let Pipe::Openssh(Openssh { far, .. }) = serve.pipe else { panic!("{line}") };
    let options = far.options.join(OsStr::new(" ")).into_string().unwrap();
    (options, far.destination.into_string().unwrap(), serve.service.into_string().unwrap())
}

fn refused(line: &str) -> String {
    match parsed(line) {
        Err(error) if !error.help => {
            assert!(error.text.starts_with("sshnet-host: "), "{line}: {}", error.text);
            for line in error.text.lines() {
                assert!(line.chars().count() <= 80, "too wide: {line}");
            }
            error.text
        }
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn from_the_first_word_that_is_not_ours_everything_is_sshs() {
    for (line, options, destination, service) in [
        ("host", "", "host", "host"),
        ("glenda@host", "", "glenda@host", "host"),
        ("-s web -p 2222 -o Foo=bar user@host", "-p 2222 -o Foo=bar", "user@host", "web"),
        ("-sweb host", "", "host", "web"),
        ("-p2222 host", "-p2222", "host", "host"),
        ("-4v host", "-4v", "host", "host"),
        ("-vp 22 host -i key -C", "-vp 22 -i key -C", "host", "host"),
        ("-D -i -x host", "-i -x", "host", "host"),
        ("-i demo host", "-i demo", "host", "host"),
        ("-l dial host", "-l dial", "host", "host"),
        ("-oProxyJump=a host", "-oProxyJump=a", "host", "host"),
        ("-F none -J a,b host", "-F none -J a,b", "host", "host"),
        ("-p 22 -- host", "-p 22", "host", "host"),
        ("-- demo", "", "demo", "demo"),
        ("-D -- dial", "", "dial", "dial"),
        ("-- -p 22 listen", "-p 22", "listen", "listen"),
        ("ssh://u@host:2222", "", "ssh://u@host:2222", "host"),
        ("ssh://[::1]:22/", "", "ssh://[::1]:22/", "::1"),
        ("u@v@host", "", "u@v@host", "host"),
        ("::1", "", "::1", "::1"),
        ("DOMAIN\\user@host", "", "DOMAIN\\user@host", "host"),
    ] {
        let expected = (options.to_owned(), destination.to_owned(), service.to_owned());
        assert_eq!(far(line), expected, "{line}");
    }
}

#[test]
fn our_options_are_read() {
    let serve = served("-D --prefix /n/far/ --core c.wasm --ready-fd 3 --caller-address host");
    assert!(serve.debug);
    assert_eq!(serve.prefix.as_deref(), Some("/n/far"));
    assert_eq!(serve.core.file, Some(PathBuf::from("c.wasm")));
    assert_eq!(serve.ready_fd, Some(3));
    let watch = served("--log-level debug --log-format json --metrics /m host").watch;
    assert_eq!((watch.log_level, watch.log_format), (Some(Level::Debug), Format::Json));
    assert_eq!(watch.metrics, Some(watch::Place::Path("/m".into())));
    let watch = served("--metrics tcp!127.0.0.1!9 host").watch;
    assert_eq!(watch.metrics, Some(watch::Place::Port("127.0.0.1:9".parse().unwrap())));
    let given = served("--core-memory 64 --core-fuel=100 --allow-user 7 -s /x host");
    assert_eq!((given.core.memory, given.core.fuel), (Some(64), Some(100)));
    assert_eq!(served("--record r host").core.record, Some(PathBuf::from("r")));
    assert!(given.users.may(7) && !given.users.may(8));
    assert!(!served("--listen tcp!127.0.0.1!1 --allow-user 8 host").users.may(7));
    assert!(matches!(serve.pipe, Pipe::Openssh(Openssh { caller_address: true, .. })));
    for (line, wanted) in [("host", 1), ("--connections 3 host", 3), ("--connections=16 host", 16)]
    {
        let Pipe::Openssh(Openssh { connections, .. }) = served(line).pipe else {
            panic!("{line}")
        };
        assert_eq!(connections, wanted, "{line}");
    }
    assert_eq!(served("--prefix=/x host").prefix.as_deref(), Some("/x"));
    assert_eq!(served("host").prefix, None);
    assert_eq!(served("host").mount, None);
    assert_eq!(served("-m /n/far host").mount, Some("/n/far".into()));
    assert_eq!(served("-mnet -s x host").mount, Some("net".into()));
    // After the first word that is not ours it is ssh's.
    assert_eq!(
        far("host -m hmac-sha2-256"),
        ("-m hmac-sha2-256".into(), "host".into(), "host".into())
    );
    assert_eq!(served("-p 22 -m hmac-sha2-256 host").mount, None);
    let serve = served("--pipe loopback -s name");
    assert_eq!((serve.pipe, serve.service), (Pipe::Loopback, "name".into()));
    assert_eq!(served("--pipe=loopback").service, "loopback");
    for (line, by_descriptor) in [("--pipe openssh host", false), ("--pipe openssh-fd host", true)]
    {
        let Pipe::Openssh(ssh) = served(line).pipe else { panic!("{line}") };
        assert_eq!(ssh.by_descriptor, by_descriptor, "{line}");
    }
}

#[test]
fn a_plan9_pipe_takes_a_command_and_nothing_else() {
    let serve = served("--pipe plan9 --exec cat");
    assert_eq!((serve.pipe, serve.service), (Pipe::Plan9("cat".into()), "plan9".into()));
    for (line, says) in [
        ("--pipe plan9", "--pipe plan9: who is to speak is missing: --exec COMMAND"),
        ("--pipe plan9 --connect /x", "--pipe plan9 takes --exec COMMAND only"),
        ("--pipe plan9 --exec cat host", "'host': --pipe plan9 takes no host"),
        ("--pipe plan9 --caller-address --exec x", "--caller-address is for --pipe openssh"),
    ] {
        let text = refused(line).replace('\n', " ");
        assert!(text.contains(says), "{line}: {text}");
    }
}

#[test]
fn it_is_said_what_becomes_of_a_connection_that_ends() {
    let read = |line: &str| {
        let lasting = served(line).lasting;
        let seconds = |time: Duration| time.as_secs();
        (
            lasting.reconnect().map(seconds),
            seconds(lasting.dial_wait()),
            seconds(lasting.keepalive()),
        )
    };
    for (line, wanted) in [
        ("host", (Some(60), 30, 60)),
        ("--reconnect host", (Some(60), 30, 60)),
        ("--reconnect=yes --dial-wait 0 host", (Some(60), 0, 60)),
        ("--reconnect=5 --dial-wait=7 host", (Some(5), 7, 60)),
        ("--reconnect=no --keepalive 0 host", (None, 0, 0)),
        ("--keepalive 4 --pipe bare --exec x", (Some(60), 30, 4)),
    ] {
        assert_eq!(read(line), wanted, "{line}");
    }
    for (line, says) in [
        ("--reconnect=0 host", "must be 1 at least"),
        ("--reconnect=maybe host", "a number of seconds"),
        ("--dial-wait x host", "a number of seconds"),
        ("--dial-wait +1 host", "a number of seconds"),
        ("--keepalive 3 host", "0, or 4 at least"),
        ("--keepalive 86401 host", "86400 at most"),
        ("--reconnect=no dial h!1", "only -s has a meaning"),
    ] {
        let text = refused(line).replace('\n', " ");
        assert!(text.contains(says), "{line}: {text}");
    }
}

#[test]
fn a_tcp_port_to_serve_on_is_this_machines() {
    for (line, address) in [
        ("--listen tcp!127.0.0.1!5640 host", "127.0.0.1:5640"),
        ("--listen=tcp!127.3.2.1!0 host", "127.3.2.1:0"),
        ("--listen tcp!localhost!1 host", "127.0.0.1:1"),
        ("--listen tcp!::1!1 host", "[::1]:1"),
    ] {
        let listen = Some(Listen { address: address.parse().unwrap(), anybody: false });
        assert_eq!(served(line).listen, listen, "{line}");
    }
    for (line, address) in [
        ("--listen tcp!*!1 --insecure-listen host", "[::]:1"),
        ("--insecure-listen --listen tcp!192.0.2.1!1 host", "192.0.2.1:1"),
    ] {
        let listen = Some(Listen { address: address.parse().unwrap(), anybody: true });
        assert_eq!(served(line).listen, listen, "{line}");
    }
    assert_eq!(served("host").listen, None);
    assert!(served("--exact-reads host").exact_reads && !served("host").exact_reads);
    for (line, says) in [
        ("--listen tcp!*!1 host", "must be an address of this machine"),
        ("--listen tcp!0.0.0.0!1 host", "must be an address of this machine"),
        ("--listen tcp!::ffff:192.0.2.1!1 host", "must be an address of this machine"),
        ("--listen 5640 host", "write tcp!127.0.0.1!PORT"),
        ("--listen udp!127.0.0.1!1 host", "'udp' is not tcp"),
        ("--listen tcp!example.com!1 host", "no IP address"),
        ("--listen tcp!127.0.0.1!65536 host", "no port"),
        ("--insecure-listen host", "--listen"),
        ("--listen tcp!::1!1 dial a!1", "only -s has a meaning"),
    ] {
        let error = refused(line);
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn a_bare_pipe_has_a_command_or_a_socket() {
    let line = |words: &[&str]| {
        let words = ["sshnet-host", "--pipe", "bare"].iter().chain(words);
        match parse(words.map(OsString::from)) {
            Ok(Action::Serve(serve)) => (serve.pipe, serve.service),
            other => panic!("{other:?}"),
        }
    };
    let command = |text: &str| Pipe::Bare(Peer::Command(text.into()));
    assert_eq!(line(&["--exec", "ssh h psusan"]), (command("ssh h psusan"), "bare".into()));
    assert_eq!(line(&["--exec=psusan", "-s", "x"]), (command("psusan"), "x".into()));
    assert_eq!(line(&["--connect", "/run/p"]).0, Pipe::Bare(Peer::Socket("/run/p".into())));
    for (line, says) in [
        ("--pipe bare", "--exec COMMAND or --connect PATH, such as --exec psusan"),
        ("--pipe bare --exec x --connect y", "one of them, a command or a socket"),
        ("--pipe bare --exec x host", "'host': --pipe bare takes no host"),
        ("--pipe bare host", "--exec 'ssh HOST sshnet-host peer'"),
        ("--pipe bare --exec x -p 22 host", "'-p': --pipe bare takes no host"),
        ("--pipe bare --exec", "a value is required"),
        ("--pipe bare --exec= ", "no command"),
        ("--pipe bare --exec x --caller-address", "--caller-address is for --pipe openssh"),
        ("--exec psusan", "--exec is for --pipe bare"),
        ("--exec psusan host", "--exec is for --pipe bare"),
        ("--pipe loopback --connect x", "--connect is for --pipe bare"),
        ("--exec x demo", "only -s has a meaning"),
    ] {
        let error = refused(line);
        assert!(error.replace('\n', " ").contains(says), "{line}: {error}");
    }
}

#[test]
fn what_a_peer_permits_is_read() {
    use crate::pipe::far::permit::Destination;

    assert_eq!(parsed("peer").unwrap(), Action::Peer(Permit::everything()));
    let db = Destination::Tcp { host: Some("db".into()), port: Some(5432) };
    let all = Destination::Tcp { host: None, port: Some(80) };
    let permit = Permit { dials: Some(vec![db, all]), listen: false };
    let line = "peer --permit db:5432 --no-listen --permit *:80";
    assert_eq!(parsed(line).unwrap(), Action::Peer(permit));
    for (line, says) in [
        ("peer host", "unexpected argument"),
        ("peer --permit db", "write HOST:PORT"),
        ("peer --permit db:http", "'http' is no port"),
        ("-s x peer", "no service is used"),
        ("--pipe bare peer", "only -s has a meaning"),
    ] {
        let error = refused(line);
        assert!(error.replace('\n', " ").contains(says), "{line}: {error}");
    }
}

#[test]
fn what_would_break_a_private_master_is_refused() {
    for line in [
        "-f host",
        "-M host",
        "-V",
        "-G host",
        "-S path host",
        "-Spath host",
        "-O check host",
        "-W a:1 host",
        "-Q cipher",
        "-vf host",
        "-vfN host",
        "host -f",
        "host -vM",
        "-4V host",
        "-p 22 -s web host",
        "-P tag host",
        "-L 1:a:1 host",
        "-R1:a:1 host",
        "-D1080 host",
        "-w 0 host",
        "-o ControlMaster=auto host",
        "-oControlPath=x host",
        "-o controlpersist=1 host",
        "-vo ControlMaster=no host",
        "-voControlMaster=no host",
        "-o ForkAfterAuthentication=yes host",
        "-o SessionType=none host",
        "-o RemoteCommand=ls host",
        "-o LocalForward=x host",
        "host -o \"ControlPath\"=x",
    ] {
        let error = refused(line);
        assert!(error.contains("ssh's option -"), "{line}: {error}");
    }
    let spaces = ["sshnet-host", "-o", " ControlMaster auto", "host"];
    assert!(parse(spaces.into_iter().map(OsString::from)).is_err());
    // Arguments are not options.
    assert_eq!(far("-i -f host").0, "-i -f");
    assert_eq!(far("-o ControlMasterless=1 host").0, "-o ControlMasterless=1");
}

#[test]
fn a_line_that_makes_no_sense_is_refused() {
    for (line, says) in [
        ("", "the host is missing"),
        ("-D", "the host is missing"),
        ("-p 22", "the host is missing"),
        ("--", "the host is missing"),
        ("-p", "-p needs an argument"),
        ("host ls", "a command for the far host"),
        ("-D 8080 host", "-D takes no argument"),
        ("-Z host", "unknown option -Z"),
        ("-: host", "unknown option"),
        ("--frobnicate host", "--frobnicate"),
        ("-p 22 --core x host", "comes too late"),
        ("-Zv host", "-Z (in '-Zv')"),
        ("-s", "a value is required"),
        ("--ready-fd x host", "invalid value"),
        ("--ready-fd 2 host", "must be 3 or more"),
        ("--ready-fd -1 host", "must be 3 or more"),
        ("--prefix net host", "must start with '/'"),
        ("--pipe carrier-pigeon host", "carrier-pigeon"),
        ("--pipe loopback host", "takes no host"),
        ("--pipe loopback --caller-address", "--caller-address"),
        ("--pipe loopback --connections 2", "--connections is for ssh"),
        ("--metrics tcp!192.0.2.1!1 host", "must be an address of this machine"),
        ("--log-level loud host", "loud"),
        ("--metrics /x dial a!1", "only -s has a meaning"),
        ("--allow-user 7 host", "in a directory that is yours alone"),
        ("--allow-user nosuchuser -s /x host", "/etc/passwd"),
        ("--core-memory 0 host", "0 is not in 1..=4096"),
        ("--core-fuel 0 host", "0 is not in 1.."),
        ("--connections 0 host", "must be 1 to 16"),
        ("--connections 17 host", "must be 1 to 16"),
        ("--connections host", "must be 1 to 16"),
        ("--connections 2 dial a!1", "only -s has a meaning"),
        ("-- -- -oProxyCommand=x", "starts with '-'"),
        ("-- -- -host", "starts with '-'"),
        ("u@-host", "starts with '-'"),
        ("ssh://-host", "starts with '-'"),
        ("ssh://", "is empty"),
        ("u@", "is empty"),
        ("$(reboot)", "no host's name has"),
        ("`id`@host", "no user's name has"),
        ("--core x dial a!1", "only -s has a meaning"),
        ("-s x demo", "demo takes no -s"),
        ("demo x", "unexpected argument"),
        ("dial", "HOST!PORT"),
        ("dial a", "the port is missing"),
        ("dial a!1 b", "unexpected argument"),
        ("listen 80", "COMMAND"),
        ("listen http cat", "the port is missing"),
    ] {
        let error = refused(line);
        assert!(error.contains(says), "{line}: {error}");
    }
    assert!(parse(["sshnet-host".into(), "a\nb".into()]).is_err());
}

#[test]
fn help_and_version_are_no_errors() {
    for line in [
        "--help",
        "-h",
        "--version",
        "dial --help",
        "listen -h",
        "demo --help",
        "write -h",
        "peer --help",
        "man -h",
    ] {
        let Err(help) = parsed(line) else { panic!("{line}") };
        assert!(help.help, "{line}: {}", help.text);
        for text in help.text.lines() {
            assert!(text.chars().count() <= 80, "{line}: too wide: {text}");
        }
    }
}

#[test]
fn commands_are_read() {
    let target = |text| address::target(text).unwrap();
    for line in ["dial h!80", "dial tcp!h!80", "dial h:80", "dial net!h!80", "dial [h]:80"] {
        let dial = Action::Dial { service: None, target: target("h!80") };
        assert_eq!(parsed(line).unwrap(), dial, "{line}");
    }
    for line in ["dial -s web h!80", "-s web dial h!80", "dial h!80 -s web"] {
        let dial = Action::Dial { service: Some("web".into()), target: target("h!80") };
        assert_eq!(parsed(line).unwrap(), dial, "{line}");
    }
    let listen = Action::Listen {
        service: Some("w".into()),
        address: address::announced("*!80").unwrap(),
        command: ["grep", "-s", "-x", "--", "a"].map(OsString::from).to_vec(),
    };
    assert_eq!(parsed("listen -s w *!80 grep -s -x -- a").unwrap(), listen);
    assert_eq!(parsed("demo").unwrap(), Action::Demo);
}

#[test]
fn pairs_to_forward_are_read() {
    use std::net::Ipv4Addr;

    let target = |text| address::target(text).unwrap();
    let pairs = vec![
        (Local::Loopback(8080), target("intranet!80")),
        (Local::Everywhere(22), target("git!ssh")),
        (Local::Address((Ipv4Addr::UNSPECIFIED, 0).into()), target("/run/x.sock")),
        (Local::Path("./sock".into()), target("unix!/run/x.sock")),
    ];
    let forward = Action::Forward { service: Some("w".into()), pairs };
    let line = "8080 intranet:80 *:22 git!ssh 0.0.0.0:0 /run/x.sock ./sock unix!/run/x.sock";
    for line in [format!("forward -s w {line}"), format!("forward {line} -s w")] {
        assert_eq!(parsed(&line).unwrap(), forward, "{line}");
    }
    assert_eq!(
        parsed("socks localhost:1080").unwrap(),
        Action::Socks { service: None, local: Local::Loopback(1080) }
    );
    assert_eq!(
        parsed("socks [::1]!1080").unwrap(),
        Action::Socks { service: None, local: Local::Address("[::1]:1080".parse().unwrap()) }
    );
    for (line, says) in [
        ("forward", "HOST!PORT"),
        ("forward 80", "HOST!PORT"),
        ("forward 80 h!1 81", "'81' has no HOST!PORT behind it"),
        ("forward 80 81", "the port is missing"),
        ("forward 80 *!81", "cannot be dialled"),
        ("forward http h!1", "'http' is no port"),
        ("forward 65536 h!1", "'65536' is no"),
        ("forward example.com:80 h!1", "'example.com' is no IP address"),
        ("socks", "PORT"),
        ("socks ./sock", "no port"),
        ("socks 1080 1081", "unexpected argument"),
    ] {
        let error = refused(line);
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn what_is_dialled_is_tcp_or_unix() {
    for (text, protocol, address) in [
        ("/run/x", "unix", "/run/x"),
        ("unix!/run/x!y", "unix", "/run/x!y"),
        ("unix!80", "tcp", "unix!80"),
        ("h!80", "tcp", "h!80"),
    ] {
        let target = address::target(text).unwrap();
        assert_eq!((target.protocol(), &*target.to_string()), (protocol, address), "{text}");
    }
    for text in ["unix!run!x", "/run/a b", "unix!/run/a\nhangup", "run/x"] {
        assert!(address::target(text).is_err(), "{text}");
    }
    for (host, address) in [("h", "h!80"), ("::1", "::1!80"), ("/run/x", "/run/x!80")] {
        let target = Target::tcp(host, 80).unwrap();
        assert_eq!((target.protocol(), &*target.to_string()), ("tcp", address), "{host}");
    }
    for host in ["", "*", "a!1", "a\nb", "a b", "unix!/x"] {
        assert!(Target::tcp(host, 80).is_err(), "{host:?}");
    }
}

#[test]
fn commands_for_files_are_read() {
    let file = |what, path: &str| Action::File { service: None, what, path: path.to_owned() };
    assert_eq!(parsed("ls").unwrap(), file(FileAction::Ls, "/"));
    assert_eq!(parsed("ls tcp").unwrap(), file(FileAction::Ls, "tcp"));
    assert_eq!(parsed("cat tcp/0/status").unwrap(), file(FileAction::Cat, "tcp/0/status"));
    assert_eq!(parsed("write tcp/0/ctl").unwrap(), file(FileAction::Write, "tcp/0/ctl"));
    let service = Some(OsString::from("w"));
    assert_eq!(
        parsed("netstat -s w --json").unwrap(),
        Action::Netstat { service: service.clone(), json: true }
    );
    assert_eq!(parsed("-s w attach").unwrap(), Action::Attach { service });
    for (line, says) in [
        ("cat", "<PATH>"),
        ("write", "<PATH>"),
        ("ls a b", "unexpected argument"),
        ("attach x", "unexpected argument"),
        ("completions fishing", "fishing"),
        ("man fire", "no command 'fire'"),
        ("-s x man", "no service is used"),
    ] {
        let error = refused(line);
        assert!(error.contains(says), "{line}: {error}");
    }
}

fn printed(line: &str) -> String {
    match parsed(line) {
        Ok(Action::Print(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn completions_and_pages_are_made_of_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&format!("completions {shell}"));
        for word in ["netstat", "attach", "forward", "socks", "caller-address"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let page = printed("man");
    assert!(page.contains(".TH sshnet") && page.contains("netstat"), "{page}");
    for command in [
        "dial", "listen", "forward", "socks", "netstat", "ls", "cat", "write", "attach", "peer",
        "demo",
    ] {
        let page = printed(&format!("man {command}"));
        assert!(page.contains(command), "{page}");
    }
}

/// What bash would offer for the last of these words.
fn offered(words: &[&str]) -> Vec<String> {
    let script = r#"
        eval "$1"; shift
        [[ $(complete -p sshnet-host) =~ -F\ ([^ ]+) ]]
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        ${BASH_REMATCH[1]} sshnet-host "${@: -1}" "${@: -2:1}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = std::process::Command::new("bash")
        .args(["-c", script, "bash", &printed("completions bash"), "sshnet-host"])
        .args(words)
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{words:?}: {said}");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_completes_a_commands_options_and_arguments() {
    assert_eq!(offered(&["d"]), ["dial", "demo"]);
    assert_eq!(offered(&["dial", "-"]), ["-s", "-h", "--help"]);
    assert_eq!(offered(&["netstat", "--"]), ["--json", "--help"]);
    assert_eq!(offered(&["-s", "work", "netstat", "--j"]), ["--json"]);
    let shells = offered(&["completions", ""]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(shells.iter().any(|word| word == shell), "{shells:?}");
    }
}

#[test]
fn a_page_has_one_sentence_for_a_name_and_a_version_at_its_foot() {
    let foot = concat!("1 \"\" \"sshnet-host ", env!("CARGO_PKG_VERSION"), "\"");
    for page in ["man", "man socks", "man demo"].map(printed) {
        let title = page.lines().find(|line| line.starts_with(".TH "));
        assert!(title.is_some_and(|title| title.contains(foot)), "{title:?}");
        let (_, name) = page.split_once(".SH NAME\n").expect("it has a name");
        let (name, _) = name.split_once("\n.").expect("more follows");
        assert_eq!(name.lines().filter(|line| line.contains(r" \- ")).count(), 1, "{name}");
        assert_eq!(name.lines().filter(|line| line.is_empty()).count(), 0, "{name}");
    }
}

#[test]
fn a_page_has_the_examples_as_they_are_typed() {
    let page = printed("man socks");
    let examples = ".SH EXAMPLES\n.nf\nsshnet\\-host socks 1080\ncurl ";
    assert!(page.contains(examples) && page.ends_with("\n.fi\n"), "{page}");
    assert!(!page.contains("EXTRA"), "{page}");
    // The rest of the help describes the command.
    assert!(page.contains("\n.PP\nPORT alone"), "{page}");
    // Where the help has two columns, the page has a list.
    let page = printed("man");
    let examples = ".SH EXAMPLES\n.TP\n\\fBsshnet\\-host demo\\fR\nsee it work";
    assert!(page.contains(examples), "{page}");
    for heading in ["SSH OPTIONS", "EXIT STATUS"] {
        assert!(page.contains(&format!(".SH \"{heading}\"\n")), "{heading}: {page}");
    }
}

#[test]
fn addresses_have_one_meaning_or_none() {
    for (text, means) in [
        ("::1!80", "::1!80"),
        ("[::1]:80", "::1!80"),
        ("[::1]!80", "::1!80"),
        ("a.b:http", "a.b!http"),
        ("tcp!*!80", "*!80"),
        ("*:80", "*!80"),
        ("80", "*!80"),
        ("0", "*!0"),
    ] {
        assert_eq!(address::announced(text).unwrap().to_string(), means, "{text}");
    }
    for text in [
        "", "!", "a!", "!80", ":80", "a:", "udp!a!80", "a!b!c!d", "::1:80", "[::1]", "[::1",
        "a b!80", "a!8\n0", "[::1]80",
    ] {
        assert!(address::announced(text).is_err(), "{text}");
        assert!(address::target(text).is_err(), "{text}");
    }
    for text in ["80", "*!80"] {
        assert!(address::target(text).is_err(), "{text}");
    }
}
