//! A way to a server that is cut where a commit is on it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Where the way is cut, once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// The server never sees the commit.
    BeforeCommit,
    /// The client never sees that it is done.
    AfterCommit,
}

/// The message that ends a transaction.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

pub struct Proxy {
    address: String,
    cut: Arc<Mutex<Option<Cut>>>,
    made: Arc<AtomicU64>,
    /// Over connections before this one nothing comes back.
    deaf: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(address: &str) -> Self {
        let (login, rest) = address.split_once('@').expect("a user");
        let (host, database) = rest.split_once('/').expect("a database");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (cut, host) = (Arc::new(Mutex::new(None)), host.to_owned());
        let (made, deaf): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let (wanted, count, silent) = (Arc::clone(&cut), Arc::clone(&made), Arc::clone(&deaf));
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&host).await.expect("the server");
                let number = count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(client, server, number, Arc::clone(&wanted), Arc::clone(&silent)));
            }
        });
        Self { address: format!("{login}@127.0.0.1:{port}/{database}"), cut, made, deaf, serving }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Over the connections that there are now nothing comes back any more; how many ever were.
    pub fn deafen(&self) -> u64 {
        let made = self.made.load(Ordering::Relaxed);
        self.deaf.store(made, Ordering::Relaxed);
        made
    }

    /// Cuts the way of the next commit.
    pub fn cut(&self, cut: Cut) {
        *self.cut.lock().expect("no panic") = Some(cut);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn carry(
    client: TcpStream,
    server: TcpStream,
    number: u64,
    wanted: Arc<Mutex<Option<Cut>>>,
    deaf: Arc<AtomicU64>,
) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let back = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let heard = number >= deaf.load(Ordering::Relaxed);
            if heard && to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
        let sent = &buffer[..count];
        let cut = if sent == COMMIT { wanted.lock().expect("no panic").take() } else { None };
        if cut == Some(Cut::AfterCommit) {
            // Nothing comes back from here on.
            back.abort();
        }
        if cut != Some(Cut::BeforeCommit) && to_server.write_all(sent).await.is_err() || cut.is_some() {
            break;
        }
    }
    back.abort();
}
