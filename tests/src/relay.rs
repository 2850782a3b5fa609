//! A TCP path between two programs of this machine that can be lost.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Takes connections at a port, and leads each to another. Dropped, it ends them.
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Both ends of every connection so far.
    connections: Mutex<Vec<[TcpStream; 2]>>,
    /// Those before this one stand still.
    still: AtomicUsize,
    stop: AtomicBool,
}

impl Relay {
    /// A relay to this port of the loopback.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback has ports");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if serving.stop.load(Ordering::Relaxed) {
                    return;
                }
                // Where there is nobody its caller hears so.
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                serving.lead(near, far);
            }
        });
        Self { port, shared }
    }

    /// Where it takes connections.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing that is sent on the connections that there are arrives, not
    /// even their end. New ones are led as before.
    pub fn stand_still(&self) {
        let connections = self.shared.connections.lock().expect("no panic");
        self.shared.still.store(connections.len(), Ordering::SeqCst);
    }

    /// Ends the connections that there are, whatever is on the way.
    pub fn cut(&self) {
        self.end(usize::MAX);
    }

    /// Ends those that stand still: so both sides hear of it at last.
    pub fn cut_still(&self) {
        self.end(self.shared.still.load(Ordering::SeqCst));
    }

    fn end(&self, first: usize) {
        let connections = self.shared.connections.lock().expect("no panic");
        for stream in connections.iter().take(first).flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lead(self: &Arc<Self>, near: TcpStream, far: TcpStream) {
        let clone = |stream: &TcpStream| stream.try_clone().expect("a socket");
        let [_, _] = [&near, &far].map(|stream| stream.set_nodelay(true).expect("a socket"));
        let number = {
            let mut connections = self.connections.lock().expect("no panic");
            connections.push([clone(&near), clone(&far)]);
            connections.len() - 1
        };
        for (from, to) in [(clone(&near), clone(&far)), (far, near)] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pump(number, from, to));
        }
    }

    fn pump(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let still = || number < self.still.load(Ordering::SeqCst);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if !still() && to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        if !still() {
            let _ = to.shutdown(Shutdown::Write);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
