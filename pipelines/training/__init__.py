"""Training: data, loop, checkpoints."""

#: What a training ends with: the weights, and lines of JSON that say how it went.
CHECKPOINT = "model.safetensors"
METRICS = "metrics.jsonl"
