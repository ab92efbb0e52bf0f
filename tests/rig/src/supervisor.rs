//! Keeps the control plane running, as a kubelet does with its static pods: a component that ends is
//! started again with a growing pause, and each start is a line of `supervisor.log`.
//!
//! kube-controller-manager ends by itself when the API server dies while the controllers are still being built,
//! or when a restarted API server answers `forbidden` because its RBAC caches are not filled yet. On a real node
//! nobody notices.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::{Process, Spec, tail};
use crate::{Failure, failure};

/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(100);
/// Pause before the first restart, which doubles with each further one, and the longest pause.
///
/// # Source
/// A kubelet begins with 10 s and ends with 300 s. The tests cannot wait that long.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// A component that ran for so long is well: its pause begins anew.
const WELL: Duration = Duration::from_secs(20);
/// Restarts in a row after which a component counts as dead.
const MOST_RESTARTS: u32 = 12;

/// A component that is kept running.
#[derive(Debug)]
struct Kept {
    spec: Spec,
    process: Option<Process>,
    started: Instant,
    restarts: u32,
    /// When a component that ended is started again.
    due: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<Kept>,
    /// Components that did not come back, and the ends of their logs.
    dead: Vec<String>,
}

/// Starts components, and starts them again when they end. Dropping it ends them all.
#[derive(Debug)]
pub(crate) struct Supervisor {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    log: PathBuf,
}

/// Pauses before a restart: the first and the longest one.
type Pauses = (Duration, Duration);

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// A supervisor that writes its log into a folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::with_pauses(folder, PAUSES)
    }

    fn with_pauses(folder: &Path, pauses: Pauses) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let log = folder.join("supervisor.log");
        let (ours, stopped, path) = (state.clone(), stop.clone(), log.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                look(&mut locked(&ours), &path, pauses);
                std::thread::sleep(LOOK);
            }
        });
        Self { state, stop, thread: Some(thread), log }
    }

    /// Starts a component and keeps it running from now on.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn start(&self, spec: Spec) -> Result<(), Failure> {
        self.stop(spec.name);
        let process = Process::start(&spec, Duration::ZERO)?;
        let kept = Kept { spec, process: Some(process), started: Instant::now(), restarts: 0, due: None };
        locked(&self.state).kept.push(kept);
        Ok(())
    }

    /// Ends a component as a crash would, and lets it rest.
    pub(crate) fn stop(&self, name: &str) {
        let mut state = locked(&self.state);
        // Dropping a process kills it and waits for its end.
        state.kept.retain(|one| one.spec.name != name);
        state.dead.retain(|text| !text.starts_with(name));
    }

    /// Names of the components that are kept running.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        locked(&self.state).kept.iter().map(|one| one.spec.name).collect()
    }

    /// Waits until a component answers.
    ///
    /// # Errors
    /// It died again and again, or did not answer in time; the end of its log is in the text.
    pub(crate) fn wait_until(
        &self,
        name: &'static str,
        patience: Duration,
        mut works: impl FnMut() -> bool,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        while !works() {
            self.check()?;
            if begun.elapsed() > patience {
                let log = self.log.with_file_name(format!("{name}.log"));
                return Err(Failure::new(format!(
                    "{name} was not ready after {} s; its log ends:\n{}",
                    patience.as_secs(),
                    tail(&log)
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Whether every component that should run does, or will again.
    ///
    /// # Errors
    /// Components that died again and again, by name.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let state = locked(&self.state);
        if state.dead.is_empty() { Ok(()) } else { Err(Failure::new(state.dead.join("\n"))) }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
        if std::thread::panicking()
            && let Ok(text) = std::fs::read_to_string(&self.log)
        {
            eprintln!("rig: components that ended by themselves:\n{text}");
        }
        // Whoever asks is ended before whoever answers.
        let kept = &mut locked(&self.state).kept;
        while kept.pop().is_some() {}
    }
}

fn look(state: &mut State, log: &Path, (first, longest): Pauses) {
    let State { kept, dead } = state;
    kept.retain_mut(|one| {
        let ended = one.process.as_mut().is_some_and(|process| !process.is_running());
        if ended {
            one.process = None;
            if one.started.elapsed() > WELL {
                one.restarts = 0;
            }
            one.restarts += 1;
            let name = one.spec.name;
            if one.restarts > MOST_RESTARTS {
                let text = tail(&one.spec.folder.join(format!("{name}.log")));
                dead.push(format!("{name} has ended {} times in a row; its log ends:\n{text}", one.restarts));
                drop(note(log, &format!("{name} ended and is not started again")));
                return false;
            }
            let pause = (first * 2_u32.pow((one.restarts - 1).min(8))).min(longest);
            one.due = Some(Instant::now() + pause);
            drop(note(log, &format!("{name} ended; restart {} in {} ms", one.restarts, pause.as_millis())));
        }
        if one.due.is_some_and(|due| due <= Instant::now()) {
            one.due = None;
            one.started = Instant::now();
            match Process::start(&one.spec, Duration::ZERO) {
                Ok(process) => one.process = Some(process),
                Err(error) => {
                    dead.push(format!("{} cannot be started again: {error}", one.spec.name));
                    return false;
                }
            }
        }
        true
    });
}

fn note(log: &Path, text: &str) -> Result<(), Failure> {
    let file = File::options().create(true).append(true).open(log);
    let mut file = file.map_err(failure(format!("cannot write {}", log.display())))?;
    writeln!(file, "{} {text}", jiff::Timestamp::now()).map_err(failure(format!("cannot write {}", log.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(folder: &Path, script: &str) -> Spec {
        Spec {
            name: "part",
            program: PathBuf::from("sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: Vec::new(),
            folder: folder.to_owned(),
            says_ready: false,
        }
    }

    #[test]
    fn a_component_that_ends_is_started_again_and_one_that_is_stopped_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let supervisor = Supervisor::new(folder.path());
        let starts = || std::fs::read_to_string(folder.path().join("starts")).map_or(0, |text| text.lines().count());
        // The first one ends at once; the second one stays.
        supervisor
            .start(spec(folder.path(), "echo x >> starts; [ $(wc -l < starts) -gt 1 ] && exec sleep 600"))
            .expect("sh is part of every system");
        supervisor.wait_until("part", Duration::from_secs(20), || starts() == 2).expect("started again");
        supervisor.stop("part");
        std::thread::sleep(PAUSES.0 * 3);
        assert_eq!((starts(), supervisor.names()), (2, vec![]));
        assert!(
            std::fs::read_to_string(folder.path().join("supervisor.log")).expect("written").contains("part ended; restart 1")
        );
    }

    #[test]
    fn a_component_that_never_comes_up_is_named_with_its_last_words() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let supervisor = Supervisor::with_pauses(folder.path(), (Duration::from_millis(1), Duration::from_millis(1)));
        supervisor.start(spec(folder.path(), "echo its last words; exit 1")).expect("sh is part of every system");
        let error = supervisor.wait_until("part", Duration::from_secs(60), || false).expect_err("never ready");
        assert!(error.to_string().contains("part has ended") && error.to_string().contains("its last words"), "{error}");
    }
}
