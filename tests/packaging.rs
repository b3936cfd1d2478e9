//! What the package, the unit, its settings and the container file name is there, and is what the program knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const MARGAY: &str = env!("CARGO_BIN_EXE_margay");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `[package.metadata.deb]` of Cargo.toml.
fn package() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root());
    let metadata: Value = serde_json::from_slice(&succeeds(&mut cargo).stdout).unwrap();
    metadata["packages"][0]["metadata"]["deb"].clone()
}

/// Where each asset comes from, and where it goes.
fn assets() -> Vec<(String, String)> {
    let package = package();
    let assets = package["assets"].as_array().unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    assets.iter().map(|asset| (word(&asset[0]), word(&asset[1]))).collect()
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn help(command: &str) -> String {
    String::from_utf8(succeeds(Command::new(MARGAY).args([command, "--help"])).stdout).unwrap()
}

/// The variables that `margay run` reads, by its help.
fn variables() -> BTreeSet<String> {
    let help = help("run");
    help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap().to_owned()).collect()
}

/// Files that a source stands for: itself, or for `directory/*suffix` those of the directory.
fn files(source: &Path) -> Vec<PathBuf> {
    let name = source.file_name().unwrap().to_str().unwrap();
    let Some(suffix) = name.strip_prefix('*') else {
        return source.is_file().then(|| source.to_owned()).into_iter().collect();
    };
    let entries = fs::read_dir(source.parent().unwrap()).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(suffix))
        .collect()
}

#[test]
fn every_asset_of_the_package_is_there() {
    let made = tempfile::tempdir().unwrap();
    let made = made.path().join("packaging");
    succeeds(Command::new(root().join("packaging/generate")).arg(MARGAY).arg(&made));

    for (source, _) in assets() {
        let place = match source.strip_prefix("target/") {
            Some("release/margay") => PathBuf::from(MARGAY),
            Some(rest) => made.join(rest.strip_prefix("packaging/").unwrap_or(rest)),
            None => root().join(&source),
        };
        let found = files(&place);
        assert!(!found.is_empty(), "{source} is not there");
        assert!(found.iter().all(|file| fs::metadata(file).unwrap().len() > 0), "{source} is empty");
    }
    let unit = read("contrib/margay.service");
    for page in unit.split("man:").skip(1) {
        let (name, _) = page.split_once("(1)").unwrap();
        assert!(made.join(format!("man/{name}.1")).is_file(), "no manual page {name}(1)");
    }
    // Who sets them in the default file finds them there.
    let page = fs::read_to_string(made.join("man/margay-run.1")).unwrap();
    for name in variables() {
        assert!(page.contains(&name), "{name} is not in margay-run(1)");
    }
}

#[test]
fn the_package_names_its_files_and_this_version() {
    let package = package();
    let path = |key: &Value| root().join(key.as_str().unwrap());
    assert!(path(&package["license-file"][0]).is_file());
    assert!(path(&package["systemd-units"]["unit-scripts"]).join("margay.service").is_file());
    assert!(path(&package["systemd-units"]["unit-scripts"]).join("margay.sysusers").is_file());
    let scripts = read("packaging/debian/postinst");
    assert!(scripts.contains("#DEBHELPER#"), "cargo-deb puts its own commands there");
    let changelog = read(package["changelog"].as_str().unwrap());
    let version = concat!("margay (", env!("CARGO_PKG_VERSION"), "-1) ");
    assert!(changelog.starts_with(version), "the first entry of the changelog is not of this version");
}

#[test]
fn the_unit_runs_what_the_package_installs_with_options_that_the_program_knows() {
    let unit = read("contrib/margay.service");
    let installed: BTreeSet<String> = assets()
        .into_iter()
        .map(|(source, to)| match to.strip_suffix('/') {
            Some(to) => format!("/{to}/{}", source.rsplit('/').next().unwrap()),
            None => format!("/{to}"),
        })
        .collect();
    let help = help("run");
    let known: BTreeSet<&str> = help.split([' ', ',', '\n']).filter(|word| word.starts_with("--")).collect();
    let mut commands = 0;
    for (key, value) in unit.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "EnvironmentFile" => assert!(installed.contains(value), "{value} is not in the package"),
            "ExecStart" | "ExecReload" => {
                let (before, arguments) = value.split_once("margay run").unwrap();
                let program = format!("{}margay", before.rsplit([' ', '(']).next().unwrap());
                assert!(installed.contains(&program), "{program} is not in the package");
                let options = arguments.split_whitespace().take_while(|word| word.starts_with('-'));
                options.for_each(|option| assert!(known.contains(option), "margay run has no {option}"));
                commands += 1;
            }
            _ => {}
        }
    }
    assert_eq!(commands, 2);
}

/// Settings of the default file; those that stand in a comment too, as `#NAME=value`.
fn settings() -> BTreeMap<String, String> {
    let text = read("packaging/default");
    let lines = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let settings = lines.filter(|line| line.starts_with("MARGAY_")).filter_map(|line| line.split_once('='));
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_default_file_has_every_setting() {
    let settings: BTreeSet<String> = settings().into_keys().collect();
    assert_eq!(settings, variables());
}

#[test]
fn the_default_files_values_are_accepted() {
    let place = tempfile::tempdir().unwrap();
    let mut run = Command::new(MARGAY);
    run.arg("run").env_clear().envs(settings());
    // Reads the settings, and comes no farther than this.
    run.env("MARGAY_CONTROL_SOCKET", place.path().join("socket"));
    run.env("MARGAY_CONTROL_GROUP", "no group has such a name");
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no group is named"), "{said}");
}

#[test]
fn the_container_file_uses_what_the_program_knows() {
    let file = read("packaging/Containerfile");
    let known = variables();
    let named = file.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    for name in named.filter(|word| word.starts_with("MARGAY_")) {
        assert!(known.contains(name), "margay run does not read {name}");
    }
    let command = |key: &str| {
        let line = file.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let (_, list) = line.split_once('[').unwrap();
        serde_json::from_str::<Vec<String>>(&format!("[{list}")).unwrap()
    };
    let health = command("HEALTHCHECK");
    assert_eq!(command("ENTRYPOINT"), [health[0].clone()]);
    assert_eq!(command("CMD"), ["run"]);
    help(&health[1]);
    assert_eq!(health.len(), 2, "options would have to be known too");
}
