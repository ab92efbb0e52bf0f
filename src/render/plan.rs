//! A plan for a terminal: 80 columns, readable without colour.

use capplan_model::plan::{Action, Blocker, Cost, Feasibility, OptimalityStatus, Plan, PodMove};

use super::instant;
use super::page::{BOLD, DIM, GREEN, Page, RED, RESET, WIDTH, YELLOW, short};

/// Blockers of one kind and node listed before the rest is only counted.
const MOST_BLOCKERS: usize = 15;
/// Pods of a node listed before the rest is only counted.
const MOST_PODS: usize = 80;
/// Steps listed before the rest is only counted.
const MOST_STEPS: usize = 400;
/// Width of the label column.
const LABEL: usize = 13;

/// The plan as text with colours; the caller strips them where stdout is no terminal.
pub fn text(plan: &Plan, explain: bool) -> String {
    let mut page = Page(String::new());
    headline(&mut page, plan);
    if explain {
        list(&mut page, "What decides it", &plan.explanation);
    }
    blockers(&mut page, &plan.blockers);
    order(&mut page, plan);
    list(&mut page, "To know before", &plan.warnings);
    rejected(&mut page, plan);
    steps(&mut page, plan);
    provenance(&mut page, plan);
    page.0
}

fn headline(page: &mut Page, plan: &Plan) {
    page.line(short(&format!("capplan plan {} · {}", plan.action.name(), instant(plan.at)), WIDTH));
    page.line("");
    if let Some(target) = &plan.target {
        page.paragraph("target", LABEL, target);
    }
    let answer = match plan.feasibility {
        Feasibility::Feasible if plan.action == Action::None => format!("{GREEN}nothing to do{RESET}"),
        Feasibility::Feasible => format!("{GREEN}can be done{RESET}"),
        Feasibility::Blocked => format!("{RED}cannot be done{RESET}"),
        Feasibility::Undecided => format!("{YELLOW}undecided{RESET}"),
    };
    page.paragraph("answer", LABEL, &answer);
    for because in &plan.because {
        page.paragraph("  because", LABEL, because);
    }
    if let Some(text) = optimality(plan) {
        page.paragraph("  moves", LABEL, &text);
    }
    for worker in &plan.workers {
        let address = worker.address.as_deref().unwrap_or("by DHCP");
        let text = format!(
            "{} (VM {}) on {}: {} memory, {} cores, {address}; like {}",
            worker.name, worker.vmid, worker.host, worker.memory, worker.cores, worker.like
        );
        page.paragraph("worker", LABEL, &text);
        let labels: Vec<String> = worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        page.paragraph("  labels", LABEL, &labels.join(", "));
        if !worker.taints.is_empty() {
            page.paragraph("  taints", LABEL, &worker.taints.join(", "));
        }
    }
}

fn optimality(plan: &Plan) -> Option<String> {
    let found = &plan.optimality;
    let note = &found.note;
    match (found.status, found.objective, found.bound, found.gap) {
        (OptimalityStatus::Optimal, Some(moves), ..) => Some(format!("{moves:.0}, proven fewest ({note})")),
        (OptimalityStatus::Feasible, Some(moves), Some(bound), Some(gap)) => {
            Some(format!("{moves:.0}, no plan has fewer than {bound:.0}: at most {:.1}% too many ({note})", gap * 100.0))
        }
        (OptimalityStatus::Feasible, Some(moves), ..) => Some(format!("{moves:.0} ({note})")),
        (OptimalityStatus::Infeasible, ..) => Some(format!("none: {note}")),
        (OptimalityStatus::Unknown, ..) => Some(format!("unknown: {note}")),
        (OptimalityStatus::NotApplicable | OptimalityStatus::Optimal | OptimalityStatus::Feasible, ..) => None,
    }
}

fn list(page: &mut Page, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    page.section(title);
    for line in lines {
        page.paragraph("·", 2, line);
    }
}

fn blockers(page: &mut Page, blockers: &[Blocker]) {
    if blockers.is_empty() {
        return;
    }
    page.section("What blocks it");
    let mut groups: Vec<Vec<&Blocker>> = Vec::new();
    for one in blockers {
        match groups.last_mut().filter(|group| group[0].node == one.node && group[0].code == one.code) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    for group in groups {
        let node = if group[0].node.as_str().is_empty() { String::new() } else { format!("{} · ", group[0].node) };
        page.line(format!("{BOLD}{node}{}{RESET} ({})", group[0].code.name(), group.len()));
        for one in group.iter().take(MOST_BLOCKERS) {
            page.paragraph("  ·", 4, &format!("{}: {}", one.subject, one.detail));
        }
        if group.len() > MOST_BLOCKERS {
            page.line(format!("    … and {} more (see --format json)", group.len() - MOST_BLOCKERS));
        }
    }
}

/// The parts of a cost that are not zero, and their sum.
fn cost(cost: &Cost) -> String {
    let counted = [
        (10, cost.controllers_with_remote_consumers, "storage controllers used from elsewhere"),
        (5, cost.singleton_rwo, "single pods with a volume"),
        (3, cost.single_primary, "database primaries"),
        (1, cost.pvc_reattach, "volumes"),
    ];
    let mut parts: Vec<String> = counted
        .iter()
        .filter(|(_, count, _)| *count > 0)
        .map(|(weight, count, what)| if *weight == 1 { format!("{count} {what}") } else { format!("{weight} × {count} {what}") })
        .collect();
    parts.push(format!("{} / 4 GiB", cost.memory));
    if cost.role != 0.0 {
        parts.push(format!("{} role", cost.role));
    }
    format!("cost {:.1} = {}", cost.total, parts.join(" + "))
}

fn order(page: &mut Page, plan: &Plan) {
    if plan.order.is_empty() {
        return;
    }
    page.section("Order");
    for (place, node) in plan.order.iter().enumerate() {
        page.line(format!("{BOLD}{}. {}{RESET}", place + 1, node.node));
        if node.cost.total > 0.0 {
            page.paragraph("  ", 3, &format!("{DIM}{}{RESET}", cost(&node.cost)));
        }
        let rows: Vec<Vec<String>> = node.pods.iter().take(MOST_PODS).map(|pod| row(pod, node.node.as_str())).collect();
        if !rows.is_empty() {
            page.table(&["pod", "to", "wait", "volumes"], &[2, 3], &rows);
        }
        if node.pods.len() > MOST_PODS {
            page.line(format!("… and {} more (see --format json)", node.pods.len() - MOST_PODS));
        }
    }
}

fn row(pod: &PodMove, node: &str) -> Vec<String> {
    let from = if pod.from.as_str() == node { String::new() } else { format!(" (from {})", pod.from) };
    let to = pod.to.as_ref().map_or_else(|| "gone".to_owned(), ToString::to_string);
    let or = match pod.or.len() {
        0 => String::new(),
        1 => format!(" or {}", pod.or[0]),
        more => format!(" or {more} others"),
    };
    let led = if pod.close.is_empty() { "" } else { " (led)" };
    let wait = if pod.stagger_seconds == 0 { String::new() } else { format!("{} s", pod.stagger_seconds) };
    let volumes = if pod.volumes.is_empty() { String::new() } else { pod.volumes.len().to_string() };
    vec![short(&format!("{}{from}", pod.pod), 36), format!("{to}{or}{led}"), wait, volumes]
}

fn rejected(page: &mut Page, plan: &Plan) {
    if plan.rejected.is_empty() {
        return;
    }
    page.section("Not chosen");
    for one in &plan.rejected {
        let target = one.target.as_ref().map_or_else(String::new, |target| format!(" {target}"));
        page.paragraph("·", 2, &format!("{}{target}: {}", one.action.name(), one.why));
    }
}

fn steps(page: &mut Page, plan: &Plan) {
    if plan.steps.is_empty() {
        return;
    }
    page.section("Steps");
    for step in plan.steps.iter().take(MOST_STEPS) {
        page.paragraph(&format!("{:>4}", step.number), 6, &step.title);
    }
    if plan.steps.len() > MOST_STEPS {
        page.line(format!("… and {} more (see --format json)", plan.steps.len() - MOST_STEPS));
    }
}

fn provenance(page: &mut Page, plan: &Plan) {
    list(page, "Not certain", &plan.undecided);
    page.line("");
    page.line(format!("{DIM}plan {}{RESET}", short(&plan.id, 19)));
}
