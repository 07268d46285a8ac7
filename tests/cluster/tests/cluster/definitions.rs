//! What a person sees of Millrace's kinds by kubectl: what each field means, by which names they go, and nothing that an API server warns of.

use serde_json::Value;

use crate::server::{Server, server};

fn said(server: &Server, args: &[&str], input: &str) -> (String, String) {
    let said = server.kubectl(args, input);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(said.status.success(), "{args:?}: {}", text(&said.stderr));
    (text(&said.stdout), text(&said.stderr))
}

/// One paragraph, whatever a terminal's width makes of it.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn an_api_server_takes_the_definitions_without_a_warning() {
    let server = server();
    for (file, crd) in millrace_crd::crds() {
        let args = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
        let (_, warnings) = said(server, &args, &crd.to_string());
        assert_eq!(warnings, "", "{file}");
    }
}

#[test]
fn kubectl_explains_every_field_of_every_kind_as_the_types_do() {
    let server = server();
    let mut n_fields = 0;
    for (_, crd) in millrace_crd::crds() {
        let kind = crd.pointer("/spec/names/plural").and_then(Value::as_str).unwrap();
        let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        let mut ways = vec![(format!("{kind}.spec"), spec.clone())];
        while let Some((way, schema)) = ways.pop() {
            let Some(fields) = schema.get("properties").and_then(Value::as_object) else { continue };
            let (text, _) = said(server, &["explain", &way], "");
            let shown = flat(&text);
            for (name, field) in fields {
                let description = field.get("description").and_then(Value::as_str).unwrap_or_default();
                assert!(!description.is_empty() && shown.contains(&flat(description)), "{way}.{name}:\n{text}");
                // Broken by kubectl at the terminal's width alone: no line of it is shorter than the next word would allow.
                assert!(
                    !description.contains('\n') || description.contains("\n\n"),
                    "{way}.{name} is broken in the source"
                );
                if let Some(values) = field.get("enum").and_then(Value::as_array) {
                    let listed: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                    assert!(shown.contains(&format!("enum: {}", listed.join(", "))), "{way}.{name}:\n{text}");
                }
                let below = field.get("items").unwrap_or(field);
                ways.push((format!("{way}.{name}"), below.clone()));
                n_fields += 1;
            }
        }
    }
    println!("{n_fields} fields are explained");
    assert!(n_fields > 60, "{n_fields}");
}

#[test]
fn every_kind_goes_by_its_short_name_and_the_category_lists_all() {
    let server = server();
    let mut kinds = Vec::new();
    for (_, crd) in millrace_crd::crds() {
        let short = crd.pointer("/spec/names/shortNames/0").and_then(Value::as_str).unwrap();
        assert!(short.starts_with("mr"), "{short}");
        said(server, &["get", short, "-A"], "");
        kinds.push(crd.pointer("/spec/names/plural").and_then(Value::as_str).unwrap().to_owned());
    }
    let (listed, _) = said(server, &["api-resources", "--categories=millrace", "-o", "name"], "");
    for kind in kinds {
        assert!(listed.lines().any(|line| line == format!("{kind}.millrace.dev")), "{kind}: {listed}");
    }
}
