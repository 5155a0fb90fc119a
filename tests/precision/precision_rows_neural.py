"""Products, convolutions, pooling, normalisations, recurrent and attention operators, resampling, quantisation, what the builder writes."""
import numpy as np

from precision_rows import sigmoid, tail_gelu
from row import CHAIN, EXACT, FUNCTION, ROUNDED, SUM, at, floats, i64, normal, row, uniform

ROWS = []
MS = "com.microsoft."


def add(*args, **more):
    ROWS.append(row(*args, **more))


# ---- Products
for name, a, b in [("vector", (1, 300), (300, 40)), ("few rows", (5, 300), (300, 33)), ("many rows", (70, 129), (129, 65)), ("batched",
    (2, 3, 9, 31), (3, 31, 17)),
                   ("one dimension", (300,), (300,))]:
    add("MatMul", (6, 9, 13), [normal(*a), normal(*b)], SUM, name=name, reference=np.matmul)
add("Gemm", (7, 9, 11, 13), [normal(40, 20), normal(30, 40), normal(30)], SUM, transA=1, transB=1, alpha=0.5, beta=2.0,
    reference=lambda a, b, c: 0.5 * (a.T @ b.T) + 2 * c)
add(MS + "FusedMatMul", 1, [normal(2, 40, 9), normal(7, 40)], SUM, transA=1, transB=1, alpha=0.25, reference=lambda a,
    b: 0.25 * np.matmul(a.swapaxes(-1, -2), b.T))
for name, equation, shapes in [("product", "bij,bjk->bik", [(2, 9, 30), (2, 30, 7)]), ("trace", "...ii->...i", [(3, 5, 5)]), ("outer sum",
    "i,j,ik->k", [(9,), (7,), (9, 4)])]:
    add("Einsum", 12, [normal(*s) for s in shapes], SUM, name=name, equation=equation, reference=lambda *x, e=equation: np.einsum(e, *x))
add("Det", (11, 22), [normal(3, 4, 4)], SUM, reference=np.linalg.det)

# ---- Convolutions and pooling
for name, x, w, more in [("3x3", (2, 8, 13, 11), (12, 8, 3, 3), dict(pads=[1, 1, 1, 1])), ("1x1", (1, 16, 9, 9), (24, 16, 1, 1), {}),
                         ("groups dilated", (1, 8, 15, 15), (8, 4, 3, 3), dict(group=2, dilations=[2, 2], strides=[2, 1])),
                         ("depthwise", (1, 8, 14, 14), (8, 1, 3, 3), dict(group=8, auto_pad="SAME_UPPER")), ("line", (2, 6, 40), (5, 6,
                             5), dict(strides=[3])),
                         ("volume", (1, 3, 6, 5, 7), (4, 3, 2, 3, 2), {})]:
    add("Conv", (6, 11, 22), [normal(*x), normal(*w), normal(w[0])], SUM, name=name, attributes=more)
add("ConvTranspose", (6, 11, 22), [normal(1, 6, 7, 5), normal(6, 4, 3, 3), normal(4)], SUM, strides=[2, 2], pads=[1, 1, 1, 1],
    output_padding=[1, 0])
add("DeformConv", (19, 22), [normal(1, 3, 6, 6), normal(4, 3, 3, 3), uniform(-1, 1, 1, 18, 4, 4), normal(4), uniform(0, 1, 1, 9, 4, 4)],
    SUM)
add("CausalConvWithState", 27, [normal(2, 6, 9), normal(6, 1, 4), normal(6), normal(2, 6, 3)], SUM, outputs=2)
add("Col2Im", 18, [normal(1, 8, 9), i64(4, 4), i64(2, 2)], SUM)
POOL = dict(kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
add("MaxPool", (8, 10, 11, 12, 22), [normal(1, 3, 9, 8)], EXACT, attributes=POOL)
add("AveragePool", (7, 10, 11, 19, 22), [normal(1, 3, 9, 8)], SUM, attributes=POOL)
add("AveragePool", (7, 11, 19), [normal(1, 3, 9, 8)], SUM, name="padding counts", count_include_pad=1, attributes=POOL)
add("LpPool", (11, 18, 22), [normal(1, 3, 9, 8)], SUM, p=2, attributes=POOL)
add("GlobalAveragePool", (6, 22), [normal(2, 3, 40, 30)], SUM)
add("GlobalMaxPool", (6, 22), [normal(2, 3, 9, 8)], EXACT)
add("GlobalLpPool", (6, 22), [normal(2, 3, 9, 8)], SUM, p=2, reference=lambda x: np.sqrt((x * x).sum((2, 3), keepdims=True)))
BOXES = floats(0, 0.5, 0.5, 6.5, 5, 1, 1, 7, 7.5).reshape(1, 9)


def max_roi(x, rois):
    y = np.zeros((len(rois), x.shape[1], 2, 2))
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        sx, sy, ex, ey = (int(np.floor(v + 0.5)) for v in (x1, y1, x2, y2))
        h, w = max(ey - sy + 1, 1) / 2, max(ex - sx + 1, 1) / 2
        for i in range(2):
            for j in range(2):
                rows = slice(sy + int(np.floor(i * h)), sy + int(np.ceil((i + 1) * h)))
                columns = slice(sx + int(np.floor(j * w)), sx + int(np.ceil((j + 1) * w)))
                y[r, :, i, j] = x[int(image), :, rows, columns].max((1, 2))
    return y


add("MaxRoiPool", (6, 22), [normal(2, 3, 9, 9), floats(0, 1, 1, 6, 5, 1, 0, 2, 7, 8).reshape(2, 5)], EXACT, pooled_shape=[2, 2],
    reference=max_roi)
add("RoiAlign", 10, [normal(2, 3, 9, 9), floats(0.5, 0.5, 6.5, 5, 1, 1, 7, 7.5).reshape(2, 4), i64(0, 1)], SUM, output_height=3,
    output_width=2, sampling_ratio=2,
    same_as=(16, dict(coordinate_transformation_mode="output_half_pixel")))
add("RoiAlign", (16, 22), [normal(2, 3, 9, 9), floats(0.5, 0.5, 6.5, 5, 1, 1, 7, 7.5).reshape(2, 4), i64(0, 1)], SUM, output_height=3,
    output_width=2, sampling_ratio=2)

# ---- Normalisations. Rows around 3: what is subtracted is larger than what is left.
ROW = normal(3, 5, 96, around=3.0)


def standard(x, axes, epsilon=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def rms(x, epsilon=1e-5):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


IMAGE = [normal(2, 6, 9, 7, around=3.0), normal(6, around=1.0), normal(6)]


def per_channel(x, s, b):
    return x * s[:, None, None] + b[:, None, None]


add("BatchNormalization", (7, 9, 14, 15), IMAGE + [normal(6), uniform(0.5, 2, 6)], SUM,
    reference=lambda x, s, b, m, v: per_channel((x - m[:, None, None]) / np.sqrt(v[:, None, None] + 1e-5), s, b))
add("InstanceNormalization", (6, 22), IMAGE, CHAIN, reference=lambda x, s, b: per_channel(standard(x, (2, 3)), s, b))
grouped = lambda x: standard(x.reshape(2, 3, -1), 2).reshape(x.shape)
add("GroupNormalization", 18, [normal(2, 6, 9, 7, around=3.0), normal(3, around=1.0), normal(3)], CHAIN, num_groups=3,
    reference=lambda x, s, b: per_channel(grouped(x), s.repeat(2), b.repeat(2)))
add("GroupNormalization", 21, IMAGE, CHAIN, num_groups=3, reference=lambda x, s, b: per_channel(grouped(x), s, b))
add("LayerNormalization", 17, [ROW, normal(96, around=1.0), normal(96)], CHAIN, reference=lambda x, s, b: standard(x, -1) * s + b)
add("RMSNormalization", 23, [ROW, normal(96, around=1.0)], CHAIN, reference=lambda x, s: rms(x) * s)
for domain, version in [("", 17), (MS, 1)]:
    add(domain + "SimplifiedLayerNormalization", version, [ROW, normal(96, around=1.0)], CHAIN, reference=lambda x, s: rms(x) * s,
        axis=-1, epsilon=1e-5)
SKIP = [ROW, normal(3, 5, 96), normal(96, around=1.0)]
add(MS + "SkipSimplifiedLayerNormalization", 1, SKIP, CHAIN, reference=lambda x, k, s: [rms(x + k) * s, x + k], outputs=(True, False,
    False, True), epsilon=1e-5)
add(MS + "SkipLayerNormalization", 1, SKIP + [normal(96), normal(96)], CHAIN, outputs=(True, False, False, True), epsilon=1e-5,
    reference=lambda x, k, s, b, bias: [standard(x + k + bias, -1) * s + b, x + k + bias])
add("LpNormalization", (6, 22), [normal(4, 60)], SUM, p=1, axis=-1, reference=lambda x: x / np.abs(x).sum(-1, keepdims=True))
add("LpNormalization", (6, 22), [normal(4, 60)], SUM, p=2, axis=0, name="first axis", reference=lambda x: x / np.sqrt((x * x).sum(0,
    keepdims=True)))
add("LRN", (6, 13), [normal(1, 9, 4, 4)], SUM, size=3, alpha=0.5, beta=0.75, bias=1.5,
    reference=lambda x: x / (1.5 + 0.5 / 3 * (np.pad(x * x, [(0, 0), (1, 1), (0, 0), (0, 0)])[:, [range(c,
    c + 3) for c in range(9)]].sum(2))) ** 0.75)
add("MeanVarianceNormalization", (9, 13), [normal(2, 3, 9, 7, around=3.0)], CHAIN, reference=lambda x: standard(x, (0, 2, 3), 0.0))


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def log_softmax(x, axis=-1):
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


for name, axis in [("last", -1), ("middle", 1)]:
    add("Softmax", 13, [normal(3, 70, 40, scale=3)], FUNCTION, name=name, axis=axis, reference=lambda x, a=axis: softmax(x, a))
    add("LogSoftmax", 13, [normal(3, 70, 40, scale=3)], SUM, name=name, axis=axis, reference=lambda x, a=axis: log_softmax(x, a))
    add("Hardmax", 13, [normal(3, 70, 40)], EXACT, name=name, axis=axis, reference=lambda x, a=axis: (np.arange(x.shape[a]).reshape((-1,
        ) + (1,) * (x.ndim - 1 - a % 3)) == x.argmax(a, keepdims=True)) * 1.0)
flat_last = lambda f: lambda x: f(x.reshape(len(x), -1)).reshape(x.shape)
add("Softmax", (6, 11), [normal(4, 7, 30)], FUNCTION, axis=1, name="flattened", reference=flat_last(softmax))
add("LogSoftmax", (6, 11), [normal(4, 7, 30)], SUM, axis=1, name="flattened", reference=flat_last(log_softmax))

# ---- Recurrent
T, N, I, H = 6, 2, 5, 7


def lstm(x, w, r, b, _, h, c):
    hidden = []
    h, c = h[0], c[0]
    for step in x:
        i, o, f, g = np.split(step @ w[0].T + h @ r[0].T + b[0, :4 * H] + b[0, 4 * H:], 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        hidden.append(h)
    return [np.stack(hidden)[:, None], h[None], c[None]]


def gru(x, w, r, b, _, h):
    hidden = []
    h = h[0]
    for step in x:
        wz, wr, wh = np.split(step @ w[0].T + b[0, :3 * H], 3, 1)
        rz, rr, rh = np.split(h @ r[0].T + b[0, 3 * H:], 3, 1)
        z = sigmoid(wz + rz)
        h = (1 - z) * np.tanh(wh + sigmoid(wr + rr) * rh) + z * h
        hidden.append(h)
    return [np.stack(hidden)[:, None], h[None]]


def rnn(x, w, r, b, _, h):
    hidden = []
    h = h[0]
    for step in x:
        h = np.tanh(step @ w[0].T + h @ r[0].T + b[0, :H] + b[0, H:])
        hidden.append(h)
    return [np.stack(hidden)[:, None], h[None]]


for op, gates, reference, more in [("LSTM", 4, lstm, {}), ("GRU", 3, gru, dict(linear_before_reset=1)), ("RNN", 1, rnn, {})]:
    states = [normal(1, N, H)] * (2 if op == "LSTM" else 1)
    add(op, (7, 14, 22), [normal(T, N, I), normal(1, gates * H, I), normal(1, gates * H, H), normal(1, 2 * gates * H), None] + states,
        CHAIN,
        outputs=3 if op == "LSTM" else 2, reference=reference, hidden_size=H, attributes=more)

# ---- Attention and positions
Q, K, V = normal(2, 6, 5, 16), normal(2, 3, 9, 16), normal(2, 3, 9, 12)


def attend(q, k, v, scale=None, bias=0.0, empty=0.0, cap=0.0):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(group, 1), v.repeat(group, 1)
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if cap:
        scores = cap * np.tanh(scores / cap)
    scores = scores + bias
    nothing = np.isneginf(scores).all(-1, keepdims=True)
    return np.where(nothing, empty, softmax(np.where(nothing, 0, scores))) @ v


def causal(queries, keys):
    return np.where(np.arange(keys) > np.arange(queries)[:, None] + keys - queries, -np.inf, 0)


def top_left(queries, keys):
    return np.where(np.arange(keys) > np.arange(queries)[:, None], -np.inf, 0)


add("Attention", (23, 24), [Q, K, V], CHAIN, name="grouped", reference=attend)
add("Attention", (23, 24), [normal(2, 4, 70, 32), normal(2, 4, 70, 32), normal(2, 4, 70, 32)], CHAIN, name="causal long", is_causal=1,
    softcap=5.0,
    reference=lambda q, k, v: attend(q, k, v, bias=top_left(70, 70), cap=5.0))
add("Attention", (23, 24), [Q, K, V, normal(2, 1, 5, 9)], CHAIN, name="added mask", reference=lambda q, k, v, m: attend(q, k, v, bias=m))
NOTHING = np.arange(45).reshape(5, 9) % 3 > 0
NOTHING[1], NOTHING[4] = False, True
add("Attention", (23, 24), [Q, K, V, NOTHING], CHAIN, name="a row sees nothing", reference=lambda q, k, v, m: attend(q, k, v,
    bias=np.where(m, 0, -np.inf)))
add("Attention", (23, 24), [normal(2, 3, 1, 16), normal(2, 3, 1, 16), normal(2, 3, 1, 16), None, normal(2, 3, 40, 16), normal(2, 3, 40,
    16)], CHAIN, name="past",
    outputs=3, reference=lambda q, k, v, _, pk, pv: [attend(q, np.concatenate([pk, k], 2), np.concatenate([pv, v], 2)),
        np.concatenate([pk, k], 2), np.concatenate([pv, v], 2)])
for name, more, empty in [("as softmax", {}, np.nan), ("zero rows", dict(nan_rows=1), 0.0)]:
    add("forebay.Attention", 1, [Q, K, V, NOTHING], CHAIN, name=name, attributes=more, runtime=False,
        reference=lambda q, k, v, m, e=empty: attend(q, k, v, bias=np.where(m, 0, -np.inf), empty=e))
by_head = lambda x, n: x.reshape(*x.shape[:2], n, -1).transpose(0, 2, 1, 3)
joined = lambda x: x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)
add(MS + "MultiHeadAttention", 1, [normal(2, 5, 48), normal(2, 9, 48), normal(2, 9, 48), normal(144)], CHAIN, num_heads=3, weights=("i3",),
    reference=lambda q, k, v, b: joined(attend(*(by_head(x + c, 3) for x, c in zip((q, k, v), np.split(b, 3))))))
add(MS + "GroupQueryAttention", 1, [normal(2, 1, 64), normal(2, 1, 32), normal(2, 1, 32), normal(2, 2, 20, 16), normal(2, 2, 20, 16),
    np.array([20, 20], np.int32), np.array(21, np.int32)],
    CHAIN, outputs=3, num_heads=4, kv_num_heads=2, weights=("i6",),
    reference=lambda q, k, v, pk, pv, *_: (lambda keys, values: [joined(attend(by_head(q, 4), keys, values)), keys, values])(
        np.concatenate([pk, by_head(k, 2)], 2), np.concatenate([pv, by_head(v, 2)], 2)))


def rotate(x, cos, sin):
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


PLACES = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], np.int64)
ANGLES = [lambda rng: np.cos(rng.uniform(0, 6, (16, 8))), lambda rng: np.sin(rng.uniform(0, 6, (16, 8)))]
add("RotaryEmbedding", 23, [normal(2, 3, 5, 16)] + ANGLES + [PLACES], SUM, reference=lambda x, c, s, p: rotate(x, c[p][:, None], s[p][:,
    None]))
add(MS + "RotaryEmbedding", 1, [normal(2, 3, 5, 16), PLACES] + ANGLES, SUM, reference=lambda x, p, c, s: rotate(x, c[p][:, None], s[p][:,
    None]))
add("forebay.RotateHalf", 1, [normal(2, 3, 5, 16), normal(5, 8), normal(5, 8)], SUM, runtime=False, reference=rotate)
add("LinearAttention", 27, [normal(2, 6, 32), normal(2, 6, 32), normal(2, 6, 32)], CHAIN, outputs=2, runtime=False, q_num_heads=2,
    kv_num_heads=2, update_rule="linear")

# ---- Resampling and signals
for version, lead in [(10, []), (11, [np.zeros(0, np.float32)]), (13, [None]), (19, [None])]:
    for mode in ("nearest", "linear", "cubic"):
        if version == 10 and mode == "cubic":
            continue
        place = {} if version == 10 else dict(coordinate_transformation_mode="half_pixel")
        old = {} if version > 10 else dict(reference=(lambda x, s: x.repeat(2, 2).repeat(3, 3)) if mode == "nearest" else lambda x,
            s: asymmetric(x))
        add("Resize", version, [normal(1, 2, 5, 4)] + lead + [np.array([1, 1, 2, 3], np.float32)], EXACT if mode == "nearest" else SUM,
            name=mode, mode=mode, attributes=place, **old)


def asymmetric(x):
    for axis, factor in ((2, 2), (3, 3)):
        size = x.shape[axis]
        place = np.arange(size * factor) / factor
        low = np.floor(place).astype(int)
        high, part = np.minimum(low + 1, size - 1), place - low
        part = part.reshape((-1,) + (1,) * (3 - axis))
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


GRID = uniform(-1.2, 1.2, 1, 6, 5, 2)
for version, mode in [(16, "bilinear"), (20, "linear"), (16, "bicubic"), (20, "cubic"), (16, "nearest"), (20, "nearest")]:
    add("GridSample", version, [normal(1, 2, 7, 8), GRID], EXACT if mode == "nearest" else SUM, name=mode, mode=mode, align_corners=1,
        same_as=(20, dict(mode=mode.removeprefix("bi"))))
add("AffineGrid", 20, [normal(1, 2, 3), i64(1, 2, 4, 5)], SUM)
add("DFT", 17, [normal(1, 60, 1)], CHAIN, axis=1, reference=lambda x: complex_pairs(np.fft.fft(x[..., 0], axis=1)))
add("DFT", 20, [normal(1, 64, 1), None, at(1)], CHAIN, onesided=1, reference=lambda x, *_: complex_pairs(np.fft.rfft(x[..., 0], axis=1)))
add("STFT", 17, [normal(1, 128, 1), at(16), normal(32), at(32)], CHAIN,
    reference=lambda x, s, w, l: complex_pairs(np.stack([np.fft.rfft(x[:, i:i + 32, 0] * w, axis=1) for i in range(0, 97, 16)], 1)))


def complex_pairs(z):
    return np.stack([z.real, z.imag], -1)


# ---- Quantisation
CODES = np.arange(-128, 128, dtype=np.int8).reshape(4, 64)
add("DequantizeLinear", (19, 21, 23), [CODES, np.zeros(()) + 0.0625, np.array(3, np.int8)], ROUNDED, reference=lambda c, s,
    z: (c.astype(np.float64) - z) * s)
add("DequantizeLinear", (21, 23), [CODES, uniform(0.01, 0.1, 4, 4)], ROUNDED, name="blocked", axis=1, block_size=16, reference=lambda c,
    s: c * s.repeat(16, 1))
add("QuantizeLinear", (19, 21, 23), [normal(4, 64, scale=9), np.zeros(()) + 0.25, np.array(5, np.uint8)], EXACT,
    reference=lambda x, s, z: np.clip(np.rint(x / s) + z, 0, 255).astype(np.uint8))
W4 = lambda rng: rng.integers(0, 256, (24, 3, 16), dtype=np.uint8)


def nibbles(codes):
    return np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1).astype(np.float64)


def nbits(a, w, scales):
    return a @ ((nibbles(w) - 8) * scales.reshape(24, 3, 1)).reshape(24, 96).T


add(MS + "MatMulNBits", 1, [normal(5, 96), W4, uniform(0.01, 0.1, 72)], SUM, K=96, N=24, bits=4, block_size=32, reference=nbits,
    weights=("i1", "i2"))
rounded_rows = lambda w, s: ((nibbles(w) - 8).reshape(20, 2, 32) * s[..., None]).reshape(20, 64)
ROWS4 = lambda rng: rng.integers(0, 256, (20, 32), dtype=np.uint8)
add(MS + "GatherBlockQuantized", 1, [ROWS4, np.array([[0, 3, -1]], np.int64), uniform(0.01, 0.1, 20, 2)], ROUNDED, gather_axis=0,
    quantize_axis=1, block_size=32, bits=4,
    reference=lambda w, i, s: rounded_rows(w, s)[i])
add("forebay.DequantRows", 1, [ROWS4, uniform(0.01, 0.1, 20, 2)], ROUNDED, block_size=32, bits=4, quantize_axis=1, runtime=False,
    reference=rounded_rows)
add("forebay.QuantLinear", 1, [normal(5, 64), CODES, np.zeros(()) + 0.0625], SUM, transB=1, runtime=False, reference=lambda x, c,
    s: x @ (c * s).T)

# ---- What the builder writes
for activation, f in [("", lambda x: x), ("Relu", lambda x: np.maximum(x, 0)), ("Gelu", tail_gelu), ("Swish", lambda x: x * sigmoid(x))]:
    more = dict(activation=activation, activation_alpha=1.0) if activation else {}
    add("forebay.Linear", 1, [normal(9, 80), normal(33, 80), normal(33)], SUM, name=activation, runtime=False, attributes=more,
        reference=lambda x, w, b, f=f: f(x @ w.T + b))
add("forebay.Conv", 1, [normal(2, 8, 9, 9), normal(12, 8, 1, 1), normal(12)], SUM, runtime=False, activation="Relu",
    reference=lambda x, w, b: np.maximum(np.einsum("nchw,fc->nfhw", x, w[:, :, 0, 0]) + b[:, None, None], 0))
FILTER_CODES = lambda rng: rng.integers(-128, 128, (12, 8, 1, 1), dtype=np.int8)
add("forebay.QuantConv", 1, [normal(2, 8, 9, 9), FILTER_CODES, np.zeros(12) + 0.03125, None, normal(12)], SUM, runtime=False, axis=0,
    activation="Relu", reference=lambda x, c, s, _, b: np.maximum(np.einsum("nchw,fc->nfhw", x, c[:, :, 0, 0] * s[:, None]) +
    b[:, None, None], 0))
add("forebay.NhwcConv", 1, [normal(2, 9, 9, 8), normal(12, 8), normal(12)], SUM, runtime=False, activation="Relu", kernel_shape=[1, 1],
    reference=lambda x, w, b: np.maximum(x @ w.T + b, 0))
add("forebay.NhwcMaxPool", 1, [normal(2, 6, 8, 5)], EXACT, runtime=False, kernel_shape=[2, 2], strides=[2, 2],
    reference=lambda x: x.reshape(2, 3, 2, 4, 2, 5).max((2, 4)))
add("forebay.NhwcAveragePool", 1, [normal(2, 6, 8, 5)], SUM, runtime=False, kernel_shape=[2, 2], strides=[2, 2],
    reference=lambda x: x.reshape(2, 3, 2, 4, 2, 5).mean((2, 4)))
add("forebay.NhwcGlobalAveragePool", 1, [normal(2, 6, 8, 5)], SUM, runtime=False, reference=lambda x: x.mean((1, 2), keepdims=True))
add("forebay.NhwcScale", 1, [normal(2, 6, 8, 5), normal(2, 1, 1, 5)], ROUNDED, runtime=False, reference=lambda x, s: x * s)
add("forebay.NhwcSqueeze", 1, [normal(2, 6, 8, 16), normal(6, 16), normal(6), normal(16, 6), normal(16)], SUM, runtime=False,
    squeeze_activation="Relu", activation="Sigmoid",
    reference=lambda x, w, b, v, c: sigmoid(np.maximum(x.mean((1, 2)) @ w.T + b, 0) @ v.T + c)[:, None, None])
add("forebay.NhwcFromNchw", 1, [normal(2, 3, 6, 8)], EXACT, runtime=False, channels=4,
    reference=lambda x: np.pad(x.transpose(0, 2, 3, 1), [(0, 0)] * 3 + [(0, 1)]))


def route(scores):
    best = np.argsort(-scores, 1, kind="stable")[:, :2]
    chosen = np.take_along_axis(softmax(scores), best, 1)
    return [best.astype(np.int32), chosen / chosen.sum(1, keepdims=True)]


add("forebay.ExpertRoute", 1, [normal(6, 8)], ("e", 4.0, "a softmax and a division in f32, which is the type of the result"), outputs=2,
    k=2, normalize=1, runtime=False, wide_output=True, reference=route)
EXPERTS = np.array([[0, 3], [2, 1], [3, 3]], np.int32)
add("forebay.ExpertLinear", 1, [normal(3, 40), normal(4, 10, 40), EXPERTS, normal(4, 10)], SUM, runtime=False,
    reference=lambda x, w, i, b: np.einsum("ri,rkoi->rko", x, w[i]) + b[i])
EXPERT_CODES = lambda rng: rng.integers(0, 256, (4, 10, 32), dtype=np.uint8)
add("forebay.ExpertQuantLinear", 1, [normal(3, 64), EXPERT_CODES, uniform(0.01, 0.1, 4, 10, 2), None, EXPERTS, normal(4, 10)], SUM,
    runtime=False, bits=4, block_size=32,
    reference=lambda x, w, s, _, i, b: np.einsum("ri,rkoi->rko", x, ((nibbles(w).reshape(4, 10, 2, 32) - 8) * s[..., None]).reshape(4, 10,
    64)[i]) + b[i])
add("forebay.SwiGlu", 1, [normal(6, 20, scale=2)], FUNCTION, form=1, alpha=1.702, beta=1.0, limit=2.0, runtime=False,
    reference=lambda x: (lambda g, l: g * sigmoid(np.float64(np.float32(1.702)) * g) * (l + 1))(np.minimum(x[:, ::2], 2.0), np.clip(x[:,
    1::2], -2.0, 2.0)))
add("forebay.ExpertCombine", 1, [normal(6, 2, 20), lambda rng: rng.uniform(0, 1, (6, 2)).astype(np.float32), normal(6, 20)], SUM,
    runtime=False,
    reference=lambda y, w, _: np.einsum("rko,rk->ro", y, w.astype(np.float64)))
