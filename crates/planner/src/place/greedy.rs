//! A good assignment without a solver: bins are closed one after the other while everything fits.

use std::collections::BTreeMap;

use super::{Assignment, BinState, Puzzle, add};

/// What is used of each bin, as the assignment grows.
struct Trial<'p> {
    puzzle: &'p Puzzle,
    assignment: Assignment,
    used: Vec<Vec<i64>>,
    closed: Vec<bool>,
    /// Rules by kind.
    rules: Vec<Vec<usize>>,
}

impl<'p> Trial<'p> {
    fn of(puzzle: &'p Puzzle) -> Self {
        let mut used = vec![vec![0; puzzle.dimensions.len()]; puzzle.bins.len()];
        for kind in &puzzle.kinds {
            for (bin, count) in &kind.home {
                for (dimension, amount) in &kind.demand {
                    add(&mut used[*bin][*dimension], *amount, *count);
                }
            }
        }
        let mut rules = vec![Vec::new(); puzzle.kinds.len()];
        for (number, rule) in puzzle.rules.iter().enumerate().filter(|(_, rule)| !rule.stricter) {
            for (kind, _) in &rule.kinds {
                rules[*kind].push(number);
            }
        }
        let closed = puzzle.bins.iter().map(|bin| bin.state == BinState::Closed).collect();
        Self { puzzle, assignment: puzzle.kinds.iter().map(|kind| kind.home.clone()).collect(), used, closed, rules }
    }

    fn shift(&mut self, kind: usize, bin: usize, count: i64) {
        for (dimension, amount) in &self.puzzle.kinds[kind].demand {
            add(&mut self.used[bin][*dimension], *amount, count);
        }
        let there = self.assignment[kind].entry(bin).or_default();
        *there += count;
        if *there == 0 {
            self.assignment[kind].remove(&bin);
        }
    }

    fn takes(&self, kind: usize, bin: usize) -> bool {
        let room = &self.puzzle.bins[bin].room;
        let demand = &self.puzzle.kinds[kind].demand;
        !self.closed[bin]
            && demand
                .iter()
                .all(|(dimension, amount)| room[*dimension].is_none_or(|room| self.used[bin][*dimension] + amount <= room))
            && self.rules[kind].iter().all(|number| {
                let rule = &self.puzzle.rules[*number];
                if !rule.bins.contains(&bin) {
                    return true;
                }
                let mut sum = 0;
                for (one, factor) in &rule.kinds {
                    let there: i64 = rule.bins.iter().map(|bin| self.assignment[*one].get(bin).copied().unwrap_or(0)).sum();
                    sum += factor * (there + i64::from(*one == kind));
                }
                sum <= rule.most
            })
    }

    /// Empties a bin, the largest pods first, each into the fullest bin that takes it; or leaves all as it is.
    fn empty(&mut self, bin: usize) -> bool {
        let was_closed = std::mem::replace(&mut self.closed[bin], true);
        let mut pods: Vec<(usize, i64)> =
            self.assignment.iter().enumerate().filter_map(|(kind, now)| Some((kind, *now.get(&bin)?))).collect();
        let size = |kind: usize| {
            let demand = &self.puzzle.kinds[kind].demand;
            demand.iter().map(|(dimension, amount)| *amount as f64 / self.puzzle.most_room[*dimension]).fold(0.0, f64::max)
        };
        pods.sort_by(|a, b| size(b.0).total_cmp(&size(a.0)).then(a.0.cmp(&b.0)));
        let mut done: Vec<(usize, usize)> = Vec::new();
        for (kind, count) in pods {
            for _ in 0..count {
                let fill = |bin: usize| {
                    let room = &self.puzzle.bins[bin].room;
                    let shares =
                        room.iter().zip(&self.used[bin]).filter_map(|(room, used)| Some(*used as f64 / (*room)?.max(1) as f64));
                    shares.fold(0.0, f64::max)
                };
                let open = self.puzzle.kinds[kind].may_go.iter().copied().filter(|one| self.takes(kind, *one));
                match open.max_by(|a, b| fill(*a).total_cmp(&fill(*b)).then(b.cmp(a))) {
                    Some(to) => {
                        self.shift(kind, bin, -1);
                        self.shift(kind, to, 1);
                        done.push((kind, to));
                    }
                    None => {
                        for (kind, to) in done.into_iter().rev() {
                            self.shift(kind, to, -1);
                            self.shift(kind, bin, 1);
                        }
                        self.closed[bin] = was_closed;
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// Empties what is closed, then as many of those that may close as it can, those with the fewest pods
/// first, until at most `most` are open; `None` if that was not reached.
pub(super) fn close(puzzle: &Puzzle, most: Option<i64>) -> Option<Assignment> {
    let mut trial = Trial::of(puzzle);
    let of = |state: BinState| puzzle.bins.iter().enumerate().filter(move |(_, bin)| bin.state == state).map(|(place, _)| place);
    for bin in of(BinState::Closed) {
        if !trial.empty(bin) {
            return None;
        }
    }
    let mut pods: BTreeMap<usize, i64> = BTreeMap::new();
    for (bin, count) in puzzle.kinds.iter().flat_map(|kind| &kind.home) {
        *pods.entry(*bin).or_default() += count;
    }
    let mut candidates: Vec<usize> = of(BinState::MayClose).collect();
    candidates.sort_by_key(|bin| (pods.get(bin).copied().unwrap_or(0), *bin));
    let mut open = candidates.len() as i64;
    for bin in candidates {
        if most.is_some_and(|most| open <= most) {
            break;
        }
        if let Some((amounts, least)) = &puzzle.keep {
            let kept: i64 = amounts.iter().zip(&trial.closed).filter(|(_, closed)| !**closed).map(|(amount, _)| amount).sum();
            if kept - amounts[bin] < *least {
                continue;
            }
        }
        open -= i64::from(trial.empty(bin));
    }
    most.is_none_or(|most| open <= most).then_some(trial.assignment)
}
