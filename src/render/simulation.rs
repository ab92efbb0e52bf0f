//! A simulation for a terminal: 80 columns, readable without colour.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::ids::NodeName;
use capplan_model::units::Bytes;
use capplan_planner::report::{NodeRow, RuleRow, SlotRow};
use capplan_planner::simulate::{FigureUnit, Simulation, Sweep, Unplaceable, Verdict};

use super::page::{BOLD, DIM, GREEN, Page, RED, RESET, WIDTH, YELLOW, short};
use super::{instant, percent, verdict};

/// Pods listed one by one before the rest is only counted.
const MOST_PODS: usize = 30;
/// Pods whose odds are listed before the rest is only counted.
const MOST_STARVING: usize = 15;
/// Doubts that a sweep names.
const MOST_UNDECIDED: usize = 6;
/// Width of the label column.
const LABEL: usize = 13;

/// The simulation as text with colours; the caller strips them where stdout is no terminal.
pub fn text(simulation: &Simulation) -> String {
    let mut page = Page(String::new());
    headline(&mut page, simulation);
    unplaceable(&mut page, "No place", &simulation.unplaceable);
    starving(&mut page, simulation);
    volumes(&mut page, simulation);
    reboots(&mut page, simulation);
    timeline(&mut page, simulation);
    placement(&mut page, simulation);
    nodes(&mut page, simulation);
    differences(&mut page, simulation);
    rules(&mut page, simulation);
    unplaceable(&mut page, "Waited before, and still do", &simulation.still_pending);
    provenance(&mut page, simulation);
    page.0
}

fn headline(page: &mut Page, simulation: &Simulation) {
    page.line(short(
        &format!("capplan simulate · {} · as kube-scheduler {}", instant(simulation.at), simulation.scheduler),
        WIDTH,
    ));
    page.line("");
    for (place, change) in simulation.changes.iter().enumerate() {
        page.paragraph(if place == 0 { "changes" } else { "" }, LABEL, change);
    }
    let answer = match simulation.verdict {
        Verdict::SchedulerPlaces => format!("{GREEN}fits{RESET}: the scheduler places everything"),
        Verdict::FitsIfPlaced => {
            format!("{YELLOW}fits only if placed well{RESET}: the scheduler does not find it every time")
        }
        Verdict::CannotFit => format!("{RED}cannot fit{RESET}: proven"),
        Verdict::Undecided if simulation.unplaceable.is_empty() => format!("{YELLOW}undecided{RESET}"),
        Verdict::Undecided => format!("{RED}does not fit{RESET} as the scheduler places it; no other way is known"),
    };
    page.paragraph("answer", LABEL, &answer);
    for because in &simulation.because {
        page.paragraph("  because", LABEL, because);
    }
    if simulation.runs > 1 {
        page.paragraph(
            "  runs",
            LABEL,
            &format!("{} of {} all right (seed {})", percent(Some(simulation.probability)), simulation.runs, simulation.seed),
        );
    }
    if let Some(needed) = simulation.workers_needed.as_ref().filter(|needed| needed.pods > 0) {
        let never = if needed.never > 0 { format!("; {} never go on one", needed.never) } else { String::new() };
        let hosts = match needed.hosts_take {
            Some(room) if room < needed.workers => format!("; the hosts have memory for {room}"),
            Some(_) => String::new(),
            None => "; whether a host has memory for them is unknown".to_owned(),
        };
        let plural = if needed.workers == 1 { "" } else { "s" };
        page.paragraph(
            "  would help",
            LABEL,
            &format!(
                "{} more worker{plural} of {} would take {} of the pods without a place, by amounts{never}{hosts}",
                needed.workers, needed.memory, needed.pods
            ),
        );
    }
    for undecided in &simulation.undecided {
        page.paragraph("  not decided", LABEL + 2, undecided);
    }
    for loss in &simulation.node_loss {
        let fits = if loss.fits_by_sum { "fits by sum" } else { "does not fit by sum" };
        page.paragraph(
            "  by memory",
            LABEL,
            &format!("{}: {} to move, {} free on the other general workers: {fits}", loss.node, loss.to_move, loss.free),
        );
    }
}

/// Things without a place; those with the same reasons together.
fn unplaceable(page: &mut Page, title: &str, list: &[Unplaceable]) {
    if list.is_empty() {
        return;
    }
    page.section(&format!("{title} ({})", list.len()));
    let mut groups: Vec<(&Unplaceable, Vec<String>)> = Vec::new();
    for one in list {
        let name = [&one.pod, &one.volume, &one.worker].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
        match groups.iter_mut().find(|(first, _)| first.reasons == one.reasons && first.nodes == one.nodes) {
            Some((_, names)) => names.push(name),
            None => groups.push((one, vec![name])),
        }
    }
    let mut shown = 0;
    for (place, (one, names)) in groups.iter().enumerate() {
        if shown >= MOST_PODS {
            let rest: usize = groups[place..].iter().map(|(_, names)| names.len()).sum();
            page.line(format!("… and {rest} more (see --format json)"));
            return;
        }
        for name in names.iter().take(MOST_PODS - shown) {
            page.line(short(name, WIDTH));
        }
        if names.len() > MOST_PODS - shown {
            page.line(format!("… and {} more for the same reason", names.len() - (MOST_PODS - shown)));
        }
        shown += names.len();
        let nodes = if one.nodes > 1 { format!("{} nodes: ", one.nodes) } else { String::new() };
        page.paragraph("", 4, &format!("{nodes}{}", one.reasons.join(", ")));
    }
}

fn starving(page: &mut Page, simulation: &Simulation) {
    if simulation.starving.is_empty() || simulation.runs < 2 {
        return;
    }
    page.section(&format!("How often each finds no place, in {} runs", simulation.runs));
    let rows =
        simulation.starving.iter().take(MOST_STARVING).map(|one| vec![percent(Some(one.probability)), short(&one.pod, 66)]);
    page.table(&["no place", "pod"], &[0], &rows.collect::<Vec<_>>());
    if simulation.starving.len() > MOST_STARVING {
        page.line(format!("… and {} more (see --format json)", simulation.starving.len() - MOST_STARVING));
    }
}

fn volumes(page: &mut Page, simulation: &Simulation) {
    if let Some(until) = &simulation.until_refusal {
        page.section("Until the first refusal");
        let about = if until.exact { "" } else { "about " };
        page.paragraph(
            "",
            2,
            &format!("{about}{} fit from the present state on; {} refuses the next", until.count, until.dimension),
        );
        if until.latent > 0 {
            page.paragraph(
                "",
                2,
                &format!(
                    "counted with {} volumes of parked workloads, which attach when these wake; {} while all stay parked",
                    until.latent, until.while_parked
                ),
            );
        }
        let by_node: Vec<String> = until.by_node.iter().take(20).map(|(node, count)| format!("{node} {count}")).collect();
        let rest = until.by_node.len().saturating_sub(20);
        let rest = if rest > 0 { format!(" and {rest} more nodes") } else { String::new() };
        if !by_node.is_empty() {
            page.paragraph("", 2, &format!("by node: {}{rest}", by_node.join(", ")));
        }
    }
    if let Some(spread) = &simulation.spread {
        page.section("Where the volumes go");
        let best: Vec<String> =
            spread.best.iter().filter(|(_, count)| **count > 0).map(|(node, count)| format!("{node} {count}")).collect();
        page.paragraph(
            "",
            2,
            &format!("spread best: {}; at most {} attachments on one worker", best.join(", "), spread.best_most),
        );
        if let Some(worst) = &spread.worst_node {
            page.paragraph(
                "",
                2,
                &format!(
                    "worst: all on {worst}, which takes {} and then has {} attachments",
                    spread.worst_fits, spread.worst_most
                ),
            );
        }
    }
    if !simulation.pools.is_empty() {
        page.section("What new disks take of the storages, once written full");
        let rows = simulation.pools.iter().map(|pool| {
            vec![
                short(&pool.name, 28),
                pool.volumes.to_string(),
                pool.disks.to_string(),
                format!("{} → {}", pool.used, pool.used_after),
                pool.size.to_string(),
            ]
        });
        page.table(&["storage", "volumes", "disks", "used", "size"], &[1, 2, 3, 4], &rows.collect::<Vec<_>>());
    }
}

fn reboots(page: &mut Page, simulation: &Simulation) {
    if simulation.reboots.is_empty() {
        return;
    }
    page.section("Each node's reboot");
    let rows = simulation.reboots.iter().map(|one| {
        let fits = match one.verdict {
            Verdict::SchedulerPlaces => format!("{GREEN}yes{RESET}"),
            Verdict::FitsIfPlaced => format!("{YELLOW}{}{RESET}", percent(Some(one.probability))),
            Verdict::Undecided if one.unplaceable.is_empty() => format!("{YELLOW}?{RESET}"),
            Verdict::Undecided | Verdict::CannotFit => format!("{RED}no{RESET}"),
        };
        vec![
            short(one.node.as_str(), 24),
            one.pods.to_string(),
            fits,
            one.unplaceable.len().to_string(),
            one.blocked.len().to_string(),
        ]
    });
    page.table(&["node", "pods", "fits", "no place", "blocked"], &[1, 3, 4], &rows.collect::<Vec<_>>());
    for one in &simulation.reboots {
        let names: Vec<&str> = one.unplaceable.iter().filter_map(|one| one.pod.as_deref()).take(6).collect();
        if !names.is_empty() {
            let rest = one.unplaceable.len().saturating_sub(names.len());
            let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            page.paragraph("", 2, &format!("{}: no place for {}{rest}", one.node, names.join(", ")));
        }
        for blocked in &one.blocked {
            page.paragraph("", 2, &format!("{}: {blocked}", one.node));
        }
    }
}

fn timeline(page: &mut Page, simulation: &Simulation) {
    if simulation.timeline.is_empty() {
        return;
    }
    page.section("What happens when");
    for row in &simulation.timeline {
        let at = format!("{:>4} s", row.at_seconds);
        page.paragraph(&at, 8, &format!("{}: {}", row.subject, row.what));
        if !row.concerns.is_empty() {
            page.paragraph("", 8, &format!("{DIM}{}{RESET}", row.concerns.join(", ")));
        }
    }
}

fn placement(page: &mut Page, simulation: &Simulation) {
    if simulation.placement.is_empty() && simulation.preempted.is_empty() && simulation.lost.is_empty() {
        return;
    }
    page.section("Where pods go");
    let mut by_node: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in &simulation.placement {
        by_node.entry(one.node.as_str()).or_default().push(&one.pod);
    }
    for (node, pods) in by_node {
        let names: Vec<&str> = pods.iter().copied().take(4).collect();
        let rest = pods.len() - names.len();
        let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        page.paragraph("", 2, &format!("{node} takes {}: {}{rest}", pods.len(), names.join(", ")));
    }
    for one in simulation.preempted.iter().take(MOST_PODS) {
        let budget = if one.against_budget { ", against its PodDisruptionBudget" } else { "" };
        page.paragraph("", 2, &format!("{} is pushed from {} by {}{budget}", one.pod, one.node, one.by));
    }
    if !simulation.lost.is_empty() {
        page.paragraph("", 2, &format!("lost for good, nothing makes them again: {}", simulation.lost.join(", ")));
    }
}

/// `before → after`, or one figure if they are equal.
fn change(before: String, after: String) -> String {
    if before == after { before } else { format!("{before} → {after}") }
}

fn nodes(page: &mut Page, simulation: &Simulation) {
    type Rows<'s, T> = BTreeMap<&'s NodeName, &'s T>;
    let many = simulation.before.nodes.len().max(simulation.after.nodes.len()) > super::page::MOST_ROWS;
    let touched: BTreeSet<&str> = simulation.difference.iter().map(|one| one.subject.as_str()).collect();
    let were: Rows<'_, NodeRow> = simulation.before.nodes.iter().map(|row| (&row.name, row)).collect();
    let are: Rows<'_, NodeRow> = simulation.after.nodes.iter().map(|row| (&row.name, row)).collect();
    let slots_were: Rows<'_, SlotRow> = simulation.before.slots.iter().map(|row| (&row.node, row)).collect();
    let slots_are: Rows<'_, SlotRow> = simulation.after.slots.iter().map(|row| (&row.node, row)).collect();
    let names: BTreeSet<&NodeName> = were.keys().chain(are.keys()).copied().collect();
    let rows: Vec<Vec<String>> = names
        .into_iter()
        .filter(|name| !many || touched.contains(name.as_str()))
        .map(|name| {
            let share = |rows: &Rows<'_, NodeRow>, of: fn(&NodeRow) -> Option<f64>| {
                rows.get(name).and_then(|row| of(row)).map_or_else(|| "-".to_owned(), |share| format!("{:.0}", share * 100.0))
            };
            let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            let pods = |rows: &Rows<'_, NodeRow>| count(rows.get(name).and_then(|row| row.pods));
            let free = |rows: &Rows<'_, SlotRow>| count(rows.get(name).and_then(|row| row.free));
            vec![
                short(name.as_str(), 20),
                change(pods(&were), pods(&are)),
                change(share(&were, |row| row.requested), share(&are, |row| row.requested)),
                change(share(&were, |row| row.cpu_requested), share(&are, |row| row.cpu_requested)),
                change(free(&slots_were), free(&slots_are)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.section("Nodes, before → after");
        page.table(&["node", "pods", "memory %", "cpu %", "free slots"], &[1, 2, 3, 4], &rows);
    }
}

fn differences(page: &mut Page, simulation: &Simulation) {
    let rows = simulation.before.nodes.iter().chain(&simulation.after.nodes);
    let nodes: BTreeSet<&str> = rows.map(|row| row.name.as_str()).collect();
    let rows: Vec<Vec<String>> = simulation
        .difference
        .iter()
        .filter(|one| !nodes.contains(one.subject.as_str()))
        .map(|one| {
            let show = |value: Option<f64>| match (value, one.unit) {
                (None, _) => "-".to_owned(),
                (Some(value), FigureUnit::Count) => format!("{value:.0}"),
                (Some(value), FigureUnit::Bytes) => Bytes(value as u64).to_string(),
                (Some(value), FigureUnit::Share) => percent(Some(value)),
            };
            vec![short(&one.subject, 16), short(&one.figure, 36), show(one.before), show(one.after)]
        })
        .collect();
    if !rows.is_empty() {
        page.section("Hosts and cluster");
        page.table(&["", "figure", "before", "after"], &[2, 3], &rows);
    }
}

fn rules(page: &mut Page, simulation: &Simulation) {
    let value = |rule: &RuleRow| match rule.evidence.value {
        Some(value) if rule.when.ends_with('%') => format!("{:.1}%", value * 100.0),
        Some(value) => format!("{value:.0}"),
        None => "?".to_owned(),
    };
    let rows: Vec<Vec<String>> = simulation
        .before
        .rules
        .iter()
        .filter_map(|was| Some((was, simulation.after.rules.iter().find(|is| is.id == was.id)?)))
        .map(|(was, is)| {
            let changed = was.instant != is.instant;
            let instant = change(verdict(was.instant).to_owned(), verdict(is.instant).to_owned());
            vec![
                short(&was.id, 24),
                short(&was.when, 8),
                change(value(was), value(is)),
                if changed { format!("{BOLD}{instant}{RESET}") } else { instant },
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.section("Rules now, before → after");
        page.table(&["rule", "when", "value", "verdict"], &[2], &rows);
    }
}

fn provenance(page: &mut Page, simulation: &Simulation) {
    if simulation.flagged.is_empty() && simulation.unknown.is_empty() {
        return;
    }
    page.section("Not simulated, not known");
    for one in simulation.flagged.iter().take(MOST_PODS) {
        page.paragraph("", 2, &format!("{} uses {}, which is not simulated", one.pod, one.feature));
    }
    for one in &simulation.unknown {
        page.paragraph("", 2, &format!("{}: {}", one.what, short(&one.why, 3 * WIDTH)));
    }
}

/// A sweep as a heat map, then as a table of where it turns.
pub fn sweep(sweep: &Sweep) -> String {
    let mut page = Page(String::new());
    page.line("capplan simulate --sweep");
    page.line("");
    for (place, change) in sweep.changes.iter().enumerate() {
        page.paragraph(if place == 0 { "first" } else { "" }, LABEL, change);
    }
    let columns = match sweep.axes.as_slice() {
        [columns] | [_, columns] => columns,
        _ => return page.0,
    };
    let rows: Vec<Option<u32>> = match sweep.axes.as_slice() {
        [rows, _] => rows.values.iter().copied().map(Some).collect(),
        _ => vec![None],
    };
    page.paragraph(
        "",
        LABEL,
        &format!("{GREEN}█{RESET} fits  {YELLOW}▒{RESET} in some runs only  {RED}·{RESET} does not fit  ? unknown"),
    );
    page.line("");
    let head = match sweep.axes.as_slice() {
        [rows, columns] => format!("{} ↓  {} →", rows.kind.name(), columns.kind.name()),
        _ => format!("{} →", columns.kind.name()),
    };
    page.line(format!("{DIM}{head}{RESET}"));
    // Long rows go over several bands of at most so many columns.
    let band = WIDTH - 8;
    for start in (0..columns.values.len()).step_by(band) {
        let end = (start + band).min(columns.values.len());
        let (from, to) = (columns.values[start].to_string(), columns.values[end - 1].to_string());
        let gap = (end - start).saturating_sub(from.len() + to.len());
        let scale = if end - start > from.len() + to.len() { format!("{from}{}{to}", " ".repeat(gap)) } else { from };
        page.line(format!("{DIM}        {scale}{RESET}"));
        for (place, row) in rows.iter().enumerate() {
            let cells = &sweep.cells[place * columns.values.len()..(place + 1) * columns.values.len()];
            let marks: String = cells[start..end]
                .iter()
                .map(|cell| match cell.probability {
                    None => "?".to_owned(),
                    Some(all) if all >= 1.0 => format!("{GREEN}█{RESET}"),
                    Some(some) if some > 0.0 => format!("{YELLOW}▒{RESET}"),
                    Some(_) => format!("{RED}·{RESET}"),
                })
                .collect();
            let label = row.map_or_else(String::new, |row| row.to_string());
            page.line(format!("{label:>6}  {marks}"));
        }
    }
    let table: Vec<Vec<String>> = rows
        .iter()
        .enumerate()
        .map(|(place, row)| {
            let cells = &sweep.cells[place * columns.values.len()..(place + 1) * columns.values.len()];
            let refused = cells.iter().find(|cell| cell.probability.is_some_and(|share| share < 1.0));
            let at = |cell: Option<&capplan_planner::simulate::Cell>| {
                cell.and_then(|cell| cell.at.last()).map_or_else(|| "none".to_owned(), ToString::to_string)
            };
            vec![
                row.map_or_else(String::new, |row| row.to_string()),
                ranges(cells),
                at(refused),
                refused.map_or_else(String::new, |cell| cell.unplaceable.to_string()),
            ]
        })
        .collect();
    page.line("");
    let first = sweep.axes.first().filter(|_| sweep.axes.len() == 2).map_or("", |axis| axis.kind.name());
    let name = columns.kind.name();
    page.table(&[first, &format!("{name} that fit"), "refused at", "without a place then"], &[0, 1, 2, 3], &table);
    for undecided in sweep.undecided.iter().take(MOST_UNDECIDED) {
        page.paragraph("  not decided", LABEL + 2, undecided);
    }
    page.0
}

/// Amounts that fit in every run: `0–24, 30`.
fn ranges(cells: &[capplan_planner::simulate::Cell]) -> String {
    let fits = |cell: &&capplan_planner::simulate::Cell| cell.probability.is_some_and(|share| share >= 1.0);
    let runs = cells.chunk_by(|a, b| fits(&a) == fits(&b)).filter(|run| run.first().as_ref().is_some_and(fits));
    let text = |cell: Option<&capplan_planner::simulate::Cell>| {
        cell.and_then(|cell| cell.at.last()).map_or_else(String::new, ToString::to_string)
    };
    let words: Vec<String> = runs
        .map(|run| match run {
            [one] => text(Some(one)),
            run => format!("{}–{}", text(run.first()), text(run.last())),
        })
        .collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
