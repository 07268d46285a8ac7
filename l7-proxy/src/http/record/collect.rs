//! Prints what all workers have counted.
//!
//! | metric | says |
//! |---|---|
//! | `millrace_http_requests_total` | requests, by edge and by how they ended |
//! | `millrace_http_request_duration_seconds` | from a request's coming to its answer's end, by edge |
//! | `millrace_http_request_size_bytes`, `millrace_http_response_size_bytes` | bytes of bodies, by edge |
//! | `millrace_proxy_http_edges` | edges with series of their own |
//! | `millrace_proxy_http_edges_other_total` | requests that were counted under `other`, for want of room |

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{
    labels::{Both, Edge},
    series::{Added, DURATIONS, Histogram, SIZES, Series},
    shard::{Book, OfEdge},
};

/// Microseconds in a second.
const SECOND: f64 = 1e6;

/// The book, as a collector.
#[derive(Debug)]
pub(super) struct Printed(pub(super) Arc<Book>);

type Edges = [(Edge, OfEdge)];

impl Collector for Printed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let edges = self.0.all();
        requests(&edges, &mut encoder)?;
        let name = "http_request_duration_seconds";
        let help = "From a request's coming to its answer's end";
        histograms(&edges, (name, help), (&DURATIONS, SECOND), |series| &series.duration, &mut encoder)?;
        let (name, help) = ("http_request_size_bytes", "Bytes of requests' bodies");
        histograms(&edges, (name, help), (&SIZES, 1.0), |series| &series.request, &mut encoder)?;
        let (name, help) = ("http_response_size_bytes", "Bytes of answers' bodies");
        histograms(&edges, (name, help), (&SIZES, 1.0), |series| &series.response, &mut encoder)?;
        let is_own = |(edge, _): &&(Edge, OfEdge)| !edge.is_other();
        let n_own = i64::try_from(edges.iter().filter(is_own).count()).unwrap_or(i64::MAX);
        let help = "Edges with series of requests of their own";
        let gauge = encoder.encode_descriptor("proxy_http_edges", help, None, MetricType::Gauge)?;
        ConstGauge::new(n_own).encode(gauge)?;
        let n_other: u64 =
            edges.iter().filter(|(edge, _)| edge.is_other()).flat_map(|(_, all)| all).map(|one| one.total()).sum();
        let help = "Requests counted under other, for want of room";
        let counter = encoder.encode_descriptor("proxy_http_edges_other", help, None, MetricType::Counter)?;
        ConstCounter::new(n_other).encode(counter)
    }
}

fn requests(edges: &Edges, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let help = "Requests, by who called whom and how they ended";
    let mut family = encoder.encode_descriptor("http_requests", help, None, MetricType::Counter)?;
    for (edge, all) in edges {
        // Workers that ended requests in one way are one line.
        let mut sums: Vec<(&super::labels::Answer, u64)> = Vec::new();
        for tally in all.iter().flat_map(|series| series.tallies()) {
            match sums.iter_mut().find(|(answer, _)| *answer == &tally.answer) {
                Some((_, sum)) => *sum += tally.count(),
                None => sums.push((&tally.answer, tally.count())),
            }
        }
        for (answer, sum) in sums {
            ConstCounter::new(sum).encode(family.encode_family(&Both(edge, answer))?)?;
        }
    }
    Ok(())
}

fn histograms<const N: usize>(
    edges: &Edges,
    (name, help): (&str, &str),
    (bounds, unit): (&[u64; N], f64),
    which: fn(&Series) -> &Histogram<N>,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (edge, all) in edges {
        let added = Added::of(all.iter().map(|series| which(series)));
        let ends = bounds.iter().map(|bound| float(*bound) / unit).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(added.buckets.iter().copied()).collect();
        let (sum, count) = (float(added.sum) / unit, added.count());
        family.encode_family(edge)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a sum of 2^53 microseconds or bytes is printed to 16 digits")]
fn float(whole: u64) -> f64 {
    whole as f64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::StatusCode;
    use millrace_model::ObjectName;
    use prometheus_client::{encoding::text, registry::Registry};

    use super::{Book, Printed};
    use crate::http::record::labels::{Answer, EdgeOf, Spoken};

    #[test]
    fn lines_are_what_prometheus_reads() {
        let book = Arc::<Book>::default();
        let (source, account) = (ObjectName::new("shop", "web"), Arc::from("web"));
        let service = ObjectName::new("shop", "reviews");
        let edge =
            EdgeOf { source: &source, account: &account, target: None, service: Some(&service), spoken: Spoken::Http1 };
        let denied = Answer {
            flag: Some(("denied", "client")),
            policy: Some("shop/guard".into()),
            ..Answer::good(StatusCode::FORBIDDEN)
        };
        for mut shard in [book.shard(), book.shard()] {
            shard.add(&edge, Answer::good(StatusCode::OK), 2_000, (0, 500));
            shard.add(&edge, denied.clone(), 100, (0, 0));
        }
        let mut registry = Registry::with_prefix("millrace");
        registry.register_collector(Box::new(Printed(book)));
        let mut said = String::new();
        text::encode(&mut said, &registry).unwrap();
        let edge = r#"reporter="client",source_namespace="shop",source_workload="web",source_service_account="web",destination_namespace="shop",destination_workload="unknown",destination_service="reviews",request_protocol="http1""#;
        let good = r#"response_code="200",response_flags="-",fault_side="-",policy="",grpc_response_status="""#;
        let bad = r#"response_code="403",response_flags="denied",fault_side="client",policy="shop/guard",grpc_response_status="""#;
        for line in [
            format!("millrace_http_requests_total{{{edge},{good}}} 2"),
            format!("millrace_http_requests_total{{{edge},{bad}}} 2"),
            format!("millrace_http_request_duration_seconds_sum{{{edge}}} 0.0042"),
            format!("millrace_http_request_duration_seconds_count{{{edge}}} 4"),
            format!("millrace_http_request_duration_seconds_bucket{{le=\"0.0005\",{edge}}} 2"),
            format!("millrace_http_request_duration_seconds_bucket{{le=\"0.0025\",{edge}}} 4"),
            format!("millrace_http_request_duration_seconds_bucket{{le=\"+Inf\",{edge}}} 4"),
            format!("millrace_http_response_size_bytes_bucket{{le=\"1024.0\",{edge}}} 4"),
            "millrace_proxy_http_edges 1".to_owned(),
            "millrace_proxy_http_edges_other_total 0".to_owned(),
        ] {
            assert!(said.lines().any(|said| said == line), "{line} is not in\n{said}");
        }
    }
}
