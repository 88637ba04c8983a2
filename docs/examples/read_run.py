"""A run folder as one JSON document, read with nothing but the standard library; see docs/run-folder.md.

python docs/examples/read_run.py runs/first > run.json
"""

import json
import sqlite3
import sys
from pathlib import Path

JSON = ("reply", "prompt", "critique", "selector_scores", "timings")


def values(row: sqlite3.Row) -> dict:
    found = {key: json.loads(cell) if key in JSON and cell else cell for key, cell in dict(row).items()}
    found.pop("scenario_id", None)
    return found


def read(run: Path) -> dict:
    database = sqlite3.connect((run / "run.sqlite").absolute().as_uri() + "?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    scenarios = [values(row) for row in database.execute("SELECT * FROM scenarios ORDER BY position")]
    for scenario in scenarios:
        ask = "SELECT * FROM {} WHERE scenario_id = ? ORDER BY 2"  # the second column of attempts: number
        plan, takes, outcome, choice = (
            [values(row) for row in database.execute(ask.format(table), (scenario["id"],))]
            for table in ("plans", "attempts", "outcomes", "choices")
        )
        scenario["plan"] = plan[0]["reply"] if plan else None
        scenario["attempts"], scenario["outcome"] = takes, outcome[0] if outcome else None
        scenario["choice"] = choice[0]["take"] if choice else None
    (version,) = database.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    document = {"schema_version": int(version), "scenarios": scenarios}
    if (run / "manifest.json").is_file():
        document["manifest"] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return document


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1])), indent=1, ensure_ascii=False))
