//! Mutated inputs for every reader, and mutated clusters for report, simulate and plan.
//!
//! An execution fails if it panics, or takes longer than [`LONGEST`]. The input of a failure is kept in the corpus,
//! from which every later run begins.

pub mod mutate;
pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use sha2::{Digest, Sha256};
use targets::Target;

/// An execution that takes longer hangs. A whole cluster takes some hundredths of a second, optimised.
pub const LONGEST: Duration = Duration::from_secs(20);

/// What came of the executions of a target.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many.
    pub executions: u64,
    /// Inputs that were taken as valid.
    pub valid: u64,
    /// How long all of them took.
    pub took: Duration,
    /// How long the slowest took.
    pub slowest: Duration,
    /// Failures: where the input is kept, and what happened.
    pub failures: Vec<(PathBuf, String)>,
}

/// Place and message of the panic that was caught last.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// What is being executed, and since when.
static NOW: Mutex<Option<(&'static str, Vec<u8>, Instant)>> = Mutex::new(None);

/// Most memory that an execution may make this process take, in bytes.
const MOST_MEMORY: u64 = 4 << 30;

/// Bytes of memory that this process has.
///
/// # Source
/// `proc_pid_statm(5)`: the second number is the resident set in pages, which are of 4 KiB here.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Ends the process, and keeps the input, if an execution neither ends nor panics, or fills the memory.
fn watch() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((target, input, since)) = &*now else { continue };
            let (hangs, fills) = (since.elapsed() > LONGEST, resident() > MOST_MEMORY);
            if hangs || fills {
                let why = if hangs { "does not end" } else { "fills the memory" };
                println!("{target} {why}: {}", keep(target, input).display());
                std::process::exit(1);
            }
        }
    });
}

/// Keeps the words of a panic instead of printing them, and watches over what neither panics nor ends.
pub fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(watch);
    std::panic::set_hook(Box::new(|info| {
        // A sum panics in the standard library: who summed is in the first frames of ours.
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        let ours = trace.lines().map(str::trim).filter(|line| line.contains(": capplan_") && !line.contains("capplan_fuzz"));
        let frames: Vec<&str> = ours.take(2).collect();
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = format!("{info} {}", frames.join(" < "));
    }));
}

/// The folder of a target's corpus.
pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The inputs that a target begins with: its own, and those that were kept.
fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let mut seeds = (target.seeds)();
    let kept = std::fs::read_dir(corpus(target.name)).into_iter().flatten().flatten();
    let mut kept: Vec<PathBuf> = kept.map(|entry| entry.path()).collect();
    kept.sort();
    seeds.extend(kept.iter().filter_map(|path| std::fs::read(path).ok()));
    seeds
}

/// Executes a target with its seeds as they are, then with mutations of them, until `executions` or `time` are over. It
/// stops at the tenth failure.
pub fn run(target: &Target, executions: u64, time: Duration, seed: u64) -> Outcome {
    let seeds = seeds(target);
    let mut outcome = Outcome::default();
    let mut rng = Rng::with_seed(seed);
    let begun = Instant::now();
    let mut pool = seeds.clone();
    while outcome.executions < executions && begun.elapsed() < time && outcome.failures.len() < 10 {
        let place = usize::try_from(outcome.executions).unwrap_or(usize::MAX);
        let input = match seeds.get(place) {
            Some(seed) => seed.clone(),
            None => mutate::mutated(&pool[rng.usize(..pool.len())], &pool, target.form, &mut rng),
        };
        let start = Instant::now();
        *NOW.lock().unwrap_or_else(PoisonError::into_inner) = Some((target.name, input.clone(), start));
        let answer = catch_unwind(AssertUnwindSafe(|| (target.execute)(&input)));
        let took = start.elapsed();
        *NOW.lock().unwrap_or_else(PoisonError::into_inner) = None;
        outcome.executions += 1;
        outcome.slowest = outcome.slowest.max(took);
        let why = match answer {
            Ok(Ok(valid)) => {
                outcome.valid += u64::from(valid);
                // Inputs far from the seeds are reached by going on from valid ones.
                if valid && pool.len() < seeds.len() + 256 && rng.u8(..) < 8 {
                    pool.push(input.clone());
                }
                (took > LONGEST).then(|| format!("it took {} s", took.as_secs()))
            }
            Ok(Err(broken)) => Some(broken),
            Err(_) => Some(LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        };
        if let Some(why) = why
            && !outcome.failures.iter().any(|(_, known)| *known == why)
        {
            outcome.failures.push((keep(target.name, &input), why));
        }
    }
    outcome.took = begun.elapsed();
    outcome
}

/// Keeps the input of a failure in the corpus.
fn keep(target: &str, input: &[u8]) -> PathBuf {
    let folder = corpus(target);
    let digits: String = Sha256::digest(input)[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join(digits);
    drop(std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input)));
    path
}
