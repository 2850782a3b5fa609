//! `attach`: the service's 9P on stdin and stdout, for whoever mounts it from
//! there: a Plan 9 machine through ssh, or a kernel that is given descriptors.
//!
//! It copies bytes and understands none of them.

use std::ffi::OsString;
use std::io;

use tokio::io::AsyncWriteExt;

use super::{CommandError, Trying, stream};

/// Ends when the service ends the connection: because stdin has ended, and its
/// last replies are written, or because it stops. Quietly when nobody reads stdout.
pub async fn run(service: Option<OsString>) -> Result<(), CommandError> {
    let (mut replies, mut requests) = stream(service)?.into_split();
    let outgoing = async {
        tokio::io::copy(&mut tokio::io::stdin(), &mut requests).await?;
        requests.shutdown().await
    };
    let incoming = async {
        let mut stdout = tokio::io::stdout();
        tokio::io::copy(&mut replies, &mut stdout).await?;
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
