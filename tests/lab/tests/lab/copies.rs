//! Copies of HTTP/2's requests and of gRPC's calls for who mirrors them, and a mirror behind a node that answers nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    grpc::{Calls, Chat, Kinds},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    protocols::{grpc, route, serves},
    scene,
};

/// How long a change may take to be in force, and a copy to come.
const SOON: Duration = Duration::from_secs(10);

/// Servers beside the client; those who mirror on the other node.
fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("near")])
        .node("b", [Pod::new("shop/shadow").app("shadow"), Pod::new("shop/half").app("half")])
        .service("shop/web", &[(80, 8080), (90, 9090)])
        .service("shop/near", &[(80, 8080), (90, 9090)])
        .service("shop/shadow", &[(80, 8080), (90, 9090)])
        .service("shop/half", &[(80, 8080), (90, 9090)])
}

/// To `near`, with these mirrors, each with how often it gets a copy.
fn mirrored(kind: &str, port: u16, mirrors: &[(&str, Value)]) -> Value {
    let filters = mirrors.iter().map(|(name, share)| {
        let mut mirror = json!({"backendRef": {"name": name, "port": port}});
        share.as_object().into_iter().flatten().for_each(|(field, value)| mirror[field.as_str()] = value.clone());
        json!({"type": "RequestMirror", "requestMirror": mirror})
    });
    let filters: Vec<_> = filters.collect();
    route(kind, port, &json!([{"backendRefs": [{"name": "near", "port": port}], "filters": filters}]))
}

/// How many requests for a path a server has had whole, and the bytes of their bodies.
fn had(lab: &Lab, pod: &str, port: u16, path: &str) -> Result<(u32, u64)> {
    let said = lab.pod(pod)?.get(&format!("http://127.0.0.1:{port}/counts{path}"))?;
    serde_json::from_str(&said).with_context(|| format!("it said {said:?}"))
}

fn outcome(lab: &Lab, outcome: &str) -> Result<f64> {
    Ok(lab.admin(Part::Proxy("a")).metrics()?.sum("millrace_proxy_http_mirrors_total", &[("outcome", outcome)]))
}

fn say(lab: &Lab, count: u32) -> Result<Calls> {
    grpc(lab, &["say", "web:90", "--count", &count.to_string(), "--at-once", "10"])
}

/// Who mirrors speaks HTTP/2 and is no gRPC server: nobody reads what it answers.
#[test]
fn grpc_calls_and_requests_of_http2_are_mirrored_to_each_in_its_share_with_all_that_streams() {
    const CALLS: u32 = 400;
    /// 4 standard deviations of so many draws at a half.
    const APART: u32 = 40;
    scene::mesh(&plan("copies"), |lab| {
        let _serving = [
            serves(lab, "shop/near", "probe-grpc", &["serve", "[::]:9090", "--name", "shop/near"])?,
            serves(lab, "shop/near", "probe-http", &["serve", "[::]:8080", "--name", "shop/near"])?,
            serves(lab, "shop/shadow", "probe-http", &["serve", "[::]:9090", "--name", "shop/shadow"])?,
            serves(lab, "shop/shadow", "probe-http", &["serve", "[::]:8080", "--name", "shop/shadow"])?,
            serves(lab, "shop/half", "probe-http", &["serve", "[::]:9090", "--name", "shop/half"])?,
        ];
        let all = json!({"percent": 100});
        let half = json!({"fraction": {"numerator": 1, "denominator": 2}});
        lab.apply(&mirrored("GRPCRoute", 90, &[("shadow", all.clone()), ("half", half)]))?;
        let path = "/probe.Probe/Say";
        clock::until(SOON, "calls are mirrored", || {
            say(lab, 1)?;
            ensure!(had(lab, "shop/shadow", 9090, path)?.0 > 0);
            Ok(())
        })?;
        let settled = || {
            // None is on its way any more: as many as before.
            let before = had(lab, "shop/shadow", 9090, path)?.0;
            std::thread::sleep(Duration::from_millis(300));
            let now = had(lab, "shop/shadow", 9090, path)?.0;
            ensure!(now == before, "copies still come");
            Ok((now, had(lab, "shop/half", 9090, path)?.0))
        };
        let ((shadow, half), _) = clock::until(SOON, "copies have come", settled)?;
        let calls = say(lab, CALLS)?;
        ensure!(calls.by_pod.get("shop/near") == Some(&CALLS) && calls.n_failed() == 0, "{calls:?}");
        clock::until(SOON, "each call has its copy", || {
            let now = had(lab, "shop/shadow", 9090, path)?.0;
            ensure!(now == shadow + CALLS, "{} copies of {CALLS} came", now - shadow);
            Ok(())
        })?;
        let halves = had(lab, "shop/half", 9090, path)?.0 - half;
        ensure!(halves.abs_diff(CALLS / 2) <= APART, "{halves} of {CALLS} copies came where half are meant");

        // Streams: every message of the client's is in the copy, before and after the first answer.
        let kinds: Kinds = grpc(lab, &["kinds", "web:90", "--number", "50", "--size", "10000"])?;
        ensure!(kinds.client == (50, 500_000) && kinds.both == 50 && kinds.server.0 == 50, "{kinds:?}");
        clock::until(SOON, "streams have their copies", || {
            let (n_gather, gathered) = had(lab, "shop/shadow", 9090, "/probe.Probe/Gather")?;
            let (n_chat, chatted) = had(lab, "shop/shadow", 9090, "/probe.Probe/Chat")?;
            ensure!(n_gather == 1 && gathered > 500_000, "{n_gather} of {gathered} bytes");
            ensure!(n_chat == 1 && chatted >= 50 * 5, "{n_chat} of {chatted} bytes");
            Ok(())
        })?;

        lab.apply(&mirrored("HTTPRoute", 80, &[("shadow", all)]))?;
        let two = [
            "curl",
            "--silent",
            "--max-time",
            "8",
            "--http2-prior-knowledge",
            "--data",
            "twelve bytes",
            "http://web/two",
        ];
        clock::until(SOON, "a request of HTTP/2 has its copy", || {
            let said = lab.pod("shop/client")?.run(&two)?.ok()?;
            ensure!(said.contains("shop/near"), "{said}");
            let (n, bytes) = had(lab, "shop/shadow", 8080, "/two")?;
            ensure!(n > 0 && bytes == u64::from(n) * 12, "{n} of {bytes} bytes");
            Ok(())
        })?;
        println!(
            "{CALLS} calls: {CALLS} copies to one, {halves} to the one with a half; answered: {}",
            outcome(lab, "answered")?
        );
        Ok(())
    });
}

/// Goes on when it is dropped, so that a lab whose test fails can be taken down.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a process")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A process that has gone needs nothing.
        kill_process(self.0, Signal::CONT).ok();
    }
}

/// The mirror's node takes connections and says nothing: copies hang in connects, and in streams that were open.
#[test]
fn a_mirror_behind_a_black_hole_slows_no_call_and_takes_no_other_mirrors_copies_for_ever() {
    const CALLS: u32 = 2_000;
    scene::mesh(&plan("hole"), |lab| {
        let _serving = [
            serves(lab, "shop/near", "probe-grpc", &["serve", "[::]:9090", "--name", "shop/near"])?,
            serves(lab, "shop/shadow", "probe-http", &["serve", "[::]:9090", "--name", "shop/shadow"])?,
        ];
        lab.apply(&mirrored("GRPCRoute", 90, &[]))?;
        clock::until(SOON, "the route is in force", || {
            let calls = say(lab, 1)?;
            ensure!(calls.n_failed() == 0, "{calls:?}");
            Ok(())
        })?;
        let time = || {
            let begun = clock::now();
            let calls = say(lab, CALLS)?;
            ensure!(calls.by_pod.get("shop/near") == Some(&CALLS) && calls.n_failed() == 0, "{calls:?}");
            Ok::<_, anyhow::Error>(begun.elapsed())
        };
        let alone = time()?;
        lab.apply(&mirrored("GRPCRoute", 90, &[("shadow", json!({"percent": 100}))]))?;
        clock::until(SOON, "calls are mirrored", || {
            say(lab, 1)?;
            ensure!(outcome(lab, "answered")? > 0.0);
            Ok(())
        })?;
        let with = time()?;
        let stopped = Stopped::stop(lab.pid(Part::Proxy("b"))?)?;
        let hanging = time()?;
        let bound = alone * 4 + Duration::from_secs(1);
        ensure!(hanging < bound, "{hanging:?} with a mirror that says nothing, {alone:?} without one");
        // A stream both ways goes round by round, each message copied into nowhere.
        let chat: Chat = grpc(lab, &["chat", "web:90", "--rounds", "200"])?;
        ensure!(chat.rounds == 200 && chat.cut.is_none(), "{chat:?}");
        ensure!(outcome(lab, "busy")? > 0.0, "no more than so many hang at once");
        drop(stopped);
        // Who hung is given up in time, and the mirror has copies again.
        clock::until(Duration::from_secs(30), "the mirror has copies again", || {
            grpc::<Calls>(lab, &["say", "web:90", "--count", "20", "--method", "After"])?;
            ensure!(had(lab, "shop/shadow", 9090, "/probe.Probe/After")?.0 > 0);
            Ok(())
        })?;
        println!(
            "{CALLS} calls: {alone:?} without a mirror, {with:?} with one, {hanging:?} with one behind a black hole; late: {}, busy: {}",
            outcome(lab, "late")?,
            outcome(lab, "busy")?
        );
        Ok(())
    });
}
