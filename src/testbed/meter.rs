//! What something cost: time of cores, memory, and the kernel's own counters (proc(5)).

use std::fs;
use std::time::{Duration, Instant};

use super::BedError;
use crate::sys::netns::Netns;

/// Clock ticks a second in /proc (`USER_HZ`): 100 wherever margay runs.
const TICKS: f64 = 100.0;
/// Process 2 starts the kernel's threads.
const KTHREADD: u32 = 2;

/// A reading of the machine's clocks, to be compared with a later one.
#[derive(Debug, Clone)]
pub struct Meter {
    daemons: Vec<u32>,
    started: Instant,
    reading: Reading,
}

/// Seconds of cores between two readings; the kernel counts hundredths.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// From one reading to the other.
    pub elapsed: Duration,
    /// The daemons, in user mode and in the kernel.
    pub daemons: f64,
    /// The whole machine, without `others`: also what the kernel did in interrupts.
    pub machine: f64,
    /// Processes that have nothing to do with it. A machine with much of this measures nothing well.
    pub others: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    busy: f64,
    daemons: f64,
    others: f64,
}

impl Meter {
    /// Reads the clocks. `daemons` are the processes to be counted apart.
    ///
    /// # Errors
    /// No /proc.
    pub fn start(daemons: Vec<u32>) -> Result<Self, BedError> {
        let reading = Reading::take(&daemons)?;
        Ok(Self { daemons, started: Instant::now(), reading })
    }

    /// What was used since the start.
    ///
    /// # Errors
    /// No /proc.
    pub fn usage(&self) -> Result<Usage, BedError> {
        let now = Reading::take(&self.daemons)?;
        let since = |of: fn(&Reading) -> f64| (of(&now) - of(&self.reading)).max(0.0);
        let others = since(|reading| reading.others);
        Ok(Usage {
            elapsed: self.started.elapsed(),
            daemons: since(|reading| reading.daemons),
            machine: (since(|reading| reading.busy) - others).max(0.0),
            others,
        })
    }
}

impl Reading {
    fn take(daemons: &[u32]) -> Result<Self, BedError> {
        let mut reading = Self { busy: busy(&read("/proc/stat")?), ..Self::default() };
        let entries = fs::read_dir("/proc").map_err(BedError::io("list /proc"))?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.filter(|pid| *pid != KTHREADD && *pid != std::process::id()) {
            // It may have ended meanwhile.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            match process(&stat) {
                Some(process) if daemons.contains(&pid) => reading.daemons += process.seconds,
                // The kernel's threads forward packets too: theirs belongs to the machine. What a process
                // used goes to its parent when it ends, so that nothing is lost between two readings.
                Some(process) if process.parent != KTHREADD => {
                    reading.others += process.seconds + process.children;
                }
                _ => {}
            }
        }
        Ok(reading)
    }
}

/// Seconds in which cores were not idle: the first line of /proc/stat without idle, iowait and steal.
fn busy(stat: &str) -> f64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum::<f64>() / TICKS
}

struct Process {
    parent: u32,
    /// Its own time, in user mode and in the kernel.
    seconds: f64,
    /// That of its children that have ended.
    children: f64,
}

/// /proc/PID/stat. The name in it may hold spaces and brackets, so fields count from the last bracket.
fn process(stat: &str) -> Option<Process> {
    let (_, after) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    // state, ppid, …; utime, stime, cutime and cstime are fields 14 to 17 of the whole.
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        seconds: (ticks(11)? + ticks(12)?) / TICKS,
        children: (ticks(13)? + ticks(14)?) / TICKS,
    })
}

/// The most memory that a process had resident so far, bytes (`VmHWM`); `None` when it has ended.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// A counter of a namespace's /proc/net/snmp, like `Tcp` `RetransSegs`, or snmp6, like `Udp6` `RcvbufErrors`; zero where the
/// kernel has none such. TCP has one for both families.
///
/// # Errors
/// The namespace cannot be entered, or has no /proc.
pub fn counter(netns: &Netns, protocol: &str, name: &str) -> Result<u64, BedError> {
    // The thread's own, since /proc/net is that of the process.
    if protocol.ends_with('6') {
        let text = netns.run(|| read("/proc/thread-self/net/snmp6"))??;
        let mut lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
        let value = lines.find(|(key, _)| key.strip_prefix(protocol) == Some(name));
        return Ok(value.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0));
    }
    let text = netns.run(|| read("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.split_once(": ")).filter(|line| line.0 == protocol);
    let (Some((_, names)), Some((_, values))) = (lines.next(), lines.next()) else { return Ok(0) };
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    Ok(pairs.find(|pair| pair.0 == name).and_then(|pair| pair.1.parse().ok()).unwrap_or(0))
}

fn read(path: &str) -> Result<String, BedError> {
    fs::read_to_string(path).map_err(BedError::io(format!("read {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_process_that_calls_itself_names() {
        let line = "4021 (a) b) (c) R 17 4021 1 0 -1 4194304 100 0 0 0 250 50 7 7 20 0 3 0 5000";
        let process = process(line).unwrap();
        assert_eq!((process.parent, process.seconds, process.children), (17, 3.0, 0.14));
        assert!(super::process("4021 (cut) R 17").is_none());
    }

    #[test]
    fn idle_waiting_and_stolen_time_is_not_busy() {
        assert_eq!(busy("cpu  100 200 300 99999 99999 400 500 99999 0 0\ncpu0 1"), 15.0);
        assert_eq!(busy(""), 0.0);
    }

    #[test]
    fn the_work_of_a_daemon_is_counted_as_its_own() {
        let netns = Netns::create().unwrap();
        let mut child = netns.command("sh").unwrap().args(["-c", "while :; do :; done"]).spawn().unwrap();
        let meter = Meter::start(vec![child.id()]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let usage = loop {
            let usage = meter.usage().unwrap();
            if usage.daemons >= 0.1 || Instant::now() > deadline {
                break usage;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(peak_memory(child.id()).unwrap() > 100 << 10);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(usage.daemons >= 0.1 && usage.machine >= 0.05, "{usage:?}");
        assert_eq!(peak_memory(child.id()), None);
    }

    #[test]
    fn counters_are_those_of_the_namespace() {
        let netns = Netns::create().unwrap();
        assert_eq!(counter(&netns, "Udp", "OutDatagrams").unwrap(), 0);
        let send = || UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", "127.0.0.1:9").unwrap();
        netns.run(send).unwrap();
        assert_eq!(counter(&netns, "Udp", "OutDatagrams").unwrap(), 1);
        assert_eq!(counter(&netns, "Udp", "NoSuchCounter").unwrap(), 0);
        let send = || UdpSocket::bind("[::1]:0").unwrap().send_to(b"x", "[::1]:9").unwrap();
        netns.run(send).unwrap();
        assert_eq!(counter(&netns, "Udp6", "OutDatagrams").unwrap(), 1);
        assert_eq!(counter(&netns, "Udp6", "NoSuchCounter").unwrap(), 0);
        assert_eq!(counter(&netns, "Udp", "OutDatagrams").unwrap(), 1);
    }
}
