//! The component under wasmtime, as a [`Subject`].

use std::sync::OnceLock;

use sshnet_core::{
    ClientId, ClientInfo, ClientState, Completion, Config, Effect, Error, ErrorCode, Limits,
    Protocol, Reply, Statistics, TextFile,
};
use sshnet_host::engine::{self as host, Core, Engine, EngineError, Sandbox};

use super::Subject;

/// The component under test, compiled once for all tests of a program.
pub fn core() -> &'static Core {
    static CORE: OnceLock<Core> = OnceLock::new();
    CORE.get_or_init(|| {
        let core = match std::env::var_os("SSHNET_CORE") {
            Some(path) => Core::from_file(path.as_ref()),
            None => Core::embedded(),
        };
        core.unwrap_or_else(|error| panic!("{error}"))
    })
}

/// The component under wasmtime.
pub struct Component {
    engine: Engine,
}

impl Component {
    /// A session in the sandbox that the host would give it.
    pub fn new(config: &Config) -> Self {
        let config = to_host_config(config);
        let sandbox = Sandbox::for_limits(&config.limits);
        Self { engine: sound(core().session(&config, sandbox)) }
    }
}

/// What the component answered; a trap ends the test.
fn sound<T>(answer: Result<T, EngineError>) -> T {
    answer.unwrap_or_else(|error| panic!("the component failed: {error}"))
}

fn effects(answer: host::Effects) -> Vec<Effect> {
    sound(answer).into_iter().map(from_effect).collect()
}

impl Subject for Component {
    fn pipe_up(&mut self) -> Vec<Effect> {
        effects(self.engine.pipe_up())
    }

    fn pipe_down(&mut self, reason: &str) -> Vec<Effect> {
        effects(self.engine.pipe_down(reason))
    }

    fn receive(&mut self, message: &[u8]) -> Vec<Effect> {
        effects(self.engine.receive(message))
    }

    fn pipe_took(&mut self, bytes: u64) -> Vec<Effect> {
        effects(self.engine.pipe_took(bytes))
    }

    fn advance(&mut self, now: u64) -> Vec<Effect> {
        effects(self.engine.advance(now))
    }

    fn shutdown(&mut self, reason: &str) -> Vec<Effect> {
        effects(self.engine.shutdown(reason))
    }

    fn clone_client(&mut self, request: u64, protocol: Protocol) -> Vec<Effect> {
        effects(self.engine.clone_client(request, to_host_protocol(protocol)))
    }

    fn control(&mut self, request: u64, client: ClientId, text: &[u8]) -> Vec<Effect> {
        effects(self.engine.control(request, to_host_id(client), text))
    }

    fn read(&mut self, request: u64, client: ClientId, count: u32) -> Vec<Effect> {
        effects(self.engine.read(request, to_host_id(client), count))
    }

    fn write(&mut self, request: u64, client: ClientId, bytes: &[u8]) -> Vec<Effect> {
        effects(self.engine.write(request, to_host_id(client), bytes))
    }

    fn listen(&mut self, request: u64, client: ClientId) -> Vec<Effect> {
        effects(self.engine.listen(request, to_host_id(client)))
    }

    fn flush(&mut self, request: u64) -> Vec<Effect> {
        effects(self.engine.flush(request))
    }

    fn retain(&mut self, client: ClientId) -> Result<(), Error> {
        sound(self.engine.retain(to_host_id(client))).map_err(from_error)
    }

    fn release(&mut self, client: ClientId) -> Vec<Effect> {
        effects(self.engine.release(to_host_id(client)))
    }

    fn lookup(&mut self, number: u32) -> Option<ClientInfo> {
        sound(self.engine.lookup(number)).map(from_info)
    }

    fn text(&mut self, client: ClientId, file: TextFile) -> Result<String, Error> {
        let file = match file {
            TextFile::Local => host::TextFile::Local,
            TextFile::Remote => host::TextFile::Remote,
            TextFile::Status => host::TextFile::Status,
        };
        sound(self.engine.text(to_host_id(client), file)).map_err(from_error)
    }

    fn translate(&mut self, query: &str) -> Result<String, Error> {
        sound(self.engine.translate(query)).map_err(from_error)
    }

    fn clients(&mut self) -> Vec<ClientInfo> {
        sound(self.engine.clients()).into_iter().map(from_info).collect()
    }

    fn statistics(&mut self) -> Statistics {
        let from = sound(self.engine.statistics());
        Statistics {
            pipe_up: from.pipe_up,
            clients: from.clients,
            channels: from.channels,
            messages_received: from.messages_received,
            messages_sent: from.messages_sent,
            bytes_received: from.bytes_received,
            bytes_sent: from.bytes_sent,
            dials: from.dials,
            dials_failed: from.dials_failed,
            calls: from.calls,
            calls_refused: from.calls_refused,
            in_pipe: from.in_pipe,
            windows: from.windows,
            queued: from.queued,
            unacknowledged: from.unacknowledged,
        }
    }
}

// Between the host's types, generated from the WIT package, and the library's.

/// A configuration as the component takes it.
pub fn to_host_config(config: &Config) -> host::Config {
    host::Config {
        prefix: config.prefix.clone(),
        services: config
            .services
            .iter()
            .map(|service| host::Service { name: service.name.clone(), port: service.port })
            .collect(),
        limits: to_host_limits(&config.limits),
    }
}

/// Limits as the component takes them.
pub fn to_host_limits(limits: &Limits) -> host::Limits {
    host::Limits {
        clients: limits.clients,
        backlog: limits.backlog,
        calls: limits.calls,
        requests: limits.requests,
        line: limits.line,
        name: limits.name,
        queued: limits.queued,
        unacknowledged: limits.unacknowledged,
        windows: limits.windows,
        window: limits.window,
        window_max: limits.window_max,
        packet: limits.packet,
        room: limits.room,
        control: limits.control,
        dial_time: limits.dial_time,
        dial_wait: limits.dial_wait,
        keepalive: limits.keepalive,
    }
}

fn to_host_id(id: ClientId) -> host::ClientId {
    host::ClientId { number: id.number, incarnation: id.incarnation }
}

fn from_id(id: host::ClientId) -> ClientId {
    ClientId { number: id.number, incarnation: id.incarnation }
}

fn to_host_protocol(protocol: Protocol) -> host::Protocol {
    match protocol {
        Protocol::Tcp => host::Protocol::Tcp,
        Protocol::Unix => host::Protocol::Unix,
    }
}

fn from_effect(effect: host::Effect) -> Effect {
    match effect {
        host::Effect::Send(message) => Effect::Send(message),
        host::Effect::Complete(completion) => Effect::Complete(Completion {
            request: completion.request,
            outcome: completion.outcome.map(from_reply).map_err(from_error),
        }),
        host::Effect::Wake(at) => Effect::Wake(at),
        host::Effect::Warn(what) => Effect::Warn(what),
        host::Effect::Fail(why) => Effect::Fail(why),
    }
}

fn from_reply(reply: host::Reply) -> Reply {
    match reply {
        host::Reply::Done => Reply::Done,
        host::Reply::Client(id) => Reply::Client(from_id(id)),
        host::Reply::Data(bytes) => Reply::Data(bytes),
        host::Reply::Count(count) => Reply::Count(count),
    }
}

fn from_error(error: host::Error) -> Error {
    let code = match error.code {
        host::ErrorCode::AccessDenied => ErrorCode::AccessDenied,
        host::ErrorCode::AddressInUse => ErrorCode::AddressInUse,
        host::ErrorCode::Canceled => ErrorCode::Canceled,
        host::ErrorCode::ConnectionRefused => ErrorCode::ConnectionRefused,
        host::ErrorCode::ConnectionReset => ErrorCode::ConnectionReset,
        host::ErrorCode::Interrupted => ErrorCode::Interrupted,
        host::ErrorCode::InvalidArgument => ErrorCode::InvalidArgument,
        host::ErrorCode::IsConnected => ErrorCode::IsConnected,
        host::ErrorCode::NetworkDown => ErrorCode::NetworkDown,
        host::ErrorCode::NoEntry => ErrorCode::NoEntry,
        host::ErrorCode::NotConnected => ErrorCode::NotConnected,
        host::ErrorCode::NotSupported => ErrorCode::NotSupported,
        host::ErrorCode::HungUp => ErrorCode::HungUp,
        host::ErrorCode::ResourceExhausted => ErrorCode::ResourceExhausted,
        host::ErrorCode::TimedOut => ErrorCode::TimedOut,
        host::ErrorCode::Other => ErrorCode::Other,
    };
    Error { code, message: error.message }
}

fn from_info(info: host::ClientInfo) -> ClientInfo {
    ClientInfo {
        id: from_id(info.id),
        protocol: match info.protocol {
            host::Protocol::Tcp => Protocol::Tcp,
            host::Protocol::Unix => Protocol::Unix,
        },
        state: match info.state {
            host::ClientState::Closed => ClientState::Closed,
            host::ClientState::Dialing => ClientState::Dialing,
            host::ClientState::Listen => ClientState::Listen,
            host::ClientState::Established => ClientState::Established,
            host::ClientState::Teardown => ClientState::Teardown,
            host::ClientState::Finished => ClientState::Finished,
        },
        references: info.references,
        local: info.local,
        remote: info.remote,
        received: info.received,
        sent: info.sent,
        unread: info.unread,
        unsent: info.unsent,
        receive_window: info.receive_window,
        send_window: info.send_window,
        requests: info.requests,
        calls: info.calls,
        since: info.since,
        last_error: info.last_error,
    }
}
