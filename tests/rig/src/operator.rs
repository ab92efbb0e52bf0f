//! An administrator of the PVE host: requests by hand, followed to the end of their tasks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Method, RequestBuilder, multipart};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::process::run;
use crate::{Failure, components, failure};

const PATIENCE: Duration = Duration::from_secs(30);

/// A client of the double's PVE API.
#[derive(Clone, Debug)]
pub struct Operator {
    address: String,
    client: Client,
    runtime: Arc<Mutex<Runtime>>,
}

impl Operator {
    pub(crate) fn new(address: &str, certificate: &Path, token: &str) -> Result<Self, Failure> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure("cannot start a runtime"))?;
        let pem = std::fs::read(certificate).map_err(failure("cannot read the double's certificate"))?;
        let root = Certificate::from_pem(&pem).map_err(failure("cannot use the double's certificate"))?;
        let mut headers = HeaderMap::new();
        let mut value = HeaderValue::from_str(&format!("PVEAPIToken={token}")).map_err(failure("cannot use the token"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        let client = Client::builder().no_proxy().tls_certs_only([root]).default_headers(headers).build();
        let client = client.map_err(failure("cannot make a client"))?;
        Ok(Self { address: format!("{address}/api2/json"), client, runtime: Arc::new(Mutex::new(runtime)) })
    }

    fn send(&self, what: &str, request: RequestBuilder) -> Result<Value, Failure> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).block_on(async {
            let answer = request.send().await.map_err(failure(what.to_owned()))?;
            let status = answer.status();
            let text = answer.text().await.map_err(failure(what.to_owned()))?;
            if !status.is_success() {
                return Err(Failure::new(format!("{what}: {status}: {text}")));
            }
            let mut body: Value = serde_json::from_str(&text).map_err(failure(what.to_owned()))?;
            Ok(body["data"].take())
        })
    }

    /// Reads a path such as `/nodes/pve1/qemu/101/config`.
    ///
    /// # Errors
    /// The API refuses.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(&format!("GET {path}"), self.client.get(format!("{}{path}", self.address)))
    }

    /// Makes a change; if it is a task, waits for its end.
    ///
    /// # Errors
    /// The API refuses, or the task fails.
    pub fn change(&self, method: Method, path: &str, form: &[(&str, &str)]) -> Result<Value, Failure> {
        let what = format!("{method} {path}");
        let request = self.client.request(method.clone(), format!("{}{path}", self.address));
        let request = if method == Method::DELETE { request.query(form) } else { request.form(form) };
        let answer = self.send(&what, request)?;
        self.follow(&what, answer)
    }

    /// Changes a VM's configuration.
    ///
    /// # Errors
    /// As [`Operator::change`].
    pub fn configure(&self, host: &str, vmid: u32, form: &[(&str, &str)]) -> Result<(), Failure> {
        self.change(Method::POST, &format!("/nodes/{host}/qemu/{vmid}/config"), form).map(drop)
    }

    /// Starts or stops a VM: `start`, `stop`, `shutdown` …
    ///
    /// # Errors
    /// As [`Operator::change`].
    pub fn power(&self, host: &str, vmid: u32, what: &str) -> Result<(), Failure> {
        self.change(Method::POST, &format!("/nodes/{host}/qemu/{vmid}/status/{what}"), &[]).map(drop)
    }

    /// Uploads a NoCloud image with these files, and gives it to the VM as its CD-ROM.
    ///
    /// # Errors
    /// The image cannot be made, or as [`Operator::change`].
    pub fn seed(&self, host: &str, vmid: u32, files: &[(&str, &str)]) -> Result<(), Failure> {
        let image = image(files)?;
        let name = format!("seed-{vmid}.iso");
        let form =
            multipart::Form::new().text("content", "iso").part("filename", multipart::Part::bytes(image).file_name(name.clone()));
        let path = format!("/nodes/{host}/storage/local/upload");
        let answer = self.send("upload", self.client.post(format!("{}{path}", self.address)).multipart(form))?;
        self.follow("upload", answer)?;
        self.configure(host, vmid, &[("ide2", &format!("local:iso/{name},media=cdrom"))])
    }

    fn follow(&self, what: &str, answer: Value) -> Result<Value, Failure> {
        let Some(upid) = answer.as_str().filter(|text| text.starts_with("UPID:")) else { return Ok(answer) };
        let host = upid.split(':').nth(1).unwrap_or_default();
        let path = format!("/nodes/{host}/tasks/{}/status", upid.replace(':', "%3A").replace('@', "%40").replace('!', "%21"));
        let start = Instant::now();
        loop {
            let task = self.get(&path)?;
            match (task["status"].as_str(), task["exitstatus"].as_str()) {
                (Some("stopped"), Some("OK")) => return Ok(json!(upid)),
                (Some("stopped"), why) => return Err(Failure::new(format!("{what}: task failed: {}", why.unwrap_or_default()))),
                _ if start.elapsed() > PATIENCE => return Err(Failure::new(format!("{what}: task still runs"))),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// An ISO 9660 image labelled `cidata`.
fn image(files: &[(&str, &str)]) -> Result<Vec<u8>, Failure> {
    let folder = tempfile::tempdir_in(components::folder()?).map_err(failure("cannot make a folder"))?;
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).map_err(failure("cannot write a file of the image"))?;
    }
    let image: PathBuf = folder.path().join("seed.iso");
    let program = components::sources().join("pve/make_seed.py");
    run(Command::new(components::double_python()?).arg(program).arg(folder.path()).arg(&image))?;
    std::fs::read(&image).map_err(failure("cannot read the image"))
}
