//! How a bare connection is cut into messages (PuTTY's ssh/verstring.c and
//! ssh/bpp-bare.c): one version line each way, and then each message behind its
//! length.
//!
//! Pure: it is given bytes and asked what is in them. Refuses to know where they
//! come from and what a message says. A length is held against the limit when it
//! is read; the buffer is made once and never grows.

use std::ops::Range;

/// The longest message: PuTTY ends the connection at the next byte.
pub const LONGEST: usize = 36_863;
/// The uint32 before a message.
pub const HEADER: usize = 4;
/// What the buffer holds: a whole message at least.
const BUFFER: usize = 128 << 10;
/// What a version line begins with.
const PREFIX: &[u8] = b"SSHCONNECTION@putty.projects.tartarus.org-";
/// The longest version line, its end included (RFC 4253 section 4.2).
const VERSION: usize = 255;
/// So much of any other line is looked at.
const LINE: usize = 1 << 10;
/// Bytes that may come before the version line.
const SKIPPED: usize = 64 << 10;

/// What comes in is no bare connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// No message has this length.
    #[error("a message of {0} bytes, and 1 to {LONGEST} is what there may be")]
    Length(u32),
    /// A line begins as the version line does and does not end.
    #[error("its version line has no end")]
    LongVersion,
    /// It speaks another version.
    #[error("it speaks version {0} of the protocol, and 2.0 is what is understood here")]
    Version(String),
    /// It is a whole ssh server.
    #[error(
        "it is an ssh server, which wants a whole ssh ('{0}');\n\
         to reach that: sshnet-host [USER@]HOST"
    )]
    Ssh(String),
    /// It says much, and nothing of that is a version line.
    #[error("it says much, and none of it is the version line of a bare connection")]
    NoVersion,
}

/// What the bytes before the first message hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Greeting {
    /// Nothing whole yet.
    Wanting,
    /// A line that is not for us, such as a login banner: it can be shown.
    Other(String),
    /// The other side's name for itself. Messages follow.
    Version(String),
}

/// Bytes that came in.
#[derive(Debug)]
pub struct Input {
    buffer: Box<[u8]>,
    /// What is there and was not given out.
    waiting: Range<usize>,
    skipped: usize,
    /// Within a line of which the start was given out.
    within_line: bool,
}

impl Default for Input {
    fn default() -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { buffer, waiting: 0..0, skipped: 0, within_line: false }
    }
}

impl Input {
    /// Where more is to be put, then to be told by [`Input::filled`]. There is room
    /// once all that is whole was taken out.
    pub fn space(&mut self) -> &mut [u8] {
        if self.waiting.start > 0 {
            self.buffer.copy_within(self.waiting.clone(), 0);
            self.waiting = 0..self.waiting.len();
        }
        self.buffer.get_mut(self.waiting.end..).unwrap_or_default()
    }

    /// So many bytes were put there.
    pub fn filled(&mut self, bytes: usize) {
        self.waiting.end = (self.waiting.end + bytes).min(self.buffer.len());
    }

    /// Whether everything was taken out.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn waiting(&self) -> &[u8] {
        self.buffer.get(self.waiting.clone()).unwrap_or_default()
    }

    /// What comes next before the first message. As PuTTY does, lines of any other
    /// kind are passed over: they may be a banner, or what a shell says at login.
    pub fn greeting(&mut self) -> Result<Greeting, FrameError> {
        let bytes = self.waiting();
        let version = !self.within_line && bytes.starts_with(PREFIX);
        let end = bytes.iter().position(|b| *b == b'\n');
        let limit = if version { VERSION } else { LINE };
        let (line, taken) = match end {
            Some(at) if at < limit => (bytes.get(..at).unwrap_or_default(), at + 1),
            None if bytes.len() < limit => return Ok(Greeting::Wanting),
            _ if version => return Err(FrameError::LongVersion),
            // A part of a line is as good as a line to show.
            _ => (bytes.get(..limit).unwrap_or_default(), limit),
        };
        let text = shown(line);
        let whole = line.len() < taken;
        let starts = !std::mem::replace(&mut self.within_line, !whole);
        self.waiting.start += taken;
        if version {
            let rest = text.get(PREFIX.len()..).unwrap_or_default();
            let (number, name) = rest.split_once('-').unwrap_or((rest, ""));
            return match number {
                "1.99" => Ok(Greeting::Version(name.to_owned())),
                _ if number.starts_with("2.") => Ok(Greeting::Version(name.to_owned())),
                _ => Err(FrameError::Version(number.to_owned())),
            };
        }
        if starts && is_ssh(&text) {
            return Err(FrameError::Ssh(text));
        }
        self.skipped += taken;
        if self.skipped > SKIPPED {
            return Err(FrameError::NoVersion);
        }
        Ok(Greeting::Other(text))
    }

    /// Where the next message is, if it is whole: to be looked at by
    /// [`Input::message`] before more is put in.
    pub fn next_message(&mut self) -> Result<Option<Range<usize>>, FrameError> {
        let Some(field) = self.waiting().first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*field);
        if length == 0 || length as usize > LONGEST {
            return Err(FrameError::Length(length));
        }
        let start = self.waiting.start + HEADER;
        let end = start + length as usize;
        if end > self.waiting.end {
            return Ok(None);
        }
        self.waiting.start = end;
        Ok(Some(start..end))
    }

    /// A message, from its type byte on.
    pub fn message(&self, at: Range<usize>) -> &[u8] {
        self.buffer.get(at).unwrap_or_default()
    }
}

/// Our version line. As in PuTTY's there is no `-` and no blank in the name.
pub fn version_line() -> Vec<u8> {
    let name = concat!("2.0-sshnet_host_", env!("CARGO_PKG_VERSION"), "\r\n");
    [PREFIX, name.as_bytes()].concat()
}

/// Whether it is the version line of ssh itself.
fn is_ssh(line: &str) -> bool {
    line.strip_prefix("SSH-").is_some_and(|rest| rest.starts_with("1.") || rest.starts_with("2."))
}

/// A line, without what a terminal would act on.
fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE_OF_PSUSAN: &[u8] =
        b"SSHCONNECTION@putty.projects.tartarus.org-2.0-PSUSAN_Release_0.78\r\n";

    /// Puts bytes in, in pieces of this size, and takes out what there is.
    fn read(bytes: &[u8], piece: usize) -> (Vec<Greeting>, Vec<Vec<u8>>, Result<(), FrameError>) {
        let (mut input, mut greetings, mut messages) = (Input::default(), Vec::new(), Vec::new());
        let mut greeted = false;
        let mut all = || {
            for piece in bytes.chunks(piece) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let space = input.space();
                    let (now, later) = rest.split_at(rest.len().min(space.len()));
                    assert!(!now.is_empty(), "there is always room");
                    space[..now.len()].copy_from_slice(now);
                    input.filled(now.len());
                    rest = later;
                    while !greeted {
                        match input.greeting()? {
                            Greeting::Wanting => break,
                            greeting => {
                                greeted = matches!(greeting, Greeting::Version(_));
                                greetings.push(greeting);
                            }
                        }
                    }
                    while greeted && let Some(at) = input.next_message()? {
                        messages.push(input.message(at).to_vec());
                    }
                }
            }
            Ok(())
        };
        let end = all();
        (greetings, messages, end)
    }

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let framed = messages.iter().map(|message| {
            [&(message.len() as u32).to_be_bytes()[..], message.as_slice()].concat()
        });
        framed.collect::<Vec<_>>().concat()
    }

    #[test]
    fn what_was_framed_is_read_again_however_it_is_cut() {
        let messages: Vec<Vec<u8>> =
            [1, 2, 3, 500, LONGEST, 1, LONGEST - 1, 7].map(|n| vec![n as u8; n]).to_vec();
        let bytes = [LINE_OF_PSUSAN, &framed(&messages)].concat();
        for piece in [1, 3, 4, 5, 1000, BUFFER, usize::MAX] {
            let (greetings, read, end) = read(&bytes, piece);
            assert_eq!(end, Ok(()));
            assert_eq!(greetings, [Greeting::Version("PSUSAN_Release_0.78".into())]);
            assert!(read == messages, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_length_out_of_range_is_an_error_as_soon_as_it_is_there() {
        for length in [0, LONGEST as u32 + 1, 0x7fff_ffff, u32::MAX] {
            let bytes = [LINE_OF_PSUSAN, &framed(&[vec![94]]), &length.to_be_bytes()].concat();
            let (_, messages, end) = read(&bytes, 1);
            assert_eq!(messages, [[94]]);
            assert_eq!(end, Err(FrameError::Length(length)));
        }
    }

    #[test]
    fn lines_before_the_version_are_passed_over() {
        let long = vec![b'x'; LINE];
        let bytes = [
            &b"\n\x1b[31mWelcome\r\n SSHCONNECTION@putty.projects.tartarus.org-2.0-x\n"[..],
            &long,
            // Not at the start of a line.
            LINE_OF_PSUSAN,
            LINE_OF_PSUSAN,
            &framed(&[vec![1, 2]]),
        ]
        .concat();
        for piece in [1, 7, usize::MAX] {
            let (greetings, messages, end) = read(&bytes, piece);
            assert_eq!((messages, end), (vec![vec![1, 2]], Ok(())));
            let others: Vec<&str> = greetings
                .iter()
                .filter_map(|greeting| match greeting {
                    Greeting::Other(line) => Some(line.as_str()),
                    _ => None,
                })
                .collect();
            assert_eq!(others.len(), 5, "{others:?}");
            assert_eq!((others[0], others[1]), ("", "[31mWelcome"));
            assert_eq!(greetings[5], Greeting::Version("PSUSAN_Release_0.78".into()));
        }
    }

    #[test]
    fn what_is_no_bare_connection_is_told_from_one() {
        let prefix = String::from_utf8_lossy(PREFIX).into_owned();
        let ends = |bytes: &str| read(bytes.as_bytes(), 11).2.unwrap_err();
        assert_eq!(
            ends("SSH-2.0-OpenSSH_9.2p1\r\n"),
            FrameError::Ssh("SSH-2.0-OpenSSH_9.2p1".into())
        );
        assert_eq!(ends(&format!("{prefix}1.5-old\r\n")), FrameError::Version("1.5".into()));
        assert_eq!(ends(&format!("{prefix}20-new\r\n")), FrameError::Version("20".into()));
        assert_eq!(ends(&format!("{prefix}2.0-{}", "n".repeat(255))), FrameError::LongVersion);
        assert_eq!(ends(&"y\n".repeat(SKIPPED)), FrameError::NoVersion);
        assert_eq!(ends(&"n".repeat(2 * SKIPPED)), FrameError::NoVersion);
        // These are other lines.
        assert_eq!(read(b"SSH-key holders only\r\n", 5).2, Ok(()));
        assert_eq!(read(format!("{prefix}1.99-both\n").as_bytes(), 5).2, Ok(()));
    }

    #[test]
    fn our_own_version_line_is_one() {
        let line = version_line();
        assert!(line.len() <= VERSION);
        let (greetings, _, end) = read(&line, 9);
        let name = format!("sshnet_host_{}", env!("CARGO_PKG_VERSION"));
        assert_eq!((greetings, end), (vec![Greeting::Version(name)], Ok(())));
    }
}
