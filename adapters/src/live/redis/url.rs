//! Where the servers are: `redis://[user:password@]host[:port][,host[:port] ..][/database][?prefix=name]`, or `rediss://..` over
//! TLS.

use redis::{ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, io::tcp::TcpSettings};
use ringforge_ports::{Error, names};

/// What a URL says.
#[derive(Debug)]
pub struct Url {
    /// A server each.
    pub servers: Vec<ConnectionInfo>,
    /// What every key and channel of ours begins with.
    pub deployment: String,
}

impl Url {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it, without the password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Unavailable(format!("the URL of Redis {what}; redis://host:port is one"));
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        if !["redis", "rediss"].contains(&scheme) {
            return Err(wrong("does not begin with redis:// or rediss://"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let deployment = match query.split_once('=') {
            None if query.is_empty() => names::DEPLOYMENT,
            Some(("prefix", name)) if is_name(name) => name,
            Some(("prefix", _)) => {
                return Err(wrong("has a prefix with other characters than letters, digits, - and _"));
            }
            _ => return Err(wrong("has a parameter that is not `prefix`")),
        };
        let (rest, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) =
            rest.rsplit_once('@').map_or((String::new(), rest), |(user, hosts)| (format!("{user}@"), hosts));
        let server = |host: &str| {
            let info = format!("{scheme}://{user}{host}/{database}")
                .into_connection_info()
                .map_err(|error| wrong(&error.to_string()))?;
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            Ok(info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
        };
        let servers = hosts.split(',').map(server).collect::<Result<_, Error>>()?;
        Ok(Self { servers, deployment: deployment.to_owned() })
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

#[cfg(test)]
mod tests {
    use redis::ConnectionAddr;

    use super::*;

    fn addresses(url: &Url) -> Vec<String> {
        url.servers.iter().map(|info| info.addr().to_string()).collect()
    }

    #[test]
    fn a_url_names_servers_and_a_part_of_them() {
        let one = Url::parse("redis://127.0.0.1:7000").expect("a URL");
        assert_eq!((addresses(&one), one.deployment.as_str()), (vec!["127.0.0.1:7000".to_owned()], "ringforge"));
        for (scheme, tls) in [("redis", false), ("rediss", true)] {
            let url = Url::parse(&format!("{scheme}://a,b:1")).expect("a URL");
            assert_eq!(addresses(&url), ["a:6379", "b:1"]);
            assert!(url.servers.iter().all(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }) == tls));
        }
        let all = Url::parse("redis://me:p%40s,s@a,[::1]:2,c:3/4?prefix=mine-2").expect("a URL");
        assert_eq!(addresses(&all), ["a:6379", "::1:2", "c:3"]);
        for info in &all.servers {
            let settings = info.redis_settings();
            assert_eq!((settings.username(), settings.password(), settings.db()), (Some("me"), Some("p@s,s"), 4));
            assert!(info.tcp_settings().nodelay());
        }
        assert_eq!(all.deployment, "mine-2");
    }

    #[test]
    fn a_wrong_url_is_told_without_its_password() {
        for url in [
            "redis:a",
            "redises://u:secret@a",
            "redis://:secret@a:b",
            "redis://:secret@a?prefix=a:b",
            "redis://:secret@a?x=y",
            "redis://:secret@",
        ] {
            let error = Url::parse(url).expect_err(url).to_string();
            assert!(error.contains("the URL of Redis") && !error.contains("secret"), "{error}");
        }
    }
}
