"""Train a CLIP on shards of pairs: the loop, from top to bottom. No Ray in here.

The same in one process and in many, which see the same batches: what a training has done is one
number, its step, and all that is drawn is a function of that and the seed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from clip_model.config import ClipConfig
from clip_model.flops import step_flops
from clip_model.model import CLIP, trim
from clip_model.preprocess import Preprocessing, normalised
from pipelines.training.accumulation import backward
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.data import Stream, sent_ahead
from pipelines.training.index import Failure, Index
from pipelines.training.metrics import Clock, Line, Log
from pipelines.training.order import DataSettings
from pipelines.training.parallel import Workers
from pipelines.training.retrieval import HeldOutRetrieval
from pipelines.training.settings import TrainSettings
from pipelines.training.state import TrainingState, trained_model
from pipelines.training.teacher import Teacher
from workers.base.failures import NeedsMendingError
from workers.base.opt_outs import OptOuts
from workers.base.sampling import draw
from workers.base.tally import Tally
from workers.embedding.encoders import TOKENS_ROUNDED_TO

log = logging.getLogger(__name__)

#: Called now and then with how far the training is, in words and as a share.
Say = Callable[[str, float], None]

#: Seconds between two words, and between two times that the workers ask for a notice.
SAY_EVERY = 5.0
#: What all workers need to know of a checkpoint.
_SHARED = ("step", "precision", "failures")
#: Pairs that an error names.
NAMED = 20


class DivergedError(NeedsMendingError):
    """The loss or a weight is no longer a number."""


class Notice(Protocol):
    """That this process will soon be ended from outside."""

    def given(self) -> bool:
        """Whether it was; all workers ask after the same steps."""

    def obeyed(self) -> None:
        """A checkpoint was made for it."""


class Unnoticed:
    """No notice comes."""

    def given(self) -> bool:
        return False

    def obeyed(self) -> None:
        """There was none."""


def _say_nothing(_note: str, _share: float) -> None:
    pass


@dataclass(frozen=True)
class Trained:
    """What a training ends with: the same for the same data, settings, seed and workers."""

    model: CLIP  # its average, where there is one
    pairs: Tally
    metrics: list[Line]


def train(
    shards: Sequence[Path],
    settings: TrainSettings,
    seed: int,
    folder: Path,
    workers: Workers,
    say: Say = _say_nothing,
    notice: Notice = Unnoticed(),  # noqa: B008 - it holds nothing
    contents: Sequence[str] | None = None,
    opt_outs: Sequence[OptOuts] = (),
) -> Trained | None:
    """Train, and give the first worker the model; None to the others.

    Args:
        shards: Parquet files or tars of pairs (``workers.embedding.shard_reader``).
        folder: of this training, which goes on from what it finds there.
        workers: this process and those that it trains with; all call this with the same arguments.
        say: called by the first worker every few seconds: the step, the loss, the pairs a second.
        contents: the sha256 of each shard, where they are known.
        opt_outs: whose rows are neither trained on nor judged by.

    Raises:
        DivergedError: the loss became NaN or infinite, or a weight did.
        NeedsMendingError: there are fewer than two pairs, or a setting does not fit the model.
    """
    torch.set_num_threads(settings.cpus)
    checkpoints = Checkpoints(folder, settings.checkpoints.keep)
    kept = checkpoints.latest() if workers.rank == 0 else None
    begun = workers.broadcast({name: kept[name] for name in _SHARED} if kept else None)
    precision = begun["precision"] if begun else workers.agreed_precision(settings.precision)

    index = _index(shards, contents, opt_outs, settings, seed, folder, workers)
    of_data = settings.of_data(seed, _batch_size(settings, index.tally.kept))
    state = TrainingState(settings, seed, precision, workers)
    config = state.model.config
    how = Preprocessing.of(config)
    stream = Stream(
        index,
        of_data,
        preprocessing=how,
        context_length=settings.caption_tokens or config.text.context_length,
        rank=workers.rank,
        world_size=workers.size,
        threads=settings.data.threads or settings.cpus,
        pinned=workers.device.type == "cuda",
    )
    if begun:
        state.load(begun["step"], kept or {})
        stream.failures.update(_failures(begun))
    total = settings.steps or stream.steps_per_epoch * settings.epochs
    lines = Log(folder if workers.rank == 0 else None, total, kept["log"] if kept else None)
    held_out = (
        HeldOutRetrieval(shards, of_data, config, opt_outs) if settings.evaluate_every else None
    )
    clock = Clock(workers.peak_flops())
    # Few lengths, where each is compiled.
    rounded_to = TOKENS_ROUNDED_TO if settings.compile else 1
    _warn_of_warm_up(settings.optimizer.warmup_steps, total)

    with closing(stream.batches(state.step)) as batches, closing(lines):
        for batch in sent_ahead(islice(batches, total - state.step), workers.device):
            images = normalised(batch.images, how.mean, how.std)  # [n, 3, R, R]
            tokens = trim(batch.tokens, rounded_to).to(workers.device)  # [n, L]
            torch.manual_seed(int(2**32 * draw(seed, state.step, batch.first)))  # of dropout
            parts = workers.parts(batch.sizes)
            teacher = [one.to(workers.device) for one in batch.teacher or ()]  # [n, D] each
            share = backward(state.compute, [images, tokens, *teacher], parts, settings.chunk)
            tick = share.new_tensor(workers.rank == 0 and clock.has_passed(SAY_EVERY))
            loss, tick = workers.sum(torch.stack([share, tick])).tolist()
            if not math.isfinite(loss):
                _stop(f"the loss is {loss}", state.step, workers.gather(batch.ids), settings)
            done = state.take_step(total)
            lines.step(state.step, loss, done)
            clock.stepped(of_data.batch_size, _flops(config, settings, of_data, tokens))

            score = None
            if held_out and state.step % (settings.evaluate_every or total) == 0:
                with state.averaged():
                    recall = held_out.recall(state.compute, workers)
                lines.judged(state.step, recall)
                score = sum(recall.values())
            if workers.rank == 0 and (tick or state.step in (1, total)):
                speed = clock.speed(stream.waited)
                lines.show(state.step, speed)
                say(_progress(state.step, total, stream, loss, speed), state.step / total)
            leaving = bool(tick) and workers.any(notice.given())
            if (
                leaving
                or score is not None
                or state.step == total
                or state.step % (settings.checkpoints.every_steps or total) == 0
                or (tick and workers.any(clock.is_over(settings.checkpoints.every_minutes)))
            ):
                _check_weights(state, workers, batch.ids, settings)
                kept = state.kept() | {"precision": precision, "log": lines.state()}
                failures = workers.gather(list(stream.failures.items()))
                kept["failures"] = {place: astuple(failure) for place, failure in failures}
                if workers.rank == 0:
                    checkpoints.save(kept, score)
                    lines.flush()
                clock.kept()
                if leaving:
                    notice.obeyed()
    if workers.rank > 0 or kept is None:
        return None
    pairs = index.account(_failures(kept))
    return Trained(trained_model(kept, config), pairs, kept["log"]["lines"])


def _index(
    shards: Sequence[Path],
    contents: Sequence[str] | None,
    opt_outs: Sequence[OptOuts],
    settings: TrainSettings,
    seed: int,
    folder: Path,
    workers: Workers,
) -> Index:
    """That of all shards, of which each worker makes some, where they share a disk."""
    of_some = partial(
        Index.of,
        folder=folder / "index",
        settings=settings.of_data(seed),
        opt_outs=opt_outs,
        teacher=_teacher(settings),
        threads=settings.cpus,
    )
    if workers.size > 1:
        mine = slice(workers.rank, None, workers.size)
        of_some(shards[mine], contents=contents[mine] if contents else None)
        workers.barrier()
    index = of_some(shards, contents=contents)
    if unknown := index.tally.rejected["not_in_teacher"]:
        if not index.tally.kept:
            raise NeedsMendingError(
                f"model.distillation.embeddings: of {unknown:,} pairs to train on the teacher has "
                "embedded none: name the files with the embeddings of these pairs, by pair_id"
            )
        log.warning("%s pairs are left out: the teacher has not embedded them", f"{unknown:,}")
    return index


def _teacher(settings: TrainSettings) -> Teacher | None:
    try:
        return Teacher.of(settings.distillation) if settings.distillation else None
    except ValueError as error:
        raise NeedsMendingError(f"model.distillation.embeddings: {error}") from error


def _failures(kept: Mapping[str, Any]) -> dict[tuple[int, int], Failure]:
    """Those of a checkpoint, which holds plain data."""
    return {place: Failure(*said) for place, said in kept["failures"].items()}


def _batch_size(settings: TrainSettings, pairs: int) -> int:
    if pairs < 2:
        raise NeedsMendingError(
            f"{pairs} pairs to train on; a contrastive loss needs at least two: let "
            "selection.steps keep more, or lower model.held_out"
        )
    if pairs < settings.batch_size:
        log.warning("there are %d pairs, fewer than model.batch_size: all are a batch", pairs)
    return min(settings.batch_size, pairs)


def _warn_of_warm_up(steps: int, total: int) -> None:
    if steps >= total:
        log.warning(
            "the training has %d steps, so the warm-up of %d (model.optimizer.warmup_steps) never "
            "reaches the learning rate",
            *(total, steps),
        )


def _stop(what: str, step: int, ids: Sequence[str], settings: TrainSettings) -> NoReturn:
    named = ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
    raise DivergedError(
        f"{what} in step {step + 1}; lower model.optimizer.learning_rate (now "
        f"{settings.optimizer.learning_rate}), or look at the pairs of its batch: {named}"
    )


def _check_weights(
    state: TrainingState, workers: Workers, ids: Sequence[str], settings: TrainSettings
) -> None:
    """No loss has been seen of the weights after a step. Raises DivergedError on all workers."""
    weights = state.objective.state_dict()
    broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if workers.any(bool(broken)):
        names = workers.gather(broken)
        _stop(f"{names[0]} is not finite", state.step - 1, workers.gather(ids), settings)


def _flops(config: ClipConfig, settings: TrainSettings, data: DataSettings, tokens: Tensor) -> int:
    """Of the model in a step, by all workers."""
    return step_flops(
        config,
        data.batch_size,
        tokens.shape[1],
        patch_dropout=settings.patch_dropout,
        locked=settings.locked,
    ).model


def _progress(
    step: int, total: int, stream: Stream, loss: float, speed: Mapping[str, float]
) -> str:
    steps = stream.steps_per_epoch
    epoch, at = divmod(step - 1, steps)
    return (
        f"epoch {epoch + 1} of {-(-total // steps)}, step {at + 1} of {steps}, loss {loss:.3f}, "
        f"{speed['pairs/s']:,.0f} pairs/s, {speed['waiting for data']:.0%} waiting for data"
    )
