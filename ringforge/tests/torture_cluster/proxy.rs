//! A way to a server that can be harmed: closed, slowed down, deaf, or cut just after a commit was sent.

use std::{
    io,
    net::{Ipv4Addr, TcpListener as Bound},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// How long a server still has what it was sent last when the way to it is cut: for it to be read.
const CUT: Duration = Duration::from_millis(100);
/// What a commit looks like on its way to Postgres.
const COMMIT: &[u8] = b"COMMIT";

/// How a way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As if it were none.
    Open,
    /// Connections break off, and none comes about.
    Closed,
    /// Everything takes so much longer.
    Slow(Duration),
    /// Connections stand, and nothing comes out of them any more, ever. New ones are the same.
    Deaf,
}

/// A way to a server.
pub struct Proxy {
    /// Where it begins, on this machine.
    pub port: u16,
    harm: Arc<Harm>,
    tasks: JoinSet<()>,
}

struct Harm {
    way: watch::Sender<Way>,
    armed: AtomicBool,
    cuts: AtomicU64,
}

impl Proxy {
    /// One that leads nowhere yet.
    pub fn bind() -> (Bound, u16) {
        let bound = Bound::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        bound.set_nonblocking(true).expect("it can wait");
        let port = bound.local_addr().expect("it has a port").port();
        (bound, port)
    }

    /// It leads to a port of this machine.
    pub fn lead((bound, port): (Bound, u16), server: u16) -> Self {
        let (way, armed, cuts) = (watch::Sender::new(Way::Open), AtomicBool::new(false), AtomicU64::new(0));
        let harm = Arc::new(Harm { way, armed, cuts });
        let listener = TcpListener::from_std(bound).expect("it listens");
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, server, Arc::clone(&harm)));
        Self { port, harm, tasks }
    }

    /// From now on it is like this.
    pub fn set(&self, way: Way) {
        self.harm.way.send_replace(way);
    }

    /// The next commit is the last thing that its connection brings over.
    pub fn cut_after_commit(&self) {
        self.harm.armed.store(true, Ordering::Relaxed);
    }

    /// Nothing is cut any more. How often it was, so far.
    pub fn disarm(&self) -> u64 {
        self.harm.armed.store(false, Ordering::Relaxed);
        self.harm.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

async fn serve(listener: TcpListener, server: u16, harm: Arc<Harm>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        // Whatever breaks it off, both sides see.
        let harm = Arc::clone(&harm);
        connections.spawn(async move { carry(client, server, &harm).await.unwrap_or_default() });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut client: TcpStream, server: u16, harm: &Harm) -> io::Result<()> {
    let mut way = harm.way.subscribe();
    let now = *way.borrow_and_update();
    match now {
        Way::Closed => return Ok(()),
        Way::Deaf => return swallow(&mut client).await,
        Way::Open | Way::Slow(_) => {}
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let end = tokio::select! {
        end = pump(&mut from_client, &mut to_server, harm, true) => end?,
        end = pump(&mut from_server, &mut to_client, harm, false) => end?,
        end = harmed(&mut way) => end,
    };
    match end {
        End::Gone => Ok(()),
        // The server has it, and nobody hears that.
        End::Cut => {
            drop(client);
            sleep(CUT).await;
            Ok(())
        }
        End::Deaf => swallow(&mut client).await,
    }
}

/// Waits until nothing comes over it any more.
async fn harmed(way: &mut watch::Receiver<Way>) -> End {
    let harmed = way.wait_for(|way| matches!(way, Way::Closed | Way::Deaf)).await;
    if harmed.is_ok_and(|way| *way == Way::Deaf) { End::Deaf } else { End::Gone }
}

enum End {
    Gone,
    Cut,
    Deaf,
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    harm: &Harm,
    to_server: bool,
) -> io::Result<End> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return Ok(End::Gone);
        }
        let way = *harm.way.borrow();
        if let Way::Slow(by) = way {
            sleep(by).await;
        }
        to.write_all(&bytes[..read]).await?;
        let commits = || bytes[..read].windows(COMMIT.len()).any(|some| some == COMMIT);
        if to_server && harm.armed.load(Ordering::Relaxed) && commits() && harm.armed.swap(false, Ordering::Relaxed) {
            harm.cuts.fetch_add(1, Ordering::Relaxed);
            return Ok(End::Cut);
        }
    }
}

/// Takes all and answers nothing, until the other side has had enough.
async fn swallow(client: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 4 << 10];
    while client.read(&mut bytes).await? > 0 {}
    Ok(())
}
