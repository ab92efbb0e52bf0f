//! Measures the scheduler's decisions on generated clusters: placements, drains, and an estimate, in CPU
//! seconds of one thread.
//!
//! `CAPPLAN_TEST_DATA` names the folder with the generator (`tools/bench/gen_cluster.py`).

mod support;

use std::path::Path;

use capplan_model::Snapshot;
use capplan_model::kube::{
    Affinity, LabelSelector, Labels, Node, Pod, PodAffinity, PodAffinityTerm, Resources, TopologySpread, WeightedPodTerm,
};
use capplan_model::units::{Bytes, MilliCpu};
use capplan_planner::drain::drain;
use capplan_planner::scheduler::{Cluster, Group, Scheduler, estimate};
use capplan_provision::kube::lists;

/// Runs of each measurement; the smallest counts, as the machine is shared.
const RUNS: usize = 3;

/// CPU seconds of this thread so far.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn best(mut once: impl FnMut() -> f64) -> f64 {
    (0..RUNS).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let before = cpu();
    let result = run();
    (result, cpu() - before)
}

fn labelled(app: &str) -> Labels {
    Labels::from([("app".to_owned(), app.to_owned())])
}

fn plain(workload: usize) -> Pod {
    let requests = Resources { cpu: MilliCpu(100), memory: Bytes(128 << 20), ..Resources::default() };
    Pod {
        namespace: "bench".into(),
        name: "pod".into(),
        labels: labelled(&format!("app-{workload}")),
        requests,
        ..Pod::default()
    }
}

/// Spread over zones (hard) and nodes (soft), preferably away from its own kind.
fn spread(workload: usize) -> Pod {
    let mut pod = plain(workload);
    let selector = LabelSelector { match_labels: pod.labels.clone(), match_expressions: Vec::new() };
    let constraint = |key: &str, when: &str| TopologySpread {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: when.to_owned(),
        label_selector: Some(selector.clone()),
        ..TopologySpread::default()
    };
    pod.scheduling.topology_spread =
        vec![constraint("topology.kubernetes.io/zone", "DoNotSchedule"), constraint("kubernetes.io/hostname", "ScheduleAnyway")];
    let term = PodAffinityTerm {
        label_selector: Some(selector.clone()),
        topology_key: "kubernetes.io/hostname".into(),
        ..PodAffinityTerm::default()
    };
    pod.scheduling.affinity = Some(Affinity {
        pod_anti_affinity: Some(PodAffinity {
            required: Vec::new(),
            preferred: vec![WeightedPodTerm { weight: 50, pod_affinity_term: term }],
        }),
        ..Affinity::default()
    });
    pod
}

/// Places `count` pods, ten of each workload; answers pods per CPU second.
fn placements(cluster: &Cluster<'_>, count: usize, make: fn(usize) -> Pod) -> f64 {
    let seconds = best(|| {
        let mut scheduler = Scheduler::new(cluster.clone());
        let ((), seconds) = timed(|| {
            for number in 0..count {
                let pod = scheduler.cluster.add_pod(make(number / 10));
                let node = *scheduler.best(pod).first().expect("there is room");
                scheduler.cluster.bind(pod, node);
            }
        });
        seconds
    });
    count as f64 / seconds
}

fn drains(cluster: &Cluster<'_>, most: usize) -> (f64, f64, usize) {
    let mut scheduler = Scheduler::new(cluster.clone());
    let nodes: Vec<usize> = scheduler.cluster.nodes().take(most).collect();
    let (mut slowest, mut all, mut possible) = (0.0_f64, 0.0, 0);
    for node in &nodes {
        let (answer, seconds) = timed(|| drain(&mut scheduler, *node));
        slowest = slowest.max(seconds);
        all += seconds;
        possible += usize::from(answer.left.is_empty());
    }
    (all / nodes.len() as f64, slowest, possible)
}

fn clusters(data: &Path, folder: &Path) {
    println!("| nodes × pods | what | result |");
    println!("|---|---|---:|");
    for nodes in [20, 100, 1000, 5000] {
        let lists = support::lists(data, folder, nodes, 30, 10);
        let snapshot = Snapshot { kube: lists::read(&lists), ..Snapshot::default() };
        let row = |what: &str, result: String| println!("| {nodes} × {} | {what} | {result} |", nodes * 30);
        let (cluster, building) = timed(|| Cluster::of(&snapshot));
        let cluster = cluster.into_known().expect("nodes and pods are listed");
        row("model → scheduler's cluster, CPU s", format!("{building:.3}"));
        row("plain pods placed per CPU s", format!("{:.0}", placements(&cluster, 5_000.min(nodes * 20), plain)));
        row("pods with spread and affinity per CPU s", format!("{:.0}", placements(&cluster, 2_000.min(nodes * 10), spread)));
        let (mean, slowest, possible) = drains(&cluster, 1_000);
        row(
            "drain feasible? ms a node (slowest), nodes that can go",
            format!("{:.3} ({:.1}), {possible} of {}", mean * 1e3, slowest * 1e3, nodes.min(1_000)),
        );
    }
}

/// Repetitions of what takes less than the clock can tell.
const REPEATED: u32 = 1_000;

fn estimator(_: &Path) {
    let amounts = |cpu, memory| Resources { cpu: MilliCpu(cpu), memory: Bytes(memory), ..Resources::default() };
    let node = Node { allocatable: amounts(1000, 5000), max_pods: 100, ..Node::default() };
    let small = Pod { requests: amounts(50, 100), ..Pod::default() };
    let large = Pod { requests: amounts(95, 190), ..Pod::default() };
    let groups = [Group { pod: &small, count: 50_000, volumes: 0 }, Group { pod: &large, count: 1_000, volumes: 0 }];
    let repeated = || (0..REPEATED).map(|_| estimate(std::hint::black_box(&node), 0, &groups).nodes).max();
    let seconds = best(|| timed(repeated).1) / f64::from(REPEATED);
    println!("\nestimate of 51,000 pods: {} nodes in {:.4} ms", estimate(&node, 0, &groups).nodes, seconds * 1e3);
}

fn main() {
    support::measure(clusters, estimator);
}
