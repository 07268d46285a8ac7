//! Reads how nodes are tuned. A value that nothing could work by is refused here, with its bounds: a node only ever lacks what
//! only it can know, such as a congestion control of its kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use millrace_crd as crd;
use millrace_model::{
    NodeProfile as Asks, ObjectName,
    profile::{PodSettings, ProxySettings, WorkloadLimits},
};

use super::{meta, selector};
use crate::{
    diagnostic::Problems,
    world::{LabelRule, NodeProfile},
};

/// More threads than this many cores share nothing but their queue's lock.
const WORKERS: RangeInclusive<u64> = 1..=256;

/// The largest machine's processors, by their numbers.
const MAX_CPU: u16 = 4095;

/// Processors that one profile may name: as many as there are workers at most.
const MAX_CPUS: usize = 256;

/// From HTTP/2's default window to the largest that its 31 bits say (RFC 9113, section 6.9.1).
const WINDOW: RangeInclusive<u64> = 65_535..=2_147_483_647;

/// What SETTINGS_MAX_FRAME_SIZE takes (RFC 9113, section 6.5.2).
const FRAME: RangeInclusive<u64> = 16_384..=16_777_215;

/// From the kernel's own smallest to what no path's bandwidth and delay asks for.
const BUFFER: RangeInclusive<u64> = 4_096..=268_435_456;

/// Segments: 1,000 of them are 1.4 MB sent at a stranger before he has said a word.
const INITIAL_WINDOW: RangeInclusive<u64> = 1..=1_000;

/// From a node that runs nothing to 16 million entries: beyond that the map's own table takes a gigabyte.
const ENTRIES: RangeInclusive<u64> = 64..=16_777_216;

/// Thousandths of a processor that one workload may be held to.
const CPU_MILLIS: RangeInclusive<u32> = 10..=256_000;

/// The maps whose room a profile may say. The others' follows from these, or is no number of entries.
pub(crate) const MAPS: [&str; 9] =
    ["PODS", "DESTS", "SERVICES", "SLOTS", "AFFINITY", "VERDICTS", "PROBES", "HANDOFFS", "LISTENERS"];

/// TCP_CA_NAME_MAX of the kernel, less the zero at the end.
const MAX_ALGORITHM: usize = 15;

/// Expressions of one selector, and values of one of them.
const MAX_EXPRESSIONS: usize = 100;

pub(super) fn profile(name: &ObjectName, profile: &crd::NodeProfile, problems: &mut Problems) -> NodeProfile {
    meta::check(&profile.metadata, problems);
    let crd::NodeProfileSpec { node_selector, proxy, pods, maps, workload_limits, acceleration } = &profile.spec;
    if acceleration.as_ref().is_some_and(|crd::AccelerationProfile { sockmap }| *sockmap) {
        problems.fatal(
            "spec.acceleration.sockmap",
            "it is not built: a reader that stops would let its writer fill the node's memory, and a reset would look like an orderly end",
            "write false, or leave the field out; docs/decisions/0013 has what was measured",
        );
    }
    NodeProfile {
        made: meta::made(&profile.metadata),
        selector: node_selector.as_ref().map_or_else(Vec::new, |selector| rules(selector, problems)),
        asks: Asks {
            name: name.name.clone(),
            proxy: proxy.as_ref().map_or_else(ProxySettings::default, |proxy| self::proxy(proxy, problems)),
            pods: pods.as_ref().map_or_else(PodSettings::default, |pods| self::pods(pods, problems)),
            maps: self::maps(maps, problems),
            limits: workload_limits.as_ref().map_or_else(WorkloadLimits::default, |own| limits(own, problems)),
        },
    }
}

fn rules(selector: &crd::NodeSelector, problems: &mut Problems) -> Vec<LabelRule> {
    const FIELD: &str = "spec.nodeSelector.matchExpressions";
    let crd::NodeSelector { match_labels, match_expressions } = selector;
    if match_expressions.len() > MAX_EXPRESSIONS {
        let problem = format!("there are {} expressions", match_expressions.len());
        problems.fatal(FIELD, problem, format!("write at most {MAX_EXPRESSIONS}"));
    }
    for (index, n) in match_expressions.iter().map(|one| one.values.len()).enumerate() {
        if n > MAX_EXPRESSIONS {
            problems.fatal(format!("{FIELD}[{index}].values"), format!("there are {n}"), "write at most 100");
        }
    }
    let expressions = match_expressions.iter().cloned().map(Some).collect::<Vec<_>>();
    selector::rules(Some(match_labels), &expressions, "spec.nodeSelector", problems)
}

fn proxy(proxy: &crd::ProxyProfile, problems: &mut Problems) -> ProxySettings {
    let crd::ProxyProfile { workers, cpus, http2, send_buffer_bytes, receive_buffer_bytes, congestion_control } = proxy;
    let crd::Http2Profile { stream_window_bytes, connection_window_bytes, frame_bytes } =
        http2.clone().unwrap_or_default();
    let settings = ProxySettings {
        workers: within(*workers, &WORKERS, "spec.proxy.workers", problems),
        cpus: cpus.as_deref().map_or_else(BTreeSet::new, |cpus| self::cpus(cpus, problems)),
        stream_window: within(stream_window_bytes, &WINDOW, "spec.proxy.http2.streamWindowBytes", problems),
        connection_window: within(connection_window_bytes, &WINDOW, "spec.proxy.http2.connectionWindowBytes", problems),
        frame_size: within(frame_bytes, &FRAME, "spec.proxy.http2.frameBytes", problems),
        send_buffer: within(*send_buffer_bytes, &BUFFER, "spec.proxy.sendBufferBytes", problems),
        receive_buffer: within(*receive_buffer_bytes, &BUFFER, "spec.proxy.receiveBufferBytes", problems),
        congestion_control: algorithm(congestion_control.as_deref(), "spec.proxy.congestionControl", problems),
    };
    if let (Some(tunnel), Some(stream)) = (settings.connection_window, settings.stream_window)
        && tunnel < stream
    {
        problems.fatal(
            "spec.proxy.http2.connectionWindowBytes",
            format!("{tunnel} is less than one stream's window of {stream}, which could never be filled"),
            "write at least streamWindowBytes; 64 times as much lets no stream stop another",
        );
    }
    settings
}

/// A list as the kernel writes one: `0-3,8`.
fn cpus(text: &str, problems: &mut Problems) -> BTreeSet<u16> {
    const FIELD: &str = "spec.proxy.cpus";
    const MEND: &str = "write numbers and ranges with commas between, such as 0-3,8";
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first), Ok(last)) if first <= last && last <= MAX_CPU => cpus.extend(first..=last),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => {
                problems.fatal(FIELD, format!("{part:?} is no processor and no range of them"), MEND);
                return BTreeSet::new();
            }
        }
    }
    if cpus.len() > MAX_CPUS {
        problems.fatal(FIELD, format!("it names {} processors", cpus.len()), format!("name at most {MAX_CPUS}"));
    }
    cpus
}

fn pods(pods: &crd::PodProfile, problems: &mut Problems) -> PodSettings {
    let crd::PodProfile { congestion_control, initial_window_segments } = pods;
    PodSettings {
        congestion_control: algorithm(congestion_control.as_deref(), "spec.pods.congestionControl", problems),
        initial_window: within(*initial_window_segments, &INITIAL_WINDOW, "spec.pods.initialWindowSegments", problems),
    }
}

fn algorithm(name: Option<&str>, field: &str, problems: &mut Problems) -> Option<Arc<str>> {
    let name = name?;
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if name.is_empty() || name.len() > MAX_ALGORITHM || !name.bytes().all(is_name) {
        problems.fatal(
            field,
            format!("{name:?} is no congestion control's name"),
            "write one of net.ipv4.tcp_available_congestion_control, such as bbr, cubic or dctcp",
        );
        return None;
    }
    Some(name.into())
}

fn maps(maps: &BTreeMap<String, u32>, problems: &mut Problems) -> BTreeMap<Arc<str>, u32> {
    let mut sizes = BTreeMap::new();
    for (map, entries) in maps {
        let field = format!("spec.maps.{map}");
        if !MAPS.contains(&map.as_str()) {
            let problem = format!("{map:?} is no kernel map whose room can be said");
            problems.fatal(field, problem, format!("write one of {}", MAPS.join(", ")));
        } else if let Some(entries) = within(Some(*entries), &ENTRIES, &field, problems) {
            sizes.insert(map.as_str().into(), entries);
        }
    }
    sizes
}

fn limits(limits: &crd::LimitsProfile, problems: &mut Problems) -> WorkloadLimits {
    const ANY: RangeInclusive<u64> = 1..=u32::MAX as u64;
    /// A stream's smallest window, to as much memory as a large node has.
    const BYTES: RangeInclusive<u64> = 65_536..=1 << 40;
    const WEIGHT: RangeInclusive<u64> = 1..=10_000;
    let crd::LimitsProfile { max_connections, max_pending_connections, max_buffered_bytes, share_weight, cpu } = limits;
    let field = |name: &str| format!("spec.workloadLimits.{name}");
    WorkloadLimits {
        max_connections: within(*max_connections, &ANY, &field("maxConnections"), problems),
        max_pending_connections: within(*max_pending_connections, &ANY, &field("maxPendingConnections"), problems),
        max_buffered_bytes: within(*max_buffered_bytes, &BYTES, &field("maxBufferedBytes"), problems),
        share_weight: within(*share_weight, &WEIGHT, &field("shareWeight"), problems),
        cpu_millis: cpu.as_ref().and_then(|cpu| processor(cpu, &field("cpu"), problems)),
    }
}

/// Thousandths of a processor, if as many can be held to: below, one handshake would be a second's; above, no proxy has as many workers.
fn processor(quantity: &IntOrString, field: &str, problems: &mut Problems) -> Option<u32> {
    let (written, millis) = match quantity {
        IntOrString::Int(whole) => {
            (whole.to_string(), u32::try_from(*whole).ok().and_then(|whole| whole.checked_mul(1000)))
        }
        IntOrString::String(text) => (text.clone(), thousandths(text)),
    };
    let found = millis.filter(|millis| CPU_MILLIS.contains(millis));
    if found.is_none() {
        problems.fatal(
            field,
            format!("{written:?} is no processor time that can be held to"),
            "write a quantity from 10m to 256, such as 250m, \"0.5\" or 2",
        );
    }
    found
}

/// What a quantity of processors says: `250m`, `2`, `0.5`.
fn thousandths(quantity: &str) -> Option<u32> {
    let number = |digits: &str| -> Option<u32> {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    if let Some(millis) = quantity.strip_suffix('m') {
        return number(millis);
    }
    let (whole, part) = quantity.split_once('.').unwrap_or((quantity, "0"));
    number(part).filter(|_| part.len() <= 3)?;
    let part = number(&format!("{part:0<3}"))?;
    number(whole)?.checked_mul(1000)?.checked_add(part)
}

/// The number, if it is within its bounds.
fn within<N: Copy + Into<u64>>(
    number: Option<N>,
    bounds: &RangeInclusive<u64>,
    field: &str,
    problems: &mut Problems,
) -> Option<N> {
    let number = number?;
    let asked: u64 = number.into();
    if bounds.contains(&asked) {
        return Some(number);
    }
    let (least, most) = bounds.clone().into_inner();
    problems.fatal(field, format!("{asked} is out of bounds"), format!("write a whole number from {least} to {most}"));
    None
}

#[cfg(test)]
mod tests {
    use super::thousandths;

    #[test]
    fn a_quantity_of_processors_is_read_as_kubernetes_reads_it_and_nothing_else_is() {
        let read = [("250m", 250), ("2", 2000), ("0.5", 500), ("1.25", 1250), ("0.001", 1), ("010m", 10)];
        for (written, millis) in read {
            assert_eq!(thousandths(written), Some(millis), "{written}");
        }
        for written in ["", "m", "-1", "+1", "1.", ".5", "0.0005", "1e3", "1 m", "2k", "5000000", "0.5m"] {
            assert_eq!(thousandths(written), None, "{written}");
        }
    }
}
