"""``hub:org/name``: files of a Hugging Face repository, through `huggingface_hub` and its cache.

The client's own environment variables name the hub and the cache (HF_ENDPOINT, HF_HOME,
HF_HUB_OFFLINE). The token comes from HF_TOKEN alone, and goes into requests and nowhere else.
"""
