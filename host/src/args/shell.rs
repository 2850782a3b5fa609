//! What shells and man(1) are to know of the command line: made from it.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{CommandLine, UsageError};

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

fn page(command: Command) -> io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
