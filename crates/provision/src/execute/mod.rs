//! Carries a plan out, step by step: nothing is chosen here, nothing is done before its line is on disk, and
//! nothing counts as done before it was read back.
//!
//! What is not here: whether what is left of a plan is still a good idea. That is asked of the caller before
//! each eviction, with a fresh reading.

mod newcomer;

use std::time::{Duration, Instant};

use capplan_model::Snapshot;
use capplan_model::ids::{HostName, NodeName};
use capplan_model::plan::{Condition, GuestRef, Plan, Step, StepAction};
use capplan_model::pve::Guest;
use capplan_model::run::{Event, RunState, StepState};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::check::{Against, Verdict, check, newest, owned, serving};
use crate::join::Given;
use crate::kube::{Evicted, KubeError};
use crate::observe::causes;
use crate::pve::{PveError, TaskState};
use crate::store::journal::{Journal, JournalError};
use crate::world::{RouteError, World};

/// Pause between two looks while an effect is waited for: short at first, as most come at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Pauses before a step is looked at again that an API's answer got in the way of.
const PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(30)];
/// Pause after the eviction API said "not now".
///
/// # Source
/// `kubectl drain` waits 5 s after a 429 (`pkg/drain/drain.go`).
const EVICTION_PAUSE: Duration = Duration::from_secs(5);
/// What PVE answers for a log without a line.
const NO_LOG: &str = "no content";
/// Between the two readings that make a ghost.
///
/// # Source
/// An attach under way looks like a ghost: confirmed twice, 60 s apart (runbook's slot ledger).
const GHOST_PAUSE: Duration = Duration::from_secs(60);
/// Seconds that a guest has to shut down.
///
/// # Source
/// Runbook: `shutdown --timeout 300`; it is never powered off instead.
const SHUTDOWN_SECONDS: u64 = 300;

/// What happens, for a human or a machine to follow.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Told {
    /// A run is begun, or gone on with.
    Run {
        /// Its name.
        run: String,
    },
    /// A step is looked at.
    Step {
        /// Its number.
        step: u64,
        /// How many there are.
        of: u64,
        /// In words.
        title: String,
    },
    /// It is waited for.
    Waiting {
        /// The step.
        step: u64,
        /// For what.
        why: String,
        /// Since the step began.
        seconds: u64,
    },
    /// Something to know, which stops nothing.
    Note {
        /// The step.
        step: u64,
        /// What.
        text: String,
    },
    /// Its effect was read back.
    Done {
        /// The step.
        step: u64,
        /// Whether it was there before anything was done.
        already: bool,
        /// Since the step began.
        seconds: u64,
    },
}

/// How far it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Outcome {
    /// Every step is done.
    Finished,
    /// A human has to do a step, and to say so.
    Human {
        /// The step.
        step: u64,
        /// What to do.
        command: String,
    },
    /// The cluster is not the one that the plan was made for, and nothing of the step was done: plan again.
    Surprise {
        /// The step.
        step: u64,
        /// What differs.
        why: String,
    },
    /// It stops for now, and can go on from here.
    Stopped {
        /// The step.
        step: u64,
        /// Why.
        why: String,
    },
}

/// A line of the event stream: what happens, and at the end how far it came.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EventLine {
    /// What happens.
    Told(Told),
    /// The last line.
    Outcome(Outcome),
}

/// Is what is left of a plan, from this step on, still possible on this reading?
pub type Rehearse<'r> = dyn Fn(&Snapshot, u64) -> Result<(), String> + Sync + 'r;

/// What a plan is carried out with.
pub struct Executor<'e> {
    /// Both planes.
    pub world: &'e World,
    /// The plan.
    pub plan: &'e Plan,
    /// The storage plugin's driver.
    pub driver: &'e str,
    /// What the user gives for workers that join.
    pub given: &'e Given,
    /// Asked before each eviction.
    pub rehearse: &'e Rehearse<'e>,
    /// Told what happens.
    pub tell: &'e (dyn Fn(&Told) + Sync),
}

/// Why a step does not go on.
enum Halt {
    Surprise(String),
    Stopped(String),
    /// It may go well a moment later: an answer was lost, or somebody was busy.
    Passing(String),
    Human(String),
    Journal(JournalError),
}

impl Halt {
    fn words(self) -> String {
        match self {
            Self::Surprise(why) | Self::Stopped(why) | Self::Passing(why) | Self::Human(why) => why,
            Self::Journal(error) => error.to_string(),
        }
    }
}

impl From<JournalError> for Halt {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl From<KubeError> for Halt {
    fn from(error: KubeError) -> Self {
        let why = causes(&error);
        match error {
            KubeError::Connect { .. } | KubeError::Timeout { .. } | KubeError::Api { status: 409 | 429 | 500.., .. } => {
                Self::Passing(why)
            }
            KubeError::Config(_)
            | KubeError::Unauthorized { .. }
            | KubeError::Forbidden { .. }
            | KubeError::NotFound { .. }
            | KubeError::Api { .. }
            | KubeError::Decode { .. }
            | KubeError::TooLarge { .. }
            | KubeError::Lost(_) => Self::Stopped(why),
        }
    }
}

impl From<PveError> for Halt {
    fn from(error: PveError) -> Self {
        let why = causes(&error);
        // An answer that did not come in time says nothing: the effect is read back.
        let passes = error.is_passing() || matches!(error, PveError::Timeout { .. });
        if passes { Self::Passing(why) } else { Self::Stopped(why) }
    }
}

impl From<RouteError> for Halt {
    fn from(error: RouteError) -> Self {
        Self::Surprise(error.to_string())
    }
}

impl Executor<'_> {
    /// Goes on until the plan is done or something is in the way.
    ///
    /// # Errors
    /// [`JournalError`] if a line cannot be written: what it announces was not done.
    pub async fn run(&self, journal: &mut Journal) -> Result<Outcome, JournalError> {
        let of = self.plan.steps.len() as u64;
        while let Some(number) = journal.state.next(of) {
            let place = usize::try_from(number - 1).expect("steps are in memory");
            let step = &self.plan.steps[place];
            (self.tell)(&Told::Step { step: number, of, title: step.title.clone() });
            let mut halt = self.step(step, journal).await;
            for pause in PAUSES {
                let Err(Halt::Passing(why)) = &halt else { break };
                (self.tell)(&Told::Note { step: number, text: format!("{why}; again in {} s", pause.as_secs()) });
                tokio::time::sleep(pause).await;
                // As after a crash: what was begun is read back before anything is done again.
                halt = self.step(step, journal).await;
            }
            let outcome = match halt {
                Ok(()) => continue,
                Err(Halt::Journal(error)) => return Err(error),
                Err(Halt::Surprise(why)) => Outcome::Surprise { step: number, why },
                Err(Halt::Stopped(why) | Halt::Passing(why)) => Outcome::Stopped { step: number, why },
                Err(Halt::Human(command)) => Outcome::Human { step: number, command },
            };
            let why = match &outcome {
                Outcome::Finished => return Ok(outcome),
                Outcome::Human { command, .. } => format!("a human has to do it: {command}"),
                Outcome::Surprise { why, .. } | Outcome::Stopped { why, .. } => why.clone(),
            };
            journal.append(&Event::Stopped { step: number, at: Timestamp::now(), why })?;
            self.withdraw(&journal.state).await;
            return Ok(outcome);
        }
        journal.append(&Event::Finished { at: Timestamp::now() })?;
        Ok(Outcome::Finished)
    }

    /// Opens what was closed for this plan, as far as that is always safe, and says what is left.
    ///
    /// The run goes on if a node could not be opened or a credential not be deleted: `Err` of the inner result names
    /// it. `leave` gives it up in spite of the latter.
    ///
    /// # Errors
    /// [`JournalError`] if the last line cannot be written.
    pub async fn abort(&self, journal: &mut Journal, by: &str, leave: bool) -> Result<Result<Vec<String>, String>, JournalError> {
        let mut left = Vec::new();
        let mut open: Vec<NodeName> = journal.state.steps.values().flat_map(|step| step.closed.clone()).collect();
        for step in self.plan.steps.iter().filter(|step| journal.state.step(step.number).started) {
            // One that was closed before stays so: its step was done without being started.
            if let StepAction::Cordon { node } = &step.change {
                open.push(node.clone());
            } else if let StepAction::Uncordon { node } = &step.change
                && journal.state.step(step.number).ensured
            {
                open.retain(|one| one != node);
            } else if let StepAction::DeleteNode { node, .. } = &step.change {
                open.retain(|one| one != node);
                left.push(format!("{node} is closed, or gone: it was being taken out"));
            }
            if !journal.state.step(step.number).ensured {
                left.push(format!("step {} may have had its effect: {}", step.number, step.title));
            } else if stays(&step.change) {
                left.push(format!("done, and not taken back: {}", step.title));
            }
        }
        let undone = self.tidy(&journal.state).await;
        if !undone.is_empty() && !leave {
            return Ok(Err(undone.join("; ")));
        }
        left.extend(undone);
        open.sort();
        open.dedup();
        for node in open {
            let mut answer = self.open(&node).await;
            for pause in PAUSES {
                let Err(KubeError::Connect { .. } | KubeError::Timeout { .. } | KubeError::Api { .. }) = answer else { break };
                tokio::time::sleep(pause).await;
                answer = self.open(&node).await;
            }
            match answer {
                Ok(true) => left.push(format!("{node} is open again")),
                Ok(false) => left.push(format!("{node} is gone")),
                Err(error) => return Ok(Err(format!("{node} may still be cordoned: {}", causes(&error)))),
            }
        }
        journal.append(&Event::Aborted { at: Timestamp::now(), by: by.to_owned(), left: left.clone() })?;
        Ok(Ok(left))
    }

    async fn observe(&self) -> Result<Snapshot, Halt> {
        self.world.observe().await.map_err(|error| Halt::Passing(causes(&error)))
    }

    fn verdict(&self, condition: &Condition, seen: &Snapshot, number: u64, run: &RunState) -> Verdict {
        let step = run.step(number);
        let evicted = step.chosen.as_ref().map(|(_, uid)| uid.as_str());
        let ready_before = if let Condition::SuccessorReady { owner, .. } = condition {
            ready_before(self.plan, owner, number, run)
        } else {
            None
        };
        check(condition, seen, Against { plan: self.plan, driver: self.driver, ready_before, evicted })
    }

    /// The first condition that does not hold, and why.
    fn unmet(&self, list: &[Condition], seen: &Snapshot, number: u64, run: &RunState) -> Option<String> {
        list.iter().find_map(|condition| match self.verdict(condition, seen, number, run) {
            Verdict::Holds => None,
            Verdict::Not(why) | Verdict::Never(why) => Some(why),
            Verdict::Unknown(why) => Some(format!("not known: {why}")),
        })
    }

    /// What is missing of a step's effect, and why.
    fn missing(&self, step: &Step, seen: &Snapshot, run: &RunState) -> Option<String> {
        if let StepAction::Evict { uid, owner, .. } = &step.change
            && uid.is_empty()
        {
            // Which pod is meant is known only once it was chosen; that others are ready says nothing.
            let Some((name, uid)) = run.step(step.number).chosen else { return Some(format!("no pod of {owner} was evicted")) };
            if seen.kube.pods.items().iter().any(|pod| pod.uid == uid && !pod.is_terminal()) {
                return Some(format!("{name} is still there"));
            }
        }
        self.unmet(&step.ensures, seen, step.number, run)
    }

    /// The first condition that no waiting will bring about, and why.
    fn hopeless(&self, list: &[Condition], seen: &Snapshot, number: u64, run: &RunState) -> Option<String> {
        list.iter().find_map(|condition| match self.verdict(condition, seen, number, run) {
            Verdict::Never(why) => Some(why),
            Verdict::Holds | Verdict::Not(_) | Verdict::Unknown(_) => None,
        })
    }

    async fn step(&self, step: &Step, journal: &mut Journal) -> Result<(), Halt> {
        let begun = Instant::now();
        let number = step.number;
        let state = journal.state.step(number);
        if let StepAction::Manual { command, .. } = &step.change {
            if !state.confirmed {
                return Err(Halt::Human(command.clone()));
            }
            return self.wait(step, journal, begun).await;
        }
        let seen = self.observe().await?;
        if let Some(why) = unread(&seen) {
            return Err(Halt::Passing(why));
        }
        if seen.cluster != self.plan.cluster {
            return Err(Halt::Stopped("this is another cluster than the plan was made for".to_owned()));
        }
        // An empty drive does not say that token and image are gone: it is emptied last.
        let says_all = state.upid.is_some() || !matches!(step.change, StepAction::DropSeed { .. });
        if says_all && !step.ensures.is_empty() && self.missing(step, &seen, &journal.state).is_none() && state.closed.is_empty()
        {
            journal.append(&Event::Ensured { step: number, at: Timestamp::now() })?;
            (self.tell)(&Told::Done { step: number, already: !state.started, seconds: begun.elapsed().as_secs() });
            return Ok(());
        }
        // A task that works on it already, or whose request was answered to nobody.
        if state.started && self.follow_what_runs(step, &seen, &state, journal, begun).await? {
            // Of several changes only one was followed: what is left is found out anew.
            if matches!(step.change, StepAction::BootWorker { .. } | StepAction::DropSeed { .. } | StepAction::DisarmGuest { .. })
            {
                return Box::pin(self.step(step, journal)).await;
            }
            return self.wait(step, journal, begun).await;
        }
        match self.unmet(&step.requires, &seen, number, &journal.state) {
            None => self.act(step, &seen, journal, begun).await?,
            // It was begun before: the effect is on its way, or never comes.
            Some(why) if state.started => {
                (self.tell)(&Told::Note { step: number, text: format!("it was begun before: {why}") });
            }
            Some(why) => return Err(self.refusal(step, &seen, &journal.state, why)),
        }
        self.wait(step, journal, begun).await
    }

    /// Others that are not well may be so later, and what was not read may be read then; anything else is no
    /// longer what was planned.
    fn refusal(&self, step: &Step, seen: &Snapshot, run: &RunState, why: String) -> Halt {
        let passes = |condition: &&Condition| matches!(condition, Condition::OthersHealthy { .. } | Condition::HostMemory { .. });
        let differs = step
            .requires
            .iter()
            .filter(|one| !passes(one))
            .any(|condition| matches!(self.verdict(condition, seen, step.number, run), Verdict::Not(_) | Verdict::Never(_)));
        if differs { Halt::Surprise(why) } else { Halt::Stopped(why) }
    }

    /// Waits for the effect, opens what was closed meanwhile, and writes that it is done.
    async fn wait(&self, step: &Step, journal: &mut Journal, begun: Instant) -> Result<(), Halt> {
        let number = step.number;
        let deadline = Duration::from_secs(step.deadline_seconds);
        let mut last = String::new();
        let mut pause = PAUSE.0;
        loop {
            let why = match self.world.observe().await {
                Ok(seen) if let Some(why) = self.hopeless(&step.ensures, &seen, number, &journal.state) => {
                    return Err(Halt::Surprise(why));
                }
                Ok(seen) => match self.missing(step, &seen, &journal.state) {
                    None => {
                        self.open_again(number, journal).await?;
                        self.compare(step, &seen);
                        break;
                    }
                    Some(why) => why,
                },
                Err(error) => causes(&error),
            };
            if begun.elapsed() >= deadline {
                return Err(Halt::Stopped(format!("not within {} s: {why}", deadline.as_secs())));
            }
            if why != last {
                (self.tell)(&Told::Waiting { step: number, why: why.clone(), seconds: begun.elapsed().as_secs() });
                last = why;
            }
            rest(&mut pause).await;
        }
        journal.append(&Event::Ensured { step: number, at: Timestamp::now() })?;
        (self.tell)(&Told::Done { step: number, already: false, seconds: begun.elapsed().as_secs() });
        Ok(())
    }

    /// Says where a successor went, if that is not where it was expected.
    fn compare(&self, step: &Step, seen: &Snapshot) {
        for condition in &step.ensures {
            if let Condition::SuccessorReady { owner, on } = condition
                && let Some(node) = newest(seen, owner)
                && !on.contains(node)
            {
                let text = format!("the successor of {owner} went to {node}, which was not expected");
                (self.tell)(&Told::Note { step: step.number, text });
            }
        }
    }

    /// Opens a node to new pods; whether it is there at all.
    async fn open(&self, node: &NodeName) -> Result<bool, KubeError> {
        match self.world.kube.set_unschedulable(node.as_str(), false).await {
            Ok(()) => Ok(true),
            Err(KubeError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn open_again(&self, number: u64, journal: &mut Journal) -> Result<(), Halt> {
        for node in journal.state.step(number).closed {
            self.open(&node).await?;
            journal.append(&Event::Opened { step: number, node })?;
        }
        Ok(())
    }

    async fn act(&self, step: &Step, seen: &Snapshot, journal: &mut Journal, begun: Instant) -> Result<(), Halt> {
        let number = step.number;
        let kube = &self.world.kube;
        match &step.change {
            StepAction::Wait => starts(step, journal)?,
            StepAction::Cordon { node } => {
                starts(step, journal)?;
                kube.set_unschedulable(node.as_str(), true).await?;
            }
            StepAction::Uncordon { node } => {
                starts(step, journal)?;
                kube.set_unschedulable(node.as_str(), false).await?;
            }
            StepAction::Label { node, labels } => {
                starts(step, journal)?;
                kube.label(node.as_str(), labels).await?;
            }
            StepAction::DeleteNode { node, uid } => {
                self.look_closer(step, seen, journal).await?;
                starts(step, journal)?;
                match kube.delete_node(node.as_str(), uid).await {
                    Ok(()) | Err(KubeError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            StepAction::Evict { .. } => self.evict(step, seen, journal, begun).await?,
            StepAction::KeepGuestOff { guest } | StepAction::StartWithHost { guest } => {
                let (writer, host) = self.world.pve(&guest.host)?;
                let on = if matches!(step.change, StepAction::StartWithHost { .. }) { "1" } else { "0" };
                starts(step, journal)?;
                writer.set_options(&host, guest.vmid, &[("onboot", on)]).await?;
            }
            StepAction::ShutDownGuest { guest } => {
                let (writer, host) = self.world.pve(&guest.host)?;
                self.look_closer(step, seen, journal).await?;
                starts(step, journal)?;
                let upid = writer.shut_down(&host, guest.vmid, SHUTDOWN_SECONDS).await?;
                self.submitted(step, &guest.host, upid, journal, begun).await?;
            }
            StepAction::DestroyGuest { guest, .. } => {
                let (writer, host) = self.world.pve(&guest.host)?;
                self.look_closer(step, seen, journal).await?;
                starts(step, journal)?;
                let upid = writer.destroy(&host, guest.vmid).await?;
                self.submitted(step, &guest.host, upid, journal, begun).await?;
            }
            StepAction::UnplugGhost { guest, slot, .. } => {
                let (writer, host) = self.world.pve(&guest.host)?;
                (self.tell)(&Told::Waiting {
                    step: number,
                    why: format!("a second look in {} s: an attach under way looks the same", GHOST_PAUSE.as_secs()),
                    seconds: begun.elapsed().as_secs(),
                });
                tokio::time::sleep(GHOST_PAUSE).await;
                let again = self.look_closer(step, seen, journal).await?;
                starts(step, journal)?;
                // Its digest is that of the second look: an attach since then refuses it.
                let digest = guest_of(guest, &again)?.config.known().and_then(|config| config.digest.clone());
                let upid = writer.take_out(&host, guest.vmid, slot, digest.as_deref()).await?;
                self.submitted(step, &guest.host, upid, journal, begun).await?;
            }
            StepAction::CloneGuest { template, worker } => self.clone_guest(step, template, worker, journal, begun).await?,
            StepAction::SetGuest { guest, worker } => {
                self.set_guest(step, worker, guest_of(guest, seen)?, journal, begun).await?;
            }
            StepAction::DisarmGuest { guest, .. } => self.disarm(step, guest_of(guest, seen)?, journal, begun).await?,
            StepAction::GrowDisk { guest, slot, size } => {
                let (writer, host) = self.world.pve(&guest.host)?;
                starts(step, journal)?;
                let upid = writer.grow(&host, guest.vmid, slot, *size).await?;
                self.submitted(step, &guest.host, upid, journal, begun).await?;
            }
            StepAction::BootWorker { .. } => self.boot(step, seen, journal, begun).await?,
            StepAction::DropSeed { guest, worker } => self.drop_seed(step, guest, worker, journal, begun).await?,
            StepAction::Register { node, slots } => self.register(step, node, *slots, journal).await?,
            StepAction::Probe { .. } => self.probe(step, journal, begun).await?,
            StepAction::Manual { command, .. } => return Err(Halt::Human(command.clone())),
        }
        Ok(())
    }

    /// Reads what a step is about once more, by itself, and holds it against what the step requires: right before a
    /// change that cannot be taken back.
    async fn look_closer(&self, step: &Step, seen: &Snapshot, journal: &Journal) -> Result<Snapshot, Halt> {
        let fresh = self.world.refresh(seen, step).await.map_err(|error| Halt::Passing(causes(&error)))?;
        if let Some(why) = unread(&fresh) {
            return Err(Halt::Passing(why));
        }
        match self.unmet(&step.requires, &fresh, step.number, &journal.state) {
            None => Ok(fresh),
            Some(why) => Err(self.refusal(step, &fresh, &journal.state, why)),
        }
    }

    /// The pod that a step evicts now: by its UID, or the owner's on that node.
    fn target(step: &Step, seen: &Snapshot, state: &StepState) -> Option<(String, String)> {
        let StepAction::Evict { pod, uid, owner, node, .. } = &step.change else { return None };
        if !uid.is_empty() {
            return Some((pod.clone(), uid.clone()));
        }
        if let Some(chosen) = &state.chosen {
            return Some(chosen.clone());
        }
        let pods = seen.kube.pods.items().iter();
        let mut mine: Vec<_> =
            pods.filter(|one| owned(one, owner) && one.node.as_ref() == Some(node) && one.deleting.is_none()).collect();
        mine.sort_by_key(|one| &one.uid);
        mine.first().map(|one| (one.object_name().0, one.uid.clone()))
    }

    async fn evict(&self, step: &Step, seen: &Snapshot, journal: &mut Journal, begun: Instant) -> Result<(), Halt> {
        let StepAction::Evict { owner, close, wait_seconds, .. } = &step.change else { return Ok(()) };
        let number = step.number;
        let state = journal.state.step(number);
        if *wait_seconds > 0 && !state.started {
            let why = format!("{wait_seconds} s between two pods");
            (self.tell)(&Told::Waiting { step: number, why, seconds: begun.elapsed().as_secs() });
            tokio::time::sleep(Duration::from_secs(*wait_seconds)).await;
        }
        // What is left is looked at again each time: pods come and go while a drain runs.
        let fresh = if *wait_seconds > 0 { Some(self.observe().await?) } else { None };
        let seen = fresh.as_ref().unwrap_or(seen);
        if let Some(why) = unread(seen) {
            return Err(Halt::Passing(why));
        }
        if let Some(why) = self.unmet(&step.requires, seen, number, &journal.state) {
            return Err(self.refusal(step, seen, &journal.state, why));
        }
        (self.rehearse)(seen, number).map_err(Halt::Surprise)?;
        let Some((pod, uid)) = Self::target(step, seen, &state) else {
            return Err(Halt::Surprise(format!("no pod of {owner} is there to be evicted")));
        };
        let ready = serving(seen.kube.pods.items(), owner).count() as u64;
        journal.append(&Event::Started { step: number, at: Timestamp::now(), ready: Some(ready) })?;
        journal.append(&Event::Chose { step: number, pod: pod.clone(), uid: uid.clone() })?;
        for node in close {
            let open = seen.kube.nodes.items().iter().any(|one| one.name == *node && !one.unschedulable);
            if open {
                journal.append(&Event::Closing { step: number, node: node.clone() })?;
                self.world.kube.set_unschedulable(node.as_str(), true).await?;
            }
        }
        let (namespace, name) = pod.split_once('/').unwrap_or(("", &pod));
        let deadline = Duration::from_secs(step.deadline_seconds);
        loop {
            match self.world.kube.evict(namespace, name, &uid).await {
                Ok(Evicted::Accepted | Evicted::Gone) => return Ok(()),
                Ok(Evicted::Never { why }) => {
                    self.open_again(number, journal).await?;
                    return Err(Halt::Stopped(format!("{pod} cannot be evicted: {why}")));
                }
                Ok(Evicted::Later { why }) => {
                    if begun.elapsed() >= deadline {
                        self.open_again(number, journal).await?;
                        return Err(Halt::Stopped(format!("{pod} may not be evicted within {} s: {why}", deadline.as_secs())));
                    }
                    (self.tell)(&Told::Waiting { step: number, why, seconds: begun.elapsed().as_secs() });
                    tokio::time::sleep(EVICTION_PAUSE).await;
                    // Meanwhile others may have taken the place that it was to get.
                    let again = self.observe().await?;
                    if unread(&again).is_none() {
                        if let Some(why) = self.unmet(&step.requires, &again, number, &journal.state) {
                            self.open_again(number, journal).await?;
                            return Err(self.refusal(step, &again, &journal.state, why));
                        }
                        if let Err(why) = (self.rehearse)(&again, number) {
                            self.open_again(number, journal).await?;
                            return Err(Halt::Surprise(why));
                        }
                    }
                }
                // The answer was lost, or the server is away: the effect is read back.
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Notes a task and follows it to its end.
    async fn submitted(
        &self,
        step: &Step,
        host: &HostName,
        upid: String,
        journal: &mut Journal,
        begun: Instant,
    ) -> Result<(), Halt> {
        journal.append(&Event::Submitted { step: step.number, upid: upid.clone() })?;
        self.follow(step, host, &upid, begun).await
    }

    async fn follow(&self, step: &Step, host: &HostName, upid: &str, begun: Instant) -> Result<(), Halt> {
        let (writer, _) = self.world.pve(host)?;
        let mut last = None;
        let mut pause = PAUSE.0;
        loop {
            match writer.state(upid).await? {
                TaskState::Done { exit } => {
                    if exit != "OK" {
                        let text = format!("the task ended with {exit}: see its log");
                        (self.tell)(&Told::Note { step: step.number, text });
                    }
                    return Ok(());
                }
                TaskState::Failed { why } => return Err(Halt::Stopped(format!("the task failed: {why}"))),
                TaskState::Running { .. } if begun.elapsed() >= Duration::from_secs(step.deadline_seconds) => {
                    let why = format!("its task still runs after {} s: {upid}", step.deadline_seconds);
                    return Err(Halt::Stopped(why));
                }
                TaskState::Running { line } => {
                    if last.as_ref() != Some(&line) {
                        let line = if line.is_empty() || line == NO_LOG { "the task of Proxmox VE" } else { line.as_str() };
                        let told = Told::Waiting { step: step.number, why: line.to_owned(), seconds: begun.elapsed().as_secs() };
                        (self.tell)(&told);
                    }
                    last = Some(line);
                    rest(&mut pause).await;
                }
            }
        }
    }

    /// Follows the task of a step that was begun before, if there is one at work; whether there was.
    async fn follow_what_runs(
        &self,
        step: &Step,
        seen: &Snapshot,
        state: &StepState,
        journal: &mut Journal,
        begun: Instant,
    ) -> Result<bool, Halt> {
        let Some((guest, kinds)) = task_of(&step.change) else { return Ok(false) };
        let (writer, host) = self.world.pve(&guest.host)?;
        if let Some(upid) = &state.upid
            && matches!(writer.state(upid).await?, TaskState::Running { .. })
        {
            self.follow(step, &guest.host, upid, begun).await?;
            return Ok(true);
        }
        // A template may be cloned for others: ours has made its configuration.
        if let StepAction::CloneGuest { worker, .. } = &step.change
            && let Some(spec) = self.plan.worker(worker)
            && seen.guest_at(&spec.host, spec.vmid).is_none()
        {
            return Ok(false);
        }
        for kind in kinds {
            if let Some(upid) = writer.at_work(&host, Some(guest.vmid), kind).await? {
                self.submitted(step, &guest.host, upid, journal, begun).await?;
                return Ok(true);
            }
        }
        if let StepAction::CloneGuest { worker, .. } = &step.change {
            self.is_whole(worker).await?;
        }
        Ok(false)
    }
}

/// Writes that a step is about to be done.
fn starts(step: &Step, journal: &mut Journal) -> Result<(), JournalError> {
    journal.append(&Event::Started { step: step.number, at: Timestamp::now(), ready: None })
}

fn guest_of<'s>(meant: &GuestRef, seen: &'s Snapshot) -> Result<&'s Guest, Halt> {
    seen.guest_at(&meant.host, meant.vmid).ok_or_else(|| Halt::Surprise(format!("{meant} is not there")))
}

/// What a plan was made on and could not be read now: an API is away, and nothing is said about the plan.
fn unread(seen: &Snapshot) -> Option<String> {
    let kube = &seen.kube;
    let guests = seen.guests_known();
    let all = [
        ("nodes", kube.nodes.why()),
        ("pods", kube.pods.why()),
        ("namespaces", kube.namespaces.why()),
        ("persistentvolumes", kube.persistent_volumes.why()),
        ("persistentvolumeclaims", kube.claims.why()),
        ("volumeattachments", kube.volume_attachments.why()),
        ("csinodes", kube.csi_nodes.why()),
        ("poddisruptionbudgets", kube.pdbs.why()),
        ("guests", guests.why()),
    ];
    if let Some(unread) = all.into_iter().find_map(|(what, why)| Some(format!("{what} could not be read: {}", why?))) {
        return Some(unread);
    }
    let is_node = |guest: &&Guest| kube.nodes.items().iter().any(|node| node.name.as_str() == guest.name);
    let mut workers = seen.guests().filter(is_node);
    workers.find_map(|guest| Some(format!("the configuration of {} could not be read: {}", guest.name, guest.config.why()?)))
}

/// Pods of an owner that were ready before the evictions whose successors a step waits for: those of pods that
/// share a volume are waited for together, at the last of them.
fn ready_before(plan: &Plan, owner: &str, number: u64, run: &RunState) -> Option<u64> {
    let is_mine = |one: &str| one == owner;
    let waits =
        |step: &Step| step.ensures.iter().any(|one| matches!(one, Condition::SuccessorReady { owner, .. } if is_mine(owner)));
    let mut first = None;
    for step in plan.steps.iter().rev().filter(|step| step.number <= number) {
        if step.number < number && waits(step) {
            break;
        }
        if matches!(&step.change, StepAction::Evict { owner, .. } if is_mine(owner)) {
            first = run.step(step.number).ready.or(first);
        }
    }
    first
}

/// Whether the effect of a step that is done stays when its run is given up.
fn stays(change: &StepAction) -> bool {
    match change {
        StepAction::Evict { .. }
        | StepAction::CloneGuest { .. }
        | StepAction::SetGuest { .. }
        | StepAction::GrowDisk { .. }
        | StepAction::BootWorker { .. }
        | StepAction::DeleteNode { .. }
        | StepAction::ShutDownGuest { .. }
        | StepAction::KeepGuestOff { .. }
        | StepAction::DisarmGuest { .. }
        | StepAction::StartWithHost { .. }
        | StepAction::DestroyGuest { .. }
        | StepAction::Label { .. }
        | StepAction::UnplugGhost { .. }
        | StepAction::Manual { .. } => true,
        // Nodes are opened again and said so; what the others made they took away again.
        StepAction::Cordon { .. }
        | StepAction::Uncordon { .. }
        | StepAction::Register { .. }
        | StepAction::DropSeed { .. }
        | StepAction::Probe { .. }
        | StepAction::Wait => false,
    }
}

/// Waits, each time longer.
async fn rest(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE.1);
}

/// The guest whose tasks a step makes, and their types.
fn task_of(change: &StepAction) -> Option<(&GuestRef, &'static [&'static str])> {
    match change {
        StepAction::ShutDownGuest { guest } => Some((guest, &["qmshutdown"])),
        StepAction::UnplugGhost { guest, .. } | StepAction::SetGuest { guest, .. } => Some((guest, &["qmconfig"])),
        StepAction::DestroyGuest { guest, .. } => Some((guest, &["qmdestroy"])),
        // The task of a clone is its template's.
        StepAction::CloneGuest { template, .. } => Some((template, &["qmclone"])),
        StepAction::GrowDisk { guest, .. } => Some((guest, &["resize"])),
        StepAction::BootWorker { guest, .. } => Some((guest, &["qmconfig", "qmstart"])),
        StepAction::DropSeed { guest, .. } | StepAction::DisarmGuest { guest, .. } => Some((guest, &["qmconfig"])),
        StepAction::Cordon { .. }
        | StepAction::Uncordon { .. }
        | StepAction::Evict { .. }
        | StepAction::Register { .. }
        | StepAction::StartWithHost { .. }
        | StepAction::Probe { .. }
        | StepAction::DeleteNode { .. }
        | StepAction::KeepGuestOff { .. }
        | StepAction::Label { .. }
        | StepAction::Wait
        | StepAction::Manual { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use capplan_model::ids::SnapshotId;
    use capplan_model::plan::Action;
    use capplan_model::run::FORMAT;

    use super::*;

    #[test]
    fn what_was_ready_before_is_counted_at_the_first_of_those_that_leave_together() {
        let mut plan = Plan::empty(Action::Drain, SnapshotId::default(), Timestamp::UNIX_EPOCH, String::new());
        let evict = |number: u64, owner: &str, waits_for: &[&str]| {
            let change = StepAction::Evict {
                pod: format!("a/{number}"),
                uid: number.to_string(),
                owner: owner.to_owned(),
                node: NodeName::from("w1"),
                to: None,
                close: Vec::new(),
                wait_seconds: 0,
            };
            let wait = |owner: &&str| Condition::SuccessorReady { owner: (*owner).to_owned(), on: Vec::new() };
            let ensures = waits_for.iter().map(wait).collect();
            Step { number, title: String::new(), change, requires: Vec::new(), ensures, deadline_seconds: 1 }
        };
        // One of A; then one of A and two of B that share a volume.
        plan.steps = vec![evict(1, "A", &["A"]), evict(2, "B", &[]), evict(3, "A", &[]), evict(4, "B", &["B", "A", "B"])];
        let mut events =
            vec![Event::Began { format: FORMAT.into(), at: Timestamp::UNIX_EPOCH, by: String::new(), plan: String::new() }];
        for (step, ready) in [(1, 5), (2, 3), (3, 4), (4, 2)] {
            events.push(Event::Started { step, at: Timestamp::UNIX_EPOCH, ready: Some(ready) });
            events.push(Event::Ensured { step, at: Timestamp::UNIX_EPOCH });
        }
        let run = RunState::of(&events).expect("in order");
        let before = |owner, number| ready_before(&plan, owner, number, &run);
        assert_eq!((before("A", 1), before("A", 4), before("B", 4), before("C", 4)), (Some(5), Some(4), Some(3), None));
    }
}
