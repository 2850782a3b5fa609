//! `ls`, `cat` and `write`: the tree's files for scripts, where nothing is mounted.

use std::ffi::OsString;
use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::sync::watch;

use super::conversation::{CopyError, Failed, receive, send};
use super::share::Shares;
use super::{CommandError, Trying, connect};
use crate::ninep::client::{Client, ClientError, File};
use crate::tree::Access;

/// Prints the names in a directory.
pub async fn ls(service: Option<OsString>, path: String) -> Result<(), CommandError> {
    let client = connect(service).await?;
    let listed = client.read_directory(&path).await;
    let mut text = String::new();
    for entry in listed.map_err(|error| cannot("list", &path, error))? {
        text.push_str(&entry.name);
        text.push('\n');
    }
    print(text.as_bytes()).await
}

/// Copies a file to stdout, as it comes, to its end.
pub async fn cat(service: Option<OsString>, path: String) -> Result<(), CommandError> {
    let client = connect(service).await?;
    let file = open(&client, "read", &path, Access::Read).await?;
    if file.qid().is_directory() {
        let error = ClientError::Refused("it is a directory".to_owned());
        return Err(cannot("read", &path, error));
    }
    if is_stream(&path) {
        return match receive(
            &file,
            &Shares::default().join(),
            tokio::io::stdout(),
            &Failed::new(None),
        )
        .await
        {
            Err(CopyError::Near(error)) => unread(error),
            Err(CopyError::Far(error) | CopyError::Refused(error)) => {
                Err(cannot("read", &path, error))
            }
            Ok(()) => Ok(()),
        };
    }
    loop {
        let part = file.read(file.iounit()).await;
        let part = part.map_err(|error| cannot("read", &path, error))?;
        if part.is_empty() {
            return Ok(());
        }
        print(&part).await?;
    }
}

/// Copies stdin to a file: to `data` byte by byte, to others line by line, each in
/// a write of its own. The file is open until stdin ends.
///
/// A line is a control message or a query: so each has its own answer, and the
/// first that is refused is named, and the last that is written.
pub async fn write(service: Option<OsString>, path: String) -> Result<(), CommandError> {
    let client = connect(service).await?;
    let file = open(&client, "write to", &path, Access::Write).await?;
    if !is_stream(&path) {
        return write_lines(&file, &path, tokio::io::stdin()).await;
    }
    let (_patience, idle) = watch::channel(None);
    match send(&file, &Shares::default().join(), tokio::io::stdin(), idle).await {
        Ok(()) => Ok(()),
        Err(CopyError::Far(error) | CopyError::Refused(error)) => {
            Err(cannot("write to", &path, error))
        }
        Err(CopyError::Near(error)) => Err(error).trying(|| "cannot read stdin".to_owned()),
    }
}

async fn write_lines<R>(file: &File, path: &str, from: R) -> Result<(), CommandError>
where
    R: AsyncRead + Unpin,
{
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = from.read_until(b'\n', &mut line).await;
        if read.trying(|| "cannot read stdin".to_owned())? == 0 {
            break;
        }
        let message = line.strip_suffix(b"\n").unwrap_or(&line);
        if message.is_empty() {
            continue;
        }
        let what = || {
            let message = String::from_utf8_lossy(message);
            let shown: String = message.chars().take(60).collect();
            format!("{path}, line {number}: '{}'", shown.escape_debug())
        };
        // A part of a message would be another message.
        if message.len() as u64 > u64::from(file.iounit()) {
            return Err(CommandError::Mismatch(format!("{}: it is too long", what())));
        }
        file.write(message).await.trying(what)?;
    }
    Ok(())
}

/// Whether the file passes bytes, and not lines.
fn is_stream(path: &str) -> bool {
    path.rsplit('/').find(|name| !name.is_empty()) == Some("data")
}

async fn open(
    client: &Client,
    what: &str,
    path: &str,
    access: Access,
) -> Result<File, CommandError> {
    client.open(path, access).await.map_err(|error| cannot(what, path, error))
}

/// Says what was tried, and where to look.
fn cannot(what: &str, path: &str, error: ClientError) -> CommandError {
    let error = match error {
        ClientError::Refused(why) if why == "file not found" => {
            let above = path.trim_matches('/').rsplit_once('/').map_or("", |(above, _)| above);
            let above = if above.is_empty() { String::new() } else { format!(" {above}") };
            ClientError::Refused(format!("{why}\nto see what there is: sshnet-host ls{above}"))
        }
        ClientError::Refused(why) if why.contains("is a directory") => {
            ClientError::Refused(format!("{why}\nto see what is in it: sshnet-host ls {path}"))
        }
        other => other,
    };
    CommandError::Refused(format!("cannot {what} {path}"), error)
}

/// Writes to stdout.
pub async fn print(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = tokio::io::stdout();
    let printed = async {
        stdout.write_all(bytes).await?;
        stdout.flush().await
    };
    printed.await.or_else(unread)
}

/// That nobody reads stdout is no error.
fn unread<T: Default>(error: io::Error) -> Result<T, CommandError> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(T::default());
    }
    Err(CommandError::System("cannot write to stdout".to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ErrorCode, Reply};
    use crate::ninep::{Options, serve};
    use crate::tree::fake::{Asked, Fake, error};

    async fn client(fake: &Fake) -> Client {
        let (near, far) = tokio::io::duplex(64 << 10);
        let tree = fake.tree();
        tokio::spawn(async move { serve(far, tree, &Options::default()).await });
        Client::new(near, 8192).await.unwrap()
    }

    /// Completes the control message that comes next.
    async fn completes(fake: &Fake, outcome: Result<Reply, crate::engine::Error>) -> Vec<Asked> {
        while fake.asked().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let asked = fake.asked();
        fake.complete(outcome);
        asked
    }

    #[tokio::test]
    async fn each_line_is_a_write_and_the_first_refusal_ends_it() {
        let fake = Fake::default();
        let client = client(&fake).await;
        let ctl = client.open("tcp/clone", Access::Write).await.unwrap();
        let lines = &b"connect a!1\n\nhangup\nkeepalive"[..];
        let server = async {
            let one = completes(&fake, Ok(Reply::Done)).await;
            assert_eq!(one, [Asked::Control(b"connect a!1".to_vec())]);
            let two = completes(&fake, Err(error(ErrorCode::InvalidArgument, "no"))).await;
            assert_eq!(two, [Asked::Control(b"hangup".to_vec())]);
        };
        let (wrote, ()) = tokio::join!(write_lines(&ctl, "tcp/clone", lines), server);
        assert_eq!(wrote.unwrap_err().to_string(), "tcp/clone, line 3: 'hangup': no");
    }

    #[tokio::test]
    async fn a_line_is_never_cut() {
        let fake = Fake::default();
        let client = client(&fake).await;
        let ctl = client.open("tcp/clone", Access::Write).await.unwrap();
        let long = vec![b'x'; 9000];
        let error = write_lines(&ctl, "tcp/clone", &long[..]).await.unwrap_err().to_string();
        assert!(error.ends_with("it is too long") && error.len() < 120, "{error}");
    }

    #[tokio::test]
    async fn directories_are_listed_whole() {
        let fake = Fake::default();
        let client = client(&fake).await;
        let names = |entries: Vec<crate::ninep::client::Entry>| {
            entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
        };
        assert_eq!(names(client.read_directory("/").await.unwrap()), ["cs", "tcp", "unix"]);
        for _ in 0..300 {
            fake.make(crate::engine::Protocol::Tcp);
        }
        assert_eq!(client.read_directory("tcp").await.unwrap().len(), 301);
        let error = client.read_directory("cs").await.err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("it is not a directory"));
    }

    #[test]
    fn errors_say_where_to_look() {
        for (path, says) in [
            (
                "tcp/9/status",
                "cannot read tcp/9/status: file not found\n\
              to see what there is: sshnet-host ls tcp/9",
            ),
            ("/x", "cannot read /x: file not found\nto see what there is: sshnet-host ls"),
        ] {
            let error = cannot("read", path, ClientError::Refused("file not found".to_owned()));
            assert_eq!(error.to_string(), says);
        }
    }

    #[test]
    fn data_is_a_stream() {
        assert!(is_stream("tcp/0/data") && is_stream("/tcp/0/data/"));
        assert!(!is_stream("tcp/0/ctl") && !is_stream("cs") && !is_stream(""));
    }
}
