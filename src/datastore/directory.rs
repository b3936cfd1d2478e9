//! A directory of `*.yaml`, `*.yml` and `*.json` files, in the order of their names.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::resource::{self, MAX_TEXT, Parsed, ResourceError, Resources};

/// Why a directory gives no desired state: everything that is wrong, one line each.
#[derive(Debug)]
pub enum LoadError {
    /// The directory itself cannot be read.
    Directory {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Files that cannot be read, and resources that are wrong or in conflict.
    Content {
        /// Files without content for us.
        files: Vec<FileError>,
        /// Mistakes in the others; conflicts between files are looked for only when all can be read.
        resources: Vec<ResourceError>,
    },
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refuses.
    #[error("{}: cannot be read: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// More than [`MAX_TEXT`] bytes.
    #[error("{}: larger than {MAX_TEXT} bytes: split it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not text.
    #[error("{}: not UTF-8 text (first wrong byte at {position})", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Offset in bytes.
        position: usize,
    },
}

impl std::error::Error for LoadError {}

impl LoadError {
    /// The system would not let something be read; what could be read may be right or wrong.
    pub fn may_pass(&self) -> bool {
        match self {
            LoadError::Directory { .. } => true,
            LoadError::Content { files, .. } => files.iter().any(|file| matches!(file, FileError::Io { .. })),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Directory { path, error } => {
                write!(f, "{}: the directory of resources cannot be read: {error}", path.display())
            }
            LoadError::Content { files, resources } => {
                let files = files.iter().map(ToString::to_string);
                let lines: Vec<_> = files.chain(resources.iter().map(ToString::to_string)).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

/// Reads all resources of `directory`: its `*.yaml`, `*.yml` and `*.json` files, links to files
/// included, subdirectories and names that begin with a dot left out. (A mounted ConfigMap is links to
/// files in a hidden directory.) An empty directory is an empty state.
///
/// # Errors
/// All mistakes of all files.
pub fn load(directory: &Path) -> Result<Resources, LoadError> {
    let mut texts: Vec<Parsed> = Vec::new();
    let mut files = Vec::new();
    let names =
        file_names(directory).map_err(|error| LoadError::Directory { path: directory.to_owned(), error })?;
    for name in names {
        let path = directory.join(&name);
        match read(&path) {
            Ok(text) => texts.extend(text.map(|text| resource::parse(&name.to_string_lossy(), &text))),
            Err(error) => files.push(error),
        }
    }
    // Half of a state says nothing about conflicts with the other half.
    if !files.is_empty() {
        let resources = texts.into_iter().flat_map(|text| text.errors).collect();
        return Err(LoadError::Content { files, resources });
    }
    Resources::build(texts).map_err(|resources| LoadError::Content { files, resources })
}

pub(super) fn file_names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if is_resource_file(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_resource_file(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !name.as_encoded_bytes().starts_with(b".") && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The text of a file; `None` for what is no regular file (a pipe would never end).
fn read(path: &Path) -> Result<Option<String>, FileError> {
    let io = |error| FileError::Io { path: path.to_owned(), error };
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large, whatever its metadata said.
    let limit = MAX_TEXT as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.len() > MAX_TEXT {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map(Some).map_err(|error| FileError::NotText {
        path: path.to_owned(),
        position: error.utf8_error().valid_up_to(),
    })
}
