//! Histories made bad by hand: each is rejected, by the guarantee that it breaks.

use std::sync::LazyLock;

use ringforge_domain::{
    catalog::{Command, Effect},
    event::Event,
    ids::{AgentId, MessageId},
    json::Json,
    row::Row,
    verdict::Outcome,
};
use serde_json::{Value, json};

use super::*;
use crate::history::{Resume, Sent, what};

/// What good worlds told.
static GOOD: LazyLock<Vec<History>> =
    LazyLock::new(|| (1..=SEEDS).map(|seed| crate::history(seed).expect("a world lives")).collect());

/// So many of them: what is to be made bad is in one of these, nearly always.
const SEEDS: u64 = 12;
/// What is rarer is in one of these.
const SEEDS_MAX: u64 = 500;

type Checker = fn(&History, &Tally) -> Result<()>;

/// A history that `spoil` could make bad is rejected, and this is named.
#[track_caller]
fn rejected(guarantee: &str, spoil: impl Fn(&mut History) -> Option<()>) {
    rejected_by(check, guarantee, spoil);
}

/// The same of one whose log itself is made bad: what it says is taken for what the fold said.
#[track_caller]
fn rejected_log(guarantee: &str, spoil: impl Fn(&mut History) -> Option<()>) {
    rejected_by(fleets, guarantee, spoil);
}

#[track_caller]
fn rejected_by(checker: Checker, guarantee: &str, spoil: impl Fn(&mut History) -> Option<()>) {
    let spoilt = |mut history: History| {
        spoil(&mut history)?;
        let error = checker(&history, &Tally::default()).expect_err("it is bad");
        assert!(format!("{error:#}").contains(guarantee), "{error:#}");
        Some(())
    };
    if GOOD.iter().cloned().filter_map(spoilt).count() == 0 {
        let mut more = (SEEDS + 1..=SEEDS_MAX).map(|seed| crate::history(seed).expect("a world lives"));
        more.find_map(spoilt).expect("a history has what is to be spoilt");
    }
}

/// Every connection that is there in the end.
fn complete(history: &mut History) -> impl Iterator<Item = &mut Link> {
    history.agents.iter_mut().filter(|agent| agent.is_in).filter_map(|agent| agent.diary.links.last_mut())
}

fn frames(history: &mut History) -> impl Iterator<Item = &mut Value> {
    let links = history.agents.iter_mut().flat_map(|agent| &mut agent.diary.links);
    links.flat_map(|link| &mut link.frames)
}

/// Every command with a positive answer.
fn acked(history: &mut History) -> impl Iterator<Item = &mut Sent> {
    let sent = history.agents.iter_mut().flat_map(|agent| &mut agent.diary.sent);
    sent.filter(|sent| {
        sent.answer.as_ref().is_some_and(|answer| {
            answer["type"] != "error"
                && answer["position"].is_u64()
                && answer["duplicate"].is_null()
                && answer["event"] != "synced"
        })
    })
}

fn answer(sent: &mut Sent) -> &mut Value {
    sent.answer.as_mut().expect("it was answered")
}

fn is_push(frame: &Value) -> bool {
    frame["position"].is_u64() && what(frame).is_some()
}

/// Where two pushes of one connection stand that follow each other, at different places of the log. Mail may be older.
fn neighbours(link: &Link) -> Option<(usize, usize)> {
    let news = |frame: &Value| is_push(frame) && frame["type"] != "direct";
    let pushes: Vec<usize> = (0..link.frames.len()).filter(|at| news(&link.frames[*at])).collect();
    let mut pairs = pushes.windows(2).map(|pair| (pair[0], pair[1]));
    pairs.find(|(one, other)| link.frames[*one]["position"] != link.frames[*other]["position"])
}

#[test]
fn good_histories_are_accepted() {
    for good in GOOD.iter() {
        check(good, &Tally::default()).expect("nothing is wrong");
    }
}

#[test]
fn g1_an_acknowledged_command_that_the_log_lost() {
    rejected_log("G1", |history| {
        let lost =
            acked(history).find(|sent| sent.body["action"] == "broadcast" && sent.key.is_none())?.reference.clone();
        for logged in history.logs.values_mut() {
            logged.told.retain(|(event, _)| reference(event).as_ref() != Some(&lost));
        }
        Some(())
    });
}

fn reference(event: &Event) -> Option<String> {
    event.at.header.reference.as_ref().and_then(Json::as_str)
}

#[test]
fn g1_an_event_that_was_shown_and_is_not_in_the_log() {
    rejected("G1", |history| {
        let end = history.logs.values().map(|logged| logged.end().0).max()?;
        let last = complete(history).find(|link| !link.frames.is_empty())?;
        last.frames.push(json!({ "type": "presence", "event": "left", "position": end, "agent_id": "x" }));
        Some(())
    });
}

#[test]
fn g2_a_refused_command_that_took_effect() {
    rejected("G2", |history| {
        let sent = acked(history).next()?;
        *answer(sent) = json!({ "type": "error", "code": "unavailable", "outcome": "none" });
        Some(())
    });
}

#[test]
fn g2_another_author() {
    rejected_log("G2", |history| {
        let sent =
            acked(history).find(|sent| sent.body["action"] == "broadcast" && sent.key.is_none())?.reference.clone();
        let told = history.logs.values_mut().flat_map(|logged| &mut logged.told);
        let (event, _) = told.into_iter().find(|(event, _)| reference(event).as_ref() == Some(&sent))?;
        event.at.header.agent_id = Some(AgentId::from_bits(99));
        Some(())
    });
}

#[test]
fn g3_two_frames_in_another_order() {
    rejected("G3", |history| {
        let (link, (one, other)) = complete(history).find_map(|link| neighbours(link).map(|pair| (link, pair)))?;
        link.frames.swap(one, other);
        Some(())
    });
}

#[test]
fn g3_an_event_that_names_another_before_it() {
    let broken = |history: &History, _: &Tally| history.logs.values().try_for_each(models::chained);
    rejected_by(broken, "G3", |history| {
        let last = history.logs.values_mut().find_map(|logged| logged.verdicts.last_mut())?;
        last.previous = last.position.offset.0.checked_sub(2).map(ringforge_domain::position::Offset);
        Some(())
    });
}

#[test]
fn g3_another_event_at_the_same_place() {
    rejected("G3", |history| {
        let (mut seen, mut known) = (Vec::new(), None);
        for frame in frames(history).filter(|frame| is_push(frame)) {
            let place = (frame["position"].clone(), what(frame));
            if seen.contains(&place) {
                known = Some(place);
                break;
            }
            seen.push(place);
        }
        let known = known?;
        let frame =
            frames(history).find(|frame| is_push(frame) && (frame["position"].clone(), what(frame)) == known)?;
        frame["event_id"] = json!("evt_other");
        Some(())
    });
}

#[test]
fn g4_two_commands_of_a_connection_in_another_order() {
    rejected_log("G4", |history| {
        let logged = history.logs.get_mut(&history.fleets[0].partition)?;
        let of = |at: usize| {
            let header = &logged.told[at].0.at.header;
            header
                .session_id
                .filter(|_| header.reference.is_some() && !logged.late.contains(&logged.told[at].0.at.position.offset))
        };
        let scope = |at: usize| logged.told[at].0.at.scope() == history.fleets[0].scope;
        let first = (0..logged.told.len()).find(|at| {
            scope(*at)
                && of(*at).is_some()
                && (at + 1..logged.told.len()).any(|later| scope(later) && of(later) == of(*at))
        })?;
        let second = (first + 1..logged.told.len()).find(|later| scope(*later) && of(*later) == of(first))?;
        let one = logged.told[first].0.at.header.reference.clone();
        let other = std::mem::replace(&mut logged.told[second].0.at.header.reference, one);
        logged.told[first].0.at.header.reference = other;
        Some(())
    });
}

#[test]
fn g5_a_read_that_is_older_than_the_own_write() {
    rejected("G5", |history| {
        let fleet = 0;
        let agent = history
            .agents
            .iter_mut()
            .find(|agent| agent.fleet == fleet && agent.diary.links.iter().any(|link| sets(link).next().is_some()))?;
        let number = agent.diary.links.iter().position(|link| sets(link).next().is_some())?;
        let (after, key) = sets(&agent.diary.links[number]).last()?;
        agent.diary.sent.push(Sent {
            link: number,
            after: after + 1,
            reference: "c0.0".to_owned(),
            body: json!({ "type": "memory", "action": "get", "key": key }),
            key: None,
            answer: Some(json!({ "type": "memory", "event": "entry", "entry": { "key": key, "version": 0 } })),
        });
        Some(())
    });
}

/// Where a connection was told that a key was set, and which.
fn sets(link: &Link) -> impl Iterator<Item = (usize, String)> {
    let set = |frame: &Value| (frame["event"] == "set_ok").then(|| frame["key"].as_str().map(str::to_owned)).flatten();
    link.frames.iter().enumerate().filter_map(move |(at, frame)| Some((at, set(frame)?)))
}

#[test]
fn g6_a_read_that_is_older_than_what_was_resumed_from() {
    rejected("G5, G6", |history| {
        for agent in &mut history.agents {
            for (number, link) in agent.diary.links.iter().enumerate() {
                let Resume::After(position) = link.resume else { continue };
                let changes = history.logs[&history.fleets[agent.fleet].partition].told.iter();
                let scope = history.fleets[agent.fleet].scope;
                let set = changes.filter(|(event, _)| event.at.scope() == scope).rfind(|(event, verdict)| {
                    event.at.position.offset.0 <= position
                        && matches!(&verdict.outcome, Outcome::Applied(Effect::MemorySet(effect)) if effect.version > 1)
                });
                let Some(Command::MemorySet(set)) = set.map(|(event, _)| &event.command) else { continue };
                agent.diary.sent.push(Sent {
                    link: number,
                    after: 0,
                    reference: "c0.0".to_owned(),
                    body: json!({ "type": "memory", "action": "get", "key": set.key }),
                    key: None,
                    answer: Some(
                        json!({ "type": "memory", "event": "entry", "entry": { "key": set.key, "version": 1 } }),
                    ),
                });
                return Some(());
            }
        }
        None
    });
}

#[test]
fn g7_a_version_that_begins_again() {
    rejected_log("G7", |history| {
        spoil_effect(history, |effect| match effect {
            Effect::MemorySet(set) if set.version > 3 => {
                set.version = 1;
                Some(())
            }
            _ => None,
        })
    });
}

#[test]
fn g8_a_guard_that_did_not_hold() {
    rejected_log("G8", |history| {
        for logged in history.logs.values_mut() {
            for (event, verdict) in &mut logged.told {
                if let (Command::MemorySet(set), Outcome::Applied(_)) = (&mut event.command, &verdict.outcome)
                    && let Some(expected) = &mut set.expected_version
                    && verdict.first.is_none()
                {
                    *expected += 7;
                    return Some(());
                }
            }
        }
        None
    });
}

#[test]
fn g10_a_row_that_is_not_the_folds() {
    rejected("G10", |history| {
        for model in history.models.values_mut() {
            for row in &mut model.rows {
                if let Row::Memory(entry) = row {
                    entry.version += 1;
                    return Some(());
                }
            }
        }
        None
    });
}

#[test]
fn g10_a_verdict_that_is_missing() {
    rejected("G10", |history| {
        let verdicts = history.models.values_mut().flat_map(|model| model.verdicts.values_mut());
        let some = verdicts.into_iter().find(|verdicts| !verdicts.is_empty())?;
        some.remove(some.len() / 2);
        Some(())
    });
}

#[test]
fn g11_a_hole() {
    rejected("G11", |history| {
        let (link, at) = complete(history).find_map(|link| neighbours(link).map(|(one, _)| (link, one)))?;
        link.frames.remove(at);
        Some(())
    });
}

#[test]
fn g11_a_double() {
    rejected("G11", |history| {
        let (link, at) = complete(history).find_map(|link| neighbours(link).map(|(one, _)| (link, one)))?;
        let again = link.frames[at].clone();
        link.frames.insert(at, again);
        Some(())
    });
}

#[test]
fn g11_mail_that_comes_twice() {
    rejected("G11", |history| {
        for agent in &mut history.agents {
            for link in &mut agent.diary.links {
                let Resume::After(after) = link.resume else { continue };
                let mail = |frame: &Value| frame["event"] == "message" && frame["position"].as_u64() <= Some(after);
                if let Some(at) = link.frames.iter().position(mail) {
                    let again = link.frames[at].clone();
                    link.frames.insert(at, again);
                    return Some(());
                }
            }
        }
        None
    });
}

#[test]
fn g11_the_last_event_is_missing() {
    rejected("G11", |history| {
        let link = complete(history).find(|link| link.frames.iter().any(is_push))?;
        let last = link.frames.iter().rposition(is_push)?;
        link.frames.truncate(last);
        Some(())
    });
}

#[test]
fn g11_a_resume_that_was_refused_for_nothing() {
    rejected("G11", |history| {
        let frame = frames(history).find(|frame| frame["event"] == "resumed" && frame["recovered"] == true)?;
        frame["recovered"] = json!(false);
        Some(())
    });
}

#[test]
fn g11_a_forged_event_id_that_was_taken() {
    rejected("G11", |history| {
        let links = history.agents.iter_mut().flat_map(|agent| &mut agent.diary.links);
        let recovered = |link: &&mut Link| link.frames.iter().any(|frame| frame["recovered"] == true);
        links.into_iter().find(recovered)?.resume = Resume::Forged;
        Some(())
    });
}

#[test]
fn g12_another_answer_to_the_same_command() {
    rejected("G12", |history| {
        let sent = acked(history).next()?;
        let position = answer(sent)["position"].as_u64()?;
        answer(sent)["position"] = json!(position + 1);
        Some(())
    });
}

#[test]
fn g12_a_repetition_that_took_effect() {
    rejected_log("G12", |history| {
        for logged in history.logs.values_mut() {
            for (_, verdict) in &mut logged.told {
                if verdict.first.is_some() {
                    verdict.first = None;
                    return Some(());
                }
            }
        }
        None
    });
}

#[test]
fn g13_a_certain_no_to_what_is_in_the_log() {
    rejected("G13", |history| {
        let sent = history.agents.iter_mut().flat_map(|agent| &mut agent.diary.sent);
        let sent = sent.into_iter().find(|sent| {
            sent.answer.as_ref().is_some_and(|answer| answer["type"] == "error" && answer["position"].is_u64())
        })?;
        answer(sent).as_object_mut()?.remove("position");
        Some(())
    });
}

#[test]
fn g13_a_command_that_nobody_answered() {
    rejected("G13", |history| {
        let mut agents = history.agents.iter_mut().filter(|agent| agent.is_in);
        agents.find_map(|agent| {
            let last = agent.diary.links.len() - 1;
            agent.diary.sent.iter_mut().find(|sent| sent.link == last && sent.answer.is_some())?.answer = None;
            Some(())
        })
    });
}

#[test]
fn g15_an_agent_that_is_in_and_gone() {
    rejected("G15", |history| {
        history.agents.iter_mut().find(|agent| agent.is_in)?.is_in = false;
        Some(())
    });
}

#[test]
fn g15_an_onlooker_that_missed_a_change() {
    rejected("G15", |history| {
        let mut agents = history.agents.iter_mut().filter(|agent| agent.is_in && agent.presence == "each");
        agents.find_map(|agent| {
            let link = agent.diary.links.last_mut()?;
            let last = link.frames.iter().rposition(|frame| frame["event"] == "state_changed")?;
            let about = link.frames[last]["agent_id"].clone();
            if link.frames[last + 1..].iter().any(|frame| frame["agent_id"] == about) {
                return None;
            }
            link.frames[last]["state"] = json!("lost");
            Some(())
        })
    });
}

#[test]
fn g15_an_id_of_two_agents() {
    rejected_by(
        |history, _| onlookers::identities(history),
        "G15",
        |history| {
            let known: Vec<usize> =
                (0..history.agents.len()).filter(|at| history.agents[*at].diary.id.is_some()).collect();
            let (one, other) = (*known.first()?, *known.get(1)?);
            history.agents[other].diary.id = history.agents[one].diary.id.clone();
            Some(())
        },
    );
}

#[test]
fn g15_a_message_that_reached_a_stranger() {
    rejected("G15", |history| {
        let mut links = history.agents.iter_mut().flat_map(|agent| &mut agent.diary.links);
        let text = links.find_map(|link| {
            link.written.iter().flatten().find(|text| text.contains("\"event\":\"message\"")).cloned()
        })?;
        let to = crate::history::flat(&text)["to"].clone();
        let fleet = history.agents.iter().find(|agent| agent.diary.id.as_deref() == to.as_str())?.fleet;
        let mut others = history.agents.iter_mut().filter(|agent| agent.fleet == fleet && agent.diary.id.is_some());
        let stranger = others.find(|agent| agent.diary.id.as_deref() != to.as_str())?;
        stranger.diary.links.last_mut()?.written.get_or_insert_default().push(text);
        Some(())
    });
}

#[test]
fn a_message_that_is_said_to_be_delivered_and_was_never_written() {
    rejected("msg_", |history| {
        let delivered: MessageId =
            history.logs.values().flat_map(|logged| &logged.told).find_map(|(event, verdict)| {
                match (&event.command, &verdict.outcome) {
                    (Command::DirectDelivered(taken), Outcome::Applied(_)) => Some(taken.message),
                    _ => None,
                }
            })?;
        for link in history.agents.iter_mut().flat_map(|agent| &mut agent.diary.links) {
            let written = link.written.get_or_insert_default();
            written.retain(|text| !(text.contains("\"event\":\"message\"") && text.contains(&delivered.to_string())));
        }
        Some(())
    });
}

#[test]
fn g18_a_queue_without_an_end() {
    rejected("G18", |history| {
        complete(history).next()?.waited = 64 << 20;
        Some(())
    });
}

#[test]
fn g19_a_fold_that_comes_out_differently() {
    rejected("G19", |history| {
        history.logs.values_mut().find_map(|logged| logged.verdicts.first_mut())?.time.0 += 1;
        Some(())
    });
}

/// Changes the first effect that `spoil` takes.
fn spoil_effect(history: &mut History, spoil: impl Fn(&mut Effect) -> Option<()>) -> Option<()> {
    let told = history.logs.values_mut().flat_map(|logged| &mut logged.told);
    let effects = told.filter_map(|(_, verdict)| match &mut verdict.outcome {
        Outcome::Applied(effect) if verdict.first.is_none() => Some(effect),
        _ => None,
    });
    effects.into_iter().find_map(spoil)?;
    Some(())
}
