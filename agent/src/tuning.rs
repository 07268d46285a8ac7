//! Says how the node is tuned, field by field: what its NodeProfile asks, what is in force, and why the two differ. Pure.

use millrace_abi::Tuning;
use millrace_model::{
    NodeProfile,
    profile::{PodSettings, ProxySettings, WorkloadLimits, cpu_list, cpu_quantity},
};
use millrace_node::wire::{
    convert,
    node::{InForce, Settings},
};
use serde::Serialize;

use crate::kernel::{
    Capacities,
    tune::{algorithm, algorithm_name},
};

/// What stands where the kernel decides.
const BY_KERNEL: &str = "by the kernel";

const PROXY_ALGORITHM: &str = "spec.proxy.congestionControl";
const POD_ALGORITHM: &str = "spec.pods.congestionControl";

/// How the node is tuned.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tuned {
    /// The NodeProfile that tunes it; None: it has the defaults.
    pub profile: Option<String>,
    /// Every setting.
    pub settings: Vec<Setting>,
}

/// One setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The NodeProfile's field.
    pub field: String,
    /// What the profile asks; None where it does not.
    pub wanted: Option<String>,
    /// What is in force.
    pub in_force: String,
    /// Why they differ, and what to do; empty where they don't.
    pub note: String,
}

/// What the proxy is asked.
pub fn settings(profile: &NodeProfile) -> Settings {
    let ProxySettings {
        workers,
        cpus,
        stream_window,
        connection_window,
        frame_size,
        send_buffer,
        receive_buffer,
        congestion_control: _, // The kernel's programs set it: the proxy may not.
    } = &profile.proxy;
    Settings {
        workers: workers.map(u32::from),
        cpus: cpus.iter().copied().map(u32::from).collect(),
        stream_window: *stream_window,
        connection_window: *connection_window,
        frame_size: *frame_size,
        send_buffer: *send_buffer,
        receive_buffer: *receive_buffer,
        limits: Some(convert::limits(&profile.limits)),
    }
}

/// What the kernel's programs are asked; and what they can't be, a sentence each. `has` says which congestion control there is.
pub fn of_kernel(profile: &NodeProfile, has: impl Fn(&str) -> bool) -> (Tuning, Vec<String>) {
    let mut failures = Vec::new();
    let mut known = |asked: &Option<std::sync::Arc<str>>, field: &str| {
        let name = asked.as_deref()?;
        let found = algorithm(name).filter(|_| has(name));
        if found.is_none() {
            failures.push(format!(
                "NodeProfile {}: {field}: this node's kernel has no congestion control {name:?}, so connections keep the \
                 kernel's default; load its module, or name one of net.ipv4.tcp_available_congestion_control",
                profile.name
            ));
        }
        found
    };
    let tunnel_algorithm = known(&profile.proxy.congestion_control, PROXY_ALGORITHM).unwrap_or_default();
    let pod_algorithm = known(&profile.pods.congestion_control, POD_ALGORITHM).unwrap_or_default();
    let pod_initial_window = profile.pods.initial_window.unwrap_or(0);
    let is_on = [tunnel_algorithm, pod_algorithm].iter().flatten().any(|byte| *byte != 0) || pod_initial_window != 0;
    (Tuning { tunnel_algorithm, pod_algorithm, pod_initial_window, is_on: is_on.into() }, failures)
}

/// How the node is tuned.
pub fn tuned(
    profile: Option<&NodeProfile>,
    proxy: Option<&[InForce]>,
    (capacities, kernel): (&Capacities, &Tuning),
) -> Tuned {
    let none = NodeProfile::default();
    let asked = profile.unwrap_or(&none);
    let mut settings = of_proxy(asked, proxy);
    settings.extend(of_programs(asked, kernel));
    settings.extend(of_maps(asked, capacities));
    Tuned { profile: profile.map(|profile| profile.name.to_string()), settings }
}

/// The proxy's settings, in the order in which the profile's fields stand.
fn of_proxy(asked: &NodeProfile, proxy: Option<&[InForce]>) -> Vec<Setting> {
    let ProxySettings {
        workers,
        cpus,
        stream_window,
        connection_window,
        frame_size,
        send_buffer,
        receive_buffer,
        congestion_control: _,
    } = &asked.proxy;
    let WorkloadLimits { max_connections, max_pending_connections, max_buffered_bytes, share_weight, cpu_millis } =
        &asked.limits;
    let cpus = (!cpus.is_empty()).then(|| cpu_list(cpus.iter().copied().map(usize::from)));
    let number = |asked: &Option<u32>| asked.map(|n| n.to_string());
    let fields = [
        ("spec.proxy.workers", workers.map(|n| n.to_string())),
        ("spec.proxy.cpus", cpus),
        ("spec.proxy.http2.streamWindowBytes", number(stream_window)),
        ("spec.proxy.http2.connectionWindowBytes", number(connection_window)),
        ("spec.proxy.http2.frameBytes", number(frame_size)),
        ("spec.proxy.sendBufferBytes", number(send_buffer)),
        ("spec.proxy.receiveBufferBytes", number(receive_buffer)),
        ("spec.workloadLimits.maxConnections", number(max_connections)),
        ("spec.workloadLimits.maxPendingConnections", number(max_pending_connections)),
        ("spec.workloadLimits.maxBufferedBytes", max_buffered_bytes.map(|n| n.to_string())),
        ("spec.workloadLimits.shareWeight", number(share_weight)),
        ("spec.workloadLimits.cpu", cpu_millis.map(cpu_quantity)),
    ];
    let said = |field: &str| proxy.and_then(|rows| rows.iter().find(|row| row.field == field));
    let setting = |(field, wanted): (&str, Option<String>)| {
        let value = said(field).map(|row| row.value.clone());
        let note = match (&wanted, &value) {
            (None, _) => "",
            (Some(_), None) if proxy.is_none() => "no proxy is connected",
            (Some(_), None) => "the proxy that serves does not know it: start a newer one",
            (Some(wanted), Some(value)) if wanted == value => "",
            (Some(_), Some(_)) => differs(field),
        };
        let is_shown = wanted.is_some() || value.is_some();
        let in_force = value.unwrap_or_else(|| "not in force".to_owned());
        is_shown.then(|| Setting { field: field.to_owned(), wanted, in_force, note: note.to_owned() })
    };
    fields.into_iter().filter_map(setting).collect()
}

/// Why a proxy can have less than it was asked for.
fn differs(field: &str) -> &'static str {
    match field {
        "spec.proxy.sendBufferBytes" => "the kernel grants no more: raise net.core.wmem_max",
        "spec.proxy.receiveBufferBytes" => "the kernel grants no more: raise net.core.rmem_max",
        "spec.proxy.cpus" => "the proxy may not run on the others",
        _ => "the proxy has not applied it yet",
    }
}

fn of_programs(asked: &NodeProfile, kernel: &Tuning) -> [Setting; 3] {
    let PodSettings { congestion_control, initial_window } = &asked.pods;
    let algorithm = |field: &str, wanted: Option<String>, bytes| {
        let in_force = Some(algorithm_name(bytes)).filter(|name| !name.is_empty());
        let is_lacking = wanted.is_some() && wanted != in_force;
        let note = if is_lacking { "this node's kernel does not have it" } else { "" };
        let in_force = in_force.unwrap_or_else(|| BY_KERNEL.to_owned());
        Setting { field: field.to_owned(), wanted, in_force, note: note.to_owned() }
    };
    let text = |name: &Option<std::sync::Arc<str>>| name.as_ref().map(ToString::to_string);
    let window = Some(kernel.pod_initial_window).filter(|window| *window != 0);
    [
        algorithm(PROXY_ALGORITHM, text(&asked.proxy.congestion_control), &kernel.tunnel_algorithm),
        algorithm(POD_ALGORITHM, text(congestion_control), &kernel.pod_algorithm),
        Setting {
            field: "spec.pods.initialWindowSegments".to_owned(),
            wanted: initial_window.map(|n| n.to_string()),
            in_force: window.map_or_else(|| BY_KERNEL.to_owned(), |n| n.to_string()),
            note: String::new(),
        },
    ]
}

fn of_maps<'a>(asked: &'a NodeProfile, capacities: &'a Capacities) -> impl Iterator<Item = Setting> + 'a {
    let now = Capacities::of(Some(asked));
    Capacities::maps().map(move |map| {
        let (wanted, in_force) = (asked.maps.get(map).map(ToString::to_string), capacities.get(map));
        // A profile that went leaves its room behind until the next start, too.
        let note = if now.get(map) == in_force { "" } else { "needs a restart of the agent" };
        Setting { field: format!("spec.maps.{map}"), wanted, in_force: in_force.to_string(), note: note.to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use millrace_abi::Tuning;
    use millrace_model::NodeProfile;
    use millrace_node::wire::node::InForce;

    use super::{Setting, Tuned, of_kernel, tuned};
    use crate::kernel::{Capacities, tune::algorithm};

    fn profile() -> NodeProfile {
        let mut profile = NodeProfile { name: "edge".into(), ..NodeProfile::default() };
        profile.proxy.workers = Some(4);
        profile.proxy.send_buffer = Some(1 << 20);
        profile.proxy.congestion_control = Some("cubic".into());
        profile.pods.congestion_control = Some("dctcp".into());
        profile.maps = [("DESTS".into(), 200_000)].into();
        profile.limits.max_connections = Some(100);
        profile
    }

    fn row<'t>(tuned: &'t Tuned, field: &str) -> &'t Setting {
        tuned.settings.iter().find(|setting| setting.field.ends_with(field)).unwrap()
    }

    #[test]
    fn a_congestion_control_that_the_kernel_lacks_is_told_and_left_out() {
        let (tuning, failures) = of_kernel(&profile(), |name| name == "cubic");
        assert_eq!(Some(tuning.tunnel_algorithm), algorithm("cubic"));
        assert_eq!((tuning.pod_algorithm, tuning.is_on), ([0; 16], 1));
        assert_eq!(failures.len(), 1);
        assert!(failures[0].contains("NodeProfile edge: spec.pods.congestionControl") && failures[0].contains("dctcp"));
        assert_eq!(of_kernel(&NodeProfile::default(), |_| true), (Tuning::default(), Vec::new()));
    }

    #[test]
    fn what_is_wanted_and_what_is_in_force_stand_side_by_side() {
        let (kernel, _) = of_kernel(&profile(), |name| name == "cubic");
        let said = |field: &str, value: &str| InForce { field: field.into(), value: value.into() };
        let proxy = [said("spec.proxy.workers", "4"), said("spec.proxy.sendBufferBytes", "212992")];
        let tuned = tuned(Some(&profile()), Some(&proxy), (&Capacities::default(), &kernel));
        assert_eq!(tuned.profile.as_deref(), Some("edge"));
        assert_eq!((row(&tuned, "workers").in_force.as_str(), row(&tuned, "workers").note.as_str()), ("4", ""));
        assert!(row(&tuned, "sendBufferBytes").note.contains("net.core.wmem_max"));
        assert!(row(&tuned, "maxConnections").note.contains("start a newer one"));
        assert_eq!(row(&tuned, "proxy.congestionControl").in_force, "cubic");
        assert!(row(&tuned, "pods.congestionControl").note.contains("does not have it"));
        let dests = row(&tuned, "DESTS");
        assert_eq!((dests.in_force.as_str(), dests.note.as_str()), ("131072", "needs a restart of the agent"));
        assert_eq!(row(&tuned, "SLOTS").note, "");
    }

    #[test]
    fn without_a_profile_what_the_proxy_has_is_shown_and_nothing_is_wanted() {
        let proxy = [InForce { field: "spec.proxy.workers".into(), value: "2".into() }];
        let tuned = tuned(None, Some(&proxy), (&Capacities::default(), &Tuning::default()));
        assert_eq!(tuned.profile, None);
        assert!(tuned.settings.iter().all(|setting| setting.wanted.is_none() && setting.note.is_empty()));
        assert_eq!(row(&tuned, "workers").in_force, "2");
    }

    #[test]
    fn room_that_a_profile_leaves_behind_needs_a_restart_too() {
        let more = NodeProfile { maps: [("DESTS".into(), 200_000)].into(), ..NodeProfile::default() };
        let tuned = tuned(None, None, (&Capacities::of(Some(&more)), &Tuning::default()));
        assert_eq!(row(&tuned, "DESTS").note, "needs a restart of the agent");
    }
}
