//! Proxies that are replaced under HTTP/1.1, HTTP/2, gRPC's streams and WebSockets.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    grpc::{Calls, Chat},
    pod::BULK,
    process::Process,
    web::{Counted, socket::Socket},
};

use rustix::process::Signal;

use super::handover::replace_proxy;
use crate::{
    protocols::{all_to, serves},
    scene,
};

/// How long a proxy that drains may take to end after its last request: its idle connections are kept for some seconds.
const LAST: Duration = Duration::from_secs(30);

/// What the second test gives, and how late a cut may be seen on a busy machine.
const DRAIN: Duration = Duration::from_secs(8);
const LATE: Duration = Duration::from_secs(4);

/// The load goes on so long between acts: hundreds of requests of each kind.
const BETWEEN: Duration = Duration::from_millis(1500);

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("near")])
        .node("b", [Pod::new("shop/far").app("far")])
        .service("shop/web", &[(80, 8080), (90, 9090), (70, 7070)])
        .service("shop/far", &[(80, 8080), (90, 9090), (70, 7070)])
}

/// Every kind of client at once, until its file is there.
struct Clients {
    until: PathBuf,
    load: Process,
    calls: Process,
    chat: Process,
    socket: Process,
    _servers: Vec<Process>,
}

impl Clients {
    fn start(lab: &Lab) -> Result<Self> {
        let servers = vec![
            serves(lab, "shop/far", "probe-http", &["serve", "[::]:8080", "--name", "far"])?,
            serves(lab, "shop/far", "probe-http", &["sockets", "[::]:7070"])?,
            serves(lab, "shop/far", "probe-grpc", &["serve", "[::]:9090", "--name", "far"])?,
        ];
        for (kind, port) in [("HTTPRoute", 80), ("HTTPRoute", 70), ("GRPCRoute", 90)] {
            lab.apply(&all_to(kind, "far", port))?;
        }
        clock::until(Duration::from_secs(10), "the routes are in force", || {
            ensure!(lab.pod("shop/client")?.get("http://web/")?.contains("x-forwarded-for"));
            // Without a route the service has no endpoint, and refuses.
            for url in ["http://web:70/", "http://web:90/"] {
                lab.pod("shop/client")?
                    .run(&["curl", "--silent", "--max-time", "8", "--output", "/dev/null", url])?
                    .ok()?;
            }
            Ok(())
        })?;
        lab.settle()?;
        let until = lab.directory().join("stop-http");
        let path = until.display().to_string();
        let start = |name: &str, program: &str, arguments: &[&str]| {
            let program = lab.binaries().path(program)?.display().to_string();
            let mut all = vec![program.as_str()];
            all.extend(arguments);
            all.extend(["--until", &path]);
            lab.pod("shop/client")?.start(name, &all)
        };
        Ok(Self {
            load: start("load", "probe-http", &["load", "web:80", "--path", "/wait/5"])?,
            calls: start("calls", "probe-grpc", &["say", "web:90", "--at-once", "4"])?,
            chat: start("chat", "probe-grpc", &["chat", "web:90", "--pause-ms", "5"])?,
            socket: start("socket", "probe-http", &["socket", "web:70", "--pause-ms", "5"])?,
            until,
            _servers: servers,
        })
    }

    fn end(self) -> Result<(Counted, Calls, Chat, Socket)> {
        std::fs::write(&self.until, "")?;
        let said = |mut process: Process| {
            process.wait(BULK)?;
            let output = process.output();
            output
                .lines()
                .last()
                .map(str::to_owned)
                .with_context(|| format!("it says what it had: {}", process.errors()))
        };
        Ok((
            serde_json::from_str(&said(self.load)?)?,
            serde_json::from_str(&said(self.calls)?)?,
            serde_json::from_str(&said(self.chat)?)?,
            serde_json::from_str(&said(self.socket)?)?,
        ))
    }
}

fn goes_on() -> Result<()> {
    let until = clock::now() + BETWEEN;
    clock::until(BETWEEN * 10, "the load goes on", || {
        ensure!(clock::now() >= until);
        Ok(())
    })?;
    Ok(())
}

fn upgrades(name: &str, rounds: usize) {
    scene::mesh(&plan(name), |lab| {
        let clients = Clients::start(lab)?;
        let mut older = Vec::new();
        for _ in 0..rounds {
            for node in ["a", "b"] {
                goes_on()?;
                older.push(replace_proxy(lab, node)?);
            }
        }
        goes_on()?;
        let (load, calls, chat, socket) = clients.end()?;
        println!("{} proxies replaced: {load:?} {calls:?} {chat:?} {socket:?}", 2 * rounds);
        ensure!(load.n_failed() == 0, "no request of HTTP/1.1 fails: {load:?}");
        ensure!(calls.n_failed() == 0, "no call of gRPC fails: {calls:?}");
        ensure!(chat.cut.is_none() && chat.rounds > 100, "a stream both ways goes on: {chat:?}");
        ensure!(socket.cut.is_none() && socket.rounds > 100, "a WebSocket goes on: {socket:?}");
        for mut proxy in older {
            ensure!(proxy.wait(LAST)?.success(), "a proxy that was replaced ends in order: {}", proxy.errors());
        }
        Ok(())
    });
}

#[test]
fn upgrades_under_http_fail_no_request_and_cut_no_stream() {
    upgrades("http", 1);
}

#[test]
#[ignore = "long: ten rounds of upgrades under HTTP, a minute"]
fn ten_upgrades_under_http_fail_no_request_and_cut_no_stream() {
    upgrades("https", 10);
}

#[test]
fn streams_of_a_replaced_proxy_live_to_the_deadline_and_requests_never_notice() {
    scene::mesh(&plan("streams"), |lab| {
        lab.proxy_flags(&["--drain", &DRAIN.as_secs().to_string()]);
        lab.take(Part::Proxy("a"))?.stop()?;
        lab.start(Part::Proxy("a"))?;
        lab.wait_ready(Part::Proxy("a"))?;
        lab.settle()?;
        let clients = Clients::start(lab)?;
        goes_on()?;
        let began = clock::now();
        let mut older = replace_proxy(lab, "a")?;
        let told = began.elapsed();
        older.signal(Signal::TERM)?;
        let (mut chat, mut socket) = (None, None);
        let mut clients = clients;
        clock::until(told + DRAIN + LATE, "both streams are cut", || {
            let ended = |process: &mut Process| process.still_runs().is_err();
            if chat.is_none() && ended(&mut clients.chat) {
                chat = Some(began.elapsed());
            }
            if socket.is_none() && ended(&mut clients.socket) {
                socket = Some(began.elapsed());
            }
            ensure!(chat.is_some() && socket.is_some(), "one goes on");
            Ok(())
        })?;
        ensure!(older.wait(LATE)?.success(), "it ends in order: {}", older.errors());
        let (load, calls, said, spoken) = clients.end()?;
        println!(
            "{DRAIN:?} given: a gRPC stream was cut after {chat:?}, a WebSocket after {socket:?}; {said:?} {spoken:?}"
        );
        ensure!(chat.is_some_and(|after| after >= DRAIN), "not before the deadline: {chat:?}");
        ensure!(socket.is_some_and(|after| after >= DRAIN), "not before the deadline: {socket:?}");
        ensure!(said.cut.is_some() && spoken.cut.is_some(), "they were cut: {said:?} {spoken:?}");
        ensure!(load.n_failed() == 0 && calls.n_failed() == 0, "no request fails: {load:?} {calls:?}");
        Ok(())
    });
}
