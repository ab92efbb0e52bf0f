//! How many workers are added, of what size, on which host: every number of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use capplan_model::Snapshot;
use capplan_model::change::AddWorker;
use capplan_model::ids::{HostName, NodeName, VmId};
use capplan_model::kube::{Effect, MAX_VOLUMES_LABEL, Node};
use capplan_model::plan::{Action, BlockCode, Blocker, Feasibility, Optimality, Plan, Rejected, WorkerSpec};
use capplan_model::pve::{Guest, GuestKind, Power};
use capplan_model::slots::PLUGIN_SLOTS;
use capplan_model::units::Bytes;

use super::after::Standing;
use super::blockers::unsafe_to_move;
use super::board::{Board, Landing};
use super::{PlanError, Scene, after, drain, even, scale_down, steps};
use crate::capacity::commitment;
use crate::simulate::{Joined, NewWorker, Refusal, SimulateError, join_workers};

/// Most workers that are tried at once.
const MOST_WORKERS: u32 = 4;
/// Least memory of a worker that is tried when no size is asked for.
///
/// # Source
/// Field notes: DaemonSets ask for 2.5 to 3 GiB of each worker; a smaller one is mostly overhead.
const LEAST_MEMORY: Bytes = Bytes(8 << 30);
/// Labels that the kubelet sets itself.
const KUBELET_LABELS: [&str; 5] =
    ["kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch"];
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
pub(super) enum Standard {
    /// Every rule must be cleared.
    Clears,
    /// It is asked for: what it leaves is a warning.
    Asked,
}

/// Plans new workers.
pub(super) fn plan(
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
    for add in &options {
        let mut trial = board.clone();
        match try_workers(scene, &mut trial, &standing, add)? {
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

fn gate(detail: String, subject: &str) -> Blocker {
    Blocker { node: NodeName::default(), code: BlockCode::GateFailed, subject: subject.to_owned(), detail }
}

fn words(add: &AddWorker) -> String {
    let memory = add.memory.map_or_else(|| "the policy's memory".to_owned(), |memory| memory.to_string());
    format!("{} × {memory}", add.count)
}

fn reject(plan: &mut Plan, add: &AddWorker, why: String) {
    plan.rejected.push(Rejected { action: Action::ScaleUp, target: Some(words(add)), why });
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
            *growth.entry((&pod.namespace, resource)).or_default() += amount;
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
    let cores: u64 = specs.iter().map(|spec| spec.cores).sum();
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
        let cpus = running.map(|guest| guest.cpus).sum::<u64>() + cores;
        let threads = host.cpus.known().filter(|threads| **threads > 0);
        if let Some(ratio) = threads.map(|threads| cpus as f64 / *threads as f64).filter(|ratio| *ratio > MANY_CPUS) {
            plan.warnings.push(format!("{} would run {cpus} virtual CPUs, {ratio:.1} per thread", host.name));
        }
        if host.io_wait.is_some_and(|share| share >= super::next::BUSY_IO) {
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
}

/// Pods that move, under the nodes they leave, in the sequence that was tried.
pub(super) fn moves(scene: &Scene<'_>, board: &Board<'_>, landings: &[Landing], plan: &mut Plan) {
    let from: BTreeSet<usize> = landings.iter().map(|one| one.from).collect();
    let from: Vec<usize> = from.into_iter().collect();
    plan.order = drain::orders(scene, &board.scheduler.cluster, &from, landings, &BTreeMap::new());
}

/// Every choice of the new workers made.
fn specs(scene: &Scene<'_>, wanted: &Wanted, workers: &[NewWorker], plan: &mut Plan) -> Vec<WorkerSpec> {
    let snapshot = scene.ground.snapshot;
    let mut used = Used::of(snapshot);
    if let Some(why) = snapshot.guests_known().why() {
        plan.undecided.push(format!("which VMIDs and names are free: {why}"));
    }
    let unread: Vec<String> =
        snapshot.guests().filter(|guest| guest.config.why().is_some()).map(|one| one.vmid.to_string()).collect();
    if !unread.is_empty() {
        plan.undecided.push(format!("which addresses are free: the configuration of guests {} is not known", unread.join(", ")));
    }
    let mut specs = Vec::new();
    for (place, worker) in workers.iter().enumerate() {
        let first = place == 0;
        let like = like(scene, wanted);
        let twin = like.as_ref().and_then(|name| scene.ground.guest(name));
        let name = wanted.name.clone().filter(|_| first).unwrap_or_else(|| used.next_name(like.as_ref()));
        let vmid = wanted.vmid.filter(|_| first).unwrap_or_else(|| used.next_vmid(scene));
        let address = wanted.address.clone().filter(|_| first).or_else(|| used.next_address(scene));
        for (what, taken) in [
            (format!("VMID {vmid}"), used.vmids.contains(&vmid)),
            (format!("name {name}"), used.names.contains(name.as_str())),
            (
                format!("address {}", address.as_deref().unwrap_or("")),
                address.as_deref().and_then(bare).is_some_and(|address| used.addresses.contains(&address)),
            ),
        ] {
            if taken {
                plan.blockers.push(gate(format!("{what} is taken already"), &what));
            }
        }
        let gateway = twin.and_then(|twin| twin.config.known()?.gateway.clone());
        if let Some(why) = address.as_deref().and_then(|address| unfit(address, gateway.as_deref())) {
            plan.blockers.push(gate(why, "address"));
        }
        for claim in scene.claims.iter().filter(|claim| claim.subject == format!("host:{}", worker.guest.host)) {
            plan.blockers.push(Blocker { code: BlockCode::Claim, ..gate(format!("claimed by {}", claim.by), &claim.subject) });
        }
        used.take(&name, vmid, address.as_deref());
        let config = twin.and_then(|twin| twin.config.known());
        let system = config.and_then(|config| config.disks.values().find(|disk| !disk.cdrom && !disk.is_csi()));
        let storage = system.and_then(|disk| Some(disk.volume.split_once(':')?.0.to_owned()));
        let mut labels = worker.node.labels.clone();
        labels.retain(|key, _| !KUBELET_LABELS.contains(&key.as_str()));
        // Never more slots than its VM will have: the other's label may promise too much.
        let foreign = worker.guest.config.known().map_or(0, |config| config.csi_slots().count() as u64);
        if let Some(value) = labels.get_mut(MAX_VOLUMES_LABEL) {
            *value = value.parse::<u64>().map_or(0, |count| count.min(PLUGIN_SLOTS - foreign)).to_string();
        }
        // What names the worker that it is like names the new one now.
        for value in labels.values_mut().filter(|value| like.as_ref().is_some_and(|like| like.as_str() == value.as_str())) {
            value.clone_from(&name.0);
        }
        let effect = |effect: Effect| match effect {
            Effect::NoSchedule => "NoSchedule",
            Effect::PreferNoSchedule => "PreferNoSchedule",
            Effect::NoExecute => "NoExecute",
        };
        let taints = worker.node.taints.iter().map(|taint| format!("{}={}:{}", taint.key, taint.value, effect(taint.effect)));
        specs.push(WorkerSpec {
            name,
            vmid,
            gateway: address.as_ref().and(gateway),
            address,
            host: worker.guest.host.clone(),
            template: template(snapshot, wanted.template, &worker.guest.host, plan),
            like: like.unwrap_or_default(),
            memory: worker.guest.max_memory,
            cores: worker.guest.cpus,
            storage,
            disk: system.and_then(|disk| disk.size),
            labels,
            taints: taints.collect(),
        });
    }
    specs
}

/// The worker that a new one is like: the one that is named, or one that any pod may use and that has no
/// device of its own.
pub(super) fn like(scene: &Scene<'_>, wanted: &Wanted) -> Option<NodeName> {
    let nodes = scene.ground.snapshot.kube.nodes.items();
    let workers = nodes.iter().filter(|node| !node.runs_control_plane());
    let is_plain = |node: &Node| {
        node.taints.is_empty() && !node.allocatable.extended.iter().any(|(name, amount)| name.contains('/') && *amount > 0)
    };
    let best = workers.min_by_key(|node| (!node.takes_general_pods(), !is_plain(node)));
    wanted.like.clone().or_else(|| best.map(|node| node.name.clone()))
}

/// The template to clone on a host: the only one with a cloud-init drive, or the only one of these that is
/// named for Kubernetes.
fn template(snapshot: &Snapshot, wanted: Option<VmId>, host: &HostName, plan: &mut Plan) -> Option<VmId> {
    let templates: Vec<&Guest> =
        snapshot.guests().filter(|guest| guest.template && guest.kind == GuestKind::Qemu && guest.host == *host).collect();
    if let Some(vmid) = wanted {
        if templates.iter().any(|guest| guest.vmid == vmid) {
            return Some(vmid);
        }
        plan.blockers.push(gate(format!("VM {vmid} is no template on {host}"), "template"));
        return None;
    }
    let has_drive = |guest: &&&Guest| {
        let config = guest.config.known();
        config.is_some_and(|config| config.disks.values().any(|disk| disk.cdrom && disk.volume.contains("cloudinit")))
    };
    let with_drive: Vec<&Guest> = templates.iter().filter(has_drive).copied().collect();
    let from = if with_drive.is_empty() { templates } else { with_drive };
    let for_kubernetes = |guest: &&&Guest| {
        let name = guest.name.to_lowercase();
        ["k8s", "kube", "k3s"].iter().any(|word| name.contains(word) && !name.contains(&format!("non-{word}")))
    };
    let named: Vec<&Guest> = from.iter().filter(for_kubernetes).copied().collect();
    match (&from[..], &named[..]) {
        ([one], _) | (_, [one]) => Some(one.vmid),
        ([], _) => {
            plan.undecided.push(format!("what to clone: {host} has no template; name one with --template"));
            None
        }
        _ => {
            let names: Vec<String> = from.iter().map(|guest| format!("{} ({})", guest.name, guest.vmid)).collect();
            let detail = format!("{host} has several templates, name one with --template: {}", names.join(", "));
            plan.blockers.push(gate(detail, "template"));
            None
        }
    }
}

/// The address without its prefix length.
fn bare(address: &str) -> Option<Ipv4Addr> {
    address.split('/').next()?.trim().parse().ok()
}

/// Why an address cannot be a machine's: it is the network's own, that of all its machines, or beyond its gateway.
fn unfit(address: &str, gateway: Option<&str>) -> Option<String> {
    let (text, prefix) = address.split_once('/')?;
    let (one, bits) = (u32::from(text.parse::<Ipv4Addr>().ok()?), prefix.parse::<u32>().ok().filter(|bits| *bits < 31)?);
    let hosts = u32::MAX >> bits;
    if one & hosts == 0 || one & hosts == hosts {
        return Some(format!("{text} is no address of a machine in a network of /{bits}"));
    }
    let gateway = u32::from(gateway?.parse::<Ipv4Addr>().ok()?);
    if gateway == one {
        return Some(format!("{text} is the gateway"));
    }
    (gateway & !hosts != one & !hosts).then(|| format!("{text}/{bits} does not reach the gateway {}", Ipv4Addr::from(gateway)))
}

/// Names and numbers that are taken, also by guests that are stopped.
struct Used {
    vmids: BTreeSet<VmId>,
    names: BTreeSet<String>,
    addresses: BTreeSet<Ipv4Addr>,
}

impl Used {
    fn of(snapshot: &Snapshot) -> Self {
        let nodes = snapshot.kube.nodes.items();
        let configured = snapshot.guests().filter_map(|guest| guest.config.known()).flat_map(|config| &config.addresses);
        let internal = nodes.iter().flat_map(|node| &node.internal_ips);
        Self {
            vmids: snapshot.guests().map(|guest| guest.vmid).collect(),
            names: snapshot
                .guests()
                .map(|guest| guest.name.clone())
                .chain(nodes.iter().map(|node| node.name.0.clone()))
                .collect(),
            addresses: configured.chain(internal).filter_map(|address| bare(address)).collect(),
        }
    }

    fn take(&mut self, name: &NodeName, vmid: VmId, address: Option<&str>) {
        self.vmids.insert(vmid);
        self.names.insert(name.0.clone());
        self.addresses.extend(address.and_then(bare));
    }

    /// The next number after the name of the worker that it is like.
    fn next_name(&self, like: Option<&NodeName>) -> NodeName {
        let like = like.map_or("worker", NodeName::as_str);
        let stem = like.trim_end_matches(|c: char| c.is_ascii_digit());
        let stem = if stem.len() == like.len() { format!("{like}-") } else { stem.to_owned() };
        let numbers = self.names.iter().filter_map(|name| name.strip_prefix(&stem)?.parse::<u32>().ok());
        let next = numbers.max().unwrap_or(0).saturating_add(1);
        NodeName(format!("{stem}{next}"))
    }

    /// The first free VMID after those of the workers.
    fn next_vmid(&self, scene: &Scene<'_>) -> VmId {
        let nodes = scene.ground.snapshot.kube.nodes.items();
        let most = nodes.iter().filter_map(|node| scene.ground.guest(&node.name)).map(|guest| guest.vmid.0).max();
        let free = (most.unwrap_or(100) + 1..).find(|vmid| !self.vmids.contains(&VmId(*vmid)));
        VmId(free.unwrap_or(u32::MAX))
    }

    /// The first free address after those of the workers, with the prefix length that most of them have.
    fn next_address(&self, scene: &Scene<'_>) -> Option<String> {
        let nodes = scene.ground.snapshot.kube.nodes.items();
        let workers = nodes.iter().filter(|node| !node.is_control_plane());
        let configs = workers.filter_map(|node| scene.ground.guest(&node.name)?.config.known());
        let mut most: Option<Ipv4Addr> = None;
        let mut prefixes: BTreeMap<&str, usize> = BTreeMap::new();
        for address in configs.filter_map(|config| config.addresses.first()) {
            most = most.max(bare(address));
            *prefixes.entry(address.split_once('/').map_or("", |(_, prefix)| prefix)).or_default() += 1;
        }
        let (prefix, _) = prefixes.into_iter().max_by_key(|(_, count)| *count)?;
        let first = u32::from(most?).checked_add(1)?;
        // Never the network's own address, nor that of all its machines, nor one beyond it.
        let bits: u32 = prefix.parse().ok().filter(|bits| *bits <= 30).unwrap_or(24);
        let hosts = u32::MAX >> bits;
        let inside = |address: &u32| address & !hosts == (first - 1) & !hosts && address & hosts != hosts && address & hosts != 0;
        let free = (first..).take_while(inside).map(Ipv4Addr::from).find(|address| !self.addresses.contains(address))?;
        Some(if prefix.is_empty() { free.to_string() } else { format!("{free}/{prefix}") })
    }
}
