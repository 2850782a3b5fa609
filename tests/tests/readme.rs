//! The tables that say which test proves what: every row is there, and every test
//! that they name exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all functions below a directory.
fn functions(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory of this project") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            for (at, _) in text.match_indices("fn ") {
                let name = text[at + 3..].split(|c: char| !c.is_alphanumeric() && c != '_').next();
                names.extend(name.map(str::to_owned));
            }
        }
    }
}

/// A row names its tests, or says why what it is about cannot arise.
#[test]
fn every_row_of_the_tables_has_its_tests() {
    let mut names = BTreeSet::new();
    for dir in ["tests/tests", "host/src", "core/src"] {
        functions(&root().join(dir), &mut names);
    }
    for (file, table, rows) in [
        ("core/README.md", "| duty |", 28),
        ("core/README.md", "| defect |", 40),
        ("host/src/ninep/README.md", "| rule |", 39),
    ] {
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
                assert!(names.contains(*test), "there is no test {test}: {line}");
            }
        }
        assert_eq!(expected, rows + 1, "rows of the table {table}");
    }
}
