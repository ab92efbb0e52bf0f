//! Puts the report together from the facts.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::capacity::{Dimension, Usage};
use capplan_model::history::{History, Series};
use capplan_model::ids::{NodeName, SnapshotId};
use capplan_model::join::{Join, join};
use capplan_model::policy::{Direction, Measure, Policy, Scope};
use capplan_model::pve::{Power, ThinPool};
use capplan_model::slots::{ConfigSlots, VolumeSlots};
use capplan_model::units::total;
use capplan_model::{Reading, Snapshot};
use jiff::{SignedDuration, Timestamp};

use super::{
    Binding, Chart, ChartUnit, Contrary, DimensionRow, FORMAT, Fill, Forecast, HistoryRow, HostMemoryRow, HostRow, Memory,
    NodeLossRow, NodeRow, PoolRow, Recommendation, Report, RuleEvidence, RuleRow, ScopeRow, Shares, SlotRow, State, Unknown,
};
use crate::capacity::{NodeUse, commitment, memory_share, node_uses, usages};
use crate::decide::decide_judged;
use crate::findings;
use crate::forecast::trend;
use crate::host_fit::host_rooms;
use crate::loss::losses;
use crate::plan::{Limits, Observation};
use crate::rules::{Facts, Judgement, judge_all};

/// A date further away than this does not make a limit the one that bites first.
const NEAR_DAYS: i64 = 90;
/// Holders whose trend is drawn, fullest first: on a large cluster the emptier ones are not next.
const MOST_FORECASTS: usize = 500;
/// Age up to which a sample of a file system stands for now.
const FILESYSTEM_HOURS: i64 = 2;
/// Days of history that are drawn.
const CHART_DAYS: i64 = 30;
/// Most lines in one chart: more cannot be told apart.
const CHART_LINES: usize = 8;

/// Builds the report of `snapshot` as of the instant it was taken.
///
/// `unread` names what could not be read besides the snapshot's own unknowns, such as a damaged
/// history file: `(what, why)`.
pub fn build(snapshot: &Snapshot, id: SnapshotId, history: &History, policy: &Policy, unread: Vec<(String, String)>) -> Report {
    let uses = node_uses(snapshot);
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let facts = Facts { snapshot, history, policy, uses: &uses, slots: &slots };
    let joins = join(snapshot);
    let (mut found, mut unknown) = usages(snapshot, policy, &uses, &slots);
    let filesystems = filesystems(history, snapshot.taken);
    if !filesystems.is_empty() {
        unknown.retain(|(dimension, _)| *dimension != Dimension::NodeFilesystem);
        found.extend(filesystems);
    }
    let judgements = judge_all(&facts);
    let findings = findings::find(&facts, &joins, &found, &judgements);
    let dimensions = dimension_rows(&facts, &found, &unknown);
    let mut unknowns: Vec<Unknown> =
        snapshot.unknowns().into_iter().chain(unread).map(|(what, why)| Unknown { what, why }).collect();
    unknowns.extend(
        unknown
            .iter()
            .filter(|(dimension, _)| *dimension == Dimension::NodeFilesystem)
            .map(|(dimension, why)| Unknown { what: dimension.name().to_owned(), why: why.clone() }),
    );
    let span = history.span();
    Report {
        format: FORMAT.to_owned(),
        at: snapshot.taken,
        snapshot: id.clone(),
        cluster: snapshot.cluster.clone(),
        versions: versions(snapshot),
        recommendation: recommendation(&facts, &judgements, id),
        binding: binding(&facts, &found, &unknown),
        dimensions,
        memory: memory(&uses, &judgements),
        node_loss: uses
            .known()
            .map(|uses| losses(uses))
            .unwrap_or_default()
            .into_iter()
            .map(|loss| NodeLossRow {
                fits_by_sum: loss.to_move <= loss.free,
                node: loss.node,
                to_move: loss.to_move,
                free: loss.free,
            })
            .collect(),
        slots: slots.known().into_iter().flatten().map(slot_row).collect(),
        rules: judgements.iter().map(|one| rule_row(one, snapshot.taken)).collect(),
        findings,
        nodes: node_rows(snapshot, uses.known(), joins.known()),
        hosts: host_rows(&facts),
        charts: charts(&facts),
        history: HistoryRow { samples: history.len(), first: span.map(|(first, _)| first), last: span.map(|(_, last)| last) },
        unknown: unknowns,
    }
}

/// The decision that `capplan plan` makes on the same snapshot.
fn recommendation(facts: &Facts<'_>, judgements: &[Judgement<'_>], id: SnapshotId) -> Recommendation {
    let seen = Observation { snapshot: facts.snapshot, history: facts.history, policy: facts.policy, claims: &[] };
    let decided = decide_judged(&seen, facts, judgements, id, Limits::default());
    decided.map_or_else(|error| Recommendation::failed(&error), Recommendation::from)
}

/// The state of `snapshot`, without findings and recommendation: what a simulation sets side by side.
///
/// `slots` are those of its workers.
pub fn state(snapshot: &Snapshot, history: &History, policy: &Policy, slots: &Reading<Vec<VolumeSlots>>) -> State {
    let uses = node_uses(snapshot);
    let facts = Facts { snapshot, history, policy, uses: &uses, slots };
    let (found, unknown) = usages(snapshot, policy, &uses, slots);
    let judgements = judge_all(&facts);
    State {
        slots: slots.known().into_iter().flatten().map(slot_row).collect(),
        memory: memory(&uses, &judgements),
        rules: judgements.iter().map(|one| rule_row(one, snapshot.taken)).collect(),
        dimensions: dimension_rows(&facts, &found, &unknown),
        nodes: node_rows(snapshot, uses.known(), join(snapshot).known()),
        hosts: host_rows(&facts),
    }
}

/// File systems of the nodes as Prometheus last saw them: neither API tells.
fn filesystems(history: &History, now: Timestamp) -> Vec<Usage> {
    let recent = now - SignedDuration::from_hours(FILESYSTEM_HOURS);
    let last = |series: &Series| series.range(recent..=now).next_back().map(|(_, point)| *point);
    history
        .subjects(Dimension::NodeFilesystem)
        .filter_map(|(subject, series)| {
            let point = last(series)?;
            Some(Usage {
                dimension: Dimension::NodeFilesystem,
                subject: subject.to_owned(),
                used: point.used,
                limit: point.limit,
                source: "Prometheus, node_exporter",
            })
        })
        .collect()
}

fn versions(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let kubernetes = snapshot.kube.version.known().map(|version| ("kubernetes".to_owned(), version.clone()));
    let pve = snapshot.pve.iter().filter_map(|pve| Some((format!("proxmox {}", pve.name), pve.version.known()?.clone())));
    kubernetes.into_iter().chain(pve).collect()
}

fn forecast(facts: &Facts<'_>, usage: &Usage) -> Option<Forecast> {
    let series = facts.history.series(usage.dimension, &usage.subject)?;
    forecast_series(series, facts.snapshot.taken, usage.used, usage.limit?)
}

fn forecast_series(series: &Series, now: Timestamp, used: f64, limit: f64) -> Option<Forecast> {
    let trend = trend(series, now)?;
    let when = trend.exhaustion(now, used, limit);
    Some(Forecast {
        per_day: trend.per_day,
        days: trend.days,
        expected: when.map(|when| when.expected),
        earliest: when.map(|when| when.earliest),
        latest: when.and_then(|when| when.latest),
    })
}

/// The limit that bites first: one that is reached already, else one that the trend reaches within
/// 90 days, else the fullest.
fn binding(facts: &Facts<'_>, found: &[Usage], unknown: &[(Dimension, String)]) -> Option<Binding> {
    let workers: BTreeSet<&str> =
        facts.snapshot.workers().known().map(|nodes| nodes.iter().map(|node| node.name.as_str()).collect()).unwrap_or_default();
    // What binds on the control plane's node or on a device that is handed out whole stops no pod
    // that could go elsewhere: these are findings, not the cluster's limit.
    let counts = |usage: &&Usage| {
        let per_node = matches!(usage.dimension, Dimension::MemoryRequests | Dimension::Cpu | Dimension::Pods);
        usage.dimension.binds()
            && usage.dimension != Dimension::ExtendedResource
            && (!per_node || workers.contains(usage.subject.as_str()))
    };
    let mut candidates: Vec<(&Usage, f64, f64)> =
        found.iter().filter(counts).filter_map(|usage| Some((usage, usage.ratio()?, usage.limit?))).collect();
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.dimension.cmp(&b.0.dimension)).then(a.0.subject.cmp(&b.0.subject)));
    let make = |(usage, ratio, limit): &(&Usage, f64, f64), because: String| Binding {
        dimension: usage.dimension.name().to_owned(),
        holder: usage.subject.clone(),
        used: usage.used,
        limit: *limit,
        unit: usage.dimension.unit(),
        ratio: *ratio,
        forecast: forecast(facts, usage),
        because,
    };
    let first = candidates.first()?;
    if first.1 >= 1.0 {
        return Some(make(first, "it is reached now".into()));
    }
    let horizon = facts.snapshot.taken + SignedDuration::from_hours(24 * NEAR_DAYS);
    let soonest = candidates
        .iter()
        .take(MOST_FORECASTS)
        .filter_map(|one| Some((one, forecast(facts, one.0)?.expected.filter(|when| *when <= horizon)?)))
        .min_by_key(|(_, when)| *when);
    // The file systems of nodes are beyond the two APIs: that is said where unknowns are listed.
    let unread: BTreeSet<&str> = unknown
        .iter()
        .filter(|(dimension, _)| dimension.binds() && *dimension != Dimension::NodeFilesystem)
        .map(|(dimension, _)| dimension.name())
        .collect();
    let unread: Vec<&str> = unread.into_iter().collect();
    let among = if unread.is_empty() { String::new() } else { format!("; not all could be read of {}", unread.join(", ")) };
    Some(match soonest {
        Some((one, _)) => make(one, format!("at the present trend it is reached first, within {NEAR_DAYS} days{among}")),
        None => make(first, format!("it is the fullest; no trend reaches a limit within {NEAR_DAYS} days{among}")),
    })
}

fn scope_of(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::VolumeSlots
        | Dimension::VolumeAttachments
        | Dimension::MemoryRequests
        | Dimension::MemoryLimits
        | Dimension::Cpu
        | Dimension::Pods
        | Dimension::ExtendedResource
        | Dimension::NodeFilesystem => "node",
        Dimension::HostMemoryCommitted | Dimension::HostMemoryIfAllStarted | Dimension::HostMemoryUsed => "host",
        Dimension::PoolData | Dimension::PoolMetadata => "pool",
        Dimension::Quota => "namespace",
        Dimension::ControlPlaneObjects | Dimension::EvictedPods => "cluster",
    }
}

fn dimension_rows(facts: &Facts<'_>, found: &[Usage], unknown: &[(Dimension, String)]) -> Vec<DimensionRow> {
    let row = |dimension: Dimension, scope: &str| DimensionRow {
        name: dimension.name().to_owned(),
        scope: scope.to_owned(),
        used: None,
        limit: None,
        unit: dimension.unit(),
        holder: String::new(),
        ratio: None,
        source: String::new(),
        age_seconds: 0,
        forecast: None,
        note: None,
    };
    let mut rows = Vec::new();
    for dimension in Dimension::ALL {
        let worst = found.iter().filter(|usage| usage.dimension == dimension).max_by(|a, b| {
            let key = |usage: &Usage| (usage.ratio().unwrap_or(-1.0), usage.used);
            let ((a_ratio, a_used), (b_ratio, b_used)) = (key(a), key(b));
            a_ratio.total_cmp(&b_ratio).then(a_used.total_cmp(&b_used)).then(b.subject.cmp(&a.subject))
        });
        let note = unknown.iter().find(|(one, _)| *one == dimension).map(|(_, why)| why.clone());
        match worst {
            Some(usage) => rows.push(DimensionRow {
                used: Some(usage.used),
                limit: usage.limit,
                holder: usage.subject.clone(),
                ratio: usage.ratio(),
                source: usage.source.to_owned(),
                forecast: forecast(facts, usage),
                note: note.map(|why| format!("not all could be read: {why}")),
                ..row(dimension, scope_of(dimension))
            }),
            None => match note {
                Some(why) => rows.push(DimensionRow { note: Some(why), ..row(dimension, scope_of(dimension)) }),
                // Nothing of the kind exists: no quota, no extended resource, no Calico.
                None => continue,
            },
        }
        if let (Dimension::VolumeSlots, Some(slots)) = (dimension, facts.slots.known()) {
            let limits: Option<Vec<u64>> = slots.iter().map(VolumeSlots::limit).collect();
            let free: Option<Vec<u64>> = slots.iter().map(VolumeSlots::free).collect();
            if let (Some(limits), Some(free)) = (limits, free) {
                let (limit, free) = (total(limits), total(free));
                let used = limit.saturating_sub(free) as f64;
                rows.push(DimensionRow {
                    used: Some(used),
                    limit: Some(limit as f64),
                    holder: format!("{} nodes", slots.len()),
                    ratio: (limit > 0).then(|| used / limit as f64),
                    source: "CSINode, VolumeAttachment, VM config".to_owned(),
                    ..row(dimension, "workers")
                });
            }
        }
        if let (Dimension::MemoryRequests | Dimension::MemoryLimits, Some(uses)) = (dimension, facts.uses.known()) {
            for scope in Scope::ALL {
                let share = memory_share(uses, scope);
                let (used, ratio) = if dimension == Dimension::MemoryRequests {
                    (share.requests, share.requested())
                } else {
                    (share.limits, share.limited())
                };
                rows.push(DimensionRow {
                    used: Some(used.0 as f64),
                    limit: Some(share.allocatable.0 as f64),
                    holder: format!("{} nodes", share.nodes),
                    ratio,
                    source: "pods, Node allocatable".to_owned(),
                    ..row(dimension, scope.name())
                });
            }
        }
    }
    rows
}

fn memory(uses: &Reading<Vec<NodeUse<'_>>>, judgements: &[Judgement<'_>]) -> Memory {
    let Some(uses) = uses.known() else { return Memory::default() };
    let [all_nodes, workers, general] = Scope::ALL.map(|scope| memory_share(uses, scope));
    let disagree = judgements.iter().filter(|one| one.scopes_disagree());
    Memory {
        requests: Shares { all_nodes: all_nodes.requested(), workers: workers.requested(), general: general.requested() },
        limits: Shares { all_nodes: all_nodes.limited(), workers: workers.limited(), general: general.limited() },
        terminal_pods: Some(uses.iter().map(|one| one.terminal).sum()),
        phantom: Some(uses.iter().map(|one| one.phantom).sum()),
        disagree: disagree.map(|one| one.rule.id.clone()).collect(),
    }
}

fn slot_row(slots: &VolumeSlots) -> SlotRow {
    let config = slots.config.known();
    let attached = slots.attached.known();
    let named =
        |slots: &BTreeMap<u8, String>| slots.iter().map(|(slot, volume)| format!("scsi{slot}={volume}")).collect::<Vec<_>>();
    let volumes = |test: &dyn Fn(&capplan_model::slots::Attachment) -> bool| {
        attached.map(|attached| attached.iter().filter(|one| test(one)).map(|one| one.volume.to_string()).collect::<Vec<_>>())
    };
    SlotRow {
        node: slots.node.clone(),
        vmid: slots.vmid.known().copied(),
        advertised: slots.advertised.known().copied().flatten(),
        real: slots.real(),
        attached: attached.map(|attached| attached.len() as u64),
        counted: slots.counted.known().map(|counted| counted.len() as u64),
        plugged: config.map(|config| config.plugged.len() as u64),
        occupied: config.map(ConfigSlots::occupied),
        foreign: config.map(|config| named(&config.foreign)),
        ghosts: slots.ghosts.known().map(|ghosts| ghosts.iter().map(|(slot, volume)| format!("scsi{slot}={volume}")).collect()),
        phantom: slots.phantom(),
        pending_detach: volumes(&|one| one.detaching),
        failing: volumes(&|one| one.error.is_some()),
        unused: config.map(|config| config.unused.clone()),
        free: slots.free(),
        mismatches: mismatches(slots),
        why: slots.unknown().map(str::to_owned),
    }
}

/// Every difference between the two ledgers of a worker, with the volumes it is about.
fn mismatches(slots: &VolumeSlots) -> Vec<String> {
    let mut list = Vec::new();
    for (slot, volume) in slots.ghosts.known().into_iter().flatten() {
        list.push(format!("ghost: scsi{slot} holds {volume}, which has no VolumeAttachment for this node"));
    }
    if let (Some(config), Some(attached)) = (slots.config.known(), slots.attached.known()) {
        for one in attached {
            let plugged = match &one.volid {
                Some(volid) => config.plugged.values().any(|volume| volume == volid),
                // The PersistentVolume is gone: the plugin names volumes after it.
                None => config.plugged.values().any(|volume| volume.contains(one.volume.as_str())),
            };
            // Ghosts are known where PersistentVolumes are; without these nobody knows the disk's name.
            if plugged || (slots.ghosts.known().is_none() && one.error.is_none()) {
                continue;
            }
            list.push(match (&one.error, one.attached) {
                (Some(error), _) => format!("not plugged: {}: {error}", one.volume),
                (None, true) => format!("wedged: {} is attached by its VolumeAttachment but not in the VM config", one.volume),
                (None, false) => format!("not plugged yet: {} is being attached", one.volume),
            });
        }
    }
    for slot in slots.config.known().into_iter().flat_map(|config| &config.foreign) {
        list.push(format!("foreign: scsi{} holds {}, which takes one of the plugin's 29 slots", slot.0, slot.1));
    }
    if let Some(phantom) = slots.phantom().filter(|phantom| *phantom > 0) {
        list.push(format!("phantom: {phantom} of the advertised slots do not exist"));
    }
    list
}

fn rule_row(one: &Judgement<'_>, now: Timestamp) -> RuleRow {
    let share = one.rule.measure.is_memory_share();
    let days = |duration: SignedDuration| duration.as_secs() as f64 / 86_400.0;
    RuleRow {
        id: one.rule.id.clone(),
        direction: match one.direction {
            Direction::Up => "up".to_owned(),
            Direction::Down => "down".to_owned(),
        },
        scope: share.then(|| one.rule.scope.name().to_owned()),
        when: one.rule.when.to_string(),
        window_days: days(one.rule.window),
        instant: one.instant,
        sustained: one.sustained,
        evidence: RuleEvidence {
            value: one.evidence.value,
            samples: one.evidence.samples,
            coverage: one.evidence.coverage,
            first_contrary: one.evidence.first_contrary.map(|(at, value)| Contrary { at, value }),
            held_days: one.evidence.held_since.map(|since| days(now.duration_since(since))),
            by_scope: one
                .by_scope
                .iter()
                .map(|by| {
                    (by.scope.name().to_owned(), ScopeRow { value: by.value, instant: by.instant, sustained: by.sustained })
                })
                .collect(),
            note: one.evidence.note.clone(),
        },
    }
}

fn node_rows(
    snapshot: &Snapshot,
    uses: Option<&Vec<NodeUse<'_>>>,
    joins: Option<&BTreeMap<&NodeName, Join<'_>>>,
) -> Vec<NodeRow> {
    let metrics = snapshot.kube.node_metrics.items();
    let used: BTreeMap<&NodeName, _> = metrics.iter().map(|one| (&one.name, one.memory)).collect();
    let nodes = snapshot.kube.nodes.items();
    nodes
        .iter()
        .enumerate()
        .map(|(place, node)| {
            let one = uses.and_then(|uses| uses.get(place));
            let guest = joins.and_then(|joins| match joins.get(&node.name)? {
                Join::Guest(guest) => Some(*guest),
                Join::Missing | Join::Ambiguous { .. } => None,
            });
            let share = |used: u64, all: u64| (all > 0).then(|| used as f64 / all as f64);
            let allocatable = &node.allocatable;
            NodeRow {
                name: node.name.clone(),
                role: if node.is_control_plane() { "control-plane" } else { "worker" }.to_owned(),
                general: node.takes_general_pods(),
                cordoned: node.unschedulable,
                ready: node.is_ready(),
                vmid: guest.map(|guest| guest.vmid),
                host: guest.map(|guest| guest.host.clone()),
                kubelet: node.kubelet_version.clone(),
                cpu: allocatable.cpu,
                vm_memory: guest.map(|guest| guest.memory()),
                allocatable: allocatable.memory,
                requests: one.map(|one| one.requests.memory),
                requested: one.and_then(|one| share(one.requests.memory.0, allocatable.memory.0)),
                limited: one.and_then(|one| share(one.limits.memory.0, allocatable.memory.0)),
                cpu_requested: one.and_then(|one| share(one.requests.cpu.0, allocatable.cpu.0)),
                used: used.get(&node.name).copied(),
                pods: one.map(|one| one.pods),
            }
        })
        .collect()
}

fn host_rows(facts: &Facts<'_>) -> Vec<HostRow> {
    let rooms = host_rooms(facts);
    facts
        .snapshot
        .hosts()
        .map(|host| {
            let memory = host.memory.known();
            let committed = commitment(facts.snapshot, host).into_known();
            let guests = facts.snapshot.guests_of(&host.name).into_known();
            HostRow {
                name: host.name.clone(),
                online: host.online,
                memory: HostMemoryRow {
                    total: memory.map(|memory| memory.total),
                    committed: committed.map(|sum| sum.running),
                    committed_if_all_started: committed.map(|sum| sum.all),
                    available: memory.map(|memory| memory.available()),
                    swap_used: memory.map(|memory| memory.swap_used),
                },
                cpus: host.cpus.known().copied(),
                vcpus: committed.map(|sum| sum.cpus),
                guests_running: guests.map(|guests| guests.iter().filter(|guest| guest.power == Power::Running).count() as u64),
                pools: host.pools.known().map(|pools| {
                    let row = |pool: &ThinPool| PoolRow {
                        name: pool.name.clone(),
                        data: Fill { used: pool.used, size: pool.size },
                        metadata: Fill { used: pool.metadata_used, size: pool.metadata_size },
                    };
                    pools.iter().map(row).collect()
                }),
                takes_worker: rooms
                    .iter()
                    .find(|room| room.host == host.name && room.available.known().is_some())
                    .map(|room| room.fits()),
            }
        })
        .collect()
}

fn charts(facts: &Facts<'_>) -> Vec<Chart> {
    let now = facts.snapshot.taken;
    let start = now - SignedDuration::from_hours(24 * CHART_DAYS);
    let line = |series: &Series, value: &dyn Fn(&capplan_model::history::Point) -> Option<f64>| -> Vec<(i64, f64)> {
        let all: Vec<(i64, f64)> =
            series.range(start..=now).filter_map(|(at, point)| Some((at.as_second(), value(point)?))).collect();
        thinned(all)
    };
    let mut charts = Vec::new();
    let mut add = |title: &str, unit, dimension, share: bool, thresholds: BTreeMap<String, f64>| {
        let mut lines: Vec<(String, Vec<(i64, f64)>)> = facts
            .history
            .subjects(dimension)
            .map(|(subject, series)| {
                let value: &dyn Fn(&capplan_model::history::Point) -> Option<f64> = if share {
                    &|point| point.limit.filter(|limit| *limit > 0.0).map(|limit| point.used / limit)
                } else {
                    &|point| Some(point.used)
                };
                (subject.to_owned(), line(series, value))
            })
            .filter(|(_, points)| points.len() > 1)
            .collect();
        // The lines that end highest are the ones to look at.
        lines.sort_by(|a, b| {
            let last = |points: &[(i64, f64)]| points.last().map_or(0.0, |(_, value)| *value);
            last(&b.1).total_cmp(&last(&a.1)).then(a.0.cmp(&b.0))
        });
        lines.truncate(CHART_LINES);
        if !lines.is_empty() {
            charts.push(Chart { title: title.to_owned(), unit, lines: lines.into_iter().collect(), thresholds });
        }
    };
    let thresholds = |measure: Measure| {
        let rules = facts.policy.rules().filter(|(_, rule)| rule.measure == measure);
        rules.map(|(_, rule)| (format!("{} {}", rule.id, rule.when), rule.when.value)).collect::<BTreeMap<_, _>>()
    };
    add(
        "Volume attachments by worker",
        ChartUnit::Count,
        Dimension::VolumeAttachments,
        false,
        thresholds(Measure::VolumeAttachments),
    );
    add("Memory requests by node", ChartUnit::Share, Dimension::MemoryRequests, true, thresholds(Measure::MemoryRequests));
    let full = || BTreeMap::from([("full".to_owned(), 1.0)]);
    add("Host memory in use", ChartUnit::Share, Dimension::HostMemoryUsed, true, full());
    add("Thin pool data", ChartUnit::Share, Dimension::PoolData, true, full());
    charts
}

/// At most a few hundred points a line: more do not show on a page.
fn thinned(points: Vec<(i64, f64)>) -> Vec<(i64, f64)> {
    const MOST: usize = 400;
    let step = points.len().div_ceil(MOST).max(1);
    let last = points.len().saturating_sub(1);
    points.into_iter().enumerate().filter(|(place, _)| place % step == 0 || *place == last).map(|(_, point)| point).collect()
}
