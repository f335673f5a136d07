//! What only Postgres is asked: names together with their bodies, as many as have room, in one statement.

use std::collections::BTreeSet;

use ringforge_domain::{ids::Scope, position::Partition, row::RowKey};

use super::{
    ask,
    build::{Dialect, List, Sql},
};

/// The rows of these names, in their order, there or not: applied, time, total, kind, tenant, fleet, key.
pub fn named(partition: Partition, keys: &BTreeSet<RowKey>) -> Sql {
    let texts = |text: fn(&RowKey) -> String| keys.iter().map(text).collect();
    let lists = vec![
        List::Texts(texts(|key| key.table.text().to_owned())),
        List::Texts(texts(|key| key.scope.tenant.to_string())),
        List::Texts(texts(|key| key.scope.fleet.to_string())),
        List::Written(texts(|key| key.key.clone())),
    ];
    let mut sql = Sql::of(Dialect::Postgres);
    ask(&mut sql, partition, "0 AS total, f.c0 AS kind, f.c1 AS tenant, f.c2 AS fleet, f.c3 AS key");
    sql.push("LEFT JOIN ").push_lists("f", lists).push(" ON true");
    sql
}

/// Adds the rows that are named: size, and body if there is room.
pub fn with_rows(named: Sql, partition: Partition, room: usize) -> Sql {
    with_bodies(named, room, |sql| {
        sql.push("SELECT r.body FROM rows r WHERE r.partition = ").push_bind(i64::from(partition.0));
        sql.push(" AND r.kind = n.kind AND r.tenant = n.tenant AND r.fleet = n.fleet AND r.key = n.key");
    })
}

/// Adds the verdicts at the places that are named: size, and body if there is room.
pub fn with_verdicts(named: Sql, scope: Scope, room: usize) -> Sql {
    with_bodies(named, room, |sql| {
        sql.push("SELECT h.body FROM history h WHERE h.place = n.place AND h.tenant = ");
        sql.push_bind(scope.tenant.to_string()).push(" AND h.fleet = ").push_bind(scope.fleet.to_string());
    })
}

fn with_bodies(mut named: Sql, room: usize, body: impl FnOnce(&mut Sql)) -> Sql {
    named.text = format!("WITH named AS MATERIALIZED (SELECT row_number() OVER () AS n, q.* FROM ({}) q)", named.text);
    // The first one always has room.
    named.push(" SELECT s.*, s.total::bigint AS counted, CASE WHEN s.used = s.size OR s.used <= ");
    named.push_bind(i64::try_from(room).unwrap_or(i64::MAX)).push(" THEN s.found END AS body FROM (");
    named.push("SELECT n.*, b.body AS found, octet_length(b.body) AS size,");
    named.push(" sum(octet_length(b.body)) OVER (ORDER BY n.n) AS used FROM named n LEFT JOIN LATERAL (");
    body(&mut named);
    // Each is looked up by its name, however many the planner takes them for.
    named.push(" OFFSET 0) b ON true) s ORDER BY s.n");
    named
}
