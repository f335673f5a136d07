"""A research team finds, analyses, verifies and writes; one of them crashes on the way, and somebody new catches up."""

from stage import same

FLEET = "research-squad"


def story(stage):
    researcher = stage.actor("web-researcher", "python")
    analyst = stage.actor("data-analyst", "node")
    writer = stage.actor("writer", "node")
    checker = stage.actor("fact-checker", "python")

    with stage.step("1 web-researcher reports 15 papers, and everybody hears of it"):
        researcher.cue("report")
        for actor in stage.actors:
            heard = actor.hears("Found 15 papers on quantum computing advances")
            assert heard["from"]["name"] == "web-researcher" and heard["activity"]["tags"] == ["research", "quantum"]

    with stage.step("2 web-researcher stores the summaries in shared memory"):
        researcher.cue("store")
        analyst.hears("Stored 15 summaries")

    with stage.step("3, 4 data-analyst sees it, queries memory and announces its analysis"):
        for actor in stage.actors:
            heard = actor.hears("Analyzing citation networks across 15 papers")
            assert heard["from"]["name"] == "data-analyst"

    with stage.step("5 writer subscribes to the papers and gets those that are there"):
        writer.cue("subscribe")
        writer.sees("memory/synced")
        assert len(writer.all("memory/entry")) == 15
        assert all("quantum" in frame["entry"]["tags"] for frame in writer.all("memory/entry"))

    with stage.step("6 fact-checker verifies what was found"):
        for actor in stage.actors:
            assert actor.hears("Verified research/quantum/paper-01")["from"]["name"] == "fact-checker"

    with stage.step("fact-checker crashes; meanwhile one more paper is found, which the writer is told at once"):
        checker.kill()
        researcher.cue("one more")
        changed = writer.sees("memory/changed", key="research/quantum/paper-16")
        assert changed["change"] == "create" and changed["version"] == 1

    with stage.step("fact-checker is back, has missed nothing and verifies the new paper once"):
        checker.start().resumed()
        for actor in stage.actors:
            actor.hears("Verified research/quantum/paper-16")
        same(checker.all("activity/broadcast"), researcher.all("activity/broadcast"), "fact-checker")

    with stage.step("7 writer compiles the final report and stores it"):
        writer.cue("compile")
        for actor in stage.actors:
            assert actor.hears("The report is ready")["activity"]["data"] == {"version": 1}

    with stage.step("8 a new agent joins, replays the last 24 h and has the whole context"):
        newcomer = stage.actor("newcomer", "node")
        newcomer.cue("catch up")
        replayed = newcomer.notes("replayed")
        assert replayed["total"] == len(replayed["items"])
        positions = [frame["position"] for frame in replayed["items"]]
        assert positions == sorted(set(positions)), positions
        activity = [frame for frame in replayed["items"] if frame["type"] == "activity"]
        assert activity == researcher.all("activity/broadcast"), "what is replayed is what was seen live"
        keys = [frame["key"] for frame in replayed["items"] if frame["type"] == "memory"]
        papers = [f"research/quantum/paper-{number:02}" for number in range(1, 17)]
        verified = ["verified/quantum/paper-01", "verified/quantum/paper-16"]
        assert sorted(keys) == sorted([*papers, *verified, "reports/quantum"]), keys
        report = newcomer.notes("report")["value"]
        assert report["papers"] == papers and len(report["verified"]) == 2, report
