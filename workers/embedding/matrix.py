"""Embeddings between Parquet's fixed-size lists and NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def embedding_matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Fixed-size lists of float16 -> [N, D] float32."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32).reshape(len(column), -1)
