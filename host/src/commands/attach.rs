//! `attach`: the service's 9P on stdin and stdout, for whoever mounts it from
//! there: a Plan 9 machine through ssh, or a kernel that is given descriptors.
//!
//! It copies bytes and understands none of them.

use std::ffi::OsString;
use std::io;

use tokio::io::{AsyncWriteExt, BufReader, copy_buf};

use super::{CommandError, Trying, stdio, stream};

/// Bytes copied at a time.
const BUFFER: usize = 256 << 10;

/// Ends when the service ends the connection: because stdin has ended, and its
/// last replies are written, or because it stops. Quietly when nobody reads stdout.
pub async fn run(service: Option<OsString>) -> Result<(), CommandError> {
    let (replies, mut requests) = stream(service)?.into_split();
    let mut replies = BufReader::with_capacity(BUFFER, replies);
    let outgoing = async {
        let mut stdin = BufReader::with_capacity(BUFFER, stdio::input());
        copy_buf(&mut stdin, &mut requests).await?;
        requests.shutdown().await
    };
    let incoming = async {
        let mut stdout = stdio::output();
        copy_buf(&mut replies, &mut stdout).await?;
        stdout.flush().await
    };
    tokio::pin!(outgoing, incoming);
    let ended = tokio::select! {
        sent = &mut outgoing => match sent {
            Ok(()) => incoming.await,
            Err(error) => Err(error),
        },
        received = &mut incoming => match received {
            Ok(()) => return Err(CommandError::Over("it closed the connection".to_owned())),
            Err(error) => Err(error),
        },
    };
    match ended {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended.trying(|| "the connection broke".to_owned()),
    }
}
