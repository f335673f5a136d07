"""The Python agents of the stories, each a function that says what it reacts to and returns what it does on cue.

Started as `roles.py NAME`. A line on stdin is a cue; a line on stdout is a frame that was handled, or a note.
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from agent import Agent


def web_researcher(agent, tell):
    async def report():
        await agent.request("activity", "broadcast", event={
            "kind": "discovery", "description": "Found 15 papers on quantum computing advances",
            "tags": ["research", "quantum"], "data": {"claim": "research/quantum/paper-01"}})

    async def store():
        for number in range(1, 16):
            await agent.request("memory", "set", key=f"research/quantum/paper-{number:02}", tags=["research", "quantum"],
                                value={"title": f"Paper {number}", "source": f"arxiv:2601.{number:05}"})
        await agent.request("activity", "broadcast", event={
            "kind": "task_completed", "description": "Stored 15 summaries", "tags": ["research", "quantum"]})

    async def one_more():
        key = "research/quantum/paper-16"
        await agent.request("memory", "set", key=key, value={"title": "Paper 16", "source": "arxiv:2601.00016"},
                            tags=["research", "quantum"], expected_version=0)
        await agent.request("activity", "broadcast", event={
            "kind": "discovery", "description": "Error correction below threshold", "tags": ["research", "quantum"],
            "data": {"claim": key}})

    return {"report": report, "store": store, "one more": one_more}


def fact_checker(agent, tell):
    async def verify(frame):
        if frame["activity"]["kind"] != "discovery" or frame["activity"]["tags"] != ["research", "quantum"]:
            return
        claim = frame["activity"]["data"]["claim"]
        # Killed between these two and their record, it does both again: the keys make each count once.
        await agent.request("memory", "set", key=claim.replace("research", "verified", 1), value=True,
                            caused_by=frame["event_id"], idempotency_key=f"verified {frame['event_id']}")
        await agent.request("activity", "broadcast", caused_by=frame["event_id"],
                            idempotency_key=f"told {frame['event_id']}", event={
                                "kind": "task_completed", "description": f"Verified {claim}", "tags": ["verified"]})

    agent.on("activity/broadcast", verify)
    return {}


def monitor(agent, tell):
    async def measure():
        await agent.request("activity", "broadcast", event={
            "kind": "alert", "description": "CPU > 90% on prod-3 for 5 minutes", "tags": ["cpu", "prod-3"],
            "data": {"host": "prod-3", "cpu": 0.93}})

    async def watch(frame):
        if "rollback" in frame["activity"]["tags"]:
            tell(note="will measure again")

    async def measure_again():
        await agent.request("activity", "broadcast", event={
            "kind": "discovery", "description": "CPU normalized on prod-3", "tags": ["cpu", "prod-3"]})

    agent.on("activity/broadcast", watch)
    return {"measure": measure, "measure again": measure_again}


def communicator(agent, tell):
    async def subscribe():
        await agent.request("memory", "subscribe", pattern="postmortems/*", values=True)

    async def post(frame):
        if "rollback" in frame["activity"]["tags"]:
            tell(note="posted", channel="#incidents", text=frame["activity"]["description"])

    agent.on("activity/broadcast", post)
    return {"subscribe": subscribe}


def tier_1_a(agent, tell):
    async def subscribe():
        await agent.request("memory", "subscribe", pattern="faq/*", values=True)

    async def ticket():
        await agent.request("activity", "broadcast", scope="tagged", event={
            "kind": "task_completed", "description": "Solved: charged twice", "tags": ["ticket", "billing"]})

    async def tell_workaround():
        await agent.request("activity", "broadcast", event={
            "kind": "discovery", "description": "Charged twice: voiding the older invoice helps", "tags": ["workaround"]})

    async def store_workaround():
        await agent.request("memory", "set", key="workarounds/charged-twice", value="Void the older invoice.",
                            tags=["workaround", "billing"])

    return {"subscribe": subscribe, "ticket": ticket, "tell workaround": tell_workaround,
            "store workaround": store_workaround}


def escalation(agent, tell):
    async def investigate(frame):
        if frame["activity"]["kind"] != "alert":
            return
        found = await agent.request("memory", "query", text_search="invoice charged")
        await agent.request("activity", "broadcast", caused_by=frame["event_id"], event={
            "kind": "discovery", "description": "Billing service bug: invoices are made twice",
            "tags": ["billing", "bug"], "data": {"seen_in": [entry["key"] for entry in found["entries"]]}})

    agent.on("activity/broadcast", investigate)
    return {}


def analytics(agent, tell):
    async def subscribe():
        await agent.request("activity", "subscribe", tags=["billing"])

    async def count(frame):
        if frame["scope"] != "tagged":
            return
        counted = await agent.request("memory", "set", key="statistics/billing", op="incr", value=1)
        if counted["value"] == 4:
            await agent.request("activity", "broadcast", event={
                "kind": "alert", "description": "Billing ticket volume up 300% — possible system issue",
                "tags": ["billing"], "data": {"tickets": counted["value"]}})

    agent.on("activity/broadcast", count)
    return {"subscribe": subscribe}


ROLES = {
    "web-researcher": web_researcher, "fact-checker": fact_checker, "monitor": monitor, "communicator": communicator,
    "tier-1-a": tier_1_a, "escalation": escalation, "analytics": analytics,
}


class Role(Agent):
    """Keeps its place in a file, so that it goes on after the last frame it has handled, and shows every frame."""

    def __init__(self, name, file):
        place = json.loads(file.read_text()) if file.exists() else (-1, None)
        super().__init__(name, [name], place)
        self.file = file

    def handled(self, frame):
        temporary = self.file.with_suffix(".new")
        temporary.write_text(json.dumps(self.place))
        temporary.replace(self.file)
        print(json.dumps(frame), flush=True)


def tell(**note):
    print(json.dumps(note), flush=True)


async def follow(cues):
    while line := await asyncio.to_thread(sys.stdin.readline):
        await cues[line.strip()]()
        tell(done=line.strip())


async def main(name):
    agent = Role(name, Path(os.environ["PLACE"]))
    cues = ROLES[name](agent, tell)
    tasks = [asyncio.create_task(agent.run()), asyncio.create_task(follow(cues))]
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if error := ended.pop().exception():
        logging.error("%s: %r", name, error)
    os._exit(1 if error else 0)  # A thread still waits for stdin.


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
