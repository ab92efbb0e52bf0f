//! Makes recorded decisions of the real kube-scheduler again.
//!
//! Each pod is judged on the cluster as it was, and then goes where the real one put it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use capplan_model::Snapshot;
use capplan_model::kube::{Pod, Taint};
use capplan_planner::scheduler::{Cluster, Judgement, NodeId, Plugin, PodId, Rejection, Scheduler};
use capplan_provision::kube::lists;
use serde_json::Value;

/// How many decisions agree.
#[derive(Default)]
pub struct Tally {
    /// Agreed and all, by kind of decision.
    pub counts: BTreeMap<&'static str, (usize, usize)>,
    /// Every disagreement in words.
    pub disagreements: Vec<String>,
    /// Pods that use something that is not modelled, and say so.
    pub flagged: usize,
}

impl Tally {
    /// Prints the counts and fails if anything disagrees.
    #[track_caller]
    pub fn conclude(&self, cases: usize, decisions: usize) {
        println!("{cases} cases, {decisions} decisions, {} of them flagged as not modelled", self.flagged);
        for (kind, (agreed, all)) in &self.counts {
            println!("{kind}: {agreed} of {all} agree");
        }
        let shown = self.disagreements.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(self.disagreements.is_empty(), "{} disagreements:\n{shown}", self.disagreements.len());
    }

    fn check(&mut self, kind: &'static str, agrees: bool, what: impl FnOnce() -> String) {
        let (agreed, all) = self.counts.entry(kind).or_default();
        *all += 1;
        if agrees {
            *agreed += 1;
        } else {
            self.disagreements.push(format!("{kind}: {}", what()));
        }
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

struct Replay<'a> {
    name: String,
    scheduler: Scheduler<'a>,
    pods: BTreeMap<String, PodId>,
    /// A node was deleted under the running scheduler: what it knows of images is that of before for
    /// every node whose pods have not changed since (`UpdateSnapshot` copies changed nodes only).
    images_are_stale: bool,
}

impl Replay<'_> {
    fn node(&self, name: &str) -> NodeId {
        self.scheduler.cluster.node_named(&name.into()).expect("a node of the case")
    }

    fn names(&self, nodes: &[NodeId]) -> BTreeSet<String> {
        nodes.iter().map(|node| self.scheduler.cluster.node(*node).name.to_string()).collect()
    }

    fn change(&mut self, change: &Value) {
        if let Some(pod) = change["delete_pod"].as_str() {
            let pod = self.pods[pod];
            self.scheduler.cluster.take(pod);
        } else if let Some(node) = change["cordon"].as_str() {
            let node = self.node(node);
            self.scheduler.cluster.alter_node(node, |node| {
                node.unschedulable = true;
                // As the node lifecycle controller does.
                node.taints.push(Taint { key: "node.kubernetes.io/unschedulable".into(), ..Taint::default() });
            });
        } else if let Some(node) = change["delete_node"].as_str() {
            let node = self.node(node);
            self.scheduler.cluster.remove_node(node);
            self.images_are_stale = true;
        } else if change["taint"].is_object() {
            let node = self.node(change["taint"]["node"].as_str().expect("as recorded"));
            let taint: Taint = serde_json::from_value(change["taint"]["taint"].clone()).expect("as recorded");
            self.scheduler.cluster.alter_node(node, |node| node.taints.push(taint));
        } else {
            assert!(change.is_null(), "{}: unknown change {change}", self.name);
        }
    }

    /// The scheduler's message for a pod that it found no node for, up to what preemption adds.
    fn failure(&self, judgement: &Judgement) -> String {
        let nodes = self.scheduler.cluster.node_count();
        let reasons = match &judgement.rejection {
            Some(rejection) => rejection.scheduler_words(),
            None => {
                let mut words: BTreeMap<String, usize> = BTreeMap::new();
                for (reason, count) in judgement.counts() {
                    *words.entry(reason.scheduler_words()).or_default() += count;
                }
                let mut parts: Vec<String> = words.into_iter().map(|(words, count)| format!("{count} {words}")).collect();
                parts.sort();
                parts.join(", ")
            }
        };
        format!("0/{nodes} nodes are available: {reasons}.")
    }

    fn decide(&mut self, pod: Pod, result: &Value, tally: &mut Tally) {
        for change in result["before"].as_array().into_iter().flatten() {
            self.change(change);
        }
        let full_name = pod.object_name().to_string();
        assert_eq!(full_name, result["pod"].as_str().expect("as recorded"));
        let id = self.scheduler.cluster.add_pod(pod);
        self.pods.insert(full_name.clone(), id);
        let judgement = self.scheduler.judge(id);
        let at = format!("{} {full_name}", self.name);
        let is_gated = judgement.rejection == Some(Rejection::Gated);
        tally.check("gated or not", is_gated == (result["outcome"] == "gated"), || at.clone());
        if is_gated {
            return;
        }
        if !self.scheduler.cluster.pod(id).scheduling.unmodelled.is_empty() {
            // Not decided, and said so: it only goes where the real one put it.
            tally.flagged += 1;
            for victim in result["preempted"].as_array().into_iter().flatten() {
                let victim = self.pods[victim["pod"].as_str().expect("as recorded")];
                self.scheduler.cluster.take(victim);
            }
            if let Some(chosen) = result["node"].as_str() {
                let node = self.node(chosen);
                self.scheduler.cluster.bind(id, node);
            }
            return;
        }
        let preempted = result["preempted"][0]["node"].as_str();
        let first = result["attempts"].get(0).unwrap_or(result);
        if first["batch_hint"].is_null() {
            let recorded: BTreeSet<String> = strings(&first["feasible"]).into_iter().map(str::to_owned).collect();
            let ours = self.names(&judgement.feasible);
            tally.check("feasible set", ours == recorded, || {
                let refused: Vec<String> = judgement
                    .refused
                    .iter()
                    .map(|(node, reasons)| format!("{}: {reasons:?}", self.scheduler.cluster.node(*node).name))
                    .collect();
                format!("{at}: {ours:?}, recorded {recorded:?}; {}; refused: {refused:?}", first["failure"])
            });
        }
        if judgement.feasible.is_empty() {
            let (ours, recorded) = (self.failure(&judgement), first["failure"].as_str().unwrap_or_default());
            tally.check("failure reasons", recorded.starts_with(&ours), || format!("{at}: {ours}\n    recorded {recorded}"));
            let candidates = self.scheduler.preempt(id);
            match preempted {
                None => tally.check("no preemption", candidates.is_empty(), || format!("{at}: {candidates:?}")),
                Some(nominated) => {
                    let node = self.node(nominated);
                    let recorded: BTreeSet<&str> = result["preempted"]
                        .as_array()
                        .expect("as recorded")
                        .iter()
                        .map(|one| one["pod"].as_str().expect("as recorded"))
                        .collect();
                    let names = |victims: &[PodId]| -> BTreeSet<String> {
                        victims.iter().map(|pod| self.scheduler.cluster.pod(*pod).object_name().to_string()).collect()
                    };
                    let chosen = candidates.iter().find(|one| one.node == node);
                    let same =
                        chosen.is_some_and(|one| names(&one.victims).iter().map(String::as_str).eq(recorded.iter().copied()));
                    tally.check("preemption victims", same, || {
                        let ours: Vec<_> = candidates.iter().map(|one| (one.node, names(&one.victims))).collect();
                        format!("{at}: {ours:?}, recorded {nominated} {recorded:?}")
                    });
                    for victim in recorded {
                        let victim = self.pods[victim];
                        self.scheduler.cluster.take(victim);
                    }
                }
            }
        } else if let Some(scores) = first["scores"].as_object().filter(|scores| !scores.is_empty()) {
            let totals = judgement.totals();
            let ours: BTreeMap<&str, i64> = judgement
                .feasible
                .iter()
                .zip(&totals)
                .map(|(node, total)| (self.scheduler.cluster.node(*node).name.as_str(), *total))
                .collect();
            let recorded: BTreeMap<&str, i64> =
                scores.iter().map(|(node, score)| (node.as_str(), score.as_i64().expect("as recorded"))).collect();
            if self.images_are_stale && ours != recorded {
                let mut others = judgement.scores.iter().filter(|(plugin, _)| **plugin != Plugin::ImageLocality);
                let same = |(plugin, column): (&Plugin, &Vec<i64>)| {
                    let theirs = first["per_plugin_scores"][plugin.name()].as_array();
                    let of = strings(&first["feasible"]);
                    theirs.is_none_or(|theirs| {
                        of.iter().zip(theirs).all(|(name, theirs)| {
                            let place = judgement.feasible.iter().position(|node| *node == self.node(name));
                            place.map(|place| column[place]) == theirs.as_i64()
                        })
                    })
                };
                tally.check("scores but for stale image counts", others.all(same), || at.clone());
                if let Some(chosen) = result["node"].as_str() {
                    let node = self.node(chosen);
                    self.scheduler.cluster.bind(id, node);
                }
                return;
            }
            tally.check("scores of every node", ours == recorded, || {
                let of = strings(&first["feasible"]);
                let mut lines = Vec::new();
                for (plugin, column) in &judgement.scores {
                    let theirs = first["per_plugin_scores"][plugin.name()].as_array();
                    let ours: Vec<i64> = of
                        .iter()
                        .filter_map(|name| judgement.feasible.iter().position(|node| *node == self.node(name)))
                        .map(|place| column[place])
                        .collect();
                    if theirs.is_some_and(|theirs| theirs.iter().filter_map(Value::as_i64).ne(ours.iter().copied())) {
                        lines.push(format!("\n    {}: {ours:?}, recorded {theirs:?}", plugin.name()));
                    }
                }
                format!("{at}: {}", lines.concat())
            });
        }
        if let Some(chosen) = result["node"].as_str() {
            let node = self.node(chosen);
            let best = match preempted {
                Some(_) => self.scheduler.feasible(id),
                None => self.scheduler.best(id),
            };
            // A node taken from a batch was the best when the batch was scored.
            if result["batch_hint"].is_null() {
                tally.check("chosen node among the best", best.contains(&node), || {
                    format!("{at}: {:?}, recorded {chosen}", self.names(&best))
                });
            }
            self.scheduler.cluster.bind(id, node);
        }
    }
}

/// Makes the decisions of a recorded case again; answers how many there are.
pub fn replay(case: &Path, tally: &mut Tally) -> usize {
    let snapshot = Snapshot { kube: lists::read(case), ..Snapshot::default() };
    let read = |name: &str| fs::read(case.join(name)).expect("a whole case");
    let submitted = lists::pods(&read("submit.json")).expect("as recorded");
    let result: Value = serde_json::from_slice(&read("result.json")).expect("as recorded");
    let results = result["results"].as_array().expect("as recorded");
    assert_eq!(submitted.len(), results.len());
    let cluster = Cluster::of(&snapshot).into_known().expect("nodes and pods are listed");
    let pods = (0..cluster.pod_count()).map(|pod| (cluster.pod(pod).object_name().to_string(), pod)).collect();
    let name = format!(
        "{} ({})",
        case.file_name().expect("as recorded").to_string_lossy(),
        result["theme"].as_str().unwrap_or_default()
    );
    let mut replay = Replay { name, scheduler: Scheduler::new(cluster), pods, images_are_stale: false };
    for (pod, result) in submitted.into_iter().zip(results) {
        replay.decide(pod, result, tally);
    }
    results.len()
}
