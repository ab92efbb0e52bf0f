//! The history of samples: Parquet files that any other tool can read, one row a sample.
//!
//! A file is written once, in one step, and never changed. Many small files are merged into one
//! from time to time; as rows of the same instant, dimension and subject are read only once, a
//! crash between the merge and the removal of its sources loses nothing and doubles nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capplan_model::capacity::Dimension;
use capplan_model::history::{History, Point, Sample};
use jiff::Timestamp;
use polars::prelude::{
    Column, DataFrame, KeyValueMetadata, NamedFrom, ParquetCompression, ParquetReader, ParquetWriter, PolarsError, SerReader,
    Series,
};
use sha2::{Digest, Sha256};

use super::files;

/// Format of the files, in their metadata; a newer major is refused.
pub const FORMAT: &str = "capplan.history/1";
/// Key of the metadata entry that names the format.
const FORMAT_KEY: &str = "format";
/// Files from which on they are merged: two days of hourly runs.
const MOST_FILES: usize = 48;
/// Longest wait for another writer: merging takes seconds, not minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often a folder is listed again because files were merged away meanwhile.
const LISTINGS: usize = 5;

/// Why the history could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The operating system refused.
    #[error("cannot {act} {path}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The Parquet library refused.
    #[error("cannot write {path}: {message}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every sample once.
    pub history: History,
    /// Files that could not be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Files with rows of dimensions that this capplan does not know: never merged away.
    newer: Vec<PathBuf>,
}

/// A folder of history files.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
    /// Held while the archive is open for writing: one writer at a time.
    lock: File,
}

impl Archive {
    /// Opens the folder, making it if it is not there, and waits for another writer to finish.
    ///
    /// # Errors
    /// [`ArchiveError::Io`] if the folder cannot be made or locked.
    pub fn open(folder: &Path) -> Result<Self, ArchiveError> {
        let io = |act, path: &Path| {
            let path = path.to_owned();
            move |source| ArchiveError::Io { act, path, source }
        };
        for own in folder.parent().into_iter().chain([folder]) {
            files::own_folder(own).map_err(io("create", own))?;
        }
        let path = folder.join(".lock");
        let lock = files::open(File::options().create(true).truncate(false).write(true), &path).map_err(io("open", &path))?;
        let since = Instant::now();
        while let Err(error) = lock.try_lock() {
            if since.elapsed() > LONGEST_WAIT {
                return Err(io("lock", &path)(error.into()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let archive = Self { folder: folder.to_owned(), lock };
        archive.remove_leftovers();
        Ok(archive)
    }

    /// Reads every file of `folder` without locking it: files appear whole and are never changed.
    ///
    /// # Errors
    /// [`ArchiveError::Io`] if the folder cannot be listed. A file that cannot be read is no error:
    /// it is named in [`Loaded::unreadable`], and the others count.
    pub fn load(folder: &Path) -> Result<Loaded, ArchiveError> {
        for _ in 1..LISTINGS {
            if let Some(loaded) = Self::load_once(folder)? {
                return Ok(loaded);
            }
        }
        Ok(Self::load_once(folder)?.unwrap_or_default())
    }

    /// Reads the files as they are listed now; `None` if one was merged away before it was read: its
    /// rows are in a file that was not listed.
    fn load_once(folder: &Path) -> Result<Option<Loaded>, ArchiveError> {
        let mut loaded = Loaded::default();
        for path in files(folder)? {
            match read(&path) {
                Ok(frame) => match take(&frame, &mut loaded.history) {
                    Ok(Rows::AllKnown) => {}
                    Ok(Rows::SomeNewer) => loaded.newer.push(path),
                    Err(why) => loaded.unreadable.push((path, why)),
                },
                Err(_) if !path.exists() => return Ok(None),
                Err(why) => loaded.unreadable.push((path, why)),
            }
        }
        Ok(Some(loaded))
    }

    /// Adds samples as a new file; it is whole or not there.
    ///
    /// # Errors
    /// [`ArchiveError`] if the file cannot be written.
    pub fn append(&self, samples: &[Sample], source: &str) -> Result<(), ArchiveError> {
        let Some(last) = samples.iter().map(|sample| sample.at).max() else { return Ok(()) };
        let mut history = History::default();
        samples.iter().cloned().for_each(|sample| history.insert(sample));
        self.write(&history, &format!("{}-{source}", stamp(last))).map(drop)
    }

    /// Merges the files into one if there are many; unreadable ones stay as they are.
    ///
    /// # Errors
    /// [`ArchiveError`] if the folder cannot be listed or the merged file cannot be written.
    pub fn compact(&self) -> Result<(), ArchiveError> {
        let before = files(&self.folder)?;
        if before.len() <= MOST_FILES {
            return Ok(());
        }
        let loaded = Self::load(&self.folder)?;
        let Some((_, last)) = loaded.history.span() else { return Ok(()) };
        let merged = self.write(&loaded.history, &format!("{}-merged", stamp(last)))?;
        let kept: Vec<&PathBuf> = loaded.unreadable.iter().map(|(path, _)| path).chain(&loaded.newer).collect();
        for path in before.iter().filter(|path| **path != merged && !kept.contains(path)) {
            // What cannot be removed now is read twice and counted once.
            drop(fs::remove_file(path));
        }
        Ok(())
    }

    /// Removes temporary files of a crash; the lock says that no other writer is at work.
    fn remove_leftovers(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "tmp")) {
            drop(fs::remove_file(path));
        }
    }

    /// Writes a file: temporary name, to the disk, then its name, which ends in its hash.
    fn write(&self, history: &History, name: &str) -> Result<PathBuf, ArchiveError> {
        let bytes = parquet(history)
            .map_err(|error| ArchiveError::Parquet { path: self.folder.join(name), message: error.to_string() })?;
        let path = self.folder.join(format!("{name}-{}.parquet", hash(&bytes)));
        let io = |source| ArchiveError::Io { act: "write", path: path.clone(), source };
        files::write(&path, |file| file.write_all(&bytes)).map_err(io)?;
        Ok(path)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // The lock goes with the file in any case; this says when.
        drop(self.lock.unlock());
    }
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The history files of a folder, oldest name first. Temporary files of a crash are not among them.
fn files(folder: &Path) -> Result<Vec<PathBuf>, ArchiveError> {
    let io = |source| ArchiveError::Io { act: "list", path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Rows of a history: sorted by dimension, subject and time.
fn frame(history: &History) -> Result<DataFrame, PolarsError> {
    let rows = history.len();
    let (mut at, mut dimension, mut subject) = (Vec::with_capacity(rows), Vec::with_capacity(rows), Vec::with_capacity(rows));
    let (mut used, mut limit) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for one in Dimension::ALL {
        for (name, series) in history.subjects(one) {
            for (instant, point) in series {
                at.push(instant.as_millisecond());
                dimension.push(one.name());
                subject.push(name);
                used.push(point.used);
                limit.push(point.limit);
            }
        }
    }
    let column = |series: Series| Column::from(series);
    DataFrame::new_infer_height(vec![
        column(Series::new("at_ms".into(), at)),
        column(Series::new("dimension".into(), dimension)),
        column(Series::new("subject".into(), subject)),
        column(Series::new("used".into(), used)),
        column(Series::new("limit".into(), limit)),
    ])
}

/// A file of history: Parquet that names its format.
fn parquet(history: &History) -> Result<Vec<u8>, PolarsError> {
    let mut bytes = Vec::new();
    let format = KeyValueMetadata::from_static(vec![(FORMAT_KEY.to_owned(), FORMAT.to_owned())]);
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(None))
        .with_key_value_metadata(Some(format))
        .finish(&mut frame(history)?)?;
    Ok(bytes)
}

/// Sixteen hexadecimal digits of the SHA-256 of a file: Parquet has no check of its own, and a
/// damaged file can make its reader fail in ways that are no error.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Result<DataFrame, String> {
    let bytes = files::read(path).map_err(|error| error.to_string())?;
    let named = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.rsplit('-').next());
    if named.is_none_or(|digits| digits.len() != 16 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
        return Err("not a file of capplan's history: its name does not end in a hash".to_owned());
    }
    if named != Some(hash(&bytes).as_str()) {
        return Err("damaged or cut: its content does not match the hash in its name; move it away".to_owned());
    }
    // The decoder of Parquet panics on some files that are none: such a file is unreadable, and the others count.
    catch_unwind(AssertUnwindSafe(|| decoded(bytes))).unwrap_or_else(|_| Err("not a Parquet file; move it away".to_owned()))
}

fn decoded(bytes: Vec<u8>) -> Result<DataFrame, String> {
    let unreadable = |error: PolarsError| format!("cannot be read: {error}; move it away");
    let mut reader = ParquetReader::new(Cursor::new(bytes));
    let metadata = reader.get_metadata().map_err(unreadable)?;
    let format = metadata.key_value_metadata().as_ref().and_then(|pairs| pairs.iter().find(|pair| pair.key == FORMAT_KEY));
    match format.and_then(|pair| pair.value.as_deref()) {
        Some(FORMAT) => {}
        Some(other) => return Err(format!("format is `{other}`, this capplan reads `{FORMAT}`")),
        None => return Err("not a file of capplan's history".to_owned()),
    }
    reader.finish().map_err(unreadable)
}

/// Whether every row of a file could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    AllKnown,
    SomeNewer,
}

/// Rows that follow each other and belong to one series.
struct Run<'a> {
    dimension: &'a str,
    subject: &'a str,
    points: Vec<(Timestamp, Point)>,
}

impl Run<'_> {
    /// Adds the rows to their series; those of a newer capplan's dimension are passed over.
    fn end(self, series: &mut BTreeMap<(Dimension, String), Vec<(Timestamp, Point)>>) -> Rows {
        let Some(dimension) = Dimension::from_name(self.dimension) else {
            return if self.points.is_empty() { Rows::AllKnown } else { Rows::SomeNewer };
        };
        series.entry((dimension, self.subject.to_owned())).or_default().extend(self.points);
        Rows::AllKnown
    }
}

/// Adds the rows of a file. Runs of one dimension and subject become a series at once.
fn take(frame: &DataFrame, history: &mut History) -> Result<Rows, String> {
    let mut rows = Rows::AllKnown;
    let wrong = |error: PolarsError| format!("columns are not those of the format: {error}");
    let at = frame.column("at_ms").and_then(|column| column.i64().cloned()).map_err(wrong)?;
    let dimension = frame.column("dimension").and_then(|column| column.str().cloned()).map_err(wrong)?;
    let subject = frame.column("subject").and_then(|column| column.str().cloned()).map_err(wrong)?;
    let used = frame.column("used").and_then(|column| column.f64().cloned()).map_err(wrong)?;
    let limit = frame.column("limit").and_then(|column| column.f64().cloned()).map_err(wrong)?;
    let mut run = Run { dimension: "", subject: "", points: Vec::new() };
    let mut series: BTreeMap<(Dimension, String), Vec<(Timestamp, Point)>> = BTreeMap::new();
    for ((((at, name), subject), used), limit) in
        at.iter().zip(dimension.iter()).zip(subject.iter()).zip(used.iter()).zip(limit.iter())
    {
        let (Some(at), Some(name), Some(subject), Some(used)) = (at, name, subject, used) else { continue };
        let at = Timestamp::from_millisecond(at).map_err(|error| format!("a time stamp is out of range: {error}"))?;
        if run.dimension != name || run.subject != subject {
            let done = std::mem::replace(&mut run, Run { dimension: name, subject, points: Vec::new() });
            if done.end(&mut series) == Rows::SomeNewer {
                rows = Rows::SomeNewer;
            }
        }
        run.points.push((at, Point { used, limit }));
    }
    if run.end(&mut series) == Rows::SomeNewer {
        rows = Rows::SomeNewer;
    }
    for ((dimension, subject), points) in series {
        history.extend_series(dimension, subject, points);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64, subject: &str, used: f64) -> Sample {
        Sample {
            at: Timestamp::from_second(second).expect("in range"),
            dimension: Dimension::MemoryRequests,
            subject: subject.into(),
            used,
            limit: (used > 1.0).then_some(10.0),
        }
    }

    fn add(folder: &Path, samples: &[Sample]) {
        Archive::open(folder).and_then(|archive| archive.append(samples, "live")).expect("writable");
    }

    #[test]
    fn what_is_appended_is_loaded_once_whatever_was_written_twice() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        add(folder.path(), &[sample(1, "a", 1.0), sample(1, "b", 2.0)]);
        add(folder.path(), &[sample(1, "b", 3.0), sample(2, "a", 4.0)]);
        let loaded = Archive::load(folder.path()).expect("readable");
        let all: Vec<Sample> = loaded.history.samples().collect();
        assert_eq!(all, [sample(1, "a", 1.0), sample(2, "a", 4.0), sample(1, "b", 3.0)]);
        assert!(loaded.unreadable.is_empty());
    }

    #[test]
    fn a_file_cut_anywhere_is_named_and_the_others_count() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        add(folder.path(), &[sample(1, "a", 1.0)]);
        let cut = files(folder.path()).expect("listed").remove(0);
        add(folder.path(), &[sample(2, "a", 2.0)]);
        let bytes = fs::read(&cut).expect("just written");
        for length in [0, 4, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&cut, &bytes[..length]).expect("writable");
            let loaded = Archive::load(folder.path()).expect("readable");
            assert_eq!(loaded.history.samples().collect::<Vec<_>>(), [sample(2, "a", 2.0)], "cut at {length}");
            assert_eq!(loaded.unreadable.len(), 1, "cut at {length}");
            assert_eq!(loaded.unreadable[0].0, cut);
        }
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_by_the_next_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let leftover = folder.path().join("9-crash.parquet.Ab12Cd.tmp");
        fs::write(&leftover, b"half").expect("writable");
        drop(Archive::load(folder.path()).expect("readable"));
        assert!(leftover.exists(), "a reader does not know whether somebody is at work");
        drop(Archive::open(folder.path()).expect("writable"));
        assert!(!leftover.exists());
    }

    #[test]
    fn merging_keeps_every_sample_and_the_unreadable_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let count = MOST_FILES as i64 + 5;
        (0..count).for_each(|second| add(folder.path(), &[sample(second, "a", second as f64)]));
        fs::write(folder.path().join("0-cut.parquet"), b"PAR1").expect("writable");
        let before = Archive::load(folder.path()).expect("readable").history;
        Archive::open(folder.path()).and_then(|archive| archive.compact()).expect("writable");
        assert_eq!(files(folder.path()).expect("listed").len(), 2, "the merged file and the cut one");
        let after = Archive::load(folder.path()).expect("readable");
        assert_eq!(after.history, before);
        assert_eq!(after.unreadable.len(), 1);
    }

    #[test]
    fn a_crash_between_merge_and_removal_doubles_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        add(folder.path(), &[sample(1, "a", 1.0)]);
        add(folder.path(), &[sample(2, "a", 2.0)]);
        let before = Archive::load(folder.path()).expect("readable").history;
        Archive::open(folder.path()).and_then(|archive| archive.write(&before, "merged")).expect("writable");
        assert_eq!(Archive::load(folder.path()).expect("readable").history, before);
    }

    /// Puts a file of that content into the folder, named by its hash.
    fn put(folder: &Path, name: &str, mut rows: DataFrame, format: Option<&str>) -> PathBuf {
        let format = format.map(|format| KeyValueMetadata::from_static(vec![(FORMAT_KEY.to_owned(), format.to_owned())]));
        let mut bytes = Vec::new();
        ParquetWriter::new(&mut bytes).with_key_value_metadata(format).finish(&mut rows).expect("a Vec takes every write");
        let path = folder.join(format!("{name}-{}.parquet", hash(&bytes)));
        fs::write(&path, bytes).expect("writable");
        path
    }

    #[test]
    fn rows_of_a_newer_capplans_dimension_survive_a_merge() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut history = History::default();
        history.insert(sample(1, "a", 1.0));
        let mut rows = frame(&history).expect("five columns");
        let name = Column::from(Series::new("dimension".into(), ["moon-phase"]));
        rows.replace("dimension", name).expect("the column exists");
        let newer = put(folder.path(), "0-newer", rows, Some(FORMAT));
        (0..=MOST_FILES as i64).for_each(|second| add(folder.path(), &[sample(second, "a", 2.0)]));
        Archive::open(folder.path()).and_then(|archive| archive.compact()).expect("writable");
        assert!(newer.exists());
    }

    #[test]
    fn every_changed_byte_is_noticed_before_the_file_is_parsed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        add(folder.path(), &[sample(1, "a", 1.0)]);
        let path = files(folder.path()).expect("listed").remove(0);
        let bytes = fs::read(&path).expect("just written");
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x41;
            fs::write(&path, changed).expect("writable");
            assert_eq!(Archive::load(folder.path()).expect("listed").unreadable.len(), 1, "byte {place}");
        }
    }

    #[test]
    fn writers_at_the_same_time_lose_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let folder = folder.path();
                scope.spawn(move || (0..8).for_each(|index| add(folder, &[sample(writer * 100 + index, "a", 2.0)])));
            }
        });
        assert_eq!(Archive::load(folder.path()).expect("readable").history.len(), 32);
    }

    #[test]
    fn a_parquet_file_of_someone_else_or_of_a_newer_capplan_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let empty = || frame(&History::default()).expect("five columns");
        put(folder.path(), "1-foreign", empty(), None);
        put(folder.path(), "2-newer", empty(), Some("capplan.history/2"));
        fs::write(folder.path().join("3-other.parquet"), b"PAR1").expect("writable");
        let unreadable = Archive::load(folder.path()).expect("readable").unreadable;
        assert!(unreadable[0].1.contains("not a file of capplan"), "{unreadable:?}");
        assert!(unreadable[1].1.contains("capplan.history/2"), "{unreadable:?}");
        assert!(unreadable[2].1.contains("not a file of capplan"), "{unreadable:?}");
    }
}
