//! A directory of one's own for resource files.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::BedError;

/// What [`Workdir::remove_all`] has to remove.
static ALL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<PathBuf>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new directory that only this user can enter, removed with everything in it when dropped.
#[derive(Debug)]
pub struct Workdir {
    path: PathBuf,
}

impl Workdir {
    /// Makes one in the system's directory for temporary files.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn new() -> Result<Self, BedError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("margay-{}-{number}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(BedError::io(format!("make directory {}", path.display())))?;
        all().push(path.clone());
        Ok(Self { path })
    }

    /// Removes every directory that this process made and still has: for one that must end at once, where no
    /// destructor runs.
    pub fn remove_all() {
        for path in all().drain(..) {
            let _ = fs::remove_dir_all(path);
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in one step: a watcher sees it whole or not at all.
    ///
    /// # Errors
    /// The disk is full, and the like.
    pub fn write(&self, name: &str, text: &str) -> Result<(), BedError> {
        let (draft, path) = (self.path.join(format!(".{name}.draft")), self.path.join(name));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(BedError::io(format!("write {}", path.display())))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, name: &str) -> Result<(), BedError> {
        let path = self.path.join(name);
        fs::remove_file(&path).map_err(BedError::io(format!("remove {}", path.display())))
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        // Nobody is left to tell, and the system's own cleaning takes what remains.
        let _ = fs::remove_dir_all(&self.path);
        all().retain(|path| *path != self.path);
    }
}
