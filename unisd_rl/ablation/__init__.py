"""A grid of runs (recipes x tasks x noise x seeds), a row of a Parquet file for each, and the report of all of them."""
