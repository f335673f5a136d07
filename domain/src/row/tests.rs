//! Every kind of row has one name, is read as its own state only, and weighs what it holds.

use serde_json::json;

use super::*;
use crate::{
    direct, fleet, ids::FleetId, ids::KeyId, limits::OFFLINE_SHOWN_MICROS, limits::SEARCH_TEXT_BYTES_MAX, memory,
    position::Partition, projector, tenant, tenant::KeyType, world::World,
};

/// A world with a row of each kind.
fn full() -> World {
    let mut world = World::new();
    world.timer(tenant::Created { name: "acme".to_owned() });
    let (hash, fleet) = ("0".repeat(64), FleetId::from_bits(3));
    world.timer(tenant::SecretDeclared { name: "seal".into(), fingerprint: "a".into(), previous: None });
    world.timer(projector::Declared { partition: 1, schemas: 9 });
    world.timer(tenant::KeyCreated { id: KeyId::from_bits(2), hash, key_type: KeyType::Live, fleet: Some(fleet) });
    let partition = i32::from(Partition::DEDICATED.0);
    world.timer(fleet::Created { id: fleet, slug: "default".to_owned(), partition, retention_s: Some(86_400) });
    let (ada, bob) = (world.joins("ada"), world.joins("bob"));
    let set: memory::Set =
        serde_json::from_value(json!({"key": "k", "value": "a long value", "ttl": 9})).expect("a set");
    world.when_keyed(&ada, "once", set);
    let send = |to: &str| serde_json::from_value::<direct::Send>(json!({"to": to, "payload": 1})).expect("a send");
    let told = world.when(&ada, send("bob"));
    let message = MessageId::of(told.verdict.command_id);
    world.internal(&bob, direct::Delivered { message });
    world.when(&ada, send("bob"));
    world.leaves(&bob);
    world
}

/// The kinds as which a row can be read.
fn read_as(row: &Row) -> Vec<Table> {
    let states = [
        (Table::Tenant, Tenant::of(row).is_some()),
        (Table::Fleet, Fleet::of(row).is_some()),
        (Table::Slug, Slug::of(row).is_some()),
        (Table::Key, Key::of(row).is_some()),
        (Table::Head, Head::of(row).is_some()),
        (Table::Agent, Agent::of(row).is_some()),
        (Table::Name, Name::of(row).is_some()),
        (Table::Memory, Entry::of(row).is_some()),
        (Table::Message, Message::of(row).is_some()),
        (Table::Notice, Notice::of(row).is_some()),
        (Table::MailCount, MailCount::of(row).is_some()),
        (Table::Answer, Answer::of(row).is_some()),
        (Table::Secret, Secret::of(row).is_some()),
        (Table::Home, Home::of(row).is_some()),
        (Table::Projector, Projector::of(row).is_some()),
    ];
    states.into_iter().filter(|(_, is)| *is).map(|(table, _)| table).collect()
}

#[test]
fn a_row_has_one_name_and_one_kind() {
    let world = full();
    let mut kinds = BTreeSet::new();
    for (key, row) in &world.store.rows {
        assert_eq!((row.key(), read_as(row)), (key.clone(), vec![key.table]), "{key:?}");
        assert_eq!(serde_json::from_slice::<Row>(&row.text()).expect("a row"), *row, "{key:?}");
        kinds.insert(key.table);
    }
    assert!(kinds.into_iter().eq(Table::ALL), "a kind without a row");
    let texts: BTreeSet<&str> = Table::ALL.iter().map(|table| table.text()).collect();
    assert_eq!(texts.len(), Table::ALL.len());
    for table in Table::ALL {
        assert_eq!(serde_json::to_value(table).expect("serialises"), table.text());
    }
}

#[test]
fn keys_of_different_things_differ() {
    let (scope, id) = (World::new().scope, AgentId::from_bits(1));
    let other = AgentId::from_bits(2);
    let counts = [
        RowKey::mail_count(scope, id, None),
        RowKey::mail_count(scope, id, Some(other)),
        RowKey::mail_count(scope, other, Some(id)),
        RowKey::answer(scope, id, "a"),
        RowKey::answer(scope, id, "b"),
        RowKey::answer(scope, other, "a"),
        RowKey::agent(scope, id),
        RowKey::name(scope, "a"),
        RowKey::memory(scope, "a"),
        RowKey::head(scope),
    ];
    assert_eq!(counts.iter().collect::<BTreeSet<_>>().len(), counts.len());
    let command = CommandId::from_bits(77);
    assert_eq!((MemoryId::of(command).bits(), MessageId::of(command).bits()), (77, 77));
}

#[test]
fn stores_index_what_they_are_asked_for() {
    let world = full();
    let indexes = |table: Table| {
        let rows = world.store.rows.values().filter(move |row| row.key().table == table);
        rows.map(Row::index).collect::<Vec<_>>()
    };
    for table in [
        Table::Tenant,
        Table::Fleet,
        Table::Slug,
        Table::Key,
        Table::Head,
        Table::Name,
        Table::MailCount,
        Table::Secret,
        Table::Home,
        Table::Projector,
    ] {
        assert!(indexes(table).iter().all(|index| *index == RowIndex::default()), "{table:?}");
    }
    let listed: Vec<_> = indexes(Table::Agent).into_iter().map(|index| index.listed_until).collect();
    assert_eq!(listed, [Some(LogTime(i64::MAX)), Some(world.now.plus(OFFLINE_SHOWN_MICROS))], "here, and gone");
    let [entry] = indexes(Table::Memory).try_into().expect("one entry");
    assert_eq!(entry.due_at, Some(world.now.plus(9_000_000)));
    assert_eq!(entry.search.map(|search| search.text).as_deref(), Some("k\na long value"));
    for table in [Table::Message, Table::Notice] {
        let [mail] = indexes(table).try_into().expect("one");
        assert!(mail.due_at.is_some() && mail.mail.is_some() && mail.search.is_none(), "{table:?}");
    }
    assert!(indexes(Table::Answer).iter().all(|index| index.due_at.is_some() && index.mail.is_none()));
}

/// What a working set should weigh, counted anew.
fn weights(rows: &Rows) -> (usize, usize) {
    let weight = |row: Option<&Row>| row.map_or(ROW_BYTES, Row::weight);
    let known = rows.known.values().map(|row| weight(row.as_ref())).sum();
    (known, rows.changed().map(|(_, row)| weight(row)).sum())
}

#[test]
fn a_working_set_weighs_what_is_in_it() {
    let world = full();
    let stored: Vec<Row> = world.store.rows.values().cloned().collect();
    for row in &stored {
        let long = match row {
            Row::Memory(entry) => entry.content.as_ref().map_or(0, |content| content.value.text().len()),
            Row::Answer(answer) => answer.outcome.text().len(),
            _ => 0,
        };
        assert_eq!(row.weight(), ROW_BYTES + long, "{:?}", row.key());
    }
    let vacant = RowKey::name(world.scope, "nobody");
    let mut rows = Rows::at(LogTime(5));
    assert_eq!((rows.time, rows.weight(), rows.changed_weight()), (LogTime(5), 0, 0));
    rows.load(stored.iter().map(Row::key).chain([vacant.clone()]), stored.clone());
    rows.load([vacant.clone()], []);
    assert!(rows.knows(&vacant) && !rows.knows(&RowKey::name(world.scope, "somebody")));
    assert_eq!((rows.all().count(), rows.changed().count()), (stored.len(), 0));
    assert_eq!((rows.weight(), rows.changed_weight()), weights(&rows));
    for round in 0..3 {
        for row in &stored {
            if round == 1 {
                rows.remove(row.key());
            } else {
                rows.put(row.clone());
            }
            assert_eq!((rows.weight(), rows.changed_weight()), weights(&rows), "{round} {:?}", row.key());
        }
        assert_eq!(rows.all().count(), if round == 1 { 0 } else { stored.len() });
        assert_eq!(rows.changed().count(), stored.len());
    }
    let weight = rows.weight();
    rows.stored();
    assert_eq!((rows.weight(), rows.changed_weight(), rows.changed().count()), (weight, 0, 0));
    rows.put(stored[0].clone());
    assert_eq!((rows.weight(), rows.changed_weight()), weights(&rows));
}

#[test]
fn only_what_was_declared_may_be_touched() {
    let key = RowKey::name(World::new().scope, "ada");
    let fails = |touch: fn(&mut Rows, RowKey)| {
        let (mut rows, key) = (Rows::default(), key.clone());
        std::panic::catch_unwind(move || touch(&mut rows, key)).is_err()
    };
    assert!(fails(|rows, key| drop(rows.get::<Name>(&key).cloned())));
    assert!(fails(Rows::remove));
    assert!(fails(|rows, key| {
        rows.put(Row::Name(Name { scope: key.scope, name: key.key, agent: AgentId::from_bits(1) }));
    }));
}

#[test]
fn a_need_is_what_is_not_known_yet() {
    let key = |name: &str| RowKey::name(World::new().scope, name);
    let mut rows = Rows::default();
    let name = Name { scope: key("").scope, name: "ada".to_owned(), agent: AgentId::from_bits(1) };
    rows.load([key("ada"), key("nobody")], [Row::Name(name.clone())]);
    let mut needs = Needs::of(&rows);
    assert!(!needs.peeked());
    assert_eq!(needs.peek::<Name>(&key("ada")), Some(&name));
    assert!(needs.peeked() && !needs.peeked(), "since it was asked the last time");
    assert_eq!((needs.peek::<Name>(&key("nobody")), needs.peek::<Agent>(&key("ada"))), (None, None));
    needs.row(key("ada"));
    needs.rows([key("nobody"), key("bob"), key("bob")]);
    assert_eq!(needs.unknown(), BTreeSet::from([key("bob")]));
}

#[test]
fn equal_states_have_equal_digests_and_others_do_not() {
    let world = full();
    let rows: Vec<&Row> = world.store.rows.values().collect();
    let whole = digest(rows.iter().copied(), Offset(7));
    assert_eq!(whole.len(), 64);
    assert_eq!(digest(rows.iter().rev().copied(), Offset(7)), whole);
    assert_ne!(digest(rows.iter().copied(), Offset(8)), whole);
    assert_ne!(digest(rows[1..].iter().copied(), Offset(7)), whole);
    assert_eq!(full().store.digest(), world.store.digest());
}

#[test]
fn a_text_that_is_searched_ends_at_a_whole_character() {
    let mut world = World::new();
    let ada = world.joins("ada");
    // Key and line end are searched too, beside so much of the value.
    let most = "k\n".len() + SEARCH_TEXT_BYTES_MAX;
    for part in ["x", "é", "€", "😀"] {
        let value = Some(Json::of(&format!("x{}", part.repeat(SEARCH_TEXT_BYTES_MAX))));
        world.when(&ada, memory::Set { key: "k".to_owned(), value, ..memory::Set::default() });
        let row = world.row::<Entry>(&RowKey::memory(world.scope, "k")).expect("it is there");
        let text = row.index().search.expect("it is searched").text;
        assert!(text.starts_with("k\nx") && text.ends_with(part), "{part}");
        assert!((most + 1 - part.len()..=most).contains(&text.len()), "{part}: {} bytes", text.len());
    }
}

#[test]
fn a_sum_tells_what_was_added_where_it_ends_and_how_far() {
    let sum = |texts: &[&str], applied: u64| {
        let mut sum = crate::row::sum::Sum::default();
        for text in texts {
            sum.add(text.as_bytes());
        }
        sum.digest(Offset(applied))
    };
    let one = sum(&["ab", "c"], 1);
    assert_eq!(one.len(), 64);
    assert_eq!(one, sum(&["ab", "c"], 1));
    for other in [sum(&["a", "bc"], 1), sum(&["ab", "c"], 2), sum(&["ab"], 1), sum(&[], 1)] {
        assert_ne!(one, other);
    }
}
