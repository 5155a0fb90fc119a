#!/usr/bin/env python3
"""Holds the card so that no more than FREE bytes stay free, until its standard input is closed. hold_memory.py FREE (8e9, 8GB, 7GiB)

Memory is taken in plain allocations of at most 4 GiB; "ready" is printed with what the driver then shows as free."""

import ctypes
import sys

from peak_memory import Driver


def parse(text):
    units = {"GiB": 1 << 30, "MiB": 1 << 20, "GB": 10**9, "MB": 10**6}
    for unit, size in units.items():
        if text.endswith(unit):
            return int(float(text[: -len(unit)]) * size)
    return int(float(text))


def main():
    wanted = parse(sys.argv[1])
    cuda = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_int()
    for code in (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
        cuda.cuCtxSetCurrent(context),
    ):
        if code != 0:
            sys.exit(f"the driver answered {code}")
    driver, held = Driver(), 0
    while driver.memory().free > wanted:
        take = min(4 << 30, max(2 << 20, driver.memory().free - wanted + (2 << 20) - 1 >> 21 << 21))
        pointer = ctypes.c_uint64()
        if cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(take)) != 0:
            sys.exit(f"could not take {take} bytes; {driver.memory().free} are free")
        held += take
    print(f"ready held {held} free {driver.memory().free}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
