"""The rows of Scripts/bench on a repository that misbehaves: what a guest sees that goes on writing
while its backup is in trouble, beside QEMU's `blockdev-backup` to the same kind of directory.

The load is 4 KiB random writes, at half of the rate that the agent reaches without a backup. What is
compared is the 99th percentile of their latency from the start of the backup on, over the writes that
were *due*: those that could not even be sent, because earlier ones were stuck, count as slower than
all that were. Else a server that stops altogether would look well with its few slow writes. A load
whose write fails with anything but EIO ends there, and all that was due is missing.

    hangs     a directory behind FUSE (bindfs), whose server is stopped
    is slow   the same; it takes 1 MB a second
    fills up  a file system of 96 MiB
    vanishes  the first again; its server is killed, and another one comes after two seconds
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

MIB = 1 << 20
ROWS = ["slow-repository"]
DISK_MIB = 1024
RAMP_SECONDS = 1
# The least that a backup has stored when something happens to its repository.
STORED_MIB = 16


class Directory:
    """A directory behind a server of its own, which one can stop, slow down or kill."""

    name = ""
    options = []

    def __init__(self, bench, folder):
        self.bench = bench
        self.behind = os.path.join(folder, "behind")
        self.path = os.path.join(folder, "repository")
        self.server = None
        os.makedirs(self.behind)
        os.makedirs(self.path)
        self.start(*self.options)

    def start(self, *options):
        self.server = subprocess.Popen(
            ["bindfs", "-f", "--multithreaded", *options, self.behind, self.path])
        deadline = time.monotonic() + 20
        while not os.path.ismount(self.path):
            if self.server.poll() is not None or time.monotonic() > deadline:
                sys.exit("bench: bindfs does not start")
            time.sleep(0.01)

    def kill(self):
        self.server.kill()
        self.server.wait()
        subprocess.run(["umount", "-l", self.path], check=True)

    def stored_bytes(self):
        return sum(os.stat(os.path.join(folder, file)).st_blocks * 512
                   for folder, _, files in os.walk(self.behind) for file in files)

    def strike(self):
        """What happens in the middle of the backup."""

    def heal(self):
        """Lets whatever still waits for the directory go on."""

    def remove(self):
        self.kill()
        shutil.rmtree(self.behind)
        os.rmdir(self.path)


class Hanging(Directory):
    name = "hangs"

    def strike(self):
        self.server.send_signal(signal.SIGSTOP)

    def heal(self):
        self.server.send_signal(signal.SIGCONT)


class Slow(Directory):
    name = "is slow"
    options = ["--write-rate=1M"]

    def stored_bytes(self):
        return STORED_MIB * MIB  # It is slow from the start.

    def heal(self):
        # What is in flight to it would take minutes.
        self.kill()
        self.start()


class Full(Directory):
    name = "fills up"

    def start(self, *options):
        self.bench.run("mount", "-t", "tmpfs", "-o", "size=96m", "tidemark-bench", self.path)

    def stored_bytes(self):
        return STORED_MIB * MIB  # It fills up by itself.

    def remove(self):
        self.bench.run("umount", "-l", self.path)
        os.rmdir(self.path)
        os.rmdir(self.behind)


class Vanishing(Directory):
    name = "vanishes"

    def strike(self):
        self.kill()
        time.sleep(2)
        self.start()


class Ours:
    """An agent with a volume that has a bitmap, and its backups."""

    def __init__(self, bench, folder, image):
        self.agent = bench.Agent(folder)
        self.agent.tell("volume", "import", "disk", image, "--format", "raw")
        self.agent.tell("bitmap", "add", "disk", "changes")
        self.uri = self.agent.tell("volume", "uri", "disk").strip()
        self.tidemark = [bench.TIDEMARK, "--state", self.agent.state]
        self.count = 0
        self.command = None

    def prepare(self, directory):
        self.count += 1
        self.agent.tell("repo", "init", f"vault-{self.count}", directory.path)

    def begin(self):
        self.command = subprocess.Popen(
            [*self.tidemark, "-q", "backup", "disk", "--repo", f"vault-{self.count}",
             "--level", "full", "--no-space-check"], stderr=subprocess.DEVNULL)

    def end(self):
        if self.command.poll() is None:
            self.command.send_signal(signal.SIGINT)  # which cancels the backup
            self.command.wait()

    def stop(self):
        self.agent.stop()
        shutil.rmtree(self.agent.state)


class Theirs:
    """QEMU's storage daemon with an image, and its backups. Each has a daemon of its own, for one
    whose backup went wrong is not always fit for another."""

    def __init__(self, bench, folder, image):
        self.bench = bench
        self.folder = folder
        self.image = image
        self.process = None
        self.start()

    def start(self):
        import bench_bitmaps
        control, export = (os.path.join(self.folder, name) for name in ("qmp.sock", "export.sock"))
        node = "node-name=disk," + self.bench.qemu_node(self.image, "raw", "io_uring")
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--chardev", f"socket,id=qmp,path={control},server=on,wait=off",
             "--monitor", "chardev=qmp", "--blockdev", node,
             "--nbd-server", f"addr.type=unix,addr.path={export},max-connections=0",
             "--export", "type=nbd,id=bench,name=,node-name=disk,writable=on"])
        self.bench.wait_for_socket(export, self.process)
        self.qmp = bench_bitmaps.QMP(control)
        self.uri = f"nbd+unix:///?socket={export}"

    def prepare(self, directory):
        target = os.path.join(directory.path, "peer.qcow2")
        self.bench.run("qemu-img", "create", "-q", "-f", "qcow2", target, f"{DISK_MIB}M")
        self.qmp.execute("blockdev-add", node_name="target", driver="qcow2",
                         file={"driver": "file", "filename": target, "aio": "threads"})

    def begin(self):
        self.qmp.execute("blockdev-backup", job_id="job", device="disk", target="target",
                         sync="full")

    def end(self):
        self.stop()
        self.start()

    def stop(self):
        self.qmp.close()
        self.process.kill()
        self.process.wait()
        for name in ("qmp.sock", "export.sock"):
            if os.path.exists(path := os.path.join(self.folder, name)):
                os.unlink(path)


class Load:
    """fio at a rate, writing unless `rw` says otherwise."""

    def __init__(self, uri, depth, seconds, rate=None, rw="randwrite"):
        self.seconds, self.side = seconds, rw.removeprefix("rand")
        self.due = rate * seconds if rate else 0
        self.process = subprocess.Popen(
            ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", "--bs=4k",
             f"--iodepth={depth}", f"--size={DISK_MIB}m", "--norandommap", "--time_based",
             f"--ramp_time={RAMP_SECONDS}", f"--runtime={seconds}", "--randrepeat=0",
             "--continue_on_error=write", "--output-format=json+"]
            + ([f"--rate_iops={rate}"] if rate else []),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def is_running(self, seconds):
        try:
            self.process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            return True

    def result(self):
        output, _ = self.process.communicate()
        job = json.loads(output[output.index("{"):])["jobs"][0]
        bins = {int(ns): count for ns, count in job[self.side]["clat_ns"].get("bins", {}).items()}
        done = sum(bins.values())
        left = 0.99 * max(done, self.due)
        p99 = max(bins, default=self.seconds * 10**9)
        for latency in sorted(bins):
            left -= bins[latency]
            if left <= 0:
                p99 = latency
                break
        return {"iops": job[self.side]["iops"], "p99_us": p99 / 1000,
                "errors": job.get("total_err", 0) + (job["error"] != 0),
                "percent": 100 * min(done / self.due, 1) if self.due else 100}


def measure(bench, folder, side, fault, depth, rate, seconds):
    """One run of the load, with a backup to a directory that something happens to."""
    os.sync()
    place = os.path.join(folder, "target")
    directory = fault(bench, place)
    side.prepare(directory)
    load = Load(side.uri, depth, seconds, rate)
    end = time.monotonic() + RAMP_SECONDS + seconds
    time.sleep(RAMP_SECONDS)
    side.begin()
    while directory.stored_bytes() < STORED_MIB * MIB and time.monotonic() < end:
        time.sleep(0.001)
    directory.strike()
    is_stuck = load.is_running(max(end - time.monotonic(), 0) + 1)
    directory.heal()
    result = load.result()
    if is_stuck:
        result["errors"] = 0  # Those are of what came after.
    side.end()
    directory.remove()
    os.rmdir(place)
    return result


def measure_without(side, depth, rate, seconds):
    os.sync()
    return Load(side.uri, depth, seconds, rate).result()


def bench_slow_repository(bench, folder, rounds, seconds):
    sides, images = {}, []
    samples = {}
    faults = [Hanging, Slow, Full, Vanishing]
    try:
        for name, kind in (("ours", Ours), ("theirs", Theirs)):
            image = os.path.join(folder, f"{name}.raw")
            bench.make_image(image, DISK_MIB * MIB, DISK_MIB * MIB)
            images.append(image)
            sides[name] = kind(bench, folder, image)
        for number in range(rounds):
            order = list(sides.items())
            if number % 2:
                order.reverse()
            for depth in (1, 32):
                for image in images:
                    bench.warm(image)
                for side in sides.values():  # uncounted: the first touch of everything
                    measure_without(side, depth, None, 1)
                rate = int(measure_without(sides["ours"], depth, None, 3)["iops"] / 2)
                for name, side in order:
                    plain = measure_without(side, depth, rate, seconds)
                    samples.setdefault((depth, "no backup", name), []).append(plain)
                for fault in faults:
                    for name, side in order:
                        sample = measure(bench, folder, side, fault, depth, rate, seconds)
                        samples.setdefault((depth, fault.name, name), []).append(sample)
                    print(".", end="", flush=True, file=sys.stderr)
                samples.setdefault((depth, "rate", "ours"), []).append({"iops": rate})
    finally:
        for side in sides.values():
            side.stop()
        for image in images:
            os.unlink(image)
    print(file=sys.stderr)
    return slow_rows(bench, samples, faults)


def slow_rows(bench, samples, faults):
    def median(depth, what, name, field):
        return bench.statistics.median(s[field] for s in samples[depth, what, name])

    rows = []

    def add(row, unit, peer, ours, theirs, better="lower", most=1.0):
        rows.append({"row": row, "unit": unit, "peer": peer, "ours": ours, "theirs": theirs,
                     "ratio": ours / theirs if theirs else float(ours > 0) + 1, "better": better,
                     "most": most})

    qemu = "QEMU's blockdev-backup"
    for depth in dict.fromkeys(depth for depth, _, _ in samples):
        rate = median(depth, "rate", "ours", "iops")
        load = f"4K write, depth {depth}, {rate / 1000:.0f}k/s"
        plain, p99 = median(depth, "no backup", "ours", "p99_us"), "99th percentile µs"
        add(f"{load}: no backup", p99, "qemu-storage-daemon", plain,
            median(depth, "no backup", "theirs", "p99_us"))
        for fault in (fault.name for fault in faults):
            ours, theirs = ({field: median(depth, fault, name, field)
                             for field in ("p99_us", "percent", "errors")}
                            for name in ("ours", "theirs"))
            row = f"{load}: {fault}"
            add(row, p99, "no backup", ours["p99_us"], plain, most=max(2, 1 + 1000 / plain))
            add(row, p99, qemu, ours["p99_us"], theirs["p99_us"])
            add(row, "% of those due", qemu, ours["percent"], theirs["percent"], "higher")
            if ours["errors"] or theirs["errors"]:
                add(row, "failed writes", qemu, ours["errors"], theirs["errors"])
    return rows


def rows(bench, folder, options, wanted):
    if "slow-repository" not in wanted:
        return []
    return bench_slow_repository(
        bench, folder, min(options.rounds, 3), max(2 * options.seconds, 4))
