//! Bytes in bulk, and conversations in number.

use std::collections::VecDeque;
use std::thread;

use sha2::{Digest, Sha256};
use sshnet_tests::ninep::{Client, Dialect, File, IO, Mode};
use sshnet_tests::world::{Kind, Service, World};

on_each_pipe!(
    moves_64_mib_each_way_in_9p2000,
    moves_64_mib_each_way_in_9p2000_u,
    moves_64_mib_each_way_in_9p2000_l,
    two_hundred_conversations_at_once,
);

fn moves_64_mib_each_way_in_9p2000(kind: Kind) {
    moves_64_mib_each_way(kind, Dialect::Plan9);
}

fn moves_64_mib_each_way_in_9p2000_u(kind: Kind) {
    moves_64_mib_each_way(kind, Dialect::Unix);
}

fn moves_64_mib_each_way_in_9p2000_l(kind: Kind) {
    moves_64_mib_each_way(kind, Dialect::Linux);
}

const BULK: usize = 64 << 20;
/// Requests outstanding in each direction.
const OUTSTANDING: usize = 24;

/// Bytes that repeat nowhere near.
fn fill(buffer: &mut [u8], seed: &mut u64) {
    for chunk in buffer.chunks_mut(8) {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bytes = (*seed ^ (*seed >> 29)).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

/// Through an echo service, so that the same bytes go both ways at once.
fn moves_64_mib_each_way(kind: Kind, dialect: Dialect) {
    let echo = Service::echo();
    let world = World::new(kind);
    let client = Client::connect(&world.socket(), dialect);
    let (directory, ctl, data) = client.dial(&echo.address()).expect("the echo service answers");
    let writer = client.open(&format!("{directory}/data"), Mode::Write).expect("data opens");
    let up = thread::spawn(move || upload(&writer));
    let down = thread::spawn(move || download(&data));
    let sent = up.join().expect("the upload");
    ctl.control("closewrite").expect("the conversation is open");
    let (received, length) = down.join().expect("the download");
    assert_eq!(length, BULK);
    assert_eq!(sent, received, "SHA-256 of what was sent and of what came back");
    let status = client.text(&format!("{directory}/status")).expect("it is there");
    assert!(status.contains(&format!("rx {BULK} tx {BULK} ")), "{status}");
}

fn upload(data: &File) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut seed = 1;
    // Odd sizes too: writes must not depend on packets.
    let mut sizes = [IO as usize, 1, 32_769, 4_096, IO as usize].into_iter().cycle();
    let mut pending = VecDeque::new();
    let mut left = BULK;
    while left > 0 || !pending.is_empty() {
        if left > 0 && pending.len() < OUTSTANDING {
            let mut buffer = vec![0; sizes.next().unwrap_or(1).min(left)];
            fill(&mut buffer, &mut seed);
            hash.update(&buffer);
            left -= buffer.len();
            pending.push_back((data.write(&buffer), buffer.len()));
        } else if let Some((write, length)) = pending.pop_front() {
            assert_eq!(write.wait_count().expect("the write") as usize, length);
        }
    }
    hash.finalize().into()
}

fn download(data: &File) -> ([u8; 32], usize) {
    let mut hash = Sha256::new();
    let mut length = 0;
    let mut pending: VecDeque<_> = (0..OUTSTANDING).map(|_| data.read(IO)).collect();
    while let Some(read) = pending.pop_front() {
        let bytes = read.wait_data().expect("the read");
        if bytes.is_empty() {
            // Those behind it are at the end, too.
            for read in pending {
                assert!(read.wait_data().expect("the read").is_empty());
            }
            break;
        }
        hash.update(&bytes);
        length += bytes.len();
        pending.push_back(data.read(IO));
    }
    (hash.finalize().into(), length)
}

/// All open at the same time, all at work at the same time.
fn two_hundred_conversations_at_once(kind: Kind) {
    const MANY: usize = 200;
    let echo = Service::echo();
    let world = World::new(kind);
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let clients: Vec<_> =
        (0..MANY).map(|_| client.clone_client().expect("there is room")).collect();
    let connect = format!("connect {}", echo.address());
    let dials: Vec<_> = clients.iter().map(|(_, ctl)| ctl.write(connect.as_bytes())).collect();
    for dial in dials {
        dial.wait_count().expect("the echo service answers");
    }
    let open = |(directory, _): &(String, File)| {
        client.open(&format!("{directory}/data"), Mode::Both).expect("data opens")
    };
    let files: Vec<File> = clients.iter().map(open).collect();
    let listed = client.names("tcp");
    for (directory, _) in &clients {
        let number = directory.trim_start_matches("tcp/");
        assert!(listed.iter().any(|name| name == number), "{number} is not listed");
    }
    let text = |i: usize, round: usize| {
        let mut bytes = format!("conversation {i}, round {round}\n").into_bytes();
        let mut noise = vec![0; 100 * (1 + i % 100)];
        fill(&mut noise, &mut (i as u64 * 7 + round as u64));
        bytes.extend(noise);
        bytes
    };
    for round in 0..3 {
        let writes: Vec<_> =
            files.iter().enumerate().map(|(i, file)| file.write(&text(i, round))).collect();
        for (i, write) in writes.into_iter().enumerate() {
            assert_eq!(write.wait_count().expect("the write") as usize, text(i, round).len());
        }
        for (i, file) in files.iter().enumerate() {
            let expected = text(i, round);
            let mut got = Vec::new();
            while got.len() < expected.len() {
                let piece = file.read(IO).wait_data().expect("the read");
                assert!(!piece.is_empty(), "conversation {i} ended early");
                got.extend(piece);
            }
            assert!(got == expected, "conversation {i} got other bytes than it sent");
        }
    }
}
