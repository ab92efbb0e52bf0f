//! What the token may see. PVE shortens lists without a word, so that an empty one proves nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use super::wire::Permissions;

/// What is known of the token's privileges.
#[derive(Debug)]
pub(super) enum Access {
    /// They could not be read.
    Unchecked,
    /// As `GET /access/permissions` tells them.
    Checked(Permissions),
}

impl Access {
    /// Whether the token is known to have no privilege at all.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Unchecked => false,
            Self::Checked(permissions) => permissions.0.values().all(|privileges| privileges.is_empty()),
        }
    }

    /// Why a list may be incomplete: it needs one of `privileges` on all of `paths` (root first, last
    /// the most specific) and got `rows` rows.
    pub(super) fn doubt(&self, privileges: &[&str], paths: &[&str], rows: usize) -> Option<String> {
        let specific = paths.last().unwrap_or(&"/");
        match self {
            Self::Unchecked if rows == 0 => Some(format!(
                "the list is empty and could not be checked: /access/permissions was not read ({} on {specific})",
                privileges[0]
            )),
            Self::Unchecked => None,
            Self::Checked(permissions) => {
                let holds = |held: &BTreeMap<String, Value>| {
                    // The value tells whether the privilege also holds for the paths below.
                    privileges.iter().any(|one| held.get(*one).is_some_and(is_set))
                };
                // A role on a path replaces what is inherited, so the most specific one decides.
                let deciding = paths.iter().rev().find_map(|path| permissions.0.get(*path));
                let lacking = if deciding.is_some_and(holds) {
                    let below = format!("{}/", specific.trim_end_matches('/'));
                    // A weaker role on one guest or storage hides that one.
                    permissions
                        .0
                        .iter()
                        .find(|(path, held)| {
                            path.starts_with(&below) && *specific != "/" && !privileges.iter().any(|one| held.contains_key(*one))
                        })?
                        .0
                } else {
                    *specific
                };
                Some(format!("token lacks {} on {lacking}: PVE leaves out what it may not see", privileges[0]))
            }
        }
    }
}

fn is_set(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_u64() != Some(0) && value.as_str() != Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Access {
        Access::Checked(serde_json::from_str(text).expect("decodes"))
    }

    const VMS: [&str; 2] = ["/", "/vms"];

    #[test]
    fn a_privilege_on_the_root_or_the_path_covers_the_list() {
        for text in [r#"{"/":{"VM.Audit":1}}"#, r#"{"/vms":{"VM.Audit":1},"/vms/101":{"VM.Audit":1}}"#] {
            assert_eq!(checked(text).doubt(&["VM.Audit"], &VMS, 3), None, "{text}");
        }
    }

    #[test]
    fn a_list_without_the_privilege_is_in_doubt_however_long_it_is() {
        for text in [
            r#"{"/nodes":{"Sys.Audit":1}}"#,
            r#"{"/":{"VM.Audit":0}}"#,
            r#"{"/vms/101":{"VM.Audit":1}}"#,
            r#"{"/vms":{"VM.PowerMgmt":1}}"#,
            r#"{"/":{"VM.Audit":1},"/vms":{"VM.PowerMgmt":1}}"#,
        ] {
            let doubt = checked(text).doubt(&["VM.Audit"], &VMS, 1).expect("in doubt");
            assert!(doubt.starts_with("token lacks VM.Audit on /vms"), "{doubt}");
        }
        let doubt = checked(r#"{"/":{"VM.Audit":1},"/vms/101":{"VM.Console":1}}"#).doubt(&["VM.Audit"], &VMS, 1);
        assert!(doubt.expect("in doubt").contains("/vms/101"));
    }

    #[test]
    fn without_a_check_only_an_empty_list_is_in_doubt() {
        assert_eq!(Access::Unchecked.doubt(&["VM.Audit"], &VMS, 1), None);
        assert!(Access::Unchecked.doubt(&["VM.Audit"], &VMS, 0).is_some());
    }

    #[test]
    fn an_empty_map_is_no_privilege_at_all() {
        assert!(checked("{}").is_empty());
        assert!(checked(r#"{"/":{}}"#).is_empty());
        assert!(!Access::Unchecked.is_empty());
    }
}
