"""What the broker does wrong just now, message by message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from chaos.broker import BrokerFaults


class Weather:
    """`chances` by the name of a step that makes it: how likely a message meets it. `count` gets those that did."""

    def __init__(self, randomness: Random, count: Counter[str]) -> None:
        self.chances: dict[str, float] = {}
        self.faults = BrokerFaults(
            lose_ack=self._strikes("lose_acks"),
            drop_live=self._strikes("lose_live"),
            drop_publish=self._strikes("lose_publishes"),
            busy=self._strikes("busy"),
        )
        self._random = randomness.random
        self._count = count

    def _strikes(self, name: str) -> Callable[[str], bool]:
        def decide(_subject: str) -> bool:
            chance = self.chances.get(name)
            if chance is None or self._random() >= chance:
                return False
            self._count[f"struck {name}"] += 1
            return True

        return decide
