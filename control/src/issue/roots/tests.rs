//! States how roots take one another's place, what a crash leaves of that, and how a revoked node is told.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use super::{Nodes, Roots, Trusting, Unchanged, bundle_sha256};
use crate::{
    issue::{
        authority::{Authority, Lifetimes, Wanted},
        revocation::{Revocations, mark},
        roots::Trusted,
        secret::Pair,
    },
    world::Settings,
};

const NOW: Duration = Duration::from_secs(1_800_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn settings() -> Settings {
    Settings { trust_domain: "td".into(), root_namespace: "millrace-system".into() }
}

fn open(state: &Path) -> Roots {
    Roots::open(state, &settings(), Lifetimes { leaf: DAY, node: DAY }, NOW).unwrap()
}

type Said = BTreeMap<Arc<str>, Option<Trusting>>;

/// A node that holds all that is believed now, and shows certificates under this root.
fn holds(roots: &Roots, issuer: [u8; 32]) -> Option<Trusting> {
    let bundle_sha256 = bundle_sha256(roots.authority().bundle()).to_vec();
    Some(Trusting { bundle_sha256, issuers_sha256: vec![issuer.to_vec()] })
}

#[test]
fn a_root_takes_anothers_place_in_three_steps_that_each_wait_for_the_nodes() {
    let state = tempfile::tempdir().unwrap();
    let roots = open(state.path());
    let first = roots.authority().root_sha256();
    let mut said: Said = [("a".into(), holds(&roots, first)), ("b".into(), holds(&roots, first))].into();
    assert!(matches!(roots.activate(&Nodes::Known(&said)), Err(Unchanged::NoNext)));
    assert!(matches!(roots.retire(&Nodes::Known(&said)), Err(Unchanged::NothingToRetire)));

    roots.add(NOW).unwrap();
    assert_eq!((roots.authority().bundle().len(), roots.authority().root_sha256()), (2, first));
    assert!(matches!(roots.add(NOW), Err(Unchanged::NextWaits)));

    let Err(Unchanged::Behind(behind)) = roots.activate(&Nodes::Known(&said)) else { panic!("nobody believes it") };
    assert_eq!(behind, ["a", "b"]);
    for node in said.values_mut() {
        *node = holds(&roots, first);
    }
    roots.activate(&Nodes::Known(&said)).unwrap();
    let second = roots.authority().root_sha256();
    assert_ne!(second, first);
    assert_eq!(roots.authority().bundle().len(), 2, "what the first one signed is believed still");

    said.insert("a".into(), holds(&roots, second));
    said.insert("c".into(), None);
    let Err(Unchanged::InUse(in_use)) = roots.retire(&Nodes::Known(&said)) else { panic!("b shows the first one's") };
    assert_eq!(in_use, ["b", "c"], "and nobody knows what c shows");
    said.remove("c");
    said.insert("b".into(), holds(&roots, second));
    roots.retire(&Nodes::Known(&said)).unwrap();
    assert_eq!((roots.authority().bundle().len(), roots.authority().root_sha256()), (1, second));
    assert_eq!(open(state.path()).authority().root_sha256(), second, "and so it is after a restart");
}

#[test]
fn a_person_may_decide_not_to_wait() {
    let state = tempfile::tempdir().unwrap();
    let roots = open(state.path());
    roots.add(NOW).unwrap();
    roots.activate(&Nodes::Forced).unwrap();
    roots.retire(&Nodes::Forced).unwrap();
    assert_eq!(roots.authority().bundle().len(), 1);
}

/// Whatever is on the disk between two writes of a change, the next start works by it, and the change can be made again.
#[test]
fn a_crash_between_any_two_writes_leaves_an_authority() {
    let state = tempfile::tempdir().unwrap();
    let first = open(state.path()).authority().root_sha256();
    // The next root's key, without its certificate.
    fs::write(state.path().join("next.key"), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let roots = open(state.path());
    assert_eq!((roots.authority().root_sha256(), roots.authority().next()), (first, None));
    roots.add(NOW).unwrap();
    // Both are there: as after a crash before anybody was told.
    let roots = open(state.path());
    assert!(roots.authority().next().is_some());
    roots.activate(&Nodes::Forced).unwrap();
    // The new one signs, the old one is believed: as after a crash before it was retired.
    let roots = open(state.path());
    assert_eq!((roots.authority().bundle().len(), roots.authority().next()), (2, None));
    assert_ne!(roots.authority().root_sha256(), first);
    assert!(!state.path().join("next.key").exists());
}

#[test]
fn files_that_cannot_be_used_leave_everything_as_it_was() {
    let state = tempfile::tempdir().unwrap();
    let roots = open(state.path());
    let first = roots.authority().root_sha256();
    let good = fs::read(state.path().join("root.pem")).unwrap();
    fs::write(state.path().join("root.pem"), "no certificate").unwrap();
    assert!(matches!(roots.reload(), Err(Unchanged::Fault(_))));
    assert_eq!(roots.authority().root_sha256(), first);
    fs::write(state.path().join("root.pem"), good).unwrap();
    assert!(!roots.reload().unwrap(), "nothing has changed");
}

#[test]
fn a_given_root_is_taken_in_while_it_runs() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (roots, given) = (open(ours.path()), open(theirs.path()));
    let both = [ours.path(), theirs.path()].map(|state| fs::read_to_string(state.join("root.pem")).unwrap()).concat();
    fs::write(ours.path().join("root.pem"), both).unwrap();
    assert!(roots.reload().unwrap());
    assert_eq!(roots.authority().bundle().len(), 2);
    fs::copy(theirs.path().join("root.key"), ours.path().join("root.key")).unwrap();
    assert!(roots.reload().unwrap());
    assert_eq!(roots.authority().root_sha256(), given.authority().root_sha256());
}

#[test]
fn who_is_revoked_is_told_by_the_beginning_of_their_serial_numbers() {
    let state = tempfile::tempdir().unwrap();
    let roots = open(state.path());
    let key = rcgen::KeyPair::generate().unwrap();
    let identity = "spiffe://td/ns/shop/sa/web".parse().unwrap();
    let leaf = |node| {
        let wanted = Wanted { identity: &identity, mark: mark(node), lifetime: DAY, not_before_unix: 0, now: NOW };
        roots.authority().leaf(&wanted, &key).unwrap()
    };
    let serial = |der: &[u8]| x509_parser::parse_x509_certificate(der).unwrap().1.raw_serial().to_vec();
    let (one, other) = (serial(&leaf("a")), serial(&leaf("a")));
    assert_eq!((one.len(), &one[..8]), (16, &mark("a")[..]));
    assert_ne!(one, other, "the rest is random");

    roots.revoke("a", NOW).unwrap();
    let Trusted { revoked, .. } = roots.watch().borrow().clone();
    assert!(revoked.refuse("a", NOW.as_secs()) && !revoked.refuse("b", NOW.as_secs()));
    let told = roots.watch().borrow().trust();
    assert_eq!(told.revoked.len(), 1);
    assert_eq!(told.revoked[0].mark, mark("a"));
    assert!(open(state.path()).revoked().refuse("a", 0), "and after a restart");
    assert!(matches!(roots.readmit("b"), Err(Unchanged::NotRevoked(node)) if node == "b"));
    roots.readmit("a").unwrap();
}

/// An authority as cert-manager gives one: a root, and an intermediate that it has signed.
fn given(name: &str) -> (Pair, rcgen::Issuer<'static, rcgen::KeyPair>, rcgen::Certificate) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let (top_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let top = authority().self_signed(&top_key).unwrap();
    let issuer = Issuer::new(authority(), top_key);
    let mut between = authority();
    between.distinguished_name.push(DnType::CommonName, "between");
    let between = between.signed_by(&key, &issuer).unwrap();
    (Pair { certificates: between.pem(), key: key.serialize_pem(), authorities: top.pem() }, issuer, top)
}

fn take_given(pair: &Pair) -> Result<Roots, Unchanged> {
    let (asks, _) = tokio::sync::mpsc::channel(1);
    Roots::given((pair, Revocations::default()), &settings(), Lifetimes { leaf: DAY, node: DAY }, asks)
}

/// Somebody else keeps it: what is changed here would be undone there.
#[test]
fn an_authority_that_is_given_signs_through_its_intermediate_and_is_changed_where_it_is_given() {
    let (pair, _, top) = given("root");
    let roots = take_given(&pair).unwrap();
    assert_eq!((roots.authority().intermediates().len(), roots.authority().bundle().len()), (1, 1));
    assert_eq!(roots.authority().root(), top.der(), "what tokens pin and what peers know is the root");
    assert_eq!(roots.watch().borrow().trust().issuer_sha256, roots.authority().root_sha256());
    assert!(matches!(roots.add(NOW), Err(Unchanged::Given)));
    assert!(matches!(roots.activate(&Nodes::Forced), Err(Unchanged::Given)));
    assert!(matches!(roots.retire(&Nodes::Forced), Err(Unchanged::Given)));
    assert!(!roots.reload().unwrap());
    let refused = roots.revoke("a", NOW);
    assert!(matches!(refused, Err(Unchanged::NotTaken(_))), "nobody is there to tell the others");
    assert!(!roots.revoked().is_out("a"), "here alone it would not hold");
    let revoked = Revocations::default().with("a", DAY, NOW).unwrap();
    roots.replace(Authority::given(&pair, roots.authority().lifetimes()).unwrap(), revoked);
    assert!(roots.revoked().is_out("a"));
}

/// While one takes the other's place both are given, and as a rule they bear the same name.
#[test]
fn of_the_roots_that_are_given_the_one_that_has_signed_is_found_by_its_signature() {
    let ((mut pair, _, top), (other, ..)) = (given("root"), given("root"));
    pair.authorities = format!("{}{}", other.authorities, pair.authorities);
    let roots = take_given(&pair).unwrap();
    assert_eq!((roots.authority().root(), roots.authority().bundle().len()), (top.der(), 2));
    pair.authorities = other.authorities;
    assert!(matches!(take_given(&pair), Err(Unchanged::Fault(_))), "nobody would believe what it signs");
}
