//! What a thread may still ask of the kernel: seccomp(2) by system call, landlock(7) by object.
//!
//! | thread | seccomp | Landlock |
//! |---|---|---|
//! | a worker ([`confine_worker`]) | a list of what it does; all else fails | no file, no TCP, no abstract socket or signal out |
//! | all of the daemon ([`confine_daemon`]) | a list of what it never does fails: no program is run, no file is made | none, see below |
//!
//! What is forbidden fails with EPERM instead of killing: a call that a library or a future kernel's C library makes and
//! that this list forgot costs what it was for, not the node's traffic. An attacker gains nothing by it, as the call
//! does not happen either way.
//!
//! The daemon's own threads cannot have Landlock: one that is restricted may not look into processes that are not
//! (`hook_ptrace_access_check`), and `/proc/PID/ns/net` of a workload is such a look.
//!
//! Threads share memory. This holds what a worker can be made to ask for while it reads hostile packets; it is no wall
//! against one in which arbitrary code runs, which could write to another thread's memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::MaskedEq;
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

/// The newest Landlock whose rights are asked for; an older kernel gives those that it has.
const LANDLOCK: ABI = ABI::V6;

/// What confines a thread, and why something does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// The filter of system calls.
    pub seccomp: Result<(), String>,
    /// The version of Landlock's ABI that is used.
    pub landlock: Result<i32, String>,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.seccomp {
            Ok(()) => f.write_str("seccomp")?,
            Err(reason) => write!(f, "NO seccomp ({reason})")?,
        }
        match &self.landlock {
            Ok(version) => write!(f, ", Landlock (ABI {version})"),
            Err(reason) => write!(f, ", NO Landlock ({reason})"),
        }
    }
}

/// Leaves to the calling thread, for good, what a worker does: to read, write and wait by the descriptors that it has, and
/// memory. What the system does not have, or forbids, is left out; the answer says so.
pub fn confine_worker() -> Confinement {
    // Landlock first: the filter forbids its calls too.
    let landlock = close_files();
    Confinement {
        landlock,
        seccomp: filter(&worker(), SeccompAction::Allow).map_err(|error| error.to_string()),
    }
}

/// Takes from the calling thread, and from those that it will start, what the daemon never does; what BPF takes only
/// unless it `loads_bpf`.
///
/// # Errors
/// The system has no seccomp filters, or forbids them.
pub fn confine_daemon(loads_bpf: bool) -> io::Result<()> {
    filter(&never(loads_bpf)?, SeccompAction::Errno(libc::EPERM as u32))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs a filter: `listed` is done with what is in `rules`, the opposite with all else.
fn filter(rules: &Rules, listed: SeccompAction) -> io::Result<()> {
    let other = match listed {
        SeccompAction::Allow => SeccompAction::Errno(libc::EPERM as u32),
        _ => SeccompAction::Allow,
    };
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules.clone(), other, listed, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        other => io::Error::other(other),
    })
}

/// What a worker calls. Those of every packet have no condition: the kernel then decides by the number alone, from
/// a bitmap (Linux 5.11).
fn worker() -> Rules {
    const BY_DESCRIPTOR: &[c_long] = &[
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait,
        libc::SYS_ppoll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        libc::SYS_close,
    ];
    const TIME_AND_THREADS: &[c_long] = &[
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        // The number stands in the message of a panic.
        libc::SYS_gettid,
        libc::SYS_getpid,
        // Signals of the process may be handled by any of its threads.
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_restart_syscall,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    // The allocator, and the seeds of hash tables.
    const MEMORY: &[c_long] =
        &[libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_getrandom];

    let all = [BY_DESCRIPTOR, TIME_AND_THREADS, MEMORY].concat();
    let mut rules: Rules = all.into_iter().map(|number| (number, Vec::new())).collect();
    // Never memory that can be run.
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        if let Ok(rule) = bits_are(2, libc::PROT_EXEC, 0) {
            rules.insert(number, vec![rule]);
        }
    }
    rules
}

/// What the daemon never calls.
fn never(loads_bpf: bool) -> io::Result<Rules> {
    const PROGRAMS: &[c_long] = &[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        // Its requests pass by every filter.
        libc::SYS_io_uring_setup,
        libc::SYS_personality,
    ];
    const MACHINE: &[c_long] = &[
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_ioperm,
    ];
    const FILES: &[c_long] = &[
        // Its flags stand in memory, which a filter cannot read.
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat,
        libc::SYS_mknodat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mknod,
        libc::SYS_linkat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link,
        libc::SYS_symlinkat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_symlink,
        libc::SYS_renameat2,
        #[cfg(not(target_arch = "riscv64"))]
        libc::SYS_renameat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename,
        libc::SYS_truncate,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
    ];

    let mut all = [PROGRAMS, MACHINE, FILES].concat();
    if !loads_bpf {
        all.push(libc::SYS_bpf);
    }
    let mut rules: Rules = all.into_iter().map(|number| (number, Vec::new())).collect();
    // Position of the flags.
    let opens = [
        (libc::SYS_openat, 2),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, 1),
    ];
    for (number, flags) in opens {
        // To read and write is what /dev/net/tun takes.
        let forbidden = [
            bits_are(flags, libc::O_CREAT, libc::O_CREAT)?,
            bits_are(flags, libc::O_TRUNC, libc::O_TRUNC)?,
            bits_are(flags, libc::O_ACCMODE, libc::O_WRONLY)?,
        ];
        rules.insert(number, forbidden.into());
    }
    Ok(rules)
}

/// Of argument `index`, the bits of `mask` are `value`.
fn bits_are(index: u8, mask: i32, value: i32) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(index, Dword, MaskedEq(mask as u64), value as u64);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(io::Error::other)
}

/// No file can be opened, made, changed or run by the calling thread, no TCP connection be made or taken, and nobody
/// outside the process be reached by an abstract Unix socket or a signal.
fn close_files() -> Result<i32, String> {
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(LANDLOCK)))
        .and_then(|ruleset| ruleset.create())
        .and_then(|ruleset| ruleset.restrict_self());
    let status = restricted.map_err(|error| error.to_string())?;
    match status.landlock {
        LandlockStatus::NotEnabled => Err("switched off at boot: lsm= lacks landlock".into()),
        LandlockStatus::NotImplemented => Err("this kernel or sandbox has none; Linux 5.13 does".into()),
        LandlockStatus::Available { .. } if status.ruleset == RulesetStatus::NotEnforced => {
            Err("the kernel enforces nothing".into())
        }
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Ok(kernel_abi.unwrap_or(effective_abi as i32))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::path::Path;
    use std::process::Command;

    use nix::sys::signal;
    use nix::unistd::Pid;

    fn in_a_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(run).join().unwrap()
    }

    fn refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    fn trace_me() -> Option<i32> {
        // SAFETY: PTRACE_TRACEME takes no pointers.
        let done = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        if done < 0 { io::Error::last_os_error().raw_os_error() } else { None }
    }

    #[test]
    fn a_worker_opens_nothing_and_starts_nothing() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let (confined, forbidden) = in_a_thread(move || {
            let confined = confine_worker();
            let forbidden = [
                ("open", refused(File::open("/proc/self/status"))),
                ("socket", refused(UdpSocket::bind(("127.0.0.1", 0)))),
                ("connect", refused(TcpStream::connect(address))),
                ("connect a socket that is there", refused(socket.connect(address))),
                ("execve", refused(Command::new("true").status())),
                ("ptrace", trace_me() == Some(libc::EPERM)),
                ("kill", signal::kill(Pid::this(), None) == Err(nix::Error::EPERM)),
                ("a thread", std::thread::Builder::new().spawn(|| ()).is_err()),
                ("stat", refused(Path::new("/").metadata())),
                ("a copy of a descriptor", refused(socket.try_clone())),
            ];
            (confined, forbidden)
        });
        assert_eq!(confined.seccomp, Ok(()), "this test needs seccomp filters");
        let allowed: Vec<_> = forbidden.iter().filter(|(_, refused)| !refused).collect();
        assert!(allowed.is_empty(), "{allowed:?}");
    }

    #[test]
    fn landlock_alone_closes_files_where_the_kernel_has_it() {
        let (landlock, opened) = in_a_thread(|| (close_files(), File::open("/proc/self/status")));
        match landlock {
            Ok(_) => assert!(refused(opened)),
            Err(reason) => assert!(opened.is_ok(), "{reason}"),
        }
    }

    #[test]
    fn a_worker_still_has_memory_sockets_that_are_open_and_panics_that_say_so() {
        let [near, far] = [(); 2].map(|()| UdpSocket::bind(("127.0.0.1", 0)).unwrap());
        let to = far.local_addr().unwrap();
        let panicked = std::thread::spawn(move || {
            confine_worker();
            near.send_to(b"still here", to).unwrap();
            let mut grown: Vec<Vec<u8>> = Vec::new();
            for power in 4..24 {
                grown.push(vec![1; 1 << power]);
                grown.iter_mut().for_each(|vec| vec.reserve(vec.len()));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            let keys: std::collections::HashSet<usize> = grown.iter().map(Vec::len).collect();
            assert_eq!(keys.len(), 0, "a panic on purpose");
        })
        .join();
        let mut received = [0; 16];
        assert_eq!(far.recv(&mut received).unwrap(), 10);
        let message = panicked.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("on purpose"), "{message}");
    }

    #[test]
    fn the_daemon_runs_no_program_and_makes_no_file_but_opens_what_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "text").unwrap();
        let (confined, forbidden, allowed) = in_a_thread(move || {
            let confined = confine_daemon(false).map_err(|error| error.to_string());
            let forbidden = [
                refused(Command::new("true").status()),
                refused(File::create(dir.path().join("new"))),
                refused(File::create(&there)),
                refused(std::fs::OpenOptions::new().append(true).open(&there)),
                refused(std::fs::rename(&there, dir.path().join("moved"))),
                nix::unistd::chroot(dir.path()) == Err(nix::Error::EPERM),
            ];
            let allowed = [
                std::fs::read(&there).is_ok(),
                std::fs::OpenOptions::new().read(true).write(true).open(&there).is_ok(),
                UdpSocket::bind(("127.0.0.1", 0)).is_ok(),
            ];
            (confined, forbidden, allowed)
        });
        assert_eq!(confined, Ok(()), "this test needs seccomp filters");
        assert_eq!((forbidden, allowed), ([true; 6], [true; 3]));
    }
}
