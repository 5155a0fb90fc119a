#!/usr/bin/env python3
"""safetensors' own load_file of every shard into the device, page cache warm. safetensors_load.py FOLDER"""

import json
import sys
import time

import torch
from safetensors.torch import load_file

from checkpoint import Checkpoint

checkpoint = Checkpoint(sys.argv[1])
torch.zeros(1, device="cuda")
for path in checkpoint.files:  # the page cache is warm afterwards, whatever was in it
    with open(path, "rb", buffering=0) as file:
        while file.readinto(bytearray(1 << 26)):
            pass
torch.cuda.synchronize()
begin = time.perf_counter()
tensors = [load_file(path, device="cuda") for path in checkpoint.files]
torch.cuda.synchronize()
seconds = time.perf_counter() - begin
print(
    json.dumps({"peer": "safetensors_load_file", "load_seconds": seconds, "bytes": checkpoint.bytes, "gbps": checkpoint.bytes / seconds / 1e9})
)
