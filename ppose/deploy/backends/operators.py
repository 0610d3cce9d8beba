"""The operators that a model may consist of, by file format.

They compute tensors from tensors. What is not listed is refused before a backend sees the model:
Paddle has operators that write and read files, run Python or talk to other machines, and loops
need not end. The lists hold what ppose exports, what PaddleDetection's exports use, and the common
operators of other detectors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Old names (`.pdmodel`) and those of Paddle 3 (`.json`), without the `_` of in-place variants.
PADDLE = _names(
    """
    abs acos add add_n affine_channel affine_grid all amax amin anchor_generator any arange
    arg_max arg_min argmax argmin argsort asin assign assign_value atan batch_norm
    bicubic_interp bicubic_interp_v2 bilinear_interp bilinear_interp_v2 bipartite_match
    bitwise_and bitwise_not bitwise_or bmm box_clip box_coder broadcast_tensors cast ceil celu
    channel_shuffle clip collect_fpn_proposals combine concat conv2d conv2d_transpose cos crop
    crop_tensor cumsum data deformable_conv deformable_conv_v1 depthwise_conv2d
    depthwise_conv2d_transpose dequantize_linear distribute_fpn_proposals divide dot dropout
    einsum elementwise_add elementwise_div elementwise_floordiv elementwise_max elementwise_min
    elementwise_mod elementwise_mul elementwise_pow elementwise_sub elu embedding equal erf exp
    expand expand_as expand_as_v2 expand_v2 eye fake_channel_wise_dequantize_max_abs
    fake_channel_wise_quantize_abs_max fake_channel_wise_quantize_dequantize_abs_max
    fake_dequantize_max_abs fake_quantize_abs_max fake_quantize_dequantize_abs_max
    fake_quantize_dequantize_moving_average_abs_max fake_quantize_moving_average_abs_max
    fake_quantize_range_abs_max feed fetch fill_any_like fill_constant
    fill_constant_batch_size_like flatten flatten2 flatten_contiguous_range flip floor
    floor_divide full full_batch_size_like full_int_array full_like full_with_tensor
    fused_softmax_mask gather gather_nd gelu generate_proposals generate_proposals_v2
    greater_equal greater_than grid_sample grid_sampler group_norm hard_shrink hard_sigmoid
    hard_swish hardshrink hardsigmoid hardswish hardtanh increment index_sample index_select
    instance_norm is_empty isfinite isfinite_v2 isinf isinf_v2 isnan isnan_v2 kthvalue
    label_smooth layer_norm leaky_relu lerp less_equal less_than linear_interp linear_interp_v2
    linspace log log10 log1p log2 log_softmax logical_and logical_not logical_or logical_xor
    logsigmoid logsumexp lookup_table_v2 masked_fill masked_select matmul matmul_v2
    matmul_with_flatten matrix_nms max max_pool2d_with_index maximum maxout mean meshgrid min
    minimum mish mul multiclass_nms multiclass_nms2 multiclass_nms3 multiplex multiply
    nearest_interp nearest_interp_v2 nms nonzero norm not_equal numel one_hot one_hot_v2 p
    p_norm pad pad2d pad3d pixel_shuffle pixel_unshuffle pool2d pow prelu prior_box prod
    put_along_axis quantize_linear range range_v2 reciprocal reduce_all reduce_any reduce_max
    reduce_mean reduce_min reduce_prod reduce_sum relu relu6 remainder repeat_interleave reshape
    reshape2 reverse roi_align roi_pool roll round rsqrt scale scatter scatter_nd_add selu
    set_value set_value_with_tensor shadow_output shape shape64 sigmoid sign silu sin size slice
    softmax softplus softshrink softsign split split_with_num sqrt square squeeze squeeze2 stack
    strided_slice subtract sum swish sync_batch_norm take_along_axis tan tanh tanh_shrink
    temporal_shift thresholded_relu tile top_k top_k_v2 topk transpose transpose2 tril tril_triu
    triu trunc unbind unfold unique unsqueeze unsqueeze2 unstack where where_index yolo_box
    yolo_box_head yolo_box_post zeros_like
    """
)
# Branches of old Paddle programs: the block is run once or not at all.
PADDLE_BRANCHES = frozenset({"conditional_block", "select_input"})

# Domain "" alone. `If` runs one of its two graphs, once.
ONNX = _names(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad
    Clip Col2Im Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh
    CumSum DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum
    Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf
    IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization
    Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
    """
)

# Of the sets opset1, opset2 and so on.
OPENVINO = _names(
    """
    Abs Acos Acosh AdaptiveAvgPool AdaptiveMaxPool Add Asin Asinh Atan Atanh AvgPool
    BatchNormInference BatchToSpace Broadcast Bucketize Ceiling Clamp Concat Const Convert
    ConvertLike Convolution ConvolutionBackpropData Cos Cosh CumSum DeformableConvolution
    DeformablePSROIPooling DepthToSpace DetectionOutput Divide Einsum Elu Equal Erf Exp
    ExperimentalDetectronDetectionOutput ExperimentalDetectronGenerateProposalsSingleImage
    ExperimentalDetectronPriorGridGenerator ExperimentalDetectronROIFeatureExtractor
    ExperimentalDetectronTopKROIs ExtractImagePatches Eye FakeConvert FakeQuantize Floor
    FloorMod GRN Gather GatherElements GatherND GatherTree Gelu GenerateProposals Greater
    GreaterEqual GridSample GroupConvolution GroupConvolutionBackpropData GroupNormalization
    HSigmoid HSwish HardSigmoid Identity If Interpolate IsFinite IsInf IsNaN LRN Less LessEqual
    Log LogSoftmax LogicalAnd LogicalNot LogicalOr LogicalXor MVN MatMul MatrixNms MaxPool
    Maximum Minimum Mish Mod MulticlassNms Multiply Negative NonMaxSuppression NonZero
    NormalizeL2 NotEqual OneHot PRelu PSROIPooling Pad Parameter Power PriorBox
    PriorBoxClustered Proposal ROIAlign ROIAlignRotated ROIPooling Range ReLU ReduceL1 ReduceL2
    ReduceLogicalAnd ReduceLogicalOr ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    RegionYolo ReorgYolo Reshape Result Reverse ReverseSequence Roll Round ScatterElementsUpdate
    ScatterNDUpdate ScatterUpdate Select Selu ShapeOf ShuffleChannels Sigmoid Sign Sin Sinh
    Slice SoftMax SoftPlus SoftSign SpaceToBatch SpaceToDepth Split Sqrt SquaredDifference
    Squeeze StridedSlice Subtract Swish Tan Tanh Tile TopK Transpose Unique Unsqueeze
    VariadicSplit
    """
)


class OperatorError(ValueError):
    """A model has operators that are not allowed; the message names them."""

    @classmethod
    def of(cls, kinds: Iterable[str]) -> OperatorError:
        names = sorted({repr(kind[:80]) for kind in kinds})
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return cls(
            f"refused: it has the operator{'s'[: len(names) - 1]} {', '.join(names[:5])}{more}, "
            "which a pose network or detector does not need and which may do anything: write "
            "files, run code, never end. Use a model from a source that you trust, exported "
            "without them"
        )


def check_operators(kinds: Iterable[str], allowed: Collection[str]) -> None:
    """Raises OperatorError unless all kinds of operators are allowed."""
    if refused := {kind for kind in kinds if kind not in allowed}:
        raise OperatorError.of(refused)
