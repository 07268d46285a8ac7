//! Reads the settings: typed arguments first, their meaning second. All that is wrong is told at once.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use millrace_model::identity::{ROOT_NAMESPACE, is_trust_domain};
use serde::Serialize;

use crate::{source::object::meta::is_dns_label, world::Settings};

/// Below this a leaf is renewed more often than a busy machine manages.
const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(5);
/// The longer one lives, the longer a revoked node has to be remembered by every node.
const MAX_LEAF_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The control plane of the Millrace mesh: compiles a directory of manifests, streams it to the nodes, issues certificates.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace-control", version)]
pub struct Args {
    /// The directory of manifests (*.yaml, *.yml), watched for changes.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Watches a Kubernetes API server instead of a directory.
    #[arg(long)]
    pub kubernetes: bool,
    /// How the API server is reached; left out, as the pod that this process runs in.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Reads this namespace's objects only; may be given more than once.
    #[arg(long = "namespace", value_name = "NAME", requires = "kubernetes")]
    pub namespaces: Vec<String>,
    /// Where the API server asks whether a policy may be written: HTTPS.
    #[arg(long, value_name = "ADDR:PORT", requires = "kubernetes")]
    pub webhook: Option<SocketAddr>,
    /// Where nodes connect: gRPC over TLS 1.3.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// The admin socket: HTTP, for root only.
    #[arg(long, value_name = "PATH", default_value = "/run/millrace/control-admin.sock")]
    pub admin: PathBuf,
    /// Where the root, the tokens and what the nodes last said are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/millrace")]
    pub state_dir: PathBuf,
    /// The trust domain of every identity.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// How long a leaf certificate lives: a number and s, m, h or d.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub leaf_ttl: String,
    /// How long a node's own certificate lives: one that is away for longer joins again, with a new token. At least --leaf-ttl.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub node_ttl: String,
    /// What is logged, as tracing's filters spell it.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "RUST_LOG")]
    pub log: String,
}

/// The settings, once they mean something.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// Where the objects come from.
    pub source: Source,
    /// Where nodes connect.
    pub listen: SocketAddr,
    /// The admin socket.
    pub admin: PathBuf,
    /// What outlives a restart.
    pub state_dir: PathBuf,
    /// What holds for the whole mesh.
    pub mesh: Settings,
    /// How long a leaf certificate lives.
    pub leaf_lifetime: Duration,
    /// How long a node's own lives.
    pub node_lifetime: Duration,
    /// What is logged at first.
    pub log: String,
}

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A directory of manifests.
    Directory(PathBuf),
    /// A Kubernetes API server.
    Kubernetes {
        /// How it is reached; None for as this pod.
        kubeconfig: Option<PathBuf>,
        /// The only namespaces that are read; all, where none is named.
        namespaces: BTreeSet<String>,
        /// Where the API server asks whether a policy may be written; None where it does not.
        webhook: Option<SocketAddr>,
    },
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Wrong(Vec<String>);

impl Config {
    /// The settings that these arguments mean.
    pub fn from_args(args: Args) -> Result<Self, Wrong> {
        let Args { listen, admin, state_dir, trust_domain, leaf_ttl, node_ttl, log, .. } = &args;
        let mut wrong = Vec::new();
        let source = source(&args, &mut wrong);
        if !is_trust_domain(trust_domain) {
            wrong.push(format!("--trust-domain: {trust_domain:?} is no trust domain; write lower-case letters, digits, '.', '-' and '_'"));
        }
        let leaf_lifetime = duration(leaf_ttl).unwrap_or_default();
        if !(MIN_LEAF_LIFETIME..=MAX_LEAF_LIFETIME).contains(&leaf_lifetime) {
            wrong.push(format!("--leaf-ttl: {leaf_ttl:?} is not a time from 5s to 30d, such as 24h"));
        }
        // A person who only says how long leaves live shall not have to say the other too.
        let node_lifetime = duration(node_ttl).unwrap_or_default().max(leaf_lifetime);
        if !(MIN_LEAF_LIFETIME..=MAX_LEAF_LIFETIME).contains(&duration(node_ttl).unwrap_or_default()) {
            wrong.push(format!("--node-ttl: {node_ttl:?} is not a time from 5s to 30d, such as 24h"));
        }
        if let Err(error) = log.parse::<tracing_subscriber::EnvFilter>() {
            wrong.push(format!("--log: {log:?} is no filter: {error}"));
        }
        let (Some(source), true) = (source, wrong.is_empty()) else {
            return Err(Wrong(wrong));
        };
        let mesh = Settings { trust_domain: Arc::from(&**trust_domain), root_namespace: Arc::from(ROOT_NAMESPACE) };
        let (listen, admin, state_dir, log) = (*listen, admin.clone(), state_dir.clone(), log.clone());
        Ok(Self { source, listen, admin, state_dir, mesh, leaf_lifetime, node_lifetime, log })
    }
}

fn source(args: &Args, wrong: &mut Vec<String>) -> Option<Source> {
    let Args { directory, kubernetes, kubeconfig, namespaces, webhook, .. } = args;
    match (directory, kubernetes) {
        (Some(_), true) | (None, false) => {
            wrong.push("--directory DIR or --kubernetes: one of the two says where the objects come from".to_owned());
            None
        }
        (Some(directory), false) => {
            if !directory.is_dir() {
                // An empty mesh published by mistake would take every policy from every node.
                wrong.push(format!("--directory: {} is no directory", directory.display()));
            }
            Some(Source::Directory(directory.clone()))
        }
        (None, true) => {
            let mut namespaces: BTreeSet<String> = namespaces.iter().cloned().collect();
            for name in namespaces.iter().filter(|name| !is_dns_label(name)) {
                wrong.push(format!("--namespace: {name:?} is no namespace's name"));
            }
            if !namespaces.is_empty() {
                // Its policies are for every namespace, those that are read too.
                namespaces.insert(ROOT_NAMESPACE.to_owned());
            }
            Some(Source::Kubernetes { kubeconfig: kubeconfig.clone(), namespaces, webhook: *webhook })
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::{Args, Config, Source, duration};

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        for text in ["", "24", "h", "1w", "-1h", "1.5h", "99999999999999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let args = Args::parse_from([
            "millrace-control",
            "--directory=/does/not/exist",
            "--listen=[::1]:0",
            "--trust-domain=UPPER",
            "--leaf-ttl=1w",
            "--node-ttl=never",
            "--log=a=b=c",
        ]);
        let message = Config::from_args(args).unwrap_err().to_string();
        for flag in ["--directory", "--trust-domain", "--leaf-ttl", "--node-ttl", "--log"] {
            assert!(message.contains(flag), "{message}");
        }
    }

    #[test]
    fn a_nodes_own_certificate_lives_at_least_as_long_as_its_workloads() {
        let lifetimes = |more: &[&str]| {
            let all = ["millrace-control", "--listen=[::1]:0", "--directory=/"].iter().chain(more);
            let config = Config::from_args(Args::parse_from(all)).unwrap();
            [config.leaf_lifetime, config.node_lifetime].map(|lifetime| lifetime.as_secs())
        };
        assert_eq!(lifetimes(&["--leaf-ttl=10s"]), [10, 86_400]);
        assert_eq!(lifetimes(&["--leaf-ttl=10s", "--node-ttl=60s"]), [10, 60]);
        assert_eq!(lifetimes(&["--leaf-ttl=2d"]), [172_800, 172_800]);
    }

    #[test]
    fn the_objects_come_from_one_source() {
        let parse = |more: &[&str]| {
            let all = ["millrace-control", "--listen=[::1]:0"].iter().chain(more);
            Config::from_args(Args::try_parse_from(all).map_err(|e| e.to_string())?).map_err(|e| e.to_string())
        };
        assert!(parse(&[]).unwrap_err().contains("--kubernetes"));
        assert!(parse(&["--directory=/", "--kubernetes"]).unwrap_err().contains("one of the two"));
        assert!(parse(&["--directory=/", "--namespace=shop"]).unwrap_err().contains("--kubernetes"));
        assert!(parse(&["--kubernetes", "--namespace=UPPER"]).unwrap_err().contains("UPPER"));
        let both = ["shop".to_owned(), "millrace-system".to_owned()].into();
        let source = parse(&["--kubernetes", "--namespace=shop"]).unwrap().source;
        assert_eq!(source, Source::Kubernetes { kubeconfig: None, namespaces: both, webhook: None });
    }
}
