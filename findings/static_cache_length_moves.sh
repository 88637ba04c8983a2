#!/usr/bin/env bash
# transformers 5.23, StaticCache: get_seq_length gives the counter itself, a tensor that every later write raises, where
# a DynamicCache gives an int (transformers issue 45987 is of the type alone). A length that was kept, to go back to or
# to number tokens by, is another one after the next forward. A write past the end counts before it copies: the first
# layer raises an error when it has counted all of its tokens and overwritten free slots, and the layers behind it have
# not. Whoever catches that error has a cache whose get_seq_length, the first layer's, is more than it holds. Keep
# int(cache.get_seq_length()), and end before the cache is full.
#
# Seen on 2026-12-01 (six tokens and one more; then four into a cache of eight):
#   DynamicCache: kept 6, is now 6 of 7
#   StaticCache: kept 6, is now 7 of 7; past the end IndexError, layers count 11 7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==5.23.0" "torch==2.13.0" "numpy==2.3.5"

cat > "$work/lengths.py" <<'P'
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

torch.manual_seed(0)
config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                     num_attention_heads=2, num_key_value_heads=2)
model = LlamaForCausalLM(config).eval()
tokens = torch.randint(0, 32, (1, 6))


@torch.no_grad()
def kept(cache):
    model(tokens, past_key_values=cache)
    length = cache.get_seq_length()
    told = f"{type(cache).__name__}: kept {int(length)}, is now "
    model(tokens[:, :1], past_key_values=cache)
    return told + f"{int(length)} of {int(cache.get_seq_length())}"


print(kept(DynamicCache(config=config)))
static = StaticCache(config=config, max_cache_len=8)
found = kept(static)
try:
    with torch.no_grad():
        model(tokens[:, :4], past_key_values=static)
except IndexError as error:
    found += f"; past the end {type(error).__name__}"
print(f"{found}, layers count", *(int(layer.get_seq_length()) for layer in static.layers))
P

cat > "$work/expected" <<'P'
DynamicCache: kept 6, is now 6 of 7
StaticCache: kept 6, is now 7 of 7; past the end IndexError, layers count 11 7
P
"$work/venv/bin/python" "$work/lengths.py" > "$work/found" 2> "$work/stderr" || { cat "$work/stderr"; exit 1; }
cat "$work/found"
diff "$work/expected" "$work/found" || { echo "changed"; exit 1; }
echo "as described"
