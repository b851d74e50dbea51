"""Raw rows in, probabilities out, with whichever format runs the model."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimtab.data.encode import Encoder
from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Schema
from slimtab.serving.arrays import Arrays, check_arrays, check_finite, to_arrays
from slimtab.serving.card import load_encoder, read_card
from slimtab.serving.formats import FORMATS
from slimtab.serving.rows import RowReader

Run = Callable[[Arrays], NDArray[np.float32]]  # encoded rows in, logits out
_ROWS = 16_384  # run at a time, so that memory does not grow with the rows asked for


class Predictor:
    """A served model.

    Args:
        encoder: turns raw rows into ids and numbers.
        card: what ``model.json`` says of the model.
        run: the program, for one row or more.

    Attributes:
        schema: the columns it takes.
        card: see above.
    """

    def __init__(self, encoder: Encoder, card: dict[str, Any], run: Run) -> None:
        self.schema: Schema = encoder.schema
        self.card = card
        self._encoder, self._run, self._reader = encoder, run, RowReader(encoder.schema)

    def predict(self, rows: Any) -> NDArray[np.float64]:
        """Return the probability of a click for each raw row [N].

        An unseen token and a missing one are what training made of them: the row out of vocabulary, unless
        missing cells were frequent enough to have their own. A missing number is 0 after the transform.

        Args:
            rows: one row as a dict from column to cell; several as a list of such; or a pandas, polars or
                Arrow table. Columns that the model does not know are ignored.

        Raises:
            SlimtabError: when a column is missing or holds what it cannot hold.
        """
        arrays = to_arrays(self._encoder.encode(self._reader.read(rows)), self.schema)
        check_finite(self.schema, arrays.dense)
        return self._probabilities(arrays)

    def predict_encoded(
        self, dense: Any, ids: Any, values: Any = None, lengths: Any = None
    ) -> NDArray[np.float64]:
        """Return the probability of a click for each encoded row [N].

        Args:
            dense: transformed numbers [N, I], of any float type.
            ids: of one-hot features [N, F], of any integer type. One outside its feature's range reads the
                row out of vocabulary.
            values: ids of multi-hot features [V], one feature after another, each in row order.
            lengths: ids per multi-hot feature and row [M, N].

        Raises:
            SlimtabError: when an array is missing or does not fit.
        """
        return self._probabilities(check_arrays(self.schema, dense, ids, values, lengths))

    def _probabilities(self, arrays: Arrays) -> NDArray[np.float64]:
        logits = [self._run(part.with_a_value())[: len(part.dense)] for part in arrays.parts(_ROWS)]
        whole = np.concatenate([np.empty(0), *logits])  # float64, and of no rows too
        # Whichever of the two forms does not overflow.
        small = np.exp(-np.abs(whole))
        probabilities: NDArray[np.float64] = np.where(whole >= 0, 1.0, small) / (1.0 + small)
        return probabilities


def load(path: str | Path) -> Predictor:
    """Open what `slimtab export` wrote, or the ``frozen/`` of a run.

    Nothing of torchrec or fbgemm is needed; for ``onnx`` not torch either.

    Raises:
        SlimtabError: when it is missing, damaged, or needs a package that is not installed.
    """
    folder = Path(path)
    card = {"format": "safetensors"} | read_card(folder)  # as which a frozen folder is read
    name = card["format"]
    if name not in FORMATS:
        raise SlimtabError(f"{folder} holds the unknown format '{name}'{nearest(name, FORMATS)}")
    encoder = load_encoder(folder, card)
    run: Run = importlib.import_module(f"slimtab.serving.formats.{name}").read(folder, card, encoder.schema)
    return Predictor(encoder, card, run)
