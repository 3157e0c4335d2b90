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
        "block-dirty-bitmap-merge", "transaction",
    ]
    s.note("commands", {name: name in commands for name in wanted})


SCENARIOS = [
    protocol, bitmap_life, bitmap_mistakes, bitmap_states, bitmap_of_a_backup, no_jobs, backup_to_the_end, backup_kept,
    backup_finalized, backup_given_up_when_pending, backup_paused, backup_given_up,
    backup_paused_and_given_up, backup_speed, backup_mistakes, several_jobs,
    transaction_of_bitmaps, transaction_mistakes, transaction_with_backup,
]
