//! Random clusters, decided by the real scheduler now and by ours afterwards.

use capplan_rig::campaign::Campaign;

use crate::support::replay::{Tally, replay};
use crate::{Tested, skipped_without_own_plane};

/// Seeds of the small set; the full one is recorded by `rig campaign` and replayed with `CAPPLAN_ORACLE`.
const SEEDS: [u64; 6] = [1001, 1002, 1003, 1004, 1005, 1006];

#[test]
fn random_clusters_are_decided_as_the_real_scheduler_decides_them() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let folder = tempfile::tempdir().expect("writable");
    let mut campaign = Campaign::start()?;
    let (mut tally, mut decisions) = (Tally::default(), 0);
    for seed in SEEDS {
        let case = folder.path().join(seed.to_string());
        campaign.record(seed, &case)?;
        decisions += replay(&case, &mut tally);
    }
    tally.conclude(SEEDS.len(), decisions);
    Ok(())
}
