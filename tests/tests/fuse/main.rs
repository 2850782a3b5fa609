//! The FUSE mount, used by the programs that people have: real mounts, as root and
//! as an ordinary user.
//!
//! Where root runs the tests, each is run twice. As root it is in the place where
//! the test is. The ordinary user is `nobody`, in a mount namespace of the test's
//! own: /dev/fuse is often closed to users in virtual machines and containers, so
//! there it is a node of the test's, mode 0666, on a tmpfs that allows devices, and
//! fusermount3 is as it is installed, setuid root. Where an ordinary user runs the
//! tests each is run once, as that user.
//!
//! Whatever looks at a mount is under a time limit: a mount whose program is stuck
//! holds up whoever looks at it.

mod place;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use place::{
    AT_ONCE, Conversation, PATIENCE, Place, Who, as_each, each_caller, echo, finish, is_root,
    signal, silent, text, until, wait,
};

#[test]
fn shells_dial_read_and_write() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let port = echo();
        let said = place.sh(&format!(
            "exec 3<>$MNT/tcp/clone
             read -r -u 3 n || :
             echo connect 127.0.0.1!{port} >&3
             read -r -u 3 again || :
             [ $n = $again ]
             cd $MNT/tcp/$n
             cut -d' ' -f1 status; cat remote
             echo hello > data; dd bs=64K count=1 status=none < data
             exec 4<>data
             printf 'one\\ntwo\\n' >&4; read -r -u 4 a; read -r -u 4 b; echo $b $a
             printf abc | dd of=data conv=notrunc status=none; head -c 3 data; echo
             echo closewrite > ctl; cat data; cat data"
        ));
        assert_eq!(said, format!("Established\n127.0.0.1!{port}\nhello\ntwo one\nabc\n"));
        service.stop();
    });
}

#[test]
fn files_look_as_files_do() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let line = place.mounts().join("\n");
        assert!(line.starts_with("sshnet ") && line.contains(" fuse.sshnet "), "{line}");
        for option in ["nosuid", "nodev", "noatime"] {
            assert!(line.contains(option), "{line}");
        }
        sleep(Duration::from_millis(1100));
        let conversation = Conversation::new(&place, "");
        // A client's files are as old as its state, the others as the service.
        place.sh("made=$(stat -c %Y $MNT/cs); since=$(stat -c %Y $MNT/tcp/0)
                  [ $since -gt $made ]; [ $since -le $(date +%s) ]
                  [ $(stat -c %Y $MNT/tcp/0/status) = $since ]");
        let listed =
            place.sh("cd $MNT; find . | sort; ls -l . tcp/0 | grep -c ^-; ls -la tcp | wc -l");
        assert_eq!(
            listed,
            ".\n./cs\n./tcp\n./tcp/0\n./tcp/0/ctl\n./tcp/0/data\n./tcp/0/listen\n./tcp/0/local\n\
             ./tcp/0/remote\n./tcp/0/status\n./tcp/clone\n./tcp/stats\n./unix\n./unix/clone\n7\n6\n"
        );
        let modes =
            place.sh("cd $MNT; stat -c '%a %U' . cs tcp/clone tcp/0 tcp/0/data tcp/0/status");
        let user = place.sh("id -un");
        let wanted =
            ["500", "600", "600", "500", "600", "400"].map(|mode| format!("{mode} {user}"));
        assert_eq!(modes, wanted.concat());
        // One directory is one file, whenever one looks; a process may stand in it.
        place.sh("cd $MNT/tcp/0; [ . -ef $MNT/tcp/0 ]; ls > /dev/null; [ \"$(pwd -P)\" = $PWD ]
                  test -r status; ! test -w status; test -w data; ! test -e nothing");
        // Shells truncate, programs set times and sync: nothing to us.
        place.sh("cd $MNT/tcp; : > clone; truncate -s 0 clone; touch clone; sync clone; df . >&2");
        // Nor is it a change to set what is so already.
        place.sh("cd $MNT/tcp; chmod 600 clone; chown $(id -u) clone; chown $(id -u):$(id -g) 0");
        let refused =
            place.sh("cd $MNT/tcp/0; export LC_ALL=C; f() { \"$@\" 2>&1 && exit 1 || :; }
             f mkdir x; f rm ctl; f chmod 777 ctl; f bash -c 'echo > x'; f bash -c 'echo > status'
             f cat x; f truncate -s 5 data; f mv ctl x; f ln ctl x; f chown 1 ctl; f chgrp 1 ctl");
        for (line, wanted) in refused.lines().zip([
            "Permission denied",
            "Permission denied",
            "Operation not permitted",
            "Permission denied",
            "Permission denied",
            "No such file or directory",
            "Operation not permitted",
            "Permission denied",
            "Permission denied",
            "Operation not permitted",
            "Operation not permitted",
        ]) {
            assert!(line.ends_with(wanted), "{refused}");
        }
        assert_eq!(refused.lines().count(), 11, "{refused}");
        drop(conversation);
        service.stop();
    });
}

#[test]
fn python_opens_files() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let port = echo();
        let said = place.python(&format!(
            "import os, threading, time, hashlib
mnt = os.environ['MNT']
ctl = open(mnt + '/tcp/clone', 'r+b', buffering=0)
n = ctl.read().decode()
ctl.write(b'connect 127.0.0.1!{port}')
data = open(f'{{mnt}}/tcp/{{n}}/data', 'r+b', buffering=0)
# A short answer is an answer.
data.write(b'short'); print(data.read(65536))
# One descriptor, read and written at once.
got = []
reader = threading.Thread(target=lambda: got.append(data.read(100)))
reader.start(); time.sleep(0.3)
start = time.monotonic(); data.write(b'meanwhile'); reader.join()
print(got, time.monotonic() - start < 1)
with open(f'{{mnt}}/tcp/{{n}}/data', 'wb') as w, open(f'{{mnt}}/tcp/{{n}}/data', 'rb') as r:
    w.write(b'line\\n'); w.flush(); print(r.readline())
# More than one request holds, both ways.
sent = os.urandom(4 << 20)
writer = threading.Thread(target=lambda: print(os.write(data.fileno(), sent)))
writer.start()
back = b''
while len(back) < len(sent): back += os.read(data.fileno(), 4 << 20)
writer.join(); print(back == sent)
cs = open(mnt + '/cs', 'r+'); cs.write('tcp!host!80'); cs.flush(); cs.seek(0); print(cs.read())
with open(mnt + '/cs', 'r+b', buffering=0) as cs: cs.write(b'tcp!b!22'); print(cs.read().decode())
try: open(mnt + '/tcp/clone', 'wb', buffering=0).write(b'connect 127.0.0.1!1')
except ConnectionRefusedError: print('refused')
try: open(mnt + '/tcp/clone', 'wb', buffering=0).write(b'nonsense')
except OSError as error: print(error.strerror)
"
        ));
        let mnt = place.mnt();
        let mnt = mnt.display();
        assert_eq!(
            said,
            format!(
                "b'short'\n[b'meanwhile'] True\nb'line\\n'\n4194304\nTrue\n\
                 {mnt}/tcp/clone host!80\n{mnt}/tcp/clone b!22\nrefused\nInvalid argument\n"
            )
        );
        service.stop();
    });
}

#[test]
fn a_large_read_does_not_wait_for_more_than_there_is() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, calls) = silent();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let mut caller = calls.recv_timeout(PATIENCE).expect("a call");
        // As much as one request of the kernel's asks for, in one piece.
        caller.write_all(&vec![7; 1 << 20]).expect("room for it");
        let status = conversation.file(&place, "status");
        until("all of it is there", || place.sh(&format!("cat {status}")).contains("qin 1048576 "));
        let data = conversation.file(&place, "data");
        let said = place.python(&format!(
            "import os; fd = os.open('{data}', os.O_RDONLY); print(len(os.read(fd, 4 << 20)))"
        ));
        assert_eq!(said, "1048576\n");
        drop(conversation);
        service.stop();
    });
}

/// Starts a program that must come to wait, sends it a signal, and expects it gone
/// at once.
#[track_caller]
fn interrupted(place: &Place, name: &str, words: &[&str]) {
    // Whoever runs the tests behind his shell ignores SIGINT, and so do they.
    let mut command = place.command("env");
    command.arg("--default-signal=INT").args(words);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().expect("it starts");
    sleep(Duration::from_millis(400));
    if let Some(status) = process.try_wait().expect("ours") {
        panic!("{words:?} did not wait: {status}");
    }
    signal(process.id(), name);
    let status = wait(&mut process, AT_ONCE);
    assert!(status.signal().is_some(), "{words:?}: {status}");
}

#[test]
fn what_blocks_ends_with_its_program() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, calls) = silent();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let announced = Conversation::new(&place, "announce 127.0.0.1!0");
        let mut caller = calls.recv_timeout(PATIENCE).expect("a call");
        let data = conversation.file(&place, "data");
        let listen = announced.file(&place, "listen");
        let stuck = Stuck::new();
        let dial = place.dir.path().join("dial");
        fs::write(&dial, format!("connect 127.0.0.1!{}", stuck.port)).expect("written");
        let (dial, clone) = (format!("if={}", dial.display()), place.file("tcp/clone"));
        for name in ["INT", "KILL"] {
            interrupted(&place, name, &["cat", &data]);
            interrupted(&place, name, &["cat", &listen]);
            interrupted(&place, name, &["dd", &dial, &format!("of={clone}")]);
        }
        // What was not read by those who are gone is there for who comes.
        caller.write_all(b"hello").expect("sent");
        assert_eq!(place.sh(&format!("head -c 5 {data}")), "hello");
        for name in ["INT", "KILL"] {
            let to = format!("of={data}");
            interrupted(&place, name, &["dd", "if=/dev/zero", "bs=1M", &to]);
        }
        // And a call goes to one who takes it.
        let taken = place.sh(&format!(
            "cat $(dirname {listen})/local > $DIR/run/local
             port=$(cut -d! -f2 $DIR/run/local)
             exec 5<>/dev/tcp/127.0.0.1/$port; cat {listen}"
        ));
        assert!(taken.parse::<u32>().is_ok(), "{taken}");
        drop((conversation, announced));
        service.stop();
    });
}

/// An address of the far side where dials wait: nobody takes calls, and no more of
/// them may wait to be taken.
struct Stuck {
    process: Child,
    port: String,
}

impl Stuck {
    fn new() -> Self {
        let script = "import socket, time
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(0)
held = []
for _ in range(4):
    c = socket.socket(); c.setblocking(False); c.connect_ex(s.getsockname()); held.append(c)
time.sleep(0.2); print(s.getsockname()[1], flush=True); time.sleep(1000)";
        let mut process = Command::new("python3")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut port = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
        Self { process, port: port.trim().to_owned() }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn who_waits_holds_up_nobody_else() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, _calls) = silent();
        let echo = echo();
        let stuck = Stuck::new();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let data = conversation.file(&place, "data");
        let connect = format!("echo connect 127.0.0.1!{} > $MNT/tcp/clone", stuck.port);
        let scripts =
            [format!("cat {data}"), format!("exec dd if=/dev/zero bs=1M of={data}"), connect];
        let mut waiting: Vec<Child> = scripts
            .iter()
            .map(|script| {
                let mut command = place.command("bash");
                command.args(["-c", script]).stderr(Stdio::null()).spawn().expect("bash")
            })
            .collect();
        sleep(Duration::from_millis(500));
        let start = Instant::now();
        let said = place.sh(&format!(
            "ls -lR $MNT > /dev/null; stat {data} > /dev/null; : > {data}
             exec 3<>$MNT/tcp/clone; read -r -u 3 n || :
             echo connect 127.0.0.1!{echo} >&3; exec 4<>$MNT/tcp/$n/data
             echo there >&4; read -r -u 4 line; echo $line
             echo hangup > {ctl}",
            ctl = conversation.file(&place, "ctl"),
        ));
        assert_eq!(said, "there\n");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        // The hangup has ended the first two.
        for process in &mut waiting[..2] {
            wait(process, PATIENCE);
        }
        let _ = waiting[2].kill();
        wait(&mut waiting[2], AT_ONCE);
        drop(conversation);
        service.stop();
    });
}

#[test]
fn signals_lose_no_byte() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let port = each_caller(|mut stream| {
            for number in 0..4000_u32 {
                if stream.write_all(format!("{number:07}\n").as_bytes()).is_err() {
                    return;
                }
                if number % 4 == 0 {
                    sleep(Duration::from_millis(1));
                }
            }
        });
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        // os.read asks again after a signal, as cat(1) would in a shell.
        let said = place.python(&format!(
            "import os, signal
count = 0
def handler(*_):
    global count; count += 1
signal.signal(signal.SIGALRM, handler); signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
fd = os.open('{}', os.O_RDONLY)
got = b''
while piece := os.read(fd, 100): got += piece
signal.setitimer(signal.ITIMER_REAL, 0)
assert count > 50, count
print(got == b''.join(b'%07d\\n' % n for n in range(4000)))",
            conversation.file(&place, "data")
        ));
        assert_eq!(said, "True\n");
        drop(conversation);
        service.stop();
    });
}

#[test]
fn a_hundred_shells_at_once_leave_nothing_behind() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve_logging("sshnet_host::fuse::net=debug", &[]);
        let port = echo();
        place.sh("head -c 1048576 /dev/urandom > $DIR/run/sent; ls $MNT/tcp");
        let before = service.descriptors();
        let script = format!(
            "set -eu; exec 3<>$MNT/tcp/clone; read -r -u 3 n || :
             echo connect 127.0.0.1!{port} >&3; cd $MNT/tcp/$n
             cat data > $DIR/run/back.$1 & cat $DIR/run/sent > data; echo closewrite >&3
             wait $!; cmp $DIR/run/sent $DIR/run/back.$1; rm $DIR/run/back.$1"
        );
        let clients: Vec<Child> = (0..100)
            .map(|number| {
                let mut command = place.command("bash");
                command.args(["-c", &script, "bash", &number.to_string()]);
                command.stderr(Stdio::piped()).spawn().expect("bash")
            })
            .collect();
        let limit = Instant::now() + 4 * PATIENCE;
        for mut client in clients {
            let status = wait(&mut client, limit.saturating_duration_since(Instant::now()));
            let mut said = String::new();
            client.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
            assert!(status.success() && said.is_empty(), "{status}: {said}");
        }
        until("no conversation is left", || {
            place.sh("ls $MNT/tcp $MNT/unix | grep -c ^[0-9] || :") == "0\n"
        });
        until("no descriptor is left", || service.descriptors() <= before);
        // Nor an open file, nor a file that the kernel might still ask for.
        let forgotten = place.forget();
        place.sh("fusermount3 -u $MNT");
        let mut ends = Vec::new();
        loop {
            let line = service.line();
            if line.ends_with("was unmounted; the socket is still served") {
                break;
            }
            ends.extend(Some(line).filter(|line| line.contains("at the end")));
        }
        // It is looked at more than once: the first time closes what is open, and the
        // kernel's last words may come after that.
        assert!(ends.first().is_some_and(|line| line.ends_with(" and has 0 open")), "{ends:?}");
        let none = |line: &String| line.contains("knows 0 files");
        assert!(!forgotten || ends.last().is_some_and(none), "{ends:?}");
        service.stop();
    });
}

#[test]
fn a_busy_mount_is_gone_with_its_program() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, _calls) = silent();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let data = conversation.file(&place, "data");
        let mut reader =
            place.command("cat").arg(&data).stderr(Stdio::null()).spawn().expect("cat");
        let mut inside = place
            .command("bash")
            .args(["-c", "cd $MNT/tcp; exec sleep 1000"])
            .spawn()
            .expect("bash");
        sleep(Duration::from_millis(400));
        service.stop();
        assert!(!wait(&mut reader, AT_ONCE).success(), "it was told");
        assert_eq!(place.sh("ls -A $MNT"), "");
        // The place can be used again at once, with somebody still in the old one.
        let service = place.serve(&[]);
        assert_eq!(place.sh("ls $MNT"), "cs\ntcp\nunix\n");
        service.stop();
        inside.kill().expect("ours");
        wait(&mut inside, AT_ONCE);
        drop(conversation);
    });
}

#[test]
fn a_dead_mount_is_cleared_by_the_next_start() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, _calls) = silent();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let data = conversation.file(&place, "data");
        let mut reader =
            place.command("cat").arg(&data).stderr(Stdio::null()).spawn().expect("cat");
        sleep(Duration::from_millis(400));
        service.kill();
        // Who waited does not wait for ever.
        assert!(!wait(&mut reader, AT_ONCE).success(), "it was told");
        assert_eq!(place.mounts().len(), 1);
        let dead = finish(place.command("stat").arg(place.mnt()).env("LC_ALL", "C"));
        assert!(text(&dead.stderr).contains("not connected"), "{dead:?}");
        let service = place.serve(&[]);
        assert_eq!(place.mounts().len(), 1);
        assert_eq!(place.sh("ls $MNT"), "cs\ntcp\nunix\n");
        drop(conversation);
        service.stop();
    });
}

#[test]
fn a_dead_mount_of_somebody_elses_is_named() {
    // To make one takes root.
    if !is_root() {
        return;
    }
    let place = Place::new(Who::Same);
    place.sh(
        "mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 strange $MNT 3<>/dev/fuse",
    );
    let said = place.refusal(&["-m", "mnt"], None);
    let command = format!("fusermount3 -u -z {}", place.mnt().display());
    assert!(said.trim_end().ends_with(&command), "{said}");
    place.sh(&command);
    assert_eq!(place.mounts(), [""; 0]);
}

#[test]
fn a_mount_that_somebody_unmounts_is_not_missed() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        place.sh("fusermount3 -u $MNT");
        let line = service.line();
        assert!(line.ends_with("was unmounted; the socket is still served"), "{line}");
        // What is mounted there by then is another's.
        let mut other = place.command(place.host());
        other.args(["--pipe", "loopback", "-s", "other", "-m", "mnt"]);
        let mut other = other.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut ready = String::new();
        BufReader::new(other.stderr.as_mut().expect("piped")).read_line(&mut ready).expect("UTF-8");
        assert!(ready.contains("mounted on"), "{ready}");
        let mut service = service;
        signal(service.process.id(), "TERM");
        assert!(wait(&mut service.process, PATIENCE).success());
        assert_eq!(place.mounts().len(), 1);
        assert_eq!(place.sh("ls $MNT"), "cs\ntcp\nunix\n");
        signal(other.id(), "TERM");
        assert!(wait(&mut other, PATIENCE).success());
        assert_eq!(place.mounts(), [""; 0]);
    });
}

#[test]
fn cs_answers_with_where_the_tree_is() {
    as_each(|who| {
        let place = Place::new(who);
        let ask = "exec 3<>$MNT/cs; echo 'tcp!host!80' >&3; cat <&3";
        let service = place.serve(&[]);
        assert_eq!(place.sh(ask), format!("{}/tcp/clone host!80", place.mnt().display()));
        service.stop();
        let service = place.serve(&["--prefix", "/n/far"]);
        assert_eq!(place.sh(ask), "/n/far/tcp/clone host!80");
        service.stop();
        fs::create_dir(place.dir.path().join("a b")).expect("made");
        let said = place.refusal(&["-m", "a b"], None);
        assert!(said.trim_end().ends_with("give --prefix"), "{said}");
    });
}

#[test]
fn what_cannot_be_mounted_on_is_refused_in_words() {
    as_each(|who| {
        let place = Place::new(who);
        let has = |said: &str, words: &str| assert!(said.contains(words), "{said}");
        has(&place.refusal(&["-m", "nowhere"], None), "nowhere: there is no such directory");
        fs::write(place.dir.path().join("file"), "").expect("written");
        has(&place.refusal(&["-m", "file"], None), "file: it is no directory");
        has(&place.refusal(&["-m", "."], None), ": the directory is not empty");
        has(&place.refusal(&["-m", "mnt"], Some("/")), "install the package fuse3");
        let service = place.serve(&[]);
        has(&place.refusal(&["-m", "mnt"], None), ": another sshnet-host is mounted there");
        service.stop();
    });
    if is_root() {
        let place = Place::new(Who::Nobody(0o600));
        let said = place.refusal(&["-m", "mnt"], None);
        assert!(said.contains("/dev/fuse: Permission denied") && said.contains("0666"), "{said}");
    }
}
