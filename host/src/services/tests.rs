//! The places of services: which are taken, which are refused.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn at(dir: &tempfile::TempDir, name: &str) -> OsString {
    dir.path().join(name).into_os_string()
}

#[test]
fn a_socket_is_private_and_goes_with_its_service() {
    let dir = scratch();
    let (service, _listener) = bind(&at(&dir, "s")).unwrap();
    let path = service.path().to_owned();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(connect(Some(path.as_os_str())).is_ok());
    drop(service);
    assert!(!path.exists());
    assert!(dir.path().exists(), "a directory that the user named stays");
}

#[test]
fn a_live_service_is_not_replaced() {
    let dir = scratch();
    let (service, listener) = bind(&at(&dir, "s")).unwrap();
    assert!(matches!(bind(&at(&dir, "s")), Err(ServiceError::InUse { .. })));
    assert!(service.path().exists());
    drop(listener);
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = scratch();
    let (old, listener) = bind(&at(&dir, "s")).unwrap();
    drop(listener);
    let (_new, _listener) = bind(&at(&dir, "s")).unwrap();
    let path = old.path().to_owned();
    // The old one removes nothing that is not its own.
    drop(old);
    assert!(UnixStream::connect(path).is_ok());
}

#[test]
fn what_is_not_a_socket_stays() {
    let dir = scratch();
    fs::write(at(&dir, "file"), "x").unwrap();
    fs::create_dir(at(&dir, "dir")).unwrap();
    symlink(at(&dir, "nowhere"), at(&dir, "link")).unwrap();
    for name in ["file", "dir", "link"] {
        let error = bind(&at(&dir, name)).unwrap_err();
        assert!(matches!(error, ServiceError::Occupied { .. }), "{name}: {error}");
        assert!(fs::symlink_metadata(at(&dir, name)).is_ok());
    }
}

#[test]
fn names_are_checked() {
    let long = "/".to_owned() + &"x".repeat(107);
    for name in ["", ".", "..", "a\nb", "\u{1b}[2J", "/", "a/", "x/..", &long] {
        assert!(bind(OsStr::new(name)).is_err(), "{name:?}");
        assert!(connect(Some(OsStr::new(name))).is_err(), "{name:?}");
    }
}

#[test]
fn a_directory_that_is_not_ours_alone_is_refused() {
    let dir = scratch();
    assert!(private(dir.path()).is_ok());
    symlink(dir.path(), at(&dir, "link")).unwrap();
    assert!(private(Path::new(&at(&dir, "link"))).unwrap_err().to_string().contains("symbolic"));
    fs::write(at(&dir, "file"), "x").unwrap();
    assert!(private(Path::new(&at(&dir, "file"))).is_err());
    for mode in [0o701, 0o710, 0o770, 0o755, 0o777] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = private(dir.path()).unwrap_err().to_string();
        assert!(error.contains("open to others"), "{error}");
    }
}

#[test]
fn the_directory_is_below_the_runtime_directory_if_that_will_do() {
    let (runtime, tmp) = (scratch(), scratch());
    let of = |path: &Path| directory_below(Some(path.as_os_str().to_owned()), tmp.path());
    assert_eq!(of(runtime.path()), runtime.path().join("sshnet"));
    let own = tmp.path().join(format!("sshnet-{}", rustix::process::geteuid().as_raw()));
    assert_eq!(directory_below(None, tmp.path()), own);
    assert_eq!(of(Path::new("")), own);
    assert_eq!(of(Path::new("relative")), own);
    assert_eq!(of(Path::new("/nonexistent")), own);
    fs::set_permissions(runtime.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(of(runtime.path()), own);
}

#[test]
fn a_directory_for_services_is_made_private_and_removed() {
    let dir = scratch();
    let directory = dir.path().join("sshnet");
    let place = Place { path: directory.join("s"), directory: directory.clone(), ours: true };
    let (service, _listener) = place.bind(OsStr::new("s")).unwrap();
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    drop(service);
    assert!(!directory.exists());
    symlink(dir.path(), &directory).unwrap();
    assert!(matches!(place.bind(OsStr::new("s")), Err(ServiceError::Directory { .. })));
}
