//! `--metrics`: the session's figures by HTTP, for Prometheus and the like.
//!
//! As much of HTTP/1.1 (RFC 9112) as a scraper needs: a GET, an answer, the end of the
//! connection. Those who may use the tree may read them, and nobody else.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::accept;
use crate::driver::Driver;
use crate::figures::{figures, prometheus};
use crate::ninep::user_of;
use crate::users::Users;

/// What is taken.
const CONNECTION: &str = "a connection for metrics";
/// Bytes of a request, at most.
const REQUEST: usize = 8 << 10;
/// How long a request may take to come, and an answer to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that are served at once; more wait.
const AT_ONCE: usize = 16;

/// Where they are.
pub enum Listener {
    /// A port of this machine.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// Answers until the future is dropped.
pub async fn serve(listener: Listener, users: Users, driver: Driver) {
    let mut serving = JoinSet::new();
    loop {
        if serving.len() >= AT_ONCE {
            serving.join_next().await;
        }
        match &listener {
            Listener::Tcp(listener) => {
                let stream = accept::next(listener, &mut serving, CONNECTION).await;
                let (users, driver) = (users.clone(), driver.clone());
                serving.spawn(async move {
                    if users.admits(CONNECTION, user_of(&stream).await) {
                        answer(stream, &driver).await;
                    }
                });
            }
            Listener::Unix(listener) => {
                let stream = accept::next(listener, &mut serving, CONNECTION).await;
                let user = stream.peer_cred().map(|peer| peer.uid());
                if users.admits(CONNECTION, user) {
                    let driver = driver.clone();
                    serving.spawn(async move { answer(stream, &driver).await });
                }
            }
        }
    }
}

/// Answers one request. Who breaks off has no use for an error.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, driver: &Driver) {
    let answered = timeout(PATIENCE, async {
        let head = head(&mut stream).await?;
        stream.write_all(response(&head, driver).as_bytes()).await?;
        stream.shutdown().await
    });
    if let Ok(Err(error)) = answered.await {
        tracing::debug!("{CONNECTION} broke off: {error}");
    }
}

/// Reads as far as the empty line behind a request's fields.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let length = stream.read(&mut piece).await?;
        if length == 0 || head.len() + length > REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(piece.get(..length).unwrap_or_default());
    }
    Ok(head)
}

fn response(head: &[u8], driver: &Driver) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (status, text) = match (method, path) {
        (b"GET", b"/" | b"/metrics") => match driver.statistics() {
            Ok(statistics) => ("200 OK", prometheus(&figures(&statistics, driver.outstanding()))),
            Err(error) => ("503 Service Unavailable", format!("{}\n", error.message)),
        },
        (b"GET", _) => ("404 Not Found", "there is /metrics here\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET it\n".to_owned()),
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}
