"""A guest for tests: writes to an NBD export and logs every request's issue and acknowledgement.

    guest.py URI SEED LOG

The disk is divided into cells: ranges that do not overlap, of odd lengths at odd offsets, the last
one ending where the disk does. Each request covers one cell, and a cell has one request in flight
at a time, so what a cell may hold at any instant follows from the log:

    cell INDEX OFFSET LENGTH
    issue NUMBER CELL KIND NANOSECONDS       KIND: data, zero or trim
    ack NUMBER NANOSECONDS

Data is the request's number, eight bytes little-endian, repeated. It writes until standard input
ends, waits for what is in flight, flushes and exits with 0; if the server goes away, with 3. Nobody
needs it for longer than some minutes: then it gives up with 4.
"""

import random
import select
import struct
import sys
import time

import nbd

IN_FLIGHT_MAX = 8


def make_cells(rng, size):
    cells, offset = [], rng.randrange(1, 5000)
    while offset < size:
        length = min(rng.choice([1, 511, 4096, 4097, 30011, 65536, 100003, 262144]), size - offset)
        cells.append((offset, length))
        offset += length + rng.choice([0, 1, 700, 50000, 200000])
    last = cells[-1]
    cells[-1] = (last[0], size - last[0])
    return cells


class Guest:
    def __init__(self, uri, seed, log):
        self.rng = random.Random(seed)
        self.log_file = open(log, "w", buffering=1)
        self.nbd = nbd.NBD()
        self.nbd.connect_uri(uri)
        self.cells = make_cells(random.Random(seed), self.nbd.get_size())
        self.free = list(range(len(self.cells)))
        self.in_flight = {}
        for index, (offset, length) in enumerate(self.cells):
            self.log("cell", index, offset, length)
        # Numbers go on from run to run, so that no two requests of a test write the same data.
        self.number = seed << 32

    def log(self, *words):
        self.log_file.write(" ".join(map(str, words)) + "\n")

    def issue(self):
        cell = self.free.pop(self.rng.randrange(len(self.free)))
        offset, length = self.cells[cell]
        kind = self.rng.choices(["data", "zero", "trim"], [8, 1, 1])[0]
        self.number += 1
        self.log("issue", self.number, cell, kind, time.time_ns())
        if kind == "data":
            pattern = struct.pack("<Q", self.number)
            data = (pattern * (length // 8 + 1))[:length]
            cookie = self.nbd.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)
        elif kind == "zero":
            cookie = self.nbd.aio_zero(length, offset)
        else:
            cookie = self.nbd.aio_trim(length, offset)
        self.in_flight[cookie] = (self.number, cell)

    def collect(self):
        while self.in_flight and (cookie := self.nbd.aio_peek_command_completed()) > 0:
            self.nbd.aio_command_completed(cookie)
            number, cell = self.in_flight.pop(cookie)
            self.log("ack", number, time.time_ns())
            self.free.append(cell)

    def run(self):
        stopping = False
        deadline = time.monotonic() + 300
        while not stopping or self.in_flight:
            while not stopping and self.free and len(self.in_flight) < IN_FLIGHT_MAX:
                self.issue()
            self.nbd.poll(20)
            self.collect()
            if time.monotonic() > deadline:
                sys.exit(4)
            if not stopping and select.select([sys.stdin], [], [], 0)[0]:
                stopping = True
        self.nbd.flush()
        self.nbd.shutdown()


if __name__ == "__main__":
    try:
        Guest(sys.argv[1], int(sys.argv[2]), sys.argv[3]).run()
    except nbd.Error as error:
        print(f"guest: {error}", file=sys.stderr)
        sys.exit(3)
