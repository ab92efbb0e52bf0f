//! Runs on disk: a folder each, with the plan and an append-only journal; and the lock of all of them.
//!
//! A line is on disk before this says so. A last line that a crash cut short never happened: it is taken away
//! when the journal is opened again.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use capplan_model::plan::{Plan, PlanError};
use capplan_model::run::{Event, OrderError, RunState};

use super::files;

/// File of the lock.
const LOCK: &str = "lock";
const JOURNAL: &str = "journal.jsonl";
const PLAN: &str = "plan.json";

/// Why a run cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("cannot {act} {path}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// Another capplan works with this folder right now.
    #[error("another capplan is at work: it holds {path}")]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// A run of this name exists.
    #[error("there is a run {run} already")]
    Exists {
        /// The run.
        run: String,
    },
    /// No run has this name.
    #[error("there is no run {run} in {folder}")]
    Missing {
        /// The run.
        run: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A line is no line of ours.
    #[error("line {line} of {path} is no line of a journal")]
    Line {
        /// The line, from 1.
        line: usize,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The lines are in an order that cannot be.
    #[error("{path} is corrupt")]
    Order {
        /// The file.
        path: PathBuf,
        /// Where.
        source: OrderError,
    },
    /// The plan beside the journal cannot be used.
    #[error("cannot use {path}")]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PlanError,
    },
    /// The plan beside the journal is not the one it was begun with.
    #[error("{path} is not the plan that the run was begun with")]
    OtherPlan {
        /// The file.
        path: PathBuf,
    },
}

impl JournalError {
    /// The way out.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => Some("nothing is done without its line on disk: is the disk full, or the folder read-only?"),
            Self::Locked { .. } => Some("wait until it is done; `capplan runs` shows what it does"),
            Self::Exists { .. } => Some("try again in a second"),
            Self::Missing { .. } => Some("`capplan runs` lists them"),
            Self::Line { .. } | Self::Order { .. } | Self::Plan { .. } | Self::OtherPlan { .. } => Some(
                "the file was changed by something else: compare it with the cluster, and move the run's folder away by hand",
            ),
        }
    }
}

fn io(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { act, path, source }
}

/// The folder of all runs of a state folder.
#[derive(Clone, Debug)]
pub struct Runs(PathBuf);

/// Held while runs are changed; the operating system gives it back whatever happens.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A run that is written to.
#[derive(Debug)]
pub struct Journal {
    /// Its name.
    pub run: String,
    /// Where it stands.
    pub state: RunState,
    path: PathBuf,
    file: File,
    length: u64,
}

impl Runs {
    /// The runs in a state folder.
    pub fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("runs"))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Takes the lock, or says who has it.
    ///
    /// # Errors
    /// [`JournalError::Locked`] if another process has it.
    pub fn lock(&self) -> Result<Lock, JournalError> {
        files::own_folder(&self.0).map_err(io("create", &self.0))?;
        let path = self.0.join(LOCK);
        let file = files::open(OpenOptions::new().create(true).truncate(false).write(true), &path).map_err(io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(JournalError::Locked { path }),
            Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
        }
    }

    /// Names of all runs, the oldest first.
    ///
    /// # Errors
    /// [`JournalError::Io`] if the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, JournalError> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("read", &self.0)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io("read", &self.0))?;
            // A folder without a whole line in its journal is one whose making was cut short: nothing was done.
            if files::read(&entry.path().join(JOURNAL)).is_ok_and(|text| text.contains(&b'\n')) {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Begins a run of a plan: the plan first, then the first line of the journal, both on disk.
    ///
    /// # Errors
    /// [`JournalError`] if it exists or cannot be written.
    pub fn begin(&self, run: &str, plan: &Plan, first: &Event) -> Result<Journal, JournalError> {
        let folder = self.0.join(run);
        match files::new_folder(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(JournalError::Exists { run: run.to_owned() });
            }
            made => made.map_err(io("create", &folder))?,
        }
        let path = folder.join(PLAN);
        let text = serde_json::to_vec_pretty(plan).expect("every value of a plan can be written");
        files::write(&path, |file| file.write_all(&text)).map_err(io("write", &path))?;
        let path = folder.join(JOURNAL);
        let file = files::open(OpenOptions::new().create_new(true).append(true), &path).map_err(io("create", &path))?;
        let mut journal = Journal { run: run.to_owned(), state: RunState::default(), path, file, length: 0 };
        journal.append(first)?;
        for folder in [&folder, &self.0] {
            files::sync(folder).map_err(io("write", folder))?;
        }
        Ok(journal)
    }

    /// Reads a run without changing anything.
    ///
    /// # Errors
    /// [`JournalError`] if there is none of this name, or its files are not ours any more.
    pub fn read(&self, run: &str) -> Result<(Plan, Vec<Event>, RunState), JournalError> {
        let path = self.path(run)?;
        let text = files::read(&path).map_err(io("read", &path))?;
        let (events, _) = lines(&text, &path)?;
        let state = RunState::of(&events).map_err(|source| JournalError::Order { path: path.clone(), source })?;
        let path = path.with_file_name(PLAN);
        let text = files::read(&path).map_err(io("read", &path))?;
        let plan = Plan::read(&text).map_err(|source| JournalError::Plan { path: path.clone(), source })?;
        if plan.id != state.plan {
            return Err(JournalError::OtherPlan { path });
        }
        Ok((plan, events, state))
    }

    /// Opens a run to go on with it; what a crash cut short is taken away.
    ///
    /// # Errors
    /// [`JournalError`] if there is none of this name, or its files are not ours any more.
    pub fn open(&self, run: &str) -> Result<(Plan, Journal), JournalError> {
        let (plan, _, state) = self.read(run)?;
        let path = self.path(run)?;
        let mut file = files::open(OpenOptions::new().read(true).append(true), &path).map_err(io("open", &path))?;
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut text)).map_err(io("read", &path))?;
        let (_, whole) = lines(&text, &path)?;
        if whole < text.len() as u64 {
            file.set_len(whole).and_then(|()| file.sync_all()).map_err(io("write", &path))?;
        }
        Ok((plan, Journal { run: run.to_owned(), state, path, file, length: whole }))
    }

    fn path(&self, run: &str) -> Result<PathBuf, JournalError> {
        let path = self.0.join(run).join(JOURNAL);
        // A name is one folder, whatever was typed.
        if run.contains(['/', '\\']) || run.starts_with('.') || !path.is_file() {
            return Err(JournalError::Missing { run: run.to_owned(), folder: self.0.clone() });
        }
        let folder = self.0.join(run);
        files::no_link(&folder).map_err(io("use", &folder))?;
        Ok(path)
    }
}

/// Whole lines, and how many bytes they are.
fn lines(text: &[u8], path: &Path) -> Result<(Vec<Event>, u64), JournalError> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut events = Vec::new();
    for (place, line) in text[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let event = serde_json::from_slice(line).map_err(|source| JournalError::Line {
            line: place + 1,
            path: path.to_owned(),
            source,
        })?;
        events.push(event);
    }
    Ok((events, whole as u64))
}

impl Journal {
    /// Writes a line, and returns once it is on disk.
    ///
    /// # Errors
    /// [`JournalError`] if that fails: what the line announces must not be done then.
    pub fn append(&mut self, event: &Event) -> Result<(), JournalError> {
        let mut state = self.state.clone();
        state.take(event).map_err(|why| {
            let source = OrderError { line: 0, why };
            JournalError::Order { path: self.path.clone(), source }
        })?;
        let mut line = serde_json::to_vec(event).expect("every value of an event can be written");
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            // Half a line must not be continued by the next one; if this fails too, opening it again does it.
            drop(self.file.set_len(self.length));
            return Err(io("write", &self.path)(error));
        }
        self.length += line.len() as u64;
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use capplan_model::ids::SnapshotId;
    use capplan_model::plan::Action;
    use capplan_model::run::FORMAT;
    use jiff::Timestamp;

    use super::*;

    fn begun(folder: &Path) -> (Runs, Journal) {
        let runs = Runs::of(folder);
        drop(runs.lock().expect("nobody has it"));
        let plan = Plan::empty(Action::Drain, SnapshotId::from("sha256:0"), Timestamp::UNIX_EPOCH, "c".into()).sealed();
        let first = Event::Began { format: FORMAT.into(), at: Timestamp::UNIX_EPOCH, by: "me".into(), plan: plan.id.clone() };
        let journal = runs.begin("one", &plan, &first).expect("writable");
        (runs, journal)
    }

    fn started() -> Event {
        Event::Started { step: 1, at: Timestamp::UNIX_EPOCH, ready: None }
    }

    #[test]
    fn a_journal_cut_anywhere_reads_back_as_the_lines_that_are_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (runs, mut journal) = begun(folder.path());
        journal.append(&started()).expect("writable");
        journal.append(&Event::Ensured { step: 1, at: Timestamp::UNIX_EPOCH }).expect("writable");
        let path = runs.folder().join("one").join(JOURNAL);
        let text = std::fs::read(&path).expect("just written");
        let first = text.iter().position(|byte| *byte == b'\n').expect("three lines") + 1;
        for end in first..=text.len() {
            std::fs::write(&path, &text[..end]).expect("writable");
            let whole = text[..end].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(runs.read("one").expect("a prefix").1.len(), whole);
            let (_, mut again) = runs.open("one").expect("a prefix");
            again.append(&Event::Resumed { at: Timestamp::UNIX_EPOCH, by: "me".into() }).expect("writable");
            assert_eq!(runs.read("one").expect("no half line is left").1.len(), whole + 1);
        }
    }

    #[test]
    fn a_line_that_does_not_fit_on_the_disk_never_happened() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_, mut journal) = begun(folder.path());
        let before = journal.state.clone();
        journal.file = OpenOptions::new().write(true).open("/dev/full").expect("part of Linux");
        let error = journal.append(&started()).expect_err("full");
        assert!(error.hint().is_some_and(|hint| hint.contains("disk full")), "{error}");
        assert_eq!(journal.state, before);
    }

    #[test]
    fn two_at_once_are_one_too_many_and_a_dead_one_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runs = Runs::of(folder.path());
        let lock = runs.lock().expect("nobody has it");
        assert!(matches!(runs.lock(), Err(JournalError::Locked { .. })));
        drop(lock);
        runs.lock().expect("given back");
    }

    #[test]
    fn a_changed_plan_or_line_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (runs, journal) = begun(folder.path());
        drop(journal);
        let path = runs.folder().join("one").join(PLAN);
        let text = std::fs::read_to_string(&path).expect("just written");
        std::fs::write(&path, text.replace("\"drain\"", "\"evacuate\"")).expect("writable");
        assert!(matches!(runs.read("one"), Err(JournalError::Plan { .. })));
        std::fs::write(&path, text).expect("writable");
        let path = runs.folder().join("one").join(JOURNAL);
        std::fs::write(&path, "{}\n").expect("writable");
        let error = runs.read("one").expect_err("no line of ours");
        assert!(error.to_string().contains("line 1 of"), "{error}");
        for name in ["two", "../one", ".", ""] {
            assert!(matches!(runs.read(name), Err(JournalError::Missing { .. })), "{name}");
        }
    }
}
