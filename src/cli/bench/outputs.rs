//! The files of `--json` and `--html`.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use super::report::Report;
use super::{Args, BenchError, page};

/// Open from the start, so that minutes of measuring are not for nothing; what was in them before stays until
/// there is something to put in its place.
pub(super) struct Outputs {
    json: Option<Output>,
    html: Option<Output>,
}

struct Output {
    path: PathBuf,
    file: File,
}

impl Outputs {
    pub(super) fn open(args: &Args) -> Result<Self, BenchError> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(Output::open).transpose();
        Ok(Self { json: open(&args.json)?, html: open(&args.html)? })
    }

    /// Writes both anew.
    pub(super) fn write(&self, report: &Report<'_>) -> Result<(), BenchError> {
        if let Some(json) = &self.json {
            let text = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
            json.write(&(text + "\n"))?;
        }
        if let Some(html) = &self.html {
            html.write(&page::render(report)?)?;
        }
        Ok(())
    }
}

impl Output {
    fn open(path: &Path) -> Result<Self, BenchError> {
        let opened = File::options().create(true).truncate(false).write(true).open(path);
        let file = opened.map_err(|source| BenchError::File { path: path.into(), source })?;
        Ok(Self { path: path.into(), file })
    }

    fn write(&self, text: &str) -> Result<(), BenchError> {
        let mut file = &self.file;
        file.rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(|source| BenchError::File { path: self.path.clone(), source })
    }
}
