//! Where the planes are and with what to read them: a TOML file, overridden by the environment.
//!
//! Everything can come from the environment, so that no file is needed. Secrets never stand in the
//! file: it names the variable or the file that holds them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use capplan_model::policy::Policy;
use capplan_model::units::is_believable;
use capplan_provision::join::Given;
use capplan_provision::kube::Connection;
use capplan_provision::limits::ReadLimits;
use capplan_provision::prometheus::{Prometheus, PrometheusError, Queries};
use capplan_provision::pve::{Endpoint, Trust};
use capplan_provision::secret::Secret;
use jiff::Timestamp;
use serde::Deserialize;

use crate::ui::{CliError, Exit, note};

/// Options that every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection options")]
pub struct Options {
    /// Configuration file [default: $XDG_CONFIG_HOME/capplan/config.toml]
    #[arg(long, global = true, value_name = "FILE", env = "CAPPLAN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Policy file; the scale runbook's rules are built in
    #[arg(long, global = true, value_name = "FILE", env = "CAPPLAN_POLICY")]
    pub policy: Option<PathBuf>,
    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, or the pod's own account]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Folder for history and snapshots [default: $XDG_STATE_HOME/capplan]
    #[arg(long, global = true, value_name = "DIR", env = "CAPPLAN_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    policy: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    kubernetes: KubernetesFile,
    proxmox: Vec<ProxmoxFile>,
    prometheus: Option<PrometheusFile>,
    /// Template of the user data of new workers.
    user_data: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KubernetesFile {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProxmoxFile {
    #[serde(default)]
    name: String,
    url: String,
    token_env: Option<String>,
    token_file: Option<PathBuf>,
    fingerprint: Option<String>,
    ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrometheusFile {
    url: String,
    token_env: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    queries: Queries,
}

/// Where Prometheus is.
#[derive(Clone, Debug)]
pub struct PrometheusAt {
    /// Address.
    pub url: String,
    /// Bearer token.
    pub token: Option<Secret>,
    /// Certificate authority.
    pub ca_file: Option<PathBuf>,
    /// Queries.
    pub queries: Queries,
    /// Bounds on what is read.
    pub limits: ReadLimits,
}

impl PrometheusAt {
    /// A client for it.
    ///
    /// # Errors
    /// [`PrometheusError`] if the address, the token or the certificate authority cannot be used.
    pub fn client(&self) -> Result<Prometheus, PrometheusError> {
        Prometheus::new(&self.url, self.token.clone(), self.ca_file.as_deref(), self.limits)
    }
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from, if any.
    pub file: Option<PathBuf>,
    /// Kubernetes.
    pub kubernetes: Connection,
    /// Proxmox VE endpoints.
    pub proxmox: Vec<Endpoint>,
    /// Prometheus, if configured.
    pub prometheus: Option<PrometheusAt>,
    /// Folder for history.
    pub state_dir: PathBuf,
    /// The policy.
    pub policy: Policy,
    /// What is given for workers that join.
    pub given: Given,
    /// The instant to call "now" instead of the clock's: `CAPPLAN_NOW`, for recordings.
    pub pinned: Option<Timestamp>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn home(variable_name: &str, below_home: &str) -> Option<PathBuf> {
    variable(variable_name).map(PathBuf::from).or_else(|| Some(PathBuf::from(variable("HOME")?).join(below_home)))
}

/// The configuration file by the XDG rules.
pub fn default_file() -> Option<PathBuf> {
    Some(home("XDG_CONFIG_HOME", ".config")?.join("capplan/config.toml"))
}

/// `CAPPLAN_NOW`, RFC 3339.
fn pinned() -> Result<Option<Timestamp>, CliError> {
    let Some(text) = variable("CAPPLAN_NOW") else { return Ok(None) };
    let wrong = |why: String| {
        CliError::new(Exit::Usage, format!("CAPPLAN_NOW is `{text}`: {why}"))
            .hint("write it as 2026-08-20T09:00:00Z, or unset it")
    };
    let at: Timestamp = text.trim().parse().map_err(|error: jiff::Error| wrong(error.to_string()))?;
    if is_believable(at) { Ok(Some(at)) } else { Err(wrong("it is not between the years 1970 and 9000".to_owned())) }
}

/// Bounds on what is read of the three APIs: `CAPPLAN_READ_TIMEOUT` and `CAPPLAN_OBSERVE_TIMEOUT` in seconds,
/// `CAPPLAN_READ_BYTES` in bytes.
fn limits() -> Result<ReadLimits, CliError> {
    let number = |name: &str, most: u64| match variable(name) {
        None => Ok(None),
        Some(text) => match text.trim().parse::<u64>() {
            Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
            Ok(_) | Err(_) => {
                Err(CliError::new(Exit::Usage, format!("{name} is `{text}`: a whole number from 1 to {most} is expected")))
            }
        },
    };
    let default = ReadLimits::default();
    const DAY: u64 = 86_400;
    Ok(ReadLimits {
        request: number("CAPPLAN_READ_TIMEOUT", DAY)?.map_or(default.request, Duration::from_secs),
        reading: number("CAPPLAN_OBSERVE_TIMEOUT", DAY)?.map_or(default.reading, Duration::from_secs),
        bytes: number("CAPPLAN_READ_BYTES", 1 << 40)?.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(default.bytes),
    })
}

/// The command that runs a kubeconfig's exec plugin: this program, which ends it in time.
fn plugin_runner(limits: ReadLimits) -> Vec<String> {
    let program = std::env::current_exe().ok().and_then(|path| path.into_os_string().into_string().ok());
    program.map_or_else(Vec::new, |program| {
        vec![program, "exec-plugin".to_owned(), limits.request.as_secs().to_string(), "--".to_owned()]
    })
}

fn read_text(path: &Path, what: &str) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|error| CliError {
        causes: vec![error.to_string()],
        ..CliError::new(Exit::Usage, format!("cannot read the {what} {}", path.display()))
    })
}

fn token(env: Option<&str>, file: Option<&Path>, whose: &str) -> Result<Option<Secret>, CliError> {
    if let Some(name) = env {
        return match variable(name) {
            Some(value) => Ok(Some(Secret::new(&value))),
            None => Err(CliError::new(Exit::Usage, format!("the token of {whose} should be in ${name}, which is not set"))),
        };
    }
    let Some(path) = file else { return Ok(None) };
    Ok(Some(Secret::new(&read_text(path, &format!("token of {whose}:"))?)))
}

fn trust(fingerprint: Option<String>, ca_file: Option<PathBuf>) -> Trust {
    match (fingerprint, ca_file) {
        (Some(fingerprint), None) => Trust::Fingerprint(fingerprint),
        (Some(fingerprint), Some(ca_file)) => Trust::Both { fingerprint, ca_file },
        (None, Some(path)) => Trust::CaFile(path),
        (None, None) => Trust::System,
    }
}

impl Config {
    /// Reads the file, if there is one, and the environment, which goes before it.
    ///
    /// # Errors
    /// [`CliError`] naming the file, the line and what was expected, or the variable.
    pub fn load(options: &Options) -> Result<Self, CliError> {
        let path = options.config.clone().or_else(|| default_file().filter(|path| path.exists()));
        let file = match &path {
            Some(path) => toml::from_str::<File>(&read_text(path, "configuration")?).map_err(|error| {
                let what = format!("cannot use the configuration {}", path.display());
                CliError { causes: vec![error.to_string().trim_end().to_owned()], ..CliError::new(Exit::Usage, what) }
            })?,
            None => File::default(),
        };
        let beside = |name: &PathBuf| {
            path.as_ref().and_then(|path| path.parent()).map_or_else(|| name.clone(), |folder| folder.join(name))
        };
        let policy = match options.policy.clone().or_else(|| file.policy.as_ref().map(beside)) {
            Some(path) => Policy::parse(&read_text(&path, "policy")?).map_err(|error| {
                let what = format!("cannot use the policy {}", path.display());
                CliError { causes: vec![error.to_string().trim_end().to_owned()], ..CliError::new(Exit::Usage, what) }
                    .hint("`capplan policy` prints the built-in one, with every key explained")
            })?,
            None => Policy::built_in(),
        };
        let template = match file.user_data.as_ref().map(beside) {
            Some(path) => Some(read_text(&path, "template of the user data")?),
            None => None,
        };
        let limits = limits()?;
        let given = Given { template, credential: variable("CAPPLAN_JOIN_CREDENTIAL").map(|text| Secret::new(&text)) };
        let state_dir = options
            .state_dir
            .clone()
            .or(file.state_dir)
            .or_else(|| Some(home("XDG_STATE_HOME", ".local/state")?.join("capplan")));
        let state_dir = state_dir
            .ok_or_else(|| CliError::new(Exit::Usage, "no folder for the history").hint("set CAPPLAN_STATE_DIR, or HOME"))?;
        Ok(Self {
            kubernetes: Connection {
                kubeconfig: options
                    .kubeconfig
                    .clone()
                    .or_else(|| variable("KUBECONFIG").is_none().then_some(file.kubernetes.kubeconfig).flatten()),
                context: options.context.clone().or(file.kubernetes.context),
                limits,
                plugin_runner: plugin_runner(limits),
            },
            proxmox: proxmox(file.proxmox, limits)?,
            prometheus: prometheus(file.prometheus, limits)?,
            state_dir,
            policy,
            given,
            pinned: pinned()?,
            file: path,
        })
    }

    /// As [`Config::load`], for a command that changes a cluster or judges its clocks: only the machine's clock counts.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn load_by_the_clock(options: &Options) -> Result<Self, CliError> {
        let mut config = Self::load(options)?;
        if config.pinned.take().is_some() {
            note("note: CAPPLAN_NOW is not used here: this command goes by the clock");
        }
        Ok(config)
    }

    /// The instant to call "now".
    pub fn now(&self) -> Timestamp {
        self.pinned.unwrap_or_else(Timestamp::now)
    }
}

fn proxmox(file: Vec<ProxmoxFile>, limits: ReadLimits) -> Result<Vec<Endpoint>, CliError> {
    if let Some(url) = variable("CAPPLAN_PVE_URL") {
        let token = token(Some("CAPPLAN_PVE_TOKEN"), None, "CAPPLAN_PVE_URL")?;
        let trust = trust(variable("CAPPLAN_PVE_FINGERPRINT"), variable("CAPPLAN_PVE_CA_FILE").map(PathBuf::from));
        return Ok(token
            .into_iter()
            .map(|token| Endpoint { name: String::new(), url: url.clone(), token, trust: trust.clone(), limits })
            .collect());
    }
    file.into_iter()
        .map(|one| {
            let env = one.token_env.as_deref().or_else(|| one.token_file.is_none().then_some("CAPPLAN_PVE_TOKEN"));
            let token = token(env, one.token_file.as_deref(), &one.url)?;
            let token = token.ok_or_else(|| CliError::new(Exit::Usage, format!("no token for {}", one.url)))?;
            Ok(Endpoint { name: one.name, url: one.url, token, trust: trust(one.fingerprint, one.ca_file), limits })
        })
        .collect()
}

fn prometheus(file: Option<PrometheusFile>, limits: ReadLimits) -> Result<Option<PrometheusAt>, CliError> {
    if let Some(url) = variable("CAPPLAN_PROMETHEUS_URL") {
        let queries = file.map(|file| file.queries).unwrap_or_default();
        let token = variable("CAPPLAN_PROMETHEUS_TOKEN").map(|token| Secret::new(&token));
        let ca_file = variable("CAPPLAN_PROMETHEUS_CA_FILE").map(PathBuf::from);
        return Ok(Some(PrometheusAt { url, token, ca_file, queries, limits }));
    }
    file.map(|file| {
        let token = token(file.token_env.as_deref(), file.token_file.as_deref(), &file.url)?;
        Ok(PrometheusAt { url: file.url, token, ca_file: file.ca_file, queries: file.queries, limits })
    })
    .transpose()
}
