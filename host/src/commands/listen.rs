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

use super::conversation::{Conversation, CopyError, Failed, Incoming, Reader, send_all};
use super::share::{Share, Shares};
use super::{CommandError, Trying, connect};
use crate::args::address::Announced;
use crate::ninep::client::{Client, ClientError, File};
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
                notice(format_args!("a call broke off: {error}"));
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
            .env("SSHNET_REMOTE", &remote)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .trying(|| format!("cannot run {}", program.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(CommandError::Mismatch("the command has no pipes".to_owned()));
        };
        let (patience, idle) = watch::channel(None);
        let broken = |error, what| match error {
            CopyError::Refused(error) => {
                Err(CommandError::Refused(format!("cannot {what} {remote}"), error))
            }
            CopyError::Near(error) => {
                Err(CommandError::System("cannot read what the command says".to_owned(), error))
            }
            // The caller is gone, and who is gone misses nothing.
            CopyError::Far(error) => {
                tracing::debug!("a caller is gone: {error}");
                Ok(())
            }
        };
        let incoming = async {
            match receive(&data, &self.share, stdin).await {
                Ok(()) => Ok(()),
                Err(error) => broken(conversation.broken_by(error).await, "receive from"),
            }
        };
        let failed = Failed::new(None);
        let outgoing = async {
            let sent =
                send_all(&conversation, &data, &self.share, Reader::new(stdout), idle, &failed)
                    .await;
            sent.or_else(|error| broken(error, "send to"))
        };
        let running = async {
            wait(&mut child).await;
            // What it left running may keep its output open.
            patience.send_replace(Some(LEFT_BEHIND));
            Ok(())
        };
        let ended = async {
            tokio::pin!(incoming);
            let output = async { tokio::try_join!(outgoing, running) };
            tokio::pin!(output);
            tokio::select! {
                ended = &mut output => ended?,
                received = &mut incoming => {
                    received?;
                    return output.await.map(|_| ());
                }
            };
            // The command has no use for more.
            let _ = timeout(LINGER, incoming).await;
            Ok(())
        };
        let (ended, stopped) = tokio::select! {
            ended = ended => (ended, false),
            () = stopped(&mut self.stopping) => (Ok(()), true),
        };
        if ended.is_err() {
            // It may be over by now.
            let _ = conversation.control("hangup").await;
        }
        if stopped || ended.is_err() {
            // None where it is reaped, and the number may be another's.
            let pid = child.id().and_then(|id| i32::try_from(id).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
            let _ = timeout(END, child.wait()).await;
        }
        ended
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
async fn receive(data: &File, share: &Share, stdin: ChildStdin) -> Result<(), ClientError> {
    let mut stdin = Some(stdin);
    let mut incoming = Incoming::new(data, share);
    loop {
        let bytes = incoming.next().await?;
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(open) = &mut stdin
            && open.write_all(&bytes).await.is_err()
        {
            stdin = None;
        }
    }
}
