//! Which verdicts a question means.

use std::collections::BTreeSet;

use ringforge_domain::{
    ids::Scope,
    interest::Topic,
    position::{Offset, Partition},
};
use ringforge_ports::reads::{Matching, Viewer, Which};

use super::{
    ask,
    build::{Dialect, List, Sql, Value},
    of_scope, one_of,
};
use crate::reads::batch::place;

/// Which verdicts: applied, time, oldest, total, place. Their bodies are read apart, as many as have room.
pub fn verdicts(dialect: Dialect, partition: Partition, scope: Scope, which: &Which) -> Sql {
    let mut sql = Sql::of(dialect);
    let mut total = "0 AS total";
    if let Which::Matching(matching) = which {
        // What labels, tags or subject select is looked for once, then counted and paged. Without them it may be the whole
        // history, of which a page is found at once.
        sql.push(if names(matching) { "WITH matches AS MATERIALIZED" } else { "WITH matches AS NOT MATERIALIZED" });
        sql.push(" (SELECT h.place");
        matches(&mut sql, partition, scope, matching);
        sql.push(") ");
        total = "count(*) AS total FROM matches";
    }
    ask(&mut sql, partition, "o.oldest, c.total, f.place");
    sql.push("CROSS JOIN (SELECT min(place) AS oldest FROM history WHERE true");
    of_fleet(&mut sql, "", partition, scope);
    sql.push(format!(") o CROSS JOIN (SELECT {total}) c LEFT JOIN (SELECT place FROM "));
    match which {
        Which::After { after, limit } => {
            sql.push("history WHERE true");
            of_fleet(&mut sql, "", partition, scope);
            if let Some(after) = after {
                sql.push(" AND place > ").push_bind(place(partition, *after));
            }
            sql.push(" ORDER BY place LIMIT ").push_bind(i64::from(*limit));
        }
        Which::At(offsets) => {
            let places: BTreeSet<i64> = offsets.iter().map(|offset| place(partition, *offset)).collect();
            let places = vec![List::Integers(places.into_iter().collect())];
            match dialect {
                Dialect::Sqlite => {
                    sql.push(format!("history WHERE place IN (SELECT {} FROM ", sql.only_cell("a")));
                    sql.push_lists("a", places).push(")");
                    of_scope(&mut sql, "", scope);
                }
                Dialect::Postgres => {
                    sql.push_lists("a", places).push(" CROSS JOIN LATERAL (");
                    sql.push("SELECT h.place FROM history h WHERE h.place = a.c0");
                    of_fleet(&mut sql, "h.", partition, scope);
                    sql.push(" OFFSET 0) h");
                }
            }
        }
        Which::About(about) => {
            sql.push("(SELECT DISTINCT (SELECT min(h.place) FROM history h");
            if dialect == Dialect::Sqlite {
                // It is named because another way looks as short to whoever does not know how long a history is.
                sql.push(" INDEXED BY history_subject");
            }
            let (stream, label, subject) = (sql.cell("a", 0), sql.cell("a", 1), sql.cell("a", 2));
            sql.push(format!(" WHERE h.stream = {stream} AND h.label = {label} AND h.subject = {subject}"));
            of_fleet(&mut sql, "h.", partition, scope);
            let streams = List::Texts(about.iter().map(|about| about.stream.text().to_owned()).collect());
            let labels = List::Written(about.iter().map(|about| about.label.clone()).collect());
            let subjects = List::Written(about.iter().map(|about| about.subject.clone()).collect());
            sql.push(") AS place FROM ").push_lists("a", vec![streams, labels, subjects]).push(") d");
        }
        Which::Matching(matching) => {
            sql.push("matches");
            if let Some(after) = matching.after {
                sql.push(" WHERE place > ").push_bind(place(partition, after));
            }
            sql.push(if matching.newest { " ORDER BY place DESC LIMIT " } else { " ORDER BY place LIMIT " });
            sql.push_bind(i64::from(matching.limit));
        }
    }
    sql.push(") f ON true ORDER BY f.place");
    sql
}

fn of_fleet(sql: &mut Sql, table: &str, partition: Partition, scope: Scope) {
    of_scope(sql, table, scope);
    sql.push(format!(" AND {table}place"));
    of_partition(sql, partition);
}

fn of_partition(sql: &mut Sql, partition: Partition) {
    sql.push(" BETWEEN ").push_bind(place(partition, Offset::ZERO));
    sql.push(" AND ").push_bind(place(partition, Offset(Offset::LIMIT.0 - 1)));
}

/// The place as a range is compared with it. Where labels, tags or a subject name the places, the range must not be taken for
/// the way to find them (it is most of the fleet): the sign keeps it from being looked up.
fn range(dialect: Dialect, matching: &Matching) -> String {
    if names(matching) { format!("{}h.place", dialect.apart()) } else { "h.place".to_owned() }
}

/// Whether labels, tags or a subject name the places.
fn names(matching: &Matching) -> bool {
    !matching.labels.is_empty() || !matching.tags.is_empty() || matching.subject.is_some()
}

/// `FROM` and `WHERE` of what [`Matching::includes`].
fn matches(sql: &mut Sql, partition: Partition, scope: Scope, matching: &Matching) {
    // Then what names it need not be asked of it again in the same way.
    let is_named = sql.dialect == Dialect::Postgres && names(matching);
    sql.push(" FROM ");
    if is_named {
        named(sql, partition, scope, matching);
    } else {
        sql.push("history h");
    }
    sql.push(" WHERE true");
    of_scope(sql, "h.", scope);
    sql.push(format!(" AND {}", range(sql.dialect, matching)));
    of_partition(sql, partition);
    one_of(sql, "h.stream", matching.streams.iter().map(|stream| stream.text().into()));
    if matching.streams.is_empty() {
        sql.push(" AND false");
    }
    if is_named || !matching.tags.is_empty() {
        one_of(sql, "h.label", matching.labels.iter().cloned().map(Value::Written));
    } else if !matching.labels.is_empty() {
        sql.push(" AND h.place IN ");
        labelled(sql, partition, scope, &matching.labels);
    }
    one_of(sql, "h.agent", matching.agents.iter().map(|agent| agent.to_string().into()));
    if let Some(subject) = matching.subject.as_ref().filter(|_| is_named) {
        sql.push(" AND h.subject = ").push_written(subject);
    } else if let Some(subject) = &matching.subject {
        sql.push(" AND h.place IN ");
        concerning(sql, partition, scope, subject);
    }
    if let Some(from) = matching.from {
        sql.push(" AND h.time >= ").push_bind(from.0);
    }
    if let Some(to) = matching.to {
        sql.push(" AND h.time < ").push_bind(to.0);
    }
    if matching.all_tags {
        for tag in matching.tags.iter().skip(usize::from(is_named)) {
            sql.push(" AND h.place IN ");
            tagged(sql, partition, scope, "tagged", std::slice::from_ref(tag));
        }
    } else if !matching.tags.is_empty() && !is_named {
        sql.push(" AND h.place IN ");
        tagged(sql, partition, scope, "tagged", &matching.tags);
    }
    if let Some(viewer) = &matching.viewer {
        visible(sql, partition, scope, matching, viewer);
    }
}

/// The history at the places that tags, a subject or labels name, one place after the other, however many the planner takes them
/// for: of a new slice nothing is known yet.
fn named(sql: &mut Sql, partition: Partition, scope: Scope, matching: &Matching) {
    sql.push("(SELECT DISTINCT n.place FROM ");
    match (matching.tags.as_slice(), &matching.subject) {
        ([], Some(subject)) => concerning(sql, partition, scope, subject),
        ([], None) => labelled(sql, partition, scope, &matching.labels),
        ([first, ..], _) if matching.all_tags => tagged(sql, partition, scope, "tagged", std::slice::from_ref(first)),
        (tags, _) => tagged(sql, partition, scope, "tagged", tags),
    }
    sql.push(
        " n) n CROSS JOIN LATERAL (SELECT h.tenant, h.fleet, h.place, h.time, h.stream, h.label, h.subject, h.agent,",
    );
    sql.push(" h.routed, h.parties FROM history h WHERE h.place = n.place");
    of_fleet(sql, "h.", partition, scope);
    sql.push(" OFFSET 0) h");
}

/// The places that have one of these labels.
fn labelled(sql: &mut Sql, partition: Partition, scope: Scope, labels: &[String]) {
    sql.push("(SELECT l.place FROM history l WHERE true");
    of_fleet(sql, "l.", partition, scope);
    one_of(sql, "l.label", labels.iter().cloned().map(Value::Written));
    sql.push(")");
}

/// The places that have this subject.
fn concerning(sql: &mut Sql, partition: Partition, scope: Scope, subject: &str) {
    sql.push("(SELECT a.place FROM history a WHERE a.subject = ").push_written(subject);
    of_fleet(sql, "a.", partition, scope);
    sql.push(")");
}

/// The places that have one of these tags, as `role`.
fn tagged(sql: &mut Sql, partition: Partition, scope: Scope, role: &str, tags: &[String]) {
    sql.push(format!("(SELECT t.place FROM history_tags t WHERE t.{role} = 1"));
    of_fleet(sql, "t.", partition, scope);
    one_of(sql, "t.tag", tags.iter().cloned().map(Value::Written));
    sql.push(")");
}

/// What [`Matching::visible`] says.
fn visible(sql: &mut Sql, partition: Partition, scope: Scope, matching: &Matching, viewer: &Viewer) {
    let agent = viewer.agent.to_string();
    sql.push(" AND (h.parties IS NULL OR ").push_holds("h.parties", agent.clone().into()).push(")");
    sql.push(" AND (h.routed = 0 OR h.agent = ").push_bind(agent);
    if !matching.tags.is_empty() {
        sql.push(" OR h.place IN ");
        tagged(sql, partition, scope, "routed", &matching.tags);
    }
    // In these orders: a span is one range of an index.
    let (mut tags, mut kinds) = (Spans::default(), Spans::default());
    for span in &viewer.spans {
        let until = span.until.unwrap_or(Offset(Offset::LIMIT.0 - 1));
        let (spans, text) = match &span.topic {
            Topic::Tag(tag) => (&mut tags, tag),
            Topic::Kind(kind) => (&mut kinds, kind),
            Topic::Memory(_) => continue,
        };
        spans.texts.push(text.clone());
        spans.since.push(place(partition, span.since));
        spans.until.push(place(partition, until));
    }
    for (spans, table, column) in [(tags, "history_tags", "tag"), (kinds, "history", "label")] {
        if spans.texts.is_empty() {
            continue;
        }
        let lists = vec![List::Written(spans.texts), List::Integers(spans.since), List::Integers(spans.until)];
        let (text, since, until) = (sql.cell("a", 0), sql.cell("a", 1), sql.cell("a", 2));
        sql.push(" OR h.place IN (SELECT t.place FROM ").push_lists("a", lists);
        sql.push(format!(" {} {table} t ON t.{column} = {text}", sql.dialect.join()));
        sql.push(format!(" AND t.place > {since} AND t.place <= {until} AND t.routed = 1"));
        of_scope(sql, "t.", scope);
        sql.push(")");
    }
    sql.push(")");
}

/// Subscriptions by columns.
#[derive(Default)]
struct Spans {
    texts: Vec<String>,
    since: Vec<i64>,
    until: Vec<i64>,
}
