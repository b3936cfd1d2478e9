//! What a packet costs a worker's turn with more and more routes, and with more and more endpoints that have nothing to
//! say:
//!
//! ```text
//! cargo bench --bench scaling
//! ```
//!
//! Instructions are counted as in `engine_instructions`; they tell what is done, not how long memory takes to answer.
//! So beside them stands the time: the median of many short windows.

#[path = "scene/mod.rs"]
mod scene;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use margay::dataplane::Worker;
use margay::io::BATCH;
use scene::callgrind::{NoCount, instructions};
use scene::{Path, Scene};

/// Routes to peers, and idle endpoints.
const SIZES: [(usize, usize); 5] = [(100, 10), (10_000, 10), (1_000_000, 10), (10_000, 100), (10_000, 1_000)];
const PATHS: [Path; 2] = [Path::WorkloadToVxlan, Path::VxlanToDelivery];

/// Turns of a short run, and how many more a long one has.
const TURNS: usize = 100;
const MORE: usize = 1_000;
/// Windows that are timed, and turns of each.
const WINDOWS: usize = 5_000;
const WINDOW: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", path, routes, idle, turns] => {
            let number = |text: &str| text.parse().expect("a number");
            run(path, (number(routes), number(idle)), number(turns));
            ExitCode::SUCCESS
        }
        // `cargo test --benches`: that everything runs, without valgrind.
        _ if arguments.iter().any(|argument| argument == "--test") => {
            run(PATHS[0].name(), (100, 10), 1);
            ExitCode::SUCCESS
        }
        _ => report(),
    }
}

fn report() -> ExitCode {
    println!("{:24} {:>9} {:>6} {:>13} {:>6}", "per packet", "routes", "idle", "instructions", "ns");
    for path in PATHS {
        for size in SIZES {
            let Ok(instructions) = per_packet(path, size) else {
                eprintln!("valgrind --tool=callgrind gave no count: is valgrind installed?");
                return ExitCode::FAILURE;
            };
            let (routes, idle) = size;
            println!("{:24} {routes:>9} {idle:>6} {instructions:13.0} {:6.1}", path.name(), time(path, size));
        }
    }
    ExitCode::SUCCESS
}

fn per_packet(path: Path, (routes, idle): (usize, usize)) -> Result<f64, NoCount> {
    let count = |turns: usize| {
        let [routes, idle, turns] = [routes, idle, turns].map(|number| number.to_string());
        instructions(&["run", path.name(), &routes, &idle, &turns])
    };
    Ok((count(TURNS + MORE)? - count(TURNS)?) / (MORE * BATCH) as f64)
}

/// Nanoseconds.
fn time(path: Path, size: (usize, usize)) -> f64 {
    let mut worker = worker(path, size);
    let mut windows: Vec<Duration> = (0..WINDOWS)
        .map(|_| {
            let start = Instant::now();
            turns(&mut worker, WINDOW);
            start.elapsed()
        })
        .collect();
    let (_, median, _) = windows.select_nth_unstable(WINDOWS / 2);
    median.as_secs_f64() * 1e9 / (WINDOW * BATCH) as f64
}

fn run(path: &str, size: (usize, usize), count: usize) {
    let path = *PATHS.iter().find(|known| known.name() == path).expect("a path's name");
    turns(&mut worker(path, size), count);
}

fn worker(path: Path, (routes, idle): (usize, usize)) -> Worker {
    margay::sys::limits::raise_open_files();
    Scene::with_routes(routes).worker_among(&[path], idle)
}

fn turns(worker: &mut Worker, count: usize) {
    for _ in 0..count {
        worker.turn(Some(Duration::ZERO)).expect("epoll works");
    }
}
