//! What is asked of the figures.

use crate::results::{Bar, Measurement};
use crate::rig::Subject;

/// Which bars there are, as far as what they need was measured.
pub(crate) fn all(measurements: &[Measurement]) -> Vec<Bar> {
    let mut bars = Bars { measurements, bars: Vec::new() };
    use Subject::{Bare, Dial, Forward, Fuse, NineP, Spread, Stdio};
    for cipher in ["chacha20", "aes128-gcm"] {
        for way in ["down", "up"] {
            let name = format!("{way}/{cipher}");
            bars.least(&name, Dial, Stdio, Some(0.8));
            bars.least(&name, NineP, Bare, Some(0.85));
            bars.least(&name, Dial, Forward, None);
            bars.least(&name, NineP, Forward, None);
            bars.least(&name, Fuse, Forward, Some(0.5));
        }
    }
    bars.least("down-2/chacha20", Spread, Forward, Some(1.0));
    bars.least("down/rtt100", NineP, Forward, Some(5.0));
    bars.least("down/rtt100", Dial, Forward, Some(5.0));
    bars.most("dial/p50", NineP, Forward, 1.3);
    bars.most("ping/p50", NineP, Forward, 1.5);
    bars.most("ping-loaded/p99", NineP, Forward, 3.0);
    bars.figure("engine/in", "component", "component, 32 KiB in and read, us", 2.5);
    bars.figure("engine/out", "component", "component, 32 KiB written and sent, us", 2.5);
    let memory = "memory of an idle conversation of 10000, KiB";
    bars.figure("idle/ssh/10000/memory", "sshnet-host", memory, 8.0);
    bars.start();
    bars.bars
}

struct Bars<'a> {
    measurements: &'a [Measurement],
    bars: Vec<Bar>,
}

impl Bars<'_> {
    fn named(&self, name: &str) -> Option<&Measurement> {
        self.measurements.iter().find(|measurement| measurement.name == name)
    }

    fn ratio(&self, name: &str, subject: Subject, to: Subject) -> Option<(String, f64)> {
        let ratio = self.named(name)?.ratio(subject, to)?;
        Some((format!("{name}: {subject} / {to}"), ratio))
    }

    fn least(&mut self, name: &str, subject: Subject, to: Subject, at_least: Option<f64>) {
        if let Some((what, measured)) = self.ratio(name, subject, to) {
            let ok = at_least.map(|least| measured >= least);
            self.bars.push(Bar { what, measured, at_least, at_most: None, ok });
        }
    }

    fn most(&mut self, name: &str, subject: Subject, to: Subject, most: f64) {
        if let Some((what, measured)) = self.ratio(name, subject, to) {
            self.at_most(what, measured, most);
        }
    }

    fn figure(&mut self, name: &str, subject: &str, what: &str, most: f64) {
        let found = self.named(name).and_then(|measurement| measurement.of(subject));
        if let Some(measured) = found.map(|series| series.median) {
            self.at_most(what.to_owned(), measured, most);
        }
    }

    fn start(&mut self) {
        let Some(start) = self.named("start") else { return };
        if let (Some(ours), Some(ssh)) = (start.of("sshnet-host"), start.of("ssh -M")) {
            let measured = ours.median - ssh.median;
            self.at_most("start beyond ssh's own, ms".to_owned(), measured, 60.0);
        }
    }

    fn at_most(&mut self, what: String, measured: f64, most: f64) {
        let ok = Some(measured <= most);
        self.bars.push(Bar { what, measured, at_least: None, at_most: Some(most), ok });
    }
}
