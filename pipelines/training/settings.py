"""The settings of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from workers.base.settings import Settings, Share
from workers.embedding.settings import ModelName


class OptimizerSettings(Settings):
    """How the weights are moved: AdamW or Muon, warmed up, then along half a cosine to zero."""

    name: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="muon: torch.optim.Muon for the matrices inside the transformers' blocks, "
        "AdamW for all else; learning rate and weight decay mean the same for both",
    )
    learning_rate: float = Field(default=1e-4, gt=0.0, description="peak, after the warm-up")
    weight_decay: float = Field(default=0.2, ge=0.0, description="on weights, not gains or biases")
    warmup_steps: int = Field(default=10, ge=0, description="steps of linear warm-up")
    beta1: float | None = Field(
        default=None, ge=0.0, lt=1.0, description="of AdamW's mean of gradients; null: 0.9"
    )
    beta2: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description="of AdamW's mean of squared gradients; null: the paper's, 0.999 for a ResNet, "
        "0.98 for a ViT",
    )
    eps: float | None = Field(
        default=None,
        gt=0.0,
        description="AdamW's; null: the paper's, 1e-8 for a ResNet, 1e-6 for a ViT",
    )
    clip_gradients: float | None = Field(
        default=None,
        gt=0.0,
        description="length of all gradients together, at most; null: as they are",
    )


class TrainSettings(Settings):
    """Train a CLIP on the data set with the symmetric contrastive loss."""

    start_from: ModelName = Field(
        default="starter", description="a known model's name or a checkpoint file to go on from"
    )
    epochs: int = Field(default=4, ge=1, description="passes over the training split")
    batch_size: int = Field(default=256, ge=2, description="pairs a step, all negatives of another")
    held_out: Share = Field(
        default=0.2, description="share of the images kept out of training, for the scores"
    )
    optimizer: OptimizerSettings = OptimizerSettings()
    cpus: int = Field(default=1, ge=1, description="threads of the training worker")
    use_gpu: bool = Field(default=False, description="train on a GPU of the Ray cluster")
