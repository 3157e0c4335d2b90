"""The rows of Scripts/bench on streams: from a backing that is far away, beside QEMU's block-stream,
and what a guest sees while its volume is streamed at idle priority.

Far away is nbdkit with its delay filter: every request to the backing takes 5 ms more. The guest goes
at half of the rate that it reaches without a stream; the stream runs as long as the load does, or the
row says how much of it."""

import json
import os
import shutil
import sys
import time

from bench_bitmaps import MIB, QMP
from bench_slow_repository import RAMP_SECONDS, Load

ROWS = ["stream"]
DELAY_MILLISECONDS = 5
GUEST_MIB = 4096


def overlay(bench, path, backing, length):
    bench.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", "-u", path,
              str(length))


class Distant:
    """A file behind a server whose every request takes a while."""

    def __init__(self, bench, folder, image):
        self.socket = os.path.join(folder, "distant.sock")
        self.server = bench.Server("nbdkit", [
            "nbdkit", "--foreground", "--unix", self.socket, "--threads", "32", "--filter=delay",
            "file", image, f"delay-read={DELAY_MILLISECONDS}ms"], self.socket)

    uri = property(lambda self: f"nbd+unix:///?socket={self.socket}")

    def stop(self):
        self.server.stop()
        os.unlink(self.socket)


def bench_distant(bench, folder, rounds, data_mib):
    image = os.path.join(folder, "distant.raw")
    bench.make_image(image, 2 * data_mib * MIB, data_mib * MIB)
    distant = Distant(bench, folder, image)
    agent = bench.Agent(folder)
    control = os.path.join(folder, "peer.sock")
    peer = bench.subprocess.Popen(
        ["qemu-storage-daemon", "--chardev", f"socket,id=qmp,path={control},server=on,wait=off",
         "--monitor", "chardev=qmp"])
    qmp = QMP(control)
    path = os.path.join(folder, "over.qcow2")

    def prepare():
        bench.warm(image)
        bench.settle(folder, data_mib)
        overlay(bench, path, distant.uri, 2 * data_mib * MIB)

    def ours():
        agent.tell("volume", "import", "far", path, "--format", "qcow2", "--allow-outside")
        start = time.monotonic()
        agent.tell("-q", "stream", "far")
        seconds = time.monotonic() - start
        agent.tell("volume", "remove", "far")
        check(bench, path, image)
        return seconds

    def theirs():
        qmp.execute("blockdev-add", node_name="far", driver="qcow2",
                    file={"driver": "file", "filename": path, "aio": "io_uring"})
        start = time.monotonic()
        qmp.execute("block-stream", job_id="job", device="far", auto_dismiss=False)
        qmp.wait_for_job("job", "concluded")
        seconds = time.monotonic() - start
        qmp.execute("job-dismiss", id="job")
        qmp.execute("blockdev-del", node_name="far")
        check(bench, path, image)
        return seconds

    try:
        return bench.compare(
            f"stream {data_mib} MiB, {DELAY_MILLISECONDS} ms away", "qemu-storage-daemon", ours,
            theirs, rounds, prepare)
    finally:
        qmp.close()
        peer.terminate()
        peer.wait()
        agent.stop()
        distant.stop()
        shutil.rmtree(agent.state)
        os.unlink(image)
        os.unlink(path)


def check(bench, path, image):
    """What was streamed depends on nothing and is the same."""
    info = json.loads(bench.run("qemu-img", "info", "--output=json", path))
    if "backing-filename" in info:
        sys.exit("bench: a stream has left a backing")
    bench.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, image)


class Guest:
    """A volume over a large image, whose guest goes on while it is streamed."""

    def __init__(self, bench, folder):
        self.bench, self.folder = bench, folder
        self.base = os.path.join(folder, "base.raw")
        self.top = os.path.join(folder, "top.qcow2")
        bench.make_image(self.base, GUEST_MIB * MIB, GUEST_MIB * MIB)
        self.agent = bench.Agent(folder)
        self.qmp = QMP(os.path.join(self.agent.state, "control.sock"))
        self.uri = ""

    def begin(self):
        """A new top, with what the guest uses in it: the load is not to change by that."""
        bench = self.bench
        overlay(bench, self.top, self.base, GUEST_MIB * MIB)
        self.agent.tell("volume", "import", "disk", self.top, "--format", "qcow2")
        self.uri = self.agent.tell("volume", "uri", "disk").strip()
        bench.run("qemu-io", "-f", "raw", "-c", "write -P 5 0 1024M", "-c", "flush", self.uri)
        os.sync()

    def end(self):
        self.agent.tell("volume", "remove", "disk")
        os.unlink(self.top)

    def load(self, rw, depth, rate, seconds, streams=False):
        """The result of a load, and for which part of it a stream ran."""
        load = Load(self.uri, depth, seconds, rate, rw)
        time.sleep(RAMP_SECONDS)
        if streams:
            self.qmp.execute("block-stream", device="disk", job_id="job")
        start, part, copied = time.monotonic(), 0, 0
        while load.is_running(0.2):
            if jobs := self.qmp.execute("query-block-jobs"):
                part, copied = time.monotonic() - start, jobs[0]["offset"]
        result = load.result() | {"part": min(part / seconds, 1), "copied": copied}
        if self.qmp.execute("query-block-jobs"):
            self.qmp.execute("block-job-cancel", device="job")
            while self.qmp.execute("query-block-jobs"):
                time.sleep(0.05)
        return result

    def stop(self):
        self.qmp.close()
        self.agent.stop()
        shutil.rmtree(self.agent.state)
        os.unlink(self.base)


def bench_guest(bench, folder, rounds, seconds):
    guest, samples = Guest(bench, folder), {}
    try:
        bench.warm(guest.base)
        for _ in range(rounds):
            for rw in ("randread", "randwrite"):
                for depth in (1, 32):
                    guest.begin()
                    guest.load(rw, depth, None, 1)
                    rate = int(guest.load(rw, depth, None, 2)["iops"] / 2)
                    plain = guest.load(rw, depth, rate, seconds)
                    streamed = guest.load(rw, depth, rate, seconds, streams=True)
                    guest.end()
                    samples.setdefault((rw, depth), []).append((rate, plain, streamed))
                    print(".", end="", flush=True, file=sys.stderr)
    finally:
        guest.stop()
    print(file=sys.stderr)
    return guest_rows(bench, samples)


def guest_rows(bench, samples):
    rows = []
    for (rw, depth), runs in samples.items():
        median = bench.statistics.median
        rate = median(rate for rate, _, _ in runs)
        plain, streamed = (median(run[place]["p99_us"] for run in runs) for place in (1, 2))
        row = f"4K {rw.removeprefix('rand')}, depth {depth}, {rate / 1000:.0f}k/s: streamed"
        rows.append({"row": row, "unit": "99th percentile µs", "peer": "no stream", "ours": streamed,
                     "theirs": plain, "ratio": streamed / plain, "better": "lower",
                     "most": max(1.5, 1 + 1000 / plain)})
        part = median(run[2]["part"] for run in runs)
        rows.append({"row": row, "unit": "part of the time", "peer": "all of it", "ours": part,
                     "theirs": 1, "ratio": part, "better": "higher"})
        copied = median(run[2]["copied"] for run in runs) / MIB
        rows.append({"row": row, "unit": "MiB streamed", "peer": "the image", "ours": copied,
                     "theirs": GUEST_MIB, "ratio": copied / GUEST_MIB, "better": "lower"})
    return rows


def rows(bench, folder, options, wanted):
    if "stream" not in wanted:
        return []
    return [bench_distant(bench, folder, options.rounds, options.data // 2)] + bench_guest(
        bench, folder, min(options.rounds, 3), max(2 * options.seconds, 4))
