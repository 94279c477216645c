"""How busy the actors were between two looks at their pulses."""

from collections.abc import Mapping

from actors.report import Pulse


class BusyShares:
    """Pulses count from the start of each actor; what matters is the time since the last look."""

    def __init__(self) -> None:
        self._seen: dict[str, Pulse] = {}
        self._shares: dict[str, float] = {}

    def mean(self, pulses: Mapping[str, Pulse]) -> float:
        """Mean share of time, 0 to 1, with a prompt in flight, of the actors named in `pulses`.

        An actor with no newer pulse than before counts as it did then. 1 where nothing is known: nobody is taken for
        idle without proof.
        """
        for name, pulse in pulses.items():
            before = self._seen.get(name)
            served_s = pulse.served_s - (before.served_s if before else 0.0)
            if served_s > 0.0:
                self._shares[name] = (pulse.busy_s - (before.busy_s if before else 0.0)) / served_s
                self._seen[name] = pulse
        known = [self._shares[name] for name in pulses if name in self._shares]
        return sum(known) / len(known) if known else 1.0
