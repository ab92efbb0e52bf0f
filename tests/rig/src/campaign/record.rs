//! Plays cases on a real control plane and writes down each decision.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::generate::{Case, Loss, generate};
use super::log::{Decision, Log};
use crate::control_plane::Component;
use crate::kube::{Api, Call};
use crate::placement::{full_name, pod_path, pods_of, provision_for};
use crate::plant::{MissingOwners, plant};
use crate::{Failure, Rig, failure, text};

/// How long the scheduler may take for one decision, and for taking notice of a change.
const PATIENCE: Duration = Duration::from_secs(30);
/// Patience where a victim or a volume may never come: the pod is recorded as it is then.
const DECISION: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(1);

/// What is wiped between cases; the last first. Namespaces, priorities and runtimes stay as they are in
/// every case: admission would not notice at once that they are new.
const WIPED: [(&str, &str, bool); 14] = [
    ("/apis/storage.k8s.io/v1", "storageclasses", false),
    ("/apis/storage.k8s.io/v1", "csidrivers", false),
    ("/api/v1", "nodes", false),
    ("/apis/storage.k8s.io/v1", "csinodes", false),
    ("/apis/storage.k8s.io/v1", "volumeattachments", false),
    ("/apis/storage.k8s.io/v1", "csistoragecapacities", true),
    ("/api/v1", "persistentvolumes", false),
    ("/api/v1", "persistentvolumeclaims", true),
    ("/api/v1", "services", true),
    ("/apis/policy/v1", "poddisruptionbudgets", true),
    ("/apis/apps/v1", "daemonsets", true),
    ("/apis/apps/v1", "statefulsets", true),
    ("/apis/apps/v1", "replicasets", true),
    ("/api/v1", "pods", true),
];
/// Kinds that are kept besides those that are wiped.
const STANDING: [(&str, &str); 3] =
    [("/api/v1", "namespaces"), ("/apis/scheduling.k8s.io/v1", "priorityclasses"), ("/apis/node.k8s.io/v1", "runtimeclasses")];

/// What became of the pods of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Pods that were submitted, by outcome.
    pub outcomes: BTreeMap<String, usize>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Records the case of a seed into a folder, on a control plane of its own.
///
/// # Errors
/// The rig does not come up, or as [`Campaign::record`].
pub fn record(seed: u64, out: &Path) -> Result<Summary, Failure> {
    Campaign::start()?.record(seed, out)
}

/// Records the cases of `count` seeds from `first` on into folders of their own below `out`, on several
/// control planes side by side, and says how far it is.
///
/// # Errors
/// A control plane does not come up, or a case cannot be recorded; the other cases are.
pub fn record_all(first: u64, count: u64, jobs: usize, out: &Path) -> Result<(), Failure> {
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let work = || {
        let mut failures = Vec::new();
        let mut campaign = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return failures;
            }
            let (seed, folder) = (first + number, out.join(format!("{number:03}")));
            match recorded(&mut campaign, seed, &folder) {
                Ok(summary) => {
                    let outcomes: Vec<String> = summary.outcomes.iter().map(|(name, count)| format!("{count} {name}")).collect();
                    println!("{number:03}  seed {seed}  {:.1} s  {}", summary.elapsed.as_secs_f64(), outcomes.join(", "));
                }
                Err(failure) => {
                    eprintln!("{number:03}  seed {seed}  failed: {failure}");
                    failures.push(seed);
                    campaign = None;
                }
            }
        }
    };
    let failures: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    println!("{count} cases in {} s", start.elapsed().as_secs());
    if failures.is_empty() { Ok(()) } else { Err(Failure::new(format!("cases of these seeds are not recorded: {failures:?}"))) }
}

fn recorded(campaign: &mut Option<Campaign>, seed: u64, folder: &Path) -> Result<Summary, Failure> {
    match campaign {
        Some(campaign) => campaign.record(seed, folder),
        None => campaign.insert(Campaign::start()?).record(seed, folder),
    }
}

/// A control plane on which one case is recorded after the other.
#[derive(Debug)]
pub struct Campaign {
    rig: Rig,
}

impl Campaign {
    /// Starts the control plane.
    ///
    /// # Errors
    /// It does not come up, or it is the developer's own, where nothing can be wiped.
    pub fn start() -> Result<Self, Failure> {
        let mut rig = Rig::start()?;
        rig.plane()?.limit_controllers(&["persistentvolume-binder-controller"]);
        Ok(Self { rig })
    }

    /// Records the case of a seed into a folder.
    ///
    /// # Errors
    /// The server refuses an object, the scheduler does not answer, or the folder cannot be written.
    pub fn record(&mut self, seed: u64, out: &Path) -> Result<Summary, Failure> {
        let start = Instant::now();
        let case = generate(seed);
        for component in [Component::Scheduler, Component::ControllerManager] {
            self.rig.plane()?.kill(component);
        }
        wipe(self.rig.api())?;
        plant(self.rig.api(), case.objects.clone(), MissingOwners::Drop)?;
        std::fs::create_dir_all(out).map_err(failure(format!("cannot make {}", out.display())))?;
        let world = save(self.rig.api(), out)?;
        let flags = flags(&case);
        let plane = self.rig.plane()?;
        plane.scheduler_flags(flags.clone());
        let log = plane.log(Component::Scheduler);
        drop(std::fs::remove_file(&log));
        plane.start(Component::ControllerManager)?;
        plane.start(Component::Scheduler)?;
        let mut play = Play::new(self.rig.api(), &case, Log::open(&log)?, &world);
        play.additions(&case)?;
        play.drain(&case.drained)?;
        play.lose(&case.lost, case.loss)?;
        play.write(out, &case, &self.rig.programs().version, &flags)?;
        Ok(Summary { outcomes: play.outcomes, elapsed: start.elapsed() })
    }
}

fn flags(case: &Case) -> Vec<String> {
    let mut flags = vec!["--kube-api-qps=5000", "--kube-api-burst=5000", "-v=5", "--vmodule=schedule_one=10"];
    if !case.batching {
        flags.push("--feature-gates=OpportunisticBatching=false");
    }
    flags.into_iter().map(str::to_owned).collect()
}

/// Takes everything out that a case put in, without waiting for anybody's finalizer.
fn wipe(api: &Api) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let mut present = 0;
        for (group, plural, namespaced) in WIPED.iter().rev() {
            let objects = api.list(&format!("{group}/{plural}"))?;
            let objects: Vec<&Value> = objects.iter().filter(|object| !is_servers_own(object)).collect();
            if objects.is_empty() {
                continue;
            }
            present += objects.len();
            let path = |object: &Value| {
                let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
                if *namespaced {
                    format!("{group}/namespaces/{namespace}/{plural}/{name}")
                } else {
                    format!("{group}/{plural}/{name}")
                }
            };
            let held = objects.iter().filter(|object| object["metadata"]["finalizers"].is_array());
            let freed = held.map(|object| Call::patch(path(object), json!({"metadata": {"finalizers": null}}))).collect();
            // What goes with its last finalizer needs no more; whatever stays is seen in the next turn.
            drop(api.call_all(freed));
            drop(
                api.call_all(
                    objects.iter().map(|object| Call::delete(format!("{}?gracePeriodSeconds=0", path(object)))).collect(),
                ),
            );
        }
        if present == 0 {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::new(format!("{present} objects of the last case do not go")));
        }
    }
}

/// The Service of the API server, which comes back by itself.
fn is_servers_own(object: &Value) -> bool {
    text(object, "/metadata/name") == "kubernetes" && text(object, "/metadata/namespace") == "default"
}

/// Writes the lists of all kinds, and answers their objects.
fn save(api: &Api, out: &Path) -> Result<Vec<Value>, Failure> {
    let mut world = Vec::new();
    for (group, plural) in WIPED.iter().map(|(group, plural, _)| (*group, *plural)).chain(STANDING) {
        let mut list = api.get(&format!("{group}/{plural}"))?;
        let kind = text(&list, "/kind").trim_end_matches("List").to_owned();
        for object in list["items"].as_array_mut().into_iter().flatten() {
            without_managed_fields(object);
            let mut known = object.clone();
            known["kind"] = json!(kind);
            world.push(known);
        }
        write(out, &format!("{plural}.json"), &list)?;
    }
    Ok(world)
}

fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
}

fn write(out: &Path, name: &str, value: &Value) -> Result<(), Failure> {
    let path = out.join(name);
    std::fs::write(&path, format!("{value}\n")).map_err(failure(format!("cannot write {}", path.display())))
}

/// A case under way.
struct Play<'a> {
    api: &'a Api,
    log: Log,
    /// Pods as they were made, by name: what a controller would make them from again.
    templates: BTreeMap<String, Value>,
    /// Owners' kinds, namespaces and names, and their UIDs.
    owners: BTreeMap<(String, String, String), String>,
    /// Claims without a volume.
    unbound: BTreeSet<String>,
    /// Changes since the last submission.
    before: Vec<Value>,
    submitted: Vec<Value>,
    results: Vec<Value>,
    provisioned: Vec<Value>,
    outcomes: BTreeMap<String, usize>,
}

impl<'a> Play<'a> {
    fn new(api: &'a Api, case: &Case, log: Log, world: &[Value]) -> Self {
        let string = |object: &Value, pointer: &str| text(object, pointer).to_owned();
        let templates =
            case.objects.iter().filter(|object| object["kind"] == "Pod").map(|pod| (full_name(pod), pod.clone())).collect();
        let owners = world
            .iter()
            .filter(|object| ["ReplicaSet", "StatefulSet", "DaemonSet"].contains(&text(object, "/kind")))
            .map(|object| {
                let key = (string(object, "/kind"), string(object, "/metadata/namespace"), string(object, "/metadata/name"));
                (key, string(object, "/metadata/uid"))
            })
            .collect();
        let unbound = world
            .iter()
            .filter(|object| object["kind"] == "PersistentVolumeClaim" && object["spec"]["volumeName"].is_null())
            .map(full_name)
            .collect();
        Self {
            api,
            log,
            templates,
            owners,
            unbound,
            before: Vec::new(),
            submitted: Vec::new(),
            results: Vec::new(),
            provisioned: Vec::new(),
            outcomes: BTreeMap::new(),
        }
    }

    fn additions(&mut self, case: &Case) -> Result<(), Failure> {
        case.additions.iter().try_for_each(|pod| self.submit(pod.clone()))
    }

    /// Cordons a node, and moves one pod after the other.
    fn drain(&mut self, node: &str) -> Result<(), Failure> {
        let pods = self.movable(node)?;
        let mut taints = self.taints(node)?;
        let taint = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        if !taints.contains(&taint) {
            taints.push(taint);
        }
        self.change_node(node, &json!({"spec": {"unschedulable": true, "taints": taints}}))?;
        self.before.push(json!({"cordon": node}));
        for pod in pods {
            if self.delete(&pod)? {
                self.submit_again(&pod)?;
            }
        }
        Ok(())
    }

    /// Takes a node away with its pods, and submits them again.
    fn lose(&mut self, node: &str, loss: Loss) -> Result<(), Failure> {
        let pods = self.movable(node)?;
        match loss {
            Loss::Tainted => {
                let mut taints = self.taints(node)?;
                for effect in ["NoSchedule", "NoExecute"] {
                    let taint = json!({"key": "node.kubernetes.io/unreachable", "effect": effect});
                    self.before.push(json!({"taint": {"node": node, "taint": taint}}));
                    taints.push(taint);
                }
                self.change_node(node, &json!({"spec": {"taints": taints}}))?;
            }
            Loss::Deleted => {
                let mark = self.log.mark()?;
                self.api.call(Call::delete(format!("/api/v1/nodes/{node}")))?;
                self.log.wait(mark, "\"Delete event for node\"", &format!("node=\"{node}\""), PATIENCE)?;
                self.before.push(json!({"delete_node": node}));
                // The garbage collector of pods takes those of DaemonSets as well.
                for pod in self.api.list(&format!("/api/v1/pods?fieldSelector=spec.nodeName={node}"))? {
                    let owner = text(&pod, "/metadata/ownerReferences/0/kind");
                    if ["DaemonSet", "Node"].contains(&owner) && pod["metadata"]["deletionTimestamp"].is_null() {
                        self.delete(&pod)?;
                    }
                }
            }
        }
        let mut gone = Vec::new();
        for pod in pods {
            if self.delete(&pod)? {
                gone.push(pod);
            }
        }
        gone.iter().try_for_each(|pod| self.submit_again(pod))
    }

    /// Pods that a drain moves; a pod that leaves already has a successor.
    fn movable(&self, node: &str) -> Result<Vec<Value>, Failure> {
        let mut pods = pods_of(self.api, node)?;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(pods)
    }

    fn taints(&self, node: &str) -> Result<Vec<Value>, Failure> {
        let node = self.api.get(&format!("/api/v1/nodes/{node}"))?;
        Ok(node["spec"]["taints"].as_array().cloned().unwrap_or_default())
    }

    fn change_node(&mut self, node: &str, change: &Value) -> Result<(), Failure> {
        let path = format!("/api/v1/nodes/{node}");
        let version = self.api.get(&path)?["metadata"]["resourceVersion"].take();
        let mark = self.log.mark()?;
        let changed = self.api.call(Call::patch(path, change.clone()))?;
        if changed["metadata"]["resourceVersion"] == version {
            return Ok(());
        }
        self.log.wait(mark, "\"Update event for node\"", &format!("node=\"{node}\""), PATIENCE)
    }

    /// Deletes a bound pod; false if it is gone already, as a victim.
    fn delete(&mut self, pod: &Value) -> Result<bool, Failure> {
        let mark = self.log.mark()?;
        if let Err(refused) = self.api.call(Call::delete(format!("{}?gracePeriodSeconds=0", pod_path(pod)))) {
            return if refused.to_string().contains(": 404 ") { Ok(false) } else { Err(refused) };
        }
        let name = full_name(pod);
        self.log.wait(mark, "\"Delete event for scheduled pod\"", &format!("pod=\"{name}\""), PATIENCE)?;
        self.before.push(json!({"delete_pod": name}));
        Ok(true)
    }

    /// The pod as its controller would make it once more, under a new name.
    fn submit_again(&mut self, pod: &Value) -> Result<(), Failure> {
        let mut again = self.templates.get(&full_name(pod)).cloned().unwrap_or_else(|| pod.clone());
        again["metadata"]["name"] = json!(format!("{}-again", text(pod, "/metadata/name")));
        for (part, fields) in [("spec", &["nodeName"][..]), ("metadata", &["annotations"])] {
            if let Some(object) = again[part].as_object_mut() {
                object.retain(|name, _| !fields.contains(&name.as_str()));
            }
        }
        again["status"] = Value::Null;
        self.submit(again)
    }

    fn with_owners(&self, pod: &mut Value) {
        let namespace = text(pod, "/metadata/namespace").to_owned();
        for owner in pod["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
            let key = (text(owner, "/kind").to_owned(), namespace.clone(), text(owner, "/name").to_owned());
            if let Some(uid) = self.owners.get(&key) {
                owner["uid"] = json!(uid);
            }
        }
    }

    /// Posts a pod and waits until the scheduler has decided.
    fn submit(&mut self, mut pod: Value) -> Result<(), Failure> {
        self.with_owners(&mut pod);
        let name = full_name(&pod);
        let collection = format!("/api/v1/namespaces/{}/pods", text(&pod, "/metadata/namespace"));
        let (start, mark) = (Instant::now(), self.log.mark()?);
        let mut posted = self.api.call(Call::post(collection, pod.clone()))?;
        without_managed_fields(&mut posted);
        self.templates.insert(name.clone(), pod);
        let (outcome, decision, message) = if posted["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty())
        {
            self.log.wait(mark, "\"Add event for unscheduled pod\"", &format!("pod=\"{name}\""), PATIENCE)?;
            ("gated", Decision::default(), None)
        } else {
            self.wait(&posted, mark)?
        };
        let last = decision.attempts.last().cloned().unwrap_or_default();
        let node = last.node.clone();
        let mut result = json!({
            "pod": name, "outcome": outcome, "node": node, "wall_ms": u64::try_from(start.elapsed().as_millis()).unwrap_or_default(),
        });
        last.write(&mut result);
        if !self.before.is_empty() {
            result["before"] = json!(std::mem::take(&mut self.before));
        }
        // The next pod shall meet a scheduler that knows of them.
        for (victim, _) in &decision.victims {
            self.log.wait(mark, "\"Delete event for scheduled pod\"", &format!("pod=\"{victim}\""), PATIENCE)?;
        }
        if outcome == "bound" {
            self.run(&posted)?;
            let bound = self.newly_bound(&posted)?;
            if !bound.is_empty() {
                result["bound_claims"] = json!(bound);
            }
        } else {
            self.withdraw(&posted)?;
            result["failure"] = json!(message);
        }
        if !decision.victims.is_empty() {
            let victims: Vec<Value> = decision.victims.iter().map(|(pod, node)| json!({"pod": pod, "node": node})).collect();
            result["preempted"] = json!(victims);
        }
        if decision.attempts.len() > 1 {
            let attempts = decision.attempts.iter().map(|attempt| {
                let mut written = json!({});
                attempt.write(&mut written);
                written
            });
            result["attempts"] = attempts.collect();
            // Why it failed first, and where room was made for it.
            for field in ["failure", "preempt_dry_run", "nominated_node"] {
                let earlier =
                    result["attempts"].as_array().into_iter().flatten().map(|one| &one[field]).find(|value| !value.is_null());
                if let Some(value) = earlier.cloned().filter(|_| result[field].is_null()) {
                    result[field] = value;
                }
            }
        }
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
        self.submitted.push(posted);
        self.results.push(result);
        Ok(())
    }

    /// Waits for the last try: the pod is bound, or it failed and nobody leaves to make room.
    fn wait(&mut self, pod: &Value, mark: usize) -> Result<(&'static str, Decision, Option<String>), Failure> {
        let (start, name) = (Instant::now(), full_name(pod));
        let waiting = self.claims(pod);
        let mut seen = 0;
        loop {
            for claim in &waiting {
                self.provision(claim)?;
            }
            let lines = self.log.since(mark)?;
            let new = lines.len() > seen;
            seen = lines.len();
            let decision = if new { Decision::read(lines, &name) } else { Decision::default() };
            let late = start.elapsed() > DECISION;
            if let Some(last) = decision.attempts.last() {
                if last.node.is_some() && !decision.preempting {
                    return Ok(("bound", decision, None));
                }
                let failed = last.failure.is_some();
                if failed
                    && last.nominated.is_none()
                    && let Some(message) = self.refusal(pod)?
                {
                    let outcome = if last.error { "error" } else { "unschedulable" };
                    return Ok((outcome, decision, Some(message)));
                }
                if failed || decision.preempting {
                    // The condition or the victims are still to come.
                    seen = 0;
                }
            }
            if late {
                let decision = Decision::read(self.log.since(mark)?, &name);
                let message = decision.attempts.last().and_then(|last| last.failure.clone());
                return Ok(("timeout", decision, message));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Names of the pod's claims that have no volume yet.
    fn claims(&self, pod: &Value) -> Vec<String> {
        let namespace = text(pod, "/metadata/namespace");
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let names = volumes.map(|volume| text(volume, "/persistentVolumeClaim/claimName")).filter(|name| !name.is_empty());
        names.map(|name| format!("{namespace}/{name}")).filter(|name| self.unbound.contains(name)).collect()
    }

    fn provision(&self, claim: &str) -> Result<(), Failure> {
        provision_for(self.api, &self.api.get(&claim_path(claim))?)
    }

    /// The scheduler's words on a pod that has no node and for which nobody leaves.
    fn refusal(&self, pod: &Value) -> Result<Option<String>, Failure> {
        let pod = self.api.get(&pod_path(pod))?;
        if !text(&pod, "/status/nominatedNodeName").is_empty() {
            return Ok(None);
        }
        let conditions = pod["status"]["conditions"].as_array();
        let refused = conditions.into_iter().flatten().find(|one| one["type"] == "PodScheduled" && one["status"] == "False");
        Ok(refused.map(|condition| text(condition, "/message").to_owned()))
    }

    /// A bound pod runs, later than all before it.
    fn run(&mut self, pod: &Value) -> Result<(), Failure> {
        let number = self.results.len();
        let time = format!("2026-01-02T{:02}:{:02}:{:02}Z", number / 3600, number / 60 % 60, number % 60);
        let mark = self.log.mark()?;
        self.api
            .call(Call::patch(format!("{}/status", pod_path(pod)), json!({"status": {"phase": "Running", "startTime": time}})))?;
        self.log.wait(mark, "\"Update event for scheduled pod\"", &format!("pod=\"{}\"", full_name(pod)), PATIENCE)
    }

    /// Takes back a pod that has no node, so that it is not tried again.
    fn withdraw(&mut self, pod: &Value) -> Result<(), Failure> {
        let mark = self.log.mark()?;
        let gone = self.api.call(Call::delete(format!("{}?gracePeriodSeconds=0", pod_path(pod))))?;
        if gone["spec"]["nodeName"].is_string() {
            return Err(Failure::new(format!("{} was placed after all", full_name(pod))));
        }
        self.log.wait(mark, "\"Delete event for unscheduled pod\"", &format!("pod=\"{}\"", full_name(pod)), PATIENCE)
    }

    /// Volumes that claims of the pod were bound to just now.
    fn newly_bound(&mut self, pod: &Value) -> Result<Vec<Value>, Failure> {
        let mut bound = Vec::new();
        for claim in self.claims(pod) {
            let object = self.api.get(&claim_path(&claim))?;
            let volume = text(&object, "/spec/volumeName");
            if volume.is_empty() {
                continue;
            }
            bound.push(json!({"claim": claim, "volume": volume}));
            if volume == format!("pvc-{}", text(&object, "/metadata/uid")) {
                let mut object = self.api.get(&format!("/api/v1/persistentvolumes/{volume}"))?;
                without_managed_fields(&mut object);
                self.provisioned.push(object);
            }
            self.unbound.remove(&claim);
        }
        Ok(bound)
    }

    fn write(&mut self, out: &Path, case: &Case, version: &str, flags: &[String]) -> Result<(), Failure> {
        let list = |kind: &str, items: &[Value]| json!({"apiVersion": "v1", "kind": kind, "items": items});
        write(out, "submit.json", &list("PodList", &self.submitted))?;
        write(out, "provisioned.json", &list("PersistentVolumeList", &self.provisioned))?;
        let pods = self.api.list("/api/v1/pods")?;
        let last: Vec<Value> = pods.iter().map(|pod| json!({"pod": full_name(pod), "node": pod["spec"]["nodeName"]})).collect();
        write(out, "final_pods.json", &json!(last))?;
        let mut result = json!({
            "case": case.seed, "seed": case.seed, "theme": "campaign", "features": case.features,
            "scheduler": {"version": version, "flags": flags}, "results": self.results,
        });
        if !self.before.is_empty() {
            result["after"] = json!(self.before);
        }
        write(out, "result.json", &result)
    }
}

fn claim_path(claim: &str) -> String {
    let (namespace, name) = claim.split_once('/').unwrap_or_default();
    format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
}
