//! Allows the system calls that the proxy makes, and no others.
//!
//! Two answers to the rest. What only an intruder would try (running a program, tracing, entering a namespace) kills the
//! process: its listeners live on elsewhere and it is started again without the intruder. Everything else gets EPERM,
//! because libc and the allocator try newer calls first and fall back, and a new libc must not take the node down.
//! The proxy makes no socket of the network at all: each comes from the agent, so that none is of the node's own namespace.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use crate::maps::{BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM};

/// What an intruder would try first.
const FATAL: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_pidfd_getfd,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
];

/// Calls whose arguments do not matter.
const PLAIN: &[libc::c_long] = &[
    // Sockets that are here already.
    libc::SYS_accept4,
    libc::SYS_bind, // Of a dial's source; to listen is not allowed.
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Descriptors, sealed memory among them.
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    // Waiting.
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_timerfd_create, // A worker's, the first time that it holds a workload back.
    libc::SYS_timerfd_settime,
    // Memory. Code is never made: see below.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and signals of this process.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // Time and chance.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
];

/// Older spellings of the above that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Installs the filters, for every thread.
pub(super) fn restrict() -> Result<(), Error> {
    let allow = SeccompAction::Allow;
    // clone3 hides its flags in memory that a filter can't read; told that it is unknown, libc uses clone.
    let unknown = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or(1));
    let refused = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1));
    let fatal = FATAL.iter().map(|call| (*call, Vec::new())).collect();
    install(fatal, allow.clone(), SeccompAction::KillProcess)?;
    install(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), allow.clone(), unknown)?;
    let mut allowed = allowed()?;
    // Of several filters the severest answer counts: what the others speak of is left to them. This one comes last,
    // because it forbids to install another.
    allowed.extend(FATAL.iter().copied().chain([libc::SYS_clone3]).map(|call| (call, Vec::new())));
    install(allowed, refused, allow)
}

fn install(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<(), Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let program: BpfProgram = SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?;
    apply_filter_all_threads(&program)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allowed() -> Result<Rules, Error> {
    let mut rules: Rules = PLAIN.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    let unix = libc::AF_UNIX.unsigned_abs().into();
    // To come back to the agent; and the pair through which a signal wakes the runtime.
    rules.insert(libc::SYS_socket, vec![when(0, SeccompCmpOp::Eq, unix)?]);
    rules.insert(libc::SYS_socketpair, vec![when(0, SeccompCmpOp::Eq, unix)?]);
    let commands = [BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM];
    let commands = commands.into_iter().map(|command| when(0, SeccompCmpOp::Eq, command.into()));
    rules.insert(libc::SYS_bpf, commands.collect::<Result<_, _>>()?);
    let executable = libc::PROT_EXEC.unsigned_abs().into();
    rules.insert(libc::SYS_mmap, vec![when(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    rules.insert(libc::SYS_mprotect, vec![when(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    // Threads, but no new process and no new namespace.
    let thread = flags(libc::CLONE_VM | libc::CLONE_THREAD);
    let namespaces = flags(
        libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP,
    );
    rules.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread | namespaces), thread)?]);
    rules.insert(libc::SYS_ioctl, vec![when(1, SeccompCmpOp::Eq, libc::FIONBIO)?]);
    let named = libc::PR_SET_NAME.unsigned_abs().into();
    rules.insert(libc::SYS_prctl, vec![when(0, SeccompCmpOp::Eq, named)?]);
    // A thread puts itself on a processor, and no other.
    rules.insert(libc::SYS_sched_setaffinity, vec![when(0, SeccompCmpOp::Eq, 0)?]);
    // Limits may be read, not set.
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![condition(2, SeccompCmpOp::Eq, 0, true)?])?]);
    Ok(rules)
}

fn flags(flags: libc::c_int) -> u64 {
    u64::from(flags.cast_unsigned())
}

fn when(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(vec![condition(argument, is, value, false)?])?)
}

fn condition(argument: u8, is: SeccompCmpOp, value: u64, is_pointer: bool) -> Result<SeccompCondition, Error> {
    let length = if is_pointer { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    Ok(SeccompCondition::new(argument, length, is, value)?)
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        os::unix::process::{CommandExt as _, ExitStatusExt as _},
        process::Command,
    };

    /// Run by the test below in a process of its own: the filter is for good.
    #[test]
    #[ignore = "installs the filter; run by the_filter_lets_pass_what_is_needed_and_kills_an_intruder"]
    fn behind_the_filter() {
        super::restrict().unwrap();
        let refused = |done: std::io::Result<()>| done.unwrap_err().kind() == ErrorKind::PermissionDenied;
        assert!(refused(std::net::TcpListener::bind("127.0.0.1:0").map(drop)), "no socket of the network");
        assert!(refused(std::fs::File::open("/etc/passwd").map(drop)), "no file");
        let creating = crate::maps::tests::storage::storage(20);
        assert!(creating.is_none(), "no map");
        assert!(std::os::unix::net::UnixStream::pair().is_ok());
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7, "threads");
        let done = Command::new("/bin/true").exec();
        panic!("exec came back: {done}");
    }

    #[test]
    fn the_filter_lets_pass_what_is_needed_and_kills_an_intruder() {
        let name = "privilege::calls::tests::behind_the_filter";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture", "--test-threads", "1"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr).into_owned();
        assert_eq!(child.status.signal(), Some(libc::SIGSYS), "{said}");
    }
}
