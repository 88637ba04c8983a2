#!/usr/bin/env bash
# tokenizers 0.23.3: a BPE tokenizer that has encoded and is dropped leaves the words that it remembered behind, for
# the life of the process. An instance that encodes again and again does not grow, and one that never encoded leaves
# nothing; so a process that loads a model now and then (a test suite, a server that swaps models) grows with each.
#
# Seen on 2026-11-29, tokenizers 0.23.3, glibc 2.36, a text of 1500 words of six letters:
#   a new tokenizer for each text: 550 KiB each; one tokenizer for all: 0 KiB each; new ones that do not encode: 0 KiB
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "tokenizers==0.23.3"

cat > "$work/growth.py" <<'P'
import ctypes
import gc
import random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2


def allocated():
    gc.collect()
    told = mallinfo2()
    return told.uordblks + told.hblkhd


tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train_from_iterator(
    ["a text"], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
)
saved = tokenizer.to_str()
draw = random.Random(0)
text = " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(1500))


def growth(work):
    """KiB of each of 50 calls, after 10 that warm up."""
    for _ in range(10):
        work()
    before = allocated()
    for _ in range(50):
        work()
    return round((allocated() - before) / 1024 / 50)


print(
    growth(lambda: Tokenizer.from_str(saved).encode(text)),
    growth(lambda: tokenizer.encode(text)),
    growth(lambda: Tokenizer.from_str(saved)),
)
P

read -r new one unused < <("$work/venv/bin/python" "$work/growth.py")
echo "a new tokenizer for each text: $new KiB each; one for all: $one KiB; new ones that do not encode: $unused KiB"
[ "$new" -gt 100 ] || { echo "changed: nothing is left of a dropped tokenizer"; exit 1; }
[ "$one" -le 5 ] && [ "$unused" -le 5 ] || { echo "changed: others grow as well"; exit 1; }
echo "as described"
