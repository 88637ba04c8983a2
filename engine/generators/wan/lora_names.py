"""Names that the parts of a Wan transformer have in LoRA files of other tools: the publisher's, and kohya's,
which are these with underscores for dots."""

from __future__ import annotations

from diffusers import WanTransformer3DModel

from engine.denoise.lora import aliases_of
from engine.generators.wan.published_names import published_name


def lora_aliases(transformer: WanTransformer3DModel) -> dict[str, str]:
    """Names of other tools -> names here, of modules with weights and of bare parameters."""
    names = {name.rpartition(".")[0] for name, _ in transformer.named_parameters()}
    tables = {name for name, _ in transformer.named_parameters() if name.endswith("scale_shift_table")}
    return aliases_of(sorted((names - {""}) | tables), published_name)
