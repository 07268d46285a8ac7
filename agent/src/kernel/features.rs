//! Asks the kernel for what Millrace uses, one thing at a time, and says what a missing one costs.
//!
//! Each probe tries the thing itself, in the smallest form that the kernel answers; none looks at a version number.

mod destroy;

use std::{fs, io, path::Path};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported},
};

use super::{
    attach::{CGROUP, FORGED, Hook, INBOUND, ORDERS, SPOOF},
    btf, by_service, missing, netns, object, syscall,
};

/// One thing that the kernel has or lacks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// Whether it is there.
    pub presence: Presence,
    /// Whether Millrace runs without it.
    pub need: Need,
    /// What is lost without it.
    pub without: &'static str,
}

/// Whether a thing is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It works.
    Present,
    /// The kernel lacks it.
    Missing,
    /// The kernel could not be asked: most often a privilege is missing.
    Unknown(String),
}

/// Whether Millrace runs without a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// The agent does not start.
    Required,
    /// Something is lost, and the rest works.
    Optional,
}

/// Every feature, asked for now. Needs the agent's privileges; changes nothing.
pub fn probe() -> Vec<Feature> {
    let mut features = required();
    features.extend(optional());
    features
}

/// The same, with these taken for missing: how a test sees what becomes of a node that lacks them.
pub fn probe_without(forced: &[String]) -> Vec<Feature> {
    let mut features = probe();
    for feature in &mut features {
        if forced.iter().any(|name| name == feature.name) {
            feature.presence = Presence::Missing;
        }
    }
    features
}

/// What the agent does not start without.
#[derive(Debug, thiserror::Error)]
#[error("this kernel lacks what Millrace needs:{}", .0.iter().map(|(name, cost)| format!("\n  {name}: {cost}")).collect::<String>())]
pub struct Lacking(Vec<(&'static str, &'static str)>);

/// Refuses a kernel that lacks something needed. What could not be asked for is tried: the load says so if it is not there.
pub fn require(features: &[Feature]) -> Result<(), Lacking> {
    let is_lacking = |feature: &&Feature| feature.need == Need::Required && feature.presence == Presence::Missing;
    let lacking: Vec<_> = features.iter().filter(is_lacking).map(|feature| (feature.name, feature.without)).collect();
    if lacking.is_empty() { Ok(()) } else { Err(Lacking(lacking)) }
}

/// True where nothing that Millrace needs is missing.
pub fn suffices(features: &[Feature]) -> bool {
    features.iter().all(|feature| feature.need == Need::Optional || feature.presence == Presence::Present)
}

fn required() -> Vec<Feature> {
    const CAPTURE: &str = "connections of pods cannot be captured: the agent does not start";
    let connect = |helper| helper_of(ProgramType::CgroupSockAddr, helper);
    let sockops = |helper| helper_of(ProgramType::SockOps, helper);
    let need = |name, presence, without| Feature { name, presence, need: Need::Required, without };
    let hooks = CGROUP.iter().map(|hook| need(label(hook), from(probe_hook(hook).map(drop)), without(hook)));
    hooks
        .chain([
            need(label(&INBOUND), from(probe_hook(&INBOUND).map(drop)), without(&INBOUND)),
            need("cgroup2", file(cgroup2()), CAPTURE),
            need("kernel BTF", file(Path::new("/sys/kernel/btf/vmlinux").exists()), "socket storage cannot be made"),
            need("socket storage", connect(BpfHelper::BPF_FUNC_sk_storage_get), "what was asked for cannot be kept"),
            need(
                "socket storage in sockops",
                sockops(BpfHelper::BPF_FUNC_sk_storage_get),
                "nothing can be handed over",
            ),
            need("netns cookie", connect(BpfHelper::BPF_FUNC_get_netns_cookie), "pods cannot be told apart"),
            need("netns cookie in sockops", sockops(BpfHelper::BPF_FUNC_get_netns_cookie), "pods cannot be told apart"),
            need(
                "netns cookie of sockets",
                from(own_cookie()),
                "the agent cannot tell the programs which pod is which",
            ),
            need("errno of a refusal", connect(BpfHelper::BPF_FUNC_set_retval), "refusals cannot say why"),
            need("ring buffer", map(MapType::RingBuf), "the programs cannot be loaded: they write flow records"),
            need("socket hash", map(MapType::SockHash), "connections that arrive cannot be steered"),
        ])
        .collect()
}

fn optional() -> Vec<Feature> {
    let option = |name, presence, without| Feature { name, presence, need: Need::Optional, without };
    vec![
        option(missing::ORDER, order(), "another program on the same hook may run first and hide a service's address"),
        option(
            missing::DESTROY,
            destroy::probe(),
            "a connection that a policy now denies lives until it ends by itself",
        ),
        option(
            missing::DESTROY_UDP,
            destroy::probe_udp(),
            "a connected UDP socket that a policy now denies is spoken by until its application closes it",
        ),
        option(
            missing::BY_SERVICE,
            udp_sockets(),
            "a UDP socket that was connected by a service stays with an endpoint that left it, until that pod is gone",
        ),
        option(
            missing::TCX,
            tcx(),
            "a pod with NET_RAW can send in its neighbours' names: only the sequence number of a connection is checked",
        ),
        option(
            missing::SEQUENCE,
            sequence(),
            "a connection forged in another pod's name, where packets can be, passes as that pod's",
        ),
        option(
            missing::REVERSE_PATH,
            reverse_path(),
            "a packet from the wire that claims a pod's address enters the node: it is taken for plain text from nobody",
        ),
        option(
            missing::GRACE,
            from(syscall::grace_period()),
            "a service's old table is swept without waiting: a connect may try twice",
        ),
        option(
            missing::MPTCP,
            helper_of(ProgramType::SockOps, BpfHelper::BPF_FUNC_skc_to_mptcp_sock),
            "MPTCP applications see the addresses that connections really run between",
        ),
    ]
}

fn label(hook: &Hook) -> &'static str {
    match hook.program {
        "connect4" => "hook connect, IPv4",
        "connect6" => "hook connect, IPv6",
        "getpeername4" => "hook getpeername, IPv4",
        "getpeername6" => "hook getpeername, IPv6",
        "getsockname4" => "hook getsockname, IPv4",
        "getsockname6" => "hook getsockname, IPv6",
        "sendmsg4" => "hook sendmsg, IPv4",
        "sendmsg6" => "hook sendmsg, IPv6",
        "recvmsg4" => "hook recvmsg, IPv4",
        "recvmsg6" => "hook recvmsg, IPv6",
        "sockops" => "hook sockops",
        _ => "hook sk_lookup",
    }
}

fn without(hook: &Hook) -> &'static str {
    match hook.program {
        "connect4" | "connect6" => "connections of pods cannot be captured: the agent does not start",
        "sendmsg4" | "sendmsg6" => "datagrams would pass unjudged: the agent does not start",
        "sockops" => "captured connections cannot be handed over: the agent does not start",
        "inbound" => "connections to pods cannot be steered: the agent does not start",
        _ => "applications would see the mesh's own addresses: the agent does not start",
    }
}

/// Loads a program of two instructions for the hook.
fn probe_hook(hook: &Hook) -> io::Result<std::os::fd::OwnedFd> {
    syscall::load_trivial(hook.program_type, hook.attach_type)
}

/// Asks for a tcx link on an interface that is none: a kernel that knows the hook looks for the interface.
fn tcx() -> Presence {
    let program = match probe_hook(&SPOOF) {
        Ok(program) => program,
        Err(error) => return Presence::Unknown(error.to_string()),
    };
    match syscall::link_nowhere(&program, SPOOF.attach_type, 0).raw_os_error() {
        Some(libc::ENODEV) => Presence::Present,
        Some(libc::EINVAL) => Presence::Missing,
        error => Presence::Unknown(format!("{error:?}")),
    }
}

/// Whether a program can list UDP sockets: such a program is one of the kernel's function that stands for the list.
fn udp_sockets() -> Presence {
    match btf::has_function(by_service::FUNCTION) {
        Ok(exists) => file(exists),
        Err(error) => Presence::Unknown(error.to_string()),
    }
}

/// Whether connecting sockets can be read, and forged connections held.
fn sequence() -> Presence {
    match object::write_seq() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Presence::Missing,
        Err(error) => return Presence::Unknown(error.to_string()),
    }
    let held = FORGED.iter().find_map(|hook| probe_hook(hook).err());
    match (held, is_helper_supported(ProgramType::SockOps, BpfHelper::BPF_FUNC_skc_to_tcp_sock)) {
        (Some(error), _) => from(Err(error)),
        (None, supported) => answer(supported.map_err(|error| error.to_string())),
    }
}

/// Whether the interfaces that lead out of the node, by the routes to everywhere, take a packet only from where its source's
/// own route leads. IPv6 has no such setting.
fn reverse_path() -> Presence {
    let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let is_everywhere = |fields: &Vec<&str>| fields.get(1).zip(fields.get(7)) == Some((&"00000000", &"00000000"));
    let routes = routes.lines().map(|line| line.split_whitespace().collect()).filter(is_everywhere);
    let uplinks: std::collections::BTreeSet<&str> = routes.filter_map(|fields| fields.first().copied()).collect();
    if uplinks.is_empty() {
        return Presence::Unknown("no route leads out of here".to_owned());
    }
    let of = |interface: &str| {
        let setting = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"));
        setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0u8)
    };
    // Of the two settings the larger counts (Documentation/networking/ip-sysctl.rst): 1 is strict, 2 loose.
    file(uplinks.iter().all(|interface| of(interface).max(of("all")) == 1))
}

/// Asks for the firmest order at a cgroup that is none: the kernel looks at the order first.
fn order() -> Presence {
    let [hook, ..] = &CGROUP;
    let [firmest, ..] = ORDERS;
    let program = match probe_hook(hook) {
        Ok(program) => program,
        Err(error) => return Presence::Unknown(error.to_string()),
    };
    match syscall::link_nowhere(&program, hook.attach_type, firmest).raw_os_error() {
        Some(libc::EBADF) => Presence::Present,
        Some(libc::EINVAL) => Presence::Missing,
        error => Presence::Unknown(format!("{error:?}")),
    }
}

fn own_cookie() -> io::Result<()> {
    let own = fs::File::open("/proc/self/ns/net")?;
    netns::netns_cookie(std::os::fd::AsFd::as_fd(&own)).map(drop)
}

fn cgroup2() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"))
}

fn helper_of(program: ProgramType, helper: BpfHelper) -> Presence {
    answer(is_helper_supported(program, helper).map_err(|error| error.to_string()))
}

fn map(kind: MapType) -> Presence {
    answer(is_map_supported(kind).map_err(|error| error.to_string()))
}

fn file(exists: bool) -> Presence {
    if exists { Presence::Present } else { Presence::Missing }
}

fn answer(answer: Result<bool, String>) -> Presence {
    match answer {
        Ok(exists) => file(exists),
        Err(error) => Presence::Unknown(error),
    }
}

/// What a probe's error says: that there is no such thing, or that one may not ask.
fn from(result: io::Result<()>) -> Presence {
    match result {
        Ok(()) => Presence::Present,
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL | libc::ENOSYS | libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Presence::Missing,
            _ => Presence::Unknown(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_cannot_be_asked_for_does_not_suffice() {
        let feature = |need, presence| Feature { name: "x", presence, need, without: "y" };
        let unknown = || Presence::Unknown("no privilege".to_owned());
        assert!(suffices(&[feature(Need::Required, Presence::Present), feature(Need::Optional, Presence::Missing)]));
        assert!(!suffices(&[feature(Need::Required, Presence::Missing)]));
        assert!(!suffices(&[feature(Need::Required, unknown())]));
    }

    #[test]
    fn every_hook_has_a_label_of_its_own() {
        let labels: std::collections::BTreeSet<_> = CGROUP.iter().chain([&INBOUND]).map(label).collect();
        assert_eq!(labels.len(), CGROUP.len() + 1);
    }
}
