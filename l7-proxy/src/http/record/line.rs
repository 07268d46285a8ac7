//! Writes a line of an access log. Pure: what is known in, bytes out.
//!
//! What a client chose is escaped, so that no request writes a line of its own.

use millrace_model::telemetry::{Field, LogFormat, Piece};

/// Something known of a request, as a line has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// Nothing: `null`, or `-`.
    Nothing,
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl Known {
    /// A text, where there is one.
    pub(crate) fn text(text: Option<impl ToString>) -> Self {
        text.map_or(Self::Nothing, |text| Self::Text(text.to_string()))
    }
}

/// Appends one line, and its end.
pub(crate) fn write(line: &mut Vec<u8>, format: &LogFormat, known: impl Fn(&Field) -> Known) {
    match format {
        LogFormat::Json(fields) => {
            line.push(b'{');
            for (index, field) in fields.iter().enumerate() {
                if index > 0 {
                    line.push(b',');
                }
                quoted(line, &field.to_string());
                line.push(b':');
                match known(field) {
                    Known::Nothing => line.extend(b"null"),
                    Known::Number(number) => line.extend(number.to_string().into_bytes()),
                    Known::Text(text) => quoted(line, &text),
                }
            }
            line.push(b'}');
        }
        LogFormat::Text(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Text(text) => line.extend(text.as_bytes()),
                    Piece::Field(field) => match known(field) {
                        Known::Nothing => line.push(b'-'),
                        Known::Number(number) => line.extend(number.to_string().into_bytes()),
                        Known::Text(text) => escaped(line, &text),
                    },
                }
            }
        }
    }
    line.push(b'\n');
}

fn quoted(line: &mut Vec<u8>, text: &str) {
    // A Vec takes whatever is written, and a string is JSON.
    drop(serde_json::to_writer(line, text));
}

/// With what could end a line, or pass for another field's quotes, as JSON writes it.
fn escaped(line: &mut Vec<u8>, text: &str) {
    let mut json = Vec::with_capacity(text.len() + 2);
    quoted(&mut json, text);
    line.extend(json.get(1..json.len().saturating_sub(1)).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use millrace_model::telemetry::{Field, LogFormat, Piece};

    use super::{Known, write};

    fn known(field: &Field) -> Known {
        let known = [
            (Field::Path, Known::Text("/a\"b\n{\"code\":200}".to_owned())),
            (Field::Code, Known::Number(503)),
            (Field::Flags, Known::Text("connect_refused".to_owned())),
        ];
        known.into_iter().find(|(own, _)| own == field).map_or(Known::Nothing, |(_, known)| known)
    }

    #[test]
    fn a_json_line_is_one_object_of_the_fields_that_were_asked_for() {
        let mut line = Vec::new();
        let fields = vec![Field::Code, Field::Path, Field::Policy, Field::RequestHeader("x-a".into())];
        write(&mut line, &LogFormat::Json(fields), known);
        let text = String::from_utf8(line).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let wanted =
            serde_json::json!({"code": 503, "path": "/a\"b\n{\"code\":200}", "policy": null, "header.x-a": null});
        assert_eq!(value, wanted);
    }

    #[test]
    fn a_text_line_is_the_template_and_no_request_writes_another() {
        let mut line = Vec::new();
        let pieces = Piece::of_template("{code} {flags} \"{path}\" {policy}").unwrap();
        write(&mut line, &LogFormat::Text(pieces), known);
        assert_eq!(String::from_utf8(line).unwrap(), "503 connect_refused \"/a\\\"b\\n{\\\"code\\\":200}\" -\n");
    }
}
