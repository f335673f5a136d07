"""Where stories are played: a server of their own, agents as processes, and questions about what each of them saw."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent
WAIT_S = 20  # For anything that must happen; on an idle machine all of it takes milliseconds.
RUNNERS = {
    "python": [os.environ.get("PYTHON", sys.executable), str(EXAMPLES / "python/roles.py")],
    "node": ["node", str(EXAMPLES / "node/roles.mjs")],
}


class Process:
    """A process whose stdout is JSON lines, and all of them so far."""

    def __init__(self, command, env=None, stderr=None):
        # Nothing here leaves this machine, whatever proxy there is.
        env = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **(env or {})}
        self.process = subprocess.Popen(
            command, env=env, text=True, encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
        self.lines, self.ended, self.news = [], False, threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(json.loads(line))
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def first(self, matches, what):
        """The first line that matches, waited for."""
        with self.news:
            self.news.wait_for(lambda: self.ended or any(map(matches, self.lines)), WAIT_S)
            found = next(filter(matches, self.lines), None)
            end = " and ended" if self.ended else ""
            assert found is not None, f"{what} did not come{end}; last: {json.dumps(self.lines[-3:])}"
            return found

    def end(self, how):
        """Ends it and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(WAIT_S)
        self.reader.join(WAIT_S)
        self.process.stdin.close()
        self.process.stdout.close()
        return status


class Actor:
    """An agent, over all lives of its process."""

    def __init__(self, stage, name, language):
        self.stage, self.name, self.runner = stage, name, RUNNERS[language]
        self.before, self.process = [], None

    def start(self):
        env = {**self.stage.env, "PLACE": str(self.stage.folder / f"{self.name}.json")}
        self.process = Process([*self.runner, self.name], env, stderr=self.stage.stderr)
        self.process.first(lambda frame: frame.get("event") == "roster", f"{self.name}: the roster")
        return self

    def kill(self):
        """As a crash does it. Everything it has handled until now is on its stdout."""
        self.process.end(signal.SIGKILL)
        self.before += self.process.lines

    def say(self, cue):
        """Has it begin to do something."""
        self.process.process.stdin.write(cue + "\n")
        self.process.process.stdin.flush()

    def cue(self, cue):
        """Has it do something, and waits until it has."""
        self.say(cue)
        self.did(cue)

    def did(self, cue):
        self.process.first(lambda line: line.get("done") == cue, f"{self.name}: the end of `{cue}`")

    def sees(self, kind, **fields):
        """The first frame of this kind (as in "memory/changed") with these fields that this life has handled."""
        area, _, event = kind.partition("/")
        wanted = {"type": area, "event": event, **fields}
        return self.process.first(lambda frame: wanted.items() <= flat(frame).items(), f"{self.name}: {wanted}")

    def hears(self, description):
        """The activity with this description."""
        return self.sees("activity/broadcast", description=description)

    def notes(self, note):
        """What it said itself."""
        return self.process.first(lambda line: line.get("note") == note, f"{self.name}: the note `{note}`")

    def all(self, *kinds, scope=None):
        """Every frame of these kinds, over all lives."""
        lines = self.before + self.process.lines
        return [line for line in lines if f"{line.get('type')}/{line.get('event')}" in kinds
                and scope in (None, line.get("scope"))]

    def resumed(self, times=1):
        """Is back after so many lost connections, and has missed nothing."""
        def enough(_):
            return len(self.all("system/resumed")) >= times

        self.process.first(enough, f"{self.name}: `resumed` {times} times")
        assert all(frame["recovered"] for frame in self.all("system/resumed")), self.all("system/resumed")


def flat(frame):
    """A frame with the content of an activity beside it; only what can be compared as a set."""
    fields = {**frame, **frame.get("activity", {}), "from": frame.get("from", {}).get("name")}
    return {name: value for name, value in fields.items() if not isinstance(value, (dict, list))}


class Servers:
    """Kafka, Postgres and Redis, where tests find their addresses (scripts/services run)."""

    NAMES = ("TEST_KAFKA", "TEST_POSTGRES", "TEST_REDIS")
    installed = 0

    @classmethod
    def missing(cls):
        return [name for name in cls.NAMES if name not in os.environ]

    @classmethod
    def install(cls):
        """Topics, a database and a prefix that nobody else has: what a server needs in its environment."""
        cls.installed += 1
        name = f"story_{os.getpid()}_{cls.installed}"
        kafka, postgres, redis = (os.environ[name] for name in cls.NAMES)
        env = {
            "RINGFORGE__STORES__LOG": f"{kafka}/{name}",
            "RINGFORGE__STORES__READS": f"{postgres.rpartition('/')[0]}/{name}",
            "RINGFORGE__STORES__LIVE": f"{redis}?prefix={name}",
            "RINGFORGE__SECRETS__SEAL": "5e" * 32,
        }
        topics = ["topics", "create", "--partitions", "4", "--replication", "1", "--min-insync", "1"]
        for command in (["createdb", "--maintenance-db", postgres, name], [os.environ["RINGFORGE"], *topics]):
            subprocess.run(command, env={**os.environ, **env}, check=True, stdout=subprocess.DEVNULL)
        return env


# What an installation is: its processes, and whether it is on servers.
MODES = {
    "alone": (["all"], False),
    "on servers": (["all"], True),
    "apart": (["projectors", "projectors", "command-api", "command-api", "edge", "edge", "query-api"], True),
}


class Stage:
    """One fleet on an installation of its own."""

    def __init__(self, fleet, folder, tally, mode):
        self.fleet, self.folder, self.tally, self.mode = fleet, folder, tally, mode
        self.roles, on_servers = MODES[mode]
        self.settings = Servers.install() if on_servers else {}
        self.actors, self.server, self.ports, self.turn = [], [], [0] * len(self.roles), 0
        self.stderr = open(folder / "stderr", "ab")
        (folder / "bootstrap.toml").write_text(f'[[tenant]]\nname = "stories"\nfleets = ["{fleet}"]\n')

    def start_server(self):
        maker = next(number for number, role in enumerate(self.roles) if role in ("all", "command-api"))
        for number, role in enumerate(self.roles):
            data = self.folder / "data" / str(number)
            command = [os.environ["RINGFORGE"], role, "--json", "--port", str(self.ports[number]), "--data", str(data)]
            if number == maker:
                command += ["--bootstrap", str(self.folder / "bootstrap.toml")]
            self.server.append(Process(command, self.settings, stderr=self.stderr))
        ready = [process.first(lambda line: line.get("ready"), "the ready line") for process in self.server]
        self.ports = [int(line["rest_url"].rpartition(":")[2]) for line in ready]
        fleet = ready[maker]["tenants"][0]["fleets"][0]
        assert fleet["slug"] == self.fleet, ready
        self.urls, self.key = [line["ws_url"] for line in ready if "ws_url" in line], fleet["agent_key"]

    @property
    def env(self):
        """For whoever comes next: at every edge in turn."""
        self.turn += 1
        return {"RINGFORGE_URL": self.urls[self.turn % len(self.urls)], "RINGFORGE_API_KEY": self.key}

    def end_server(self, how):
        """Ends all of it and returns the exit statuses."""
        for process in self.server:
            if process.process.poll() is None:
                process.process.send_signal(how)
        ended = [process.end(how) for process in self.server]
        self.server = []
        return ended

    @contextmanager
    def server_away(self):
        """kill -9, whatever happens meanwhile, and a new start on the same data and ports."""
        self.end_server(signal.SIGKILL)
        yield
        self.start_server()

    def actor(self, name, language):
        """A new agent, started."""
        self.actors.append(Actor(self, name, language))
        return self.actors[-1].start()

    @contextmanager
    def step(self, what):
        """One step of the story: done, or the story ends here."""
        started = time.monotonic()
        yield
        self.tally.passed += 1
        print(f"  ok      {self.fleet}, {self.mode}: {what} ({time.monotonic() - started:.1f} s)", flush=True)

    def end(self):
        for actor in self.actors:
            if actor.process:
                actor.process.end(signal.SIGKILL)
        try:
            ended = self.end_server(signal.SIGTERM)
            assert not any(ended), f"the processes ended with {ended}"
        finally:
            self.end_server(signal.SIGKILL)
            self.stderr.close()


class Tally:
    """How it went."""

    passed = failed = 0


def play(fleet, story, tally, mode):
    """Plays a story on a stage of its own; what goes wrong is said and counted."""
    folder = Path(tempfile.mkdtemp(prefix=f"ringforge-{fleet}-"))
    stage = Stage(fleet, folder, tally, mode)
    try:
        try:
            stage.start_server()
            story(stage)
        finally:
            stage.end()
    except Exception as error:
        tally.failed += 1
        # What went wrong first is what matters, not what the end of the stage made of it.
        print(f"  FAILED  {fleet}, {mode}, after the step above: {error.__context__ or error!r}", flush=True)
        print("".join((folder / "stderr").read_text(errors="replace").splitlines(keepends=True)[-30:]), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def same(seen, expected, what):
    """Both saw the same events, each once, in the order of the log."""
    ids = [frame["event_id"] for frame in seen]
    wanted = [frame["event_id"] for frame in expected]
    positions = [frame["position"] for frame in seen]
    assert positions == sorted(set(positions)), f"{what}: out of order or twice: {positions}"
    assert ids == wanted, f"{what}: a gap or a stranger: {positions}, not {[frame['position'] for frame in expected]}"
