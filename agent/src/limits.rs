//! Raises the process's own limits to what it may have, and lowers those by which its memory could leave it.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Has the process open as many descriptors as it may: a pod takes up to thirteen, and the usual soft limit of 1,024 is kept
/// low for programs that still call select(2). One that cannot be raised is told, and lived with.
pub fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(why) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(error = &why as &dyn std::error::Error, "the limit of open files can't be raised");
    }
}

/// Has no core file hold what this process remembers, and nobody without the right to trace any process read it: keys are in it.
pub fn keep_memory() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit, setrlimit};

    #[test]
    fn memory_is_neither_dumped_nor_read_by_others() {
        super::keep_memory().unwrap();
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }

    #[test]
    fn as_many_descriptors_are_had_as_may_be() {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(512), ..before }).unwrap();
        super::raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
