//! Names every way in which a request can fail, and says in one match each what follows from it.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{
    fault::{Side, Why},
    http::{filter::inject, heads::Bad, retry},
};

/// Why a request was not answered by an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The bytes are not HTTP as its specification has it.
    Bad(Bad),
    /// No rule fits it.
    NoRoute,
    /// The rule has a filter that can't be carried out.
    Filter,
    /// It asked whether a page of its origin may send another, and it may not.
    Origin,
    /// Somebody wants it to fail: by this status.
    Injected(StatusCode),
    /// The backend that it fell to leads to nobody, or the rule has none.
    Unresolved,
    /// The backend has no endpoint that could be given it.
    NoEndpoint,
    /// The whole of it took too long.
    RequestTimeout,
    /// One backend took too long.
    BackendTimeout,
    /// The endpoint could not be reached.
    Unreached(Why),
    /// The endpoint broke off before it had answered.
    Broken,
    /// It failed, and a policy lets no more requests be sent again.
    RetryBudget,
}

impl Fault {
    /// Its one name in logs, metrics and the answer.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Bad(bad) => bad.name(),
            Self::NoRoute => "no_route",
            Self::Filter => "filter_not_done",
            Self::Origin => "origin_not_welcome",
            Self::Injected(_) => "fault_injected",
            Self::Unresolved => "backend_unresolved",
            Self::NoEndpoint => "no_endpoint",
            Self::RequestTimeout => "request_timeout",
            Self::BackendTimeout => "backend_timeout",
            Self::Unreached(why) => why.name(),
            Self::Broken => "upstream_broken",
            Self::RetryBudget => retry::BUDGET,
        }
    }

    /// Where it lies.
    pub(crate) fn side(&self) -> Side {
        match self {
            Self::Bad(_) | Self::Origin => Side::Client,
            Self::NoRoute | Self::Injected(_) | Self::Filter | Self::Unresolved => Side::Mesh,
            Self::NoEndpoint | Self::RequestTimeout | Self::BackendTimeout | Self::Broken | Self::RetryBudget => {
                Side::Upstream
            }
            Self::Unreached(why) => why.side(),
        }
    }

    /// The policy that it rests on, as text.
    pub(crate) fn policy(&self) -> Option<String> {
        if let Self::Unreached(why) = self { why.policy() } else { None }
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Bad(bad) => StatusCode::from_u16(bad.status()).unwrap_or(StatusCode::BAD_REQUEST),
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Injected(status) => *status,
            Self::Filter | Self::Unresolved => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoint | Self::RetryBudget => StatusCode::SERVICE_UNAVAILABLE,
            Self::RequestTimeout | Self::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreached(why) if why.is_denial() => StatusCode::FORBIDDEN,
            Self::Unreached(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken => StatusCode::BAD_GATEWAY,
        }
    }

    /// What ends a call of gRPC, in trailers or in the head of an answer without a body.
    pub(crate) fn grpc_trailers(&self) -> HeaderMap {
        let status = (HeaderName::from_static("grpc-status"), self.grpc_status());
        let message = (HeaderName::from_static("grpc-message"), HeaderValue::from_static(self.name()));
        HeaderMap::from_iter([status, message])
    }

    /// What a gRPC client is told in place of the status: its codes, by number.
    fn grpc_status(&self) -> HeaderValue {
        let code = match self {
            Self::Bad(_) => "13",                               // INTERNAL
            Self::NoRoute => "12",                              // UNIMPLEMENTED
            Self::RequestTimeout | Self::BackendTimeout => "4", // DEADLINE_EXCEEDED
            Self::Injected(status) => inject::grpc_status(*status),
            Self::Origin => "7",                            // PERMISSION_DENIED
            Self::Unreached(why) if why.is_denial() => "7", // the same
            Self::Filter
            | Self::Unresolved
            | Self::NoEndpoint
            | Self::Unreached(_)
            | Self::Broken
            | Self::RetryBudget => "14", // UNAVAILABLE
        };
        HeaderValue::from_static(code)
    }
}
