//! The figures of a session, for people and programs that watch it.
//!
//! `tcp/stats` has them as Plan 9's has: a name and a value on each line.
//! `--metrics` has them in Prometheus's text format.

use std::fmt::Write;

use crate::engine::Statistics;

/// What a figure does in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// It grows.
    Counter,
    /// It comes and goes.
    Gauge,
}

/// A figure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Figure {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: u64,
}

/// All of them, as of one moment. `requests` are those of the files' users that wait.
pub fn figures(of: &Statistics, requests: usize) -> Vec<Figure> {
    use Kind::{Counter, Gauge};

    let requests = u64::try_from(requests).unwrap_or(u64::MAX);
    #[rustfmt::skip]
    let figures = [
        ("pipe-up", Gauge, "Whether there is a connection to the far side.", of.pipe_up.into()),
        ("clients", Gauge, "Clients of the tree.", of.clients.into()),
        ("channels", Gauge, "Channels, those being closed included.", of.channels.into()),
        ("requests", Gauge, "Requests that wait.", requests),
        ("dials", Counter, "Conversations established from here.", of.dials),
        ("dials-failed", Counter, "Dials that failed.", of.dials_failed),
        ("calls", Counter, "Calls that were taken.", of.calls),
        ("calls-refused", Counter, "Calls that were refused.", of.calls_refused),
        ("messages-received", Counter, "Messages received.", of.messages_received),
        ("messages-sent", Counter, "Messages sent.", of.messages_sent),
        ("bytes-received", Counter, "Bytes of data received.", of.bytes_received),
        ("bytes-sent", Counter, "Bytes of data sent.", of.bytes_sent),
        ("in-pipe", Gauge, "Bytes handed to the connection and not yet taken.", of.in_pipe),
        ("windows", Gauge, "Bytes not yet read, and those that may still come.", of.windows),
        ("queued", Gauge, "Bytes of writes not yet sent.", of.queued),
        ("unacknowledged", Gauge, "Bytes sent and not yet acknowledged.", of.unacknowledged),
    ];
    let figure = |(name, kind, help, value)| Figure { name, kind, help, value };
    figures.map(figure).to_vec()
}

/// What `tcp/stats` reads.
pub fn text(figures: &[Figure]) -> String {
    figures.iter().fold(String::new(), |mut text, Figure { name, value, .. }| {
        // Writing to memory cannot fail.
        let _ = writeln!(text, "{name} {value}");
        text
    })
}

/// Prometheus's text format, version 0.0.4.
pub fn prometheus(figures: &[Figure]) -> String {
    figures.iter().fold(String::new(), |mut text, Figure { name, kind, help, value }| {
        let name = name.replace('-', "_");
        let (kind, total) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        let name = format!("sshnet_{name}{total}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_one_name_in_two_forms() {
        let figures = [
            Figure { name: "dials-failed", kind: Kind::Counter, help: "Dials.", value: 7 },
            Figure { name: "clients", kind: Kind::Gauge, help: "Clients.", value: 0 },
        ];
        assert_eq!(text(&figures), "dials-failed 7\nclients 0\n");
        assert_eq!(
            prometheus(&figures),
            "# HELP sshnet_dials_failed_total Dials.\n\
             # TYPE sshnet_dials_failed_total counter\n\
             sshnet_dials_failed_total 7\n\
             # HELP sshnet_clients Clients.\n# TYPE sshnet_clients gauge\nsshnet_clients 0\n"
        );
    }
}
