"""Models of one com.microsoft node each, with inputs from a seed and outputs by ONNX Runtime, in folders as the ONNX backend tests have them.

usage: vendor_ops_cases.py OUTDIR
Exits with 77 where the packages are missing. Not-a-number in an expected output: nothing is promised there (rows of padding).
"""
import os
import sys
import zlib

try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
except ImportError:
    sys.exit(77)

MS = "com.microsoft"
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int32": TensorProto.INT32, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}


class Cases:
    def __init__(self, root):
        self.root = root
        self.made = self.refused = 0

    def run(self, op, inputs, outputs, attrs, domain):
        names = [n if a is not None else "" for n, a, _ in inputs]
        node = helper.make_node(op, names, outputs, name="node", domain=domain, **attrs)
        given = [(n, a) for n, a, w in inputs if a is not None and not w]
        first = next(a.dtype.name for n, a, w in inputs if a is not None and a.dtype.name.startswith("float"))
        types = {o: TYPES["int32"] if o == "mask_index" else TYPES[first] for o in outputs}
        graph = helper.make_graph(
            [node], "g", [helper.make_tensor_value_info(n, TYPES[a.dtype.name], a.shape) for n, a in given],
            [helper.make_tensor_value_info(o, types[o], None) for o in outputs if o],
            [numpy_helper.from_array(a, n) for n, a, w in inputs if a is not None and w])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=8)
        return model, dict(given)

    def add(self, name, op, inputs, attrs=None, outputs=("y",), want=None, reference=None, forget=None, domain=MS):
        """inputs: (name, array or None, is weight). want: expected arrays, else ONNX Runtime's, of `reference` = (inputs, attrs) where it has no kernel for
        this form. forget: f(outputs) puts not-a-number where nothing is promised."""
        outputs = list(outputs)
        model, feed = self.run(op, inputs, outputs, attrs or {}, domain)
        if want is None:
            asked, asked_feed = (model, feed) if reference is None else self.run(op, reference[0], outputs, reference[1], domain)
            options = ort.SessionOptions()
            options.log_severity_level = 4
            try:
                session = ort.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
                want = session.run([o for o in outputs if o], asked_feed)
            except Exception as error:  # ONNX Runtime has no kernel of this type
                print("left out", name, str(error).splitlines()[0][:200], file=sys.stderr)
                self.refused += 1
                return
        if forget is not None:
            want = [np.array(w) for w in want]
            forget(want)
        self.write(name, model, feed, [o for o in outputs if o], want)

    def write(self, name, model, feed, outputs, want):
        folder = os.path.join(self.root, name)
        data = os.path.join(folder, "test_data_set_0")
        os.makedirs(data)
        onnx.save(model, os.path.join(folder, "model.onnx"))
        for i, (n, a) in enumerate(feed.items()):
            with open(os.path.join(data, f"input_{i}.pb"), "wb") as f:
                f.write(numpy_helper.from_array(a, n).SerializeToString())
        for i, (n, a) in enumerate(zip(outputs, want)):
            with open(os.path.join(data, f"output_{i}.pb"), "wb") as f:
                f.write(numpy_helper.from_array(np.ascontiguousarray(a), n).SerializeToString())
        self.made += 1


def random(name, dtype):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng, lambda *shape, scale=1.0: (rng.standard_normal(shape) * scale).astype(dtype)


def multi_head(c, tag, dtype):
    B, S, L, N, D, DV, P = 2, 3, 5, 4, 8, 6, 4

    def one(name, bias=False, padding=None, added=None, past=False, attrs=None, length=L, form="apart", dv=D, S=S, D=D, P=P, buffer=0, scores=False):
        """buffer: rows of a cache of which P are filled; scores: the output qk is wanted."""
        rng, r = random("mha" + name, dtype)
        T = length + (P if past else 0)
        q, k, v = r(B, S, N * D), r(B, length, N * D), r(B, length, N * dv)
        b = r(N * (2 * D + dv)) if bias else None
        masks = {None: None, "lengths": np.array([2, T - 1], np.int32),
                 "starts": np.array([2, T - 1, 0, S, 2 * S, 0, 2, T + 1], np.int32), "keys": (rng.random((B, T)) < 0.7).astype(np.int32),
                 "full": (rng.random((B, S, T)) < 0.7).astype(np.int32), "left": (np.arange(T)[None] >= np.array([[2], [1]])).astype(np.int32),
                 "nothing": np.array([[0] * T, [1] * T], np.int32)}
        mask = masks[padding]
        if padding in ("keys", "full"):
            mask[..., 0] = 1
        extra = r(*added, S, T) if added else None
        pk, pv = (r(B, N, buffer or P, D), r(B, N, buffer or P, dv)) if past else (None, None)
        rest = [("bias", b, True), ("mask", mask, False), ("added", extra, False), ("past_key", pk, False), ("past_value", pv, False)]
        if buffer:
            rest.append(("past_length", np.array([P], np.int32), False))
        apart = [("q", q, False), ("k", k, False), ("v", v, False)] + rest
        attrs = dict(num_heads=N, **(attrs or {}))
        outputs = ("y", "present_key", "present_value") if past else ("y",)
        if scores:
            outputs = (outputs + ("", ""))[:3] + ("qk",)
        reference = None
        inputs = apart
        if form == "packed_kv":
            packed = np.stack([k.reshape(B, length, N, D), v.reshape(B, length, N, D)], axis=3)
            inputs, reference = [("q", q, False), ("kv", packed, False), ("v", None, False)] + rest, (apart, attrs)
        if form == "packed_qkv":
            packed = np.stack([x.reshape(B, S, N, D) for x in (q, k, v)], axis=3)
            inputs, reference = [("qkv", packed, False), ("k", None, False), ("v", None, False)] + rest, (apart, attrs)
        if form == "by_head":
            inputs = [("q", q, False), ("k", r(B, N, length, D), False), ("v", r(B, N, length, D), False)] + rest
        c.add(f"mha_{name}_{tag}", "MultiHeadAttention", inputs, attrs, outputs, reference=reference)

    one("plain")
    one("bias", bias=True)
    one("value_size", dv=DV, bias=True)
    one("padding_lengths", padding="lengths")
    one("padding_keys", padding="keys", bias=True)
    one("padding_full", padding="full")
    one("added", added=(1, 1))
    one("added_each", added=(B, N), padding="keys")
    one("past", past=True, length=S)
    one("past_masked", past=True, length=S, padding="keys", added=(1, N), attrs=dict(scale=0.3))
    one("causal", attrs=dict(unidirectional=1), length=S)
    one("causal_past", attrs=dict(unidirectional=1), past=True, length=S)
    one("padding_nothing", padding="nothing")
    one("padding_filter", padding="keys", attrs=dict(mask_filter_value=-3.0))
    one("causal_left_padding", padding="left", attrs=dict(unidirectional=1), length=S)
    one("large", S=70, length=70, D=64, dv=64, bias=True, padding="keys")
    one("large_causal_past", S=33, length=33, P=45, D=32, dv=32, past=True, attrs=dict(unidirectional=1))
    one("padding_starts", padding="starts")
    one("padding_starts_past", padding="starts", past=True)
    one("buffer", past=True, length=S, buffer=9)
    one("buffer_full", past=True, length=S, buffer=S + P)
    one("buffer_step", past=True, S=1, length=1, buffer=16, bias=True, attrs=dict(unidirectional=1))
    one("buffer_causal_masked", past=True, length=S, buffer=12, padding="keys", attrs=dict(unidirectional=1))
    one("scores", scores=True)
    one("scores_masked", scores=True, padding="keys", added=(1, N), bias=True, attrs=dict(scale=0.3, mask_filter_value=-3.0))
    one("scores_causal", scores=True, length=S, attrs=dict(unidirectional=1))
    one("scores_causal_past", scores=True, length=S, past=True, attrs=dict(unidirectional=1))
    one("scores_buffer", scores=True, length=S, past=True, buffer=11)
    one("cross", form="by_head")
    one("packed_kv", form="packed_kv", bias=True)
    one("packed_qkv", form="packed_qkv", length=S)


def group_query(c, tag, dtype):
    H, KV = 4, 2

    def one(name, B=2, S=1, P=5, D=16, lengths=None, buffer=0, rotary=None, packed=False, attrs=None, added=None, sink=False, norm=False, positions=False, kv=KV, total_known=True):
        """P old rows (0: a first prompt), in a buffer of `buffer` rows when given; lengths: rows of each sequence after the pass."""
        rng, r = random("gqa" + name, dtype)
        T = P + S
        lengths = np.array(lengths or [T] * B, np.int32)
        q, k, v = r(B, S, H * D), r(B, S, kv * D), r(B, S, kv * D)
        rows = buffer or P
        pk, pv = (r(B, kv, rows, D), r(B, kv, rows, D)) if rows else (None, None)
        cos = sin = None
        attrs = dict(num_heads=H, kv_num_heads=kv, **(attrs or {}))
        if rotary:
            angles = rng.random((256, rotary // 2)) * 6
            cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
            attrs["do_rotary"] = 1
        ids = None
        if positions:
            ids = np.array([[(5 * b if P else 0) + i + 2 for i in range(S)] for b in range(B)], np.int64)
        if packed:
            q, k, v = np.concatenate([q, k, v], axis=2), None, None
        inputs = [("q", q, False), ("k", k, False), ("v", v, False), ("past_key", pk, False), ("past_value", pv, False),
                  ("seqlens_k", lengths - 1, False), ("total", np.array(T, np.int32), total_known), ("cos", cos, True), ("sin", sin, True), ("ids", ids, False),
                  ("added", r(*added, S, T) if added else None, False), ("sink", r(H) if sink else None, True), ("k_scale", None, False),
                  ("v_scale", None, False), ("q_norm", r(D) if norm else None, True), ("k_norm", r(D) if norm else None, True)]
        while inputs[-1][1] is None:
            inputs.pop()
        reference = None
        if norm:  # ONNX Runtime's CPU kernel has none: its rows are normalised before
            def normalized(x, n, weight):
                wide = x.astype(np.float64).reshape(B, S, n, D)
                return (wide / np.sqrt((wide ** 2).mean(-1, keepdims=True) + 1e-6) * weight).astype(dtype).reshape(B, S, n * D)
            plain = [(n, normalized(a, H if n == "q" else kv, inputs[14 if n == "q" else 15][1]) if n in ("q", "k") else a, w) for n, a, w in inputs[:9]]
            reference = (plain, attrs)

        def forget(want):
            for b in range(B):
                if P == 0:
                    want[0][b, lengths[b]:] = np.nan
                for present in want[1:]:
                    present[b, :, lengths[b]:] = np.nan

        c.add(f"gqa_{name}_{tag}", "GroupQueryAttention", inputs, attrs, ("y", "present_key", "present_value"), forget=forget, reference=reference)

    one("prompt", S=6, P=0)
    one("prompt_padded", S=6, P=0, lengths=[3, 6])
    one("prompt_rotary", S=6, P=0, rotary=16)
    one("prompt_window", S=9, P=0, attrs=dict(local_window_size=3))
    one("prompt_buffer", S=4, P=0, buffer=12, rotary=16)
    one("decode")
    one("decode_total_given", lengths=[3, 6], rotary=16, total_known=False)
    one("decode_one_head", kv=1)
    one("decode_ragged", lengths=[3, 6], rotary=16)
    one("decode_buffer", buffer=16, lengths=[4, 6], rotary=16)
    one("decode_partial_rotary", D=32, rotary=16)
    one("decode_interleaved", rotary=16, attrs=dict(rotary_interleaved=1))
    one("decode_packed", packed=True, rotary=16)
    one("decode_window", attrs=dict(local_window_size=2), P=7)
    one("decode_softcap", attrs=dict(softcap=1.5, scale=0.4))
    one("decode_added", added=(1, 1))
    one("decode_added_each", added=(2, H), lengths=[3, 6])
    one("decode_sink", sink=True)
    one("decode_smooth", attrs=dict(smooth_softmax=1), buffer=16)
    one("decode_norm", norm=True, rotary=16)
    one("decode_positions", rotary=16, positions=True)
    one("prompt_large", S=75, P=0, D=64, rotary=64, lengths=[75, 31])
    one("prompt_large_softcap", S=50, P=0, D=64, attrs=dict(softcap=2.0, local_window_size=20))
    one("decode_large", P=150, D=64, rotary=64, lengths=[90, 151], buffer=256)
    one("chunk_large", B=1, S=40, P=60, D=64, rotary=64)
    one("chunk", B=1, S=3, P=5, rotary=16)
    one("chunk_window_buffer", B=1, S=3, P=5, buffer=20, rotary=16, attrs=dict(local_window_size=4))


def rotary(c, tag, dtype):
    B, S, N, D = 2, 3, 4, 8

    def one(name, shape, ids, width=D, attrs=None):
        rng, r = random("rotary" + name, dtype)
        angles = rng.random((32, width // 2)) * 6
        c.add(f"rotary_{name}_{tag}", "RotaryEmbedding", [("x", r(*shape), False), ("ids", np.array(ids, np.int64), False),
                                                          ("cos", np.cos(angles).astype(dtype), True), ("sin", np.sin(angles).astype(dtype), True)], attrs or {})

    one("packed", (B, S, N * D), [[0, 1, 2], [7, 3, 9]])
    one("offset", (B, S, N * D), [5])
    one("heads", (B, N, S, D), [[0, 1, 2], [7, 3, 9]], attrs=dict(interleaved=1))
    one("partial", (B, S, N * D), [4], width=4, attrs=dict(num_heads=N, rotary_embedding_dim=4))


def norms(c, tag, dtype):
    B, S, H = 2, 3, 24
    _, r = random("norms", dtype)
    x, skip, g, b, bias = r(B, S, H), r(B, S, H), r(H), r(H), r(H)
    one = [("x", x, False), ("gamma", g, True)]
    c.add(f"simplified_{tag}", "SimplifiedLayerNormalization", one, dict(epsilon=1e-6, axis=-1), domain="")
    two = [("x", x, False), ("skip", skip, False), ("gamma", g, True)]
    c.add(f"skip_simplified_{tag}", "SkipSimplifiedLayerNormalization", two, dict(epsilon=1e-6))
    c.add(f"skip_simplified_sum_{tag}", "SkipSimplifiedLayerNormalization", two + [("bias", bias, True)], dict(epsilon=1e-6), ("y", "", "", "sum"))
    c.add(f"skip_{tag}", "SkipLayerNormalization", two, dict(epsilon=1e-5))
    c.add(f"skip_bias_sum_{tag}", "SkipLayerNormalization", two + [("beta", b, True), ("bias", bias, True)], dict(epsilon=1e-5), ("y", "", "", "sum"))
    c.add(f"skip_shared_{tag}", "SkipLayerNormalization", [("x", x, False), ("skip", r(1, S, H), False), ("gamma", g, True), ("beta", b, True)], dict(epsilon=1e-5))


def embed(c, tag, dtype):
    B, S, H = 2, 4, 16
    rng, r = random("embed", dtype)
    ids, segments = rng.integers(0, 20, (B, S)).astype(np.int32), rng.integers(0, 2, (B, S)).astype(np.int32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)
    places = rng.integers(0, 9, (B, S)).astype(np.int32)
    tables = [("word", r(20, H), True), ("position", r(9, H), True)]
    scale = [("gamma", r(H), True), ("beta", r(H), True)]
    table = [("segment", r(2, H), True)]
    c.add(f"embed_{tag}", "EmbedLayerNormalization", [("ids", ids, False), ("segments", segments, False)] + tables + table + scale + [("mask", mask, False)],
          dict(epsilon=1e-5), ("y", "mask_index", "sum"))
    c.add(f"embed_positions_{tag}", "EmbedLayerNormalization", [("ids", ids, False), ("segments", None, False)] + tables + [("segment", None, True)] + scale +
          [("mask", None, False), ("places", places, False)], {}, ("y", "mask_index"))


def activations(c, tag, dtype):
    _, r = random("activations", dtype)
    x, b = r(2, 3, 16, scale=3.0), r(16)
    one, two = [("x", x, False)], [("x", x, False), ("b", b, True)]
    c.add(f"gelu_{tag}", "Gelu", one)
    c.add(f"quick_gelu_{tag}", "QuickGelu", one)
    c.add(f"quick_gelu_alpha_{tag}", "QuickGelu", one, dict(alpha=0.7))
    c.add(f"fast_gelu_{tag}", "FastGelu", one)
    c.add(f"fast_gelu_bias_{tag}", "FastGelu", two)
    c.add(f"bias_gelu_{tag}", "BiasGelu", two)
    from math import erf
    s = x.astype(np.float64) + b
    split = s[..., :8] * 0.5 * s[..., 8:] * (1 + np.vectorize(erf)(s[..., 8:] / np.sqrt(2)))
    c.add(f"bias_split_gelu_{tag}", "BiasSplitGelu", two, want=[split.astype(dtype)])


def products(c, tag, dtype):
    _, r = random("products", dtype)
    c.add(f"fused_matmul_{tag}", "FusedMatMul", [("a", r(2, 5, 3), False), ("b", r(4, 5), True)], dict(transA=1, transB=1, alpha=0.5))
    x, w, b = r(1, 4, 6, 6), r(3, 4, 3, 3), r(3)
    conv = [("x", x, False), ("w", w, True), ("b", b, True)]
    for activation, params in (("Relu", None), ("LeakyRelu", [0.3]), ("Clip", [-0.5, 0.5]), ("HardSigmoid", [0.1, 0.4])):
        attrs = dict(activation=activation, pads=[1, 1, 1, 1], **(dict(activation_params=params) if params else {}))
        c.add(f"fused_conv_{activation.lower()}_{tag}", "FusedConv", conv, attrs)
    c.add(f"fused_conv_sum_{tag}", "FusedConv", conv + [("z", r(1, 3, 4, 4), False)], dict(activation="Relu"))


def attention(c, tag, dtype):
    B, S, H, N, P = 2, 4, 16, 2, 3
    D = H // N

    def one(name, mask=None, past=False, attrs=None, bias=True):
        rng, r = random("attention" + name, dtype)
        T = S + (P if past else 0)
        masks = {None: None, "keys": (rng.random((B, T)) < 0.7).astype(np.int32), "lengths": np.array([2, T], np.int32)}
        m = masks[mask]
        if m is not None and m.ndim == 2:
            m[:, 0] = 1
        inputs = [("x", r(B, S, H), False), ("w", r(H, 3 * H, scale=0.3), True), ("b", r(3 * H) if bias else None, True), ("mask", m, False),
                  ("past", r(2, B, N, P, D) if past else None, False)]
        while inputs[-1][1] is None:
            inputs.pop()
        attrs = dict(num_heads=N, **(attrs or {}))
        # ONNX Runtime 1.31 crashes without a bias.
        reference = None if bias else (inputs[:2] + [("b", np.zeros(3 * H, dtype), True)], attrs)
        c.add(f"attention_{name}_{tag}", "Attention", inputs, attrs, ("y", "present") if past else ("y",), reference=reference)

    one("plain")
    one("no_bias", bias=False)
    one("mask", mask="keys")
    one("lengths", mask="lengths")
    one("causal_past", past=True, attrs=dict(unidirectional=1))
    one("past_mask", past=True, mask="keys", attrs=dict(scale=0.2))


def experts(c, tag, dtype):
    R, H, I, E = 5, 8, 12, 4

    def reference(x, scores, w1, b1, w2, b2, w3, k, normalize, act):
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        y = np.zeros_like(x)
        for i in range(R):
            best = np.argsort(-scores[i], kind="stable")[:k]
            total = p[i, best].sum() if normalize else 1.0
            for e in best:
                h = act(w1[e] @ x[i] + b1[e])
                if w3 is not None:
                    h = h * (w3[e] @ x[i])
                y[i] += p[i, e] / total * (w2[e] @ h + b2[e])
        return y

    def one(name, k, attrs, act, gate=1, fc3=False, by_runtime=True):
        _, r = random("moe" + name, dtype)
        x, scores = r(R, H), r(R, E)
        w1, b1, w2, b2, w3 = r(E, gate * I, H, scale=0.5), r(E, gate * I), r(E, H, I, scale=0.5), r(E, H), r(E, I, H, scale=0.5) if fc3 else None
        want = reference(*[None if a is None else a.astype(np.float64) for a in (x, scores, w1, b1, w2, b2, w3)], k, attrs.get("normalize_routing_weights", 0), act)
        inputs = [("x", x, False), ("scores", scores, False), ("w1", w1, True), ("b1", b1, True), ("w2", w2, True), ("b2", b2, True)]
        if fc3:
            inputs.append(("w3", w3, True))
        c.add(f"moe_{name}_{tag}", "MoE", inputs, dict(k=k, **attrs), want=None if by_runtime else [want.astype(dtype)])

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    def swiglu(form, alpha, beta, limit):
        def act(v):
            g, l = (v[::2], v[1::2]) if form == 1 else (v[:I], v[I:])
            g, l = np.minimum(g, limit), np.clip(l, -limit, limit)
            return g * sigmoid(alpha * g) * (l + beta)
        return act

    one("relu", 1, dict(activation_type="relu"), lambda v: np.maximum(v, 0), by_runtime=False)
    one("silu_normalized", 2, dict(activation_type="silu", normalize_routing_weights=1), lambda v: v * sigmoid(v))
    one("silu_gated", 2, dict(activation_type="silu", normalize_routing_weights=1), lambda v: v * sigmoid(v), fc3=True, by_runtime=False)
    gpt = dict(activation_type="swiglu", activation_alpha=1.702, activation_beta=1.0, swiglu_limit=1.5, normalize_routing_weights=1)
    one("swiglu_interleaved", 2, dict(swiglu_fusion=1, **gpt), swiglu(1, 1.702, 1.0, 1.5), gate=2)
    one("swiglu_halves", 2, dict(swiglu_fusion=2, **gpt), swiglu(2, 1.702, 1.0, 1.5), gate=2, by_runtime=False)


def packed_experts(c, tag, dtype):
    """QMoE against ONNX Runtime for 4 bits, whose products are in f32 as ours. Its 8-bit and its blocked kernels round the activations to 8 bits or
    are not there: those are compared with fp64 here."""
    R, H, I, E = 7, 64, 96, 5

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    def one(name, bits, block, activation, fusion=0, zeros=False, third=False, given=False, k=2, normalize=1, by_runtime=False):
        rng, r = random("qmoe" + name, dtype)
        gate = 2 if fusion else 1

        def matrix(rows, columns):
            codes = rng.integers(0, 1 << bits, (E, rows, columns))
            per = 8 // bits
            held = sum(codes.reshape(E, rows, -1, per)[..., i] << (bits * i) for i in range(per)).astype(np.uint8)
            blocks = columns // block if block else 1
            scale = rng.uniform(0.01, 0.03, (E, rows, blocks) if block else (E, rows)).astype(dtype) * (8 if bits == 4 else 0.5 if bits == 8 else 30)
            scale = scale.astype(dtype)
            zero = np.full((E, rows, blocks), 1 << (bits - 1))
            packed = None
            if zeros:
                zero = rng.integers(0, 1 << bits, zero.shape)
                flat = zero if block else zero.reshape(E, rows)
                flat = np.concatenate([flat, np.zeros(flat.shape[:-1] + ((-flat.shape[-1]) % per,), flat.dtype)], -1)
                packed = sum(flat.reshape(flat.shape[:-1] + (-1, per))[..., i] << (bits * i) for i in range(per)).astype(np.uint8)
            wide = (codes.reshape(E, rows, blocks, -1) - zero[..., None]) * scale.astype(np.float64).reshape(E, rows, blocks, 1)
            return wide.reshape(E, rows, columns), held, scale, packed

        x, scores = r(R, H), r(R, E)
        mixing = np.abs(r(R, E)) + dtype(0.1) if given else None
        (w1, c1, s1, z1), (w2, c2, s2, z2) = matrix(gate * I, H), matrix(H, I)
        w3, c3, s3, z3 = matrix(I, H) if third else (None,) * 4
        b1, b2 = r(E, gate * I), r(E, H)
        act = {"silu": lambda v: v * sigmoid(v), "relu": lambda v: np.maximum(v, 0), "identity": lambda v: v}.get(activation)

        def swiglu(g, l):
            g, l = np.minimum(g, 2.0), np.clip(l, -2.0, 2.0)
            return g * sigmoid(1.702 * g) * (l + 1)

        wide, p = x.astype(np.float64), np.exp(scores.astype(np.float64))
        p /= p.sum(1, keepdims=True)
        want = np.zeros((R, H))
        for i in range(R):
            best = np.argsort(-scores[i], kind="stable")[:k]
            weights = (mixing.astype(np.float64) if given else p)[i, best]
            if normalize:
                weights = weights / weights.sum()
            for e, weight in zip(best, weights):
                h = w1[e] @ wide[i] + b1[e]
                other = w3[e] @ wide[i] if third else None
                if activation == "swiglu":
                    h = swiglu(h[::2], h[1::2]) if fusion == 1 else swiglu(h[:I], h[I:]) if fusion == 2 else swiglu(h, other)
                else:
                    h = act(h) * (1 if other is None else other)
                want[i] += weight * (w2[e] @ h + b2[e])
        attrs = dict(k=k, activation_type=activation, normalize_routing_weights=normalize, expert_weight_bits=bits)
        if activation == "swiglu":
            attrs.update(swiglu_fusion=fusion, activation_alpha=1.702, activation_beta=1.0, swiglu_limit=2.0)
        if block:
            attrs["block_size"] = block
        inputs = [("x", x, False), ("scores", scores, False)]
        for n, (codes, scale, bias) in (("1", (c1, s1, b1)), ("2", (c2, s2, b2)), ("3", (c3, s3, None))):
            inputs += [("w" + n, codes, True), ("s" + n, scale, True), ("b" + n, bias, True)]
        inputs += [("z1", z1, True), ("z2", z2, True), ("z3", z3, True), ("mixing", mixing, False)]
        while inputs[-1][1] is None:
            inputs.pop()
        c.add(f"qmoe_{name}_{tag}", "QMoE", inputs, attrs, want=None if by_runtime else [want.astype(dtype)])

    one("4_swiglu_interleaved", 4, 0, "swiglu", fusion=1)
    one("4_swiglu_interleaved_runtime", 4, 0, "swiglu", fusion=1, by_runtime=True)
    one("4_swiglu_halves_blocks", 4, 32, "swiglu", fusion=2, zeros=True)
    one("4_swiglu_blocks_runtime", 4, 32, "swiglu", fusion=1, zeros=True, by_runtime=True)
    one("4_swiglu_apart", 4, 16, "swiglu", third=True)
    one("8_swiglu_blocks", 8, 32, "swiglu", fusion=1)
    one("8_silu_zeros", 8, 0, "silu", zeros=True)
    one("8_silu_runtime", 8, 0, "silu", by_runtime=True)
    one("4_zeros_gated", 4, 0, "silu", zeros=True, third=True)
    one("2_relu", 2, 32, "relu")
    one("4_weights_given", 4, 32, "identity", given=True)
    one("4_plain_weights", 4, 32, "relu", normalize=0, k=1)


def decoder_block(c, tag, dtype):
    """As exporters of language models write it: lengths follow from the attention mask, sizes are named, the cache has the names of state."""
    rng, r = random("decoder", dtype)
    H, KV, D = 4, 2, 16
    width, kind = H * D, TYPES[np.dtype(dtype).name]
    angles = rng.random((64, D // 2)) * 6
    weights = {"gamma": r(width), "wqkv": r(width, (H + 2 * KV) * D, scale=0.1), "wo": r(width, width, scale=0.1), "cos": np.cos(angles).astype(dtype),
               "sin": np.sin(angles).astype(dtype), "one": np.array([1], np.int64), "axis": np.array([1], np.int64), "second": np.array(1, np.int64)}
    nodes = [
        helper.make_node("ReduceSum", ["attention_mask", "axis"], ["count"], keepdims=0), helper.make_node("Sub", ["count", "one"], ["last"]),
        helper.make_node("Cast", ["last"], ["seqlens_k"], to=TensorProto.INT32), helper.make_node("Shape", ["attention_mask"], ["mask_shape"]),
        helper.make_node("Gather", ["mask_shape", "second"], ["total64"]), helper.make_node("Cast", ["total64"], ["total"], to=TensorProto.INT32),
        helper.make_node("SimplifiedLayerNormalization", ["x", "gamma"], ["normal"], epsilon=1e-6), helper.make_node("MatMul", ["normal", "wqkv"], ["qkv"]),
        helper.make_node("GroupQueryAttention",
                         ["qkv", "", "", "past_key_values.0.key", "past_key_values.0.value", "seqlens_k", "total", "cos", "sin"],
                         ["seen", "present.0.key", "present.0.value"], domain=MS, num_heads=H, kv_num_heads=KV, do_rotary=1),
        helper.make_node("MatMul", ["seen", "wo"], ["out"]),
        helper.make_node("SkipSimplifiedLayerNormalization", ["x", "out", "gamma"], ["y", "", "", "sum"], domain=MS, epsilon=1e-6)]
    cache = ["batch", KV, "past", D]
    inputs = [("x", kind, ["batch", "sequence", width]), ("attention_mask", TensorProto.INT64, ["batch", "total"]),
              ("past_key_values.0.key", kind, cache), ("past_key_values.0.value", kind, cache)]
    present = ["batch", KV, "total", D]
    outputs = [("y", kind, ["batch", "sequence", width]), ("sum", kind, ["batch", "sequence", width]), ("present.0.key", kind, present),
               ("present.0.value", kind, present)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(*i) for i in inputs], [helper.make_tensor_value_info(*o) for o in outputs],
                              [numpy_helper.from_array(a, n) for n, a in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o[0] for o in outputs]
    past = [np.zeros((2, KV, 0, D), dtype)] * 2
    for step, count in enumerate((7, 1, 1)):
        feed = {"x": r(2, count, width), "attention_mask": np.ones((2, past[0].shape[2] + count), np.int64), inputs[2][0]: past[0], inputs[3][0]: past[1]}
        want = session.run(names, feed)
        c.write(f"decoder_{step}_{tag}", model, feed, names, want)
        past = want[2:]


def main():
    cases = Cases(sys.argv[1])
    for tag, dtype in (("fp32", np.float32), ("fp16", np.float16)):
        for family in (multi_head, group_query, rotary, norms, embed, activations, products, attention, experts, packed_experts, decoder_block):
            family(cases, tag, dtype)
    print("cases", cases.made, "left out", cases.refused)


main()
