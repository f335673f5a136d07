"""A support fleet shares a workaround, notices a spike and updates its FAQ; one of them crashes and misses nothing."""

from stage import same

FLEET = "support-agents"


def story(stage):
    tier_1 = [stage.actor("tier-1-a", "python"), stage.actor("tier-1-b", "node"), stage.actor("tier-1-c", "node")]
    tier_1_a, tier_1_b, tier_1_c = tier_1
    escalation = stage.actor("escalation", "python")
    knowledge_base = stage.actor("knowledge-base", "node")
    analytics = stage.actor("analytics", "python")
    for actor in (*tier_1, analytics):
        actor.cue("subscribe")

    with stage.step("1 tier-1-a handles a ticket and discovers a workaround"):
        tier_1_a.cue("ticket")
        tier_1_a.cue("tell workaround")
        for actor in stage.actors:
            actor.hears("Charged twice: voiding the older invoice helps")

    with stage.step("2 tier-1-a stores the workaround in shared memory"):
        tier_1_a.cue("store workaround")

    with stage.step("3 tier-1-b gets a similar ticket and finds the workaround at once"):
        tier_1_b.cue("ticket")
        assert tier_1_b.notes("workaround")["values"] == ["Void the older invoice."]

    with stage.step("tier-1-c handles a ticket, then crashes"):
        tier_1_c.cue("ticket")
        tier_1_c.kill()

    with stage.step("4, 5 analytics counts the tagged tickets, sees a spike and raises an alert"):
        tier_1_b.cue("ticket")
        for actor in (*tier_1[:2], escalation, knowledge_base, analytics):
            heard = actor.hears("Billing ticket volume up 300% — possible system issue")
            assert heard["from"]["name"] == "analytics" and heard["activity"]["data"] == {"tickets": 4}
        tickets = analytics.all("activity/broadcast", scope="tagged")
        assert [frame["from"]["name"] for frame in tickets] == ["tier-1-a", "tier-1-b", "tier-1-c", "tier-1-b"]
        assert not escalation.all("activity/broadcast", scope="tagged"), "tickets are for those who subscribed"

    with stage.step("6 escalation sees the alert, investigates and finds the bug"):
        for actor in (*tier_1[:2], escalation, knowledge_base, analytics):
            heard = actor.hears("Billing service bug: invoices are made twice")
            assert heard["from"]["name"] == "escalation"
            assert heard["activity"]["data"] == {"seen_in": ["workarounds/charged-twice"]}, heard

    with stage.step("7, 8 knowledge-base updates the FAQ, and the tier-1 agents see it"):
        for actor in tier_1[:2]:
            changed = actor.sees("memory/changed", key="faq/charged-twice")
            assert changed["change"] == "create" and changed["value"]["text"].endswith("Void the older invoice.")

    with stage.step("8 tier-1-c is back, with its subscription, and sees all of it too, once"):
        tier_1_c.start().resumed()
        tier_1_c.sees("memory/changed", key="faq/charged-twice")
        same(tier_1_c.all("memory/changed"), tier_1_a.all("memory/changed"), "tier-1-c")
        fleet = tier_1_a.all("activity/broadcast", scope="fleet")
        same(tier_1_c.all("activity/broadcast", scope="fleet"), fleet, "tier-1-c")
        assert len(fleet) == 3
