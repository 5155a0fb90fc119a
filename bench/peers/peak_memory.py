#!/usr/bin/env python3
"""Runs a command and reports the most device memory the driver showed in use meanwhile, above what was in use before: the CUDA context
counts.

peak_memory.py [--json FILE] -- COMMAND...
"""

import argparse
import ctypes
import json
import subprocess
import sys
import threading
import time


class Driver:
    """Device 0 as NVML shows it; NVML comes with the driver."""

    class _Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    def __init__(self):
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self.device = ctypes.c_void_p()
        self._check(self.library.nvmlInit_v2())
        self._check(self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)))

    def _check(self, code):
        if code != 0:
            sys.exit(f"NVML answered {code}: no driver, or no device")

    def memory(self):
        out = self._Memory()
        self._check(self.library.nvmlDeviceGetMemoryInfo(self.device, ctypes.byref(out)))
        return out


class Peak:
    """with Peak() as peak: ...; peak.bytes; peak.steady: nobody else gave memory back meanwhile, so that the figure holds"""

    def __init__(self, seconds=0.005):
        self.driver, self.seconds, self.bytes, self.on, self.steady = Driver(), seconds, 0, True, True
        self.base = self._settled()

    def _settled(self):
        """What is in use once it stays as it is: a process that has just ended gives its memory back for a while."""
        used, since, begin = self.driver.memory().used, time.time(), time.time()
        while time.time() - since < 0.3 and time.time() - begin < 10:
            time.sleep(0.02)
            now = self.driver.memory().used
            if now != used:
                used, since = now, time.time()
        return used

    def _sample(self):
        while self.on:
            used = self.driver.memory().used
            self.bytes = max(self.bytes, used - self.base)
            self.steady = self.steady and used >= self.base
            time.sleep(self.seconds)

    def __enter__(self):
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.on = False
        self.thread.join()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command given")
    begin = time.time()
    with Peak() as peak:
        code = subprocess.call(command)
    if not peak.steady:
        sys.exit("another process gave device memory back meanwhile: the peak is unknown. Run it again with the card to yourself")
    out = {"peak_device_bytes": peak.bytes, "seconds": round(time.time() - begin, 2), "exit": code}
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(out, file)
    print(json.dumps(out), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
