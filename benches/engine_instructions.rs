//! Instructions per packet, which are the same on every machine of one architecture:
//!
//! ```text
//! cargo bench --bench engine_instructions
//! ```
//!
//! The program runs itself under `valgrind --tool=callgrind` with two numbers of turns; what the second count has
//! more, divided by the packets of the turns that it has more, is the cost of a packet, set-up left out. The last two
//! columns are a turn while a capture takes every frame, and while one takes none, because its filter says so.

#[path = "scene/mod.rs"]
mod scene;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use margay::agent::capture::SNAP;
use margay::dataplane::tap::Wanted;
use margay::io::BATCH;
use scene::callgrind::{NoCount, instructions};
use scene::{Bare, Path, Scene};

/// Turns of a short run, and how many more a long one has.
const TURNS: usize = 100;
const MORE: usize = 1_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", what, path, turns] => {
            run(what, path, turns.parse().expect("a number"));
            ExitCode::SUCCESS
        }
        // `cargo test --benches`: that everything runs, without valgrind.
        _ if arguments.iter().any(|argument| argument == "--test") => {
            Path::ALL.iter().for_each(|path| run("turn", path.name(), 1));
            ExitCode::SUCCESS
        }
        _ => report(),
    }
}

fn report() -> ExitCode {
    println!(
        "{:28} {:>8} {:>8} {:>8} {:>8}",
        "instructions per packet", "engine", "turn", "captured", "filtered"
    );
    for path in Path::ALL {
        let counts = ["nothing", "engine", "turn", "captured", "filtered"].map(|what| per_packet(what, path));
        let [Ok(nothing), Ok(engine), Ok(turn), Ok(captured), Ok(filtered)] = counts else {
            eprintln!("valgrind --tool=callgrind gave no count: is valgrind installed?");
            return ExitCode::FAILURE;
        };
        let [engine, turn, captured, filtered] =
            [engine, turn, captured, filtered].map(|count| count - nothing);
        println!("{:28} {engine:8.0} {turn:8.0} {captured:8.0} {filtered:8.0}", path.name());
    }
    ExitCode::SUCCESS
}

fn per_packet(what: &str, path: Path) -> Result<f64, NoCount> {
    let count = |turns: usize| instructions(&["run", what, path.name(), &turns.to_string()]);
    Ok((count(TURNS + MORE)? - count(TURNS)?) / (MORE * BATCH) as f64)
}

fn run(what: &str, path: &str, turns: usize) {
    let path = *Path::ALL.iter().find(|known| known.name() == path).expect("a path's name");
    let scene = Scene::new();
    let mut bare = Bare::new(&scene, path);
    let (mut worker, mut catch) = match what {
        "captured" | "filtered" => {
            let filter = if what == "filtered" { "host 192.0.2.1 and tcp port 1" } else { "" };
            let filter = filter.parse().expect("a filter");
            let (worker, catch) =
                scene.worker_watched(&[path], Wanted { filter, snap: SNAP, ..Wanted::default() });
            (worker, Some(catch))
        }
        _ => (scene.worker(&[path]), None),
    };
    for _ in 0..turns {
        match what {
            "nothing" => bare.idle_turn(),
            "engine" => bare.turn(|verdict| {
                let _ = black_box(verdict);
            }),
            _ => {
                worker.turn(Some(Duration::ZERO)).expect("epoll works");
                // What is read is given back: the reader's thread has a processor of its own.
                if let Some(catch) = &mut catch {
                    catch.take(usize::MAX, |record, _| {
                        black_box(record);
                    });
                }
            }
        }
    }
}
