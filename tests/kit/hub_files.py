"""What the hub repositories of our data sets hold: names as their pages listed them.

Where a card names a split of a configuration alone, its file has the name that the hub's own writer
gives it. Names that no pattern of ours may catch by accident stand among them.
"""

from __future__ import annotations


def _parts(folder: str, *splits: str, of: int = 1) -> list[str]:
    return [f"{folder}/{s}-{i:05}-of-{of:05}.parquet" for s in splits for i in range(of)]


def _muse(*raw: str) -> list[str]:
    questions = ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl")
    return [
        *_parts("knowmem", *questions),
        *_parts("privleak", "forget", "holdout", "retain"),
        *_parts("raw", "forget", "holdout", "retain1", "retain2"),
        *_parts("train", "forget", "retain1", "retain2"),
        *_parts("verbmem", "forget"),
        *raw,
    ]


_PERSON = [
    *("fluency", "intro", "passage", "triviaqa", "truthful"),
    *("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2"),
    *("forget_mia", "retain_mia", "retain_bbh", "retain_mmlu"),
    *(f"{kind}{of}" for kind in ("negative", "pair", "positive", "reject") for of in ("", "_phi")),
]
_TOFU = [
    *("full", "retain90", "retain95", "retain99", "real_authors", "world_facts"),
    *("retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"),
    *(f"{kind}{share}" for kind in ("forget", "holdout") for share in ("01", "05", "10")),
    *(f"forget{share}_perturbed" for share in ("01", "05", "10")),
]
_MODELS = ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")

FILES = {
    "locuslab/TOFU": [f"{name}.json" for name in _TOFU],
    "muse-bench/MUSE-News": _muse(
        *_parts("scal", *(f"forget_{fold}" for fold in (1, 2, 3, 4))),
        *_parts("sust", *(f"forget_{fold}" for fold in (1, 2, 3, 4))),
    ),
    # Its older names of the questions to keep are still there.
    "muse-bench/MUSE-Books": _muse(
        *_parts("knowmem", "retain2_qa", "retain2_qa_icl"), *_parts("privleak", "retain2")
    ),
    "jinzhuoran/RWKU": [
        f"Target/{person}/{name}.json"
        for person in ("1_Stephen_King", "2_Confucius")
        for name in _PERSON
    ],
    "cais/wmdp-corpora": [
        *_parts("bio-retain-corpus", "train", of=4),
        *_parts("cyber-forget-corpus", "train"),
        *_parts("cyber-retain-corpus", "train"),
        "dataset.png",
    ],
    "PKU-Alignment/PKU-SafeRLHF": [
        f"data/{model}/{split}.jsonl" for model in _MODELS for split in ("train", "test")
    ],
    "domenicrosati/TruthfulQA": ["TruthfulQA.csv", "train.csv"],
    "zjunlp/KnowUnDo": [
        f"{kind}/{name}.json"
        for kind in ("copyright", "privacy")
        for name in ("unlearn", "retention")
    ],
    "llmunlearn/unlearn_dataset": [
        *_parts("arxiv", "approximate", "forget", "retain"),
        *_parts("general", "evaluation", "retain"),
        *_parts("github", "approximate", "forget", "retain"),
    ],
    "Salesforce/wikitext": _parts("wikitext-2-raw-v1", "test", "train", "validation"),
}
"""Repository -> names of its files, those without rows aside."""
