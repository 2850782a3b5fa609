//! `ls`, `cat` and `write`: the tree's files for scripts, where nothing is mounted.

use std::ffi::OsString;
use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::sync::watch;

use super::conversation::{CopyError, Failed, receive, send};
use super::share::Shares;
use super::{CommandError, Trying, connect, stdio};
use crate::ninep::client::{Client, ClientError, File};
use crate::notice::quoted;
use crate::tree::Access;

/// Prints the names in a directory.
pub async fn ls(service: Option<OsString>, path: String) -> Result<(), CommandError> {
    let used = Used::new(service, path).await?;
    let entries = match used.client.read_directory(&used.path).await {
        Ok(entries) => entries,
        Err(error) => return Err(used.cannot("list", error).await),
    };
    let mut text = String::new();
    for entry in entries {
        text.push_str(&entry.name);
        text.push('\n');
    }
    print(text.as_bytes()).await
}

/// Copies a file to stdout, as it comes, to its end.
pub async fn cat(service: Option<OsString>, path: String) -> Result<(), CommandError> {
    let used = Used::new(service, path).await?;
    let file = used.open("read", Access::Read).await?;
    if file.qid().is_directory() {
        let error = ClientError::Refused("it is a directory".to_owned());
        return Err(used.cannot("read", error).await);
    }
    if is_stream(&used.path) {
        return match receive(
            &file,
            &Shares::default().join(),
            stdio::received(),
            &Failed::new(None),
        )
        .await
        {
            Err(CopyError::Near(error)) => unread(error),
            Err(CopyError::Far(error) | CopyError::Refused(error)) => {
                Err(used.cannot("read", error).await)
            }
            Ok(()) => Ok(()),
        };
    }
    loop {
        let part = match file.read(file.iounit()).await {
            Ok(part) => part,
            Err(error) => return Err(used.cannot("read", error).await),
        };
        if part.is_empty() {
            return Ok(());
        }
        print(&part).await?;
    }
}

/// Copies stdin to a file: to `data` byte by byte, to others line by line, each in
/// a write of its own. The file is open until stdin ends, or the service does.
///
/// A line is a control message or a query: so each has its own answer, and the
/// first that is refused is named, and the last that is written.
pub async fn write(service: Option<OsString>, path: String) -> Result<(), CommandError> {
    let used = Used::new(service, path).await?;
    let file = used.open("write to", Access::Write).await?;
    tokio::select! {
        biased;
        copied = copy(&used, &file) => copied,
        // Else it would be noticed only with the next line.
        why = used.client.ended() => Err(CommandError::Over(why)),
    }
}

async fn copy(used: &Used, file: &File) -> Result<(), CommandError> {
    if !is_stream(&used.path) {
        return write_lines(file, &used.path, stdio::input()).await;
    }
    let (_patience, idle) = watch::channel(None);
    match send(file, &Shares::default().join(), stdio::sent(), idle).await {
        Ok(()) => Ok(()),
        Err(CopyError::Far(error) | CopyError::Refused(error)) => {
            Err(used.cannot("write to", error).await)
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

/// The file that is used, as the user named it.
struct Used {
    client: Client,
    service: Option<OsString>,
    path: String,
}

impl Used {
    async fn new(service: Option<OsString>, path: String) -> Result<Self, CommandError> {
        let client = connect(service.clone()).await?;
        Ok(Self { client, service, path })
    }

    async fn open(&self, what: &str, access: Access) -> Result<File, CommandError> {
        match self.client.open(&self.path, access).await {
            Ok(file) => Ok(file),
            Err(error) => Err(self.cannot(what, error).await),
        }
    }

    /// Says what was tried, and where to look.
    async fn cannot(&self, what: &str, error: ClientError) -> CommandError {
        let what = format!("cannot {what} {}", self.path);
        match error {
            ClientError::Refused(why) if why == "file not found" => {
                let ls = self.ls(&self.nearest().await);
                let why = format!("{why}\nto see what there is: {ls}");
                CommandError::Refused(what, ClientError::Refused(why))
            }
            ClientError::Refused(why) if why.to_lowercase().contains("is a directory") => {
                let why = format!("{why}\nto see what is in it: {}", self.ls(&self.path));
                CommandError::Refused(what, ClientError::Refused(why))
            }
            ClientError::Ended(why) => CommandError::Over(why),
            error => CommandError::Refused(what, error),
        }
    }

    /// The last directory on the way to the file that is there. It looks into those
    /// before it: to open what is none may wait, or make a client.
    async fn nearest(&self) -> String {
        let mut nearest = String::new();
        for name in self.path.split('/').filter(|name| !name.is_empty()) {
            let there = self.client.read_directory(&nearest).await.unwrap_or_default();
            if !there.iter().any(|entry| entry.name == name && entry.qid.is_directory()) {
                break;
            }
            if !nearest.is_empty() {
                nearest.push('/');
            }
            nearest.push_str(name);
        }
        nearest
    }

    /// The command that lists a directory of this service.
    fn ls(&self, directory: &str) -> String {
        let mut command = "sshnet-host ls".to_owned();
        if let Some(service) = &self.service {
            command = format!("{command} -s {}", quoted(service));
        }
        if !directory.is_empty() {
            command = format!("{command} {}", quoted(directory));
        }
        command
    }
}

/// Writes to stdout.
pub async fn print(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = stdio::output();
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
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
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
        assert_eq!(client.read_directory("tcp").await.unwrap().len(), 302);
        let error = client.read_directory("cs").await.err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("it is not a directory"));
    }

    #[tokio::test]
    async fn errors_say_where_to_look() {
        let fake = Fake::default();
        fake.make(crate::engine::Protocol::Tcp);
        for (path, service, ls) in [
            ("tcp/0/nope", None, "sshnet-host ls tcp/0"),
            ("tcp/9/listen", None, "sshnet-host ls tcp"),
            ("tcp/clone/x", None, "sshnet-host ls tcp"),
            ("/x", None, "sshnet-host ls"),
            ("x/tcp/0", Some("lo"), "sshnet-host ls -s lo"),
            ("/tcp//1/", Some("a b's"), r"sshnet-host ls -s 'a b'\''s' tcp"),
        ] {
            let (client, service) = (client(&fake).await, service.map(OsString::from));
            let used = Used { client, service, path: path.to_owned() };
            let error = used.open("read", Access::Read).await.err().map(|error| error.to_string());
            let says = format!("cannot read {path}: file not found\nto see what there is: {ls}");
            assert_eq!(error, Some(says));
        }
        assert_eq!(fake.references(), [(0, 1)], "it opened what it looked at");
        let (client, service) = (client(&fake).await, Some("lo".into()));
        let used = Used { client, service, path: "tcp".to_owned() };
        let error = used.open("write to", Access::Write).await.err();
        assert_eq!(
            error.map(|error| error.to_string()).as_deref(),
            Some(
                "cannot write to tcp: Is a directory\n\
                 to see what is in it: sshnet-host ls -s lo tcp"
            )
        );
    }

    #[test]
    fn data_is_a_stream() {
        assert!(is_stream("tcp/0/data") && is_stream("/tcp/0/data/"));
        assert!(!is_stream("tcp/0/ctl") && !is_stream("cs") && !is_stream(""));
    }
}
