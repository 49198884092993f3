"""The rule of each operator: what it does to the channels of its inputs. See ``follow.py``.

A rule takes the follower, the function, its arguments and its output tensors, and returns the channels of each output;
None for one whose channels are all mixed up and stay. The channels that reach an operator without a rule stay, too.
"""

from collections.abc import Callable

from .follow_heads import attention, matmul
from .follow_layers import batch_norm, conv, conv_transpose, embedding, instance_norm, linear, prelu
from .follow_moves import chunk, fresh, glu, lookup, move, shape, write
from .follow_norms import live_norm
from .follow_places import along, mix, normalize, pad, pool, reduce, sample
from .follow_recurrent import pack, recurrent
from .follow_values import elementwise, keep, product, quotient

BY_RULE: dict[Callable, str] = {
    elementwise: """relu relu6 hardtanh gelu silu hardswish hardsigmoid mish tanh sigmoid leaky_relu elu selu celu rrelu
        softplus softsign logsigmoid hardshrink softshrink tanhshrink threshold exp exp2 expm1 log log2 log10
        log1p logit abs absolute neg negative positive sign sgn sqrt rsqrt square reciprocal pow rpow
        float_power ceil floor round trunc frac sin cos tan asin acos atan sinh cosh asinh acosh atanh sinc erf
        erfc erfinv deg2rad rad2deg clamp clip clamp_min clamp_max nan_to_num add iadd radd sub isub rsub
        subtract rtruediv rdiv addcmul addcdiv lerp maximum minimum fmax fmin atan2 hypot logaddexp logaddexp2
        fmod remainder mod xlogy copysign heaviside where masked_fill gt ge lt le eq ne greater greater_equal
        less less_equal not_equal isnan isinf isfinite isclose logical_and logical_or logical_xor logical_not
        bitwise_and bitwise_or bitwise_xor bitwise_not and or xor invert""",
    product: "mul imul rmul multiply",
    quotient: "div itruediv truediv divide true_divide floor_divide floordiv",
    keep: """dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout clone
        contiguous to type type_as float double half bfloat16 bool int long cpu cuda detach alias requires_grad
        zeros_like ones_like full_like rand_like randn_like empty_like""",
    pool: """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        lp_pool1d lp_pool2d lp_pool3d interpolate upsample upsample_nearest upsample_bilinear""",
    sample: "grid_sample",
    pad: "pad",
    reduce: """mean sum nansum nanmean amax amin max min prod var std var_mean std_mean norm vector_norm median any all
        logsumexp""",
    along: "softmax log_softmax softmin cumsum cumprod cummax cummin logcumsumexp sort argsort",
    normalize: "normalize",
    mix: """layer_norm group_norm rms_norm local_response_norm rmatmul mm mv dot inner outer addmm addbmm baddbmm
        bilinear einsum tensordot kron cdist cross cosine_similarity multi_head_attention_forward""",
    matmul: "matmul bmm",
    attention: "scaled_dot_product_attention",
    move: """permute transpose squeeze unsqueeze expand expand_as movedim moveaxis swapaxes swapdims t get cat concat
        concatenate stack""",
    shape: """view view_as reshape reshape_as flatten unflatten ravel split split_with_sizes tensor_split unbind
        narrow select index_select unfold repeat tile repeat_interleave roll flip pixel_shuffle
        pixel_unshuffle channel_shuffle""",
    lookup: "getitem",
    chunk: "chunk",
    glu: "glu",
    write: "setitem",
    fresh: "new_zeros new_ones new_full new_empty new_tensor",
    linear: "linear",
    conv: "conv1d conv2d conv3d",
    conv_transpose: "conv_transpose1d conv_transpose2d conv_transpose3d",
    batch_norm: "batch_norm",
    instance_norm: "instance_norm",
    live_norm: "live_norm",
    prelu: "prelu",
    embedding: "embedding",
    pack: "pack_padded_sequence",
    recurrent: "lstm gru rnn_tanh rnn_relu",
}
RULES: dict[str, Callable] = {name: rule for rule, names in BY_RULE.items() for name in names.split()}
TO_PYTHON = (
    "item tolist numpy array bool float int index contains equal allclose is_nonzero"  # give values, not tensors
)
READERS = frozenset(TO_PYTHON.split())
