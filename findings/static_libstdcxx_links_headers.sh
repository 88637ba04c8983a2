#!/usr/bin/env bash
# g++ with -static-libstdc++ cannot precompile a header: the option puts a library on its command line, for which the
# driver goes on and links, and a header has no main. The same option is taken without a word where a source is
# compiled. torch's inductor precompiles its headers by whatever CXX names, so that every `torch.compile` for a CPU
# ends in "undefined reference to `main'" of a file that is none of the user's; a name of the option is nowhere in it.
#
# Seen on 2026-11-30, g++ 12.2.0 (Debian): the header alone compiles; with the option ld fails, status 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
printf '#include <vector>\ninline int size() { return (int)std::vector<int>(3).size(); }\n' > a.h
printf '#include "a.h"\nint main() { return size() - 3; }\n' > a.cpp
g++ --version | head -1

g++ -x c++-header a.h -o plain.gch
g++ -static-libstdc++ -c a.cpp -o a.o
if g++ -static-libstdc++ -x c++-header a.h -o static.gch 2> said; then
    echo "changed: a header is precompiled with -static-libstdc++" >&2
    exit 1
fi
grep "undefined reference to" said
echo "as described"
