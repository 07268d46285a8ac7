//! States what a token is, and that credentials survive a restart and nothing less than whole.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use millrace_node::credentials::new_key;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::{BadToken, Credentials, Token};
use crate::{config::ControlAddress, state_dir::StateDir};

fn token(node: &str) -> String {
    format!("v1.{node}.{}.{}", "0f".repeat(32), "s".repeat(43))
}

#[test]
fn a_token_names_its_node_and_root() {
    let token: Token = token("node-1.example").parse().unwrap();
    assert_eq!((token.node.as_str(), token.root_sha256), ("node-1.example", [0x0f; 32]));
    assert!(!format!("{token:?}").contains("sss"), "a secret was shown");
}

#[test]
fn anything_else_is_no_token() {
    for (text, why) in [
        (String::new(), BadToken::Version),
        (token("a").replacen("v1", "v2", 1), BadToken::Version),
        ("v1.a".to_owned(), BadToken::Parts),
        (token(""), BadToken::Parts),
        (token("a").replacen("0f", "0F", 1), BadToken::Root),
        (token("a").replacen("0f", "", 1), BadToken::Root),
        (token("a") + "s", BadToken::Secret),
        (token("a") + "\n", BadToken::Secret),
    ] {
        assert_eq!(text.parse::<Token>(), Err(why), "{text:?}");
    }
}

fn expiring(account: &str, at: SystemTime) -> Credentials {
    let (key, leaf) = issued_until(account, Some(at));
    Credentials::from_parts(Arc::new(key), vec![leaf.clone()], vec![leaf], "a").unwrap()
}

fn issued(account: &str) -> (KeyPair, CertificateDer<'static>) {
    issued_until(account, None)
}

fn issued_until(account: &str, at: Option<SystemTime>) -> (KeyPair, CertificateDer<'static>) {
    let key = new_key().unwrap();
    let mut params = CertificateParams::default();
    if let Some(at) = at {
        params.not_after = at.into();
    }
    let uri = format!("spiffe://td/ns/millrace-system/sa/{account}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let leaf = params.self_signed(&key).unwrap().der().clone();
    (key, leaf)
}

fn credentials(account: &str) -> Result<Credentials, super::Unjoined> {
    let (key, leaf) = issued(account);
    Credentials::from_parts(Arc::new(key), vec![leaf.clone()], vec![leaf], "a")
}

#[test]
fn credentials_are_read_back_as_they_were_saved() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temporary.path()).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    assert!(Credentials::load(&dir, "a", now).unwrap().is_none());
    let saved = credentials("node.a").unwrap();
    saved.save(&dir).unwrap();
    let loaded = Credentials::load(&dir, "a", now).unwrap().unwrap();
    assert_eq!(loaded.material.chain, saved.material.chain);
    assert_eq!(loaded.control().to_string(), "spiffe://td/ns/millrace-system/sa/millrace-control");
    assert!(Credentials::load(&dir, "b", now).unwrap().is_none(), "another node's certificate was taken");
    let late = saved.not_after;
    assert!(Credentials::load(&dir, "a", late).unwrap().is_none(), "an expired certificate was taken");
}

/// As after a control plane that was away for too long. The second join is one that is done already: its result is on disk.
#[tokio::test]
async fn a_node_whose_certificate_expires_joins_again() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temporary.path()).unwrap();
    let now = crate::clock::wall_time();
    expiring("node.a", now + Duration::from_secs(2)).save(&dir).unwrap();
    let control = ControlAddress { host: "127.0.0.1".into(), port: 1 };
    let (held, mut seen): (super::Held, _) = watch::channel(None);
    let (_refuse, revoked) = watch::channel(None);
    let test = async {
        let first = seen.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        seen.wait_for(Option::is_none).await.unwrap();
        assert!(first.not_after <= crate::clock::wall_time(), "it was given up before its time");
        expiring("node.a", now + Duration::from_secs(3600)).save(&dir).unwrap();
        let second = seen.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(second.not_after > first.not_after);
    };
    tokio::select! {
        never = super::keep("a", &control, super::Files::default(), &dir, (held, revoked)) => match never {},
        done = tokio::time::timeout(Duration::from_secs(30), test) => done.unwrap(),
    }
}

/// What is on disk is as good as what is held: the control plane refuses both.
#[tokio::test]
async fn a_node_that_was_taken_out_gives_up_what_it_has_and_takes_nothing_from_disk() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temporary.path()).unwrap();
    credentials("node.a").unwrap().save(&dir).unwrap();
    let control = ControlAddress { host: "127.0.0.1".into(), port: 1 };
    let (held, mut seen): (super::Held, _) = watch::channel(None);
    let (refuse, revoked) = watch::channel(None);
    let test = async {
        let own = seen.wait_for(Option::is_some).await.unwrap().clone();
        refuse.send_replace(Some(Arc::new(credentials("node.a").unwrap())));
        assert!(seen.borrow().is_some(), "others were refused, which it had before");
        refuse.send_replace(own);
        seen.wait_for(Option::is_none).await.unwrap();
        let again = tokio::time::timeout(Duration::from_millis(500), seen.wait_for(Option::is_some)).await;
        assert!(again.is_err(), "what was refused was taken again");
    };
    tokio::select! {
        never = super::keep("a", &control, super::Files::default(), &dir, (held, revoked)) => match never {},
        done = tokio::time::timeout(Duration::from_secs(30), test) => done.unwrap(),
    }
}

#[test]
fn a_workloads_certificate_is_not_a_nodes() {
    assert!(credentials("a").is_err());
    assert!(credentials("node.b").is_err());
}
