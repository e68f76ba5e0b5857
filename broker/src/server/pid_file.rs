//! The file that holds the number of the node's process: `rabbitmqctl wait` and init scripts read it.

use std::path::{Path, PathBuf};

/// The file, there as long as this is. A process that is killed leaves it; the next one overwrites it.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes it, by renaming, so that nobody reads half of it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(path: &Path) -> Result<PidFile, String> {
        let new = path.with_extension("new");
        let written = std::fs::write(&new, format!("{}\n", std::process::id()))
            .and_then(|()| std::fs::rename(&new, path));
        written.map_err(|e| format!("cannot write the pid file {}: {e}", path.display()))?;
        Ok(PidFile(path.to_path_buf()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, "the pid file was not removed");
        }
    }
}
