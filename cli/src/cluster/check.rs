//! Checks, one by one, whether a cluster has what Millrace needs, and says what is lost without it.

use k8s_openapi::{
    api::{
        admissionregistration::v1::ValidatingWebhookConfiguration,
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        core::v1::{ConfigMap, Namespace, Node, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde::Serialize;

use super::{ROOT, look::kinds, unasked};
use crate::{Failure, table::Table};

/// A version, whether it is needed, and what is lost on an older one.
type Least = ((u64, u64), bool, &'static str);
/// A verb, a group, a resource, and whether in the root namespace alone.
type Right = (&'static str, &'static str, &'static str, bool);

/// The oldest kernel that the data plane runs on, and the oldest on which forged packets of pods are dropped.
const KERNELS: [Least; 2] = [
    ((5, 19), true, "the agent does not start there"),
    ((6, 6), false, "what pods send in another's name is not dropped there"),
];
/// What the control plane can't do without: verb, group, resource, and the root namespace or every one.
const RIGHTS: [Right; 11] = [
    ("list", "", "pods", false),
    ("watch", "", "services", false),
    ("watch", "discovery.k8s.io", "endpointslices", false),
    ("watch", "networking.k8s.io", "networkpolicies", false),
    ("watch", "millrace.dev", "accesspolicies", false),
    ("patch", "millrace.dev", "accesspolicies/status", false),
    ("patch", "gateway.networking.k8s.io", "httproutes/status", false),
    ("create", "authentication.k8s.io", "tokenreviews", false),
    ("get", "", "nodes", false),
    ("create", "", "secrets", true),
    ("watch", "coordination.k8s.io", "leases", true),
];

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked for.
    what: String,
    /// Whether it is there; None where you may not know.
    there: Option<bool>,
    /// Whether the mesh does not work without it.
    needed: bool,
    /// What is lost without it, and how to mend that.
    without: String,
}

/// Whether all that is needed is there, as far as can be told.
pub(super) fn is_enough(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.there != Some(false) || !finding.needed)
}

/// Looks for all of it.
pub(super) async fn check(client: &Client) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut found = |what: String, there: Option<bool>, needed: bool, without: &str| {
        findings.push(Finding { what, there, needed, without: without.to_owned() });
    };
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (kind, resource) in kinds() {
        let name = format!("{}.{}", resource.plural, resource.group);
        let definition = opt(definitions.get_opt(&name).await, "definitions")?;
        let is_served = definition.map(|definition| {
            let version = |crd: &CustomResourceDefinition| {
                crd.spec.versions.iter().any(|version| version.served && version.name == resource.version)
            };
            definition.as_ref().is_some_and(version)
        });
        let mend = "its objects can't be written: `millrace crds | kubectl apply --server-side -f -`";
        found(format!("{kind} in version {}", resource.version), is_served, true, mend);
    }
    let namespace = Api::<Namespace>::all(client.clone()).get_opt(ROOT).await;
    let namespace = opt(namespace, "namespaces")?.map(|found| found.is_some());
    found(format!("namespace {ROOT}"), namespace, true, "nothing of the mesh has a place: apply deploy/control");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), ROOT);
    for (account, without) in [
        ("millrace-control", "the control plane may read nothing: apply deploy/control/rbac.yaml"),
        ("millrace-agent", "no node can join by its agent's token: apply deploy/control/rbac.yaml"),
    ] {
        let there = opt(accounts.get_opt(account).await, "service accounts")?.map(|found| found.is_some());
        found(format!("service account {account}"), there, true, without);
    }
    for right @ (verb, _, resource, _) in RIGHTS {
        let may = may(client, right).await?;
        found(format!("right to {verb} {resource}"), may, true, "apply deploy/control/rbac.yaml");
    }
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let webhook = opt(webhooks.get_opt("millrace-control").await, "webhooks")?;
    let knows = webhook.map(|webhook| {
        let hooks = webhook.and_then(|webhook| webhook.webhooks).unwrap_or_default();
        !hooks.is_empty() && hooks.iter().all(|hook| hook.client_config.ca_bundle.is_some())
    });
    let without =
        "wrong policies are told on their status alone: apply deploy/control/webhook.yaml, and run millrace-control";
    found("webhook that knows its certificate".to_owned(), knows, false, without);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ROOT);
    let roots = opt(maps.get_opt("millrace-roots").await, "config maps")?.map(|found| found.is_some());
    found(
        "the mesh's roots".to_owned(),
        roots,
        true,
        "agents can't know the control plane: is millrace-control running?",
    );
    for (what, there, needed, without) in kernels(client).await? {
        found(what, there, needed, &without);
    }
    Ok(findings)
}

/// What it found, or that one may not know.
fn opt<T>(asked: kube::Result<T>, what: &str) -> Result<Option<T>, Failure> {
    match asked {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(why) => Err(unasked(what, &why)),
    }
}

/// Whether the control plane's service account may do this, as the API server itself judges.
async fn may(client: &Client, (verb, group, resource, in_root): Right) -> Result<Option<bool>, Failure> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, sub)) => (resource, Some(sub.to_owned())),
        None => (resource, None),
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{ROOT}:millrace-control")),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                namespace: in_root.then(|| ROOT.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let reviewed = opt(reviews.create(&PostParams::default(), &review).await, "rights")?;
    Ok(reviewed.map(|review| review.status.is_some_and(|status| status.allowed)))
}

type Kernel = (String, Option<bool>, bool, String);

async fn kernels(client: &Client) -> Result<Vec<Kernel>, Failure> {
    let nodes: Api<Node> = Api::all(client.clone());
    let Some(nodes) = opt(nodes.list(&ListParams::default()).await, "nodes")? else {
        return Ok(vec![("nodes' kernels".to_owned(), None, true, "their versions are not known".to_owned())]);
    };
    let versions: Vec<(String, String)> = nodes
        .items
        .into_iter()
        .filter_map(|node| {
            let kernel = node.status?.node_info?.kernel_version;
            Some((node.metadata.name?, kernel))
        })
        .collect();
    Ok(KERNELS.iter().map(|(least, needed, without)| judged(&versions, *least, *needed, without)).collect())
}

/// Names the nodes whose kernel is older. Pure.
fn judged(versions: &[(String, String)], least: (u64, u64), needed: bool, without: &str) -> Kernel {
    let older: Vec<&str> = versions
        .iter()
        .filter(|(_, kernel)| version(kernel).is_some_and(|version| version < least))
        .map(|(name, _)| name.as_str())
        .collect();
    let without = if older.is_empty() { without.to_owned() } else { format!("{without}: {}", older.join(", ")) };
    (format!("kernel {}.{} on every node", least.0, least.1), Some(older.is_empty()), needed, without)
}

/// The first two numbers of a kernel's version.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// For people.
pub(super) fn text(findings: &[Finding]) -> String {
    let mut table = Table::new(["WHAT", "THERE", "WITHOUT IT"]);
    for Finding { what, there, needed, without } in findings {
        let there = match (there, needed) {
            (Some(true), _) => "yes",
            (Some(false), true) => "NO",
            (Some(false), false) => "no",
            (None, _) => "you may not know",
        };
        table.row([what.clone(), there.to_owned(), without.clone()]);
    }
    let missing = findings.iter().filter(|finding| finding.there == Some(false));
    let (needed, lesser): (Vec<_>, Vec<_>) = missing.partition(|finding| finding.needed);
    let verdict = match (needed.len(), lesser.len()) {
        (0, 0) => "This cluster has what Millrace needs.".to_owned(),
        (0, n) => format!("This cluster has what Millrace needs, without what {n} more would give."),
        (n, _) => format!("This cluster lacks {n} of what Millrace needs."),
    };
    format!("{table}\n{verdict}\n")
}

#[cfg(test)]
mod tests {
    use super::{Finding, is_enough, judged, text, version};

    #[test]
    fn nodes_with_older_kernels_are_named() {
        let versions = [("a", "6.18.5-cloud"), ("b", "5.15.0-101-generic"), ("c", "odd")];
        let versions = versions.map(|(name, kernel)| (name.to_owned(), kernel.to_owned()));
        let (_, there, _, without) = judged(&versions, (5, 19), true, "no agent there");
        assert_eq!((there, &*without), (Some(false), "no agent there: b"));
        assert_eq!(version("6.6"), Some((6, 6)));
        assert_eq!(version("v6.6"), None);
    }

    #[test]
    fn what_is_needed_and_missing_is_said_last_and_what_one_may_not_know_is_no_fault() {
        let finding = |what: &str, there, needed| Finding {
            what: what.to_owned(),
            there,
            needed,
            without: "nothing works".to_owned(),
        };
        let unknown = [finding("rights", None, true), finding("webhook", Some(false), false)];
        assert!(is_enough(&unknown));
        let missing = [finding("kinds", Some(false), true)];
        assert!(!is_enough(&missing));
        assert!(text(&missing).ends_with("This cluster lacks 1 of what Millrace needs.\n"), "{}", text(&missing));
    }
}
