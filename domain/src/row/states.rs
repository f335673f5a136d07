//! Each state from its row.

use super::{Agent, Answer, Entry, Fleet, Head, Key, MailCount, Message, Name, Notice, Row, Slug, State, Tenant};

impl State for Tenant {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Tenant(state) = row { Some(state) } else { None }
    }
}
impl State for Fleet {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Fleet(state) = row { Some(state) } else { None }
    }
}
impl State for Slug {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Slug(state) = row { Some(state) } else { None }
    }
}
impl State for Key {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Key(state) = row { Some(state) } else { None }
    }
}
impl State for Head {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Head(state) = row { Some(state) } else { None }
    }
}
impl State for Agent {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Agent(state) = row { Some(state) } else { None }
    }
}
impl State for Name {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Name(state) = row { Some(state) } else { None }
    }
}
impl State for Entry {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Memory(state) = row { Some(state) } else { None }
    }
}
impl State for Message {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Message(state) = row { Some(state) } else { None }
    }
}
impl State for Notice {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Notice(state) = row { Some(state) } else { None }
    }
}
impl State for MailCount {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::MailCount(state) = row { Some(state) } else { None }
    }
}
impl State for Answer {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Answer(state) = row { Some(state) } else { None }
    }
}
