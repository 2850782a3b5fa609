//! What shells and man(1) are to know of the command line: made from it.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{CommandLine, UsageError};

const SOURCE: &str = concat!("sshnet-host ", env!("CARGO_PKG_VERSION"));

/// The completions for a shell, as a script of its.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "sshnet-host", &mut script);
    let script = String::from_utf8_lossy(&script);
    // For bash it writes the hyphen of a program's name in two ways (clap's issue
    // 6421, in 4.6.11 and before), and no command of ours would be found.
    script.replace("sshnet__subcmd__host", "sshnet__host")
}

/// The manual page of the whole or of one command, for `man -l -`.
pub(super) fn manual(of: Option<&str>) -> Result<String, UsageError> {
    let mut whole = CommandLine::command();
    // Gives each command its full name.
    whole.build();
    let page = match of {
        None => page(whole),
        Some(name) => match whole.find_subcommand(name) {
            Some(command) => page(command.clone()),
            None => {
                return Err(UsageError::new(format_args!(
                    "there is no command '{name}', and so no page"
                )));
            }
        },
    };
    page.map_err(UsageError::new)
}

/// The page of a command. What its help says after the options is on the page as
/// the rest of its description, and as sections of their own.
fn page(command: Command) -> io::Result<String> {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines: Vec<&str> = after.lines().collect();
    let (rest, sections) =
        lines.split_at(lines.iter().position(|line| is_heading(line)).unwrap_or(lines.len()));
    // man(1) wants one sentence for a name.
    let name = about.split("\n\n").next().unwrap_or_default().to_owned();
    let description = format!("{about}\n\n{}", rest.join("\n"));
    let command = command.about(name).long_about(description.trim_end().to_owned());
    let commands = command.has_subcommands();
    // An empty date, that is: without the quotes it would be no word at all.
    let man = Man::new(command).source(SOURCE).date("\"\"");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if commands {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = String::from_utf8_lossy(&page).into_owned();
    page.push_str(&written(sections).render());
    Ok(page)
}

/// In the help a section's heading stands alone on its line, in capitals.
fn is_heading(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_uppercase())
        && line.chars().all(|c| c.is_ascii_uppercase() || c == ' ')
}

/// Sections as the help has them. Lines that are indented there stand as they are,
/// and those in two columns are a list.
fn written(lines: &[&str]) -> Roff {
    let mut roff = Roff::new();
    let mut filled = true;
    for line in lines {
        let example = line.strip_prefix("  ");
        let columns = example.and_then(|line| line.trim_start().split_once("  "));
        let as_it_is = example.is_some() && columns.is_none();
        if as_it_is && filled {
            roff.control("nf", []);
        } else if !as_it_is && !filled {
            roff.control("fi", []);
        }
        filled = !as_it_is;
        match (columns, example) {
            (Some((what, means)), _) => {
                roff.control("TP", []).text([bold(what)]).text([roman(means.trim_start())]);
            }
            (None, Some(example)) => {
                roff.text([roman(example)]);
            }
            (None, None) if line.is_empty() => {
                roff.control("PP", []);
            }
            (None, None) if is_heading(line) => {
                roff.control("SH", [*line]);
            }
            (None, None) => {
                roff.text([roman(*line)]);
            }
        }
    }
    if !filled {
        roff.control("fi", []);
    }
    roff
}
