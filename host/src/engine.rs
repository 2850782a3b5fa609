//! The engine: a WebAssembly component in wasmtime.
//!
//! One method per function of the contract (wit/engine.wit), nothing more. The
//! component has no imports, so it can do nothing but answer. It runs within a
//! memory limit, and within an amount of fuel for each call that covers every
//! lawful event (one may touch every client), so that neither a hostile peer nor
//! a broken component can spin or balloon. A trap ends the engine: the driver
//! then ends everything that waits.
//!
//! - `fit` says what a component lacks that is not one of this world;
//! - `sandbox` is what it may have, and what went wrong when it wanted more.

mod fit;
mod sandbox;

use std::path::Path;

use wasmtime::component::{Component, Linker, ResourceAny};
use wasmtime::{Engine as Wasmtime, Store};

use self::sandbox::Bounds;
pub use self::sandbox::{Sandbox, Trap};
use crate::record::Recording;
use crate::{compiler, sys};

#[allow(missing_docs, reason = "generated; the WIT package has the documentation")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "core",
        additional_derives: [PartialEq, Eq, Hash],
    });
}

pub use bindings::exports::sshnet::core::types::{
    ClientId, ClientInfo, ClientState, Completion, Config, Effect, Error, ErrorCode, Limits,
    Protocol, Reply, Service, Statistics, TextFile,
};

/// The component that this program was built with.
pub const EMBEDDED: &[u8] = include_bytes!(env!("SSHNET_CORE_COMPONENT"));

/// Fuel for each byte given to a call: it is copied in, through and out.
const FUEL_PER_BYTE: u64 = 64;
/// What a component may have that is only asked for its limits.
const ASKED: Sandbox = Sandbox { memory: 64 << 20, fuel: 20_000_000 };
/// Bytes that an answer may hold: several times those of a lawful one.
const ANSWER: usize = 64 << 20;

/// Why there is no engine, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file cannot be read.
    #[error("cannot read the core {path}: {error}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is no component, or not one with the world `sshnet:core/core`.
    #[error("the core does not fit: {0}")]
    Unfit(String),
    /// It trapped, or wanted more than it may have.
    #[error("the core failed: {0}")]
    Trap(Trap),
    /// It did what the contract, wit/engine.wit, does not let it do.
    #[error("the core broke its contract: {0}")]
    Breach(String),
    /// Its limits ask for a larger sandbox than there is by default.
    #[error(
        "the core has limits that take {needed} {unit}, and it gets {most} at most;\n\
         {option} {needed} lets it have them"
    )]
    Greedy {
        /// What it would take.
        needed: u64,
        /// What there is without the option.
        most: u64,
        /// Of what.
        unit: &'static str,
        /// The option.
        option: &'static str,
    },
}

/// A component, compiled: sessions are made from it.
#[derive(Clone)]
pub struct Core {
    wasmtime: Wasmtime,
    component: Component,
}

impl Core {
    /// The component that this program was built with, which was compiled then.
    pub fn embedded() -> Result<Self, EngineError> {
        let wasmtime = Wasmtime::new(&compiler::config()).map_err(unfit)?;
        let component = sys::compiled_component(&wasmtime).map_err(unfit)?;
        Ok(Self { wasmtime, component })
    }

    /// Compiles the component in a file.
    pub fn from_file(path: &Path) -> Result<Self, EngineError> {
        let bytes = std::fs::read(path)
            .map_err(|error| EngineError::Read { path: path.display().to_string(), error })?;
        Self::from_bytes(&bytes)
    }

    /// Compiles a component.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EngineError> {
        let wasmtime = Wasmtime::new(&compiler::config()).map_err(unfit)?;
        let component = Component::new(&wasmtime, bytes).map_err(unfit)?;
        let ours = sys::compiled_component(&wasmtime).map_err(unfit)?;
        fit::check(&wasmtime, &component, &ours).map_err(EngineError::Unfit)?;
        Ok(Self { wasmtime, component })
    }

    /// The names of what the component asks of its host. The world `core` has
    /// none, and a component that has any is not run.
    pub fn imports(&self) -> Vec<String> {
        self.component
            .component_type()
            .imports(&self.wasmtime)
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// The limits that the component thinks sound.
    pub fn default_limits(&self) -> Result<Limits, EngineError> {
        let (mut store, bindings) = self.instantiate(ASKED)?;
        bindings.sshnet_core_engine().call_default_limits(&mut store).map_err(trap)
    }

    /// Makes a session.
    pub fn session(&self, config: &Config, sandbox: Sandbox) -> Result<Engine, EngineError> {
        let (mut store, bindings) = self.instantiate(sandbox)?;
        let session = bindings
            .sshnet_core_engine()
            .session()
            .call_constructor(&mut store, config)
            .map_err(trap)?;
        let limits = config.limits;
        let (fuel, given) = (sandbox.fuel, sandbox.fuel);
        Ok(Engine { store, bindings, session, limits, fuel, given, recording: None })
    }

    fn instantiate(
        &self,
        sandbox: Sandbox,
    ) -> Result<(Store<Bounds>, bindings::Core), EngineError> {
        let mut store = Store::new(&self.wasmtime, Bounds::new(sandbox));
        store.limiter(|bounds| bounds);
        store.set_fuel(sandbox.fuel).map_err(trap)?;
        store.set_hostcall_fuel(ANSWER);
        let linker = Linker::new(&self.wasmtime);
        // That it fits is known; what it does when it starts is not.
        let bindings =
            bindings::Core::instantiate(&mut store, &self.component, &linker).map_err(trap)?;
        Ok((store, bindings))
    }
}

fn unfit(error: wasmtime::Error) -> EngineError {
    EngineError::Unfit(sandbox::words(&format!("{error:#}")))
}

fn trap(error: wasmtime::Error) -> EngineError {
    EngineError::Trap(Trap::new(&error))
}

/// A session of the engine. See wit/engine.wit for what each method does.
pub struct Engine {
    store: Store<Bounds>,
    bindings: bindings::Core,
    session: ResourceAny,
    limits: Limits,
    /// What a call without bytes is given.
    fuel: u64,
    /// What the last call was given.
    given: u64,
    recording: Option<Recording>,
}

/// Calls a method of the session with fresh fuel.
macro_rules! call {
    ($self:ident, $bytes:expr, $method:ident $(, $argument:expr)*) => {{
        let fuel = $self.fuel.saturating_add(FUEL_PER_BYTE.saturating_mul($bytes as u64));
        $self.store.set_fuel(fuel).map_err(trap)?;
        $self.given = fuel;
        $self
            .bindings
            .sshnet_core_engine()
            .session()
            .$method(&mut $self.store, $self.session $(, $argument)*)
            .map_err(trap)
    }};
}

/// Calls a method that may change something, and takes it down.
macro_rules! event {
    ($self:ident, $bytes:expr, $method:ident $(, $argument:expr)*) => {{
        if let Some(recording) = &mut $self.recording {
            recording.call(stringify!($method), &[$(&$argument),*]);
        }
        let answer = call!($self, $bytes, $method $(, $argument)*);
        if let (Some(recording), Ok(answer)) = (&mut $self.recording, &answer) {
            recording.answer(answer);
        }
        answer
    }};
}

/// What an event answers.
pub type Effects = Result<Vec<Effect>, EngineError>;

#[allow(missing_docs, reason = "each method is the function of the same name in wit/engine.wit")]
impl Engine {
    /// What it was told that it may hold.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Has every event from now on be taken down, and `retain`.
    pub fn record(&mut self, recording: Recording) {
        self.recording = Some(recording);
    }

    pub fn pipe_up(&mut self) -> Effects {
        event!(self, 0, call_pipe_up)
    }

    pub fn pipe_down(&mut self, reason: &str) -> Effects {
        event!(self, reason.len(), call_pipe_down, reason)
    }

    pub fn receive(&mut self, message: &[u8]) -> Effects {
        event!(self, message.len(), call_receive, message)
    }

    pub fn pipe_took(&mut self, bytes: u64) -> Effects {
        // What it may send now is bounded by the room, which is in the base.
        event!(self, bytes, call_pipe_took, bytes)
    }

    pub fn advance(&mut self, now: u64) -> Effects {
        event!(self, 0, call_advance, now)
    }

    pub fn shutdown(&mut self, reason: &str) -> Effects {
        event!(self, reason.len(), call_shutdown, reason)
    }

    pub fn clone_client(&mut self, request: u64, protocol: Protocol) -> Effects {
        event!(self, 0, call_clone, request, protocol)
    }

    pub fn control(&mut self, request: u64, client: ClientId, text: &[u8]) -> Effects {
        event!(self, text.len(), call_control, request, client, text)
    }

    pub fn read(&mut self, request: u64, client: ClientId, count: u32) -> Effects {
        event!(self, count, call_read, request, client, count)
    }

    pub fn write(&mut self, request: u64, client: ClientId, bytes: &[u8]) -> Effects {
        event!(self, bytes.len(), call_write, request, client, bytes)
    }

    pub fn listen(&mut self, request: u64, client: ClientId) -> Effects {
        event!(self, 0, call_listen, request, client)
    }

    pub fn flush(&mut self, request: u64) -> Effects {
        event!(self, 0, call_flush, request)
    }

    pub fn retain(&mut self, client: ClientId) -> Result<Result<(), Error>, EngineError> {
        event!(self, 0, call_retain, client)
    }

    pub fn release(&mut self, client: ClientId) -> Effects {
        event!(self, 0, call_release, client)
    }

    pub fn lookup(&mut self, number: u32) -> Result<Option<ClientInfo>, EngineError> {
        call!(self, 0, call_lookup, number)
    }

    pub fn text(
        &mut self,
        client: ClientId,
        file: TextFile,
    ) -> Result<Result<String, Error>, EngineError> {
        call!(self, 0, call_text, client, file)
    }

    pub fn translate(&mut self, query: &str) -> Result<Result<String, Error>, EngineError> {
        call!(self, query.len(), call_translate, query)
    }

    pub fn clients(&mut self) -> Result<Vec<ClientInfo>, EngineError> {
        call!(self, 0, call_clients)
    }

    pub fn statistics(&mut self) -> Result<Statistics, EngineError> {
        call!(self, 0, call_statistics)
    }

    /// Fuel that the last call burnt: about one for each WebAssembly instruction.
    pub fn fuel_burnt(&self) -> u64 {
        self.store.get_fuel().map_or(self.given, |left| self.given.saturating_sub(left))
    }
}
