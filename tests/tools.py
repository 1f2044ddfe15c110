"""Other people's tools, given a folder of Parquet as their users give it."""

import datasets
import duckdb
import pandas as pd
import polars
import pyarrow.dataset


def rows_by_tool(folder, cache):
    """How many rows each tool finds in a folder of shards, by each of its ways to name them."""
    count = duckdb.connect().execute
    load = {"split": "train", "cache_dir": str(cache)}
    everything, glob = f"{folder}/**/*.parquet", f"{folder}/*.parquet"
    return {
        "pyarrow": pyarrow.dataset.dataset(folder, format="parquet").count_rows(),
        "pandas": len(pd.read_parquet(folder)),
        "polars": len(polars.read_parquet(folder)),
        "polars, glob": len(polars.read_parquet(glob)),
        "polars, all below": len(polars.read_parquet(everything)),
        "duckdb": count(f"select count(*) from read_parquet('{folder}/')").fetchall()[0][0],
        "duckdb, glob": count(f"select count(*) from '{glob}'").fetchall()[0][0],
        "duckdb, all below": count(f"select count(*) from '{everything}'").fetchall()[0][0],
        "datasets": len(datasets.load_dataset(str(folder), **load)),
        "datasets, data_dir": len(datasets.load_dataset("parquet", data_dir=str(folder), **load)),
        "datasets, glob": len(datasets.load_dataset("parquet", data_files=glob, **load)),
    }
