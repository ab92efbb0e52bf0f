//! Parts of a pod that are looked at and mostly dropped: ports, tolerations, conditions.
//!
//! They are sifted while they are parsed, on text borrowed from the page: a pod has five conditions
//! and two default tolerations that nobody asks for, and a large cluster 150,000 pods.

use std::borrow::Cow;
use std::fmt;

use capplan_model::kube as model;
use jiff::Timestamp;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Key of the toleration of a node that is not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Key of the toleration of a node that does not answer.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Seconds of the two tolerations that the DefaultTolerationSeconds admission plugin adds.
///
/// # Source
/// `plugin/pkg/admission/defaulttolerationseconds` (v1.36).
const DEFAULT_SECONDS: i64 = 300;

/// Text that is looked at: borrowed from the page wherever it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

fn text<'a>(text: &'a Option<Text<'_>>) -> &'a str {
    text.as_ref().map_or("", |text| &text.0)
}

/// A list whose items are looked at one by one.
trait Sifted: Default {
    /// The API's item.
    type Item<'a>: Deserialize<'a>;
    /// What the list is called in an error.
    const WHAT: &'static str;
    /// Keeps what is needed of an item.
    fn sift(&mut self, item: Self::Item<'_>);
}

struct Sieve<T>(T);

impl<'de, T: Sifted> Visitor<'de> for Sieve<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WHAT)
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<T, A::Error> {
        while let Some(item) = seq.next_element::<T::Item<'de>>()? {
            self.0.sift(item);
        }
        Ok(self.0)
    }
}

macro_rules! sifted {
    ($($type:ident),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Sieve(Self::default()))
            }
        }
    )*};
}
sifted!(HostPorts, Tolerations, PodConditions);

/// `restartPolicy: Always` of an init container makes it a sidecar; nothing else is asked.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum RestartPolicy {
    Always,
    #[default]
    Other,
}

impl<'de> Deserialize<'de> for RestartPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(if Text::deserialize(deserializer)?.0 == "Always" { Self::Always } else { Self::Other })
    }
}

/// `imagePullPolicy: Never` ties a pod to the nodes that have its image; nothing else is asked.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum PullPolicy {
    Never,
    #[default]
    Other,
}

impl<'de> Deserialize<'de> for PullPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(if Text::deserialize(deserializer)?.0 == "Never" { Self::Never } else { Self::Other })
    }
}

/// Ports that are opened on the host: `(protocol, address, port)`.
#[derive(Default)]
pub(super) struct HostPorts(pub(super) Vec<(String, String, u16)>);

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Port<'a> {
    host_port: Option<u16>,
    #[serde(borrow)]
    protocol: Option<Text<'a>>,
    #[serde(borrow, rename = "hostIP")]
    host_ip: Option<Text<'a>>,
}

impl Sifted for HostPorts {
    type Item<'a> = Port<'a>;
    const WHAT: &'static str = "ports of a container";

    fn sift(&mut self, port: Port<'_>) {
        if let Some(number) = port.host_port.filter(|number| *number > 0) {
            let protocol = port.protocol.map_or_else(|| "TCP".to_owned(), |text| text.0.into_owned());
            self.0.push((protocol, text(&port.host_ip).to_owned(), number));
        }
    }
}

/// Tolerations, the two that admission adds apart.
#[derive(Default)]
pub(super) struct Tolerations {
    kept: Vec<model::Toleration>,
    not_ready: bool,
    unreachable: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct TolerationWire<'a> {
    #[serde(borrow)]
    key: Option<Text<'a>>,
    #[serde(borrow)]
    operator: Option<Text<'a>>,
    #[serde(borrow)]
    value: Option<Text<'a>>,
    effect: Option<model::Effect>,
    toleration_seconds: Option<i64>,
}

impl Sifted for Tolerations {
    type Item<'a> = TolerationWire<'a>;
    const WHAT: &'static str = "tolerations";

    fn sift(&mut self, wire: TolerationWire<'_>) {
        let (key, operator, value) = (text(&wire.key), text(&wire.operator), text(&wire.value));
        let is_default = operator == "Exists"
            && value.is_empty()
            && wire.effect == Some(model::Effect::NoExecute)
            && wire.toleration_seconds == Some(DEFAULT_SECONDS);
        match key {
            NOT_READY if is_default => self.not_ready = true,
            UNREACHABLE if is_default => self.unreachable = true,
            _ => self.kept.push(model::Toleration {
                key: key.to_owned(),
                operator: operator.to_owned(),
                value: value.to_owned(),
                effect: wire.effect,
                toleration_seconds: wire.toleration_seconds,
            }),
        }
    }
}

impl Tolerations {
    /// The tolerations without the default pair, and whether the pair is there.
    pub(super) fn split(mut self) -> (Vec<model::Toleration>, bool) {
        let pair = self.not_ready && self.unreachable;
        let alone = [(self.not_ready, NOT_READY), (self.unreachable, UNREACHABLE)];
        for (_, key) in alone.into_iter().filter(|(present, _)| *present && !pair) {
            self.kept.push(model::Toleration {
                key: key.to_owned(),
                operator: "Exists".to_owned(),
                value: String::new(),
                effect: Some(model::Effect::NoExecute),
                toleration_seconds: Some(DEFAULT_SECONDS),
            });
        }
        (self.kept, pair)
    }
}

/// Conditions that are not True, and `DisruptionTarget`.
#[derive(Default)]
pub(super) struct PodConditions {
    pub(super) kept: Vec<model::Condition>,
    /// Last change among the kept ones.
    pub(super) changed: Option<Timestamp>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodCondition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
    #[serde(borrow)]
    last_transition_time: Option<Text<'a>>,
}

impl Sifted for PodConditions {
    type Item<'a> = PodCondition<'a>;
    const WHAT: &'static str = "conditions of a pod";

    fn sift(&mut self, wire: PodCondition<'_>) {
        let (kind, status) = (text(&wire.kind), text(&wire.status));
        if status == "True" && kind != "DisruptionTarget" {
            return;
        }
        let since = text(&wire.last_transition_time).parse().ok();
        self.changed = self.changed.max(since);
        self.kept.push(model::Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: text(&wire.reason).to_owned(),
            since,
        });
    }
}
