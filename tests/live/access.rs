//! The least privileges that `capplan` prints suffice, and each one that is missing is named.

use std::time::{Duration, Instant};

use capplan_rig::double::READER;
use capplan_rig::kube::{Api, Call};
use capplan_rig::plant::{MissingOwners, plant_ipam_handles};
use capplan_rig::{Failure, Rig, objects};
use http::Method;
use serde_json::{Value, json};

use crate::support::{World, unknowns};
use crate::{Tested, printed_roles, scenario, skipped, world};

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/capplan-reader";
const JSON: [&str; 4] = ["report", "--format", "json", "--no-history"];

/// A rig with the demonstration cluster, and a world with the printed account's token.
fn started() -> Result<(Rig, World), Failure> {
    let mut rig = Rig::start()?;
    let snapshot = scenario("demo");
    rig.plant(objects::of(&snapshot), MissingOwners::Drop)?;
    plant_ipam_handles(rig.api(), 3)?;
    rig.plant(printed_roles(), MissingOwners::Drop)?;
    rig.start_double(&snapshot)?;
    let mut world = world(&mut rig)?;
    world.set("KUBECONFIG", rig.account("capplan")?.display().to_string());
    Ok((rig, world))
}

/// Waits until the authorizer has seen the role as it is now.
fn wait_until(api: &Api, group: &str, resource: &str, allowed: bool) -> Result<(), Failure> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "system:serviceaccount:kube-system:capplan", "resourceAttributes": {"verb": "list", "group": group, "resource": resource}},
    });
    let start = Instant::now();
    while api.call(Call::post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review.clone()))?["status"]["allowed"]
        != allowed
    {
        if start.elapsed() > Duration::from_secs(10) {
            return Err(Failure::new(format!("the authorizer still does not say {allowed} for {resource}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn put_rules(api: &Api, rules: &[Value]) -> Result<(), Failure> {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "capplan-reader"}, "rules": rules});
    api.call(Call { method: Method::PUT, path: ROLE.to_owned(), body: role }).map(drop)
}

#[test]
fn the_printed_cluster_role_suffices_and_each_missing_rule_is_named() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (rig, world) = started()?;
    let complete = world.run(&JSON).done().json();
    assert!(unknowns(&complete).iter().all(|what| !what.contains("forbidden")), "{:?}", unknowns(&complete));
    assert!(world.run(&["doctor"]).done().out.contains("all that a report needs is there"));

    let roles = printed_roles();
    let role = roles.iter().find(|object| object["kind"] == "ClusterRole").expect("it is printed");
    let rules = role["rules"].as_array().expect("rules").clone();
    let mut tried = 0;
    for (number, rule) in rules.iter().enumerate() {
        let group = rule["apiGroups"][0].as_str().expect("a group");
        for resource in rule["resources"].as_array().expect("resources").iter().filter_map(Value::as_str) {
            let mut fewer = rules.clone();
            let left: Vec<&Value> = rule["resources"].as_array().into_iter().flatten().filter(|one| *one != resource).collect();
            if left.is_empty() {
                fewer.remove(number);
            } else {
                fewer[number]["resources"] = json!(left);
            }
            put_rules(rig.api(), &fewer)?;
            wait_until(rig.api(), group, resource, false)?;
            let outcome = world.run(&JSON);
            let said = format!("{}{}", outcome.out, outcome.err);
            assert!(!outcome.err.contains("panicked"), "{}", outcome.err);
            let permission = format!("cannot list resource \"{resource}\" in API group \"{group}\"");
            assert!(said.replace("\\\"", "\"").contains(&permission), "without {resource}.{group}: {said}");
            let doctor = world.run(&["doctor"]).ends(1);
            assert!(doctor.out.contains(&format!("may not list {resource}")), "{}", doctor.out);
            put_rules(rig.api(), &rules)?;
            wait_until(rig.api(), group, resource, true)?;
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
    Ok(())
}

#[test]
fn the_printed_pve_role_suffices_and_each_missing_privilege_is_named() -> Tested {
    if skipped() {
        return Ok(());
    }
    let printed = World::new().run(&["doctor", "--print-roles"]).done().out;
    let line = printed.lines().find(|line| line.contains("--privs")).expect("it is printed");
    let privileges: Vec<&str> = line.split('"').nth(1).expect("quoted").split(',').collect();
    assert_eq!(privileges, READER, "the double grants what the role grants");

    let (mut rig, world) = started()?;
    let complete = world.run(&JSON).done().json();
    let complete = unknowns(&complete);
    assert!(complete.iter().all(|what| !what.contains("lacks")), "{complete:?}");
    for missing in READER {
        let left: Vec<&str> = READER.iter().copied().filter(|one| *one != missing).collect();
        rig.double()?.grant(&[("/", &left)])?;
        let outcome = world.run(&JSON);
        let said = format!("{}{}", outcome.out, outcome.err);
        // Pools are for a plan: a report does without, and `doctor` remarks it.
        let of_plan = missing == "Pool.Audit";
        assert!(of_plan || said.contains(missing), "without {missing}: {said}");
        let doctor = world.run(&["doctor"]).ends(if of_plan { 0 } else { 1 });
        assert!(doctor.out.contains(missing), "{missing}");
    }
    rig.double()?.grant(&[("/", &READER)])?;
    assert_eq!(unknowns(&world.run(&JSON).done().json()), complete);
    assert_eq!(rig.double()?.violations()?, [] as [Value; 0]);
    Ok(())
}
