//! The component as a machine for the simulator.

use sshnet_core::{ClientInfo, Limits, Statistics};

use super::oracle::{Answer, Call, Machine, call};
use crate::subject::Subject;
use crate::subject::component::Component;

/// Makes a component with these limits.
pub fn component(limits: Limits) -> Box<dyn Machine> {
    Box::new(Component::new(&call::config(limits)))
}

impl Machine for Component {
    fn perform(&mut self, call: &Call) -> Answer {
        Answer::Effects(match call {
            Call::PipeUp => self.pipe_up(),
            Call::PipeDown(reason) => self.pipe_down(reason),
            Call::Receive(message) => self.receive(message),
            Call::PipeTook(bytes) => self.pipe_took(*bytes),
            Call::Advance(now) => self.advance(*now),
            Call::Shutdown(reason) => self.shutdown(reason),
            Call::Clone(request, protocol) => self.clone_client(*request, *protocol),
            Call::Control(request, client, text) => self.control(*request, *client, text),
            Call::Read(request, client, count) => self.read(*request, *client, *count),
            Call::Write(request, client, bytes) => self.write(*request, *client, bytes),
            Call::Listen(request, client) => self.listen(*request, *client),
            Call::Flush(request) => self.flush(*request),
            Call::Release(client) => self.release(*client),
            Call::Retain(client) => return Answer::Retained(self.retain(*client)),
            Call::Lookup(number) => return Answer::Found(self.lookup(*number)),
            Call::Text(client, file) => return Answer::Text(self.text(*client, *file)),
            Call::Translate(query) => return Answer::Text(self.translate(query)),
        })
    }

    fn snapshot(&mut self) -> Vec<ClientInfo> {
        self.clients()
    }

    fn figures(&mut self) -> Statistics {
        self.statistics()
    }
}
