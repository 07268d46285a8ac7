//! The API server that the tests share. It ends with this process, whichever way that ends.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject},
};
use millrace_control::{diagnostic::Kind, source::kubernetes::resource};
use serde_json::{Value, json};

/// A running API server.
pub(crate) struct Server {
    name: String,
    folder: PathBuf,
}

/// The one that tests share, started by the first that asks.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let name = format!("test-{}", std::process::id());
        let server = Server { folder: target().join("cluster/run").join(&name), name };
        server.up();
        server.define_kinds();
        server.apply(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "millrace-system"}}).to_string(),
        );
        server
    })
}

/// Cargo's target directory: this program lies in `target/debug/deps`.
pub(crate) fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().find(|folder| folder.join("debug").is_dir()).unwrap().to_owned()
}

/// A program that was built with this one.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = target().join("debug").join(name);
    assert!(path.exists(), "{name} is not built: `cargo build --workspace --bins` makes {}", path.display());
    path
}

impl Server {
    /// The API server of the cluster of this name, which somebody else starts and ends.
    pub(crate) fn at(name: &str) -> Self {
        Self { folder: target().join("cluster/run").join(name), name: name.to_owned() }
    }

    /// Where all of it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts what is not running.
    pub(crate) fn up(&self) {
        let owner = std::process::id().to_string();
        // Its kinds and fields are read too, and all of the standard channel are in it.
        let up = ["cluster", "up", "--api-only", "--channel", "experimental", "--name", &self.name, "--owner", &owner];
        let said = Command::new(program("xtask")).args(up).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    }

    /// Kills one of its programs, as a machine's fault would.
    pub(crate) fn kill(&self, program: &str) {
        let folder = self.folder.join("processes");
        let file = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let file = file.into_iter().find(|path| path.to_string_lossy().ends_with(program)).unwrap();
        let text = fs::read_to_string(file).unwrap();
        let pid = text.split(' ').next().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let mut wait = [rustix::event::PollFd::new(&ended, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut wait, None).unwrap();
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("secrets/admin.kubeconfig")
    }

    /// Where it listens: the API server's port and etcd's.
    pub(crate) fn ports(&self) -> (u16, u16) {
        let ports: Vec<u16> =
            serde_json::from_str(&fs::read_to_string(self.folder.join("ports.json")).unwrap()).unwrap();
        (ports[0], ports[1])
    }

    /// A kubeconfig that reaches the server by another port, written below `folder`.
    pub(crate) fn kubeconfig_by(&self, port: u16, folder: &Path) -> PathBuf {
        let text = fs::read_to_string(self.kubeconfig()).unwrap();
        let other = text.replace(&format!("127.0.0.1:{}", self.ports().0), &format!("127.0.0.1:{port}"));
        let path = folder.join("kubeconfig");
        fs::write(&path, other).unwrap();
        path
    }

    /// A kubeconfig that shows this token, written below `folder`.
    pub(crate) fn kubeconfig_of(&self, token: &str, folder: &Path) -> PathBuf {
        let text = fs::read_to_string(self.kubeconfig()).unwrap();
        let user = text.lines().find(|line| line.starts_with("users:")).unwrap();
        let other = text.replace(user, &format!("users: [{{name: admin, user: {{token: {token}}}}}]"));
        let path = folder.join("kubeconfig");
        fs::write(&path, other).unwrap();
        path
    }

    /// A client of the administrator's, on this runtime.
    pub(crate) async fn client(&self) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// Runs kubectl as a person would, with this on its standard input.
    pub(crate) fn kubectl(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(self.folder.join("bin/kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Applies manifests, which must be taken.
    pub(crate) fn apply(&self, manifests: &str) {
        let said = self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    /// Millrace's kinds, as `deploy/crds` defines them, once served.
    pub(crate) fn define_kinds(&self) {
        for (_, definition) in millrace_crd::crds() {
            self.apply(&definition.to_string());
        }
        let said = self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"], "");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    /// A namespace that no other test has.
    pub(crate) fn namespace(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string());
        name
    }
}

/// Writes objects of any kind.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
}

impl Writer {
    fn api(&self, kind: Kind, namespace: &str) -> (Api<DynamicObject>, ApiResource) {
        let resource = resource(kind);
        let client = self.client.clone();
        let api = if kind.is_cluster_scoped() {
            Api::all_with(client, &resource)
        } else {
            Api::namespaced_with(client, namespace, &resource)
        };
        (api, resource)
    }

    /// Makes the object, and its status, which a first write does not take; as the API server has it then.
    pub(crate) async fn create(&self, object: &Value) -> DynamicObject {
        let (kind, namespace, name) = names(object);
        let (api, _) = self.api(kind, &namespace);
        let typed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let made = api.create(&PostParams::default(), &typed).await.unwrap_or_else(|error| panic!("{object}: {error}"));
        match object.get("status") {
            None => made,
            Some(status) => {
                let patch = Patch::Merge(json!({ "status": status }));
                api.patch_status(&name, &PatchParams::default(), &patch).await.unwrap()
            }
        }
    }

    /// Changes some fields of an object.
    pub(crate) async fn merge(&self, kind: Kind, namespace: &str, name: &str, patch: &Value) -> DynamicObject {
        let (api, _) = self.api(kind, namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    /// Deletes an object at once.
    pub(crate) async fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let (api, _) = self.api(kind, namespace);
        drop(api.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap());
    }

    /// The object as it is.
    pub(crate) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> DynamicObject {
        self.api(kind, namespace).0.get(name).await.unwrap()
    }
}

fn names(object: &Value) -> (Kind, String, String) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text("/kind");
    let kind = Kind::ALL.into_iter().find(|one| one.name() == kind).unwrap();
    (kind, text("/metadata/namespace"), text("/metadata/name"))
}
