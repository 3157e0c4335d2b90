"""The rows of Scripts/bench on bitmaps: what they cost a guest's writes, what an incremental costs,
and how long an agent takes to start with large volumes and with many."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import nbd

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
ROWS = ["bitmaps", "incremental", "recovery", "many"]


class QMP:
    """A client of a QMP socket that waits for one answer, or one event, at a time."""

    def __init__(self, path, seconds=60):
        deadline = time.monotonic() + seconds
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > deadline:
                    sys.exit(f"bench: nobody answers at {path} after {seconds} s")
                time.sleep(0.001)
        self.file = self.socket.makefile("rw", newline="\n")
        self.file.readline()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        json.dump({"execute": command, "arguments": names}, self.file)
        self.file.write("\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                sys.exit(f"bench: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait_for_job(self, job, status):
        while True:
            message = json.loads(self.file.readline())
            data = message.get("data", {})
            if message.get("event") == "JOB_STATUS_CHANGE" and data["id"] == job:
                if data["status"] == status:
                    return

    def close(self):
        self.file.close()
        self.socket.close()


def write_spread(uri, length, count, size):
    """Writes `count` pieces of new data of `size` bytes, spread evenly over `length` bytes."""
    client = nbd.NBD()
    client.connect_uri(uri)
    content = nbd.Buffer.from_bytearray(bytearray(os.urandom(size)))
    stride = length // count // size * size
    for number in range(count):
        while client.aio_in_flight() >= 16:
            client.poll(-1)
        client.aio_pwrite(content, number * stride, completion=lambda error: 1)
    while client.aio_in_flight() > 0:
        client.poll(-1)
    client.flush()
    client.shutdown()


# What bitmaps cost a guest's writes.

def bench_writes(bench, folder, rounds, seconds):
    """4 KiB random writes with and without bitmaps: one agent, a volume of its own for each."""
    kinds = {  # name: durability, bitmaps
        "no bitmap, process": ("process", 0), "no bitmap, power": ("power", 0),
        "1 bitmap": ("power", 1), "2 bitmaps": ("power", 2), "8 bitmaps": ("power", 8),
    }
    agent = bench.Agent(folder)
    images, uris, samples = {}, {}, {}
    try:
        for number, (kind, (durability, bitmaps)) in enumerate(kinds.items()):
            volume = f"disk-{number}"
            images[kind] = os.path.join(folder, f"{volume}.raw")
            bench.make_image(images[kind], bench.WARM_MIB * MIB, bench.WARM_MIB * MIB)
            agent.tell("volume", "import", volume, images[kind], "--format", "raw",
                       "--durability", durability)
            for name in range(bitmaps):
                agent.tell("bitmap", "add", volume, f"bitmap-{name}")
            uris[kind] = agent.tell("volume", "uri", volume).strip()
            # Warm-up: every region announced, every bit set once.
            write_spread(uris[kind], bench.WARM_MIB * MIB, bench.WARM_MIB * 16, 64 * KIB)
        for depth in (1, 32):
            workload = bench.Workload(f"4K random write, depth {depth}", "randwrite", "4k", depth)
            for number in range(rounds + 1):
                order = list(kinds)
                order = order[number % len(order):] + order[:number % len(order)]
                for kind in order:
                    agent.uri = uris[kind]
                    sample = bench.measure_load(agent, images[kind], workload, seconds)
                    if number > 0:
                        samples.setdefault((workload.name, kind), []).append(sample)
                print(".", end="", flush=True, file=sys.stderr)
    finally:
        agent.stop()
        shutil.rmtree(agent.state)
        for image in images.values():
            os.unlink(image)
    print(file=sys.stderr)
    return write_rows(bench, samples) + bench_first_writes(bench, folder, rounds)


def write_rows(bench, samples):
    rows = []
    for load in dict.fromkeys(load for load, _ in samples):
        for field, unit in {"iops": "requests/s", "cpu_us": "CPU µs/request"}.items():
            median = {kind: bench.statistics.median(s[field] for s in values)
                      for (of, kind), values in samples.items() if of == load}
            pairs = [("no bitmap, power", "no bitmap, process")]
            pairs += [(kind, "no bitmap, power") for kind in median if kind[0].isdigit()]
            for kind, peer in pairs:
                rows.append({
                    "row": f"{load}: {kind}", "unit": unit, "peer": peer, "ours": median[kind],
                    "theirs": median[peer], "ratio": median[kind] / median[peer],
                    "better": "higher" if field == "iops" else "lower"})
    return rows


def bench_first_writes(bench, folder, rounds):
    """4 KiB writes of which each is the first into its region, one after the other."""
    count = 2000
    agent = bench.Agent(folder)

    def first_writes(durability):
        volume = f"first-{durability}"
        agent.tell("volume", "create", volume, "--size", "2G", "--format", "raw",
                   "--durability", durability)
        client = nbd.NBD()
        client.connect_uri(agent.tell("volume", "uri", volume).strip())
        start = time.monotonic()
        for number in range(count):
            client.pwrite(bytes(4096), number * MIB)
        seconds = time.monotonic() - start
        client.shutdown()
        agent.tell("volume", "remove", volume, "--delete-files")
        return seconds / count * 1e6

    try:
        row = bench.compare(
            "4K write, first into its region: power", "process", lambda: first_writes("power"),
            lambda: first_writes("process"), rounds, lambda: None)
        row["unit"] = "µs"
        return [row]
    finally:
        agent.stop()
        shutil.rmtree(agent.state)


# What an incremental costs.

class StorageDaemon:
    """QEMU's storage daemon with an image whose bitmap holds what is written."""

    def __init__(self, bench, folder, image):
        self.bench = bench
        self.folder = folder
        control, export = os.path.join(folder, "qmp.sock"), os.path.join(folder, "export.sock")
        node = "node-name=disk," + bench.qemu_node(image, "raw", "io_uring")
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--chardev", f"socket,id=qmp,path={control},server=on,wait=off",
             "--monitor", "chardev=qmp", "--blockdev", node,
             "--nbd-server", f"addr.type=unix,addr.path={export},max-connections=0",
             "--export", "type=nbd,id=bench,name=,node-name=disk,writable=on"])
        bench.wait_for_socket(export, self.process)
        self.qmp = QMP(control)
        self.uri = f"nbd+unix:///?socket={export}"
        self.qmp.execute("block-dirty-bitmap-add", node="disk", name="changes", granularity=64 * KIB)

    def backup(self, length):
        target = os.path.join(self.folder, "peer.qcow2")
        start = time.monotonic()
        self.bench.run("qemu-img", "create", "-q", "-f", "qcow2", target, str(length))
        self.qmp.execute("blockdev-add", node_name="target", driver="qcow2",
                         file={"driver": "file", "filename": target, "aio": "io_uring"})
        self.qmp.execute("blockdev-backup", job_id="job", device="disk", target="target",
                         sync="bitmap", bitmap="changes", bitmap_mode="never", auto_dismiss=False)
        self.qmp.wait_for_job("job", "concluded")
        for job in self.qmp.execute("query-jobs"):
            if "error" in job:
                sys.exit(f"bench: QEMU's backup: {job['error']}")
        self.qmp.execute("job-dismiss", id="job")
        self.qmp.execute("blockdev-del", node_name="target")  # flushes it
        seconds = time.monotonic() - start
        os.unlink(target)
        return seconds

    def stop(self):
        self.qmp.close()
        self.process.terminate()
        self.process.wait()


def bench_incrementals(bench, folder, rounds, dirty_mib):
    rows = []
    for length, text in ((64 * GIB, "64 GiB"), (TIB, "1 TiB")):
        rows.append(bench_incremental(bench, folder, rounds, dirty_mib, length, text))
    small, large = rows
    rows.append({
        "row": f"incremental, {dirty_mib} MiB dirty: 1 TiB (at most 1.2)", "unit": "s",
        "peer": "64 GiB", "ours": large["ours"], "theirs": small["ours"],
        "ratio": large["ours"] / small["ours"], "better": "lower", "most": 1.2})
    return rows


def bench_incremental(bench, folder, rounds, dirty_mib, length, text):
    images = [os.path.join(folder, name) for name in ("ours.raw", "theirs.raw")]
    for image in images:
        with open(image, "wb") as file:
            file.truncate(length)
    repository = os.path.join(folder, "repository")
    agent, daemon = bench.Agent(folder), StorageDaemon(bench, folder, images[1])
    tidemark = [bench.TIDEMARK, "--state", agent.state]
    try:
        agent.tell("volume", "import", "disk", images[0], "--format", "raw")
        agent.tell("repo", "init", "bench", repository)
        agent.tell("backup", "disk", "--repo", "bench", "--level", "full")
        uri = agent.tell("volume", "uri", "disk").strip()
        write_spread(daemon.uri, length, dirty_mib, MIB)

        def prepare():
            write_spread(uri, length, dirty_mib, MIB)
            bench.settle(folder, dirty_mib)

        def backup():
            start = time.monotonic()
            bench.run(*tidemark, "-q", "backup", "disk", "--repo", "bench", "--level", "incremental")
            return time.monotonic() - start

        return bench.compare(
            f"incremental, {dirty_mib} MiB dirty of {text}", "QEMU's blockdev-backup", backup,
            lambda: daemon.backup(length), rounds, prepare)
    finally:
        daemon.stop()
        agent.stop()
        for image in images:
            os.unlink(image)
        shutil.rmtree(repository)
        shutil.rmtree(agent.state)


# How long an agent takes to start.

def start_agent(bench, state):
    """Starts an agent on a state directory; returns its process and after how long it answered."""
    start = time.monotonic()
    process = subprocess.Popen([bench.TIDEMARK, "--state", state, "agent"])
    QMP(os.path.join(state, "control.sock")).close()
    return process, time.monotonic() - start


def resident_mib(process):
    with open(f"/proc/{process.pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024


def row_of(name, unit, peer, ours, theirs):
    return {"row": name, "unit": unit, "peer": peer, "ours": ours, "theirs": theirs,
            "ratio": ours / theirs, "better": "lower"}


def bench_recovery(bench, folder, rounds):
    """The start after a kill -9 with 16 TiB, three bitmaps and as many regions as are kept at most."""
    regions = 4096
    agent = bench.Agent(folder)
    agent.tell("volume", "create", "disk", "--size", "16T")
    for name in ("first", "second", "third"):
        agent.tell("bitmap", "add", "disk", name)
    process, seconds = agent.process, []
    uri = agent.tell("volume", "uri", "disk").strip()
    for _ in range(rounds):
        write_spread(uri, 16 * TIB, regions, 4 * KIB)
        process.kill()
        process.wait()
        process, took = start_agent(bench, agent.state)
        seconds.append(took)
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    bitmaps = json.loads(agent.tell("--json", "volume", "show", "disk"))["bitmaps"]
    if any(bitmap["count"] < regions * GIB for bitmap in bitmaps):
        sys.exit(f"bench: what was written before the kill is not dirty: {bitmaps}")
    process.terminate()
    process.wait()
    shutil.rmtree(agent.state)
    return [row_of(f"start after kill -9, 16 TiB, 3 bitmaps, {regions} regions", "s", "1 second",
                   bench.statistics.median(seconds), 1)]


def bench_many(bench, folder, rounds, count=1000):
    """Start and memory of an agent with many volumes."""
    agent = bench.Agent(folder)
    empty = resident_mib(agent.process)
    qmp = QMP(os.path.join(agent.state, "control.sock"))
    for number in range(count):
        qmp.execute("volume-create", name=f"disk-{number}", size=TIB)
        for name in ("first", "second", "third"):
            qmp.execute("block-dirty-bitmap-add", node=f"disk-{number}", name=name)
    qmp.close()
    process, killed, clean, memory = agent.process, [], [], []
    for _ in range(rounds):
        process.kill()
        process.wait()
        process, took = start_agent(bench, agent.state)
        killed.append(took)
        memory.append(resident_mib(process))
        process.terminate()
        process.wait()
        process, took = start_agent(bench, agent.state)
        clean.append(took)
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    process.terminate()
    process.wait()
    shutil.rmtree(agent.state)
    median = bench.statistics.median
    name = f"{count} volumes of 1 TiB with 3 bitmaps"
    return [row_of(f"start after kill -9, {name}", "s", "a clean start", median(killed), median(clean)),
            row_of(f"memory, {name}", "MiB", "an agent without any", median(memory), empty)]


def rows(bench, folder, options, wanted):
    result = []
    if "bitmaps" in wanted:
        result += bench_writes(bench, folder, options.rounds, options.seconds)
    if "incremental" in wanted:
        result += bench_incrementals(bench, folder, options.rounds, 64 if options.quick else 640)
    if "recovery" in wanted:
        result += bench_recovery(bench, folder, options.rounds)
    if "many" in wanted:
        result += bench_many(bench, folder, options.rounds, 50 if options.quick else 1000)
    return result
