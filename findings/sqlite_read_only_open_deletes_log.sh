#!/usr/bin/env bash
# SQLite, opened read-only ("mode=ro"), writes nothing to a database; but beside a database file of zero bytes it
# deletes the write-ahead log, and with it every commit in it. A file that was emptied by a disk error or a copy
# that failed, put back from a backup afterwards, then lacks what only the log held; looking at it was enough.
# Opening it with immutable=1 leaves the log alone. The bundled SQLite of apsw is used, so that it is pinned.
#
# Seen on 2026-11-29, apsw 3.51.0.0 (SQLite 3.51.0), and with SQLite 3.40.1 of Python 3.11:
#   after mode=ro: log is deleted; put back: 1 of 3 rows
#   after mode=ro&immutable=1: log is kept; put back: 3 of 3 rows
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "apsw==3.51.0.0"

cat > "$work/log.py" <<'P'
import os
import shutil
import sys

import apsw

folder, options = sys.argv[1:]
os.mkdir(folder)
path = f"{folder}/x.sqlite"
writer = apsw.Connection(path)
writer.execute("CREATE TABLE t (a); INSERT INTO t VALUES (0)")
writer.execute("PRAGMA journal_mode = WAL")
for number in (1, 2):
    writer.execute("INSERT INTO t VALUES (?)", (number,))
killed = f"{folder}/killed"  # as a killed process leaves it: with its log
os.mkdir(killed)
for name in ("x.sqlite", "x.sqlite-wal"):
    shutil.copyfile(f"{folder}/{name}", f"{killed}/{name}")
with open(f"{killed}/x.sqlite", "r+b") as file:
    whole = file.read()
    file.truncate(0)
reader = apsw.Connection(
    f"file:{killed}/x.sqlite?{options}", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
)
reader.execute("SELECT count(*) FROM sqlite_schema").fetchall()
reader.close()
log = "kept" if os.path.exists(f"{killed}/x.sqlite-wal") else "deleted"
with open(f"{killed}/x.sqlite", "wb") as file:
    file.write(whole)
rows = apsw.Connection(f"{killed}/x.sqlite").execute("SELECT count(*) FROM t").fetchall()[0][0]
print(f"log is {log}; put back: {rows} of 3 rows")
P

read_only=$("$work/venv/bin/python" "$work/log.py" "$work/a" "mode=ro")
immutable=$("$work/venv/bin/python" "$work/log.py" "$work/b" "mode=ro&immutable=1")
echo "after mode=ro: $read_only"
echo "after mode=ro&immutable=1: $immutable"
[ "$read_only" = "log is deleted; put back: 1 of 3 rows" ] || { echo "changed: reading keeps the log"; exit 1; }
[ "$immutable" = "log is kept; put back: 3 of 3 rows" ] || { echo "changed: immutable=1 deletes the log"; exit 1; }
echo "as described"
