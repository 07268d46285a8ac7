//! States in which order roots that are given take one another's place, and who is waited for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use sha2::{Digest as _, Sha256};

use super::{AWAY, MAX_ROOTS, Moment, Step, next};
use crate::issue::{
    authority::{Authority, Fault, Lifetimes, SKEW},
    roots::{Trusting, bundle_sha256},
    secret::Pair,
};

const DAY: Duration = Duration::from_secs(86_400);
const SINCE: Duration = Duration::from_secs(1_800_000_000);

type Said = BTreeMap<Arc<str>, Option<Trusting>>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A root, and who signs with it.
struct Root {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn root() -> Root {
    let key = KeyPair::generate().unwrap();
    let pem = params("root").self_signed(&key).unwrap().pem();
    Root { pem, issuer: Issuer::new(params("root"), key) }
}

/// An intermediate of this root, as cert-manager gives one.
fn under(root: &Root) -> Pair {
    let key = KeyPair::generate().unwrap();
    let between = params("between").signed_by(&key, &root.issuer).unwrap();
    Pair { certificates: between.pem(), key: key.serialize_pem(), authorities: root.pem.clone() }
}

fn authority(pair: &Pair) -> Authority {
    Authority::given(pair, Lifetimes { leaf: DAY, node: DAY * 2 }).unwrap()
}

/// What a step of these makes of what is in force.
fn believing(pair: &Pair, roots: &[&Root]) -> Pair {
    Pair { authorities: roots.iter().map(|root| root.pem.clone()).collect(), ..pair.clone() }
}

/// A node that holds all that is believed, and shows certificates of who signs.
fn holds(authority: &Authority) -> Option<Trusting> {
    let bundle_sha256 = bundle_sha256(authority.bundle()).to_vec();
    Some(Trusting { bundle_sha256, issuers_sha256: vec![Sha256::digest(authority.root()).to_vec()] })
}

fn step(in_force: &Pair, wanted: &Pair, said: &Said, later: Duration) -> Step {
    next(&authority(in_force), wanted, &Moment { said, since: SINCE, now: SINCE + later }).unwrap()
}

#[test]
fn what_is_in_force_rests() {
    let pair = under(&root());
    let said: Said = [("away".into(), None)].into();
    assert_eq!(step(&pair, &pair, &said, DAY), Step::Rest);
}

#[test]
fn another_intermediate_under_the_same_root_signs_at_once() {
    let root = root();
    let (first, second) = (under(&root), under(&root));
    let said: Said = [("a".into(), holds(&authority(&first))), ("away".into(), None)].into();
    assert_eq!(step(&first, &second, &said, Duration::ZERO), Step::Sign);
    assert_eq!(step(&second, &second, &said, Duration::ZERO), Step::Rest);
}

/// As cert-manager does it: one write of the Secret, with nothing of the former root left in it.
#[test]
fn another_root_is_believed_first_and_signs_then_and_the_former_goes_last() {
    let (old, new) = (root(), root());
    let (first, second) = (under(&old), under(&new));
    let mut said: Said = [("a".into(), holds(&authority(&first))), ("b".into(), holds(&authority(&first)))].into();

    let both = believing(&first, &[&old, &new]);
    let Step::Believe(roots) = step(&first, &second, &said, Duration::ZERO) else { panic!("it is believed first") };
    assert_eq!(roots, authority(&both).bundle());

    said.insert("a".into(), holds(&authority(&both)));
    assert_eq!(step(&both, &second, &said, Duration::ZERO), Step::WaitToSign(vec!["b".into()]));
    said.insert("b".into(), holds(&authority(&both)));
    assert_eq!(step(&both, &second, &said, Duration::ZERO), Step::Sign);

    let signs = believing(&second, &[&old, &new]);
    assert_eq!(step(&signs, &second, &said, Duration::ZERO), Step::WaitToRetire(vec!["a".into(), "b".into()]));
    said.insert("a".into(), holds(&authority(&signs)));
    assert_eq!(step(&signs, &second, &said, Duration::ZERO), Step::WaitToRetire(vec!["b".into()]));
    said.insert("b".into(), holds(&authority(&signs)));
    assert_eq!(step(&signs, &second, &said, Duration::ZERO), Step::Believe(authority(&second).bundle().to_vec()));
    assert_eq!(step(&second, &second, &said, Duration::ZERO), Step::Rest);
}

#[test]
fn a_node_that_is_away_holds_up_another_root_for_an_hour_and_its_retirement_until_all_has_run_out() {
    let (old, new) = (root(), root());
    let (first, second) = (under(&old), under(&new));
    let both = believing(&first, &[&old, &new]);
    let said: Said = [("away".into(), holds(&authority(&first)))].into();
    let moment = Duration::from_secs(1);
    assert_eq!(step(&both, &second, &said, AWAY - moment), Step::WaitToSign(vec!["away".into()]));
    assert_eq!(step(&both, &second, &said, AWAY), Step::Sign);

    let signs = believing(&second, &[&old, &new]);
    for said in [said, [("away".into(), None)].into()] {
        assert_eq!(step(&signs, &second, &said, DAY * 2), Step::WaitToRetire(vec!["away".into()]));
        assert_eq!(step(&signs, &second, &said, DAY * 2 + SKEW), Step::Believe(authority(&second).bundle().to_vec()));
    }
}

/// One that never said has nothing that could fail for want of a root: it is told of all with its first certificate.
#[test]
fn a_node_that_never_said_what_it_holds_does_not_hold_up_who_signs() {
    let (old, new) = (root(), root());
    let (first, second) = (under(&old), under(&new));
    let said: Said = [("new".into(), None)].into();
    assert_eq!(step(&believing(&first, &[&old, &new]), &second, &said, Duration::ZERO), Step::Sign);
}

#[test]
fn what_can_not_be_used_changes_nothing() {
    let (old, new) = (root(), root());
    let (first, second) = (under(&old), under(&new));
    let said = Said::new();
    let moment = Moment { said: &said, since: SINCE, now: SINCE };
    for (what, unfit) in [
        ("another's key", Pair { key: first.key.clone(), ..second.clone() }),
        ("a chain to no root", Pair { authorities: old.pem.clone(), ..second.clone() }),
        ("no PEM", Pair { certificates: "x".to_owned(), ..second.clone() }),
        ("no key", Pair { key: String::new(), ..second }),
    ] {
        assert!(matches!(next(&authority(&first), &unfit, &moment), Err(Fault::Unfit { .. })), "{what}");
    }
    let many: Vec<Root> = (0..MAX_ROOTS).map(|_| root()).collect();
    let many = believing(&first, &many.iter().chain([&old]).collect::<Vec<_>>());
    assert!(matches!(next(&authority(&first), &many, &moment), Err(Fault::TooManyRoots(n)) if n == MAX_ROOTS + 1));
}
