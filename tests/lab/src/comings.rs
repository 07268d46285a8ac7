//! Pods that come and go while a lab runs: their namespaces, and their objects as a kubelet would have them.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{clock, lab::Lab, manifests, network, topology};

/// How long a namespace may take to go that nobody is in: the kernel does it in its own time.
const GONE: Duration = Duration::from_secs(10);

/// How a pod stands, as its object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It runs and is not ready.
    Starting,
    /// It is ready.
    Ready,
    /// It was told to go, and has not said that it is not ready any more.
    Going,
}

impl Lab {
    /// Makes a pod's namespace and tells the mesh of it; `life` tells it from others of its name.
    pub fn create_pod(&self, name: &str, life: u32) -> Result<()> {
        let pod = self.topology().pod(name)?;
        ensure!(life > 0, "life 0 is of what a lab begins with");
        clock::until(GONE, "its predecessor's namespace is gone", || {
            ensure!(!self.has_namespace(name)?, "{name}'s is there still");
            Ok(())
        })?;
        network::add_pod(self.number(), self.node_of(pod)?, pod)?;
        let path = self.life_path(name, life);
        fs::create_dir_all(self.directory().join("netns"))?;
        symlink(network::netns(self.number(), &pod.path()), &path)?;
        self.tell_pod(name, life, Stands::Starting)
    }

    /// Tells the mesh how a pod stands.
    pub fn tell_pod(&self, name: &str, life: u32, stands: Stands) -> Result<()> {
        let mut object = self.pod_object(name, life)?;
        let is_ready = if stands == Stands::Starting { "False" } else { "True" };
        *object.pointer_mut("/status/conditions/0/status").context("a pod has a condition")? = json!(is_ready);
        if let (Stands::Going, Some(metadata)) = (stands, object.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert("deletionTimestamp".to_owned(), json!("2026-01-01T00:00:00Z"));
        }
        self.apply(&object)?;
        Ok(())
    }

    /// Removes a pod's object, and its namespace's name. Whoever ran in it has ended.
    pub fn delete_pod(&self, name: &str, life: u32) -> Result<()> {
        self.remove(&self.pod_object(name, life)?)?;
        if life > 0 {
            fs::remove_file(self.life_path(name, life))?;
        }
        network::remove_pod(self.number(), self.topology().pod(name)?)
    }

    /// Whether a pod's namespace is there, whoever holds it: its link stands as long as it does.
    pub fn has_namespace(&self, name: &str) -> Result<bool> {
        let pod = self.topology().pod(name)?;
        let ports = network::pod_ports(self.number(), self.node_of(pod)?)?;
        Ok(ports.contains(&format!("p{}", pod.number)))
    }

    fn pod_object(&self, name: &str, life: u32) -> Result<Value> {
        let mut object = manifests::pod(self.number(), self.topology(), self.topology().pod(name)?);
        let uid = object.pointer_mut("/metadata/uid").context("a pod has a uid")?;
        *uid = json!(format!("{}-{life}", uid.as_str().unwrap_or_default()));
        if life == 0 {
            return Ok(manifests::pod(self.number(), self.topology(), self.topology().pod(name)?));
        }
        // A runtime gives each pod's namespace a name of its own, and the mesh tells a pod from its successor by that.
        let path = self.life_path(name, life);
        let named = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
        named.context("a pod has annotations")?.insert("millrace.dev/netns".to_owned(), json!(path));
        Ok(object)
    }

    fn life_path(&self, name: &str, life: u32) -> PathBuf {
        self.directory().join("netns").join(format!("{}-{life}", name.replace('/', "-")))
    }

    fn node_of(&self, pod: &topology::Pod) -> Result<&str> {
        let node = self.topology().nodes.iter().find(|node| node.number == pod.node);
        Ok(&node.context("a pod is on a node")?.name)
    }
}
