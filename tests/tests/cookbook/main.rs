//! docs/cookbook.md: every block in it does what the text says, or the text says
//! why that is not known.
//!
//! A block says by a word behind its fence what it is: `run` ends with 0, `fails`
//! does not, `stays` runs until Ctrl-C, which it gets at the end of its section.
//! A block `text` behind it is what it prints, to the letter but for `...`; without
//! one it prints nothing. A block without such a word is not run, and the text
//! before it says why, behind the words `Not tested:`.
//!
//! Blocks are run as they stand, in the order in which they stand. So that they may
//! name hosts, ports and paths as a reader would, they run on a stage of their own:
//! see [`stage`].

mod blocks;
mod stage;

use std::fs;
use std::path::Path;

use blocks::{Block, Part, Purpose, is_as_shown, parts};
use stage::{Running, Stage};

fn cookbook() -> Vec<Part> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cookbook.md");
    let text = fs::read_to_string(&path).expect("docs/cookbook.md");
    parts(&text).unwrap_or_else(|error| panic!("docs/cookbook.md: {error}"))
}

#[test]
fn every_block_is_run_or_the_text_says_why_not() {
    let mut run = 0;
    for part in cookbook() {
        let Part::Block(block) = part else { continue };
        let Block { line, purpose, before, prints, .. } = &block;
        if *purpose == Purpose::Shown {
            assert!(
                before.contains("Not tested:"),
                "docs/cookbook.md:{line}: it is not run, and no 'Not tested:' says why"
            );
            continue;
        }
        run += 1;
        assert!(
            !before.contains("Not tested:"),
            "docs/cookbook.md:{line}: it is run, and is said not to be"
        );
        // Dots alone would match anything. And what stays is known to be up by
        // what it prints.
        let something =
            |text: &String| text.lines().any(|line| !line.replace("...", "").trim().is_empty());
        assert!(
            prints.as_ref().map_or(*purpose == Purpose::Run, something),
            "docs/cookbook.md:{line}: the text does not show what it prints"
        );
    }
    assert!(run > 40, "only {run} blocks are run");
}

#[test]
fn blocks_do_what_the_cookbook_says() {
    let Some(stage) = Stage::enter("blocks_do_what_the_cookbook_says") else { return };
    let mut wrong = String::new();
    let mut level = 0;
    // Level of its section, and program.
    let mut running: Vec<(usize, Running)> = Vec::new();
    for part in cookbook() {
        match part {
            Part::Heading(next) => {
                // The last one first: it may need the others.
                while running.last().is_some_and(|(level, _)| *level >= next) {
                    running.pop().expect("there is one").1.end();
                }
                level = next;
            }
            Part::Block(block) => {
                let shown = block.prints.as_deref().unwrap_or_default();
                let what = format!("docs/cookbook.md:{}\n{}", block.line, block.text);
                let start = || stage.start(&what, &block.language, &block.text);
                match block.purpose {
                    Purpose::Shown => {}
                    Purpose::Stays => {
                        let mut program = start();
                        if let Err(why) = program.until_it_prints(|said| is_as_shown(shown, said)) {
                            // What comes after it needs it.
                            panic!("{wrong}{why}");
                        }
                        running.push((level, program));
                    }
                    Purpose::Run | Purpose::Fails => {
                        let (status, printed) = start().wait();
                        if !is_as_shown(shown, &printed) {
                            wrong += &format!("{what}prints\n{printed}in place of\n{shown}\n");
                        }
                        if status.success() != (block.purpose == Purpose::Run) {
                            wrong += &format!("{what}ends with {status}, and prints\n{printed}\n");
                        }
                    }
                }
            }
        }
    }
    while let Some((_, program)) = running.pop() {
        program.end();
    }
    assert!(wrong.is_empty(), "{wrong}");
    stage.is_as_it_was();
}
