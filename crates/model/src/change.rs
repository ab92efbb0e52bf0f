//! What might happen to a cluster: input of a simulation.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{HostName, NodeName};
use crate::kube::{Claim, Effect, Pod, Taint};
use crate::units::{Bytes, MilliCpu};

/// Most pods, claims or replicas that one change may add: the largest cluster that Kubernetes is made for
/// (<https://kubernetes.io/docs/setup/best-practices/cluster-large/>). More is a slip of the finger.
pub const MOST_PODS: u32 = 150_000;
/// Most workers that one change may add, from the same source.
pub const MOST_WORKERS: u32 = 5_000;

/// One change. Several are played in their order.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// New claims, each with a pod that mounts it.
    AddPvcs(AddPvcs),
    /// Equal new pods.
    AddPods(AddPods),
    /// Pods and claims as they are written in a manifest.
    #[serde(skip)]
    Submit(Manifest),
    /// New workers.
    AddWorker(AddWorker),
    /// Drain a node and take it out.
    RemoveNode(NodeName),
    /// A node fails.
    FailNode(Failure<NodeName>),
    /// A host fails with every VM on it.
    FailHost(Failure<HostName>),
    /// A node takes no new pods.
    Cordon(NodeName),
    /// A node gets a taint.
    Taint(AddTaint),
    /// Everything was off, and every pod is scheduled again in random order.
    ColdBoot,
    /// Every node in turn is drained and comes back.
    RebootEach,
    /// Parked workloads get the replicas that make them run: one each.
    WakeParked,
}

/// New claims, each with a pod that mounts it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct AddPvcs {
    /// How many.
    pub count: u32,
    /// Size of each; 1 GiB if not given.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "Option<String>")]
    pub size: Option<Bytes>,
    /// StorageClass; otherwise the one of the driver's that is the default or the only one.
    pub storage_class: Option<String>,
    /// Workload whose pods mount them: `deploy/x`, `sts/x`, with `NAMESPACE/` before it if need be.
    pub pods_from: Option<String>,
}

/// What a manifest makes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Pods: those written down, and the replicas of workloads.
    pub pods: Vec<Pod>,
    /// Claims: those written down, and those of claim templates.
    pub claims: Vec<Claim>,
    /// Objects that may make pods and are not simulated.
    pub not_simulated: Vec<String>,
}

/// Equal new pods.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct AddPods {
    /// How many.
    pub count: u32,
    /// CPU request of each.
    #[serde(deserialize_with = "cpu")]
    #[schemars(with = "Option<String>")]
    pub cpu: Option<MilliCpu>,
    /// Memory request of each.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "Option<String>")]
    pub memory: Option<Bytes>,
    /// Extended resources of each, such as `nvidia.com/gpu`.
    pub extended: std::collections::BTreeMap<String, u64>,
}

/// New workers.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct AddWorker {
    /// How many.
    pub count: u32,
    /// Memory of each VM; otherwise the policy's.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "Option<String>")]
    pub memory: Option<Bytes>,
    /// Virtual CPUs of each; otherwise those of the worker it is like.
    pub cores: Option<u64>,
    /// Worker it is like, its labels included; otherwise a general worker, without its volume label.
    pub like: Option<NodeName>,
    /// Host of the VMs; otherwise the one with most memory available.
    pub host: Option<HostName>,
    /// Further labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

impl Default for AddWorker {
    fn default() -> Self {
        Self { count: 1, memory: None, cores: None, like: None, host: None, labels: Default::default() }
    }
}

/// Something fails.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Failure<T> {
    /// What.
    pub name: T,
    /// How.
    #[serde(default)]
    pub mode: FailureMode,
}

/// How a node fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureMode {
    /// The kubelet reports NotReady and still hears the API.
    Notready,
    /// The node runs on but nobody reaches it.
    Partition,
    /// The power is gone.
    #[default]
    PowerOff,
}

impl FailureMode {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Notready => "notready",
            Self::Partition => "partition",
            Self::PowerOff => "power-off",
        }
    }
}

/// A node gets a taint.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AddTaint {
    /// The node.
    pub node: NodeName,
    /// `key[=value]:Effect`, or `key[:Effect]-` to take the taint away.
    pub taint: WrittenTaint,
}

/// A taint as `kubectl taint` takes it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub enum WrittenTaint {
    /// Set it.
    Set(Taint),
    /// Take away those with this key and, if given, this effect.
    Remove(String, Option<Effect>),
}

/// The text is not a taint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a taint such as `key=value:NoSchedule`, or `key:NoSchedule-` to take it away")]
pub struct TaintError(String);

impl TryFrom<String> for WrittenTaint {
    type Error = TaintError;
    fn try_from(text: String) -> Result<Self, TaintError> {
        text.parse()
    }
}

impl FromStr for WrittenTaint {
    type Err = TaintError;

    fn from_str(text: &str) -> Result<Self, TaintError> {
        let error = || TaintError(text.to_owned());
        let effect = |name: &str| match name {
            "NoSchedule" => Ok(Effect::NoSchedule),
            "PreferNoSchedule" => Ok(Effect::PreferNoSchedule),
            "NoExecute" => Ok(Effect::NoExecute),
            _ => Err(error()),
        };
        let (body, removes) = text.strip_suffix('-').map_or((text, false), |body| (body, true));
        let (pair, name) = body.rsplit_once(':').map_or((body, None), |(pair, name)| (pair, Some(name)));
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key.is_empty() {
            return Err(error());
        }
        match (removes, name) {
            (true, name) => Ok(Self::Remove(key.to_owned(), name.map(effect).transpose()?)),
            (false, Some(name)) => {
                Ok(Self::Set(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect(name)?, time_added: None }))
            }
            (false, None) => Err(error()),
        }
    }
}

impl fmt::Display for WrittenTaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(taint) if taint.value.is_empty() => write!(f, "{}:{:?}", taint.key, taint.effect),
            Self::Set(taint) => write!(f, "{}={}:{:?}", taint.key, taint.value, taint.effect),
            Self::Remove(key, Some(effect)) => write!(f, "{key}:{effect:?}-"),
            Self::Remove(key, None) => write!(f, "{key}-"),
        }
    }
}

impl Change {
    /// What is wrong with its amount, if anything.
    pub fn excess(&self) -> Option<String> {
        let (count, most) = match self {
            Self::AddPvcs(add) => (add.count, MOST_PODS),
            Self::AddPods(add) => (add.count, MOST_PODS),
            Self::AddWorker(add) => (add.count, MOST_WORKERS),
            Self::Submit(_)
            | Self::RemoveNode(_)
            | Self::FailNode(_)
            | Self::FailHost(_)
            | Self::Cordon(_)
            | Self::Taint(_)
            | Self::ColdBoot
            | Self::RebootEach
            | Self::WakeParked => return None,
        };
        (count > most).then(|| format!("{self} is too many: at most {most} at a time"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPvcs(add) => {
                write!(f, "add {} PVC{}", add.count, plural(add.count as usize))?;
                if let Some(size) = add.size {
                    write!(f, " of {size}")?;
                }
                if let Some(class) = &add.storage_class {
                    write!(f, ", StorageClass {class}")?;
                }
                add.pods_from.as_ref().map_or(Ok(()), |from| write!(f, " for pods like those of {from}"))
            }
            Self::AddPods(add) => {
                write!(
                    f,
                    "add {} pod{} of {}, {}",
                    add.count,
                    plural(add.count as usize),
                    add.cpu.unwrap_or_default(),
                    add.memory.unwrap_or_default()
                )?;
                add.extended.iter().try_for_each(|(name, amount)| write!(f, ", {amount} {name}"))
            }
            Self::Submit(manifest) => {
                write!(f, "add {} pod{} of a manifest", manifest.pods.len(), plural(manifest.pods.len()))
            }
            Self::AddWorker(add) => {
                write!(f, "add {} worker{}", add.count, plural(add.count as usize))?;
                if let Some(memory) = add.memory {
                    write!(f, " of {memory}")?;
                }
                if let Some(cores) = add.cores {
                    write!(f, " and {cores} cores")?;
                }
                if let Some(host) = &add.host {
                    write!(f, " on {host}")?;
                }
                add.like.as_ref().map_or(Ok(()), |like| write!(f, " like {like}"))
            }
            Self::RemoveNode(node) => write!(f, "remove {node}"),
            Self::FailNode(one) => write!(f, "{} fails ({})", one.name, one.mode.name()),
            Self::FailHost(one) => write!(f, "host {} fails ({})", one.name, one.mode.name()),
            Self::Cordon(node) => write!(f, "cordon {node}"),
            Self::Taint(add) => write!(f, "taint {} {}", add.node, add.taint),
            Self::ColdBoot => f.write_str("cold boot"),
            Self::RebootEach => f.write_str("reboot each node in turn"),
            Self::WakeParked => f.write_str("wake parked workloads"),
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    crate::units::written(deserializer).map(Some)
}

fn cpu<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<MilliCpu>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let error = || serde::de::Error::custom(format!("`{text}` is not an amount of CPU such as `500m`"));
    MilliCpu::parse(&text).map(Some).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_reads_as_kubectl_reads_it() {
        let shown = |text: &str| text.parse::<WrittenTaint>().map(|taint| taint.to_string());
        for text in ["gpu=true:NoSchedule", "gpu:NoExecute", "gpu-", "gpu:PreferNoSchedule-"] {
            assert_eq!(shown(text).as_deref(), Ok(text));
        }
        for text in ["gpu", "gpu:Never", ":NoSchedule", "=x:NoSchedule", ""] {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_change_reads_from_a_file() {
        #[derive(Deserialize)]
        struct File {
            changes: Vec<Change>,
        }
        let text = r#"changes = [{ add-pvcs = { count = 5, size = "10GiB" } }, { fail-node = { name = "w1" } }, "cold-boot"]"#;
        let File { changes } = toml::from_str(text).expect("valid");
        let shown: Vec<String> = changes.iter().map(Change::to_string).collect();
        assert_eq!(shown, ["add 5 PVCs of 10.0 GiB", "w1 fails (power-off)", "cold boot"]);
    }
}
