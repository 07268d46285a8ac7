//! Names what a line of an access log may say, and reads the templates that such lines are written by.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Something known of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Field {
    /// When it came: RFC 3339, UTC, with microseconds.
    Time,
    /// The pod that called.
    SourceWorkload,
    /// Its service account.
    SourceServiceAccount,
    /// The address that it called from.
    SourceAddress,
    /// The service that was asked for.
    Service,
    /// The address that was asked for.
    Asked,
    /// The rule that it went by.
    Rule,
    /// The service that took it.
    Backend,
    /// The pod that answered.
    DestinationWorkload,
    /// Its address.
    DestinationAddress,
    /// `http1`, `http2` or `grpc`.
    Protocol,
    /// The method.
    Method,
    /// The host asked for.
    Host,
    /// The path, without the query: a query may hold secrets.
    Path,
    /// The answer's status; 0 where there was none.
    Code,
    /// What gRPC says of the end.
    GrpcStatus,
    /// What went wrong, in one word; `-` for nothing.
    Flags,
    /// Whose fault that was.
    Side,
    /// The policy that refused it.
    Policy,
    /// From its coming to the answer's end, in microseconds.
    DurationUs,
    /// From its coming to the answer's head, in microseconds.
    HeadUs,
    /// Bytes of the request's body.
    RequestBytes,
    /// Bytes of the answer's body.
    ResponseBytes,
    /// How many endpoints were tried.
    Attempts,
    /// How often it was sent again.
    Retries,
    /// The trace it is part of.
    TraceId,
    /// The policy by which it is written.
    Telemetry,
    /// A header of the request, by name in lower case.
    RequestHeader(Arc<str>),
}

/// A part of a text line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// This, as it stands.
    Text(Arc<str>),
    /// What is known.
    Field(Field),
}

/// A text names no field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoField {
    /// No field has this name.
    #[error("there is no field {0:?}")]
    Unknown(String),
    /// It may hold a secret.
    #[error("the header {0:?} holds secrets")]
    Secret(String),
    /// No header has such a name.
    #[error("{0:?} is no header's name in lower case")]
    NoHeader(String),
    /// A `{` without a `}`.
    #[error("a {{ is not closed")]
    Open,
    /// A `}` without a `{`.
    #[error("a }} closes nothing")]
    Close,
}

/// Headers whose values let somebody in.
const SECRET: &[&str] = &["authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-auth-token"];

/// What a field that is a header begins with.
const HEADER: &str = "header.";

impl Field {
    /// Those with one name, in the order in which a line has them by itself.
    pub const NAMED: [(&'static str, Self); 27] = [
        ("time", Self::Time),
        ("source_workload", Self::SourceWorkload),
        ("source_service_account", Self::SourceServiceAccount),
        ("source_address", Self::SourceAddress),
        ("service", Self::Service),
        ("asked", Self::Asked),
        ("rule", Self::Rule),
        ("backend", Self::Backend),
        ("destination_workload", Self::DestinationWorkload),
        ("destination_address", Self::DestinationAddress),
        ("protocol", Self::Protocol),
        ("method", Self::Method),
        ("host", Self::Host),
        ("path", Self::Path),
        ("code", Self::Code),
        ("grpc_status", Self::GrpcStatus),
        ("flags", Self::Flags),
        ("side", Self::Side),
        ("policy", Self::Policy),
        ("duration_us", Self::DurationUs),
        ("head_us", Self::HeadUs),
        ("request_bytes", Self::RequestBytes),
        ("response_bytes", Self::ResponseBytes),
        ("attempts", Self::Attempts),
        ("retries", Self::Retries),
        ("trace_id", Self::TraceId),
        ("telemetry", Self::Telemetry),
    ];

    /// What a line says where nobody chose.
    pub fn all() -> Vec<Self> {
        Self::NAMED.iter().map(|(_, field)| field.clone()).collect()
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::RequestHeader(name) = self {
            return write!(f, "{HEADER}{name}");
        }
        let named = Self::NAMED.iter().find(|(_, field)| field == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

impl FromStr for Field {
    type Err = NoField;

    fn from_str(text: &str) -> Result<Self, NoField> {
        let Some(header) = text.strip_prefix(HEADER) else {
            let named = Self::NAMED.iter().find(|(name, _)| *name == text);
            return named.map(|(_, field)| field.clone()).ok_or_else(|| NoField::Unknown(text.to_owned()));
        };
        let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if header.is_empty() || !header.bytes().all(is_letter) {
            return Err(NoField::NoHeader(header.to_owned()));
        }
        if SECRET.contains(&header) {
            return Err(NoField::Secret(header.to_owned()));
        }
        Ok(Self::RequestHeader(header.into()))
    }
}

impl From<Field> for String {
    fn from(field: Field) -> Self {
        field.to_string()
    }
}

impl TryFrom<String> for Field {
    type Error = NoField;

    fn try_from(text: String) -> Result<Self, NoField> {
        text.parse()
    }
}

impl Piece {
    /// The pieces of a template: text, and fields as `{name}`.
    pub fn of_template(template: &str) -> Result<Vec<Self>, NoField> {
        let mut pieces = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let (text, after) = rest.split_once('{').map_or((rest, None), |(text, after)| (text, Some(after)));
            if text.contains('}') {
                return Err(NoField::Close);
            }
            if !text.is_empty() {
                pieces.push(Self::Text(text.into()));
            }
            let Some(after) = after else { break };
            let (name, after) = after.split_once('}').ok_or(NoField::Open)?;
            pieces.push(Self::Field(name.parse()?));
            rest = after;
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::{Field, NoField, Piece};

    #[test]
    fn every_field_has_the_one_name_that_it_is_read_by() {
        for (name, field) in Field::NAMED {
            assert_eq!((name.parse::<Field>(), field.to_string().as_str()), (Ok(field.clone()), name));
        }
        let header: Field = "header.x-tenant".parse().unwrap();
        assert_eq!((header.to_string().as_str(), header), ("header.x-tenant", Field::RequestHeader("x-tenant".into())));
    }

    #[test]
    fn a_template_is_text_and_fields_and_nothing_else() {
        let pieces = Piece::of_template("{method} {path} -> {code}").unwrap();
        let text = |text: &str| Piece::Text(text.into());
        let field = Piece::Field;
        let wanted = [field(Field::Method), text(" "), field(Field::Path), text(" -> "), field(Field::Code)];
        assert_eq!(pieces, wanted);
        assert_eq!(Piece::of_template("a } b"), Err(NoField::Close));
        assert_eq!(Piece::of_template("a {code"), Err(NoField::Open));
        assert_eq!(Piece::of_template("{colour}"), Err(NoField::Unknown("colour".into())));
    }

    #[test]
    fn a_header_that_lets_somebody_in_is_never_written() {
        assert_eq!("header.authorization".parse::<Field>(), Err(NoField::Secret("authorization".into())));
        assert_eq!("header.Cookie".parse::<Field>(), Err(NoField::NoHeader("Cookie".into())));
    }
}
