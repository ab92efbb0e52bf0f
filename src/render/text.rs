//! The report for a terminal: 80 columns, readable without colour.

use std::collections::BTreeMap;

use capplan_planner::report::{Forecast, Report, Severity, Verdict};

use super::page::{BOLD, DIM, GREEN, MOST_ROWS, Page, RED, RESET, WIDTH, YELLOW, short};
use super::{action, date, instant, or_unknown, percent, severity, verdict};

/// The report as text with colours; the caller strips them where stdout is no terminal.
pub fn report(report: &Report) -> String {
    let mut page = Page(String::new());
    headline(&mut page, report);
    capacity(&mut page, report);
    slots(&mut page, report);
    memory(&mut page, report);
    rules(&mut page, report);
    findings(&mut page, report);
    nodes(&mut page, report);
    hosts(&mut page, report);
    provenance(&mut page, report);
    page.0
}

fn headline(page: &mut Page, report: &Report) {
    let versions: Vec<String> = report.versions.iter().map(|(what, version)| format!("{what} {version}")).collect();
    page.line(short(&format!("capplan report · {} · {}", instant(report.at), versions.join(" · ")), WIDTH));
    page.line("");
    match &report.binding {
        Some(binding) => {
            page.paragraph(
                "bites first",
                13,
                &format!(
                    "{} on {}: {} of {} ({})",
                    binding.dimension,
                    binding.holder,
                    binding.unit.show(binding.used),
                    binding.unit.show(binding.limit),
                    percent(Some(binding.ratio)),
                ),
            );
            page.paragraph("", 13, &binding.because);
            page.paragraph("", 13, &when(binding.forecast.as_ref()));
        }
        None => page.paragraph("bites first", 13, "unknown: no limit could be read"),
    }
    let next = &report.recommendation;
    page.paragraph("next step", 13, &action(next));
    for because in &next.because {
        page.paragraph("  because", 13, because);
    }
    for warning in &next.warnings {
        page.paragraph("  caution", 13, warning);
    }
    // What an undecided action rests on is why; otherwise it is what is left to find out.
    for undecided in next.undecided.iter().filter(|one| !next.because.contains(one)) {
        page.paragraph("  not known", 13, undecided);
    }
    for rejected in &next.rejected {
        page.paragraph("  rejected", 13, &rejected.to_string());
    }
    let count = |one: Severity| report.findings.iter().filter(|finding| finding.severity == one).count();
    page.paragraph(
        "findings",
        13,
        &format!(
            "{} critical, {} warnings, {} notes; {} unknown",
            count(Severity::Critical),
            count(Severity::Warning),
            count(Severity::Info),
            report.unknown.len()
        ),
    );
    let critical = report.findings.iter().filter(|finding| finding.severity == Severity::Critical);
    for finding in critical.take(3) {
        page.paragraph(
            "  critical",
            13,
            &short(&format!("{} {}: {}", finding.code, finding.subject, finding.evidence), 2 * (WIDTH - 13)),
        );
    }
}

fn when(forecast: Option<&Forecast>) -> String {
    match forecast {
        None => "when: unknown, the history is shorter than 14 days".to_owned(),
        Some(Forecast { expected: None, days, .. }) => format!("when: it does not grow ({days} days of history)"),
        Some(Forecast { expected: Some(expected), earliest, latest, days, .. }) => {
            let latest = latest.map_or_else(|| "open".to_owned(), date);
            let earliest = earliest.map_or_else(|| "?".to_owned(), date);
            format!("when: about {}, between {earliest} and {latest} ({days} days of history)", date(*expected))
        }
    }
}

fn filled(ratio: Option<f64>) -> String {
    let colour = match ratio {
        Some(ratio) if ratio >= 1.0 => RED,
        Some(ratio) if ratio >= 0.9 => YELLOW,
        _ => "",
    };
    let text = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}", ratio * 100.0));
    if colour.is_empty() { text } else { format!("{colour}{text}{RESET}") }
}

/// A dimension's name in at most 18 columns.
fn short_name(name: &str) -> String {
    short(
        &name
            .replace("host-memory-if-all-started", "host-mem-all-on")
            .replace("host-memory", "host-mem")
            .replace("objects", "objs"),
        18,
    )
}

fn capacity(page: &mut Page, report: &Report) {
    page.section("Capacity");
    let rows = report.dimensions.iter().map(|row| {
        let used = row.used.map_or_else(|| "unknown".to_owned(), |used| row.unit.show(used));
        let limit = match (row.limit, row.used) {
            (Some(limit), _) => row.unit.show(limit),
            (None, Some(_)) => "none".to_owned(),
            (None, None) => "unknown".to_owned(),
        };
        let full = row.forecast.as_ref().and_then(|forecast| forecast.expected).map(date).unwrap_or_default();
        // Sums over nodes are named by the nodes, everything else by who uses most of it.
        let holder = if ["all-nodes", "workers", "general"].contains(&row.scope.as_str()) { &row.scope } else { &row.holder };
        vec![short_name(&row.name), used, limit, filled(row.ratio), short(holder, 17), full]
    });
    page.table(&["dimension", "used", "limit", "%", "holder", "full"], &[1, 2, 3], &rows.collect::<Vec<_>>());
    let mut sources: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in report.dimensions.iter().filter(|row| !row.source.is_empty()) {
        let names = sources.entry(&row.source).or_default();
        let name = short_name(&row.name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let sources: Vec<String> = sources.into_iter().map(|(source, names)| format!("{source} ({})", names.join(", "))).collect();
    page.paragraph("", 2, &format!("read at {} from {}", instant(report.at), sources.join("; ")));
    for row in report.dimensions.iter().filter(|row| row.note.is_some()) {
        page.paragraph("", 2, &format!("{}: {}", row.name, row.note.as_deref().unwrap_or_default()));
    }
}

fn slots(page: &mut Page, report: &Report) {
    if report.slots.is_empty() {
        return;
    }
    page.section("Volume slots (scheduler's ledger | plugin's ledger)");
    let rows = report.slots.iter().map(|row| {
        let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let count = |list: &Option<Vec<String>>| number(list.as_ref().map(|list| list.len() as u64));
        vec![
            short(row.node.as_str(), 18),
            number(row.advertised),
            number(row.attached),
            number(row.counted),
            "|".to_owned(),
            number(row.real),
            number(row.plugged),
            count(&row.ghosts),
            number(row.phantom),
            count(&row.unused),
            number(row.free),
        ]
    });
    let head = ["worker", "advert", "attach", "count", "|", "real", "plug", "ghost", "phant", "unused", "free"];
    page.table(&head, &[1, 2, 3, 5, 6, 7, 8, 9, 10], &rows.collect::<Vec<_>>());
    for row in report.slots.iter().take(MOST_ROWS) {
        for mismatch in &row.mismatches {
            page.paragraph("", 2, &format!("{}: {mismatch}", row.node));
        }
        if let Some(pending) = row.pending_detach.as_ref().filter(|pending| !pending.is_empty()) {
            page.paragraph("", 2, &format!("{}: detach pending: {}", row.node, pending.join(", ")));
        }
        if let Some(why) = &row.why {
            page.paragraph("", 2, &format!("{}: unknown: {why}", row.node));
        }
    }
}

fn memory(page: &mut Page, report: &Report) {
    page.section("Memory of the cluster");
    let memory = &report.memory;
    let row = |name: &str, shares: &capplan_planner::report::Shares| {
        vec![name.to_owned(), percent(shares.all_nodes), percent(shares.workers), percent(shares.general)]
    };
    let rows = [row("requests", &memory.requests), row("limits", &memory.limits)];
    page.table(&["", "all nodes", "workers", "general workers"], &[1, 2, 3], &rows);
    if let (Some(pods), Some(phantom)) = (memory.terminal_pods, memory.phantom) {
        page.paragraph("", 2, &format!("not counted: {phantom} requested by {pods} finished pods"));
    }
    if !memory.disagree.is_empty() {
        page.paragraph("", 2, &format!("the denominators disagree on {}", memory.disagree.join(", ")));
    }
    if let Some(loss) = report.node_loss.first() {
        let fits = if loss.fits_by_sum { "fits by sum" } else { "does not fit" };
        page.paragraph(
            "",
            2,
            &format!("loss of {}: {} to move, {} free on the others: {fits}", loss.node, loss.to_move, loss.free),
        );
    }
}

fn judged(one: Verdict) -> String {
    match one {
        Verdict::Met => format!("{YELLOW}{}{RESET}", verdict(one)),
        Verdict::NotMet => verdict(one).to_owned(),
        Verdict::InsufficientData => format!("{DIM}no data{RESET}"),
    }
}

fn rules(page: &mut Page, report: &Report) {
    page.section("Rules");
    let rows = report.rules.iter().map(|rule| {
        let value = match rule.evidence.value {
            Some(value) if rule.when.ends_with('%') => format!("{:.1}%", value * 100.0),
            Some(value) => format!("{value:.0}"),
            None => "?".to_owned(),
        };
        let window = if rule.window_days == 0.0 { "now".to_owned() } else { format!("{:.0} d", rule.window_days) };
        let coverage = format!("{:.0}%", rule.evidence.coverage * 100.0);
        vec![
            rule.direction.clone(),
            short(&rule.id, 22),
            rule.when.clone(),
            value,
            judged(rule.instant),
            window,
            judged(rule.sustained),
            coverage,
        ]
    });
    page.table(&["", "rule", "when", "is", "now", "window", "throughout", "seen"], &[3, 5, 7], &rows.collect::<Vec<_>>());
    for rule in &report.rules {
        if let Some(contrary) = rule.evidence.first_contrary.filter(|contrary| contrary.at < report.at) {
            let value = if rule.when.ends_with('%') {
                format!("{:.1}%", contrary.value * 100.0)
            } else {
                format!("{:.0}", contrary.value)
            };
            page.paragraph("", 2, &format!("{}: first contrary sample {value} at {}", rule.id, instant(contrary.at)));
        }
        if let Some(note) = &rule.evidence.note {
            page.paragraph("", 2, &format!("{}: {note}", rule.id));
        }
    }
}

fn findings(page: &mut Page, report: &Report) {
    page.section("Findings");
    if report.findings.is_empty() {
        page.line("none");
    }
    for finding in &report.findings {
        let colour = match finding.severity {
            Severity::Critical => RED,
            Severity::Warning => YELLOW,
            Severity::Info => "",
        };
        page.line(format!(
            "{colour}{:<9}{RESET}{BOLD}{}{RESET} {}",
            severity(finding.severity),
            finding.code,
            short(&finding.subject, 80 - 10 - finding.code.len())
        ));
        page.paragraph("", 9, &finding.evidence);
        page.paragraph("", 9, &format!("→ {}", finding.advice));
    }
}

fn nodes(page: &mut Page, report: &Report) {
    if report.nodes.is_empty() {
        return;
    }
    page.section("Nodes");
    let rows = report.nodes.iter().map(|node| {
        let mut state = Vec::new();
        if node.role == "control-plane" {
            state.push("control plane");
        }
        if !node.ready {
            state.push("not ready");
        }
        if node.cordoned {
            state.push("cordoned");
        }
        if node.role == "worker" && node.ready && !node.cordoned && !node.general {
            state.push("tainted");
        }
        vec![
            short(node.name.as_str(), 18),
            node.vmid.map_or_else(|| "?".to_owned(), |vmid| vmid.to_string()),
            short(&or_unknown(node.vm_memory), 9),
            filled(node.requested),
            filled(node.limited),
            filled(node.cpu_requested),
            or_unknown(node.pods),
            node.used.map_or_else(|| "?".to_owned(), |used| used.to_string()),
            state.join(", "),
        ]
    });
    page.table(
        &["node", "vmid", "memory", "req %", "lim %", "cpu %", "pods", "used", ""],
        &[1, 2, 3, 4, 5, 6, 7],
        &rows.collect::<Vec<_>>(),
    );
}

fn hosts(page: &mut Page, report: &Report) {
    if report.hosts.is_empty() {
        return;
    }
    page.section("Hosts");
    let rows = report.hosts.iter().map(|host| {
        let memory = &host.memory;
        let takes = match host.takes_worker {
            Some(true) => format!("{GREEN}yes{RESET}"),
            Some(false) => "no".to_owned(),
            None => "unknown".to_owned(),
        };
        vec![
            short(host.name.as_str(), 14),
            or_unknown(memory.total),
            or_unknown(memory.committed),
            or_unknown(memory.committed_if_all_started),
            or_unknown(memory.available),
            format!("{}/{}", or_unknown(host.vcpus), or_unknown(host.cpus)),
            takes,
        ]
    });
    page.table(
        &["host", "memory", "running", "if all on", "available", "vCPU/threads", "+1 worker"],
        &[1, 2, 3, 4, 5],
        &rows.collect::<Vec<_>>(),
    );
    for host in &report.hosts {
        for pool in host.pools.iter().flatten() {
            let share = |fill: &capplan_planner::report::Fill| {
                percent((fill.size.0 > 0).then(|| fill.used.0 as f64 / fill.size.0 as f64))
            };
            page.paragraph(
                "",
                2,
                &format!(
                    "pool {} on {}: data {} of {} ({}), metadata {} of {} ({})",
                    pool.name,
                    host.name,
                    pool.data.used,
                    pool.data.size,
                    share(&pool.data),
                    pool.metadata.used,
                    pool.metadata.size,
                    share(&pool.metadata)
                ),
            );
        }
    }
}

fn provenance(page: &mut Page, report: &Report) {
    page.section("Unknown");
    if report.unknown.is_empty() {
        page.line("nothing");
    }
    for unknown in &report.unknown {
        page.paragraph("", 2, &format!("{}: {}", unknown.what, unknown.why));
    }
    page.section("Provenance");
    page.paragraph("", 2, &format!("snapshot {} of {}", report.snapshot, instant(report.at)));
    let history = &report.history;
    page.paragraph(
        "",
        2,
        &match (history.first, history.last) {
            (Some(first), Some(last)) => {
                format!("history: {} samples from {} to {}", history.samples, instant(first), instant(last))
            }
            _ => "history: none; run `capplan history import`, or run this report regularly".to_owned(),
        },
    );
}
