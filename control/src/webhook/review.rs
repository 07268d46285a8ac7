//! Decides whether an object may be written: by reading it as the source will. Pure.

use millrace_model::ObjectName;
use serde_json::{Value, json};

use crate::{
    diagnostic::{Key, Kind, Problem, Weight},
    source::object,
    world::Settings,
};

/// What is answered to a review.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The AdmissionReview to send back.
    pub body: Value,
    /// `allowed` or `refused`, to be counted.
    pub result: &'static str,
}

/// Stands for a name that the API server makes up later.
const UNNAMED: &str = "unnamed";

/// The answer to this AdmissionReview; None for a body that is none.
pub fn review(body: &[u8], settings: &Settings) -> Option<Answer> {
    let asked: Value = serde_json::from_slice(body).ok()?;
    let request = asked.get("request")?;
    let uid = request.get("uid")?.as_str()?;
    let text = |path: &str| request.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = text("/kind/kind")?;
    let known = Kind::ALL.into_iter().find(|known| (known.is_own() || known.has_entries()) && known.name() == kind);
    let object = request.get("object").filter(|object| object.is_object());
    let problems = match (known, object) {
        (Some(kind), Some(object)) => {
            let namespace = if kind.is_cluster_scoped() { "" } else { text("/namespace").unwrap_or_default() };
            let name = text("/name").or_else(|| text("/object/metadata/name")).unwrap_or(UNNAMED);
            let key = Key { kind, name: ObjectName::new(namespace, name) };
            match whose(kind, &key, object) {
                Whose::Ours => object::read(&key, object.clone(), settings).1,
                // A gateway may know what the mesh does not: it is told, and no more.
                Whose::Shared => warned(object::read(&key, object.clone(), settings).1),
                Whose::Others => Vec::new(),
            }
        }
        // A kind of a newer version, or a deletion: nothing that this version could say a word on.
        _ => Vec::new(),
    };
    let (fatal, slight): (Vec<&Problem>, Vec<&Problem>) =
        problems.iter().partition(|problem| problem.weight == Weight::Fatal);
    let warnings: Vec<String> = slight.into_iter().map(sentence).collect();
    let mut response = json!({"uid": uid, "allowed": fatal.is_empty(), "warnings": warnings});
    if !fatal.is_empty() {
        let message = fatal.iter().map(|problem| sentence(problem)).collect::<Vec<_>>().join(" ");
        if let Value::Object(response) = &mut response {
            response.insert("status".to_owned(), json!({"code": 422, "reason": "Invalid", "message": message}));
        }
    }
    let result = if fatal.is_empty() { "allowed" } else { "refused" };
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Some(Answer { body, result })
}

/// Whose business an object is.
enum Whose {
    Ours,
    Shared,
    Others,
}

/// A route's is who its parents are; a policy is ours.
fn whose(kind: Kind, key: &Key, object: &Value) -> Whose {
    if kind == Kind::BackendPolicy {
        // Whoever sends requests to its services may read it.
        return if object::asked(key, object).parents.is_empty() { Whose::Others } else { Whose::Shared };
    }
    if !kind.is_route() {
        return Whose::Ours;
    }
    let n_parents = object.pointer("/spec/parentRefs").and_then(Value::as_array).map_or(0, Vec::len);
    let n_services = object::asked(key, object).parents.len();
    match n_services {
        0 => Whose::Others,
        n if n == n_parents => Whose::Ours,
        _ => Whose::Shared,
    }
}

fn warned(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.iter_mut().for_each(|problem| problem.weight = Weight::Slight);
    problems
}

/// As a diagnostic says it, of an object that both sides know.
fn sentence(problem: &Problem) -> String {
    let Problem { field, problem, mend, weight: _ } = problem;
    if field.is_empty() { format!("{problem}; {mend}.") } else { format!("{field}: {problem}; {mend}.") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::review;
    use crate::world::Settings;

    fn ask(kind: &str, object: &Value) -> Value {
        let settings = Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() };
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "7", "kind": {"group": "millrace.dev", "version": "v1alpha1", "kind": kind},
            "namespace": "shop", "name": "guard", "operation": "CREATE", "object": object}});
        review(body.to_string().as_bytes(), &settings).unwrap().body
    }

    fn policy(spec: &Value) -> Value {
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "AccessPolicy",
            "metadata": {"name": "guard", "namespace": "shop"}, "spec": spec})
    }

    #[test]
    fn a_good_object_is_let_through_under_the_uid_that_was_asked() {
        let answer = ask("AccessPolicy", &policy(&json!({})));
        assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!("7"), &json!(true)));
    }

    #[test]
    fn a_wrong_object_is_refused_with_field_and_mend_for_all_that_is_wrong() {
        let rules = json!({"rules": [{"from": [{"namespaces": ["UPPER"]}, {"ipBlocks": ["10.0.0.0/99"]}]}]});
        let answer = ask("AccessPolicy", &policy(&rules));
        assert_eq!(answer["response"]["allowed"], json!(false));
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        for part in ["spec.rules[0].from[0].namespaces[0]: ", "spec.rules[0].from[1].ipBlocks[0]: ", "; write "] {
            assert!(message.contains(part), "{message}");
        }
    }

    fn route(parents: &Value) -> Value {
        let backend = json!([{"name": "web", "port": 80}]);
        json!({"metadata": {"name": "guard", "namespace": "shop"}, "spec": {"parentRefs": parents, "rules": [{
            "matches": [{"path": {"type": "RegularExpression", "value": "/("}}], "backendRefs": backend}]}})
    }

    #[test]
    fn a_wrong_route_is_refused_where_it_is_the_meshs_alone() {
        let service = json!({"group": "", "kind": "Service", "name": "web"});
        let answer = ask("HTTPRoute", &route(&json!([service])));
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("spec.rules[0].matches[0].path.value: "), "{message}");
        let answer = ask("HTTPRoute", &route(&json!([service, {"name": "front"}])));
        assert_eq!(answer["response"]["allowed"], json!(true), "a gateway may know what the mesh does not");
        assert!(answer["response"]["warnings"][0].as_str().is_some_and(|text| text.contains("spec.rules[0]")));
        let answer = ask("HTTPRoute", &route(&json!([{"name": "front"}])));
        assert_eq!((&answer["response"]["allowed"], &answer["response"]["warnings"]), (&json!(true), &json!([])));
    }

    #[test]
    fn a_kind_of_a_newer_version_is_none_of_this_versions_business() {
        assert_eq!(ask("MoonPolicy", &json!({"spec": 3}))["response"]["allowed"], json!(true));
    }

    #[test]
    fn a_body_that_is_no_review_has_no_answer() {
        let settings = Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() };
        for body in [&b"{}"[..], b"", b"{\"request\": {\"uid\": 3}}"] {
            assert_eq!(review(body, &settings), None);
        }
    }
}
