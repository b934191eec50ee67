"""What a metric is called, and how its values are shown."""

from typing import NamedTuple

MIN_SIDE = 32  # px; AlexNet's last features of smaller images are empty


class Metric(NamedTuple):
    """How a metric is shown.

    Attributes:
      name: in tables.
      decimals: in tables.
      higher_is_better: whether it is a similarity.
      definition: for reports; None where the protocol tells.
      min_side: px; smaller images have no value.
    """

    name: str
    decimals: int
    higher_is_better: bool
    definition: str | None = None
    min_side: int = MIN_SIDE

    @property
    def title(self) -> str:
        """With an arrow to the better side."""
        return f"{self.name} {'↑' if self.higher_is_better else '↓'}"
