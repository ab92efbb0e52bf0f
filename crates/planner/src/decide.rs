//! The next step: add a worker, remove one, something cheaper, or nothing, and why.

use capplan_model::Reading;
use capplan_model::ids::HostName;
use capplan_model::plan::{self, Rejected};
use capplan_model::policy::{Direction, Measure};
use capplan_model::slots::VolumeSlots;
use capplan_model::units::Bytes;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::capacity::commitment;
use crate::plan::{removable, settling};
use crate::rules::{Facts, Judgement, Verdict, combine};

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Add a worker.
    ScaleUp,
    /// Remove a worker.
    ScaleDown,
    /// Get back what is lost: ghosts, phantom slots, forgotten volumes.
    Reclaim,
    /// Nothing.
    None,
    /// What it would rest on could not be read, or not for long enough.
    InsufficientData,
}

/// The next step with its reasons.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Recommendation {
    /// What to do.
    pub action: Action,
    /// On what: the host for a new worker, the worker to remove, the nodes to clean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether another worker is due and no host can take one.
    pub blocked: bool,
    /// Why, most important first.
    pub because: Vec<String>,
    /// What was considered and why it was not chosen.
    #[serde(serialize_with = "as_lines")]
    #[schemars(with = "Vec<String>")]
    pub rejected: Vec<Rejected>,
}

fn as_lines<S: Serializer>(list: &[Rejected], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(ToString::to_string))
}

/// Room of a host for one more worker.
#[derive(Clone, Debug)]
pub struct HostRoom {
    /// The host.
    pub host: HostName,
    /// Memory available now.
    pub available: Reading<Bytes>,
    /// What a new worker needs.
    pub needed: Bytes,
    /// Share of the memory committed to running guests with the new worker.
    pub committed_after: Option<f64>,
}

impl HostRoom {
    /// Whether a worker fits.
    pub fn fits(&self) -> bool {
        self.available.known().is_some_and(|available| *available >= self.needed)
    }

    /// The figures in words.
    pub fn describe(&self) -> String {
        let committed =
            self.committed_after.map_or_else(String::new, |share| format!(", running guests would commit {:.0}%", share * 100.0));
        match &self.available {
            Reading::Known(available) => {
                format!("{} has {available} available, a new worker needs {}{committed}", self.host, self.needed)
            }
            Reading::Unknown { why } => format!("memory of {} is unknown: {why}", self.host),
        }
    }
}

/// Room of every host for one more worker.
pub fn host_rooms(facts: &Facts<'_>) -> Vec<HostRoom> {
    let worker = facts.policy.worker;
    let rooms = facts.snapshot.hosts().filter(|host| host.online).map(|host| {
        let total = host.memory.known().map(|memory| memory.total.0 as f64);
        let running = commitment(facts.snapshot, host).into_known().map(|sum| sum.running);
        HostRoom {
            host: host.name.clone(),
            available: host.memory.as_ref().map(|memory| memory.available()),
            needed: worker.memory + worker.host_reserve,
            committed_after: total.zip(running).map(|(total, running)| (running + worker.memory).0 as f64 / total),
        }
    });
    rooms.collect()
}

/// Decides on the next step.
///
/// Nothing is recommended that rests on something unknown. A worker is removed only if the state
/// afterwards meets no rule to add one.
pub fn decide(facts: &Facts<'_>, judgements: &[Judgement<'_>]) -> Recommendation {
    let of = |direction| judgements.iter().filter(|one| one.direction == direction).collect::<Vec<_>>();
    let (up, down) = (of(Direction::Up), of(Direction::Down));
    match combine(&facts.policy.scale_up, &up) {
        Verdict::Met => scale_up(facts, &up),
        Verdict::InsufficientData => {
            let mut because: Vec<String> =
                up.iter().filter(|one| one.sustained == Verdict::InsufficientData).map(|one| open(one)).collect();
            because.extend(reclaimable(facts).map(|(_, why)| format!("in any case: {why}")));
            Recommendation { action: Action::InsufficientData, target: None, blocked: false, because, rejected: Vec::new() }
        }
        Verdict::NotMet => {
            let mut because = vec!["no rule for another worker holds".to_owned()];
            if let Some(lost) = reclaimable(facts) {
                because.insert(0, lost.1);
                let rejected = vec![no_up("no rule for it holds"), no_down("not while slots are lost")];
                return Recommendation { action: Action::Reclaim, target: Some(lost.0), blocked: false, because, rejected };
            }
            scale_down(facts, &down, because)
        }
    }
}

fn no_up(why: impl Into<String>) -> Rejected {
    Rejected::action(plan::Action::ScaleUp, why)
}

fn no_down(why: impl Into<String>) -> Rejected {
    Rejected::action(plan::Action::ScaleDown, why)
}

/// A met rule in one line.
fn held(one: &Judgement<'_>) -> String {
    let value = one.evidence.value.map_or_else(|| "unknown".to_owned(), |value| one.rule.when.show(value));
    let days = one.rule.window.as_hours() / 24;
    let window = if one.rule.window.is_zero() {
        "now".to_owned()
    } else {
        format!("for {days} days, {:.0}% of them sampled", one.evidence.coverage * 100.0)
    };
    let because = if one.rule.because.is_empty() { String::new() } else { format!(": {}", one.rule.because) };
    format!("`{}` holds ({value}, threshold {}, {window}){because}", one.rule.id, one.rule.when)
}

/// An open rule in one line.
fn open(one: &Judgement<'_>) -> String {
    match (&one.evidence.value, &one.evidence.note) {
        (None, Some(why)) => format!("`{}` cannot be judged: {why}", one.rule.id),
        (value, _) => {
            let days = one.rule.window.as_hours() as f64 / 24.0;
            format!(
                "`{}` cannot be judged: {} now ({}), but only {:.1} of {days:.0} days are sampled",
                one.rule.id,
                value.map_or_else(|| "unknown".to_owned(), |value| one.rule.when.show(value)),
                one.rule.when,
                days * one.evidence.coverage,
            )
        }
    }
}

fn scale_up(facts: &Facts<'_>, up: &[&Judgement<'_>]) -> Recommendation {
    let met: Vec<&&Judgement<'_>> = up.iter().filter(|one| one.sustained == Verdict::Met).collect();
    let mut because: Vec<String> = met.iter().map(|one| held(one)).collect();
    let holds = "a rule for another worker holds";
    let mut rejected = vec![no_down(holds), Rejected::action(plan::Action::None, holds)];
    let rooms = host_rooms(facts);
    let lost = reclaimable(facts);
    let about_slots = met
        .iter()
        .all(|one| matches!(one.rule.measure, Measure::VolumeAttachments | Measure::AttachFailures | Measure::PlannedVolumes));
    let best = rooms
        .iter()
        .filter(|room| room.fits())
        .max_by_key(|room| (room.available.known().copied(), std::cmp::Reverse(&room.host)));
    if let Some((target, why)) = &lost {
        if about_slots && frees_enough(facts) {
            because.push(why.clone());
            rejected.push(no_up("cleaning up alone brings the fullest worker below the threshold"));
            return Recommendation { action: Action::Reclaim, target: Some(target.clone()), blocked: false, because, rejected };
        }
        let why = format!("{why}; worth doing, but the rules above still hold afterwards");
        rejected.push(Rejected::action(plan::Action::Reclaim, why));
    }
    if let Some(room) = best {
        because.push(room.describe());
        if room.committed_after.is_some_and(|share| share > 1.0) {
            because.push(format!("caution: with it the running guests of {} may use more memory than it has", room.host));
        }
        return Recommendation {
            action: Action::ScaleUp,
            target: Some(room.host.to_string()),
            blocked: false,
            because,
            rejected,
        };
    }
    let all_known = !rooms.is_empty()
        && rooms.iter().all(|room| room.available.known().is_some())
        && facts.snapshot.pve.iter().all(|pve| pve.hosts.known().is_some());
    let why = if rooms.is_empty() {
        "no host was read".to_owned()
    } else {
        rooms.iter().map(|room| room.describe()).collect::<Vec<_>>().join("; ")
    };
    if !all_known {
        because.push(format!("another worker is due, but whether a host can take it is not known: {why}"));
        return Recommendation { action: Action::InsufficientData, target: None, blocked: false, because, rejected };
    }
    because.insert(0, format!("another worker is due, but no host can take one: {why}"));
    rejected.insert(0, no_up(why));
    match lost {
        Some((target, why)) => {
            because.insert(1, why);
            Recommendation { action: Action::Reclaim, target: Some(target), blocked: true, because, rejected }
        }
        None => Recommendation { action: Action::None, target: None, blocked: true, because, rejected },
    }
}

/// Why no worker is added, and whether one could be.
fn no_scale_up(facts: &Facts<'_>) -> Rejected {
    let rooms = host_rooms(facts);
    let blocked = !rooms.is_empty() && rooms.iter().all(|room| room.available.known().is_some() && !room.fits());
    let rooms: Vec<String> = rooms.iter().map(|room| room.describe()).collect();
    let could = if blocked { format!("; none could be added either: {}", rooms.join("; ")) } else { String::new() };
    no_up(format!("no rule for it holds{could}"))
}

fn scale_down(facts: &Facts<'_>, down: &[&Judgement<'_>], mut because: Vec<String>) -> Recommendation {
    let mut rejected = vec![no_scale_up(facts)];
    let none = |because, rejected| Recommendation { action: Action::None, target: None, blocked: false, because, rejected };
    match combine(&facts.policy.scale_down, down) {
        Verdict::NotMet => {
            let contrary = down.iter().filter(|one| one.sustained == Verdict::NotMet).map(|one| {
                let value = one.evidence.value.map_or_else(|| "unknown".to_owned(), |value| one.rule.when.show(value));
                let then = one.evidence.first_contrary.filter(|(at, _)| *at < facts.snapshot.taken);
                let then = then.map_or_else(String::new, |(at, value)| format!(", {} at {at}", one.rule.when.show(value)));
                format!("`{}` does not hold ({value} now{then}, needs {})", one.rule.id, one.rule.when)
            });
            rejected.push(no_down(contrary.collect::<Vec<_>>().join("; ")));
            none(because, rejected)
        }
        Verdict::InsufficientData => {
            let open: Vec<String> =
                down.iter().filter(|one| one.sustained == Verdict::InsufficientData).map(|one| open(one)).collect();
            rejected.push(no_down(open.join("; ")));
            none(because, rejected)
        }
        Verdict::Met => {
            if let Some(why) = settling(facts) {
                rejected.push(no_down(format!("every rule for it holds, but {why}")));
                return none(because, rejected);
            }
            let removable = match removable(facts) {
                Reading::Known(removable) => removable,
                Reading::Unknown { why } => {
                    rejected.push(no_down(format!("every rule for it holds, but what it rests on is unknown: {why}")));
                    return none(because, rejected);
                }
            };
            rejected.extend(removable.rejected);
            let Some(node) = removable.node else {
                because.push("every rule for a worker less holds, but no worker can go".to_owned());
                return none(because, rejected);
            };
            because = down.iter().map(|one| held(one)).collect();
            because.push(format!("without {node} every pod has a place, and no rule for another worker holds then"));
            Recommendation { action: Action::ScaleDown, target: Some(node.to_string()), blocked: false, because, rejected }
        }
    }
}

/// Slots that are lost to ghosts and phantoms: `(nodes, why)`.
fn reclaimable(facts: &Facts<'_>) -> Option<(String, String)> {
    let slots = facts.slots.known()?;
    let ghosts = |one: &VolumeSlots| one.ghosts.known().map_or(0, |ghosts| ghosts.len() as u64);
    let lost: Vec<(&VolumeSlots, u64, u64)> = slots
        .iter()
        .map(|one| (one, ghosts(one), one.phantom().unwrap_or_default()))
        .filter(|(_, ghosts, phantom)| ghosts + phantom > 0)
        .collect();
    if lost.is_empty() {
        return None;
    }
    let target: Vec<String> = lost.iter().map(|(one, ..)| one.node.to_string()).collect();
    let text: Vec<String> = lost
        .iter()
        .map(|(one, ghosts, phantom)| match (ghosts, phantom) {
            (ghosts, 0) => format!("{ghosts} ghost{} on {}", if *ghosts == 1 { "" } else { "s" }, one.node),
            (0, phantom) => format!("{phantom} phantom slot{} on {}", if *phantom == 1 { "" } else { "s" }, one.node),
            (ghosts, phantom) => format!("{ghosts} ghosts and {phantom} phantom slots on {}", one.node),
        })
        .collect();
    Some((target.join(", "), format!("slots are lost: {}", text.join(", "))))
}

/// Whether cleaning up ghosts alone gives every worker a free slot and keeps each attachment count
/// below the rules' thresholds.
fn frees_enough(facts: &Facts<'_>) -> bool {
    let Some(slots) = facts.slots.known() else { return false };
    let thresholds = facts.policy.scale_up.rules.iter().filter(|rule| rule.measure == Measure::VolumeAttachments);
    let below = slots.iter().all(|one| {
        let attached = one.attached.known().map(|attached| attached.len() as f64);
        attached.is_some_and(|attached| thresholds.clone().all(|rule| !rule.when.holds(attached)))
    });
    let free = slots.iter().all(|one| {
        let ghosts = one.ghosts.known().map_or(0, |ghosts| ghosts.len() as u64);
        let failing = one.attached.known().map_or(0, |attached| attached.iter().filter(|one| one.error.is_some()).count() as u64);
        // An attachment that failed is counted already: it needs a slot in the config only.
        one.free().is_some_and(|free| free + ghosts >= failing)
    });
    below && free
}
