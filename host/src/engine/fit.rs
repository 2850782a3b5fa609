//! Whether a component is one of the world `sshnet:core/core`, and what it lacks.
//!
//! It is held against the component that this program was built with: each thing
//! that one exports the other must export, too, with the same type. Types are
//! compared by how WIT would write them.

use std::collections::BTreeMap;

use wasmtime::Engine as Wasmtime;
use wasmtime::component::Component;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};

/// Differences that are told.
const TOLD: usize = 4;

/// What a component exports: by name, how WIT would write its type.
type Exports = BTreeMap<String, String>;

/// Says how a component differs from ours, if it could not take its place.
pub(super) fn check(
    wasmtime: &Wasmtime,
    theirs: &Component,
    ours: &Component,
) -> Result<(), String> {
    let imports: Vec<String> = theirs
        .component_type()
        .imports(wasmtime)
        .map(|(name, _)| format!("    {}", name.escape_debug()))
        .collect();
    if !imports.is_empty() {
        let imports = imports.join("\n");
        return Err(format!(
            "it imports\n{imports}\nand the world sshnet:core/core has no imports"
        ));
    }
    let (theirs, ours) = (exports(wasmtime, theirs), exports(wasmtime, ours));
    // What it has is nearer to what its author meant than what it has not.
    let (mut differences, mut missing) = (Vec::new(), Vec::new());
    for (name, wanted) in &ours {
        match theirs.get(name) {
            None => missing.push(format!("\n    {name}: it has no such export")),
            Some(theirs) if theirs == wanted => {}
            Some(theirs) => {
                let (theirs, wanted) = apart(theirs, wanted);
                let what = format!("\n    {name}: it has '{theirs}' where '{wanted}' is wanted");
                differences.push(what);
            }
        }
    }
    differences.append(&mut missing);
    if differences.is_empty() {
        return Ok(());
    }
    let mut told: String = differences.iter().take(TOLD).map(String::as_str).collect();
    if differences.len() > TOLD {
        told.push_str(&format!("\n    and {} more like that", differences.len() - TOLD));
    }
    Err(format!("it is not of the world sshnet:core/core:{told}"))
}

/// The first words in which two texts differ.
fn apart<'a>(one: &'a str, other: &'a str) -> (&'a str, &'a str) {
    let same = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    // What WIT writes is ASCII, and names of another's are at least UTF-8.
    let start = one.get(..same).and_then(|head| head.rfind([' ', '(', '<'])).map_or(0, |at| at + 1);
    (word(one, start), word(other, start))
}

/// From there to the end of the word, or the rest where there is none.
fn word(text: &str, start: usize) -> &str {
    let rest = text.get(start..).unwrap_or(text);
    let end = rest.find([' ', ',', '(', ')', '<', '>']).filter(|end| *end > 0);
    end.and_then(|end| rest.get(..end)).filter(|word| !word.is_empty()).unwrap_or(rest)
}

fn exports(wasmtime: &Wasmtime, component: &Component) -> Exports {
    let mut found = Exports::new();
    for (name, item) in component.component_type().exports(wasmtime) {
        add(wasmtime, &mut found, name, &item.ty);
    }
    found
}

fn add(wasmtime: &Wasmtime, found: &mut Exports, name: &str, item: &ComponentItem) {
    let text = match item {
        ComponentItem::ComponentInstance(instance) => {
            for (inner, item) in instance.exports(wasmtime) {
                add(wasmtime, found, &format!("{name} {inner}"), &item.ty);
            }
            "interface".to_owned()
        }
        ComponentItem::ComponentFunc(function) => func(function),
        ComponentItem::Type(ty) => wit(ty),
        ComponentItem::Resource(_) => "resource".to_owned(),
        ComponentItem::Component(_) => "component".to_owned(),
        ComponentItem::CoreFunc(_) | ComponentItem::Module(_) => "core module".to_owned(),
    };
    found.insert(name.escape_debug().to_string(), text);
}

fn func(function: &ComponentFunc) -> String {
    let start = if function.async_() { "async func" } else { "func" };
    let parameters = list(function.params().map(|(name, ty)| format!("{name}: {}", wit(&ty))));
    let mut text = format!("{start}({parameters})");
    for result in function.results() {
        text.push_str(&format!(" -> {}", wit(&result)));
    }
    text
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// A case, or one side of a result, and what it carries.
fn carrying(name: &str, ty: Option<Type>) -> String {
    ty.map_or_else(|| name.to_owned(), |ty| format!("{name}({})", wit(&ty)))
}

/// A type, written out.
fn wit(ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::S8 => "s8".into(),
        Type::U8 => "u8".into(),
        Type::S16 => "s16".into(),
        Type::U16 => "u16".into(),
        Type::S32 => "s32".into(),
        Type::U32 => "u32".into(),
        Type::S64 => "s64".into(),
        Type::U64 => "u64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::List(of) => format!("list<{}>", wit(&of.ty())),
        Type::Tuple(of) => format!("tuple<{}>", list(of.types().map(|ty| wit(&ty)))),
        Type::Option(of) => format!("option<{}>", wit(&of.ty())),
        Type::Result(of) => {
            let (ok, error) = (carrying("ok", of.ok()), carrying("error", of.err()));
            format!("result<{ok}, {error}>")
        }
        Type::Record(of) => {
            let fields = of.fields().map(|field| format!("{}: {}", field.name, wit(&field.ty)));
            format!("record({})", list(fields))
        }
        Type::Variant(of) => {
            format!("variant({})", list(of.cases().map(|case| carrying(case.name, case.ty))))
        }
        Type::Enum(of) => format!("enum({})", list(of.names().map(str::to_owned))),
        Type::Flags(of) => format!("flags({})", list(of.names().map(str::to_owned))),
        Type::Own(_) => "own<resource>".into(),
        Type::Borrow(_) => "borrow<resource>".into(),
        // The world has no type of these.
        Type::Map(_)
        | Type::FixedLengthList(_)
        | Type::Future(_)
        | Type::Stream(_)
        | Type::ErrorContext => "something else".into(),
    }
}
