//! The history of samples, in Parquet files.
