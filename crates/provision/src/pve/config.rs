//! The configuration of a guest: from PVE's property strings to the model.
//!
//! Passwords, keys, `args` and descriptions are dropped here and go nowhere.

use std::collections::BTreeMap;

use capplan_model::pve::{Disk, GuestConfig, GuestKind};
use capplan_model::units::Bytes;

use super::wire::{Options, is_true};

/// Memory of a guest whose configuration does not name it, in MiB.
///
/// # Source
/// `default => 512` of `memory` in `PVE/QemuServer.pm` and `PVE/LXC/Config.pm`.
const DEFAULT_MEMORY: u64 = 512;
/// Prefixes of the keys of a VM's disks; a number follows.
const QEMU_DISKS: [&str; 6] = ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate"];
/// Options without a number that the model or a report of pending changes uses.
const KEPT: [&str; 14] = [
    "name", "hostname", "memory", "balloon", "cores", "sockets", "vcpus", "onboot", "startup", "scsihw", "agent", "smbios1",
    "rootfs", "swap",
];
/// Options with a number that the model or a report of pending changes uses.
const KEPT_NUMBERED: [&str; 5] = ["unused", "hostpci", "ipconfig", "net", "mp"];

/// Splits `a,b=c` into keys and values; a value without a key has the key `""`.
pub(super) fn properties(text: &str) -> Vec<(&str, &str)> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('=') {
            // A path may hold `=`; keys are words.
            Some((key, value)) if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') => {
                (key, value)
            }
            Some(_) | None => ("", part),
        })
        .collect()
}

/// The value of a key of a property string.
pub(crate) fn property<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    properties(text).into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// The number of `key` if it is `prefix` and a number.
fn index(key: &str, prefix: &str) -> Option<u32> {
    let digits = key.strip_prefix(prefix)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn is_disk(key: &str, kind: GuestKind) -> bool {
    match kind {
        GuestKind::Qemu => QEMU_DISKS.iter().any(|prefix| index(key, prefix).is_some()),
        GuestKind::Lxc => key == "rootfs" || index(key, "mp").is_some(),
    }
}

/// Reads a size such as `32G` or `3584M`.
///
/// # Source
/// `PVE::JSONSchema::parse_size`: `K`, `M`, `G`, `T` are powers of 1024, none is bytes.
fn size(text: &str) -> Option<Bytes> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor).map(Bytes),
        Err(_) => {
            number.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| Bytes((number * factor as f64) as u64))
        }
    }
}

fn disk(text: &str) -> Disk {
    let mut disk = Disk::default();
    for (key, value) in properties(text) {
        match key {
            // `file` for VMs and `volume` for containers are the keys that may be left out.
            "" | "file" | "volume" if disk.volume.is_empty() => disk.volume = value.to_owned(),
            "size" => disk.size = size(value),
            "media" => disk.cdrom = value == "cdrom",
            "discard" => disk.discard = value == "on",
            _ => {}
        }
    }
    disk
}

fn device(text: &str) -> Option<String> {
    match property(text, "mapping") {
        Some(mapping) => Some(format!("mapping={mapping}")),
        None => property(text, "").or_else(|| property(text, "host")).map(str::to_owned),
    }
}

fn addresses(text: &str) -> impl Iterator<Item = String> {
    let addresses = properties(text).into_iter().filter(|(key, _)| matches!(*key, "ip" | "ip6"));
    addresses.filter_map(|(_, value)| {
        let (address, prefix) = value.split_once('/').map_or((value, None), |(address, prefix)| (address, Some(prefix)));
        // `dhcp`, `auto` and `manual` are no addresses.
        let address = address.parse::<std::net::IpAddr>().ok()?;
        let prefix = prefix.and_then(|prefix| prefix.parse::<u8>().ok());
        Some(prefix.map_or_else(|| address.to_string(), |prefix| format!("{address}/{prefix}")))
    })
}

fn gateway(text: &str) -> Option<String> {
    Some(property(text, "gw")?.parse::<std::net::IpAddr>().ok()?.to_string())
}

/// What capplan writes into the description of a VM that a plan made, before the plan's id.
pub(crate) const MARK: &str = "made by capplan, plan ";

/// The plan that a description names.
fn marked(description: &str) -> Option<String> {
    let line = description.lines().find_map(|line| Some(line.split_once(MARK)?.1))?;
    Some(line.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Values of the keys `prefix0`, `prefix1` …, by number.
fn numbered<'a>(options: &'a BTreeMap<String, String>, prefix: &str) -> BTreeMap<u32, &'a str> {
    options.iter().filter_map(|(key, value)| Some((index(key, prefix)?, value.as_str()))).collect()
}

/// What the model keeps of a configuration.
///
/// `cpus` stands in for the cores of a container that may use all of its host's.
pub(super) fn guest_config(options: &Options, kind: GuestKind, cpus: u64) -> GuestConfig {
    let options = &options.0;
    let value = |key: &str| options.get(key).map(String::as_str);
    let number = |key: &str| value(key).and_then(|text| text.trim().parse::<u64>().ok());
    let mebibytes = |count: u64| Bytes(count.saturating_mul(1 << 20));
    let memory = number("memory").or_else(|| property(value("memory")?, "current")?.parse().ok()).unwrap_or(DEFAULT_MEMORY);
    let (name, cores, address_key) = match kind {
        GuestKind::Qemu => ("name", number("cores").unwrap_or(1).saturating_mul(number("sockets").unwrap_or(1)), "ipconfig"),
        GuestKind::Lxc => ("hostname", number("cores").unwrap_or(cpus.max(1)), "net"),
    };
    GuestConfig {
        name: value(name).unwrap_or_default().to_owned(),
        memory: mebibytes(memory),
        balloon: number("balloon").map(mebibytes),
        cores,
        on_boot: value("onboot").is_some_and(is_true),
        uuid: value("smbios1").and_then(|text| property(text, "uuid")).map(str::to_owned),
        disks: options.iter().filter(|(key, _)| is_disk(key, kind)).map(|(key, text)| (key.clone(), disk(text))).collect(),
        unused: options
            .iter()
            .filter(|(key, _)| index(key, "unused").is_some())
            .map(|(key, text)| (key.clone(), disk(text).volume))
            .collect(),
        host_pci: numbered(options, "hostpci").into_values().filter_map(device).collect(),
        addresses: numbered(options, address_key).into_values().flat_map(addresses).collect(),
        gateway: numbered(options, address_key).into_values().find_map(gateway),
        net0: value("net0").filter(|_| kind == GuestKind::Qemu).map(str::to_owned),
        nameserver: value("nameserver").map(str::to_owned),
        searchdomain: value("searchdomain").map(str::to_owned),
        cicustom: value("cicustom").map(str::to_owned),
        made_by: value("description").and_then(marked),
        startup: value("startup").map(str::to_owned),
        scsi_hardware: value("scsihw").map(str::to_owned),
        agent: value("agent").is_some_and(|text| property(text, "enabled").or_else(|| property(text, "")).is_some_and(is_true)),
        digest: value("digest").map(str::to_owned),
        protection: value("protection").is_some_and(is_true),
    }
}

/// Volumes that a configuration names, by slot, `unusedN` or `vmstate`: what a snapshot holds on to.
pub(super) fn volumes(options: &Options, kind: GuestKind) -> BTreeMap<String, String> {
    let names = |key: &str| is_disk(key, kind) || index(key, "unused").is_some() || key == "vmstate";
    options.0.iter().filter(|(key, _)| names(key)).map(|(key, text)| (key.clone(), disk(text).volume)).collect()
}

/// Changes that wait for a restart, of the options that are kept: key → new value or removal.
pub(super) fn pending(now: &Options, merged: &Options) -> BTreeMap<String, Option<String>> {
    let is_kept = |key: &str| {
        KEPT.contains(&key) || is_disk(key, GuestKind::Qemu) || KEPT_NUMBERED.iter().any(|prefix| index(key, prefix).is_some())
    };
    let set =
        merged.0.iter().filter(|(key, value)| now.0.get(*key) != Some(value)).map(|(key, value)| (key, Some(value.clone())));
    let removed = now.0.keys().filter(|key| !merged.0.contains_key(*key)).map(|key| (key, None));
    set.chain(removed).filter(|(key, _)| is_kept(key)).map(|(key, value)| (key.clone(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        Options(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_disk_is_read_from_its_property_string() {
        let one = disk("store:101/vm-101-disk-0.qcow2,discard=on,size=20G,ssd=1");
        assert_eq!(
            (one.volume.as_str(), one.size, one.discard, one.cdrom),
            ("store:101/vm-101-disk-0.qcow2", Some(Bytes::gib(20)), true, false)
        );
        let one = disk("file=local-lvm:vm-201-cloudinit,media=cdrom,size=4M");
        assert_eq!((one.volume.as_str(), one.size, one.cdrom), ("local-lvm:vm-201-cloudinit", Some(Bytes(4 << 20)), true));
        let one = disk("size=8G,volume=local-lvm:vm-105-disk-0");
        assert_eq!((one.volume.as_str(), one.size), ("local-lvm:vm-105-disk-0", Some(Bytes::gib(8))));
        assert_eq!(disk("none,media=cdrom").volume, "none");
        assert_eq!(disk("/dev/disk/by-id/a=b,size=1T").volume, "/dev/disk/by-id/a=b");
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [("512", 512), ("4K", 4096), ("3584M", 3584 << 20), ("1.5G", 3 << 29), ("2T", 2 << 40)] {
            assert_eq!(size(text), Some(Bytes(bytes)), "{text}");
        }
        for text in ["", "G", "5GB", "1.2.3G", "-1G", "99999999999T"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_vm_without_memory_and_cores_has_the_defaults() {
        let config = guest_config(&options(&[("lock", "clone")]), GuestKind::Qemu, 0);
        assert_eq!((config.memory, config.cores, config.agent, config.balloon), (Bytes(512 << 20), 1, false, None));
        let config = guest_config(&options(&[("cores", "4"), ("sockets", "2"), ("memory", "current=4096")]), GuestKind::Qemu, 0);
        assert_eq!((config.memory, config.cores), (Bytes::gib(4), 8));
    }

    #[test]
    fn nothing_secret_is_kept() {
        let secret = [("cipassword", "hunter2"), ("sshkeys", "hunter2"), ("args", "hunter2"), ("description", "hunter2")];
        let config = guest_config(&options(&secret), GuestKind::Qemu, 0);
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(pending(&options(&[]), &options(&secret)).is_empty());
        assert!(pending(&options(&secret), &options(&[])).is_empty());
    }

    #[test]
    fn pending_changes_are_told_by_key() {
        let now = options(&[("cores", "4"), ("memory", "4096"), ("scsi3", "a:b"), ("net0", "virtio=x")]);
        let merged = options(&[("cores", "2"), ("memory", "4096"), ("net0", "virtio=y"), ("unused0", "a:b")]);
        let expected = [("cores", Some("2")), ("net0", Some("virtio=y")), ("scsi3", None), ("unused0", Some("a:b"))];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.map(str::to_owned)));
        assert_eq!(pending(&now, &merged), BTreeMap::from(expected));
    }

    #[test]
    fn disks_devices_and_addresses_are_found_by_their_keys() {
        let config = guest_config(
            &options(&[
                ("scsi0", "l:a"),
                ("scsihw", "virtio-scsi-pci"),
                ("virtiofs0", "dir1"),
                ("efidisk0", "l:b,size=528K"),
                ("unused0", "l:c"),
                ("hostpci10", "mapping=gpu0,pcie=1"),
                ("hostpci9", "0000:01:00.0,pcie=1"),
                ("ipconfig0", "ip=10.0.20.101/22,gw=10.0.20.1,ip6=auto"),
                ("ipconfig1", "ip=dhcp"),
                ("agent", "enabled=1,fstrim_cloned_disks=1"),
                ("smbios1", "uuid=0A-1,serial=eA==,base64=1"),
                ("onboot", "1"),
            ]),
            GuestKind::Qemu,
            0,
        );
        assert_eq!(config.disks.keys().collect::<Vec<_>>(), ["efidisk0", "scsi0"]);
        assert_eq!(config.unused, BTreeMap::from([("unused0".to_owned(), "l:c".to_owned())]));
        assert_eq!(config.host_pci, ["0000:01:00.0", "mapping=gpu0"]);
        assert_eq!(config.addresses, ["10.0.20.101/22"]);
        assert_eq!(config.gateway.as_deref(), Some("10.0.20.1"));
        assert_eq!(config.uuid.as_deref(), Some("0A-1"));
        assert!(config.agent && config.on_boot);
    }

    #[test]
    fn a_container_has_a_root_volume_and_mount_points() {
        let config = guest_config(
            &options(&[
                ("rootfs", "l:vm-105-disk-0,size=8G"),
                ("mp0", "l:vm-105-disk-1,mp=/x,size=1G"),
                ("hostname", "ct"),
                ("memory", "1024"),
                ("net0", "name=eth0,ip=10.0.0.7/24"),
            ]),
            GuestKind::Lxc,
            16,
        );
        assert_eq!(config.disks.keys().collect::<Vec<_>>(), ["mp0", "rootfs"]);
        assert_eq!((config.name.as_str(), config.memory, config.cores), ("ct", Bytes::gib(1), 16));
        assert_eq!((config.addresses, config.gateway), (vec!["10.0.0.7/24".to_owned()], None));
    }

    #[test]
    fn any_text_is_read_without_a_panic() {
        for text in ["", ",", "=", "a=", "=,=", "é=ü", "size=", ",,size=1G", "scsi"] {
            let _ = (disk(text), device(text), addresses(text).count(), size(text), index(text, "scsi"));
        }
        assert_eq!(index("scsi", "scsi"), None);
    }
}
