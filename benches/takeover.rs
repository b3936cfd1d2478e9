//! What a takeover and a restart cost: datagrams lost, and the longest time in which none arrived.
//!
//! `cargo bench --bench takeover` sends datagrams of 200 bytes from pod to pod across two nodes, and has each node's daemon
//! replaced meanwhile, five times each: by `--takeover`, and by SIGTERM and a new start. It offers more than the 50,000 a second
//! that are to be delivered, as the sender is held up where a queue is full; what it says is what was measured at either end.
//! Needs root, or a user namespace of its own.

use std::path::Path;
use std::time::Duration;

use margay::testbed::{Arrivals, BedError, Lab, LabSpec, Mode, Steady, steady};
use nix::sys::signal::Signal;

const STREAM: Steady = Steady { payload: 200, count: 440_000, rate: 55_000.0, outstanding: u64::MAX };
const ROUNDS: usize = 10;
const PAUSE: Duration = Duration::from_millis(500);

fn main() -> Result<(), BedError> {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    println!(
        "{:<8} {:<10} {:>10} {:>12} {:>8} {:>6} {:>12}",
        "mode", "by", "sent/s", "delivered/s", "sent", "lost", "longest gap"
    );
    for mode in [Mode::Vxlan, Mode::Ipip, Mode::None] {
        for (name, replace) in [("nothing", None), ("takeover", Some(true)), ("restart", Some(false))] {
            let Arrivals { sent, lost, gap, sending, arriving, .. } = run(mode, replace)?;
            let rate = sent as f64 / sending.as_secs_f64();
            let delivered = (sent - lost) as f64 / arriving.as_secs_f64();
            let mode = format!("{mode:?}");
            println!("{mode:<8} {name:<10} {rate:>10.0} {delivered:>12.0} {sent:>8} {lost:>6} {gap:>12.1?}");
        }
    }
    Ok(())
}

/// `replace`: by takeover, or by a restart.
fn run(mode: Mode, replace: Option<bool>) -> Result<Arrivals, BedError> {
    let margay = Path::new(env!("CARGO_BIN_EXE_margay"));
    let mut lab = Lab::new(LabSpec::new(mode))?;
    lab.start(margay, &[])?;
    let [from, to] = [0, 1].map(|node| lab.nodes[node].pods[0].netns.try_clone());
    let (from, to, address) = (from?, to?, lab.nodes[1].pods[0].address);
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| steady(&from, &to, address, STREAM));
        for round in 0..ROUNDS {
            std::thread::sleep(PAUSE);
            match replace {
                None => {}
                Some(true) => drop(lab.take_over(round % 2, margay, &[])?),
                Some(false) => {
                    if let Some(daemon) = lab.nodes[round % 2].daemon() {
                        daemon.signal(Signal::SIGTERM)?;
                        while !daemon.has_ended() {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                    drop(lab.restart(round % 2, margay, &[])?);
                }
            }
        }
        stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
