"""The rows of Scripts/bench on mirrors: against QEMU's blockdev-mirror, to a raw file and to an NBD
server, and what a mirror that starts from a bitmap sends."""

import json
import os
import shutil
import subprocess
import sys
import time

from bench_bitmaps import KIB, MIB, QMP, write_spread

ROWS = ["mirror"]


class Target:
    """A server with a raw file for what comes by NBD, and the file itself for what does not."""

    def __init__(self, bench, folder, length, by_nbd):
        self.path = os.path.join(folder, "target.raw")
        self.socket = os.path.join(folder, "target.sock")
        self.length, self.bench, self.process = length, bench, None
        self.by_nbd = by_nbd

    def prepare(self):
        self.stop()
        with open(self.path, "wb") as file:
            file.truncate(self.length)
        if self.by_nbd:
            self.process = subprocess.Popen(
                ["qemu-nbd", "--persistent", "--shared=16", "--cache=writeback", "--format=raw",
                 "--discard=unmap", f"--socket={self.socket}", self.path])
            self.bench.wait_for_socket(self.socket, self.process)

    @property
    def place(self):
        return f"nbd+unix:///?socket={self.socket}" if self.by_nbd else self.path

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None


def our_mirror(agent, target, *options):
    """A mirror of the agent's volume until it is ready, ended by a graceful cancel."""
    start = time.monotonic()
    agent.tell("mirror", "disk", target.place, "--existing", "--format", "raw", "--wait", *options)
    seconds = time.monotonic() - start
    agent.tell("qmp", "block-job-cancel", json.dumps({"device": "disk"}))
    job = json.loads(agent.tell("--json", "job", "wait", "disk"))
    agent.tell("job", "dismiss", "disk")
    return seconds, job["result"]["mirror"]


class Peer:
    """QEMU's storage daemon with the same source."""

    def __init__(self, bench, folder, source):
        control = os.path.join(folder, "peer.sock")
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--chardev", f"socket,id=qmp,path={control},server=on,wait=off",
             "--monitor", "chardev=qmp",
             "--blockdev", "node-name=disk," + bench.qemu_node(source, "raw", "io_uring")])
        self.qmp = QMP(control)

    def mirror(self, target):
        file = ({"driver": "nbd", "server": {"type": "unix", "path": target.socket}} if target.by_nbd
                else {"driver": "file", "filename": target.path, "aio": "io_uring", "locking": "off"})
        start = time.monotonic()
        self.qmp.execute("blockdev-add", node_name="target", driver="raw", file=file)
        self.qmp.execute("blockdev-mirror", job_id="job", device="disk", target="target",
                         sync="full", auto_dismiss=False)
        self.qmp.wait_for_job("job", "ready")
        seconds = time.monotonic() - start
        self.qmp.execute("block-job-cancel", device="job")
        self.qmp.wait_for_job("job", "concluded")
        self.qmp.execute("job-dismiss", id="job")
        self.qmp.execute("blockdev-del", node_name="target")
        return seconds

    def stop(self):
        self.qmp.close()
        self.process.terminate()
        self.process.wait()


def bench_mirrors(bench, folder, rounds, data_mib):
    source = os.path.join(folder, "source.raw")
    bench.make_image(source, 2 * data_mib * MIB, data_mib * MIB)
    agent = bench.Agent(folder)
    peer, rows = Peer(bench, folder, source), []
    try:
        agent.tell("volume", "import", "disk", source, "--format", "raw")
        for name, by_nbd in (("raw", False), ("NBD", True)):
            target = Target(bench, folder, 2 * data_mib * MIB, by_nbd)

            def prepare():
                bench.warm(source)
                target.prepare()

            rows.append(bench.compare(
                f"mirror raw to {name}, until ready", "qemu-storage-daemon",
                lambda: our_mirror(agent, target, "--sync", "full")[0],
                lambda: peer.mirror(target), rounds, prepare))
            target.stop()
        rows.append(bench_seed(bench, folder, agent, data_mib))
    finally:
        peer.stop()
        agent.stop()
        shutil.rmtree(agent.state)
        os.unlink(source)
    return rows


def bench_seed(bench, folder, agent, data_mib):
    """What a mirror that starts from a bitmap sends, with the bitmap's bytes as the peer."""
    agent.tell("bitmap", "add", "disk", "changes", "--granularity", "64K")
    uri = agent.tell("volume", "uri", "disk").strip()
    write_spread(uri, data_mib * MIB, 4 * data_mib, 64 * KIB)
    dirty = json.loads(agent.tell("--json", "bitmap", "show", "disk", "changes"))["count"]
    target = Target(bench, folder, 2 * data_mib * MIB, True)
    target.prepare()
    _, mirror = our_mirror(agent, target, "--sync", "incremental", "--bitmap", "changes")
    target.stop()
    sent = mirror["sent-bytes"]
    return {"row": "mirror from a bitmap, sent", "unit": "MiB", "peer": "the bitmap's dirty bytes",
            "ours": sent / MIB, "theirs": dirty / MIB, "ratio": sent / dirty, "better": "lower"}


def rows(bench, folder, options, wanted):
    if "mirror" not in wanted:
        return []
    return bench_mirrors(bench, folder, options.rounds, options.data)
