//! File operations that are shown as they are done, a line each, in 80 columns.

use std::io::Write;

use super::{CommandError, Conversation, NET, Trying, conversation_path};
use crate::ninep::client::{Client, ClientError, File};
use crate::tree::Access;

/// Columns that a line may take.
const WIDTH: usize = 80;

/// A line. Who has closed stdout does not want it.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A paragraph.
pub(super) fn say(text: &str) {
    line(&format!("\n{text}"));
}

/// One operation and what came of it.
pub(super) fn step(operation: &str, path: &str, outcome: &str) {
    let line = format!("  {operation:<6} {path:<26} {outcome}");
    if line.chars().count() <= WIDTH {
        self::line(&line);
    } else {
        self::line(&format!("{}...", line.chars().take(WIDTH - 3).collect::<String>()));
    }
}

/// Text in quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug().to_string().replace("\\'", "'"))
}

/// A client whose operations are shown.
pub(super) struct Shown<'a> {
    pub(super) client: &'a Client,
}

impl Shown<'_> {
    /// Opens `clone` or `listen`: either makes a client.
    pub(super) async fn clone_client(&self, path: &str) -> Result<Conversation, CommandError> {
        let path = path.to_owned();
        let failed = || format!("cannot open {NET}/{path}");
        let ctl = self.client.open(&path, Access::ReadWrite).await.trying(failed)?;
        let conversation = Conversation::of(ctl).await.trying(failed)?;
        let ctl = conversation_path(&conversation, "ctl");
        step("open", &format!("{NET}/{path}"), &format!("-> it is {ctl}"));
        step("read", &ctl, &quoted(&conversation.number.to_string()));
        Ok(conversation)
    }

    /// Writes a control message.
    pub(super) async fn control(
        &self,
        conversation: &Conversation,
        message: &str,
    ) -> Result<(), CommandError> {
        let path = conversation_path(conversation, "ctl");
        step("write", &path, &quoted(message));
        conversation.control(message).await.trying(|| format!("{path}: {message}"))
    }

    /// Writes a control message that must fail.
    pub(super) async fn refused(
        &self,
        conversation: &Conversation,
        message: &str,
    ) -> Result<ClientError, CommandError> {
        let path = conversation_path(conversation, "ctl");
        step("write", &path, &quoted(message));
        match conversation.control(message).await {
            Err(error) => {
                step("", "", &format!("-> error: {error}"));
                Ok(error)
            }
            Ok(()) => Err(CommandError::Mismatch(format!("{path}: {message} was not refused"))),
        }
    }

    /// Reads a file of text.
    pub(super) async fn text(
        &self,
        conversation: &Conversation,
        file: &str,
    ) -> Result<String, CommandError> {
        let path = conversation_path(conversation, file);
        let text = conversation.text(self.client, file).await;
        let text = text.trying(|| format!("cannot read {path}"))?;
        let mut lines = text.lines();
        step("read", &path, &quoted(lines.next().unwrap_or_default()));
        lines.for_each(|line| step("", "", &quoted(line)));
        Ok(text)
    }

    /// Opens `data`.
    pub(super) async fn data(&self, conversation: &Conversation) -> Result<File, CommandError> {
        let path = conversation_path(conversation, "data");
        let data = conversation.data(self.client).await.trying(|| format!("cannot open {path}"))?;
        step("open", &path, "-> the byte stream");
        Ok(data)
    }

    /// Writes to `data`.
    pub(super) async fn write(
        &self,
        conversation: &Conversation,
        data: &File,
        text: &str,
    ) -> Result<(), CommandError> {
        let path = conversation_path(conversation, "data");
        step("write", &path, &quoted(text));
        data.write_all(text.as_bytes()).await.trying(|| path)
    }

    /// Reads so many bytes of `data`, or to its end.
    pub(super) async fn read(
        &self,
        conversation: &Conversation,
        data: &File,
        count: usize,
    ) -> Result<String, CommandError> {
        let path = conversation_path(conversation, "data");
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let wanted = u32::try_from(count - bytes.len()).unwrap_or(u32::MAX);
            let read = data.read(wanted).await.trying(|| path.clone())?;
            if read.is_empty() {
                break;
            }
            bytes.extend_from_slice(&read);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let end = if text.is_empty() { " (end of file)" } else { "" };
        step("read", &path, &format!("{}{end}", quoted(&text)));
        Ok(text)
    }
}
