"""Corners: not-a-number and infinities, zero-size tensors, scalars, negative axes and steps, broadcasts, the ends of int64."""
import numpy as np

from precision_rows import mish, sigmoid, softplus, tail_gelu
from row import EXACT, FUNCTION, ROUNDED, SUM, at, floats, i64, normal, row

ROWS = []


def add(*args, **more):
    ROWS.append(row(*args, **more))


# ---- Not-a-number, infinities, zeros of both signs, the smallest and the largest of f16 (all of them values of bf16 and f32 too, but the last).
ENDS = np.tile(floats(np.nan, np.inf, -np.inf, 0.0, -0.0, 2.0 ** -14, -2.0 ** -14, 32768.0, -32768.0, 1.0, -1.0), 3)
for op, version, bound, reference in [
        ("Abs", 13, EXACT, np.abs), ("Neg", 13, EXACT, np.negative), ("Relu", 14, EXACT, lambda x: np.where(x < 0, 0, x)), ("Ceil", 13,
            EXACT, np.ceil),
        ("Floor", 13, EXACT, np.floor), ("Round", 22, EXACT, np.round), ("Sqrt", 13, ROUNDED, np.sqrt), ("Exp", 13, FUNCTION, np.exp),
            ("Log", 13, FUNCTION, np.log),
        ("Reciprocal", 13, ROUNDED, np.reciprocal), ("Tanh", 13, FUNCTION, np.tanh), ("Sigmoid", 13, FUNCTION, sigmoid), ("Softplus", 1,
            FUNCTION, softplus),
        ("Atan", 22, FUNCTION, np.arctan), ("Asinh", 22, FUNCTION, np.arcsinh), ("Sinh", 22, FUNCTION, np.sinh), ("Cosh", 22, FUNCTION,
            np.cosh),
        ("Erf", 13, FUNCTION, None), ("IsNaN", 20, EXACT, np.isnan), ("IsInf", 20, EXACT, np.isinf), ("Identity", 16, EXACT, lambda x: x),
        ("HardSigmoid", 6, ROUNDED, lambda x: np.clip(np.float64(np.float32(0.2)) * x + 0.5, 0, 1)), ("Elu", 6, FUNCTION,
            lambda x: np.where(x < 0, np.expm1(x), x)),
        ("LeakyRelu", 16, ROUNDED, lambda x: np.where(x < 0, np.float64(np.float32(0.01)) * x, x))]:
    add(op, version, [ENDS], bound, reference=reference, name="ends")
FINITE = ENDS[np.isfinite(ENDS)]
for op, version, reference in [("Gelu", 20, tail_gelu), ("Mish", 18, mish), ("Swish", 24, lambda x: x * sigmoid(x)), ("HardSwish", 14,
    lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
                               ("Softsign", 1, lambda x: x / (1 + np.abs(x)))]:
    add(op, version, [FINITE], FUNCTION, reference=reference, name="ends")
# Tails, where the result is small: the error is still measured by the element.
TAIL = -np.geomspace(0.01, 9, 80)
for op, version, reference in [("Gelu", 20, tail_gelu), ("Mish", 18, mish), ("Swish", 24, lambda x: x * sigmoid(x)), ("Sigmoid", 13,
    sigmoid), ("Softplus", 1, softplus),
                               ("Exp", 13, np.exp), ("Elu", 6, lambda x: np.expm1(x)), ("Selu", 6,
                                   lambda x: np.float64(np.float32(1.67326319217681884765625)) * np.float64(np.float32(1.05070102214813232421875)) * np.expm1(x))]:
    add(op, version, [TAIL], FUNCTION, reference=reference, name="tail")
for op, version, reference in [("Tanh", 13, np.tanh), ("Erf", 13, None), ("Asinh", 22, np.arcsinh), ("Sinh", 22, np.sinh), ("Atanh", 22,
    np.arctanh), ("Sin", 22, np.sin), ("Tan", 22, np.tan)]:
    add(op, version, [np.geomspace(2.0 ** -12, 0.25, 60)], FUNCTION, reference=reference, name="near zero")
for op, version, reference in [("Elu", 22, np.expm1), ("Celu", 12, np.expm1), ("Gelu", 20, tail_gelu), ("Mish", 18, mish),
                               ("Selu", 22,
                                   lambda x: np.float64(np.float32(1.67326319217681884765625)) * np.float64(np.float32(1.05070102214813232421875)) * np.expm1(x))]:
    add(op, version, [-np.geomspace(2.0 ** -12, 0.5, 60)], FUNCTION, reference=reference, name="just below zero")
PAIRS = [ENDS[:11], ENDS[:11, None]]
for op, version, reference in [("Add", 14, np.add), ("Sub", 14, np.subtract), ("Mul", 14, np.multiply), ("Div", 14, np.divide), ("Equal",
    13, np.equal), ("Less", 13, np.less),
                               ("Greater", 13, np.greater), ("GreaterOrEqual", 16, np.greater_equal), ("Max", 13, np.maximum), ("Min", 13,
                                   np.minimum)]:
    add(op, version, PAIRS, ROUNDED if op in ("Add", "Sub", "Mul", "Div") else EXACT, reference=reference, name="ends")
# ONNX Runtime drops a not-a-number here, as the operator's text leaves open; numpy and we keep it.
add("ReduceMax", 18, [floats(1, np.nan, 3, np.inf).reshape(2, 2), i64(1)], EXACT, name="not a number", keepdims=0, runtime=False,
    reference=lambda x, a: x.max(1))
add("ReduceMin", 18, [floats(1, np.nan, 3, -np.inf).reshape(2, 2), i64(1)], EXACT, name="not a number", keepdims=0, runtime=False,
    reference=lambda x, a: x.min(1))
add("ReduceLogSumExp", 18, [floats(-np.inf, -np.inf, np.inf, 1, 1000, 1000).reshape(3, 2), i64(1)], FUNCTION, name="ends", keepdims=0,
    runtime=False,  # ONNX Runtime overflows in f16
    reference=lambda x, a: np.logaddexp(x[:, 0], x[:, 1]))
add("Softmax", 13, [floats(-np.inf, 1, 2, 30000, 30000, -30000).reshape(2, 3)], FUNCTION, name="ends",
    reference=lambda x: np.exp(x - x.max(1, keepdims=True)) / np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True))
add("LogSoftmax", 13, [floats(-np.inf, 1, 2, 30000, 30000, -30000).reshape(2, 3)], FUNCTION, name="ends",
    reference=lambda x: x - x.max(1, keepdims=True) - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)))
add("Clip", 13, [ENDS, np.zeros(()) - 1.5, np.zeros(()) + 2.0], EXACT, name="ends", reference=np.clip)
add("Clip", 13, [ENDS, None, np.zeros(()) + 2.0], EXACT, name="one bound", reference=lambda x, _, h: np.minimum(np.where(np.isneginf(x),
    -65504.0, x), h), types=("f16",))
add("Where", 16, [np.arange(33) % 2 > 0, ENDS, np.zeros(())], EXACT, name="ends", reference=np.where)
add("MaxPool", 22, [floats(-np.inf, -np.inf, 1, np.inf).reshape(1, 1, 2, 2)], EXACT, name="infinite", kernel_shape=[1, 2],
    reference=lambda x: x.max(3, keepdims=True))
# Sums beyond the type's range: f32 holds them on the way.
add("ReduceMean", 18, [np.full((2, 64), 60000.0), i64(1)], FUNCTION, name="a sum beyond f16", keepdims=0, reference=lambda x, a: x.mean(1))
add("ReduceL2", 18, [np.full((2, 16), 8000.0), i64(1)], FUNCTION, name="squares beyond f16", keepdims=0, reference=lambda x,
    a: np.sqrt((x * x).sum(1)))
add("MatMul", 13, [np.full((2, 64), 300.0), np.full((64, 3), 0.5) * np.where(np.arange(64) % 2, 1, -1)[:, None]], EXACT, name="cancels",
    reference=np.matmul)
add("LayerNormalization", 17, [normal(3, 64, scale=1500.0), np.ones(64)], ("s", 0.55, "squares beyond f16 on the way"),
    name="squares beyond f16",
    reference=lambda x, s: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5))
add("Add", 14, [floats(65504, -65504), floats(65504, -65504)], ROUNDED, name="overflow", reference=np.add)

# ---- Zero-size tensors
none = np.zeros((0, 3))
for op, version, inputs, bound, reference in [
        ("Relu", 14, [none], EXACT, lambda x: x), ("Add", 14, [none, np.ones(3)], EXACT, np.add), ("Mul", 14, [np.zeros((2, 0)),
            np.ones((2, 1))], EXACT, np.multiply),
        ("MatMul", 13, [np.zeros((2, 0)), np.zeros((0, 3))], EXACT, np.matmul), ("MatMul", 13, [none, np.ones((3, 4))], EXACT, np.matmul),
        ("Softmax", 13, [none], EXACT, lambda x: x), ("ReduceSum", 13, [none, i64(0)], EXACT, lambda x, a: x.sum(0, keepdims=True)),
        ("ReduceMax", 20, [none, i64(0)], EXACT, lambda x, a: np.full((1, 3), -np.inf)), ("ReduceProd", 18, [none, i64(0)], EXACT,
            lambda x, a: np.ones((1, 3))),
        ("Concat", 13, [none, np.ones((2, 3))], EXACT, lambda a, b: b), ("Transpose", 21, [none], EXACT, lambda x: x.T),
        ("Slice", 13, [np.ones((4, 3)), i64(3), i64(1)], EXACT, lambda x, *_: x[3:1]), ("Gather", 13, [np.ones((4, 3)), np.zeros((0,),
            np.int64)], EXACT, lambda x, i: x[:0]),
        ("Tile", 13, [np.ones((2, 3)), i64(0, 2)], EXACT, lambda x, r: np.zeros((0, 6))), ("Expand", 13, [np.ones((1, 3)), i64(0, 3)],
            EXACT, lambda x, s: none),
        ("Reshape", 21, [none, i64(3, 0)], EXACT, lambda x, s: x.reshape(3, 0)), ("Where", 16, [np.zeros((0, 1), bool), np.ones(3),
            np.zeros(3)], EXACT, lambda c, a, b: none),
        ("NonZero", 13, [np.zeros(5)], EXACT, lambda x: np.zeros((1, 0), np.int64)), ("Cast", 21, [none], EXACT,
            lambda x: x.astype(np.int32)),
        ("CumSum", 14, [none, at(0)], EXACT, lambda x, a: x), ("Gemm", 13, [np.zeros((2, 0)), np.zeros((0, 3)), np.ones(3)], EXACT,
            lambda a, b, c: np.ones((2, 3))),
        ("LayerNormalization", 17, [none, np.ones(3)], EXACT, lambda x, s: x), ("Pad", 21, [none, i64(1, 0, 0, 0)], EXACT, lambda x,
            p: np.zeros((1, 3)))]:
    more = dict(to=6) if op == "Cast" else dict(axis=0) if op == "Concat" else dict(allowzero=1) if op == "Reshape" else {}
    add(op, version, inputs, bound, reference=reference, name=f"zero size {'x'.join(map(str, np.shape(inputs[0])))}", attributes=more)
add("Split", 18, [np.ones((3, 2)), i64(0, 3)], EXACT, name="zero size", outputs=2, reference=lambda x, s: [x[:0], x])
add("TopK", 24, [np.ones((3, 2)), i64(0)], EXACT, name="zero of them", outputs=2, reference=lambda x, k: [np.zeros((3, 0)), np.zeros((3,
    0), np.int64)])

# ---- Scalars
one = np.zeros(()) - 2.5
for op, version, bound, reference in [("Abs", 13, EXACT, np.abs), ("Exp", 13, FUNCTION, np.exp), ("Sign", 13, EXACT, np.sign)]:
    add(op, version, [one], bound, reference=reference, name="scalar")
for op, version, inputs, reference, more in [
        ("Add", 14, [one, one], np.add, {}), ("Mul", 14, [one, normal(2, 3)], np.multiply, {}), ("ReduceSum", 13, [one], lambda x: x, {}),
            ("Unsqueeze", 21, [one, i64(0)], lambda x, a: x[None], {}),
        ("Expand", 13, [one, i64(2, 1)], lambda x, s: np.broadcast_to(x, (2, 1)), {}), ("Reshape", 21, [one, i64(1, 1)], lambda x,
            s: x.reshape(1, 1), {}),
        ("Shape", 21, [one], lambda x: np.zeros(0, np.int64), {}), ("Size", 21, [one], lambda x: at(1), {}), ("Where", 16,
            [np.array(True), one, one], np.where, {}),
        ("Gather", 13, [normal(4), at(-1)], lambda x, i: x[-1], {}), ("Squeeze", 21, [normal(1, 1)], lambda x: x.reshape(()), {}), ("Max",
            13, [one], lambda x: x, {}),
        ("Transpose", 21, [one], lambda x: x, {}), ("Einsum", 12, [normal(5), normal(5)], lambda a, b: a @ b, dict(equation="i,i->")),
            ("Flatten", 21, [one], lambda x: x.reshape(1, 1), dict(axis=0)),
        ("Cast", 21, [one], lambda x: x.astype(np.int64), dict(to=7)), ("Identity", 21, [one], lambda x: x, {})]:
    add(op, version, inputs, SUM, reference=reference, name="scalar", attributes=more)

# ---- Negative axes and steps, and their ends
M, L = -2 ** 63, 2 ** 63 - 1
for name, starts, ends, axes, steps, reference in [
        ("backwards", [-1], [M], [0], [-1], lambda x: x[::-1]), ("far ends", [M, M], [L, L], [0, 1], [1, 1], lambda x: x),
            ("far start backwards", [L], [-5], [-1], [-2], lambda x: x[:, :-5:-2]),
        ("longest step", [0], [L], [1], [L], lambda x: x[:, :1]), ("longest step backwards", [-1], [M], [1], [M], lambda x: x[:, -1:])]:
    add("Slice", 13, [normal(4, 6), i64(*starts), i64(*ends), i64(*axes), i64(*steps)], EXACT, name=name, reference=lambda x, *_,
        r=reference: r(x))
for op, version, inputs, reference, more in [
        ("ReduceSum", 13, [normal(3, 4, 5), i64(-1, -3)], lambda x, a: x.sum((0, 2)), dict(keepdims=0)), ("Softmax", 13, [normal(3, 4)],
            lambda x: np.exp(x) / np.exp(x).sum(0), dict(axis=-2)),
        ("Flatten", 21, [normal(2, 3, 4)], lambda x: x.reshape(6, 4), dict(axis=-1)), ("Gather", 13, [normal(3, 4), i64(-4, 3)], lambda x,
            i: x[:, i], dict(axis=-1)),
        ("LayerNormalization", 17, [normal(2, 3, 8), np.ones((3, 8))], lambda x, s: (x - x.mean((1, 2),
            keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5), dict(axis=-2)),
        ("TensorScatter", 24, [normal(1, 2, 6, 3), normal(1, 2, 2, 3)], lambda x, u: np.concatenate([u, x[:, :, 2:]], 2), {})]:
    add(op, version, inputs, ("s", 0.55, "a sum in f32, rounded once"), reference=reference, name="negative axis", attributes=more)

# ---- Broadcasts
for name, a, b in [("leading ones", (1, 1, 4), (3, 4)), ("both ways", (3, 1, 5), (1, 4, 1)), ("scalar", (), (2, 3)), ("one by many axes",
    (1,), (2, 3, 1, 5)), ("inner axis", (2, 1, 3, 1), (4, 1, 7)),
                   ("six axes", (2, 1, 2, 1, 2, 1), (1, 3, 1, 3, 1, 3)), ("nothing", (2, 1), (1, 0))]:
    for op, reference in [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply)]:
        add(op, 14, [normal(*a), normal(*b)], ROUNDED, name="broadcast " + name, reference=reference)
    add("Less", 13, [normal(*a), normal(*b)], EXACT, name="broadcast " + name, reference=np.less)
add("Where", 16, [np.array([[[True]], [[False]]]), normal(3, 1), normal(4)], EXACT, name="broadcast three ways", reference=np.where)
add("MatMul", 13, [normal(2, 1, 3, 8), normal(4, 8, 5)], SUM, name="broadcast batches", reference=np.matmul)
add("Gemm", 13, [normal(4, 8), normal(8, 5), normal(4, 1)], SUM, name="broadcast column", reference=lambda a, b, c: a @ b + c)
add("Expand", 13, [normal(3, 1), i64(1)], EXACT, name="shorter shape", reference=lambda x, s: x)

# ---- The ends of int64
E = i64(M, M + 1, -1, 0, 1, L - 1, L, 2 ** 53 + 1, -(2 ** 53) - 1)


def whole(op, version, inputs, reference, name="int64 ends", **more):
    add(op, version, inputs, EXACT, reference=reference, name=name, types=("f32",), **more)


for op, version, reference in [("Add", 14, np.add), ("Sub", 14, np.subtract), ("Mul", 14, np.multiply), ("Equal", 13, np.equal), ("Less",
    13, np.less), ("Greater", 13, np.greater),
                               ("LessOrEqual", 16, np.less_equal), ("GreaterOrEqual", 16, np.greater_equal), ("Max", 13, np.maximum),
                                   ("Min", 13, np.minimum),
                               ("BitwiseAnd", 18, np.bitwise_and), ("BitwiseXor", 18, np.bitwise_xor)]:
    whole(op, version, [E, E[:, None]], reference)
whole("Div", 14, [i64(M, L, L, 7, -7, 2 ** 53 + 1), i64(1, -1, 2, -2, 2, 1)], lambda a, b: i64(M, -L, L // 2, -3, -3, 2 ** 53 + 1))
whole("Mod", 13, [i64(M, L, -7, 7, M), i64(2, 10, 3, -3, 10)], np.mod)
whole("Mod", 13, [i64(M, L, -7, 7, M), i64(2, 10, 3, -3, 10)], lambda a, b: i64(0, 7, -1, 1, -8), name="int64 ends fmod", fmod=1,
    runtime=False)  # through double in ONNX Runtime
whole("Abs", 13, [i64(M + 1, L, -1)], np.abs)
whole("Neg", 13, [i64(M + 1, L, -1)], np.negative)
whole("Sign", 13, [E], np.sign)
whole("Clip", 13, [E, at(-(2 ** 53) - 1), at(2 ** 53 + 1)], np.clip)
whole("ReduceMax", 20, [E], lambda x: x.max(keepdims=True))
whole("ReduceMin", 20, [E], lambda x: x.min(keepdims=True))
whole("ReduceSum", 13, [i64(L, -1, M, 1, 2 ** 53 + 1)], lambda x: x.sum(keepdims=True))
whole("CumSum", 14, [i64(2 ** 53, 1, 1, M, 5), at(0)], lambda x, a: np.cumsum(x))
whole("ArgMax", 13, [i64(2 ** 53, 2 ** 53 + 1, 5)], lambda x: i64(1), axis=0)
whole("ArgMin", 13, [i64(M + 1, M, 5)], lambda x: i64(1), axis=0)
whole("TopK", 24, [E, i64(4)], lambda x, k: [i64(L, L - 1, 2 ** 53 + 1, 1), i64(6, 5, 7, 4)], outputs=2)
whole("Unique", 11, [i64(L, M, L)], lambda x: [i64(M, L)], outputs=1)
whole("Where", 16, [E > 0, E, at(M)], np.where)
whole("Range", 11, [at(L - 5), at(L), at(2)], lambda a, b, d: i64(L - 5, L - 3, L - 1), runtime=False)  # nothing in ONNX Runtime
whole("Gather", 13, [E, i64(-9, 8)], lambda x, i: x[i])
whole("ScatterElements", 18, [E, i64(0, -1), i64(L, M)], lambda x, i, u: i64(L, *E[1:-1], M), axis=0)
whole("NonZero", 13, [E], lambda x: np.stack(np.nonzero(x)))
whole("Cast", 21, [E], lambda x: x.astype(np.float32), to=1, wide_output=True)
whole("Cast", 21, [E], lambda x: x != 0, name="int64 ends to bool", to=9)
whole("Cast", 21, [i64(2 ** 31 - 1, -(2 ** 31), 0)], lambda x: x.astype(np.int32), name="int64 to int32", to=6)
whole("Pow", 15, [i64(3, -3, 2, 10), i64(39, 39, 62, 18)], lambda a, b: i64(3 ** 39, -(3 ** 39), 2 ** 62, 10 ** 18),
    runtime=False)  # through double in ONNX Runtime
whole("MatMul", 13, [i64(2 ** 53, 1).reshape(1, 2), i64(1, 1).reshape(2, 1)], np.matmul)
