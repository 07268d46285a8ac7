//! Formats one log event as one JSON object: time, process, level, target, message, then the event's and its spans' fields.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// Formats events of one process.
#[derive(Debug)]
pub(super) struct Line {
    process: &'static str,
}

impl Line {
    pub(super) fn new(process: &'static str) -> Self {
        Self { process }
    }
}

impl<S> FormatEvent<S, Fields> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, Fields>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut at = String::new();
        SystemTime.format_time(&mut Writer::new(&mut at))?;
        let mut line = Map::new();
        line.insert("at".to_owned(), at.into());
        line.insert("process".to_owned(), self.process.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().to_ascii_lowercase().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        // Outer spans first, then inner ones, then the event: who is nearer says it last.
        for span in ctx.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(fields) = span.extensions().get::<FormattedFields<Fields>>()
                && let Ok(Value::Object(fields)) = serde_json::from_str(&fields.fields)
            {
                line.extend(fields);
            }
        }
        let mut fields = Collected(Map::new());
        event.record(&mut fields);
        line.extend(fields.0);
        writeln!(out, "{}", Value::Object(line))
    }
}

/// Keeps a span's fields as a JSON object until an event in it is written.
#[derive(Debug)]
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'w>, fields: R) -> fmt::Result {
        let mut collected = Collected(Map::new());
        fields.record(&mut collected);
        write!(out, "{}", Value::Object(collected.0))
    }

    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &tracing::span::Record<'_>) -> fmt::Result {
        let mut collected = match serde_json::from_str(&current.fields) {
            Ok(Value::Object(held)) => Collected(held),
            Ok(_) | Err(_) => Collected(Map::new()),
        };
        fields.record(&mut collected);
        current.fields = Value::Object(collected.0).to_string();
        Ok(())
    }
}

struct Collected(Map<String, Value>);

impl Collected {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Collected {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    /// An error is the one place where its whole chain of causes is printed.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut next = value.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        self.put(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::{Fields, Line};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_object_whatever_a_field_says() {
        let memory = Memory::default();
        let written = memory.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(Fields)
            .event_format(Line::new("test"))
            .with_writer(move || memory.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("connection", source = "shop/web", bytes = tracing::field::Empty);
            let _entered = span.enter();
            span.record("bytes", 7);
            tracing::info!(target = "a\n{\"level\":\"error\"}", "closed");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        for (field, value) in [("process", "test"), ("level", "info"), ("message", "closed"), ("source", "shop/web")] {
            assert_eq!(line[field], value, "{text}");
        }
        assert_eq!(line["bytes"], 7);
    }
}
