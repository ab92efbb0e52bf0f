//! A disk that runs full: a small tmpfs that only the tool under test sees.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, Spec};
use crate::{Failure, failure};

/// A mounted disk of few bytes. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    // The mount lives in this process' own namespace, and ends with it.
    holder: Process,
    /// Where it is mounted, for commands made by [`SmallDisk::command`].
    pub folder: PathBuf,
}

impl SmallDisk {
    /// Mounts a tmpfs of `kib` KiB at `folder`, in a user and mount namespace of its own.
    ///
    /// # Errors
    /// The kernel does not let this user make namespaces.
    pub fn mount(folder: &Path, kib: u32) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(failure(format!("cannot make {}", folder.display())))?;
        let script = "mount -t tmpfs -o size=\"$1\" tmpfs \"$0\" && echo ready && exec sleep infinity";
        let mut arguments: Vec<String> =
            ["--user", "--map-root-user", "--mount", "--", "sh", "-c", script].map(str::to_owned).into();
        arguments.extend([folder.display().to_string(), format!("{kib}k")]);
        let spec = Spec {
            name: "small-disk",
            program: PathBuf::from("unshare"),
            arguments,
            environment: Vec::new(),
            folder: folder.parent().unwrap_or(folder).to_owned(),
            says_ready: true,
        };
        Ok(Self { holder: Process::start(&spec, Duration::from_secs(10))?, folder: folder.to_owned() })
    }

    /// A command that sees the disk.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--user", "--mount", "--preserve-credentials", "--target"])
            .arg(self.holder.id().to_string())
            .arg("--")
            .arg(program);
        command
    }
}
