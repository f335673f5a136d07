// A RingForge agent without an SDK: it asks, listens, and comes back after a lost connection. Needs `ws`.

import { randomUUID } from "node:crypto";
import WebSocket from "ws";

// The server pings every 30 seconds: after SILENCE_MS without a frame the connection is dead.
const [SILENCE_MS, BACKOFF_MS, BACKOFF_MAX_MS] = [90_000, 200, 30_000];

/** The server answered `error`; the whole answer is in `frame`. */
export class Refused extends Error {
  constructor(frame) {
    super(`${frame.code}: ${frame.message}`);
    Object.assign(this, { frame });
  }
}

export class Agent {
  #handlers = new Map();
  #pending = new Map();
  #turn = Promise.resolve();
  #waitMs = 0;
  id = null;

  constructor(name, capabilities = [], place = [-1, null]) {
    this.url = process.env.RINGFORGE_URL;
    this.me = { type: "auth", api_key: process.env.RINGFORGE_API_KEY, agent: { name, capabilities } };
    this.received = this.place = place; // [position, event_id]: what came in, what the handlers are done with
  }

  /** Awaits `handler(frame)` for each push of this kind, such as "activity/broadcast", in order. */
  on(event, handler) {
    this.#handlers.set(event, [...(this.#handlers.get(event) ?? []), handler]);
  }

  /** Resolves with the answer. After a lost connection it is asked again: the key lets a command count only once. */
  request(type, action, fields = {}) {
    const ref = randomUUID();
    const frame = { type, action, ref, idempotency_key: ref, ...fields };
    return new Promise((resolve, reject) => {
      this.#pending.set(ref, { frame, resolve, reject, items: [] });
      if (this.id) this.#send(frame);
    });
  }

  /** Stays connected, until the server says something final: then it rejects. */
  async run() {
    for (let attempt = 1; ; attempt += 1) {
      const { code, reason, entered } = await this.#connect();
      if (code === 1009 || (code >= 4400 && code <= 4999)) throw new Error(`closed: ${code} ${reason}`);
      if (entered) attempt = 1;
      const waitMs = this.#waitMs + Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** attempt);
      await new Promise((done) => setTimeout(done, waitMs));
    }
  }

  #connect() {
    this.socket = new WebSocket(this.url, { maxPayload: 1 << 22 }).on("error", () => {}); // `close` follows.
    const silence = setTimeout(() => this.socket.terminate(), SILENCE_MS);
    this.socket.on("message", (text) => this.#onFrame(JSON.parse(text), silence.refresh()));
    return new Promise((resolve) => this.socket.on("close", (code, reason) => {
      clearTimeout(silence);
      resolve({ code, reason, entered: this.id });
      this.id = null;
    }));
  }

  #send(frame) {
    this.socket.send(JSON.stringify(frame), () => {}); // What was not answered is sent again on the next connection.
  }

  #onFrame(frame) {
    const waiting = this.#pending.get(frame.ref);
    this.#waitMs = frame.reconnect_after_ms ?? frame.retry_after_ms ?? 0;
    if (frame.type === "ping") this.#send({ type: "pong" });
    else if (frame.type === "auth_required") this.#send({ ...this.me, last_event_id: this.received[1] });
    else if (frame.type === "auth_ok") {
      this.id = frame.agent_id;
      for (const { frame: unanswered } of this.#pending.values()) this.#send(unanswered);
    } else if (!waiting) {
      if (frame.position > this.received[0]) this.received = [frame.position, frame.event_id];
      this.#turn = this.#turn.then(() => this.#work(frame));
    } else if (frame.type === "replay" && frame.event !== "end") {
      if (frame.event === "item") waiting.items.push(frame.original);
    } else {
      this.#pending.delete(frame.ref);
      frame.type === "error" ? waiting.reject(new Refused(frame)) : waiting.resolve({ ...frame, items: waiting.items });
    }
  }

  async #work(frame) {
    for (const handler of this.#handlers.get(`${frame.type}/${frame.event ?? ""}`) ?? []) {
      try { await handler(frame); } catch (error) { console.error("a handler failed on", frame, error); }
    }
    if (frame.position > this.place[0]) this.place = [frame.position, frame.event_id];
    this.handled(frame);
  }

  handled() {} // To override: keep `place` here to go on from it after a restart.
}
