// The Node agents of the stories, each a function that says what it reacts to and returns what it does on cue.
//
// Started as `roles.mjs NAME`. A line on stdin is a cue; a line on stdout is a frame that was handled, or a note.

import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { Agent } from "./agent.mjs";

const ROLES = {
  "data-analyst": (agent) => {
    agent.on("activity/broadcast", async ({ activity, event_id }) => {
      if (activity.description !== "Stored 15 summaries") return;
      const found = await agent.request("memory", "query", { tags: ["quantum"], limit: 100 });
      const description = `Analyzing citation networks across ${found.total} papers`;
      const event = { kind: "task_started", description, tags: ["analysis", "quantum"] };
      await agent.request("activity", "broadcast", { event, caused_by: event_id });
    });
    return {};
  },

  writer: (agent) => {
    const papers = [];
    const verified = [];
    agent.on("memory/entry", async ({ entry }) => papers.push(entry.key));
    agent.on("memory/changed", async ({ key }) => papers.push(key));
    agent.on("activity/broadcast", async ({ activity }) => {
      if (activity.tags.includes("verified")) verified.push(activity.description);
    });
    return {
      subscribe: () => agent.request("memory", "subscribe", { pattern: "research/quantum/*", snapshot: true }),
      compile: async () => {
        const value = { title: "Advances in quantum computing", papers, verified };
        const { version } = await agent.request("memory", "set", { key: "reports/quantum", value, expected_version: 0 });
        const event = { kind: "task_completed", description: "The report is ready", tags: ["report"], data: { version } };
        await agent.request("activity", "broadcast", { event });
      },
    };
  },

  newcomer: (agent) => ({
    "catch up": async () => {
      const from = new Date(Date.now() - 24 * 3600 * 1000).toISOString();
      const replayed = await agent.request("replay", "request", { from, streams: ["memory"], limit: 1000 });
      tell({ note: "replayed", total: replayed.delivered, items: replayed.items });
      const { entry } = await agent.request("memory", "get", { key: "reports/quantum" });
      tell({ note: "report", value: entry.value });
    },
  }),

  deployer: (agent) => {
    agent.on("direct/message", async ({ payload, correlation_id, from }) => {
      const value = { version: payload.version, minutes_ago: 0 };
      const set = await agent.request("memory", "set", { key: "deployments/prod", value, tags: ["deployment"], expected_version: 1 });
      const description = `Rolling back prod to ${payload.version}`;
      const event = { kind: "task_started", description, tags: ["rollback", "prod"], data: { version: set.version } };
      await agent.request("activity", "broadcast", { event });
      await agent.request("direct", "send", { to: from.agent_id, correlation_id, payload: { kind: "response", text: "Done." } });
    });
    const value = { version: "v2.3.1", previous: "v2.3.0", minutes_ago: 30 };
    return { deploy: () => agent.request("memory", "set", { key: "deployments/prod", value, tags: ["deployment"] }) };
  },

  "incident-responder": (agent) => {
    let alert;
    agent.on("activity/broadcast", async ({ activity, event_id }) => {
      if (activity.kind === "alert") {
        alert = event_id;
        const found = await agent.request("memory", "query", { tags: ["deployment"], sort: "updated_at", limit: 1 });
        const { version, previous } = found.entries[0].value;
        const description = `Investigating possible regression in ${version}`;
        const event = { kind: "task_started", description, tags: ["incident"] };
        await agent.request("activity", "broadcast", { event, caused_by: alert });
        const payload = { kind: "request", text: `Please prepare rollback to ${previous}`, version: previous };
        await agent.request("direct", "send", { to: "deployer", correlation_id: "rollback-1", payload, priority: "high" });
      } else if (activity.description === "CPU normalized on prod-3") {
        const value = { summary: "v2.3.1 burned CPU; rolled back to v2.3.0", alert, end: event_id };
        await agent.request("memory", "set", { key: "postmortems/prod-3", value, expected_version: 0, tags: ["postmortem"] });
      }
    });
    return {};
  },

  "tier-1-b": tierOne,
  "tier-1-c": tierOne,

  "knowledge-base": (agent) => {
    agent.on("activity/broadcast", async ({ activity, event_id }) => {
      if (!activity.tags.includes("bug")) return;
      const value = { title: "Charged twice", text: "We are on it. Void the older invoice.", because: activity.description };
      await agent.request("memory", "set", { key: "faq/charged-twice", value, tags: ["billing"], caused_by: event_id });
    });
    return {};
  },
};

function tierOne(agent) {
  return {
    subscribe: () => agent.request("memory", "subscribe", { pattern: "faq/*", values: true }),
    ticket: async () => {
      const found = await agent.request("memory", "query", { tags: ["workaround", "billing"] });
      tell({ note: "workaround", values: found.entries.map((entry) => entry.value) });
      const event = { kind: "task_completed", description: "Solved: charged twice", tags: ["ticket", "billing"] };
      await agent.request("activity", "broadcast", { event, scope: "tagged" });
    },
  };
}

/** Keeps its place in a file, so that it goes on after the last frame it has handled, and shows every frame. */
class Role extends Agent {
  constructor(name, file) {
    super(name, [name], existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined);
    this.file = file;
  }

  handled(frame) {
    writeFileSync(`${this.file}.new`, JSON.stringify(this.place));
    renameSync(`${this.file}.new`, this.file);
    tell(frame);
  }
}

function tell(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function follow(cues) {
  for await (const line of createInterface({ input: process.stdin })) {
    await cues[line.trim()]();
    tell({ done: line.trim() });
  }
}

const agent = new Role(process.argv[2], process.env.PLACE);
const cues = ROLES[process.argv[2]](agent);
await Promise.race([agent.run(), follow(cues)]);
process.exit(0);
