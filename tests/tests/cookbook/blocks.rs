//! The cookbook's text: its fenced blocks, what is to be done with each, and
//! whether what a program printed is what the cookbook shows.

/// What a block is for, by the words behind its fence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// `run`: a program that ends with 0.
    Run,
    /// `fails`: a program that ends with something else.
    Fails,
    /// `stays`: a program that runs until Ctrl-C. It gets that at the end of its
    /// section.
    Stays,
    /// Nothing: it is for the reader, and the text before it says why.
    Shown,
}

/// A program in the text.
#[derive(Debug)]
pub(crate) struct Block {
    /// The number of its fence's line.
    pub(crate) line: usize,
    pub(crate) language: String,
    pub(crate) purpose: Purpose,
    pub(crate) text: String,
    /// The block `text` behind it: what it prints.
    pub(crate) prints: Option<String>,
    /// What stands between it and the block or heading before it.
    pub(crate) before: String,
}

/// What the text consists of.
#[derive(Debug)]
pub(crate) enum Part {
    /// A heading of this level.
    Heading(usize),
    Block(Block),
}

/// Takes the text apart. Fails on what has no meaning here.
pub(crate) fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut before = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let number = at + 1;
        if let Some(info) = line.strip_prefix("```") {
            let mut inside = String::new();
            loop {
                match lines.next() {
                    Some((_, "```")) => break,
                    Some((_, line)) => inside.extend([line, "\n"]),
                    None => return Err(format!("line {number}: the block has no end")),
                }
            }
            let between = std::mem::take(&mut before);
            let (language, mark) = info.split_once(' ').unwrap_or((info, ""));
            if language == "text" && mark.is_empty() {
                let Some(Part::Block(block)) = parts.last_mut() else {
                    return Err(format!("line {number}: there is no block that prints this"));
                };
                if block.prints.replace(inside).is_some() {
                    return Err(format!("line {number}: what is printed is there already"));
                }
                continue;
            }
            let purpose = match mark {
                "run" => Purpose::Run,
                "fails" => Purpose::Fails,
                "stays" => Purpose::Stays,
                "" => Purpose::Shown,
                _ => return Err(format!("line {number}: what is '{mark}'?")),
            };
            if !["sh", "bash", "python", "rc"].contains(&language) {
                return Err(format!("line {number}: what is a block of '{language}'?"));
            }
            parts.push(Part::Block(Block {
                line: number,
                language: language.to_owned(),
                purpose,
                text: inside,
                prints: None,
                before: between,
            }));
        } else if line.starts_with('#') {
            before.clear();
            parts.push(Part::Heading(line.len() - line.trim_start_matches('#').len()));
        } else {
            before.extend([line, "\n"]);
        }
    }
    Ok(parts)
}

/// Whether this was printed, where `...` in a line stands for any part of it, and
/// alone for any number of lines.
pub(crate) fn is_as_shown(shown: &str, printed: &str) -> bool {
    fn lines(shown: &[&str], printed: &[&str]) -> bool {
        match (shown.split_first(), printed.split_first()) {
            (None, _) => printed.is_empty(),
            (Some((&"...", rest)), _) => (0..=printed.len()).any(|n| lines(rest, &printed[n..])),
            (Some((line, rest)), Some((said, more))) => within(line, said) && lines(rest, more),
            (Some(_), None) => false,
        }
    }
    fn within(shown: &str, said: &str) -> bool {
        let Some((start, rest)) = shown.split_once("...") else { return shown == said };
        let Some(said) = said.strip_prefix(start) else { return false };
        (0..=said.len()).filter(|&n| said.is_char_boundary(n)).any(|n| within(rest, &said[n..]))
    }
    // HTTP ends its lines with \r\n, which a reader does not see.
    let printed: Vec<&str> = printed.lines().map(|line| line.trim_end_matches('\r')).collect();
    lines(&shown.lines().collect::<Vec<_>>(), &printed)
}

#[test]
fn what_is_shown_is_what_was_printed() {
    for (shown, printed) in [
        ("", ""),
        ("a\n", "a\n"),
        ("a\nb\n", "a\r\nb"),
        ("port ... of ...\n", "port 80 of it\n"),
        ("...\nb\n", "b\n"),
        ("a\n...\nb\n", "a\n1\n2\nb\n"),
    ] {
        assert!(is_as_shown(shown, printed), "{shown:?} is not {printed:?}");
    }
    for (shown, printed) in [
        ("", "a\n"),
        ("a\n", ""),
        ("a\n", "a\nb\n"),
        ("port ... of\n", "port 80 of it\n"),
        ("a\n...\nb\n", "a\n1\n"),
        ("a ... b\n", "a 1\n2 b\n"),
    ] {
        assert!(!is_as_shown(shown, printed), "{shown:?} is {printed:?}");
    }
}

#[test]
fn blocks_without_meaning_are_refused() {
    for (text, wanted) in [
        ("```sh run\ntrue\n", "no end"),
        ("```sh runs\ntrue\n```\n", "what is 'runs'"),
        ("```\ntrue\n```\n", "a block of ''"),
        ("# A\n```text\n1\n```\n", "no block that prints"),
        ("```sh run\n:\n```\n```text\n1\n```\n```text\n1\n```\n", "there already"),
    ] {
        let error = parts(text).expect_err(text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}
