//! Checks who depends on whom, and that the kernel's user-space library stays at the versions that fit the compiler.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{config::Config, console, lint};

use super::Complaint;

/// What each crate of ours may name of ours. A crate that is not listed may name none.
const OURS: &[(&str, &[&str])] = &[
    ("millrace-model", &[]),
    ("millrace-abi", &[]),
    ("millrace-crd", &[]),
    ("xtask", &[]),
    ("millrace-wire", &["millrace-model"]),
    ("millrace-node", &["millrace-model", "millrace-wire"]),
    ("millrace-routes", &["millrace-model"]),
    ("millrace-agent", &["millrace-node", "millrace-model", "millrace-wire", "millrace-abi"]),
    ("millrace-l7-proxy", &["millrace-node", "millrace-model", "millrace-routes", "millrace-abi"]),
    ("millrace-control", &["millrace-node", "millrace-model", "millrace-crd", "millrace-routes", "millrace-wire"]),
    ("millrace-cli", &["millrace-model", "millrace-routes", "millrace-wire", "millrace-crd"]),
    ("millrace-ebpf", &["millrace-abi"]),
];

/// Tests may name everything.
const TESTS: &[&str] =
    &["millrace-lab", "millrace-bench", "millrace-kernel-tests", "millrace-cluster-tests", "millrace-fuzz"];

/// Crates of others that belong to a few of ours: who else names one is where it must not be.
const THEIRS: &[(&str, &[&str])] = &[
    ("aya", &["millrace-agent"]),
    ("aya-log", &["millrace-agent"]),
    ("aya-obj", &["millrace-agent"]),
    // The types of kinds are derived by it; its client is for control and cli, which the features below hold.
    ("kube", &["millrace-crd", "millrace-control", "millrace-cli"]),
];

/// What `millrace-crd` may use of kube: the derive, no client.
const CRD_FEATURES: &[&str] = &["derive"];

/// What may not be in the pure crate at all, through whomever: it does no IO and knows no one's API.
const NOT_IN_MODEL: &[&str] = &["tokio", "kube", "prost", "aya"];

/// Versions of this family fit one compiler each, so they are pinned.
const PINNED: &str = "aya";

/// Every check of dependencies, over all workspaces.
pub(crate) fn check(config: &Config) -> Result<Vec<Complaint>> {
    let mut complaints = Vec::new();
    for manifest in lint::manifests(&config.root) {
        let mut command = Command::new(&config.cargo);
        command.args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"]).arg(&manifest);
        let metadata: Value = serde_json::from_str(&console::read(&mut command)?)?;
        complaints.extend(packages(&metadata)?.iter().flat_map(named));
    }
    let mut command = Command::new(&config.cargo);
    command.current_dir(&config.root).args(["tree", "--package=millrace-model", "--edges=normal", "--prefix=none"]);
    complaints.extend(reached(&console::read(&mut command)?));
    Ok(complaints)
}

/// A crate of ours and what its manifest names.
#[derive(Debug)]
struct Package {
    name: String,
    names: BTreeMap<String, Named>,
}

#[derive(Debug, Default)]
struct Named {
    version: String,
    features: BTreeSet<String>,
}

fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    list(metadata, "packages")
        .iter()
        .map(|package| {
            let mut names: BTreeMap<String, Named> = BTreeMap::new();
            for dependency in list(package, "dependencies") {
                let entry = names.entry(text(&dependency, "name").context("a dependency has a name")?).or_default();
                entry.version = text(&dependency, "req").unwrap_or_default();
                entry
                    .features
                    .extend(list(&dependency, "features").iter().filter_map(Value::as_str).map(str::to_owned));
            }
            Ok(Package { name: text(package, "name").context("a package has a name")?, names })
        })
        .collect()
}

fn named(package: &Package) -> Vec<Complaint> {
    let complain = |what: String| Complaint::new(package.name.clone(), what);
    let is_test = TESTS.contains(&&*package.name);
    let allowed = OURS.iter().find(|(name, _)| *name == package.name).map_or(&[][..], |(_, allowed)| allowed);
    let ours = |name: &str| name.starts_with("millrace-") || name == "xtask";
    let mut complaints = Vec::new();
    for (name, named) in &package.names {
        if ours(name) && !is_test && !allowed.contains(&&**name) {
            complaints.push(complain(format!("may not depend on {name} (docs/ARCHITECTURE.md)")));
        }
        let owners = THEIRS.iter().find(|(theirs, _)| theirs == name).map(|(_, owners)| *owners);
        if owners.is_some_and(|owners| !is_test && !owners.contains(&&*package.name)) {
            complaints.push(complain(format!(
                "may not depend on {name}, which belongs to {}",
                owners.unwrap_or_default().join(", ")
            )));
        }
        if is_pinned_family(name) && !named.version.starts_with('=') {
            complaints
                .push(complain(format!("names {name} {}: pin it with `=`, each fits one compiler", named.version)));
        }
        if package.name == "millrace-crd" && name == "kube" {
            let more = named.features.iter().filter(|feature| !CRD_FEATURES.contains(&&***feature));
            complaints.extend(
                more.map(|feature| complain(format!("may not use kube's {feature}: kinds are types, no client"))),
            );
        }
    }
    complaints
}

fn is_pinned_family(name: &str) -> bool {
    name.strip_prefix(PINNED).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Complaints about what `cargo tree` shows beneath the pure crate.
fn reached(tree: &str) -> Vec<Complaint> {
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let found = NOT_IN_MODEL.iter().filter(|name| names.contains(*name));
    found
        .map(|name| Complaint::new("millrace-model", format!("reaches {name}, through a dependency: it is pure")))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{named, packages, reached};

    /// A name, a version and features.
    type Named<'a> = (&'a str, &'a str, &'a [&'a str]);

    fn complaints(package: &str, dependencies: &[Named<'_>]) -> Vec<String> {
        let list: Vec<_> = dependencies
            .iter()
            .map(|(name, req, features)| json!({"name": name, "req": req, "features": features}))
            .collect();
        let metadata = json!({"packages": [{"name": package, "dependencies": list}]});
        packages(&metadata).unwrap().iter().flat_map(named).map(|complaint| complaint.what).collect()
    }

    #[test]
    fn agent_and_proxy_never_see_each_others_code() {
        assert_eq!(complaints("millrace-l7-proxy", &[("millrace-node", "*", &[])]), Vec::<String>::new());
        assert_eq!(complaints("millrace-l7-proxy", &[("millrace-agent", "*", &[])]).len(), 1);
        assert_eq!(complaints("millrace-lab", &[("millrace-agent", "*", &[])]), Vec::<String>::new());
    }

    #[test]
    fn a_new_crate_may_name_none_of_ours_until_it_is_listed() {
        assert_eq!(complaints("millrace-new", &[("millrace-model", "*", &[])]).len(), 1);
    }

    #[test]
    fn the_kernel_is_the_agents_and_its_library_is_pinned() {
        assert_eq!(complaints("millrace-agent", &[("aya", "=0.14.0", &[])]), Vec::<String>::new());
        assert_eq!(complaints("millrace-agent", &[("aya", "^0.14", &[])]).len(), 1);
        assert_eq!(complaints("millrace-node", &[("aya", "=0.14.0", &[])]).len(), 1);
        assert_eq!(complaints("millrace-ebpf", &[("aya-ebpf", "^0.2", &[])]).len(), 1);
    }

    #[test]
    fn kinds_are_types_without_a_client() {
        assert_eq!(complaints("millrace-crd", &[("kube", "^4", &["derive"])]), Vec::<String>::new());
        assert_eq!(complaints("millrace-crd", &[("kube", "^4", &["client"])]).len(), 1);
    }

    #[test]
    fn the_pure_crate_reaches_no_runtime() {
        assert_eq!(reached("millrace-model v0.1.0\nserde v1.0.0\n"), []);
        assert_eq!(reached("millrace-model v0.1.0\nipnet v2\ntokio v1.54.0 (*)\n").len(), 1);
    }
}
