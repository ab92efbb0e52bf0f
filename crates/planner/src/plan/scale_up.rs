//! How many workers are added, of what size, on which host: every number of it.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Snapshot;
use capplan_model::change::AddWorker;
use capplan_model::ids::{HostName, NodeName, VmId};
use capplan_model::plan::{Action, Feasibility, Optimality, Plan, Rejected};
use capplan_model::pve::Power;
use capplan_model::units::{Bytes, total};

use super::after::Standing;
use super::blockers::unsafe_to_move;
use super::board::{Board, Landing};
use super::spec::{gate, like, specs};
use super::{PlanError, Scene, after, drain, even, newcomer, scale_down, steps};
use crate::capacity::commitment;
use crate::host_fit::BUSY_IO;
use crate::simulate::{Joined, NewWorker, Refusal, SimulateError, join_workers};

/// Most workers that are tried at once.
const MOST_WORKERS: u32 = 4;
/// Least memory of a worker that is tried when no size is asked for.
///
/// # Source
/// Field notes: DaemonSets ask for 2.5 to 3 GiB of each worker; a smaller one is mostly overhead.
const LEAST_MEMORY: Bytes = Bytes(8 << 30);
/// Virtual CPUs per thread of a host above which a plan warns.
///
/// # Source
/// Field notes: 124 virtual CPUs on 44 threads (2.8) run well there; load alarms at 30 of 44.
const MANY_CPUS: f64 = 3.0;

/// What is asked of new workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// How many; as many as the rules need if not said.
    pub count: Option<u32>,
    /// Memory of each.
    pub memory: Option<Bytes>,
    /// Virtual CPUs of each.
    pub cores: Option<u64>,
    /// Host.
    pub host: Option<HostName>,
    /// Worker that they are like.
    pub like: Option<NodeName>,
    /// Name of the first.
    pub name: Option<NodeName>,
    /// VMID of the first.
    pub vmid: Option<VmId>,
    /// Address of the first, with its prefix length.
    pub address: Option<String>,
    /// Template to clone.
    pub template: Option<VmId>,
}

/// Why workers cannot join.
enum CannotJoin {
    No(String),
    /// Whether they can is not known.
    Unknown(String),
}

/// Workers of one size, tried.
struct Tried {
    joined: Joined,
    landings: Vec<Landing>,
    bound: u64,
    /// Rules for another worker that still hold.
    met: Vec<(String, String)>,
}

/// Whether a plan that leaves a rule holding is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standard {
    /// Every rule must be cleared.
    Clears,
    /// It is asked for: what it leaves is a warning.
    Asked,
}

/// Plans new workers.
pub(crate) fn plan(
    scene: &Scene<'_>,
    board: &Board<'_>,
    wanted: &Wanted,
    standard: Standard,
    mut plan: Plan,
) -> Result<Plan, PlanError> {
    let standing = Standing::of(scene);
    if standing.held.is_empty() {
        plan.because.push("no rule asks for another worker: it is planned because it is asked for".to_owned());
    }
    let usual = wanted.memory.unwrap_or(scene.ground.policy.worker.memory);
    let options = options(scene, board, wanted, standing.held.is_empty())?;
    let (mut chosen, mut joins) = (None, None);
    // The time is for all of them together.
    let seconds = scene.seconds.get();
    for add in &options {
        let mut trial = board.clone();
        scene.seconds.set(seconds / options.len() as f64);
        let tried = try_workers(scene, &mut trial, &standing, add);
        scene.seconds.set(seconds);
        match tried? {
            Ok(tried) if tried.met.is_empty() || standing.held.is_empty() => {
                chosen = Some((add, tried, trial));
                break;
            }
            Ok(tried) => {
                let (rule, why) = &tried.met[0];
                reject(&mut plan, add, format!("`{rule}` decides: it {why}"));
                if joins.is_none() && add.memory == Some(usual) {
                    joins = Some((add, tried, trial));
                }
            }
            Err(CannotJoin::No(why)) => reject(&mut plan, add, why),
            Err(CannotJoin::Unknown(why)) => {
                plan.undecided.push(format!("whether {} can join: {why}", words(add)));
                reject(&mut plan, add, format!("not known: {why}"));
            }
        }
    }
    let Some((add, tried, trial)) = chosen.or_else(|| joins.filter(|_| standard == Standard::Asked)) else {
        if !plan.undecided.is_empty() {
            plan.feasibility = Feasibility::Undecided;
            plan.because.push("whether a host can take a worker is not known".to_owned());
            return Ok(plan);
        }
        plan.feasibility = Feasibility::Blocked;
        let why: BTreeSet<String> = plan.rejected.iter().map(|one| one.why.clone()).collect();
        plan.blockers = why.into_iter().map(|detail| gate(detail, "scale-up")).collect();
        plan.because.push("no number of workers of any size tried would do".to_owned());
        plan.explanation.extend(smaller(scene));
        return Ok(plan);
    };
    plan.undecided.clear();
    let is_chosen = words(add);
    plan.rejected.retain(|one| one.target.as_ref() != Some(&is_chosen));
    for other in options.iter().skip_while(|one| *one != add).skip(1).take(3) {
        reject(&mut plan, other, format!("{is_chosen} is enough and takes less"));
    }
    if !standing.held.is_empty() {
        plan.warnings.extend(tried.met.iter().map(|(rule, why)| format!("`{rule}` {why}")));
    }
    describe(scene, wanted, &tried, &trial, &mut plan);
    Ok(plan)
}

fn words(add: &AddWorker) -> String {
    let memory = add.memory.map_or_else(|| "the policy's memory".to_owned(), |memory| memory.to_string());
    format!("{} × {memory}", add.count)
}

fn reject(plan: &mut Plan, add: &AddWorker, why: String) {
    plan.rejected.push(Rejected::of(Action::ScaleUp, words(add), why));
}

/// The largest worker that some host has memory for.
fn smaller(scene: &Scene<'_>) -> Option<String> {
    let reserve = scene.ground.policy.worker.host_reserve;
    let hosts = scene.ground.snapshot.hosts().filter(|host| host.online);
    let free = hosts.filter_map(|host| Some((host.memory.known()?.available().minus(reserve), &host.name)));
    let (most, host) = free.max()?;
    let whole = Bytes(most.0 / (1 << 30) * (1 << 30));
    let enough = whole >= LEAST_MEMORY.min(scene.ground.policy.worker.memory);
    enough.then(|| format!("{host} has memory for a worker of {whole}: --memory {}GiB", whole.0 >> 30))
}

/// Numbers and sizes to try, the least memory first; of equal memory the fewer machines first.
fn options(scene: &Scene<'_>, board: &Board<'_>, wanted: &Wanted, only_one: bool) -> Result<Vec<AddWorker>, PlanError> {
    let usual = scene.ground.policy.worker.memory;
    // Its label for volumes is taken over: without it a new worker advertises 24, whatever its VM has.
    let like = like(scene, wanted);
    if let Some(like) = &wanted.like {
        let node = drain::find(&board.scheduler.cluster, like)?;
        if board.scheduler.cluster.node(node).runs_control_plane() {
            return Err(PlanError::NotAWorker { name: like.to_string() });
        }
    }
    if let Some(host) = &wanted.host
        && !scene.ground.snapshot.hosts().any(|one| one.name == *host)
    {
        let known = scene.ground.snapshot.hosts().map(|one| one.name.to_string()).collect::<Vec<_>>().join(", ");
        return Err(PlanError::NoHost { name: host.to_string(), known });
    }
    let sizes = match wanted.memory {
        Some(memory) => vec![memory],
        None if only_one => vec![usual],
        None => vec![Bytes(usual.0 / 2).max(LEAST_MEMORY.min(usual)), usual, Bytes(usual.0 * 2)],
    };
    let counts: Vec<u32> = match wanted.count {
        Some(count) => vec![count.max(1)],
        None if only_one => vec![1],
        None => (1..=MOST_WORKERS).collect(),
    };
    let mut options: Vec<AddWorker> = Vec::new();
    for memory in &sizes {
        for count in &counts {
            let add = AddWorker {
                count: *count,
                memory: Some(*memory),
                cores: wanted.cores,
                like: like.clone(),
                host: wanted.host.clone(),
                labels: BTreeMap::new(),
            };
            if !options.contains(&add) {
                options.push(add);
            }
        }
    }
    options.sort_by_key(|add| (add.memory.map(|memory| memory.0 * u64::from(add.count)), add.count));
    Ok(options)
}

/// Lets workers join, moves volumes to them if a rule asks for that, and judges the state afterwards. The
/// inner error is why they cannot join.
fn try_workers(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    standing: &Standing<'_>,
    add: &AddWorker,
) -> Result<Result<Tried, CannotJoin>, PlanError> {
    let cluster = board.scheduler.cluster.clone();
    let joined = join_workers(scene.ground, cluster, board.plugs.clone(), add).map_err(|error| match error {
        SimulateError::Unknown { what, why } => PlanError::Unknown { what, why },
        SimulateError::NoHost { name, known } => PlanError::NoHost { name, known },
        SimulateError::NoNode { name, known } => PlanError::NoNode { name, known },
        SimulateError::NoWorkload { .. } | SimulateError::StorageClass(_) | SimulateError::Change(_) => {
            PlanError::Unknown { what: "the new worker".into(), why: error.to_string() }
        }
    })?;
    for worker in &joined.workers {
        match &worker.refused {
            Some(Refusal::NoRoom(why)) => return Ok(Err(CannotJoin::No(why.clone()))),
            Some(Refusal::Unknown(why)) => return Ok(Err(CannotJoin::Unknown(why.clone()))),
            None => {}
        }
    }
    if let Some(why) = quota(scene, &joined.workers) {
        return Ok(Err(CannotJoin::No(why)));
    }
    for worker in &joined.workers {
        worker.enter(&mut board.scheduler.cluster);
        board.plugs.add_node(&worker.node.name, &worker.guest.config, worker.advertised());
    }
    let mut tried = Tried { joined, landings: Vec::new(), bound: 0, met: Vec::new() };
    tried.met = standing.left(scene, state(scene, &tried, board));
    // New workers take volumes off the fullest only if pods move.
    if let Some(most) = scale_down::most_attached(scene)
        && !tried.met.is_empty()
        && unsafe_to_move(scene, board).is_none()
        && let Ok((landings, bound)) = even::even_out(scene, board, most)
    {
        (tried.landings, tried.bound) = (landings, bound);
        tried.met = standing.left(scene, state(scene, &tried, board));
    }
    if tried.met.is_empty() {
        tried.met.extend(scale_down::losses_not_survived(scene, board, &[]));
    }
    Ok(Ok(tried))
}

fn state(scene: &Scene<'_>, tried: &Tried, board: &Board<'_>) -> Snapshot {
    after::with_workers(scene, &board.scheduler.cluster, &tried.landings, &tried.joined.workers)
}

/// A quota that the DaemonSets of the new workers would exceed.
///
/// # Source
/// Field notes: two new nodes pushed DaemonSets over a namespace quota; four of them failed to start.
fn quota(scene: &Scene<'_>, workers: &[NewWorker]) -> Option<String> {
    let mut growth: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for pod in workers.iter().flat_map(|worker| &worker.daemons) {
        for (resource, amount) in [
            ("requests.memory", pod.requests.memory.0),
            ("requests.cpu", pod.requests.cpu.0),
            ("limits.memory", pod.limits.memory.0),
            ("pods", 1),
        ] {
            let sum = growth.entry((&pod.namespace, resource)).or_default();
            *sum = u64::saturating_add(*sum, amount);
        }
    }
    scene.ground.snapshot.kube.quotas.items().iter().find_map(|quota| {
        quota.resources.iter().find_map(|(resource, (used, hard))| {
            let more = growth.get(&(quota.namespace.as_str(), resource.as_str()))?;
            (used + more > *hard).then(|| {
                let shown =
                    |amount: u64| if resource.ends_with("memory") { Bytes(amount).to_string() } else { amount.to_string() };
                format!(
                    "quota {}/{} allows {} of {resource}: {} are used, DaemonSets on new workers need {} more",
                    quota.namespace,
                    quota.name,
                    shown(*hard),
                    shown(*used),
                    shown(*more)
                )
            })
        })
    })
}

/// Puts the chosen workers into the plan.
fn describe(scene: &Scene<'_>, wanted: &Wanted, tried: &Tried, board: &Board<'_>, plan: &mut Plan) {
    let snapshot = scene.ground.snapshot;
    let specs = specs(scene, wanted, &tried.joined.workers, plan);
    plan.target = specs.first().map(|spec| spec.host.to_string());
    for (spec, worker) in specs.iter().zip(&tried.joined.workers) {
        let daemons: Bytes = worker.daemons.iter().map(|pod| pod.requests.memory).sum();
        let gained = worker.node.allocatable.memory.minus(daemons);
        let slots = worker.advertised().map_or_else(|| "no limit of".to_owned(), |count| count.to_string());
        plan.because
            .push(format!("{} brings {gained} for pods ({daemons} go to DaemonSets) and {slots} volume slots", spec.name));
    }
    let new: Bytes = specs.iter().map(|spec| spec.memory).sum();
    let cores = total(specs.iter().map(|spec| spec.cores));
    for host in snapshot.hosts().filter(|host| specs.iter().any(|spec| spec.host == host.name)) {
        if let (Some(memory), Some(sum)) = (host.memory.known(), commitment(snapshot, host).into_known()) {
            let share = (sum.running + new).0 as f64 / memory.total.0.max(1) as f64;
            plan.because.push(format!(
                "{} has {} available; running guests would commit {:.0}% of its memory",
                host.name,
                memory.available(),
                share * 100.0
            ));
            if share > 1.0 {
                plan.warnings.push(format!("running guests of {} may then use more memory than it has", host.name));
            }
        }
        let running = snapshot.guests().filter(|guest| guest.host == host.name && guest.power == Power::Running);
        let cpus = total(running.map(|guest| guest.cpus)).saturating_add(cores);
        let threads = host.cpus.known().filter(|threads| **threads > 0);
        if let Some(ratio) = threads.map(|threads| cpus as f64 / *threads as f64).filter(|ratio| *ratio > MANY_CPUS) {
            plan.warnings.push(format!("{} would run {cpus} virtual CPUs, {ratio:.1} per thread", host.name));
        }
        if host.io_wait.is_some_and(|share| share >= BUSY_IO) {
            plan.warnings.push(format!("{} waits for its disks already: another worker does not relieve that", host.name));
        }
        for pool in host.pools.items().iter().filter(|pool| pool.metadata_size.0 > 0) {
            let share = pool.metadata_used.0 as f64 / pool.metadata_size.0 as f64;
            if share >= scene.ground.policy.limits.high {
                plan.blockers.push(gate(
                    format!("the metadata of {} are {:.0}% used: a clone may not find room", pool.name, share * 100.0),
                    &pool.name,
                ));
            }
        }
    }
    for pool in &tried.joined.pools {
        let share = |used: Bytes| used.0 as f64 / pool.size.0.max(1) as f64 * 100.0;
        plan.because.push(format!(
            "{} is {:.0}% used, {:.0}% once the new disks are written full",
            pool.name,
            share(pool.used),
            share(pool.used_after)
        ));
    }
    plan.undecided.extend(tried.joined.doubts.iter().cloned());
    plan.workers.clone_from(&specs);
    moves(scene, board, &tried.landings, plan);
    // They were tried under names of their own.
    let called: BTreeMap<&NodeName, &NodeName> =
        tried.joined.workers.iter().zip(&specs).map(|(worker, spec)| (&worker.node.name, &spec.name)).collect();
    for one in plan.order.iter_mut().flat_map(|order| &mut order.pods) {
        for name in one.to.iter_mut().chain(&mut one.or).chain(&mut one.close) {
            if let Some(real) = called.get(name) {
                *name = (*real).clone();
            }
        }
    }
    if !tried.landings.is_empty() {
        let moved = tried.landings.len() as u64;
        plan.optimality = Optimality::of(moved, tried.bound, "fewest moves that take volumes off the fullest workers");
    }
    plan.feasibility = if !plan.blockers.is_empty() {
        Feasibility::Blocked
    } else if plan.undecided.is_empty() {
        Feasibility::Feasible
    } else {
        Feasibility::Undecided
    };
    plan.steps = steps::of_workers(scene, plan, &specs);
    newcomer::remarks(scene, plan);
}

/// Pods that move, under the nodes they leave, in the sequence that was tried.
pub(crate) fn moves(scene: &Scene<'_>, board: &Board<'_>, landings: &[Landing], plan: &mut Plan) {
    let from: BTreeSet<usize> = landings.iter().map(|one| one.from).collect();
    let from: Vec<usize> = from.into_iter().collect();
    plan.order = drain::orders(scene, &board.scheduler.cluster, &from, landings, &BTreeMap::new());
}
