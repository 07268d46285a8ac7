//! Looks once for pods: from the folders of their logs to uids, from uids to processes, from the oldest of those to a namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use millrace_model::ObjectName;

use super::{Company, Kubelet, Looked, Own, Sandbox, Sandboxes, logs, process::Process};

/// A process of a pod.
struct Member {
    began: u64,
    network: Result<(u64, u64), String>,
    process: Process,
}

/// What there is of these pods. What was found before and is as it was stays.
pub(super) fn look(kubelet: &Kubelet, names: &BTreeSet<ObjectName>, before: &Sandboxes) -> Sandboxes {
    let mut now = Sandboxes { looked: Looked::Kubelet, ..Sandboxes::default() };
    let Ok(uids) = uids(kubelet, names) else {
        // One that was there is there still: its pods are not let go of because a folder can't be read.
        return if before.looked == Looked::Kubelet {
            before.clone()
        } else {
            Sandboxes { looked: Looked::NoKubelet, ..now }
        };
    };
    now.pods = before
        .pods
        .iter()
        .filter(|(name, held)| names.contains(*name) && lives(held))
        .map(|(name, held)| (name.clone(), held.clone()))
        .collect();
    let is_found = |name: &ObjectName| now.pods.contains_key(name);
    let wanted: BTreeMap<&str, &ObjectName> =
        uids.iter().filter(|(_, name)| !is_found(name)).map(|(uid, name)| (uid.as_str(), name)).collect();
    if wanted.is_empty() {
        return now;
    }
    // The agent's own: it runs in its node's network.
    let host = Process::open(Path::new(super::PROC), "self").and_then(|own| own.network()).ok();
    for (name, mut members) in members(kubelet, &wanted) {
        members.sort_by_key(|member| member.began);
        let company = if members.len() == 1 { Company::Nobody } else { Company::Others };
        match sandbox(members, host, company) {
            Ok(sandbox) => drop(now.pods.insert(name, sandbox)),
            Err(why) => drop(now.faults.insert(name, why)),
        }
    }
    now
}

/// Whether what was found is there still.
fn lives(held: &Sandbox) -> bool {
    match held {
        // One that was told of is told of again, until it is found.
        Sandbox::Own(Own { process: None, .. }) => false,
        Sandbox::Own(Own { process: Some(process), file, .. }) => process.network().is_ok_and(|now| now == *file),
        Sandbox::Host(process) => process.network().is_ok(),
    }
}

/// The uids that the kubelet has, or had, for pods of these names.
fn uids(kubelet: &Kubelet, names: &BTreeSet<ObjectName>) -> std::io::Result<BTreeMap<String, ObjectName>> {
    let mut found = BTreeMap::new();
    for pod in logs::pods(&kubelet.logs)? {
        let (name, uid) = pod?;
        if names.contains(&name) {
            found.insert(uid, name);
        }
    }
    Ok(found)
}

/// The processes of these pods. Of two uids that one name has processes of, those that began last: the one that comes begins
/// after the one that goes.
fn members(kubelet: &Kubelet, wanted: &BTreeMap<&str, &ObjectName>) -> BTreeMap<ObjectName, Vec<Member>> {
    let mut by_uid: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    let Ok(entries) = fs::read_dir(&kubelet.proc) else { return BTreeMap::new() };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().filter(|name| name.bytes().all(|c| c.is_ascii_digit())) else { continue };
        // It may have ended meanwhile.
        let Ok(process) = Process::open(&kubelet.proc, number) else { continue };
        let Some(uid) = process.pod().filter(|uid| wanted.contains_key(uid.as_str())) else { continue };
        let Some(began) = process.began() else { continue };
        let network = process.network().map_err(|why| {
            format!("the network namespace of process {number}, which is its, can't be read: {why}: the agent needs SYS_PTRACE")
        });
        by_uid.entry(uid).or_default().push(Member { began, network, process });
    }
    let first = |members: &[Member]| members.iter().map(|member| member.began).min();
    let mut by_name: BTreeMap<ObjectName, Vec<Member>> = BTreeMap::new();
    for (uid, members) in by_uid {
        let Some(name) = wanted.get(uid.as_str()) else { continue };
        if by_name.get(*name).is_none_or(|held| first(held) < first(&members)) {
            by_name.insert((*name).clone(), members);
        }
    }
    by_name
}

/// Where these are, the oldest of them first.
fn sandbox(members: Vec<Member>, host: Option<(u64, u64)>, company: Company) -> Result<Sandbox, String> {
    let mut in_hosts = None;
    let mut fault = None;
    for Member { began: _, network, process } in members {
        match network {
            Ok(file) if Some(file) == host => drop(in_hosts.get_or_insert(process)),
            Ok(file) => {
                let namespace =
                    process.namespace().map_err(|why| format!("its network namespace can't be opened: {why}"))?;
                let (namespace, process) = (Arc::new(namespace), Some(Arc::new(process)));
                return Ok(Sandbox::Own(Own { namespace, file, addresses: Vec::new(), company, process }));
            }
            Err(why) => drop(fault.get_or_insert(why)),
        }
    }
    match (in_hosts, fault) {
        (_, Some(why)) => Err(why),
        (Some(process), None) => Ok(Sandbox::Host(Arc::new(process))),
        (None, None) => Err("its processes have ended".to_owned()),
    }
}
