//! Memory queries by words and tags among many entries, and how long the read models take to be made anew. An answer must
//! be exactly what is known to be there.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::value_parser;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    agent::{Hello, connect},
    figures::{Latencies, Report, micros},
    process::{Place, Server, raise_open_files},
    quiet::{Meter, Noise, Rounds, rounds},
    replay::fill,
    socket::Socket,
};

/// An answer that takes longer has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Read models that take longer to be made anew have failed.
const REBUILT_WITHIN: Duration = Duration::from_mins(5);
/// So many words are each in as many entries as the others.
const WORDS: u32 = 1_000;
/// So many tags likewise; a word's entries share their tag.
const TAGS: u32 = 20;
/// Entries of one answer.
const PAGE: u32 = 20;

/// `ringforge-load query`.
#[derive(Clone, Debug, clap::Args)]
pub struct Query {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    rounds: Rounds,
    /// Entries.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    entries: u32,
    /// Queries in a round, one after the other, each for another word.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..=100_000))]
    queries: u32,
    /// Afterwards restart the server without its read models, once in each round.
    #[arg(long, requires = "server")]
    rebuild: bool,
}

/// Writes one entry: a word in its value, a tag, and words that all have.
fn entry(number: usize) -> String {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let (word, tag) = (number % WORDS, number % TAGS);
    json!({
        "type": "memory", "action": "set", "ref": number, "key": format!("doc/{number}"), "tags": [format!("tag{tag}")],
        "value": format!("notes on topic{word:04} that some agent found while it looked for something else")
    })
    .to_string()
}

/// Asks for one word and its tag.
fn question(number: u32, word: u32) -> String {
    let tag = format!("tag{}", word % TAGS);
    let text = format!("topic{word:04} notes");
    json!({ "type": "memory", "action": "query", "ref": number, "text_search": text, "tags": [tag], "limit": PAGE })
        .to_string()
}

/// Whether an answer is right: the total, and nothing but entries with the word.
fn check(answer: &Value, word: u32, entries: u32) -> Result<()> {
    let total = u64::from((entries + WORDS - 1 - word) / WORDS);
    ensure!(answer["total"].as_u64() == Some(total), "total {} instead of {total}", answer["total"]);
    let found = answer["entries"].as_array().context("an answer without entries")?;
    ensure!(
        found.len() as u64 == total.min(PAGE.into()),
        "{} entries instead of {}",
        found.len(),
        total.min(PAGE.into())
    );
    let mut keys: Vec<&str> = found.iter().filter_map(|entry| entry["key"].as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    let number = |key: &&str| key.strip_prefix("doc/").and_then(|number| number.parse::<u32>().ok());
    let right = keys.iter().filter_map(number).filter(|number| number % WORDS == word && *number < entries).count();
    ensure!(right == found.len(), "{right} right and different entries of {}", found.len());
    Ok(())
}

async fn ask(socket: &mut Socket, number: u32, word: u32, entries: u32) -> Result<()> {
    socket.send(question(number, word).as_bytes()).await?;
    let answered = async {
        loop {
            let text = socket.next().await?;
            let answer: Value = serde_json::from_slice(&text).context("read an answer")?;
            if answer["ref"].as_u64() == Some(number.into()) {
                ensure!(answer["event"] == "query_result", "refused: {answer}");
                return check(&answer, word, entries);
            }
        }
    };
    timeout(ANSWER_WITHIN, answered).await.map_err(|_| anyhow!("no answer in {ANSWER_WITHIN:?}")).flatten()
}

/// Runs it.
///
/// # Errors
/// The server or the connection failed, or an answer was not right.
pub async fn run(query: &Query) -> Result<Report> {
    raise_open_files(200)?;
    let Query { entries, queries, .. } = *query;
    let mut report = Report::new(format!("Memory queries by words and a tag among {entries} entries"));
    let mut server = Server::at(&query.place, &[1])?;
    let mut socket = connect(&server.doors(1)?[0], "load-0", &Hello::default()).await?;
    fill(&mut socket, entries, entry, &mut report).await?;
    let one = async |round: u32| {
        let (meter, mut latencies) = (Meter::start(&server)?, Latencies::default());
        for number in 0..queries {
            let word = (round * queries + number) * 37 % WORDS;
            let begun = Instant::now();
            ask(&mut socket, number, word, entries).await.with_context(|| format!("query {number}"))?;
            latencies.record(micros(begun.elapsed()));
        }
        let cost = meter.stop(&server)?;
        Ok((latencies, cost.noise))
    };
    let found = rounds(query.rounds, &mut report, one).await?;
    report.metric("p50_ms", "p50, ms", &found.iter().map(|round| round.quantile_ms(0.5)).collect::<Vec<_>>(), 2);
    report.metric("p99_ms", "p99, ms", &found.iter().map(|round| round.quantile_ms(0.99)).collect::<Vec<_>>(), 2);
    report.row("queries checked", found.len() * queries as usize);
    if query.rebuild {
        drop(socket);
        let binary = query.place.server.as_deref().context("name the server: --server PATH")?;
        let mut seconds = Vec::new();
        for _ in 0..query.rounds.rounds {
            let (again, (ready, right), noise) = rebuild(server, binary, entries).await?;
            server = again;
            seconds.push(right);
            let shown = format!("{ready:.2} ({:.1} % of a core for others)", noise.percent());
            report.row("exec to ready line, s", shown);
        }
        report.metric("rebuild_s", "exec without read models to the first right answer, s", &seconds, 2);
    }
    Ok(report)
}

/// Restarts a server without its read models; seconds from exec to ready and to the first right answer.
async fn rebuild(server: Server, binary: &Path, entries: u32) -> Result<(Server, (f64, f64), Noise)> {
    let server = server.restart(binary, delete_read_models)?;
    let mut socket = connect(&server.doors(1)?[0], "load-0", &Hello::default()).await?;
    let mut number = 0;
    // Until the entries are there again, answers are short of some.
    while let Err(error) = ask(&mut socket, number, 7 % WORDS, entries).await {
        ensure!(server.begun.at.elapsed() < REBUILT_WITHIN, "not made anew: {error:#}");
        number += 1;
        sleep(Duration::from_millis(10)).await;
    }
    let right = server.begun.at.elapsed().as_secs_f64();
    let (ready, noise) = (server.wall.as_secs_f64(), Meter::from_exec(&server).stop(&server)?.noise);
    Ok((server, (ready, right), noise))
}

/// The README says which they are.
fn delete_read_models(data: &Path) -> Result<()> {
    let mut deleted = 0;
    for file in fs::read_dir(data).with_context(|| format!("list {}", data.display()))? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("reads-") {
            fs::remove_file(file.path()).context("delete a read model")?;
            deleted += 1;
        }
    }
    ensure!(deleted > 0, "there were no read models to delete");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(total: u32, keys: &[u32]) -> Value {
        let entries: Vec<Value> = keys.iter().map(|key| json!({ "key": format!("doc/{key}") })).collect();
        json!({ "total": total, "entries": entries })
    }

    #[test]
    fn an_answer_is_exactly_what_is_there() {
        assert!(check(&answer(3, &[7, 1_007, 2_007]), 7, 2_008).is_ok());
        assert!(check(&answer(2, &[7, 1_007]), 7, 2_007).is_ok());
        for wrong in [
            answer(2, &[7, 1_007, 2_007]),
            answer(3, &[7, 1_007]),
            answer(3, &[7, 1_007, 1_007]),
            answer(3, &[7, 1_007, 2_008]),
            answer(3, &[7, 1_007, 3_007]),
            json!({}),
        ] {
            assert!(check(&wrong, 7, 2_008).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_read_model_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(delete_read_models(folder.path()).is_err());
        for name in ["log.db", "reads-1.db", "reads-1.db-wal"] {
            fs::write(folder.path().join(name), "x").expect("written");
        }
        delete_read_models(folder.path()).expect("deleted");
        let left: Vec<_> =
            fs::read_dir(folder.path()).expect("listed").flatten().map(|file| file.file_name()).collect();
        assert_eq!(left, ["log.db"]);
    }
}
