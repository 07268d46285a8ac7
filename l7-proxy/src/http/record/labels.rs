//! Says under which labels a request is counted: who called whom for what, and how that ended. Names are those of the agent's
//! metrics of connections.

use std::sync::Arc;

use http::StatusCode;
use millrace_model::{ObjectName, Workload};
use prometheus_client::encoding::{EncodeLabelKey, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder};

/// Where a name is not known: nobody was reached, or somebody outside the mesh.
const UNKNOWN: &str = "unknown";

/// What is counted for want of room under a name of its own.
const OTHER: &str = "other";

/// Who reports: the proxy of the one who called. No other parses requests.
const REPORTER: &str = "client";

/// What was spoken by the one who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Spoken {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC, over HTTP/2.
    Grpc,
}

impl Spoken {
    /// Its name in labels and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

/// Who called whom for what, as it is asked for: nothing is copied to find a series that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EdgeOf<'a> {
    pub(crate) source: &'a ObjectName,
    pub(crate) account: &'a Arc<str>,
    pub(crate) target: Option<&'a Workload>,
    pub(crate) service: Option<&'a ObjectName>,
    pub(crate) spoken: Spoken,
}

impl EdgeOf<'_> {
    /// What names it, in a fixed order.
    pub(super) fn names(&self) -> [&str; 7] {
        let Self { source, account, target, service, spoken } = self;
        let target_name = target.map(|target| &target.name);
        let namespace = target_name.or(*service).map_or(UNKNOWN, |name| &name.namespace);
        [
            &source.namespace,
            &source.name,
            account,
            namespace,
            target_name.map_or(UNKNOWN, |name| &name.name),
            service.map_or("", |service| &service.name),
            spoken.name(),
        ]
    }
}

/// Who called whom for what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Edge([Arc<str>; 7]);

/// The labels of an edge, in the order of its names.
const LABELS: [&str; 7] = [
    "source_namespace",
    "source_workload",
    "source_service_account",
    "destination_namespace",
    "destination_workload",
    "destination_service",
    "request_protocol",
];

impl Edge {
    pub(super) fn new(names: &[&str; 7]) -> Self {
        Self(names.map(Arc::from))
    }

    /// What takes those that have no series of their own.
    pub(super) fn other() -> Self {
        Self([OTHER; 7].map(Arc::from))
    }

    pub(super) fn is_other(&self) -> bool {
        self.0.iter().all(|name| **name == *OTHER)
    }

    pub(super) fn is(&self, names: &[&str; 7]) -> bool {
        self.0.iter().zip(names).all(|(own, name)| **own == **name)
    }
}

impl EncodeLabelSet for Edge {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        label(encoder, "reporter", &REPORTER)?;
        LABELS.iter().zip(&self.0).try_for_each(|(name, value)| label(encoder, name, &&**value))
    }
}

fn label(encoder: &mut LabelSetEncoder<'_>, name: &str, value: &impl EncodeLabelValue) -> Result<(), std::fmt::Error> {
    let mut label = encoder.encode_label();
    let mut key = label.encode_label_key()?;
    EncodeLabelKey::encode(&name, &mut key)?;
    let mut text = key.encode_label_value()?;
    value.encode(&mut text)?;
    text.finish()
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    /// The status; 0 where there was no answer.
    pub(crate) code: u16,
    /// What went wrong, and whose fault that was.
    pub(crate) flag: Option<(&'static str, &'static str)>,
    /// The policy that refused it.
    pub(crate) policy: Option<Arc<str>>,
    /// What gRPC says of the end.
    pub(crate) grpc: Option<u16>,
}

impl Answer {
    /// An answer of an application's.
    pub(crate) fn good(status: StatusCode) -> Self {
        Self { code: status.as_u16(), flag: None, policy: None, grpc: None }
    }

    /// What takes those for which an edge has no room.
    pub(super) fn other() -> Self {
        Self { code: 0, flag: Some((OTHER, OTHER)), policy: None, grpc: None }
    }
}

/// An edge, and how its requests ended.
pub(super) struct Both<'a>(pub(super) &'a Edge, pub(super) &'a Answer);

impl EncodeLabelSet for Both<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self(edge, Answer { code, flag, policy, grpc }) = self;
        edge.encode(encoder)?;
        label(encoder, "response_code", &u32::from(*code))?;
        let (flag, side) = flag.unwrap_or(("-", "-"));
        label(encoder, "response_flags", &flag)?;
        label(encoder, "fault_side", &side)?;
        label(encoder, "policy", &policy.as_deref().unwrap_or_default())?;
        match grpc {
            Some(status) => label(encoder, "grpc_response_status", &u32::from(*status)),
            None => label(encoder, "grpc_response_status", &""),
        }
    }
}
