//! Port 0 at a peer that does not say which port it has bound, as psusan (0.78)
//! does not: the port is picked here, and another one where that will not do.
//!
//! Pure: it sees the global requests that go out and the answers that come in.
//! Answers come in the order in which requests were sent, and are handed on in the
//! order in which they were asked (RFC 4254 section 4), which an asking again
//! changes. Refuses to know what all other messages say.

use std::collections::VecDeque;

use sshnet_core::message::{Global, Message};

/// SSH_MSG_GLOBAL_REQUEST.
const GLOBAL_REQUEST: u8 = 80;
/// SSH_MSG_REQUEST_SUCCESS and SSH_MSG_REQUEST_FAILURE.
const SUCCESS: u8 = 81;
const FAILURE: u8 = 82;
/// Ports that nobody is given by the book (RFC 6335 section 6).
const FIRST: u64 = 49_152;
const COUNT: u64 = 16_384;
/// How many ports are tried. Where so many are refused it is not for the port.
const TRIES: u32 = 8;

/// Requests that are not answered yet, and the ports picked for them.
#[derive(Debug)]
pub(super) struct Ports {
    /// In the order in which the answers are to be handed on.
    asked: VecDeque<Asked>,
    /// Their numbers, in the order in which answers will come.
    sent: VecDeque<u64>,
    /// The numbers of those that are to be sent again.
    again: VecDeque<u64>,
    last: u64,
    random: u64,
}

#[derive(Debug)]
struct Asked {
    number: u64,
    /// What the peer was asked, where it was asked for port 0.
    picked: Option<Picked>,
    answer: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Picked {
    address: Vec<u8>,
    port: u32,
    tries: u32,
}

impl Picked {
    fn request(&self) -> Vec<u8> {
        let request = Global::TcpipForward { address: &self.address, port: self.port };
        Message::GlobalRequest { want_reply: true, request }.encode()
    }
}

impl Ports {
    /// Nothing is asked; the ports that will be depend on this number.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            asked: VecDeque::new(),
            sent: VecDeque::new(),
            again: VecDeque::new(),
            last: 0,
            random: seed | 1,
        }
    }

    /// This message is sent now; what is to be sent in its place.
    pub(super) fn sends(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        if message.first() != Some(&GLOBAL_REQUEST) {
            return None;
        }
        let Ok(Message::GlobalRequest { want_reply: true, request }) = Message::decode(message)
        else {
            return None;
        };
        let picked = match request {
            Global::TcpipForward { address, port: 0 } => {
                Some(Picked { address: address.to_vec(), port: self.port(), tries: 1 })
            }
            _ => None,
        };
        let instead = picked.as_ref().map(Picked::request);
        self.last += 1;
        self.sent.push_back(self.last);
        self.asked.push_back(Asked { number: self.last, picked, answer: None });
        instead
    }

    /// What is to be sent again, now. `None`: nothing any more.
    pub(super) fn sends_again(&mut self) -> Option<Vec<u8>> {
        let number = self.again.pop_front()?;
        let port = self.port();
        let picked = self.asked.iter_mut().find(|asked| asked.number == number)?.picked.as_mut()?;
        picked.port = port;
        picked.tries += 1;
        self.sent.push_back(number);
        Some(picked.request())
    }

    /// Whether this came in in answer to a global request.
    pub(super) fn is_answer(message: &[u8]) -> bool {
        matches!(message.first(), Some(&(SUCCESS | FAILURE)))
    }

    /// An answer came in; those that are to be handed on now. There may then be
    /// something to send again.
    pub(super) fn answers(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        let number = self.sent.pop_front();
        let asked = self.asked.iter_mut().find(|asked| Some(asked.number) == number);
        let Some(asked) = asked else { return vec![message.to_vec()] };
        let refused = message.first() == Some(&FAILURE);
        match &asked.picked {
            Some(picked) if refused && picked.tries < TRIES => {
                self.again.push_back(asked.number);
                return Vec::new();
            }
            Some(picked) if !refused => {
                let data = &picked.port.to_be_bytes();
                asked.answer = Some(Message::RequestSuccess { data }.encode());
            }
            _ => asked.answer = Some(message.to_vec()),
        }
        let mut whole = Vec::new();
        while let Some(answer) = self.asked.front_mut().and_then(|asked| asked.answer.take()) {
            self.asked.pop_front();
            whole.push(answer);
        }
        whole
    }

    fn port(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // At most 65535.
        (FIRST + (self.random >> 24) % COUNT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(port: u32) -> Vec<u8> {
        let request = Global::TcpipForward { address: b"::1", port };
        Message::GlobalRequest { want_reply: true, request }.encode()
    }

    fn port_of(request: &[u8]) -> u32 {
        match Message::decode(request).unwrap() {
            Message::GlobalRequest {
                want_reply: true,
                request: Global::TcpipForward { address: b"::1", port },
            } => port,
            other => panic!("{other:?}"),
        }
    }

    fn success(data: &[u8]) -> Vec<u8> {
        Message::RequestSuccess { data }.encode()
    }

    fn failure() -> Vec<u8> {
        Message::RequestFailure.encode()
    }

    #[test]
    fn a_port_is_picked_and_told() {
        let mut ports = Ports::new(7);
        let port = port_of(&ports.sends(&listen(0)).expect("another port"));
        assert!((49_152..=65_535).contains(&port));
        assert_eq!(ports.answers(&success(b"")), [success(&port.to_be_bytes())]);
        assert_eq!(ports.sends_again(), None);
        // All else is as it was.
        assert_eq!(ports.sends(&listen(80)), None);
        assert_eq!(ports.answers(&success(b"")), [success(b"")]);
        assert_eq!(ports.sends(&Message::Eof { recipient: 80 }.encode()), None);
        assert_eq!(ports.answers(&success(b"")), [success(b"")], "to no request");
    }

    #[test]
    fn another_port_is_tried_and_the_answers_keep_their_order() {
        let mut ports = Ports::new(7);
        let first = port_of(&ports.sends(&listen(0)).unwrap());
        assert_eq!(ports.sends(&listen(80)), None);
        assert!(ports.answers(&failure()).is_empty());
        assert_eq!(ports.sends(&listen(81)), None);
        let second = port_of(&ports.sends_again().unwrap());
        assert_ne!(first, second);
        assert!(ports.answers(&success(b"")).is_empty(), "of port 80");
        assert!(ports.answers(&failure()).is_empty(), "of port 81");
        let all = ports.answers(&success(b""));
        assert_eq!(all, [success(&second.to_be_bytes()), success(b""), failure()]);
    }

    #[test]
    fn an_address_that_has_no_port_to_give_is_given_up() {
        let mut ports = Ports::new(7);
        ports.sends(&listen(0)).unwrap();
        for _ in 1..TRIES {
            assert!(ports.answers(&failure()).is_empty());
            assert!(ports.sends_again().is_some());
        }
        assert_eq!(ports.answers(&failure()), [failure()]);
        assert_eq!(ports.sends_again(), None);
    }
}
