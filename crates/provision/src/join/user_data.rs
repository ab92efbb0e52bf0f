//! The user data of a new worker: a template that anybody may replace, and a check of what came of it.

use std::collections::BTreeMap;

use capplan_model::plan::WorkerSpec;
use capplan_model::policy::Distribution;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Deserialize;
use serde_json::{Value, json};

use super::cluster::{ClusterInfo, ClusterInfoError};
use crate::secret::Secret;

const KUBEADM: &str = include_str!("templates/kubeadm.yaml");
const K3S: &str = include_str!("templates/k3s.yaml");
const K3S_SERVER: &str = include_str!("templates/k3s-server.yaml");
const MICROK8S: &str = include_str!("templates/microk8s.yaml");

/// Parts that every template includes, and that a user's own may include: files that let cloud-init run only while a
/// drive holds data for it, and the command that deletes what cloud-init keeps of the credential.
///
/// # Source
/// `ds-identify` of cloud-init 25.1 to 26.2: it takes a `datasource_list` of one entry, or of one and `None`, without
/// looking for data; with two real entries and `notfound=disabled`, cloud-init stays off unless it finds some.
/// Files: `Paths.lookups` of cloud-init's `helpers.py`.
const PARTS: [(&str, &str); 2] = [
    ("keep-files", include_str!("templates/keep-files.yaml")),
    ("forget-commands", include_str!("templates/forget-commands.yaml")),
];

/// What a template may speak of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The worker.
    pub spec: &'a WorkerSpec,
    /// Address and authority of the cluster; of no use to microk8s.
    pub cluster: Option<&'a ClusterInfo>,
    /// What it joins with: a bootstrap token, or what the user gave.
    pub credential: &'a Secret,
}

/// Why there is no user data.
#[derive(Debug, thiserror::Error)]
pub enum UserDataError {
    /// The template cannot be used.
    #[error("the template of the user data: {0}")]
    Template(String),
    /// What came of it is not what cloud-init takes, or would not do what it is for.
    #[error("the user data that the template makes: {0}")]
    Content(String),
    /// The cluster's authority cannot be pinned.
    #[error(transparent)]
    Cluster(#[from] ClusterInfoError),
}

/// Labels that a kubelet may give its own node; others are set afterwards.
///
/// # Source
/// `IsKubeletLabel` and `IsKubernetesLabel` of `k8s.io/kubelet/pkg/apis` (v1.36).
pub(crate) fn kubelet_may_set(key: &str) -> bool {
    const OWN: [&str; 11] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    let reserved = within("kubernetes.io") || within("k8s.io");
    !reserved || OWN.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

fn labels(spec: &WorkerSpec) -> BTreeMap<&str, &str> {
    let own = spec.labels.iter().filter(|(key, _)| kubelet_may_set(key));
    own.map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn taints(spec: &WorkerSpec) -> Vec<Value> {
    let parts = spec.taints.iter().filter_map(|taint| {
        let (key_value, effect) = taint.rsplit_once(':')?;
        let (key, value) = key_value.split_once('=').unwrap_or((key_value, ""));
        Some(json!({ "key": key, "value": value, "effect": effect }))
    });
    parts.collect()
}

/// `JoinConfiguration` of kubeadm, as JSON, which is YAML.
fn join_configuration(facts: &Facts<'_>, cluster: &ClusterInfo) -> Result<String, UserDataError> {
    let spec = facts.spec;
    let endpoint = cluster.server.trim_start_matches("https://").trim_end_matches('/');
    let node_labels: Vec<String> = labels(spec).iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut arguments = vec![json!({ "name": "node-labels", "value": node_labels.join(",") })];
    arguments.retain(|_| !node_labels.is_empty());
    arguments.extend(spec.provider_id.iter().map(|id| json!({ "name": "provider-id", "value": id })));
    Ok(json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "JoinConfiguration",
        "discovery": { "bootstrapToken": {
            "token": facts.credential.expose(),
            "apiServerEndpoint": endpoint,
            "caCertHashes": cluster.pins()?,
        } },
        "nodeRegistration": { "name": spec.name, "taints": taints(spec), "kubeletExtraArgs": arguments },
    })
    .to_string())
}

/// The configuration file of k3s.
fn k3s_configuration(spec: &WorkerSpec, cluster: &ClusterInfo, token_file: &str) -> String {
    let kubelet: Vec<String> = spec.provider_id.iter().map(|id| format!("provider-id={id}")).collect();
    let labels: Vec<String> = labels(spec).iter().map(|(key, value)| format!("{key}={value}")).collect();
    json!({
        "server": cluster.server, "token-file": token_file, "node-name": spec.name,
        "node-label": labels, "node-taint": spec.taints, "kubelet-arg": kubelet,
    })
    .to_string()
}

/// Renders and checks the user data of a worker.
///
/// # Errors
/// [`UserDataError`]; it never holds the credential.
pub fn user_data(facts: &Facts<'_>, template: Option<&str>) -> Result<String, UserDataError> {
    let (spec, distribution) = (facts.spec, facts.spec.join.distribution);
    let cluster = || facts.cluster.ok_or_else(|| UserDataError::Template("the cluster's address is not known".to_owned()));
    let own = match distribution {
        Distribution::Kubeadm => KUBEADM,
        Distribution::K3s => K3S,
        Distribution::K3sServer => K3S_SERVER,
        Distribution::Microk8s => MICROK8S,
    };
    let (mut join, mut k3s, mut microk8s) = (None, None, None);
    let mut token = facts.credential.expose().to_owned();
    match distribution {
        Distribution::Kubeadm => join = Some(join_configuration(facts, cluster()?)?),
        Distribution::K3s => {
            token = cluster()?.k3s_token(&token);
            k3s = Some(k3s_configuration(spec, cluster()?, "/etc/rancher/k3s/agent-token"));
        }
        Distribution::K3sServer => k3s = Some(k3s_configuration(spec, cluster()?, "/etc/rancher/k3s/server-token")),
        Distribution::Microk8s => {
            microk8s = Some(json!({ "version": "0.2.0", "join": { "url": token, "worker": true } }).to_string());
        }
    }
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Its words may quote what is rendered: the credential must not be among them.
    let hidden = |error: minijinja::Error| UserDataError::Template(facts.credential.redact(&error.to_string()));
    for (name, text) in PARTS {
        environment.add_template(name, text).map_err(hidden)?;
    }
    environment.add_template("user-data", template.unwrap_or(own)).map_err(hidden)?;
    let rendered = environment
        .get_template("user-data")
        .and_then(|one| {
            one.render(minijinja::Value::from(Serde(&json!({
                "name": spec.name, "vmid": spec.vmid, "address": spec.address, "host": spec.host,
                "labels": labels(spec), "all_labels": spec.labels, "taints": taints(spec),
                "provider_id": spec.provider_id, "kubelet_version": spec.kubelet_version,
                "server": facts.cluster.map(|one| &one.server), "authority": facts.cluster.map(|one| &one.authority),
                "token": token, "join_configuration": join, "k3s_configuration": k3s, "microk8s_configuration": microk8s,
            }))))
        })
        .map_err(hidden)?;
    valid(&rendered, spec, facts.credential)?;
    Ok(rendered)
}

/// What user data leave undone that a worker needs after its drive is emptied. They are usable all the same.
pub fn doubts(user_data: &str) -> Vec<&'static str> {
    let mut doubts = Vec::new();
    if !["datasource_list", "cloud-init.disabled"].iter().any(|guard| user_data.contains(guard)) {
        doubts.push(
            "the template of the user data does not turn cloud-init off after the join: with an emptied drive, a later \
             boot may change the worker's address, SSH host keys and users; `{% include \"keep-files\" %}` below \
             `write_files:` prevents that",
        );
    }
    if !user_data.contains("/var/lib/cloud/instances/") {
        doubts.push(
            "the template of the user data leaves the credential in /var/lib/cloud/instances; \
             `{% include \"forget-commands\" %}` at the end of `runcmd:` deletes it",
        );
    }
    if !user_data.contains("package_upgrade") {
        doubts.push(
            "the template of the user data does not set `package_upgrade`: Proxmox VE's own data upgrade every package \
             before the join",
        );
    }
    doubts
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CloudConfig {
    hostname: Option<String>,
    fqdn: Option<String>,
    preserve_hostname: bool,
}

/// What would make a worker come up as another one, or not at all.
fn valid(text: &str, spec: &WorkerSpec, credential: &Secret) -> Result<(), UserDataError> {
    let bad = |why: String| Err(UserDataError::Content(why));
    if text.lines().next().map(str::trim_end) != Some("#cloud-config") {
        return bad("its first line is not `#cloud-config`: cloud-init would ignore it".to_owned());
    }
    let config: CloudConfig = match serde_saphyr::from_str(text) {
        Ok(config) => config,
        // The error quotes the line, which may hold the credential.
        Err(error) => {
            let place = error.location().map(|place| format!(" in line {}", place.line())).unwrap_or_default();
            return bad(format!("it is no YAML mapping{place}"));
        }
    };
    if config.preserve_hostname {
        return bad("preserve_hostname keeps the image's name: the node would come up as another".to_owned());
    }
    let short = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
    for name in config.hostname.iter().chain(&config.fqdn) {
        if short(name) != spec.name.as_str() {
            return bad(format!("it names the machine {name}, not {}", spec.name));
        }
    }
    if !text.contains(credential.expose()) {
        return bad("the credential is not in it: the worker could not join".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(distribution: Distribution) -> WorkerSpec {
        let mut spec = WorkerSpec { name: "w9".into(), kubelet_version: "v1.35.2".into(), ..WorkerSpec::default() };
        spec.join.distribution = distribution;
        spec.labels.insert("topology.kubernetes.io/zone".into(), "pve1".into());
        spec.labels.insert("node-role.kubernetes.io/worker".into(), String::new());
        spec.taints = vec!["gpu=true:NoSchedule".into()];
        spec.provider_id = Some("proxmox://lab/209".into());
        spec
    }

    fn cluster() -> ClusterInfo {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(Vec::new()).expect("good").self_signed(&key).expect("signed");
        ClusterInfo { server: "https://10.0.20.10:6443".into(), authority: certificate.pem() }
    }

    #[test]
    fn every_distribution_has_user_data_that_hold_the_credential() {
        let cluster = cluster();
        let credential = Secret::new("abcdef.0123456789abcdef");
        for one in [Distribution::Kubeadm, Distribution::K3s, Distribution::K3sServer, Distribution::Microk8s] {
            let spec = spec(one);
            let facts = Facts { spec: &spec, cluster: Some(&cluster), credential: &credential };
            let text = user_data(&facts, None).expect("a template of our own");
            assert!(text.contains("abcdef.0123456789abcdef"), "{one:?}");
            let read: Value = serde_saphyr::from_str(&text).expect("YAML");
            assert_eq!(read["hostname"], "w9", "{one:?}");
            // A kubelet that is told a label it may not set does not start.
            assert!(!text.contains("node-role"), "{one:?}");
            let labelled = one == Distribution::Microk8s || text.contains("topology.kubernetes.io/zone=pve1");
            assert!(labelled, "{one:?}: {text}");
            assert_eq!(read["package_upgrade"], false, "{one:?}");
            let files: Vec<&str> =
                read["write_files"].as_array().into_iter().flatten().filter_map(|file| file["path"].as_str()).collect();
            assert!(files.contains(&"/etc/cloud/cloud.cfg.d/zz-capplan.cfg"), "{one:?}: {files:?}");
            let last = read["runcmd"].as_array().and_then(|commands| commands.last()).and_then(Value::as_str);
            assert!(last.is_some_and(|last| last.contains("/var/lib/cloud/instances/*/user-data.txt*")), "{one:?}: {last:?}");
            assert_eq!(doubts(&text), Vec::<&str>::new(), "{one:?}");
        }
    }

    #[test]
    fn a_template_of_ones_own_may_include_the_parts_and_is_doubted_without_them() {
        let (spec, cluster) = (spec(Distribution::Kubeadm), cluster());
        let credential = Secret::new("abcdef.0123456789abcdef");
        let facts = Facts { spec: &spec, cluster: Some(&cluster), credential: &credential };
        let bare = user_data(&facts, Some("#cloud-config\nx: {{ token }}\n")).expect("usable");
        assert_eq!(doubts(&bare).len(), 3);
        let whole = concat!(
            "#cloud-config\npackage_upgrade: false\nwrite_files:\n{% include \"keep-files\" %}\n",
            "runcmd:\n- [join, {{ token }}]\n{% include \"forget-commands\" %}\n"
        );
        // Both parts are indented by two.
        let whole = whole.replace("- [join", "  - [join");
        assert_eq!(doubts(&user_data(&facts, Some(&whole)).expect("usable")), Vec::<&str>::new());
    }

    #[test]
    fn a_template_that_would_do_harm_is_refused_without_the_secret() {
        let (spec, cluster) = (spec(Distribution::Kubeadm), cluster());
        let credential = Secret::new("abcdef.0123456789abcdef");
        let facts = Facts { spec: &spec, cluster: Some(&cluster), credential: &credential };
        let cases = [
            ("#cloud-config\nhostname: ubuntu\nx: {{ token }}\n", "ubuntu, not w9"),
            ("#cloud-config\npreserve_hostname: true\nx: {{ token }}\n", "preserve_hostname"),
            ("#cloud-konfig\nx: {{ token }}\n", "first line"),
            ("#cloud-config\nhostname: w9\n", "the credential is not in it"),
            ("#cloud-config\nx: [{{ token }}\n", "no YAML mapping"),
            ("#cloud-config\nx: {{ tokken }}\n", "undefined"),
            ("#cloud-config\nx: {{ token\n", "template"),
        ];
        for (template, why) in cases {
            let error = user_data(&facts, Some(template)).expect_err(why).to_string();
            assert!(error.contains(why), "{why}: {error}");
            assert!(!error.contains("0123456789abcdef"), "{error}");
        }
    }

    #[test]
    fn a_kubelet_labels_itself_with_what_it_may() {
        for (key, may) in [
            ("csi.proxmox.sinextra.dev/max-volume-attachments", true),
            ("topology.kubernetes.io/region", true),
            ("node.kubernetes.io/exclude-from-external-load-balancers", true),
            ("gpu", true),
            ("node-role.kubernetes.io/worker", false),
            ("x.k8s.io/y", false),
        ] {
            assert_eq!(kubelet_may_set(key), may, "{key}");
        }
    }
}
