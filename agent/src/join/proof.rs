//! Reads what a node joins with: a join token, or its agent's service account token, which the kubelet writes anew as it rotates.
//!
//! A join token says by which root the control plane is known. A service account's does not: for that the mesh's roots stand in a file.
//! Both files are read at each try.

use std::{fs::File, io, io::Read as _, path::Path};

use millrace_node::credentials::{control_config, pinned_root_client_config};
use rustls::ClientConfig;

use super::{Token, Unjoined, certificates};

/// A longer text is no token: an API server's are one to two kilobytes.
const MAX_TOKEN: u64 = 16 * 1024;
/// Some tens of roots.
const MAX_ROOTS: u64 = 256 * 1024;

/// Where they stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'p> {
    /// The token's file, if there is one.
    pub token: Option<&'p Path>,
    /// The roots' file, for a token that does not say which to expect.
    pub roots: Option<&'p Path>,
}

/// What the control plane is shown, and how it is known.
pub(super) struct Proof {
    pub(super) token: String,
    pub(super) tls: ClientConfig,
}

impl Files<'_> {
    /// What they hold now.
    pub(super) fn read(&self, node: &str) -> Result<Proof, Unjoined> {
        let path = self.token.ok_or(Unjoined::NoToken)?;
        let unread = |why| Unjoined::TokenFile(path.to_owned(), why);
        let text = String::from_utf8(bounded(path, MAX_TOKEN).map_err(unread)?);
        let text = text.map_err(|why| unread(io::Error::new(io::ErrorKind::InvalidData, why.utf8_error())))?;
        let text = text.trim();
        if is_service_accounts(text) {
            let roots = self.roots.ok_or(Unjoined::NoRoots)?;
            let unread = |why| Unjoined::RootsFile(roots.to_owned(), why);
            let bundle = certificates(&bounded(roots, MAX_ROOTS).map_err(unread)?);
            return Ok(Proof { token: text.to_owned(), tls: control_config(&bundle)? });
        }
        let token: Token = text.parse().map_err(|why| Unjoined::BadToken(path.to_owned(), why))?;
        if token.node != node {
            return Err(Unjoined::OtherNode { named: token.node, node: node.to_owned() });
        }
        Ok(Proof { token: token.text, tls: pinned_root_client_config(token.root_sha256)? })
    }
}

/// True for a text of three parts, as a service account's token is; a join token has four and begins with its version.
fn is_service_accounts(text: &str) -> bool {
    !text.starts_with("v1.") && text.split('.').count() == 3 && text.split('.').all(|part| !part.is_empty())
}

fn bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= most => Ok(bytes),
        Ok(_) | Err(_) => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Files, MAX_TOKEN, Unjoined, is_service_accounts};

    #[test]
    fn a_service_accounts_token_is_told_from_a_join_token() {
        assert!(is_service_accounts("eyJhbGciOi.eyJhdWQiOi.c2lnbmF0dXJl"));
        assert!(!is_service_accounts("v1.a.0f0f.secret") && !is_service_accounts("v1.a.secret"));
        assert!(!is_service_accounts("a..b") && !is_service_accounts(""));
    }

    /// Without them anybody who answers at the address could take the token, and give the node certificates of its own making.
    #[test]
    fn a_service_accounts_token_is_shown_to_nobody_without_roots_to_know_the_control_plane_by() {
        let folder = tempfile::tempdir().unwrap();
        let (token, roots) = (folder.path().join("token"), folder.path().join("roots"));
        fs::write(&token, "a.b.c\n").unwrap();
        let read = |roots| Files { token: Some(&token), roots }.read("a").map(drop);
        assert!(matches!(read(None), Err(Unjoined::NoRoots)));
        assert!(matches!(read(Some(&*roots)), Err(Unjoined::RootsFile(..))));
        fs::write(&roots, "no certificate").unwrap();
        assert!(matches!(read(Some(&*roots)), Err(Unjoined::Tls(_))));
        let key = rcgen::KeyPair::generate().unwrap();
        let root = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        fs::write(&roots, root.pem()).unwrap();
        read(Some(&*roots)).unwrap();
    }

    #[test]
    fn a_file_that_is_no_token_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, "a".repeat(usize::try_from(MAX_TOKEN).unwrap() + 1)).unwrap();
        let read = Files { token: Some(&token), roots: None }.read("a").map(drop);
        assert!(matches!(read, Err(Unjoined::TokenFile(..))));
    }
}
