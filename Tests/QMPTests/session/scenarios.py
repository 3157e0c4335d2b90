"""What is asked of both peers: everything about bitmaps, jobs and backups that both have."""

import asyncio

SLOW = 64 << 10
JOB_VERBS = ["pause", "resume", "cancel", "complete", "finalize", "dismiss"]


def job_commands(job):
    """Every command that concerns one job."""
    commands = [(f"job-{verb}", {"id": job}) for verb in JOB_VERBS]
    for verb in JOB_VERBS:
        name = "id" if verb in ("finalize", "dismiss") else "device"
        commands.append((f"block-job-{verb}", {name: job}))
    commands.append(("block-job-set-speed", {"device": job, "speed": 1 << 20}))
    return commands


async def refused_verbs(s, label, job, verbs):
    """Asks for what the job's state does not allow."""
    for command, arguments in job_commands(job):
        if any(command.endswith(f"job-{verb}") for verb in verbs):
            await s.do(f"{label}.{command}", command, arguments)


# Bitmaps


async def bitmap_life(s):
    node = {"node": "disk", "name": "b"}
    await s.do("add", "block-dirty-bitmap-add", node)
    await s.do("add-twice", "block-dirty-bitmap-add", node)
    for verb in ["disable", "disable", "enable", "enable", "clear"]:
        await s.do(f"{verb}{len(s.notes)}", f"block-dirty-bitmap-{verb}", node)
    await s.do("add-disabled", "block-dirty-bitmap-add", node | {"name": "c", "disabled": True})
    await s.do("merge", "block-dirty-bitmap-merge",
               {"node": "disk", "target": "c", "bitmaps": ["b"]})
    await s.do("merge-by-node", "block-dirty-bitmap-merge",
               {"node": "disk", "target": "c", "bitmaps": [{"node": "disk", "name": "b"}]})
    await s.do("merge-with-itself", "block-dirty-bitmap-merge",
               {"node": "disk", "target": "c", "bitmaps": ["c"]})
    # An empty list of bitmaps is not asked for: QEMU 7.2 does not survive it.
    await s.do("remove", "block-dirty-bitmap-remove", node)
    await s.do("remove-twice", "block-dirty-bitmap-remove", node)
    await s.do("remove-other", "block-dirty-bitmap-remove", node | {"name": "c"})


async def bitmap_mistakes(s):
    for verb in ["remove", "clear", "enable", "disable"]:
        command = f"block-dirty-bitmap-{verb}"
        await s.do(f"{verb}-no-bitmap", command, {"node": "disk", "name": "none"})
        await s.do(f"{verb}-no-node", command, {"node": "none", "name": "none"})
        await s.do(f"{verb}-no-name", command, {"node": "disk"})
        await s.do(f"{verb}-number", command, {"node": "disk", "name": 5})
        await s.do(f"{verb}-more", command, {"node": "disk", "name": "x", "more": 1})
    add = "block-dirty-bitmap-add"
    await s.do("add-no-node", add, {"node": "none", "name": "x"})
    await s.do("add-no-name", add, {"node": "disk"})
    await s.do("add-empty-name", add, {"node": "disk", "name": ""})
    await s.do("add-long-name", add, {"node": "disk", "name": "x" * 1024})
    for granularity in [0, 1, 256, 768, 3 << 20, -512, "many"]:
        await s.do(f"add-granularity-{granularity}", add,
                   {"node": "disk", "name": "x", "granularity": granularity})
    await s.do("add-persistence", add, {"node": "disk", "name": "x", "persistent": "yes"})
    merge = "block-dirty-bitmap-merge"
    await s.do("add", add, {"node": "disk", "name": "x"})
    for label, arguments in [
        ("no-node", {"node": "none", "target": "x", "bitmaps": ["x"]}),
        ("no-target", {"node": "disk", "target": "none", "bitmaps": ["x"]}),
        ("no-source", {"node": "disk", "target": "x", "bitmaps": ["none"]}),
        ("no-source-node", {"node": "disk", "target": "x",
                            "bitmaps": [{"node": "none", "name": "x"}]}),
        ("half-a-source", {"node": "disk", "target": "x", "bitmaps": [{"node": "disk"}]}),
        ("no-list", {"node": "disk", "target": "x", "bitmaps": "x"}),
        ("absent-list", {"node": "disk", "target": "x"}),
    ]:
        await s.do(f"merge-{label}", merge, arguments)
    await s.do("remove", "block-dirty-bitmap-remove", {"node": "disk", "name": "x"})


async def bitmap_states(s):
    await s.bitmaps("none")
    for label, options in [("plain", {}), ("fine", {"granularity": 512}),
                           ("coarse", {"granularity": 1 << 20}), ("off", {"disabled": True})]:
        await s.do(f"add-{label}", "block-dirty-bitmap-add",
                   {"node": "disk", "name": label} | options)
    await s.bitmaps("added")
    await s.do("off", "block-dirty-bitmap-disable", {"node": "disk", "name": "plain"})
    await s.do("on", "block-dirty-bitmap-enable", {"node": "disk", "name": "off"})
    await s.bitmaps("switched")
    for label in ["plain", "fine", "coarse", "off"]:
        await s.do(f"remove-{label}", "block-dirty-bitmap-remove",
                   {"node": "disk", "name": label})
    await s.bitmaps("removed")


async def bitmap_of_a_backup(s):
    node = {"node": "disk", "name": "b"}
    await s.do("add", "block-dirty-bitmap-add", node)
    await s.do("add-other", "block-dirty-bitmap-add", {"node": "disk", "name": "c"})
    await s.start_backup("start", {
        "job-id": "job", "auto-dismiss": False, "auto-finalize": False, "bitmap": "b"})
    await s.until("job", "pending")
    await s.bitmaps("held")
    for verb in ["remove", "clear", "enable", "disable", "add"]:
        await s.do(f"{verb}-held", f"block-dirty-bitmap-{verb}", node)
    await s.do("merge-into-held", "block-dirty-bitmap-merge",
               {"node": "disk", "target": "b", "bitmaps": ["c"]})
    await s.do("cancel", "job-cancel", {"id": "job"})
    await s.until("job", "concluded")
    await s.bitmaps("released")
    await s.do("dismiss", "job-dismiss", {"id": "job"})
    await s.do("remove", "block-dirty-bitmap-remove", node)
    await s.do("remove-other", "block-dirty-bitmap-remove", {"node": "disk", "name": "c"})
    await s.events("events")


# Jobs


async def no_jobs(s):
    await s.jobs("none")
    for command, arguments in job_commands("none"):
        await s.do(f"{command}-unknown", command, arguments)
        await s.do(f"{command}-absent", command)
        await s.do(f"{command}-number", command, arguments | {list(arguments)[0]: 5})
        await s.do(f"{command}-more", command, arguments | {"more": True})


async def backup_to_the_end(s):
    await s.start_backup("start", {"job-id": "job"})
    await s.until("job", None)
    await s.jobs("gone")
    await s.events("events")


async def backup_kept(s):
    await s.start_backup("start", {"job-id": "job", "auto-dismiss": False})
    await s.until("job", "concluded")
    await s.jobs("concluded")
    await s.start_backup("again", {"job-id": "job"})
    await refused_verbs(
        s, "refused", "job", ["pause", "resume", "cancel", "complete", "finalize", "set-speed"])
    await s.do("dismiss", "job-dismiss", {"id": "job"})
    await s.jobs("gone")
    await s.events("events")


async def backup_finalized(s):
    for command in ["job-finalize", "block-job-finalize"]:
        await s.start_backup(f"{command}.start", {
            "job-id": command, "auto-dismiss": False, "auto-finalize": False})
        await s.until(command, "pending")
        await s.jobs(f"{command}.pending")
        await refused_verbs(
            s, f"{command}.refused", command,
            ["pause", "resume", "complete", "dismiss", "set-speed"])
        await s.do(f"{command}.finalize", command, {"id": command})
        await s.until(command, "concluded")
        await s.jobs(f"{command}.concluded")
        await s.do(f"{command}.twice", command, {"id": command})
        await s.do(f"{command}.dismiss", "block-job-dismiss", {"id": command})
    await s.events("events")


async def backup_given_up_when_pending(s):
    for command, name in [("job-cancel", "id"), ("block-job-cancel", "device")]:
        await s.start_backup(f"{command}.start", {
            "job-id": command, "auto-dismiss": False, "auto-finalize": False})
        await s.until(command, "pending")
        await s.do(f"{command}.cancel", command, {name: command})
        await s.until(command, "concluded")
        await s.jobs(f"{command}.concluded")
        await s.do(f"{command}.dismiss", "job-dismiss", {"id": command})
    await s.events("events")


async def backup_paused(s):
    for family, name in [("job", "id"), ("block-job", "device")]:
        job = family
        arguments = {name: job}
        await s.start_backup(f"{family}.start", {
            "job-id": job, "auto-dismiss": False, "speed": SLOW})
        await s.until(job, "running")
        await s.jobs(f"{family}.running")
        await refused_verbs(s, f"{family}.refused", job, ["complete", "finalize", "dismiss"])
        await s.do(f"{family}.resume-unpaused", f"{family}-resume", arguments)
        await s.do(f"{family}.pause", f"{family}-pause", arguments)
        await s.until(job, "paused")
        await s.jobs(f"{family}.paused")
        before = await s.offset(job)
        await asyncio.sleep(0.3)
        s.note(f"{family}.stands-still", before == await s.offset(job))
        await s.do(f"{family}.pause-twice", f"{family}-pause", arguments)
        await refused_verbs(
            s, f"{family}.refused-paused", job, ["complete", "finalize", "dismiss"])
        await s.do(f"{family}.cancel-paused", "block-job-cancel", {"device": job})
        await s.do(f"{family}.speed-paused", "block-job-set-speed", {"device": job, "speed": 0})
        await s.do(f"{family}.resume", f"{family}-resume", arguments)
        await s.until(job, "concluded")
        await s.jobs(f"{family}.concluded")
        await s.do(f"{family}.dismiss", "job-dismiss", {"id": job})
    await s.events("events")


async def backup_given_up(s):
    cases = [
        ("job-cancel", {"id": "job-cancel"}),
        ("block-job-cancel", {"device": "block-job-cancel"}),
        ("block-job-cancel-forced", {"device": "block-job-cancel-forced", "force": True}),
    ]
    for job, arguments in cases:
        command = job.removesuffix("-forced")
        await s.start_backup(f"{job}.start", {
            "job-id": job, "auto-dismiss": False, "speed": SLOW})
        await s.until(job, "running")
        await s.do(f"{job}.cancel", command, arguments)
        await s.until(job, "concluded")
        await s.jobs(f"{job}.concluded")
        await s.do(f"{job}.dismiss", "job-dismiss", {"id": job})
    await s.events("events")


async def backup_paused_and_given_up(s):
    await s.start_backup("start", {"job-id": "job", "speed": SLOW})
    await s.until("job", "running")
    await s.do("pause", "job-pause", {"id": "job"})
    await s.until("job", "paused")
    await s.do("cancel", "block-job-cancel", {"device": "job", "force": True})
    await s.until("job", None)
    await s.events("events")


async def backup_speed(s):
    await s.start_backup("start", {"job-id": "job", "auto-dismiss": False, "speed": SLOW})
    await s.until("job", "running")
    for speed in [-1, 1 << 20, 0, "fast", 1.5]:
        if speed == 0:
            continue
        await s.do(f"set-{speed}", "block-job-set-speed", {"device": "job", "speed": speed})
        await s.jobs(f"at-{speed}")
    await s.do("set-0", "block-job-set-speed", {"device": "job", "speed": 0})
    await s.until("job", "concluded")
    await s.do("dismiss", "job-dismiss", {"id": "job"})
    await s.events("events")


async def backup_mistakes(s):
    for job in ["", "1st", "a b", "a/b", "ä", "_a"]:
        await s.start_backup(f"id-'{job}'", {"job-id": job})
    await s.start_backup("id-number", {"job-id": 5})
    await s.start_backup("speed-negative", {"job-id": "job", "speed": -1})
    await s.start_backup("policy", {"job-id": "job", "on-source-error": "sometimes"})
    await s.start_backup("finalize", {"job-id": "job", "auto-finalize": "no"})
    await s.start_backup("more", {"job-id": "job", "more": 1})
    await s.jobs("none")
    await s.events("events")


async def several_jobs(s):
    for job in ["a", "b"]:
        # Only one backup at a time has the disk.
        await s.start_backup(f"{job}.start", {"job-id": job, "auto-dismiss": False})
        await s.until(job, "concluded")
    await s.jobs("both")
    await s.do("dismiss", "job-dismiss", {"id": "a"})
    await s.jobs("one")
    await s.do("dismiss-other", "job-dismiss", {"id": "b"})
    await s.events("events")


# Transactions


def add(name, **options):
    return {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": name} | options}


def on(verb, name):
    return {"type": f"block-dirty-bitmap-{verb}", "data": {"node": "disk", "name": name}}


def merge(target, *sources):
    return {"type": "block-dirty-bitmap-merge",
            "data": {"node": "disk", "target": target, "bitmaps": list(sources)}}


ABORT = {"type": "abort", "data": {}}


async def transaction_of_bitmaps(s):
    async def run(label, *actions, **more):
        await s.do(label, "transaction", {"actions": list(actions)} | more)

    await run("nothing")
    await run("abort", ABORT)
    await run("abort-after-add", add("x"), ABORT)
    await run("abort-after-mistake", on("clear", "none"), ABORT)
    await run("abort-before-mistake", ABORT, on("clear", "none"))
    await run("add-twice", add("x"), add("x"))
    await run("add-and-merge", add("x"), add("y", disabled=True), merge("y", "x"))
    await run("swap", on("disable", "x"), on("enable", "y"), on("clear", "x"))
    await run("last-fails", on("clear", "y"), on("remove", "x"), on("clear", "none"))
    # Nothing of that has happened.
    await run("still-there", on("clear", "x"))
    await run("grouped", on("clear", "x"), properties={"completion-mode": "grouped"})
    await run("individual", on("clear", "x"), properties={"completion-mode": "individual"})
    await run("remove", on("remove", "x"), on("remove", "y"))
    await run("gone", on("remove", "x"))


async def transaction_mistakes(s):
    for label, actions in [
        ("no-list", "x"), ("no-action", [5]), ("no-type", [{"data": {}}]),
        ("no-data", [{"type": "abort"}]), ("no-name", [on("clear", "x") | {"data": {}}]),
        ("more", [{"type": "abort", "data": {"more": 1}}]),
        ("more-beside", [ABORT | {"more": 1}]), ("kind", [{"type": "none", "data": {}}]),
        ("no-node", [{"type": "block-dirty-bitmap-clear",
                      "data": {"node": "none", "name": "x"}}]),
    ]:
        await s.do(label, "transaction", {"actions": actions})
    await s.do("mode", "transaction",
               {"actions": [], "properties": {"completion-mode": "some"}})
    await s.do("properties", "transaction", {"actions": [], "properties": {"more": 1}})
    await s.do("absent", "transaction")


async def transaction_with_backup(s):
    await s.start_transaction("start", [add("b")], {"job-id": "job", "auto-dismiss": False})
    await s.until("job", "concluded")
    await s.do("remove", "block-dirty-bitmap-remove", {"node": "disk", "name": "b"})
    await s.do("dismiss", "job-dismiss", {"id": "job"})
    await s.start_transaction("fails", [add("b"), ABORT], {"job-id": "job"})
    await s.do("not-added", "block-dirty-bitmap-remove", {"node": "disk", "name": "b"})
    await s.jobs("none")
    await s.start_transaction("grouped", [], {"job-id": "job", "auto-dismiss": False},
                              {"completion-mode": "grouped"})
    await s.until("job", "concluded")
    await s.jobs("grouped-end")
    await s.do("dismiss-grouped", "job-dismiss", {"id": "job"})
    await s.events("events")


# The protocol


async def protocol(s):
    await s.do("unknown-command", "no-such-command")
    await s.do("negotiation-twice", "qmp_capabilities")
    await s.do("arguments-for-none", "query-jobs", {"more": 1})
    commands = {command["name"] for command in await s.peer.execute("query-commands")}
    wanted = [name for name, _ in job_commands("x")] + [
        "query-jobs", "query-block-jobs", "block-dirty-bitmap-add", "block-dirty-bitmap-remove",
        "block-dirty-bitmap-clear", "block-dirty-bitmap-enable", "block-dirty-bitmap-disable",
        "block-dirty-bitmap-merge", "transaction", "blockdev-add", "blockdev-del",
        "blockdev-snapshot", "blockdev-snapshot-sync", "query-named-block-nodes", "query-block",
        "block_resize", "object-add", "object-del", "block-export-add", "block-export-del",
        "query-block-exports", "nbd-server-start", "nbd-server-stop", "nbd-server-add",
        "nbd-server-remove", "blockdev-backup", "drive-backup", "blockdev-mirror",
    ]
    s.note("commands", {name: name in commands for name in wanted})


# The block graph


def qcow2(node, path, **more):
    return {"driver": "qcow2", "node-name": node, "file": {"driver": "file", "filename": path}} | more


def raw(node, path, **more):
    return {"driver": "raw", "node-name": node, "file": {"driver": "file", "filename": path}} | more


async def nodes_life(s):
    path = s.peer.make_file("node.raw")
    await s.do("add", "blockdev-add", raw("n", path))
    await s.nodes("added")
    await s.do("add-twice", "blockdev-add", raw("n", path))
    await s.do("add-other-name-taken", "blockdev-add", raw("disk", path))
    await s.do("remove", "blockdev-del", {"node-name": "n"})
    await s.do("remove-twice", "blockdev-del", {"node-name": "n"})
    await s.do("file", "blockdev-add", {"driver": "file", "node-name": "f", "filename": path})
    await s.do("over-file", "blockdev-add", {"driver": "raw", "node-name": "n", "file": "f"})
    await s.do("filter", "blockdev-add", {
        "driver": "blkdebug", "node-name": "b", "image": "n",
        "inject-error": [{"event": "write_aio", "errno": 28, "once": True}]})
    await s.nodes("stacked")
    await s.do("remove-file-in-use", "blockdev-del", {"node-name": "f"})
    await s.do("remove-child-in-use", "blockdev-del", {"node-name": "n"})
    await s.do("remove-filter", "blockdev-del", {"node-name": "b"})
    await s.do("remove-format", "blockdev-del", {"node-name": "n"})
    await s.do("remove-file", "blockdev-del", {"node-name": "f"})
    await s.nodes("gone")


async def nodes_of_images(s):
    base, over = s.peer.make_image("base.qcow2"), s.peer.make_image("over.qcow2", "base.qcow2")
    await s.do("base", "blockdev-add", qcow2("base", base, **{"read-only": True}))
    await s.do("over", "blockdev-add", qcow2("over", over, backing="base"))
    await s.nodes("chain")
    await s.do("remove-base", "blockdev-del", {"node-name": "base"})
    await s.do("remove-over", "blockdev-del", {"node-name": "over"})
    await s.do("remove-base-then", "blockdev-del", {"node-name": "base"})
    await s.do("alone", "blockdev-add", qcow2("over", over, backing=None))
    await s.nodes("alone")
    await s.do("remove-alone", "blockdev-del", {"node-name": "over"})
    await s.do("header", "blockdev-add", qcow2("over", over))
    await s.nodes("of-header", only=["over"])
    await s.do("resize", "block_resize", {"node-name": "over", "size": 16 << 20})
    await s.do("resize-none", "block_resize", {"node-name": "none", "size": 16 << 20})
    await s.do("resize-nothing", "block_resize", {"size": 16 << 20})
    await s.do("resize-both", "block_resize",
               {"device": "x", "node-name": "over", "size": 32 << 20})
    await s.do("resize-negative", "block_resize", {"node-name": "over", "size": -512})
    await s.do("remove-header", "blockdev-del", {"node-name": "over"})


async def nodes_mistakes(s):
    path = s.peer.make_file("mistake.raw")
    add = "blockdev-add"
    await s.do("nothing", add)
    await s.do("no-driver", add, {"node-name": "x"})
    await s.do("driver", add, {"driver": "no-such-driver", "node-name": "x"})
    await s.do("no-name", add, {"driver": "file", "filename": path})
    await s.do("no-file", add, {"driver": "raw", "node-name": "x"})
    await s.do("no-filename", add, {"driver": "file", "node-name": "x"})
    await s.do("no-filename-below", add,
               {"driver": "raw", "node-name": "x", "file": {"driver": "file"}})
    await s.do("more", add, raw("x", path, more=1))
    await s.do("more-below", add, {
        "driver": "raw", "node-name": "x",
        "file": {"driver": "file", "filename": path, "more": 1}})
    await s.do("number", add, {"driver": "file", "node-name": "x", "filename": 5})
    await s.do("read-only", add, raw("x", path, **{"read-only": "yes"}))
    await s.do("absent-file", add, {
        "driver": "file", "node-name": "x", "filename": s.peer.path("none"), "read-only": True})
    await s.do("absent-node", add, {"driver": "raw", "node-name": "x", "file": "none"})
    await s.do("detect", add, raw("x", path, **{"detect-zeroes": "unmap"}))
    for name in ["", "1x", "a b", "a/b", "x" * 32]:
        await s.do(f"name-'{name[:4]}'", add, raw(name, path))
    await s.do("event", add, {
        "driver": "blkdebug", "node-name": "x", "image": raw("y", path),
        "inject-error": [{"event": "no-such-event"}]})
    await s.do("remove-no-name", "blockdev-del")
    await s.do("remove-none", "blockdev-del", {"node-name": "none"})
    await s.do("queries-take-no-more", "query-named-block-nodes", {"more": 1})
    await s.nodes("none")


async def throttle_groups(s):
    path = s.peer.make_file("throttled.raw")
    group = {"qom-type": "throttle-group", "id": "g"}
    await s.do("add", "object-add", group | {"limits": {"bps-total": 1 << 20}})
    await s.do("add-twice", "object-add", group | {"limits": {"bps-total": 1 << 20}})
    await s.do("no-group", "blockdev-add", {
        "driver": "throttle", "node-name": "t", "throttle-group": "none",
        "file": raw("n", path)})
    await s.do("node", "blockdev-add", {
        "driver": "throttle", "node-name": "t", "throttle-group": "g",
        "file": raw("n", path)})
    await s.nodes("added")
    await s.do("remove-used", "object-del", {"id": "g"})
    await s.do("remove-owned", "blockdev-del", {"node-name": "n"})
    await s.do("remove-node", "blockdev-del", {"node-name": "t"})
    await s.do("remove", "object-del", {"id": "g"})
    await s.do("remove-twice", "object-del", {"id": "g"})
    for label, limits in [
        ("both", {"bps-total": 1, "bps-read": 1}), ("burst", {"iops-total-max": 5}),
        ("low-burst", {"iops-total": 5, "iops-total-max": 4}),
        ("length", {"iops-total": 5, "iops-total-max-length": 2}),
        ("size", {"iops-size": 512}), ("more", {"more": 1}),
    ]:
        await s.do(f"limits-{label}", "object-add", group | {"limits": limits})
    await s.do("type", "object-add", {"qom-type": "no-such-type", "id": "g"})


async def exports_of_nodes(s):
    path = s.peer.make_file("exported.raw")
    add = "block-export-add"
    export = {"type": "nbd", "id": "e", "node-name": "n", "name": "n"}
    address = {"addr": {"type": "unix", "data": {"path": s.peer.path("second.sock")}}}
    await s.do("stop-early", "nbd-server-stop")
    await s.do("start", "nbd-server-start", address)
    await s.do("start-twice", "nbd-server-start", address)
    await s.do("node", "blockdev-add", raw("n", path, **{"read-only": True}))
    await s.do("no-node", add, export | {"node-name": "none"})
    await s.do("writable", add, export | {"writable": True})
    await s.do("add", add, export)
    await s.do("add-twice", add, export)
    await s.exports("added")
    await s.do("remove-node", "blockdev-del", {"node-name": "n"})
    await s.do("no-bitmap", add, export | {"id": "f", "name": "f", "bitmaps": ["none"]})
    await s.do("remove-none", "block-export-del", {"id": "none"})
    await s.do("mode", "block-export-del", {"id": "e", "mode": "soft"})
    await s.do("remove", "block-export-del", {"id": "e"})
    await s.until_event("BLOCK_EXPORT_DELETED")
    await s.exports("gone")
    await s.do("remove-node-then", "blockdev-del", {"node-name": "n"})
    await s.do("stop", "nbd-server-stop")
    await s.do("stop-twice", "nbd-server-stop")


# Backups to nodes


async def target_backup(s, node="target"):
    await s.do("target", "blockdev-add", raw(node, s.peer.make_file(f"{node}.raw", content=False)))


async def target_backup_to_the_end(s):
    await target_backup(s)
    backup = {"job-id": "job", "device": "disk", "target": "target", "sync": "full"}
    await s.attempt("start", s.peer.execute("blockdev-backup", backup), keeps_answer=False)
    await s.until("job", None)
    await s.events("events")
    s.note("equal", s.peer.content("target.raw") == s.peer.content("disk.raw"))
    await s.do("remove", "blockdev-del", {"node-name": "target"})


async def target_backup_with_bitmaps(s):
    await target_backup(s)
    for sync, mode in [("incremental", None), ("incremental", "on-success"),
                       ("bitmap", "on-success"), ("bitmap", "always"), ("bitmap", "never"),
                       ("full", "on-success"), ("full", "always"), ("top", "always")]:
        label = f"{sync}-{mode}"
        await s.do(f"{label}.add", "block-dirty-bitmap-add", {"node": "disk", "name": "b"})
        backup = {"job-id": "job", "device": "disk", "target": "target", "sync": sync,
                  "bitmap": "b", "auto-finalize": False, "auto-dismiss": False}
        if mode:
            backup["bitmap-mode"] = mode
        await s.attempt(f"{label}.start", s.peer.execute("blockdev-backup", backup),
                        keeps_answer=False)
        await s.until("job", "pending")
        await s.bitmaps(f"{label}.held")
        await s.do(f"{label}.clear-held", "block-dirty-bitmap-clear", {"node": "disk", "name": "b"})
        await s.do(f"{label}.target-held", "blockdev-del", {"node-name": "target"})
        await s.do(f"{label}.finalize", "job-finalize", {"id": "job"})
        await s.until("job", "concluded")
        await s.bitmaps(f"{label}.released")
        await s.do(f"{label}.dismiss", "job-dismiss", {"id": "job"})
        await s.do(f"{label}.remove", "block-dirty-bitmap-remove", {"node": "disk", "name": "b"})
        await s.events(f"{label}.events")
    await s.do("remove", "blockdev-del", {"node-name": "target"})


async def target_backup_of_what_is_overwritten(s):
    await target_backup(s)
    backup = {"job-id": "job", "device": "disk", "target": "target", "sync": "none"}
    await s.attempt("start", s.peer.execute("blockdev-backup", backup), keeps_answer=False)
    await s.until("job", "running")
    await s.jobs("running")
    await s.do("complete", "block-job-complete", {"device": "job"})
    await s.do("cancel", "block-job-cancel", {"device": "job"})
    await s.until("job", None)
    await s.events("events")
    await s.do("remove", "blockdev-del", {"node-name": "target"})


async def target_backup_in_a_transaction(s):
    await target_backup(s)
    backup = {"type": "blockdev-backup",
              "data": {"job-id": "job", "device": "disk", "target": "target", "sync": "full",
                       "auto-dismiss": False}}
    for mode in ["individual", "grouped"]:
        add_bitmap = [add("b")] if mode == "individual" else []
        await s.attempt(f"{mode}.start", s.peer.execute("transaction", {
            "actions": add_bitmap + [backup], "properties": {"completion-mode": mode}}),
                        keeps_answer=False)
        await s.until("job", "concluded")
        await s.jobs(f"{mode}.end")
        await s.do(f"{mode}.dismiss", "job-dismiss", {"id": "job"})
        await s.events(f"{mode}.events")
        s.note(f"{mode}.equal", s.peer.content("target.raw") == s.peer.content("disk.raw"))
    await s.do("bitmap", "block-dirty-bitmap-remove", {"node": "disk", "name": "b"})
    await s.do("aborted", "transaction", {"actions": [backup, ABORT]})
    await s.jobs("none")
    twice = backup | {"data": backup["data"] | {"job-id": "other"}}
    await s.attempt("busy-target", s.peer.execute("transaction", {"actions": [backup, twice]}),
                    keeps_answer=False)
    await s.jobs("none-either")
    await s.do("remove", "blockdev-del", {"node-name": "target"})


async def target_backup_mistakes(s):
    await target_backup(s)
    await s.do("bitmap", "block-dirty-bitmap-add", {"node": "disk", "name": "b"})
    backup = {"job-id": "job", "device": "disk", "target": "target", "sync": "full"}
    for label, more in [
        ("no-device", {"device": "none"}), ("no-target", {"target": "none"}),
        ("itself", {"target": "disk"}), ("sync", {"sync": "some"}),
        ("speed", {"speed": -1}), ("more", {"more": 1}),
        ("incremental-without", {"sync": "incremental"}),
        ("bitmap-without", {"sync": "bitmap"}),
        ("bitmap-without-mode", {"sync": "bitmap", "bitmap": "b"}),
        ("incremental-never", {"sync": "incremental", "bitmap": "b", "bitmap-mode": "never"}),
        ("incremental-always", {"sync": "incremental", "bitmap": "b", "bitmap-mode": "always"}),
        ("mode-without", {"bitmap-mode": "never"}),
        ("mode-without-but-sync", {"sync": "bitmap", "bitmap-mode": "never"}),
        ("bitmap-absent", {"sync": "bitmap", "bitmap": "x", "bitmap-mode": "never"}),
        ("bitmap-absent-incremental", {"sync": "incremental", "bitmap": "x"}),
        ("none-with", {"sync": "none", "bitmap": "b", "bitmap-mode": "on-success"}),
        ("full-never", {"bitmap": "b", "bitmap-mode": "never"}),
        ("top-never", {"sync": "top", "bitmap": "b", "bitmap-mode": "never"}),
        ("full-without-mode", {"bitmap": "b"}),
        ("bitmap-mode", {"bitmap": "b", "bitmap-mode": "sometimes"}),
        ("compress", {"compress": True}),
    ]:
        await s.attempt(label, s.peer.execute("blockdev-backup", backup | more),
                        keeps_answer=False)
        await s.until("job", None)
    await s.do("no-sync", "blockdev-backup", {"device": "disk", "target": "target"})
    await s.do("remove-bitmap", "block-dirty-bitmap-remove", {"node": "disk", "name": "b"})
    await s.do("remove", "blockdev-del", {"node-name": "target"})
    await s.jobs("none")
    await s.events("events")


# Mirrors to nodes


async def start_mirror(s, label, **more):
    mirror = {"job-id": "job", "device": "disk", "target": "target", "sync": "full"}
    await s.attempt(label, s.peer.execute("blockdev-mirror", mirror | more), keeps_answer=False)


async def mirror_ended_with_a_copy(s):
    await target_backup(s)
    await start_mirror(s, "start", **{"auto-dismiss": False})
    await s.until("job", "ready")
    await s.jobs("ready")
    await s.do("target-held", "blockdev-del", {"node-name": "target"})
    await s.do("pause", "job-pause", {"id": "job"})
    await s.until("job", "standby")
    await s.do("resume", "job-resume", {"id": "job"})
    await s.until("job", "ready")
    await s.do("finalize", "job-finalize", {"id": "job"})
    await s.do("dismiss-early", "job-dismiss", {"id": "job"})
    await s.do("cancel", "block-job-cancel", {"device": "job"})
    await s.until("job", "concluded")
    await s.jobs("concluded")
    await s.do("dismiss", "job-dismiss", {"id": "job"})
    await s.events("events")
    s.note("equal", s.peer.content("target.raw") == s.peer.content("disk.raw"))
    await s.do("remove", "blockdev-del", {"node-name": "target"})


async def mirror_given_up(s):
    await target_backup(s)
    await start_mirror(s, "start")
    await s.until("job", "ready")
    await s.do("force", "block-job-cancel", {"device": "job", "force": True})
    await s.until("job", None)
    await s.events("forced")
    await s.do("remove", "blockdev-del", {"node-name": "target"})


async def mirror_mistakes(s):
    await target_backup(s)
    for label, more in [
        ("no-device", {"device": "none"}), ("no-target", {"target": "none"}),
        ("itself", {"target": "disk"}), ("sync", {"sync": "some"}),
        ("granularity-small", {"granularity": 256}), ("granularity-odd", {"granularity": 65537}),
        ("granularity-large", {"granularity": 1 << 27}), ("speed", {"speed": -1}),
        ("copy-mode", {"copy-mode": "eager"}), ("replaces", {"replaces": "none"}),
        ("on-error", {"on-source-error": "some"}), ("job-id", {"job-id": "1x"}),
        ("unknown", {"more": 1}),
    ]:
        await start_mirror(s, label, **more)
        await s.until("job", None)
    await s.do("no-sync", "blockdev-mirror", {"device": "disk", "target": "target"})
    await s.jobs("none")
    await s.events("events")
    await s.do("remove", "blockdev-del", {"node-name": "target"})


# Streams and commits


async def start_chain_job(s, label, command, **more):
    arguments = {"job-id": "job", "device": "chain", "auto-dismiss": False}
    await s.attempt(label, s.peer.execute(command, arguments | more), keeps_answer=False)


async def end_chain_job(s, label, image="chain2"):
    """Waits for the end of a job, and looks at what it has left."""
    await s.until("job", "concluded")
    await s.jobs(f"{label}.concluded")
    await s.do(f"{label}.dismiss", "job-dismiss", {"id": "job"})
    await s.events(f"{label}.events")
    await s.peer.remove_chain()
    s.note(f"{label}.left", s.peer.look(image))


async def streams_to_the_end(s):
    for label, more in [
        ("whole", {}), ("base", {"base": "chain0"}), ("nothing", {"base": "chain1"}),
        ("named", {"base": "chain0", "backing-file": "chain0"}),
        ("policy", {"on-error": "stop"}), ("speed", {"speed": 1 << 30}),
        ("unfinished", {"auto-finalize": False}),
    ]:
        await s.peer.add_chain()
        if "base" in more:
            more["base"] = s.peer.path(more["base"])
        if "backing-file" in more:
            more["backing-file"] = s.peer.path(more["backing-file"])
        await start_chain_job(s, f"{label}.start", "block-stream", **more)
        if label == "unfinished":
            await s.until("job", "pending")
            await s.jobs(f"{label}.pending")
            await s.do(f"{label}.finalize", "job-finalize", {"id": "job"})
        await end_chain_job(s, label)


async def stream_paused_and_given_up(s):
    await s.peer.add_chain()
    await start_chain_job(s, "start", "block-stream", speed=SLOW)
    await s.until("job", "running")
    await s.jobs("running")
    await s.events("begun")
    await s.do("pause", "job-pause", {"id": "job"})
    await s.until("job", "paused")
    await s.jobs("paused")
    await s.do("resume", "job-resume", {"id": "job"})
    await s.until("job", "running")
    await s.do("complete", "block-job-complete", {"device": "job"})
    await s.do("second", "block-stream", {"job-id": "other", "device": "chain"})
    await s.do("cancel", "block-job-cancel", {"device": "job"})
    await end_chain_job(s, "end")


async def stream_mistakes(s):
    await s.peer.add_chain()
    base = s.peer.path("chain0")
    for label, more in [
        ("no-device", {"device": "none"}), ("no-base", {"base": "none"}),
        ("no-base-node", {"base-node": "none"}), ("no-bottom", {"bottom": "none"}),
        ("both", {"base": base, "bottom": "none"}), ("twice", {"base": base, "base-node": "x"}),
        ("itself", {"base-node": "chain"}), ("bottom", {"bottom": "disk"}),
        ("speed", {"speed": -1}), ("name-alone", {"backing-file": base}), ("on-error", {"on-error": "some"}),
        ("job-id", {"job-id": "1x"}), ("unknown", {"more": 1}), ("number", {"base": 5}),
    ]:
        await start_chain_job(s, label, "block-stream", **more)
        await s.until("job", None)
    await s.do("absent", "block-stream", {})
    await s.jobs("none")
    await s.events("events")
    await s.peer.remove_chain()


async def commits_to_the_end(s):
    for label, more in [
        ("middle", {"top": "chain1"}), ("middle-named", {"top": "chain1", "base": "chain0"}),
        ("top", {}), ("top-into-middle", {"base": "chain1"}),
        ("top-named", {"top": "chain2", "base": "chain0"}),
    ]:
        await s.peer.add_chain()
        more = {key: s.peer.path(name) for key, name in more.items()}
        await start_chain_job(s, f"{label}.start", "block-commit", **more)
        if label.startswith("top"):
            await s.until("job", "ready")
            await s.jobs(f"{label}.ready")
            await s.do(f"{label}.complete", "job-complete", {"id": "job"})
        image = {"top": "chain0", "top-into-middle": "chain1", "top-named": "chain0"}
        await end_chain_job(s, label, image.get(label, "chain2"))


async def commit_given_up(s):
    for label, arguments in [("cancel", {}), ("force", {"force": True})]:
        await s.peer.add_chain()
        await start_chain_job(s, f"{label}.start", "block-commit")
        await s.until("job", "ready")
        await s.do(f"{label}.early", "job-dismiss", {"id": "job"})
        await s.do(f"{label}.cancel", "block-job-cancel", {"device": "job"} | arguments)
        await end_chain_job(s, label)


async def commit_mistakes(s):
    await s.peer.add_chain()
    base, middle, top = (s.peer.path(f"chain{number}") for number in range(3))
    for label, more in [
        ("no-device", {"device": "none"}), ("no-top", {"top": "none"}),
        ("no-base", {"base": "none"}), ("no-top-node", {"top-node": "none"}),
        ("no-base-node", {"base-node": "none"}), ("base-is-top", {"base-node": "chain"}),
        ("top-node", {"top-node": "disk"}), ("same", {"top": middle, "base": middle}),
        ("upside-down", {"top": base, "base": middle}), ("base-alone", {"top": base}),
        ("both-tops", {"top": middle, "top-node": "x"}),
        ("both-bases", {"base": base, "base-node": "x"}), ("speed", {"speed": -1}),
        ("name-of-top", {"backing-file": base}), ("on-error", {"on-error": "some"}),
        ("job-id", {"job-id": "1x"}), ("unknown", {"more": 1}), ("number", {"base": 5}),
    ]:
        await start_chain_job(s, label, "block-commit", **more)
        await s.until("job", None)
    await s.do("absent", "block-commit", {})
    await s.jobs("none")
    await s.events("events")
    await s.peer.remove_chain()


# Snapshots


async def snapshots(s):
    for label, more in [
        ("plain", {}), ("format", {"format": "qcow2"}), ("absolute", {"mode": "absolute-paths"}),
        ("existing", {"mode": "existing"}),
    ]:
        await s.peer.add_chain()
        name = f"over-{label}"
        if label == "existing":
            s.peer.make_image(name, backing=s.peer.path("chain2"))
        await s.do(f"{label}.make", "blockdev-snapshot-sync", {
            "node-name": "chain", "snapshot-file": s.peer.path(name),
            "snapshot-node-name": "over"} | more)
        await s.peer.remove_chain()
        s.note(f"{label}.left", s.peer.look(name))


async def snapshot_mistakes(s):
    await s.peer.add_chain()
    snapshot = {"node-name": "chain", "snapshot-file": s.peer.path("none"),
                "snapshot-node-name": "over"}
    for label, more in [
        ("no-node", {"node-name": "none"}), ("mode", {"mode": "some"}),
        ("no-folder", {"snapshot-file": s.peer.path("none/none")}),
        ("not-there", {"mode": "existing"}), ("format", {"format": "none"}),
        ("name-used", {"snapshot-node-name": "disk"}), ("number", {"snapshot-file": 5}),
        ("unknown", {"more": 1}),
    ]:
        await s.do(label, "blockdev-snapshot-sync", snapshot | more)
    await s.do("absent", "blockdev-snapshot-sync", {})
    await s.do("nothing", "blockdev-snapshot", {})
    await s.do("node-none", "blockdev-snapshot", {"node": "none", "overlay": "none"})
    await s.do("overlay-none", "blockdev-snapshot", {"node": "chain", "overlay": "none"})
    await s.do("itself", "blockdev-snapshot", {"node": "chain", "overlay": "chain"})
    await s.do("unknown-member", "blockdev-snapshot",
               {"node": "chain", "overlay": "disk", "more": 1})
    await s.peer.remove_chain()


# Jobs that make their targets, digests, the old commands on exports


async def jobs_to_images(s):
    for command in ["drive-mirror", "drive-backup"]:
        for label, more in [("made", {}), ("existing", {"mode": "existing"}),
                            ("raw", {"format": "raw"}), ("top", {"sync": "top"})]:
            label = f"{command}.{label}"
            image = label + ".img"
            if "mode" in more:
                s.peer.make_image(image)
            start = {"job-id": "job", "device": "disk", "target": s.peer.path(image),
                     "sync": "full", "format": "qcow2", "auto-dismiss": False} | more
            await s.attempt(f"{label}.start", s.peer.execute(command, start), keeps_answer=False)
            if command == "drive-mirror":
                await s.until("job", "ready")
                await s.jobs(f"{label}.ready")
                await s.do(f"{label}.cancel", "block-job-cancel", {"device": "job"})
            await s.until("job", "concluded")
            await s.jobs(f"{label}.concluded")
            await s.do(f"{label}.dismiss", "job-dismiss", {"id": "job"})
            await s.events(f"{label}.events")
            s.note(f"{label}.left", s.peer.look(image, start["format"]))
        for label, more in [
            ("no-device", {"device": "none"}), ("no-folder", {"target": s.peer.path("no/no")}),
            ("not-there", {"mode": "existing", "target": s.peer.path("no")}),
            ("format", {"format": "none"}), ("sync", {"sync": "some"}), ("mode", {"mode": "some"}),
            ("unknown", {"more": 1}),
        ]:
            start = {"job-id": "job", "device": "disk", "target": s.peer.path("mistake"),
                     "sync": "full", "format": "qcow2"} | more
            await s.attempt(f"{command}.{label}", s.peer.execute(command, start),
                            keeps_answer=False)
    await s.events("events")


async def jobs_whose_target_fails(s):
    for policy in ["report", "ignore", "enospc", "stop"]:
        for errno in [5, 28]:
            label = f"{policy}-{errno}"
            await s.do(f"{label}.node", "blockdev-add",
                       raw("n", s.peer.make_file("n.raw", content=False)))
            await s.do(f"{label}.filter", "blockdev-add", {
                "driver": "blkdebug", "node-name": "bad", "image": "n",
                "inject-error": [{"event": "none", "iotype": "write", "errno": errno, "once": True}]})
            backup = {"job-id": "job", "device": "disk", "target": "bad", "sync": "full",
                      "auto-dismiss": False, "on-target-error": policy}
            await s.attempt(f"{label}.start", s.peer.execute("blockdev-backup", backup),
                            keeps_answer=False)
            if policy == "stop" or policy == "enospc" and errno == 28:
                await s.until("job", "paused")
                await s.jobs(f"{label}.paused")
                await s.do(f"{label}.resume", "block-job-resume", {"device": "job"})
            await s.until("job", "concluded")
            await s.jobs(f"{label}.concluded")
            await s.do(f"{label}.dismiss", "job-dismiss", {"id": "job"})
            await s.events(f"{label}.events")
            s.note(f"{label}.equal", s.peer.content("n.raw") == s.peer.content("disk.raw"))
            await s.do(f"{label}.remove-filter", "blockdev-del", {"node-name": "bad"})
            await s.do(f"{label}.remove", "blockdev-del", {"node-name": "n"})


async def digests(s):
    digest = "x-debug-block-dirty-bitmap-sha256"
    for granularity in [512, 65536]:
        bitmap = {"node": "disk", "name": f"g{granularity}"}
        await s.do(f"add-{granularity}", "block-dirty-bitmap-add",
                   bitmap | {"granularity": granularity})
        await s.do(f"empty-{granularity}", digest, bitmap)
        await s.do(f"remove-{granularity}", "block-dirty-bitmap-remove", bitmap)
    await s.do("no-bitmap", digest, {"node": "disk", "name": "none"})
    await s.do("no-node", digest, {"node": "none", "name": "none"})
    await s.do("no-name", digest, {"node": "disk"})


async def old_exports(s):
    address = {"type": "unix", "data": {"path": s.peer.path("old.sock")}}
    await s.do("start", "nbd-server-start", {"addr": address})
    await s.do("add", "nbd-server-add", {"device": "other", "name": "old"})
    await s.exports("added")
    await s.do("add-twice", "nbd-server-add", {"device": "other", "name": "old"})
    await s.do("add-no-device", "nbd-server-add", {"device": "none", "name": "x"})
    await s.do("add-bitmap", "nbd-server-add", {"device": "other", "name": "x", "bitmap": "none"})
    await s.do("remove", "nbd-server-remove", {"name": "old"})
    await s.until_event("BLOCK_EXPORT_DELETED")
    await s.do("remove-twice", "nbd-server-remove", {"name": "old"})
    await s.do("mode", "nbd-server-remove", {"name": "old", "mode": "some"})
    await s.do("stop", "nbd-server-stop")
    await s.exports("stopped")


SCENARIOS = [
    protocol, bitmap_life, bitmap_mistakes, bitmap_states, bitmap_of_a_backup, no_jobs, backup_to_the_end, backup_kept,
    backup_finalized, backup_given_up_when_pending, backup_paused, backup_given_up,
    backup_paused_and_given_up, backup_speed, backup_mistakes, several_jobs,
    transaction_of_bitmaps, transaction_mistakes, transaction_with_backup,
    nodes_life, nodes_of_images, nodes_mistakes, throttle_groups, exports_of_nodes,
    target_backup_to_the_end, target_backup_with_bitmaps, target_backup_of_what_is_overwritten,
    target_backup_in_a_transaction, target_backup_mistakes,
    mirror_ended_with_a_copy, mirror_given_up, mirror_mistakes,
    streams_to_the_end, stream_paused_and_given_up, stream_mistakes,
    commits_to_the_end, commit_given_up, commit_mistakes, snapshots, snapshot_mistakes,
    jobs_to_images, jobs_whose_target_fails, digests, old_exports,
]
