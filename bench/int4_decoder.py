#!/usr/bin/env python3
"""The int4 twin of a decoder that `forebay synth llama` wrote: every Gemm becomes MatMulNBits. For speed only: codes and scales are random, and all
weights share two files, so that the twin of an 8B model takes 1.3 GB of disk. Usage: int4_decoder.py MODEL_DIR OUT_DIR [BLOCK]"""
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper


def external(name, dtype, dims, location, bytes_, offset=0):
    tensor = TensorProto(name=name, data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(bytes_))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def main():
    source, target, block = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 32
    os.makedirs(target, exist_ok=True)
    model = onnx.load(os.path.join(source, "model.onnx"), load_external_data=False)
    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    packed, codes_most, scales_most, shift = {}, 0, 0, 0
    for node in graph.node:
        if node.op_type != "Gemm" or node.input[1] not in weights:
            continue
        weight = weights[node.input[1]]
        n, k = weight.dims
        blocks = k // block
        codes, scales = n * blocks * block // 2, n * blocks * 2
        shift += 4096  # two extents that are the same would be one weight
        codes_most, scales_most = max(codes_most, codes + shift), max(scales_most, scales + shift)
        packed[weight.name] = (
            external(weight.name + ".codes", TensorProto.UINT8, [n, blocks, block // 2], "codes.bin", codes, shift),
            external(weight.name + ".scales", weight.data_type, [n * blocks], "scales.bin", scales, shift))
        new = helper.make_node("MatMulNBits", [node.input[0], weight.name + ".codes", weight.name + ".scales"], list(node.output), node.name,
                               domain="com.microsoft", K=k, N=n, bits=4, block_size=block)
        node.CopyFrom(new)
    kept = [t for t in graph.initializer if t.name not in packed]
    for i, tensor in enumerate(kept):
        if tensor.data_location == TensorProto.EXTERNAL:
            size = int(np.prod(tensor.dims)) * (4 if tensor.data_type == TensorProto.FLOAT else 2)
            scales_most = max(scales_most, size)
            kept[i] = external(tensor.name, tensor.data_type, list(tensor.dims), "scales.bin", size)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for pair in packed.values():
        graph.initializer.extend(pair)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    random = np.random.default_rng(1)
    with open(os.path.join(target, "codes.bin"), "wb") as out:
        out.write(random.bytes(codes_most))
    is_bf16 = any(t[1].data_type == TensorProto.BFLOAT16 for t in packed.values())
    values = random.uniform(0.005, 0.02, 1 << 22).astype(np.float32)
    narrow = (values.view(np.uint32) >> 16).astype(np.uint16) if is_bf16 else values.astype(np.float16).view(np.uint16)
    with open(os.path.join(target, "scales.bin"), "wb") as out:
        for done in range(0, scales_most, narrow.nbytes):
            out.write(narrow.tobytes()[:scales_most - done])
    onnx.save(model, os.path.join(target, "model.onnx"))
    print(f"{len(packed)} products of 4 bits, blocks of {block}")


main()
