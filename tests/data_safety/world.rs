//! A cluster as it really is: machines, disks and who uses them, in a model of its own.
//!
//! Nothing of the product is used here. The product sees this world only as it sees any other: as the answers of the
//! two APIs, which [`World::save`] writes as files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fastrand::Rng;
use serde_json::{Value, json};

pub const DRIVER: &str = "csi.proxmox.sinextra.dev";
pub const TAG: &str = "capplan";
const STORE: &str = "local-lvm";

/// A virtual machine.
#[derive(Clone, Debug, Default)]
pub struct Vm {
    pub id: u32,
    pub name: String,
    pub uuid: String,
    pub tags: String,
    /// What `/cluster/resources` still says of its tags.
    pub stale_tags: Option<String>,
    pub running: bool,
    pub template: bool,
    pub protected: bool,
    pub managed: bool,
    pub replicated: bool,
    pub on_boot: bool,
    pub lock: Option<String>,
    /// Slot, `unusedN` or pending slot → volume.
    pub slots: BTreeMap<String, String>,
    pub pending: BTreeMap<String, Option<String>>,
    pub snapshots: BTreeMap<String, BTreeMap<String, String>>,
    pub edits: u32,
}

/// A PersistentVolume and the disk that it is on.
#[derive(Clone, Debug)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub disk: String,
    pub claim: String,
}

/// A VolumeAttachment.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub name: String,
    pub attacher: String,
    pub node: String,
    pub volume: String,
}

/// A pod, with the claims that it uses.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub owner: String,
    pub node: String,
    pub claims: Vec<String>,
}

/// A node and the machine that it runs on.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub machine: u32,
    pub cordoned: bool,
}

#[derive(Clone, Debug, Default)]
pub struct World {
    pub vms: Vec<Vm>,
    pub nodes: Vec<Node>,
    pub volumes: Vec<Volume>,
    pub attachments: Vec<Attachment>,
    pub pods: Vec<Pod>,
    /// Every disk that exists.
    pub disks: BTreeSet<String>,
    /// Answers that fail, by the name of their file.
    pub hidden: BTreeSet<String>,
}

/// The guest whose disk this is, as Proxmox VE reads it from the name.
pub fn owner(volume: &str) -> Option<u32> {
    let file = volume.rsplit(['/', ':']).next()?;
    let mut parts = file.split('-');
    let kind = parts.next()?;
    (kind == "vm" || kind == "base").then(|| parts.next()?.parse().ok())?
}

impl Vm {
    /// Every volume that it names, wherever.
    pub fn names(&self) -> Vec<String> {
        let pending = self.pending.values().flatten();
        let kept = self.snapshots.values().flat_map(BTreeMap::values);
        self.slots.values().chain(pending).chain(kept).cloned().collect()
    }

    /// What goes with it when it is destroyed.
    pub fn own(&self) -> BTreeSet<String> {
        self.names().into_iter().filter(|volume| owner(volume) == Some(self.id)).collect()
    }

    fn free(&self, prefix: &str) -> String {
        (0..).map(|n| format!("{prefix}{n}")).find(|key| !self.slots.contains_key(key)).expect("there are numbers enough")
    }

    /// Takes a disk out of a slot: one of its own stays as `unusedN`.
    pub fn take_out(&mut self, slot: &str) {
        if let Some(volume) = self.slots.remove(slot)
            && owner(&volume) == Some(self.id)
        {
            let key = self.free("unused");
            self.slots.insert(key, volume);
        }
        self.edits += 1;
    }
}

impl World {
    /// Workers with volumes and ghosts, a spare, a template, and a machine of another cluster on the same host.
    pub fn random(rng: &mut Rng) -> Self {
        let mut world = Self::default();
        for number in 1..=rng.u32(3..=4) {
            world.machine(200 + number, &format!("w{number}"), true);
            world.nodes.push(Node { name: format!("w{number}"), machine: 200 + number, cordoned: false });
            for pod in 0..rng.u32(0..=2) {
                let volume = world.volume(&format!("pvc-{number}-{pod}"), &format!("{STORE}:vm-9999-pvc-{number}-{pod}"), DRIVER);
                world.attach(&volume, &format!("w{number}"), DRIVER, true);
                let (name, node) = (format!("data{number}-{pod}"), format!("w{number}"));
                let claims = vec![format!("claim-{volume}")];
                world.pods.push(Pod { name, owner: format!("data{number}"), node, claims });
            }
            if rng.bool() {
                let disk = format!("{STORE}:vm-9999-pvc-lost-{number}");
                world.volume(&format!("pvc-lost-{number}"), &disk, DRIVER);
                world.vm(200 + number).slots.insert("scsi20".into(), disk);
            }
        }
        world.machine(299, "w9", false);
        world.machine(401, "prod-w1", true);
        let other = format!("{STORE}:vm-9999-pvc-other");
        world.disks.insert(other.clone());
        world.vm(401).slots.insert("scsi1".into(), other);
        world.machine(9000, "template", false);
        world.vm(9000).template = true;
        for vm in &mut world.vms {
            if rng.u8(..) < 230 && vm.id < 300 {
                vm.tags = TAG.into();
            }
        }
        world
    }

    fn machine(&mut self, id: u32, name: &str, running: bool) {
        let system = format!("{STORE}:vm-{id}-disk-0");
        self.disks.insert(system.clone());
        let slots = [("scsi0".to_owned(), system)].into();
        let uuid = format!("00000000-0000-4000-8000-{id:012}");
        self.vms.push(Vm { id, name: name.into(), uuid, running, on_boot: running, slots, ..Vm::default() });
    }

    pub fn vm(&mut self, id: u32) -> &mut Vm {
        self.vms.iter_mut().find(|vm| vm.id == id).expect("it is there")
    }

    fn volume(&mut self, name: &str, disk: &str, driver: &str) -> String {
        self.disks.insert(disk.to_owned());
        let claim = format!("claim-{name}");
        self.volumes.push(Volume { name: name.into(), driver: driver.into(), disk: disk.into(), claim });
        name.to_owned()
    }

    fn attach(&mut self, volume: &str, node: &str, attacher: &str, plugged: bool) {
        let name = format!("va-{volume}-{node}-{}", self.attachments.len());
        self.attachments.push(Attachment { name, attacher: attacher.into(), node: node.into(), volume: volume.into() });
        if plugged {
            self.plug(volume, node);
        }
    }

    fn plug(&mut self, volume: &str, node: &str) {
        let Some(disk) = self.volumes.iter().find(|one| one.name == volume).map(|one| one.disk.clone()) else { return };
        if let Some(vm) = self.vms.iter_mut().find(|vm| vm.name == node)
            && !vm.slots.values().any(|held| *held == disk)
        {
            let slot = (1..30).map(|n| format!("scsi{n}")).find(|slot| !vm.slots.contains_key(slot)).expect("a slot is free");
            vm.slots.insert(slot, disk);
            vm.edits += 1;
        }
    }

    /// What somebody else does meanwhile.
    pub fn meddle(&mut self, rng: &mut Rng) {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).chain(["w9".to_owned()]).collect();
        let node = names[rng.usize(..names.len())].clone();
        let id = self.vms.iter().find(|vm| vm.name == node).map_or(299, |vm| vm.id);
        if self.vms.iter().all(|vm| vm.id != id) {
            return;
        }
        let attacher = [DRIVER, DRIVER, "", "other.example"][rng.usize(..4)];
        let volume = (!self.volumes.is_empty()).then(|| self.volumes[rng.usize(..self.volumes.len())].clone());
        let own = format!("{STORE}:vm-{id}-disk-{}", rng.u32(0..3));
        let others = [401, 299, 9000].into_iter().chain(201..=204).filter(|other| self.vms.iter().any(|vm| vm.id == *other));
        let others: Vec<u32> = others.filter(|other| *other != id).collect();
        let other = others[rng.usize(..others.len())];
        match rng.u8(0..26) {
            0 => drop(volume.map(|volume| self.plug(&volume.name, &node))),
            1 => drop(volume.map(|volume| self.attach(&volume.name, &node, attacher, true))),
            2 => drop(volume.map(|volume| self.attach(&volume.name, &node, attacher, false))),
            3 => drop(self.attachments.pop()),
            // A static volume on a disk with the name of a VM, plugged into it or left behind by a detach.
            4 | 5 => {
                let handle = own.clone();
                let name = self.volume(&format!("static-{}", rng.u16(..)), &handle, [DRIVER, "nfs.example"][rng.usize(..2)]);
                let prefix = if rng.bool() { "unused" } else { "scsi1" };
                let key = self.vm(id).free(prefix);
                if !self.vm(id).slots.values().any(|held| *held == own) {
                    self.vm(id).slots.insert(key, own);
                }
                if rng.bool() {
                    let claims = vec![format!("claim-{name}")];
                    let elsewhere = names[rng.usize(..names.len())].clone();
                    self.pods.push(Pod { name: format!("p-{name}"), owner: "sts".into(), node: elsewhere, claims });
                }
            }
            // Another guest names a disk of this one: in force, pending, or in a snapshot.
            6 => drop(self.vm(other).slots.insert("scsi25".into(), own)),
            7 => drop(self.vm(other).pending.insert("scsi26".into(), Some(own))),
            8 => drop(self.vm(other).snapshots.insert("s".into(), [("scsi1".into(), own)].into())),
            9 => drop(self.vm(other).slots.insert("unused9".into(), own)),
            10 => {
                self.disks.insert(own.clone());
                let key = self.vm(id).free("unused");
                self.vm(id).slots.insert(key, own);
            }
            11 => {
                let kept = if rng.bool() { own } else { format!("{STORE}:vm-{id}-disk-0") };
                self.disks.insert(kept.clone());
                self.vm(id).snapshots.insert("before".into(), [("scsi0".into(), kept)].into());
            }
            12 => {
                let lost = format!("{STORE}:vm-9999-pvc-gone");
                self.disks.insert(lost.clone());
                self.vm(id).slots.insert("unused8".into(), lost);
            }
            13 => self.vm(id).name.push('x'),
            14 => self.vm(id).uuid = format!("11111111-0000-4000-8000-{:012}", rng.u32(..)),
            15 | 16 => {
                let vm = self.vm(id);
                vm.stale_tags = Some(vm.tags.clone());
                vm.tags.clear();
            }
            17 => self.vm(id).protected = true,
            18 => self.vm(id).managed = true,
            19 => self.vm(id).replicated = true,
            20 => self.vm(id).running = !self.vm(id).running,
            21 => self.vm(id).lock = Some("backup".into()),
            22 => self.vm(id).take_out("scsi1"),
            _ => {
                let files = [
                    "volumeattachments.json".to_owned(),
                    "persistentvolumes.json".to_owned(),
                    "persistentvolumeclaims.json".to_owned(),
                    "pods.json".to_owned(),
                    "nodes.json".to_owned(),
                    format!("pve/nodes_pve1_qemu_{id}_config.json"),
                    format!("pve/nodes_pve1_qemu_{other}_config.json"),
                    format!("pve/nodes_pve1_qemu_{other}_snapshot.json"),
                    format!("pve/nodes_pve1_qemu_{id}_snapshot.json"),
                    format!("pve/nodes_pve1_qemu_{id}_status_current.json"),
                    "pve/cluster_ha_resources.json".to_owned(),
                    "pve/cluster_replication.json".to_owned(),
                ];
                self.hidden.insert(files[rng.usize(..files.len())].clone());
            }
        }
    }

    /// Whether everything that somebody relies on is still there: no volume is lost, none is taken from a running pod,
    /// none is in use by two machines because of us.
    pub fn harm(&self) -> Option<String> {
        let lost = self.volumes.iter().find(|volume| !self.disks.contains(&volume.disk));
        if let Some(volume) = lost {
            return Some(format!("the disk {} of volume {} is lost", volume.disk, volume.name));
        }
        let gone = self.vms.iter().flat_map(|vm| vm.names().into_iter().map(move |disk| (vm, disk)));
        let gone = gone.into_iter().find(|(vm, disk)| !self.disks.contains(disk) && owner(disk) != Some(vm.id));
        gone.map(|(vm, disk)| format!("{disk}, which VM {} names, is lost", vm.id))
    }

    /// Who uses a disk: an attachment, a pod that runs, another guest.
    pub fn used_by(&self, disk: &str, except: u32) -> Option<String> {
        let mine: BTreeSet<&str> =
            self.volumes.iter().filter(|volume| volume.disk == disk).map(|volume| volume.name.as_str()).collect();
        let claims: BTreeSet<&str> =
            self.volumes.iter().filter(|volume| volume.disk == disk).map(|volume| volume.claim.as_str()).collect();
        let attached = self.attachments.iter().find(|one| mine.contains(one.volume.as_str())).map(|one| one.name.clone());
        let pod = self.pods.iter().find(|pod| pod.claims.iter().any(|claim| claims.contains(claim.as_str())));
        let guest = self.vms.iter().find(|vm| vm.id != except && vm.names().iter().any(|name| name == disk));
        attached.or(pod.map(|pod| pod.name.clone())).or(guest.map(|vm| format!("VM {}", vm.id)))
    }

    /// Writes what the two APIs answer.
    pub fn save(&self, folder: &Path) {
        let pve = folder.join("pve");
        std::fs::remove_dir_all(folder).or_else(|error| if folder.exists() { Err(error) } else { Ok(()) }).expect("ours");
        std::fs::create_dir_all(&pve).expect("a folder of ours");
        let put = |name: &str, value: Value| {
            if !self.hidden.contains(name) {
                std::fs::write(folder.join(name), value.to_string()).expect("a file of ours");
            }
        };
        let list = |name: &str, items: Vec<Value>| put(name, json!({"apiVersion": "v1", "kind": "List", "items": items}));
        list("nodes.json", self.nodes.iter().map(|node| self.node(node)).collect());
        list("pods.json", self.pods.iter().map(pod).collect());
        list("persistentvolumes.json", self.volumes.iter().map(volume).collect());
        list("persistentvolumeclaims.json", self.volumes.iter().map(claim).collect());
        list("volumeattachments.json", self.attachments.iter().map(attachment).collect());
        let driver = json!({"name": DRIVER, "nodeID": "x", "allocatable": {"count": 28}});
        let csi = |node: &Node| json!({"metadata": {"name": node.name}, "spec": {"drivers": [driver]}});
        list("csinodes.json", self.nodes.iter().map(csi).collect());
        list("csidrivers.json", vec![json!({"metadata": {"name": DRIVER}, "spec": {"attachRequired": true}})]);
        list(
            "namespaces.json",
            vec![json!({"metadata": {"name": "kube-system", "uid": "c"}}), json!({"metadata": {"name": "a"}})],
        );
        let sets: BTreeMap<&str, usize> = self.pods.iter().fold(BTreeMap::new(), |mut sets, pod| {
            *sets.entry(pod.owner.as_str()).or_default() += 1;
            sets
        });
        let set = |(name, count): (&&str, &usize)| {
            json!({"metadata": {"name": name, "namespace": "a", "uid": name}, "spec": {"replicas": count,
                   "selector": {"matchLabels": {"app": name}}}, "status": {"readyReplicas": count, "replicas": count}})
        };
        list("statefulsets.json", sets.iter().map(set).collect());
        for empty in [
            "storageclasses",
            "csistoragecapacities",
            "poddisruptionbudgets",
            "deployments",
            "daemonsets",
            "replicasets",
            "jobs",
            "cronjobs",
            "priorityclasses",
            "services",
            "resourcequotas",
            "events",
            "nodemetrics",
            "leases",
        ] {
            list(&format!("{empty}.json"), Vec::new());
        }
        put("version.json", json!({"gitVersion": "v1.35.2"}));
        self.save_pve(&|name, data| put(&format!("pve/{name}.json"), json!({"data": data})));
    }

    fn save_pve(&self, put: &dyn Fn(&str, Value)) {
        put("version", json!({"version": "9.2.11"}));
        put(
            "cluster_status",
            json!([{"type": "cluster", "name": "lab", "quorate": 1}, {"type": "node", "name": "pve1", "online": 1}]),
        );
        put("nodes", json!([{"node": "pve1", "status": "online"}]));
        let row = |vm: &Vm, tags: &str| {
            json!({"type": "qemu", "vmid": vm.id, "name": vm.name, "node": "pve1", "status": power(vm), "cpus": 8,
                   "template": u8::from(vm.template), "maxmem": 16_u64 << 30, "tags": tags})
        };
        put("cluster_resources", self.vms.iter().map(|vm| row(vm, vm.stale_tags.as_ref().unwrap_or(&vm.tags))).collect());
        put("nodes_pve1_qemu", self.vms.iter().map(|vm| row(vm, &vm.tags)).collect());
        put("nodes_pve1_lxc", json!([]));
        put("nodes_pve1_tasks", json!([]));
        put("cluster_mapping_pci", json!([]));
        put("cluster_backup", json!([]));
        let managed = self.vms.iter().filter(|vm| vm.managed);
        put("cluster_ha_resources", managed.map(|vm| json!({"sid": format!("vm:{}", vm.id)})).collect());
        let copied = self.vms.iter().filter(|vm| vm.replicated);
        put("cluster_replication", copied.map(|vm| json!({"id": format!("{}-0", vm.id), "guest": vm.id})).collect());
        let memory = json!({"total": 512_u64 << 30, "used": 312_u64 << 30, "free": 200_u64 << 30, "available": 200_u64 << 30});
        put("nodes_pve1_status", json!({"memory": memory, "cpuinfo": {"cpus": 64}, "loadavg": ["1", "1", "1"]}));
        put(
            "nodes_pve1_disks_lvmthin",
            json!([{"vg": "pve", "lv": "data", "lv_size": 1_u64 << 40, "used": 1_u64 << 38,
                                              "metadata_size": 1_u64 << 34, "metadata_used": 1_u64 << 30}]),
        );
        put(
            "nodes_pve1_storage",
            json!([{"storage": STORE, "type": "lvmthin", "content": "images", "active": 1,
                                         "total": 1_u64 << 40, "used": 1_u64 << 38, "avail": 3_u64 << 38}]),
        );
        for vm in &self.vms {
            let name = |part: &str| format!("nodes_pve1_qemu_{}_{part}", vm.id);
            let mut config = json!({"name": vm.name, "memory": "16384", "cores": 8, "smbios1": format!("uuid={}", vm.uuid),
                                    "onboot": u8::from(vm.on_boot), "protection": u8::from(vm.protected), "tags": vm.tags,
                                    "template": u8::from(vm.template), "digest": format!("{:040x}", vm.edits),
                                    "ide2": format!("{STORE}:vm-{}-cloudinit,media=cdrom", vm.id)});
            config["lock"] = json!(vm.lock);
            let mut pending: Vec<Value> = Vec::new();
            for (slot, volume) in &vm.slots {
                config[slot] = json!(format!("{volume},size=8G"));
            }
            for (key, value) in config.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                pending.push(json!({"key": key, "value": value}));
            }
            let mut merged = config.clone();
            for (key, value) in &vm.pending {
                merged[key] = json!(value.as_ref().map(|volume| format!("{volume},size=8G")));
                pending.push(json!({"key": key, "pending": value}));
            }
            put(&name("config"), merged);
            if !vm.pending.is_empty() {
                put(&name("pending"), json!(pending));
            }
            put(&name("status_current"), json!({"vmid": vm.id, "status": power(vm), "ha": {"managed": u8::from(vm.managed)}}));
            let names = vm.snapshots.keys().map(|name| json!({"name": name})).chain([json!({"name": "current"})]);
            put(&name("snapshot"), names.collect());
            for (snapshot, disks) in &vm.snapshots {
                put(&name(&format!("snapshot_{snapshot}_config")), json!(disks));
            }
        }
    }

    fn node(&self, node: &Node) -> Value {
        let uuid = self.vms.iter().find(|vm| vm.id == node.machine).map_or("", |vm| vm.uuid.as_str());
        json!({"metadata": {"name": node.name, "uid": format!("uid-{}", node.name), "creationTimestamp": "2026-01-01T00:00:00Z",
                            "labels": {"kubernetes.io/hostname": node.name}},
               "spec": {"unschedulable": node.cordoned},
               "status": {"capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
                          "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
                          "nodeInfo": {"systemUUID": uuid, "kubeletVersion": "v1.35.2"},
                          "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    }
}

fn power(vm: &Vm) -> &'static str {
    if vm.running { "running" } else { "stopped" }
}

fn pod(pod: &Pod) -> Value {
    let volumes: Vec<Value> =
        pod.claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
    json!({"metadata": {"name": pod.name, "namespace": "a", "uid": format!("uid-{}", pod.name), "labels": {"app": pod.owner},
                        "ownerReferences": [{"kind": "StatefulSet", "name": pod.owner, "uid": pod.owner, "controller": true,
                                             "apiVersion": "apps/v1"}]},
           "spec": {"nodeName": pod.node, "volumes": volumes,
                    "containers": [{"name": "c", "image": "i", "resources": {"requests": {"memory": "256Mi", "cpu": "10m"}}}]},
           "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn volume(volume: &Volume) -> Value {
    json!({"metadata": {"name": volume.name},
           "spec": {"capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": "a", "name": volume.claim},
                    "csi": {"driver": volume.driver, "volumeHandle": format!("lab/pve1/{}", volume.disk.replace(':', "/"))}},
           "status": {"phase": "Bound"}})
}

fn claim(volume: &Volume) -> Value {
    json!({"metadata": {"name": volume.claim, "namespace": "a"},
           "spec": {"volumeName": volume.name, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}},
           "status": {"phase": "Bound"}})
}

fn attachment(one: &Attachment) -> Value {
    json!({"metadata": {"name": one.name},
           "spec": {"attacher": one.attacher, "nodeName": one.node, "source": {"persistentVolumeName": one.volume}},
           "status": {"attached": true}})
}
