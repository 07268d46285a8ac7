//! Keeps a key and its certificates in a Secret, in the layout that cert-manager writes: who makes it first, all use.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};

/// `tls.crt`: the certificate of the key, and those between it and the root.
const CERTIFICATES: &str = "tls.crt";
/// `tls.key`
const KEY: &str = "tls.key";
/// `ca.crt`: what peers are to trust.
const AUTHORITIES: &str = "ca.crt";
/// How long to wait for an API server that is away.
const RETRY: Duration = Duration::from_secs(1);

/// What Kubernetes calls a Secret with a key and its certificates.
pub(crate) const KIND: &str = "kubernetes.io/tls";

/// A key and its certificates, as PEM.
#[derive(Clone)]
pub struct Pair {
    /// The key's own certificate first.
    pub certificates: String,
    /// The private key.
    pub key: String,
    /// What peers are to trust.
    pub authorities: String,
}

/// What the Secret of this name holds; `made`, where there was none. Waits while the API server is away.
pub async fn shared(client: &Client, namespace: &str, name: &str, made: &Pair) -> anyhow::Result<Pair> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    loop {
        match try_shared(&secrets, name, made).await {
            Ok(Some(pair)) => return Ok(pair),
            // Another replica was first: its is there now.
            Ok(None) => continue,
            Err(kube::Error::Api(status)) if status.code < 500 => {
                return Err(kube::Error::Api(status)).with_context(|| format!("Secret {namespace}/{name}"));
            }
            Err(error) => {
                tracing::warn!(secret = name, error = &error as &dyn std::error::Error, "waiting for the API server");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn try_shared(secrets: &Api<Secret>, name: &str, made: &Pair) -> kube::Result<Option<Pair>> {
    if let Some(secret) = secrets.get_opt(name).await? {
        return Ok(Some(pair(&secret)));
    }
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        type_: Some(KIND.to_owned()),
        data: Some(data(made)),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(Some(made.clone())),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a Secret holds; empty where it holds none.
pub(crate) fn pair(secret: &Secret) -> Pair {
    let text = |name: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|ByteString(bytes)| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    };
    let certificates = text(CERTIFICATES);
    // A self-signed issuer of cert-manager's leaves it out, as the certificate is its own.
    let authorities = Some(text(AUTHORITIES)).filter(|pem| !pem.is_empty()).unwrap_or_else(|| certificates.clone());
    Pair { certificates, key: text(KEY), authorities }
}

/// A Secret's data, with this in it.
pub(crate) fn data(pair: &Pair) -> BTreeMap<String, ByteString> {
    let Pair { certificates, key, authorities } = pair;
    let data = [(CERTIFICATES, certificates), (KEY, key), (AUTHORITIES, authorities)];
    data.map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec()))).into()
}
