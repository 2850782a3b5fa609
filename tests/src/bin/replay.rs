//! Replays a recording of `sshnet-host --record` on the native engine and on the
//! component, which is the one built in or that in `SSHNET_CORE`, and says where they
//! answer otherwise.

use std::error::Error;
use std::process::ExitCode;

use sshnet_core::Session;
use sshnet_tests::replay::Recording;
use sshnet_tests::sim::oracle::Machine;
use sshnet_tests::subject::component::Component;

fn main() -> ExitCode {
    match replay() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn replay() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os().nth(1).ok_or("usage: replay FILE")?;
    let text = std::fs::read_to_string(&file);
    let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
    let recording = Recording::parse(&text)?;
    println!("{} calls", recording.calls.len());
    if let Some(call) = &recording.cut {
        println!("and one without an answer: {:.160}", call.to_string());
    }
    let mut machines: [(&str, Box<dyn Machine>); 2] = [
        ("component", Box::new(Component::new(&recording.config))),
        ("native", Box::new(Session::new(recording.config.clone()))),
    ];
    let mut differ = false;
    for (name, machine) in &mut machines {
        match recording.replay(&mut **machine) {
            Ok(()) => println!("{name}: it answers the same"),
            Err(why) => {
                differ = true;
                println!("{name}: {why}");
            }
        }
    }
    if differ { Err("it does not replay to the same effects".into()) } else { Ok(()) }
}
