//! Reads one file of manifests: bytes in, objects and problems out, document by document. Pure, and total over all bytes.

use std::{collections::BTreeMap, sync::Arc};

use millrace_model::ObjectName;
use serde_json::Value;

use super::{
    Object, object,
    yaml::{self, Document},
};
use crate::{
    diagnostic::{self, Key, Kind, Place, Problem, Problems},
    world::Settings,
};

/// The most objects in one `List`: what a file may hold in documents.
const MAX_ITEMS: usize = yaml::MAX_DOCUMENTS;
/// Where an object says no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// What was read of each file, by its name.
pub type Readings = BTreeMap<Arc<str>, Arc<Reading>>;

/// What was read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// One for each object, in order.
    pub items: Vec<Item>,
}

/// What was read of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it stands.
    pub place: Place,
    /// Which object it is, as far as can be told.
    pub stands_for: StandsFor,
    /// The object, where it is fit for use.
    pub object: Option<Object>,
    /// What holds in its place where it is not, and never was.
    pub instead: Option<Object>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// Which object a document stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandsFor {
    /// This one.
    Known(Key),
    /// One of those that agree with what could be read, in these words.
    Maybe {
        /// Its kind, if that could be read.
        kind: Option<Kind>,
        /// Its name, if that could be read.
        name: Option<ObjectName>,
        /// For the message.
        words: String,
    },
}

impl StandsFor {
    /// True where this may be the object `key`: it is not to be taken for deleted.
    pub fn may_be(&self, key: &Key) -> bool {
        match self {
            Self::Known(known) => known == key,
            Self::Maybe { kind, name, words: _ } => {
                kind.is_none_or(|kind| kind == key.kind)
                    && name.as_ref().is_none_or(|name| {
                        // Where the kind is unknown, so is whether the namespace counts.
                        name.name == key.name.name
                            && (key.kind.is_cluster_scoped() || name.namespace == key.name.namespace)
                    })
            }
        }
    }

    /// For a diagnostic.
    pub fn described(&self) -> diagnostic::Object {
        match self {
            Self::Known(key) => diagnostic::Object::Known(key.clone()),
            Self::Maybe { words, .. } => diagnostic::Object::Described(words.clone()),
        }
    }
}

/// The whole of a file that can't be read at all.
pub fn unreadable(file: &Arc<str>, problem: impl Into<String>, mend: impl Into<String>) -> Reading {
    let mut problems = Problems::default();
    problems.fatal("", problem, mend);
    Reading {
        items: vec![Item {
            place: Place { file: file.clone(), document: 0, line: 1 },
            stands_for: StandsFor::Maybe { kind: None, name: None, words: "the file as a whole".to_owned() },
            object: None,
            instead: None,
            problems: problems.0,
        }],
    }
}

/// What these bytes of `file` say.
pub fn read(file: &Arc<str>, bytes: &[u8], settings: &Settings) -> Reading {
    if bytes.len() as u64 > yaml::MAX_FILE {
        return unreadable(
            file,
            format!("it is larger than {} MiB", yaml::MAX_FILE >> 20),
            "split it into several files",
        );
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = bytes.iter().take(error.valid_up_to()).filter(|b| **b == b'\n').count() + 1;
            return unreadable(file, format!("line {line} is not UTF-8"), "save it as UTF-8");
        }
    };
    let (documents, more) = yaml::split(text);
    let mut reading = Reading::default();
    for document in documents {
        read_document(file, document, settings, &mut reading.items);
    }
    if more {
        let problem = format!("it has more than {} documents; those after are not read", yaml::MAX_DOCUMENTS);
        reading.items.extend(unreadable(file, problem, "split it into several files").items);
    }
    reading
}

fn read_document(file: &Arc<str>, document: Document<'_>, settings: &Settings, items: &mut Vec<Item>) {
    let blank = document.text.lines().take_while(|l| l.trim().is_empty() || l.trim_start().starts_with('#')).count();
    let mut place = Place { file: file.clone(), document: document.number, line: document.line + blank };
    match yaml::read(document.text) {
        Err(yaml::NotATree { line, why }) => {
            if let Some(line) = line {
                place.line = document.line + line.saturating_sub(1);
            }
            let mut problems = Problems::default();
            problems.fatal("", format!("it is not YAML that can be read: {why}"), "correct the text at that line");
            let stands_for = StandsFor::Maybe { kind: None, name: None, words: guess(document.text) };
            items.push(Item { place, stands_for, object: None, instead: None, problems: problems.0 });
        }
        Ok(Value::Object(mut list)) if is_list(&list) => {
            let Some(Value::Array(members)) = list.remove("items") else {
                let mut problems = Problems::default();
                problems.fatal("items", "a List has a list of items", "write the objects as a list, each after a dash");
                items.push(unknown(place, "a List", None, None, problems));
                return;
            };
            for (index, member) in members.into_iter().take(MAX_ITEMS).enumerate() {
                let mut item = read_object(place.clone(), member, settings);
                for problem in &mut item.problems {
                    problem.field = match problem.field.as_str() {
                        "" => format!("items[{index}]"),
                        field => format!("items[{index}].{field}"),
                    };
                }
                items.push(item);
            }
        }
        Ok(value) => items.push(read_object(place, value, settings)),
    }
}

fn is_list(fields: &serde_json::Map<String, Value>) -> bool {
    fields.get("kind").and_then(Value::as_str) == Some("List")
        && fields.get("apiVersion").and_then(Value::as_str) == Some("v1")
}

fn read_object(place: Place, value: Value, settings: &Settings) -> Item {
    let mut problems = Problems::default();
    let fields = match &value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            problems.fatal(
                "",
                "it is no Kubernetes object",
                "write a mapping with apiVersion, kind, metadata and spec",
            );
            return unknown(place, "a document that is no mapping", None, None, problems);
        }
    };
    let kind = kind(fields, &mut problems);
    let name = name(fields, kind, &mut problems);
    match (kind, name) {
        (Some(kind), Some(name)) if !problems.refuse() => {
            let key = Key { kind, name };
            let instead = object::instead(&key, &value);
            let (object, mut rest) = object::read(&key, value, settings);
            problems.0.append(&mut rest);
            let object = object.map(|object| object.placed(&place));
            let instead = instead.filter(|_| object.is_none());
            Item { place, stands_for: StandsFor::Known(key), object, instead, problems: problems.0 }
        }
        (kind, name) => {
            let words = words(
                fields.get("kind").and_then(Value::as_str),
                fields.get("metadata").and_then(|m| m.get("namespace")).and_then(Value::as_str),
                fields.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str),
            );
            unknown(place, &words, kind, name, problems)
        }
    }
}

fn unknown(place: Place, words: &str, kind: Option<Kind>, name: Option<ObjectName>, problems: Problems) -> Item {
    let stands_for = StandsFor::Maybe { kind, name, words: words.to_owned() };
    Item { place, stands_for, object: None, instead: None, problems: problems.0 }
}

fn words(kind: Option<&str>, namespace: Option<&str>, name: Option<&str>) -> String {
    match (kind, namespace, name) {
        (Some(kind), Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (Some(kind), None, Some(name)) => format!("{kind} {name}"),
        (Some(kind), _, None) => format!("a {kind} without a name"),
        (None, _, Some(name)) => format!("an object named {name}"),
        (None, _, None) => "an object without kind and name".to_owned(),
    }
}

fn kind(fields: &serde_json::Map<String, Value>, problems: &mut Problems) -> Option<Kind> {
    let version = text(fields, "apiVersion", "write the apiVersion, such as v1", problems);
    let kind = text(fields, "kind", "write the kind, such as Pod", problems)?;
    let Some(known) = Kind::ALL.into_iter().find(|k| k.name() == kind) else {
        let all = Kind::ALL.map(Kind::name).join(", ");
        problems.fatal(
            "kind",
            format!("Millrace reads no {kind:?}"),
            format!("write one of {all}, or keep it in another directory"),
        );
        return None;
    };
    let version = version?;
    if !known.may_be_of(version) {
        problems.fatal(
            "apiVersion",
            format!("Millrace reads no {kind} of {version:?}"),
            format!("write {}", known.api_version()),
        );
        return None;
    }
    Some(known)
}

fn text<'a>(
    fields: &'a serde_json::Map<String, Value>,
    field: &str,
    mend: &str,
    problems: &mut Problems,
) -> Option<&'a str> {
    match fields.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        Some(Value::String(_) | Value::Null) | None => {
            problems.fatal(field, "it is missing", mend);
            None
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            problems.fatal(field, "it is no string", mend);
            None
        }
    }
}

fn name(fields: &serde_json::Map<String, Value>, kind: Option<Kind>, problems: &mut Problems) -> Option<ObjectName> {
    let Some(Value::Object(meta)) = fields.get("metadata") else {
        problems.fatal("metadata", "it is missing or no mapping", "add metadata with a name");
        return None;
    };
    let own = part(meta, "name", problems);
    let namespace = part(meta, "namespace", problems);
    let cluster_scoped = kind.is_some_and(Kind::is_cluster_scoped);
    if cluster_scoped && let (Some(kind), Ok(Some(_))) = (kind, &namespace) {
        problems.slight("metadata.namespace", format!("a {} stands in no namespace", kind.name()), "leave it out");
    }
    if let Ok(Some(namespace)) = &namespace
        && !object::meta::is_dns_label(namespace)
    {
        problems.fatal(
            "metadata.namespace",
            format!("{namespace:?} is no namespace's name"),
            "write at most 63 lower-case letters, digits and '-'",
        );
        return None;
    }
    let own = match own {
        Ok(Some(own)) => own,
        Ok(None) => {
            problems.fatal("metadata.name", "it is missing", "give the object a name");
            return None;
        }
        Err(NotText) => return None,
    };
    let fits = match kind {
        Some(Kind::Namespace | Kind::Service) => object::meta::is_dns_label(own),
        Some(
            Kind::Node
            | Kind::ServiceAccount
            | Kind::Pod
            | Kind::EndpointSlice
            | Kind::NetworkPolicy
            | Kind::AccessPolicy
            | Kind::EncryptionPolicy
            | Kind::NodeProfile
            | Kind::TelemetryPolicy
            | Kind::TrafficPolicy
            | Kind::ExternalService
            | Kind::ExternalWorkload
            | Kind::HttpFault
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::ReferenceGrant
            | Kind::BackendPolicy,
        )
        | None => object::meta::is_dns_subdomain(own),
    };
    if !fits {
        problems.fatal(
            "metadata.name",
            format!("{own:?} is no object's name"),
            "write lower-case letters, digits and '-', beginning and ending with a letter or digit",
        );
        return None;
    }
    match namespace {
        _ if cluster_scoped => Some(ObjectName::new("", own)),
        Ok(namespace) => Some(ObjectName::new(namespace.unwrap_or(DEFAULT_NAMESPACE), own)),
        Err(NotText) => None,
    }
}

struct NotText;

fn part<'a>(
    meta: &'a serde_json::Map<String, Value>,
    field: &str,
    problems: &mut Problems,
) -> Result<Option<&'a str>, NotText> {
    match meta.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(Value::String(_) | Value::Null) | None => Ok(None),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            problems.fatal(format!("metadata.{field}"), "it is no string", "write it in quotes");
            Err(NotText)
        }
    }
}

/// What a text that is not YAML seems to be, for the message only.
fn guess(text: &str) -> String {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.trim_start().strip_prefix(name)?.trim_start().strip_prefix(':'))
            .map(str::trim)
            .filter(|value| !value.is_empty() && value.len() <= 253)
    };
    match field("kind") {
        Some(kind) => format!("what seems to be {}", words(Some(kind), field("namespace"), field("name"))),
        None => "a document that is not YAML".to_owned(),
    }
}
