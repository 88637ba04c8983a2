"""An evaluator as a process: what ends it is told in a line, as the commands of `retake` do.

python -m bench.commands._evaluator scoring.physics_iq RUN --dataset DIR
"""

from __future__ import annotations

import sys

from engine.commands._interrupts import STATUS, interruptible, stop_at_once


def main() -> int:
    stop_at_once()
    from importlib import import_module

    from bench.console import user_error
    from engine.commands._app import refused_by_system
    from engine.commands._console import make_console
    from engine.errors import RetakeError

    name, *arguments = sys.argv[1:]
    evaluator = import_module(f"bench.{name}")
    errors = make_console(stderr=True)
    try:
        with interruptible():
            return int(evaluator.main(arguments))
    except KeyboardInterrupt:
        errors.print("stopped")
        return STATUS
    except (RetakeError, OSError) as error:
        told = error if isinstance(error, RetakeError) else refused_by_system(error)
        if told is None:
            raise
        return user_error(told)


if __name__ == "__main__":
    sys.exit(main())
