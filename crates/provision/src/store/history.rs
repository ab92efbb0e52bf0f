//! The history of samples: Parquet files that any other tool can read, one row a sample.
//!
//! A file is written once, in one step, and never changed. Many small files are merged into one
//! from time to time; as rows of the same instant, dimension and subject are read only once, a
//! crash between the merge and the removal of its sources loses nothing and doubles nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use capplan_model::capacity::Dimension;
use capplan_model::history::{History, Point, Sample};
use jiff::Timestamp;
use polars::prelude::{
    Column, DataFrame, KeyValueMetadata, NamedFrom, ParquetCompression, ParquetReader, ParquetWriter, SerReader, Series,
};

/// Format of the files, in their metadata; a newer major is refused.
pub const FORMAT: &str = "capplan.history/1";
/// Key of the metadata entry that names the format.
const FORMAT_KEY: &str = "format";
/// Files from which on they are merged: two days of hourly runs.
const MOST_FILES: usize = 48;

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
        fs::create_dir_all(folder).map_err(io("create", folder))?;
        let path = folder.join(".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(io("open", &path))?;
        lock.lock().map_err(io("lock", &path))?;
        Ok(Self { folder: folder.to_owned(), lock })
    }

    /// Reads every file of `folder` without locking it: files appear whole and are never changed.
    ///
    /// # Errors
    /// [`ArchiveError::Io`] if the folder cannot be listed. A file that cannot be read is no error:
    /// it is named in [`Loaded::unreadable`], and the others count.
    pub fn load(folder: &Path) -> Result<Loaded, ArchiveError> {
        let mut loaded = Loaded::default();
        for path in files(folder)? {
            match read(&path) {
                Ok(frame) => match take(&frame, &mut loaded.history) {
                    Ok(Rows::AllKnown) => {}
                    Ok(Rows::SomeNewer) => loaded.newer.push(path),
                    Err(why) => loaded.unreadable.push((path, why)),
                },
                // Merged away by another run since the folder was listed: its rows are elsewhere.
                Err(_) if !path.exists() => {}
                Err(why) => loaded.unreadable.push((path, why)),
            }
        }
        Ok(loaded)
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
        self.remove_leftovers();
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

    /// Writes a file: temporary name, to the disk, then its name.
    fn write(&self, history: &History, name: &str) -> Result<PathBuf, ArchiveError> {
        let free = |number: u32| {
            let suffix = if number == 0 { String::new() } else { format!("-{number}") };
            self.folder.join(format!("{name}{suffix}.parquet"))
        };
        let path = (0..).map(free).find(|path| !path.exists()).unwrap_or_else(|| free(0));
        let temporary = path.with_extension("parquet.tmp");
        let io = |act| {
            let path = path.clone();
            move |source| ArchiveError::Io { act, path, source }
        };
        let parquet =
            |error: polars::prelude::PolarsError| ArchiveError::Parquet { path: path.clone(), message: error.to_string() };
        let file = File::create(&temporary).map_err(io("create"))?;
        let format = KeyValueMetadata::from_static(vec![(FORMAT_KEY.to_owned(), FORMAT.to_owned())]);
        let mut frame = frame(history).map_err(parquet)?;
        ParquetWriter::new(&file)
            .with_compression(ParquetCompression::Zstd(None))
            .with_key_value_metadata(Some(format))
            .finish(&mut frame)
            .map_err(parquet)?;
        file.sync_all().map_err(io("write"))?;
        fs::rename(&temporary, &path).map_err(io("name"))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io("keep"))?;
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
fn frame(history: &History) -> Result<DataFrame, polars::prelude::PolarsError> {
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

fn read(path: &Path) -> Result<DataFrame, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    // Shorter than a Parquet file's two marks and its footer's length.
    if length < 12 {
        return Err(format!("{length} bytes are no Parquet file: it is cut; move it away"));
    }
    let mut reader = ParquetReader::new(file);
    let damaged = |error: polars::prelude::PolarsError| format!("damaged or cut: {error}; move it away");
    let metadata = reader.get_metadata().map_err(damaged)?;
    let format = metadata.key_value_metadata().as_ref().and_then(|pairs| pairs.iter().find(|pair| pair.key == FORMAT_KEY));
    match format.and_then(|pair| pair.value.as_deref()) {
        Some(FORMAT) => {}
        Some(other) => return Err(format!("format is `{other}`, this capplan reads `{FORMAT}`")),
        None => return Err("not a file of capplan's history".to_owned()),
    }
    reader.finish().map_err(damaged)
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
    let wrong = |error: polars::prelude::PolarsError| format!("columns are not those of the format: {error}");
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
    fn merging_keeps_every_sample_and_the_unreadable_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let count = MOST_FILES as i64 + 5;
        (0..count).for_each(|second| add(folder.path(), &[sample(second, "a", second as f64)]));
        fs::write(folder.path().join("0-cut.parquet"), b"PAR1").expect("writable");
        let leftover = folder.path().join("9-crash.parquet.tmp");
        fs::write(&leftover, b"half").expect("writable");
        let before = Archive::load(folder.path()).expect("readable").history;
        Archive::open(folder.path()).and_then(|archive| archive.compact()).expect("writable");
        assert_eq!(files(folder.path()).expect("listed").len(), 2, "the merged file and the cut one");
        assert!(!leftover.exists());
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

    #[test]
    fn rows_of_a_newer_capplans_dimension_survive_a_merge() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut history = History::default();
        history.insert(sample(1, "a", 1.0));
        let mut rows = frame(&history).expect("five columns");
        let name = Column::from(Series::new("dimension".into(), ["moon-phase"]));
        rows.replace("dimension", name).expect("the column exists");
        let newer = folder.path().join("0-newer.parquet");
        let format = KeyValueMetadata::from_static(vec![(FORMAT_KEY.to_owned(), FORMAT.to_owned())]);
        ParquetWriter::new(File::create(&newer).expect("writable"))
            .with_key_value_metadata(Some(format))
            .finish(&mut rows)
            .expect("writable");
        (0..=MOST_FILES as i64).for_each(|second| add(folder.path(), &[sample(second, "a", 2.0)]));
        Archive::open(folder.path()).and_then(|archive| archive.compact()).expect("writable");
        assert!(newer.exists());
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
        let mut frame = frame(&History::default()).expect("five columns");
        for (name, format) in [("foreign", None), ("newer", Some("capplan.history/2"))] {
            let file = File::create(folder.path().join(format!("{name}.parquet"))).expect("writable");
            let format = format.map(|format| KeyValueMetadata::from_static(vec![(FORMAT_KEY.to_owned(), format.to_owned())]));
            ParquetWriter::new(file).with_key_value_metadata(format).finish(&mut frame).expect("writable");
        }
        let unreadable = Archive::load(folder.path()).expect("readable").unreadable;
        assert!(unreadable[0].1.contains("not a file of capplan"), "{unreadable:?}");
        assert!(unreadable[1].1.contains("capplan.history/2"), "{unreadable:?}");
    }
}
