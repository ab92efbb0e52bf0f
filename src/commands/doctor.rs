//! `capplan doctor`.

use capplan_model::Snapshot;
use capplan_model::pve::Pve;
use capplan_provision::kube;
use capplan_provision::lease::MOST_SKEW;
use capplan_provision::observe::causes;
use capplan_provision::pve;
use capplan_provision::store::files;
use jiff::Timestamp;

use crate::config::{Config, Options};
use crate::ui::{CliError, Exit};

/// ClusterRole of a reader.
const CLUSTER_ROLE: &str = include_str!("../../deploy/clusterrole.yaml");
/// Commands that make a reader's role, user and token on Proxmox VE.
const PVE_ROLE: &str = include_str!("../../deploy/pve-role.sh");
/// The same for an account that carries plans out.
const APPLY_ROLE: &str = include_str!("../../deploy/clusterrole-apply.yaml");
const PVE_APPLY_ROLE: &str = include_str!("../../deploy/pve-role-apply.sh");

/// Check connections, permissions and clocks
///
/// Tries each connection on its own, asks each plane what the account may read, and compares the
/// clocks. Exits with 1 if anything a report needs is missing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the least-privilege ClusterRole and the commands for the PVE role, and check nothing
    #[arg(long)]
    print_roles: bool,
    /// With --print-roles: print what `apply` needs, too, with an account of its own
    #[arg(long, requires = "print_roles")]
    apply: bool,
}

/// Runs the command.
pub(super) async fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    if args.print_roles {
        let mut roles = format!("{CLUSTER_ROLE}---\n# On a Proxmox VE host:\n{}", commented(PVE_ROLE));
        if args.apply {
            roles.push_str(&format!("---\n{APPLY_ROLE}---\n# On a Proxmox VE host:\n{}", commented(PVE_APPLY_ROLE)));
        }
        super::print(&roles)?;
        return Ok(Exit::Done);
    }
    let config = Config::load_by_the_clock(options)?;
    let mut page = Page { text: String::new(), failed: 0 };
    let file =
        config.file.as_ref().map_or_else(|| "none; the environment is enough".to_owned(), |path| path.display().to_string());
    page.line(&format!("configuration  {file}"));
    page.line(&format!("history        {}", config.state_dir.display()));
    kubernetes(&config, &mut page).await;
    if config.proxmox.is_empty() {
        page.fail(
            "Proxmox VE: no endpoint is configured",
            Some("set CAPPLAN_PVE_URL and CAPPLAN_PVE_TOKEN, or run `capplan init`"),
        );
    }
    for endpoint in &config.proxmox {
        proxmox(endpoint, &mut page).await;
    }
    if config.prometheus.is_none() {
        page.line("Prometheus: not configured; windows fill up as reports are run");
    }
    state(&config, &mut page);
    let verdict =
        if page.failed == 0 { "all that a report needs is there".to_owned() } else { format!("{} to mend", page.failed) };
    page.line(&format!("\n{verdict}"));
    super::print(&page.text)?;
    Ok(if page.failed == 0 { Exit::Done } else { Exit::Unexpected })
}

/// A shell script as YAML comments, so that both roles print as one document.
fn commented(script: &str) -> String {
    script.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect()
}

struct Page {
    text: String,
    failed: usize,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn good(&mut self, what: &str) {
        self.line(&format!("  ok       {what}"));
    }

    fn fail(&mut self, what: &str, hint: Option<&str>) {
        self.failed += 1;
        self.line(&format!("  MISSING  {what}"));
        if let Some(hint) = hint {
            self.line(&format!("           hint: {hint}"));
        }
    }

    fn remark(&mut self, what: &str) {
        self.line(&format!("  note     {what}"));
    }

    /// Names what the requests of a report did not get.
    fn read(&mut self, what: &str, seen: &Snapshot) {
        let of_kube = seen.pve.first().is_some_and(|pve| pve.name.is_empty());
        let mine = seen.unknowns().into_iter().filter(|(part, _)| {
            let of_pve = part.starts_with("proxmox") || part.starts_with("host ") || part.starts_with("guest ");
            of_pve != of_kube
        });
        let mut failed = 0;
        for (part, why) in mine {
            // A right that is missing is named above; what the cluster does not have is no fault.
            let is_told = why.contains("lacks ") || why.contains("forbidden");
            if why.contains("the server has no ") || why.contains("(status 501)") {
                self.remark(&format!("{part}: {why}"));
            } else if !is_told {
                failed += 1;
                self.fail(&format!("{part}: {why}"), None);
            }
        }
        if failed == 0 {
            self.good(&format!("{what} are answered"));
        }
    }

    fn clock(&mut self, whose: &str, theirs: Timestamp) {
        let apart = Timestamp::now().duration_since(theirs).as_secs();
        if apart.unsigned_abs() <= MOST_SKEW {
            self.good(&format!("clock of {whose} agrees"));
        } else {
            self.fail(
                &format!("clock of {whose} is {} s {}", apart.abs(), if apart > 0 { "behind" } else { "ahead" }),
                Some("run an NTP client on both sides"),
            );
        }
    }
}

async fn kubernetes(config: &Config, page: &mut Page) {
    page.line("\nKubernetes");
    let reader = match kube::Reader::connect(&config.kubernetes).await {
        Ok(reader) => reader,
        Err(error) => return page.fail(&causes(&error), error.hint()),
    };
    match kube::observe::check(&reader).await {
        Ok(()) => page.good(&format!("{} answers", reader.server())),
        Err(error) => return page.fail(&causes(&error), error.hint()),
    }
    if let Ok(Some(theirs)) = reader.clock().await {
        page.clock("the API server", theirs);
    }
    let mut allowed = 0;
    for (group, resource, answer) in kube::observe::permissions(&reader).await {
        let name = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        match answer {
            Ok(true) => allowed += 1,
            Ok(false) => {
                page.fail(&format!("may not list {name}"), Some("`capplan doctor --print-roles` prints the ClusterRole"))
            }
            Err(error) => page.fail(&format!("cannot ask whether {name} may be listed: {}", causes(&error)), error.hint()),
        }
    }
    page.good(&format!("may list {allowed} of {} kinds", kube::observe::RESOURCES.len()));
    // The very requests of a report: that something is allowed does not say that it is answered.
    let mut kube = kube::observe::observe(&reader, &|_| {}).await;
    kube.volume_attachments = kube::observe::volume_attachments(&reader, &|_| {}).await;
    page.read("lists", &Snapshot { kube, pve: vec![Pve::default()], ..Snapshot::default() });
}

async fn proxmox(endpoint: &pve::Endpoint, page: &mut Page) {
    page.line(&format!("\nProxmox VE {}", endpoint.url));
    let reader = match pve::Reader::new(endpoint.clone()) {
        Ok(reader) => reader,
        Err(error) => return page.fail(&causes(&error), error.hint().as_deref()),
    };
    match pve::check(&reader).await {
        Ok(()) => page.good("answers and accepts the token"),
        Err(error) => return page.fail(&causes(&error), error.hint().as_deref()),
    }
    match pve::missing_privileges(&reader).await {
        Ok(lacking) => {
            if lacking.report.is_empty() {
                page.good("may read hosts, guests and storages");
            }
            for (path, privilege) in lacking.report {
                page.fail(
                    &format!("token lacks {privilege} on {path}"),
                    Some("`capplan doctor --print-roles` prints the commands"),
                );
            }
            for (path, privilege) in lacking.plan {
                page.remark(&format!("token lacks {privilege} on {path}: a plan for a new worker does not see pools"));
            }
        }
        Err(error) => page.fail(&causes(&error), error.hint().as_deref()),
    }
    let pve = pve::observe(&reader, &|_| {}).await;
    page.read("hosts and guests", &Snapshot { pve: vec![pve], ..Snapshot::default() });
    for (host, theirs) in pve::clocks(&reader).await {
        page.clock(&format!("host {host}"), theirs);
    }
}

fn state(config: &Config, page: &mut Page) {
    page.line("\nHistory");
    let probe = config.state_dir.join(format!(".doctor-{}", std::process::id()));
    let written = files::folder(&config.state_dir)
        .and_then(|()| files::write(&probe, |_| Ok(())))
        .and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => page.good(&format!("{} is writable", config.state_dir.display())),
        Err(error) => {
            page.fail(&format!("{} is not writable: {error}", config.state_dir.display()), Some("set CAPPLAN_STATE_DIR"))
        }
    }
}
