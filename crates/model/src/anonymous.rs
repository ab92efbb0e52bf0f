//! A snapshot without what names a household: the same structure under stable pseudonyms.
//!
//! Every text is taken apart at the characters that join parts of it. A part stays if it is a word of Kubernetes, of
//! Proxmox VE or of the storage plugin, or a number; everything else becomes a pseudonym. What is not known to be
//! harmless is replaced, so a new field cannot leak by being forgotten. One part has the same pseudonym everywhere and in
//! every snapshot of the cluster, so that references hold and two snapshots can be compared.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};
use sha2::{Digest, Sha256};

use crate::snapshot::Snapshot;

/// Characters between the parts of a text.
const SEPARATORS: &str = "/:,;=^+% \t\n\"'`()[]{}<>|@!?&*#~$\\";

/// Words that stay, if they are a whole part.
///
/// # Source
/// Kubernetes: well-known labels, taints and resources, phases, kinds and reasons of `k8s.io/api`. Proxmox VE: types of
/// storages and tasks, states, and content kinds of its API schema. The plugin's own labels and driver.
const WORDS: &str = include_str!("anonymous.words");

/// Pseudonyms of one cluster.
#[derive(Debug)]
struct Pseudonyms {
    /// [`WORDS`], one by one.
    words: BTreeSet<&'static str>,
    /// Makes a pseudonym that nobody can find by trying names.
    salt: String,
    /// Who has a pseudonym: two parts never share one.
    taken: BTreeMap<String, String>,
}

impl Pseudonyms {
    fn of(salt: &str) -> Self {
        Self { words: WORDS.split_ascii_whitespace().collect(), salt: salt.to_owned(), taken: BTreeMap::new() }
    }

    /// Hash of a part, `turn` times another one.
    fn digest(&self, part: &str, turn: u32) -> [u8; 32] {
        Sha256::digest(format!("{}\n{turn}\n{part}", self.salt)).into()
    }

    /// The pseudonym that `make` gives a part, and no other part has.
    fn unique(&mut self, part: &str, make: impl Fn([u8; 32]) -> String) -> String {
        let mut turn = 0;
        loop {
            let name = make(self.digest(part, turn));
            let owner = self.taken.entry(name.clone()).or_insert_with(|| part.to_owned());
            if owner == part {
                return name;
            }
            turn += 1;
        }
    }

    fn text(&mut self, text: &str) -> String {
        if text.parse::<Timestamp>().is_ok() {
            return text.to_owned();
        }
        if let Ok(address) = text.split('/').next().unwrap_or_default().parse::<Ipv6Addr>() {
            let rest = text.split_once('/').map(|(_, length)| format!("/{length}")).unwrap_or_default();
            return format!("{}{rest}", self.v6(address));
        }
        let mut out = String::new();
        let mut part = String::new();
        for c in text.chars().chain([' ']) {
            if !SEPARATORS.contains(c) {
                part.push(c);
                continue;
            }
            out.push_str(&self.part(&part));
            out.push(c);
            part.clear();
        }
        out.pop();
        out
    }

    /// A part between two separators.
    fn part(&mut self, part: &str) -> String {
        if part.is_empty() || self.words.contains(part) {
            return part.to_owned();
        }
        if let Ok(address) = part.parse::<Ipv4Addr>() {
            return self.v4(address);
        }
        if is_uuid(part) {
            return self.unique(part, |hash| {
                let hex = hex(&hash[..16]);
                format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            });
        }
        // Names are made of pieces: a pod's of its set's and a number, a disk's of its VM's.
        let mut out = String::new();
        let mut piece = String::new();
        let is_disk = part.starts_with("vm-") || part.starts_with("base-") || part.starts_with("subvol-");
        for c in part.chars().chain(['-']) {
            if c != '-' && c != '.' && c != '_' {
                piece.push(c);
                continue;
            }
            let stays = piece.is_empty() || is_number(&piece) || is_disk && DISK_WORDS.contains(&piece.as_str());
            out.push_str(&if stays { piece.clone() } else { self.unique(&piece, |hash| format!("n{}", hex(&hash[..4]))) });
            out.push(c);
            piece.clear();
        }
        out.pop();
        out
    }

    /// Addresses of one network stay in one network, and keep their last number.
    fn v4(&mut self, address: Ipv4Addr) -> String {
        let [a, b, c, last] = address.octets();
        if address.is_unspecified() || address.is_loopback() {
            return address.to_string();
        }
        let network = self.unique(&format!("{a}.{b}.{c}"), |hash| format!("10.{}.{}", hash[0], hash[1]));
        format!("{network}.{last}")
    }

    fn v6(&mut self, address: Ipv6Addr) -> String {
        if address.is_unspecified() || address.is_loopback() {
            return address.to_string();
        }
        self.unique(&address.to_string(), |hash| {
            let group = |at: usize| u16::from_be_bytes([hash[at], hash[at + 1]]);
            Ipv6Addr::new(0xfd00, group(0), group(2), group(4), 0, 0, group(6), group(8)).to_string()
        })
    }
}

/// Pieces of a disk's name that say what it is.
const DISK_WORDS: [&str; 9] = ["vm", "base", "subvol", "disk", "pvc", "cloudinit", "state", "qcow2", "raw"];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Short numbers: VMIDs, ordinals, ports, versions such as `v1`, slots such as `scsi30`.
fn is_number(piece: &str) -> bool {
    const BEFORE: [&str; 16] = [
        "", "v", "scsi", "virtio", "ide", "sata", "unused", "efidisk", "tpmstate", "hostpci", "net", "numa", "ipconfig", "k3s",
        "rke2r", "pc",
    ];
    // Two of these end in a digit or in a letter after one.
    let own = ["k3s", "rke2r"].iter().find_map(|before| piece.strip_prefix(before));
    let digits = own.unwrap_or_else(|| piece.trim_start_matches(|c: char| c.is_ascii_lowercase()));
    let before = &piece[..piece.len() - digits.len()];
    (1..=5).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit()) && BEFORE.contains(&before)
}

fn is_uuid(part: &str) -> bool {
    let lengths: Vec<usize> = part.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && part.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

impl Snapshot {
    /// The same cluster under pseudonyms: names, addresses, handles, UUIDs, values of labels and words of messages are
    /// replaced; numbers, times, structure and words of Kubernetes and Proxmox VE stay.
    ///
    /// # Errors
    /// The snapshot cannot be written and read back.
    pub fn anonymous(&self) -> Result<Self, serde_json::Error> {
        // The identity of the cluster is random, and is not in what comes out.
        let pseudonyms = RefCell::new(Pseudonyms::of(&self.cluster));
        let value = serde_json::to_value(Renamed(self, &pseudonyms))?;
        let mut anonymous: Self = serde_json::from_value(value)?;
        anonymous.sort();
        Ok(anonymous)
    }
}

/// A value whose texts are written under their pseudonyms. Names of fields and variants are no texts.
struct Renamed<'a, T: ?Sized>(&'a T, &'a RefCell<Pseudonyms>);

impl<T: Serialize + ?Sized> Serialize for Renamed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Renaming(serializer, self.1))
    }
}

/// A serializer, or a part of one, that is handed texts under their pseudonyms.
struct Renaming<'a, S>(S, &'a RefCell<Pseudonyms>);

/// Hands a value on as it is.
macro_rules! as_it_is {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.0.$method(value)
        })*
    };
}

impl<'a, S: Serializer> Serializer for Renaming<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Renaming<'a, S::SerializeSeq>;
    type SerializeTuple = Renaming<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Renaming<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Renaming<'a, S::SerializeTupleVariant>;
    type SerializeMap = Renaming<'a, S::SerializeMap>;
    type SerializeStruct = Renaming<'a, S::SerializeStruct>;
    type SerializeStructVariant = Renaming<'a, S::SerializeStructVariant>;

    as_it_is!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_u8: u8,
        serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_f32: f32, serialize_f64: f64
    );

    fn serialize_char(self, value: char) -> Result<S::Ok, S::Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<S::Ok, S::Error> {
        let text = self.1.borrow_mut().text(value);
        self.0.serialize_str(&text)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        self.serialize_str(&String::from_utf8_lossy(value))
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Renamed(value, self.1))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Renamed(value, self.1))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_variant(name, index, variant, &Renamed(value, self.1))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        Ok(Renaming(self.0.serialize_seq(length)?, self.1))
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        Ok(Renaming(self.0.serialize_tuple(length)?, self.1))
    }

    fn serialize_tuple_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        Ok(Renaming(self.0.serialize_tuple_struct(name, length)?, self.1))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Ok(Renaming(self.0.serialize_tuple_variant(name, index, variant, length)?, self.1))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Ok(Renaming(self.0.serialize_map(length)?, self.1))
    }

    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        Ok(Renaming(self.0.serialize_struct(name, length)?, self.1))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Ok(Renaming(self.0.serialize_struct_variant(name, index, variant, length)?, self.1))
    }
}

/// A compound whose parts have no names.
macro_rules! parts {
    ($($trait:ident::$method:ident),*) => {
        $(impl<S: $trait> $trait for Renaming<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.0.$method(&Renamed(value, self.1))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}

/// A compound whose parts have the names of fields.
macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl<S: $trait> $trait for Renaming<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
                self.0.serialize_field(key, &Renamed(value, self.1))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}

parts!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);
fields!(SerializeStruct, SerializeStructVariant);

impl<S: SerializeMap> SerializeMap for Renaming<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.0.serialize_key(&Renamed(key, self.1))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.0.serialize_value(&Renamed(value, self.1))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(texts: &[&str]) -> Vec<String> {
        let mut pseudonyms = Pseudonyms::of("salt");
        texts.iter().map(|text| pseudonyms.text(text)).collect()
    }

    #[test]
    fn words_numbers_and_times_stay_and_the_rest_is_replaced() {
        for same in [
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "csi.proxmox.sinextra.dev",
            "kube-system",
            "v1.35.2",
            "scsi30",
            "2026-03-02T06:00:00Z",
            "0.0.0.0",
            "ReadWriteOnce",
            "50%",
            "",
            "v1.33.4+k3s1",
            "no free lun found",
        ] {
            assert_eq!(renamed(&[same]), [same]);
        }
        for name in ["home", "k8s-node3", "smith.example", "nas", "worker1", "Ünïcode", "10.0.20.31", "2001:db8::5", "MARKER7"]
        {
            let [new] = &renamed(&[name])[..] else { panic!("one") };
            assert!(!new.contains(name) && !new.is_empty(), "{name} became {new}");
        }
    }

    #[test]
    fn one_part_has_one_pseudonym_wherever_it_stands() {
        let all = renamed(&[
            "w1",
            "lab/pve1/local-lvm/vm-204-pvc-abc",
            "local-lvm:vm-204-pvc-abc",
            "db-0",
            "db",
            "10.0.20.31/24",
            "10.0.20.1",
        ]);
        let handle: Vec<&str> = all[1].split('/').collect();
        assert_eq!(all[2], format!("{}:{}", handle[2], handle[3]));
        assert!(handle[3].starts_with("vm-204-pvc-"), "{all:?}");
        assert_eq!(all[3], format!("{}-0", all[4]));
        let (network, rest) = all[5].rsplit_once('.').expect("an address");
        assert_eq!((rest, all[6].rsplit_once('.').expect("an address").0), ("31/24", network));
    }
}
