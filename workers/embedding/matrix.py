"""Embeddings between Parquet's fixed-size lists and NumPy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from workers.base.arrays import Float32s

#: By more than this no cosine is wrong that float32 sums up, of 4,096 dimensions or fewer. How
#: wrong it is depends on the shape of the matrices. In float64 a cosine of float16 is exact, in any
#: order: the products are multiples of 2**-48, and a sum of them below 32 has 53 bits.
COSINE_ERROR = 2.0**-12


def embedding_matrix(column: pa.ChunkedArray) -> Float32s:
    """Fixed-size lists of float16 or float32 -> [N, D] float32."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32).reshape(len(column), column.type.list_size)
