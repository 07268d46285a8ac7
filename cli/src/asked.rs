//! Reads a request as a person writes it: `GET http://reviews/x`, and headers as `name: value`.

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header::HOST};
use millrace_routes::Request;

use crate::Failure;

/// Where a URL says no port.
const HTTP_PORT: u16 = 80;

/// A request to be asked about.
#[derive(Debug)]
pub(crate) struct Asked {
    method: String,
    uri: Uri,
    headers: HeaderMap,
}

impl Asked {
    /// A method and a URL, without headers yet.
    pub(crate) fn parse(request: &str) -> Result<Self, Failure> {
        let (method, url) = request.split_once(' ').ok_or_else(|| no_request(request))?;
        let uri = url.parse().map_err(|_not_a_url| no_request(request))?;
        Ok(Self { method: method.to_owned(), uri, headers: HeaderMap::new() })
    }

    /// The same, where the URL has to say which host is asked, and that plainly.
    pub(crate) fn parse_of_host(request: &str) -> Result<Self, Failure> {
        let asked = Self::parse(request)?;
        if asked.uri.host().is_none() || asked.uri.scheme_str() == Some("https") {
            return Err(no_request(request));
        }
        Ok(asked)
    }

    /// With these headers.
    pub(crate) fn with(mut self, headers: &[String]) -> Result<Self, Failure> {
        for header in headers {
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            let pair = (HeaderName::from_bytes(name.trim().as_bytes()), HeaderValue::from_str(value.trim()));
            let (Ok(name), Ok(value)) = pair else {
                return Err(Failure::Usage(format!("{header:?} is no header: write it as \"name: value\"")));
            };
            self.headers.append(name, value);
        }
        Ok(self)
    }

    /// The URL's host, without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// The URL's port.
    pub(crate) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(HTTP_PORT)
    }

    /// As the index of routes is asked.
    pub(crate) fn request(&self) -> Request<'_> {
        // As a client that is told to ask this address for another host.
        let host = self.headers.get(HOST).and_then(|host| host.to_str().ok());
        Request {
            authority: host.or(self.uri.authority().map(|authority| authority.as_str())).unwrap_or_default(),
            method: &self.method,
            path: self.uri.path(),
            query: self.uri.query(),
            headers: &self.headers,
        }
    }
}

fn no_request(text: &str) -> Failure {
    Failure::Usage(format!("{text:?} is no request: write it as \"GET http://reviews/x\""))
}
