//! The steps that make a worker: clone, set, boot with a credential of its own, prove, tidy up.

use std::time::{Duration, Instant};

use capplan_model::Snapshot;
use capplan_model::ids::NodeName;
use capplan_model::kube::{Pod, VolumeAttachment};
use capplan_model::plan::{GuestRef, Step, StepAction, WorkerSpec};
use capplan_model::policy::{Distribution, Seed};
use capplan_model::pve::{Guest, OWN_TAG, SPARE_TAG};
use capplan_model::run::RunState;
use capplan_model::volumes::{disk_name, is_called_after};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Executor, Halt, PAUSE, Told, guest_of, rest, starts};
use crate::check::skewed;
use crate::join::{ClusterInfo, Facts, SeedParts, Token, doubts, image, reset_data, seed_volume, spare_volume, user_data};
use crate::kube::KubeError;
use crate::lease::since_renewal;
use crate::pve::{MARK, Writer};
use crate::secret::Secret;
use crate::store::journal::Journal;

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
/// Lease of the controller manager, whose bootstrap-signer signs `cluster-info`.
///
/// # Source
/// `--leader-elect-resource-name` and `-namespace` of kube-controller-manager, with kubeadm's defaults.
const SIGNER_LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager";
/// Seconds without a renewal after which a controller manager counts as silent.
///
/// # Source
/// `--leader-elect-lease-duration` of kube-controller-manager: 15 s; twice that.
const SIGNER_SILENCE: i64 = 30;
/// How long the token signer and a probe's clean-up may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at one object.
const LOOK: Duration = Duration::from_millis(500);
/// Part of the name of the image that registers the storage plugin with a kubelet.
///
/// # Source
/// `ghcr.io/sergelogvinov/proxmox-csi-node` of the plugin's chart.
const PLUGIN_IMAGE: &str = "proxmox-csi-node";
/// A drive without a medium.
const EMPTY: &str = "none,media=cdrom";
/// Size of the volume that a new worker is tried with: the least that every storage makes.
const PROBE_SIZE: &str = "1Gi";

impl Executor<'_> {
    fn spec(&self, worker: &NodeName) -> Result<&WorkerSpec, Halt> {
        self.plan.worker(worker).ok_or_else(|| Halt::Surprise(format!("{worker} is none of the plan's workers")))
    }

    /// Clones the template under the worker's name, with the plan's id in its description.
    pub(super) async fn clone_guest(
        &self,
        step: &Step,
        template: &GuestRef,
        worker: &NodeName,
        journal: &mut Journal,
        begun: Instant,
    ) -> Result<(), Halt> {
        let spec = self.spec(worker)?;
        let (writer, host) = self.world.pve(&template.host)?;
        let (vmid, description) = (spec.vmid.to_string(), format!("Kubernetes worker, {MARK}{}", self.plan.id));
        let mut form = vec![("newid", vmid.as_str()), ("name", worker.as_str()), ("full", "1"), ("description", &description)];
        form.extend(spec.storage.as_deref().map(|storage| ("storage", storage)));
        form.extend(spec.pool.as_deref().map(|pool| ("pool", pool)));
        starts(step, journal)?;
        let upid = writer.clone(&host, template.vmid, &form).await?;
        self.submitted(step, &template.host, upid, journal, begun).await
    }

    /// A clone whose task is over and that is locked all the same was cut short: a host that went down, say.
    pub(super) async fn is_whole(&self, worker: &NodeName) -> Result<(), Halt> {
        let spec = self.spec(worker)?;
        let seen = self.observe().await?;
        if seen.guest_at(&spec.host, spec.vmid).is_some_and(|guest| guest.lock.as_deref() == Some("clone")) {
            let (vmid, host) = (spec.vmid, &spec.host);
            let way = format!("`qm unlock {vmid}; qm destroy {vmid}` on {host}, then go on");
            return Err(Halt::Stopped(format!("the clone of VM {vmid} was cut short: {way}")));
        }
        Ok(())
    }

    /// Gives a stopped VM the memory, cores and network of the plan. The file's digest guards what others change.
    pub(super) async fn set_guest(
        &self,
        step: &Step,
        worker: &NodeName,
        guest: &Guest,
        journal: &mut Journal,
        begun: Instant,
    ) -> Result<(), Halt> {
        let spec = self.spec(worker)?;
        let (writer, host) = self.world.pve(&guest.host)?;
        let config = guest.config.known().ok_or_else(|| Halt::Passing("its configuration was not read".to_owned()))?;
        let form = settings(spec, guest);
        let mut form: Vec<(&str, &str)> = form.iter().map(|(key, value)| (*key, value.as_str())).collect();
        form.extend(config.digest.as_deref().map(|digest| ("digest", digest)));
        starts(step, journal)?;
        let upid = writer.configure(&host, guest.vmid, &form).await?;
        self.submitted(step, &guest.host, upid, journal, begun).await
    }

    /// Makes the credential, hands it over in an image, and starts the VM. Whatever an earlier attempt made is
    /// taken away first: its secret is known to nobody any more.
    pub(super) async fn boot(&self, step: &Step, seen: &Snapshot, journal: &mut Journal, begun: Instant) -> Result<(), Halt> {
        let StepAction::BootWorker { guest, worker } = &step.change else { return Ok(()) };
        let there = guest_of(guest, seen)?;
        let spec = self.spec(worker)?;
        let (writer, host) = self.world.pve(&guest.host)?;
        starts(step, journal)?;
        if spec.join.seed == Seed::Iso {
            // An upload of an earlier attempt that comes late would replace the new image.
            while let Some(upid) = writer.at_work(&host, None, "imgcopy").await? {
                if begun.elapsed() >= Duration::from_secs(step.deadline_seconds) {
                    return Err(Halt::Stopped(format!("an upload on {} does not end: {upid}", guest.host)));
                }
                // Another's may fail: that is not our affair.
                drop(self.follow(step, &guest.host, &upid, begun).await);
            }
            self.delete_image(step, guest, &seed_volume(&self.plan.id, spec), begun).await?;
            let credential = self.credential(spec).await?;
            let parts = SeedParts {
                user: self.user_data(spec, &credential).await?,
                // A new one makes cloud-init take a machine that ran before for a new one.
                meta: meta_data(&format!("capplan-{}-{}", Token::id(&self.plan.id, worker), guest.vmid), guest),
                vendor: Some(writer.cloud_init(&host, guest.vmid, "user").await?),
                network: network(writer, &host, guest).await?,
            };
            let volume = seed_volume(&self.plan.id, spec);
            let volume = self.upload(step, guest, &volume, &parts, journal, begun).await?;
            let slot = drive(spec);
            // Another tag says that it is off and resets itself.
            let tags = tags_but(there, SPARE_TAG).join(";");
            let tagged = if tags.is_empty() { ("delete", "tags") } else { ("tags", tags.as_str()) };
            let mut form = vec![(slot, volume.as_str())];
            form.extend((!there.tags.is_empty()).then_some(tagged));
            // Two volumes called cidata are one too many, and one whose image is gone keeps a VM from starting.
            let disks = there.config.known().into_iter().flat_map(|config| &config.disks);
            let ours = disks.filter(|(other, disk)| *other != slot && disk.volume.contains(":iso/capplan-"));
            form.extend(ours.map(|(other, _)| (other.as_str(), EMPTY)));
            let upid = writer.configure(&host, guest.vmid, &form).await?;
            self.submitted(step, &guest.host, upid, journal, begun).await?;
            // The image that reset it is in no drive any more.
            self.delete_image(step, guest, &spare_volume(&spec.join.storage, guest.vmid), begun).await?;
        }
        self.look_closer(step, seen, journal).await?;
        let upid = writer.start(&host, guest.vmid).await?;
        self.submitted(step, &guest.host, upid, journal, begun).await
    }

    /// Looks at what a worker needs to join before anything is done: credential, template, storage, snippet, and
    /// the namespace of its probe.
    ///
    /// # Errors
    /// What is missing, and the way out.
    pub async fn preflight(&self, seen: &Snapshot) -> Result<(), String> {
        for step in &self.plan.steps {
            let looked = match &step.change {
                StepAction::CloneGuest { template, .. } => self.can_clone(template, seen).await,
                StepAction::BootWorker { worker, .. } => self.can_boot(step, worker, seen).await,
                StepAction::Probe { worker, .. } => self.can_probe(worker, seen),
                StepAction::Cordon { .. }
                | StepAction::Uncordon { .. }
                | StepAction::Evict { .. }
                | StepAction::SetGuest { .. }
                | StepAction::GrowDisk { .. }
                | StepAction::DropSeed { .. }
                | StepAction::StartWithHost { .. }
                | StepAction::Register { .. }
                | StepAction::DeleteNode { .. }
                | StepAction::ShutDownGuest { .. }
                | StepAction::KeepGuestOff { .. }
                | StepAction::DestroyGuest { .. }
                | StepAction::DisarmGuest { .. }
                | StepAction::Label { .. }
                | StepAction::UnplugGhost { .. }
                | StepAction::Wait
                | StepAction::Manual { .. } => Ok(()),
            };
            looked.map_err(Halt::words)?;
        }
        Ok(())
    }

    /// A full clone on the disks that a backup reads slows both down for hours; one without a cloud-init drive
    /// never learns its name.
    async fn can_clone(&self, template: &GuestRef, seen: &Snapshot) -> Result<(), Halt> {
        let host = &template.host;
        let drive = template.find(seen).and_then(|guest| guest.config.known()?.cloud_init_slot());
        if drive.is_none() {
            let way = format!("`qm set {} --ide2 STORAGE:cloudinit`", template.vmid);
            return Err(Halt::Stopped(format!("{template} has no cloud-init drive: {way} gives it one")));
        }
        let (writer, plain) = self.world.pve(host)?;
        match writer.at_work(&plain, None, "vzdump").await? {
            Some(_) => Err(Halt::Stopped(format!("a backup runs on {host}: wait until it is done"))),
            None => Ok(()),
        }
    }

    async fn can_boot(&self, step: &Step, worker: &NodeName, seen: &Snapshot) -> Result<(), Halt> {
        let spec = self.spec(worker)?;
        let no = |why: String| Err(Halt::Stopped(why));
        if let Some(why) = seen.kube.version.known().and_then(|server| skewed(&spec.kubelet_version, server)) {
            return no(format!("{} is what {worker} is like: {why}", spec.like));
        }
        if spec.join.seed == Seed::Vendor {
            let missing = "join.seed is `vendor`, and join.snippet names none: `local:snippets/FILE`";
            return if spec.join.snippet.is_some() { Ok(()) } else { no(missing.to_owned()) };
        }
        let host = seen.hosts().find(|host| host.name == spec.host);
        let storage = host.and_then(|host| host.storages.items().iter().find(|one| one.name == spec.join.storage));
        if !storage.is_some_and(|one| one.active && one.content.iter().any(|kind| kind == "iso")) {
            let name = &spec.join.storage;
            return no(format!("{} has no storage {name} that holds ISO images: name another one as join.storage", spec.host));
        }
        // As it will be rendered, with a token that nobody knows.
        let credential = match (spec.join.distribution.has_tokens(), &self.given.credential) {
            (true, _) => Secret::new("abcdef.0123456789abcdef"),
            (false, Some(given)) => given.clone(),
            (false, None) => return no("CAPPLAN_JOIN_CREDENTIAL is not set: what this distribution joins with".to_owned()),
        };
        let data = self.user_data(spec, &credential).await?;
        let mut doubts: Vec<String> = doubts(&data).into_iter().map(str::to_owned).collect();
        doubts.extend(self.other_address(spec).await?);
        doubts.extend(remains(spec.join.distribution).map(str::to_owned));
        for text in doubts {
            (self.tell)(&Told::Note { step: step.number, text });
        }
        Ok(())
    }

    /// A policy whose `[join] server` is not the address that the cluster hands to its nodes.
    async fn other_address(&self, spec: &WorkerSpec) -> Result<Option<String>, Halt> {
        let Some(ours) = &spec.join.server else { return Ok(None) };
        let own = self.own_address(spec).await?.map(|info| info.server);
        let differs = own.filter(|own| own.trim_end_matches('/') != ours.trim_end_matches('/'));
        Ok(differs
            .map(|own| format!("join.server of the policy is {ours}, and the cluster says {own}: the worker joins by the first")))
    }

    fn can_probe(&self, worker: &NodeName, seen: &Snapshot) -> Result<(), Halt> {
        let probe = &self.spec(worker)?.join.probe;
        if seen.kube.namespaces.items().iter().any(|one| one.name == probe.namespace) {
            return Ok(());
        }
        let roles = "`capplan doctor --print-roles --apply` prints it";
        Err(Halt::Stopped(format!("there is no namespace {} for the pod that a new worker has to run: {roles}", probe.namespace)))
    }

    /// Uploads the image that a machine is to boot with; what its drive is set to then.
    async fn upload(
        &self,
        step: &Step,
        guest: &GuestRef,
        volume: &str,
        parts: &SeedParts,
        journal: &mut Journal,
        begun: Instant,
    ) -> Result<String, Halt> {
        let (writer, host) = self.world.pve(&guest.host)?;
        let image = image(parts).map_err(|error| Halt::Stopped(format!("the image cannot be written: {error}")))?;
        let (storage, file) = volume.split_once(":iso/").unwrap_or_default();
        let upid = writer.upload(&host, storage, file, image).await?;
        self.submitted(step, &guest.host, upid, journal, begun).await?;
        Ok(format!("{volume},media=cdrom"))
    }

    /// Gives a worker that is off an image that resets it whenever it is started, and a tag that says so.
    pub(super) async fn disarm(&self, step: &Step, there: &Guest, journal: &mut Journal, begun: Instant) -> Result<(), Halt> {
        let StepAction::DisarmGuest { guest, slot, join } = &step.change else { return Ok(()) };
        let (writer, host) = self.world.pve(&guest.host)?;
        starts(step, journal)?;
        let worker = NodeName(guest.name.clone());
        let instance = format!("capplan-spare-{}-{}", Token::id(&self.plan.id, &worker), guest.vmid);
        // It needs neither users nor keys, and its image stays. It keeps its address: the network is set up before it is
        // reset.
        let parts = SeedParts {
            user: reset_data(join.distribution).to_owned(),
            meta: meta_data(&instance, guest),
            vendor: None,
            network: network(writer, &host, guest).await?,
        };
        let volume = spare_volume(&join.storage, guest.vmid);
        let drive = self.upload(step, guest, &volume, &parts, journal, begun).await?;
        let mut tags = tags_but(there, SPARE_TAG);
        tags.push(SPARE_TAG);
        let upid = writer.configure(&host, guest.vmid, &[(slot, &drive), ("tags", &tags.join(";"))]).await?;
        self.submitted(step, &guest.host, upid, journal, begun).await
    }

    async fn credential(&self, spec: &WorkerSpec) -> Result<Secret, Halt> {
        let kube = &self.world.kube;
        if !spec.join.distribution.has_tokens() {
            let given = self.given.credential.clone();
            return given.ok_or_else(|| Halt::Stopped("CAPPLAN_JOIN_CREDENTIAL is not set".to_owned()));
        }
        self.delete_token(spec).await?;
        let key = format!("jws-kubeconfig-{}", Token::id(&self.plan.id, &spec.name));
        let signed = || async {
            let info = kube.read(CLUSTER_INFO).await?;
            Ok(info.is_some_and(|info| info["data"][&key].is_string()))
        };
        let is_signed = spec.join.distribution == Distribution::Kubeadm;
        if is_signed {
            // A signature that an earlier secret made would not fit the new one.
            let gone = || async { Ok(!signed().await?) };
            let waited = self.until("an earlier signature is gone from cluster-info", PATIENCE, gone).await;
            self.or_why_unsigned(waited).await?;
        }
        let token = Token::make(&self.plan.id, &spec.name).map_err(|error| Halt::Stopped(error.to_string()))?;
        let until = Timestamp::now() + SignedDuration::from_mins(i64::from(spec.join.token_minutes));
        let object = token.object(&spec.name, spec.join.distribution, until);
        kube.create(SECRETS, &object).await?;
        if is_signed {
            // A machine that boots before cluster-info is signed with its token waits, or gives up.
            let waited = self.until("cluster-info is signed with the token", PATIENCE, signed).await;
            self.or_why_unsigned(waited).await?;
        }
        Ok(token.full)
    }

    /// Adds to a wait for the signer that was in vain whether the signer is alive at all.
    async fn or_why_unsigned(&self, waited: Result<(), Halt>) -> Result<(), Halt> {
        let Err(Halt::Stopped(why)) = waited else { return waited };
        let signer = match self.world.kube.read(SIGNER_LEASE).await {
            Err(error) => format!("whether kube-controller-manager, which signs it, is alive is unknown: {error}"),
            Ok(None) => "kube-controller-manager, which signs it, has no Lease in kube-system".to_owned(),
            Ok(Some(lease)) => match since_renewal(&lease) {
                None => "kube-controller-manager, which signs it, has given its Lease back: none is at work".to_owned(),
                Some(age) if age > SIGNER_SILENCE => {
                    format!("kube-controller-manager, which signs it, has renewed its Lease for {age} s no more")
                }
                Some(_) => {
                    "kube-controller-manager renews its Lease, so its bootstrap-signer is off or fails: see its log".to_owned()
                }
            },
        };
        Err(Halt::Stopped(format!("{why}; {signer}")))
    }

    async fn user_data(&self, spec: &WorkerSpec, credential: &Secret) -> Result<String, Halt> {
        let cluster = self.cluster_info(spec).await?;
        let facts = Facts { spec, cluster: cluster.as_ref(), credential };
        user_data(&facts, self.given.template.as_deref()).map_err(|error| Halt::Stopped(error.to_string()))
    }

    async fn cluster_info(&self, spec: &WorkerSpec) -> Result<Option<ClusterInfo>, Halt> {
        let mut info = self.own_address(spec).await?;
        if let (Some(info), Some(server)) = (&mut info, &spec.join.server) {
            info.server.clone_from(server);
        }
        Ok(info)
    }

    /// What the cluster itself says of its address and authority; microk8s says nothing.
    async fn own_address(&self, spec: &WorkerSpec) -> Result<Option<ClusterInfo>, Halt> {
        let kube = &self.world.kube;
        let stopped = |why: String| Halt::Stopped(why);
        let info = match spec.join.distribution {
            Distribution::Microk8s => return Ok(None),
            Distribution::Kubeadm => {
                let found = kube.read(CLUSTER_INFO).await?;
                let text = found.as_ref().and_then(|one| one["data"]["kubeconfig"].as_str());
                let text = text.ok_or_else(|| stopped("there is no cluster-info in kube-public: is this kubeadm?".to_owned()))?;
                ClusterInfo::read(text).map_err(|error| stopped(error.to_string()))?
            }
            Distribution::K3s | Distribution::K3sServer => {
                let authority = kube.reader().get("/cacerts").await?;
                let authority = String::from_utf8(authority).map_err(|error| stopped(format!("/cacerts: {error}")))?;
                ClusterInfo { server: kube.reader().server().trim_end_matches('/').to_owned(), authority }
            }
        };
        Ok(Some(info))
    }

    /// Waits until the storage plugin is registered. It reads the node's label only then: if it was earlier than the
    /// label, its pod is evicted, and the next one reads it.
    pub(super) async fn register(
        &self,
        step: &Step,
        node: &NodeName,
        slots: Option<u64>,
        journal: &mut Journal,
    ) -> Result<(), Halt> {
        starts(step, journal)?;
        let begun = Instant::now();
        loop {
            let seen = self.observe().await?;
            let csi = seen.kube.csi_nodes.items().iter().find(|one| one.name == *node);
            let driver = csi.and_then(|one| one.drivers.iter().find(|driver| driver.name == self.driver));
            match driver {
                Some(driver) if slots.is_none() || driver.count == slots => return Ok(()),
                Some(driver) => {
                    let is_plugin = |pod: &&Pod| {
                        pod.node.as_ref() == Some(node)
                            && pod.is_daemon()
                            && pod.images.iter().any(|image| image.contains(PLUGIN_IMAGE))
                    };
                    let count = driver.count.map_or_else(|| "no limit".to_owned(), |count| count.to_string());
                    let mut text = format!("{node} advertises {count} volumes");
                    if let Some(pod) = seen.kube.pods.items().iter().find(is_plugin) {
                        text.push_str(": its storage plugin registered before the label, and starts once more");
                        drop(self.world.kube.evict(&pod.namespace, &pod.name, &pod.uid).await?);
                    }
                    (self.tell)(&Told::Note { step: step.number, text });
                    return Ok(());
                }
                None if begun.elapsed() >= Duration::from_secs(step.deadline_seconds) => return Ok(()),
                None => tokio::time::sleep(PAUSE.0 * 4).await,
            }
        }
    }

    /// Deletes the credential and the image, and empties the drive, in this order: the step is done once that is.
    pub(super) async fn drop_seed(
        &self,
        step: &Step,
        guest: &GuestRef,
        worker: &NodeName,
        journal: &mut Journal,
        begun: Instant,
    ) -> Result<(), Halt> {
        let spec = self.spec(worker)?;
        let (writer, host) = self.world.pve(&guest.host)?;
        starts(step, journal)?;
        self.delete_token(spec).await?;
        self.delete_image(step, guest, &seed_volume(&self.plan.id, spec), begun).await?;
        let upid = writer.configure(&host, guest.vmid, &[(drive(spec), EMPTY)]).await?;
        self.submitted(step, &guest.host, upid, journal, begun).await
    }

    async fn delete_token(&self, spec: &WorkerSpec) -> Result<(), KubeError> {
        if spec.join.distribution.has_tokens() {
            let name = Token::name(&Token::id(&self.plan.id, &spec.name));
            self.world.kube.remove(&format!("{SECRETS}/{name}")).await?;
        }
        Ok(())
    }

    /// Deletes an image if it is there.
    async fn delete_image(&self, step: &Step, guest: &GuestRef, volume: &str, begun: Instant) -> Result<(), Halt> {
        let (writer, host) = self.world.pve(&guest.host)?;
        let storage = volume.split(':').next().unwrap_or_default();
        if writer.images(&host, storage).await?.iter().any(|one| one == volume) {
            let upid = writer.delete_file(&host, volume).await?;
            self.follow(step, &guest.host, &upid, begun).await?;
        }
        Ok(())
    }

    /// Takes away what a run that is given up must not leave: credentials, images, the pod of a probe. Each
    /// line says what could not be.
    pub(super) async fn tidy(&self, run: &RunState) -> Vec<String> {
        let mut left = Vec::new();
        for step in self.plan.steps.iter().filter(|step| run.step(step.number).started) {
            let (mut answer, mut what) = (Ok(()), String::new());
            if let StepAction::BootWorker { guest, worker } = &step.change {
                answer = self.tidy_seed(step, guest, worker).await;
                let token = Token::name(&Token::id(&self.plan.id, worker));
                let volume = self.spec(worker).map(|spec| seed_volume(&self.plan.id, spec)).unwrap_or_default();
                what = format!("Secret kube-system/{token} and image {volume}");
            } else if let StepAction::Probe { worker, .. } = &step.change
                && !run.step(step.number).ensured
            {
                answer = self.tidy_probe(worker, PATIENCE).await;
                what = format!("pod and claim capplan-probe-{worker}");
            }
            if let Err(why) = answer.map_err(Halt::words) {
                left.push(format!("{what} may still be there: {why}"));
            }
        }
        left
    }

    /// Takes a credential that lives on out of the images of a run that stops: nobody knows when it is gone on with.
    pub async fn withdraw(&self, run: &RunState) {
        for step in self.plan.steps.iter().filter(|step| run.step(step.number).started) {
            let StepAction::BootWorker { guest, worker } = &step.change else { continue };
            let is_dropped = self.plan.steps.iter().any(|step| {
                matches!(&step.change, StepAction::DropSeed { worker: other, .. } if other == worker)
                    && run.step(step.number).ensured
            });
            let lives_on =
                self.spec(worker).is_ok_and(|spec| !spec.join.distribution.has_tokens() && spec.join.seed == Seed::Iso);
            if is_dropped || !lives_on {
                continue;
            }
            let text = match self.tidy_seed(step, guest, worker).await {
                Ok(()) => format!(
                    "the image with CAPPLAN_JOIN_CREDENTIAL is deleted; if {worker} has not read it yet, it cannot join: \
                     give the run up and add a worker anew"
                ),
                Err(why) => format!("the image with CAPPLAN_JOIN_CREDENTIAL may still be there: {}", why.words()),
            };
            (self.tell)(&Told::Note { step: step.number, text });
        }
    }

    async fn tidy_seed(&self, step: &Step, guest: &GuestRef, worker: &NodeName) -> Result<(), Halt> {
        let spec = self.spec(worker)?;
        self.delete_token(spec).await?;
        if spec.join.seed == Seed::Vendor {
            return Ok(());
        }
        let volume = seed_volume(&self.plan.id, spec);
        self.delete_image(step, guest, &volume, Instant::now()).await?;
        // A VM whose configuration names an image that is gone does not start any more.
        let seen = self.observe().await?;
        let there = seen.guest_at(&guest.host, guest.vmid).and_then(|one| one.config.known());
        let slot = drive(spec);
        if there.is_some_and(|config| config.disks.get(slot).is_some_and(|disk| disk.volume == volume)) {
            let (writer, host) = self.world.pve(&guest.host)?;
            let upid = writer.configure(&host, guest.vmid, &[(slot, EMPTY)]).await?;
            self.follow(step, &guest.host, &upid, Instant::now()).await?;
        }
        Ok(())
    }

    /// Runs a pod with a volume on the worker, looks whether the volume is in its VM, and removes both.
    pub(super) async fn probe(&self, step: &Step, journal: &mut Journal, begun: Instant) -> Result<(), Halt> {
        let StepAction::Probe { guest, worker, class } = &step.change else { return Ok(()) };
        let spec = self.spec(worker)?;
        starts(step, journal)?;
        // A detach that does not come to its end is for a human to look at, not for a longer wait.
        let patience = PATIENCE.min(Duration::from_secs(step.deadline_seconds));
        self.tidy_probe(worker, patience).await?;
        let (pods, claims, name) = probe_paths(spec);
        let kube = &self.world.kube;
        kube.create(&claims, &claim(&name, class)).await?;
        kube.create(&pods, &pod(&name, spec)).await?;
        let proven = self.proven(step, guest, spec, begun).await;
        let tidied = self.tidy_probe(worker, patience).await;
        proven.and(tidied)
    }

    async fn proven(&self, step: &Step, guest: &GuestRef, spec: &WorkerSpec, begun: Instant) -> Result<(), Halt> {
        let (pods, claims, name) = probe_paths(spec);
        let kube = &self.world.kube;
        let deadline = Duration::from_secs(step.deadline_seconds);
        let (mut pause, mut last) = (PAUSE.0, String::new());
        loop {
            let claim = kube.read(&format!("{claims}/{name}")).await?.unwrap_or_default();
            let pod = kube.read(&format!("{pods}/{name}")).await?.unwrap_or_default();
            let volume = claim["spec"]["volumeName"].as_str().unwrap_or_default().to_owned();
            let runs = pod["status"]["phase"] == "Running";
            let why = if volume.is_empty() {
                format!("the claim {name} has no volume")
            } else {
                let seen = self.observe().await?;
                let known = seen.volumes_of(self.driver);
                let volid = known.iter().find(|(one, _)| one.as_str() == volume).and_then(|(_, volid)| volid.clone());
                let plugged = seen
                    .guest_at(&guest.host, guest.vmid)
                    .and_then(|one| one.config.known())
                    .is_some_and(|config| config.disks.values().any(|disk| Some(&disk.volume) == volid.as_ref()));
                let error = attachment(&seen, &volume).and_then(|one| one.attach_error.clone());
                match (runs, plugged) {
                    (true, true) => return Ok(()),
                    (_, true) => format!("the volume is in {guest}, its pod does not run yet"),
                    (_, false) => error.unwrap_or_else(|| format!("{volume} is not in {guest}")),
                }
            };
            if begun.elapsed() >= deadline {
                let seconds = deadline.as_secs();
                return Err(Halt::Stopped(format!("no volume could be used on {} within {seconds} s: {why}", spec.name)));
            }
            if why != last {
                (self.tell)(&Told::Waiting { step: step.number, why: why.clone(), seconds: begun.elapsed().as_secs() });
                last = why;
            }
            rest(&mut pause).await;
        }
    }

    /// Removes what a probe made, and waits until its volume is out of every VM.
    async fn tidy_probe(&self, worker: &NodeName, patience: Duration) -> Result<(), Halt> {
        let spec = self.spec(worker)?;
        let (pods, claims, name) = probe_paths(spec);
        let kube = &self.world.kube;
        let claim = kube.read(&format!("{claims}/{name}")).await?;
        kube.remove(&format!("{pods}/{name}")).await?;
        self.until("the probe's pod is gone", patience, || async { Ok(kube.read(&format!("{pods}/{name}")).await?.is_none()) })
            .await?;
        let volume = claim.as_ref().and_then(|claim| claim["spec"]["volumeName"].as_str()).unwrap_or_default().to_owned();
        if !volume.is_empty() {
            self.until("the probe's volume is out of the configuration of every VM", patience, || async {
                let seen = self.observe().await?;
                Ok(attachment(&seen, &volume).is_none() && !is_plugged(&seen, &volume)?)
            })
            .await?;
        }
        kube.remove(&format!("{claims}/{name}")).await?;
        self.until("the probe's claim is gone", patience, || async {
            Ok(kube.read(&format!("{claims}/{name}")).await?.is_none())
        })
        .await?;
        if volume.is_empty() {
            return Ok(());
        }
        self.until("the probe's volume is deleted", patience, || async {
            let seen = self.observe().await?;
            let mut all = seen.kube.persistent_volumes.items().iter();
            // One that is retained is for whoever chose that class.
            Ok(!all.any(|one| one.name.as_str() == volume && one.reclaim_policy == "Delete"))
        })
        .await
    }

    /// Looks until something holds, for a while.
    async fn until<F>(&self, what: &str, patience: Duration, holds: impl Fn() -> F) -> Result<(), Halt>
    where
        F: Future<Output = Result<bool, Halt>>,
    {
        let begun = Instant::now();
        while !holds().await? {
            if begun.elapsed() >= patience {
                return Err(Halt::Stopped(format!("not within {} s: {what}", patience.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// The drive that a worker's seed is put into.
fn drive(spec: &WorkerSpec) -> &str {
    spec.seed_slot.as_deref().unwrap_or("ide2")
}

/// The network configuration that Proxmox VE would give a VM. Without an address it says nothing of the network, and
/// cloud-init asks DHCP.
async fn network(writer: &Writer, host: &str, guest: &GuestRef) -> Result<Option<String>, Halt> {
    let text = writer.cloud_init(host, guest.vmid, "network").await?;
    Ok(Some(text).filter(|text| text.contains("type: physical")))
}

/// What stays on a worker of the credential that it joined with, for a user who gave one that lives on.
fn remains(distribution: Distribution) -> Option<&'static str> {
    match distribution {
        Distribution::Kubeadm | Distribution::K3s => None,
        Distribution::K3sServer => {
            Some("the server's token stays in /etc/rancher/k3s/server-token on the worker: k3s reads it at each start")
        }
        Distribution::Microk8s => Some(
            "the URL that the worker joins with stays in /var/snap/microk8s/common/.microk8s.yaml on it: let it expire \
             (`microk8s add-node --token-ttl`)",
        ),
    }
}

fn meta_data(instance: &str, guest: &GuestRef) -> String {
    format!("instance-id: {instance}\nlocal-hostname: {}\n", guest.name)
}

/// The tags of a guest without this one.
fn tags_but<'g>(guest: &'g Guest, without: &str) -> Vec<&'g str> {
    guest.tags.iter().map(String::as_str).filter(|tag| *tag != without).collect()
}

/// Whether the disk of a volume is in the configuration in force of some VM: a detach that waits for a restart, or that
/// failed, has not taken it out, whatever became of its VolumeAttachment.
fn is_plugged(seen: &Snapshot, volume: &str) -> Result<bool, Halt> {
    let unread = |why: &str| Halt::Passing(format!("whether {volume} is detached: {why}"));
    if let Some(why) = seen.kube.persistent_volumes.why().or(seen.guests_known().why()) {
        return Err(unread(why));
    }
    let found = seen.kube.persistent_volumes.items().iter().find(|one| one.name.as_str() == volume);
    let disk = found.and_then(|one| one.handle.as_ref()).map(|handle| disk_name(handle.as_str()));
    for guest in seen.guests() {
        let config = guest.config.known().ok_or_else(|| unread(guest.config.why().unwrap_or_default()))?;
        // Without its PersistentVolume the disk is known by its name.
        let is_it = |held: &str| disk.map_or_else(|| is_called_after(held, volume), |disk| disk_name(held) == disk);
        if config.disks.values().any(|held| is_it(&held.volume)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What attaches a volume.
fn attachment<'s>(seen: &'s Snapshot, volume: &str) -> Option<&'s VolumeAttachment> {
    let mut all = seen.kube.volume_attachments.items().iter();
    all.find(|one| one.volume.as_ref().is_some_and(|one| one.as_str() == volume))
}

/// What is set of a clone, by key.
fn settings(spec: &WorkerSpec, guest: &Guest) -> Vec<(&'static str, String)> {
    let config = guest.config.known();
    let mut form = vec![
        ("memory", (spec.memory.0 >> 20).to_string()),
        ("cores", spec.cores.to_string()),
        ("sockets", "1".to_owned()),
        // What a node promises must be there.
        ("balloon", "0".to_owned()),
        // Not before it has joined: one that is left half made must not start with its host.
        ("onboot", "0".to_owned()),
    ];
    if config.is_some_and(|config| config.made_by.is_some()) {
        // Only what capplan made may it destroy; a spare of somebody else's stays theirs.
        let mut tags = tags_but(guest, OWN_TAG);
        tags.push(OWN_TAG);
        form.push(("tags", tags.join(";")));
    }
    if let Some(address) = &spec.address {
        let gateway = spec.gateway.as_ref().map(|gateway| format!(",gw={gateway}")).unwrap_or_default();
        form.push(("ipconfig0", format!("ip={address}{gateway}")));
    }
    form.extend(spec.nameserver.clone().map(|value| ("nameserver", value)));
    form.extend(spec.searchdomain.clone().map(|value| ("searchdomain", value)));
    form.extend(spec.join.startup.clone().map(|value| ("startup", value)));
    if let Some(network) = &spec.network {
        // Its own model and MAC address, which the clone made new.
        let own = config.and_then(|config| config.net0.as_deref()).and_then(|net| net.split(',').next()).unwrap_or("virtio");
        form.push(("net0", format!("{own},{network}")));
    }
    if let (Seed::Vendor, Some(snippet)) = (spec.join.seed, &spec.join.snippet) {
        form.push(("cicustom", format!("vendor={snippet}")));
    }
    form
}

/// Where the pod and the claim of a probe are, and what both are called.
fn probe_paths(spec: &WorkerSpec) -> (String, String, String) {
    let base = format!("/api/v1/namespaces/{}", spec.join.probe.namespace);
    (format!("{base}/pods"), format!("{base}/persistentvolumeclaims"), format!("capplan-probe-{}", spec.name))
}

fn claim(name: &str, class: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": { "requests": { "storage": PROBE_SIZE } },
        },
    })
}

/// A pod that does nothing, as the restricted Pod Security Standard asks, and that only this node runs.
fn pod(name: &str, spec: &WorkerSpec) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": spec.name },
            "tolerations": [{ "operator": "Exists" }],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65534, "fsGroup": 65534, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "probe", "image": spec.join.probe.image,
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                "volumeMounts": [{ "name": "volume", "mountPath": "/volume" }],
                "resources": { "requests": { "cpu": "1m", "memory": "8Mi" }, "limits": { "memory": "32Mi" } },
            }],
            "volumes": [{ "name": "volume", "persistentVolumeClaim": { "claimName": name } }],
        },
    })
}
