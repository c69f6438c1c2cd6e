"""`python -m workers`: one worker process. As `--choose` it only tells `up` what it would run, as JSON; as `--doctor`
it shows what there is to run something with."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

import msgspec

from infra.doctor import print_diagnosis
from infra.lifecycle import overrides_of, run_role
from infra.settings import SettingsError, load_settings
from workers.engines.choice import choose
from workers.engines.diagnosis import diagnose
from workers.engines.probe import decided, look, wanted_of
from workers.service import serve

SUBCOMMANDS = ("--choose", "--doctor")


def run_subcommand(words: list[str]) -> int:
    """The exit code. Raises SettingsError."""
    parser = argparse.ArgumentParser(prog="penstock worker")
    what = parser.add_mutually_exclusive_group(required=True)
    for name in SUBCOMMANDS:
        what.add_argument(name, action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args(words)
    overrides = overrides_of(arguments.set)
    settings = load_settings(overrides)
    if arguments.doctor:
        diagnosis = diagnose(settings, overrides)
        print_diagnosis(diagnosis, as_json=arguments.json)
        return 0 if diagnosis.works else 1
    wanted = wanted_of(settings)
    print(msgspec.json.encode(choose(wanted, look(wanted, settings))).decode())
    return 0


def main() -> NoReturn:
    """Entry point."""
    if sys.argv[1:2] not in [[name] for name in SUBCOMMANDS]:
        run_role("worker", serve, complete=decided)
    try:
        sys.exit(run_subcommand(sys.argv[1:]))
    except SettingsError as error:
        print(f"penstock: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
