//! Reads TelemetryPolicies.

use std::{collections::BTreeSet, time::Duration};

use millrace_crd as crd;
use millrace_model::{
    ObjectName,
    route::Share,
    telemetry::{
        AccessLog, Blame, Collector, Condition, Field, LogFormat, NoField, Piece, SpanProtocol, Switch, Telemetry,
        TraceFormat, Tracing,
    },
};

use super::{duration::duration, meta, policy::target};
use crate::{diagnostic::Problems, world::TelemetryPolicy};

/// Fields of a line: every one that has a name, and twice as many headers as anybody needs.
const MAX_FIELDS: usize = 64;
/// A template longer than this is a document.
const MAX_TEMPLATE: usize = 2_048;
/// Conditions of one policy: each may be asked for each request.
const MAX_CONDITIONS: usize = 16;
/// Who waits longer for an answer is not slow but gone.
const LONGEST: Duration = Duration::from_secs(3_600);

pub(super) fn telemetry(name: &ObjectName, policy: &crd::TelemetryPolicy, problems: &mut Problems) -> TelemetryPolicy {
    let crd::TelemetryPolicySpec { selector, target_refs, metrics, access_logs, tracing, tap } = &policy.spec;
    let switch = |mode: Option<crd::RecordingMode>, otherwise| match mode {
        Some(crd::RecordingMode::Enabled) => Switch::On,
        Some(crd::RecordingMode::Disabled) => Switch::Off,
        None => otherwise,
    };
    TelemetryPolicy {
        made: meta::made(&policy.metadata),
        target: target(&policy.metadata, selector.as_ref(), target_refs, problems),
        says: Telemetry {
            name: name.clone(),
            metrics: switch(*metrics, Switch::On),
            logs: access_logs.as_ref().map(|logs| log(logs, problems)),
            tracing: tracing.as_ref().map(|tracing| traced(tracing, &name.namespace, problems)),
            tap: switch(*tap, Switch::Off),
        }
        .into(),
    }
}

fn log(log: &crd::AccessLogs, problems: &mut Problems) -> AccessLog {
    let crd::AccessLogs { format, fields, template, sampling, only } = log;
    let at = "spec.accessLogs";
    let format = match format {
        crd::LogFormat::Json => {
            if template.is_some() {
                let mend = "write format: Text, or leave the template out";
                problems.fatal(format!("{at}.template"), "a JSON line has fields", mend);
            }
            LogFormat::Json(fields.as_ref().map_or_else(Field::all, |names| json_fields(names, problems)))
        }
        crd::LogFormat::Text => {
            if fields.is_some() {
                let mend = "name them in the template, as {method}, or write format: JSON";
                problems.fatal(format!("{at}.fields"), "a text line has a template", mend);
            }
            LogFormat::Text(pieces(template.as_deref(), problems))
        }
    };
    if only.len() > MAX_CONDITIONS {
        let problem = format!("there are {} conditions", only.len());
        problems.fatal(format!("{at}.only"), problem, format!("write at most {MAX_CONDITIONS}"));
    }
    let share = sampling.as_ref().map_or(Share::ALL, |sampling| share(sampling, &format!("{at}.sampling"), problems));
    let only = only.iter().enumerate().map(|(i, one)| condition(one, &format!("{at}.only[{i}]"), problems)).collect();
    AccessLog { format, share, only }
}

fn json_fields(names: &[String], problems: &mut Problems) -> Vec<Field> {
    let at = "spec.accessLogs.fields";
    if names.is_empty() || names.len() > MAX_FIELDS {
        let mend = format!("name 1 to {MAX_FIELDS}, or leave the list out to have every field that has a name");
        problems.fatal(at, format!("it names {} fields", names.len()), mend);
    }
    let mut fields = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let at = format!("{at}[{index}]");
        match name.parse::<Field>() {
            Ok(field) if fields.contains(&field) => {
                problems.fatal(at, format!("{name} stands twice"), "write each field once");
            }
            Ok(field) => fields.push(field),
            Err(why) => problems.fatal(at, why.to_string(), mend(&why)),
        }
    }
    fields
}

fn pieces(template: Option<&str>, problems: &mut Problems) -> Vec<Piece> {
    let at = "spec.accessLogs.template";
    let Some(template) = template.filter(|template| !template.is_empty()) else {
        problems.fatal(at, "it is missing", "write one, such as \"{time} {method} {path} {code}\"");
        return Vec::new();
    };
    if template.len() > MAX_TEMPLATE || template.contains(|c: char| c.is_control()) {
        let mend = format!("write one line of at most {MAX_TEMPLATE} bytes");
        problems.fatal(at, "it is too long, or not one line", mend);
    }
    match Piece::of_template(template) {
        Ok(pieces) => pieces,
        Err(why) => {
            problems.fatal(at, why.to_string(), mend(&why));
            Vec::new()
        }
    }
}

fn mend(why: &NoField) -> String {
    match why {
        NoField::Unknown(_) => {
            let names: Vec<&str> = Field::NAMED.iter().map(|(name, _)| *name).collect();
            format!("write one of {}, or header.NAME", names.join(", "))
        }
        NoField::Secret(_) => "leave it out: who can read the log could use it".to_owned(),
        NoField::NoHeader(_) => "write header. and the header's name in lower case".to_owned(),
        NoField::Open | NoField::Close => "write fields as {method}; braces have no other use".to_owned(),
    }
}

fn share(sampling: &crd::Sampling, at: &str, problems: &mut Problems) -> Share {
    let crd::Sampling { percent, fraction } = sampling;
    let (taken, of) = match (percent, fraction) {
        (Some(percent), None) => (*percent, 100),
        (None, Some(crd::Fraction { numerator, denominator })) => (*numerator, denominator.unwrap_or(100)),
        (Some(_), Some(_)) => {
            problems.fatal(at, "it sets both percent and fraction", "keep one of the two");
            return Share::ALL;
        }
        (None, None) => {
            problems.fatal(at, "it says no part", "set percent or fraction, or leave sampling out");
            return Share::ALL;
        }
    };
    if of == 0 || taken > of {
        problems.fatal(at, format!("{taken} of {of} is no part"), "write a part from 0 to all of a number above 0");
        return Share::ALL;
    }
    Share { numerator: taken, denominator: of }
}

fn condition(condition: &crd::LogCondition, at: &str, problems: &mut Problems) -> Condition {
    let crd::LogCondition { min_status, max_status, faults, slower_than } = condition;
    let mut status = |status: Option<u16>, field: &str| {
        if let Some(status) = status.filter(|status| !(100..=599).contains(status)) {
            problems.fatal(format!("{at}.{field}"), format!("{status} is no status"), "write one from 100 to 599");
        }
        status
    };
    let (min_status, max_status) = (status(*min_status, "minStatus"), status(*max_status, "maxStatus"));
    if let (Some(min), Some(max)) = (min_status, max_status)
        && min > max
    {
        problems.fatal(format!("{at}.maxStatus"), format!("{max} is below minStatus"), "write a higher one");
    }
    if faults.as_ref().is_some_and(Vec::is_empty) {
        let mend = "name Client, Mesh or Upstream, or leave the field out";
        problems.fatal(format!("{at}.faults"), "the list is empty", mend);
    }
    if *condition == crd::LogCondition::default() {
        problems.fatal(at, "it says nothing of a request", "say something, or leave `only` out to write all");
    }
    let sides: Option<BTreeSet<Blame>> = faults.as_ref().map(|sides| {
        let side = |side: &crd::FaultSide| match side {
            crd::FaultSide::Client => Blame::Client,
            crd::FaultSide::Mesh => Blame::Mesh,
            crd::FaultSide::Upstream => Blame::Upstream,
        };
        sides.iter().map(side).collect()
    });
    let slower_than = slower_than
        .as_deref()
        .and_then(|text| duration(text, &format!("{at}.slowerThan"), (Duration::from_millis(1), LONGEST), problems));
    Condition { min_status, max_status, faults: sides.map(|sides| sides.into_iter().collect()), slower_than }
}

fn traced(tracing: &crd::Tracing, namespace: &str, problems: &mut Problems) -> Tracing {
    let crd::Tracing { sampling, begins, collector } = tracing;
    let none = Share { numerator: 0, denominator: 1 };
    Tracing {
        share: sampling.as_ref().map_or(none, |sampling| share(sampling, "spec.tracing.sampling", problems)),
        begins: match begins {
            crd::TraceHeaders::W3C => TraceFormat::W3c,
            crd::TraceHeaders::B3 => TraceFormat::B3,
            crd::TraceHeaders::B3Multi => TraceFormat::B3Multi,
        },
        collector: collector.as_ref().map(|collector| told(collector, namespace, problems)),
    }
}

fn told(collector: &crd::SpanCollector, own_namespace: &str, problems: &mut Problems) -> Collector {
    let crd::SpanCollector { service, namespace, port, protocol } = collector;
    let at = "spec.tracing.collector";
    let namespace = namespace.as_deref().unwrap_or(own_namespace);
    for (name, field) in [(service.as_str(), "service"), (namespace, "namespace")] {
        if !meta::is_dns_label(name) {
            let mend = "write the name alone, in lower case";
            problems.fatal(format!("{at}.{field}"), format!("{name:?} is no {field}'s name"), mend);
        }
    }
    if *port == Some(0) {
        problems.fatal(format!("{at}.port"), "0 is no port number", "write a whole number from 1 to 65535");
    }
    let (protocol, usual) = match protocol {
        crd::SpanProtocol::OtlpHttp => (SpanProtocol::OtlpHttp, 4318),
        crd::SpanProtocol::OtlpGrpc => (SpanProtocol::OtlpGrpc, 4317),
        crd::SpanProtocol::Zipkin => (SpanProtocol::Zipkin, 9411),
    };
    Collector { service: ObjectName::new(namespace, service), port: port.unwrap_or(usual), protocol }
}
