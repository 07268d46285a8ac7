//! Names every way in which a proxied connection can fail, and says in one match each what follows from it.

use std::{fmt, sync::Arc};

use millrace_model::{ObjectName, outlier::Cause};

use crate::limits::Limit;

/// Why a connection was refused or cut, and what may be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where it lies.
    pub(crate) side: Side,
    /// Whether another endpoint may be asked.
    pub(crate) retry: Retry,
    /// The reason.
    pub(crate) why: Why,
}

/// Where a fault lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one who called.
    Client,
    /// The one who was called.
    Upstream,
    /// Something between them that is Millrace's.
    Mesh,
}

/// Whether another endpoint may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// No: it would end the same, or bytes were sent.
    No,
    /// Yes, while nothing was sent.
    IfUnsent,
}

/// The reason for a fault. Each has one name in logs, metrics and the tunnel's `x-millrace-reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Accepted by the outbound listener without a record of what was asked for: somebody connected to it directly.
    NoOriginal,
    /// The kernel's record could not be read.
    OriginalUnreadable,
    /// Connected to a listener's own address, not steered there.
    OwnListener,
    /// The listener's workload is not in the snapshot, or is another one by now.
    UnknownWorkload,
    /// No endpoint that a tunnel leads to.
    NoBackend,
    /// The address asked for belongs to no workload of the mesh.
    BackendOutside,
    /// The workload asked for is on this node: the kernel should have connected straight to it.
    BackendLocal,
    /// The workload asked for has not opened its listeners yet.
    BackendPending,
    /// The identity's key is not here yet, or not usable.
    NoKey,
    /// No exempt socket came from the agent in time.
    NoSocket,
    /// The limit of open descriptors is near.
    NoDescriptor,
    /// The client could not be written where the application will read it.
    NotShown,
    /// The target's host refused the connection.
    ConnectRefused,
    /// The target did not answer in time.
    ConnectTimeout,
    /// The target could not be reached.
    ConnectFailed,
    /// A limit of the workload, or of the process, is reached.
    Limited(Limit),
    /// The TLS handshake failed; the word is the refusal's.
    Handshake(&'static str),
    /// The TLS handshake took too long.
    HandshakeTimeout,
    /// As many handshakes as are allowed at once are under way.
    HandshakesFull,
    /// The peer broke HTTP/2 or closed the tunnel.
    TunnelBroken,
    /// The tunnel's peer did not answer CONNECT in time.
    AnswerTimeout,
    /// A policy denies it.
    Denied(Option<ObjectName>),
    /// The far side said that a policy denies it.
    PeerDenied(Arc<str>),
    /// The far side could not reach the application.
    PeerUnavailable(Arc<str>),
    /// The far side does not take this request.
    PeerRejected(u16),
    /// Plain text to a workload that takes mTLS only.
    Strict,
    /// Another method than CONNECT.
    NotConnect,
    /// `:authority` is not `ip:port`.
    BadAuthority,
    /// `:authority` names a loopback address.
    LoopbackAuthority,
    /// `:authority` names another address than the tunnel arrived at.
    OtherAddress,
    /// `:authority` names a port of the mesh.
    MeshPort,
    /// `forwarded` is not as RFC 7239 says.
    BadForwarded,
    /// The client reset the connection.
    ClientReset,
    /// The target reset the connection.
    UpstreamReset,
    /// A policy changed and denies it now.
    Revoked(Option<ObjectName>),
    /// The workload went away.
    Gone,
    /// The proxy's drain deadline passed.
    Drained,
    /// A bug: the connection's task panicked or was dropped.
    Aborted,
}

impl From<Why> for Fault {
    fn from(why: Why) -> Self {
        Self { side: why.side(), retry: why.retry(), why }
    }
}

impl Why {
    /// Its one name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::NoOriginal => "no_original",
            Self::OriginalUnreadable => "original_unreadable",
            Self::OwnListener => "own_listener",
            Self::UnknownWorkload => "unknown_workload",
            Self::NoBackend => "no_backend",
            Self::BackendOutside => "backend_outside",
            Self::BackendLocal => "backend_local",
            Self::BackendPending => "backend_pending",
            Self::NoKey => "no_key",
            Self::NoSocket => "no_socket",
            Self::NoDescriptor => "no_descriptor",
            Self::NotShown => "not_shown",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::Limited(limit) => limit.name(),
            Self::Handshake(refusal) => refusal,
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakesFull => "handshakes_full",
            Self::TunnelBroken => "tunnel_broken",
            Self::AnswerTimeout => "answer_timeout",
            Self::Denied(_) => "denied",
            Self::PeerDenied(_) => "peer_denied",
            Self::PeerUnavailable(_) => "peer_unavailable",
            Self::PeerRejected(_) => "peer_rejected",
            Self::Strict => "strict",
            Self::NotConnect => "not_connect",
            Self::BadAuthority => "bad_authority",
            Self::LoopbackAuthority => "loopback_authority",
            Self::OtherAddress => "other_address",
            Self::MeshPort => "mesh_port",
            Self::BadForwarded => "bad_forwarded",
            Self::ClientReset => "client_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::Revoked(_) => "revoked",
            Self::Gone => "gone",
            Self::Drained => "drained",
            Self::Aborted => "aborted",
        }
    }

    /// The policy that it rests on, as text.
    pub(crate) fn policy(&self) -> Option<String> {
        if let Self::Denied(policy) | Self::Revoked(policy) = self {
            return policy.as_ref().map(ToString::to_string);
        }
        if let Self::PeerDenied(policy) = self {
            return Some(policy.to_string()).filter(|policy| !policy.is_empty());
        }
        None
    }

    /// Whether somebody was refused for who they are or what they asked for: what flow records show.
    pub(crate) fn is_denial(&self) -> bool {
        let is_cut = matches!(self, Self::ClientReset);
        // Who finds no room is told as one who may not: nobody else would say so of a connection that was never taken on.
        !is_cut && self.side() == Side::Client || matches!(self, Self::NoDescriptor)
    }

    pub(crate) fn side(&self) -> Side {
        match self {
            Self::NoOriginal
            | Self::OwnListener
            | Self::Denied(_)
            | Self::PeerDenied(_)
            | Self::Strict
            | Self::NotConnect
            | Self::BadAuthority
            | Self::LoopbackAuthority
            | Self::OtherAddress
            | Self::MeshPort
            | Self::BadForwarded
            | Self::ClientReset
            | Self::Revoked(_) => Side::Client,
            Self::NoBackend
            | Self::BackendOutside
            | Self::BackendPending
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::PeerUnavailable(_)
            | Self::UpstreamReset
            | Self::Gone => Side::Upstream,
            Self::OriginalUnreadable
            | Self::UnknownWorkload
            | Self::BackendLocal
            | Self::NoKey
            | Self::NoSocket
            | Self::NoDescriptor
            | Self::NotShown
            | Self::Limited(_)
            | Self::Handshake(_)
            | Self::HandshakeTimeout
            | Self::HandshakesFull
            | Self::TunnelBroken
            | Self::AnswerTimeout
            | Self::PeerRejected(_)
            | Self::Drained
            | Self::Aborted => Side::Mesh,
        }
    }

    /// What failed at one endpoint and may well go at another. A denial may not: whom to call is the policy's to say.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::Handshake(_)
            | Self::HandshakeTimeout
            | Self::TunnelBroken
            | Self::AnswerTimeout
            | Self::PeerUnavailable(_)
            | Self::PeerRejected(_) => Retry::IfUnsent,
            Self::NoOriginal
            | Self::OriginalUnreadable
            | Self::OwnListener
            | Self::UnknownWorkload
            | Self::NoBackend
            | Self::BackendOutside
            | Self::BackendLocal
            | Self::BackendPending
            | Self::NoKey
            | Self::NoSocket
            | Self::NoDescriptor
            | Self::NotShown
            | Self::Limited(_)
            | Self::HandshakesFull
            | Self::Denied(_)
            | Self::PeerDenied(_)
            | Self::Strict
            | Self::NotConnect
            | Self::BadAuthority
            | Self::LoopbackAuthority
            | Self::OtherAddress
            | Self::MeshPort
            | Self::BadForwarded
            | Self::ClientReset
            | Self::UpstreamReset
            | Self::Revoked(_)
            | Self::Gone
            | Self::Drained
            | Self::Aborted => Retry::No,
        }
    }

    /// What it says of the endpoint that was tried; None where it says nothing, or another is to blame.
    pub(crate) fn blames_endpoint(&self) -> Option<Cause> {
        match self {
            Self::ConnectRefused => Some(Cause::Refused),
            Self::ConnectTimeout | Self::HandshakeTimeout | Self::AnswerTimeout => Some(Cause::TimedOut),
            Self::ConnectFailed | Self::Handshake(_) | Self::PeerUnavailable(_) => Some(Cause::Unavailable),
            // A tunnel that breaks may be a proxy that is replaced; whether there is another is seen by the next dial.
            Self::TunnelBroken
            | Self::PeerRejected(_)
            | Self::NoOriginal
            | Self::OriginalUnreadable
            | Self::OwnListener
            | Self::UnknownWorkload
            | Self::NoBackend
            | Self::BackendOutside
            | Self::BackendLocal
            | Self::BackendPending
            | Self::NoKey
            | Self::NoSocket
            | Self::NoDescriptor
            | Self::NotShown
            | Self::Limited(_)
            | Self::HandshakesFull
            | Self::Denied(_)
            | Self::PeerDenied(_)
            | Self::Strict
            | Self::NotConnect
            | Self::BadAuthority
            | Self::LoopbackAuthority
            | Self::OtherAddress
            | Self::MeshPort
            | Self::BadForwarded
            | Self::ClientReset
            | Self::UpstreamReset
            | Self::Revoked(_)
            | Self::Gone
            | Self::Drained
            | Self::Aborted => None,
        }
    }

    /// The status that a tunnel's peer is answered with.
    pub(crate) fn status(&self) -> http::StatusCode {
        match self {
            Self::NotConnect
            | Self::BadAuthority
            | Self::LoopbackAuthority
            | Self::OtherAddress
            | Self::MeshPort
            | Self::BadForwarded => http::StatusCode::BAD_REQUEST,
            Self::Denied(_) | Self::PeerDenied(_) | Self::Strict | Self::Revoked(_) => http::StatusCode::UNAUTHORIZED,
            Self::NoOriginal
            | Self::OriginalUnreadable
            | Self::OwnListener
            | Self::UnknownWorkload
            | Self::NoBackend
            | Self::BackendOutside
            | Self::BackendLocal
            | Self::BackendPending
            | Self::NoKey
            | Self::NoSocket
            | Self::NoDescriptor
            | Self::NotShown
            | Self::Limited(_)
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::Handshake(_)
            | Self::HandshakeTimeout
            | Self::HandshakesFull
            | Self::TunnelBroken
            | Self::AnswerTimeout
            | Self::PeerUnavailable(_)
            | Self::PeerRejected(_)
            | Self::ClientReset
            | Self::UpstreamReset
            | Self::Gone
            | Self::Drained
            | Self::Aborted => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Side {
    /// Its name in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Mesh => "mesh",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why.name())
    }
}

impl std::error::Error for Fault {}
