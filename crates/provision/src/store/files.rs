//! How files are written: for their owner alone, whole or not at all, and within the state folder never through a link.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tempfile::Builder;

/// Mode of a file that is made: its owner reads and writes it.
const FILE_MODE: u32 = 0o600;
/// Mode of a folder that is made: its owner alone enters it.
const FOLDER_MODE: u32 = 0o700;

/// Makes a folder, and those above it, for its owner alone. One that is there stays as it is.
///
/// # Errors
/// The folder cannot be made.
pub fn folder(path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

/// Makes one folder of the state folder. One that is there already is an error.
///
/// # Errors
/// The folder is there, or cannot be made.
pub(super) fn new_folder(path: &Path) -> Result<()> {
    DirBuilder::new().mode(FOLDER_MODE).create(path)
}

/// Makes a folder of the state folder, or takes the one that is there; a link is neither.
///
/// # Errors
/// The folder cannot be made, or is a link.
pub(super) fn own_folder(path: &Path) -> Result<()> {
    folder(path)?;
    no_link(path)
}

/// Refuses a link.
///
/// # Errors
/// `path` is a link, or cannot be looked at.
pub(super) fn no_link(path: &Path) -> Result<()> {
    if std::fs::symlink_metadata(path)?.is_symlink() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is a link, and the state folder follows none"));
    }
    Ok(())
}

/// Opens a file of the state folder with `options`, never through a link; one that is made is its owner's.
///
/// # Errors
/// The file cannot be opened, or is a link.
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> Result<File> {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(Error::other)?;
    options.mode(FILE_MODE).custom_flags(no_follow).open(path)
}

/// Reads a file of the state folder, never through a link.
///
/// # Errors
/// The file cannot be read, or is a link.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(OpenOptions::new().read(true), path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file in one step: `fill` writes a new file beside it, which takes its name once it is on the disk. A file
/// that is replaced keeps its mode. Something else than a file, such as a pipe, is written to as it is.
///
/// # Errors
/// The file cannot be written; what was there is still there.
pub fn write<T>(path: &Path, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let there = std::fs::metadata(path).ok();
    if there.as_ref().is_some_and(|there| !there.is_file() && !there.is_dir()) {
        return fill(&mut OpenOptions::new().write(true).open(path)?);
    }
    // A user may keep the file elsewhere, behind a link.
    let target = if there.is_some() { path.canonicalize()? } else { path.to_owned() };
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mode = there.map_or(FILE_MODE, |there| there.permissions().mode());
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".");
    let mut file =
        Builder::new().prefix(&name).suffix(".tmp").permissions(Permissions::from_mode(FILE_MODE)).tempfile_in(&folder)?;
    let filled = fill(file.as_file_mut())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|error| error.error)?;
    sync(&folder)?;
    Ok(filled)
}

/// Waits until the names in a folder are on the disk.
///
/// # Errors
/// The folder cannot be opened or written.
pub(super) fn sync(folder: &Path) -> Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .flatten()
            .map(|one| one.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_made_is_its_owners_and_what_was_there_keeps_its_mode() {
        let home = tempfile::tempdir().expect("a folder");
        let deep = home.path().join("a/b");
        folder(&deep).expect("made");
        assert_eq!((mode(&home.path().join("a")), mode(&deep)), (0o700, 0o700));
        let path = deep.join("one");
        write(&path, |file| file.write_all(b"1")).expect("written");
        assert_eq!((mode(&path), std::fs::read(&path).expect("there")), (0o600, b"1".to_vec()));
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("ours");
        write(&path, |file| file.write_all(b"2")).expect("written");
        assert_eq!((mode(&path), std::fs::read(&path).expect("there")), (0o640, b"2".to_vec()));
        assert_eq!(names(&deep), ["one"]);
    }

    #[test]
    fn a_file_that_cannot_be_finished_leaves_what_was_there() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("one");
        write(&path, |file| file.write_all(b"whole")).expect("written");
        let cut = write(&path, |file| file.write_all(b"ha").and_then(|()| Err::<(), _>(Error::other("the disk is full"))));
        assert!(cut.is_err());
        assert_eq!(std::fs::read(&path).expect("there"), b"whole");
        assert_eq!(names(home.path()), ["one"]);
    }

    #[test]
    fn a_users_link_is_kept_and_a_link_in_the_state_folder_is_refused() {
        let home = tempfile::tempdir().expect("a folder");
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        std::fs::write(&real, "victim").expect("writable");
        symlink(&real, &link).expect("a link");
        for options in [OpenOptions::new().append(true).create(true), OpenOptions::new().read(true)] {
            assert!(open(options, &link).is_err());
        }
        assert!(read(&link).is_err() && no_link(&link).is_err());
        assert_eq!(std::fs::read(&real).expect("there"), b"victim");
        write(&link, |file| file.write_all(b"new")).expect("written");
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(std::fs::read(&real).expect("there"), b"new");
        let folder_link = home.path().join("folder-link");
        symlink(home.path(), &folder_link).expect("a link");
        assert!(own_folder(&folder_link).is_err());
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        write(Path::new("/dev/null"), |file| file.write_all(b"1")).expect("written");
        assert!(!std::fs::metadata("/dev/null").expect("there").is_file());
    }
}
