//! Decides how what is in force comes to what a Secret wants, so that no call fails on the way. Pure.
//!
//! Another key signs only once every node believes the root that it is under; a root is believed no more only once no certificate is
//! left under it. One step at a time: each is written down where all replicas see it, and the next is decided from there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::{
    authority::{Authority, Fault, SKEW},
    roots::{Trusting, bundle_sha256},
    secret::Pair,
};

/// The most roots that are believed at one time: nodes take no more.
pub const MAX_ROOTS: usize = 16;
/// A node that is away does not hold up another root for longer than this: it joins again when it comes back, with the
/// roots that pods mount.
pub const AWAY: Duration = Duration::from_secs(60 * 60);

/// What is known when a step is decided.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'m> {
    /// What each node said last of what it holds, whichever replica it said it to; None for one with pods that never said.
    pub said: &'m BTreeMap<Arc<str>, Option<Trusting>>,
    /// When the last step was made, since 1970.
    pub since: Duration,
    /// The time.
    pub now: Duration,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is all in force.
    Rest,
    /// Have these roots believed, and no others. Who signs stays.
    Believe(Vec<CertificateDer<'static>>),
    /// Have the key in the Secret sign.
    Sign,
    /// Wait until these nodes believe the root that is to sign.
    WaitToSign(Vec<Arc<str>>),
    /// Wait until these nodes show no certificate under a root that is to go.
    WaitToRetire(Vec<Arc<str>>),
}

/// The next step from what is in force to what is wanted; or why what is wanted can't be used.
pub fn next(in_force: &Authority, wanted: &Pair, moment: &Moment<'_>) -> Result<Step, Fault> {
    let wanted = Authority::given(wanted, in_force.lifetimes())?;
    let Moment { said, since, now } = *moment;
    let believed = in_force.bundle();
    let more: Vec<_> = wanted.bundle().iter().filter(|root| !believed.contains(root)).cloned().collect();
    if !more.is_empty() {
        let all = [believed, &more].concat();
        return if all.len() > MAX_ROOTS { Err(Fault::TooManyRoots(all.len())) } else { Ok(Step::Believe(all)) };
    }
    if !in_force.signs_as(&wanted) {
        let bundle = bundle_sha256(believed);
        let is_behind = |said: &Option<Trusting>| said.as_ref().is_some_and(|said| said.bundle_sha256 != bundle);
        let behind = named(said, is_behind);
        let is_over = now >= since + AWAY;
        return Ok(if behind.is_empty() || is_over { Step::Sign } else { Step::WaitToSign(behind) });
    }
    if believed.iter().all(|root| wanted.bundle().contains(root)) {
        return Ok(Step::Rest);
    }
    let kept: Vec<[u8; 32]> = wanted.bundle().iter().map(|root| Sha256::digest(root).into()).collect();
    let is_kept = |issuer: &Vec<u8>| kept.iter().any(|kept| kept.as_slice() == issuer);
    // One that never said may have been given certificates all the same.
    let may_show = |said: &Option<Trusting>| !said.as_ref().is_some_and(|said| said.issuers_sha256.iter().all(is_kept));
    let in_use = named(said, may_show);
    // Whatever was signed before the last step has run out by then.
    let is_over = now >= since + in_force.lifetimes().longest() + SKEW;
    Ok(if in_use.is_empty() || is_over { Step::Believe(wanted.bundle().to_vec()) } else { Step::WaitToRetire(in_use) })
}

fn named(said: &BTreeMap<Arc<str>, Option<Trusting>>, is_meant: impl Fn(&Option<Trusting>) -> bool) -> Vec<Arc<str>> {
    said.iter().filter(|(_, said)| is_meant(said)).map(|(node, _)| node.clone()).collect()
}

#[cfg(test)]
mod tests;
