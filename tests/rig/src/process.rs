//! Child processes that never outlive us, whatever ends us.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::{Failure, failure};

/// A program, its arguments and where its output goes.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For messages and the name of the log file.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables on top of ours.
    pub environment: Vec<(String, String)>,
    /// Folder of its log, which is also its working folder.
    pub folder: PathBuf,
    /// Whether it says that it is ready with a first line on stdout.
    pub says_ready: bool,
}

/// A running child. Dropping it kills it by its process id.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// The first line it wrote to stdout, where that was asked for.
    pub ready: String,
}

type Job = (Command, Sender<std::io::Result<Child>>);

/// Spawns from one thread that lives as long as this process: the kernel's "kill me with my
/// parent" means the parent *thread*, and the threads of tests come and go.
fn spawn(command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, work) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in work {
                // The one who asked may be gone; then its child ends at once.
                if let Err(unwanted) = answer.send(command.spawn())
                    && let Ok(mut child) = unwanted.0
                {
                    drop(child.kill());
                }
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = channel();
    let sent = spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer));
    sent.ok().and_then(|()| child.recv().ok()).unwrap_or_else(|| Err(std::io::Error::other("the spawning thread is gone")))
}

impl Process {
    /// Starts the program and, if it says so, waits until it is ready.
    ///
    /// # Errors
    /// The program is missing, or ended before it was ready: the end of its log is in the text.
    pub fn start(spec: &Spec, patience: Duration) -> Result<Self, Failure> {
        let log = spec.folder.join(format!("{}.log", spec.name));
        let output =
            File::options().create(true).append(true).open(&log).map_err(failure(format!("cannot write {}", log.display())))?;
        let errors = output.try_clone().map_err(failure("cannot share a log file"))?;
        // util-linux: the child gets SIGKILL when the thread that spawned it ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&spec.program)
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&spec.folder)
            .stdin(Stdio::null())
            .stdout(if spec.says_ready { Stdio::piped() } else { output.into() })
            .stderr(errors);
        let child =
            spawn(command).map_err(failure(format!("cannot run {} through setpriv (util-linux)", spec.program.display())))?;
        let mut process = Self { name: spec.name, child, log, ready: String::new() };
        if spec.says_ready {
            process.wait_for_line(patience)?;
        }
        Ok(process)
    }

    fn wait_for_line(&mut self, patience: Duration) -> Result<(), Failure> {
        let Some(stdout) = self.child.stdout.take() else { return Ok(()) };
        let (line, first) = channel();
        let log = self.log.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut text = String::new();
            drop(reader.read_line(&mut text));
            drop(line.send(text));
            // What comes after belongs into the log; a full pipe would stop the program.
            if let Ok(mut log) = File::options().append(true).open(log) {
                drop(std::io::copy(&mut reader, &mut log));
                drop(log.flush());
            }
        });
        match first.recv_timeout(patience) {
            Ok(text) if !text.is_empty() => {
                self.ready = text.trim().to_owned();
                Ok(())
            }
            Ok(_) => Err(self.ended("ended before it was ready")),
            Err(_) => Err(self.ended(&format!("was not ready after {} s", patience.as_secs()))),
        }
    }

    /// Waits until `done` or the process ends.
    ///
    /// # Errors
    /// It ended, or was not done in time.
    pub fn wait_until(&mut self, patience: Duration, mut done: impl FnMut() -> bool) -> Result<(), Failure> {
        let start = Instant::now();
        while !done() {
            if !self.is_running() {
                return Err(self.ended("ended"));
            }
            if start.elapsed() > patience {
                return Err(self.ended(&format!("was not ready after {} s", patience.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn ended(&self, how: &str) -> Failure {
        Failure::new(format!("{} {how}; its log ends:\n{}", self.name, tail(&self.log)))
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Runs a program to its end and answers what it wrote to stdout.
///
/// # Errors
/// It is missing or failed: what it wrote to stderr is in the text.
pub fn run(command: &mut Command) -> Result<String, Failure> {
    let what = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(failure(format!("cannot run {what}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!(
            "{what} failed ({}):\n{}\n{said}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A port of 127.0.0.1 that is free now, below the range from which outgoing connections take theirs.
///
/// # Errors
/// None of many candidates is free.
pub fn free_port() -> Result<u16, Failure> {
    use std::hash::{BuildHasher, Hasher, RandomState};
    for _ in 0..200 {
        // Each RandomState has a seed of its own.
        let random = RandomState::new().build_hasher().finish();
        let port = 20_000 + u16::try_from(random % 12_000).unwrap_or_default();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Failure::new("no free port between 20000 and 31999 on 127.0.0.1"))
}
