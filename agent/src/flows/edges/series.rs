//! What is added up on an edge, and how it is printed.

use std::{collections::BTreeMap, fmt, sync::Arc};

use millrace_abi::Side;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::labels::Labels;
use crate::flows::Ended;

/// From a request within the node to a day's subscription, in seconds.
const DURATIONS: [f64; 8] = [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0];

/// From a veth pair to the other side of the world, in seconds.
const TIMES: [f64; 8] = [0.000_05, 0.000_2, 0.001, 0.005, 0.02, 0.1, 0.3, 1.0];

/// What is added up on an edge.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    pub(super) opened: u64,
    /// By outcome.
    closed: BTreeMap<&'static str, u64>,
    /// By outcome, or by the reason of a refusal.
    pub(super) failed: BTreeMap<&'static str, u64>,
    sent: u64,
    received: u64,
    retransmits: u64,
    durations: Spread<8>,
    connects: Spread<8>,
    round_trips: Spread<8>,
}

/// A histogram: how many fell below each bound, above those below the one before; the last is what is above all.
#[derive(Clone, Debug)]
struct Spread<const N: usize> {
    below: [u64; N],
    above: u64,
    sum: f64,
}

impl<const N: usize> Default for Spread<N> {
    fn default() -> Self {
        Self { below: [0; N], above: 0, sum: 0.0 }
    }
}

impl<const N: usize> Spread<N> {
    fn add(&mut self, bounds: &[f64; N], value: f64) {
        self.sum += value;
        match self.below.iter_mut().zip(bounds).find(|(_, bound)| value <= **bound) {
            Some((count, _)) => *count += 1,
            None => self.above += 1,
        }
    }

    fn encode(&self, bounds: &[f64; N], mut to: MetricEncoder<'_>) -> fmt::Result {
        let below = bounds.iter().copied().zip(self.below);
        let buckets: Vec<(f64, u64)> = below.chain([(f64::INFINITY, self.above)]).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        to.encode_histogram::<NoLabelSet>(self.sum, count, &buckets, None)
    }
}

impl Series {
    /// A connection that ended, as the end tells it that has these series.
    pub(super) fn ended(&mut self, ended: &Ended) {
        self.retransmits += u64::from(ended.event.retransmits);
        if ended.has_failed() {
            *self.failed.entry(ended.outcome()).or_default() += 1;
            return;
        }
        self.closed(ended);
        if ended.event.srtt_us > 0 {
            self.round_trips.add(&TIMES, f64::from(ended.event.srtt_us) / 1e6);
        }
        if ended.side() == Side::Client {
            self.connects.add(&TIMES, f64::from(ended.event.connect_us) / 1e6);
        }
    }

    /// One that the other end told: what that end alone can know is left out.
    pub(super) fn ended_there(&mut self, ended: &Ended) {
        self.closed(ended);
    }

    fn closed(&mut self, ended: &Ended) {
        *self.closed.entry(ended.outcome()).or_default() += 1;
        self.durations.add(&DURATIONS, seconds(ended.event.duration_ns));
        let (sent, received) = ended.bytes();
        self.sent += sent;
        self.received += received;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a histogram's: 52 bits of nanoseconds are a month and a half")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// An edge's labels and one more. The derive takes no lifetime.
struct WithOutcome<'l> {
    edge: &'l Labels,
    outcome: &'static str,
}

impl EncodeLabelSet for WithOutcome<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.edge.encode(encoder)?;
        ("outcome", self.outcome).encode(encoder.encode_label())
    }
}

type All = [(Arc<Labels>, Series)];

/// Prints every edge's series.
pub(super) fn encode(to: &mut DescriptorEncoder<'_>, all: &All) -> fmt::Result {
    counter(to, ("tcp_connections_opened", "Connects that were let through, by the caller's side"), all, |s| {
        (s.opened > 0).then_some(s.opened)
    })?;
    outcomes(to, ("tcp_connections_closed", "Connections that ended, by how"), all, |s| &s.closed)?;
    outcomes(to, ("tcp_connections_failed", "Connects that failed, by why"), all, |s| &s.failed)?;
    counter(to, ("tcp_sent_bytes", "Bytes from the caller to the called, when it ended"), all, |s| Some(s.sent))?;
    counter(to, ("tcp_received_bytes", "Bytes from the called to the caller, when it ended"), all, |s| {
        Some(s.received)
    })?;
    counter(to, ("tcp_retransmits", "Segments that the reporter sent again"), all, |s| Some(s.retransmits))?;
    histogram(to, ("tcp_connection_duration", "How long connections lasted"), all, (&DURATIONS, |s| &s.durations))?;
    histogram(to, ("tcp_connect_duration", "From SYN to establishment"), all, (&TIMES, |s| &s.connects))?;
    histogram(to, ("tcp_rtt", "Smoothed round-trip time when it ended"), all, (&TIMES, |s| &s.round_trips))
}

/// Prints how large the table is, what had no room in it, and what was forgotten.
pub(super) fn encode_table(to: &mut DescriptorEncoder<'_>, (n, other, forgotten): (usize, u64, u64)) -> fmt::Result {
    let n = i64::try_from(n).unwrap_or(i64::MAX);
    to.encode_descriptor("agent_edges", "Edges that have series of their own", None, MetricType::Gauge)?
        .encode_gauge(&n)?;
    to.encode_descriptor("agent_edges_other", "Records that went to `other`", None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&other, None)?;
    to.encode_descriptor("agent_edges_forgotten", "Edges forgotten as idle", None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&forgotten, None)
}

fn counter(
    to: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    all: &All,
    value: impl Fn(&Series) -> Option<u64>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, series) in all {
        if let Some(value) = value(series) {
            family.encode_family(&**labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
    }
    Ok(())
}

fn outcomes(
    to: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    all: &All,
    of: impl Fn(&Series) -> &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (edge, series) in all {
        for (outcome, count) in of(series) {
            let labels = WithOutcome { edge, outcome };
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
    }
    Ok(())
}

fn histogram<const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    all: &All,
    (bounds, of): (&[f64; N], impl Fn(&Series) -> &Spread<N>),
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (labels, series) in all {
        of(series).encode(bounds, family.encode_family(&**labels)?)?;
    }
    Ok(())
}
