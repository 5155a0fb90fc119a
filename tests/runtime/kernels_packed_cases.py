"""Writes single-node cases of com.microsoft's packed-weight operators with the outputs of ONNX Runtime's CPU kernels, in the form of
kernels_onnx_cases.py.

usage: kernels_packed_cases.py OUT.bin
"""
import struct
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import kernels_onnx_cases as flat

F32, F16, U8, I4, U4, I32, I64 = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4,
                                  TensorProto.INT32, TensorProto.INT64)


def tensor(name, data_type, array):
    if data_type in (I4, U4):
        codes = array.reshape(-1).astype(np.uint8) & 15
        codes = np.concatenate([codes, np.zeros(len(codes) % 2, np.uint8)])
        return helper.make_tensor(name, data_type, array.shape, (codes[0::2] | codes[1::2] << 4).tobytes(), raw=True)
    return helper.make_tensor(name, data_type, array.shape, array.tobytes(), raw=True)


def run(case, op, inputs, output_type, **attributes):
    """inputs: (type, array) or None; the first is fed, what holds codes is an initializer."""
    names = ["" if value is None else f"i{i}" for i, value in enumerate(inputs)]
    node = helper.make_node(op, names, ["y"], domain="com.microsoft", **attributes)
    tensors = {name: tensor(name, *value) for name, value in zip(names, inputs) if value is not None}
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", output_type, None)], list(tensors.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    result = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {})[0]
    blob = flat.text(case) + flat.text("com.microsoft") + flat.text(op) + struct.pack("<i", 1) + struct.pack("<I", len(node.attribute))
    blob += b"".join(flat.pack_attribute(a) for a in node.attribute)
    blob += struct.pack("<I", len(names)) + b"".join(flat.pack_tensor(tensors[n]) if n else struct.pack("<B", 0) for n in names)
    return blob + struct.pack("<I", 1) + flat.pack_tensor(numpy_helper.from_array(result, "y"))


def matmul_nbits(random):
    for bits, block, k, n, rows, zero, value, bias in [
            (4, 32, 256, 48, 1, None, F32, False), (4, 32, 320, 33, 3, "packed", F32, False), (4, 16, 272, 40, 2, "packed", F32, True),
            (4, 128, 512, 64, 20, "packed", F32, False), (4, 64, 200, 24, 1, None, F32, True), (4, 256, 768, 17, 9, "float", F32, False),
            (4, 32, 256, 48, 1, "packed", F16, False), (4, 64, 320, 20, 12, None, F16, False), (8, 32, 256, 48, 1, None, F32, False),
            (8, 64, 320, 33, 5, "packed", F32, False), (8, 128, 384, 16, 17, "packed", F32, True), (8, 32, 288, 48, 2, None, F16, False),
            (2, 32, 256, 48, 1, None, F32, False), (2, 64, 320, 16, 10, "packed", F32, False)]:
        blocks = -(-k // block)
        a = random.uniform(-1, 1, (2, rows, k) if rows < 4 else (rows, k)).astype(np.float32 if value == F32 else np.float16)
        b = random.integers(0, 256, (n, blocks, block * bits // 8), dtype=np.uint8)
        scales = random.uniform(0.005, 0.02, n * blocks).astype(a.dtype)
        zeros = None
        if zero == "packed":
            zeros = (U8, random.integers(0, 256, n * -(-blocks * bits // 8), dtype=np.uint8))
        elif zero == "float":
            zeros = (value, random.uniform(4, 12, n * blocks).astype(a.dtype))
        inputs = [(value, a), (U8, b), (value, scales), zeros]
        if bias:
            inputs += [None, (value, random.uniform(-1, 1, n).astype(a.dtype))]
        while inputs[-1] is None:
            inputs.pop()
        yield (f"matmul_{bits}bits_block{block}_k{k}_n{n}_rows{rows}_{zero}_{'f32' if value == F32 else 'f16'}{'_bias' if bias else ''}", "MatMulNBits",
               inputs, value, dict(K=k, N=n, bits=bits, block_size=block))


def gather_quantised(random):
    for data, bits, shape, block, zero, value, index in [
            (U4, 4, (20, 64), 32, True, F32, I64), (I4, 4, (20, 64), 16, False, F32, I32), (I4, 4, (7, 3, 96), 32, True, F16, I64),
            (U8, 4, (20, 64), 32, True, F32, I64), (U8, 4, (20, 96), 32, False, F32, I64), (U8, 8, (20, 64), 32, True, F32, I64),
            (U8, 8, (9, 128), 64, False, F16, I32), (U4, 4, (20, 160), 128, True, F32, I64)]:
        columns = shape[-1]
        blocks = -(-columns // block)
        stored = shape[:-1] + (columns * bits // 8,) if data == U8 else shape
        codes = random.integers(0, 256 if data == U8 else 16, stored, dtype=np.uint8)
        indices = random.integers(-shape[0], shape[0], (2, 5)).astype(np.int64 if index == I64 else np.int32)
        scales = random.uniform(0.01, 0.1, shape[:-1] + (blocks,)).astype(np.float32 if value == F32 else np.float16)
        inputs = [(data, codes), (index, indices), (value, scales)]
        if zero:
            held = shape[:-1] + (-(-blocks * bits // 8),) if data == U8 else shape[:-1] + (blocks,)
            inputs.append((data, random.integers(0, 256 if data == U8 else 16, held, dtype=np.uint8)))
        attributes = dict(gather_axis=0, quantize_axis=len(shape) - 1, block_size=block)
        if data == U8:
            attributes["bits"] = bits
        name = f"gather_{data}_{bits}bits_{'x'.join(map(str, shape))}_block{block}_{'zero' if zero else 'none'}"
        yield name, "GatherBlockQuantized", inputs, value, attributes


def main():
    random = np.random.default_rng(7)
    written = refused = 0
    with open(sys.argv[1], "wb") as f:
        for family in (matmul_nbits, gather_quantised):
            for name, op, inputs, output, attributes in family(random):
                try:
                    f.write(run(name, op, inputs, output, **attributes))
                    written += 1
                except Exception as error:  # a form that this ONNX Runtime does not serve
                    print(f"{name}: {error}", file=sys.stderr)
                    refused += 1
    print(f"{written} cases, {refused} refused", file=sys.stderr)


if __name__ == "__main__":
    main()
