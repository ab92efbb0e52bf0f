//! Builds or finds the real programs: once, cached below `target/rig`.
//!
//! Kubernetes, etcd and our own `machines` come from the Go module beside this crate; the Proxmox
//! double runs in a virtual environment of its own; Prometheus and cloud-init are Debian's packages,
//! unpacked and not installed.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
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

/// A Python with the packages that `<part>/requirements.txt` beside this crate pins.
fn python(part: &str) -> Result<PathBuf, Failure> {
    let folder = folder()?.join("python").join(part);
    let requirements = sources().join(part).join("requirements.txt");
    once(&folder, std::slice::from_ref(&requirements), &format!("installing the Python packages of {part}"), || {
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

/// The Python that runs the Proxmox double.
///
/// # Errors
/// Python is missing, or the package index does not answer.
pub fn double_python() -> Result<PathBuf, Failure> {
    python("pve")
}

/// Files of a Debian package, unpacked and not installed: no service is started, no account made,
/// and nobody has to be root.
fn debian(package: &str) -> Result<PathBuf, Failure> {
    let folder = folder()?.join("debian").join(package);
    let root = folder.join("root");
    once(&folder, &[], &format!("unpacking Debian's {package}"), || {
        run(Command::new("apt-get").args(["download", "-q", package]).current_dir(&folder))?;
        let archive = files(&folder, "deb")?.pop().ok_or_else(|| Failure::new(format!("apt-get brought no {package}")))?;
        run(Command::new("dpkg-deb").arg("-x").args([&archive, &root])).map(drop)
    })?;
    Ok(root)
}

/// A program of Debian's `prometheus` package: the one on the PATH, or one unpacked for the rig.
///
/// # Errors
/// It is not installed and cannot be had.
pub fn prometheus(program: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    installed.map_or_else(|| Ok(debian("prometheus")?.join("usr/bin").join(program)), Ok)
}

/// A command that runs Debian's cloud-init.
///
/// # Errors
/// The package cannot be had.
pub fn cloud_init() -> Result<PathBuf, Failure> {
    let modules = debian("cloud-init")?.join("usr/lib/python3/dist-packages");
    let python = python("cloud-init")?;
    let command = folder()?.join("debian/cloud-init/command");
    let text =
        format!("#!/bin/sh\nPYTHONPATH='{}' exec '{}' -m cloudinit.cmd.main \"$@\"\n", modules.display(), python.display());
    if std::fs::read_to_string(&command).is_ok_and(|present| present == text) {
        return Ok(command);
    }
    // Renamed into place: another rig may be running it.
    let new = command.with_extension(std::process::id().to_string());
    std::fs::write(&new, text).map_err(failure("cannot write the cloud-init command"))?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o755)).map_err(failure("cannot make a command of it"))?;
    std::fs::rename(&new, &command).map_err(failure("cannot keep the cloud-init command"))?;
    Ok(command)
}

/// Debian's `ds-identify`, which decides at each boot whether cloud-init runs.
///
/// # Errors
/// The package cannot be had.
pub fn ds_identify() -> Result<PathBuf, Failure> {
    Ok(debian("cloud-init")?.join("usr/lib/cloud-init/ds-identify"))
}

/// Runs the tests of the parts that are not Rust: format, vet and tests of the machines, tests of the double.
///
/// # Errors
/// One of them fails; what it said is in the text.
pub fn check() -> Result<(), Failure> {
    let module = sources().join("kubernetes");
    let unformatted = run(Command::new("gofmt").args(["-l", "machines"]).current_dir(&module))?;
    if !unformatted.is_empty() {
        return Err(Failure::new(format!("gofmt would change:\n{unformatted}")));
    }
    // With the flags of the build: without them Go would compile half of Kubernetes once more.
    for arguments in [&["vet", "-trimpath", "./machines"][..], &["test", "-trimpath", "./machines"]] {
        print!("{}", run(Command::new("go").args(arguments).current_dir(&module).env("CGO_ENABLED", "0"))?);
    }
    let python = double_python()?;
    run(Command::new(python)
        .args(["-m", "unittest", "discover", "-q", "-s", "."])
        .current_dir(sources().join("pve"))
        .env("PYTHONDONTWRITEBYTECODE", "1"))?;
    println!("ok  	the double");
    Ok(())
}

/// What this machine lacks for a rig, each with where it is to be had; empty if nothing.
pub fn missing() -> Vec<String> {
    let works = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let tools: [(&str, &[&str], &str); 6] = [
        ("go", &["version"], "Go 1.26 or newer"),
        ("python3", &["-m", "venv", "--help"], "Debian's python3-venv"),
        ("setpriv", &["--version"], "Debian's util-linux"),
        ("unshare", &["--user", "--map-root-user", "--mount", "true"], "Debian's util-linux, and leave to make user namespaces"),
        ("apt-get", &["--version"], "a Debian or Ubuntu system"),
        ("dpkg-deb", &["--version"], "a Debian or Ubuntu system"),
    ];
    tools
        .into_iter()
        .filter(|(program, arguments, _)| !works(program, arguments))
        .map(|(program, _, from)| format!("`{program}` does not work here: it takes {from}"))
        .collect()
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
