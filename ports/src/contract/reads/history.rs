//! Promises about which verdicts are found.

use ringforge_domain::{
    interest::{Span, Topic, Watch},
    position::{LogTime, Offset},
    verdict::{Index, Stream, Verdict},
};

use super::{
    Subject,
    make::{FLEET, ONE, SISTER, activity, agent, begin, offsets, verdict},
};
use crate::{
    contract::{Outcome, same},
    reads::{About, Matching, Reads, Viewer, Which},
};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// After an offset come the next ones of the fleet, hidden ones too, not more than asked.
pub async fn verdicts_follow_in_order(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let scope = |at: u64| if at.is_multiple_of(3) { SISTER } else { FLEET };
    let index = |at: u64| if at.is_multiple_of(2) { Index::default() } else { activity("alert") };
    let all: Vec<_> = (5..25).map(|at| verdict(scope(at), at, index(at))).collect();
    begin(&*reads, ONE, Vec::new(), all.clone()).await?;
    let mine: Vec<_> = all.into_iter().filter(|verdict| verdict.scope == FLEET).collect();
    for after in [None, Some(0), Some(5), Some(6), Some(22), Some(23), Some(1 << 42)] {
        for limit in [0, 1, 4, 1_000] {
            let which = Which::After { after: after.map(Offset), limit };
            let found = reads.verdicts(ONE, FLEET, &which).await?;
            let beyond = |verdict: &&Verdict| after.is_none_or(|after| verdict.position.offset > Offset(after));
            let want: Vec<_> = mine.iter().filter(beyond).take(limit as usize).cloned().collect();
            same(&format!("{which:?}"), &found.verdicts, &want)?;
            same("total", &found.total, &(want.len() as u64))?;
            same("oldest", &found.oldest, &Some(Offset(5)))?;
        }
    }
    Ok(())
}

/// Verdicts at given offsets come by offset, each once; those of others and those that are not there are left out.
pub async fn verdicts_are_found_by_offset(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let scope = |at: u64| if at.is_multiple_of(3) { SISTER } else { FLEET };
    begin(&*reads, ONE, Vec::new(), (0..10).map(|at| verdict(scope(at), at, Index::default())).collect()).await?;
    let asked = [8, 1, 3, 1, 400, 7].map(Offset).to_vec();
    let found = reads.verdicts(ONE, FLEET, &Which::At(asked)).await?;
    same("those", &offsets(&found), &vec![1, 7, 8])?;
    same("total", &found.total, &3)?;
    same("oldest", &found.oldest, &Some(Offset(1)))?;
    same("none", &offsets(&reads.verdicts(ONE, FLEET, &Which::At(Vec::new())).await?), &Vec::new())
}

/// Of what is about a thing the oldest comes, once and by offset; all three must be the same. What has none is left out.
pub async fn verdicts_are_found_by_what_they_are_about(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let index = |stream, label: &str, subject: Option<&str>| Index {
        stream: Some(stream),
        label: Some(label.to_owned()),
        subject: subject.map(ToOwned::to_owned),
        ..Index::default()
    };
    let indexes = [
        index(Stream::Memory, "set", Some("plan")),
        index(Stream::Direct, "set", Some("other")),
        index(Stream::Direct, "over", Some("plan")),
        index(Stream::Direct, "over", None),
        Index { stream: None, ..index(Stream::Direct, "over", Some("hidden")) },
        index(Stream::Direct, "set", Some("plan")),
        index(Stream::Direct, "set", Some("plan")),
    ];
    let mut verdicts: Vec<_> = (1..).zip(indexes).map(|(at, index)| verdict(FLEET, at, index)).collect();
    verdicts.push(verdict(SISTER, 0, index(Stream::Direct, "set", Some("plan"))));
    verdicts.push(verdict(SISTER, 9, index(Stream::Direct, "over", Some("other"))));
    begin(&*reads, ONE, Vec::new(), verdicts).await?;
    let about =
        |stream, label: &str, subject: &str| About { stream, label: label.to_owned(), subject: subject.to_owned() };
    let direct = |label, subject| about(Stream::Direct, label, subject);
    let cases: Vec<(Vec<About>, &[u64])> = vec![
        (vec![direct("set", "plan")], &[6]),
        (vec![direct("set", "plan"), direct("set", "plan")], &[6]),
        (vec![direct("set", "plan"), direct("over", "other"), about(Stream::Memory, "set", "plan")], &[1, 6]),
        (vec![direct("over", "plan"), direct("set", "other")], &[2, 3]),
        (vec![direct("over", "hidden"), direct("over", ""), about(Stream::Memory, "over", "plan")], &[]),
        (Vec::new(), &[]),
    ];
    for (about, want) in cases {
        let which = Which::About(about);
        let found = reads.verdicts(ONE, FLEET, &which).await?;
        same(&format!("{which:?}"), &offsets(&found), &want.to_vec())?;
        same("total", &found.total, &(want.len() as u64))?;
        same("oldest", &found.oldest, &Some(Offset(1)))?;
    }
    Ok(())
}

/// Broken unless each question finds exactly these offsets and counts them.
async fn each_matches(reads: &dyn Reads, cases: Vec<(&str, Matching, &[u64])>) -> Outcome {
    for (what, matching, want) in cases {
        let found = reads.verdicts(ONE, FLEET, &Which::Matching(matching)).await?;
        same(what, &offsets(&found), &want.to_vec())?;
        same(&format!("{what}, total"), &found.total, &(want.len() as u64))?;
    }
    Ok(())
}

fn matching(change: impl FnOnce(&mut Matching)) -> Matching {
    let streams = vec![Stream::Activity, Stream::Presence, Stream::Memory, Stream::Direct];
    let mut matching = Matching { streams, limit: 1_000, ..Matching::default() };
    change(&mut matching);
    matching
}

/// Every condition on history, and all of them together.
pub async fn verdicts_match_alone_and_together(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let tagged = |label: &str, tags: &[&str]| Index { tags: texts(tags), ..activity(label) };
    let about = |subject: &str| {
        let (stream, label) = (Some(Stream::Memory), Some("set".to_owned()));
        Index { stream, label, subject: Some(subject.to_owned()), ..Index::default() }
    };
    let indexes = [
        activity("alert"),
        tagged("alert", &["red", "blue"]),
        tagged("note", &["red"]),
        about("plan"),
        about("plan/b"),
        Index { stream: Some(Stream::Presence), ..Index::default() },
        Index { stream: None, tags: texts(&["red"]), ..about("plan") },
        tagged("alert", &["re", "%"]),
    ];
    let mut verdicts: Vec<_> = (0..).zip(indexes).map(|(at, index)| verdict(FLEET, at, index)).collect();
    verdicts[2].agent = Some(agent(2));
    verdicts[5].agent = None;
    verdicts.push(verdict(SISTER, 8, tagged("alert", &["red", "blue"])));
    begin(&*reads, ONE, Vec::new(), verdicts).await?;
    let streams = |streams: &[Stream]| matching(|matching| matching.streams = streams.to_vec());
    let labels = |labels: &[&str]| matching(|matching| matching.labels = texts(labels));
    let any = |tags: &[&str]| matching(|matching| matching.tags = texts(tags));
    let all = |tags: &[&str]| matching(|matching| (matching.tags, matching.all_tags) = (texts(tags), true));
    let subject = |subject: &str| matching(|matching| matching.subject = Some(subject.to_owned()));
    let cases: Vec<(&str, Matching, &[u64])> = vec![
        ("everything", matching(|_| ()), &[0, 1, 2, 3, 4, 5, 7]),
        ("no stream", streams(&[]), &[]),
        ("a stream", streams(&[Stream::Activity]), &[0, 1, 2, 7]),
        ("two streams", streams(&[Stream::Presence, Stream::Memory]), &[3, 4, 5]),
        ("a label", labels(&["alert"]), &[0, 1, 7]),
        ("labels", labels(&["note", "set", "none"]), &[2, 3, 4]),
        ("a tag", any(&["red"]), &[1, 2]),
        ("any tag", any(&["blue", "%", "none"]), &[1, 7]),
        ("all tags", all(&["red", "blue"]), &[1]),
        ("all tags, twice the same", all(&["red", "red"]), &[1, 2]),
        ("all of no tags", all(&[]), &[0, 1, 2, 3, 4, 5, 7]),
        ("subject", subject("plan"), &[3]),
        ("an author", matching(|matching| matching.agents = vec![agent(2)]), &[2]),
        ("authors", matching(|matching| matching.agents = vec![agent(2), agent(1)]), &[0, 1, 2, 3, 4, 7]),
        ("from", matching(|matching| matching.from = Some(LogTime(3_000))), &[3, 4, 5, 7]),
        ("to", matching(|matching| matching.to = Some(LogTime(3_000))), &[0, 1, 2]),
        (
            "together",
            matching(|matching| {
                (matching.streams, matching.labels) = (vec![Stream::Activity], texts(&["alert", "note"]));
                (matching.tags, matching.agents) = (texts(&["red", "re"]), vec![agent(1)]);
                (matching.from, matching.to) = (Some(LogTime(1_000)), Some(LogTime(7_001)));
            }),
            &[1, 7],
        ),
    ];
    each_matches(&*reads, cases).await
}

/// Parties see what is between them; what is routed is seen by its author, by those who subscribed at the time, and by
/// those who name the tag. Without a viewer everything is seen.
pub async fn verdicts_are_shown_to_those_concerned(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let routed = |label: &str, tags: &[&str]| Index { routing: texts(tags), tags: texts(tags), ..activity(label) };
    let between = |parties: &[u128]| Index {
        stream: Some(Stream::Direct),
        parties: parties.iter().map(|number| agent(*number)).collect(),
        ..Index::default()
    };
    let indexes = [
        activity("open"),
        between(&[2, 3]),
        between(&[3, 4]),
        routed("alert", &["ops"]),
        routed("alert", &["dev", "ops"]),
        routed("note", &["dev"]),
        routed("alert", &["ops"]),
        Index { tags: texts(&["ops"]), ..activity("tagged, not routed") },
        Index { parties: vec![agent(3)], ..routed("alert", &["ops"]) },
        Index { tags: texts(&["other"]), ..routed("alert", &["ops"]) },
    ];
    let mut verdicts: Vec<_> = (0..).zip(indexes).map(|(at, index)| verdict(FLEET, at, index)).collect();
    verdicts[5].agent = Some(agent(2));
    begin(&*reads, ONE, Vec::new(), verdicts).await?;
    let span = |topic, since, until: Option<u64>| Span { topic, since: Offset(since), until: until.map(Offset) };
    let tag = |text: &str| Topic::Tag(text.to_owned());
    let kind = |text: &str| Topic::Kind(text.to_owned());
    let watch = Topic::Memory(Watch { pattern: "ops".to_owned(), sets: true, deletes: true, values: true });
    let seen = |number, spans: &[Span]| {
        matching(|matching| matching.viewer = Some(Viewer { agent: agent(number), spans: spans.to_vec() }))
    };
    let naming = |tags: &[&str]| Matching { tags: texts(tags), ..seen(2, &[]) };
    let cases: Vec<(&str, Matching, &[u64])> = vec![
        ("nobody looks", matching(|_| ()), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("a party and author", seen(2, &[]), &[0, 1, 5, 7]),
        ("the author", seen(1, &[]), &[0, 3, 4, 6, 7, 9]),
        ("a subscriber of a tag", seen(2, &[span(tag("ops"), 3, None)]), &[0, 1, 4, 5, 6, 7, 9]),
        ("until", seen(2, &[span(tag("ops"), 2, Some(4))]), &[0, 1, 3, 4, 5, 7]),
        ("two spans", seen(2, &[span(tag("ops"), 2, Some(3)), span(tag("ops"), 5, Some(6))]), &[0, 1, 3, 5, 6, 7]),
        ("a subscriber of a kind", seen(2, &[span(kind("alert"), 3, Some(4))]), &[0, 1, 4, 5, 7]),
        ("a kind is no tag", seen(2, &[span(kind("ops"), 0, None), span(tag("alert"), 0, None)]), &[0, 1, 5, 7]),
        ("a watch is no subscription", seen(2, &[span(watch, 0, None)]), &[0, 1, 5, 7]),
        (
            "both, and a party",
            seen(3, &[span(tag("ops"), 0, None), span(kind("note"), 0, None)]),
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        ),
        ("a tag that is not routed by", seen(2, &[span(tag("other"), 0, None)]), &[0, 1, 5, 7]),
        ("naming the tag", naming(&["ops"]), &[3, 4, 6, 7]),
        ("naming tags", naming(&["ops", "dev"]), &[3, 4, 5, 6, 7]),
        ("naming another tag it has", naming(&["other"]), &[]),
    ];
    each_matches(&*reads, cases).await
}

/// A page has the oldest or the newest matches, after an offset; the total is of everything that matches.
pub async fn matches_are_counted_and_paged(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let label = |at: u64| if at.is_multiple_of(2) { "even" } else { "odd" };
    begin(&*reads, ONE, Vec::new(), (0..40).map(|at| verdict(FLEET, at, activity(label(at)))).collect()).await?;
    let asked = |after: Option<u64>, newest, limit| {
        Which::Matching(matching(|matching| {
            matching.labels = texts(&["even"]);
            (matching.after, matching.newest, matching.limit) = (after.map(Offset), newest, limit);
        }))
    };
    let cases: Vec<(Which, &[u64])> = vec![
        (asked(None, false, 3), &[0, 2, 4]),
        (asked(Some(4), false, 3), &[6, 8, 10]),
        (asked(Some(5), false, 1), &[6]),
        (asked(Some(34), false, 10), &[36, 38]),
        (asked(Some(38), false, 10), &[]),
        (asked(None, true, 3), &[34, 36, 38]),
        (asked(Some(34), true, 3), &[36, 38]),
        (asked(None, false, 0), &[]),
        (asked(None, true, 0), &[]),
    ];
    for (which, want) in cases {
        let found = reads.verdicts(ONE, FLEET, &which).await?;
        same(&format!("{which:?}"), &offsets(&found), &want.to_vec())?;
        same("total", &found.total, &20)?;
        same("oldest", &found.oldest, &Some(Offset(0)))?;
    }
    Ok(())
}
