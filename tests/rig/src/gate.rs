//! A proxy in front of the API server that answers wrongly on demand, for clients with a bearer token.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::components::Programs;
use crate::control::Control;
use crate::control_plane::ControlPlane;
use crate::process::{Process, Spec};
use crate::{Failure, elements, failure};

/// A running gate. Dropping it ends it.
#[derive(Debug)]
pub struct Gate {
    _process: Process,
    control: Control,
    /// Its address, to be used instead of the API server's.
    pub url: String,
}

impl Gate {
    pub(crate) fn start(programs: &Programs, plane: &ControlPlane, folder: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(failure(format!("cannot make {}", folder.display())))?;
        let file = |path: std::path::PathBuf| path.display().to_string();
        let spec = Spec {
            name: "gate",
            program: programs.program("machines"),
            arguments: [
                ("--upstream", plane.url()),
                ("--upstream-ca", file(plane.authority())),
                // The server's own certificate names 127.0.0.1.
                ("--certificate", file(plane.pki("apiserver.crt"))),
                ("--key", file(plane.pki("apiserver.key"))),
            ]
            .into_iter()
            .fold(vec!["gate".to_owned()], |mut all, (flag, value)| {
                all.extend([flag.to_owned(), value]);
                all
            }),
            environment: Vec::new(),
            folder: folder.to_owned(),
            says_ready: true,
        };
        let process = Process::start(&spec, Duration::from_secs(20))?;
        let ready: Value = serde_json::from_str(&process.ready).map_err(failure("the gate did not say where it is"))?;
        let said = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
        Ok(Self { control: Control::new(&said("control"))?, url: said("url"), _process: process })
    }

    /// Answers requests wrongly: `method`, `path` (a regular expression), and `status` with `message` and
    /// `retry_after`, or `reset`, or `delay`; `after` for after the work was done, `times` for so many.
    ///
    /// # Errors
    /// The rule is not one.
    pub fn fail(&self, rule: &Value) -> Result<(), Failure> {
        self.control.post("/fail", rule).map(drop)
    }

    /// Ends all faults.
    ///
    /// # Errors
    /// The gate does not answer.
    pub fn heal(&self) -> Result<(), Failure> {
        self.control.delete("/fail").map(drop)
    }

    /// What passed: method, path, query and status.
    ///
    /// # Errors
    /// The gate does not answer.
    pub fn requests(&self) -> Result<Vec<Value>, Failure> {
        // Before the first request it has none.
        Ok(elements(self.control.get("/requests")?).unwrap_or_default())
    }
}
