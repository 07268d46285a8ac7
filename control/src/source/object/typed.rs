//! Gives a tree its type; what does not fit is said in words a person who never saw Rust understands.

use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::Value;

use crate::diagnostic::{Problem, Problems, Weight};

const NO_SUCH_FIELD: &str = "there is no such field";

/// True for the problem of a field that this program does not know, in an object of Kubernetes' own kinds.
pub(in crate::source) fn is_unknown_field(problem: &Problem) -> bool {
    problem.problem == NO_SUCH_FIELD && problem.weight == Weight::Slight
}

/// The typed object. A field the type does not have is fatal to an object of our own kinds, whose reader knows them all: a
/// misspelt `from` would let everybody in. Kubernetes' own kinds may be newer than this program: there it is told, and no more.
pub(super) fn typed<T: DeserializeOwned>(value: Value, own: bool, problems: &mut Problems) -> Option<T> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let result: Result<T, serde_json::Error> = {
        let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
        serde_ignored::deserialize(tracked, |path| unknown.push(path_text(&path)))
    };
    // The reader chose the type by these two: the types that kube derives do not have them.
    for field in unknown.into_iter().filter(|field| field != "apiVersion" && field != "kind") {
        let problem = NO_SUCH_FIELD;
        let mend = "correct its spelling and indentation, or leave it out";
        if own {
            problems.fatal(field, problem, mend);
        } else {
            problems.slight(field, problem, mend);
        }
    }
    match result {
        Ok(object) => Some(object),
        Err(error) => {
            let (field, problem, mend) = explain(&track.path().to_string(), &error.to_string());
            problems.fatal(field, problem, mend);
            None
        }
    }
}

/// A field that stands there with no value would be taken for one left out, and what is left out can mean "everybody".
pub(super) fn refuse_nulls(value: &Value, path: &str, problems: &mut Problems) {
    match value {
        Value::Null => problems.fatal(path, "it has no value", "give it one, or leave the field out"),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                refuse_nulls(item, &format!("{path}[{index}]"), problems);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                refuse_nulls(field, &format!("{path}.{name}"), problems);
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `spec.ports[0].port`, as `serde_path_to_error` writes it.
fn path_text(path: &serde_ignored::Path<'_>) -> String {
    match path {
        serde_ignored::Path::Root => String::new(),
        serde_ignored::Path::Seq { parent, index } => format!("{}[{index}]", path_text(parent)),
        serde_ignored::Path::Map { parent, key } => match path_text(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => path_text(parent),
    }
}

/// Field, problem and mend, of what serde says.
fn explain(path: &str, message: &str) -> (String, String, String) {
    let path = if path == "." { "" } else { path };
    if let Some(rest) = message.strip_prefix("missing field `") {
        let name = rest.trim_end_matches('`');
        let field = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        return (field, "it is missing".to_owned(), format!("add the field {name}"));
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        let (found, expected) = rest.split_once("`, expected ").unwrap_or((rest, "another"));
        let values = expected.trim_start_matches("one of ").replace('`', "");
        let parent = path.strip_suffix(&format!(".{found}")).unwrap_or(path);
        return (parent.to_owned(), format!("{found:?} is not one of its values"), format!("write {values}"));
    }
    let found = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.split_once(", expected "));
    match found {
        Some((found, expected)) => (path.to_owned(), format!("{} does not fit", in_words(found)), wanted(expected)),
        None if path.ends_with("Timestamp") || path.ends_with("Time") => {
            (path.to_owned(), "it is no time".to_owned(), wanted("Time"))
        }
        None => (path.to_owned(), message.to_owned(), "correct the value".to_owned()),
    }
}

fn in_words(found: &str) -> String {
    match found {
        "null" => "nothing".to_owned(),
        "map" => "a mapping".to_owned(),
        "sequence" => "a list".to_owned(),
        other => format!("the {}", other.replace('`', "").replace("floating point", "number")),
    }
}

fn wanted(expected: &str) -> String {
    match expected {
        "u16" => "write a whole number from 1 to 65535".to_owned(),
        "i32" | "u32" | "i64" | "u64" => "write a whole number, without quotes".to_owned(),
        "a string" => "write a string, in quotes where it looks like a number or a truth value".to_owned(),
        "IntOrString" => "write a whole number, or a string in quotes".to_owned(),
        "a boolean" => "write true or false".to_owned(),
        "a sequence" => "write a list, each item after a dash".to_owned(),
        "a map" => "write a mapping of fields to values".to_owned(),
        "Time" | "an RFC 3339 formatted timestamp" => "write a time such as 2026-01-31T12:00:00Z".to_owned(),
        other if other.starts_with("struct ") || other.starts_with(|c: char| c.is_ascii_uppercase()) => {
            "write a mapping of fields to values".to_owned()
        }
        other => format!("write {other}"),
    }
}
