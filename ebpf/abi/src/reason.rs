//! Names every decision the kernel programs take, and says in one match what each does to the connection.

/// Why a connection went where it went. The numbers are indexes of the REASONS map and go over the wire: never reuse one.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Nothing of the mesh.
    Untouched = 0,
    /// The proxy's own socket.
    Exempt = 1,
    /// Straight to a pod on this node, allowed.
    Direct = 2,
    /// To the proxy, for a pod on another node.
    Proxied = 3,
    /// To a service's backend outside the mesh, plainly.
    PlainBackend = 4,
    /// A pod's connection to its own address: nobody is asked.
    Own = 5,
    /// Refused: the service has no ready backend.
    NoBackend = 6,
    /// Refused: a policy denies it.
    Denied = 7,
    /// Refused: a mesh address, asked for from a namespace that the agent does not know.
    UnknownNamespace = 8,
    /// Refused: the workload's listeners are not open yet.
    NotEnrolled = 9,
    /// Refused: a port of the mesh itself.
    MeshPort = 10,
    /// Refused: the service's table lacks the slot drawn; never seen while tables are flipped whole.
    TornTable = 11,
    /// Refused: no room to remember what was asked for.
    StorageFull = 12,
    /// Refused: no verdict is written for this caller and callee.
    NoVerdict = 13,
    /// Refused: the socket is bound to a device, and may not be unbound: it cannot be sent to the outbound listener.
    BoundToDevice = 14,
    /// Refused: the pod has as many connects under way as one pod may.
    TooManyPending = 15,
    /// Refused: the service keeps to its clients' node, and has no ready backend on this one.
    NoLocalBackend = 16,
    /// UDP: to a pod on this node, allowed.
    UdpDirect = 20,
    /// UDP: in the clear, to a pod on another node or a service's backend outside the mesh.
    UdpPlain = 21,
    /// UDP: an answer to who asked, which no policy would let ask.
    UdpAnswer = 22,
    /// UDP, refused: the callee's encryption policy takes no datagrams from other nodes.
    UdpBetweenNodes = 23,
    /// UDP, refused: a policy selects the port, and does not let in who has no identity, as nobody has between nodes.
    UdpNoIdentity = 24,
    /// From a pod in the node's network to a pod on another node, plainly: there is no tunnel for it.
    HostRemote = 28,
    /// Inbound: attested by the kernel, straight to the application.
    InAttested = 32,
    /// Inbound: the proxy's own dial.
    InProxyDial = 33,
    /// Inbound: over the pod's own loopback.
    InLoopback = 34,
    /// Inbound: to the tunnel listener.
    InTunnel = 35,
    /// Inbound: to the plaintext listener.
    InPlaintext = 36,
    /// Inbound, dropped: the pod's listener is not there.
    InNoListener = 37,
    /// Inbound, dropped: a loopback destination that did not come over loopback.
    InMartian = 38,
    /// Inbound, dropped: an address that is not the pod's registered one.
    InUnknownAddress = 39,
    /// Inbound, dropped: a port of the mesh that is reached over loopback alone.
    InMeshPort = 40,
    /// Established, and held: not the connection that was written down, though it has its addresses and ports.
    InForged = 41,
    /// Inbound UDP: let through to the application.
    InUdp = 44,
    /// Inbound UDP: an answer to what the pod asked.
    InUdpAnswer = 45,
    /// Inbound UDP, dropped: from a pod of this node that a policy denies.
    InUdpDenied = 46,
    /// Inbound UDP, dropped: the pod's encryption policy takes no datagrams from other nodes.
    InUdpBetweenNodes = 47,
    /// No room for a hand-off record: the connection will find nobody.
    HandoffFull = 48,
    /// A hand-off record was found and taken by the accepted socket.
    HandoffTaken = 49,
    /// A captured connection's record could not be stored on the accepted socket (an MPTCP listener has no storage).
    HandoffLost = 50,
    /// A connection that a service led to a backend was refused there.
    BackendRefused = 60,
    /// A connection that a service led to a backend was not answered, or given up after a second of silence.
    BackendTimedOut = 61,
    /// A flow record was dropped: the ring buffer is full.
    FlowDropped = 51,
    /// A pod's packet, dropped: its source is not the pod's address.
    SpoofedSource = 56,
    /// A pod's frame, dropped: it is not from the pod's link address.
    SpoofedMac = 57,
    /// A pod's ARP message or neighbour's answer, dropped: it is for an address that is not the pod's, or a router's to say.
    SpoofedNeighbour = 58,
    /// A pod's frame, dropped: tagged, cut short, or of a kind that no pod of the mesh has to send.
    SpoofedProtocol = 59,
    /// Inbound UDP, dropped: a policy selects the port, and does not let in who has no identity.
    InUdpNoIdentity = 43,
    /// An unconnected socket talks to more services than are remembered: the answers of one show its backend's address.
    UdpForgotten = 54,
    /// A flow record of datagrams was left out: the pod has as many as one pod may in a second.
    UdpFlowPaced = 55,
}

/// How many entries REASONS has.
pub const N_REASONS: u32 = 64;

/// What a program does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets it go on.
    Pass,
    /// Fails the connect with this errno (a positive number).
    Refuse(i32),
    /// Drops the packet in sk_lookup: the caller sees a reset.
    Drop,
}

/// ECONNREFUSED: what a closed port says, so that clients retry as they know how.
pub const ECONNREFUSED: i32 = 111;
/// ENOBUFS: no room for another just now. Not EAGAIN, which clients with sockets that don't block take for a connect under way,
/// and then wait for; nor EADDRNOTAVAIL, which would have them look for another source address.
pub const ENOBUFS: i32 = 105;
/// EPERM: what a firewall's refusal says.
pub const EPERM: i32 = 1;

/// What is done about each reason: the only place that says so.
#[inline(always)]
pub const fn action(reason: Reason) -> Action {
    match reason {
        Reason::Untouched
        | Reason::Exempt
        | Reason::Direct
        | Reason::Proxied
        | Reason::PlainBackend
        | Reason::Own
        | Reason::HostRemote
        | Reason::UdpDirect
        | Reason::UdpPlain
        | Reason::UdpAnswer
        | Reason::InUdp
        | Reason::InUdpAnswer
        | Reason::UdpForgotten
        | Reason::UdpFlowPaced
        | Reason::InAttested
        | Reason::InProxyDial
        | Reason::InLoopback
        | Reason::InTunnel
        | Reason::InPlaintext
        | Reason::HandoffFull
        | Reason::HandoffTaken
        | Reason::HandoffLost
        | Reason::BackendRefused
        | Reason::BackendTimedOut
        | Reason::FlowDropped => Action::Pass,
        Reason::NoBackend
        | Reason::NoLocalBackend
        | Reason::Denied
        | Reason::NotEnrolled
        | Reason::NoVerdict
        | Reason::UdpBetweenNodes
        | Reason::UdpNoIdentity => Action::Refuse(ECONNREFUSED),
        Reason::TooManyPending => Action::Refuse(ENOBUFS),
        Reason::UnknownNamespace
        | Reason::MeshPort
        | Reason::TornTable
        | Reason::StorageFull
        | Reason::BoundToDevice => Action::Refuse(EPERM),
        Reason::InNoListener
        | Reason::InMartian
        | Reason::InUnknownAddress
        | Reason::InMeshPort
        | Reason::InForged
        | Reason::SpoofedSource
        | Reason::SpoofedMac
        | Reason::SpoofedNeighbour
        | Reason::SpoofedProtocol
        | Reason::InUdpDenied
        | Reason::InUdpBetweenNodes
        | Reason::InUdpNoIdentity => Action::Drop,
    }
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 50] = [
        Self::Untouched,
        Self::Exempt,
        Self::Direct,
        Self::Proxied,
        Self::PlainBackend,
        Self::Own,
        Self::NoBackend,
        Self::Denied,
        Self::UnknownNamespace,
        Self::NotEnrolled,
        Self::MeshPort,
        Self::TornTable,
        Self::StorageFull,
        Self::NoVerdict,
        Self::BoundToDevice,
        Self::TooManyPending,
        Self::NoLocalBackend,
        Self::HostRemote,
        Self::UdpDirect,
        Self::UdpPlain,
        Self::UdpAnswer,
        Self::UdpBetweenNodes,
        Self::UdpNoIdentity,
        Self::InAttested,
        Self::InProxyDial,
        Self::InLoopback,
        Self::InTunnel,
        Self::InPlaintext,
        Self::InNoListener,
        Self::InMartian,
        Self::InUnknownAddress,
        Self::InMeshPort,
        Self::InForged,
        Self::InUdp,
        Self::InUdpAnswer,
        Self::InUdpDenied,
        Self::InUdpBetweenNodes,
        Self::HandoffFull,
        Self::HandoffTaken,
        Self::HandoffLost,
        Self::BackendRefused,
        Self::BackendTimedOut,
        Self::FlowDropped,
        Self::SpoofedSource,
        Self::SpoofedMac,
        Self::SpoofedNeighbour,
        Self::SpoofedProtocol,
        Self::InUdpNoIdentity,
        Self::UdpForgotten,
        Self::UdpFlowPaced,
    ];

    /// Its name in metrics, logs and flows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Exempt => "exempt",
            Self::Direct => "direct",
            Self::Proxied => "proxied",
            Self::PlainBackend => "plain_backend",
            Self::Own => "own",
            Self::NoBackend => "no_backend",
            Self::Denied => "denied",
            Self::UnknownNamespace => "unknown_namespace",
            Self::NotEnrolled => "not_enrolled",
            Self::MeshPort => "mesh_port",
            Self::TornTable => "torn_table",
            Self::StorageFull => "storage_full",
            Self::NoVerdict => "no_verdict",
            Self::BoundToDevice => "bound_to_device",
            Self::TooManyPending => "too_many_pending",
            Self::NoLocalBackend => "no_local_backend",
            Self::HostRemote => "host_remote",
            Self::UdpDirect => "udp_direct",
            Self::UdpPlain => "udp_plain",
            Self::UdpAnswer => "udp_answer",
            Self::UdpBetweenNodes => "udp_between_nodes",
            Self::UdpNoIdentity => "udp_no_identity",
            Self::InAttested => "in_attested",
            Self::InProxyDial => "in_proxy_dial",
            Self::InLoopback => "in_loopback",
            Self::InTunnel => "in_tunnel",
            Self::InPlaintext => "in_plaintext",
            Self::InNoListener => "in_no_listener",
            Self::InMartian => "in_martian",
            Self::InUnknownAddress => "in_unknown_address",
            Self::InMeshPort => "in_mesh_port",
            Self::InForged => "in_forged",
            Self::InUdp => "in_udp",
            Self::InUdpAnswer => "in_udp_answer",
            Self::InUdpDenied => "in_udp_denied",
            Self::InUdpBetweenNodes => "in_udp_between_nodes",
            Self::InUdpNoIdentity => "in_udp_no_identity",
            Self::UdpForgotten => "udp_forgotten",
            Self::UdpFlowPaced => "udp_flow_paced",
            Self::HandoffFull => "handoff_full",
            Self::HandoffTaken => "handoff_taken",
            Self::HandoffLost => "handoff_lost",
            Self::BackendRefused => "backend_refused",
            Self::BackendTimedOut => "backend_timed_out",
            Self::FlowDropped => "flow_dropped",
            Self::SpoofedSource => "spoofed_source",
            Self::SpoofedMac => "spoofed_mac",
            Self::SpoofedNeighbour => "spoofed_neighbour",
            Self::SpoofedProtocol => "spoofed_protocol",
        }
    }

    /// The reason with this number; None for one this version does not know.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u32 == number)
    }
}

const _: () = {
    let mut rest: &[Reason] = &Reason::ALL;
    while let [first, others @ ..] = rest {
        assert!((*first as u32) < N_REASONS); // Each has a counter.
        rest = others;
    }
};

#[cfg(test)]
mod tests;
