//! Builds or finds the real programs: once, cached below `target/rig`.
//!
//! Kubernetes, etcd and our own `machines` come from the Go module beside this crate; the Proxmox
//! double runs in a virtual environment of its own; Prometheus and cloud-init are Debian's packages.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::process::run;
use crate::{Failure, failure};

/// Import paths of the programs, and the names they get.
const PROGRAMS: [(&str, &str); 6] = [
    ("go.etcd.io/etcd/server/v3", "etcd"),
    ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
    ("k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
    ("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
    ("k8s.io/kubernetes/cmd/kubeadm", "kubeadm"),
    ("./machines", "machines"),
];

/// Where the sources of the rig are.
pub(crate) fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Folder of what is built and of the runs: `target/rig`.
///
/// # Errors
/// It cannot be made.
pub fn folder() -> Result<PathBuf, Failure> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| sources().join("../../target"), PathBuf::from);
    let folder = target.join("rig");
    std::fs::create_dir_all(&folder).map_err(failure(format!("cannot make {}", folder.display())))?;
    folder.canonicalize().map_err(failure(format!("cannot find {}", folder.display())))
}

/// The programs built from the Go module.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    /// Version of Kubernetes, such as `v1.36.3`.
    pub version: String,
}

impl Programs {
    /// Builds what is not built yet. The first time takes minutes; afterwards nothing is run.
    ///
    /// # Errors
    /// Go is missing, the module proxy does not answer, or the build fails.
    pub fn build() -> Result<Self, Failure> {
        let module = sources().join("kubernetes");
        let pins = read(&module.join("go.mod"))?;
        let version = pins
            .lines()
            .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
            .ok_or_else(|| Failure::new("tests/rig/kubernetes/go.mod does not pin k8s.io/kubernetes"))?
            .to_owned();
        let folder = folder()?.join("bin");
        let programs = Self { folder: folder.clone(), version };
        let mut inputs = vec![module.join("go.mod"), module.join("go.sum")];
        inputs.extend(files(&module.join("machines"), "go")?);
        once(&folder, &inputs, "building etcd, Kubernetes and the machines with Go", || programs.compile(&module))?;
        Ok(programs)
    }

    fn compile(&self, module: &Path) -> Result<(), Failure> {
        let (major, minor) = self.version.trim_start_matches('v').split_once('.').unwrap_or_default();
        let minor = minor.split('.').next().unwrap_or_default();
        // A program without these says v0.0.0-master, and kubeadm refuses such a server.
        let linked = [
            ("k8s.io/component-base/version.gitVersion", self.version.as_str()),
            ("k8s.io/component-base/version.gitMajor", major),
            ("k8s.io/component-base/version.gitMinor", minor),
            ("k8s.io/component-base/version.gitTreeState", "clean"),
        ];
        let linked: Vec<String> = linked.iter().map(|(name, value)| format!("-X {name}={value}")).collect();
        let flags = format!("-s -w {}", linked.join(" "));
        let made = self.folder.join("made");
        std::fs::create_dir_all(&made).map_err(failure("cannot make a folder for the programs"))?;
        let paths = PROGRAMS.map(|(path, _)| path);
        run(Command::new("go")
            .current_dir(module)
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
            .arg(format!("{}/", made.display()))
            .args(paths))?;
        for (path, name) in PROGRAMS {
            // Go names a program after the last element of its path that is not a version.
            let elements: Vec<&str> = path.split('/').collect();
            let last = elements.iter().rev().find(|one| **one != "v3").copied().unwrap_or(name);
            std::fs::rename(made.join(last), self.program(name)).map_err(failure(format!("cannot keep {name}")))?;
        }
        Ok(())
    }

    /// Path of one of them.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The Python of the double's virtual environment, with its packages installed.
///
/// # Errors
/// Python is missing, or the package index does not answer.
pub fn python() -> Result<PathBuf, Failure> {
    let folder = folder()?.join("python");
    let requirements = sources().join("pve/requirements.txt");
    once(&folder, std::slice::from_ref(&requirements), "installing the Proxmox double", || {
        let environment = folder.join("venv");
        if environment.exists() {
            std::fs::remove_dir_all(&environment).map_err(failure("cannot remove an old virtual environment"))?;
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements))
        .map(drop)
    })?;
    Ok(folder.join("venv/bin/python"))
}

/// A program of a Debian package.
///
/// # Errors
/// It is not on the PATH: the text names the package.
pub fn packaged(program: &str, package: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| Failure::new(format!("`{program}` is not installed: it is in Debian's package `{package}`")))
}

/// Runs `make` unless it ran for the same inputs before; two processes do not run it at once.
fn once(folder: &Path, inputs: &[PathBuf], what: &str, make: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(failure(format!("cannot make {}", folder.display())))?;
    let lock = File::create(folder.join("lock")).map_err(failure("cannot make a lock file"))?;
    lock.lock().map_err(failure("cannot take a lock"))?;
    let mut digest = Sha256::new();
    for input in inputs {
        digest.update(std::fs::read(input).map_err(failure(format!("cannot read {}", input.display())))?);
    }
    let wanted: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let stamp = folder.join("inputs.sha256");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    eprintln!("rig: {what} …");
    let start = Instant::now();
    make()?;
    eprintln!("rig: {what}: {} s", start.elapsed().as_secs());
    std::fs::write(&stamp, wanted).map_err(failure("cannot write a stamp"))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(failure(format!("cannot read {}", path.display())))
}

/// Files with this extension directly in a folder, sorted; none if there is no such folder.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(failure(format!("cannot list {}", folder.display())))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == extension)).collect();
    files.sort();
    Ok(files)
}
