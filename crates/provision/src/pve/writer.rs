//! What changes a Proxmox VE cluster, each change once: nothing here is tried again on its own.
//!
//! A change is done when its task says so, not when its request was answered.

use std::collections::BTreeSet;
use std::sync::Arc;

use capplan_model::ids::VmId;
use capplan_model::units::Bytes;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde::Deserialize;

use super::client::{Envelope, Reader, segment};
use super::error::PveError;
use super::wire::{NodeRow, Permissions};
use crate::lease::Guard;

/// A client that may change what `apply` changes.
#[derive(Clone, Debug)]
pub struct Writer {
    reader: Arc<Reader>,
    guard: Guard,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It is at work; its last line of log, such as `transferred 1.2 GiB of 32.0 GiB (3.75%)`.
    Running {
        /// The line.
        line: String,
    },
    /// It ended well, perhaps with warnings.
    Done {
        /// `OK` or `WARNINGS: n`.
        exit: String,
    },
    /// It failed.
    Failed {
        /// Its own words.
        why: String,
    },
}

#[derive(Deserialize)]
struct Status {
    status: String,
    exitstatus: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    t: String,
}

/// How many lines of a task's log are asked for: enough to hold the last one of a clone.
const LINES: &str = "5000";

impl Writer {
    /// Writes where `reader` reads, as long as `guard` allows it.
    pub fn new(reader: Reader, guard: Guard) -> Self {
        Self { reader: Arc::new(reader), guard }
    }

    /// The client that reads.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Sets options of a VM at once; only for what touches no disk, which takes longer than an answer may.
    ///
    /// # Errors
    /// [`PveError`]; after one the effect may be there or not.
    pub async fn set_options(&self, host: &str, vmid: VmId, options: &[(&str, &str)]) -> Result<(), PveError> {
        let path = format!("/nodes/{}/qemu/{vmid}/config", segment(host));
        self.change(Method::PUT, &path, options).await.map(drop)
    }

    /// Clones a template in full. The task is the template's, not the clone's.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    pub async fn clone(&self, host: &str, template: VmId, form: &[(&str, &str)]) -> Result<String, PveError> {
        self.task(Method::POST, &format!("/nodes/{}/qemu/{template}/clone", segment(host)), form).await
    }

    /// Sets options of a VM as a task: also for what touches disks.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    pub async fn configure(&self, host: &str, vmid: VmId, form: &[(&str, &str)]) -> Result<String, PveError> {
        self.task(Method::POST, &format!("/nodes/{}/qemu/{vmid}/config", segment(host)), form).await
    }

    /// Makes a disk larger.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    pub async fn grow(&self, host: &str, vmid: VmId, slot: &str, bytes: Bytes) -> Result<String, PveError> {
        let path = format!("/nodes/{}/qemu/{vmid}/resize", segment(host));
        let size = format!("{}K", bytes.0.div_ceil(1024));
        self.task(Method::PUT, &path, &[("disk", slot), ("size", &size)]).await
    }

    /// What PVE generates for a VM's cloud-init drive: `user`, `network` or `meta`.
    ///
    /// # Errors
    /// [`PveError`] if that cannot be read.
    pub async fn cloud_init(&self, host: &str, vmid: VmId, part: &str) -> Result<String, PveError> {
        let path = format!("/nodes/{}/qemu/{vmid}/cloudinit/dump", segment(host));
        self.reader.get(&path, &[("type", part)]).await
    }

    /// ISO images on a storage of a host, as `storage:iso/file`.
    ///
    /// # Errors
    /// [`PveError`] if that cannot be read.
    pub async fn images(&self, host: &str, storage: &str) -> Result<Vec<String>, PveError> {
        #[derive(Deserialize)]
        struct Row {
            volid: String,
        }
        let path = format!("/nodes/{}/storage/{}/content", segment(host), segment(storage));
        let rows: Vec<Row> = self.reader.get(&path, &[("content", "iso")]).await?;
        Ok(rows.into_iter().map(|row| row.volid).collect())
    }

    /// Uploads an ISO image; one of the same name is overwritten.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    pub async fn upload(&self, host: &str, storage: &str, file: &str, image: Vec<u8>) -> Result<String, PveError> {
        let path = format!("/nodes/{}/storage/{}/upload", segment(host), segment(storage));
        // The server takes only the fields that come before the file.
        let part = Part::bytes(image).file_name(file.to_owned());
        let form = Form::new().text("content", "iso").part("filename", part);
        let what = format!("POST {path}");
        self.guard.check()?;
        let body = self.reader.change(&what, self.reader.request(Method::POST, &path).multipart(form)).await?;
        upid(what, &body)
    }

    /// Deletes a file of a storage, such as `local:iso/seed.iso`.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    pub async fn delete_file(&self, host: &str, volume: &str) -> Result<String, PveError> {
        let storage = volume.split(':').next().unwrap_or_default();
        let path = format!("/nodes/{}/storage/{}/content/{}", segment(host), segment(storage), segment(volume));
        self.delete(&path, &[]).await
    }

    /// Takes a disk out of a VM's configuration; what it holds stays. A volume that the VM does not own is
    /// let go of, one of its own becomes `unusedN`. `digest` is that of the configuration that was read: another
    /// one refuses it.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    ///
    /// # Source
    /// `vmconfig_register_unused_drive` of qemu-server: only a volume of the VM's own becomes `unusedN`.
    pub async fn take_out(&self, host: &str, vmid: VmId, slot: &str, digest: Option<&str>) -> Result<String, PveError> {
        let form: Vec<(&str, &str)> = [("delete", slot)].into_iter().chain(digest.map(|digest| ("digest", digest))).collect();
        self.configure(host, vmid, &form).await
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    pub async fn start(&self, host: &str, vmid: VmId) -> Result<String, PveError> {
        self.task(Method::POST, &format!("/nodes/{}/qemu/{vmid}/status/start", segment(host)), &[]).await
    }

    /// Asks a VM to shut down; it is never powered off by this.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    pub async fn shut_down(&self, host: &str, vmid: VmId, seconds: u64) -> Result<String, PveError> {
        let path = format!("/nodes/{}/qemu/{vmid}/status/shutdown", segment(host));
        self.task(Method::POST, &path, &[("timeout", &seconds.to_string())]).await
    }

    /// Destroys a stopped VM with the disks that its configuration names as its own, and nothing else.
    ///
    /// # Errors
    /// [`PveError`]; after one the task may be at work or not.
    pub async fn destroy(&self, host: &str, vmid: VmId) -> Result<String, PveError> {
        let path = format!("/nodes/{}/qemu/{vmid}", segment(host));
        self.delete(&path, &[("purge", "1"), ("destroy-unreferenced-disks", "0")]).await
    }

    /// Where a task stands.
    ///
    /// # Errors
    /// [`PveError`] if that cannot be read.
    pub async fn state(&self, upid: &str) -> Result<TaskState, PveError> {
        let host = upid.split(':').nth(1).unwrap_or_default();
        let path = format!("/nodes/{}/tasks/{}", segment(host), segment(upid));
        let status: Status = self.reader.get(&format!("{path}/status"), &[]).await?;
        if status.status == "running" {
            let log: Vec<Line> = self.reader.get(&format!("{path}/log"), &[("limit", LINES)]).await.unwrap_or_default();
            return Ok(TaskState::Running { line: log.into_iter().next_back().map(|line| line.t).unwrap_or_default() });
        }
        let exit = status.exitstatus.unwrap_or_else(|| "no exit status".to_owned());
        // `status_is_error` of PVE::UPID: warnings are no failure.
        let good = exit == "OK" || exit.starts_with("WARNINGS:");
        Ok(if good { TaskState::Done { exit } } else { TaskState::Failed { why: exit } })
    }

    /// A task of this type that is at work right now, on a VM if one is named: one whose request was answered
    /// to nobody.
    ///
    /// # Errors
    /// [`PveError`] if that cannot be read.
    pub async fn at_work(&self, host: &str, vmid: Option<VmId>, kind: &str) -> Result<Option<String>, PveError> {
        #[derive(Deserialize)]
        struct Row {
            upid: String,
        }
        let vmid = vmid.map(|vmid| vmid.to_string());
        let mut query = vec![("typefilter", kind), ("source", "active")];
        query.extend(vmid.as_deref().map(|vmid| ("vmid", vmid)));
        let rows: Vec<Row> = self.reader.get(&format!("/nodes/{}/tasks", segment(host)), &query).await?;
        for row in rows {
            if matches!(self.state(&row.upid).await?, TaskState::Running { .. }) {
                return Ok(Some(row.upid));
            }
        }
        Ok(None)
    }

    /// Privileges of the token on a path, with those that it inherits.
    ///
    /// # Errors
    /// [`PveError`] if that cannot be read.
    pub async fn privileges(&self, path: &str) -> Result<BTreeSet<String>, PveError> {
        let permissions: Permissions = self.reader.get("/access/permissions", &[("path", path)]).await?;
        Ok(permissions.0.into_values().flat_map(|held| held.into_keys().collect::<Vec<_>>()).collect())
    }

    /// Names of the hosts that this endpoint speaks for.
    ///
    /// # Errors
    /// [`PveError`] if that cannot be read.
    pub async fn hosts(&self) -> Result<Vec<String>, PveError> {
        let rows: Vec<NodeRow> = self.reader.get("/nodes", &[]).await?;
        Ok(rows.into_iter().filter_map(|row| row.node).collect())
    }

    async fn task(&self, method: Method, path: &str, form: &[(&str, &str)]) -> Result<String, PveError> {
        let what = format!("{method} {path}");
        upid(what, &self.change(method, path, form).await?)
    }

    /// A DELETE takes its parameters in the query: a body is refused.
    async fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<String, PveError> {
        let what = format!("DELETE {path}");
        let request = self.reader.request(Method::DELETE, path);
        let request = if query.is_empty() { request } else { request.query(query) };
        self.guard.check()?;
        upid(what.clone(), &self.reader.change(&what, request).await?)
    }

    async fn change(&self, method: Method, path: &str, form: &[(&str, &str)]) -> Result<Vec<u8>, PveError> {
        let what = format!("{method} {path}");
        self.guard.check()?;
        self.reader.change(&what, self.reader.request(method, path).form(form)).await
    }
}

/// The task that an answer names.
fn upid(request: String, body: &[u8]) -> Result<String, PveError> {
    match serde_json::from_slice::<Envelope<String>>(body) {
        Ok(envelope) => Ok(envelope.data),
        Err(error) => Err(PveError::Decode { request, source: error.to_string().into() }),
    }
}
