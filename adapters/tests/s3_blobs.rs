//! What is wrong with a bucket is told when it is opened, with the setting to mend, and never the secret.

#![cfg(feature = "cluster")]

use std::sync::Arc;

use ringforge_adapters::blobs::s3::{OpenError, S3Blobs};
use ringforge_domain::position::LogTime;
use ringforge_ports::{
    clock::{Clock, ManualClock, SystemClock, SystemIds},
    contract,
};
use tokio::net::TcpListener;

async fn refused(address: &str, clock: Arc<dyn Clock>) -> (OpenError, String) {
    let error = S3Blobs::open(address, clock, Arc::new(SystemIds)).await.err().expect("it does not open");
    let text = error.to_string();
    assert!(!text.contains("secret"), "{text}");
    (error, text)
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let Some(address) = contract::server("TEST_S3", "a_missing_bucket_is_named") else { return };
    let (error, text) = refused(&address.replace("/bucket", "/no-such-bucket"), SystemClock::start()).await;
    assert!(matches!(error, OpenError::NoBucket { .. }), "{text}");
    assert!(text.contains("`no-such-bucket`: create it"), "{text}");
}

#[tokio::test]
async fn wrong_credentials_are_told() {
    let Some(address) = contract::server("TEST_S3", "wrong_credentials_are_told") else { return };
    for wrong in [address.replace("//test:", "//nobody:"), address.replace("testsecret", "other-secret")] {
        let (error, text) = refused(&wrong, SystemClock::start()).await;
        assert!(matches!(error, OpenError::Denied { .. }), "{text}");
        assert!(text.contains("mend ACCESS:SECRET"), "{text}");
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told() {
    let Some(address) = contract::server("TEST_S3", "a_clock_that_is_wrong_is_told") else { return };
    let now = SystemClock::start().wall().0;
    for seconds in [-400, 400] {
        let clock = ManualClock::at(LogTime(now + seconds * 1_000_000));
        let (error, text) = refused(&address, clock).await;
        assert!(matches!(error, OpenError::Skewed { seconds: 395..=405, .. }), "{text}");
        assert!(text.contains("NTP"), "{text}");
    }
    let clock = ManualClock::at(LogTime(now + 200_000_000));
    assert!(S3Blobs::open(&address, clock, Arc::new(SystemIds)).await.is_ok(), "a little is borne");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    for tls in ["", "?tls=true"] {
        let (error, text) = refused(&format!("s3://a:secret@{address}/bucket{tls}"), SystemClock::start()).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{text}");
        assert!(text.contains(&address.to_string()) && text.contains("is it running"), "{text}");
    }
}

#[tokio::test]
async fn a_url_that_is_none_is_told() {
    let (error, text) = refused("s3://a:secret@127.0.0.1:1", SystemClock::start()).await;
    assert!(matches!(error, OpenError::Address(_)), "{text}");
    assert!(text.contains("s3://ACCESS:SECRET@HOST:PORT/BUCKET"), "{text}");
}
