//! One capplan at a time in a cluster, from whatever machine: a Lease of `kube-system`, as the controllers elect
//! their leaders.
//!
//! Every change of either API asks a [`Guard`] right before its request is sent. A lease that was lost stays lost:
//! whatever is answered later, another capplan may have been at work in between.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::kube::{KubeError, Writer};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// Its name.
pub const NAME: &str = "capplan";
/// Seconds by which the clock of a machine may differ from the API server's: more is refused before step 1.
pub const MOST_SKEW: u64 = 30;
/// Seconds that a change may be under way, from the check of the lease to the end of its request: the longest timeout
/// of a change.
pub(crate) const LONGEST_CHANGE: u64 = 60;
/// Seconds without a renewal after which nothing is changed any more: three attempts and their answers.
const HOLD: u64 = 40;
/// Seconds for which the lease is another's to take at the earliest: until the last change that may have begun is over,
/// by the clocks of two machines that differ from the server's in opposite directions.
const SECONDS: u64 = HOLD + LONGEST_CHANGE + 2 * MOST_SKEW;
const RENEW: Duration = Duration::from_secs(10);
/// For one attempt to renew: a server that is silent must not keep the next attempt from being made.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The lease ran out, or another has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease {NAME} of kube-system is lost: another capplan may be at work")]
pub struct Lost;

/// When a lease was renewed last, by two clocks: a machine that slept knows it by one of them only.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: Instant,
    at: Timestamp,
}

#[derive(Clone, Copy, Debug, Default)]
enum Standing {
    /// No lease was taken: nobody is kept away.
    #[default]
    None,
    Held(Held),
    Lost,
}

/// Asked right before each change: whether this is still the only capplan at work. Clones share one answer.
#[derive(Clone, Debug, Default)]
pub struct Guard(Arc<Mutex<Standing>>);

impl Guard {
    /// Whether a change may be sent now.
    ///
    /// # Errors
    /// [`Lost`] if the lease was ever lost, or was not renewed for too long.
    pub fn check(&self) -> Result<(), Lost> {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *standing {
            Standing::None => Ok(()),
            Standing::Held(held) if age(held) < Duration::from_secs(HOLD) => Ok(()),
            Standing::Held(_) | Standing::Lost => {
                *standing = Standing::Lost;
                Err(Lost)
            }
        }
    }

    /// The lease was renewed by a request that began then; one that is lost stays lost.
    fn renewed(&self, held: Held) {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*standing, Standing::Lost) {
            *standing = Standing::Held(held);
        }
    }

    fn lose(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Standing::Lost;
    }
}

/// The longer of what two clocks say has passed.
fn age(held: Held) -> Duration {
    let by_calendar = Timestamp::now().duration_since(held.at);
    held.since.elapsed().max(Duration::try_from(by_calendar).unwrap_or_default())
}

/// Why the lease is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has it.
    #[error("another capplan is at work on this cluster: {holder}, renewed {age} s ago")]
    Held {
        /// Who.
        holder: String,
        /// Seconds since it was renewed.
        age: i64,
    },
    /// Of two who wrote at once, the other was first.
    #[error("another capplan took the lease {NAME} of kube-system at the same moment")]
    Conflict,
    /// It cannot be read or written.
    #[error("the lease {NAME} of kube-system")]
    Api(#[from] KubeError),
}

/// The lease, renewed while this lives.
#[derive(Debug)]
pub struct Lease {
    kube: Writer,
    holder: String,
    guard: Guard,
    task: JoinHandle<()>,
}

impl Lease {
    /// Takes the lease: it is free, has run out, or is of the same holder, who was killed. From then on `guard` knows
    /// whether it is held; `kube` must not be guarded by it.
    ///
    /// # Errors
    /// [`LeaseError::Held`] if another has it.
    pub async fn take(kube: &Writer, holder: &str, guard: &Guard) -> Result<Self, LeaseError> {
        let begun = now();
        take(kube, holder).await?;
        guard.renewed(begun);
        let (ours, name, renewing) = (kube.clone(), holder.to_owned(), guard.clone());
        let task = tokio::spawn(async move {
            // Once it is lost there is nothing left to renew.
            while renewing.check().is_ok() {
                tokio::time::sleep(RENEW).await;
                let begun = now();
                match tokio::time::timeout(ATTEMPT, renew(&ours, &name)).await {
                    Ok(Ok(true)) => renewing.renewed(begun),
                    Ok(Ok(false)) => renewing.lose(),
                    // A server that is away lets nobody else take it either, until it runs out.
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        });
        Ok(Self { kube: kube.clone(), holder: holder.to_owned(), guard: guard.clone(), task })
    }

    /// Gives it back; nothing is changed any more. One that cannot be given back runs out.
    pub async fn give_back(self) {
        self.task.abort();
        self.guard.lose();
        if let Ok(Some(mut lease)) = self.kube.read(&format!("{LEASES}/{NAME}")).await
            && lease["spec"]["holderIdentity"] == self.holder.as_str()
        {
            lease["spec"]["holderIdentity"] = Value::Null;
            drop(self.kube.replace(&format!("{LEASES}/{NAME}"), &lease).await);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now() -> Held {
    Held { since: Instant::now(), at: Timestamp::now() }
}

fn spec(holder: &str) -> Value {
    json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": SECONDS,
        "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    })
}

/// Seconds since a Lease was renewed; `None` if it says no time, as one that was given back.
pub(crate) fn since_renewal(lease: &Value) -> Option<i64> {
    let renewed: Timestamp = lease["spec"]["renewTime"].as_str()?.parse().ok()?;
    Some(Timestamp::now().duration_since(renewed).as_secs())
}

async fn take(kube: &Writer, holder: &str) -> Result<(), LeaseError> {
    let Some(mut lease) = kube.read(&format!("{LEASES}/{NAME}")).await? else {
        let metadata = json!({ "name": NAME });
        let lease =
            json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec(holder) });
        return written(kube.create(LEASES, &lease).await);
    };
    let held = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let age = since_renewal(&lease).unwrap_or(i64::MAX);
    // Another version may hold it for longer.
    let lasts = lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or_default().max(SECONDS as i64);
    if !held.is_empty() && held != holder && age < lasts {
        return Err(LeaseError::Held { holder: held.to_owned(), age });
    }
    lease["spec"] = spec(holder);
    // The version that was read goes with it: of two who see it run out, one gets it.
    written(kube.replace(&format!("{LEASES}/{NAME}"), &lease).await)
}

/// Renews what is ours still; `false` if it is not.
async fn renew(kube: &Writer, holder: &str) -> Result<bool, LeaseError> {
    let Some(mut lease) = kube.read(&format!("{LEASES}/{NAME}")).await? else { return Ok(false) };
    if lease["spec"]["holderIdentity"] != holder {
        return Ok(false);
    }
    lease["spec"] = spec(holder);
    written(kube.replace(&format!("{LEASES}/{NAME}"), &lease).await).map(|()| true)
}

/// Of two who write at once, one is refused.
fn written(answer: Result<(), KubeError>) -> Result<(), LeaseError> {
    match answer {
        Err(KubeError::Api { status: 409, .. }) => Err(LeaseError::Conflict),
        answer => Ok(answer?),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn seconds_ago(seconds: u64) -> Held {
        let since = Instant::now().checked_sub(Duration::from_secs(seconds)).expect("the machine runs for longer");
        Held { since, at: Timestamp::now() }
    }

    #[test]
    fn lost_stays_lost_whatever_comes_later() {
        let guard = Guard::default();
        assert_eq!(guard.check(), Ok(()), "no lease, no harm");
        guard.renewed(now());
        assert_eq!(guard.check(), Ok(()));
        guard.lose();
        guard.renewed(now());
        assert_eq!(guard.check(), Err(Lost));
    }

    #[test]
    fn a_lease_that_was_not_renewed_for_too_long_is_lost_by_either_clock() {
        for (held, lost) in [
            (seconds_ago(HOLD - 2), false),
            (seconds_ago(HOLD), true),
            // The machine slept: its monotonic clock stood still.
            (Held { since: Instant::now(), at: Timestamp::now() - SignedDuration::from_secs(HOLD as i64 + 1) }, true),
            // Somebody set the clock back.
            (Held { since: Instant::now(), at: Timestamp::now() + SignedDuration::from_hours(1) }, false),
        ] {
            let guard = Guard::default();
            guard.renewed(held);
            assert_eq!(guard.check().is_err(), lost, "{held:?}");
            guard.renewed(now());
            assert_eq!(guard.check().is_err(), lost, "{held:?}: and it stays so");
        }
    }

    #[test]
    fn the_margins_add_up() {
        // The last change begins HOLD after the renewal and takes LONGEST_CHANGE; the other machine's clock may be ahead
        // of ours by twice the skew.
        const { assert!(SECONDS - 2 * MOST_SKEW >= HOLD + LONGEST_CHANGE) };
        assert!(HOLD > 2 * (RENEW + ATTEMPT).as_secs() - 1, "one lost attempt is no reason to stop");
    }
}
