//! Each worker's reboot, played on its own.

use std::collections::BTreeSet;

use super::growth::Growth;
use super::play::{Leave, Player, blocked};
use super::proof;
use super::result::{Reboot, Verdict};
use crate::scheduler::{NodeId, PodId};

impl Player<'_> {
    /// Plays each worker's reboot on its own.
    pub(super) fn reboot_each(&mut self) {
        let nodes: Vec<NodeId> = self.scheduler.cluster.nodes().collect();
        let mut trial = Player::new(self.ground, self.scheduler.cluster.clone(), self.plugs.clone(), self.rng.u64(..));
        trial.down.clone_from(&self.down);
        let waiting: Vec<PodId> = trial.waiting.iter().copied().filter(|pod| !self.gone.contains(pod)).collect();
        for node in nodes {
            let cluster = &self.scheduler.cluster;
            let name = cluster.node(node).name.clone();
            if cluster.node(node).is_control_plane() || self.down.contains(&node) {
                continue;
            }
            let blocked = blocked(self.ground.snapshot, cluster, node);
            let mut doubts: BTreeSet<String> = blocked.iter().cloned().collect();
            let mut reboot = Reboot { node: name, blocked, ..Reboot::default() };
            let (mut runs, mut good, mut unread, mut worst) = (0, 0, !self.unread.is_empty() || self.worker_unknown(), None);
            while runs < self.reboot_runs {
                runs += 1;
                let mark = trial.scheduler.cluster.mark();
                trial.waiting.clone_from(&waiting);
                trial.cordon(node);
                trial.evict(node, &Leave::Rebooting);
                reboot.pods = trial.waiting.len() - waiting.len() + trial.lost.len();
                trial.settle();
                doubts.append(&mut trial.doubts(&Growth::default()));
                unread |= !trial.unread.is_empty();
                let (unplaceable, _) = trial.unplaceable();
                if unplaceable.is_empty() {
                    good += 1;
                } else if reboot.unplaceable.is_empty() {
                    reboot.unplaceable = unplaceable;
                    worst = Some(proof::search(&mut trial));
                }
                reboot.lost.clone_from(&trial.lost);
                self.flagged.extend(trial.flagged.iter().cloned());
                let had_choice = trial.outcome.had_choice;
                trial.scheduler.cluster.roll_back(mark);
                let Player { scheduler, rng, waited, selects_namespaces, .. } = trial;
                trial = Player::over(self.ground, scheduler, self.plugs.clone(), rng, waited, selects_namespaces);
                trial.down.clone_from(&self.down);
                if !had_choice {
                    break;
                }
            }
            reboot.probability = f64::from(good) / f64::from(runs);
            (reboot.verdict, reboot.because) = match worst {
                None => (Verdict::SchedulerPlaces, Vec::new()),
                Some(_) if good > 0 => (Verdict::FitsIfPlaced, vec![format!("every pod found a place in {good} of {runs} runs")]),
                Some(found) => found,
            };
            reboot.verdict = reboot.verdict.with_doubts(!doubts.is_empty(), unread);
            self.undecided.extend(doubts.iter().map(|why| format!("the reboot of {}: {why}", reboot.node)));
            reboot.because.extend(doubts);
            if !reboot.lost.is_empty() {
                reboot.because.push(format!("pods that nothing makes again end for good: {}", reboot.lost.join(", ")));
            }
            reboot.fits = reboot.verdict == Verdict::SchedulerPlaces;
            self.reboots.push(reboot);
        }
    }
}
