//! The engine alone, as a component and as a native library: what it takes to
//! get a packet of 32 KiB in and read, and to write one and have it sent. It waits
//! for nothing, so the time is that of the processor.

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use sshnet_core::message::Message;
use sshnet_core::{ClientId, Config, Effect, Limits, Protocol, Reply, Session};
use sshnet_tests::subject::Subject;
use sshnet_tests::subject::component::Component;

const PACKET: usize = 32 << 10;
/// What the peer accepts at first, and again whenever it was sent.
const WINDOW: u32 = 32 << 20;

/// A session with one conversation.
pub(crate) struct Running {
    subject: Box<dyn Subject>,
    client: ClientId,
    channel: u32,
    request: u64,
}

impl Running {
    /// In the sandbox that the host has.
    pub(crate) fn component() -> Result<Self> {
        Self::new(Box::new(Component::new(&config())))
    }

    /// As a library.
    pub(crate) fn native() -> Result<Self> {
        Self::new(Box::new(Session::new(config())))
    }

    fn new(mut subject: Box<dyn Subject>) -> Result<Self> {
        subject.pipe_up();
        let client = subject.clone_client(1, Protocol::Tcp).into_iter().find_map(|effect| {
            let Effect::Complete(completion) = effect else { return None };
            match completion.outcome {
                Ok(Reply::Client(id)) => Some(id),
                _ => None,
            }
        });
        let client = client.context("clone makes a client")?;
        let channel = subject.control(2, client, b"connect h!1").into_iter().find_map(|effect| {
            let Effect::Send(message) = effect else { return None };
            match Message::decode(&message) {
                Ok(Message::Open { sender, .. }) => Some(sender),
                _ => None,
            }
        });
        let channel = channel.context("connect asks for a channel")?;
        let confirmation = Message::OpenConfirmation {
            recipient: channel,
            sender: 0,
            window: WINDOW,
            packet: PACKET as u32,
            data: b"",
        };
        subject.receive(&confirmation.encode());
        Ok(Self { subject, client, channel, request: 2 })
    }

    /// So many packets come in and are read; microseconds for each.
    pub(crate) fn inward(&mut self, packets: u32) -> Result<f64> {
        let data = vec![7; PACKET];
        let message = Message::Data { recipient: self.channel, data: &data }.encode();
        let started = spent();
        let mut read = 0;
        for _ in 0..packets {
            self.request += 1;
            let mut effects = self.subject.receive(&message);
            effects.extend(self.subject.read(self.request, self.client, PACKET as u32));
            for effect in effects {
                if let Effect::Complete(completion) = effect
                    && let Ok(Reply::Data(bytes)) = completion.outcome
                {
                    read += bytes.len();
                }
            }
        }
        let spent = spent() - started;
        if read != packets as usize * PACKET {
            bail!("{read} bytes were read of {packets} packets");
        }
        Ok(spent * 1e6 / f64::from(packets))
    }

    /// So many packets are written and sent; microseconds for each.
    pub(crate) fn outward(&mut self, packets: u32) -> Result<f64> {
        let data = vec![7; PACKET];
        let adjust = Message::WindowAdjust { recipient: self.channel, bytes: WINDOW / 4 }.encode();
        let adjust_after = WINDOW as usize / 4;
        let mut unadjusted = 0;
        let started = spent();
        let mut sent = 0;
        for _ in 0..packets {
            self.request += 1;
            let effects = self.subject.write(self.request, self.client, &data);
            let mut taken = 0;
            for effect in effects {
                if let Effect::Send(message) = effect {
                    taken += message.len() as u64;
                    sent += message.len() - 9;
                }
            }
            self.subject.pipe_took(taken);
            unadjusted += PACKET;
            if unadjusted >= adjust_after {
                self.subject.receive(&adjust);
                unadjusted -= adjust_after;
            }
        }
        let spent = spent() - started;
        if sent != packets as usize * PACKET {
            bail!("{sent} bytes were sent of {packets} packets");
        }
        Ok(spent * 1e6 / f64::from(packets))
    }
}

/// Seconds of the processor that this thread has had.
fn spent() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn config() -> Config {
    Config { prefix: "/net".to_owned(), services: Vec::new(), limits: Limits::default() }
}
