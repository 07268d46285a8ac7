//! What is compiled again of a change is what is compiled of the whole.

use super::{Arc, BASE, BTreeMap, World, compile, pod, world};
use crate::compile::Last;

fn slice(service: &str, name: &str, address: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {name}, namespace: shop, \
         labels: {{kubernetes.io/service-name: {service}}}}}, endpoints: [{{addresses: [{address}]}}], ports: [{{port: 8080}}]}}\n"
    )
}

fn base() -> String {
    let service = |name: &str, address: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{clusterIPs: [{address}], \
             selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}}}\n"
        )
    };
    format!(
        "{BASE}{}{}{}{}",
        service("web", "10.96.0.1"),
        service("db", "10.96.0.2"),
        pod("web", "10.0.0.1", ""),
        pod("db", "10.0.0.2", "")
    )
}

/// The world of `text`, with the very objects of `before` where they are alike, as a source gives them.
fn after(before: &World, text: &str) -> World {
    let mut next = world(text);
    keep(&before.objects.namespaces, &mut next.objects.namespaces);
    keep(&before.objects.nodes, &mut next.objects.nodes);
    keep(&before.objects.pods, &mut next.objects.pods);
    keep(&before.objects.services, &mut next.objects.services);
    keep(&before.objects.slices, &mut next.objects.slices);
    next
}

fn keep<K: Ord, T: PartialEq>(before: &BTreeMap<K, Arc<T>>, next: &mut BTreeMap<K, Arc<T>>) {
    for (name, object) in next {
        if let Some(same) = before.get(name).filter(|same| *same == object) {
            object.clone_from(same);
        }
    }
}

fn last(text: &str) -> (World, Last) {
    let world = world(text);
    let (snapshot, notes) = compile(&world);
    (world.clone(), Last::new(world, Arc::new(snapshot), notes))
}

#[test]
fn a_change_of_slices_compiles_to_what_the_whole_world_would() {
    let text = base();
    let (before, last) =
        last(&format!("{text}{}{}", slice("web", "one", "10.0.0.1"), slice("db", "other", "10.0.0.2")));
    for changed in ["10.0.0.2", "10.9.9.9"] {
        let now =
            after(&before, &format!("{text}{}{}", slice("web", "one", changed), slice("db", "other", "10.0.0.2")));
        assert_eq!(last.again(&now), Some(compile(&now)), "web leads to {changed}");
    }
    let more = format!(
        "{text}{}{}{}",
        slice("web", "one", "10.0.0.1"),
        slice("web", "two", "10.0.0.7"),
        slice("db", "other", "10.0.0.2")
    );
    let now = after(&before, &more);
    assert_eq!(last.again(&now), Some(compile(&now)), "a slice more");
    assert_eq!(last.again(&before), Some(compile(&before)), "nothing at all");
}

#[test]
fn any_other_change_is_left_to_the_whole() {
    let text = base();
    let with_slices = format!("{text}{}", slice("web", "one", "10.0.0.1"));
    let (before, last) = last(&with_slices);
    let elsewhere = with_slices.replace("podIPs: [{ip: 10.0.0.2}]", "podIPs: [{ip: 10.0.0.3}]");
    assert_eq!(last.again(&after(&before, &elsewhere)), None, "a pod differs");
    assert_eq!(last.again(&after(&before, &text)), None, "a service's last slice is gone");
    let first = format!("{with_slices}{}", slice("db", "other", "10.0.0.2"));
    assert_eq!(last.again(&after(&before, &first)), None, "a service's first slice came");
    let mut listening = before.clone();
    listening.listening.insert("a".into(), [].into());
    assert_eq!(last.again(&listening), None, "a node says otherwise");
}
