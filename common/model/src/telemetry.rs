//! Says what is recorded of a workload's requests, and where it goes: what one TelemetryPolicy says. Nothing here is resolved
//! further: a proxy asks it for each request and finds no name to look up but the collector's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ObjectName, route::Share};

mod field;

pub use field::{Field, NoField, Piece};

/// What is recorded of the requests of the workloads that a TelemetryPolicy selects. It comes from one policy, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telemetry {
    /// The policy.
    pub name: ObjectName,
    /// Whether requests are counted.
    pub metrics: Switch,
    /// What is written of each; None writes nothing.
    pub logs: Option<AccessLog>,
    /// What is traced; None leaves headers of traces as they are, and makes no span.
    pub tracing: Option<Tracing>,
    /// Whether requests may be watched live.
    pub tap: Switch,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl Share {
    /// Every one.
    pub const ALL: Self = Self { numerator: 1, denominator: 1 };

    /// True for the part of all `chance`s that it is.
    pub fn takes(self, chance: u32) -> bool {
        let Self { numerator, denominator } = self;
        // As `chance / 2^32 < numerator / denominator`, without a fraction.
        u64::from(chance) * u64::from(denominator) < u64::from(numerator) << 32
    }
}

/// What is written of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    /// How a line looks.
    pub format: LogFormat,
    /// Which part of those that fit.
    pub share: Share,
    /// Which ones: those that fit any; all where there is none.
    pub only: Vec<Condition>,
}

/// How a line of an access log looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// An object with these fields.
    Json(Vec<Field>),
    /// These one after another.
    Text(Vec<Piece>),
}

/// What must hold of a request. All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its answer's status is at least this.
    pub min_status: Option<u16>,
    /// Its answer's status is at most this.
    pub max_status: Option<u16>,
    /// It failed, by whose fault; any's where the list is empty.
    pub faults: Option<Vec<Blame>>,
    /// It took at least so long.
    pub slower_than: Option<Duration>,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Blame {
    /// The caller's.
    Client,
    /// That of something between.
    Mesh,
    /// The called one's.
    Upstream,
}

/// What is traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracing {
    /// Which part of the requests for which nobody has decided before.
    pub share: Share,
    /// How a trace that begins here is told on.
    pub begins: TraceFormat,
    /// Who is told of spans; None tells nobody, and headers alone are passed on.
    pub collector: Option<Collector>,
}

/// Headers that tell of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceFormat {
    /// `traceparent` and `tracestate`.
    W3c,
    /// `b3`
    B3,
    /// `x-b3-traceid` and those beside it.
    B3Multi,
}

/// Who is told of spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collector {
    /// Its Service.
    pub service: ObjectName,
    /// The Service's port.
    pub port: u16,
    /// What it takes.
    pub protocol: SpanProtocol,
}

/// How spans are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpanProtocol {
    /// OTLP: protobuf by HTTP/1.1, to `/v1/traces`.
    OtlpHttp,
    /// OTLP: gRPC.
    OtlpGrpc,
    /// Zipkin's second version: JSON by HTTP/1.1, to `/api/v2/spans`.
    Zipkin,
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn a_share_takes_its_part_of_all_chances() {
        let quarter = Share { numerator: 1, denominator: 4 };
        assert!(quarter.takes(0) && quarter.takes((1 << 30) - 1) && !quarter.takes(1 << 30));
        assert!(Share::ALL.takes(u32::MAX));
        assert!(!Share { numerator: 0, denominator: 100 }.takes(0), "none is none");
    }
}
