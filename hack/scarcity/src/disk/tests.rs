use std::io::{ErrorKind, Write};

use super::*;

#[test]
fn a_full_disk_takes_what_fits_and_no_more_until_there_is_room() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    disk.fill_but(64 << 10).unwrap();
    let write = || File::create(disk.path().join("file")).and_then(|mut file| file.write_all(&[7_u8; 128 << 10]));
    assert_eq!(write().unwrap_err().kind(), ErrorKind::StorageFull);
    let fitted = fs::metadata(disk.path().join("file")).unwrap().len();
    assert_eq!(fitted, 64 << 10, "the write was cut short");
    disk.make_room().unwrap();
    write().unwrap();
}

#[test]
fn a_read_only_disk_refuses_its_owner_until_it_is_writable_again() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    let write = || fs::write(disk.path().join("file"), "x");
    disk.set_read_only(true).unwrap();
    assert_eq!(write().unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    disk.set_read_only(false).unwrap();
    write().unwrap();
}

#[test]
fn a_thin_disk_takes_what_it_cannot_keep_tells_it_once_and_shows_it_until_it_is_read_anew() {
    let Some(thin) = Thin::of(8 << 20) else { return };
    let path = thin.path().join("file");
    thin.exhaust().unwrap();
    let mut file = File::create(&path).unwrap();
    file.write_all(&[7_u8; 5000]).unwrap();
    assert_eq!(file.sync_all().unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(fs::read(&path).unwrap(), [7_u8; 5000]);
    File::open(&path).unwrap().sync_all().unwrap();
    forget_cached(thin.path()).unwrap();
    assert_ne!(fs::read(&path).unwrap(), [7_u8; 5000]);
    thin.relieve().unwrap();
    fs::write(&path, [8_u8; 5000]).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    forget_cached(thin.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [8_u8; 5000]);
}
