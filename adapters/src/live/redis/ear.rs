//! The connection over which a server's channels are heard: subscribes and leaves, notices when it breaks, and begins anew.

use std::{convert::Infallible, sync::Arc, time::Duration};

use redis::{PushInfo, PushKind, RedisResult, Value};
use ringforge_domain::limits::FOLLOWED_AT_ONCE_MAX;
use ringforge_ports::Error;
use tokio::sync::Notify;

use super::{
    bus::Bus,
    server::{Link, RETRY, Server, back_off, moved, tell},
};

/// How often a silent server is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(2);

/// Hears the channels of a server, for ever.
pub async fn hear(bus: Arc<Bus>, server: Arc<Server>) {
    let (mut wait, mut told) = (RETRY, String::new());
    loop {
        let Err(error) = listen(&bus, &server, &mut wait).await;
        server.hears_over(None);
        tell(&mut told, &error);
        back_off(&mut wait).await;
    }
}

/// Hears them until the connection breaks.
async fn listen(bus: &Arc<Bus>, server: &Arc<Server>, wait: &mut Duration) -> Result<Infallible, Error> {
    let closed = Arc::new(Notify::new());
    let heard = {
        let (bus, closed) = (Arc::clone(bus), Arc::clone(&closed));
        move |number, push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.notify_one();
            } else if bus.channels.take(number, push) {
                bus.moved.notify_one();
            }
        }
    };
    let mut link = server.connect(heard).await.map_err(|unfit| unfit.error)?;
    server.hears_over(Some(link.number));
    bus.touch_unheard();
    loop {
        let names = server.touched(FOLLOWED_AT_ONCE_MAX);
        if names.is_empty() {
            tokio::select! {
                biased;
                () = closed.notified() => {
                    return Err(Error::Unavailable(format!("Redis at {} closed a connection", server.name)));
                }
                () = server.wake.notified() => continue,
                () = tokio::time::sleep(PING_EVERY) => {}
            }
        }
        subscribe(bus, &mut link, &names).await.map_err(|error| server.unreachable(&error))?;
        *wait = RETRY;
    }
}

/// Subscribes to channels, or leaves them if nobody follows them any more. Without any it asks whether the server is there.
async fn subscribe(bus: &Bus, link: &mut Link, names: &[String]) -> RedisResult<()> {
    let mut pipe = redis::pipe();
    let mut subscribed = Vec::new();
    for name in names {
        match bus.channels.to_send(name, link.number) {
            None => {
                pipe.cmd("SUNSUBSCRIBE").arg(name);
            }
            Some(count) => {
                for _ in 0..count {
                    pipe.cmd("SSUBSCRIBE").arg(name);
                }
                subscribed.push(name);
            }
        }
    }
    if pipe.is_empty() {
        pipe.cmd("PING");
    }
    let answers: Vec<RedisResult<Value>> = pipe.ignore_errors().query_async(&mut link.connection).await?;
    if let Some(error) = answers.into_iter().filter_map(Result::err).find(|error| !moved(error)) {
        return Err(error);
    }
    // Not by the answers: a channel that is taken from us in between is told by one that nobody asked for. What was confirmed
    // has been heard by now.
    for name in subscribed {
        if !bus.channels.is_heard(name, link.number) {
            bus.moved.notify_one();
        }
    }
    Ok(())
}
