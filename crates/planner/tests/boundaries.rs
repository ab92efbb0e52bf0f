//! Every boundary that the runbook names, from a scenario to the report's verdict.

use capplan_model::policy::Policy;
use capplan_model::scenario::Scenario;
use capplan_planner::report::{Action, Report, Verdict, build};

/// Two workers on one host, quiet in every dimension; each test changes one thing.
const QUIET: &str = r#"
format = "capplan.scenario/1"
title = "quiet"
now = "2026-03-02T06:00:00Z"
[[hosts]]
name = "pve1"
memory = "128GiB"
available = "40GiB"
cpus = 16
[[nodes]]
name = "w1"
vmid = 201
host = "pve1"
memory = "32GiB"
allocatable = "30GiB"
cpus = 8
attached = 10
pods = [{ name = "a", memory = "15GiB", limit = "15GiB" }]
[[nodes]]
name = "w2"
vmid = 202
host = "pve1"
memory = "32GiB"
allocatable = "30GiB"
cpus = 8
attached = 10
pods = [{ name = "b", memory = "15GiB", limit = "15GiB" }]
"#;

fn report_with(text: &str, policy: &Policy) -> Report {
    let scenario = Scenario::parse(text).expect("a valid scenario");
    let snapshot = scenario.snapshot();
    build(&snapshot, snapshot.id(), &scenario.history(), policy, Vec::new())
}

fn report(text: &str) -> Report {
    report_with(text, &Policy::built_in())
}

fn rule(report: &Report, id: &str) -> (Verdict, Verdict) {
    let rule = report.rules.iter().find(|rule| rule.id == id).expect("the rule exists");
    (rule.instant, rule.sustained)
}

/// History of both workers over `days` at a constant value, with `extra` lines for the first.
fn history(dimension: &str, days: u32, values: [&str; 2], limit: &str, extra: &str) -> String {
    let series = |subject: &str, value: &str, extra: &str| {
        format!(
            "[[history]]\ndimension = \"{dimension}\"\nsubject = \"{subject}\"\ndays = {days}\nfrom = {value}\nto = {value}\nlimit = {limit}\n{extra}\n"
        )
    };
    series("w1", values[0], extra) + &series("w2", values[1], "")
}

fn attachments(now: u32, then: &str, extra: &str) -> String {
    let text = QUIET.replacen("attached = 10", &format!("attached = {now}"), 1);
    text + &history("volume-attachments", 7, [then, "10"], "28", extra)
}

#[test]
fn twenty_four_volumes_do_not_meet_the_rule_and_twenty_five_for_seven_days_do() {
    assert_eq!(rule(&report(&attachments(24, "24", "")), "slots-high"), (Verdict::NotMet, Verdict::NotMet));
    assert_eq!(rule(&report(&attachments(25, "25", "")), "slots-high"), (Verdict::Met, Verdict::Met));
}

#[test]
fn one_contrary_sample_in_seven_days_settles_the_matter() {
    let report = report(&attachments(25, "25", "set = [{ hours_ago = 160, used = 24 }]"));
    assert_eq!(rule(&report, "slots-high"), (Verdict::Met, Verdict::NotMet));
    let evidence = &report.rules[0].evidence;
    let contrary = evidence.first_contrary.expect("one is contrary");
    assert_eq!((contrary.at.to_string().as_str(), contrary.value), ("2026-02-23T14:00:00Z", 24.0));
    assert!((evidence.held_days.expect("held since") - 159.0 / 24.0).abs() < 0.01, "{evidence:?}");
}

#[test]
fn a_contrary_sample_within_the_hysteresis_does_not_count() {
    let mut policy = Policy::built_in();
    policy.scale_up.rules[0].hysteresis = 1.0;
    let text = attachments(25, "25", "set = [{ hours_ago = 160, used = 24 }]");
    assert_eq!(rule(&report_with(&text, &policy), "slots-high"), (Verdict::Met, Verdict::Met));
}

#[test]
fn ninety_five_percent_of_the_window_decide_and_ninety_four_do_not() {
    // 168 hours and the snapshot's own sample in the last one: 8 of 168 missing is 95.2 %, 10 is 94.0 %.
    let covered = report(&attachments(25, "25", "missing = 8"));
    assert_eq!(rule(&covered, "slots-high"), (Verdict::Met, Verdict::Met));
    assert!((covered.rules[0].evidence.coverage - 160.0 / 168.0).abs() < 1e-9, "{}", covered.rules[0].evidence.coverage);
    let gaps = report(&attachments(25, "25", "missing = 10"));
    assert_eq!(rule(&gaps, "slots-high"), (Verdict::Met, Verdict::InsufficientData));
    assert!((gaps.rules[0].evidence.coverage - 158.0 / 168.0).abs() < 1e-9, "{}", gaps.rules[0].evidence.coverage);
    assert_eq!(gaps.recommendation.action, Action::InsufficientData);
}

#[test]
fn a_gap_is_never_fine_for_a_scale_down_either() {
    let text = QUIET.to_owned() + &history("volume-attachments", 30, ["10", "10"], "28", "missing = 60");
    assert_eq!(rule(&report(&text), "slots-low"), (Verdict::Met, Verdict::InsufficientData));
}

#[test]
fn without_any_history_nothing_is_sustained() {
    let report = report(&QUIET.replacen("attached = 10", "attached = 26", 1));
    assert_eq!(rule(&report, "slots-high"), (Verdict::Met, Verdict::InsufficientData));
    assert_eq!(report.recommendation.action, Action::InsufficientData);
    assert!(report.recommendation.because[0].contains("slots-high"), "{:?}", report.recommendation);
}

fn requests(each: &str) -> String {
    let text = QUIET.replace("\"15GiB\", limit", &format!("\"{each}\", limit"));
    text + &history("memory-requests", 7, [&format!("\"{each}\""), &format!("\"{each}\"")], "\"30GiB\"", "")
}

#[test]
fn ninety_percent_of_requests_do_not_meet_the_rule_and_ninety_point_one_do() {
    // 27 GiB of 30 is 90.0 %; 27648 MiB and 31 more are 90.1 %.
    assert_eq!(rule(&report(&requests("27GiB")), "memory-requests-high"), (Verdict::NotMet, Verdict::NotMet));
    assert_eq!(rule(&report(&requests("27679MiB")), "memory-requests-high"), (Verdict::Met, Verdict::Met));
}

#[test]
fn sixty_nine_point_nine_percent_meet_the_scale_down_rule_and_seventy_do_not() {
    assert_eq!(rule(&report(&requests("21GiB")), "memory-requests-low").0, Verdict::NotMet);
    assert_eq!(rule(&report(&requests("21473MiB")), "memory-requests-low").0, Verdict::Met);
}

#[test]
fn a_worker_needs_thirty_four_gibibytes_available_and_a_tenth_less_is_refused() {
    let due = attachments(25, "25", "");
    let room = |available: &str| report(&due.replace("available = \"40GiB\"", &format!("available = \"{available}\"")));
    let fits = room("34.0GiB");
    assert_eq!((fits.recommendation.action, fits.recommendation.target.as_deref()), (Action::ScaleUp, Some("pve1")));
    let refused = room("33.9GiB");
    assert_eq!(refused.recommendation.action, Action::None);
    let because = &refused.recommendation.because[0];
    assert!(because.contains("33.9 GiB available") && because.contains("34.0 GiB"), "{because}");
    assert!(refused.findings.iter().any(|finding| finding.code == "host-cannot-take-worker"));
}

#[test]
fn planned_volumes_count_only_with_a_worker_that_is_nearly_full() {
    for (planned, attached, expected) in [(3, 22, Verdict::Met), (2, 28, Verdict::NotMet), (3, 21, Verdict::NotMet)] {
        let mut policy = Policy::built_in();
        policy.plan.planned_volumes = planned;
        let text = QUIET.replacen("attached = 10", &format!("attached = {attached}"), 1);
        assert_eq!(rule(&report_with(&text, &policy), "planned-volumes").1, expected, "{planned} planned, {attached} attached");
    }
}

#[test]
fn evictions_must_exceed_twenty_on_each_of_three_days() {
    for (days, expected) in [("[21, 25, 22]", Verdict::Met), ("[21, 20, 22]", Verdict::NotMet), ("[25, 25]", Verdict::NotMet)] {
        let text = QUIET.replacen("cpus = 8", &format!("cpus = 8\nevicted = {days}"), 1);
        assert_eq!(rule(&report(&text), "evictions-high").1, expected, "{days}");
    }
}

#[test]
fn a_volume_that_finds_no_slot_triggers_at_once() {
    let report = report(&QUIET.replacen("attached = 10", "attached = 28\nfailing = 1", 1));
    assert_eq!(rule(&report, "slot-cap-incident"), (Verdict::Met, Verdict::Met));
    assert_eq!(report.recommendation.action, Action::ScaleUp);
    assert!(report.findings.iter().any(|finding| finding.code == "attach-failing" && finding.subject == "w1"));
}

/// A cluster whose scale-down rules all hold over their windows.
fn idle(workers: usize, attached: u32, memory: &str) -> String {
    let mut text = QUIET.split("[[nodes]]").next().expect("a head").to_owned();
    for index in 1..=workers {
        text.push_str(&format!(
            "[[nodes]]\nname = \"w{index}\"\nvmid = {}\nhost = \"pve1\"\nmemory = \"32GiB\"\nallocatable = \"30GiB\"\ncpus = 8\nattached = {attached}\n\
             pods = [{{ name = \"a{index}\", count = 5, memory = \"{memory}\", limit = \"{memory}\" }}]\n",
            200 + index
        ));
        let gib: f64 = memory.trim_end_matches("GiB").parse::<f64>().expect("a number") * 5.0;
        for (dimension, value, limit) in [
            ("volume-attachments", attached.to_string(), "28".to_owned()),
            ("memory-requests", format!("\"{gib}GiB\""), "\"30GiB\"".to_owned()),
            ("memory-limits", format!("\"{gib}GiB\""), "\"30GiB\"".to_owned()),
        ] {
            text.push_str(&format!(
                "[[history]]\ndimension = \"{dimension}\"\nsubject = \"w{index}\"\ndays = 30\nfrom = {value}\nto = {value}\nlimit = {limit}\n"
            ));
        }
    }
    text
}

fn idle_report(workers: usize, attached: u32, memory: &str, confirmed: bool) -> Report {
    let mut policy = Policy::built_in();
    policy.plan.no_growth_confirmed = confirmed;
    report_with(&idle(workers, attached, memory), &policy)
}

#[test]
fn an_idle_worker_may_go_once_a_human_confirms_that_no_growth_is_coming() {
    assert_eq!(idle_report(4, 6, "2GiB", false).recommendation.action, Action::None);
    let report = idle_report(4, 6, "2GiB", true);
    assert_eq!(report.recommendation.action, Action::ScaleDown, "{:?}", report.recommendation);
}

#[test]
fn a_scale_down_that_would_meet_a_scale_up_rule_is_rejected_with_the_figures() {
    // All scale-down rules hold (60 % of memory), but three workers would be left with 80 %: fine.
    // With two left of three it is 93 %: `memory-requests-high` would hold.
    let report = idle_report(3, 4, "4GiB", true);
    assert!(
        report.rules.iter().filter(|rule| rule.direction == "down").all(|rule| rule.sustained == Verdict::Met),
        "{:?}",
        report.rules
    );
    let report = idle_report(3, 4, "4.1GiB", true);
    assert_eq!(report.recommendation.action, Action::None, "{:?}", report.recommendation);
    let rejected = report.recommendation.rejected.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(rejected.contains("memory-requests-high") || rejected.contains("needs 4.1 GiB, most free 1.3 GiB"), "{rejected}");
}

#[test]
fn no_recommended_scale_down_meets_an_up_rule_whatever_the_load() {
    for workers in [2, 3, 5, 8] {
        for attached in [0, 14, 20] {
            for memory in ["1GiB", "2GiB", "3GiB", "4GiB"] {
                let report = idle_report(workers, attached, memory, true);
                if report.recommendation.action == Action::ScaleDown {
                    let left = workers as f64 - 1.0;
                    let gib: f64 = memory.trim_end_matches("GiB").parse::<f64>().expect("a number");
                    let requested = gib * 5.0 * workers as f64 / (left * 30.0);
                    assert!(requested <= 0.90 + 1e-9, "{workers} workers, {memory}: {requested}");
                }
            }
        }
    }
}

#[test]
fn an_unknown_list_is_never_ok() {
    let due = attachments(25, "25", "");
    for (list, untouched) in [("volumeattachments", false), ("nodes", false), ("pods", true)] {
        let report = report(&(format!("{}\n[unknown]\n{list} = \"forbidden\"\n", due)));
        assert!(report.unknown.iter().any(|unknown| unknown.what == list && unknown.why == "forbidden"), "{list}");
        if !untouched {
            assert_eq!(report.recommendation.action, Action::InsufficientData, "{list}: {:?}", report.recommendation);
        }
        if list == "pods" {
            assert_eq!(report.memory.requests.workers, None);
            assert_eq!(rule(&report, "memory-requests-high").0, Verdict::InsufficientData);
        }
    }
}

#[test]
fn the_report_is_the_same_every_time() {
    let text = attachments(25, "25", "missing = 3");
    assert_eq!(report(&text), report(&text));
}
