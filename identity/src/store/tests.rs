use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_file_is_replaced_as_a_whole_and_only_its_owner_may_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    fs::write(&path, "a longer content that was there before").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();

    write_private(&path, b"secret").unwrap();

    assert_eq!(read_text(&path, 6).unwrap(), "secret");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
}

#[test]
fn a_draft_left_by_a_crash_is_not_followed_and_does_not_stand_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, "untouched").unwrap();
    let path = directory.path().join("key.pem");
    let draft = directory.path().join(format!(".key.pem.{}.draft", std::process::id()));
    std::os::unix::fs::symlink(&elsewhere, &draft).unwrap();

    write_private(&path, b"secret").unwrap();

    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
}

#[test]
fn a_write_that_fails_names_the_file_and_keeps_the_old_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing").join("key.pem");
    let message = write_private(&path, b"secret").unwrap_err().to_string();
    assert!(
        message.starts_with("cannot write ") && message.contains("missing/key.pem"),
        "{message}"
    );
}

#[test]
fn on_a_full_disk_the_old_content_stays_and_nothing_is_left_half_written() {
    let Some(disk) = scarcity::disk::Disk::of(1 << 20) else {
        return;
    };
    let directory = disk.path().join("identity");
    fs::create_dir(&directory).unwrap();
    let path = directory.join("key.pem");
    write_private(&path, b"old").unwrap();
    disk.fill_but(4096).unwrap();

    let message = write_private(&path, &[b'x'; 8192]).unwrap_err().to_string();

    assert!(message.contains("key.pem: No space left on device"), "{message}");
    assert_eq!(read_text(&path, 3).unwrap(), "old");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    disk.make_room().unwrap();
    write_private(&path, &[b'x'; 8192]).unwrap();
}

#[test]
fn a_file_beyond_the_limit_is_not_read_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, "x".repeat(101)).unwrap();
    assert!(matches!(
        read_text(&path, 100),
        Err(StoreError::TooLarge { limit: 100, .. })
    ));
    assert!(read_text(&path, 101).is_ok());
}
