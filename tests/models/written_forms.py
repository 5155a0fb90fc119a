"""Small transformers as exporters write them out, with random weights: every part that the builder fuses, in several forms.

usage: written_forms.py NAME OUT.onnx; NAME is encoder, decoder or seq2seq, with _f32 or _f16 behind it.
"""
import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

TYPES = {"f32": (np.float32, TensorProto.FLOAT), "f16": (np.float16, TensorProto.FLOAT16)}


class Graph:
    def __init__(self, dtype):
        self.dtype, self.onnx_dtype = TYPES[dtype]
        self.random = np.random.default_rng(11)
        self.nodes, self.inputs, self.weights, self.count = [], [], [], 0

    def __call__(self, op, *inputs, **attributes):
        self.count += 1
        name = f"{op}_{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def constant(self, values, dtype=None):
        array = np.asarray(values, dtype=dtype or self.dtype)
        return self("Constant", value=numpy_helper.from_array(array))

    def ints(self, *values):
        return self.constant(list(values), np.int64)

    def weight(self, *shape, around=0.0):
        self.count += 1
        values = self.random.standard_normal(shape) / (np.sqrt(shape[0]) if len(shape) > 1 else 5) + around
        self.weights.append(numpy_helper.from_array(values.astype(self.dtype), f"weight_{self.count}"))
        return self.weights[-1].name

    def input(self, name, shape, dtype=None):
        self.inputs.append(helper.make_tensor_value_info(name, dtype or self.onnx_dtype, shape))
        return name

    def wide(self, x):
        return x if self.dtype == np.float32 else self("Cast", x, to=TensorProto.FLOAT)

    def back(self, x):
        return x if self.dtype == np.float32 else self("Cast", x, to=self.onnx_dtype)

    def layer_norm(self, x, size):
        centred = self("Sub", x, self("ReduceMean", x, axes=[-1]))
        square = self("Pow", self.wide(centred), self.constant(2, np.float32))
        root = self("Sqrt", self("Add", self("ReduceMean", square, axes=[-1]), self.constant(1e-5, np.float32)))
        normal = self("Div", centred, self.back(root))
        return self("Add", self("Mul", normal, self.weight(size, around=1)), self.weight(size))

    def rms_norm(self, x, size):
        wide = self.wide(x)
        mean = self("ReduceMean", self("Pow", wide, self.constant(2, np.float32)), axes=[-1])
        inverse = self("Reciprocal", self("Sqrt", self("Add", mean, self.constant(1e-6, np.float32))))
        return self("Mul", self.weight(size, around=1), self.back(self("Mul", wide, inverse)))

    def gelu(self, x):
        gate = self("Add", self("Erf", self("Div", x, self.constant(np.sqrt(2)))), self.constant(1))
        return self("Mul", self("Mul", x, gate), self.constant(0.5))

    def gelu_tanh(self, x):
        cubic = self("Add", x, self("Mul", self.constant(0.044715), self("Pow", x, self.constant(3))))
        gate = self("Add", self.constant(1), self("Tanh", self("Mul", self.constant(np.sqrt(2 / np.pi)), cubic)))
        return self("Mul", self("Mul", self.constant(0.5), x), gate)

    def linear(self, x, rows, columns):  # the weight as [out, in]
        return self("MatMul", x, self("Transpose", self.weight(columns, rows), perm=[1, 0]))

    def biased(self, x, rows, columns):
        return self("Add", self.weight(columns), self("MatMul", x, self.weight(rows, columns)))

    def heads(self, x, count, size):
        return self("Transpose", self("Reshape", x, self.ints(0, 0, count, size)), perm=[0, 2, 1, 3])

    def softmax(self, scores, guard=False):
        weights = self("Softmax", self.wide(scores), axis=-1)
        if guard:
            weights = self("Where", self("IsNaN", weights), self.constant(0, np.float32), weights)
        return self.back(weights)

    def joined(self, x, hidden):
        return self("Reshape", self("Transpose", x, perm=[0, 2, 1, 3]), self.ints(0, 0, hidden))


def encoder(g, hidden=64, heads=4, layers=2):
    """As BERT: the scale on the scores, an additive mask, keys turned at once, norms behind the sums."""
    ids, mask = g.input("input_ids", [2, 12], TensorProto.INT64), g.input("attention_mask", [2, 1, 1, 12])
    hidden_mask = g("Mul", g("Sub", g.constant(1), mask), g.constant(-1e4))
    x = g.layer_norm(g("Gather", g.weight(256, hidden), ids), hidden)
    for _ in range(layers):
        size = hidden // heads
        q, v = (g.heads(g.biased(x, hidden, hidden), heads, size) for _ in range(2))
        k = g("Transpose", g("Reshape", g.biased(x, hidden, hidden), g.ints(0, 0, heads, size)), perm=[0, 2, 3, 1])
        scores = g("Add", g("Div", g("MatMul", q, k), g.constant(np.sqrt(size))), hidden_mask)
        mixed = g.joined(g("MatMul", g.softmax(scores), v), hidden)
        x = g.layer_norm(g("Add", g.biased(mixed, hidden, hidden), x), hidden)
        inner = g.biased(g.gelu(g.biased(x, hidden, 4 * hidden)), 4 * hidden, hidden)
        x = g.layer_norm(g("Add", inner, x), hidden)
    return x


def rotate(g, x, cos, sin, size):
    first = g("Slice", x, g.ints(0), g.ints(size // 2), g.ints(3), g.ints(1))
    second = g("Slice", x, g.ints(size // 2), g.ints(2**63 - 1), g.ints(3), g.ints(1))
    turned = g("Concat", g("Neg", second), first, axis=-1)
    return g("Add", g("Mul", x, cos), g("Mul", turned, sin))


def decoder(g, hidden=64, heads=8, groups=2, layers=2):
    """As Llama: scaled_dot_product_attention decomposed, with keys and values repeated, a past, rotary positions and SiLU."""
    size, past, new = hidden // heads, 9, 3
    ids, angles = g.input("input_ids", [2, new], TensorProto.INT64), g.input("angles", [1, 1, new, size], TensorProto.FLOAT)
    cos, sin = g.back(g("Cos", angles)), g.back(g("Sin", angles))
    causal = np.triu(np.full((1, 1, new, past + new), -np.inf), past + 1)
    mask = g("Add", g.input("mask", [2, 1, 1, past + new]), g.constant(causal))
    part = g.constant(size**-0.25)
    x = g("Gather", g.weight(256, hidden), ids)

    def repeated(t):
        expanded = g("Expand", g("Unsqueeze", t, g.ints(2)), g.ints(2, groups, heads // groups, past + new, size))
        return g("Reshape", expanded, g.ints(2, heads, past + new, size))

    for layer in range(layers):
        normal = g.rms_norm(x, hidden)
        q = rotate(g, g.heads(g.linear(normal, hidden, hidden), heads, size), cos, sin, size)
        k = rotate(g, g.heads(g.linear(normal, hidden, groups * size), groups, size), cos, sin, size)
        v = g.heads(g.linear(normal, hidden, groups * size), groups, size)
        k = g("Concat", g.input(f"past_key_{layer}", [2, groups, past, size]), k, axis=2)
        v = g("Concat", g.input(f"past_value_{layer}", [2, groups, past, size]), v, axis=2)
        turned = g("Transpose", repeated(k), perm=[0, 1, 3, 2])
        scores = g("Add", g("MatMul", g("Mul", q, part), g("Mul", turned, part)), mask)
        mixed = g.joined(g("MatMul", g.softmax(scores, guard=True), repeated(v)), hidden)
        x = g("Add", x, g.linear(mixed, hidden, hidden))
        normal = g.rms_norm(x, hidden)
        gate = g.linear(normal, hidden, 2 * hidden)
        inner = g("Mul", g("Mul", gate, g("Sigmoid", gate)), g.linear(normal, hidden, 2 * hidden))
        x = g("Add", x, g.linear(inner, 2 * hidden, hidden))
    return g.linear(g.rms_norm(x, hidden), hidden, 256)


def seq2seq(g, hidden=48, heads=3, layers=2):
    """As nn.MultiheadAttention: heads inside of the batch, the scale on Q, a boolean mask, norms before the blocks, ReLU and GELU by tanh."""
    size = hidden // heads
    x, memory, visible = g.input("x", [2, 6, hidden]), g.input("memory", [2, 10, hidden]), g.input("visible", [1, 6, 10], TensorProto.BOOL)

    def flat(t, length):
        return g("Reshape", g.heads(t, heads, size), g.ints(2 * heads, length, size))

    for layer in range(layers):
        normal = g.layer_norm(x, hidden)
        q = g("Mul", flat(g.biased(normal, hidden, hidden), 6), g.constant(size**-0.5))
        k, v = flat(g.biased(memory, hidden, hidden), 10), flat(g.biased(memory, hidden, hidden), 10)
        scores = g("Where", visible, g.wide(g("MatMul", q, g("Transpose", k, perm=[0, 2, 1]))), g.constant(-1e4, np.float32))
        mixed = g("Reshape", g("MatMul", g.softmax(scores), v), g.ints(2, heads, 6, size))
        x = g("Add", x, g.biased(g.joined(mixed, hidden), hidden, hidden))
        inner = g.biased(g.layer_norm(x, hidden), hidden, 4 * hidden)
        x = g("Add", x, g.biased(g("Relu", inner) if layer else g.gelu_tanh(inner), 4 * hidden, hidden))
    return g.layer_norm(x, hidden)


def main():
    name, dtype = sys.argv[1].split("_")
    g = Graph(dtype)
    g("Identity", {"encoder": encoder, "decoder": decoder, "seq2seq": seq2seq}[name](g))
    output = helper.make_tensor_value_info(g.nodes[-1].output[0], g.onnx_dtype, None)
    graph = helper.make_graph(g.nodes, name, g.inputs, [output], g.weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), sys.argv[2])


main()
