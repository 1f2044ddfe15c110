"""Logistic regression on image features: OpenAI's third example, with this project's probe.

python -m examples.linear_probe                     # CIFAR-100, downloaded
python -m examples.linear_probe --folder images   # images/CLASS/*.png, a quarter held out
"""

from __future__ import annotations

import argparse
import sys

import clip_model as clip
from clip_model.probe import fit_probe
from examples.labelled import add_folder, argument_parser, get_features, in_one_line, open_data


def main(arguments: list[str] | None = None) -> None:
    """Fit a probe on the training part, print its accuracy on the test part."""
    parser = argument_parser("linear_probe", "Measure image features by logistic regression.")
    add_folder(parser)
    parser.add_argument(
        "--C",
        dest="c",
        type=float,
        default=0.316,
        help="inverse of the L2 strength, to be chosen on a validation split",
    )
    parser.add_argument(
        "--unprojected",
        action="store_true",
        help="features before the projection into the joint space, as in the paper",
    )
    options = parser.parse_args(arguments)
    with in_one_line(parser):
        _run(options)


def _run(options: argparse.Namespace) -> None:
    model, preprocess = clip.load(options.model, device=options.device)
    train, test = (open_data(options.folder, train=part) for part in (True, False))
    train_features, train_labels = (
        tensor.to(options.device)
        for tensor in get_features(model, preprocess, train, projected=not options.unprojected)
    )
    test_features, test_labels = get_features(
        model, preprocess, test, projected=not options.unprojected
    )

    probe = fit_probe(train_features, train_labels, l2=1 / options.c)
    accuracy = probe.accuracy(test_features, test_labels)
    sys.stdout.write(f"Accuracy = {100 * accuracy:.3f}\n")


if __name__ == "__main__":
    main()
