"""A RingForge agent without an SDK: it asks, listens, and comes back after a lost connection. Needs `websockets`."""

import asyncio, json, logging, os, random, uuid  # noqa: E401

import websockets

SILENCE_S = 90  # The server pings every 30 seconds: after this long without a frame the connection is dead.
BACKOFF_S, BACKOFF_MAX_S = 0.2, 30

class Refused(Exception):
    """The server answered `error`; the whole answer is in `frame`."""

    def __init__(self, frame):
        super().__init__(f"{frame['code']}: {frame['message']}")
        self.frame = frame

class Agent:
    def __init__(self, name, capabilities=(), place=(-1, None)):
        self.url, self.me = os.environ["RINGFORGE_URL"], {"type": "auth", "api_key": os.environ["RINGFORGE_API_KEY"]}
        self.me["agent"] = {"name": name, "capabilities": list(capabilities)}
        self.received = self.place = tuple(place)  # (position, event_id): what came in, what the handlers are done with
        self.handlers, self.pending, self.inbox = {}, {}, asyncio.Queue()
        self.socket, self.id, self.wait_s = None, None, 0

    def on(self, event, handler):
        """Awaits `handler(frame)` for each push of this kind, such as "activity/broadcast", in order."""
        self.handlers.setdefault(event, []).append(handler)

    async def request(self, type, action, **fields):
        """Returns the answer. After a lost connection it is asked again: the key lets a command count only once."""
        ref = uuid.uuid4().hex
        frame = {"type": type, "action": action, "ref": ref, "idempotency_key": ref, **fields}
        answer = asyncio.get_running_loop().create_future()
        self.pending[ref] = (frame, answer, [])
        if self.id:
            await self.send(frame)
        return await answer

    async def run(self):
        """Stays connected, until the server says something final: that is raised."""
        worker, attempt = asyncio.create_task(self.work()), 0
        try:
            while True:
                try:
                    async with websockets.connect(self.url, max_size=1 << 22) as self.socket:
                        while True:
                            await self.on_frame(json.loads(await asyncio.wait_for(self.socket.recv(), SILENCE_S)))
                            attempt = 0 if self.id else attempt
                except websockets.ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else 1006
                    if code == 1009 or 4400 <= code <= 4999:
                        raise
                except (OSError, asyncio.TimeoutError, websockets.InvalidHandshake) as error:
                    logging.info("no connection: %s", error)
                self.id, attempt = None, attempt + 1
                await asyncio.sleep(self.wait_s + random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt)))
        finally:
            worker.cancel()

    async def send(self, frame):
        try:
            await self.socket.send(json.dumps(frame))
        except websockets.ConnectionClosed:
            pass  # `run` notices, and what was not answered is sent again.

    async def on_frame(self, frame):
        kind, event = frame["type"], frame.get("event")
        self.wait_s = frame.get("reconnect_after_ms", frame.get("retry_after_ms", 0)) / 1000
        waiting, answer, items = self.pending.get(frame.get("ref"), (None, None, None))
        if kind == "ping":
            await self.send({"type": "pong"})
        elif kind == "auth_required":
            await self.send({**self.me, "last_event_id": self.received[1]})
        elif kind == "auth_ok":
            self.id = frame["agent_id"]
            for unanswered, _, _ in list(self.pending.values()):
                await self.send(unanswered)
        elif not waiting:
            self.inbox.put_nowait(frame)
            self.received = max(self.received, (frame.get("position", -1), frame.get("event_id")), key=lambda at: at[0])
        elif kind == "replay" and event != "end":
            items += [frame["original"]] if event == "item" else []
        elif self.pending.pop(frame["ref"]) and not answer.done():
            failed = kind == "error"
            answer.set_exception(Refused(frame)) if failed else answer.set_result({**frame, "items": items})

    async def work(self):
        while frame := await self.inbox.get():
            for handler in self.handlers.get(f"{frame['type']}/{frame.get('event', '')}", []):
                try:
                    await handler(frame)
                except Exception:
                    logging.exception("a handler failed on %s", frame)
            self.place = max(self.place, (frame.get("position", -1), frame.get("event_id")), key=lambda at: at[0])
            self.handled(frame)

    def handled(self, frame):
        """To override: keep `place` here to go on from it after a restart."""
