//! Speaks of a pod as a test does: it gets, connects, is refused, serves.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    clock,
    lab::Lab,
    peer::{Called, Connects, Exchanged},
    place::Place,
    plan::Addresses,
    process::{Output, Process, run},
    topology,
};

/// How long a single call of a test may take before it counts as hanging.
pub const CALL: Duration = Duration::from_secs(10);

/// How long a bulk run (a gibibyte, ten thousand connections) may take.
pub const BULK: Duration = Duration::from_secs(240);

/// A pod of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'lab> {
    lab: &'lab Lab,
    is: &'lab topology::Pod,
}

impl<'lab> Pod<'lab> {
    pub(crate) fn new(lab: &'lab Lab, is: &'lab topology::Pod) -> Self {
        Self { lab, is }
    }

    /// Its `namespace/name`.
    pub fn name(&self) -> &'lab str {
        &self.is.plan.name
    }

    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.is.addresses
    }

    /// Its IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.is.addresses.v4), port)
    }

    /// The name of its node.
    pub fn node(&self) -> &'lab str {
        let nodes = &self.lab.topology().nodes;
        nodes.iter().find(|node| node.number == self.is.node).map_or("", |node| &node.name)
    }

    /// Where its processes run.
    pub fn place(&self) -> Result<Place> {
        self.lab.place(self.name())
    }

    /// Runs a command in it to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.run_within(CALL, arguments)
    }

    /// Runs a command in it to its end, which must come within `patience`.
    pub fn run_within(&self, patience: Duration, arguments: &[&str]) -> Result<Output> {
        let (program, rest) = arguments.split_first().context("a command has a program")?;
        let mut command = self.place()?.command(program)?;
        command.args(rest);
        run(command, patience).with_context(|| format!("in {}: {}", self.name(), arguments.join(" ")))
    }

    /// Starts a command in it; its output goes to the logs under `name`.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        let (program, rest) = arguments.split_first().context("a command has a program")?;
        let mut command = self.place()?.command(program)?;
        command.args(rest);
        Process::start(command, &format!("{}-{name}", self.is.path()), &self.lab.logs())
    }

    /// Waits until something in it listens on `port`, of its loopback address.
    pub fn listens(&self, port: u16) -> Result<()> {
        let place = self.place()?;
        clock::until(CALL, &format!("{} listens on {port}", self.name()), || {
            place.inside(|| TcpStream::connect(("127.0.0.1", port)))??;
            Ok(())
        })?;
        Ok(())
    }

    /// The body that curl gets.
    pub fn get(&self, url: &str) -> Result<String> {
        let output = self.run(&["curl", "--silent", "--show-error", "--fail", "--max-time", "8", url])?;
        output.ok().with_context(|| format!("{} gets {url}", self.name()))
    }

    /// Starts the lab's own server, and waits until it listens. `listen` is an address and port, as `0.0.0.0:8080` or `[::]:8080`.
    pub fn serves(&self, listen: &str, more: &[&str]) -> Result<Process> {
        let program = self.lab.binaries().path("probe-peer")?.display().to_string();
        let mut arguments = vec![program.as_str(), "serve", listen, "--name", self.name()];
        arguments.extend(more);
        let port = listen.rsplit(':').next().unwrap_or_default();
        let mut server = self.start(&format!("serve-{port}"), &arguments)?;
        server.says("listening", CALL)?;
        Ok(server)
    }

    /// One connection to the lab's own server: what both ends saw, or how it failed.
    pub fn calls(&self, target: impl ToString) -> Result<Called> {
        self.peer(CALL, &["call", &target.to_string()])
    }

    /// A connection that must succeed.
    pub fn connects(&self, target: impl ToString) -> Result<Called> {
        let target = target.to_string();
        let called = self.calls(&target)?;
        match &called.error {
            None => Ok(called),
            Some(error) => bail!("{} connects to {target}: it must, but: {error}", self.name()),
        }
    }

    /// A connection that must be refused: it fails in connect(), or is reset before a byte of the server arrives.
    pub fn is_refused(&self, target: impl ToString) -> Result<Called> {
        let target = target.to_string();
        let called = self.calls(&target)?;
        ensure!(called.greeting.is_none(), "{} is refused by {target}: it must be, but got {called:?}", self.name());
        let refused = called.error.as_deref().is_some_and(|error| {
            ["ConnectionRefused", "ConnectionReset", "PermissionDenied"].iter().any(|kind| error.contains(kind))
        });
        ensure!(refused, "{} is refused by {target}: by a refusal or a reset, not by {called:?}", self.name());
        Ok(called)
    }

    /// Sends and receives that many bytes on one connection, both ways at once, with a half-close; both digests are compared.
    pub fn exchanges(&self, target: impl ToString, up: u64, down: u64, chunk: usize) -> Result<Exchanged> {
        let (target, up, down, chunk) = (target.to_string(), up.to_string(), down.to_string(), chunk.to_string());
        self.peer(BULK, &["exchange", &target, "--up", &up, "--down", &down, "--chunk", &chunk])
    }

    /// Many short connections; who answered how often.
    pub fn connects_often(&self, target: impl ToString, count: u32) -> Result<Connects> {
        self.peer(BULK, &["connects", &target.to_string(), "--count", &count.to_string()])
    }

    /// Runs the lab's own client and reads what it found.
    pub fn peer<T: serde::de::DeserializeOwned>(&self, patience: Duration, arguments: &[&str]) -> Result<T> {
        let program = self.lab.binaries().path("probe-peer")?.display().to_string();
        let mut all = vec![program.as_str()];
        all.extend(arguments);
        let said = self.run_within(patience, &all)?.ok()?;
        serde_json::from_str(&said)
            .with_context(|| format!("{} {}: it said {said:?}", self.name(), arguments.join(" ")))
    }
}
