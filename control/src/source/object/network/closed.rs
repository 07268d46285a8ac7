//! Says what holds of a NetworkPolicy that can't be read: the pods that it can be seen to select take no call, and make none where it may speak
//! of that. Each demand of its selector that can be read alone narrows whom it selects; one that can't does not, so nobody whom it binds is left out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use millrace_model::ObjectName;
use serde_json::{Value, json};

use super::{NetworkPolicy, typed};
use crate::{diagnostic::Problems, world::LabelRule};

/// The policy to hold to in place of the one in `value`.
pub(in crate::source::object) fn closed(name: &ObjectName, value: &Value) -> NetworkPolicy {
    let part = |path: &str| value.pointer(path).filter(|part| !part.is_null());
    let types = part("/spec/policyTypes");
    let names = |wanted: &str| match types {
        Some(Value::Array(types)) => {
            let is = |one: &Value, other: &str| one.as_str() == Some(other);
            // One that nobody knows may mean either.
            types.iter().any(|one| is(one, wanted) || !(is(one, "Ingress") || is(one, "Egress")))
        }
        Some(_) | None => true,
    };
    let is_unsaid = types.and_then(Value::as_array).map_or(types.is_none(), Vec::is_empty);
    let (inward, outward) =
        if is_unsaid { (true, part("/spec/egress").is_some()) } else { (names("Ingress"), names("Egress")) };
    NetworkPolicy {
        name: name.clone(),
        selector: part("/spec/podSelector").map_or_else(Vec::new, demands),
        ingress: inward.then(Vec::new),
        egress: outward.then(Vec::new),
    }
}

fn demands(selector: &Value) -> Vec<LabelRule> {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten().map(|(key, value)| json!({"matchLabels": {key: value}}));
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    let expressions = expressions.into_iter().flatten().map(|one| json!({"matchExpressions": [one]}));
    labels.chain(expressions).filter_map(alone).flatten().collect()
}

/// What a selector of one demand says, where all of it can be read.
fn alone(selector: Value) -> Option<Vec<LabelRule>> {
    let mut problems = Problems::default();
    let selector: LabelSelector = typed::typed(selector, true, &mut problems)?;
    let rules = super::selector(&selector, "", &mut problems);
    problems.0.is_empty().then_some(rules)
}

#[cfg(test)]
mod tests {
    use millrace_model::ObjectName;
    use serde_json::{Value, json};

    use super::{NetworkPolicy, closed};
    use crate::world::LabelRule;

    fn of(spec: &Value) -> NetworkPolicy {
        closed(&ObjectName::new("shop", "p"), &json!({ "spec": spec }))
    }

    fn selects(selector: &Value) -> Vec<LabelRule> {
        of(&json!({ "podSelector": selector })).selector
    }

    #[test]
    fn what_can_be_read_of_a_selector_narrows_it_and_what_cannot_does_not() {
        let web = [LabelRule::In("app".to_owned(), ["web".to_owned()].into())];
        assert_eq!(selects(&json!({"matchLabels": {"app": "web", "tier": 3}})), web);
        let odd = json!({"key": "tier", "operator": "Near", "values": ["a"]});
        assert_eq!(selects(&json!({"matchLabels": {"app": "web"}, "matchExpressions": [odd]})), web);
        let more = json!({"key": "tier", "operator": "Exists", "since": "v9"});
        assert_eq!(
            selects(&json!({"matchExpressions": [more, {"key": "a", "operator": "Exists"}]})),
            [LabelRule::Exists("a".to_owned())]
        );
        // In without values would select nobody.
        assert_eq!(selects(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})), []);
        for all in [json!(null), json!("app=web"), json!({}), json!({"matchLabels": ["app"]}), json!([])] {
            assert_eq!(selects(&all), [], "{all}");
        }
    }

    #[test]
    fn it_closes_each_way_that_it_may_speak_of() {
        let ways = |spec: &Value| {
            let NetworkPolicy { ingress, egress, .. } = of(spec);
            assert!([&ingress, &egress].iter().all(|way| way.as_ref().is_none_or(Vec::is_empty)));
            (ingress.is_some(), egress.is_some())
        };
        assert_eq!(ways(&json!({})), (true, false));
        assert_eq!(ways(&json!({"egress": "x"})), (true, true));
        assert_eq!(ways(&json!({"policyTypes": ["Egress"]})), (false, true));
        assert_eq!(ways(&json!({"policyTypes": ["Ingress"], "egress": []})), (true, false));
        assert_eq!(ways(&json!({"policyTypes": ["Ingress", "Sideways"]})), (true, true));
        assert_eq!(ways(&json!({"policyTypes": "Ingress"})), (true, true));
        assert_eq!(ways(&json!({"policyTypes": []})), (true, false));
    }
}
