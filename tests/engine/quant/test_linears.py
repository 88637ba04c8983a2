"""QuantizedLinear against the nn.Linear it came from."""

from __future__ import annotations

import copy

import pytest
import torch
from bounds import gemm_bound
from eight_bit import DEVICE, errors, normal
from torch import nn

from engine.quant.linears import KERNELS, QuantizedLinear
from kernels.fused import row_quant

FORMATS = sorted(KERNELS)


def linear(in_features: int = 96, out_features: int = 64, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(in_features, out_features, bias=bias).to(DEVICE).requires_grad_(False)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_within_the_bounds_of_its_kernel(format: str, bias: bool, dtype: torch.dtype) -> None:
    layer = linear(bias=bias).to(dtype)
    x = normal(2, 33, 96, dtype=dtype)
    out = QuantizedLinear.from_linear(layer, format)(x)
    assert out.shape == (2, 33, 64) and out.dtype == dtype
    error, cosine = errors(out, layer.float()(x.float()))
    assert 0 < error <= KERNELS[format].MAX_RELATIVE_ERROR and cosine >= KERNELS[format].MIN_COSINE


@pytest.mark.parametrize("format", FORMATS)
def test_merged_is_the_three_side_by_side(format: str) -> None:
    layers = [linear(seed=seed) for seed in range(3)]
    parts = [QuantizedLinear.from_linear(layer, format) for layer in layers]
    x8, x_scale = row_quant.run(normal(2, 33, 96), quantize=parts[0].input_format)
    merged = QuantizedLinear.merge(parts).forward_quantized(x8, x_scale)
    separate = torch.cat([part.forward_quantized(x8, x_scale) for part in parts], dim=-1)
    # A GEMM of 192 columns beside three of 64; |x|.|w| is at most the product of the Euclidean norms.
    weight = max(float(layer.weight.norm(dim=1).max()) for layer in layers)
    bound = gemm_bound(torch.float32, 96, float((x8.float() * x_scale).norm(dim=-1).max()) * weight)
    torch.testing.assert_close(merged, separate, rtol=0, atol=bound)


def test_layers_that_differ_do_not_merge() -> None:
    one = QuantizedLinear.from_linear(linear(), "fp8")
    for other in (
        QuantizedLinear.from_linear(linear(), "int8"),
        QuantizedLinear.from_linear(linear(in_features=32), "fp8"),
        QuantizedLinear.from_linear(linear(bias=False), "fp8"),
    ):
        with pytest.raises(AssertionError, match="differ"):
            QuantizedLinear.merge([one, other])


@pytest.mark.parametrize("format", FORMATS)
def test_a_cast_of_the_module_leaves_the_8_bit_weight_alone(format: str) -> None:
    layer = QuantizedLinear.from_linear(linear(), format)
    before = copy.deepcopy(layer)
    model = nn.Sequential(layer).to(torch.bfloat16)
    assert torch.equal(layer.weight.view(torch.uint8), before.weight.view(torch.uint8))
    assert torch.equal(layer.scale, before.scale) and layer.scale.dtype == torch.float32
    x = normal(4, 96, dtype=torch.bfloat16)
    assert model(x).dtype == torch.bfloat16
    x8, x_scale = row_quant.run(x, quantize=layer.input_format)
    assert layer.forward_quantized(x8, x_scale).dtype == torch.bfloat16


def test_state_round_trip_and_footprint() -> None:
    layer = QuantizedLinear.from_linear(linear(), "fp8")
    other = QuantizedLinear.from_linear(linear(seed=1), "fp8")
    other.load_state_dict(layer.state_dict())
    x = normal(3, 96)
    assert torch.equal(layer(x), other(x))
    assert sum(b.numel() * b.element_size() for b in layer.buffers()) == 96 * 64 + 64 * 4 + 64 * 4
    assert not list(layer.parameters())


def test_weights_stand_for_what_they_came_from() -> None:
    source = linear()
    layer = QuantizedLinear.from_linear(source, "int8")
    assert errors(layer.weight.float() * layer.scale[:, None], source.weight)[0] < 0.015


def test_an_input_of_another_format_is_refused() -> None:
    x8, x_scale = row_quant.run(normal(2, 96), quantize="int8")
    with pytest.raises(AssertionError, match="int8"):
        QuantizedLinear.from_linear(linear(), "fp8").forward_quantized(x8, x_scale)


def test_meta_layers_can_be_built_to_count_bytes() -> None:
    layer = QuantizedLinear.from_linear(nn.Linear(32, 16, device="meta"), "fp8")
    assert layer.weight.is_meta and layer.weight.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("format", FORMATS)
def test_torch_compile_traces_forward_without_a_break(format: str) -> None:
    layer, x = QuantizedLinear.from_linear(linear(), format), normal(3, 17, 96)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("format", FORMATS)
def test_gpu_compiled(format: str) -> None:
    layer = QuantizedLinear.from_linear(linear(1536, 8960).bfloat16(), format)
    x = normal(1, 4097, 1536, dtype=torch.bfloat16)
    out = torch.compile(layer, fullgraph=True)(x)
    assert errors(out, layer(x).float())[0] < 0.01
