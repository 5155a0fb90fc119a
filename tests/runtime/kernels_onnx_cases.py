"""Writes the single-node cases of the ONNX backend test data in a flat form that kernels_onnx_test.cc reads.

usage: kernels_onnx_cases.py OUT.bin OP [OP...]      (ops as "Conv" or "com.microsoft.Name")
"""
import os
import struct
import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

DTYPES = {1: 1, 10: 2, 16: 3, 11: 4, 3: 5, 5: 6, 6: 7, 7: 8, 2: 9, 4: 10, 12: 11, 13: 12, 9: 13,
          17: 14, 18: 15, 19: 16, 20: 17, 22: 18, 21: 19, 23: 20, 24: 21, 25: 23, 26: 22}


def text(s):
    b = s.encode() if isinstance(s, str) else s
    return struct.pack("<I", len(b)) + b


def pack_tensor(t):
    if t is None:
        return struct.pack("<B", 0)
    a = numpy_helper.to_array(t)
    dtype = DTYPES[t.data_type]
    data = np.ascontiguousarray(a).tobytes()
    bits = {18: 4, 19: 4, 20: 4, 22: 2, 23: 2}.get(dtype)
    if bits:
        flat = np.frombuffer(data, np.uint8) & ((1 << bits) - 1)
        per = 8 // bits
        flat = np.concatenate([flat, np.zeros((-len(flat)) % per, np.uint8)]).reshape(-1, per)
        data = sum((flat[:, i].astype(np.uint16) << (bits * i)) for i in range(per)).astype(np.uint8).tobytes()
    return struct.pack("<BBI", 1, dtype, len(a.shape)) + struct.pack(f"<{len(a.shape)}q", *a.shape) + struct.pack("<Q", len(data)) + data


def pack_attribute(a):
    T = onnx.AttributeProto
    head = text(a.name)
    if a.type == T.INT:
        return head + b"i" + struct.pack("<q", a.i)
    if a.type == T.FLOAT:
        return head + b"f" + struct.pack("<f", a.f)
    if a.type == T.STRING:
        return head + b"s" + text(a.s)
    if a.type == T.INTS:
        return head + b"I" + struct.pack("<I", len(a.ints)) + struct.pack(f"<{len(a.ints)}q", *a.ints)
    if a.type == T.FLOATS:
        return head + b"F" + struct.pack("<I", len(a.floats)) + struct.pack(f"<{len(a.floats)}f", *a.floats)
    if a.type == T.STRINGS:
        return head + b"S" + struct.pack("<I", len(a.strings)) + b"".join(text(s) for s in a.strings)
    if a.type == T.TENSOR:
        return head + b"t" + pack_tensor(a.t)
    raise ValueError("attribute kind")


def read(path):
    t = onnx.TensorProto()
    with open(path, "rb") as f:
        t.ParseFromString(f.read())
    return t


def main():
    out, ops = sys.argv[1], set(sys.argv[2:])
    root = os.path.join(os.path.dirname(onnx.__file__), "backend/test/data/node")
    skipped = 0
    with open(out, "wb") as f:
        for name in sorted(os.listdir(root)):
            if "_expanded" in name:
                continue
            model = onnx.load(os.path.join(root, name, "model.onnx"))
            if len(model.graph.node) != 1 or model.graph.initializer:
                continue
            node = model.graph.node[0]
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (domain + "." if domain else "") + node.op_type not in ops:
                continue
            version = next(o.version for o in model.opset_import if (o.domain or "") in (domain, "ai.onnx" if not domain else domain))
            folder = os.path.join(root, name, "test_data_set_0")
            try:
                given = {v.name: read(os.path.join(folder, f"input_{i}.pb")) for i, v in enumerate(model.graph.input)}
                wanted = {v.name: read(os.path.join(folder, f"output_{i}.pb")) for i, v in enumerate(model.graph.output)}
                case = text(name) + text(domain) + text(node.op_type) + struct.pack("<i", version)
                case += struct.pack("<I", len(node.attribute)) + b"".join(pack_attribute(a) for a in node.attribute)
                case += struct.pack("<I", len(node.input)) + b"".join(pack_tensor(given[i] if i else None) for i in node.input)
                case += struct.pack("<I", len(node.output)) + b"".join(pack_tensor(wanted.get(o) if o else None) for o in node.output)
            except (KeyError, ValueError, FileNotFoundError, onnx.onnx_cpp2py_export.checker.ValidationError, Exception) as error:
                print("left out", name, type(error).__name__, error, file=sys.stderr)
                skipped += 1
                continue
            f.write(case)


if __name__ == "__main__":
    main()
