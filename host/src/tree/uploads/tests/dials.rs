//! Which conversation a write is for, where a client dials.

use super::*;

/// A stack takes writes while a client dials, and nothing tells it which are old. How the
/// dial ends says nothing of them: what comes after it may be what fails.
#[tokio::test]
async fn what_was_parked_before_a_dial_ends_when_that_is_under_way() {
    let outcomes = [
        Ok(Reply::Done),
        Err(error(ErrorCode::ConnectionRefused, "Connection refused")),
        Err(error(ErrorCode::Interrupted, "interrupted")),
        Err(error(ErrorCode::InvalidArgument, "bad control message")),
        Err(full()),
    ];
    for outcome in outcomes {
        let dial = "hangup\nconnect far!80\nbind x";
        let scene = Scene::new();
        let (straight, before) = (scene.write(b'a', 1_000), scene.write(b'b', 1_000));
        // The stack takes the one just before, and the feeder does not come to run.
        scene.taken(1_000);
        let dialled = scene.control(dial);
        assert_eq!(straight.outcome(), Some(Ok(1_000)));
        let ended = before.outcome().expect("it is over");
        assert_eq!(ended.expect_err("its conversation is").text(), "i/o on hungup channel");
        let (since, later) = (scene.write(b'c', 1_000), scene.write(b'd', 10));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(scene.inside(), [dial, "c1000"]);
        assert!(since.outcome().is_none() && later.outcome().is_none());
        scene.fake.complete(outcome);
        assert!(dialled.outcome().is_some() && later.outcome().is_none());
        scene.taken(1_000);
        scene.becomes(&["d10"]).await;
        scene.taken(10);
        assert_eq!((since.outcome(), later.outcome()), (Some(Ok(1_000)), Some(Ok(10))));
        scene.is_empty();
    }
}

/// All that was to begin a conversation fails as its dial does, parked or not.
#[tokio::test]
async fn what_is_parked_behind_an_early_write_fails_as_the_dial_does() {
    // Refused for want of room, refused, and (of the dial) flushed.
    let failures = [
        full(),
        error(ErrorCode::ConnectionRefused, "Connection refused"),
        error(ErrorCode::HungUp, "i/o on hungup channel"),
    ];
    for failure in failures {
        let scene = Scene::new();
        let _dialled = scene.control("connect far!80");
        let early = [scene.write(b'a', 1_000), scene.write(b'b', 5), scene.control("closewrite")];
        assert_eq!(scene.inside(), ["connect far!80", "a1000"]);
        scene.fake.complete(Err(failure.clone()));
        scene.fake.complete(Err(failure.clone()));
        for write in early {
            assert_eq!(write.outcome(), Some(Err(Failure::from(failure.clone()))));
        }
        tokio::time::sleep(3 * AGAIN).await;
        scene.is_empty();
    }
}

/// An end of writing that is parked may dial behind it: what was written after it is
/// not for the conversation that it ends.
#[tokio::test]
async fn a_dial_that_was_parked_ends_what_was_parked_behind_it() {
    let text = "closewrite\nhangup\nconnect far!80";
    let scene = Scene::new();
    let (straight, before) = (scene.write(b'a', 1_000), scene.write(b'b', 100));
    let (dialled, behind) = (scene.control(text), scene.write(b'c', 900));
    scene.taken(1_000);
    scene.becomes(&["b100", text]).await;
    let ended = behind.outcome().expect("it is over");
    assert_eq!(ended.expect_err("nothing may be written").text(), "i/o on hungup channel");
    scene.taken(100);
    assert_eq!((straight.outcome(), before.outcome()), (Some(Ok(1_000)), Some(Ok(100))));
    assert_eq!(dialled.outcome(), None);
    let since = scene.write(b'd', 10);
    assert_eq!(scene.inside(), [text, "d10"]);
    scene.fake.complete(Ok(Reply::Done));
    scene.taken(10);
    assert_eq!((dialled.outcome(), since.outcome()), (Some(Ok(32)), Some(Ok(10))));
    scene.is_empty();
}

#[tokio::test]
async fn what_is_written_while_a_client_dials_is_for_that_conversation() {
    let scene = Scene::new();
    let dialled = scene.control("connect far!80");
    let (straight, parked) = (scene.write(b'a', 1_000), scene.write(b'b', 1_000));
    assert_eq!(scene.inside(), ["connect far!80", "a1000"]);
    scene.fake.complete(Ok(Reply::Done));
    assert_eq!(dialled.outcome(), Some(Ok(14)));
    assert!(parked.outcome().is_none());
    scene.taken(1_000);
    assert_eq!(straight.outcome(), Some(Ok(1_000)));
    scene.becomes(&["b1000"]).await;
    scene.taken(1_000);
    assert_eq!(parked.outcome(), Some(Ok(1_000)));
    scene.is_empty();
}

/// The conversation that a write is for may begin before the feeder comes: so none waits
/// for that.
#[tokio::test]
async fn nothing_is_parked_while_a_dial_waits_for_something_else() {
    for text in ["closewrite\nhangup\nconnect b!1", "connect a!1\nhangup\nconnect b!1"] {
        for parked in [false, true] {
            let scene = Scene::new();
            let mut inside = Vec::new();
            if parked {
                scene.write(b'a', 1_000);
                scene.write(b'b', 10);
                scene.taken(1_000);
                scene.becomes(&["b10"]).await;
                inside.push("b10");
            }
            let dialled = scene.control(text);
            inside.extend([text, "c1000", "d1000"]);
            let (first, second) = (scene.write(b'c', 1_000), scene.write(b'd', 1_000));
            assert_eq!(scene.inside(), inside);
            while scene.fake.outstanding() > 0 {
                scene.fake.complete(Err(error(ErrorCode::HungUp, "i/o on hungup channel")));
            }
            for over in [dialled, first, second] {
                assert!(over.outcome().is_some_and(|outcome| outcome.is_err()));
            }
            scene.is_empty();
        }
    }
    // Then it is as ever.
    let scene = Scene::new();
    scene.control("closewrite\nhangup\nconnect b!1");
    scene.fake.complete(Ok(Reply::Done));
    let _writes = (scene.write(b'c', 1_000), scene.write(b'd', 1_000));
    assert_eq!(scene.inside(), ["c1000"]);
}

/// It says that the client is in use, or too much is under way.
#[tokio::test]
async fn a_dial_that_is_refused_at_once_ends_nothing() {
    for dialing in [false, true] {
        let scene = Scene::new();
        let first = dialing.then(|| scene.control("connect far!80"));
        let (_straight, parked) = (scene.write(b'a', 1_000), scene.write(b'b', 1_000));
        scene.fake.refuse(0, 1);
        let second = scene.control("connect far!81");
        assert_eq!(second.outcome(), Some(Err(Failure::from(full()))));
        if first.is_some() {
            scene.fake.complete(Ok(Reply::Done));
        }
        assert!(parked.outcome().is_none());
        scene.taken(1_000);
        scene.becomes(&["b1000"]).await;
        scene.taken(1_000);
        assert_eq!(parked.outcome(), Some(Ok(1_000)));
        scene.is_empty();
    }
}
