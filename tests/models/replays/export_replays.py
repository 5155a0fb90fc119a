"""Small graphs in the shapes that made inference engines give wrong answers, with ONNX Runtime's results as fixtures.

usage: pip install -r ../fixtures/requirements.txt; export_replays.py OUTDIR [NAME...]
Each replay: the graph in ONNX's text form, its float tensors (shapes; values by law), other tensors (values), and its inputs.
"""
import os
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures"))
from fixture_format import Fixture  # noqa: E402

INF, NAN = float("inf"), float("nan")
I64 = np.iinfo(np.int64)


def f32(*values):
    return np.array(values, np.float32)


def i64(*values):
    return np.array(values, np.int64)


def ramp(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def normal(seed, *shape, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def int8(seed, *shape):
    return np.random.default_rng(seed).integers(-120, 120, shape).astype(np.int8)


REPLAYS = {}


def replay(name, opset, text, tensors=None, inputs=None, tolerance=1e-5, oracle=None):
    REPLAYS[name] = (opset, text, tensors or {}, inputs or {}, tolerance, oracle)


# Movement.
replay("two_transposes_fused", 17, """g (float[2,3,4,5] x) => (float[4,5,2,3] y, float[3,5,2,4] z) {
    a = Transpose<perm=[0,2,3,1]>(x)
    b = Transpose<perm=[3,1,0,2]>(a)
    c = Relu(b)
    d = Transpose<perm=[1,3,2,0]>(c)
    y = Identity(d)
    e = Transpose<perm=[0,2,1,3]>(b)
    f = Transpose<perm=[0,3,2,1]>(b)
    g = Transpose<perm=[0,1,2,3]>(f)
    h = Transpose<perm=[0,1,2,3]>(e)
    hh = ReduceSum<keepdims=0>(h)
    z0 = Transpose<perm=[0,1,2,3]>(g)
    z = Add(z0, hh) }""", inputs={"x": ("f32", (2, 3, 4, 5), 0, 1)})
replay("transpose_of_the_consumers_other_operand", 17, """g (float[2,3,8] x, float[2,3,8] y) => (float[2,3,3] a, float[2,8,8] b) {
    yt = Transpose<perm=[0,2,1]>(y)
    a = MatMul(x, yt)
    xt = Transpose<perm=[0,2,1]>(x)
    b = MatMul(xt, y) }""", inputs={"x": ("f32", (2, 3, 8), 0, 1), "y": ("f32", (2, 3, 8), 0, 1)})
replay("integer_constant_through_shuffle", 17, """g (float[4,6] x) => (float[2,3] y, int64[3,2] k) {
    r = Reshape(table, shape)
    t = Transpose<perm=[1,0]>(r)
    k = Mul(t, two)
    i = Cast<to=7>(t)
    g = Gather<axis=1>(x, i)
    m = ReduceMean<axes=[0], keepdims=0>(g)
    y = Transpose<perm=[1,0]>(m) }""", {"table": i64(5, 0, 3, 1, -1, -6), "shape": i64(2, 3), "two": i64(2)}, {"x": ("f32", (4, 6), 0, 1)})
replay("reshape_zero_and_minus_one_on_empty", 17, """g (float[N,0,4] x) => (float[A,B] y, float[C,D,E] z) {
    y = Reshape<allowzero=1>(x, s)
    z = Reshape(x, t) }""", {"s": i64(0, 7), "t": i64(0, 0, 4)}, {"x": np.zeros((3, 0, 4), np.float32)})
replay("slice_backwards_to_the_extremes", 17, """g (float[5,6] x) => (float[5,6] y, float[A,B] z, float[C,6] w) {
    y = Slice(x, s0, e0, ax, st0)
    z = Slice(x, s1, e1, ax, st1)
    w = Slice(x, s2, e2, ax0) }""",
    {"s0": i64(I64.max, -1), "e0": i64(I64.min, I64.min + 1), "ax": i64(0, -1), "st0": i64(-1, -1), "s1": i64(-2, 1), "e1": i64(-100, I64.max), "st1": i64(-2, 2),
     "s2": i64(4), "e2": i64(2), "ax0": i64(-2)}, {"x": ramp(5, 6)})
replay("concat_of_slices_of_one_tensor", 17, """g (float[2,8,3] x) => (float[2,8,3] y, float[2,4,3] z) {
    a, b = Split<axis=1>(x, sizes)
    y = Concat<axis=1>(b, a)
    z = Concat<axis=1>(a, a) }""", {"sizes": i64(2, 6)}, {"x": ramp(2, 8, 3)})
replay("gather_negative_indices", 17, """g (float[4,5] x, int64[2,2] i) => (float[2,2,5] y, float[4,5] z, float[2] n) {
    y = Gather<axis=0>(x, i)
    z = GatherElements<axis=-1>(x, j)
    n = GatherND(x, pairs) }""", {"j": np.array([[-1, 0, 1, 2, -5]] * 4), "pairs": np.array([[-1, -1], [0, -5]])}, {"x": ramp(4, 5), "i": np.array([[-1, 0], [-4, 3]])})
replay("scatter_with_repeated_indices", 18, """g (float[5,3] x, float[4,3] u) => (float[5,3] y, float[5,3] z) {
    y = ScatterND<reduction="add">(x, i, u)
    z = ScatterElements<axis=0, reduction="max">(x, j, u) }""",
    {"i": np.array([[1], [1], [-1], [4]]), "j": np.array([[0, 1, 2], [0, 1, 2], [4, -1, 3], [0, 0, 0]])}, {"x": ("f32", (5, 3), 0, 1), "u": ("f32", (4, 3), 0, 1)})
replay("outputs_that_alias", 17, """g (float[3,4] x) => (float[3,4] x2, float[3,4] y, float[12] z, float[3,4] w) {
    x2 = Identity(x)
    y = Relu(x)
    z = Reshape(y, s)
    w = Identity(y) }""", {"s": i64(-1)}, {"x": ("f32", (3, 4), 0, 1)})
replay("expand_tile_and_squeeze_of_ones", 17, """g (float[1,3,1] x) => (float[2,3,4] y, float[3] s, float[2,6,1] t) {
    y = Expand(x, e)
    s = Squeeze(x)
    t = Tile(x, r) }""", {"e": i64(2, 1, 4), "r": i64(2, 2, 1)}, {"x": ramp(1, 3, 1)})

# Convolution and pooling.
replay("pooling_around_concat", 17, """g (float[2,4,9,9] x) => (float[2,12,5,5] y, float[2,8,5,5] z) {
    m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)
    a = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(x)
    b = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)
    y = Concat<axis=1>(m, a, b)
    c = Concat<axis=1>(x, x)
    z = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(c) }""", inputs={"x": ("f32", (2, 4, 9, 9), -2, 1)})
replay("conv_siblings_before_concat", 17, """g (float[2,8,7,7] x) => (float[2,20,7,7] y, float[2,8,7,7] s) {
    a = Conv<kernel_shape=[1,1]>(x, wa, ba)
    b = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, wb)
    c = Conv<kernel_shape=[1,1]>(x, wc, bc)
    ra = Relu(a)
    rc = Sigmoid(c)
    y = Concat<axis=1>(ra, b, rc)
    s = Add(a, c) }""", {"wa": normal(1, 8, 8, 1, 1), "ba": normal(2, 8), "wb": normal(3, 4, 8, 3, 3), "wc": normal(4, 8, 8, 1, 1), "bc": normal(5, 8)},
    {"x": ("f32", (2, 8, 7, 7), 0, 1)})
replay("max_pool_ceil_mode_drops_windows_in_padding", 17, """g (float[1,1,5,5] x) => (float[1,1,A,B] y, float[1,1,C,D] z) {
    y = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[0,0,1,1], ceil_mode=1>(x)
    z = MaxPool<kernel_shape=[3,3], strides=[3,3], ceil_mode=1>(x) }""", inputs={"x": ramp(1, 1, 5, 5) - 100})
replay("average_pool_ceil_mode_counts", 19, """g (float[1,2,6,6] x) => (float[1,2,A,B] y, float[1,2,C,D] z) {
    y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1, count_include_pad=1>(x)
    z = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>(x) }""", inputs={"x": ("f32", (1, 2, 6, 6), 1, 1)})
replay("fp16_pooling_sums_beyond_its_range", 17, """g (float16[1,4,32,32] x) => (float16[1,4,1,1] y, float16[1,4,16,16] z) {
    y = GlobalAveragePool(x)
    z = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) }""", inputs={"x": ("f16", (1, 4, 32, 32), 4000, 900)}, tolerance=1e-2)
replay("conv_asymmetric_pads_and_dilated_depthwise", 17, """g (float[2,16,9,8] x) => (float[2,16,A,B] y, float[2,16,C,D] z) {
    y = Conv<kernel_shape=[3,2], pads=[0,1,2,0], strides=[2,1]>(x, w, b)
    z = Conv<kernel_shape=[3,3], group=16, dilations=[2,2], pads=[2,2,2,2]>(x, d) }""",
    {"w": normal(1, 16, 16, 3, 2, scale=0.2), "b": normal(2, 16), "d": normal(3, 16, 1, 3, 3)}, {"x": ("f32", (2, 16, 9, 8), 0, 1)})
replay("conv_with_one_output_channel_and_1d", 17, """g (float[2,16,11] x) => (float[2,1,11] y, float[2,4,4] z) {
    y = Conv<kernel_shape=[5], auto_pad="SAME_UPPER">(x, w)
    z = Conv<kernel_shape=[4], strides=[3], pads=[1,2], group=4>(x, v) }""", {"w": normal(1, 1, 16, 5), "v": normal(2, 4, 4, 4)}, {"x": ("f32", (2, 16, 11), 0, 1)})
replay("deconvolution_with_groups_and_output_padding", 17, """g (float[2,4,5,5] x) => (float[2,6,A,B] y, float[2,4,10,10] z) {
    y = ConvTranspose<kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,1], output_padding=[1,0], group=2>(x, w, b)
    z = ConvTranspose<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER", dilations=[1,1]>(x, v) }""",
    {"w": normal(1, 4, 3, 3, 3), "b": normal(2, 6), "v": normal(3, 4, 4, 3, 3)}, {"x": ("f32", (2, 4, 5, 5), 0, 1)})
replay("batch_norm_after_a_conv_with_two_readers", 17, """g (float[2,4,5,5] x) => (float[2,8,5,5] y, float[2,8,5,5] z) {
    c = Conv<kernel_shape=[1,1]>(x, w)
    n = BatchNormalization<epsilon=0.001>(c, scale, bias, mean, var)
    y = Add(n, c)
    o = Add(n, y)
    z = BatchNormalization<epsilon=0.1>(o, scale, bias, mean, var) }""",
    {"w": normal(1, 8, 4, 1, 1), "scale": f32(1, -1, 0, 2, 0.5, -3, 1e-3, 4), "bias": normal(3, 8), "mean": normal(4, 8), "var": f32(1, 0, 1e-6, 4, 100, 0.1, 2, 1)},
    {"x": ("f32", (2, 4, 5, 5), 0, 1)})
replay("one_initializer_as_kernel_and_as_operand", 17, """g (float[1,4,4,4] x) => (float[1,4,4,4] y, float[4,4,1,1] z, float[4,4] t) {
    y = Conv<kernel_shape=[1,1]>(x, w)
    z = Mul(w, w)
    m = Reshape(w, s)
    xr = ReduceMean<axes=[0,1], keepdims=0>(x)
    t = MatMul(xr, m) }""", {"w": normal(1, 4, 4, 1, 1), "s": i64(4, 4)}, {"x": ("f32", (1, 4, 4, 4), 0, 1)})
replay("resize_nearest_rounding_at_fractional_scales", 13, """g (float[1,1,4,6] x) => (float[1,1,A,B] a, float[1,1,C,D] b, float[1,1,7,9] c, float[1,1,3,4] d) {
    a = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , scales)
    b = Resize<mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil">(x, , scales)
    c = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , up)
    d = Resize<mode="cubic", coordinate_transformation_mode="pytorch_half_pixel", cubic_coeff_a=-0.75>(x, , , down) }""",
    {"scales": f32(1, 1, 1.5, 0.6), "up": i64(1, 1, 7, 9), "down": i64(1, 1, 3, 4)}, {"x": ramp(1, 1, 4, 6)})
replay("pad_reflect_and_negative_pads", 18, """g (float[2,5,6] x) => (float[2,A,B] r, float[2,C,D] e, float[2,E,F] n) {
    r = Pad<mode="reflect">(x, p, , ax)
    e = Pad<mode="edge">(x, p, , ax)
    n = Pad(x, q, v, ax) }""", {"p": i64(2, 3, 1, 4), "q": i64(-1, 2, 1, -3), "v": np.array(-7.5, np.float32), "ax": i64(1, -1)}, {"x": ramp(2, 5, 6)})

# Normalisation, softmax, reductions.
replay("instance_normalization_of_a_batch", 17, """g (float[3,4,5,6] x, float[3,4,7] s) => (float[3,4,5,6] y, float[3,4,7] z) {
    y = InstanceNormalization<epsilon=0.01>(x, scale, bias)
    z = InstanceNormalization(s, scale, bias) }""", {"scale": f32(1, -2, 0.5, 3), "bias": f32(0, 1, -1, 10)},
    {"x": ("f32", (3, 4, 5, 6), 5, 2), "s": ("f32", (3, 4, 7), 0, 1)})
replay("normalization_far_from_zero", 18, """g (float[2,3,64] x) => (float[2,3,64] y, float[2,8,24] g) {
    y = LayerNormalization<axis=-1, epsilon=1e-5>(x, scale, bias)
    r = Reshape(x, s)
    g = InstanceNormalization(r, one, zero) }""", {"scale": normal(1, 64), "bias": normal(2, 64), "s": i64(0, 8, -1), "one": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)},
    {"x": ("f32", (2, 3, 64), 300, 1)}, 1e-3, oracle=ReferenceEvaluator)  # ONNX Runtime 1.23 loses the variance here
replay("softmax_flattens_before_opset_13", 11, """g (float[2,3,4] x) => (float[2,3,4] y, float[2,3,4] z) {
    y = Softmax<axis=1>(x)
    z = LogSoftmax<axis=0>(x) }""", inputs={"x": ("f32", (2, 3, 4), 0, 4)})
replay("softmax_of_large_and_masked_rows", 17, """g (float[4,4] x, bool[4,4] m) => (float[4,4] y, float[4,4] z) {
    y = Softmax<axis=-1>(x)
    w = Where(m, x, low)
    z = Softmax<axis=-1>(w) }""", {"low": np.array(-INF, np.float32)},
    {"x": f32([1e4, 1e4, -1e4, 0], [-3e38, -3e38, -3e38, -3e38], [88, 89, 90, 200], [0, 0, 0, -INF]), "m": np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0], [0, 1, 1, 1]], bool)})
replay("reductions_of_negative_axes_and_nothing", 18, """g (float[3,4,5] x) => (float[3,5] a, float[3,1,1] b, float[3,4,5] c, float c0, float[3,1,5] d) {
    a = ReduceMean<keepdims=0>(x, m)
    b = ReduceL2(x, n)
    c = ReduceSum<noop_with_empty_axes=1>(x, none)
    c0 = ReduceLogSumExp<keepdims=0>(x)
    d = ReduceMin(x, m) }""", {"m": i64(-2), "n": i64(-1, 1), "none": i64()}, {"x": ("f32", (3, 4, 5), 0, 60)})
replay("top_k_extremes", 17, """g (float[3,6] x, int64[5] i) => (float[3,6] v, int64[3,6] j, float[2,6] s, int64[2,6] t, int64[3] e, int64[3] f) {
    v, j = TopK<axis=-1, largest=1, sorted=1>(x, all)
    s, t = TopK<axis=0, largest=0, sorted=1>(x, two)
    e, f = TopK(i, three) }""", {"all": i64(6), "two": i64(2), "three": i64(3)},
    {"x": f32([INF, -INF, 0, 0, 1e-45, -0.0], [2, 2, 2, 2, 2, 2], [-1, -3.4e38, 3.4e38, 5, 5, -1]), "i": i64(I64.max, I64.min, 0, I64.max - 1, -1)})
replay("arg_max_of_ties", 17, """g (float[2,5] x) => (int64[2,1] a, int64[2,1] b, int64[5] c) {
    a = ArgMax<axis=1>(x)
    b = ArgMax<axis=-1, select_last_index=1>(x)
    c = ArgMin<axis=0, keepdims=0>(x) }""", inputs={"x": f32([3, 1, 3, 1, 3], [-1, -1, -5, -5, -1])})
replay("cumulative_sum_exclusive_reverse", 17, """g (float[3,4] x) => (float[3,4] a, float[3,4] b) {
    a = CumSum<exclusive=1, reverse=1>(x, one)
    b = CumSum<reverse=1>(x, zero) }""", {"one": np.array(-1), "zero": np.array(0)}, {"x": ramp(3, 4)})

# Arithmetic.
replay("integer_division_and_modulo_of_negatives", 17, """g (int64[6] a, int64[6] b, float[6] x, float[6] y) => (int64[6] d, int64[6] m, int64[6] f, float[6] g) {
    d = Div(a, b)
    m = Mod(a, b)
    f = Mod<fmod=1>(a, b)
    g = Mod<fmod=1>(x, y) }""", inputs={"a": i64(7, -7, 7, -7, I64.max, 0), "b": i64(2, 2, -2, -2, -1, 5), "x": f32(7.5, -7.5, 7.5, -7.5, 1e9, 0), "y": f32(2, 2, -2, -2, 3, 5)})
replay("casts_round_to_zero", 17, """g (float[8] x) => (int32[8] i, bool[8] b, float16[8] h, float[8] back) {
    i = Cast<to=6>(x)
    b = Cast<to=9>(x)
    h = Cast<to=10>(x)
    back = Cast<to=1>(h) }""", inputs={"x": f32(-0.9, 0.9, -2.5, 2.5, 1e-8, -0.0, 65519, 2049)})
replay("power_of_negative_bases", 17, """g (float[6] x, int64[6] k) => (float[6] a, float[6] b, float[6] c, int64[6] d) {
    a = Pow(x, two)
    b = Pow(x, k)
    c = Pow(x, half)
    d = Pow(k, two) }""", {"two": np.array(2.0, np.float32), "half": np.array(0.5, np.float32)}, {"x": f32(-3, -0.5, 0, 2, 4, -1), "k": i64(3, -2, 0, -1, 5, 4)})
replay("where_hides_nan_from_the_other_side", 17, """g (float[2,3] x, bool[2,1] c) => (float[2,3] y, bool[2,3] n) {
    d = Div(x, x)
    y = Where(c, d, zero)
    n = IsNaN(d) }""", {"zero": np.array(0.0, np.float32)}, {"x": f32([1, 2, 3], [0, INF, 5]), "c": np.array([[True], [False]])})
replay("activations_at_their_edges", 17, """g (float[1,8] x) => (float[1,8] a, float[1,8] b, float[1,8] c, float[1,8] d, float[1,8] e, float[1,8] f) {
    a = HardSigmoid(x)
    b = HardSwish(x)
    c = Elu<alpha=0.5>(x)
    d = Softplus(x)
    e = Clip(x, lo)
    f = Erf(x) }""", {"lo": np.array(-2.0, np.float32)}, {"x": f32([-100, -3, -0.0, 1e-6, 3, 6, 100, 1e10])})
replay("prelu_slope_by_channel", 17, """g (float[2,3,4,4] x) => (float[2,3,4,4] y, float[2,3,4,4] z) {
    y = PRelu(x, slope)
    z = PRelu(x, one) }""", {"slope": f32(0.1, -2, 5).reshape(3, 1, 1), "one": f32(0.25)}, {"x": ("f32", (2, 3, 4, 4), 0, 1)})
replay("einsum_with_ellipsis_and_diagonal_order", 17, """g (float[2,3,4,5] x, float[2,5,6] y) => (float[3,2,4,6] z, float[2,4] s) {
    z = Einsum<equation="bhij,bjk->hbik">(x, y)
    s = Einsum<equation="bhij->bi">(x) }""", inputs={"x": ("f32", (2, 3, 4, 5), 0, 1), "y": ("f32", (2, 5, 6), 0, 1)})
replay("matmul_broadcasts_a_constant_batch", 17, """g (float[3,4,16] x, float[16] v) => (float[3,4,8] y, float[3,4] z, float[5,3,4,8] w) {
    y = MatMul(x, b)
    z = MatMul(x, v)
    w = MatMul(x, c) }""", {"b": normal(1, 1, 16, 8), "c": normal(2, 5, 1, 16, 8)}, {"x": ("f32", (3, 4, 16), 0, 1), "v": ("f32", (16,), 0, 1)})
replay("gemm_transposed_with_a_broadcast_bias", 17, """g (float[16,5] x) => (float[5,8] y, float[5,8] z) {
    y = Gemm<transA=1, transB=1, alpha=0.5, beta=2.0>(x, w, c)
    z = Gemm<transA=1, transB=1>(x, w, d) }""", {"w": normal(1, 8, 16), "c": normal(2, 5, 1), "d": normal(3, 8)}, {"x": ("f32", (16, 5), 0, 1)})

# Quantised.
replay("add_of_unequal_scales", 17, """g (float[2,16] x, float[2,16] y) => (float[2,16] z) {
    xq = QuantizeLinear(x, sa, za)
    yq = QuantizeLinear(y, sb, zb)
    xd = DequantizeLinear(xq, sa, za)
    yd = DequantizeLinear(yq, sb, zb)
    s = Add(xd, yd)
    zq = QuantizeLinear(s, sc, zc)
    z = DequantizeLinear(zq, sc, zc) }""",
    {"sa": np.array(0.02, np.float32), "za": np.array(3, np.int8), "sb": np.array(0.5, np.float32), "zb": np.array(-7, np.int8), "sc": np.array(0.25, np.float32), "zc": np.array(0, np.int8)},
    {"x": ("f32", (2, 16), 0, 2), "y": ("f32", (2, 16), 0, 50)})
QUANT = {"sx": np.array(0.02, np.float32), "zx": np.array(5, np.int8), "zero": np.array(0, np.int8)}
replay("quantised_matmul_weight_transposed_before", 17, """g (float[3,16] x) => (float[3,8] y) {
    xq = QuantizeLinear(x, sx, zx)
    xd = DequantizeLinear(xq, sx, zx)
    wd = DequantizeLinear<axis=0>(w, sw, zw)
    wt = Transpose<perm=[1,0]>(wd)
    y = MatMul(xd, wt) }""", {**QUANT, "w": int8(1, 8, 16), "sw": np.linspace(0.001, 0.02, 8, dtype=np.float32), "zw": np.zeros(8, np.int8)}, {"x": ("f32", (3, 16), 0, 2)})
replay("quantised_batched_matmul_with_constant_b", 17, """g (float[3,4,16] x) => (float[3,4,8] y) {
    xq = QuantizeLinear(x, sx, zx)
    xd = DequantizeLinear(xq, sx, zx)
    wd = DequantizeLinear<axis=2>(w, sw, zw)
    y = MatMul(xd, wd) }""", {**QUANT, "w": int8(1, 1, 16, 8), "sw": np.linspace(0.001, 0.02, 8, dtype=np.float32), "zw": np.zeros(8, np.int8)}, {"x": ("f32", (3, 4, 16), 0, 2)})
replay("pad_before_a_quantised_conv", 17, """g (float[2,4,6,6] x) => (float[2,8,6,6] y) {
    p = Pad(x, pads)
    xq = QuantizeLinear(p, sx, zx)
    xd = DequantizeLinear(xq, sx, zx)
    wd = DequantizeLinear<axis=0>(w, sw, zw)
    y = Conv<kernel_shape=[3,3]>(xd, wd, b) }""",
    {**QUANT, "pads": i64(0, 0, 1, 1, 0, 0, 1, 1), "w": int8(1, 8, 4, 3, 3), "sw": np.linspace(0.001, 0.02, 8, dtype=np.float32), "zw": np.zeros(8, np.int8), "b": normal(2, 8)},
    {"x": ("f32", (2, 4, 6, 6), 0, 2)})
replay("quantised_weight_behind_constant_and_shuffle", 17, """g (float[3,16] x) => (float[3,8] y) {
    c = Identity(w)
    r = Reshape(c, s)
    t = Transpose<perm=[1,0]>(r)
    wd = DequantizeLinear<axis=1>(t, sw, zw)
    y = MatMul(x, wd) }""", {"w": int8(1, 2, 4, 16), "s": i64(8, 16), "sw": np.linspace(0.001, 0.02, 8, dtype=np.float32), "zw": np.zeros(8, np.int8)}, {"x": ("f32", (3, 16), 0, 2)})
replay("quantise_rounds_half_to_even_and_saturates", 17, """g (float[10] x) => (uint8[10] a, int8[10] b, float[10] c) {
    a = QuantizeLinear(x, s, za)
    b = QuantizeLinear(x, s, zb)
    c = DequantizeLinear(b, s, zb) }""", {"s": np.array(2.0, np.float32), "za": np.array(128, np.uint8), "zb": np.array(-3, np.int8)},
    {"x": f32(1, 3, 5, -1, -3, -5, 1e6, -1e6, 253.9, -260)})

# Control flow and recurrence.
replay("loop_ended_by_its_state", 17, """g (float[3] x, int64 n, bool go) => (float[3] last, int64 count) {
    zero = Constant<value_int=0>()
    last, count = Loop(n, go, x, zero)<body = b (int64 i, bool c, float[3] v, int64 k) => (bool c2, float[3] v2, int64 k2) {
        one = Constant<value_int=1>()
        k2 = Add(k, one)
        w = Add(v, step)
        v2 = Add(w, x)
        limit = Constant<value_float=20.0>()
        top = ReduceMax<keepdims=0>(v2)
        c2 = Less(top, limit) }> }""", {"step": f32(1, 2, 4)}, {"x": f32(0, 1, 2), "n": np.array(10), "go": np.array(True)})
replay("loop_with_outputs_of_every_iteration", 17, """g (float[3] x) => (float[3] last, float[5,3] all) {
    last, all = Loop(five, yes, x)<body = b (int64 i, bool c, float[3] v) => (bool c2, float[3] v2, float[3] row) {
        c2 = Identity(c)
        f = Cast<to=1>(i)
        r = Mul(v, x)
        row = Add(r, f)
        v2 = Add(v, step) }> }""", {"step": f32(1, 2, 4), "five": np.array(5), "yes": np.array(True)}, {"x": f32(0, 1, 2)})
replay("if_inside_a_loop", 17, """g (float[2,3] x, bool go) => (float[2,3] y) {
    y = Loop(six, go, x)<body = b (int64 i, bool c, float[2,3] v) => (bool c2, float[2,3] v2) {
        c2 = Identity(c)
        half = Constant<value_int=3>()
        early = Less(i, half)
        v2 = If(early)<then_branch = t () => (float[2,3] p) { p = Mul(v, k) }, else_branch = e () => (float[2,3] q) { q = Sub(v, x) }> }> }""",
    {"k": np.array(3.0, np.float32), "six": np.array(6)}, {"x": ramp(2, 3), "go": np.array(True)})
replay("scan_backwards", 17, """g (float[4,3] x, float[3] s) => (float[3] last, float[4,3] all) {
    last, all = Scan<num_scan_inputs=1, scan_input_directions=[1], body = b (float[3] h, float[3] v) => (float[3] h2, float[3] o) {
        p = Mul(h, k)
        h2 = Add(p, v)
        o = Tanh(h2) }>(s, x) }""", {"k": np.array(0.5, np.float32)}, {"x": ramp(4, 3), "s": f32(1, -1, 2)})
replay("bidirectional_lstm_with_lengths", 17, """g (float[6,3,4] x, int32[3] len) => (float[6,2,3,8] y, float[2,3,8] h, float[2,3,8] c) {
    y, h, c = LSTM<hidden_size=8, direction="bidirectional">(x, w, r, b, len) }""",
    {"w": normal(1, 2, 32, 4, scale=0.5), "r": normal(2, 2, 32, 8, scale=0.5), "b": normal(3, 2, 64)}, {"x": ("f32", (6, 3, 4), 0, 1), "len": np.array([6, 2, 4], np.int32)})
replay("gru_linear_before_reset", 17, """g (float[5,2,4] x, float[1,2,8] h0) => (float[5,1,2,8] y, float[1,2,8] a, float[5,1,2,8] z, float[1,2,8] b) {
    y, a = GRU<hidden_size=8, linear_before_reset=1>(x, w, r, bias, , h0)
    z, b = GRU<hidden_size=8, direction="reverse">(x, w, r, bias) }""",
    {"w": normal(1, 1, 24, 4, scale=0.5), "r": normal(2, 1, 24, 8, scale=0.5), "bias": normal(3, 1, 48)}, {"x": ("f32", (5, 2, 4), 0, 1), "h0": ("f32", (1, 2, 8), 0, 1)})
replay("weights_in_both_branches", 17, """g (float[2,16] x, bool c) => (float[2,16] y) {
    y = If(c)<then_branch = t () => (float[2,16] a) { a = MatMul(x, w) }, else_branch = e () => (float[2,16] b) { p = MatMul(x, v)
        b = Add(p, x) }> }""", {"w": normal(1, 16, 16), "v": normal(2, 16, 16)}, {"x": ("f32", (2, 16), 0, 1), "c": np.array(True)})


def model_of(opset, text, tensors):
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
    model = onnx.parser.parse_model(header + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items())
    return model


def main():
    outdir, wanted = sys.argv[1], sys.argv[2:]
    failed = []
    for name, (opset, text, tensors, inputs, tolerance, oracle) in REPLAYS.items():
        if wanted and name not in wanted:
            continue
        try:
            laws = [(k, v) if isinstance(v, np.ndarray) else (k, *v) for k, v in inputs.items()]
            Fixture(model_of(opset, text, tensors)).save(os.path.join(outdir, name), laws, tolerance, finite=False, optimised=False, oracle=oracle)
        except Exception as error:
            failed.append(name)
            print(f"{name}: FAILED {type(error).__name__} {str(error)[-300:]}")
    print(f"{len(REPLAYS)} replays")
    sys.exit(f"failed: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
