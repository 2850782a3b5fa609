//! Runs: calls made, compared, judged and recorded; failures cut short.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sshnet_core::{ClientInfo, Limits, Session};

use super::oracle::{Answer, Call, Coverage, Machine, Model, Seen, call};

/// How a run ended that shows a defect.
#[derive(Debug)]
pub struct Failure {
    /// What was wrong.
    pub why: String,
    /// Every call up to there.
    pub calls: Vec<Call>,
    /// What the session was allowed.
    pub limits: Limits,
    /// Whether the peer was lawful.
    pub lawful: bool,
}

/// What a run is on.
#[derive(Clone, Copy)]
pub struct Machines<'a> {
    /// What answers.
    pub first: Maker<'a>,
    /// What has to answer the same, if there is something.
    pub second: Option<Maker<'a>>,
    /// Whether they are our engine, which is held to more than the contract.
    pub ours: bool,
}

/// A session under way: one machine, or two in lock step.
pub struct Run {
    first: Box<dyn Machine>,
    second: Option<Box<dyn Machine>>,
    model: Model,
    limits: Limits,
    lawful: bool,
    calls: Vec<Call>,
    clients: Vec<ClientInfo>,
}

/// Makes a machine with these limits.
pub type Maker<'a> = &'a (dyn Fn(Limits) -> Box<dyn Machine> + Sync);

/// The native engine.
pub fn native(limits: Limits) -> Box<dyn Machine> {
    Box::new(Session::new(call::config(limits)))
}

/// How many calls are made between two snapshots of the second machine.
const SAMPLE: usize = 16;

impl Run {
    /// Starts one.
    pub fn new(limits: Limits, lawful: bool, machines: Machines<'_>) -> Self {
        let model = Model::new(limits, lawful);
        Self {
            first: (machines.first)(limits),
            second: machines.second.map(|make| make(limits)),
            model: if machines.ours { model } else { model.of_another() },
            limits,
            lawful,
            calls: Vec::new(),
            clients: Vec::new(),
        }
    }

    /// Makes a call; an error is a defect.
    pub fn call(&mut self, call: Call) -> Result<Answer, String> {
        self.calls.push(call);
        let Some(call) = self.calls.last() else { return Err("no call".into()) };
        let answer = perform(&mut *self.first, call)?;
        if let Some(second) = &mut self.second {
            let other = perform(&mut **second, call)?;
            if answer != other {
                return Err(format!("native and component differ: {answer:?} and {other:?}"));
            }
        }
        let figures = self.first.figures();
        self.clients = self.first.snapshot();
        if let Some(second) = &mut self.second
            && self.calls.len().is_multiple_of(SAMPLE)
        {
            if second.figures() != figures {
                return Err("native and component differ in their figures".into());
            }
            if second.snapshot() != self.clients {
                return Err("native and component differ in their snapshots".into());
            }
        }
        if let Answer::Effects(effects) = &answer {
            let seen = Seen { call, effects, clients: &self.clients, figures: &figures };
            self.model.observe(&seen)?;
        } else {
            self.model.asked(call, &answer)?;
        }
        Ok(answer)
    }

    /// The oracle's account.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The snapshot after the last call.
    pub fn clients(&self) -> &[ClientInfo] {
        &self.clients
    }

    /// How many calls were made.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether no call was made.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// What is left of a run that failed.
    pub fn failed(self, why: String) -> Failure {
        Failure { why, calls: self.calls, limits: self.limits, lawful: self.lawful }
    }

    /// What was covered.
    pub fn coverage(&self) -> &Coverage {
        &self.model.coverage
    }

    /// The figures now.
    pub fn figures(&mut self) -> sshnet_core::Statistics {
        self.first.figures()
    }
}

/// Makes a call; a panic is a defect, too.
fn perform(machine: &mut dyn Machine, call: &Call) -> Result<Answer, String> {
    catch_unwind(AssertUnwindSafe(|| machine.perform(call))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        format!("trap: {}", text.unwrap_or_default())
    })
}

/// Makes these calls; answers the defect they show, if they show one, and at which
/// of them.
pub fn replay(
    limits: Limits,
    lawful: bool,
    calls: &[Call],
    machines: Machines<'_>,
) -> Result<Coverage, (usize, String)> {
    let mut run = Run::new(limits, lawful, machines);
    for (at, call) in calls.iter().enumerate() {
        run.call(call.clone()).map_err(|why| (at, why))?;
    }
    Ok(run.coverage().clone())
}

/// What two defects have in common: their text without its numbers.
fn kind(why: &str) -> String {
    why.chars().filter(|c| !c.is_ascii_digit()).take(40).collect()
}

impl Failure {
    /// Drops calls as long as the same defect shows (ddmin). Where it is about a
    /// lawful peer, the peer must have been one up to the last call: what is left
    /// may then break the rule in a simpler way than the whole run did.
    pub fn shrink(&mut self, machines: Machines<'_>) {
        let kind_of = kind(&self.why);
        let lawful = self.lawful && self.why.contains("lawful");
        let last = self.calls.last().cloned();
        let fails = |calls: &[Call]| match replay(self.limits, lawful, calls, machines) {
            Err((at, why)) if kind(&why) == kind_of => {
                let whole = at + 1 == calls.len() && calls.last() == last.as_ref();
                (!lawful || whole).then_some(why)
            }
            _ => None,
        };
        if fails(&self.calls).is_none() {
            return;
        }
        let mut calls = self.calls.clone();
        let mut piece = calls.len().div_ceil(2);
        let mut patience = 4_000;
        while piece > 0 && patience > 0 {
            let mut at = 0;
            let mut dropped = false;
            while at < calls.len() && patience > 0 {
                patience -= 1;
                let mut fewer = calls.clone();
                fewer.drain(at..(at + piece).min(calls.len()));
                match fails(&fewer) {
                    Some(why) => {
                        calls = fewer;
                        self.why = why;
                        dropped = true;
                    }
                    None => at += piece,
                }
            }
            if !dropped || piece > 1 {
                piece /= 2;
            }
        }
        self.calls = calls;
    }

    /// The run as a transcript.
    pub fn transcript(&self) -> String {
        let mut text = format!("# {}\n", self.why);
        text.push_str(&call::transcript(&self.limits, &self.calls));
        text
    }
}
