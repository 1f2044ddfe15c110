"""The likeliest classes of an image, from nothing but the classes' names: OpenAI's second example.

python -m examples.zero_shot                        # an image of CIFAR-100, downloaded
python -m examples.zero_shot --folder images      # images/CLASS/*.png
"""

from __future__ import annotations

import argparse
import sys

import torch

import clip_model as clip
from examples.labelled import (
    BadImageError,
    add_folder,
    argument_parser,
    get_features,
    in_one_line,
    open_data,
)

TEMPLATE = "a photo of a {}"


def main(arguments: list[str] | None = None) -> None:
    """Print an image's five likeliest classes; with --all, the accuracy on every image."""
    parser = argument_parser("zero_shot", "Classify images by nothing but the classes' names.")
    add_folder(parser)
    parser.add_argument("--index", type=int, default=0, help="which image of the test part")
    parser.add_argument(
        "--template",
        default=TEMPLATE,
        help="a sentence with {} for the class, or the name of a set of them: bare, ImageNet7",
    )
    parser.add_argument("--all", action="store_true", help="score the whole test part too")
    options = parser.parse_args(arguments)
    with in_one_line(parser):
        _run(options)


def _run(options: argparse.Namespace) -> None:
    model, preprocess = clip.load(options.model, device=options.device)
    data = open_data(options.folder, train=False)
    if not -len(data) <= options.index < len(data):
        raise BadImageError(f"there is no image {options.index} among {len(data)}")
    image, label = data[options.index]
    image_input = preprocess(image).unsqueeze(0).to(options.device)
    classifier = clip.zero_shot_classifier(model, data.classes, options.template)

    with torch.no_grad():
        image_features = model.encode_image(image_input)
    values, indices = clip.classify(image_features, classifier, model.logit_scale)

    sys.stdout.write(f"An image of the class {data.classes[label]}. Top predictions:\n")
    for value, index in zip(values[0].tolist(), indices[0].tolist(), strict=True):
        sys.stdout.write(f"{data.classes[index]:>16s}: {value:.2%}\n")
    if options.all:
        features, labels = get_features(model, preprocess, data)
        _, predicted = clip.classify(features, classifier.float().cpu(), 0.0, top_k=1)
        accuracy = (predicted[:, 0] == labels).double().mean().item()
        sys.stdout.write(f"Accuracy = {accuracy:.2%} of {len(labels)} images\n")


if __name__ == "__main__":
    main()
