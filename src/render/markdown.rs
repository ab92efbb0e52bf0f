//! The report as Markdown: for a wiki, an issue, or the runbook's "current shape" table.

use std::fmt::Write;

use capplan_planner::report::Report;

use super::{action, date, instant, or_unknown, percent, severity, verdict};

/// The report as Markdown (tables of the GitHub kind).
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    write(&mut out, report).expect("writing to a String cannot fail");
    out
}

/// Text in a table cell: bars and line breaks would end it.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('\n', " ").replace('<', "&lt;")
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "# Capacity report, {}\n", instant(report.at))?;
    match &report.binding {
        Some(binding) => {
            let when = binding.forecast.as_ref().and_then(|forecast| forecast.expected);
            let when = when.map_or_else(String::new, |at| format!(", full about {}", date(at)));
            writeln!(
                out,
                "**Bites first:** {} on {}: {} of {} ({}){when}. {}\n",
                binding.dimension,
                cell(&binding.holder),
                binding.unit.show(binding.used),
                binding.unit.show(binding.limit),
                percent(Some(binding.ratio)),
                binding.because,
            )?;
        }
        None => writeln!(out, "**Bites first:** unknown\n")?,
    }
    let next = &report.recommendation;
    writeln!(out, "**Next step:** {}\n", action(next))?;
    for because in &next.because {
        writeln!(out, "- because {}", cell(because))?;
    }
    for warning in &next.warnings {
        writeln!(out, "- caution: {}", cell(warning))?;
    }
    for undecided in next.undecided.iter().filter(|one| !next.because.contains(one)) {
        writeln!(out, "- not known: {}", cell(undecided))?;
    }
    for rejected in &next.rejected {
        writeln!(out, "- rejected {}", cell(&rejected.to_string()))?;
    }
    shape(out, report)?;
    writeln!(out, "\n## Capacity\n\n| dimension | scope | used | limit | % | holder | full | source | age |")?;
    writeln!(out, "|---|---|---:|---:|---:|---|---|---|---:|")?;
    for row in &report.dimensions {
        let show = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| row.unit.show(value));
        let limit = if row.limit.is_none() && row.used.is_some() { "none".to_owned() } else { show(row.limit) };
        let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}", ratio * 100.0));
        let full = row.forecast.as_ref().and_then(|forecast| forecast.expected).map(date).unwrap_or_default();
        let (used, holder) = (show(row.used), cell(&row.holder));
        writeln!(
            out,
            "| {} | {} | {used} | {limit} | {ratio} | {holder} | {full} | {} | {} s |",
            row.name, row.scope, row.source, row.age_seconds
        )?;
    }
    slots(out, report)?;
    writeln!(out, "\n## Memory\n\n| | all nodes | workers | general workers |\n|---|---:|---:|---:|")?;
    for (name, shares) in [("requests", &report.memory.requests), ("limits", &report.memory.limits)] {
        writeln!(out, "| {name} | {} | {} | {} |", percent(shares.all_nodes), percent(shares.workers), percent(shares.general))?;
    }
    writeln!(
        out,
        "\n## Rules\n\n| direction | rule | when | is | now | window | throughout | samples | coverage | first contrary |"
    )?;
    writeln!(out, "|---|---|---|---:|---|---:|---|---:|---:|---|")?;
    for rule in &report.rules {
        let show = |value: f64| if rule.when.ends_with('%') { format!("{:.1}%", value * 100.0) } else { format!("{value:.0}") };
        let contrary =
            rule.evidence.first_contrary.map_or_else(String::new, |one| format!("{} at {}", show(one.value), instant(one.at)));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} d | {} | {} | {:.0}% | {contrary} |",
            rule.direction,
            cell(&rule.id),
            cell(&rule.when),
            or_unknown(rule.evidence.value.map(show)),
            verdict(rule.instant),
            rule.window_days,
            verdict(rule.sustained),
            rule.evidence.samples,
            rule.evidence.coverage * 100.0,
        )?;
    }
    writeln!(out, "\n## Findings\n")?;
    if report.findings.is_empty() {
        writeln!(out, "None.")?;
    }
    for finding in &report.findings {
        let (subject, evidence, advice) = (cell(&finding.subject), cell(&finding.evidence), cell(&finding.advice));
        writeln!(out, "- **{}** `{}` {subject}: {evidence}. *{advice}*", severity(finding.severity), finding.code)?;
    }
    writeln!(out, "\n## Unknown\n")?;
    if report.unknown.is_empty() {
        writeln!(out, "Nothing.")?;
    }
    for unknown in &report.unknown {
        writeln!(out, "- {}: {}", cell(&unknown.what), cell(&unknown.why))?;
    }
    writeln!(out, "\nSnapshot `{}`; {} samples of history.", report.snapshot, report.history.samples)
}

/// The runbook's "current shape" table.
fn shape(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "\n## Current shape\n\n| node | role | VMID | host | memory | CPU | requests | limits | pods | kubelet |")?;
    writeln!(out, "|---|---|---:|---|---:|---:|---:|---:|---:|---|")?;
    for node in &report.nodes {
        writeln!(
            out,
            "| {} | {}{} | {} | {} | {} | {} | {} | {} | {} | {} |",
            cell(node.name.as_str()),
            node.role,
            if node.cordoned { ", cordoned" } else { "" },
            or_unknown(node.vmid),
            or_unknown(node.host.as_ref()),
            or_unknown(node.vm_memory),
            node.cpu,
            percent(node.requested),
            percent(node.limited),
            or_unknown(node.pods),
            cell(&node.kubelet),
        )?;
    }
    writeln!(
        out,
        "\n| host | memory | running guests | if all started | available | another worker |\n|---|---:|---:|---:|---:|---|"
    )?;
    for host in &report.hosts {
        let memory = &host.memory;
        let takes = host.takes_worker.map_or("unknown", |takes| if takes { "fits" } else { "does not fit" });
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {takes} |",
            cell(host.name.as_str()),
            or_unknown(memory.total),
            or_unknown(memory.committed),
            or_unknown(memory.committed_if_all_started),
            or_unknown(memory.available),
        )?;
    }
    Ok(())
}

fn slots(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        out,
        "\n## Volume slots\n\n| worker | advertised | real | attached | counted | plugged | ghosts | phantom | unused | free |"
    )?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    let count = |list: &Option<Vec<String>>| or_unknown(list.as_ref().map(Vec::len));
    for row in &report.slots {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            cell(row.node.as_str()),
            or_unknown(row.advertised),
            or_unknown(row.real),
            or_unknown(row.attached),
            or_unknown(row.counted),
            or_unknown(row.plugged),
            count(&row.ghosts),
            or_unknown(row.phantom),
            count(&row.unused),
            or_unknown(row.free),
        )?;
    }
    for row in &report.slots {
        for mismatch in &row.mismatches {
            writeln!(out, "- {}: {}", cell(row.node.as_str()), cell(mismatch))?;
        }
        if let Some(why) = &row.why {
            writeln!(out, "- {}: unknown: {}", cell(row.node.as_str()), cell(why))?;
        }
    }
    Ok(())
}
