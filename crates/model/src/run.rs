//! A run: a plan that is being carried out, as the lines of its journal. Its state is their fold.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::NodeName;

/// Format of the journal; a newer major is refused.
pub const FORMAT: &str = "capplan.journal/1";

/// One line of a journal. What is going to be done is written, and on disk, before it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The run exists; nothing is done yet.
    Began {
        /// `capplan.journal/1`.
        format: String,
        /// When.
        at: Timestamp,
        /// Who: user and machine.
        by: String,
        /// Id of the plan, which lies beside the journal.
        plan: String,
    },
    /// Somebody goes on with it.
    Resumed {
        /// When.
        at: Timestamp,
        /// Who.
        by: String,
    },
    /// A step is about to be done: from here on its effect may be there.
    Started {
        /// The step.
        step: u64,
        /// When.
        at: Timestamp,
        /// Pods of the evicted pod's owner that are ready before, if the step evicts one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ready: Option<u64>,
    },
    /// Which pod a step evicts that names an owner only.
    Chose {
        /// The step.
        step: u64,
        /// `namespace/name`.
        pod: String,
        /// Its UID.
        uid: String,
    },
    /// A node that stays open is about to be closed for a moment.
    Closing {
        /// The step.
        step: u64,
        /// The node.
        node: NodeName,
    },
    /// It is open again.
    Opened {
        /// The step.
        step: u64,
        /// The node.
        node: NodeName,
    },
    /// Proxmox VE took a change and works on it.
    Submitted {
        /// The step.
        step: u64,
        /// Its task.
        upid: String,
    },
    /// A human says that a step of theirs is done.
    Confirmed {
        /// The step.
        step: u64,
        /// When.
        at: Timestamp,
        /// Who.
        by: String,
    },
    /// The effect was read back.
    Ensured {
        /// The step.
        step: u64,
        /// When.
        at: Timestamp,
    },
    /// It stops here, for now.
    Stopped {
        /// The step.
        step: u64,
        /// When.
        at: Timestamp,
        /// Why.
        why: String,
    },
    /// Every step is done.
    Finished {
        /// When.
        at: Timestamp,
    },
    /// It was given up.
    Aborted {
        /// When.
        at: Timestamp,
        /// Who.
        by: String,
        /// What was taken back, and what is left as it is.
        left: Vec<String>,
    },
}

impl Event {
    /// The step it is about.
    pub fn step(&self) -> Option<u64> {
        match self {
            Self::Started { step, .. }
            | Self::Chose { step, .. }
            | Self::Closing { step, .. }
            | Self::Opened { step, .. }
            | Self::Submitted { step, .. }
            | Self::Confirmed { step, .. }
            | Self::Ensured { step, .. }
            | Self::Stopped { step, .. } => Some(*step),
            Self::Began { .. } | Self::Resumed { .. } | Self::Finished { .. } | Self::Aborted { .. } => None,
        }
    }
}

/// How far a step is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepState {
    /// Its effect may be there.
    pub started: bool,
    /// Its effect was read back.
    pub ensured: bool,
    /// A human said that it is done.
    pub confirmed: bool,
    /// Pods of the owner that were ready before.
    pub ready: Option<u64>,
    /// The pod that was chosen: `(namespace/name, UID)`.
    pub chosen: Option<(String, String)>,
    /// Nodes that are closed for it and not open again.
    pub closed: BTreeSet<NodeName>,
    /// The last task of Proxmox VE.
    pub upid: Option<String>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every step is done.
    Finished,
    /// It was given up.
    Aborted,
}

/// Where a run stands: the fold of its lines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunState {
    /// Id of the plan.
    pub plan: String,
    /// When and by whom it was begun.
    pub began: Option<(Timestamp, String)>,
    /// Steps that something is known of.
    pub steps: BTreeMap<u64, StepState>,
    /// Why it stopped last.
    pub stopped: Option<String>,
    /// How it ended; `None` while it is unfinished.
    pub end: Option<End>,
    /// When the last line was written, as far as lines say so.
    pub last: Option<Timestamp>,
}

/// A line that cannot follow those before it: the journal is not ours any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct OrderError {
    /// The line, from 1.
    pub line: usize,
    /// Why not.
    pub why: String,
}

impl RunState {
    /// Folds the lines of a journal.
    ///
    /// # Errors
    /// [`OrderError`] if a line cannot follow those before it.
    pub fn of(events: &[Event]) -> Result<Self, OrderError> {
        let mut state = Self::default();
        for (place, event) in events.iter().enumerate() {
            state.take(event).map_err(|why| OrderError { line: place + 1, why })?;
        }
        Ok(state)
    }

    /// Takes one more line in.
    ///
    /// # Errors
    /// Why it cannot follow those before it.
    pub fn take(&mut self, event: &Event) -> Result<(), String> {
        if self.end.is_some() {
            return Err("the run has ended before it".to_owned());
        }
        if let Event::Began { format, at, by, plan } = event {
            if self.began.is_some() {
                return Err("the run begins twice".to_owned());
            }
            if format != FORMAT {
                return Err(format!("format is {format}, this capplan reads {FORMAT}"));
            }
            (self.began, self.plan, self.last) = (Some((*at, by.clone())), plan.clone(), Some(*at));
            return Ok(());
        }
        if self.began.is_none() {
            return Err("the run has not begun".to_owned());
        }
        let earlier_open = event.step().and_then(|step| self.steps.range(..step).find(|(_, one)| !one.ensured));
        if let Some((earlier, _)) = earlier_open {
            return Err(format!("step {earlier} is not done yet"));
        }
        let step = event.step().map(|step| self.steps.entry(step).or_default());
        match (event, step) {
            (Event::Started { at, ready, .. }, Some(step)) => {
                if step.ensured {
                    return Err("the step is done already".to_owned());
                }
                step.started = true;
                // A second attempt must not take its own work for what was there before.
                step.ready = step.ready.or(*ready);
                (self.stopped, self.last) = (None, Some(*at));
            }
            (Event::Chose { pod, uid, .. }, Some(step)) => step.chosen = Some((pod.clone(), uid.clone())),
            (Event::Closing { node, .. }, Some(step)) => drop(step.closed.insert(node.clone())),
            (Event::Opened { node, .. }, Some(step)) => drop(step.closed.remove(node)),
            (Event::Submitted { upid, .. }, Some(step)) => {
                if !step.started {
                    return Err("a task of a step that was not started".to_owned());
                }
                step.upid = Some(upid.clone());
            }
            (Event::Confirmed { at, .. }, Some(step)) => {
                step.confirmed = true;
                self.last = Some(*at);
            }
            (Event::Ensured { at, .. }, Some(step)) => {
                step.ensured = true;
                self.last = Some(*at);
            }
            (Event::Stopped { at, why, .. }, _) => (self.stopped, self.last) = (Some(why.clone()), Some(*at)),
            (Event::Resumed { at, .. }, _) => (self.stopped, self.last) = (None, Some(*at)),
            (Event::Finished { at }, _) => (self.end, self.last) = (Some(End::Finished), Some(*at)),
            (Event::Aborted { at, .. }, _) => (self.end, self.last) = (Some(End::Aborted), Some(*at)),
            _ => return Err("it names no step".to_owned()),
        }
        Ok(())
    }

    /// What is known of a step.
    pub fn step(&self, number: u64) -> StepState {
        self.steps.get(&number).cloned().unwrap_or_default()
    }

    /// The first step of so many that is not done.
    pub fn next(&self, steps: u64) -> Option<u64> {
        (1..=steps).find(|number| !self.steps.get(number).is_some_and(|one| one.ensured))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began() -> Event {
        Event::Began { format: FORMAT.into(), at: Timestamp::UNIX_EPOCH, by: "me@here".into(), plan: "sha256:0".into() }
    }

    fn started(step: u64, ready: Option<u64>) -> Event {
        Event::Started { step, at: Timestamp::UNIX_EPOCH, ready }
    }

    fn ensured(step: u64) -> Event {
        Event::Ensured { step, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn the_state_is_the_fold_of_the_lines() {
        let node = NodeName::from("w2");
        let events = [
            began(),
            started(1, Some(2)),
            Event::Closing { step: 1, node: node.clone() },
            started(1, Some(1)),
            Event::Submitted { step: 1, upid: "UPID:a".into() },
        ];
        let state = RunState::of(&events).expect("in order");
        let step = state.step(1);
        assert_eq!((step.ready, step.upid.as_deref(), step.closed.contains(&node)), (Some(2), Some("UPID:a"), true));
        assert_eq!((state.next(2), state.end), (Some(1), None));
        let more = [Event::Opened { step: 1, node }, ensured(1), started(2, None), ensured(2)];
        let state = RunState::of(&[&events[..], &more].concat()).expect("in order");
        assert_eq!((state.next(2), state.step(1).closed.len()), (None, 0));
    }

    #[test]
    fn an_illegal_order_is_a_corrupt_journal() {
        let cases: [(&str, Vec<Event>); 5] = [
            ("has not begun", vec![started(1, None)]),
            ("begins twice", vec![began(), began()]),
            ("step 1 is not done", vec![began(), started(1, None), started(2, None)]),
            ("was not started", vec![began(), Event::Submitted { step: 1, upid: "UPID:a".into() }]),
            ("has ended", vec![began(), Event::Finished { at: Timestamp::UNIX_EPOCH }, started(1, None)]),
        ];
        for (why, events) in cases {
            let error = RunState::of(&events).expect_err(why);
            assert_eq!(error.line, events.len());
            assert!(error.why.contains(why), "{error}");
        }
    }
}
