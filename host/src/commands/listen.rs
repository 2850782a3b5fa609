//! `listen`: takes calls at the far host and runs a command on each.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::conversation::{Conversation, Incoming, send};
use super::share::{Share, Shares};
use super::{CommandError, Trying, connect};
use crate::args::address::Announced;
use crate::ninep::client::{Client, File};
use crate::notice::notice;
use crate::signals::Signals;
use crate::tree::Access;

/// Commands that run at a time; more calls wait at the far side.
const CALLS: usize = 256;
/// How long a caller's last words are taken from it after the command has ended:
/// closing a connection with some unread would break off what it has not read.
const LINGER: Duration = Duration::from_millis(500);
/// A command has ended, and what it left running has written nothing for so long.
const LEFT_BEHIND: Duration = Duration::from_millis(100);
/// How long commands that were told to end may take for it.
const END: Duration = Duration::from_millis(500);

/// Takes calls until a signal comes.
pub async fn run(
    service: Option<OsString>,
    address: Announced,
    command: Vec<OsString>,
) -> Result<(), CommandError> {
    let mut signals = Signals::new().trying(|| "cannot catch signals".to_owned())?;
    let (stop, stopping) = watch::channel(false);
    let mut calls = JoinSet::new();
    let ended = tokio::select! {
        ended = serve(service, &address, command, &mut calls, stopping) => ended,
        () = signals.next() => Ok(()),
    };
    stop.send_replace(true);
    let all = async { while calls.join_next().await.is_some() {} };
    // What has not ended by then is killed.
    let _ = timeout(END, all).await;
    calls.shutdown().await;
    ended
}

async fn serve(
    service: Option<OsString>,
    address: &Announced,
    command: Vec<OsString>,
    calls: &mut JoinSet<()>,
    stopping: watch::Receiver<bool>,
) -> Result<(), CommandError> {
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments.to_vec()),
        None => return Err(CommandError::Mismatch("there is no command to run".to_owned())),
    };
    runnable(&program)?;
    let client = connect(service).await?;
    let what = || format!("cannot listen on {address} at the far side");
    let listener = Conversation::new(&client).await.trying(what)?;
    listener.control(&format!("announce {address}")).await.trying(what)?;
    let local = listener.text(&client, "local").await.trying(what)?;
    notice(format_args!("listening on {local} at the far side"));

    let command = Arc::new((program, arguments));
    let permits = Arc::new(Semaphore::new(CALLS));
    let shares = Shares::default();
    loop {
        while calls.try_join_next().is_some() {}
        // Nobody closes it.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return Ok(()) };
        let call = client.open(&listener.path("listen"), Access::ReadWrite).await;
        let ctl = call.trying(|| format!("no more calls on {local}"))?;
        let call = Call {
            client: client.clone(),
            command: Arc::clone(&command),
            stopping: stopping.clone(),
            share: shares.join(),
            _permit: permit,
        };
        calls.spawn(async move {
            if let Err(error) = call.serve(ctl).await {
                tracing::warn!("a call broke off: {error}");
            }
        });
    }
}

/// Whether there is such a program: better now than with the first call.
fn runnable(program: &OsStr) -> Result<(), CommandError> {
    let executable = |path: &Path| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let found = if program.as_bytes().contains(&b'/') {
        executable(Path::new(program))
    } else {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        std::env::split_paths(&path).any(|dir: PathBuf| executable(&dir.join(program)))
    };
    if found {
        return Ok(());
    }
    let program = program.display();
    Err(CommandError::Mismatch(format!("cannot run '{program}': there is no such program")))
}

/// One call that is taken.
struct Call {
    client: Client,
    command: Arc<(OsString, Vec<OsString>)>,
    stopping: watch::Receiver<bool>,
    share: Share,
    _permit: OwnedSemaphorePermit,
}

impl Call {
    async fn serve(mut self, ctl: File) -> Result<(), CommandError> {
        let failed = || "cannot use its files".to_owned();
        let conversation = Conversation::of(ctl).await.trying(failed)?;
        let data = conversation.data(&self.client).await.trying(failed)?;
        let local = conversation.text(&self.client, "local").await.trying(failed)?;
        let remote = conversation.text(&self.client, "remote").await.trying(failed)?;
        let (program, arguments) = &*self.command;
        let mut child = Command::new(program)
            .args(arguments)
            .env("SSHNET_LOCAL", local)
            .env("SSHNET_REMOTE", remote)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .trying(|| format!("cannot run {}", program.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(CommandError::Mismatch("the command has no pipes".to_owned()));
        };
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (patience, idle) = watch::channel(None);
        let incoming = receive(&data, &self.share, stdin);
        let outgoing = async {
            let sent = send(&data, &self.share, stdout, idle).await;
            if sent.is_ok() {
                let _ = conversation.control("closewrite").await;
            }
        };
        let running = async {
            wait(&mut child).await;
            // What it left running may keep its output open.
            patience.send_replace(Some(LEFT_BEHIND));
        };
        let ended = async {
            tokio::pin!(incoming);
            let output = async { tokio::join!(outgoing, running) };
            tokio::pin!(output);
            tokio::select! {
                _ = &mut output => {}
                () = &mut incoming => {
                    output.await;
                    return;
                }
            }
            let _ = timeout(LINGER, incoming).await;
        };
        let stopped = tokio::select! {
            () = ended => false,
            () = stopped(&mut self.stopping) => true,
        };
        if stopped {
            // It is not reaped: the number is still its own.
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
            let _ = timeout(END, child.wait()).await;
        }
        Ok(())
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Fails where nobody can say so any more.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn wait(child: &mut Child) {
    match child.wait().await {
        Ok(status) => tracing::debug!("a command ended: {status}"),
        Err(error) => tracing::warn!("a command cannot be waited for: {error}"),
    }
}

/// From the caller to the command; to the caller's end, whether the command reads
/// or not.
async fn receive(data: &File, share: &Share, stdin: ChildStdin) {
    let mut stdin = Some(stdin);
    let mut incoming = Incoming::new(data, share);
    loop {
        match incoming.next().await {
            Ok(bytes) if !bytes.is_empty() => {
                if let Some(open) = &mut stdin
                    && open.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Ok(_) => return,
            Err(error) => return tracing::debug!("a caller is gone: {error}"),
        }
    }
}
