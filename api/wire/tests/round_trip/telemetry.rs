//! Telemetry of every form.

use std::time::Duration;

use millrace_model::{
    route::Share,
    telemetry::{
        AccessLog, Blame, Collector, Condition, Field, LogFormat, Piece, SpanProtocol, Switch, Telemetry, TraceFormat,
        Tracing,
    },
};
use proptest::prelude::*;

use super::{few, name, port, text};

fn switch() -> impl Strategy<Value = Switch> {
    prop_oneof![Just(Switch::On), Just(Switch::Off)]
}

fn share() -> impl Strategy<Value = Share> {
    (1..1_000u32).prop_flat_map(|of| (0..=of).prop_map(move |numerator| Share { numerator, denominator: of }))
}

fn field() -> impl Strategy<Value = Field> {
    let named = (0..Field::NAMED.len()).prop_map(|index| Field::NAMED[index].1.clone());
    prop_oneof![named, "x-[a-z]{1,9}".prop_map(|header| Field::RequestHeader(header.into()))]
}

fn format() -> impl Strategy<Value = LogFormat> {
    let piece = prop_oneof![text().prop_map(Piece::Text), field().prop_map(Piece::Field)];
    prop_oneof![few(field()).prop_map(LogFormat::Json), few(piece).prop_map(LogFormat::Text)]
}

fn condition() -> impl Strategy<Value = Condition> {
    let side = prop_oneof![Just(Blame::Client), Just(Blame::Mesh), Just(Blame::Upstream)];
    let slow = prop::option::of(any::<u32>().prop_map(|ms| Duration::from_millis(ms.into())));
    let status = || prop::option::of(any::<u16>());
    (status(), status(), prop::option::of(few(side)), slow).prop_map(|(min_status, max_status, faults, slower_than)| {
        Condition { min_status, max_status, faults, slower_than }
    })
}

fn tracing() -> impl Strategy<Value = Tracing> {
    let protocol = prop_oneof![Just(SpanProtocol::OtlpHttp), Just(SpanProtocol::OtlpGrpc), Just(SpanProtocol::Zipkin)];
    let collector =
        (name(), port(), protocol).prop_map(|(service, port, protocol)| Collector { service, port, protocol });
    let begins = prop_oneof![Just(TraceFormat::W3c), Just(TraceFormat::B3), Just(TraceFormat::B3Multi)];
    (share(), begins, prop::option::of(collector)).prop_map(|(share, begins, collector)| Tracing {
        share,
        begins,
        collector,
    })
}

pub(crate) fn telemetry() -> impl Strategy<Value = Telemetry> {
    let logs =
        (format(), share(), few(condition())).prop_map(|(format, share, only)| AccessLog { format, share, only });
    (name(), switch(), prop::option::of(logs), prop::option::of(tracing()), switch())
        .prop_map(|(name, metrics, logs, tracing, tap)| Telemetry { name, metrics, logs, tracing, tap })
}
