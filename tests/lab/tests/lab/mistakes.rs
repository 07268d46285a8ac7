//! Mistakes in the directory: each is named with file, object and field, and nothing else is disturbed.

use anyhow::ensure;
use millrace_lab::{
    Part, clock,
    manifests::{Rule, access_policy},
};

use crate::scene::{self, CALL};

/// A file, its text, and what the message must contain beside the file's name.
type Mistake = (&'static str, &'static str, &'static [&'static str]);

const MISTAKES: [Mistake; 6] = [
    ("m1.yaml", "kind: [\n", &[]),
    (
        "m2.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: shop}\nspec: {ports: [{port: 70000}]}\n",
        &["x", "port"],
    ),
    (
        "m3.yaml",
        "apiVersion: millrace.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: typo, namespace: shop}\nspec: {acton: Deny}\n",
        &["typo", "acton"],
    ),
    (
        "m4.yaml",
        "apiVersion: millrace.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: nobody, namespace: shop}\nspec: {rules: [{from: []}]}\n",
        &["nobody", "from"],
    ),
    (
        "m5.yaml",
        "apiVersion: millrace.dev/v1alpha1\nkind: EncryptionPolicy\nmetadata: {name: loud, namespace: shop}\nspec: {mode: Loud}\n",
        &["loud", "mode"],
    ),
    (
        "m6.yaml",
        "apiVersion: millrace.dev/v1alpha1\nkind: AccesPolicy\nmetadata: {name: kind, namespace: shop}\n",
        &["AccesPolicy"],
    ),
];

#[test]
fn mistakes_are_named_and_disturb_nothing() {
    scene::mesh(&scene::two_nodes("mistakes"), |lab| {
        let _serving =
            [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let policy = access_policy("shop/guard", "Allow", "web", &[Rule::namespace("shop")])?;
        let file = lab.apply(&policy)?;
        let (client, stranger) = (lab.pod("shop/client")?, lab.pod("other/stranger")?);
        clock::until(CALL, "the policy is in force", || stranger.is_refused("10.10.2.11:8080"))?;
        for (name, text, _) in MISTAKES {
            lab.manifests().write(name, text)?;
        }
        // A policy broken in place keeps saying what it said when it was good: it must not open what it closed.
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        lab.manifests().write(&name, &std::fs::read_to_string(&file)?.replace("Allow", "Alow"))?;
        let mut messages: Vec<String> = Vec::new();
        clock::until(CALL, "every mistake is told", || {
            let status = lab.admin(Part::Control).json("/status")?;
            let told = status.get("diagnostics").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
            messages = told.iter().map(ToString::to_string).collect();
            ensure!(messages.len() > MISTAKES.len(), "{} so far: {messages:#?}", messages.len());
            Ok(())
        })?;
        for (file, _, needles) in MISTAKES {
            let found =
                messages.iter().find(|message| message.contains(file) && needles.iter().all(|n| message.contains(n)));
            ensure!(found.is_some(), "a message names {file} and {needles:?}: {messages:#?}");
        }
        ensure!(messages.iter().any(|message| message.contains(&name) && message.contains("action")), "{messages:#?}");
        for target in ["10.10.1.12:8080", "10.10.2.11:8080", "web:80"] {
            client.connects(target)?;
            stranger.is_refused(if target == "web:80" { "10.96.0.11:80" } else { target })?;
        }
        Ok(())
    });
}
