//! Reads and writes the Secret of what is in force: who signs, which roots are believed, who was taken out.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};

use crate::issue::{
    revocation::Revocations,
    secret::{self, Pair},
};

/// The Secret. It holds a key: as secret as the one that it was given by.
pub(super) const NAME: &str = "millrace-trust";
/// When who signs, or who is believed, changed last: seconds since 1970.
const SINCE: &str = "since";
/// The nodes that were taken out. 1,024 names of 253 bytes are a third of what a Secret may hold.
const REVOKED: &str = "revoked.json";
/// How long to wait for an API server that is away.
const RETRY: Duration = Duration::from_secs(1);
/// A call that takes longer has failed.
const CALL: Duration = Duration::from_secs(3);

/// What is in force.
#[derive(Clone)]
pub struct Kept {
    /// Who signs; of authorities, all that are believed.
    pub pair: Pair,
    /// When that changed last, since 1970.
    pub since: Duration,
    /// Who was taken out.
    pub revoked: Revocations,
    /// The version of the object that says so; None where there is none.
    pub version: Option<String>,
}

/// What became of a write.
pub(super) enum Written {
    Done(Kept),
    /// Somebody wrote before.
    Overtaken,
    /// The API server did not take it.
    Failed(String),
}

/// What is in force; where nothing is yet, that this is. Waits while the API server is away.
pub async fn first(client: &Client, namespace: &str, given: &Pair, now: Duration) -> anyhow::Result<Kept> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let made = Kept { pair: given.clone(), since: now, revoked: Revocations::default(), version: None };
    loop {
        match secrets.get_opt(NAME).await {
            Ok(Some(secret)) => return read(&secret).with_context(|| format!("Secret {namespace}/{NAME}")),
            Ok(None) => match write(&secrets, made.clone()).await {
                Written::Done(kept) => return Ok(kept),
                // Another replica was first: what it wrote is there now.
                Written::Overtaken => continue,
                Written::Failed(why) => tracing::warn!(secret = NAME, why, "waiting for the API server"),
            },
            Err(kube::Error::Api(status)) if status.code < 500 => {
                return Err(kube::Error::Api(status)).with_context(|| format!("Secret {namespace}/{NAME}"));
            }
            Err(error) => {
                tracing::warn!(secret = NAME, error = &error as &dyn std::error::Error, "waiting for the API server");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What a Secret holds.
pub(super) fn read(secret: &Secret) -> anyhow::Result<Kept> {
    let text = |name: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|ByteString(bytes)| String::from_utf8_lossy(bytes).into_owned()).with_context(|| format!("no {name}"))
    };
    Ok(Kept {
        pair: secret::pair(secret),
        since: Duration::from_secs(text(SINCE)?.parse().context(SINCE)?),
        revoked: serde_json::from_str(&text(REVOKED)?).context(REVOKED)?,
        version: secret.metadata.resource_version.clone(),
    })
}

/// Writes it over the version that it names, or anew.
pub(super) async fn write(secrets: &Api<Secret>, kept: Kept) -> Written {
    let Kept { pair, since, revoked, version } = &kept;
    let revoked = match serde_json::to_vec(revoked) {
        Ok(revoked) => revoked,
        Err(error) => return Written::Failed(error.to_string()),
    };
    let mut data: BTreeMap<String, ByteString> = secret::data(pair);
    data.insert(SINCE.to_owned(), ByteString(since.as_secs().to_string().into_bytes()));
    data.insert(REVOKED.to_owned(), ByteString(revoked));
    let metadata =
        ObjectMeta { name: Some(NAME.to_owned()), resource_version: version.clone(), ..ObjectMeta::default() };
    let secret = Secret { metadata, type_: Some(secret::KIND.to_owned()), data: Some(data), ..Secret::default() };
    let params = PostParams::default();
    let written = async {
        match version {
            None => secrets.create(&params, &secret).await,
            Some(_) => secrets.replace(NAME, &params, &secret).await,
        }
    };
    match tokio::time::timeout(CALL, written).await {
        Ok(Ok(secret)) => Written::Done(Kept { version: secret.metadata.resource_version, ..kept }),
        // It is there already, is another by now, or is gone.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Written::Overtaken,
        Ok(Err(error)) => Written::Failed(error.to_string()),
        Err(_) => Written::Failed(format!("no answer within {CALL:?}")),
    }
}

/// What stands there now; None where there is nothing.
pub(super) async fn again(secrets: &Api<Secret>) -> Result<Option<Secret>, String> {
    match tokio::time::timeout(CALL, secrets.get_opt(NAME)).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {CALL:?}")),
    }
}
