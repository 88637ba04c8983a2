"""A run folder as one JSON document, read with nothing but the standard library; see docs/run-folder.md.

python docs/examples/read_run.py runs/first > run.json
"""

import json
import sqlite3
import sys
from pathlib import Path

JSON = ("reply", "prompt", "critique", "selector_scores", "timings", "form", "scores")


def as_dict(cursor: sqlite3.Cursor, row: tuple) -> dict:
    named = zip([column[0] for column in cursor.description], row, strict=True)
    return {name: json.loads(cell) if name in JSON and cell else cell for name, cell in named}


def read(run: Path) -> dict:
    database = sqlite3.connect((run / "run.sqlite").absolute().as_uri() + "?mode=ro", uri=True)
    database.row_factory = as_dict
    version = database.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()["value"]
    scenarios = database.execute("SELECT * FROM scenarios ORDER BY position").fetchall()
    for one in scenarios:
        plan, one["attempts"], one["scouts"], outcome, choice = (
            list(database.execute(f"SELECT * FROM {table} WHERE scenario_id = ? ORDER BY rowid", [one["id"]]))
            for table in ("plans", "attempts", "scouts", "outcomes", "choices")
        )
        one["plan"] = plan[0]["reply"] if plan else None
        one["outcome"] = outcome[0] if outcome else None
        one["choice"] = choice[0]["take"] if choice else None
    manifest = run / "manifest.json"
    facts = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
    return {"schema_version": int(version), "scenarios": scenarios, "manifest": facts}


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1])), indent=1, ensure_ascii=False))
