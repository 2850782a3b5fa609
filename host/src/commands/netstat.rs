//! `netstat`: the conversations of a service, as its files show them.
//!
//! Each is looked at for itself, so that they need not fit together; one that ends
//! meanwhile is left out.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::files::print;
use super::{CommandError, Trying, connect};
use crate::json::quoted;
use crate::ninep::client::{Client, ClientError, Entry};
use crate::notice::printable;

/// Bytes in a cell of the table: an error has at most 120.
const CELL: usize = 200;

/// Prints a table, or with `json` an array of objects.
pub async fn run(service: Option<OsString>, json: bool) -> Result<(), CommandError> {
    let client = connect(service).await?;
    let mut rows = Vec::new();
    for protocol in ["tcp", "unix"] {
        let what = || format!("cannot list {protocol}");
        for entry in client.read_directory(protocol).await.trying(what)? {
            rows.extend(row(&client, protocol, &entry).await?);
        }
    }
    print(if json { as_json(&rows) } else { as_table(&rows) }.as_bytes()).await
}

/// One conversation.
#[derive(Debug, Default, Eq, PartialEq)]
struct Row {
    protocol: &'static str,
    number: u32,
    /// Seconds for which it has been in its state.
    age: u64,
    local: String,
    remote: String,
    status: Status,
}

/// What a `status` file says.
#[derive(Debug, Default, Eq, PartialEq)]
struct Status {
    state: String,
    /// Bytes: received and sent so far, to be read and to be sent.
    received: u64,
    sent: u64,
    unread: u64,
    unsent: u64,
    error: Option<String>,
}

/// Reads what there is to know of a conversation, if it is still there.
async fn row(
    client: &Client,
    protocol: &'static str,
    entry: &Entry,
) -> Result<Option<Row>, CommandError> {
    let Ok(number) = entry.name.parse::<u32>() else { return Ok(None) };
    // The service is on this machine, and has its clock.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let age = now.saturating_sub(entry.mtime.into());
    let read = async |file: &str| {
        let path = format!("{protocol}/{number}/{file}");
        match client.read_file(&path).await {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).trim_end().to_owned())),
            Err(ClientError::Refused(_)) => Ok(None),
            Err(error) => Err(error).trying(|| format!("cannot read {path}")),
        }
    };
    let (status, local, remote) = tokio::join!(read("status"), read("local"), read("remote"));
    let (Some(status), Some(local), Some(remote)) = (status?, local?, remote?) else {
        return Ok(None);
    };
    Ok(Some(Row { protocol, number, age, local, remote, status: Status::read(&status) }))
}

impl Status {
    fn read(text: &str) -> Self {
        let (first, error) = match text.split_once('\n') {
            Some((first, error)) => (first, Some(error.trim().to_owned())),
            None => (text, None),
        };
        let mut words = first.split_ascii_whitespace();
        let state = words.next().unwrap_or_default().to_owned();
        let mut figures = HashMap::new();
        while let (Some(name), Some(figure)) = (words.next(), words.next()) {
            figures.insert(name, figure.parse().unwrap_or(0));
        }
        let figure = |name| figures.get(name).copied().unwrap_or(0);
        Self {
            state,
            received: figure("rx"),
            sent: figure("tx"),
            unread: figure("qin"),
            unsent: figure("qout"),
            error: error.filter(|error| !error.is_empty()),
        }
    }
}

fn as_table(rows: &[Row]) -> String {
    let mut lines = vec![
        ["Dir", "State", "Age", "Local", "Remote", "Rx", "Tx", "Qin", "Qout", "Last error"]
            .map(str::to_owned),
    ];
    for Row { protocol, number, age, local, remote, status } in rows {
        lines.push([
            format!("{protocol}/{number}"),
            status.state.clone(),
            short(*age),
            local.clone(),
            remote.clone(),
            status.received.to_string(),
            status.sent.to_string(),
            status.unread.to_string(),
            status.unsent.to_string(),
            status.error.clone().unwrap_or_default(),
        ]);
    }
    for cell in lines.iter_mut().flatten() {
        *cell = printable(std::mem::take(cell), CELL);
    }
    let mut widths = [0; 10];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Figures stand below each other.
            let _ = match column {
                2 | 5..=8 => write!(row, "{cell:>width$}  "),
                _ => write!(row, "{cell:<width$}  "),
            };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// A time in its largest unit, as there is little room.
fn short(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn as_json(rows: &[Row]) -> String {
    let rows: Vec<String> = rows
        .iter()
        .map(|Row { protocol, number, age, local, remote, status }| {
            format!(
                "{{\"protocol\":{},\"number\":{number},\"state\":{},\"age\":{age},\"local\":{},\
                 \"remote\":{},\"received\":{},\"sent\":{},\"unread\":{},\"unsent\":{},\"error\":{}}}",
                quoted(protocol),
                quoted(&status.state),
                quoted(local),
                quoted(remote),
                status.received,
                status.sent,
                status.unread,
                status.unsent,
                status.error.as_deref().map_or("null".to_owned(), quoted),
            )
        })
        .collect();
    if rows.is_empty() {
        return "[]\n".to_owned();
    }
    format!("[\n{}\n]\n", rows.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_does_not_act_on_what_a_service_says() {
        let mut row = row();
        row.remote = "\u{1b}[2J\u{7}".to_owned();
        let table = as_table(&[row]);
        assert!(table.contains("\\u{1b}[2J\\u{7}"), "{table}");
        assert!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table:?}");
    }

    fn row() -> Row {
        let status =
            "Finished qin 3 qout 4 rx 100 tx 2000000000000 window 5/6\nhost \"b\\\tis gone\n";
        Row {
            protocol: "unix",
            number: 12,
            age: 7_300,
            local: "::!0".to_owned(),
            remote: "/tmp/a b".to_owned(),
            status: Status::read(status),
        }
    }

    #[test]
    fn a_status_is_read_with_its_error() {
        let expected = Status {
            state: "Finished".to_owned(),
            received: 100,
            sent: 2_000_000_000_000,
            unread: 3,
            unsent: 4,
            error: Some("host \"b\\\tis gone".to_owned()),
        };
        assert_eq!(row().status, expected);
        let closed = Status::read("Closed qin 0 qout 0 rx 0 tx 0 window 0/0");
        assert_eq!(closed, Status { state: "Closed".to_owned(), ..Status::default() });
        // Another component may say less, or more.
        assert_eq!(Status::read(""), Status::default());
        assert_eq!(Status::read("Odd rx x new 7 tx 8").sent, 8);
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let text = as_table(&[row()]);
        assert_eq!(
            text,
            "Dir      State     Age  Local  Remote     Rx             Tx  Qin  Qout  Last error\n\
             unix/12  Finished   2h  ::!0   /tmp/a b  100  2000000000000    3     4  \
             host \"b\\\\tis gone\n"
        );
        assert_eq!(as_table(&[]).lines().count(), 1);
    }

    #[test]
    fn an_age_is_short() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3_599, "59m"), (86_399, "23h"), (200_000, "2d")]
        {
            assert_eq!(short(seconds), text);
        }
    }

    #[test]
    fn json_is_escaped() {
        assert_eq!(
            as_json(&[row()]),
            "[\n{\"protocol\":\"unix\",\"number\":12,\"state\":\"Finished\",\"age\":7300,\
             \"local\":\"::!0\",\"remote\":\"/tmp/a b\",\"received\":100,\"sent\":2000000000000,\"unread\":3,\
             \"unsent\":4,\"error\":\"host \\\"b\\\\\\u0009is gone\"}\n]\n"
        );
        assert_eq!(as_json(&[]), "[]\n");
    }
}
