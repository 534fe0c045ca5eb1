"""Film reviews: the classifier beats TF-IDF on the same rows."""

from __future__ import annotations

import pytest

from ._execute import Execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_sentiment_beats_tfidf_on_the_same_reviews(execute: Execute) -> None:
    found = execute(
        "sentiment.ipynb", "[accuracy, [against(smollm, same), against(smollm, everything)], last.confusion.counts]"
    )
    (majority, same, everything, ours), verdicts, counts = [*found[0].values()], *found[1:]
    assert counts[0][0] + counts[1][1] == round(300 * ours)
    assert sum(map(sum, counts)) == 300
    assert majority < 0.6 < same < everything
    assert ours > same + 0.1
    assert verdicts[0].startswith("SmolLM2, 200 reviews wins against TF-IDF, 200 reviews by ")
    assert ("wins against SmolLM2" in verdicts[1]) == (everything > ours)
