//! A 9P service that refuses to write to `data`, as one at its limits does, and
//! keeps the conversation all the same.
//!
//! It speaks enough 9P2000 for our commands: every file can be walked to and
//! opened, `ctl` takes every control message, `data` has nothing to read.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

/// What it refuses a write with.
pub const REFUSAL: &str = "No buffer space available";

/// The control messages that were written, in their order.
pub type Said = Arc<Mutex<Vec<String>>>;

/// Serves as `s` in this run-time directory, until the test ends.
pub fn serve(runtime: &Path) -> Said {
    let directory = runtime.join("sshnet");
    DirBuilder::new().mode(0o700).create(&directory).expect("the place is free");
    let listener = UnixListener::bind(directory.join("s")).expect("the place is free");
    let said = Said::default();
    let hears = Arc::clone(&said);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let said = Arc::clone(&hears);
            thread::spawn(move || {
                Connection { stream, fids: HashMap::new(), said, calls: 0 }.run()
            });
        }
    });
    said
}

struct Connection {
    stream: UnixStream,
    /// The path of each.
    fids: HashMap<u32, String>,
    said: Said,
    /// Calls that were taken.
    calls: u32,
}

/// A reply: its type, and what follows the tag. `None` is not yet.
type Reply = Option<(u8, Vec<u8>)>;

impl Connection {
    fn run(mut self) {
        let mut head = [0; 7];
        while self.stream.read_exact(&mut head).is_ok() {
            let [s0, s1, s2, s3, kind, t0, t1] = head;
            let mut body = vec![0; u32::from_le_bytes([s0, s1, s2, s3]) as usize - 7];
            if self.stream.read_exact(&mut body).is_err() {
                return;
            }
            let Some((kind, payload)) = self.reply(kind, &body) else { continue };
            let size = u32::try_from(payload.len() + 7).expect("it is small");
            let mut frame = size.to_le_bytes().to_vec();
            frame.extend_from_slice(&[kind, t0, t1]);
            frame.extend_from_slice(&payload);
            if self.stream.write_all(&frame).is_err() {
                return;
            }
        }
    }

    fn reply(&mut self, kind: u8, body: &[u8]) -> Reply {
        let qid = [0; 13];
        let fid = || u32::from_le_bytes(*body.first_chunk().expect("a fid"));
        match kind {
            // Tversion: what is offered is granted.
            100 => Some((101, body.to_vec())),
            // Tattach.
            104 => {
                self.fids.insert(fid(), String::new());
                Some((105, qid.to_vec()))
            }
            // Tflush.
            108 => Some((109, Vec::new())),
            // Twalk: fid[4] newfid[4] nwname[2] and the names.
            110 => {
                let mut rest = &body[10..];
                let (mut path, mut names) = (self.fids[&fid()].clone(), 0_u16);
                while let Some((length, after)) = rest.split_first_chunk() {
                    let (name, after) = after.split_at(u16::from_le_bytes(*length).into());
                    path = format!("{path}/{}", String::from_utf8_lossy(name));
                    (rest, names) = (after, names + 1);
                }
                let newfid = u32::from_le_bytes(body[4..8].try_into().expect("a fid"));
                self.fids.insert(newfid, path);
                let mut walked = names.to_le_bytes().to_vec();
                walked.extend((0..names).flat_map(|_| qid));
                Some((111, walked))
            }
            // Topen: `clone` and `listen` become a `ctl`; there is one call.
            112 => {
                let path = self.fids.get_mut(&fid()).expect("it was walked to");
                if path.ends_with("/listen") {
                    self.calls += 1;
                    if self.calls > 1 {
                        return None;
                    }
                }
                if path.ends_with("/listen") || path.ends_with("/clone") {
                    *path = format!("/tcp/{}/ctl", self.calls);
                }
                let mut opened = qid.to_vec();
                opened.extend_from_slice(&[0; 4]);
                Some((113, opened))
            }
            // Tread: fid[4] offset[8] count[4].
            116 => {
                let path = &self.fids[&fid()];
                let text = match path.rsplit('/').next() {
                    Some("ctl") => path.split('/').nth(2).unwrap_or_default().to_owned(),
                    Some("status") => "Established qin 0 qout 0 rx 0 tx 0 window 1/1\n".to_owned(),
                    Some("data") => return None,
                    _ => "127.0.0.1!7\n".to_owned(),
                };
                let offset = u64::from_le_bytes(body[4..12].try_into().expect("an offset"));
                let text = if offset == 0 { text.as_bytes() } else { b"" };
                let mut data = u32::try_from(text.len()).expect("short").to_le_bytes().to_vec();
                data.extend_from_slice(text);
                Some((117, data))
            }
            // Twrite: fid[4] offset[8] count[4] and the data.
            118 if self.fids[&fid()].ends_with("/data") => {
                let length = u16::try_from(REFUSAL.len()).expect("short");
                let mut error = length.to_le_bytes().to_vec();
                error.extend_from_slice(REFUSAL.as_bytes());
                Some((107, error))
            }
            118 => {
                let message = String::from_utf8_lossy(&body[16..]).into_owned();
                self.said.lock().expect("no panic").push(message);
                Some((119, body[12..16].to_vec()))
            }
            // Tclunk.
            120 => {
                self.fids.remove(&fid());
                Some((121, Vec::new()))
            }
            other => panic!("a message of type {other}"),
        }
    }
}
