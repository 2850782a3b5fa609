//! `dial`: stdin and stdout to a service, dialled from the far host.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use tokio::sync::watch;

use super::conversation::{Conversation, CopyError, Failed, receive_all, send_all};
use super::share::Shares;
use super::{CommandError, Trying, connect, stdio};
use crate::args::address::Target;

/// The far side has ended its direction, and for so long nothing has come from
/// stdin: then that was all.
const IDLE: Duration = Duration::from_millis(500);

/// Ends when the far side has ended; also, and quietly, when nobody reads stdout.
pub async fn run(service: Option<OsString>, target: Target) -> Result<(), CommandError> {
    let client = connect(service).await?;
    let what = || format!("cannot dial {target}");
    let (conversation, data) = Conversation::dial(&client, &target).await.trying(what)?;
    let share = Shares::default().join();

    let (patience, idle) = watch::channel(None);
    let failed = Failed::new(None);
    let broke = |error| CommandError::Refused(format!("the connection to {target} broke"), error);
    let outgoing = async {
        let stdin = stdio::sent();
        match send_all(&conversation, &data, &share, stdin, idle, &failed).await {
            Ok(()) => Ok(()),
            Err(CopyError::Near(error)) => {
                Err(CommandError::System("cannot read stdin".to_owned(), error))
            }
            Err(CopyError::Refused(error)) => {
                Err(CommandError::Refused(format!("cannot send to {target}"), error))
            }
            Err(CopyError::Far(error)) => Err(broke(error)),
        }
    };
    let incoming = async {
        let stdout = stdio::received();
        let received = receive_all(&conversation, &data, &share, stdout, &failed).await;
        patience.send_replace(Some(IDLE));
        match received {
            Ok(()) => Ok(true),
            Err(CopyError::Near(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(CopyError::Near(error)) => {
                Err(CommandError::System("cannot write to stdout".to_owned(), error))
            }
            Err(CopyError::Refused(error)) => {
                Err(CommandError::Refused(format!("cannot receive from {target}"), error))
            }
            Err(CopyError::Far(error)) => Err(broke(error)),
        }
    };
    tokio::pin!(outgoing, incoming);
    let went_on = tokio::select! {
        sent = &mut outgoing => {
            sent?;
            incoming.await?;
            return Ok(());
        }
        received = &mut incoming => received?,
    };
    if went_on {
        outgoing.await?;
    }
    Ok(())
}
