//! The connection to a bucket, tried once before anything depends on it: whatever is wrong is told with the setting to mend.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::BehaviorVersion;
use aws_sdk_s3::{
    Client,
    config::{
        Builder, ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{BoxError, ProvideErrorMetadata},
    primitives::{DateTime, DateTimeFormat},
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use ringforge_domain::limits;
use ringforge_ports::clock::Clock;

use super::{
    address::{Address, InvalidAddress},
    reason, status,
};

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is none.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// Nobody knows where it is.
    #[error("S3: no region is set: add ?region=.. to the URL of the objects, or set AWS_REGION")]
    NoRegion,
    /// Nobody answers.
    #[error(
        "S3 at {host} cannot be reached: {why}; is it running, are host, port and ?tls= right in the URL of the objects?"
    )]
    Unreachable {
        /// Whom we asked.
        host: String,
        /// What came of it.
        why: String,
    },
    /// There is no such bucket.
    #[error("S3 at {host} has no bucket `{bucket}`: create it, or name another in the URL of the objects")]
    NoBucket {
        /// Whom we asked.
        host: String,
        /// For what.
        bucket: String,
    },
    /// We are nobody to it, or may not do what we must.
    #[error(
        "S3 at {host} refuses bucket `{bucket}` ({why}): mend ACCESS:SECRET or ?region= in the URL of the objects, or allow them to list, read, write and delete"
    )]
    Denied {
        /// Whom we asked.
        host: String,
        /// For what.
        bucket: String,
        /// Its words for it.
        why: String,
    },
    /// It lives in another time.
    #[error("the clock of this machine and that of S3 at {host} are {seconds} s apart, more than {} s: signed URLs would be refused; have both synchronised (NTP)", limits::S3_SKEW_MAX.as_secs())]
    Skewed {
        /// Whom we asked.
        host: String,
        /// How far.
        seconds: u64,
    },
}

/// What every request has in common: bounded time and tries, and no checksums that older servers do not know.
fn configure(config: Builder) -> Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(limits::S3_CONNECT)
        .operation_attempt_timeout(limits::S3_ATTEMPT)
        .operation_timeout(limits::S3_REQUEST)
        .build();
    config
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(limits::S3_ATTEMPTS_MAX))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
}

/// A client for this address.
pub(super) async fn client(address: &Address) -> Result<Client, OpenError> {
    let builder = aws_smithy_http_client::Builder::new();
    let region = address.region.clone().map(Region::new);
    let Some(server) = &address.server else {
        let http = builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
        let shared = if let Some(region) = region { loader.region(region) } else { loader }.load().await;
        if shared.region().is_none() {
            return Err(OpenError::NoRegion);
        }
        return Ok(Client::from_conf(configure(Builder::from(&shared)).build()));
    };
    let http = if server.url.starts_with("https:") {
        builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
    } else {
        builder.build_http()
    };
    let config = configure(Builder::new())
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .endpoint_url(&server.url)
        .region(region.unwrap_or_else(|| Region::from_static("us-east-1")))
        .credentials_provider(Credentials::new(&server.access, &server.secret, None, None, "the URL of the objects"))
        .force_path_style(true);
    Ok(Client::from_conf(config.build()))
}

/// Asks once: whether the bucket is there, whether we may, and what time it is.
pub(super) async fn check(client: &Client, address: &Address, clock: &dyn Clock) -> Result<(), OpenError> {
    let told = ServerTime::default();
    let request = client.list_objects_v2().bucket(&address.bucket).prefix(&address.prefix).max_keys(1);
    let result = request.customize().interceptor(told.clone()).send().await;
    let host = || address.host().to_owned();
    if let Some(seconds) = told.skew(clock).filter(|skew| *skew > limits::S3_SKEW_MAX).map(|skew| skew.as_secs()) {
        return Err(OpenError::Skewed { host: host(), seconds });
    }
    let Err(error) = result else { return Ok(()) };
    Err(match (error.code(), status(&error)) {
        (Some("NoSuchBucket"), _) => OpenError::NoBucket { host: host(), bucket: address.bucket.clone() },
        (_, Some(400..500)) => OpenError::Denied { host: host(), bucket: address.bucket.clone(), why: reason(&error) },
        _ => OpenError::Unreachable { host: host(), why: reason(&error) },
    })
}

/// The time that a server tells with its answers.
#[derive(Clone, Debug, Default)]
struct ServerTime(Arc<Mutex<Option<DateTime>>>);

impl ServerTime {
    /// How far it is from ours.
    fn skew(&self, clock: &dyn Clock) -> Option<Duration> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.secs();
        let ours = clock.wall().0.div_euclid(1_000_000);
        Some(Duration::from_secs(told.abs_diff(ours)))
    }
}

impl Intercept for ServerTime {
    fn name(&self) -> &'static str {
        "ServerTime"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}
