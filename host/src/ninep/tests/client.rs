//! The client, against the server.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::super::listener::Door;
use super::*;
use crate::engine::Reply as Done;
use crate::ninep::client::{Client, ClientError};
use crate::ninep::{listen, listen_tcp};
use crate::piped::Siding;
use crate::tree::Access;
use crate::tree::fake::Asked;
use crate::users::Users;

async fn client(fake: &Fake, msize: u32) -> Client {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let tree = fake.tree();
    tokio::spawn(async move { serve(far, tree, &Options::default()).await });
    timeout(PATIENCE, Client::new(near, msize)).await.expect("in time").expect("a server")
}

#[tokio::test]
async fn files_are_opened_by_path_and_read_by_offset() {
    let fake = Fake::default();
    let client = client(&fake, 8192).await;
    assert_eq!(client.msize(), 8192);
    let ctl = client.open("/tcp/clone", Access::ReadWrite).await.expect("a client");
    assert_eq!(ctl.iounit(), 8168);
    assert_eq!(ctl.read(10).await.expect("a number"), "0");
    assert_eq!(ctl.read(10).await.expect("an end"), "");
    assert_eq!(ctl.read_at(0, 10).await.expect("a number"), "0");
    let status = client.read_file("tcp/0/status").await.expect("a text");
    assert_eq!(status, b"Closed 2\n");
    assert_eq!(fake.references(), [(0, 1)]);
    ctl.clunk().await.expect("it never fails");
    assert_eq!(fake.references(), []);
}

#[tokio::test]
async fn errors_are_the_servers_words() {
    let fake = Fake::default();
    let client = client(&fake, 8192).await;
    let refused = |text: &str| Some(ClientError::Refused(text.to_owned()));
    let error = client.open("nothing", Access::Read).await.err();
    assert_eq!(error, refused("file not found"));
    let error = client.open("tcp/0/ctl", Access::Read).await.err();
    assert_eq!(error, refused("file not found"));
    let error = client.open("tcp", Access::Write).await.err();
    assert_eq!(error, refused("Is a directory"));
    let cs = client.open("cs", Access::ReadWrite).await.expect("it is there");
    let error = cs.write(b"nonsense").await.err();
    assert_eq!(error, refused("can't translate"));
    cs.write_all(b"tcp!far!80").await.expect("a query");
    assert_eq!(cs.read(100).await.expect("an answer"), "/net/tcp/clone far!80");
}

#[tokio::test]
async fn requests_go_out_as_they_are_made() {
    let fake = Fake::default();
    let client = client(&fake, 8192).await;
    let _ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    let data = client.open("tcp/0/data", Access::ReadWrite).await.expect("it is there");
    // None of these is polled before all are there.
    let (first, second) = (data.read(10), data.read(20));
    let write = data.write(b"abc");
    until("they wait", || fake.asked().len() == 3).await;
    let asked = [Asked::Read(10), Asked::Read(20), Asked::Write(b"abc".to_vec())];
    assert_eq!(fake.asked(), asked);
    fake.complete(Ok(Done::Data(b"one".to_vec())));
    fake.complete(Ok(Done::Data(b"two".to_vec())));
    fake.complete(Ok(Done::Count(2)));
    assert_eq!(write.await, Ok(2));
    assert_eq!(second.await.expect("data"), "two");
    assert_eq!(first.await.expect("data"), "one");
}

#[tokio::test]
async fn a_dropped_future_flushes_and_a_dropped_file_is_clunked() {
    let fake = Fake::default();
    let client = client(&fake, 8192).await;
    let ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    let data = client.open("tcp/0/data", Access::ReadWrite).await.expect("it is there");
    let read = data.read(10);
    until("it waits", || fake.asked().len() == 1).await;
    drop(read);
    until("it is flushed", || fake.asked().is_empty()).await;
    drop(data);
    drop(ctl);
    until("both are clunked", || fake.references().is_empty()).await;
    // An opening that is given up.
    let ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    let listening = tokio::spawn({
        let client = client.clone();
        async move { client.open("tcp/0/listen", Access::ReadWrite).await.map(drop) }
    });
    until("it waits", || fake.asked() == [Asked::Listen]).await;
    listening.abort();
    until("it is flushed", || fake.asked().is_empty()).await;
    assert_eq!(fake.references(), [(0, 1)]);
    drop(ctl);
}

/// Of what a siding has no room for the rest is read, so that answers to others come.
#[tokio::test]
async fn a_siding_that_nobody_empties_holds_up_no_answer() {
    const PART: usize = 200_000;
    let fake = Fake::default();
    let client = client(&fake, 256 << 10).await;
    let _ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    let data = client.open("tcp/0/data", Access::ReadWrite).await.expect("it is there");
    let siding = Arc::new(Siding::new().expect("a pipe"));
    let reads: Vec<_> = (0..20).map(|_| data.receive(PART as u32, Some(&siding))).collect();
    for number in 0..20 {
        until("it is asked", || fake.asked().len() == 20 - usize::from(number)).await;
        assert!(fake.try_complete(|| vec![number; PART]));
    }
    let status = timeout(PATIENCE, client.read_file("tcp/0/status")).await.expect("in time");
    assert_eq!(status.expect("a text"), b"Closed 3\n");
    let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
    let (mut apart, mut last) = (0, 0);
    for (number, read) in (0..).zip(reads) {
        let received = timeout(PATIENCE, read).await.expect("in time").expect("bytes");
        let mut got = received.bytes.to_vec();
        if let Some((mut piped, rest)) = received.rest {
            (apart, last) = (apart + piped.len(), last + rest.len());
            while piped.len() > 0 {
                piped.move_on(&near).expect("it has room");
                let mut part = vec![0; PART];
                let count = far.read(&mut part).await.expect("bytes");
                got.extend_from_slice(&part[..count]);
            }
            got.extend_from_slice(&rest);
        }
        assert!(got == vec![number; PART], "part {number}: {} bytes", got.len());
    }
    assert!(apart > PART && last > PART, "{apart} went apart, {last} were read");
}

/// What it sends first would pass for what was asked for first.
#[tokio::test]
async fn a_server_that_answers_reads_in_another_order_is_not_believed() {
    let fake = Fake::default();
    let client = client(&fake, 256 << 10).await;
    let _ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    let data = client.open("tcp/0/data", Access::ReadWrite).await.expect("it is there");
    let siding = Arc::new(Siding::new().expect("a pipe"));
    let [first, second] = [(); 2].map(|()| data.receive(100_000, Some(&siding)));
    until("they are asked", || fake.asked().len() == 2).await;
    for byte in [2, 1] {
        fake.complete_last(Ok(Done::Data(vec![byte; 100_000])));
    }
    let (near, _far) = UnixStream::pair().expect("a pair of sockets");
    for (read, fits) in [(first, false), (second, true)] {
        let received = timeout(PATIENCE, read).await.expect("in time").expect("bytes");
        let (mut piped, _) = received.rest.expect("much of it is apart");
        assert_eq!(piped.move_on(&near).is_ok(), fits);
    }
}

#[tokio::test]
async fn when_the_connection_ends_everybody_hears_of_it() {
    let fake = Fake::default();
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let tree = fake.tree();
    let server = tokio::spawn(async move { serve(far, tree, &Options::default()).await });
    let client = Client::new(near, 8192).await.expect("a server");
    let _ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    let data = client.open("tcp/0/data", Access::ReadWrite).await.expect("it is there");
    let read = data.read(10);
    until("it waits", || fake.asked().len() == 1).await;
    server.abort();
    let error = timeout(PATIENCE, read).await.expect("in time").err();
    assert!(matches!(error, Some(ClientError::Ended(_))), "{error:?}");
    let error = data.write(b"x").await.err();
    assert!(matches!(error, Some(ClientError::Ended(_))), "{error:?}");
}

#[tokio::test]
async fn a_thousand_files_and_many_requests_share_a_connection() {
    let fake = Fake::default();
    let client = client(&fake, 1 << 20).await;
    for _ in 0..3 {
        let mut files = Vec::new();
        for _ in 0..300 {
            files.push(client.open("tcp/clone", Access::ReadWrite).await.expect("a client"));
        }
        let reads: Vec<_> = files.iter().map(|file| file.read(10)).collect();
        for (number, read) in reads.into_iter().enumerate() {
            assert_eq!(read.await.expect("a number"), number.to_string());
        }
        drop(files);
        until("they are clunked", || fake.references().is_empty()).await;
    }
}

#[tokio::test]
async fn a_socket_is_served_and_has_a_limit() {
    let fake = Fake::default();
    let directory = std::env::temp_dir().join(format!("sshnet-ninep-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let options = Options { connections: 2, ..Options::default() };
    let server = tokio::spawn(listen(listener, fake.tree(), options));
    let one = Client::connect(&path).await.expect("a server");
    let two = Client::connect(&path).await.expect("a server");
    assert!(Client::connect(&path).await.is_err());
    let _ctl = one.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    drop(two);
    // There is room as soon as the server has noticed.
    for patience in (0..1000).rev() {
        if Client::connect(&path).await.is_ok() {
            break;
        }
        assert!(patience > 0);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.abort();
    until("all is closed", || fake.references().is_empty()).await;
    assert!(one.open("cs", Access::Read).await.is_err());
    assert!(UnixStream::connect(&path).await.is_err());
    std::fs::remove_dir_all(&directory).expect("it goes");
}

/// However many they are, the user's own commands come in.
#[test]
fn other_users_have_half_of_the_places_together() {
    let own = rustix::process::geteuid().as_raw();
    let users = Users::with(vec![own + 7, own + 8]);
    let door = Door::new(&Options { connections: 5, users, ..Options::default() });
    let mut places: Vec<_> = [7, 8].into_iter().map(|user| door.place(Ok(own + user))).collect();
    assert!(places.iter().all(Option::is_some));
    for user in [7, 8, 9] {
        assert!(door.place(Ok(own + user)).is_none(), "{user}");
    }
    for user in [0, own].repeat(10) {
        places.push(door.place(Ok(user)));
        assert!(places.last().is_some_and(Option::is_some));
    }
    // There is one again when one of theirs has gone.
    places.swap_remove(0);
    assert!(door.place(Ok(own + 7)).is_some());
}

#[tokio::test]
async fn a_tcp_port_is_served_to_those_who_may() {
    for anybody in [false, true] {
        let fake = Fake::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(listen_tcp(listener, anybody, fake.tree(), Options::default()));
        let mut stream = TcpStream::connect(address).await.expect("a server");
        let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
        tokio::spawn(async move { copy_bidirectional(&mut stream, &mut far).await });
        let client = Client::new(near, 8192).await.expect("it speaks to us");
        let _ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
        server.abort();
        until("all is closed", || fake.references().is_empty()).await;
    }
}
