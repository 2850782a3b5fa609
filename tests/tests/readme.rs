//! The tables that say which test proves what: every row is there, every test that
//! they name exists, is one that runs, and says itself what it is about.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Adds all tests below a directory by name, with what their comments say: the
/// functions with a test attribute, and the scenarios that `on_each_pipe!` makes
/// tests of.
fn tests(dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("a directory of this project") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            tests_of(&text, found);
        }
    }
}

fn tests_of(text: &str, found: &mut BTreeMap<String, String>) {
    let scenarios = text.split_once("on_each_pipe!(").and_then(|(_, list)| list.split_once(");"));
    // `one, two; but psusan: three`
    let name = |words: &str| words.rsplit(':').next().unwrap_or_default().trim().to_owned();
    let scenarios: Vec<String> =
        scenarios.map_or(Vec::new(), |(list, _)| list.split([',', ';']).map(name).collect());
    let (mut says, mut attribute) = (String::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///") {
            says.push_str(comment);
        } else if line.starts_with("#[") {
            attribute |= ["#[test]", "#[tokio::test"].iter().any(|test| line.starts_with(test));
        } else {
            let words = ["pub ", "async ", "fn "]
                .iter()
                .fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
            let name = words.split('(').next().unwrap_or_default();
            if words.len() < line.len()
                && (attribute || scenarios.iter().any(|scenario| scenario == name))
            {
                // One of the same name in another crate says as much.
                found.entry(name.to_owned()).or_default().push_str(&says);
            }
            says.clear();
            attribute = false;
        }
    }
}

/// Whether a comment names one of these things, "duty" and "duties" or "defect" and
/// "entry", by its number: alone, or in a list.
fn names(says: &str, things: &[&str], number: &str) -> bool {
    let says = says.to_lowercase();
    let mut words = says.split_whitespace();
    while let Some(word) = words.next() {
        if things.contains(&word.trim_matches(|c: char| !c.is_alphabetic())) {
            let rest = words.clone();
            let list =
                rest.take_while(|word| *word == "and" || word.as_bytes()[0].is_ascii_digit());
            let mut list = list.map(|word| word.trim_matches(|c: char| !c.is_ascii_digit()));
            if list.any(|word| word == number) {
                return true;
            }
        }
    }
    false
}

/// What is no test is not taken for one, and a comment is read to the number.
#[test]
fn a_test_has_an_attribute_or_is_in_the_list_and_a_comment_names_its_row() {
    let mut found = BTreeMap::new();
    let text = "/// Duties 6, 22: it is.\n#[test]\nfn one() {\n}\nfn none() {\n}\n\
                on_each_pipe!(three; but psusan: two);\n/// So it is (defect\n/// 26).\n\
                fn two(kind: Kind) {\n}\n#[tokio::test]\nasync fn four() {\n}\n";
    tests_of(text, &mut found);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["four", "one", "two"]);
    let duty = |test: &str, number| names(&found[test], &["duty", "duties"], number);
    assert!(duty("one", "6") && duty("one", "22") && !duty("one", "2") && !duty("two", "26"));
    assert!(names(&found["two"], &["defect"], "26"));
}

/// A row names its tests, or says why what it is about cannot arise.
#[test]
fn every_row_of_the_tables_has_its_tests() {
    let mut known = BTreeMap::new();
    for dir in ["tests/tests", "host/src", "core/src"] {
        tests(&root().join(dir), &mut known);
    }
    let tables: [(&str, &str, usize, &[&str]); 4] = [
        ("core/README.md", "| duty |", 28, &["duty", "duties"]),
        ("core/README.md", "| defect |", 40, &["defect", "defects", "entry", "entries"]),
        // The rules have their numbers in that file only.
        ("host/src/ninep/README.md", "| rule |", 39, &[]),
        ("docs/security.md", "| threat |", 25, &[]),
    ];
    for (file, table, rows, things) in tables {
        let readme = fs::read_to_string(root().join(file)).expect(file);
        let lines = readme.lines().skip_while(|line| !line.starts_with(table)).skip(2);
        let mut expected = 1;
        for line in lines.take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            assert_eq!(cells[1], expected.to_string(), "{line}");
            expected += 1;
            let tests: Vec<&str> = cells[3].split('`').skip(1).step_by(2).collect();
            let reason = cells[3].starts_with("cannot arise: ");
            assert!(reason || !tests.is_empty(), "no test and no reason: {line}");
            for test in tests.iter().filter(|_| !reason) {
                let says = known.get(*test);
                let says = says.unwrap_or_else(|| panic!("there is no test {test}: {line}"));
                assert!(
                    things.is_empty() || names(says, things, cells[1]),
                    "the comment of {test} does not name its {}: {line}",
                    things[0]
                );
            }
        }
        assert_eq!(expected, rows + 1, "rows of the table {table}");
    }
}
