//! A cluster that is rearranged under those who use it.

use super::{server::free_port, *};

/// Servers that form a cluster.
struct Cluster {
    servers: Vec<(Server, u16)>,
}

impl Cluster {
    /// So many servers that know each other, of which the first owns everything.
    async fn start(test: &str, count: usize) -> Option<Self> {
        Server::start(test)?;
        let one = |_| {
            let bus = free_port();
            let settings =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-port", &bus.to_string()];
            let more = ["--cluster-require-full-coverage", "no", "--cluster-allow-replica-migration", "no"];
            let settings: Vec<String> = settings.iter().chain(&more).map(|&word| word.to_owned()).collect();
            (Server::with(&settings), bus)
        };
        let cluster = Self { servers: (0..count).map(one).collect() };
        cluster.server(0).ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        for (server, bus) in &cluster.servers[1..] {
            let (port, bus) = (server.port.to_string(), bus.to_string());
            cluster.server(0).ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        for at in 0..count {
            let known = format!("cluster_known_nodes:{count}");
            cluster.says(at, &["CLUSTER", "INFO"], &["cluster_state:ok", &known]).await;
        }
        Some(cluster)
    }

    fn server(&self, at: usize) -> &Server {
        &self.servers[at].0
    }

    async fn id(&self, at: usize) -> String {
        self.server(at).ask(&["CLUSTER", "MYID"]).await
    }

    /// Waits until a server's answer has all of this.
    async fn says(&self, at: usize, words: &[&str], what: &[&str]) {
        let said = async {
            loop {
                let said: String = self.server(at).ask(words).await;
                if what.iter().all(|what| said.contains(what)) {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, said).await.expect("it says so in the end");
    }

    /// Gives a slot without keys to another server.
    async fn hand_over(&self, slot: u16, from: usize, to: usize) {
        let (slot, heir) = (slot.to_string(), self.id(to).await);
        for at in [to, from] {
            self.server(at).ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &heir]).await;
        }
    }

    /// A slot is on its way: what is not there any more may be asked for at its heir.
    async fn send_off(&self, slot: u16, from: usize, to: usize) {
        let (slot, giver, heir) = (slot.to_string(), self.id(from).await, self.id(to).await);
        self.server(to).ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &giver]).await;
        self.server(from).ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &heir]).await;
    }

    async fn slot(&self, name: &str) -> u16 {
        self.server(0).ask(&["CLUSTER", "KEYSLOT", name]).await
    }
}

fn channel(scope: Scope) -> String {
    names::fleet_channel(names::DEPLOYMENT, scope)
}

#[tokio::test]
async fn a_channel_that_moves_to_another_server_is_followed_there() {
    let Some(cluster) = Cluster::start("a_channel_that_moves", 2).await else { return };
    let live = RedisLive::open(&cluster.server(0).url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    let slot = cluster.slot(&channel(FLEET)).await;
    let mut last = 0;
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        cluster.hand_over(slot, from, to).await;
        last = goes_on(&*live, &mut follower, last).await;
        let (_, there): (String, u32) = cluster.server(to).ask(&["PUBSUB", "SHARDNUMSUB", &channel(FLEET)]).await;
        assert_eq!(there, 1);
    }
    let key = names::directory_key(names::DEPLOYMENT, "d/");
    cluster.hand_over(cluster.slot(&key).await, 0, 1).await;
    reached_put(&*live).await;
    assert_eq!(live.scan("d/").await.expect("scanned").facts.len(), 1);
}

#[tokio::test]
async fn what_is_on_its_way_to_another_server_is_refused_and_reached_once_it_is_there() {
    let Some(cluster) = Cluster::start("what_is_on_its_way", 2).await else { return };
    let live = RedisLive::open(&cluster.server(0).url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    let key = names::directory_key(names::DEPLOYMENT, "d/");
    let slots = [cluster.slot(&key).await, cluster.slot(&channel(FLEET)).await];
    live.put("d/fact", "", LEASE).await.expect("put");
    for slot in slots {
        cluster.send_off(slot, 0, 1).await;
    }
    live.put("d/fact", "", LEASE).await.expect("it is here still");
    let port = cluster.server(1).port.to_string();
    cluster.server(0).ask::<String>(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]).await;
    refuses(live.put("d/fact", "", LEASE)).await;
    refuses(live.scan("d/")).await;
    for at in 1..4 {
        live.publish(&[head(at)]).await.expect("published");
        assert_eq!(next(&mut follower).await, Heard::News(head(at)), "a channel has nothing to carry over");
    }
    for slot in slots {
        cluster.hand_over(slot, 0, 1).await;
    }
    goes_on(&*live, &mut follower, 3).await;
    reached_put(&*live).await;
    let found = live.scan("d/").await.expect("scanned");
    assert!(found.facts.len() == 1 && found.intact < Duration::from_secs(1), "nobody vouches for another: {found:?}");
}

/// Waits until a fact is taken.
async fn reached_put(live: &dyn Live) {
    let reached = async {
        while live.put("d/fact", "", LEASE).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("it is taken in the end");
}

#[tokio::test]
async fn a_replica_that_takes_over_is_followed_and_vouches_for_nothing() {
    let Some(mut cluster) = Cluster::start("a_replica_that_takes_over", 2).await else { return };
    let first = cluster.id(0).await;
    cluster.server(1).ask::<()>(&["CLUSTER", "REPLICATE", &first]).await;
    cluster.says(1, &["INFO", "replication"], &["master_link_status:up"]).await;
    // It is named once it has copied something.
    let port = format!("int({})", cluster.server(1).port);
    let named = async {
        while !format!("{:?}", cluster.server(0).ask::<redis::Value>(&["CLUSTER", "SLOTS"]).await).contains(&port) {
            cluster.server(0).ask::<()>(&["SET", "something", "new"]).await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, named).await.expect("the replica is named");
    let live = RedisLive::open(&cluster.server(0).url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    live.put("d/fact", "", LEASE).await.expect("put");
    live.scan("d/").await.expect("scanned");
    sleep(Duration::from_millis(600)).await;
    let found = live.scan("d/").await.expect("scanned");
    assert!(found.facts.len() == 1 && found.intact >= Duration::from_millis(600), "{found:?}");
    cluster.servers[0].0.kill();
    cluster.server(1).ask::<()>(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await;
    goes_on(&*live, &mut follower, 0).await;
    reached_put(&*live).await;
    let found = live.scan("d/").await.expect("scanned");
    assert!(found.intact < Duration::from_millis(500), "the last puts may not have reached it: {found:?}");
}

#[tokio::test]
async fn a_server_that_is_away_takes_only_its_part_with_it() {
    let Some(mut cluster) = Cluster::start("a_server_that_is_away", 2).await else { return };
    let theirs = Scope { fleet: FleetId::from_bits(71), ..FLEET };
    cluster.hand_over(cluster.slot(&channel(theirs)).await, 0, 1).await;
    let live = RedisLive::open(&cluster.server(1).url()).await.expect("it opens");
    let (mut mine, mut other) =
        (live.subscribe(FLEET).await.expect("followed"), live.subscribe(theirs).await.expect("followed"));
    cluster.servers[1].0.kill();
    let both = [News::Head { scope: theirs, last: Offset(1) }, head(1)];
    refuses(live.publish(&both)).await;
    assert_eq!(next(&mut mine).await, Heard::News(head(1)), "the others are told");
    live.publish(&[head(2)]).await.expect("published");
    assert_eq!(next(&mut mine).await, Heard::News(head(2)));
    cluster.servers[1].0.restart();
    let told = async {
        loop {
            let _away = live.publish(&[News::Head { scope: theirs, last: Offset(2) }]).await;
            sleep(Duration::from_millis(20)).await;
            if other.next().now_or_never().flatten() == Some(Heard::Lost) {
                break;
            }
        }
    };
    timeout(PATIENCE, told).await.expect("it is told what it lost");
    assert_eq!(live.publish(&[head(3)]).await.map_err(|error| error.to_string()), Ok(()));
    assert_eq!(next(&mut mine).await, Heard::News(head(3)), "nothing was lost here");
}

#[tokio::test]
async fn a_cluster_that_was_not_created_is_told() {
    let Some(_) = Server::start("a_cluster_that_was_not_created") else { return };
    let bus = free_port().to_string();
    let server = Server::with(&["--cluster-enabled", "yes", "--cluster-port", &bus].map(str::to_owned));
    let Err(error) = RedisLive::open(&server.url()).await else { panic!("it was taken") };
    assert!(error.to_string().contains("create it first"), "{error}");
}

#[tokio::test]
async fn a_cluster_that_is_away_at_first_is_found_once_it_is_there() {
    let Some(cluster) = Cluster::start("a_cluster_that_is_away_at_first", 2).await else { return };
    cluster.servers.iter().for_each(|(server, _)| server.freeze());
    let live = RedisLive::open(&cluster.server(0).url()).await.expect("it is only away");
    refuses_at_once(&*live).await;
    cluster.servers.iter().for_each(|(server, _)| server.thaw());
    reached(&*live).await;
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    live.publish(&[head(1)]).await.expect("published");
    assert_eq!(next(&mut follower).await, Heard::News(head(1)));
}
