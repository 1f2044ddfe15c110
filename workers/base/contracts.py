"""The contracts between the stages: the Parquet columns of every folder of a run.

A stage reads and writes these schemas and no others, so that each folder can be joined
with every other one on ``pair_id`` and opened by any tool that reads Parquet.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

#: ``queries/``: the terms that captions are matched against, sorted by ``query_id``.
QUERIES = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # word, bigram, title, synset or list
        pa.field("count", pa.int64()),  # occurrences in the dump; null where not counted
        pa.field("pmi", pa.float32()),  # bigrams only: pointwise mutual information, bits
        pa.field("npmi", pa.float32()),  # bigrams only: the same, normalised to at most 1
        pa.field("views", pa.int64()),  # titles only: page views, where they are known
    ]
)

#: ``_tables/pages/``: what came of every URL of a host that was to be asked for, sorted by ``url``.
VISITS = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # as the tally of the stage names it; null: kept
        pa.field("target", pa.string()),  # where it redirects to, as its header has it
        pa.field("etag", pa.string()),  # of the page in the WARC file, as the next field
        pa.field("last_modified", pa.string()),
        pa.field("failures", pa.int32(), nullable=False),  # crawls in a row at which it failed
    ]
)

#: ``pairs/``: candidate (image, text) pairs, sorted by ``pair_id``; no pixels yet.
PAIRS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("page_url", pa.string()),
        pa.field("source", pa.string(), nullable=False),  # "FILE@OFFSET" the pair was read from
        pa.field("query_ids", pa.list_(pa.int32()), nullable=False),
    ]
)

#: ``images/``: img2dataset's own columns with ``pair_id`` in front, sorted by ``pair_id``.
IMAGES = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_message", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("final_url", pa.string()),  # that the image came from, after redirects
        pa.field("original_bytes", pa.int64()),  # downloaded; those of the next two fields
        pa.field("original_format", pa.string()),  # by its content, as Pillow names it
        pa.field("sha256", pa.string()),
        pa.field("jpg", pa.binary(), nullable=False),
    ]
)

#: ``requests/``: lists of pairs to ask for, each a shard of ``images``, sorted by ``pair_id``.
REQUESTS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("tries", pa.int32(), nullable=False),  # how often it was asked for before
        pa.field("failed_in", pa.string()),  # the shard in which it failed last, if it did
        pa.field("failed_for", pa.string()),  # and why
        pa.field("image_in", pa.string()),  # the shard that has its URL's image: of other captions
    ]
)

#: ``_tables/images/``: what came of every pair that was to be asked for, sorted by ``pair_id``. The
#: fields from ``final_url`` on are of the last answer. Another night's may differ though the image
#: is the same, so ``images/`` has only what follows from what came.
ANSWERS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # as the tally of the stage names it; null: kept
        pa.field("rejected", pa.bool_()),  # a decision of ours; else it failed; null: kept
        pa.field("error_message", pa.string()),  # more about the reason; null where there is none
        pa.field("tries", pa.int32(), nullable=False),  # lists on which it was before this one
        pa.field("final_url", pa.string()),  # after redirects; null: nothing was asked
        pa.field("http_status", pa.int32()),  # null: no answer, or it was a file
        pa.field("last_modified", pa.string()),  # the header as it came; so the next one
        pa.field("etag", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),  # of this list
        pa.field("ended_at", pa.timestamp("ms", "UTC"), nullable=False),  # the last of them
    ]
)

#: One zero-shot label of one image: the best classes of each label set.
LABEL = pa.struct(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
    ]
)


def embeddings_schema(
    dim: int,
    *,
    images: bool = True,
    texts: bool = True,
    labels: bool = False,
    scores: Sequence[str] = (),
    rounded: bool = True,
    hidden: int | None = None,
) -> pa.Schema:
    """``embeddings/``: the CLIP features of each pair, for a model of ``dim`` dimensions.

    Both embeddings have unit length before they are rounded to float16; ``similarity`` is
    their cosine, computed before the rounding. ``image_hash`` is ``embedding.image_hash``'s; no
    value of it is null, which pandas would answer with floats that lose its last bits. Files carry
    metadata beside it: ``model``, a known model's name or the checkpoint's sha256, and
    ``precision``, fp32 or bf16.

    Args:
        images, texts: which towers worked; ``similarity`` needs both, the hash, labels and scores
            need images.
        labels, scores: which columns of ``labels_schema`` are there too, where images are
            labelled as they are embedded (``pipelines.embed``); a run has a stage of its own.
        rounded: to float16; else embeddings are as the towers gave them, in float32.
        hidden: dimensions of ``image_hidden``, an image's features before the projection into the
            joint space, of whatever length, which an evaluation's probes see; None: not there.
    """
    number = pa.float16() if rounded else pa.float32()
    embedding = pa.list_(pa.field("item", number, nullable=False), dim)
    fields = [pa.field("pair_id", pa.string(), nullable=False)]
    if images:
        fields.append(pa.field("image_embedding", embedding, nullable=False))
    if images and hidden:
        before = pa.list_(pa.field("item", number, nullable=False), hidden)
        fields.append(pa.field("image_hidden", before, nullable=False))
    if texts:
        fields.append(pa.field("text_embedding", embedding, nullable=False))
    if images and texts:
        fields.append(pa.field("similarity", pa.float32(), nullable=False))
    if images:
        fields.append(pa.field("image_hash", pa.uint64(), nullable=False))
        fields += list(labels_schema(scores))[1 if labels else 2 :]
    return pa.schema(fields)


def labels_schema(scores: Sequence[str] = ()) -> pa.Schema:
    """``labels/``: what the embeddings of the images say of them, sorted by ``pair_id``.

    Args:
        scores: names of attributes and heads, each a column ``score_NAME``.
    """
    fields = [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("labels", pa.list_(LABEL), nullable=False),
    ]
    fields += [pa.field(f"score_{name}", pa.float32(), nullable=False) for name in scores]
    return pa.schema(fields)


#: ``selection/``: the verdict on every embedded pair.
SELECTION = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # the step that rejected it; null: selected
    ]
)

#: ``dataset/``: the curated pairs, everything that training needs in one row.
DATASET = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("jpg", pa.binary(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("page_url", pa.string()),
        pa.field("query_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("labels", pa.list_(LABEL), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
    ]
)
