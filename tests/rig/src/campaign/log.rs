//! What the scheduler's own log says about a decision.
//!
//! The lines are those of kube-scheduler 1.36 at `-v=5 --vmodule=schedule_one=10`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Failure, failure};

const POLL: Duration = Duration::from_millis(1);

/// A log that is still written, read as far as it goes.
#[derive(Debug)]
pub(super) struct Log {
    file: BufReader<File>,
    half: String,
    lines: Vec<String>,
}

impl Log {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(failure(format!("cannot read {}", path.display())))?;
        Ok(Self { file: BufReader::new(file), half: String::new(), lines: Vec::new() })
    }

    /// How many lines were read, after reading what is new.
    pub(super) fn mark(&mut self) -> Result<usize, Failure> {
        while self.file.read_line(&mut self.half).map_err(failure("cannot read the scheduler's log"))? > 0 {
            if self.half.ends_with('\n') {
                self.lines.push(std::mem::take(&mut self.half));
            }
        }
        Ok(self.lines.len())
    }

    /// The lines from this one on.
    pub(super) fn since(&mut self, mark: usize) -> Result<&[String], Failure> {
        self.mark()?;
        Ok(&self.lines[mark..])
    }

    /// Waits for a line that has both of these texts.
    pub(super) fn wait(&mut self, mark: usize, message: &str, about: &str, patience: Duration) -> Result<(), Failure> {
        let (start, mut seen) = (Instant::now(), mark);
        loop {
            let next = self.mark()?;
            if self.lines[seen..next].iter().any(|line| line.contains(message) && line.contains(about)) {
                return Ok(());
            }
            seen = next;
            if start.elapsed() > patience {
                return Err(Failure::new(format!("the scheduler did not log {message} {about}")));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The value of a key in a line of klog; without its quotes.
fn field(line: &str, key: &str) -> Option<String> {
    let rest = &line[line.find(&format!(" {key}="))? + key.len() + 2..];
    if !rest.starts_with('"') {
        return Some(rest.split_whitespace().next()?.to_owned());
    }
    // Go quotes printable texts as JSON does.
    serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok()
}

/// One try of the scheduler to place a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempt {
    scores: BTreeMap<String, i64>,
    plugins: BTreeMap<String, BTreeMap<String, i64>>,
    evaluated: Option<i64>,
    feasible: Option<i64>,
    pub(super) node: Option<String>,
    pub(super) failure: Option<String>,
    rejected: Option<String>,
    tried: Vec<String>,
    pub(super) nominated: Option<String>,
    hint: Option<String>,
    pub(super) error: bool,
}

impl Attempt {
    fn feasible_nodes(&self) -> Vec<String> {
        match &self.node {
            None => Vec::new(),
            Some(node) if self.scores.is_empty() => vec![node.clone()],
            Some(_) => self.scores.keys().cloned().collect(),
        }
    }

    /// As it is recorded.
    pub(super) fn write(&self, result: &mut Value) {
        let nodes = self.feasible_nodes();
        let plugins: BTreeMap<&String, Vec<i64>> = self
            .plugins
            .iter()
            .map(|(plugin, scores)| (plugin, nodes.iter().map(|node| scores.get(node).copied().unwrap_or_default()).collect()))
            .collect();
        result["feasible"] = json!(nodes);
        result["scores"] = json!(self.scores);
        result["per_plugin_scores"] = json!(plugins);
        let mut optional = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                result[name] = value;
            }
        };
        optional("evaluated_nodes", self.evaluated.map(Value::from));
        optional("feasible_count", self.feasible.map(Value::from));
        optional("failure", self.failure.clone().map(Value::from));
        optional("prefilter_status", self.rejected.clone().map(Value::from));
        optional("batch_hint", self.hint.clone().map(Value::from));
        optional("nominated_node", self.nominated.clone().map(Value::from));
        if !self.tried.is_empty() {
            let mut tried = self.tried.clone();
            tried.sort();
            optional("preempt_dry_run", Some(json!(tried)));
        }
    }
}

/// All tries for a pod, and who had to leave for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Decision {
    pub(super) attempts: Vec<Attempt>,
    pub(super) victims: Vec<(String, String)>,
    /// Whether it still deletes victims: the pod may be bound before it has said of the last that it is gone.
    pub(super) preempting: bool,
}

impl Decision {
    /// Reads what these lines say about a pod.
    pub(super) fn read(lines: &[String], pod: &str) -> Self {
        let mut decision = Self::default();
        let about = format!("pod=\"{pod}\"");
        let by = format!("preemptor=\"{pod}\"");
        for line in lines {
            if line.contains(&by) && line.contains("\"Start the preemption asynchronously\"") {
                decision.preempting = true;
            } else if line.contains(&by) && line.contains("\"Async Preemption finished completely\"") {
                decision.preempting = false;
            }
            if let Some(victim) = field(line, "victim")
                && line.contains("\"Preemptor Pod preempted victim Pod\"")
                && field(line, "preemptor").is_some_and(|preemptor| preemptor == pod)
            {
                decision.victims.push((victim, field(line, "node").unwrap_or_default()));
            }
            if !line.contains(&about) {
                continue;
            }
            if line.contains("\"Attempting to schedule pod\"") {
                decision.attempts.push(Attempt::default());
            } else if let Some(attempt) = decision.attempts.last_mut() {
                attempt.note(line);
            }
        }
        decision
    }
}

impl Attempt {
    fn note(&mut self, line: &str) {
        let message = line.split_once("] \"").map_or("", |(_, rest)| rest).split('"').next().unwrap_or_default();
        let number = |key: &str| field(line, key).and_then(|text| text.parse::<i64>().ok());
        let node = field(line, "node");
        match message {
            "Plugin scored node for pod" => {
                let plugin = field(line, "plugin").unwrap_or_default();
                let scores = self.plugins.entry(plugin).or_default();
                scores.insert(node.unwrap_or_default(), number("score").unwrap_or_default());
            }
            "Calculated node's final score for pod" => {
                self.scores.insert(node.unwrap_or_default(), number("score").unwrap_or_default());
            }
            "Status after running PreFilter plugins for pod" => self.rejected = field(line, "status"),
            "Check the potential node for preemption" => self.tried.extend(node),
            "the target node for the preemption is determined" => self.nominated = node,
            "OpportunisticBatch provided node hint" => self.hint = field(line, "hint").or(node),
            "Unable to schedule pod; no fit; waiting" => self.failure = field(line, "err"),
            "Error scheduling pod; retrying" => {
                self.error = true;
                self.failure = field(line, "err");
            }
            "Successfully bound pod to node" => {
                self.node = node;
                self.evaluated = number("evaluatedNodes");
                self.feasible = number("feasibleNodes");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_read_from_the_log() {
        let lines = [
            r#"I1121 04:20:38.1 1 schedule_one.go:123] "Attempting to schedule pod" pod="a/b""#,
            r#"I1121 04:20:38.1 1 schedule_one.go:1239] "Unable to schedule pod; no fit; waiting" pod="a/b" err="0/2 \"nodes\"""#,
            r#"I1121 04:20:38.1 1 executor.go:251] "Start the preemption asynchronously" preemptor="a/b" node="n-1" numVictims=1"#,
            r#"I1121 04:20:38.1 1 executor.go:152] "Preemptor Pod preempted victim Pod" preemptor="a/b" victim="a/c" node="n-1""#,
            r#"I1121 04:20:38.1 1 schedule_one.go:123] "Attempting to schedule pod" pod="a/b""#,
            r#"I1121 04:20:38.1 1 schedule_one.go:982] "Plugin scored node for pod" pod="a/b" plugin="P" node="n-1" score=3"#,
            r#"I1121 04:20:38.1 1 schedule_one.go:1050] "Calculated node's final score for pod" pod="a/b" node="n-1" score=3"#,
            r#"I1121 04:20:38.1 1 schedule_one.go:481] "Successfully bound pod to node" pod="a/b" node="n-1" evaluatedNodes=2 feasibleNodes=1"#,
        ];
        let decision = Decision::read(&lines.map(str::to_owned), "a/b");
        assert!(decision.preempting);
        assert_eq!(decision.victims, [("a/c".to_owned(), "n-1".to_owned())]);
        assert_eq!(decision.attempts[0].failure.as_deref(), Some("0/2 \"nodes\""));
        let mut result = json!({});
        decision.attempts[1].write(&mut result);
        assert_eq!(
            result,
            json!({"feasible": ["n-1"], "scores": {"n-1": 3}, "per_plugin_scores": {"P": [3]}, "evaluated_nodes": 2, "feasible_count": 1})
        );
    }
}
