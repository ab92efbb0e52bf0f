//! `capplan init`.

use std::io::IsTerminal;
use std::path::PathBuf;

use inquire::{Confirm, Text};

use crate::config::{Options, default_file};
use crate::signals::prompted;
use crate::ui::{CliError, Exit, note};

/// Write a configuration file
///
/// Asks for what is not given by flags when stdin is a terminal. Secrets are never written: the
/// file names the variable or the file that holds them.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address of Proxmox VE, such as https://pve1:8006
    #[arg(long, value_name = "URL")]
    pve_url: Option<String>,
    /// SHA-256 fingerprint of its certificate (`pvesh get /nodes --output-format json`)
    #[arg(long, value_name = "AA:BB:…", conflicts_with = "pve_ca_file")]
    pve_fingerprint: Option<String>,
    /// Certificate authority of Proxmox VE (/etc/pve/pve-root-ca.pem)
    #[arg(long, value_name = "FILE")]
    pve_ca_file: Option<PathBuf>,
    /// File that holds the API token USER@REALM!ID=SECRET; otherwise $CAPPLAN_PVE_TOKEN is read
    #[arg(long, value_name = "FILE")]
    pve_token_file: Option<PathBuf>,
    /// Address of Prometheus
    #[arg(long, value_name = "URL")]
    prometheus_url: Option<String>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Ask nothing
    #[arg(long)]
    no_input: bool,
}

/// Runs the command.
pub(super) fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let path = options.config.clone().or_else(default_file);
    let path = path.ok_or_else(|| {
        CliError::new(Exit::Usage, "no place for the configuration").hint("name one with --config FILE, or set HOME")
    })?;
    if path.exists() && !args.force {
        return Err(CliError::new(Exit::Usage, format!("{} exists", path.display())).hint("edit it, or replace it with --force"));
    }
    let mut args = args.clone();
    if std::io::stdin().is_terminal() && !args.no_input {
        prompted("nothing was written", || ask(&mut args))
            .map_err(|error| CliError::new(Exit::Usage, format!("nothing was written: {error}")))?;
    }
    let Some(url) = &args.pve_url else {
        return Err(
            CliError::new(Exit::Usage, "the address of Proxmox VE is missing").hint("name it with --pve-url https://HOST:8006")
        );
    };
    if let Some(folder) = path.parent() {
        super::folder(folder)?;
    }
    super::write(&path, &file(url, options.context.as_deref(), &args))?;
    note(format!("wrote {}; `capplan doctor` checks it", path.display()));
    Ok(Exit::Done)
}

fn ask(args: &mut Args) -> Result<(), inquire::InquireError> {
    let wanted = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    if args.pve_url.is_none() {
        args.pve_url = wanted(Text::new("Proxmox VE address").with_placeholder("https://pve1:8006").prompt()?);
    }
    if args.pve_fingerprint.is_none() && args.pve_ca_file.is_none() {
        let question = Text::new("SHA-256 fingerprint of its certificate (empty: it is signed by a public authority)");
        args.pve_fingerprint = wanted(
            question.with_help_message("pvesh get /nodes --output-format json on the host, key ssl_fingerprint").prompt()?,
        );
    }
    if args.pve_token_file.is_none() {
        let question = Text::new("File with the API token (empty: $CAPPLAN_PVE_TOKEN)");
        args.pve_token_file = wanted(question.prompt()?).map(PathBuf::from);
    }
    if args.prometheus_url.is_none()
        && Confirm::new("Is there a Prometheus with kube-state-metrics?").with_default(false).prompt()?
    {
        args.prometheus_url = wanted(Text::new("Its address").with_placeholder("http://prometheus:9090").prompt()?);
    }
    Ok(())
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn file(url: &str, context: Option<&str>, args: &Args) -> String {
    let line = |key: &str, value: Option<String>, example: &str| match value {
        Some(value) => format!("{key} = {}\n", quoted(&value)),
        None => format!("# {key} = {}\n", quoted(example)),
    };
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let mut text = String::from(
        "# Configuration of capplan. Every key can also come from the environment; secrets only do, or from\n\
         # a file of their own. Unknown keys are errors.\n\n\
         # The runbook's rules: `capplan policy` prints the built-in ones. Relative to this file.\n\
         # policy = \"policy.toml\"\n\n\
         # Where the history is kept ($CAPPLAN_STATE_DIR).\n\
         # state_dir = \"/var/lib/capplan\"\n\n\
         [kubernetes]\n\
         # Otherwise $KUBECONFIG, ~/.kube/config, or the pod's own account.\n\
         # kubeconfig = \"/etc/capplan/kubeconfig\"\n",
    );
    text.push_str(&line("context", context.map(str::to_owned), "home"));
    text.push_str("\n# One block for each host or cluster of hosts.\n[[proxmox]]\n");
    text.push_str(&line("url", Some(url.to_owned()), ""));
    text.push_str("# Shown in the report; needed when two hosts have the same name.\n# name = \"home\"\n");
    text.push_str("# SHA-256 of the host's own certificate, or the authority that signed it; neither: a public one.\n");
    text.push_str(&line("fingerprint", args.pve_fingerprint.clone(), "AA:BB:CC:…"));
    text.push_str(&line("ca_file", path(&args.pve_ca_file), "/etc/capplan/pve-root-ca.pem"));
    text.push_str("# The token USER@REALM!ID=SECRET: the file that holds it, or the variable ($CAPPLAN_PVE_TOKEN).\n");
    text.push_str(&line("token_file", path(&args.pve_token_file), "/etc/capplan/pve-token"));
    if args.prometheus_url.is_some() {
        text.push_str("\n[prometheus]\n");
    } else {
        text.push_str("\n# History at once instead of in 30 days.\n# [prometheus]\n");
    }
    text.push_str(&line("url", args.prometheus_url.clone(), "http://prometheus:9090"));
    text
}
