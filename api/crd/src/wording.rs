//! Makes a definition read well by `kubectl explain`: what a field means is written as a comment of Rust, broken where a line of source
//! ends, and an API server shows it as it stands, broken there and where a terminal ends.

use serde_json::Value;

/// Integers that JSON schemas of Rust have and OpenAPI has not: an API server warns of each, and asks nothing of them.
const FOREIGN: &str = "uint";

/// Joins the lines of each description's paragraphs, and takes out formats that no API server knows.
pub(crate) fn worded(mut definition: Value) -> Value {
    walk(&mut definition);
    definition
}

fn walk(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // A property may be called so, too: then it is no text.
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = joined(text);
            }
            if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with(FOREIGN)) {
                map.remove("format");
            }
            map.values_mut().for_each(walk);
        }
        Value::Array(list) => list.iter_mut().for_each(walk),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn joined(text: &str) -> String {
    let paragraphs =
        text.split("\n\n").map(|paragraph| paragraph.split('\n').map(str::trim).collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::worded;

    #[test]
    fn a_paragraph_is_one_line_and_a_property_of_that_name_is_let_be() {
        let before = json!({"description": "One\ntwo.\n\nThree.", "properties": {
            "description": {"type": "integer", "format": "uint16"}, "format": {"type": "string", "format": "date-time"}}});
        let after = json!({"description": "One two.\n\nThree.", "properties": {
            "description": {"type": "integer"}, "format": {"type": "string", "format": "date-time"}}});
        assert_eq!(worded(before), after);
    }
}
