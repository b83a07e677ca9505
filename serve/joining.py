"""When newcomers go into the running batch.

Reading one prompt costs all answers under way nearly a whole step, and reading several together
costs little more. So where many answers are under way, a few newcomers wait some steps for others.
"""

SHARE = 0.25
"""Newcomers go in once they are this share of the answers under way…"""
STEPS = 4
"""… or once one has waited for so many tokens of theirs."""


class Joining:
    """Decides between two steps."""

    def __init__(self) -> None:
        self._steps_waited = 0

    def now(self, num_coming: int, num_running: int) -> bool:
        """Return whether newcomers go in now.

        Args:
            num_coming: Those who wait and for whom there is room.
            num_running: Answers under way.
        """
        enough = num_coming >= SHARE * num_running or self._steps_waited >= STEPS
        self._steps_waited = self._steps_waited + 1 if num_coming and not enough else 0
        return num_coming > 0 and enough
