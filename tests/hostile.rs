//! A server that is slow, endless, too large or nonsense, in place of each of the three APIs: it is named with its
//! request, in bounded time and memory, and nothing is concluded from it.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use support::{KUBE_TOKEN, PROMETHEUS_TOKEN, PVE_TOKEN, Server, World, idle_cluster};

/// Seconds that a request may take, and a whole reading.
const READ: u64 = 2;
const OBSERVE: u64 = 8;
/// Bytes of one answer.
const BYTES: u64 = 8 << 20;
/// Longest that a command may take: readings, connecting, and what a busy machine adds.
const PATIENCE: Duration = Duration::from_secs(6 * OBSERVE);
/// Peak memory of a command, in KiB: a hundred times less than what is sent.
const MEMORY: u64 = 400 << 10;

static FILL: [u8; 1 << 20] = [b' '; 1 << 20];

/// How a server misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Takes the connection and says nothing.
    Silent,
    /// A byte of the head, or of the body, every 100 ms.
    DripHead,
    DripBody,
    /// The body stops after its first byte.
    StallBody,
    /// A body that never ends, or that is announced as 10 GB.
    Endless,
    Announced,
    /// 256 MiB of blanks in a quarter of a megabyte.
    GzipBomb,
    /// A head that never ends.
    HugeHead,
    /// Text that is no UTF-8, no JSON, nothing, or another JSON.
    NotUtf8,
    Html,
    Empty,
    Null,
    /// A million brackets.
    Deep,
    /// Chunks without a length; one byte and the end.
    BadChunk,
    OneByte,
    /// To itself, for ever.
    Redirect,
    /// Repeats the request's own head in its error.
    Echo,
    /// 500 for everything.
    Broken,
}

const MODES: [Mode; 18] = [
    Mode::Silent,
    Mode::DripHead,
    Mode::DripBody,
    Mode::StallBody,
    Mode::Endless,
    Mode::Announced,
    Mode::GzipBomb,
    Mode::HugeHead,
    Mode::NotUtf8,
    Mode::Html,
    Mode::Empty,
    Mode::Null,
    Mode::Deep,
    Mode::BadChunk,
    Mode::OneByte,
    Mode::Redirect,
    Mode::Echo,
    Mode::Broken,
];

/// 256 MiB of blanks, compressed once.
fn bomb() -> &'static [u8] {
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    BOMB.get_or_init(|| {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
        (0..256).for_each(|_| bomb.write_all(&FILL).expect("a Vec takes every write"));
        bomb.finish().expect("a Vec takes every write")
    })
}

/// Starts a server that lives as long as the test; its threads end with their connections.
fn hostile(mode: Mode) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    bomb();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(misbehave(stream, mode)));
        }
    });
    url
}

fn misbehave(mut stream: TcpStream, mode: Mode) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        head.clear();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let ok = |extra: &str, body: &[u8]| {
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{extra}Content-Length: {length}\r\n\r\n");
            [head.into_bytes(), body.to_vec()].concat()
        };
        let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let drip = |stream: &mut TcpStream, byte: u8| -> std::io::Result<()> {
            loop {
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        match mode {
            Mode::Silent => std::thread::sleep(PATIENCE),
            Mode::DripHead => {
                stream.write_all(format!("{json}X-Fill: ").as_bytes())?;
                drip(&mut stream, b'a')?;
            }
            Mode::DripBody => {
                stream.write_all(format!("{json}Content-Length: 100000\r\n\r\n").as_bytes())?;
                drip(&mut stream, b' ')?;
            }
            Mode::StallBody => {
                stream.write_all(format!("{json}Content-Length: 100000\r\n\r\n{{").as_bytes())?;
                std::thread::sleep(PATIENCE);
            }
            Mode::Endless => {
                stream.write_all(format!("{json}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
                loop {
                    stream.write_all(b"100000\r\n")?;
                    stream.write_all(&FILL)?;
                    stream.write_all(b"\r\n")?;
                }
            }
            Mode::Announced => {
                stream.write_all(format!("{json}Content-Length: 10737418240\r\n\r\n{{\"data\":[\"").as_bytes())?;
                loop {
                    stream.write_all(&FILL)?;
                }
            }
            Mode::GzipBomb => stream.write_all(&ok("Content-Encoding: gzip\r\n", bomb()))?,
            Mode::HugeHead => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
                let line = format!("X-Fill: {}\r\n", "a".repeat(1000));
                loop {
                    stream.write_all(line.as_bytes())?;
                }
            }
            Mode::NotUtf8 => stream.write_all(&ok("", b"{\"data\":\"\xff\xfe\xc3\x28\",\"gitVersion\":\"\xff\"}"))?,
            Mode::Html => stream.write_all(&ok("", b"<html>hi</html>"))?,
            Mode::Empty => stream.write_all(&ok("", b""))?,
            Mode::Null => stream.write_all(&ok("", b"{\"data\":null}"))?,
            Mode::Deep => {
                let deep = ["{\"data\":", &"[".repeat(1_000_000), &"]".repeat(1_000_000), "}"].concat();
                stream.write_all(&ok("", deep.as_bytes()))?;
            }
            Mode::BadChunk => stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n")?,
            Mode::OneByte => {
                stream.write_all(b"H")?;
                return Ok(());
            }
            Mode::Redirect => stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")?,
            Mode::Echo => {
                let body = format!("{{\"message\":{:?}}}", String::from_utf8_lossy(&head));
                let head = format!("HTTP/1.1 500 Bad\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(head.as_bytes())?;
            }
            Mode::Broken => stream.write_all(b"HTTP/1.1 500 Bad\r\nContent-Length: 16\r\n\r\n{\"message\":\"no\"}")?,
        }
    }
}

/// Runs a command to its end, in bounded time and memory: its exit code and everything it said.
fn bounded(world: &World, arguments: &[&str], said: &str) -> (i32, String) {
    let begun = Instant::now();
    let (out, err) = (world.path("said.out"), world.path("said.err"));
    let file = |path| std::fs::File::create(path).expect("a file of ours");
    let mut command = world.command(arguments);
    let mut child = command.stdout(file(&out)).stderr(file(&err)).stdin(Stdio::null()).spawn().expect("it starts");
    let mut peak = 0;
    let code = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status.code().expect("it ends on its own");
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = peak.max(line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default());
        if begun.elapsed() > PATIENCE {
            drop(child.kill());
            drop(child.wait());
            panic_with(said, "it did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(peak < MEMORY, "{said}: {peak} KiB at its peak");
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).expect("a file of ours")).into_owned();
    (code, read(&out) + &read(&err))
}

fn panic_with(said: &str, what: &str) -> ! {
    unreachable!("{said}: {what}")
}

/// A world with a healthy cluster, whose answers are waited for as long as the tests can.
fn world(server: &Server) -> World {
    let mut world = server.world();
    world
        .set("CAPPLAN_READ_TIMEOUT", READ.to_string())
        .set("CAPPLAN_OBSERVE_TIMEOUT", OBSERVE.to_string())
        .set("CAPPLAN_READ_BYTES", BYTES.to_string());
    world
}

/// Runs a test for every mode, several at once: most of their time they wait.
fn in_every_mode(test: impl Fn(Mode) + Sync) {
    for modes in MODES.chunks(6) {
        std::thread::scope(|scope| {
            for mode in modes {
                let test = &test;
                scope.spawn(move || test(*mode));
            }
        });
    }
}

fn no_secret(said: &str, text: &str) {
    for secret in [KUBE_TOKEN, PVE_TOKEN, PROMETHEUS_TOKEN, "0b1c2d3e-4f50-pve-key"] {
        assert!(!text.contains(secret), "{said}: a secret was said: {text}");
    }
    assert!(!text.contains("panicked"), "{said}: {text}");
}

#[test]
fn a_kubernetes_that_misbehaves_is_named_and_nothing_is_concluded() {
    let server = Server::start(idle_cluster);
    in_every_mode(|mode| {
        let mut world = world(&server);
        world.kubeconfig(&hostile(mode), None, KUBE_TOKEN);
        let said = format!("Kubernetes {mode:?}");
        let (code, text) = bounded(&world, &["report", "--check"], &said);
        no_secret(&said, &text);
        assert!([1, 6].contains(&code), "{said}: {code}: {text}");
        let (code, text) = bounded(&world, &["plan"], &said);
        no_secret(&said, &text);
        assert!(code != 0, "{said}: a plan was made: {text}");
    });
}

#[test]
fn a_proxmox_that_misbehaves_is_named_and_nothing_is_concluded() {
    let server = Server::start(idle_cluster);
    in_every_mode(|mode| {
        let mut world = world(&server);
        world.set("CAPPLAN_PVE_URL", hostile(mode));
        let said = format!("Proxmox VE {mode:?}");
        let (code, text) = bounded(&world, &["report", "--check"], &said);
        no_secret(&said, &text);
        assert!([1, 6].contains(&code), "{said}: {code}: {text}");
        let (code, text) = bounded(&world, &["doctor"], &said);
        no_secret(&said, &text);
        assert_eq!(code, 1, "{said}: {text}");
    });
}

#[test]
fn a_prometheus_that_misbehaves_is_named_and_brings_no_sample() {
    let server = Server::start(idle_cluster);
    in_every_mode(|mode| {
        let mut world = world(&server);
        world.set("CAPPLAN_PROMETHEUS_URL", hostile(mode)).set("CAPPLAN_PROMETHEUS_TOKEN", PROMETHEUS_TOKEN);
        let said = format!("Prometheus {mode:?}");
        let (code, text) = bounded(&world, &["history", "import", "--days", "3"], &said);
        no_secret(&said, &text);
        assert!(code != 0, "{said}: {text}");
        assert!(text.contains("volume_attachments") || text.contains("Prometheus"), "{said}: {text}");
    });
}

#[test]
fn what_is_slow_is_named_with_its_request_and_the_way_out() {
    let server = Server::start(idle_cluster);
    let mut world = world(&server);
    world.kubeconfig(&hostile(Mode::DripBody), None, KUBE_TOKEN);
    let (_, text) = bounded(&world, &["plan"], "drip");
    assert!(text.contains("GET /version") && text.contains("no whole answer within 2 s"), "{text}");
    world.kubeconfig(&hostile(Mode::GzipBomb), None, KUBE_TOKEN);
    let (_, text) = bounded(&world, &["plan"], "bomb");
    assert!(text.contains("larger than 8388608 bytes"), "{text}");
    for wrong in ["0", "-1", "2s", "", "99999999999999999999"] {
        world.set("CAPPLAN_READ_TIMEOUT", wrong);
        let (code, text) = bounded(&world, &["plan"], wrong);
        let fine = wrong.is_empty();
        assert!(fine || code == 2 && text.contains("CAPPLAN_READ_TIMEOUT"), "{wrong}: {code}: {text}");
    }
}

#[test]
fn an_exec_plugin_that_hangs_is_ended_and_what_it_says_stays_secret() {
    let server = Server::start(idle_cluster);
    let mut world = world(&server);
    let plugin = world.write("plugin", "");
    let with = |world: &mut World, script: &str| {
        std::fs::write(&plugin, format!("#!/bin/sh\n{script}\n")).expect("writable");
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).expect("ours");
        let exec = format!("{{apiVersion: client.authentication.k8s.io/v1, command: {plugin:?}, interactiveMode: Never}}");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: t\nclusters: [{{name: t, cluster: {{server: {:?}}}}}]\n\
             users: [{{name: t, user: {{exec: {exec}}}}}]\ncontexts: [{{name: t, context: {{cluster: t, user: t}}}}]\n",
            server.url
        );
        let path = world.write("kubeconfig", text);
        world.set("KUBECONFIG", path);
    };
    let credential = format!(
        "echo '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{{\"token\":\"{KUBE_TOKEN}\"}}}}'"
    );
    with(&mut world, &credential);
    let (code, text) = bounded(&world, &["report", "--format", "json"], "a plugin that works");
    assert_eq!(code, 0, "{text}");
    // It hangs, and so does what it started, which holds its output open.
    with(&mut world, "sleep 100 & sleep 100");
    let (code, text) = bounded(&world, &["report"], "a plugin that hangs");
    assert!(code == 1 && text.contains("exec plugin"), "{code}: {text}");
    // What it printed before it failed is the credential.
    with(&mut world, &format!("{credential}; exit 3"));
    let (code, text) = bounded(&world, &["report"], "a plugin that fails");
    no_secret("a plugin that fails", &text);
    assert!(code == 1 && text.contains("exec plugin"), "{code}: {text}");
    with(&mut world, &format!("echo {KUBE_TOKEN}"));
    let (code, text) = bounded(&world, &["report"], "a plugin that says nonsense");
    no_secret("a plugin that says nonsense", &text);
    assert_eq!(code, 1, "{text}");
}
