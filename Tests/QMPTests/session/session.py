"""One conversation with a peer, and what is noted of it."""

import asyncio
import re

from peers import ExecuteError

# Of results, what is compared.
JOB_FIELDS = ["id", "type", "status"]
BLOCK_JOB_FIELDS = [
    "type", "device", "paused", "speed", "io-status", "ready", "status", "auto-finalize",
    "auto-dismiss",
]
EVENTS = [
    "JOB_STATUS_CHANGE", "BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_ERROR", "BLOCK_JOB_PENDING",
]


NODE_FIELDS = [
    "node-name", "drv", "ro", "backing_file_depth", "encrypted", "detect_zeroes", "bps", "bps_rd",
    "bps_wr", "iops", "iops_rd", "iops_wr", "cache", "write_threshold",
]
IMAGE_FIELDS = ["format", "virtual-size", "cluster-size"]
EXPORT_FIELDS = ["id", "type", "node-name", "shutting-down"]


class Session:
    """Runs a scenario and notes every answer and every event under a name of its own."""

    def __init__(self, peer, scenario):
        self.peer = peer
        self.scenario = scenario
        self.notes = {}
        self.raw_events = []

    def note(self, label, value):
        key = f"{self.scenario}.{label}"
        assert key not in self.notes, f"{key} is used twice"
        self.notes[key] = value

    async def do(self, label, command, arguments=None):
        """Executes a command and notes what comes back."""
        await self.attempt(label, self.peer.execute(command, arguments))

    async def start_backup(self, label, options):
        command, arguments = await self.peer.backup(options)
        await self.attempt(label, self.peer.execute(command, arguments), keeps_answer=False)

    async def start_transaction(self, label, actions, options, properties=None):
        """A transaction that starts a backup after other actions."""
        command, arguments = await self.peer.backup(options)
        actions = actions + [{"type": command, "data": arguments}]
        await self.do(label, "transaction", {"actions": actions, "properties": properties or {}})

    async def attempt(self, label, answer, keeps_answer=True):
        try:
            result = await answer
            self.note(label, {"return": result if keeps_answer else {}})
        except ExecuteError as error:
            self.note(f"{label}.class", error.error_class)
            self.note(f"{label}.text", str(error).replace(self.peer.folder, "FOLDER"))

    async def jobs(self, label):
        """Notes what both queries say of all jobs, but for what depends on the moment."""
        jobs = await self.peer.execute("query-jobs")
        self.note(f"{label}.query-jobs", [
            {key: job.get(key) for key in JOB_FIELDS} | {"failed": "error" in job}
            for job in jobs])
        jobs = await self.peer.execute("query-block-jobs")
        self.note(f"{label}.query-block-jobs", [
            {key: job.get(key) for key in BLOCK_JOB_FIELDS} | {"failed": "error" in job}
            for job in jobs])

    async def bitmaps(self, label):
        """Notes what is known of the bitmaps of the disk."""
        fields = ["name", "count", "granularity", "recording", "busy"]
        found = sorted(await self.peer.bitmaps(), key=lambda bitmap: bitmap["name"])
        self.note(label, [{key: bitmap[key] for key in fields} for bitmap in found])

    async def nodes(self, label, only=None):
        """Notes what is known of the nodes that have names of their own."""
        for is_flat in [True, False]:
            nodes = await self.peer.execute("query-named-block-nodes", {"flat": is_flat})
            # QEMU makes names for nodes that have none, and lists the newest first; and there are
            # the nodes to which a peer backs up.
            nodes = sorted(
                (n for n in nodes if not re.match(r"#|target[0-9]", n["node-name"])),
                key=lambda node: node["node-name"])
            self.note(f"{label}.{'flat' if is_flat else 'deep'}", [
                {key: node.get(key) for key in NODE_FIELDS}
                | {key: node["image"].get(key) for key in IMAGE_FIELDS}
                | {"backing": "backing-image" in node["image"]}
                for node in nodes if only is None or node["node-name"] in only])

    async def exports(self, label):
        """Notes what is known of the exports, but for those that every volume has here."""
        exports = await self.peer.execute("query-block-exports")
        self.note(label, [
            {key: export.get(key) for key in EXPORT_FIELDS}
            for export in exports if export["id"] not in ("disk", "other")])

    async def until_event(self, name):
        """Waits for an event, and notes its data. Those of jobs are not awaited meanwhile."""
        for _ in range(6000):
            event = await self.peer.client.events.get()
            if event["event"] == name:
                self.note(name, dict(event["data"]))
                return

    async def until(self, job, *statuses):
        """Waits until a job is in one of the states; `None` is for one that is gone."""
        for _ in range(6000):
            found = {j["id"]: j["status"] for j in await self.peer.execute("query-jobs")}
            if found.get(job) in statuses:
                return
            await asyncio.sleep(0.005)
        raise RuntimeError(f"{self.scenario}: {job} is not {statuses}: {found}")

    async def offset(self, job):
        for found in await self.peer.execute("query-block-jobs"):
            if found["device"] == job:
                return found["offset"]
        return None

    async def events(self, label):
        """Notes the events since the last time, as those of each job in their order."""
        # Whatever was caused by what has been answered is under way: one more answer brings it.
        await self.peer.execute("query-version")
        await asyncio.sleep(0.05)
        told = {}
        while not self.peer.client.events.empty():
            event = await self.peer.client.events.get()
            if event["event"] in EVENTS:
                data = dict(event["data"])
                job = data.get("id", data.get("device"))
                told.setdefault(job, []).append(self.normal(event["event"], data))
        self.note(label, {job: self.peer.without_drain(story) for job, story in told.items()})

    @staticmethod
    def normal(name, data):
        # How far a job has come, and in which words it fails, is no matter of the protocol.
        if "offset" in data:
            data["is-whole"] = data.pop("offset") == data.pop("len")
            if name == "BLOCK_JOB_CANCELLED":
                data.pop("is-whole")
        if "error" in data:
            data["error"] = True
        return [name] + [f"{key}={data[key]}" for key in sorted(data)]
