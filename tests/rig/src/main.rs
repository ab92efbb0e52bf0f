//! `rig up` and `rig down`: the rig for people.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use capplan_model::Snapshot;
use capplan_model::scenario::Scenario;
use capplan_rig::plant::{MissingOwners, recorded};
use capplan_rig::prometheus::OpenMetrics;
use capplan_rig::{Failure, Rig, campaign, components, objects};
use clap::{Parser, Subcommand};

/// The first build of Kubernetes takes minutes.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A real Kubernetes control plane and a Proxmox VE double on loopback
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a rig and print how to reach it
    Up(World),
    /// End a rig that `up` started
    Down {
        /// Which one
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Build everything and say where it is
    Build,
    /// Run the tests of the rig's own parts
    Check,
    /// Record what the real scheduler decides on random clusters
    Campaign {
        /// How many clusters
        #[arg(long, value_name = "N", default_value_t = 20)]
        cases: u64,
        /// Seed of the first; the next ones follow
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Folder to write a folder for each cluster to
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Control planes side by side
        #[arg(long, value_name = "N", default_value_t = 2)]
        jobs: usize,
    },
    /// What `up` starts in the background
    #[command(hide = true)]
    Serve(World),
}

/// What the rig holds.
#[derive(Debug, clap::Args)]
struct World {
    /// Name of the rig: several can run side by side
    #[arg(long, default_value = "default")]
    name: String,
    /// A snapshot to load into both planes, instead of the scenario
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    snapshot: Option<PathBuf>,
    /// Folder of Kubernetes lists to load instead of the snapshot's Kubernetes plane
    #[arg(long, value_name = "FOLDER", requires = "snapshot")]
    lists: Option<PathBuf>,
    /// A scenario to load into both planes [default: scenarios/demo.toml]
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Folder of a recording whose Prometheus samples to serve
    #[arg(long, value_name = "FOLDER")]
    prometheus: Option<PathBuf>,
    /// Only Kubernetes, with nothing in it: for CAPPLAN_TEST_KUBECONFIG
    #[arg(long, conflicts_with_all = ["lists", "frozen"])]
    empty: bool,
    /// Leave the world as it was loaded: no controllers, no scheduler, no machines
    #[arg(long)]
    frozen: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Action::Up(world) => up(&world),
        Action::Down { name } => down(&name),
        Action::Serve(world) => serve(&world),
        Action::Build => build(),
        Action::Check => components::check(),
        Action::Campaign { cases, seed, out, jobs } => campaign::record_all(seed, cases, jobs, &out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Failure {
    move |error| Failure::new(format!("{what}: {error}"))
}

/// Folder of a rig that runs in the background: its process id, its environment, its log.
fn place(name: &str) -> Result<PathBuf, Failure> {
    let folder = components::folder()?.join("up").join(name);
    std::fs::create_dir_all(&folder).map_err(failed(format!("cannot make {}", folder.display())))?;
    Ok(folder)
}

/// The process of a rig, if it runs and is ours.
fn running(folder: &Path) -> Option<u32> {
    let id: u32 = std::fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok()?;
    let program = std::fs::read_link(format!("/proc/{id}/exe")).ok()?;
    // The kernel says so of a program that was built anew meanwhile.
    ["rig", "rig (deleted)"].iter().any(|name| program.file_name().is_some_and(|found| found == *name)).then_some(id)
}

fn build() -> Result<(), Failure> {
    let programs = components::Programs::build()?;
    println!("Kubernetes {} in {}", programs.version, programs.program("").display());
    println!("Proxmox double: {}", components::double_python()?.display());
    println!("Prometheus: {}", components::prometheus("prometheus")?.display());
    println!("cloud-init: {}", components::cloud_init()?.display());
    Ok(())
}

fn up(world: &World) -> Result<(), Failure> {
    let folder = place(&world.name)?;
    if let Some(id) = running(&folder) {
        return Err(Failure::new(format!("rig `{}` runs already as process {id}: end it with `down`", world.name)));
    }
    let environment = folder.join("environment");
    drop(std::fs::remove_file(&environment));
    let log = std::fs::File::create(folder.join("log")).map_err(failed("cannot write a log"))?;
    let errors = log.try_clone().map_err(failed("cannot write a log"))?;
    let program = std::env::current_exe().map_err(failed("cannot find this program"))?;
    let mut child = Command::new(program)
        .arg("serve")
        .args(std::env::args_os().skip(2))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // Ctrl-C at the terminal is not for it.
        .process_group(0)
        .spawn()
        .map_err(failed("cannot start the rig"))?;
    std::fs::write(folder.join("pid"), child.id().to_string()).map_err(failed("cannot write the process id"))?;
    let start = Instant::now();
    while !environment.exists() {
        if matches!(child.try_wait(), Ok(Some(_))) || start.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            return Err(Failure::new(format!("the rig did not come up:\n{said}")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = std::fs::read_to_string(&environment).map_err(failed("cannot read the environment"))?;
    for line in text.lines().filter(|line| !line.contains("TOKEN")) {
        println!("{}", line.trim_start_matches("export "));
    }
    println!("\nUse it:  . {}\nEnd it:  tests/rig/down --name {}", environment.display(), world.name);
    Ok(())
}

fn down(name: &str) -> Result<(), Failure> {
    let folder = place(name)?;
    let Some(id) = running(&folder) else {
        println!("nothing to do: rig `{name}` does not run");
        return Ok(());
    };
    let asked = Command::new("kill").arg(id.to_string()).status().map_err(failed("cannot run kill"))?;
    if !asked.success() {
        return Err(Failure::new(format!("cannot end process {id}")));
    }
    while running(&folder).is_some() {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::remove_dir_all(&folder).map_err(failed("cannot clean up"))
}

fn snapshot(world: &World) -> Result<Snapshot, Failure> {
    if let Some(path) = &world.snapshot {
        let file = std::fs::File::open(path).map_err(failed(path.display()))?;
        let bytes = zstd::decode_all(file).map_err(failed(path.display()))?;
        return Snapshot::read(&bytes).map(|(snapshot, _)| snapshot).map_err(failed(path.display()));
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/demo.toml");
    let path = world.scenario.as_ref().unwrap_or(&demo);
    let text = std::fs::read_to_string(path).map_err(failed(path.display()))?;
    Ok(Scenario::parse(&text).map_err(failed(path.display()))?.snapshot())
}

fn serve(world: &World) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("cannot start a runtime"))?;
    let mut terminated = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed("cannot wait for signals"))?
    };
    let snapshot = snapshot(world)?;
    let mut rig = Rig::start()?;
    let all = world.lists.as_deref().map_or_else(|| Ok(objects::of(&snapshot)), recorded)?;
    let missing = if world.frozen { MissingOwners::Keep } else { MissingOwners::Drop };
    if !world.empty {
        rig.plant(all, missing)?;
    }
    let double = rig.start_double(&snapshot)?;
    let mut environment = vec![
        ("CAPPLAN_PVE_URL", double.url.clone()),
        ("CAPPLAN_PVE_FINGERPRINT", double.fingerprint.clone()),
        ("CAPPLAN_PVE_TOKEN", double.token()),
    ];
    environment.push(("KUBECONFIG", rig.kubeconfig().display().to_string()));
    if let Some(folder) = &world.prometheus {
        environment.push(("CAPPLAN_PROMETHEUS_URL", rig.start_prometheus(&OpenMetrics::recorded(folder)?)?.url.clone()));
    }
    if !world.frozen {
        if !world.empty {
            rig.start_machines(&["--adopt"])?;
        }
        rig.start_controllers()?;
    }
    let text: String = environment.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
    let (path, half) = (place(&world.name)?.join("environment"), place(&world.name)?.join("half"));
    std::fs::write(&half, text).map_err(failed("cannot write the environment"))?;
    std::fs::set_permissions(&half, std::fs::Permissions::from_mode(0o600)).map_err(failed("cannot protect the environment"))?;
    std::fs::rename(&half, &path).map_err(failed("cannot write the environment"))?;
    runtime.block_on(terminated.recv());
    Ok(())
}
