"""What a store knows of all scenarios at once, without reading a take: which are there, judged and chosen."""

from __future__ import annotations

from engine.runs.database import Database


class Overview:
    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def outcome_query(self) -> str:
        return (
            "SELECT o.scenario_id, o.chosen, o.failure, o.stopped, c.take FROM outcomes o"
            f" LEFT JOIN {self._database.choices} c ON c.scenario_id = o.scenario_id"  # nosec B608
        )

    def choices(self) -> dict[str, tuple[int | None, int | None]]:
        """By scenario id, the numbers of the chosen take and of the loop's own; None where a scenario failed.

        Unfinished scenarios are absent.
        """
        rows = self._database.rows(self.outcome_query)
        return {row[0]: (row[1] if row[4] is None else row[4], row[1]) for row in rows}

    def take_numbers(self) -> dict[str, list[int]]:
        """The numbers of its takes by scenario id; of one without any it is absent."""
        found: dict[str, list[int]] = {}
        query = "SELECT scenario_id, number FROM attempts ORDER BY scenario_id, number"
        for scenario_id, number in self._database.rows(query):
            found.setdefault(scenario_id, []).append(number)
        return found

    def states(self) -> dict[str, tuple[object, ...]]:
        """By scenario id, what differs once anything of it does; a scenario that was not begun is absent."""
        query = (
            "SELECT scenario_id, 'plan', 1, 1 FROM plans UNION ALL"
            " SELECT scenario_id, 'takes', COUNT(*), COUNT(critique) FROM attempts GROUP BY scenario_id"
            " UNION ALL SELECT scenario_id, 'scouts', COUNT(*), COUNT(place)"
            f" FROM {self._database.scouts} GROUP BY scenario_id"  # nosec B608
        )
        found: dict[str, tuple[object, ...]] = {}
        for scenario_id, *rest in [*self._database.rows(query), *self._database.rows(self.outcome_query)]:
            found[scenario_id] = (*found.get(scenario_id, ()), *rest)
        return found

    def latest_takes(self, num: int) -> list[tuple[str, int]]:
        """Scenario and number of the takes that were stored last, the last one first."""
        query = "SELECT scenario_id, number FROM attempts ORDER BY rowid DESC LIMIT ?"
        return [(name, number) for name, number in self._database.rows(query, (num,))]
