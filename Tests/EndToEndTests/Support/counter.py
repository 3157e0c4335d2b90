"""A client for tests: counts across several NBD exports, in their order, while it loads them.

    counter.py LOG URI...

At the start of the first disk it writes a number, waits for the answer, then writes the same to the
next, and so on; then the next number. So at any instant the numbers of the disks descend in that order
and the first is at most one ahead of the last: what shows other numbers is no instant. Between two
numbers it has writes elsewhere on all disks under way, from 1 MiB on. It goes on until standard input
ends, and logs the last number that all disks have; if a server goes away it exits with 3.
"""

import random
import select
import struct
import sys
import time

import nbd

NOISE_BYTES = 65536


class Counter:
    def __init__(self, log, uris):
        self.log = log
        self.disks = []
        for uri in uris:
            disk = nbd.NBD()
            disk.connect_uri(uri)
            self.disks.append(disk)
        self.random = random.Random(1)

    def load(self, disk):
        offset = self.random.randrange(1 << 20, disk.get_size() - NOISE_BYTES)
        data = nbd.Buffer.from_bytearray(bytearray(self.random.randbytes(NOISE_BYTES)))
        disk.aio_pwrite(data, offset, completion=lambda error: 1)

    def run(self):
        number = 0
        deadline = time.monotonic() + 300
        while not select.select([sys.stdin], [], [], 0)[0]:
            number += 1
            for disk in self.disks:
                while disk.aio_in_flight() < 2:
                    self.load(disk)
                disk.pwrite(struct.pack("<Q", number), 0)
            if number % 100 == 1:
                self.note(number)
            if time.monotonic() > deadline:
                sys.exit(4)
        for disk in self.disks:
            while disk.aio_in_flight() > 0:
                disk.poll(100)
            disk.flush()
            disk.shutdown()
        self.note(number)

    def note(self, number):
        with open(self.log, "w") as file:
            file.write(f"{number}\n")


if __name__ == "__main__":
    try:
        Counter(sys.argv[1], sys.argv[2:]).run()
    except nbd.Error as error:
        print(f"counter: {error}", file=sys.stderr)
        sys.exit(3)
