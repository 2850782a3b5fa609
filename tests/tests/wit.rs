//! The WIT package (wit/) as a package: it stands alone, says what each thing is, and
//! changes only with its version.

use std::fs;
use std::path::{Path, PathBuf};

use wit_parser::{Docs, Resolve, SourceMap, Stability, Type, TypeDefKind, WorldItem};

/// The package.
const FILES: [&str; 3] = ["types.wit", "engine.wit", "world.wit"];

fn wit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")
}

fn source(file: &str) -> String {
    fs::read_to_string(wit().join(file)).expect("a file of the package")
}

/// Reads the package; answers it and its version.
fn package() -> (Resolve, String) {
    let mut sources = SourceMap::new();
    for file in FILES {
        sources.push_str(file, source(file));
    }
    let group = sources.parse().map_err(|(_, error)| error).expect("wit/ is a package");
    let mut resolve = Resolve::new();
    let id = resolve.push_group(group).expect("wit/ is a whole package");
    let name = &resolve.packages[id].name;
    assert_eq!((name.namespace.as_str(), name.name.as_str()), ("sshnet", "core"));
    let version = name.version.clone().expect("it has a version").to_string();
    (resolve, version)
}

/// It needs no other package, and a component with its world needs nothing at all.
#[test]
fn the_package_stands_alone_and_its_world_imports_nothing() {
    let (resolve, _) = package();
    assert_eq!(resolve.packages.len(), 1);
    let [world] = resolve.worlds.iter().map(|(_, world)| world).collect::<Vec<_>>()[..] else {
        panic!("there is one world")
    };
    assert_eq!(world.name, "core");
    assert!(world.imports.is_empty(), "{:?}", world.imports);
    let mut exports: Vec<_> = world
        .exports
        .values()
        .map(|item| match item {
            WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    exports.sort();
    assert_eq!(exports, [Some("engine".to_owned()), Some("types".to_owned())]);
}

/// A stranger has nothing else to go by.
#[test]
fn everything_in_the_package_is_described_and_dated() {
    let (resolve, _) = package();
    let mut bare = Vec::new();
    let mut look = |name: String, docs: &Docs, stability: Option<&Stability>| {
        if docs.contents.as_ref().is_none_or(|words| words.trim().is_empty()) {
            bare.push(format!("{name} is not described"));
        }
        if stability.is_some_and(Stability::is_unknown) {
            bare.push(format!("{name} has no @since"));
        }
    };
    for (_, interface) in &resolve.interfaces {
        let name = interface.name.clone().unwrap_or_default();
        look(name.clone(), &interface.docs, Some(&interface.stability));
        for (function, item) in &interface.functions {
            look(format!("{name}.{function}"), &item.docs, Some(&item.stability));
        }
        for (kind, id) in &interface.types {
            let item = &resolve.types[*id];
            let name = format!("{name}.{kind}");
            match &item.kind {
                // What another interface describes.
                TypeDefKind::Type(Type::Id(_)) => continue,
                TypeDefKind::Record(record) => {
                    for field in &record.fields {
                        look(format!("{name}.{}", field.name), &field.docs, None);
                    }
                }
                TypeDefKind::Enum(cases) => {
                    for case in &cases.cases {
                        look(format!("{name}.{}", case.name), &case.docs, None);
                    }
                }
                TypeDefKind::Variant(cases) => {
                    for case in &cases.cases {
                        look(format!("{name}.{}", case.name), &case.docs, None);
                    }
                }
                _ => {}
            }
            look(name, &item.docs, Some(&item.stability));
        }
    }
    assert_eq!(bare, Vec::<String>::new());
}

/// The package without its comments: one thing a line.
fn bare() -> String {
    let mut text = String::new();
    for file in FILES {
        let source = source(file);
        let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
        for line in lines.filter(|line| !line.is_empty()) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// wit/README.md says which change needs which version.
#[test]
fn the_package_is_what_it_was_when_it_was_given_its_version() {
    let (_, version) = package();
    let file = wit().join("versions").join(format!("{version}.wit"));
    let then = fs::read_to_string(&file).unwrap_or_default();
    let now = bare();
    let changed = now.lines().zip(then.lines()).find(|(now, then)| now != then);
    assert!(
        now == then,
        "the package is not what version {version} was, from {changed:?} on: give it another \
         version (wit/README.md says which), and write down what it is now as wit/versions/"
    );
}

/// Two files of one directory must not have different versions: wit-parser sees to it;
/// each says which, for readers.
#[test]
fn each_file_names_the_package_and_its_version() {
    let (_, version) = package();
    for file in FILES {
        assert!(source(file).starts_with(&format!("package sshnet:core@{version};\n")), "{file}");
    }
}
