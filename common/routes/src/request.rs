//! Says what of a request a rule can ask for.

use http::HeaderMap;

/// A request's head, as far as routes speak of it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Whom it asks, as `Host` or `:authority` has it; a port behind it is not looked at.
    pub authority: &'r str,
    /// Its method.
    pub method: &'r str,
    /// Its path, as it was sent.
    pub path: &'r str,
    /// What stands behind the path's `?`.
    pub query: Option<&'r str>,
    /// Its headers.
    pub headers: &'r HeaderMap,
}

impl Request<'_> {
    /// The host in lower case, without port and final dot.
    pub(crate) fn host(&self) -> String {
        let host = match self.authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']').map_or(v6, |(address, _)| address),
            None => self.authority.split_once(':').map_or(self.authority, |(host, _)| host),
        };
        host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
    }

    /// Whether a header has this value; where it stands several times, all of them joined by commas (RFC 9110, 5.3).
    pub(crate) fn has_header(&self, name: &http::HeaderName, fits: impl FnOnce(&[u8]) -> bool) -> bool {
        if *name == http::header::HOST {
            return fits(self.authority.as_bytes());
        }
        let mut values = self.headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        match (values.next(), values.next()) {
            (None, _) => false,
            (Some(only), None) => fits(only),
            (Some(first), Some(second)) => {
                let mut joined = [first, b",", second].concat();
                for next in values {
                    joined.push(b',');
                    joined.extend_from_slice(next);
                }
                fits(&joined)
            }
        }
    }
}
