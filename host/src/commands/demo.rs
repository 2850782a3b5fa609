//! `demo`: the whole thing on one machine, for somebody's first minute with it.
//!
//! The far side is this machine, by the loopback pipe. All else is what serves a
//! real far host: the component, the tree, the 9P server on a Unix socket. Each
//! file operation is shown as it is done, and what it answers is checked.

mod bulk;
mod show;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use self::show::{Shown, line, quoted, say, step};
use super::conversation::Conversation;
use super::{CommandError, Trying};
use crate::args;
use crate::driver::Driver;
use crate::ninep::client::{Client, ClientError};
use crate::pipe::loopback;
use crate::signals::Signals;
use crate::tree::{Access, Owner, Tree};
use crate::{ninep, serve, services};

/// Where the tree would be mounted.
const NET: &str = "/net";
/// What the small service is told, and says.
const HELLO: &str = "hello, far host\n";
/// What a caller says.
const CALL: &str = "is anybody there?\n";
/// What it is answered.
const ANSWER: &str = "yes: a file\n";

/// How long the far side may take to let go of a port.
const LETS_GO: Duration = Duration::from_secs(2);

/// Runs it; anything that is not as it must be is an error.
pub async fn run() -> Result<(), CommandError> {
    let mut signals = Signals::new().trying(|| "cannot catch signals".to_owned())?;
    tokio::select! {
        shown = show() => shown,
        () = signals.next() => Err(CommandError::Mismatch("stopped".to_owned())),
    }
}

async fn show() -> Result<(), CommandError> {
    say("This shows sshnet-host at work on this machine alone. The far host, which ssh\n\
         would lead to, is played by this machine. The rest is real: the protocol engine\n\
         in its WebAssembly sandbox, and the file tree behind a 9P server.");
    let dir = Scratch::new()?;
    let path = dir.0.join("socket");
    let failed = |error: &dyn std::fmt::Display| CommandError::Mismatch(error.to_string());
    let (service, socket) = services::bind(path.as_os_str(), false)?;
    let listener = serve::listener(socket).map_err(|error| failed(&error))?;
    let engine = serve::engine(&args::Core::default(), NET, Duration::ZERO);
    let engine = engine.map_err(|error| failed(&error))?;
    let driver = Driver::new(engine);
    let pipe = tokio::spawn(loopback::run(driver.pipe_up()));
    let tree = Tree::new(driver.clone(), Owner::current());
    let server = tokio::spawn(ninep::listen(listener, tree, ninep::Options::default()));
    let client = Client::connect(service.path()).await.trying(|| "cannot connect".to_owned())?;
    line(&format!("\n  9P server on {}\n  its files, as if mounted on {NET}:", path.display()));

    dial(&client).await?;
    names(&client).await?;
    refusal(&client).await?;
    announce(&client).await?;

    let left = driver.statistics().map_or(0, |statistics| statistics.channels);
    driver.shutdown("the demo is over");
    driver.end_pipe();
    drop(client);
    drop(service);
    server.abort();
    match tokio::time::timeout(Duration::from_secs(2), pipe).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => return Err(failed(&error)),
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(CommandError::Mismatch("the pipe does not end".to_owned())),
    }
    tracing::debug!("channels at the end: {left}");
    say("All of it was as it must be.");
    next();
    Ok(())
}

/// What to type now.
fn next() {
    let program = std::env::args().next().filter(|name| name.contains('/'));
    let program = program.unwrap_or_else(|| "sshnet-host".to_owned());
    say("To try next: this far side, to play with; take calls there, and make one.");
    line(&format!("  {program} --pipe loopback -s try &"));
    line(&format!("  {program} listen -s try 127.0.0.1!7007 date &"));
    line(&format!("  {program} dial -s try 127.0.0.1!7007"));
    say("With a host that you reach by ssh; the second in another terminal:");
    line(&format!("  {program} [USER@]HOST"));
    line(&format!("  {program} dial localhost!22"));
}

/// A conversation with a service, and a lot of data.
async fn dial(client: &Client) -> Result<(), CommandError> {
    let what = || "the service for the demo".to_owned();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.trying(what)?;
    let port = listener.local_addr().trying(what)?.port();
    let echo = tokio::spawn(bulk::echo(listener));
    say(&format!(
        "1. Dial. A service that echoes listens on port {port} of the far host. To open\n\
         clone makes a client; what is open then is the ctl file of the new client."
    ));
    let shown = Shown { client };
    let conversation = shown.clone_client("tcp/clone").await?;
    shown.control(&conversation, &format!("connect 127.0.0.1!{port}")).await?;
    shown.text(&conversation, "remote").await?;
    let status = shown.text(&conversation, "status").await?;
    expect("status", &status, |status| status.starts_with("Established"))?;
    let data = shown.data(&conversation).await?;
    shown.write(&conversation, &data, HELLO).await?;
    let echoed = shown.read(&conversation, &data, HELLO.len()).await?;
    expect("the echo", &echoed, |echoed| echoed == HELLO)?;

    say("   Now a lot of it, with several reads and writes under way at a time, as a\n   \
         program does that is in a hurry.");
    let moved = bulk::exchange(&data).await?;
    let path = conversation_path(&conversation, "data");
    step("write", &path, &format!("{} bytes", bulk::AMOUNT));
    step("read", &path, &format!("{} bytes, the same", bulk::AMOUNT));
    line(&format!("  {moved}"));

    say("   closewrite ends this direction; the service then ends the other one.");
    shown.control(&conversation, "closewrite").await?;
    let end = shown.read(&conversation, &data, 1).await?;
    expect("the end of file", &end, str::is_empty)?;
    echo.abort();
    Ok(())
}

/// Names of hosts and services.
async fn names(client: &Client) -> Result<(), CommandError> {
    say("2. Names. cs tells a program which file to open, and what to write there. The\n   \
         far host looks up names of hosts; names of services are this machine's.");
    let cs = client.open("cs", Access::ReadWrite).await;
    let cs = cs.trying(|| format!("cannot open {NET}/cs"))?;
    let query = "tcp!localhost!80";
    step("write", &format!("{NET}/cs"), &quoted(query));
    cs.write_all(query.as_bytes()).await.trying(|| "cs".to_owned())?;
    let answer = cs.read(1024).await.trying(|| "cs".to_owned())?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    step("read", &format!("{NET}/cs"), &quoted(&answer));
    expect("the answer of cs", &answer, |answer| {
        answer.trim_end() == format!("{NET}/tcp/clone localhost!80")
    })
}

/// A dial that the far side refuses.
async fn refusal(client: &Client) -> Result<(), CommandError> {
    let what = || "a port for the demo".to_owned();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.trying(what)?;
    let port = listener.local_addr().trying(what)?.port();
    drop(listener);
    say(&format!(
        "3. A refusal. Nobody listens on port {port}. The write of connect fails, with the\n   \
         far side's own words, and status keeps them."
    ));
    let shown = Shown { client };
    let conversation = shown.clone_client("tcp/clone").await?;
    match shown.refused(&conversation, &format!("connect 127.0.0.1!{port}")).await? {
        ClientError::Refused(words) if !words.is_empty() => {}
        other => return Err(CommandError::Mismatch(format!("the refusal is '{other}'"))),
    }
    shown.text(&conversation, "status").await?;
    Ok(())
}

/// Calls that come in at the far host.
async fn announce(client: &Client) -> Result<(), CommandError> {
    say("4. Take a call. announce asks the far host to listen; port 0 is one that it\n   \
         picks. To open listen waits for a call; what is open then is its ctl file.");
    let shown = Shown { client };
    let listener = shown.clone_client("tcp/clone").await?;
    shown.control(&listener, "announce 127.0.0.1!0").await?;
    let local = shown.text(&listener, "local").await?;
    let port = local.trim_end().rsplit('!').next().and_then(|port| port.parse::<u16>().ok());
    let port = port.filter(|port| *port != 0);
    let port = port.ok_or_else(|| CommandError::Mismatch(format!("local reads '{local}'")))?;
    line(&format!("  (somebody calls 127.0.0.1, port {port})"));
    let caller = tokio::spawn(call(port));

    let call = shown.clone_client(&listener.path("listen")).await?;
    shown.text(&call, "remote").await?;
    let data = shown.data(&call).await?;
    let said = shown.read(&call, &data, CALL.len()).await?;
    expect("the caller's words", &said, |said| said == CALL)?;
    shown.write(&call, &data, ANSWER).await?;
    shown.control(&call, "hangup").await?;
    let heard = match caller.await {
        Ok(heard) => heard.trying(|| "the caller".to_owned())?,
        Err(error) => return Err(CommandError::Mismatch(error.to_string())),
    };
    line(&format!("  (the caller got {} and the end of file)", quoted(&heard)));
    expect("what the caller got", &heard, |heard| heard == ANSWER)?;
    shown.control(&listener, "hangup").await?;
    // To hang up does not wait until the far side has let go of the port.
    let deadline = Instant::now() + LETS_GO;
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        if Instant::now() > deadline {
            return Err(CommandError::Mismatch(format!("port {port} is still open")));
        }
        sleep(Duration::from_millis(5)).await;
    }
    line(&format!("  (and nobody can call port {port} any more)"));
    Ok(())
}

/// Calls, says something, and hears what the other side says.
async fn call(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(CALL.as_bytes()).await?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await?;
    Ok(heard)
}

fn conversation_path(conversation: &Conversation, file: &str) -> String {
    format!("{NET}/{}", conversation.path(file))
}

fn expect(what: &str, text: &str, right: impl FnOnce(&str) -> bool) -> Result<(), CommandError> {
    if right(text) {
        return Ok(());
    }
    Err(CommandError::Mismatch(format!("{what} is not what it must be: {}", quoted(text))))
}

/// A directory of our own, removed with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, CommandError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = format!("sshnet-demo-{:x}-{now:x}", std::process::id());
        let path = Path::new("/tmp").join(name);
        // Fails where there is anything of that name.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.trying(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
