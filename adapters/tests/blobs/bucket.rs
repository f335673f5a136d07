//! A bucket of a real server as a subject, and a client that goes behind the adapter's back.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation},
};
use futures_util::TryStreamExt;
use ringforge_adapters::blobs::s3::S3Blobs;
use ringforge_ports::{
    blobs::{Blobs, Key, Signed},
    clock::{Ids, SystemClock, SystemIds},
    contract::blobs::{Answer, Subject},
};

use crate::serving;

/// A prefix of its own in the bucket of the test server.
pub struct S3 {
    address: String,
    pub prefix: String,
}

impl S3 {
    pub fn new(address: &str) -> Self {
        let prefix = format!("test/{:032x}", SystemIds.next());
        Self { address: address.to_owned(), prefix }
    }

    async fn store(&self) -> Arc<dyn Blobs> {
        let address = format!("{}/{}", self.address, self.prefix);
        S3Blobs::open(&address, SystemClock::start(), Arc::new(SystemIds)).await.expect("the bucket opens")
    }
}

/// A client of the server at `s3://ACCESS:SECRET@HOST:PORT/BUCKET`, and the bucket.
pub fn client(address: &str) -> (Client, String) {
    let (user, rest) = address.strip_prefix("s3://").and_then(|rest| rest.split_once('@')).expect("a user");
    let ((access, secret), (host, bucket)) =
        user.split_once(':').zip(rest.split_once('/')).expect("a secret and a bucket");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(format!("http://{host}"))
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new(access, secret, None, None, "a test"))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .force_path_style(true);
    (Client::from_conf(config.build()), bucket.to_owned())
}

#[async_trait]
impl Subject for S3 {
    async fn open(&self) -> Arc<dyn Blobs> {
        self.store().await
    }

    async fn reopen(&self) -> Option<Arc<dyn Blobs>> {
        Some(self.store().await)
    }

    async fn damage(&self, key: &Key) -> bool {
        let object = self.store().await.get(key).await.expect("it answers").expect("the object");
        let pieces: Vec<_> = object.body.try_collect().await.expect("its bytes");
        let mut bytes = pieces.concat();
        bytes[0] ^= 1;
        let (client, bucket) = client(&self.address);
        let put = client.put_object().bucket(bucket).key(format!("{}/{key}", self.prefix)).body(bytes.into());
        let put =
            put.content_type(object.head.content_type.as_str()).metadata("sha256", object.head.sha256.to_string());
        put.send().await.expect("the damage");
        true
    }

    async fn send(&self, request: &Signed, body: &[u8]) -> Option<Answer> {
        Some(serving::send(request, body).await)
    }

    /// Its clock cannot be moved. It tells whole seconds.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time + Duration::from_millis(500)).await;
    }
}
