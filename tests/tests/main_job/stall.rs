//! Those who do not read, and those who go while they wait: nobody else notices.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use sshnet_tests::ninep::{
    Body, Client, Dialect, IO, Mode, PATIENCE, Pending, frame, read_frame, tversion,
};
use sshnet_tests::world::{Kind, Service, World, until};

on_each_pipe!(
    eight_uploads_and_eight_downloads_beside_a_reader_that_stands_still,
    reads_that_wait_make_no_other_shorter,
    a_clunk_with_a_read_outstanding_is_answered,
    a_flushed_write_says_how_much_of_it_is_on_its_way,
    uploads_that_nobody_reads_fail_nobody_elses,
);

/// A service that sends so much and ends.
fn source(amount: usize) -> Service {
    Service::new(move |mut stream| {
        let buffer = vec![b's'; 64 << 10];
        let mut left = amount;
        while left > 0 {
            let piece = left.min(buffer.len());
            if stream.write_all(&buffer[..piece]).is_err() {
                return;
            }
            left -= piece;
        }
    })
}

/// sshnet.c: each side waited for the other to read before it read itself, and
/// everything stood still for ever (defect 24).
fn eight_uploads_and_eight_downloads_beside_a_reader_that_stands_still(kind: Kind) {
    const EACH: usize = 4 << 20;
    let world = World::new(kind);
    let endless = source(usize::MAX);
    let finite = source(EACH);
    let sink = Service::new(|mut stream| {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0_usize;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            total += count;
        }
        let _ = stream.write_all(total.to_string().as_bytes());
    });
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (stuck, _stuck_ctl, _stuck_data) = client.dial(&endless.address()).expect("it answers");
    until("what nobody reads has filled its window", || {
        let status = client.text(&format!("{stuck}/status")).expect("it is there");
        status.contains(" window 0/") && !status.contains("qin 0 ")
    });
    let mut threads = Vec::new();
    for _ in 0..8 {
        let (client, address) = (client.clone(), finite.address());
        threads.push(thread::spawn(move || {
            let (_, _ctl, data) = client.dial(&address).expect("it answers");
            assert_eq!(data.read_to_end().expect("the reads").len(), EACH);
        }));
        let client = Client::connect(&world.socket(), Dialect::Unix);
        let address = sink.address();
        threads.push(thread::spawn(move || {
            let (_, ctl, data) = client.dial(&address).expect("it answers");
            let writes: Vec<_> =
                (0..EACH / IO as usize).map(|_| data.write(&[b'u'; IO as usize])).collect();
            for write in writes {
                assert_eq!(write.wait_count(), Ok(IO));
            }
            ctl.control("closewrite").expect("it is open");
            let told = data.read_to_end().expect("the reads");
            assert_eq!(String::from_utf8_lossy(&told), EACH.to_string());
        }));
    }
    for thread in threads {
        thread.join().expect("each moves its bytes");
    }
}

/// sshnet.c: the fid's last reference went with the request, inside the only
/// thread that could take it (defect 15).
/// Together they ask for more than the server lets them wait for.
fn reads_that_wait_make_no_other_shorter(kind: Kind) {
    let world = World::new(kind);
    let silent = Service::new(|mut stream| drop(stream.read(&mut [0])));
    let talks = Service::new(|mut stream| {
        stream.write_all(&[b's'; IO as usize]).expect("it is taken");
        let _ = stream.read(&mut [0]);
    });
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let (_, _ctl, nothing) = client.dial(&silent.address()).expect("it answers");
        let waiting: Vec<_> = (0..200).map(|_| nothing.read(IO)).collect();
        let (number, _ctl, data) = client.dial(&talks.address()).expect("it answers");
        let there = format!(" qin {IO} ");
        until("all of it is there", || {
            let status = client.text(&format!("{number}/status")).expect("it is there");
            status.contains(&there)
        });
        let read = data.read(IO).wait_data().expect("it is open");
        assert_eq!(read.len(), IO as usize, "{dialect:?}");
        // And of what waits nothing was lost or answered.
        assert!(waiting.iter().all(|read| read.wait_for(Duration::ZERO).is_none()));
        client.hang_up();
    }
}

fn a_clunk_with_a_read_outstanding_is_answered(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let (directory, ctl, data) = client.dial(&echo.address()).expect("it answers");
        let reads: Vec<_> = (0..3).map(|_| data.read(100)).collect();
        data.close();
        ctl.close();
        for read in reads {
            // Given up with its fid, or ended with its conversation.
            read.wait().expect_err("its file is closed");
        }
        until("the conversation is gone", || client.walk(&directory).is_err());
        // The same by hanging up the whole connection.
        let (directory, _ctl, data) = client.dial(&echo.address()).expect("it answers");
        let other = Client::connect(&world.socket(), dialect);
        other.walk(&directory).expect("it is there");
        let _pending = data.read(100);
        client.hang_up();
        until("the conversation is gone with its connection", || other.walk(&directory).is_err());
    }
}

/// sshnet.c said "interrupted" of a write that it had sent in part, and the caller
/// sent it again (defect 8). Whoever goes on after what was answered leaves no gap
/// and says nothing twice.
fn a_flushed_write_says_how_much_of_it_is_on_its_way(kind: Kind) {
    /// The bytes of the stream from this place on.
    fn bytes(from: usize) -> Vec<u8> {
        (from..from + IO as usize).map(|at| (at / 3 + at / 1009) as u8).collect()
    }
    let world = World::new(kind);
    // Where sshd gives window it ends anywhere; where we do, at whole writes.
    let ours = matches!(kind, Kind::Loopback | Kind::BarePeer | Kind::Plan9);
    let mut in_part = 0;
    // On a machine that is busy the flushes may all come too early.
    let rounds = if ours { 1 } else { 4 };
    for dialect in std::iter::repeat_n(Dialect::ALL, rounds).flatten() {
        if in_part > 0 && dialect == Dialect::Plan9 {
            break;
        }
        let (go, wait) = channel::<()>();
        let (say, heard) = channel();
        let wait = Mutex::new(wait);
        let sink = Service::new(move |mut stream| {
            let _ = wait.lock().expect("no panic").recv();
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
            let _ = say.send(all);
        });
        let client = Client::connect(&world.socket(), dialect);
        let (_, ctl, data) = client.dial(&sink.address()).expect("it answers");
        // A little to begin with, so that the window ends within a write.
        let begun = data.write(&bytes(0)[..1000]).wait_count();
        let mut sent = begun.expect("there is room") as usize;
        let mut flushed = 0;
        while flushed < 3 {
            let write = data.write(&bytes(sent));
            // As long as there is room the answer is not far.
            let answer = write.wait_for(Duration::from_millis(300)).or_else(|| {
                client.flush(&write);
                flushed += 1;
                write.wait_for(Duration::ZERO)
            });
            if let Some(count) = answer {
                let count = count.expect("it is open");
                let count = u32::from_le_bytes(count.try_into().expect("an Rwrite"));
                sent += count as usize;
                in_part += u32::from(count < IO);
            }
            assert!(sent < 256 << 20, "nobody reads it, and all of it is taken");
        }
        go.send(()).expect("it waits");
        ctl.control("closewrite").expect("it is open");
        let all = heard.recv_timeout(PATIENCE).expect("an end");
        assert_eq!(all.len(), sent, "{dialect:?}");
        let wanted = (0..sent).step_by(IO as usize).flat_map(bytes).take(sent);
        assert!(wanted.eq(all), "{dialect:?}: the bytes are not those that were answered");
    }
    assert!(in_part > 0 || ours, "no write was taken in part");
}

/// A service whose callers are not read, as long as it is there.
fn standstill() -> Service {
    let held = Mutex::new(Vec::new());
    Service::new(move |stream| held.lock().expect("no panic").push(stream))
}

/// A conversation of this client's that gives back a million bytes.
fn echo_a_million(client: &Client, echo: &Service) {
    const BYTES: usize = 1_000_000;
    let (_, ctl, data) = client.dial(&echo.address()).expect("it answers");
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at / 7 + at / 1013) as u8).collect();
    let writes: Vec<_> = bytes.chunks(IO as usize).map(|part| data.write(part)).collect();
    let mut back = Vec::new();
    while back.len() < BYTES {
        back.extend(data.read(IO).wait_data().expect("the reads"));
    }
    for (write, part) in writes.into_iter().zip(bytes.chunks(IO as usize)) {
        assert_eq!(write.wait_count(), Ok(part.len() as u32));
    }
    assert!(back == bytes, "what came back is not what was sent");
    ctl.control("hangup").expect("it is open");
}

/// What all connections had waiting counted against one limit, which one of them
/// could reach.
fn uploads_that_nobody_reads_fail_nobody_elses(kind: Kind) {
    const EACH: usize = 64 << 20;
    let world = World::new(kind);
    let (deaf, echo) = (standstill(), Service::echo());
    let mut waiting = Vec::new();
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let (_, ctl, data) = client.dial(&deaf.address()).expect("it answers");
        let part = [b'd'; IO as usize];
        let writes: Vec<_> = (0..EACH / IO as usize).map(|_| data.write(&part)).collect();
        waiting.push((client, ctl, data, writes));
    }
    let other = Client::connect(&world.socket(), Dialect::Linux);
    echo_a_million(&other, &echo);
    // Each of the writes was taken or still waits; most do.
    for (.., writes) in &waiting {
        let answers: Vec<_> =
            writes.iter().filter_map(|write| write.wait_for(Duration::ZERO)).collect();
        assert!(answers.len() < writes.len() / 2, "{} were taken", answers.len());
        answers.into_iter().for_each(|answer| drop(answer.expect("it is open")));
    }
    // They end with their connections, and leave nothing.
    for (client, ..) in waiting {
        client.hang_up();
    }
    until("they are gone", || other.names("tcp") == ["clone", "stats"]);
    echo_a_million(&other, &echo);
}

#[test]
fn a_hundred_uploads_that_nobody_reads_leave_their_connection_to_others() {
    const EACH: usize = 8;
    let world = World::new(Kind::Loopback);
    let (deaf, echo) = (standstill(), Service::echo());
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let mut uploads: Vec<_> = (0..100)
        .map(|_| (client.dial(&deaf.address()).expect("it answers"), VecDeque::new()))
        .collect();
    // Until nothing was taken for a while.
    let mut still = 0;
    until("every upload stands still", || {
        still += 1;
        for ((_, _, data), writes) in &mut uploads {
            while let Some(answer) =
                writes.front().and_then(|w: &Pending| w.wait_for(Duration::ZERO))
            {
                answer.expect("it is open");
                writes.pop_front();
                still = 0;
            }
            while writes.len() < EACH {
                writes.push_back(data.write(&[b'd'; IO as usize]));
            }
        }
        still > 20
    });
    echo_a_million(&client, &echo);
}

/// Each connection could have an eighth of all the requests that there may be.
#[test]
fn reads_that_wait_leave_requests_to_others() {
    let world = World::new(Kind::Loopback);
    let (deaf, echo) = (standstill(), Service::echo());
    let mut readers = Vec::new();
    for _ in 0..10 {
        let client = Client::connect(&world.socket(), Dialect::Plan9);
        let (_, ctl, data) = client.dial(&deaf.address()).expect("it answers");
        let reads: Vec<_> = (0..8_192).map(|_| data.read(1)).collect();
        // All of them have been looked at when this is answered.
        client.flush(&reads[0]);
        let refused =
            reads.iter().skip(1).filter(|read| read.wait_for(Duration::ZERO).is_some()).count();
        readers.push((client, ctl, data, refused));
        let other = Client::connect(&world.socket(), Dialect::Linux);
        let (_, _ctl, data) = other.dial(&echo.address()).expect("it answers");
        data.write(b"hello").wait_count().expect("the write");
        assert_eq!(data.read(100).wait_data(), Ok(b"hello".to_vec()));
    }
    let refused: Vec<usize> = readers.iter().map(|(.., refused)| *refused).collect();
    assert_eq!(refused[..4], [0; 4], "{refused:?}");
    assert!(refused[9] > 0 && refused[9] < 8_000, "{refused:?}");
}

/// sshnet.c wrote its replies where it took its requests: a client that did not
/// read them stopped all others (defect 25).
#[test]
fn a_9p_client_that_does_not_read_stalls_itself_alone() {
    let world = World::new(Kind::Loopback);
    let echo = Service::echo();
    let mut lazy = UnixStream::connect(world.socket()).expect("it serves");
    lazy.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let steps = [
        tversion("9P2000"),
        frame(104, 1, Body::new().u32(0).u32(!0).string("tester").string("")),
        frame(110, 1, Body::new().u32(0).u32(1).u16(2).string("tcp").string("clone")),
        frame(112, 1, Body::new().u32(1).u8(Mode::Both as u8)),
    ];
    for step in steps {
        lazy.write_all(&step).expect("it reads");
        let (_, (kind, _)) = read_frame(&mut lazy).expect("it answers").expect("and stays");
        assert!(!matches!(kind, 7 | 107), "a step was refused");
    }
    // Of the replies Rstat is the largest for the least that is asked.
    lazy.set_write_timeout(Some(Duration::from_millis(300))).expect("a socket");
    let mut asked = 0_u32;
    loop {
        let stat = frame(124, (asked % 0x7fff) as u16, Body::new().u32(1));
        match lazy.write_all(&stat) {
            Ok(()) => asked += 1,
            Err(_) => break,
        }
        assert!(asked < 1_000_000, "the server keeps replies without end");
    }
    let witness = Client::connect(&world.socket(), Dialect::Linux);
    let (_, _ctl, data) = witness.dial(&echo.address()).expect("it answers");
    data.write(b"hello").wait_count().expect("the write");
    assert_eq!(data.read(100).wait_data(), Ok(b"hello".to_vec()));
}
