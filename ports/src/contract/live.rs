//! The promises of `Live`, one function each.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream::BoxStream,
};
use ringforge_domain::{
    catalog::Effect,
    ids::{CommandId, FleetId, Scope, TenantId},
    limits,
    position::{LogTime, Offset, Partition, Position},
    verdict::{Index, Outcome as Came, Verdict},
};

use super::{Failure, Outcome, ensure, same, soon};
use crate::{
    live::{Heard, Live, News},
    reads::Update,
};

/// An adapter under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A new bus without followers and facts.
    async fn open(&self) -> Arc<dyn Live>;

    /// Lets so much time pass for the bus opened last.
    async fn pass(&self, time: Duration);

    /// The bus opened last, after it has lost all that it kept.
    async fn lose(&self) -> Arc<dyn Live>;

    /// What the suite takes for a second: where time really passes it may be shorter.
    fn second(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// A promise as a value, to run a whole suite in a loop.
pub type Promise = for<'a> fn(&'a dyn Subject) -> BoxFuture<'a, Outcome>;

/// Every promise by name.
pub const PROMISES: [(&str, Promise); 13] = [
    ("news_come_in_order", |subject| news_come_in_order(subject).boxed()),
    ("only_the_fleet_is_told", |subject| only_the_fleet_is_told(subject).boxed()),
    ("a_confirmed_follower_hears", |subject| a_confirmed_follower_hears(subject).boxed()),
    ("every_follower_hears_everything", |subject| every_follower_hears_everything(subject).boxed()),
    ("publishers_keep_their_order", |subject| publishers_keep_their_order(subject).boxed()),
    ("a_slow_follower_hears_that_it_lost", |subject| a_slow_follower_hears_that_it_lost(subject).boxed()),
    ("a_slow_follower_harms_nobody", |subject| a_slow_follower_harms_nobody(subject).boxed()),
    ("facts_end", |subject| facts_end(subject).boxed()),
    ("a_later_put_begins_anew", |subject| a_later_put_begins_anew(subject).boxed()),
    ("directories_are_apart", |subject| directories_are_apart(subject).boxed()),
    ("a_directory_tells_since_when_it_is_intact", |subject| a_directory_tells_since_when_it_is_intact(subject).boxed()),
    ("counters_count", |subject| counters_count(subject).boxed()),
    ("counters_restart", |subject| counters_restart(subject).boxed()),
];

const FLEET: Scope = Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(70) };
const SISTER: Scope = Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(71) };
const STRANGER: Scope = Scope { tenant: TenantId::from_bits(8), fleet: FleetId::from_bits(70) };

/// A piece of news, a head or an update by turns.
fn news(scope: Scope, number: u64) -> News {
    if number.is_multiple_of(2) {
        return News::Head { scope, last: Offset(number) };
    }
    let verdict = Verdict {
        position: Position { partition: Partition(1), offset: Offset(number) },
        time: LogTime(5),
        scope,
        command_id: CommandId::from_bits(u128::from(number)),
        agent: None,
        previous: None,
        outcome: Came::Applied(Effect::ActivitySubscribe(())),
        first: None,
        index: Index::default(),
    };
    News::from(Update { event: None, verdict })
}

fn number(news: &News) -> u64 {
    match news {
        News::Head { last, .. } => last.0,
        News::Update { update, .. } => update.verdict.position.offset.0,
    }
}

type Follower = BoxStream<'static, Heard>;

async fn next(follower: &mut Follower) -> Result<Heard, Failure> {
    soon("news", follower.next()).await?.ok_or(Failure::broken("the follower ended"))
}

/// The numbers of the next pieces, `count` of them.
async fn numbers(follower: &mut Follower, count: usize) -> Result<Vec<u64>, Failure> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(follower).await? {
            Heard::News(news) => all.push(number(&news)),
            Heard::Lost => return Err(Failure::broken("some were lost")),
        }
    }
    Ok(all)
}

/// Broken if something else is heard than what is published now.
async fn silent(live: &dyn Live, scope: Scope, follower: &mut Follower) -> Outcome {
    let marker = news(scope, 1_000_000);
    live.publish(std::slice::from_ref(&marker)).await?;
    same("after all that was to be heard", &next(follower).await?, &Heard::News(marker))
}

/// News come in the order in which they were published, as they were.
pub async fn news_come_in_order(subject: &dyn Subject) -> Outcome {
    let live = subject.open().await;
    let mut follower = live.subscribe(FLEET).await?;
    let all: Vec<_> = (0..100).map(|at| news(FLEET, at)).collect();
    for some in all.chunks(7) {
        live.publish(some).await?;
    }
    for want in all {
        same("the next", &next(&mut follower).await?, &Heard::News(want))?;
    }
    silent(&*live, FLEET, &mut follower).await
}

/// Only those who follow the fleet of a piece hear it; nobody has to follow.
pub async fn only_the_fleet_is_told(subject: &dyn Subject) -> Outcome {
    let live = subject.open().await;
    let (mut mine, mut sister) = (live.subscribe(FLEET).await?, live.subscribe(SISTER).await?);
    let mixed: Vec<_> =
        (0..30).zip([FLEET, SISTER, STRANGER].into_iter().cycle()).map(|(at, scope)| news(scope, at)).collect();
    live.publish(&mixed).await?;
    let every_third = |from: u64| (from..30).step_by(3).collect::<Vec<_>>();
    same("mine", &numbers(&mut mine, 10).await?, &every_third(0))?;
    same("the sister's", &numbers(&mut sister, 10).await?, &every_third(1))?;
    silent(&*live, FLEET, &mut mine).await?;
    silent(&*live, SISTER, &mut sister).await
}

/// Once a subscription has resolved, everything published is heard, and nothing from before.
pub async fn a_confirmed_follower_hears(subject: &dyn Subject) -> Outcome {
    let live = subject.open().await;
    for round in 0..50 {
        live.publish(&[news(FLEET, 2 * round)]).await?;
        let mut follower = live.subscribe(FLEET).await?;
        live.publish(&[news(FLEET, 2 * round + 1)]).await?;
        same("the first heard", &numbers(&mut follower, 1).await?, &vec![2 * round + 1])?;
    }
    Ok(())
}

/// Followers do not share: each hears everything, also when others leave.
pub async fn every_follower_hears_everything(subject: &dyn Subject) -> Outcome {
    let live = subject.open().await;
    let (mut first, second, mut third) =
        (live.subscribe(FLEET).await?, live.subscribe(FLEET).await?, live.subscribe(FLEET).await?);
    live.publish(&(0..5).map(|at| news(FLEET, at)).collect::<Vec<_>>()).await?;
    drop(second);
    live.publish(&(5..9).map(|at| news(FLEET, at)).collect::<Vec<_>>()).await?;
    for follower in [&mut first, &mut third] {
        same("all of it", &numbers(follower, 9).await?, &(0..9).collect())?;
    }
    Ok(())
}

/// Several publish at once: each one's pieces come in its order, and a follower that waits is woken.
pub async fn publishers_keep_their_order(subject: &dyn Subject) -> Outcome {
    let live = subject.open().await;
    let follower = live.subscribe(FLEET).await?;
    // A task of its own without a timer: nothing but the bus wakes it.
    let listening = tokio::spawn(follower.take(400).collect::<Vec<_>>());
    let publish = async |from: u64| {
        for at in (0..100).step_by(2) {
            live.publish(&[news(FLEET, 1_000 * from + at), news(FLEET, 1_000 * from + at + 1)]).await?;
            tokio::task::yield_now().await;
        }
        Ok::<_, Failure>(())
    };
    join_all((0..4).map(publish)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let heard = soon("all of it", listening).await?.map_err(|error| Failure::broken(error.to_string()))?;
    let number =
        |heard: Heard| if let Heard::News(news) = heard { Ok(number(&news)) } else { Err(Failure::broken("a loss")) };
    let heard = heard.into_iter().map(number).collect::<Result<Vec<_>, _>>()?;
    for from in 0..4 {
        let of_one: Vec<_> = heard.iter().filter(|at| **at / 1_000 == from).map(|at| at % 1_000).collect();
        same("of one publisher", &of_one, &(0..100).collect())?;
    }
    Ok(())
}

/// What a follower hears until the piece `last`: everything, in order, with `Lost` wherever something is missing.
async fn hears_with_gaps(follower: &mut Follower, last: u64) -> Result<bool, Failure> {
    let (mut expected, mut gap, mut gaps) = (0, false, false);
    while expected <= last {
        match next(follower).await? {
            Heard::Lost => (gap, gaps) = (true, true),
            Heard::News(news) => {
                let at = number(&news);
                ensure(at >= expected, &format!("{at} came after {expected}"))?;
                ensure(at == expected || gap, &format!("nobody said that {expected} to {at} were lost"))?;
                (expected, gap) = (at + 1, false);
            }
        }
    }
    Ok(gaps)
}

/// Publishing does not wait for a follower that is not listening; that one hears `Lost` where something is missing, and then
/// goes on with what is new.
pub async fn a_slow_follower_hears_that_it_lost(subject: &dyn Subject) -> Outcome {
    let live = subject.open().await;
    let mut follower = live.subscribe(FLEET).await?;
    let count = 10 * limits::FOLLOWER_QUEUE_MAX as u64;
    let all: Vec<_> = (0..count).map(|at| news(FLEET, at)).collect();
    for some in all.chunks(100) {
        soon("publishing", live.publish(some)).await??;
    }
    ensure(hears_with_gaps(&mut follower, count - 1).await?, "it took what no queue may hold")?;
    live.publish(&[news(FLEET, count)]).await?;
    same("what is new", &numbers(&mut follower, 1).await?, &vec![count])
}

/// A follower that listens loses nothing because of one that does not.
pub async fn a_slow_follower_harms_nobody(subject: &dyn Subject) -> Outcome {
    let live = subject.open().await;
    let (_slow, mut quick) = (live.subscribe(FLEET).await?, live.subscribe(FLEET).await?);
    for at in 0..2 * limits::FOLLOWER_QUEUE_MAX as u64 {
        soon("publishing", live.publish(&[news(FLEET, at)])).await??;
        same("the next", &numbers(&mut quick, 1).await?, &vec![at])?;
    }
    Ok(())
}

async fn scanned(live: &dyn Live, directory: &str) -> Result<Vec<String>, Failure> {
    let found = live.scan(directory).await?;
    Ok(found.facts.into_iter().map(|(key, value)| format!("{key}={value}")).collect())
}

/// Facts are found in their directory, by key, until their time is over.
pub async fn facts_end(subject: &dyn Subject) -> Outcome {
    let (live, second) = (subject.open().await, subject.second());
    live.put("b/2", "two", 8 * second).await?;
    live.put("b/1", "", 2 * second).await?;
    live.put("c", "other", 8 * second).await?;
    same("at first", &scanned(&*live, "b/").await?, &vec!["b/1=".to_owned(), "b/2=two".to_owned()])?;
    subject.pass(2 * second).await;
    same("after 2 s", &scanned(&*live, "b/").await?, &vec!["b/2=two".to_owned()])?;
    same("in no directory", &scanned(&*live, "").await?, &vec!["c=other".to_owned()])?;
    subject.pass(6 * second).await;
    same("in the end", &scanned(&*live, "b/").await?, &Vec::new())?;
    same("in the end, in none", &scanned(&*live, "").await?, &Vec::new())
}

/// A later put replaces the value and the time.
pub async fn a_later_put_begins_anew(subject: &dyn Subject) -> Outcome {
    let (live, second) = (subject.open().await, subject.second());
    live.put("longer", "1", 2 * second).await?;
    live.put("shorter", "1", 9 * second).await?;
    subject.pass(second).await;
    live.put("longer", "2", 4 * second).await?;
    live.put("shorter", "2", second).await?;
    same("replaced", &scanned(&*live, "").await?, &vec!["longer=2".to_owned(), "shorter=2".to_owned()])?;
    subject.pass(2 * second).await;
    same("later", &scanned(&*live, "").await?, &vec!["longer=2".to_owned()])
}

/// A directory is a name, not a pattern, and holds neither its neighbours' facts nor those of directories within it.
pub async fn directories_are_apart(subject: &dyn Subject) -> Outcome {
    let (live, minute) = (subject.open().await, 60 * subject.second());
    for key in ["a/1", "a/2", "a/b/1", "a*/1", "a?/1", "A/1", "{a}/1", "\u{e9}/\u{e9}", "a/", "a%/1", "a"] {
        live.put(key, "", minute).await?;
    }
    for (directory, want) in [
        ("a/", 3),
        ("a/b/", 1),
        ("a*/", 1),
        ("a?/", 1),
        ("?/", 0),
        ("{a}/", 1),
        ("\u{e9}/", 1),
        ("a%/", 1),
        ("", 1),
        ("b/", 0),
    ] {
        let found = scanned(&*live, directory).await?;
        same(&format!("what is kept in {directory:?}, {found:?}"), &found.len(), &want)?;
    }
    Ok(())
}

/// A directory that kept everything says so, for as long as it is looked at, also when there was nothing to keep; one that lost
/// everything says so too.
pub async fn a_directory_tells_since_when_it_is_intact(subject: &dyn Subject) -> Outcome {
    let (live, second) = (subject.open().await, subject.second());
    live.put("a/1", "", 60 * second).await?;
    for directory in ["a/", "empty/"] {
        live.scan(directory).await?;
    }
    subject.pass(4 * second).await;
    for (directory, want) in [("a/", 1), ("empty/", 0)] {
        let found = live.scan(directory).await?;
        same(directory, &found.facts.len(), &want)?;
        ensure(found.intact >= 3 * second, &format!("{directory} lost nothing, and says {:?}", found.intact))?;
    }
    let live = subject.lose().await;
    let found = live.scan("a/").await?;
    same("after a loss", &found.facts, &Vec::new())?;
    ensure(found.intact <= second, &format!("it lost what it kept, and says {:?}", found.intact))?;
    subject.pass(4 * second).await;
    let intact = live.scan("a/").await?.intact;
    ensure(intact >= 3 * second, &format!("it lost nothing since, and says {intact:?}"))
}

/// Each counter adds up by itself; adding nothing only looks.
pub async fn counters_count(subject: &dyn Subject) -> Outcome {
    let (live, second) = (subject.open().await, subject.second());
    let window = 60 * second;
    same("before", &live.count("a", 0, window).await?, &0)?;
    same("one", &live.count("a", 1, window).await?, &1)?;
    same("three", &live.count("a", 2, window).await?, &3)?;
    same("another", &live.count("a/b", 5, window).await?, &5)?;
    same("a look", &live.count("a", 0, window).await?, &3)?;
    let adds = join_all((0..50).map(|_| live.count("c", 1, window))).await;
    let mut counts = adds.into_iter().collect::<Result<Vec<_>, _>>()?;
    counts.sort_unstable();
    same("each count once", &counts, &(1..=50).collect())
}

/// A counter restarts when its window has passed since it began, however often it was used; a look begins none.
pub async fn counters_restart(subject: &dyn Subject) -> Outcome {
    let (live, second) = (subject.open().await, subject.second());
    let window = 3 * second;
    live.count("a", 0, window).await?;
    subject.pass(2 * second).await;
    same("it begins", &live.count("a", 1, window).await?, &1)?;
    subject.pass(2 * second).await;
    same("within its window", &live.count("a", 1, window).await?, &2)?;
    subject.pass(second).await;
    same("a look after it", &live.count("a", 0, window).await?, &0)?;
    same("it begins again", &live.count("a", 4, window).await?, &4)
}
