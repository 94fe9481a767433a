"""The head that turns an embedding into one number, in ImageReward and in LAION's aesthetic predictor."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class ScoreHead(nn.Module):
    """Five linear layers with only dropout between them; in evaluation an affine map, as in the published weights.

    Source:
        ImageReward, arXiv:2304.05977; LAION's improved aesthetic predictor. Both have these widths and dropout rates.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, features: Float[Tensor, "N width"]) -> Float[Tensor, " N"]:
        """Maps features to numbers."""
        return self.layers(features).squeeze(-1)
