//! States that `deploy/crds` is what the types say, and that the definitions are ones an API server takes.

use std::path::Path;

#[test]
fn the_files_in_deploy_crds_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    for (file, crd) in millrace_crd::crds() {
        let stored = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        assert_eq!(
            stored,
            millrace_crd::yaml(&crd).unwrap(),
            "deploy/crds/{file} is stale: run cargo run -p millrace-crd --bin millrace-crds -- deploy/crds"
        );
    }
}

#[test]
fn every_kind_has_its_scope_and_a_status_and_is_found_by_category_and_short_name() {
    for (file, crd) in millrace_crd::crds() {
        let spec = &crd["spec"];
        assert_eq!(spec["group"], millrace_crd::GROUP, "{file}");
        let scope = if file == "nodeprofiles.yaml" { "Cluster" } else { "Namespaced" };
        assert_eq!(spec["scope"], scope, "{file}");
        assert_eq!(spec["names"]["categories"], serde_json::json!(["millrace"]), "{file}");
        let short = spec["names"]["shortNames"][0].as_str().unwrap();
        assert!(short.starts_with("mr"), "{short}");
        let version = &spec["versions"][0];
        assert_eq!(version["name"], millrace_crd::VERSION);
        assert!(version["subresources"]["status"].is_object(), "{file}");
        assert!(version["additionalPrinterColumns"].as_array().is_some_and(|c| c.len() == 4), "{file}");
    }
}

/// `kubectl explain` is the first place a user looks: a field without a sentence is a field nobody can use.
#[test]
fn every_field_of_a_spec_is_described() {
    fn walk(path: &str, schema: &serde_json::Value) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(field["description"].as_str().is_some_and(|d| d.len() > 10), "{path} has no description");
            walk(&path, field);
            walk(&path, &field["items"]);
        }
    }
    for (_, crd) in millrace_crd::crds() {
        walk("spec", &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]);
    }
}
