//! Reads YAML from anybody: splits a file into documents first, so that one broken document is one broken document, then
//! reads each into a tree of bounded size, whatever its aliases unfold to.

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The largest file read. An EndpointSlice of 1,000 endpoints is some 300 KiB; a folder's worth in one file still fits.
pub const MAX_FILE: u64 = 8 << 20;
/// The most documents read of one file.
pub const MAX_DOCUMENTS: usize = 10_000;
/// The most values in one document, once its aliases are unfolded: an EndpointSlice of 1,000 endpoints has 15,000.
pub const MAX_VALUES: usize = 200_000;
/// The most bytes of text in one document, once its aliases are unfolded.
pub const MAX_TEXT: usize = 16 << 20;

/// One document of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// Which of the file's, from 1; empty ones are counted, as people count the `---`.
    pub number: usize,
    /// The line of the file that it begins on, from 1.
    pub line: usize,
    /// Its text.
    pub text: &'a str,
}

/// The documents of a file that hold more than comments, at most [`MAX_DOCUMENTS`]; true where there were more.
pub fn split(text: &str) -> (Vec<Document<'_>>, bool) {
    let mut documents = Vec::new();
    let mut here = Document { number: 1, line: 1, text: "" };
    let mut begin = 0;
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marks =
            line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']));
        if let Some(rest) = marks {
            keep(Document { text: text.get(begin..offset).unwrap_or(""), ..here }, &mut documents);
            if documents.len() >= MAX_DOCUMENTS {
                return (documents, true);
            }
            // What comes before the first mark is only a document of its own if it holds something.
            let number = if documents.is_empty() && here.number == 1 && is_blank(text.get(begin..offset).unwrap_or(""))
            {
                1
            } else {
                here.number + 1
            };
            here = Document { number, line: index + 1, text: "" };
            begin = offset + line.len() - rest.len();
        }
        offset += line.len();
    }
    keep(Document { text: text.get(begin..).unwrap_or(""), ..here }, &mut documents);
    (documents, false)
}

fn keep<'a>(document: Document<'a>, documents: &mut Vec<Document<'a>>) {
    if !is_blank(document.text) {
        documents.push(document);
    }
}

/// True for text with nothing but comments, directives and end marks.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "..." || line == "\u{feff}"
    })
}

/// Why a document is no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotATree {
    /// The line within the document, from 1; None where the reader does not know.
    pub line: Option<usize>,
    /// What is wrong.
    pub why: String,
}

/// The document's tree.
pub fn read(text: &str) -> Result<Value, NotATree> {
    let mut budget = Budget { values: MAX_VALUES, text: MAX_TEXT };
    Tree { budget: &mut budget }
        .deserialize(serde_yaml_ng::Deserializer::from_str(text.trim_start_matches('\u{feff}')))
        .map_err(|error| NotATree { line: error.location().map(|l| l.line()), why: plain(&error.to_string()) })
}

/// The message without its " at line 3 column 5": those count from the document's first line, and the place is told beside it.
fn plain(message: &str) -> String {
    let mut parts = message.split(" at line ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digit = |c: char| c.is_ascii_digit();
        let rest = part.trim_start_matches(digit);
        out.push_str(rest.strip_prefix(" column ").map_or(rest, |rest| rest.trim_start_matches(digit)));
    }
    out
}

/// What a document may still unfold to.
struct Budget {
    values: usize,
    text: usize,
}

impl Budget {
    fn spend<E: de::Error>(&mut self, values: usize, text: usize) -> Result<(), E> {
        let too_much =
            || E::custom(format_args!("it unfolds to more than {MAX_VALUES} values or {} MiB of text", MAX_TEXT >> 20));
        self.values = self.values.checked_sub(values).ok_or_else(too_much)?;
        self.text = self.text.checked_sub(text).ok_or_else(too_much)?;
        Ok(())
    }
}

/// Builds a [`Value`] within a budget; a key that stands twice in a mapping is an error, not a guess.
struct Tree<'b> {
    budget: &'b mut Budget,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list, a string, a number, true, false or nothing")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.budget.spend(1, 0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.budget.spend(1, 0)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.budget.spend(1, 0)?;
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.budget.spend(1, 0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("infinities and NaN mean nothing here"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.budget.spend(1, value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.budget.spend(1, 0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.budget.spend(1, 0)?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Tree { budget: self.budget })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.budget.spend(1, 0)?;
        let mut fields = Map::new();
        while let Some(key) = map.next_key_seed(FieldName)? {
            self.budget.spend(1, key.len())?;
            let value = map.next_value_seed(Tree { budget: self.budget })?;
            if fields.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the field {key:?} stands twice in one mapping")));
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// The key of a mapping. Numbers and truth values are taken for their text: a label named `8080` is a label.
struct FieldName;

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = String;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::{Document, MAX_DOCUMENTS, read, split};

    fn numbers(text: &str) -> Vec<(usize, usize, &str)> {
        split(text).0.into_iter().map(|Document { number, line, text }| (number, line, text.trim())).collect()
    }

    #[test]
    fn documents_are_counted_as_people_count_them() {
        assert_eq!(numbers("a: 1"), [(1, 1, "a: 1")]);
        assert_eq!(numbers("---\na: 1\n---\nb: 2\n"), [(1, 1, "a: 1"), (2, 3, "b: 2")]);
        assert_eq!(numbers("# head\n---\na: 1\n---\n---\nc: 3"), [(1, 2, "a: 1"), (3, 5, "c: 3")]);
        assert_eq!(numbers("a: 1\n--- # second\nb: 2"), [(1, 1, "a: 1"), (2, 2, "# second\nb: 2")]);
        assert_eq!(numbers("%YAML 1.2\n---\na: 1\n...\n"), [(1, 2, "a: 1\n...")]);
        assert_eq!(numbers("a: |\n  --- in a block\n  x\n"), [(1, 1, "a: |\n  --- in a block\n  x")]);
        assert_eq!(numbers("a: ---x\n---y: 1\n"), [(1, 1, "a: ---x\n---y: 1")]);
        assert_eq!(numbers(""), []);
        assert_eq!(numbers("---\r\na: 1\r\n---\r\nb: 2\r\n"), [(1, 1, "a: 1"), (2, 3, "b: 2")]);
    }

    #[test]
    fn a_file_of_too_many_documents_is_cut_and_said_to_be() {
        let text = "---\na: 1\n".repeat(MAX_DOCUMENTS + 1);
        let (documents, more) = split(&text);
        assert_eq!(documents.len(), MAX_DOCUMENTS);
        assert!(more);
    }

    /// Nine levels of nine aliases each would be 387 million values.
    #[test]
    fn an_alias_bomb_is_refused_at_once() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..9 {
            let below = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 9].join(","));
        }
        let error = read(&text).unwrap_err();
        assert!(error.why.contains("unfolds to more than") || error.why.contains("repetition limit"), "{error:?}");
        let long = format!("a: &a \"{}\"\nb: [{}]", "x".repeat(1 << 20), ["*a"; 40].join(","));
        assert!(read(&long).unwrap_err().why.contains("unfolds to more than"));
    }

    #[test]
    fn a_deep_document_is_refused_not_recursed_into() {
        assert!(read(&format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000))).is_err());
    }

    #[test]
    fn an_alias_that_stays_small_is_fine() {
        assert_eq!(read("a: &x {b: 1}\nc: *x").unwrap(), serde_json::json!({"a": {"b": 1}, "c": {"b": 1}}));
    }

    #[test]
    fn faults_say_their_line() {
        let error = read("a: 1\na: 2\n").unwrap_err();
        assert!(error.why.contains("\"a\" stands twice"), "{error:?}");
        let error = read("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line.is_some_and(|l| l >= 2), "{error:?}");
        assert!(!error.why.contains("at line"), "{error:?}");
        assert!(read("a: !Tag {b: 1}").is_err());
        assert!(read("a: .nan").is_err());
    }
}
