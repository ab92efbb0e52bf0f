//! Does a threshold hold now, and did it hold for its whole window?

use capplan_model::capacity::Dimension;
use capplan_model::history::{History, Series, coverage};
use capplan_model::kube::Node;
use capplan_model::policy::{Direction, Measure, Mode, Policy, Rule, RuleSet, Scope, Threshold};
use capplan_model::slots::VolumeSlots;
use capplan_model::{Reading, Snapshot};
use jiff::{SignedDuration, Timestamp};

use crate::capacity::{NodeUse, is_evicted, memory_share};

/// Text of the plugin's error when no slot is free.
///
/// # Source
/// `attachVolume`, proxmox-csi v0.5.0 to v0.19.1.
pub const NO_FREE_SLOT: &str = "no free lun found";

/// Whether a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    Met,
    /// It does not: at least one contrary reading.
    NotMet,
    /// Too little was read to say either.
    InsufficientData,
}

impl Verdict {
    fn of(holds: bool) -> Self {
        if holds { Self::Met } else { Self::NotMet }
    }
}

/// What a rule's verdicts rest on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// The measure now.
    pub value: Option<f64>,
    /// Samples in the window, the snapshot's own included.
    pub samples: usize,
    /// Share of the window they cover.
    pub coverage: f64,
    /// Earliest sample of the window that speaks against the rule.
    pub first_contrary: Option<(Timestamp, f64)>,
    /// Since when it has held without a contrary sample.
    pub held_since: Option<Timestamp>,
    /// What could not be read, or how the figure came about.
    pub note: Option<String>,
}

/// A judged rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Which way it points.
    pub direction: Direction,
    /// Whether it holds now.
    pub instant: Verdict,
    /// Whether it held throughout its window.
    pub sustained: Verdict,
    /// Why.
    pub evidence: Evidence,
    /// For shares of memory: the same by each denominator.
    pub by_scope: Vec<ScopeVerdict>,
}

/// A share of memory by one denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScopeVerdict {
    /// The nodes it is about.
    pub scope: Scope,
    /// The share now.
    pub value: f64,
    /// Whether the threshold holds now.
    pub instant: Verdict,
    /// Whether it held throughout the window.
    pub sustained: Verdict,
}

impl Judgement<'_> {
    /// A rule that held, in one line with its figures.
    pub(crate) fn held(&self) -> String {
        let value = self.evidence.value.map_or_else(|| "unknown".to_owned(), |value| self.rule.when.show(value));
        let days = self.rule.window.as_hours() / 24;
        let window = if self.rule.window.is_zero() {
            "now".to_owned()
        } else {
            format!("for {days} days, {:.0}% of them sampled", self.evidence.coverage * 100.0)
        };
        let because = if self.rule.because.is_empty() { String::new() } else { format!(": {}", self.rule.because) };
        format!("`{}` holds ({value}, threshold {}, {window}){because}", self.rule.id, self.rule.when)
    }

    /// A rule that cannot be judged, in one line.
    pub(crate) fn open(&self) -> String {
        match (&self.evidence.value, &self.evidence.note) {
            (None, Some(why)) => format!("`{}` cannot be judged: {why}", self.rule.id),
            (value, _) => {
                let days = self.rule.window.as_hours() as f64 / 24.0;
                format!(
                    "`{}` cannot be judged: {} now ({}), but only {:.1} of {days:.0} days are sampled",
                    self.rule.id,
                    value.map_or_else(|| "unknown".to_owned(), |value| self.rule.when.show(value)),
                    self.rule.when,
                    days * self.evidence.coverage,
                )
            }
        }
    }

    /// A rule that did not hold, in one line with what speaks against it.
    pub(crate) fn contrary(&self, taken: Timestamp) -> String {
        let value = self.evidence.value.map_or_else(|| "unknown".to_owned(), |value| self.rule.when.show(value));
        let then = self.evidence.first_contrary.filter(|(at, _)| *at < taken);
        let then = then.map_or_else(String::new, |(at, value)| format!(", {} at {at}", self.rule.when.show(value)));
        format!("`{}` does not hold ({value} now{then}, needs {})", self.rule.id, self.rule.when)
    }

    /// Where a rule stands: what decides, and what would flip it.
    pub(crate) fn standing(&self) -> String {
        let way = if self.direction == Direction::Up { "up" } else { "down" };
        let value = self.evidence.value.map_or_else(|| "unknown".to_owned(), |value| self.rule.when.show(value));
        let verdict = match self.sustained {
            Verdict::Met => "holds".to_owned(),
            Verdict::NotMet => match self.instant {
                Verdict::Met => "holds now, and did not throughout its window".to_owned(),
                Verdict::NotMet | Verdict::InsufficientData => "does not hold".to_owned(),
            },
            Verdict::InsufficientData => format!("is open: {:.0}% of its window are sampled", self.evidence.coverage * 100.0),
        };
        let days = self.rule.window.as_hours() / 24;
        let window = if days == 0 { String::new() } else { format!(" for {days} days") };
        format!("scale-{way} rule `{}` {verdict}: {value} now, it turns at {}{window}", self.rule.id, self.rule.when)
    }

    /// Whether the verdict now depends on the denominator.
    pub fn scopes_disagree(&self) -> bool {
        self.by_scope.windows(2).any(|pair| pair[0].instant != pair[1].instant)
    }
}

/// What the rules are judged on.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Both planes now.
    pub snapshot: &'a Snapshot,
    /// The past.
    pub history: &'a History,
    /// The policy.
    pub policy: &'a Policy,
    /// What the pods ask for.
    pub uses: &'a Reading<Vec<NodeUse<'a>>>,
    /// Slots of the workers.
    pub slots: &'a Reading<Vec<VolumeSlots>>,
}

/// A value at an instant, as far as the samples tell it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Observed {
    /// All that should have been sampled was.
    Exact(f64),
    /// Something is missing: the true value is this or more.
    AtLeast(f64),
}

impl Observed {
    /// Whether the threshold holds; `None` if the samples leave it open.
    fn holds(self, threshold: &Threshold, slack: f64) -> Option<bool> {
        match self {
            Self::Exact(value) => Some(threshold.holds_within(value, slack)),
            Self::AtLeast(value) => {
                let holds = threshold.holds_within(value, slack);
                (holds == threshold.is_upper()).then_some(holds)
            }
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::Exact(value) | Self::AtLeast(value) => value,
        }
    }
}

/// Judges every rule of the policy.
pub fn judge_all<'a>(facts: &Facts<'a>) -> Vec<Judgement<'a>> {
    facts.policy.rules().map(|(direction, rule)| judge(facts, direction, rule)).collect()
}

/// Judges whether a rule holds now and whether it did throughout its window.
///
/// One contrary sample settles the matter even if others are missing. A gap never counts as met
/// and never as fine: below the policy's coverage the answer is [`Verdict::InsufficientData`].
pub fn judge<'a>(facts: &Facts<'a>, direction: Direction, rule: &'a Rule) -> Judgement<'a> {
    let now = current(facts, rule);
    let mut instant = match &now {
        Reading::Known(value) => Verdict::of(rule.when.holds(*value)),
        Reading::Unknown { .. } => Verdict::InsufficientData,
    };
    if let (Measure::PlannedVolumes, Verdict::Met, Some(attachments)) = (rule.measure, instant, &rule.with_attachments) {
        instant = match most_attachments(facts) {
            Reading::Known(most) => Verdict::of(attachments.holds(most)),
            Reading::Unknown { .. } => Verdict::InsufficientData,
        };
    }
    let mut evidence = Evidence {
        value: now.known().copied(),
        note: now.why().map(str::to_owned),
        samples: 1,
        coverage: 1.0,
        ..Default::default()
    };
    let sustained = if rule.window.is_zero() {
        evidence.samples = usize::from(now.known().is_some());
        instant
    } else if rule.measure == Measure::EvictionsPerDay {
        evictions_sustained(facts, rule, &mut evidence)
    } else {
        sustained(facts, rule, &now, &mut evidence)
    };
    let by_scope = if rule.measure.is_memory_share() {
        Scope::ALL.into_iter().filter_map(|scope| by_denominator(facts, rule, scope)).collect()
    } else {
        Vec::new()
    };
    Judgement { rule, direction, instant, sustained, evidence, by_scope }
}

/// The rule's verdicts with the denominator of another scope.
fn by_denominator(facts: &Facts<'_>, rule: &Rule, scope: Scope) -> Option<ScopeVerdict> {
    let now = share_now(facts, rule.measure, scope);
    let value = *now.known()?;
    let rule = Rule { scope, ..rule.clone() };
    let instant = Verdict::of(rule.when.holds(value));
    let sustained = if rule.window.is_zero() { instant } else { sustained(facts, &rule, &now, &mut Evidence::default()) };
    Some(ScopeVerdict { scope, value, instant, sustained })
}

/// The verdict of a whole rule set.
pub fn combine(set: &RuleSet, judgements: &[&Judgement<'_>]) -> Verdict {
    let any = |verdict: Verdict| judgements.iter().any(|one| one.sustained == verdict);
    let (decisive, other) = match set.mode {
        Mode::Any => (Verdict::Met, Verdict::NotMet),
        Mode::All => (Verdict::NotMet, Verdict::Met),
    };
    if any(decisive) {
        decisive
    } else if any(Verdict::InsufficientData) || judgements.is_empty() {
        Verdict::InsufficientData
    } else {
        other
    }
}

fn current(facts: &Facts<'_>, rule: &Rule) -> Reading<f64> {
    match rule.measure {
        Measure::VolumeAttachments => most_attachments(facts),
        Measure::MemoryRequests | Measure::MemoryLimits => share_now(facts, rule.measure, rule.scope),
        Measure::MemoryLimitsPerNode => facts.uses.as_ref().and_then(|uses| {
            let workers = uses.iter().filter(|one| one.is_in(Scope::Workers));
            workers
                .map(|one| one.limits.memory.0 as f64 / (one.node.allocatable.memory.0.max(1)) as f64)
                .reduce(f64::max)
                .map_or_else(|| Reading::unknown("there is no worker"), Reading::Known)
        }),
        Measure::AttachFailures => attach_failures(facts),
        Measure::EvictionsPerDay => evictions(facts, 0),
        Measure::PlannedVolumes => Reading::Known(facts.policy.plan.planned_volumes as f64),
        Measure::NoGrowthConfirmed => Reading::Known(f64::from(u8::from(facts.policy.plan.no_growth_confirmed))),
    }
}

/// Most VolumeAttachment objects of the attacher on one worker, and that worker.
fn most_attachments(facts: &Facts<'_>) -> Reading<f64> {
    facts.slots.as_ref().and_then(|slots| {
        let mut most = None;
        for one in slots {
            match &one.attached {
                Reading::Known(attached) => most = most.max(Some(attached.len())),
                Reading::Unknown { why } => return Reading::unknown(why),
            }
        }
        most.map_or_else(|| Reading::unknown("there is no worker"), |most| Reading::Known(most as f64))
    })
}

fn share_now(facts: &Facts<'_>, measure: Measure, scope: Scope) -> Reading<f64> {
    facts.uses.as_ref().and_then(|uses| {
        let share = memory_share(uses, scope);
        let value = if measure == Measure::MemoryLimits { share.limited() } else { share.requested() };
        value.map_or_else(|| Reading::unknown(format!("no node is in scope {}", scope.name())), Reading::Known)
    })
}

/// Volumes that could not be attached because no slot was free: by VolumeAttachment, or by events
/// of the last hour (the API server keeps them no longer by default).
fn attach_failures(facts: &Facts<'_>) -> Reading<f64> {
    let kube = &facts.snapshot.kube;
    let failed = |message: &str| message.contains(NO_FREE_SLOT);
    let by_attachment = kube.volume_attachments.known().map(|list| {
        let mine = list.iter().filter(|one| one.attacher == facts.policy.attacher && !one.attached);
        mine.filter(|one| one.attach_error.as_deref().is_some_and(failed)).count()
    });
    let hour_ago = facts.snapshot.taken - SignedDuration::from_hours(1);
    let by_event = kube.events.known().map(|events| {
        let recent = events.iter().filter(|event| event.last_seen.is_some_and(|seen| seen >= hour_ago));
        recent.filter(|event| failed(&event.message)).count()
    });
    match (by_attachment, by_event) {
        (Some(attachments), events) => Reading::Known(attachments.max(events.unwrap_or_default()) as f64),
        (None, Some(events)) if events > 0 => Reading::Known(events as f64),
        _ => Reading::unknown(kube.volume_attachments.why().unwrap_or("not read")),
    }
}

/// Pods evicted in the day that ended `days_ago` days before now: a lower bound from the pod
/// objects still there and from the rises of the sampled number of evicted pods.
fn evictions(facts: &Facts<'_>, days_ago: i64) -> Reading<f64> {
    let end = facts.snapshot.taken - SignedDuration::from_hours(24 * days_ago);
    let start = end - SignedDuration::from_hours(24);
    let within = |at: Timestamp| at > start && at <= end;
    let by_object = facts
        .snapshot
        .kube
        .pods
        .as_ref()
        .map(|pods| pods.iter().filter(|pod| is_evicted(pod) && pod.ended.is_some_and(within)).count() as f64);
    let series = facts.history.series(Dimension::EvictedPods, "");
    let by_history = series.map(|series| {
        let points: Vec<f64> = series.range(start..=end).map(|(_, point)| point.used).collect();
        points.windows(2).map(|pair| (pair[1] - pair[0]).max(0.0)).sum::<f64>()
    });
    match (by_object, by_history) {
        (Reading::Known(objects), history) => Reading::Known(objects.max(history.unwrap_or_default())),
        (Reading::Unknown { why }, _) => Reading::Unknown { why },
    }
}

fn evictions_sustained(facts: &Facts<'_>, rule: &Rule, evidence: &mut Evidence) -> Verdict {
    let days = (rule.window.as_hours() / 24).max(1);
    let mut counts = Vec::new();
    for day in 0..days {
        match evictions(facts, day) {
            Reading::Known(count) => counts.push(count),
            Reading::Unknown { why } => {
                evidence.note = Some(why);
                (evidence.samples, evidence.coverage) = (0, 0.0);
                return Verdict::InsufficientData;
            }
        }
    }
    evidence.samples = counts.len();
    let text: Vec<String> = counts.iter().map(|count| format!("{count:.0}")).collect();
    evidence.note =
        Some(format!("by day, latest first: {} (evicted pods that still exist, and rises in the history)", text.join(", ")));
    let contrary = counts.iter().position(|count| !rule.when.holds_within(*count, rule.hysteresis));
    evidence.first_contrary =
        contrary.map(|day| (facts.snapshot.taken - SignedDuration::from_hours(24 * day as i64), counts[day]));
    Verdict::of(contrary.is_none())
}

fn sustained(facts: &Facts<'_>, rule: &Rule, now: &Reading<f64>, evidence: &mut Evidence) -> Verdict {
    let end = facts.snapshot.taken;
    let start = end - rule.window;
    let mut observed = observations(facts, rule, start, end);
    if let Reading::Known(value) = now {
        // The snapshot is a sample too, and better than one of the same instant.
        observed.retain(|(at, _)| *at < end);
        observed.push((end, Observed::Exact(*value)));
    }
    let judged: Vec<(Timestamp, f64, bool)> =
        observed.iter().filter_map(|(at, seen)| Some((*at, seen.value(), seen.holds(&rule.when, rule.hysteresis)?))).collect();
    evidence.samples = judged.len();
    evidence.coverage = coverage(judged.iter().map(|(at, ..)| *at), end, rule.window, facts.policy.sample_interval);
    evidence.first_contrary = judged.iter().find(|(.., holds)| !holds).map(|(at, value, _)| (*at, *value));
    let held = judged.iter().rev().take_while(|(.., holds)| *holds).last();
    evidence.held_since = held.map(|(at, ..)| *at);
    if evidence.first_contrary.is_some() {
        Verdict::NotMet
    } else if now.known().is_none() {
        // The past alone does not say that it holds.
        Verdict::InsufficientData
    } else if evidence.coverage + 1e-9 >= facts.policy.coverage {
        Verdict::Met
    } else {
        Verdict::InsufficientData
    }
}

/// What the history says about the measure at each instant of `(start, end]`, oldest first.
fn observations(facts: &Facts<'_>, rule: &Rule, start: Timestamp, end: Timestamp) -> Vec<(Timestamp, Observed)> {
    let dimension = match rule.measure {
        Measure::VolumeAttachments => Dimension::VolumeAttachments,
        Measure::MemoryRequests => Dimension::MemoryRequests,
        Measure::MemoryLimits | Measure::MemoryLimitsPerNode => Dimension::MemoryLimits,
        Measure::AttachFailures | Measure::EvictionsPerDay | Measure::PlannedVolumes | Measure::NoGrowthConfirmed => {
            return Vec::new();
        }
    };
    let is_share = rule.measure.is_memory_share();
    let scope = if is_share { rule.scope } else { Scope::Workers };
    let Some(nodes) = facts.snapshot.kube.nodes.known() else { return Vec::new() };
    let members = members(facts.history, dimension, nodes, scope);
    let mut seen = Vec::new();
    for at in facts.history.instants(dimension, start, end) {
        let (mut used, mut limit, mut most, mut complete, mut any) = (0.0, 0.0, 0.0_f64, true, false);
        for (series, since) in &members {
            match series.and_then(|series| series.get(&at)) {
                Some(point) => {
                    let share = point.limit.filter(|limit| *limit > 0.0);
                    any = true;
                    used += point.used;
                    limit += share.unwrap_or_default();
                    if rule.measure == Measure::VolumeAttachments {
                        most = most.max(point.used);
                    } else {
                        most = most.max(share.map_or(0.0, |limit| point.used / limit));
                        complete &= share.is_some();
                    }
                }
                // A node that did not exist yet is not missing; one that is gone leaves no gap.
                None => complete &= since.is_none_or(|since| since > at),
            }
        }
        if !any {
            continue;
        }
        if is_share {
            if complete && limit > 0.0 {
                seen.push((at, Observed::Exact(used / limit)));
            }
        } else {
            seen.push((at, if complete { Observed::Exact(most) } else { Observed::AtLeast(most) }));
        }
    }
    seen
}

/// Series of the scope's nodes with the instant each must be sampled from: nodes of today by their
/// creation, nodes that are gone only while they were sampled (`None`).
///
/// The role of a node that is gone is not known any more: it counts as a worker. Taints of the
/// past are not known either: scope `general` is that of today.
fn members<'h>(
    history: &'h History,
    dimension: Dimension,
    nodes: &[Node],
    scope: Scope,
) -> Vec<(Option<&'h Series>, Option<Timestamp>)> {
    let in_scope = |node: &Node| match scope {
        Scope::AllNodes => true,
        Scope::Workers => !node.is_control_plane(),
        Scope::General => node.takes_general_pods(),
    };
    let today = nodes
        .iter()
        .filter(|node| in_scope(node))
        .map(|node| (history.series(dimension, node.name.as_str()), Some(node.created.unwrap_or(Timestamp::MIN))));
    let gone = history
        .subjects(dimension)
        .filter(|(subject, _)| nodes.iter().all(|node| node.name.as_str() != *subject))
        .map(|(_, series)| (Some(series), None));
    today.chain(gone).collect()
}
