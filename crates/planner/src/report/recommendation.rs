//! The recommendation of a report: a view of the decision.

use capplan_model::plan::{Action, Feasibility, Plan, Rejected};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::plan::PlanError;

/// The next step with its reasons.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Recommendation {
    /// What to do: the word of `capplan.plan/1`.
    pub action: Action,
    /// On what: the host for a new worker, the worker to remove, the nodes to clean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether `capplan plan` would find it possible.
    pub feasibility: Feasibility,
    /// Whether something is due and cannot be done.
    pub blocked: bool,
    /// Why, most important first.
    pub because: Vec<String>,
    /// What was considered and why it was not chosen.
    #[serde(serialize_with = "as_lines")]
    #[schemars(with = "Vec<String>")]
    pub rejected: Vec<Rejected>,
    /// What to know before.
    pub warnings: Vec<String>,
    /// What could not be decided, and why.
    pub undecided: Vec<String>,
}

impl From<Plan> for Recommendation {
    fn from(plan: Plan) -> Self {
        Self {
            action: plan.action,
            target: plan.target,
            feasibility: plan.feasibility,
            blocked: plan.feasibility == Feasibility::Blocked,
            because: plan.because,
            // Other ways to do the same, such as other sizes of a worker, are the plan's.
            rejected: plan.rejected.into_iter().filter(|one| one.action != plan.action).collect(),
            warnings: plan.warnings,
            undecided: plan.undecided,
        }
    }
}

impl Recommendation {
    /// No decision could be made.
    pub(super) fn failed(error: &PlanError) -> Self {
        Self {
            action: Action::InsufficientData,
            target: None,
            feasibility: Feasibility::Undecided,
            blocked: false,
            because: vec![error.to_string()],
            rejected: Vec::new(),
            warnings: Vec::new(),
            undecided: vec![error.to_string()],
        }
    }
}

fn as_lines<S: Serializer>(list: &[Rejected], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(ToString::to_string))
}
