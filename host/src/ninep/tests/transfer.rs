//! The whole way: client, server, tree, driver, engine, and a far side in this
//! process. In each direction bytes arrive whole and in order.

use tokio::net::TcpListener;

use super::engine::driver;
use super::*;
use crate::ninep::client::{Client, File};
use crate::tree::{Access, Owner};

const BYTES: usize = 16 << 20;

async fn client() -> Client {
    let driver = driver();
    tokio::spawn(crate::pipe::loopback::run(driver.pipe_up()));
    let (near, far) = tokio::net::UnixStream::pair().expect("a pair of sockets");
    let tree = Tree::new(driver, Owner::current());
    tokio::spawn(async move { serve(far, tree, &Options::default()).await });
    Client::new(near, 256 << 10).await.expect("a server")
}

fn pattern(length: usize) -> Vec<u8> {
    let mut random = Random(5);
    (0..length / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// Sends it all and reads it all back, with many requests outstanding.
async fn echo(data: &File, bytes: &[u8]) {
    let send = async {
        let mut writes = std::collections::VecDeque::new();
        for part in bytes.chunks(64 << 10) {
            writes.push_back((part.len(), data.write(part)));
            if writes.len() > 8 {
                let (length, write) = writes.pop_front().expect("it is there");
                assert_eq!(write.await.expect("taken") as usize, length);
            }
        }
        for (length, write) in writes {
            assert_eq!(write.await.expect("taken") as usize, length);
        }
    };
    let receive = async {
        let mut got = Vec::new();
        let mut reads = std::collections::VecDeque::new();
        while got.len() < bytes.len() {
            while reads.len() < 8 {
                reads.push_back(data.read(128 << 10));
            }
            let part = reads.pop_front().expect("it is there").await.expect("read");
            assert!(!part.is_empty(), "an end after {}", got.len());
            got.extend_from_slice(&part);
        }
        got
    };
    let ((), got) = tokio::join!(send, receive);
    assert!(got == bytes, "what came back is not what was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialled_conversation_carries_every_byte_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a call");
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.expect("an echo");
    });
    let client = client().await;
    let ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    let number = ctl.read(10).await.expect("a number");
    let number = std::str::from_utf8(&number).expect("digits");
    ctl.write_all(format!("connect 127.0.0.1!{port}").as_bytes()).await.expect("a dial");
    let path = format!("tcp/{number}/data");
    let data = client.open(&path, Access::ReadWrite).await.expect("it is there");
    let bytes = pattern(BYTES);
    let started = std::time::Instant::now();
    timeout(PATIENCE * 3, echo(&data, &bytes)).await.expect("in time");
    let rate = BYTES as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!("{rate:.0} MB/s each way");
    ctl.write_all(b"hangup").await.expect("it ends");
    assert!(data.read(10).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_taken_by_opening_listen() {
    let client = client().await;
    let ctl = client.open("tcp/clone", Access::ReadWrite).await.expect("a client");
    ctl.write_all(b"announce 127.0.0.1!0").await.expect("a port");
    let local = client.read_file("tcp/0/local").await.expect("an address");
    let local = String::from_utf8(local).expect("a text");
    let port: u16 =
        local.trim().rsplit('!').next().and_then(|port| port.parse().ok()).expect("a port");
    let calling = tokio::spawn(async move {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("a call");
        stream.write_all(b"hello").await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    });
    let call = timeout(PATIENCE, client.open("tcp/0/listen", Access::ReadWrite)).await;
    let call = call.expect("in time").expect("a call");
    assert_eq!(call.read(10).await.expect("a number"), "1");
    let data = client.open("tcp/1/data", Access::ReadWrite).await.expect("it is there");
    assert_eq!(data.read(100).await.expect("data"), "hello");
    data.write_all(b"hello yourself").await.expect("sent");
    call.write_all(b"closewrite").await.expect("an end");
    assert_eq!(calling.await.expect("no panic"), "hello yourself");
}
