"""The two programs that the session is held with, each as the same few things to do."""

import asyncio
import hashlib
import json
import os
import subprocess

from qemu.qmp import EventListener, ExecuteError, QMPClient

DISK_BYTES = 8 << 20


class Peer:
    """A program with a control socket, a disk called `disk`, and somewhere to back it up to."""

    def __init__(self, folder, executable):
        self.folder = folder
        self.executable = executable
        self.client = QMPClient("session")
        self.executed = set()
        self.seen = EventListener()
        self.client.register_listener(self.seen)
        self.process = None

    def path(self, name):
        return os.path.join(self.folder, name)

    def make_file(self, name, content=True):
        with open(self.path(name), "wb") as file:
            if content:
                for index in range(DISK_BYTES >> 16):
                    file.write(bytes([index % 251 + 1]) * (1 << 16))
            file.truncate(DISK_BYTES)
        return self.path(name)

    def make_image(self, name, backing=None):
        command = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if backing:
            command += ["-b", backing, "-F", "qcow2"]
        subprocess.run(command + [self.path(name), str(DISK_BYTES)], check=True)
        return self.path(name)

    def make_chain(self):
        """A base, an image over it and a top, each with something of its own. Their paths."""
        paths = []
        for number, commands in enumerate([
            ["write -P 1 0 6M"], ["write -P 2 2M 4M", "write -z 3M 64k"], ["write -P 3 5M 100k"],
        ]):
            paths.append(self.make_image(f"chain{number}", backing=paths[-1] if paths else None))
            subprocess.run(
                ["qemu-io", "-f", "qcow2"] + [word for c in commands for word in ("-c", c)]
                + [paths[-1]], check=True, stdout=subprocess.DEVNULL)
        return paths

    def look(self, name, image_format="qcow2"):
        """The files of an image's chain, and a digest of what it shows."""
        flat = self.path("flat")
        path = self.path(name)
        subprocess.run(
            ["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, flat], check=True)
        info = json.loads(subprocess.run(
            ["qemu-img", "info", "-U", "--backing-chain", "--output=json", "-f",
             image_format, path],
            check=True, stdout=subprocess.PIPE).stdout)
        return {
            "files": [os.path.basename(image["filename"]) for image in info],
            "digest": hashlib.sha256(self.content("flat")).hexdigest()}

    def content(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    async def start(self):
        os.makedirs(self.folder)
        log = open(self.path("log"), "wb")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        for _ in range(3000):
            if os.path.exists(self.socket()) and await self.connect():
                await self.prepare()
                return
            if self.process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        raise RuntimeError(f"{self.executable} does not answer: {self.log()}")

    async def connect(self):
        try:
            await self.client.connect(self.socket())
            return True
        except Exception:  # It is not listening yet.
            return False

    async def stop(self):
        try:
            await self.execute("quit")
            await self.said_farewell()
            await self.client.disconnect()
        except Exception:  # It has gone before it could say so.
            pass
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    async def said_farewell(self):
        """Waits for what is told after the answer to `quit`."""

    def log(self):
        with open(self.path("log"), errors="replace") as file:
            return file.read()

    def without_drain(self, story):
        """The events of a job without those of a pause that nobody asked for."""
        return story

    async def execute(self, name, arguments=None):
        self.executed.add(name)
        return await self.client.execute(name, arguments or {})


class Agent(Peer):
    """Tidemark's agent."""

    name = "tidemark"

    def command(self):
        return [self.executable, "--state", self.path("state"), "agent"]

    def socket(self):
        return self.path("state/control.sock")

    async def prepare(self):
        self.make_file("disk.raw")
        await self.execute(
            "volume-import", {"name": "disk", "file": self.path("disk.raw"), "format": "raw"})
        self.make_file("other.raw", content=False)
        await self.execute(
            "volume-import", {"name": "other", "file": self.path("other.raw"), "format": "raw"})
        await self.execute("repository-init", {"name": "vault", "location": self.path("vault")})

    async def add_chain(self):
        """A chain of three images as `chain`, each to be named by its path."""
        paths = self.make_chain()
        await self.execute(
            "volume-import", {"name": "chain", "file": paths[-1], "format": "qcow2"})

    async def remove_chain(self):
        await self.execute("volume-remove", {"name": "chain"})

    async def said_farewell(self):
        for _ in range(500):
            if any(event["event"] == "SHUTDOWN" for event in self.seen.history):
                return
            await asyncio.sleep(0.01)

    async def backup(self, options):
        """The command and the arguments that back the disk up."""
        arguments = {"volumes": ["disk"], "repository": "vault", "level": "full"}
        if "bitmap" in options:
            arguments["level"] = "auto"
        arguments.update(options)
        return "volume-backup", arguments


    async def bitmaps(self):
        found = await self.execute("query-dirty-bitmaps", {"node": "disk"})
        # The bitmap of the repository, which every backup has that names none, is the agent's own.
        return [bitmap for bitmap in found if bitmap["name"] != "vault"]


class StorageDaemon(Peer):
    """Debian's qemu-storage-daemon."""

    name = "qemu"

    def command(self):
        return [
            self.executable,
            "--chardev", f"socket,id=control,path={self.socket()},server=on,wait=off",
            "--monitor", "chardev=control",
        ]

    def socket(self):
        return self.path("control.sock")

    async def prepare(self):
        self.targets = 0
        await self.add("disk", self.make_file("disk.raw"))
        await self.add("other", self.make_file("other.raw", content=False))

    def without_drain(self, story):
        # Whenever a job's nodes are put into place, all requests are drained, and the job with them.
        drained = ["created", "running", "paused", "running"]
        states = [event[-1].removeprefix("status=") for event in story]
        kept = list(story)
        for start in reversed(range(len(story) - 3)):
            if states[start:start + 4] == drained:
                del kept[start + 2:start + 4]
        return kept

    async def add(self, node, path):
        await self.execute("blockdev-add", {
            "driver": "raw", "node-name": node,
            "file": {"driver": "file", "filename": path},
        })

    async def add_chain(self):
        paths = self.make_chain()
        await self.execute("blockdev-add", {
            "driver": "qcow2", "node-name": "chain",
            "file": {"driver": "file", "filename": paths[-1]},
        })

    async def remove_chain(self):
        # A snapshot that nothing uses has gone by itself.
        await self.execute("blockdev-del", {"node-name": "chain"})

    async def backup(self, options):
        self.targets += 1
        target = f"target{self.targets}"
        await self.add(target, self.make_file(f"{target}.raw", content=False))
        arguments = {"device": "disk", "target": target, "sync": "full"}
        if "bitmap" in options:
            arguments |= {"sync": "bitmap", "bitmap-mode": "on-success"}
        arguments.update(options)
        return "blockdev-backup", arguments

    async def bitmaps(self):
        nodes = await self.execute("query-named-block-nodes", {"flat": True})
        disk = [node for node in nodes if node["node-name"] == "disk"][0]
        # A backup records in an anonymous one meanwhile.
        return [bitmap for bitmap in disk.get("dirty-bitmaps", []) if "name" in bitmap]


__all__ = ["Agent", "StorageDaemon", "ExecuteError", "DISK_BYTES"]
