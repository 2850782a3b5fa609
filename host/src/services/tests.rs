//! The places of services: which are taken, which are refused.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

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
    let (service, _listener) = bind(&at(&dir, "s"), false).unwrap();
    let path = service.path().to_owned();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(connect(Some(path.as_os_str())).is_ok());
    drop(service);
    assert!(!path.exists());
    assert!(dir.path().exists(), "a directory that the user named stays");
}

/// By path: whoever may write there could lead it to another file of ours.
#[test]
fn a_socket_for_others_is_made_so_and_no_other_file_becomes_theirs() {
    let dir = scratch();
    let ours = dir.path().join("ours");
    fs::write(&ours, "secret").unwrap();
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o600)).unwrap();
    let path = dir.path().join("s");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // As soon as the socket is there, a link is in its place.
                if fs::remove_file(&path).is_ok() {
                    let _ = symlink(&ours, &path);
                }
            }
        });
        for _ in 0..2_000 {
            let _ = listen(&path, true);
            let _ = fs::remove_file(&path);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::metadata(&ours).unwrap().mode() & 0o777, 0o600);
    // Left alone, it is for everybody.
    let _ = fs::remove_file(&path);
    let (service, _listener) = bind(&at(&dir, "s"), true).unwrap();
    assert_eq!(fs::metadata(service.path()).unwrap().mode() & 0o777, 0o666);
}

/// One that comes after the look could be anybody's.
#[test]
fn a_service_whose_directory_is_not_there_is_not_connected_to() {
    let dir = scratch();
    let (service, _listener) = bind(&at(&dir, "s"), false).unwrap();
    let place = |directory: &str| Place {
        path: service.path().to_owned(),
        directory: dir.path().join(directory),
        ours: true,
    };
    let refused = place("nowhere").connect(OsStr::new("s"));
    assert!(matches!(refused, Err(ServiceError::NotUp { .. })), "{refused:?}");
    assert!(place(".").connect(OsStr::new("s")).is_ok());
}

#[test]
fn a_live_service_is_not_replaced() {
    let dir = scratch();
    let (service, listener) = bind(&at(&dir, "s"), false).unwrap();
    assert!(matches!(bind(&at(&dir, "s"), false), Err(ServiceError::InUse { .. })));
    assert!(service.path().exists());
    drop(listener);
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = scratch();
    let (old, listener) = bind(&at(&dir, "s"), false).unwrap();
    drop(listener);
    let (_new, _listener) = bind(&at(&dir, "s"), false).unwrap();
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
        let error = bind(&at(&dir, name), false).unwrap_err();
        assert!(matches!(error, ServiceError::Occupied { .. }), "{name}: {error}");
        assert!(fs::symlink_metadata(at(&dir, name)).is_ok());
    }
}

#[test]
fn names_are_checked() {
    let long = "/".to_owned() + &"x".repeat(107);
    for name in ["", ".", "..", "a\nb", "\u{1b}[2J", "/", "a/", "x/..", &long] {
        assert!(bind(OsStr::new(name), false).is_err(), "{name:?}");
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
    let (service, _listener) = place.bind(OsStr::new("s"), false).unwrap();
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    drop(service);
    assert!(!directory.exists());
    symlink(dir.path(), &directory).unwrap();
    assert!(matches!(place.bind(OsStr::new("s"), false), Err(ServiceError::Directory { .. })));
}

#[test]
fn of_many_that_start_at_once_under_one_name_one_serves() {
    let dir = scratch();
    for round in 0..20 {
        // Sometimes there is one that a dead process has left.
        if round % 2 == 0 {
            let (old, listener) = bind(&at(&dir, "s"), false).unwrap();
            drop(listener);
            std::mem::forget(old);
        }
        let start = std::sync::Barrier::new(8);
        let bound: Vec<_> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        bind(&at(&dir, "s"), false)
                    })
                })
                .collect();
            starting.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (serving, refused): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
        assert_eq!(serving.len(), 1, "{refused:?}");
        for error in refused {
            assert!(matches!(error, Err(ServiceError::InUse { .. })), "{error:?}");
        }
        assert!(connect(Some(&at(&dir, "s"))).is_ok());
    }
}

/// Only root can try it.
#[test]
fn a_socket_of_another_users_stays() {
    let dir = scratch();
    let (old, listener) = bind(&at(&dir, "s"), false).unwrap();
    drop(listener);
    if std::os::unix::fs::chown(old.path(), Some(65534), None).is_err() {
        println!("not tried: it takes root to give a file away");
        return;
    }
    let error = bind(&at(&dir, "s"), false).unwrap_err().to_string();
    assert!(error.contains("is another user's"), "{error}");
    assert!(fs::symlink_metadata(old.path()).is_ok());
}
