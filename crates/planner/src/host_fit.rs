//! Whether a host may carry a VM.

use capplan_model::ids::HostName;
use capplan_model::units::Bytes;
use capplan_model::{Reading, Snapshot};

use crate::capacity::commitment;
use crate::rules::Facts;

/// Share of its time that a host's CPUs wait for disks, from which nothing is planned that makes them busier.
///
/// # Source
/// Field notes: alert at 30 % for 10 minutes; six incidents in six weeks, none of which a worker relieved.
pub(crate) const BUSY_IO: f64 = 0.30;

/// Hosts whose disks are busy, each in a line.
pub(crate) fn busy_hosts(snapshot: &Snapshot) -> Vec<String> {
    let busy = snapshot.hosts().filter_map(|host| Some((host, host.io_wait.filter(|share| *share >= BUSY_IO)?)));
    busy.map(|(host, share)| format!("{} waits for its disks {:.0}% of the time", host.name, share * 100.0)).collect()
}

/// Room of a host for one more worker.
#[derive(Clone, Debug)]
pub struct HostRoom {
    /// The host.
    pub host: HostName,
    /// Memory available now.
    pub available: Reading<Bytes>,
    /// What a new worker needs.
    pub needed: Bytes,
    /// Share of the memory committed to running guests with the new worker.
    pub committed_after: Option<f64>,
}

impl HostRoom {
    /// Whether a worker fits.
    pub fn fits(&self) -> bool {
        self.available.known().is_some_and(|available| *available >= self.needed)
    }

    /// The figures in words.
    pub fn describe(&self) -> String {
        let committed =
            self.committed_after.map_or_else(String::new, |share| format!(", running guests would commit {:.0}%", share * 100.0));
        match &self.available {
            Reading::Known(available) => {
                format!("{} has {available} available, a new worker needs {}{committed}", self.host, self.needed)
            }
            Reading::Unknown { why } => format!("memory of {} is unknown: {why}", self.host),
        }
    }
}

/// Room of every host for one more worker.
pub fn host_rooms(facts: &Facts<'_>) -> Vec<HostRoom> {
    let worker = facts.policy.worker;
    let rooms = facts.snapshot.hosts().filter(|host| host.online).map(|host| {
        let total = host.memory.known().map(|memory| memory.total.0 as f64);
        let running = commitment(facts.snapshot, host).into_known().map(|sum| sum.running);
        HostRoom {
            host: host.name.clone(),
            available: host.memory.as_ref().map(|memory| memory.available()),
            needed: worker.memory + worker.host_reserve,
            committed_after: total.zip(running).map(|(total, running)| (running + worker.memory).0 as f64 / total),
        }
    });
    rooms.collect()
}

/// The room of every host, if all of it was read and no host can take one more worker.
pub(crate) fn no_host_fits(facts: &Facts<'_>) -> Option<Vec<HostRoom>> {
    let rooms = host_rooms(facts);
    let full = !rooms.is_empty() && rooms.iter().all(|room| room.available.known().is_some() && !room.fits());
    full.then_some(rooms)
}

/// Rooms in words, in one line.
pub(crate) fn described(rooms: &[HostRoom]) -> String {
    rooms.iter().map(HostRoom::describe).collect::<Vec<_>>().join("; ")
}
