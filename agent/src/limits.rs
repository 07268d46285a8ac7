//! Raises the process's own limits to what it may have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Has the process open as many descriptors as it may: a pod takes up to thirteen, and the usual soft limit of 1,024 is kept
/// low for programs that still call select(2). One that cannot be raised is told, and lived with.
pub fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(why) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(error = &why as &dyn std::error::Error, "the limit of open files can't be raised");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit, setrlimit};

    #[test]
    fn as_many_descriptors_are_had_as_may_be() {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(512), ..before }).unwrap();
        super::raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
