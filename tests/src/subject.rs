//! The engine under test.
//!
//! [`Subject`] has one method for each function of the contract
//! (wit/engine.wit). There are two: the component under wasmtime, through the
//! host's own `engine` module, and the native library. [`Pair`] is both, and
//! fails where they differ: a test that uses it runs on both and shows that they
//! agree. With `SSHNET_CORE=FILE` it is the component in that file, and nothing
//! else. Without this crate's feature `component` it is the library alone, which is
//! built in seconds: for mutants.

#[cfg(feature = "component")]
pub mod component;

use sshnet_core::{
    ClientId, ClientInfo, Config, Effect, Error, Protocol, Session, Statistics, TextFile,
};

use crate::promise::another;

/// The contract, function by function. A trap is a panic.
#[allow(missing_docs, reason = "each method is the function of the same name in wit/engine.wit")]
pub trait Subject {
    fn pipe_up(&mut self) -> Vec<Effect>;
    fn pipe_down(&mut self, reason: &str) -> Vec<Effect>;
    fn receive(&mut self, message: &[u8]) -> Vec<Effect>;
    fn pipe_took(&mut self, bytes: u64) -> Vec<Effect>;
    fn advance(&mut self, now: u64) -> Vec<Effect>;
    fn shutdown(&mut self, reason: &str) -> Vec<Effect>;
    fn clone_client(&mut self, request: u64, protocol: Protocol) -> Vec<Effect>;
    fn control(&mut self, request: u64, client: ClientId, text: &[u8]) -> Vec<Effect>;
    fn read(&mut self, request: u64, client: ClientId, count: u32) -> Vec<Effect>;
    fn write(&mut self, request: u64, client: ClientId, bytes: &[u8]) -> Vec<Effect>;
    fn listen(&mut self, request: u64, client: ClientId) -> Vec<Effect>;
    fn flush(&mut self, request: u64) -> Vec<Effect>;
    fn retain(&mut self, client: ClientId) -> Result<(), Error>;
    fn release(&mut self, client: ClientId) -> Vec<Effect>;
    fn lookup(&mut self, number: u32) -> Option<ClientInfo>;
    fn text(&mut self, client: ClientId, file: TextFile) -> Result<String, Error>;
    fn translate(&mut self, query: &str) -> Result<String, Error>;
    fn clients(&mut self) -> Vec<ClientInfo>;
    fn statistics(&mut self) -> Statistics;
}

impl Subject for Session {
    fn pipe_up(&mut self) -> Vec<Effect> {
        self.pipe_up()
    }

    fn pipe_down(&mut self, reason: &str) -> Vec<Effect> {
        self.pipe_down(reason)
    }

    fn receive(&mut self, message: &[u8]) -> Vec<Effect> {
        self.receive(message.to_vec())
    }

    fn pipe_took(&mut self, bytes: u64) -> Vec<Effect> {
        self.pipe_took(bytes)
    }

    fn advance(&mut self, now: u64) -> Vec<Effect> {
        self.advance(now)
    }

    fn shutdown(&mut self, reason: &str) -> Vec<Effect> {
        self.shutdown(reason)
    }

    fn clone_client(&mut self, request: u64, protocol: Protocol) -> Vec<Effect> {
        self.clone_client(request, protocol)
    }

    fn control(&mut self, request: u64, client: ClientId, text: &[u8]) -> Vec<Effect> {
        self.control(request, client, text)
    }

    fn read(&mut self, request: u64, client: ClientId, count: u32) -> Vec<Effect> {
        self.read(request, client, count)
    }

    fn write(&mut self, request: u64, client: ClientId, bytes: &[u8]) -> Vec<Effect> {
        self.write(request, client, bytes.to_vec())
    }

    fn listen(&mut self, request: u64, client: ClientId) -> Vec<Effect> {
        self.listen(request, client)
    }

    fn flush(&mut self, request: u64) -> Vec<Effect> {
        self.flush(request)
    }

    fn retain(&mut self, client: ClientId) -> Result<(), Error> {
        self.retain(client)
    }

    fn release(&mut self, client: ClientId) -> Vec<Effect> {
        self.release(client)
    }

    fn lookup(&mut self, number: u32) -> Option<ClientInfo> {
        Self::lookup(self, number)
    }

    fn text(&mut self, client: ClientId, file: TextFile) -> Result<String, Error> {
        Self::text(self, client, file)
    }

    fn translate(&mut self, query: &str) -> Result<String, Error> {
        Self::translate(self, query)
    }

    fn clients(&mut self) -> Vec<ClientInfo> {
        Self::clients(self)
    }

    fn statistics(&mut self) -> Statistics {
        Self::statistics(self)
    }
}

/// The component and the native library, side by side; another component than ours
/// alone.
pub struct Pair {
    #[cfg(feature = "component")]
    component: component::Component,
    native: Option<Session>,
}

impl Pair {
    /// A session of each.
    pub fn new(config: &Config) -> Self {
        Self {
            #[cfg(feature = "component")]
            component: component::Component::new(config),
            native: (!another()).then(|| Session::new(config.clone())),
        }
    }
}

/// Calls both, and answers what they agree on.
macro_rules! both {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {{
        let native = $self.native.as_mut().map(|native| Subject::$method(native $(, $argument)*));
        #[cfg(feature = "component")]
        let component = Some(Subject::$method(&mut $self.component $(, $argument)*));
        #[cfg(not(feature = "component"))]
        let component = None;
        agreed(stringify!($method), component, native)
    }};
}

/// What the component and the native library agree on, or the one of them that there
/// is answers.
fn agreed<T: PartialEq + std::fmt::Debug>(
    call: &str,
    component: Option<T>,
    native: Option<T>,
) -> T {
    match (component, native) {
        (Some(component), Some(native)) if component != native => panic!(
            "{call}: the component and the native library differ\n\
             component: {component:?}\n   native: {native:?}"
        ),
        (Some(answer), _) | (None, Some(answer)) => answer,
        (None, None) => panic!("{call}: there is no engine"),
    }
}

impl Subject for Pair {
    fn pipe_up(&mut self) -> Vec<Effect> {
        both!(self.pipe_up())
    }

    fn pipe_down(&mut self, reason: &str) -> Vec<Effect> {
        both!(self.pipe_down(reason))
    }

    fn receive(&mut self, message: &[u8]) -> Vec<Effect> {
        both!(self.receive(message))
    }

    fn pipe_took(&mut self, bytes: u64) -> Vec<Effect> {
        both!(self.pipe_took(bytes))
    }

    fn advance(&mut self, now: u64) -> Vec<Effect> {
        both!(self.advance(now))
    }

    fn shutdown(&mut self, reason: &str) -> Vec<Effect> {
        both!(self.shutdown(reason))
    }

    fn clone_client(&mut self, request: u64, protocol: Protocol) -> Vec<Effect> {
        both!(self.clone_client(request, protocol))
    }

    fn control(&mut self, request: u64, client: ClientId, text: &[u8]) -> Vec<Effect> {
        both!(self.control(request, client, text))
    }

    fn read(&mut self, request: u64, client: ClientId, count: u32) -> Vec<Effect> {
        both!(self.read(request, client, count))
    }

    fn write(&mut self, request: u64, client: ClientId, bytes: &[u8]) -> Vec<Effect> {
        both!(self.write(request, client, bytes))
    }

    fn listen(&mut self, request: u64, client: ClientId) -> Vec<Effect> {
        both!(self.listen(request, client))
    }

    fn flush(&mut self, request: u64) -> Vec<Effect> {
        both!(self.flush(request))
    }

    fn retain(&mut self, client: ClientId) -> Result<(), Error> {
        both!(self.retain(client))
    }

    fn release(&mut self, client: ClientId) -> Vec<Effect> {
        both!(self.release(client))
    }

    fn lookup(&mut self, number: u32) -> Option<ClientInfo> {
        both!(self.lookup(number))
    }

    fn text(&mut self, client: ClientId, file: TextFile) -> Result<String, Error> {
        both!(self.text(client, file))
    }

    fn translate(&mut self, query: &str) -> Result<String, Error> {
        both!(self.translate(query))
    }

    fn clients(&mut self) -> Vec<ClientInfo> {
        both!(self.clients())
    }

    fn statistics(&mut self) -> Statistics {
        both!(self.statistics())
    }
}
