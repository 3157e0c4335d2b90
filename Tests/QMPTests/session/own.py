"""What only the agent has, so that every command and every event is part of the session."""

import asyncio
import subprocess

from peers import ExecuteError


async def concluded(s, job="job"):
    await s.until(job, "concluded")
    found = [j for j in await s.peer.execute("query-jobs") if j["id"] == job]
    assert "error" not in found[0], found
    await s.peer.execute("job-dismiss", {"id": job})


async def volumes(s):
    execute = s.peer.execute
    await execute("volume-create", {"name": "new", "size": 4 << 20})
    await execute("volume-create", {
        "name": "over", "backing": s.peer.make_file("base.raw"), "backing-format": "raw",
        "backing-mode": "cor"})
    await execute("volume-set", {"name": "over", "backing-mode": "cow"})
    found = {volume["name"]: volume for volume in await execute("query-volumes")}
    assert found["new"]["size"] == 4 << 20 and found["over"]["backing-mode"] == "cow", found
    devices = {block["device"] for block in await execute("query-block")}
    assert devices >= {"new", "over", "disk"}, devices
    await execute("x-debug-retire-regions")
    for name in ["new", "over"]:
        await execute("volume-remove", {"name": name, "delete-files": True})


async def points(s):
    execute = s.peer.execute
    assert [r["name"] for r in await execute("query-repositories")] == ["vault"]
    await execute("volume-backup", {
        "volumes": ["disk"], "repository": "vault", "level": "full", "job-id": "job",
        "auto-dismiss": False})
    await concluded(s)
    newest = await execute("point-resolve", {"point": "disk@latest"})
    assert newest["id"] in [point["id"] for point in await execute("query-points")]
    await execute("point-verify", {
        "points": [newest["id"]], "job-id": "job", "auto-dismiss": False})
    await concluded(s)
    await execute("point-restore", {
        "point": newest["id"], "target": s.peer.path("restored"), "format": "raw", "job-id": "job",
        "auto-dismiss": False})
    await concluded(s)
    assert s.peer.content("restored") == s.peer.content("disk.raw")
    try:
        await execute("repository-add", {"name": "vault", "location": s.peer.path("vault")})
        assert False, "a name was given twice"
    except ExecuteError as error:
        assert "vault" in str(error)


async def mirror_changed_and_images_exchanged(s):
    execute = s.peer.execute
    await execute("drive-mirror", {
        "job-id": "job", "device": "other", "target": s.peer.path("copy.qcow2"), "sync": "full", "format": "qcow2",
        "auto-dismiss": False})
    await s.until("job", "ready")
    await execute("block-job-change", {"id": "job", "type": "mirror", "copy-mode": "write-blocking"})
    await execute("block-job-cancel", {"device": "job"})
    await concluded(s)
    await execute("drive-reopen", {
        "device": "other", "new-image-file": s.peer.path("copy.qcow2"), "format": "qcow2"})
    blocks = {block["device"]: block for block in await execute("query-block")}
    assert blocks["other"]["inserted"]["file"] == s.peer.path("copy.qcow2"), blocks["other"]


async def a_guests_request_fails(s):
    socket = s.peer.path("bad.sock")
    server = subprocess.Popen(
        ["nbdkit", "--foreground", "--unix", socket, "--filter=error", "memory", "1M",
         "error-pread=EIO", "error-rate=100%"])
    try:
        uri = f"nbd+unix:///?socket={socket}"
        for _ in range(3000):
            try:
                await s.peer.execute(
                    "volume-import", {"name": "bad", "file": uri, "format": "raw"})
                break
            except ExecuteError:
                await asyncio.sleep(0.01)
        result = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "read 0 4k",
             f"nbd+unix:///bad?socket={s.peer.path('state/nbd.sock')}"], stdout=subprocess.PIPE)
        assert b"Input/output error" in result.stdout, result.stdout
        await s.until_event("BLOCK_IO_ERROR")
        await s.peer.execute("volume-remove", {"name": "bad"})
    finally:
        # Not by SIGTERM, which nbdkit loses now and then.
        server.kill()
        server.wait()


async def the_agent_itself(s):
    execute = s.peer.execute
    memory = await execute("query-memory")
    assert memory["limit"] > memory["requests"] >= 0, memory
    assert await execute("query-problems") == []
    schema = await execute("query-qmp-schema")
    described = {entry["name"] for entry in schema if entry["meta-type"] == "command"}
    s.peer.commands = {command["name"] for command in await execute("query-commands")}
    assert described == s.peer.commands, described ^ s.peer.commands
    s.peer.events_described = {entry["name"] for entry in schema if entry["meta-type"] == "event"}


OWN = [
    volumes, points, mirror_changed_and_images_exchanged, a_guests_request_fails, the_agent_itself,
]
