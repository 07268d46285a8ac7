//! Puts the roots where pods can mount them: a ConfigMap, and a ClusterTrustBundle where the API server serves them.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::json;
use tokio::sync::watch;

use super::{authority::pem, roots::Trusted};
use crate::world::Settings;

/// The ConfigMap, with the roots in `ca.crt`: what an agent is given to know the control plane by, before it has a certificate.
const CONFIG_MAP: &str = "millrace-roots";
/// Who signs. A bundle with a signer carries its name, and only who may attest for the signer may write it.
const SIGNER: &str = "millrace.dev/identity";
/// The ClusterTrustBundle.
const TRUST_BUNDLE: &str = "millrace.dev:identity:roots";
/// The versions that serve ClusterTrustBundles, newest first.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
/// As whom the fields are managed.
const MANAGER: &str = "millrace-control";
/// How often they are put there again: somebody may have removed them.
const AGAIN: Duration = Duration::from_secs(60);
/// How long to wait where that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the roots published until the process ends. Every replica writes the same, so none has to lead.
pub async fn publish(client: Client, settings: Settings, mut trusted: watch::Receiver<Trusted>) -> anyhow::Result<()> {
    loop {
        let roots = pem(trusted.borrow_and_update().authority.bundle());
        let wait = match try_publish(&client, &settings, &roots).await {
            Ok(()) => AGAIN,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the roots can't be published");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = trusted.changed() => {}
        }
    }
}

async fn try_publish(client: &Client, settings: &Settings, roots: &str) -> kube::Result<()> {
    let params = PatchParams::apply(MANAGER).force();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &settings.root_namespace);
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP}, "data": {"ca.crt": roots}});
    maps.patch(CONFIG_MAP, &params, &Patch::Apply(&map)).await?;
    for version in VERSIONS {
        let kind = GroupVersionKind::gvk("certificates.k8s.io", version, "ClusterTrustBundle");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clustertrustbundles");
        let bundles: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let bundle = json!({
            "apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": TRUST_BUNDLE},
            "spec": {"signerName": SIGNER, "trustBundle": roots},
        });
        match bundles.patch(TRUST_BUNDLE, &params, &Patch::Apply(&bundle)).await {
            Ok(_) => break,
            // This version is not served; or none is, and the ConfigMap has to do.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
