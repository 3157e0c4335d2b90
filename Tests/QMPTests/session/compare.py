"""Holds the same session with Tidemark's agent and with qemu-storage-daemon, and compares.

compare.py TIDEMARK DIFFERENCES: the file lists each difference with its reason. One that is not
listed is an error, and so is one that is listed and not there.
"""

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile

from own import OWN
from peers import Agent, StorageDaemon
from scenarios import SCENARIOS
from session import Session


async def hold(peer, scenarios):
    """All scenarios, one after another."""
    notes = {}
    await peer.start()
    try:
        for scenario in scenarios:
            session = Session(peer, scenario.__name__)
            await scenario(session)
            notes.update(session.notes)
    except Exception:
        print(peer.log(), file=sys.stderr)
        raise
    finally:
        await peer.stop()
    return notes


def listed(path):
    """The differences of the file: its table rows begin with the name in backquotes."""
    with open(path, encoding="utf-8") as file:
        rows = re.findall(r"^\| `([^`]+)` \|", file.read(), re.MULTILINE)
    return rows


def matches(name, pattern):
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None


def not_tried(agent):
    """The commands and events that the agent has and the session has not met."""
    events = {event["event"] for event in agent.seen.clear()}
    return sorted(agent.commands - agent.executed) + sorted(agent.events_described - events)


async def main(tidemark, differences):
    folder = tempfile.mkdtemp(prefix="qmp-session-")
    try:
        agent = Agent(os.path.join(folder, "a"), tidemark)
        ours = await hold(agent, SCENARIOS + OWN)
        theirs = await hold(
            StorageDaemon(os.path.join(folder, "q"), "qemu-storage-daemon"), SCENARIOS)
    finally:
        shutil.rmtree(folder)
    own = tuple(f"{scenario.__name__}." for scenario in OWN)
    names = sorted(name for name in set(ours) | set(theirs) if not name.startswith(own))
    differing = [name for name in names if ours.get(name) != theirs.get(name)]
    patterns = listed(differences)
    unlisted = [n for n in differing if not any(matches(n, p) for p in patterns)]
    stale = [p for p in patterns if not any(matches(n, p) for n in differing)]
    for name in unlisted:
        print(f"unlisted difference: {name}")
        print(f"  tidemark: {json.dumps(ours.get(name))}")
        print(f"  qemu:     {json.dumps(theirs.get(name))}")
    for pattern in stale:
        print(f"listed, but there is no such difference: {pattern}")
    print(f"{len(ours)} answers compared, {len(differing)} differ, {len(unlisted)} unlisted")
    missing = not_tried(agent)
    for name in missing:
        print(f"no part of the session: {name}")
    return 1 if unlisted or stale or missing or len(names) < 300 else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
