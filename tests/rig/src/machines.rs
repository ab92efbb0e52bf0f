//! The machines: nodes without kubelets, the CSI attacher, and VMs that boot and join.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::components::Programs;
use crate::double::{ATTACHER_ID, Double};
use crate::process::{Process, Spec};
use crate::{Failure, components, failure};

const PATIENCE: Duration = Duration::from_secs(60);

/// The running machines. Dropping them ends them, as if all kubelets and the CSI controller stopped.
#[derive(Debug)]
pub struct Machines {
    process: Process,
    folder: PathBuf,
}

impl Machines {
    /// Starts the machines of a control plane and a double; `more` are flags of `machines run`.
    pub(crate) fn start(
        programs: &Programs,
        kubeconfig: &Path,
        double: &Double,
        folder: &Path,
        more: &[&str],
    ) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(failure(format!("cannot make {}", folder.display())))?;
        let token = folder.join("token");
        std::fs::write(&token, double.token_of(ATTACHER_ID)).map_err(failure("cannot write the attacher's token"))?;
        let text = |path: &Path| path.display().to_string();
        let mut arguments = vec!["run".to_owned()];
        for (flag, value) in [
            ("--kubeconfig", text(kubeconfig)),
            ("--state", text(folder)),
            ("--pve", double.url.clone()),
            ("--pve-certificate", text(&double.certificate)),
            ("--pve-token-file", text(&token)),
            ("--control", double.control().address().to_owned()),
            ("--cloud-init", text(&components::cloud_init()?)),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(more.iter().map(|&flag| flag.to_owned()));
        let spec = Spec {
            name: "machines",
            program: programs.program("machines"),
            arguments,
            environment: Vec::new(),
            folder: folder.to_owned(),
            says_ready: true,
        };
        Ok(Self { process: Process::start(&spec, PATIENCE)?, folder: folder.to_owned() })
    }

    /// What became of a VM that booted: `phase` and `error`; null before it booted.
    pub fn status(&self, vmid: u32) -> Value {
        let path = self.folder.join("nodes").join(vmid.to_string()).join("status.json");
        std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Waits until a VM is in a phase from which it does not move by itself.
    ///
    /// # Errors
    /// It does not come there in time.
    pub fn settled(&self, vmid: u32, patience: Duration) -> Result<Value, Failure> {
        let start = Instant::now();
        loop {
            let status = self.status(vmid);
            if ["ready", "refused", "failed", "no-seed"].contains(&status["phase"].as_str().unwrap_or_default()) {
                return Ok(status);
            }
            if start.elapsed() > patience {
                return Err(Failure::new(format!("VM {vmid} after {} s: {status}", patience.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends all machines as a power cut would; the double's VMs still run.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
