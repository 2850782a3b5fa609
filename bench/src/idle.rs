//! Many conversations at once: what they cost, idle and then each at work.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::host::Host;
use crate::ninep::{Conversation, Nine};
use crate::process::resident;

/// Conversations that are opened, or at work, at a time.
const AT_ONCE: usize = 250;
/// Conversations before the first look at the memory.
const WARM: usize = 10;
/// Bytes that each echoes.
const ECHO: usize = 1 << 10;
/// How long the memory of an idle process may take to settle.
const SETTLE: Duration = Duration::from_millis(500);

/// What so many conversations cost.
pub(crate) struct Cost {
    /// How many there came to be.
    pub(crate) count: usize,
    /// Why there were not more, if so.
    pub(crate) limit: Option<String>,
    /// Seconds until all were established.
    pub(crate) open: f64,
    /// Seconds until all had echoed.
    pub(crate) echo: f64,
    /// For each of the processes that were asked about, bytes for each
    /// conversation: idle, and after the echo.
    pub(crate) memory: Vec<(f64, f64)>,
}

/// Opens so many conversations of this host with an echo service in this process.
pub(crate) fn measure(host: &Host, processes: &[u32], wanted: usize) -> Result<Cost> {
    let echo = Echo::start()?;
    let mut nine = Nine::connect(&host.socket())?;
    // What is made once at the first use is not a conversation's.
    let warm = nine.dial(echo.port, WARM)?;
    echo_all(&mut nine, &warm)?;
    nine.hang_up(&warm)?;
    thread::sleep(SETTLE);
    let before = memory(processes)?;
    let mut open: Vec<Conversation> = Vec::with_capacity(wanted);
    let mut limit = None;
    let started = Instant::now();
    while open.len() < wanted {
        match nine.dial(echo.port, AT_ONCE.min(wanted - open.len())) {
            Ok(more) => open.extend(more),
            Err(error) => {
                limit = Some(format!("{error:#}"));
                break;
            }
        }
    }
    let opened = started.elapsed();
    if open.is_empty() {
        bail!("no conversation could be opened: {}", limit.unwrap_or_default());
    }
    thread::sleep(SETTLE);
    let idle = memory(processes)?;
    let started = Instant::now();
    // Answers of a batch that failed may still be on their way.
    if limit.is_none() {
        open.chunks(AT_ONCE).try_for_each(|some| echo_all(&mut nine, some))?;
    }
    let echoed = started.elapsed();
    thread::sleep(SETTLE);
    let after = memory(processes)?;
    let each = |bytes: u64, before: u64| bytes.saturating_sub(before) as f64 / open.len() as f64;
    let memory = before.iter().zip(idle).zip(after);
    Ok(Cost {
        count: open.len(),
        limit,
        open: opened.as_secs_f64(),
        echo: echoed.as_secs_f64(),
        memory: memory.map(|((b, idle), after)| (each(idle, *b), each(after, *b))).collect(),
    })
}

fn memory(processes: &[u32]) -> Result<Vec<u64>> {
    processes.iter().map(|pid| resident(*pid)).collect()
}

fn echo_all(nine: &mut Nine, conversations: &[Conversation]) -> Result<()> {
    let fids: Vec<u32> = conversations.iter().map(|conversation| conversation.data).collect();
    nine.write(&fids, &[b'x'; ECHO])?;
    let mut lacking: Vec<(u32, usize)> = fids.into_iter().map(|fid| (fid, ECHO)).collect();
    while !lacking.is_empty() {
        let fids: Vec<u32> = lacking.iter().map(|(fid, _)| *fid).collect();
        for ((_, left), bytes) in lacking.iter_mut().zip(nine.read(&fids, ECHO as u32)?) {
            if bytes.is_empty() {
                bail!("a conversation ended");
            }
            *left -= bytes.len().min(*left);
        }
        lacking.retain(|(_, left)| *left > 0);
    }
    Ok(())
}

/// An echo service for thousands of connections, on one thread. Dropped, it ends.
struct Echo {
    port: u16,
    _end: oneshot::Sender<()>,
}

impl Echo {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let listen = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(([127, 0, 0, 1], 0).into())?;
            // All that are opened at a time, or the kernel puts some off for a second.
            socket.listen(4 * AT_ONCE as u32)
        };
        let listener = runtime.block_on(listen).context("cannot listen")?;
        let port = listener.local_addr()?.port();
        let (end, ended) = oneshot::channel::<()>();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = ended => {}
                    error = serve(listener) => eprintln!("echo service: {error}"),
                }
            });
        });
        Ok(Self { port, _end: end })
    }
}

async fn serve(listener: TcpListener) -> std::io::Error {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return error,
        };
        tokio::spawn(async move {
            let mut buffer = [0; ECHO];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let bytes = buffer.get(..count).unwrap_or_default();
                if stream.write_all(bytes).await.is_err() {
                    return;
                }
            }
        });
    }
}
