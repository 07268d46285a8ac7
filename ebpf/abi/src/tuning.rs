//! Says how connections are tuned as they are made and taken: what the agent writes and sockops sets.

/// TCP_CA_NAME_MAX of the kernel: a name, and the zero at its end.
pub const ALGORITHM: usize = 16;

/// Value of TUNING[0].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The congestion control of tunnels, with zeros to its end; all zero: as it is.
    pub tunnel_algorithm: [u8; ALGORITHM],
    /// The congestion control of the pods' own connections; all zero: as it is.
    pub pod_algorithm: [u8; ALGORITHM],
    /// Segments that a pod's connection sends before the first acknowledgement; 0: as many as the kernel says.
    pub pod_initial_window: u32,
    /// 1 where any of them says something: what asks for nothing costs one look.
    pub is_on: u32,
}

const _: () = assert!(size_of::<Tuning>() == 40); // A change here is a change of SCHEMA.
