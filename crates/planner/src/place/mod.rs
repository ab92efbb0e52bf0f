//! All pods at once: which of them move where, so that some nodes are empty afterwards.
//!
//! Pods that nothing tells apart here (what they take, where they may go, whom they keep away from) are
//! one kind: the program counts how many of a kind stay on a node and how many arrive, instead of asking
//! each pod. That makes it ten to a hundred times smaller, and provable.

mod greedy;
mod puzzle;
mod solver;

use std::collections::BTreeMap;

use solver::{Program, Solved};

pub(crate) use puzzle::SLOTS;
pub use puzzle::{Puzzle, Sketch};
pub use solver::NAME as SOLVER;

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinState {
    /// It stays as it is.
    Open,
    /// It is emptied.
    Closed,
    /// It is emptied if that is possible and pays.
    MayClose,
}

/// A node with what it has for the pods that may move.
#[derive(Clone, Debug)]
pub struct Bin {
    /// What there is of each dimension; `None` is no limit.
    pub room: Vec<Option<i64>>,
    /// What is to become of it.
    pub state: BinState,
}

/// Pods that nothing tells apart.
#[derive(Clone, Debug, Default)]
pub struct Kind {
    /// What each takes: `(dimension, amount)`.
    pub demand: Vec<(usize, i64)>,
    /// How many are where now.
    pub home: BTreeMap<usize, i64>,
    /// Bins that may take one that moves, in order.
    pub may_go: Vec<usize>,
    /// Whether each has a volume that is detached when it moves.
    pub stateful: bool,
}

/// Adds so many times an amount to a sum, which stops at the ends of its range.
fn add(sum: &mut i64, amount: i64, count: i64) {
    *sum = sum.saturating_add(amount.saturating_mul(count));
}

impl Kind {
    /// How many there are.
    pub fn count(&self) -> i64 {
        self.home.values().sum()
    }
}

/// `Σ factor · (number of the kind in these bins) − Σ factor · (number in those) ≤ most`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `(kind, factor)`.
    pub kinds: Vec<(usize, i64)>,
    /// The bins.
    pub bins: Vec<usize>,
    /// Those that are taken off.
    pub minus: Vec<usize>,
    /// The bound.
    pub most: i64,
    /// Whether more is forbidden here than the scheduler forbids: without it a bound is still one.
    pub stricter: bool,
}

/// How many of each kind are in which bin: by kind, then by bin.
pub type Assignment = Vec<BTreeMap<usize, i64>>;

/// An assignment and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The best one found, its moves, and the least number of moves of any.
    Found {
        /// Where everything is.
        assignment: Assignment,
        /// Pods that move.
        moves: i64,
        /// No assignment moves fewer.
        bound: i64,
    },
    /// There is none: proven.
    Impossible,
    /// None was found, and none ruled out.
    Unknown,
}

/// How much of a dimension is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// At least so much.
    pub at_least: i64,
    /// With so much more in these bins it is enough, if such amounts were found.
    pub enough: Option<BTreeMap<usize, i64>>,
}

/// A whole bin, in the unit in which the fullest one is measured.
const PEAK: i64 = 1000;
/// Most columns that are given to the solver.
const MOST_COLUMNS: usize = 60_000;

/// A bound that is quickly found: the best value if parts of a pod could be placed.
fn relaxed(program: &Program, seconds: f64) -> Option<f64> {
    let program = Program { relaxed: true, start: None, ..program.clone() };
    match solver::solve(&program, seconds) {
        Solved::Optimal(values) => Some(program.weigh(&values)),
        Solved::Feasible(..) | Solved::Infeasible | Solved::Nothing(_) => None,
    }
}

/// Columns of a program: how many stay, how many arrive, and which bins stay open.
struct Columns {
    stay: BTreeMap<(usize, usize), usize>,
    arrive: BTreeMap<(usize, usize), usize>,
    open: BTreeMap<usize, usize>,
    program: Program,
}

impl Puzzle {
    /// Number of the solver's columns.
    pub fn size(&self) -> usize {
        self.kinds.iter().map(|kind| kind.home.len() + kind.may_go.len()).sum()
    }

    /// Whether it is small enough for the solver.
    pub fn is_solvable(&self) -> bool {
        self.size() <= MOST_COLUMNS
    }

    fn columns(&self) -> Columns {
        let mut program = Program::default();
        let (mut stay, mut arrive, mut open) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (place, _) in self.bins.iter().enumerate().filter(|(_, bin)| bin.state == BinState::MayClose) {
            open.insert(place, program.column(0, 1, 0.0));
        }
        for (number, kind) in self.kinds.iter().enumerate() {
            let total = kind.count();
            let mut sum = Vec::new();
            for (bin, count) in kind.home.iter().filter(|(bin, _)| self.bins[**bin].state != BinState::Closed) {
                let column = program.column(0, *count, 0.0);
                stay.insert((number, *bin), column);
                sum.push((column, 1.0));
                // Said for each kind and not only by the room: that is what makes the bound tight.
                if let Some(open) = open.get(bin) {
                    program.at_most(vec![(column, 1.0), (*open, -(*count as f64))], 0.0);
                }
            }
            for bin in kind.may_go.iter().filter(|bin| self.bins[**bin].state != BinState::Closed) {
                let most = total - kind.home.get(bin).copied().unwrap_or(0);
                if most > 0 {
                    let column = program.column(0, most, 0.0);
                    arrive.insert((number, *bin), column);
                    sum.push((column, 1.0));
                }
            }
            program.equal(sum, total as f64);
        }
        self.bound_rooms(&stay, &arrive, &open, &mut program);
        if let Some((amounts, least)) = &self.keep {
            let always: i64 =
                self.bins.iter().zip(amounts).filter(|(bin, _)| bin.state == BinState::Open).map(|(_, amount)| *amount).sum();
            let scale = amounts.iter().copied().max().unwrap_or(1).max(1) as f64;
            let terms = open.iter().map(|(bin, column)| (*column, -(amounts[*bin] as f64) / scale)).collect();
            program.at_most(terms, -((least - always) as f64) / scale);
        }
        Columns { stay, arrive, open, program }
    }

    fn bound_rooms(
        &self,
        stay: &BTreeMap<(usize, usize), usize>,
        arrive: &BTreeMap<(usize, usize), usize>,
        open: &BTreeMap<usize, usize>,
        program: &mut Program,
    ) {
        let dimensions = self.dimensions.len();
        let mut rows: BTreeMap<(usize, usize), Vec<(usize, f64)>> = BTreeMap::new();
        let mut most: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        for ((kind, bin), column) in stay.iter().chain(arrive) {
            for (dimension, amount) in &self.kinds[*kind].demand {
                let scaled = *amount as f64 / self.scale[*dimension] as f64;
                rows.entry((*bin, *dimension)).or_default().push((*column, scaled));
                *most.entry((*bin, *dimension)).or_default() += scaled * program.columns[*column].most;
            }
        }
        for ((bin, dimension), mut terms) in rows {
            debug_assert!(dimension < dimensions, "a demand names a dimension");
            let Some(room) = self.bins[bin].room[dimension] else { continue };
            let room = self.kept(bin, dimension, room) as f64 / self.scale[dimension] as f64;
            match open.get(&bin) {
                Some(open) => {
                    terms.push((*open, -room));
                    program.at_most(terms, 0.0);
                }
                None if most[&(bin, dimension)] > room => program.at_most(terms, room),
                None => {}
            }
        }
    }

    /// What the pods at home in a bin take of a dimension.
    fn held(&self, bin: usize, dimension: usize) -> i64 {
        let of = |kind: &Kind| {
            let each: i64 = kind.demand.iter().filter(|(one, _)| *one == dimension).map(|(_, amount)| amount).sum();
            each * kind.home.get(&bin).copied().unwrap_or(0)
        };
        self.kinds.iter().map(of).sum()
    }

    /// The room of a bin: one that holds more than it has may keep that, unless the puzzle is to change it.
    fn kept(&self, bin: usize, dimension: usize, room: i64) -> i64 {
        if self.strict == Some(dimension) { room } else { room.max(self.held(bin, dimension)) }
    }

    fn bound_rules(&self, columns: &mut Columns, stricter: bool) {
        for rule in self.rules.iter().filter(|rule| stricter || !rule.stricter) {
            let mut terms = Vec::new();
            for (kind, factor) in &rule.kinds {
                let signed = rule.bins.iter().map(|bin| (bin, *factor)).chain(rule.minus.iter().map(|bin| (bin, -factor)));
                for (bin, factor) in signed {
                    let there = [columns.stay.get(&(*kind, *bin)), columns.arrive.get(&(*kind, *bin))];
                    terms.extend(there.into_iter().flatten().map(|column| (*column, factor as f64)));
                }
            }
            if !terms.is_empty() {
                columns.program.at_most(terms, rule.most as f64);
            }
        }
    }

    /// Fewest moves that empty what is closed, and as many of those that may close that at most
    /// `open` of them stay open; of these the ones with the fewest pods that have volumes, and of these the
    /// ones that leave the fullest bin least full.
    ///
    /// `stricter` adds what the scheduler asks of each step and not of the result.
    pub fn fewest_moves(&self, open: Option<i64>, stricter: bool, seconds: f64) -> Answer {
        let greedy = greedy::close(self, open);
        if !self.is_solvable() {
            return match greedy {
                Some(assignment) => {
                    let moves = self.moves(&assignment);
                    Answer::Found { assignment, moves, bound: self.least_moves(open).min(moves) }
                }
                None => Answer::Unknown,
            };
        }
        let mut columns = self.columns();
        self.bound_rules(&mut columns, stricter);
        if let Some(most) = open {
            columns.program.at_most(columns.open.values().map(|column| (*column, 1.0)).collect(), most as f64);
        }
        for column in columns.stay.values() {
            columns.program.columns[*column].weight = -1.0;
        }
        columns.program.start = greedy.and_then(|found| self.written(&columns, &found));
        let all: i64 = self.kinds.iter().map(Kind::count).sum();
        let answer = self.answer(&columns, solver::solve(&columns.program, seconds), all, seconds);
        match answer {
            Answer::Found { assignment, moves, bound } => {
                let assignment = self.refine(columns, assignment, moves, all, seconds / 8.0);
                Answer::Found { assignment, moves, bound }
            }
            Answer::Impossible | Answer::Unknown => answer,
        }
    }

    /// The best of the assignments with as few moves, by what counts less; the one that is there if time is short.
    fn refine(&self, mut columns: Columns, found: Assignment, moves: i64, all: i64, seconds: f64) -> Assignment {
        let mut best = found;
        let stay = |columns: &Columns, weight: &dyn Fn(usize) -> f64| -> Vec<(usize, f64)> {
            columns.stay.iter().map(|((kind, _), column)| (*column, weight(*kind))).filter(|(_, weight)| *weight != 0.0).collect()
        };
        let kept = stay(&columns, &|_| -1.0);
        columns.program.at_most(kept, (moves - all) as f64);
        let stateful = stay(&columns, &|kind| if self.kinds[kind].stateful { -1.0 } else { 0.0 });
        let mut stages = vec![stateful];
        // The share of the room that is taken, in thousandths, of the fullest bin.
        let peak = columns.program.column(0, PEAK, 0.0);
        self.bound_peak(&mut columns, peak);
        stages.push(vec![(peak, 1.0)]);
        for stage in stages.into_iter().filter(|stage| !stage.is_empty()) {
            columns.program.columns.iter_mut().for_each(|column| column.weight = 0.0);
            stage.iter().for_each(|(column, weight)| columns.program.columns[*column].weight = *weight);
            columns.program.start = self.written(&columns, &best).map(|mut start| {
                start[peak] = PEAK as f64;
                start
            });
            let (Solved::Optimal(values) | Solved::Feasible(values, _)) = solver::solve(&columns.program, seconds) else { break };
            let assignment = self.read(&columns, &values);
            if !self.holds(&assignment) || self.moves(&assignment) > moves {
                break;
            }
            best = assignment;
            let reached = columns.program.weigh(&values).round();
            columns.program.at_most(stage, reached);
        }
        best
    }

    /// Keeps `peak` at least at the share that is taken of each open bin's room.
    fn bound_peak(&self, columns: &mut Columns, peak: usize) {
        let mut rows: BTreeMap<(usize, usize), Vec<(usize, f64)>> = BTreeMap::new();
        for ((kind, bin), column) in columns.stay.iter().chain(&columns.arrive) {
            for (dimension, amount) in &self.kinds[*kind].demand {
                if let Some(room) = self.bins[*bin].room[*dimension].filter(|room| *room > 0) {
                    rows.entry((*bin, *dimension)).or_default().push((*column, *amount as f64 / room as f64 * PEAK as f64));
                }
            }
        }
        for ((bin, dimension), mut terms) in rows {
            // One that holds more than it has is no measure for the others.
            let room = self.bins[bin].room[dimension].unwrap_or(i64::MAX);
            if self.held(bin, dimension) <= room {
                terms.push((peak, -1.0));
                columns.program.at_most(terms, 0.0);
            }
        }
    }

    fn answer(&self, columns: &Columns, solved: Solved, all: i64, seconds: f64) -> Answer {
        let forced: i64 = self.forced();
        let found = |values: &[f64], bound: Option<f64>| {
            let assignment = self.read(columns, values);
            if !self.holds(&assignment) {
                return Answer::Unknown;
            }
            let moves = self.moves(&assignment);
            // The weighted sum counts those that stay, negated.
            let bound = bound.map_or(forced, |bound| all + (bound - 1e-6).ceil() as i64).max(forced);
            Answer::Found { assignment, moves, bound: bound.min(moves) }
        };
        match solved {
            Solved::Optimal(values) => {
                let weight = columns.program.weigh(&values);
                found(&values, Some(weight))
            }
            Solved::Feasible(values, bound) => found(&values, bound.or_else(|| relaxed(&columns.program, seconds))),
            Solved::Infeasible => Answer::Impossible,
            Solved::Nothing(_) => Answer::Unknown,
        }
    }

    /// How many of the bins that may close must stay open by the sums of each dimension alone.
    fn least_open(&self) -> i64 {
        let of = |dimension: usize| -> i64 {
            let wanted = |kind: &Kind| -> i64 {
                let each: i64 = kind.demand.iter().filter(|(one, _)| *one == dimension).map(|(_, amount)| amount).sum();
                each * kind.count()
            };
            let mut left: i64 = self.kinds.iter().map(wanted).sum();
            let mut rooms: Vec<i64> = Vec::new();
            for (place, bin) in self.bins.iter().enumerate().filter(|(_, bin)| bin.state != BinState::Closed) {
                // Where there is no limit there is no bound.
                let Some(room) = bin.room[dimension] else { return 0 };
                let room = self.kept(place, dimension, room);
                if bin.state == BinState::Open { left -= room } else { rooms.push(room) }
            }
            rooms.sort_unstable_by_key(|room| std::cmp::Reverse(*room));
            let mut open = 0;
            for room in rooms {
                if left <= 0 {
                    break;
                }
                (left, open) = (left - room, open + 1);
            }
            open
        };
        (0..self.dimensions.len()).map(of).max().unwrap_or(0)
    }

    /// How few of the bins that may close stay open at least: `(found, bound)`.
    pub fn fewest_open(&self, seconds: f64) -> Option<(i64, i64)> {
        let greedy = greedy::close(self, None);
        let by_greedy = greedy.as_ref().map(|assignment| self.open(assignment));
        if !self.is_solvable() {
            return by_greedy.map(|open| (open, self.least_open()));
        }
        let mut columns = self.columns();
        self.bound_rules(&mut columns, false);
        for column in columns.open.values() {
            columns.program.columns[*column].weight = 1.0;
        }
        columns.program.start = greedy.as_ref().and_then(|found| self.written(&columns, found));
        let whole = |bound: Option<f64>| {
            let bound = bound.or_else(|| relaxed(&columns.program, seconds)).map_or(0, |bound| (bound - 1e-6).ceil() as i64);
            bound.max(self.least_open())
        };
        match solver::solve(&columns.program, seconds) {
            Solved::Optimal(values) => {
                let open = columns.program.weigh(&values).round() as i64;
                Some((open, open))
            }
            Solved::Feasible(values, bound) => {
                let open = columns.program.weigh(&values).round() as i64;
                Some((by_greedy.map_or(open, |greedy| greedy.min(open)), whole(bound)))
            }
            Solved::Infeasible => None,
            Solved::Nothing(bound) => by_greedy.map(|open| (open, whole(bound))),
        }
    }

    /// How much of one dimension is missing to empty the closed bins; `None` if no amount of it helps.
    pub fn missing(&self, dimension: usize, seconds: f64) -> Option<Missing> {
        if !self.is_solvable() {
            return None;
        }
        let mut wider = self.clone();
        for bin in &mut wider.bins {
            bin.room[dimension] = None;
        }
        let mut columns = wider.columns();
        wider.bound_rules(&mut columns, false);
        let scale = self.scale[dimension] as f64;
        let amount = |kind: usize| {
            let mine = self.kinds[kind].demand.iter().filter(|(one, _)| *one == dimension);
            mine.map(|(_, amount)| *amount as f64 / scale).sum::<f64>()
        };
        let greedy = greedy::close(&wider, None);
        let mut start = greedy.as_ref().and_then(|found| wider.written(&columns, found));
        let mut extras = BTreeMap::new();
        for (place, bin) in self.bins.iter().enumerate().filter(|(_, bin)| bin.state != BinState::Closed) {
            let Some(room) = bin.room[dimension] else { continue };
            let room = self.kept(place, dimension, room) as f64 / scale;
            let both = columns.stay.iter().chain(&columns.arrive).filter(|((_, bin), _)| *bin == place);
            let mut terms: Vec<(usize, f64)> =
                both.map(|((kind, _), column)| (*column, amount(*kind))).filter(|(_, amount)| *amount > 0.0).collect();
            let most: f64 = terms.iter().map(|(column, amount)| columns.program.columns[*column].most * amount).sum();
            let extra = columns.program.column(0, most.ceil() as i64, 1.0);
            if let Some(start) = &mut start {
                let used: f64 = terms.iter().map(|(column, amount)| start[*column] * amount).sum();
                start.push((used - room).max(0.0).ceil());
            }
            terms.push((extra, -1.0));
            columns.program.at_most(terms, room);
            extras.insert(place, extra);
        }
        let read = |values: &[f64]| -> BTreeMap<usize, i64> {
            let each = extras.iter().map(|(bin, column)| (*bin, (values[*column].round() * scale) as i64));
            each.filter(|(_, amount)| *amount > 0).collect()
        };
        columns.program.relaxed = true;
        let at_least = match solver::solve(&columns.program, seconds) {
            Solved::Infeasible => return None,
            Solved::Optimal(values) => (columns.program.weigh(&values) * scale - 1e-3).ceil() as i64,
            Solved::Feasible(..) | Solved::Nothing(_) => 0,
        };
        columns.program.relaxed = false;
        columns.program.start.clone_from(&start);
        let enough = match solver::solve(&columns.program, seconds) {
            Solved::Infeasible => return None,
            Solved::Optimal(values) | Solved::Feasible(values, _) => Some(read(&values)),
            Solved::Nothing(_) => start.as_deref().map(read),
        };
        Some(Missing { at_least, enough })
    }

    /// Pods that have to move whatever is done.
    pub fn forced(&self) -> i64 {
        let closed = |bin: &usize| self.bins[*bin].state == BinState::Closed;
        self.kinds.iter().flat_map(|kind| &kind.home).filter(|(bin, _)| closed(bin)).map(|(_, count)| count).sum()
    }

    /// Pods that have to move so that at most `open` of those that may close stay open: those of the emptiest.
    fn least_moves(&self, open: Option<i64>) -> i64 {
        let mut pods: Vec<i64> = Vec::new();
        for (bin, _) in self.bins.iter().enumerate().filter(|(_, bin)| bin.state == BinState::MayClose) {
            pods.push(self.kinds.iter().map(|kind| kind.home.get(&bin).copied().unwrap_or(0)).sum());
        }
        pods.sort_unstable();
        let closing = open.map_or(0, |open| (pods.len() as i64 - open).max(0));
        self.forced() + pods.into_iter().take(usize::try_from(closing).unwrap_or(0)).sum::<i64>()
    }

    /// Pods that an assignment moves.
    pub fn moves(&self, assignment: &Assignment) -> i64 {
        let left = |kind: &Kind, now: &BTreeMap<usize, i64>| -> i64 {
            kind.home.iter().map(|(bin, count)| (count - now.get(bin).copied().unwrap_or(0)).max(0)).sum()
        };
        self.kinds.iter().zip(assignment).map(|(kind, now)| left(kind, now)).sum()
    }

    /// How many of the bins that may close an assignment uses.
    fn open(&self, assignment: &Assignment) -> i64 {
        let used: std::collections::BTreeSet<usize> =
            assignment.iter().flatten().filter(|(_, count)| **count > 0).map(|(bin, _)| *bin).collect();
        used.iter().filter(|bin| self.bins[**bin].state == BinState::MayClose).count() as i64
    }

    fn read(&self, columns: &Columns, values: &[f64]) -> Assignment {
        let mut assignment: Assignment = vec![BTreeMap::new(); self.kinds.len()];
        for ((kind, bin), column) in columns.stay.iter().chain(&columns.arrive) {
            let count = values[*column].round() as i64;
            if count > 0 {
                *assignment[*kind].entry(*bin).or_default() += count;
            }
        }
        assignment
    }

    /// An assignment as values of the columns.
    fn written(&self, columns: &Columns, assignment: &Assignment) -> Option<Vec<f64>> {
        let mut values = vec![0.0; columns.program.columns.len()];
        for (kind, there) in assignment.iter().enumerate() {
            for (bin, count) in there {
                let home = self.kinds[kind].home.get(bin).copied().unwrap_or(0).min(*count);
                if home > 0 {
                    values[*columns.stay.get(&(kind, *bin))?] = home as f64;
                }
                if *count > home {
                    values[*columns.arrive.get(&(kind, *bin))?] = (count - home) as f64;
                }
                if let Some(open) = columns.open.get(bin) {
                    values[*open] = 1.0;
                }
            }
        }
        Some(values)
    }

    /// Whether an assignment keeps to every room and rule, counted in whole numbers.
    pub fn holds(&self, assignment: &Assignment) -> bool {
        let placed = self.kinds.iter().zip(assignment).all(|(kind, now)| {
            let allowed = |bin: &usize, count: &i64| {
                let home = kind.home.get(bin).copied().unwrap_or(0);
                self.bins[*bin].state != BinState::Closed && (*count <= home || kind.may_go.binary_search(bin).is_ok())
            };
            now.values().sum::<i64>() == kind.count() && now.iter().all(|(bin, count)| allowed(bin, count))
        });
        let mut used: BTreeMap<(usize, usize), i64> = BTreeMap::new();
        for (kind, now) in self.kinds.iter().zip(assignment) {
            for (bin, count) in now {
                for (dimension, amount) in &kind.demand {
                    add(used.entry((*bin, *dimension)).or_default(), *amount, *count);
                }
            }
        }
        let roomy = used.iter().all(|((bin, dimension), used)| {
            self.bins[*bin].room[*dimension].is_none_or(|room| *used <= self.kept(*bin, *dimension, room))
        });
        let count =
            |kind: usize, bins: &[usize]| -> i64 { bins.iter().map(|bin| assignment[kind].get(bin).copied().unwrap_or(0)).sum() };
        let ruled = self
            .rules
            .iter()
            .filter(|rule| !rule.stricter)
            .all(|rule| rule.kinds.iter().map(|(kind, factor)| factor * count(*kind, &rule.bins)).sum::<i64>() <= rule.most);
        placed && roomy && ruled
    }
}
