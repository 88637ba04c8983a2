#!/usr/bin/env bash
# transformers 5.23.0: one model folder, two chat templates. A processor (AutoProcessor, get_processor_dict) takes the
# one in processor_config.json, else that of chat_template.json, else that of chat_template.jinja, and none of
# tokenizer_config.json; the tokenizer of the same folder takes chat_template.jinja, else tokenizer_config.json, and
# never chat_template.json. Published VLM folders have chat_template.json and tokenizer_config.json beside each other:
# edit one, or prompt through the tokenizer, and the model is asked something else, without a warning.
#
# Seen on 2026-11-29 (places of a folder -> tokenizer, processor):
#   tokenizer_config                          tokenizer_config  none
#   tokenizer_config json                     tokenizer_config  json
#   json                                      none              json
#   json jinja                                jinja             json
#   tokenizer_config processor_config jinja   jinja             processor_config
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==5.23.0" "jinja2==3.1.6"

cat > "$work/places.py" <<'P'
import json
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast, ProcessorMixin

folder, places = Path(tempfile.mkdtemp(dir=sys.argv[1])), sys.argv[2:]
PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())).save_pretrained(folder)
(folder / "processor_config.json").write_text("{}")
for place, name in {"tokenizer_config": "tokenizer_config.json", "processor_config": "processor_config.json",
                    "json": "chat_template.json"}.items():
    if place in places:
        path = folder / name
        document = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(document | {"chat_template": place}))
if "jinja" in places:
    (folder / "chat_template.jinja").write_text("jinja")
tokenizer = AutoTokenizer.from_pretrained(folder).chat_template
processor = ProcessorMixin.get_processor_dict(folder)[0].get("chat_template")
print(tokenizer or "none", processor or "none")
P

expect() { # places, what the tokenizer and the processor take
  found=$("$work/venv/bin/python" "$work/places.py" "$work" $1 2> "$work/stderr") || { cat "$work/stderr"; exit 1; }
  echo "$1 -> $found"
  [ "$found" = "$2" ] || { echo "changed: $2 before"; exit 1; }
}
expect "tokenizer_config" "tokenizer_config none"
expect "tokenizer_config json" "tokenizer_config json"
expect "json" "none json"
expect "json jinja" "jinja json"
expect "tokenizer_config processor_config jinja" "jinja processor_config"
echo "as described"
