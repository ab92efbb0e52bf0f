//! One capplan at a time in a cluster, from whatever machine: a Lease of `kube-system`, as the controllers elect
//! their leaders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::kube::{KubeError, Writer};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// Its name.
pub const NAME: &str = "capplan";
/// Seconds for which it holds without being renewed: nine attempts, and two clocks that are 30 s apart each.
const SECONDS: i64 = 90;
const RENEW: Duration = Duration::from_secs(10);

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
    /// It cannot be read or written.
    #[error("the lease {NAME} of kube-system")]
    Api(#[from] KubeError),
}

/// The lease, renewed while this lives.
pub struct Lease {
    kube: Writer,
    holder: String,
    lost: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Lease {
    /// Takes the lease: it is free, has run out, or is of the same holder, who was killed.
    ///
    /// # Errors
    /// [`LeaseError::Held`] if another has it.
    pub async fn take(kube: &Writer, holder: &str) -> Result<Self, LeaseError> {
        take(kube, holder).await?;
        let lost = Arc::new(AtomicBool::new(false));
        let (ours, name, flag) = (kube.clone(), holder.to_owned(), lost.clone());
        let task = tokio::spawn(async move {
            let mut renewed = Instant::now();
            loop {
                tokio::time::sleep(RENEW).await;
                match take(&ours, &name).await {
                    Ok(()) => renewed = Instant::now(),
                    Err(LeaseError::Held { .. }) => flag.store(true, Ordering::Relaxed),
                    // A server that is away lets nobody else take it either; until it may have run out.
                    Err(LeaseError::Api(_)) => flag.store(renewed.elapsed().as_secs() >= SECONDS as u64, Ordering::Relaxed),
                }
            }
        });
        Ok(Self { kube: kube.clone(), holder: holder.to_owned(), lost, task })
    }

    /// Whether it may be another's by now: nothing is changed then.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Gives it back. One that cannot be given back runs out.
    pub async fn give_back(self) {
        self.task.abort();
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

async fn take(kube: &Writer, holder: &str) -> Result<(), LeaseError> {
    let now = Timestamp::now();
    let spec = json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": SECONDS,
        "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    });
    let Some(mut lease) = kube.read(&format!("{LEASES}/{NAME}")).await? else {
        let lease =
            json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": NAME }, "spec": spec });
        return written(kube.create(LEASES, &lease).await);
    };
    let held = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let age = renewed.map_or(i64::MAX, |renewed| now.duration_since(renewed).as_secs());
    if !held.is_empty() && held != holder && age < SECONDS {
        return Err(LeaseError::Held { holder: held.to_owned(), age });
    }
    lease["spec"] = spec;
    // The version that was read goes with it: of two who see it run out, one gets it.
    written(kube.replace(&format!("{LEASES}/{NAME}"), &lease).await)
}

/// Of two who write at once, one is refused.
fn written(answer: Result<(), KubeError>) -> Result<(), LeaseError> {
    match answer {
        Err(KubeError::Api { status: 409, .. }) => Err(LeaseError::Held { holder: "one that came first".to_owned(), age: 0 }),
        answer => Ok(answer?),
    }
}
