"""A devops fleet meets an alert and rolls back, though the deployer crashes before it is asked, and the server after."""

from stage import same

FLEET = "ops-team"


def story(stage):
    monitor = stage.actor("monitor", "python")
    deployer = stage.actor("deployer", "node")
    responder = stage.actor("incident-responder", "node")
    communicator = stage.actor("communicator", "python")
    communicator.cue("subscribe")

    with stage.step("deployer stores what it deployed, then crashes, and the others see it leave"):
        deployer.cue("deploy")
        deployer.kill()
        for actor in (monitor, responder, communicator):
            assert actor.sees("presence/left", name="deployer")["state"] == "offline"

    with stage.step("1 monitor raises an alert"):
        monitor.cue("measure")
        for actor in (monitor, responder, communicator):
            heard = actor.hears("CPU > 90% on prod-3 for 5 minutes")
            assert heard["activity"]["kind"] == "alert" and heard["activity"]["data"]["host"] == "prod-3"

    with stage.step("2-4 incident-responder finds the deployment in memory and announces its suspicion"):
        for actor in (monitor, responder, communicator):
            assert actor.hears("Investigating possible regression in v2.3.1")["from"]["name"] == "incident-responder"

    with stage.step("5 incident-responder asks deployer for a rollback; the message waits for it"):
        queued = responder.sees("direct/queued")
        assert queued["correlation_id"] == "rollback-1"

    with stage.step("deployer is back, and gets what it missed and the message, once"):
        deployer.start().resumed()
        message = deployer.sees("direct/message")
        assert message["payload"]["text"] == "Please prepare rollback to v2.3.0"
        assert message["message_id"] == queued["message_id"]
        delivered = responder.sees("direct/delivered")
        assert delivered["message_id"] == queued["message_id"] and delivered["ref"] == queued["ref"]
        assert responder.sees("direct/message")["correlation_id"] == "rollback-1"

    with stage.step("6 deployer rolls back"):
        for actor in stage.actors:
            heard = actor.hears("Rolling back prod to v2.3.0")
            assert heard["from"]["name"] == "deployer" and heard["activity"]["data"] == {"version": 2}
        same(deployer.all("activity/broadcast"), monitor.all("activity/broadcast"), "deployer")

    with stage.step("7 communicator posts it"):
        posted = communicator.notes("posted")
        assert (posted["channel"], posted["text"]) == ("#incidents", "Rolling back prod to v2.3.0")
        monitor.notes("will measure again")

    with stage.step("the server is killed and started again; every agent comes back by itself"):
        with stage.server_away():
            monitor.say("measure again")
        for actor in stage.actors:
            actor.resumed(times=2 if actor is deployer else 1)

    with stage.step("8 monitor reports that all is well, which it was told to do while there was no server"):
        monitor.did("measure again")
        for actor in stage.actors:
            actor.hears("CPU normalized on prod-3")

    with stage.step("9 incident-responder stores the post-mortem, and communicator is told"):
        changed = communicator.sees("memory/changed", key="postmortems/prod-3")
        assert changed["version"] == 1 and changed["value"]["summary"].endswith("rolled back to v2.3.0")
        alert = monitor.hears("CPU > 90% on prod-3 for 5 minutes")
        assert changed["value"]["alert"] == alert["event_id"], changed

    with stage.step("nobody missed anything or saw it twice"):
        for actor in stage.actors:
            same(actor.all("activity/broadcast"), monitor.all("activity/broadcast"), actor.name)
        assert len(monitor.all("activity/broadcast")) == 4
        assert len(deployer.all("direct/message")) == 1
