//! `margay top` on a pseudoterminal, against a daemon that forwards.

mod lab;

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lab::{margay, start, until, until_ended};
use margay::testbed::{Lab, LabSpec, Mode, Ping, Workdir, ping};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

const SIZE: Winsize = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };

/// `margay top` on a terminal of its own.
struct Top {
    program: Child,
    /// What a person types.
    keyboard: File,
    /// The program's side of the terminal.
    side: OwnedFd,
    before: Termios,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Top {
    fn start(socket: &Path) -> Self {
        let OpenptyResult { master, slave: side } = openpty(&SIZE, None).unwrap();
        let before = tcgetattr(&side).unwrap();
        let stdio = || Stdio::from(side.try_clone().unwrap());
        // A session of its own, so that the terminal is the program's controlling terminal. setsid becomes the program.
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(margay())
            .args(["top", "--interval", "0.2", "--control-socket"])
            .arg(socket);
        command.stdin(stdio()).stdout(stdio()).stderr(stdio()).env("TERM", "xterm");
        let program = command.spawn().expect("this test needs setsid of util-linux");
        let [rows, columns] = [SIZE.ws_row, SIZE.ws_col].map(|length| NonZero::new(length).unwrap());
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let keyboard = File::from(master);
        follow(keyboard.try_clone().unwrap(), Arc::clone(&screen));
        Top { program, keyboard, side, before, screen }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    #[track_caller]
    fn shows(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so(&self.text()) {
            assert!(Instant::now() < deadline, "{what} is not on the screen:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// It has ended with this code, and the terminal is as it was; what stands on it then.
    #[track_caller]
    fn ends(mut self, code: i32) -> String {
        let mut status = None;
        until("the end", || {
            status = self.program.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(code), "{}", self.text());
        assert_eq!(tcgetattr(&self.side).unwrap(), self.before, "the terminal's modes");
        until("the screen and the cursor", || {
            let parser = self.screen.lock().unwrap();
            !parser.screen().alternate_screen() && !parser.screen().hide_cursor()
        });
        self.text()
    }
}

/// Takes what the program writes.
fn follow(mut master: File, screen: Arc<Mutex<vt100::Parser>>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = master.read(&mut bytes) {
            screen.lock().unwrap().process(&bytes[..len]);
        }
    });
}

fn socket_of(lab: &Lab) -> PathBuf {
    lab.nodes[0].control_socket().unwrap()
}

/// The numbers of the row that begins with a name.
fn numbers<'a>(screen: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let rest = screen.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.split_whitespace().collect())
}

/// A rate above zero.
fn is_some_rate(text: &&str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit()) && *text != "0"
}

#[test]
fn rates_of_what_is_forwarded_are_on_the_screen() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let [near, far] = [&lab.nodes[0].pods[0], &lab.nodes[1].pods[0]];
    let workload = format!("default/{}", near.name);
    let mut top = Top::start(&socket_of(&lab));
    top.shows("the daemon", |text| text.contains("on node node-a: good"));
    let modes = tcgetattr(&top.side).unwrap();
    assert!(
        !modes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO),
        "keys come as they are typed"
    );
    let pings = || drop(ping(&near.netns, far.address, Ping { count: 10, ..Ping::default() }).unwrap());
    top.shows("a pod's rates, both ways", |text| {
        pings();
        let row = numbers(text, &workload).unwrap_or_default();
        row.len() == 6 && row[..4].iter().all(|rate| is_some_rate(&rate))
    });
    top.shows("a peer's form, MTU and rates, both ways", |text| {
        pings();
        let row = numbers(text, "node-b").unwrap_or_default();
        row.len() == 8 && row[..2] == ["vxlan", "1500"] && row[2..6].iter().all(|rate| is_some_rate(&rate))
    });
    top.shows("a drop's rate and whose it is", |text| {
        let brief = Ping { count: 5, patience: Duration::from_millis(1), ..Ping::default() };
        ping(&near.netns, "10.65.0.60".parse().unwrap(), brief).unwrap();
        let dropped = text.lines().find(|line| line.contains(" blackhole ")).unwrap_or_default();
        dropped.split_whitespace().next().is_some_and(|rate| is_some_rate(&rate))
            && dropped.contains(&workload)
    });
    top.press("/nobody\r");
    top.shows("the filter", |text| text.contains("filter: nobody") && text.contains("ENDPOINT none"));
    top.press("q");
    let left = top.ends(0);
    assert!(!left.contains("ENDPOINT"), "{left}");
}

#[test]
fn every_end_gives_the_terminal_back() {
    let lab = start(LabSpec::new(Mode::None), &[]);
    let started = || {
        let top = Top::start(&socket_of(&lab));
        top.shows("the daemon", |text| text.contains("on node node-a: good"));
        top
    };
    for keys in ["\x1b", "\x03"] {
        let mut top = started();
        top.press(keys);
        top.ends(0);
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let top = started();
        kill(Pid::from_raw(top.program.id() as i32), signal).unwrap();
        top.ends(128 + signal as i32);
    }
}

#[test]
fn a_daemon_that_goes_is_told_and_the_next_one_shown() {
    let mut lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let socket = socket_of(&lab);
    let mut top = Top::start(&socket);
    top.shows("the daemon", |text| text.contains("on node node-a: good"));
    let daemon = lab.nodes[0].daemon().unwrap();
    daemon.signal(Signal::SIGKILL).unwrap();
    until_ended(daemon.pid());
    top.shows("that nobody answers", |text| text.contains("NO ANSWER") && text.contains("no daemon listens"));
    let mut command = lab.nodes[0].netns.command(margay()).unwrap();
    command.args(["run", "--node", &lab.nodes[0].name, "--resources"]).arg(lab.resources.path());
    let mut next = command.arg("--control-socket").arg(&socket).spawn().unwrap();
    top.shows("the next daemon", |text| !text.contains("NO ANSWER") && text.contains("on node node-a: good"));
    top.press("q");
    top.ends(0);
    next.kill().unwrap();
    next.wait().unwrap();
}

#[test]
fn without_a_terminal_tables_are_printed_or_it_is_said_how() {
    let lab = start(LabSpec::new(Mode::Vxlan), &[]);
    let socket = socket_of(&lab);
    let top = |arguments: &[&str], socket: &Path| {
        let mut command = Command::new(margay());
        command.arg("top").args(arguments).arg("--control-socket").arg(socket).output().unwrap()
    };
    let printed = top(&["--batch", "2", "--interval", "0.1"], &socket);
    let tables = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success() && tables.matches("RECEIVED/S").count() == 4, "{tables}");
    let pod = &lab.nodes[0].pods[0].name;
    assert!(tables.lines().any(|line| line.ends_with(&format!("  default/{pod}"))), "{tables}");
    let place = Workdir::new().unwrap();
    let none = place.path().join("none");
    for (arguments, socket, words) in
        [(&[][..], &*socket, "--batch COUNT"), (&["--batch", "1"][..], &*none, "no daemon listens")]
    {
        let refused = top(arguments, socket);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && error.contains(words), "{error}");
    }
    let nowhere = Top::start(&none);
    nowhere.shows("what is wrong, on a terminal too", |text| text.contains("no daemon listens"));
    nowhere.ends(1);
}
