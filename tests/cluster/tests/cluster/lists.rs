//! What the control plane asks the API server for: lists by the page, watches that go on from bookmarks, and of some kinds the metadata alone.

use std::{sync::Arc, time::Duration};

use millrace_control::{clock, diagnostic::Kind};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    between::{Between, Call},
    mesh::{Mesh, PATIENCE, kubernetes},
    server::{Writer, server},
    world::{access, account, slice},
};

/// Two pages and a part of the third, of 500 each.
const SLICES: usize = 1_010;
/// Slices are made this many at a time.
const AT_ONCE: usize = 32;

async fn fill(writer: &Writer, shop: &str) {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut made = JoinSet::new();
    for n in 0..SLICES {
        let object = slice(shop, &format!("app-{n}"), &[]);
        let (writer, gate) = (writer.clone(), gate.clone());
        made.spawn(async move {
            let _permit = gate.acquire_owned().await.unwrap();
            drop(writer.create(&object).await);
        });
    }
    while let Some(done) = made.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_by_the_page_and_watches_go_on_from_bookmarks() {
    let server = server();
    let (shop, other) = (server.namespace("paged"), server.namespace("paged"));
    let writer = Writer { client: server.client().await };
    fill(&writer, &shop).await;
    writer.create(&account(&shop, "web")).await;
    // Of a watch that lasts a minute a test would see little: it lasts six seconds here, and its server sends a bookmark before it ends.
    let between = Between::of(server.client().await, ("60", "6")).await;
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::over(kubernetes(between.kubeconfig(folder.path()), &[&shop])).await;
    mesh.until("all is listed", |_| true).await;
    let slices = format!("/namespaces/{shop}/endpointslices");
    let lists: Vec<Call> = between.calls(&slices).into_iter().filter(|call| !call.is_watch()).collect();
    let n_pages = SLICES.div_ceil(500);
    assert_eq!(lists.len(), n_pages, "{lists:#?}");
    assert!(lists.iter().all(|call| call.parameter("limit").as_deref() == Some("500")), "{lists:#?}");
    let continued: Vec<bool> = lists.iter().map(|call| call.parameter("continue").is_some()).collect();
    assert_eq!(continued, [false, true, true]);
    let n_items = |call: &Call| {
        let list: serde_json::Value = serde_json::from_str(&call.answer()).unwrap();
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(lists.iter().map(n_items).collect::<Vec<_>>(), [500, 500, SLICES - 1_000]);

    // Metadata is enough of these, and nothing else comes; of the others all is asked for.
    for (kind, is_metadata) in [
        ("/api/v1/namespaces", true),
        ("/api/v1/nodes", true),
        ("/serviceaccounts", true),
        ("/pods", false),
        ("/services", false),
        ("/networkpolicies", false),
    ] {
        let calls = between.calls(kind);
        assert!(!calls.is_empty(), "{kind}");
        for call in calls {
            assert_eq!(call.accept.contains("PartialObjectMetadata"), is_metadata, "{kind}: {call:?}");
            assert!(!is_metadata || !call.answer().contains("\"status\":{"), "{kind}: {}", call.answer());
        }
    }
    assert!(between.calls("/serviceaccounts")[0].answer().contains("\"web\""));

    // What changes elsewhere moves the versions on; a watch of what stays as it was hears of it by bookmarks alone.
    let lists = mesh.counter("millrace_control_lists").await;
    let elsewhere = writer.create(&slice(&other, "elsewhere", &[])).await;
    let moved: u64 = elsewhere.metadata.resource_version.unwrap().parse().unwrap();
    let began = clock::now();
    let (first, second) = loop {
        let watches: Vec<Call> = between.calls(&slices).into_iter().filter(Call::is_watch).collect();
        if let [first, second, ..] = &*watches {
            break (first.clone(), second.clone());
        }
        assert!(began.elapsed() < PATIENCE, "no watch followed the first: {watches:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(first.parameter("allowWatchBookmarks").as_deref(), Some("true"), "{first:?}");
    let bookmarks = first.bookmarks();
    let last: u64 = bookmarks.last().expect("a bookmark before the watch ended").parse().unwrap();
    assert!(last >= moved, "{last} is from before the other namespace's change, {moved}");
    assert_eq!(second.parameter("resourceVersion"), bookmarks.last().cloned(), "the next watch begins there");
    // It goes on: what changes now is seen, and nothing was listed again.
    writer.create(&access(&shop, "guard", "web", "Allow")).await;
    mesh.until("the policy is in force", |snapshot| !snapshot.policies.is_empty()).await;
    let spec = json!({"metadata": {"annotations": {"seen": "yes"}}});
    writer.merge(Kind::EndpointSlice, &shop, "app-0-1", &spec).await;
    assert_eq!(mesh.counter("millrace_control_lists").await, lists, "something was listed again");
    mesh.stop().await;
}
