//! Millrace as `deploy` says on a real cluster with nodes: kubelets, containerd, a DaemonSet, a Deployment behind a Service.
//!
//! Long: it builds all of Kubernetes, once. Nothing is written on pods: agents find them.

mod alone;
mod first;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    image,
    server::{Server, program},
};

/// How long a roll-out may take on two busy cores.
const PATIENCE: Duration = Duration::from_secs(180);
/// Neither kubectl nor a pod tells when what is asked for is so.
const LOOK: Duration = Duration::from_millis(300);
/// How long pods call, in seconds: two kills and a roll-out take less.
const LOAD: u32 = 60;
/// The image of the manifests, as containerd calls it.
const IMAGE: &str = "docker.io/library/millrace:0.1.0";

struct Cluster {
    server: Server,
    name: String,
    services: Services,
    start: Start,
}

/// How pods start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// As they do anywhere.
    Freely,
    /// When the node's agent knows them, by the CNI plugin.
    HeldBack,
}

/// Who carries services' addresses beside the mesh.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Services {
    KubeProxy,
    Nobody,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for (what, args) in [("pods", "get pods -A -o wide"), ("events", "get events -A --sort-by=.lastTimestamp")]
            {
                let said = self.server.kubectl(&args.split(' ').collect::<Vec<_>>(), "");
                let text = String::from_utf8_lossy(&said.stdout).into_owned();
                let lines: Vec<&str> = text.lines().collect();
                println!("{what}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
            for part in ["daemonset/millrace-agent", "deployment/millrace-control"] {
                let said =
                    self.server.kubectl(&["logs", "-n", "millrace-system", part, "--all-containers", "--tail=30"], "");
                println!("{part}:\n{}", String::from_utf8_lossy(&said.stdout));
            }
        }
        drop(xtask(&["cluster", "down", "--name", &self.name]));
    }
}

fn xtask(args: &[&str]) -> Output {
    Command::new(program("xtask")).args(args).output().unwrap()
}

fn done(said: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
    text(&said.stdout)
}

fn deploy(file: &str) -> String {
    fs::read_to_string(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy")).join(file)).unwrap()
}

impl Cluster {
    fn up(services: Services, start: Start) -> Self {
        let name = format!("nodes-{}", std::process::id());
        let owner = std::process::id().to_string();
        let began = millrace_control::clock::now();
        let cluster = Self { server: Server::at(&name), name, services, start };
        let proxy = if services == Services::Nobody { "none" } else { "nftables" };
        let args = ["cluster", "up", "--nodes", "2", "--kube-proxy", proxy, "--name", &cluster.name, "--owner", &owner];
        done(&xtask(&args));
        println!("two nodes are ready {:.1?} after the start", began.elapsed());
        cluster
    }

    /// Two nodes with Millrace, and a shop: an application on each node, and two that call it.
    fn with_a_shop(services: Services, start: Start) -> Self {
        let cluster = Self::up(services, start);
        cluster.load_millrace();
        let began = millrace_control::clock::now();
        cluster.install();
        println!("installed and rolled out in {:.1?}", began.elapsed());
        let mesh = json!({"millrace.dev/mesh": "enabled"});
        let object = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        let mut shop = object("Namespace", "shop");
        shop["metadata"]["labels"] = mesh;
        cluster.server.apply(&shop.to_string());
        for name in ["web", "client", "stranger"] {
            let mut account = object("ServiceAccount", name);
            account["metadata"]["namespace"] = json!("shop");
            cluster.server.apply(&account.to_string());
        }
        for (name, node) in [("web-1", 1), ("web-2", 2), ("client-1", 1), ("stranger-1", 1)] {
            cluster.server.apply(&application(name, &format!("node-{node}")).to_string());
        }
        let mut service = object("Service", "web");
        service["metadata"]["namespace"] = json!("shop");
        service["spec"] =
            json!({"selector": {"app": "web"}, "ports": [{"name": "tcp", "port": 80, "targetPort": 8080}]});
        cluster.server.apply(&service.to_string());
        cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
        let agents = cluster.agents();
        cluster.until("all four pods are captured", || {
            let n: usize = agents.iter().map(|agent| cluster.status(agent).matches("captured").count()).sum();
            (n >= 4).then_some(())
        });
        cluster
    }

    /// The pods of the DaemonSet, by node.
    fn agents(&self) -> Vec<String> {
        let args = [
            "pods",
            "-n",
            "millrace-system",
            "-l",
            "app.kubernetes.io/name=millrace-agent",
            "--sort-by=.spec.nodeName",
        ];
        let list = self.object(&args);
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        list["items"].as_array().unwrap().iter().map(name).collect()
    }

    fn service(&self) -> String {
        self.object(&["service", "web", "-n", "shop"])["spec"]["clusterIP"].as_str().unwrap().to_owned()
    }

    fn url(&self) -> String {
        format!("http://{}/", self.service())
    }

    /// Calls from a pod for so long, a connection for each call.
    fn load(&self, pod: &str, seconds: u32) -> Child {
        let mut load = Command::new(self.server.folder().join("bin/kubectl"));
        load.arg("--kubeconfig").arg(self.server.kubeconfig());
        load.args(["exec", "-n", "shop", pod, "--", "/echo", "load", &self.url(), &seconds.to_string()]);
        load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Kills a replica's process, as a fault of its own would: its container is started again.
    fn kill(&self, pod: &str) {
        let pod = self.object(&["pod", pod, "-n", "millrace-system"]);
        let (uid, node) = (pod["metadata"]["uid"].as_str().unwrap(), pod["spec"]["nodeName"].as_str().unwrap());
        let group = cgroups().join(format!("k8s-{}-{node}", self.name));
        let mut killed = 0;
        for pid in processes(&group, &format!("pod{uid}")) {
            if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "millrace-contro") {
                rustix::process::kill_process(pid_of(pid), rustix::process::Signal::KILL).unwrap();
                killed += 1;
            }
        }
        assert_eq!(killed, 1, "{uid} on {node}");
    }

    /// The control plane's pods that are ready.
    fn replicas(&self) -> Vec<String> {
        let args = ["pods", "-n", "millrace-system", "-l", "app.kubernetes.io/name=millrace-control"];
        let list = self.object(&args);
        let is_ready = |pod: &&Value| {
            let list = pod["status"]["conditions"].as_array();
            pod["metadata"]["deletionTimestamp"].is_null()
                && list.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        list["items"].as_array().unwrap().iter().filter(is_ready).map(name).collect()
    }

    fn kubectl(&self, args: &[&str]) -> String {
        done(&self.server.kubectl(args, ""))
    }

    /// What the recipe packs, as an image on every node.
    fn load_millrace(&self) {
        let folder = tempfile::tempdir().unwrap();
        let image = image::packed(folder.path());
        let place = |file: PathBuf| format!("/{}={}", file.display(), image.join(&file).display());
        let files = image::files(&image).into_iter().map(place);
        let mut load = Command::new(program("xtask"));
        load.args(["cluster", "load", "--name", &self.name, "--image", IMAGE]).args(files);
        done(&load.output().unwrap());
    }

    /// Applies `deploy`, in the order of its README, with what this machine asks for changed.
    fn install(&self) {
        self.server.define_kinds();
        self.server.apply(&deploy("control/rbac.yaml"));
        self.server.apply(deploy("control/webhook.yaml").split("\n---\n").next().unwrap());
        let mut control = deploy("control/deployment.yaml");
        if self.services == Services::Nobody {
            // The control plane comes before the mesh: where nobody else carries the API server's address, it is told another.
            let env = format!(
                "        env:\n        - {{name: KUBERNETES_SERVICE_HOST, value: 10.250.0.1}}\n        \
                 - {{name: KUBERNETES_SERVICE_PORT, value: \"{}\"}}\n        ports:\n",
                self.server.ports().0
            );
            control = control.replacen("        ports:\n", &env, 1);
            assert!(control.contains("10.250.0.1"), "{control}");
        }
        self.server.apply(&control);
        self.kubectl(&["rollout", "status", "-n", "millrace-system", "deployment/millrace-control", "--timeout=180s"]);
        self.server.apply(&deploy("control/webhook.yaml"));
        let object = match self.services {
            Services::KubeProxy => self.object(&["service", "millrace-control", "-n", "millrace-system"]),
            // As for the control plane: an agent comes before what carries services.
            Services::Nobody => self.object(&["pod", &self.replicas()[0], "-n", "millrace-system"]),
        };
        let address = object["spec"]["clusterIP"].as_str().or(object["status"]["podIP"].as_str()).unwrap();
        // No DNS in this cluster; one kernel for all nodes, so each has a cgroup of its own; and this root may lack a capability.
        let cgroups = cgroups().display();
        let control = format!("--control=https://{address}:15443");
        let mut agent =
            self.daemonset().replace("--control=https://millrace-control.millrace-system.svc:15443", &control).replace(
                "        - --proxy-user=",
                &format!("        - --cgroup={cgroups}/k8s-{}-$(NODE_NAME)\n        - --proxy-user=", self.name),
            );
        if !may_raise_limits() {
            agent = agent.replace(", SYS_RESOURCE", "").replace("            - SYS_RESOURCE\n", "");
        }
        assert!(agent.contains(&control) && agent.contains("--cgroup="), "{agent}");
        self.server.apply(&agent);
        self.kubectl(&["rollout", "status", "-n", "millrace-system", "daemonset/millrace-agent", "--timeout=180s"]);
    }

    /// The DaemonSet, with the plugin or without. Nodes here have their plugins where no two of them share a folder.
    fn daemonset(&self) -> String {
        if self.start == Start::Freely {
            return deploy("agent/daemonset.yaml");
        }
        let all = crate::deploy::built(&self.server, &["cni"]);
        let own = all.split("\n---\n").find(|one| one.contains("kind: DaemonSet")).unwrap();
        own.replace("path: /opt/cni/bin", "path: /var/lib/cni-bin")
            .replace("path: /etc/cni/net.d", "path: /var/lib/cni-conf")
    }

    fn object(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"], args].concat())).unwrap()
    }

    /// Asks once from a pod.
    fn get(&self, pod: &str, url: &str) -> Result<String, String> {
        let said = self.server.kubectl(&["exec", "-n", "shop", pod, "--", "/echo", "get", url], "");
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.status.success() { Ok(text) } else { Err(text) }
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = millrace_control::clock::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            thread::sleep(LOOK);
        }
    }

    /// What a node's agent says of itself.
    fn status(&self, agent: &str) -> String {
        let args = ["exec", "-n", "millrace-system", agent, "-c", "agent", "--", "millrace", "status"];
        String::from_utf8_lossy(&self.server.kubectl(&args, "").stdout).into_owned()
    }
}

/// Where cgroup2 is.
fn cgroups() -> &'static Path {
    let [beside, alone] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    if beside.exists() { beside } else { alone }
}

/// The processes in the cgroup of this name somewhere below another, and below it.
fn processes(group: &Path, name: &str) -> Vec<i32> {
    let mut found = Vec::new();
    let is_within = group.components().any(|part| part.as_os_str() == name);
    if is_within {
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        found.extend(members.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    for entry in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        found.extend(processes(&entry.path(), name));
    }
    found
}

fn pid_of(pid: i32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(pid).unwrap()
}

/// Whether root here has what a container is to be given.
fn may_raise_limits() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() & (1 << 24) != 0
}

fn application(name: &str, node: &str) -> Value {
    let labels = json!({"app": name.split('-').next()});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"nodeName": node, "serviceAccountName": name.split('-').next(), "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "echo", "image": "localhost/echo:1", "imagePullPolicy": "Never", "args": ["serve"],
                "env": [{"name": "NODE", "value": node}], "ports": [{"containerPort": 8080}]}]}})
}

#[test]
#[ignore = "long: builds all of Kubernetes, and starts two nodes"]
fn on_a_cluster_of_two_nodes_pods_call_by_service_through_the_mesh_and_a_policy_by_kubectl_is_in_force() {
    let cluster = Cluster::with_a_shop(Services::KubeProxy, Start::Freely);
    let agents = cluster.agents();
    let url = cluster.url();

    // By the service's address, from one node to pods of both.
    let client = cluster.object(&["pod", "client-1", "-n", "shop"]);
    let address = client["status"]["podIP"].as_str().unwrap().to_owned();
    let mut answered = BTreeSet::new();
    cluster.until("both endpoints answer, and see who called", || {
        let text = cluster.get("client-1", &url).ok()?;
        assert!(text.contains(&format!("from={address}:")), "{text}");
        answered.insert(text.split_whitespace().next()?.to_owned());
        (answered.len() == 2).then_some(())
    });
    let flows = cluster.kubectl(&[
        "exec",
        "-n",
        "millrace-system",
        &agents[0],
        "-c",
        "agent",
        "--",
        "millrace",
        "explain",
        "shop/client-1",
        &format!("{}:80", cluster.service()),
    ]);
    println!("{flows}");
    assert!(flows.contains("tunnel"), "no hop of it is a tunnel: {flows}");

    // A policy: only the client may call.
    let policy = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": "guard", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
        "action": "Allow", "rules": [{"from": [{"identities": ["shop/client"]}]}]}});
    assert!(cluster.get("stranger-1", &url).is_ok(), "without a policy everybody may call");
    cluster.server.apply(&policy.to_string());
    cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Enforced", "accesspolicy/guard", "--timeout=60s"]);
    for _ in 0..10 {
        assert!(cluster.get("stranger-1", &url).is_err(), "a stranger was answered");
        cluster.get("client-1", &url).unwrap();
    }
    let enforced = cluster.object(&["accesspolicy", "guard", "-n", "shop"]);
    assert!(enforced["status"]["conditions"].to_string().contains("on 2 of 2 nodes"), "{enforced}");

    // The API server asks a replica before it takes a policy.
    let mut wrong = policy;
    wrong["spec"]["rules"] = json!([{"to": [{"ports": [15008]}]}]);
    let said = cluster.until("the webhook refuses a wrong policy", || {
        let said = cluster.server.kubectl(&["apply", "-f", "-"], &wrong.to_string());
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        (!said.status.success() && text.contains("spec.rules[0].to[0].ports[0]")).then_some(text)
    });
    println!("{said}");

    // What a person sees from outside.
    let kubeconfig = cluster.server.kubeconfig();
    for (command, wanted) in [("status", vec!["node-1", "node-2"]), ("check", vec![])] {
        let said =
            Command::new(program("millrace")).arg(command).arg("--kubeconfig").arg(&kubeconfig).output().unwrap();
        let text = done(&said);
        println!("millrace {command}:\n{text}");
        assert!(wanted.iter().all(|node| text.contains(node)), "{text}");
    }
}

/// Either replica killed, both replaced, while pods on both nodes call and policies change.
#[test]
#[ignore = "long: builds all of Kubernetes, and calls for a minute and a half"]
fn on_a_cluster_either_replica_may_be_killed_or_replaced_and_no_call_fails() {
    let cluster = Cluster::with_a_shop(Services::KubeProxy, Start::Freely);
    let load = ["client-1", "web-2"].map(|pod| (pod, cluster.load(pod, LOAD)));
    let began = millrace_control::clock::now();
    let mut n_changes = 0;
    let mut change = || {
        n_changes += 1;
        let name = format!("change-{n_changes}");
        let policy = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "AccessPolicy",
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
            "action": "Allow", "rules": [{"to": [{"ports": [8080]}]}, {"to": [{"ports": [9000 + n_changes]}]}]}});
        // While a replica is away the webhook may not be reached: a person tries again.
        cluster.until("a policy is taken", || {
            cluster.server.kubectl(&["apply", "-f", "-"], &policy.to_string()).status.success().then_some(())
        });
        let args = ["wait", "-n", "shop", "--for=condition=Enforced", &format!("accesspolicy/{name}"), "--timeout=60s"];
        cluster.kubectl(&args);
        println!("{:.1?}: {name} is enforced on both nodes", began.elapsed());
    };
    for turn in 0..2 {
        let replica = cluster.replicas().remove(turn % 2);
        cluster.kill(&replica);
        println!("{:.1?}: {replica} is killed", began.elapsed());
        change();
        cluster.until("two replicas are ready", || (cluster.replicas().len() == 2).then_some(()));
    }
    cluster.kubectl(&["rollout", "restart", "-n", "millrace-system", "deployment/millrace-control"]);
    cluster.kubectl(&["rollout", "status", "-n", "millrace-system", "deployment/millrace-control", "--timeout=120s"]);
    println!("{:.1?}: both are replaced", began.elapsed());
    change();
    assert!(
        began.elapsed() < Duration::from_secs(LOAD.into()),
        "the load ended before the changes: {:?}",
        began.elapsed()
    );
    for (pod, load) in load {
        let said = load.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        println!("{pod}: {text}");
        assert!(text.contains(" failed=0") && !text.contains("answered=0 "), "{pod}: {text}");
    }
    for agent in cluster.agents() {
        let pod = cluster.object(&["pod", &agent, "-n", "millrace-system"]);
        let restarts = pod["status"]["containerStatuses"].to_string();
        assert_eq!(restarts.matches("\"restartCount\":0").count(), 3, "{agent}: {restarts}");
    }
}
