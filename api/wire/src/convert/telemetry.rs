//! Converts what is recorded of requests.

use std::time::Duration;

use millrace_model::{
    route::Share,
    telemetry::{
        AccessLog, Blame, Collector, Condition, Field, LogFormat, Piece, SpanProtocol, Switch, Telemetry, TraceFormat,
        Tracing,
    },
};

use super::{Texts, Undecodable, bad, each, name, pb, port_from};

pub(super) fn telemetry(telemetry: &Telemetry) -> pb::Telemetry {
    let Telemetry { name: own_name, metrics, logs, tracing, tap } = telemetry;
    pb::Telemetry {
        name: Some(name(own_name)),
        metrics: *metrics == Switch::On,
        tap: *tap == Switch::On,
        logs: logs.as_ref().map(log_to),
        tracing: tracing.as_ref().map(tracing_to),
    }
}

pub(super) fn telemetry_from(telemetry: pb::Telemetry, said: &mut Texts) -> Result<Telemetry, Undecodable> {
    let pb::Telemetry { name, metrics, tap, logs, tracing } = telemetry;
    let switch = |is_on| if is_on { Switch::On } else { Switch::Off };
    Ok(Telemetry {
        name: said.name(name, "telemetry.name")?,
        metrics: switch(metrics),
        tap: switch(tap),
        logs: logs.map(log_from).transpose()?,
        tracing: tracing.map(|tracing| tracing_from(tracing, said)).transpose()?,
    })
}

fn share_to(share: Share) -> pb::Share {
    let Share { numerator, denominator } = share;
    pb::Share { numerator, denominator }
}

fn share_from(share: Option<pb::Share>) -> Result<Share, Undecodable> {
    match share {
        Some(pb::Share { numerator, denominator }) if denominator > 0 && numerator <= denominator => {
            Ok(Share { numerator, denominator })
        }
        Some(_) | None => Err(bad("telemetry.share", "no share")),
    }
}

fn log_to(log: &AccessLog) -> pb::AccessLog {
    let AccessLog { format, share, only } = log;
    let format = match format {
        LogFormat::Json(fields) => {
            pb::access_log::Format::Json(pb::LogFields { fields: fields.iter().map(ToString::to_string).collect() })
        }
        LogFormat::Text(pieces) => {
            let piece = |piece: &Piece| pb::LogPiece {
                kind: Some(match piece {
                    Piece::Text(text) => pb::log_piece::Kind::Text(text.to_string()),
                    Piece::Field(field) => pb::log_piece::Kind::Field(field.to_string()),
                }),
            };
            pb::access_log::Format::Text(pb::LogPieces { pieces: pieces.iter().map(piece).collect() })
        }
    };
    pb::AccessLog { format: Some(format), share: Some(share_to(*share)), only: only.iter().map(condition_to).collect() }
}

fn log_from(log: pb::AccessLog) -> Result<AccessLog, Undecodable> {
    let pb::AccessLog { format, share, only } = log;
    let field = |text: String| text.parse::<Field>().map_err(|why| bad("telemetry.logs.field", why));
    let format = match format.ok_or_else(|| bad("telemetry.logs.format", "missing"))? {
        pb::access_log::Format::Json(pb::LogFields { fields }) => LogFormat::Json(each(fields, field)?),
        pb::access_log::Format::Text(pb::LogPieces { pieces }) => {
            let piece = |pb::LogPiece { kind }| match kind {
                Some(pb::log_piece::Kind::Text(text)) => Ok(Piece::Text(text.into())),
                Some(pb::log_piece::Kind::Field(text)) => Ok(Piece::Field(field(text)?)),
                None => Err(bad("telemetry.logs.piece", "missing")),
            };
            LogFormat::Text(each(pieces, piece)?)
        }
    };
    let only = each(only, condition_from)?;
    Ok(AccessLog { format, share: share_from(share)?, only })
}

fn condition_to(condition: &Condition) -> pb::LogCondition {
    let Condition { min_status, max_status, faults, slower_than } = condition;
    let side = |side: &Blame| {
        match side {
            Blame::Client => pb::Blame::Client,
            Blame::Mesh => pb::Blame::Mesh,
            Blame::Upstream => pb::Blame::Upstream,
        }
        .into()
    };
    pb::LogCondition {
        min_status: min_status.map(u32::from),
        max_status: max_status.map(u32::from),
        faults: faults.as_ref().map(|sides| pb::Blames { sides: sides.iter().map(side).collect() }),
        slower_than_ms: slower_than.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn condition_from(condition: pb::LogCondition) -> Result<Condition, Undecodable> {
    let pb::LogCondition { min_status, max_status, faults, slower_than_ms } = condition;
    let status = |status: Option<u32>| {
        status.map(|status| u16::try_from(status).map_err(|_large| bad("telemetry.logs.status", status))).transpose()
    };
    let side = |side: i32| match pb::Blame::try_from(side) {
        Ok(pb::Blame::Client) => Ok(Blame::Client),
        Ok(pb::Blame::Mesh) => Ok(Blame::Mesh),
        Ok(pb::Blame::Upstream) => Ok(Blame::Upstream),
        Ok(pb::Blame::Unspecified) | Err(_) => Err(bad("telemetry.logs.faults", side)),
    };
    let faults = faults.map(|pb::Blames { sides }| each(sides, side));
    Ok(Condition {
        min_status: status(min_status)?,
        max_status: status(max_status)?,
        faults: faults.transpose()?,
        slower_than: slower_than_ms.map(Duration::from_millis),
    })
}

fn tracing_to(tracing: &Tracing) -> pb::Tracing {
    let Tracing { share, begins, collector } = tracing;
    pb::Tracing {
        share: Some(share_to(*share)),
        begins: match begins {
            TraceFormat::W3c => pb::TraceFormat::W3c,
            TraceFormat::B3 => pb::TraceFormat::B3,
            TraceFormat::B3Multi => pb::TraceFormat::B3Multi,
        }
        .into(),
        collector: collector.as_ref().map(|Collector { service, port, protocol }| pb::Collector {
            service: Some(name(service)),
            port: u32::from(*port),
            protocol: match protocol {
                SpanProtocol::OtlpHttp => pb::SpanProtocol::OtlpHttp,
                SpanProtocol::OtlpGrpc => pb::SpanProtocol::OtlpGrpc,
                SpanProtocol::Zipkin => pb::SpanProtocol::Zipkin,
            }
            .into(),
        }),
    }
}

fn tracing_from(tracing: pb::Tracing, said: &mut Texts) -> Result<Tracing, Undecodable> {
    let pb::Tracing { share, begins, collector } = tracing;
    Ok(Tracing {
        share: share_from(share)?,
        begins: match pb::TraceFormat::try_from(begins) {
            Ok(pb::TraceFormat::W3c) => TraceFormat::W3c,
            Ok(pb::TraceFormat::B3) => TraceFormat::B3,
            Ok(pb::TraceFormat::B3Multi) => TraceFormat::B3Multi,
            Ok(pb::TraceFormat::Unspecified) | Err(_) => return Err(bad("telemetry.tracing.begins", begins)),
        },
        collector: collector.map(|collector| collector_from(collector, said)).transpose()?,
    })
}

fn collector_from(collector: pb::Collector, said: &mut Texts) -> Result<Collector, Undecodable> {
    let pb::Collector { service, port, protocol } = collector;
    Ok(Collector {
        service: said.name(service, "telemetry.tracing.collector.service")?,
        port: port_from(port, "telemetry.tracing.collector.port")?,
        protocol: match pb::SpanProtocol::try_from(protocol) {
            Ok(pb::SpanProtocol::OtlpHttp) => SpanProtocol::OtlpHttp,
            Ok(pb::SpanProtocol::OtlpGrpc) => SpanProtocol::OtlpGrpc,
            Ok(pb::SpanProtocol::Zipkin) => SpanProtocol::Zipkin,
            Ok(pb::SpanProtocol::Unspecified) | Err(_) => {
                return Err(bad("telemetry.tracing.collector.protocol", protocol));
            }
        },
    })
}
