//! The runbook as data: rules with thresholds and windows.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::units::{Bytes, written as bytes};

/// Format of the file; a newer major is refused.
pub const FORMAT: &str = "capplan.policy/1";
/// The built-in policy: the scale runbook's two rule sets.
pub const BUILT_IN: &str = include_str!("policy.toml");

/// When to act, as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Format of the file.
    #[serde(deserialize_with = "format")]
    pub format: String,
    /// CSI driver and attacher whose volumes take the workers' slots.
    pub attacher: String,
    /// Distance of two samples of the history.
    #[serde(deserialize_with = "duration")]
    pub sample_interval: SignedDuration,
    /// Share of a window that samples must cover, from 0 to 1.
    #[serde(deserialize_with = "share")]
    pub coverage: f64,
    /// The size of a new worker.
    pub worker: Worker,
    /// What only a human knows.
    #[serde(default)]
    pub plan: Intent,
    /// Thresholds of findings.
    pub limits: Limits,
    /// How nodes are emptied.
    #[serde(default)]
    pub drain: Drain,
    /// What a plan must leave behind.
    #[serde(default)]
    pub safety: Safety,
    /// How new workers join.
    #[serde(default)]
    pub join: Join,
    /// When to add a worker.
    pub scale_up: RuleSet,
    /// When to remove one.
    pub scale_down: RuleSet,
}

/// The size of a new worker.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Memory of the VM.
    #[serde(deserialize_with = "bytes")]
    pub memory: Bytes,
    /// What must stay available on its host beyond that.
    #[serde(deserialize_with = "bytes")]
    pub host_reserve: Bytes,
    /// Share of a host's memory that running guests may commit with it.
    #[serde(deserialize_with = "percent", default = "all")]
    pub most_committed: f64,
}

fn all() -> f64 {
    1.0
}

/// What only a human knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Intent {
    /// Block volumes about to be added.
    pub planned_volumes: u64,
    /// Whether someone confirmed that no growth is coming.
    pub no_growth_confirmed: bool,
}

/// How nodes are emptied.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Seconds between two evictions of pods with volumes that one node at a time may use, and of storage
    /// controllers.
    ///
    /// # Source
    /// Runbook: one storage controller per 30 s; a volume takes 30 to 120 s to be used from another node.
    pub stagger_seconds: u64,
    /// Hours of the day (UTC) in which pods of which there is only one may be moved.
    #[serde(deserialize_with = "hours")]
    pub window: Option<Hours>,
    /// Roles that make a node dearer to empty.
    pub roles: Vec<Role>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { stagger_seconds: 30, window: None, roles: Vec::new() }
    }
}

/// A node's role, which no API tells.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// The node.
    pub node: String,
    /// What it is, such as `dns-primary`.
    pub role: String,
    /// Added to the cost of emptying it.
    #[serde(deserialize_with = "weight")]
    pub weight: f64,
}

/// Hours of the day, from a minute after midnight to another; the second may be the smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// First minute.
    pub from: u16,
    /// The minute after the last one.
    pub to: u16,
}

impl Hours {
    /// Whether a minute of the day is among them.
    pub fn contains(self, minute: u16) -> bool {
        if self.from <= self.to { (self.from..self.to).contains(&minute) } else { minute >= self.from || minute < self.to }
    }
}

impl std::fmt::Display for Hours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, self.to / 60, self.to % 60)
    }
}

/// What a plan must leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Safety {
    /// Whether the cluster must survive the loss of any one worker after a worker was removed.
    pub survive_worker_loss: bool,
    /// Days for which no rule to add a worker may be met again, by the trends.
    pub horizon_days: u32,
}

impl Default for Safety {
    fn default() -> Self {
        Self { survive_worker_loss: false, horizon_days: 90 }
    }
}

/// How new workers join. No secret is part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Join {
    /// What the worker runs.
    pub distribution: Distribution,
    /// How it is told what to do at its first boot.
    pub seed: Seed,
    /// Storage for ISO images that the seed is uploaded to, and deleted from afterwards.
    pub storage: String,
    /// With `vendor`: the snippet that the admin placed on every host, such as `local:snippets/join.yaml`.
    pub snippet: Option<String>,
    /// Address of the API server that workers use, such as `https://10.0.20.10:6443`; otherwise that of the
    /// `cluster-info` of kubeadm, or that of the kubeconfig.
    pub server: Option<String>,
    /// Minutes for which a bootstrap token is good.
    pub token_minutes: u32,
    /// VMIDs that new workers get, as `200-249`; otherwise the first free one after those of the workers.
    pub vmids: Option<Range<u32>>,
    /// Addresses that new workers get, as `10.0.20.101-10.0.20.149`; otherwise the first free one after theirs.
    pub addresses: Option<Range<Ipv4Addr>>,
    /// Minutes until a VM that was started must have joined.
    pub deadline_minutes: u32,
    /// Startup order of new workers, such as `order=26,up=45,down=180`; otherwise the template's. Setting it
    /// needs Sys.Modify on `/`.
    pub startup: Option<String>,
    /// What a new worker has to prove.
    pub probe: Probe,
}

impl Default for Join {
    fn default() -> Self {
        Self {
            distribution: Distribution::default(),
            seed: Seed::default(),
            storage: "local".to_owned(),
            snippet: None,
            server: None,
            vmids: None,
            addresses: None,
            // A VM that boots joins within some minutes; a package upgrade on a busy disk takes longer.
            token_minutes: 60,
            // Runbook: 3 to 5 minutes, seen as 7; the deadline is the usual ten and a package upgrade.
            deadline_minutes: 15,
            startup: None,
            probe: Probe::default(),
        }
    }
}

/// From one to another, both among them; written as `first-last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Range<T: Copy + Display + FromStr + Ord> {
    /// The first.
    pub first: T,
    /// The last.
    pub last: T,
}

impl<T: Copy + Display + FromStr + Ord> From<Range<T>> for String {
    fn from(range: Range<T>) -> Self {
        format!("{}-{}", range.first, range.last)
    }
}

impl<T: Copy + Display + FromStr + Ord> TryFrom<String> for Range<T> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split_once('-').and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
        match parts {
            Some((first, last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is no range: write first-last")),
        }
    }
}

/// A pod with a volume that a new worker has to run before it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// Whether it has to.
    pub enabled: bool,
    /// Namespace of the pod and its claim.
    pub namespace: String,
    /// StorageClass of the claim; otherwise the one that most volumes of the attacher have.
    pub class: Option<String>,
    /// Image of the pod.
    pub image: String,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            enabled: true,
            namespace: "capplan-probe".to_owned(),
            class: None,
            // Every node has pulled it: it holds the sandbox of each pod.
            image: "registry.k8s.io/pause:3.10".to_owned(),
        }
    }
}

/// What a worker runs, and with what credential it joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// kubeadm, with a bootstrap token that is made for it.
    #[default]
    Kubeadm,
    /// A k3s agent, with a bootstrap token that is made for it.
    K3s,
    /// A k3s server, with the server token that the user gives.
    K3sServer,
    /// microk8s, with the join URL that the user gives.
    Microk8s,
}

impl Distribution {
    /// Whether a bootstrap token is made for it; otherwise the user gives a credential.
    pub fn has_tokens(self) -> bool {
        matches!(self, Self::Kubeadm | Self::K3s)
    }
}

/// How a VM is told what to do at its first boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Seed {
    /// A NoCloud image for this VM alone, uploaded, and deleted once it has joined.
    #[default]
    Iso,
    /// A snippet for all of them that the admin placed once, with the credential in it.
    Vendor,
}

/// Thresholds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Share of a limit from which a dimension is called high.
    #[serde(deserialize_with = "percent")]
    pub high: f64,
    /// Hours a node may stay cordoned.
    pub cordoned_hours: i64,
    /// Days before a Released volume counts as forgotten.
    pub released_days: i64,
    /// Objects of one kind the control plane carries well.
    pub control_plane_objects: u64,
}

/// Rules and how many of them must hold.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSet {
    /// One, or all of them.
    pub mode: Mode,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// How many rules of a set must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One is enough.
    Any,
    /// Every one.
    All,
}

/// A threshold on a measure, over a window.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Stable name.
    pub id: String,
    /// What is measured.
    pub measure: Measure,
    /// Whose memory: the denominators of a share.
    #[serde(default)]
    pub scope: Scope,
    /// When it holds.
    pub when: Threshold,
    /// How long it must have held; absent means now.
    #[serde(default, deserialize_with = "duration")]
    pub window: SignedDuration,
    /// How far a sample of the window may be on the wrong side without counting against it, in the
    /// unit of `when`.
    #[serde(default, deserialize_with = "amount")]
    pub hysteresis: f64,
    /// For `planned-volumes`: what the fullest worker must have attached too.
    #[serde(default)]
    pub with_attachments: Option<Threshold>,
    /// Why it matters.
    #[serde(default)]
    pub because: String,
}

/// What a rule measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Most VolumeAttachment objects of the attacher on one worker.
    VolumeAttachments,
    /// Memory requests of the scope as a share of its allocatable memory.
    MemoryRequests,
    /// Memory limits of the scope as a share of its allocatable memory.
    MemoryLimits,
    /// Highest share of memory limits on one worker.
    MemoryLimitsPerNode,
    /// Volumes the plugin found no slot for.
    AttachFailures,
    /// Pods evicted by kubelets in a day.
    EvictionsPerDay,
    /// Volumes about to be added.
    PlannedVolumes,
    /// One if a human confirmed that no growth is coming.
    NoGrowthConfirmed,
}

impl Measure {
    /// Whether it is a share of the memory of a scope.
    pub fn is_memory_share(self) -> bool {
        matches!(self, Self::MemoryRequests | Self::MemoryLimits)
    }
}

/// Whose capacity a share is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Every node, control plane included.
    AllNodes,
    /// Workers.
    #[default]
    Workers,
    /// Workers that a pod without tolerations may use.
    General,
}

impl Scope {
    /// Every scope, widest first.
    pub const ALL: [Self; 3] = [Self::AllNodes, Self::Workers, Self::General];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllNodes => "all-nodes",
            Self::Workers => "workers",
            Self::General => "general",
        }
    }
}

/// A comparison with a constant, such as `>= 25` or `< 70%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// How to compare.
    pub comparison: Comparison,
    /// With what; a percentage is a share (`90%` is 0.9).
    pub value: f64,
    /// Whether it was written as a percentage.
    pub percent: bool,
}

/// How a threshold compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

impl Threshold {
    /// Whether `value` is on this side of the threshold.
    pub fn holds(&self, value: f64) -> bool {
        self.holds_within(value, 0.0)
    }

    /// The same with the threshold moved by `slack` to the lenient side.
    pub fn holds_within(&self, value: f64, slack: f64) -> bool {
        match self.comparison {
            Comparison::Above => value > self.value - slack,
            Comparison::AtLeast => value >= self.value - slack,
            Comparison::Below => value < self.value + slack,
            Comparison::AtMost => value <= self.value + slack,
        }
    }

    /// A value as it is told beside the threshold: as a percentage if that was written so.
    pub fn show(&self, value: f64) -> String {
        if self.percent { format!("{:.1}%", value * 100.0) } else { format!("{value:.0}") }
    }

    /// Whether larger values meet it.
    pub fn is_upper(&self) -> bool {
        matches!(self.comparison, Comparison::Above | Comparison::AtLeast)
    }
}

impl std::fmt::Display for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.comparison {
            Comparison::Above => ">",
            Comparison::AtLeast => ">=",
            Comparison::Below => "<",
            Comparison::AtMost => "<=",
        };
        if self.percent { write!(f, "{sign} {}%", round(self.value * 100.0)) } else { write!(f, "{sign} {}", self.value) }
    }
}

fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

impl std::str::FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a comparison and a number such as `>= 25` or `< 70%`";
        let error = || format!("`{text}` is not {EXPECTED}");
        let text_only = text.trim();
        let (comparison, rest) =
            [(">=", Comparison::AtLeast), ("<=", Comparison::AtMost), (">", Comparison::Above), ("<", Comparison::Below)]
                .into_iter()
                .find_map(|(sign, comparison)| Some((comparison, text_only.strip_prefix(sign)?)))
                .ok_or_else(error)?;
        let (number, percent) = match rest.trim().strip_suffix('%') {
            Some(number) => (number.trim(), true),
            None => (rest.trim(), false),
        };
        let value: f64 = number.parse().map_err(|_| error())?;
        if !value.is_finite() {
            return Err(error());
        }
        Ok(Self { comparison, value: if percent { value / 100.0 } else { value }, percent })
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The policy text is not one we understand; the message names line, column and expectation.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PolicyError {
    /// What and where, ready to be shown below the file's name.
    pub message: String,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`] with line and column for a syntax error, an unknown key, a value out of
    /// range, or two rules of one id.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = toml::from_str(text).map_err(|error| PolicyError { message: error.to_string() })?;
        let mut ids: Vec<&str> = policy.rules().map(|(_, rule)| rule.id.as_str()).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PolicyError { message: format!("two rules have the id `{}`", pair[0]) });
        }
        Ok(policy)
    }

    /// The built-in policy.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in policy is tested to parse")
    }

    /// Every rule with its direction.
    pub fn rules(&self) -> impl Iterator<Item = (Direction, &Rule)> {
        let up = self.scale_up.rules.iter().map(|rule| (Direction::Up, rule));
        up.chain(self.scale_down.rules.iter().map(|rule| (Direction::Down, rule)))
    }
}

/// Which way a rule points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards another worker.
    Up,
    /// Towards one worker less.
    Down,
}

fn format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let found = String::deserialize(deserializer)?;
    if found == FORMAT { Ok(found) } else { Err(D::Error::custom(format!("format is `{found}`, this capplan reads `{FORMAT}`"))) }
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(D::Error::custom(format!("{value} is not between 0 and 1"))) }
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_amount(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a percentage such as `90%`")))
}

fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_amount(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not an amount such as `2` or `1%`")))
}

fn parse_amount(text: &str) -> Option<f64> {
    let value: f64 = match text.trim().strip_suffix('%') {
        Some(number) => number.trim().parse::<f64>().ok()? / 100.0,
        None => text.trim().parse().ok()?,
    };
    (value.is_finite() && value >= 0.0).then_some(value)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SignedDuration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a time such as `7d`, `12h` or `30m`")))
}

fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let weight = f64::deserialize(deserializer)?;
    if (0.0..=1e6).contains(&weight) {
        Ok(weight)
    } else {
        Err(D::Error::custom(format!("`{weight}` is not a weight of 0 or more")))
    }
}

fn hours<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hours>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60).then_some(hour * 60 + minute)
    };
    let parsed = text.split_once('-').and_then(|(from, to)| Some(Hours { from: minute(from)?, to: minute(to)? }));
    parsed.map(Some).ok_or_else(|| D::Error::custom(format!("`{text}` are not hours such as `02:00-06:00`")))
}

/// Reads a time such as `7d`, `12h`, `30m` or `0`.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let text = text.trim();
    if text == "0" {
        return Some(SignedDuration::ZERO);
    }
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: i64 = number.parse().ok().filter(|number| (0..=100_000).contains(number))?;
    match unit {
        "d" => Some(SignedDuration::from_hours(number * 24)),
        "h" => Some(SignedDuration::from_hours(number)),
        "m" => Some(SignedDuration::from_mins(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_policy_is_the_runbook() {
        let policy = Policy::built_in();
        assert_eq!(policy.scale_up.mode, Mode::Any);
        assert_eq!(policy.scale_down.mode, Mode::All);
        let slots = &policy.scale_up.rules[0];
        assert!(slots.when.holds(25.0) && !slots.when.holds(24.0));
        assert_eq!(slots.window, SignedDuration::from_hours(7 * 24));
        let memory = &policy.scale_up.rules[1];
        assert!(memory.when.holds(0.901) && !memory.when.holds(0.900));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_what_was_expected() {
        let text = BUILT_IN.replace("sample_interval", "sampel_interval");
        let message = Policy::parse(&text).expect_err("unknown key").to_string();
        let line = text.lines().position(|line| line.starts_with("sampel_interval")).expect("replaced") + 1;
        assert!(message.contains(&format!("line {line}")), "{message}");
        assert!(message.contains("sampel_interval") && message.contains("expected"), "{message}");
    }

    #[test]
    fn wrong_values_are_named_with_what_was_expected() {
        for (from, to, expected) in [
            ("\">= 25\"", "\"25\"", "such as `>= 25`"),
            ("window = \"7d\"", "window = \"7 days\"", "such as `7d`"),
            ("\"32GiB\"", "\"lots\"", "such as `32GiB`"),
            ("coverage = 0.95", "coverage = 95.0", "between 0 and 1"),
            ("capplan.policy/1", "capplan.policy/2", "this capplan reads"),
            ("\"memory-requests-low\"", "\"slots-low\"", "two rules"),
        ] {
            let message = Policy::parse(&BUILT_IN.replace(from, to)).expect_err(to).to_string();
            assert!(message.contains(expected), "{to}: {message}");
        }
    }

    #[test]
    fn a_range_is_read_as_it_is_written() {
        let text = BUILT_IN.replace("[join.probe]", "vmids = \"200-249\"\naddresses = \"10.0.20.101-10.0.20.149\"\n[join.probe]");
        let join = Policy::parse(&text).expect("two ranges").join;
        assert_eq!(join.vmids, Some(Range { first: 200, last: 249 }));
        assert_eq!(join.addresses.map(String::from).as_deref(), Some("10.0.20.101-10.0.20.149"));
        for wrong in ["249-200", "200", "a-b"] {
            let text = BUILT_IN.replace("[join.probe]", &format!("vmids = \"{wrong}\"\n[join.probe]"));
            let error = Policy::parse(&text).expect_err(wrong);
            assert!(error.message.contains("first-last"), "{}", error.message);
        }
    }

    #[test]
    fn thresholds_print_as_they_are_written() {
        for text in [">= 25", "> 90%", "<= 20", "< 69.5%"] {
            assert_eq!(text.parse::<Threshold>().expect(text).to_string(), text);
        }
    }
}
