//! `rig up` and `rig down` for people.
use capplan_rig::control_plane::*;
fn main() -> Result<(), capplan_rig::Failure> {
    let programs = capplan_rig::components::Programs::build()?;
    let folder = tempfile::tempdir_in(capplan_rig::components::folder()?).expect("x");
    let t = std::time::Instant::now();
    let plane = ControlPlane::new(&programs, folder.path(), std::time::Duration::from_secs(40))?;
    println!("{:?}", t.elapsed());
    let api = capplan_rig::kube::Api::new(&plane.admin())?;
    let objects = capplan_rig::plant::recorded(std::path::Path::new(&std::env::args().nth(1).expect("dir")))?;
    println!("{} {:?}", plane.admin().display(), t.elapsed());
    println!("{:?}", capplan_rig::plant::plant(&api, objects, capplan_rig::plant::MissingOwners::Keep));
    println!("{} {:?}", plane.admin().display(), t.elapsed());
    std::thread::sleep(std::time::Duration::from_secs(600));
    Ok(())
}
