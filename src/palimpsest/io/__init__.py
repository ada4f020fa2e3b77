"""Reading and writing artifacts: atomic files, hashes, manifests, parquet tables, safetensors."""
