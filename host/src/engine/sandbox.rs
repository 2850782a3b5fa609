//! What a component may have: memory, and fuel for each call.
//!
//! Fuel is about one for each WebAssembly instruction. Both follow from the limits
//! that the component itself asks for, so that what is lawful always fits; but only
//! up to what a machine has to spare, for it may ask for anything.

use std::fmt;

use wasmtime::{ResourceLimiter, Trap as Code};

use super::{EngineError, Limits};

/// Fuel that any call may burn, whatever it touches.
const FUEL_BASE: u64 = 20_000_000;
/// Fuel for each client that may exist: a pipe that goes down touches them all.
const FUEL_PER_CLIENT: u64 = 50_000;
/// Fuel for each request that may be outstanding: a conversation that ends
/// completes all of its own.
const FUEL_PER_REQUEST: u64 = 5_000;
/// Memory of the component, as a multiple of what its limits let it hold.
const MEMORY_FACTOR: u64 = 3;
/// Memory beyond that: code, tables, and a few KiB for each client.
const MEMORY_BASE: u64 = 32 << 20;
/// Memory for each client that may exist.
const MEMORY_PER_CLIENT: u64 = 8 << 10;
/// The most that a component gets without being given more by the user: some
/// seconds of a processor for one call.
const FUEL_MAX: u64 = 8_000 * FUEL_UNIT;
/// The same of memory.
const MEMORY_MAX: u64 = 2_048 * MEMORY_UNIT;
/// What `--core-fuel` counts in.
const FUEL_UNIT: u64 = 1_000_000;
/// What `--core-memory` counts in.
const MEMORY_UNIT: u64 = 1 << 20;
/// What a component's memory can be at most: it has 32 bits.
pub(super) const ADDRESSABLE: u64 = 4 << 30;
/// Entries of a table: of functions that are called by their number.
const TABLE: usize = 100_000;

/// What a session's sandbox allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sandbox {
    /// Bytes of linear memory.
    pub memory: usize,
    /// Fuel for a call that carries no bytes.
    pub fuel: u64,
}

impl Sandbox {
    /// A sandbox in which every lawful event of an engine with these limits fits.
    pub fn for_limits(limits: &Limits) -> Self {
        let clients = u64::from(limits.clients) + u64::from(limits.calls);
        let requests = u64::from(limits.requests);
        // The limits may be any numbers.
        let held = limits
            .windows
            .saturating_add(limits.queued)
            .saturating_add(limits.room.into())
            .saturating_add(limits.control.into())
            .saturating_add(requests * 128);
        let memory = held
            .saturating_mul(MEMORY_FACTOR)
            .saturating_add(MEMORY_BASE + MEMORY_PER_CLIENT * clients)
            .min(ADDRESSABLE);
        Self {
            memory: usize::try_from(memory).unwrap_or(usize::MAX),
            fuel: FUEL_BASE + FUEL_PER_CLIENT * clients + FUEL_PER_REQUEST * requests,
        }
    }

    /// The same, with what the user gives in its place: MiB of memory, millions of
    /// fuel. What is not given has a limit.
    pub fn given(
        limits: &Limits,
        memory: Option<u32>,
        fuel: Option<u32>,
    ) -> Result<Self, EngineError> {
        let needed = Self::for_limits(limits);
        let bytes = memory.map(|memory| u64::from(memory) * MEMORY_UNIT);
        let bytes = match bytes {
            Some(bytes) => bytes.min(ADDRESSABLE),
            None => within(needed.memory as u64, MEMORY_MAX, MEMORY_UNIT, "MiB of memory")?,
        };
        let fuel = match fuel {
            Some(fuel) => u64::from(fuel) * FUEL_UNIT,
            None => within(needed.fuel, FUEL_MAX, FUEL_UNIT, "million instructions a call")?,
        };
        Ok(Self { memory: usize::try_from(bytes).unwrap_or(usize::MAX), fuel })
    }
}

/// What is needed, if that is not too much.
fn within(needed: u64, most: u64, in_units: u64, unit: &'static str) -> Result<u64, EngineError> {
    if needed <= most {
        return Ok(needed);
    }
    let option = if in_units == FUEL_UNIT { "--core-fuel" } else { "--core-memory" };
    let (needed, most) = (needed.div_ceil(in_units), most / in_units);
    Err(EngineError::Greedy { needed, most, unit, option })
}

/// Keeps a component within its sandbox, and traps it where it wants out.
pub(super) struct Bounds {
    memory: usize,
}

/// It wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("more than its {} MiB of memory", memory >> 20)]
struct NoMemory {
    memory: usize,
}

impl Bounds {
    pub(super) fn new(sandbox: Sandbox) -> Self {
        Self { memory: sandbox.memory }
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.memory {
            return Err(wasmtime::Error::new(NoMemory { memory: self.memory }));
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE)
    }

    fn instances(&self) -> usize {
        4
    }

    fn tables(&self) -> usize {
        4
    }

    fn memories(&self) -> usize {
        1
    }
}

/// How a component came to its end, in one line; and where, for who wrote it.
#[derive(Debug)]
pub struct Trap {
    what: String,
    trace: String,
}

impl Trap {
    pub(super) fn new(error: &wasmtime::Error) -> Self {
        let what = match error.downcast_ref::<Code>() {
            Some(Code::OutOfFuel) => "it took more than its instructions for one call, as if it\n\
                 would never end (--core-fuel gives it more)"
                .to_owned(),
            Some(code) => code.to_string(),
            None => match error.downcast_ref::<NoMemory>() {
                Some(why) => format!("it wanted {why} (--core-memory gives it more)"),
                None => words(&error.root_cause().to_string()),
            },
        };
        Self { what, trace: format!("{error:?}") }
    }

    /// Where in the component it was, as far as that is known.
    pub fn trace(&self) -> &str {
        &self.trace
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// wasmtime explains at length; the words go onto one line of an error.
pub(super) fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
