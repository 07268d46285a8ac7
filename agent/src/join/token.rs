//! Parses join tokens: `v1.<node>.<SHA-256 of the root, hex>.<secret>`. What the secret is worth only the control plane can say.

use std::{fmt, str::FromStr};

/// The longest token: a node's name and some fixed parts.
const MAX_TOKEN: usize = 512;

/// 32 bytes in base64url without padding.
const SECRET: usize = 43;

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The node that it lets in.
    pub node: String,
    /// The SHA-256 of the DER of the mesh's root certificate.
    pub root_sha256: [u8; 32],
    /// All of it, to be shown to the control plane alone.
    pub text: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Why a text is no token. It never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Not `v1.`.
    #[error("it does not begin with v1.")]
    Version,
    /// Not four parts.
    #[error("it is not v1.<node>.<root>.<secret>")]
    Parts,
    /// The root's hash is not 64 hexadecimal digits.
    #[error("the root's hash is not 64 digits of 0-9, a-f")]
    Root,
    /// The secret is not 43 characters of base64url.
    #[error("the secret is not 43 characters of base64url")]
    Secret,
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let rest = text.strip_prefix("v1.").filter(|_| text.len() <= MAX_TOKEN).ok_or(BadToken::Version)?;
        // From the right: a node's name may hold dots.
        let (rest, secret) = rest.rsplit_once('.').ok_or(BadToken::Parts)?;
        let (node, root) = rest.rsplit_once('.').ok_or(BadToken::Parts)?;
        if node.is_empty() {
            return Err(BadToken::Parts);
        }
        if secret.len() != SECRET || !secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err(BadToken::Secret);
        }
        Ok(Self { node: node.to_owned(), root_sha256: hash(root).ok_or(BadToken::Root)?, text: text.to_owned() })
    }
}

fn hash(hex: &str) -> Option<[u8; 32]> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    bytes?.try_into().ok()
}
