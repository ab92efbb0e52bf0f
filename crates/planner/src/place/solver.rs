//! Solves integer programs: the only file that names a solver.
//!
//! microlp is always there. With the feature `highs` HiGHS takes its place, which proves larger ones and
//! tells how far it got when time runs out. HiGHS runs on one thread with a fixed seed: equal programs
//! give equal answers unless time runs out.

use good_lp::{Expression, Variable, constraint, variable, variables};

/// A variable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Least value.
    pub least: f64,
    /// Most.
    pub most: f64,
    /// Weight in the sum that is minimised.
    pub weight: f64,
}

/// `least ≤ Σ factor · column ≤ most`; infinite where there is no bound.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub least: f64,
    pub most: f64,
    pub terms: Vec<(usize, f64)>,
}

/// A program over integer columns; the weighted sum of the columns is minimised.
#[derive(Clone, Debug, Default)]
pub(super) struct Program {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// A solution to start from, where one is known.
    pub start: Option<Vec<f64>>,
    /// Whether parts of a whole will do: quickly solved, and never above the best in whole numbers.
    pub relaxed: bool,
}

impl Program {
    /// Adds an integer column.
    pub(super) fn column(&mut self, least: i64, most: i64, weight: f64) -> usize {
        self.columns.push(Column { least: least as f64, most: most as f64, weight });
        self.columns.len() - 1
    }

    /// Adds `Σ ≤ most`.
    pub(super) fn at_most(&mut self, terms: Vec<(usize, f64)>, most: f64) {
        self.rows.push(Row { least: f64::NEG_INFINITY, most, terms });
    }

    /// Adds `Σ = value`.
    pub(super) fn equal(&mut self, terms: Vec<(usize, f64)>, value: f64) {
        self.rows.push(Row { least: value, most: value, terms });
    }

    /// The weighted sum of a solution.
    pub(super) fn weigh(&self, values: &[f64]) -> f64 {
        self.columns.iter().zip(values).map(|(column, value)| column.weight * value).sum()
    }
}

/// What a solver found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Solved {
    /// The best solution.
    Optimal(Vec<f64>),
    /// A solution; no other one is below the bound, if one is known.
    Feasible(Vec<f64>, Option<f64>),
    /// There is none.
    Infeasible,
    /// None was found in time; none is below the bound.
    Nothing(Option<f64>),
}

/// Name of the solver.
pub const NAME: &str = if cfg!(feature = "highs") { "HiGHS" } else { "microlp" };

/// Solves a program in at most `seconds`.
pub(super) fn solve(program: &Program, seconds: f64) -> Solved {
    if program.columns.is_empty() {
        let holds = program.rows.iter().all(|row| row.least <= 0.0 && row.most >= 0.0);
        return if holds { Solved::Optimal(Vec::new()) } else { Solved::Infeasible };
    }
    let mut vars = variables!();
    let add = |column: &Column| {
        let one = variable().min(column.least).max(column.most);
        vars.add(if program.relaxed { one } else { one.integer() })
    };
    let columns: Vec<Variable> = program.columns.iter().map(add).collect();
    let sum = |terms: &mut dyn Iterator<Item = (usize, f64)>| -> Expression {
        let mut sum = Expression::default();
        terms.for_each(|(place, factor)| sum.add_mul(factor, columns[place]));
        sum
    };
    let goal = sum(&mut program.columns.iter().map(|column| column.weight).enumerate().filter(|(_, weight)| *weight != 0.0));
    let mut model = backend::model(vars.minimise(goal), program.start.clone(), seconds);
    for row in &program.rows {
        let terms = sum(&mut row.terms.iter().copied());
        if row.least == row.most {
            model.add_constraint(constraint!(terms == row.most));
        } else if row.most.is_finite() {
            if row.least.is_finite() {
                model.add_constraint(constraint!(terms.clone() >= row.least));
            }
            model.add_constraint(constraint!(terms <= row.most));
        } else {
            model.add_constraint(constraint!(terms >= row.least));
        }
    }
    backend::run(model, &columns)
}

#[cfg(not(feature = "highs"))]
mod backend {
    use good_lp::solvers::microlp::{MicroLpProblem, microlp};
    use good_lp::solvers::{SolutionStatus, WithTimeLimit};
    use good_lp::variable::UnsolvedProblem;
    use good_lp::{Constraint, ResolutionError, Solution as _, SolverModel, Variable, WithInitialSolution};

    use super::Solved;

    pub(super) struct Prepared {
        problem: MicroLpProblem,
        start: Option<Vec<f64>>,
    }

    impl Prepared {
        pub(super) fn add_constraint(&mut self, constraint: Constraint) {
            self.problem.add_constraint(constraint);
        }
    }

    pub(super) fn model(problem: UnsolvedProblem, start: Option<Vec<f64>>, seconds: f64) -> Prepared {
        Prepared { problem: problem.using(microlp).with_time_limit(seconds), start }
    }

    pub(super) fn run(prepared: Prepared, columns: &[Variable]) -> Solved {
        let problem = match prepared.start {
            Some(start) => prepared.problem.with_initial_solution(columns.iter().copied().zip(start)),
            None => prepared.problem,
        };
        match problem.solve() {
            Ok(solution) => {
                let values = columns.iter().map(|column| solution.value(*column)).collect();
                match solution.status() {
                    SolutionStatus::Optimal => Solved::Optimal(values),
                    SolutionStatus::TimeLimit | SolutionStatus::GapLimit => Solved::Feasible(values, None),
                }
            }
            Err(ResolutionError::Infeasible) => Solved::Infeasible,
            Err(_) => Solved::Nothing(None),
        }
    }
}

#[cfg(feature = "highs")]
mod backend {
    use good_lp::Variable;
    use good_lp::solvers::highs::HighsProblem;
    use good_lp::variable::UnsolvedProblem;
    use highs::{HighsModelStatus, HighsSolutionStatus, Model};

    use super::Solved;

    pub(super) struct Prepared {
        problem: HighsProblem,
        start: Option<Vec<f64>>,
        seconds: f64,
    }

    impl Prepared {
        pub(super) fn add_constraint(&mut self, constraint: good_lp::Constraint) {
            good_lp::SolverModel::add_constraint(&mut self.problem, constraint);
        }
    }

    pub(super) fn model(problem: UnsolvedProblem, start: Option<Vec<f64>>, seconds: f64) -> Prepared {
        Prepared { problem: problem.using(good_lp::solvers::highs::highs), start, seconds }
    }

    fn set_options(model: &mut Model, seconds: f64) -> Result<(), highs::TrySetOptionError> {
        model.make_quiet();
        model.try_set_option("time_limit", seconds)?;
        model.try_set_option("threads", 1)?;
        model.try_set_option("random_seed", 1)?;
        model.try_set_option("mip_rel_gap", 0.0)?;
        // Every weight is a whole number: two solutions differ by one at least.
        model.try_set_option("mip_abs_gap", 0.999)
    }

    pub(super) fn run(prepared: Prepared, columns: &[Variable]) -> Solved {
        let Ok(mut model) = prepared.problem.try_into_inner() else { return Solved::Nothing(None) };
        if set_options(&mut model, prepared.seconds).is_err() {
            return Solved::Nothing(None);
        }
        if prepared.start.is_some() {
            model.set_solution(prepared.start.as_deref(), None, None, None);
        }
        let Ok(solved) = model.try_solve() else { return Solved::Nothing(None) };
        let bound = solved.double_info_value(c"mip_dual_bound").ok().filter(|bound| bound.is_finite());
        let has_solution = solved.primal_solution_status() == HighsSolutionStatus::Feasible;
        // Columns keep the order in which they were added.
        let values = || solved.get_solution().columns()[..columns.len()].to_vec();
        if solved.status() == HighsModelStatus::Optimal {
            Solved::Optimal(values())
        } else if solved.status() == HighsModelStatus::Infeasible {
            Solved::Infeasible
        } else if has_solution {
            Solved::Feasible(values(), bound)
        } else {
            Solved::Nothing(bound)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_program_is_solved_and_an_impossible_one_is_refused() {
        let mut program = Program::default();
        let (a, b) = (program.column(0, 10, -3.0), program.column(0, 10, -2.0));
        program.at_most(vec![(a, 2.0), (b, 1.0)], 7.0);
        program.at_most(vec![(a, 1.0), (b, 3.0)], 9.0);
        // a = 2, b = 2 gives 10, a = 3, b = 1 gives 11: 2a + b = 7.
        assert_eq!(solve(&program, 10.0), Solved::Optimal(vec![3.0, 1.0]));
        program.at_most(vec![(a, -1.0), (b, -1.0)], -9.0);
        assert_eq!(solve(&program, 10.0), Solved::Infeasible);
    }
}
