//! Tunes the connections that are made and taken from now on, and asks the kernel which congestion controls it has.

use millrace_abi::{Tuning, tuning::ALGORITHM};
use socket2::{Domain, Socket, Type};

use super::{maps::MapError, object::Kernel};

impl Kernel {
    /// Has the programs set this on connections.
    pub fn tune(&mut self, tuning: &Tuning) -> Result<(), MapError> {
        self.tables.tuning.set(&0, tuning)
    }
}

/// True where the kernel has this congestion control, or a module of it that it now loads: programs can't load one.
pub fn has_algorithm(name: &str) -> bool {
    let asked = Socket::new(Domain::IPV4, Type::STREAM, None);
    asked.and_then(|socket| socket.set_tcp_congestion(name.as_bytes())).is_ok()
}

/// A name as the programs want it: with zeros to its end. None for one that is too long.
pub fn algorithm(name: &str) -> Option<[u8; ALGORITHM]> {
    let mut bytes = [0; ALGORITHM];
    bytes.get_mut(..name.len()).filter(|_| name.len() < ALGORITHM)?.copy_from_slice(name.as_bytes());
    Some(bytes)
}

/// The name that was written so; empty for none.
pub fn algorithm_name(bytes: &[u8; ALGORITHM]) -> String {
    bytes.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::{algorithm, algorithm_name, has_algorithm};

    #[test]
    fn a_name_ends_with_a_zero_or_is_none() {
        assert_eq!(algorithm_name(&algorithm("cubic").unwrap()), "cubic");
        assert_eq!(algorithm("fifteen-letters").map(|bytes| bytes[15]), Some(0));
        assert_eq!(algorithm("sixteen-letters!"), None);
    }

    #[test]
    fn the_kernel_says_what_it_has() {
        assert!(has_algorithm("reno"), "every kernel has it");
        assert!(!has_algorithm("no-such-thing"));
    }
}
