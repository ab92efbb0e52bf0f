//! The HTML page: what is in it, and how a browser shows it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use capplan::render::html::page;
use capplan_model::capacity::Dimension;
use capplan_model::history::{History, Sample};
use capplan_model::ids::{SnapshotId, VmId, VolumeHandle};
use capplan_model::kube::{
    Claim, Condition, CsiNode, CsiNodeDriver, Node, PersistentVolume, Phase, Pod, Resources, VolumeAttachment,
};
use capplan_model::policy::Policy;
use capplan_model::pve::{Disk, Guest, GuestConfig, Host, HostMemory, Power, Pve, ThinPool};
use capplan_model::units::{Bytes, MilliCpu};
use capplan_model::{Reading, Snapshot};
use capplan_planner::report::{Report, build};
use jiff::{SignedDuration, Timestamp};

const DRIVER: &str = "csi.proxmox.sinextra.dev";
const FULL: &str = "worker<&>\"1";
const IDLE: &str = "k8s-worker-02";

fn now() -> Timestamp {
    "2026-08-06T12:00:00Z".parse().expect("a timestamp")
}

fn worker(name: &str, vmid: u32) -> Node {
    let allocatable = Resources { cpu: MilliCpu(7_800), memory: Bytes::gib(30), ..Default::default() };
    Node {
        name: name.into(),
        created: Some(now() - SignedDuration::from_hours(24 * 300)),
        provider_id: Some(format!("proxmox://region/{vmid}")),
        kubelet_version: "v1.35.7".into(),
        capacity: allocatable.clone(),
        allocatable,
        max_pods: 110,
        conditions: vec![Condition { kind: "Ready".into(), status: "True".into(), ..Default::default() }],
        ..Default::default()
    }
}

fn guest(name: &str, vmid: u32, disks: BTreeMap<String, Disk>) -> Guest {
    let config = GuestConfig { name: name.into(), memory: Bytes::gib(32), cores: 8, disks, ..Default::default() };
    Guest {
        vmid: VmId(vmid),
        host: "pve1".into(),
        name: name.into(),
        power: Power::Running,
        max_memory: Bytes::gib(32),
        cpus: 8,
        config: Reading::Known(config),
        ..Default::default()
    }
}

fn disk(volume: &str) -> Disk {
    Disk { volume: volume.into(), discard: true, ..Default::default() }
}

/// Two workers: one with 24 volumes, a ghost and its OS disk on scsi1; one with two volumes whose
/// VM config could not be read.
fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot { taken: now(), cluster: "0b9b6a9c-1f5e-4f6e-9a3e-3c1f5e0d7a11".into(), ..Default::default() };
    let mut disks = BTreeMap::from([("scsi1".to_owned(), disk("local-lvm:vm-201-disk-0"))]);
    let (mut volumes, mut attachments, mut pods, mut claims) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..26 {
        let on_full = number < 24;
        let node = if on_full { FULL } else { IDLE };
        let name = format!("pvc-{number:04}");
        if on_full {
            disks.insert(format!("scsi{}", number + 2), disk(&format!("local-lvm:vm-9999-{name}")));
        }
        volumes.push(PersistentVolume {
            name: name.as_str().into(),
            driver: DRIVER.into(),
            handle: Some(VolumeHandle(format!("region/pve1/local-lvm/vm-9999-{name}"))),
            phase: "Bound".into(),
            capacity: Bytes::gib(20),
            ..Default::default()
        });
        attachments.push(VolumeAttachment {
            name: format!("csi-{number:04}"),
            attacher: DRIVER.into(),
            node: node.into(),
            volume: Some(name.as_str().into()),
            attached: true,
            ..Default::default()
        });
        claims.push(Claim {
            namespace: "data".into(),
            name: format!("claim-{number}"),
            phase: "Bound".into(),
            volume: Some(name.as_str().into()),
            ..Default::default()
        });
        let requests = Resources { cpu: MilliCpu(200), memory: Bytes::gib(1), ..Default::default() };
        pods.push(Pod {
            namespace: "data".into(),
            name: format!("db-{number}"),
            node: Some(node.into()),
            phase: Phase::Running,
            limits: Resources { memory: Bytes::gib(if on_full { 2 } else { 1 }), ..requests.clone() },
            requests,
            claims: vec![format!("claim-{number}")],
            ..Default::default()
        });
    }
    disks.insert("scsi26".into(), disk("local-lvm:vm-9999-pvc-ghost<script>"));
    let kube = &mut snapshot.kube;
    kube.version = Reading::Known("v1.35.7".into());
    kube.nodes = Reading::Known(vec![worker(FULL, 201), worker(IDLE, 202)]);
    kube.pods = Reading::Known(pods);
    kube.persistent_volumes = Reading::Known(volumes);
    kube.claims = Reading::Known(claims);
    kube.volume_attachments = Reading::Known(attachments);
    let csi = |name: &str| CsiNode {
        name: name.into(),
        drivers: vec![CsiNodeDriver { name: DRIVER.into(), count: Some(28), ..Default::default() }],
    };
    kube.csi_nodes = Reading::Known(vec![csi(FULL), csi(IDLE)]);
    kube.node_metrics = Reading::unknown("metrics.k8s.io: the server could not find the requested resource <404>");
    let memory = HostMemory {
        total: Bytes::gib(128),
        used: Bytes::gib(90),
        free: Bytes::gib(20),
        reported_available: Some(Bytes::gib(31)),
        swap_used: Bytes::gib(1),
        swap_total: Bytes::gib(8),
        shared: Bytes(0),
    };
    let pool = ThinPool {
        name: "pve/data".into(),
        used: Bytes::gib(1440),
        size: Bytes::gib(1700),
        metadata_used: Bytes::gib(5),
        metadata_size: Bytes::gib(15),
    };
    let host = Host {
        name: "pve1".into(),
        online: true,
        memory: Reading::Known(memory),
        cpus: Reading::Known(32),
        pools: Reading::Known(vec![pool]),
        storages: Reading::Known(Vec::new()),
        ..Default::default()
    };
    let idle = Guest { config: Reading::unknown("403: VM.Audit is missing on /vms/202"), ..guest(IDLE, 202, BTreeMap::new()) };
    snapshot.pve = vec![Pve {
        name: "home".into(),
        version: Reading::Known("9.2.11".into()),
        quorate: Reading::Known(true),
        hosts: Reading::Known(vec![host]),
        guests: Reading::Known(vec![guest(FULL, 201, disks), idle]),
        pci_mappings: Reading::Known(Vec::new()),
        failed_tasks: Reading::Known(Vec::new()),
        ..Pve::default()
    }];
    snapshot.sort();
    snapshot
}

/// Thirty days, hourly, with a pause of two days.
fn history() -> History {
    let mut history = History::default();
    let gib = Bytes::gib(1).0 as f64;
    for hour in (0..=30 * 24).filter(|hour| !(300..348).contains(hour)) {
        let at = now() - SignedDuration::from_hours(30 * 24 - hour);
        let day = hour as f64 / 24.0;
        let wave = (day * std::f64::consts::TAU).sin();
        let mut add = |dimension, subject: &str, used: f64, limit: f64| {
            history.insert(Sample { at, dimension, subject: subject.into(), used, limit: Some(limit) });
        };
        add(Dimension::VolumeSlots, FULL, (17.0 + day / 4.0).floor(), 28.0);
        add(Dimension::VolumeAttachments, FULL, (17.0 + day / 4.0).floor(), 28.0);
        add(Dimension::VolumeAttachments, IDLE, if day < 20.0 { 4.0 } else { 2.0 }, 28.0);
        add(Dimension::MemoryRequests, FULL, (20.0 + day / 8.0 + wave / 2.0) * gib, 30.0 * gib);
        add(Dimension::MemoryRequests, IDLE, 2.0 * gib, 30.0 * gib);
        add(Dimension::HostMemoryUsed, "pve1", (92.0 + 3.0 * wave + day / 10.0) * gib, 128.0 * gib);
        add(Dimension::PoolData, "pve1/pve/data", (1300.0 + day * 4.6) * gib, 1700.0 * gib);
    }
    history
}

fn report(history: &History) -> Report {
    let snapshot = snapshot();
    let id = SnapshotId::from("sha256:3f2a9c0d5e6b7a8190a1b2c3d4e5f60718293a4b5c6d7e8f9a0b1c2d3e4f5061");
    build(&snapshot, id, history, &Policy::built_in(), Vec::new())
}

fn rendered() -> String {
    page(&report(&history())).expect("the template fits the report")
}

const SECTIONS: [&str; 10] =
    ["capacity", "charts", "slots", "memory", "rules", "findings", "nodes", "hosts", "unknown", "provenance"];

#[test]
fn every_section_is_there_in_order_with_a_heading() {
    let page = rendered();
    let mut last = 0;
    for section in SECTIONS {
        let place = page.find(&format!("<section id=\"{section}\" aria-labelledby=\"{section}-title\">")).expect(section);
        assert!(place > last, "{section} is out of order");
        assert!(page.contains(&format!("<h2 id=\"{section}-title\">")), "{section} has no heading");
        last = place;
    }
    for text in ["What bites first", "Recommendation", "Rejected", "<main id=\"main\">", "<header>", "<nav ", "<footer>"] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn names_are_escaped_in_text_attributes_and_charts() {
    let page = rendered();
    assert!(page.contains("worker&lt;&amp;&gt;&quot;1"));
    assert!(!page.contains("worker<&"), "a name opens a tag");
    assert!(!page.contains(FULL));
    let charts: Vec<&str> = page.split("<svg").skip(1).map(|rest| rest.split("</svg>").next().expect("closed")).collect();
    assert_eq!(charts.len(), 8, "four charts in two shapes");
    assert!(charts[0].contains("worker&lt;&amp;&gt;"), "the chart names its line");
    assert!(page.contains("pvc-ghost&lt;script&gt;"));
}

#[test]
fn the_page_runs_no_script_and_loads_nothing() {
    let page = rendered().to_lowercase();
    for text in ["<script", "javascript:", "http://", "https://", "src=", "url(", "@import", "<iframe", "<object", "onload"] {
        assert!(!page.contains(text), "{text}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn what_is_not_known_says_so() {
    let page = rendered();
    assert!(page.contains("403: VM.Audit is missing on"));
    assert!(page.contains("could not find the requested resource &lt;404&gt;"));
    assert!(page.contains("aria-label=\"what is in the 29 slots is unknown\""));
    let nodes = page.split("id=\"nodes\"").nth(1).and_then(|rest| rest.split("</section>").next()).expect("nodes");
    assert!(nodes.contains("<span class=\"unknown\">unknown</span>"), "memory in use was not read");
    assert!(!page.contains(">none<"), "a null is shown as such");
}

#[test]
fn an_empty_report_is_all_unknown_and_says_how_to_get_a_history() {
    let snapshot = Snapshot::default();
    let report = build(&snapshot, SnapshotId::default(), &History::default(), &Policy::built_in(), Vec::new());
    let page = page(&report).expect("renders");
    assert!(page.contains("Unknown: no limit could be read"));
    assert!(page.contains("capplan history import"));
    assert!(!page.contains("<svg"));
    let known = Report { unknown: Vec::new(), ..report };
    assert!(capplan::render::html::page(&known).expect("renders").contains("Nothing: all that was asked for could be read."));
}

#[test]
fn slots_are_counted_by_what_is_in_them() {
    let page = rendered();
    let label = "29 slots: CSI volumes 24, ghosts 1, foreign disks 1, free 3";
    assert!(page.contains(label));
}

#[test]
fn chromium_shows_the_page_at_both_widths_and_prints_it() {
    let Some(chromium) = chromium() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI needs Chromium");
        println!("skipped: no Chromium");
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    // No hyphen to break at: the longest name Kubernetes allows in one label.
    let page = rendered().replace(IDLE, &"k".repeat(63));
    let file = directory.path().join("report.html");
    std::fs::write(&file, &page).expect("written");

    for width in [1280, 390] {
        let picture = directory.path().join(format!("{width}.png"));
        let arguments = [
            format!("--window-size={width},1600"),
            format!("--screenshot={}", picture.display()),
            "--hide-scrollbars".to_owned(),
        ];
        let (_, log) = run(&chromium, directory.path(), &arguments, &file);
        assert!(!log.contains("CONSOLE"), "{log}");
        assert!(shades(&picture) > 8, "the picture at {width} px is blank");

        let frame = directory.path().join(format!("frame-{width}.html"));
        std::fs::write(&frame, framed(&page, width)).expect("written");
        let (dom, log) = run(&chromium, directory.path(), &["--window-size=1400,1600".into(), "--dump-dom".into()], &frame);
        assert!(!log.contains("CONSOLE"), "{log}");
        let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).expect("a title");
        let numbers: Vec<f64> = title.split(' ').map(|number| number.parse().expect(title)).collect();
        assert_eq!(numbers[0], f64::from(width), "the frame has the width asked for");
        assert!(numbers[1] <= f64::from(width), "the page is {} px wide in {width}", numbers[1]);
        let boxes: Vec<&[f64]> = numbers[2..].chunks(2).collect();
        assert_eq!(boxes.len(), 4, "one picture of each chart is shown: {title}");
        for size in boxes {
            assert!(size[0] > 200.0 && size[1] > 80.0, "a chart is {size:?} at {width} px");
            assert!(size[0] <= f64::from(width), "a chart is {size:?} at {width} px");
        }
    }

    let paper = directory.path().join("report.pdf");
    let arguments = [format!("--print-to-pdf={}", paper.display()), "--no-pdf-header-footer".to_owned()];
    run(&chromium, directory.path(), &arguments, &file);
    let paper = std::fs::read(&paper).expect("printed");
    assert!(paper.starts_with(b"%PDF-"));
    assert!(paper.windows(12).any(|bytes| bytes.starts_with(b"/Type /Page") && !bytes.ends_with(b"s")), "no page was printed");

    if let Some(keep) = std::env::var_os("CAPPLAN_KEEP_HTML") {
        std::fs::write(keep, rendered()).expect("kept");
    }
}

/// A page that shows `page` in a frame of a true width, because a window is never that narrow, and
/// writes the measures into its title.
fn framed(page: &str, width: u32) -> String {
    let page = page.replace("http-equiv=\"Content-Security-Policy\"", "name=\"policy\"");
    let quoted = page.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        "<!doctype html><title>?</title><iframe width={width} height=900 style='border:0' srcdoc=\"{quoted}\"></iframe><script>
        addEventListener('load', () => {{
            const inner = document.querySelector('iframe').contentDocument;
            const shown = [...inner.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect()).filter(box => box.width);
            const sizes = shown.flatMap(box => [box.width, box.height]);
            const root = inner.documentElement;
            document.title = [inner.defaultView.innerWidth, root.scrollWidth, ...sizes].join(' ');
        }});</script>"
    )
}

fn chromium() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|place| names.map(|name| place.join(name))).find(|file| file.is_file())
}

/// Runs Chromium on `file` for at most a minute; answers stdout and stderr.
fn run(chromium: &Path, directory: &Path, arguments: &[String], file: &Path) -> (String, String) {
    let profile = tempfile::tempdir_in(directory).expect("a profile");
    let mut child = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"])
        .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Chromium starts");
    let drain = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
        })
    };
    let (out, log) = (drain(Box::new(child.stdout.take().expect("piped"))), drain(Box::new(child.stderr.take().expect("piped"))));
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break Some(status);
        }
        if Instant::now() > end {
            child.kill().expect("our child");
            child.wait().expect("our child");
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = |thread: std::thread::JoinHandle<std::io::Result<String>>| thread.join().expect("no panic").expect("readable");
    let (out, log) = (text(out), text(log));
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {log}");
    (out, log)
}

/// Number of different grey values in a picture.
fn shades(picture: &Path) -> usize {
    let file = std::io::BufReader::new(std::fs::File::open(picture).expect("a screenshot"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("fits in memory")];
    let frame = reader.next_frame(&mut pixels).expect("a frame");
    let samples = frame.color_type.samples();
    let greens: std::collections::BTreeSet<u8> =
        pixels[..frame.buffer_size()].chunks(samples).filter_map(|pixel| pixel.get(samples.min(2) - 1)).copied().collect();
    greens.len()
}
