//! Which pods a constraint speaks of.

use capplan_model::kube::{LabelSelector, Labels, Pod, PodAffinityTerm, Requirement, TopologySpread};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// Label selectors that must all match.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    /// `None` matches nothing.
    all: Option<Vec<LabelSelector>>,
}

impl Selector {
    pub(super) fn of_all(all: Vec<LabelSelector>) -> Self {
        Self { all: Some(all) }
    }

    /// The selector of a spread constraint of `pod`.
    pub(super) fn of_spread(constraint: &TopologySpread, pod: &Pod) -> Self {
        let Some(own) = &constraint.label_selector else { return Self { all: None } };
        let keys = constraint.match_label_keys.iter();
        let pinned: Labels = keys.filter_map(|key| Some((key.clone(), pod.labels.get(key)?.clone()))).collect();
        let mut all = vec![own.clone()];
        if !pinned.is_empty() {
            all.push(LabelSelector { match_labels: pinned, match_expressions: Vec::new() });
        }
        Self { all: Some(all) }
    }

    pub(super) fn of_term(term: &PodAffinityTerm) -> Self {
        Self { all: term.label_selector.clone().map(|one| vec![one]) }
    }

    pub(super) fn matches(&self, labels: &Labels) -> bool {
        self.all.as_ref().is_some_and(|all| all.iter().all(|one| one.matches(labels)))
    }

    /// Whether it asks for nothing, and so matches everything.
    pub(super) fn is_empty(&self) -> bool {
        self.all.as_ref().is_some_and(|all| all.iter().all(|one| one.match_labels.is_empty() && one.match_expressions.is_empty()))
    }

    /// Labels a pod must have, as far as they are spelled out.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.all.as_deref().unwrap_or(&[]);
        let single = |one: &Requirement| one.operator == "In" && one.values.len() == 1;
        all.iter().flat_map(move |one| {
            let equal = one.match_labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let listed = one.match_expressions.iter().filter(move |one| single(one));
            equal.chain(listed.map(|one| (one.key.as_str(), one.values[0].as_str())))
        })
    }
}

/// Labels of a namespace; those of one that was not listed are empty.
pub(super) type Namespaces<'a> = HashMap<&'a str, &'a Labels, FxBuildHasher>;

/// Whether `term`, of a pod in namespace `own`, speaks of `other`.
///
/// # Source
/// `AffinityTerm.Matches`, `k8s.io/kube-scheduler/framework/types.go` (v1.36): without namespaces and
/// without a namespace selector the pod's own namespace is meant; an empty namespace selector means
/// all of them.
pub(super) fn speaks_of(term: &PodAffinityTerm, own: &str, other: &Pod, namespaces: &Namespaces<'_>) -> bool {
    let Some(selector) = &term.label_selector else { return false };
    let in_namespace = if term.namespaces.is_empty() && term.namespace_selector.is_none() {
        other.namespace == own
    } else {
        term.namespaces.contains(&other.namespace)
            || term.namespace_selector.as_ref().is_some_and(|selector| match namespaces.get(other.namespace.as_str()) {
                Some(labels) => selector.matches(labels),
                None => selector.matches(&Labels::new()),
            })
    };
    in_namespace && selector.matches(&other.labels)
}
