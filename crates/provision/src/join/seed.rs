//! The image that cloud-init finds at the first boot.

use std::io::Cursor;
use std::sync::Arc;

use hadris_iso::sync::read::PathSeparator;
use hadris_iso::sync::write::options::{CreationFeatures, IsoFormatOptions};
use hadris_iso::sync::write::{File, InputFiles, IsoImageWriter};

/// Label of the volume that cloud-init looks for.
///
/// # Source
/// cloud-init documentation, NoCloud: a file system with the label `cidata` or `CIDATA`.
const LABEL: &str = "cidata";

/// The files of a NoCloud seed.
#[derive(Clone, Debug, Default)]
pub struct SeedParts {
    /// `user-data`.
    pub user: String,
    /// `meta-data`.
    pub meta: String,
    /// `vendor-data`: what applies where the user data says nothing.
    pub vendor: Option<String>,
    /// `network-config`.
    pub network: Option<String>,
}

/// The image of a seed: ISO 9660 with Joliet and Rock Ridge names, and a label of its own.
///
/// # Errors
/// It cannot be written.
pub fn image(parts: &SeedParts) -> std::io::Result<Vec<u8>> {
    let file = |name: &str, text: &str| File::File { name: Arc::new(name.to_owned()), contents: text.as_bytes().to_vec() };
    let mut files = vec![file("user-data", &parts.user), file("meta-data", &parts.meta)];
    files.extend(parts.vendor.iter().map(|text| file("vendor-data", text)));
    files.extend(parts.network.iter().map(|text| file("network-config", text)));
    let options = IsoFormatOptions {
        volume_name: LABEL.to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: 2048,
        features: CreationFeatures::extensions(),
        path_separator: PathSeparator::ForwardSlash,
        strict_charset: false,
    };
    let mut image = Cursor::new(Vec::new());
    let files = InputFiles { path_separator: PathSeparator::ForwardSlash, files };
    IsoImageWriter::create(&mut image, files, options).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(image.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_its_label_and_its_files() {
        let parts = SeedParts {
            user: "#cloud-config\n".repeat(500),
            meta: "local-hostname: w9\n".into(),
            vendor: Some("#cloud-config\nusers: []\n".into()),
            network: None,
        };
        let image = image(&parts).expect("written");
        // The primary volume descriptor is sector 16; the identifier stands at 40.
        assert_eq!(&image[16 * 2048 + 1..16 * 2048 + 6], b"CD001");
        assert_eq!(&image[16 * 2048 + 40..16 * 2048 + 46], b"cidata");
        let holds = |text: &str| image.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(holds(&parts.user) && holds("local-hostname: w9") && holds("users: []"));
    }
}
