"""The scores as the report shows them."""

import pytest

from pipelines.report import score_table, wilson_interval


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [
        (3, 6, 0.1876, 0.8124),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_the_interval_is_wilsons(right, asked, low, high):
    """The last are of Newcombe (1998), table I."""
    assert wilson_interval(right / asked, asked) == pytest.approx((low, high), abs=5e-5)


def lines(images, captions):
    measures = {"zero-shot top-1": 0.5, "image to text R@1": 0.5, "text to image R@1": 0.25}
    scores = {"images": images, "captions": captions, "chance": 0.1, "models": {"a": measures}}
    return list(score_table(scores))


def test_scores_of_few_images_are_shown_with_their_interval():
    few = "50.00% (19% to 81%)"
    assert f"| a | {few} | {few} | 25.00% (7% to 59%) |" in lines(6, 8)
    assert f"| a | {few} | {few} | 25.00% |" in lines(6, 100)
    assert any("Raise model.held_out" in line for line in lines(6, 100))
    assert "| a | 50.00% | 50.00% | 25.00% |" in lines(100, 100)
    assert not any("Wilson" in line for line in lines(100, 100))
