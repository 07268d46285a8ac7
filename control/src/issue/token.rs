//! Keeps the tokens that nodes join with: each names its node, works once and within the hour, and is kept only as a hash.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::crypto::aws_lc_rs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Refusal;
use crate::{source::object::meta::is_dns_subdomain, store};

/// The longest a token can wait to be used.
pub const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// The most that are kept: each is some hundred bytes, and a mesh joins its nodes over days.
const MAX_TOKENS: usize = 10_000;
/// How long a token that was used or expired is remembered, so that its second use is called by its name.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// 256 bits: nobody guesses one.
const SECRET: usize = 32;
/// `v1.`, a name of 253, two dots, 64 and 43.
const MAX_TEXT: usize = 400;

/// The tokens.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    kept: Mutex<Kept>,
}

/// By the SHA-256 of their secret, in hexadecimal.
type Kept = BTreeMap<String, Token>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    node: Arc<str>,
    expires_unix: u64,
    used: Used,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Used {
    No,
    Yes,
}

/// Why no token is made.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    /// The node's name is none.
    #[error("{0:?} is no node's name")]
    Node(String),
    /// It would live too long.
    #[error("a token lives at most {} s", MAX_LIFETIME.as_secs())]
    Lifetime,
    /// Too many wait already.
    #[error("{MAX_TOKENS} tokens are kept already")]
    TooMany,
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// It can't be kept.
    #[error("the tokens can't be kept")]
    Kept(#[from] io::Error),
}

impl Tokens {
    /// The tokens kept in the file at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let kept = store::read(path)?.unwrap_or_default();
        Ok(Self { path: path.to_owned(), kept: Mutex::new(kept) })
    }

    /// A new token for `node`. Its text is told once, here.
    pub fn make(&self, node: &str, root: [u8; 32], lifetime: Duration, now: Duration) -> Result<String, NotMade> {
        if !is_dns_subdomain(node) {
            return Err(NotMade::Node(node.to_owned()));
        }
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            return Err(NotMade::Lifetime);
        }
        let mut secret = [0; SECRET];
        aws_lc_rs::default_provider().secure_random.fill(&mut secret).map_err(|_none| NotMade::Random)?;
        let secret = base64url(&secret);
        let text = format!("v1.{node}.{}.{secret}", hex(&root));
        let token = Token { node: node.into(), expires_unix: (now + lifetime).as_secs(), used: Used::No };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = kept.clone();
        next.retain(|_, token| token.expires_unix.saturating_add(REMEMBERED.as_secs()) > now.as_secs());
        if next.len() >= MAX_TOKENS {
            return Err(NotMade::TooMany);
        }
        next.insert(hash(&secret), token);
        store::write_json(&self.path, &next)?;
        *kept = next;
        Ok(text)
    }

    /// Has no token of this node that was not used yet work any more.
    pub fn forget(&self, node: &str) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = kept.clone();
        next.retain(|_, token| *token.node != *node || token.used == Used::Yes);
        if next.len() < kept.len() {
            store::write_json(&self.path, &next)?;
            *kept = next;
        }
        Ok(())
    }

    /// The node that this token lets join, which it does not do again: it is spent on disk before this returns.
    pub fn spend(&self, text: &str, root: [u8; 32], now: Duration) -> Result<Arc<str>, Refusal> {
        let (node, token_root, secret) = parse(text).ok_or(Refusal::TokenMalformed)?;
        if token_root != hex(&root) {
            return Err(Refusal::TokenOtherRoot);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = hash(secret);
        let token = kept.get(&hash).ok_or(Refusal::TokenUnknown)?;
        if *token.node != *node {
            return Err(Refusal::TokenOtherNode(node.into()));
        }
        if token.used == Used::Yes {
            return Err(Refusal::TokenUsed);
        }
        if now.as_secs() >= token.expires_unix {
            return Err(Refusal::TokenExpired);
        }
        let spent = Token { used: Used::Yes, ..token.clone() };
        let mut next = kept.clone();
        next.insert(hash, spent.clone());
        store::write_json(&self.path, &next).map_err(|error| Refusal::Internal(error.to_string()))?;
        *kept = next;
        Ok(spent.node)
    }
}

/// The node, the root's hash and the secret of a token. A node's name may have dots: the parts behind it have none.
fn parse(text: &str) -> Option<(&str, &str, &str)> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let (rest, secret) = text.strip_prefix("v1.")?.rsplit_once('.')?;
    let (node, root) = rest.rsplit_once('.')?;
    let fits = is_dns_subdomain(node)
        && root.len() == 64
        && secret.len() == 43
        && root.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
        && secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    fits.then_some((node, root, secret))
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 4648, section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for sextet in 0..=chunk.len() {
            let index = (word >> (18 - 6 * sextet)) & 0x3f;
            out.extend(ALPHABET.get(index as usize).map(|byte| char::from(*byte)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64url;

    #[test]
    fn base64url_is_rfc_4648s() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }
}
