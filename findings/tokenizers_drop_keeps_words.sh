#!/usr/bin/env bash
# A tokenizer of Hugging Face's tokenizers that encoded a text and was dropped leaves memory behind, in proportion to
# the number of different words that it met; one that encoded nothing leaves none, and encoding the same text again
# with the same tokenizer costs nothing more. A service that loads a model for each request grows by it for ever.
# Whoever soaks such a program sees a steady slope that no Python object explains.
#
# Seen on 2026-11-29, tokenizers 0.23.3, glibc (bytes in use as mallinfo2 tells them):
#   made and dropped: about 0 KiB each
#   made, 2000 words encoded, dropped: about 513 KiB each
#   one tokenizer, the same 2000 words again: about 0 KiB each
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "tokenizers==0.23.3"

"$work/venv/bin/python" - <<'P'
import ctypes
import gc

from tokenizers import Tokenizer, models, pre_tokenizers


class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2


def in_use():
    gc.collect()
    told = mallinfo2()
    return told.uordblks + told.hblkhd


alphabet = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
text = " ".join(f"word{i}" for i in range(2000))


def make():
    made = Tokenizer(models.BPE(vocab=dict(alphabet), merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def grown(work, times=20):
    for _ in range(3):
        work()
    before = in_use()
    for _ in range(times):
        work()
    return (in_use() - before) / times / 1024


kept = make()
unused = grown(make)
used = grown(lambda: make().encode(text))
again = grown(lambda: kept.encode(text))
print(f"made and dropped: {unused:.1f} KiB each")
print(f"made, 2000 words encoded, dropped: {used:.1f} KiB each")
print(f"one tokenizer, the same 2000 words again: {again:.1f} KiB each")
as_described = unused < 2 and used > 100 and again < 2
print("as described" if as_described else "CHANGED: this finding is out of date")
raise SystemExit(0 if as_described else 1)
P
