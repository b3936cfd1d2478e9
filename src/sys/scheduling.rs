//! Which cores a thread may use, and with what priority.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// The cores that the calling thread may use, by number, in order.
///
/// # Errors
/// A machine with more cores than `cpu_set_t` has bits (1,024).
pub fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(SELF)?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

/// Keeps the calling thread, and every thread and process that it starts from here on, to these cores.
///
/// # Errors
/// EINVAL where none of them is a core that this process may use.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().try_for_each(|core| set.set(*core))?;
    Ok(sched_setaffinity(SELF, &set)?)
}

/// Lets the calling thread run only where nothing else wants the core (`SCHED_IDLE`, sched(7)).
///
/// # Errors
/// Those of sched_setscheduler(2); lowering one's own priority needs no privilege.
pub fn only_when_idle() -> io::Result<()> {
    // SAFETY: a structure of integers, for which zero is a value; C libraries differ in how many there are.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the parameters live on this stack, and the kernel only reads them.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_and_its_children_stay_on_their_core() {
        let all = cores().unwrap();
        let last = *all.last().unwrap();
        std::thread::spawn(move || {
            pin(&[last]).unwrap();
            assert_eq!(cores().unwrap(), [last]);
            assert_eq!(std::thread::spawn(cores).join().unwrap().unwrap(), [last]);
        })
        .join()
        .unwrap();
        assert_eq!(cores().unwrap(), all, "the thread that did not ask");
    }

    #[test]
    fn no_core_at_all_is_refused() {
        let error = std::thread::spawn(|| pin(&[])).join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn the_lowest_priority_needs_no_privilege() {
        std::thread::spawn(only_when_idle).join().unwrap().unwrap();
    }
}
