"""A transformers folder of the Qwen-VL layout -> model, tokenizer, end tokens; every tensor is accounted for.

Knows no prompt and no reply. Invariant: what is in the folder is used or refused by name: surplus weights,
adapters beside a model, quantization formats whose package is missing.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.critics.qwen_vl.chat_template import chat_template
from engine.critics.qwen_vl.delta_net import implementation
from engine.critics.qwen_vl.lent_tower import over_tower
from engine.critics.qwen_vl.preprocess import VIDEO_PAD
from engine.critics.qwen_vl.prequantized import (
    described,
    load_prequantized,
    names_in,
    outline_prequantized,
)
from engine.critics.qwen_vl.text_step import LINEAR, layer_kinds, require_decodable
from engine.errors import ModelError, unknown_name
from engine.machine.tokenizer import read_tokenizer
from engine.quant import four_bit
from engine.settings.sidecars import refuse_adapters
from engine.weights.contents import listed
from engine.weights.fill import left_out
from engine.weights.prequantized import READ, Layers, read_layers, read_scheme
from engine.weights.variants import library_shapes
from engine.words import counted
from kernels.descriptors import DTYPES, torch_dtype
from kernels.linear import int8

QUANTIZATIONS = ("none", "nf4", "int8")

# The vision tower is prefill-bound and small: it keeps its precision. What decides how long a state lasts is
# smaller still, and its error grows with every token; publishers keep it in 16 bits too. Naming a list drops
# the library's own, which is why lm_head is on it. Beginnings or ends of names.
UNQUANTIZED = ["model.visual", "lm_head", ".in_proj_a", ".in_proj_b"]

# nf4: half a byte, four bytes of scale for each 64 weights.
BYTES_PER_WEIGHT = {"nf4": 1 / 2 + 4 / 64, "int8": 1.0}
# As they are packed for a GPU (`kernels.linear.four_bit`): two bytes of scale for each 64 weights.
PACKED_BYTES_PER_WEIGHT = BYTES_PER_WEIGHT | {"nf4": four_bit.BYTES_PER_WEIGHT}

OTHER_NAMES = frozenset({"cosmos3_omni"})
"""Model types whose tensors the library renames when it reads them."""

_COMPLETE = "copy the complete model folder: config.json, *.safetensors and the tokenizer files"
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticParts:
    """What a folder holds. Without weights the model has shapes only (device meta)."""

    model: Any  # of transformers: Qwen3VL, Qwen3_5 or Qwen2_5_VLForConditionalGeneration
    tokenizer: Any  # with the chat template that counts
    eos_ids: tuple[int, ...]
    notes: Mapping[str, str]  # what is done with the folder, for the manifest


def read_folder(
    folder: Path, *, device: str, dtype: str, quantization: str, with_weights: bool, tower: Any = None
) -> CriticParts:
    """Raises ConfigError for unknown names and ModelError for what does not fit; see `load`."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    options = _quantization_options(quantization, torch_dtype(dtype), device)
    refuse_adapters(
        folder,
        fix="merge it into the model (peft: merge_and_unload, save_pretrained) and give that folder",
    )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)  # nosec B615 # a local folder
        require_decodable(config.get_text_config())
        tokenizer = read_tokenizer(folder)
        layers = None if tower is not None else _prequantized(folder, config, quantization)
        if layers is None:
            _require_quantizer(folder, config)
            if not options and getattr(config, "quantization_config", None) is None:
                options = {"device_map": {"": device}}  # on several threads, without a copy on the host
        if tower is not None:
            model = over_tower(folder, config, tower, torch_dtype(dtype), with_weights=with_weights)
        elif layers is not None:
            read = load_prequantized if with_weights else outline_prequantized
            model = read(layers, config, torch_dtype(dtype), device)
        elif with_weights:
            model = _with_weights(folder, torch_dtype(dtype), options)
        else:
            model = _outline(folder, config, torch_dtype(dtype), quantization, device)
    except (*_LOADING_ERRORS, SafetensorError, StrictDataclassError) as error:
        raise ModelError(f"{folder} cannot be loaded as qwen_vl: {error}", fix=_COMPLETE) from error
    if tokenizer.convert_tokens_to_ids(VIDEO_PAD) != config.video_token_id:
        raise ModelError(
            f"{folder}: {VIDEO_PAD} of the tokenizer is not video_token_id {config.video_token_id}",
            fix="take tokenizer and config.json from the same model",
        )
    template = chat_template(folder, tokenizer)
    tokenizer.chat_template = template.text
    stays = (
        tower is not None
        or bool(options)
        or not with_weights
        or getattr(model, "quantization_method", None) is not None
    )
    model = model.eval() if stays else model.to(device).eval()
    return CriticParts(
        model=model,
        tokenizer=tokenizer,
        eos_ids=_eos_ids(model, tokenizer),
        notes=_notes(folder, model, template.source)
        | ({} if layers is None else {"weights": described(layers, device, torch_dtype(dtype))}),
    )


def _notes(folder: Path, model: Any, template: str) -> dict[str, str]:
    notes = {"chat_template": template}
    if LINEAR in layer_kinds(model.config.get_text_config()):
        notes["linear_attention"] = implementation()
    if unused := sorted(left_out(model, library_shapes(folder))):
        notes["unused_weights"] = f"{len(unused)} that decoding has no use for: {listed(unused)}"
    return notes


def _with_weights(folder: Path, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(  # nosec B615 # a local folder
        folder,
        dtype=dtype,
        local_files_only=True,
        attn_implementation="sdpa",
        output_loading_info=True,
        **options,
    )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {counted(len(missing), 'weight')} of the model, the first {missing[0]}",
            fix=_COMPLETE,
        )
    if surplus := sorted(info["unexpected_keys"]):
        raise ModelError(
            f"{folder} holds {counted(len(surplus), 'weight')} that {type(model).__name__} does not use: "
            f"{', '.join(surplus[:5])}{', ...' if surplus[5:] else ''}",
            fix="they may be scales of a quantization that config.json does not state, or an adapter: take"
            " the model in a format that states it, merge the adapter, or remove these tensors",
        )
    plain = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt") and module.weight.is_floating_point()
    ]
    if plain:
        raise ModelError(
            f"config.json of {folder} says that it is quantized by bitsandbytes, but {len(plain)} of its"
            f" layers are not, the first {plain[0]}",
            fix="take weights and config.json from the same model, or remove quantization_config and use "
            "--quantization",
        )
    if mismatched := sorted(str(key) for key in info["mismatched_keys"]):
        raise ModelError(
            f"{folder}: {counted(len(mismatched), 'weight has', 'weights have')} another shape than "
            f"config.json says, the first {mismatched[0]}",
            fix="take weights and config.json from the same model",
        )
    return model


def _prequantized(folder: Path, config: Any, quantization: str) -> Layers | None:
    """The layers of a folder whose quantization is read by us, by headers alone; `config` loses what it says
    of it. ModelError for one that is to be quantized again, or packed in a way that is not read."""
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return None
    facts = stated if isinstance(stated, dict) else stated.to_dict()
    if quantization != "none":
        raise ModelError(
            f"{folder} is quantized already ({facts.get('quant_method', 'unknown')}); "
            f"--quantization {quantization} cannot be laid over it",
            fix="leave --quantization out",
        )
    scheme = read_scheme(folder, facts)
    if scheme is None:
        return None
    del config.quantization_config
    return read_layers(folder, scheme)


def _require_quantizer(folder: Path, config: Any) -> None:
    """ModelError where the folder is quantized and transformers' quantizer for it cannot run here."""
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return
    from transformers.quantizers import AutoHfQuantizer

    facts = stated if isinstance(stated, dict) else stated.to_dict()
    try:
        AutoHfQuantizer.from_config(stated, pre_quantized=True).validate_environment(device_map=None)
    except (ImportError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} is quantized ({facts.get('quant_method', 'unknown')}), which cannot be loaded here: "
            f"{error}",
            fix=f"install the package that the message names, or take the model in one of: {READ}",
        ) from error


def _outline(folder: Path, config: Any, dtype: torch.dtype, quantization: str, device: str) -> Any:
    """The model with shapes and without values; a quantized weight stands as so many bytes.

    ModelError where the headers of a folder in 16 bits state other tensors than its config.json.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    is_plain = getattr(config, "quantization_config", None) is None and config.model_type not in OTHER_NAMES
    if is_plain and (found := library_shapes(folder)):
        names_in(model, folder, found, f"{type(model).__name__}, by its config.json")
    per_weight = BYTES_PER_WEIGHT if torch.device(device).type == "cpu" else PACKED_BYTES_PER_WEIGHT
    for name, module in model.named_modules():
        stays = name.startswith((*UNQUANTIZED,)) or name.endswith((*UNQUANTIZED,))
        if quantization != "none" and isinstance(module, nn.Linear) and not stays:
            size = round(module.weight.numel() * per_weight[quantization])
            stand_in = torch.empty(size, dtype=torch.uint8, device="meta")
            module.weight = nn.Parameter(stand_in, requires_grad=False)
    return model


def _eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends an answer, according to the generation config and the tokenizer."""
    listed = model.generation_config.eos_token_id
    ids = list(listed) if isinstance(listed, (list, tuple)) else [listed]
    known = tuple(dict.fromkeys(i for i in [*ids, tokenizer.eos_token_id] if i is not None))
    if not known:
        raise ModelError("neither generation config nor tokenizer names an end token", fix=_COMPLETE)
    return known


def _quantization_options(quantization: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Arguments of from_pretrained; empty for "none". int8 with threshold 0: the default synchronizes."""
    if quantization not in QUANTIZATIONS:
        raise unknown_name("quantization", quantization, QUANTIZATIONS)
    if quantization == "none":
        return {}
    if quantization == "int8" and device == "cpu" and not int8.library_is_exact():
        raise ModelError(
            "int8 on this CPU gives wrong sums: it has no VNNI instructions, which torch does not check",
            fix="use --quantization nf4 or none, or a GPU",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization {quantization!r} needs bitsandbytes, which is not installed",
            fix='install it with: pip install "retake-engine[gpu]", or use --quantization none',
        )
    from transformers import BitsAndBytesConfig

    if quantization == "nf4":
        # Scales in 8 bits would be exact to a hundredth of the largest of 256 neighbours: those of rows that
        # are small beside others come out several times too large or negative. Packed for a GPU they take two
        # bytes either way.
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=False,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=UNQUANTIZED,
        )
    else:
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # one line per call
        config = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=UNQUANTIZED
        )
    return {"quantization_config": config, "device_map": {"": device}}
