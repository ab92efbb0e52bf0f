//! Snapshot files: the model's text form, compressed with zstd.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use capplan_model::ids::SnapshotId;
use capplan_model::snapshot::{Snapshot, SnapshotError};

use super::files;

/// Compression level: 3 is zstd's default, and a cluster of 5,000 nodes takes a second.
const LEVEL: i32 = 3;
/// How much larger the content usually is: memory is asked for once.
const USUAL_RATIO: usize = 16;
/// Largest content that is read, so that a crafted file cannot fill the memory.
const LARGEST: u64 = 16 << 30;

/// Why a snapshot file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {act} {path}")]
    Io {
        /// `read` or `write`.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The file is not a whole snapshot of a version we read.
    #[error("cannot use {path}")]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SnapshotError,
    },
}

/// Writes `snapshot` to `path` in one step: the file is whole or not there.
///
/// # Errors
/// [`FileError::Io`] if the folder cannot be written.
pub fn save(snapshot: &Snapshot, path: &Path) -> Result<SnapshotId, FileError> {
    let io = |source| FileError::Io { act: "write", path: path.to_owned(), source };
    files::write(path, |file| {
        let mut encoder = zstd::Encoder::new(BufWriter::new(file), LEVEL)?;
        encoder.include_checksum(true)?;
        // Beside the writing of the text; the bytes are the same for any number of workers.
        encoder.multithread(1)?;
        let id = snapshot.write(&mut encoder)?;
        encoder.finish()?.flush()?;
        Ok(id)
    })
    .map_err(io)
}

/// Reads a snapshot file, compressed or not.
///
/// # Errors
/// [`FileError`] if the file is missing, truncated, changed, or of a newer version.
pub fn load(path: &Path) -> Result<(Snapshot, SnapshotId), FileError> {
    let io = |source| FileError::Io { act: "read", path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(io)?;
    read(&bytes).map_err(|source| FileError::Snapshot { path: path.to_owned(), source })
}

/// Reads the bytes of a snapshot file, compressed or not.
///
/// # Errors
/// [`SnapshotError`] if they are not a whole snapshot of a version we read.
pub fn read(bytes: &[u8]) -> Result<(Snapshot, SnapshotId), SnapshotError> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    if !bytes.starts_with(&MAGIC) {
        return Snapshot::read(bytes);
    }
    let mut content = Vec::with_capacity(bytes.len().saturating_mul(USUAL_RATIO));
    let decoder = zstd::Decoder::new(bytes).map_err(|_| SnapshotError::NotASnapshot)?;
    std::io::copy(&mut std::io::Read::take(decoder, LARGEST), &mut content).map_err(|_| SnapshotError::Hash)?;
    Snapshot::read(&content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_and_a_truncated_one_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("one.snapshot");
        let snapshot = Snapshot { cluster: "c".into(), ..Default::default() };
        let id = save(&snapshot, &path).expect("writable");
        assert_eq!(load(&path).expect("just written"), (snapshot, id));
        let bytes = std::fs::read(&path).expect("just written");
        for end in [0, 4, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..end]).expect("writable");
            let error = load(&path).expect_err("truncated");
            assert!(error.to_string().contains("one.snapshot"), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("exists").count(), 1, "no temporary file is left");
    }
}
