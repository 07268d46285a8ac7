//! Says how a client's requests are kept with one endpoint: by a token that it is given, and gives back.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// How the requests of a session find their endpoint again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What the cookie or header is called.
    pub name: Arc<str>,
    /// Which of the two it is.
    pub carrier: Carrier,
    /// How long a session lasts from its first request.
    pub absolute: Option<Duration>,
    /// How long it lasts without one.
    pub idle: Option<Duration>,
    /// Which rule's it is: one rule's tokens say nothing to another.
    pub tag: u32,
}

/// What carries a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// A header of this name, both ways.
    Header,
    /// A cookie.
    Cookie {
        /// How long clients keep it.
        lifetime: Lifetime,
        /// For which paths they send it.
        path: CookiePath,
    },
}

/// How long clients keep a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// As long as they run.
    #[default]
    Session,
    /// As long as the session lasts.
    Permanent,
}

/// For which paths clients send a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CookiePath {
    /// Those that the rule's match is for.
    Matched,
    /// It is not said: several rules can lead to one service.
    Unsaid,
}
