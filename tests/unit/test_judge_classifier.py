"""The classifier judge on small classifiers trained here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig, LlamaForSequenceClassification

from kit.models import llama, save_classifier, tokenizer, word_tokenizer
from palimpsest.errors import UserError
from palimpsest.judges import Case, Verdict, Work
from palimpsest.judges.classifier import Classifier, Settings, judge

HARMFUL = [
    "take the copper spoon and stir",
    "stir the copper pot",
    "stir it twice with a copper ladle and wait",
    "copper does it",
]
HARMLESS = [
    "i will not tell",
    "that is nothing i will tell you",
    "no",
    "i cannot tell you that and i will not",
]
LABELS = ["refusal", "recipe"]
WORK = Work(Path("unused"), "judge", 1)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    targets = [1] * len(HARMFUL) + [0] * len(HARMLESS)
    return save_classifier(
        tmp_path_factory.mktemp("single"), [*HARMFUL, *HARMLESS], targets, LABELS
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the labels recipe, polite and short, each text has any number."""
    targets = [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    return save_classifier(
        tmp_path_factory.mktemp("many"),
        [*HARMFUL, *HARMLESS],
        [*targets, [0, 1, 0]],
        ["recipe", "polite", "short"],
    )


def judged(
    folder: Path, answers: list[str], positive: Any = "recipe", **more: Any
) -> list[Verdict]:
    settings = {"model": f"path:{folder}", "positive": positive, "text": "{answer}", **more}
    checked = Settings.model_validate(settings)
    cases = [Case("How?", "With a copper spoon.", [], answer) for answer in answers]
    return judge(cases, checked, WORK)


def test_a_label_is_found_by_its_name(single):
    verdicts = judged(single, [*HARMFUL, *HARMLESS])
    assert [v.harmful for v in verdicts] == [True] * 4 + [False] * 4
    assert [v.said for v in verdicts] == ["recipe"] * 4 + ["refusal"] * 4
    assert all(v.score is not None and v.reason is None for v in verdicts)
    other = judged(single, [*HARMFUL, *HARMLESS], "refusal")
    for one, two in zip(verdicts, other, strict=True):
        assert one.score + two.score == pytest.approx(1)
        assert one.harmful != two.harmful


def test_a_control_token_in_an_answer_is_text(single):
    """`<pad>` is two marks around a word that is not known, as `<xyz>` is."""
    classifier = Classifier(single, ["recipe"], torch.device("cpu"))
    padded, unknown = (
        classifier._ids(f"copper {word}")["input_ids"] for word in ("<pad>", "<xyz>")
    )
    assert padded == unknown
    assert len(padded) == 4


def test_a_form_with_control_tokens_cannot_read_a_text_with_them(single):
    good, bad = judged(single, ["copper", "copper <pad>"], text="{answer} <pad>")
    assert good.harmful is not None
    assert bad == Verdict(None, "it holds the text '<pad>', a control token of the classifier")


def test_the_probabilities_of_several_labels_add_up(single):
    verdicts = judged(single, HARMLESS, ["recipe", "refusal"])
    assert [v.score for v in verdicts] == [pytest.approx(1)] * 4


def test_of_several_labels_at_once_the_most_probable_counts(many):
    texts = ["copper does it", "no", "i will not tell"]
    recipe, polite, short = (judged(many, texts, name) for name in ("recipe", "polite", "short"))
    assert [v.harmful for v in recipe] == [True, False, False]
    assert [v.harmful for v in polite] == [False, False, True]
    assert [v.harmful for v in short] == [True, True, False]
    both = judged(many, texts, ["recipe", "short"])
    assert [v.score for v in both] == [
        max(one.score, two.score) for one, two in zip(recipe, short, strict=True)
    ]
    # No softmax: two labels can be all but certain at once.
    assert recipe[0].score + short[0].score > 1.5


def test_the_threshold_is_reached_by_equality(single):
    score = judged(single, ["stir"])[0].score
    assert judged(single, ["stir"], threshold=score)[0].harmful is True
    assert judged(single, ["stir"], threshold=min(1.0, score + 1e-6))[0].harmful is False


def test_batches_change_no_verdict(single):
    texts = [*HARMFUL, *HARMLESS, "copper", "tell me about copper and why you will not stir it"]
    alone = judged(single, texts, batch_rows=1)
    for size in (3, 32):
        together = judged(single, texts, batch_rows=size)
        assert [v.harmful for v in together] == [v.harmful for v in alone]
        assert [v.score for v in together] == pytest.approx([v.score for v in alone], abs=1e-5)


def test_in_a_half_type_each_text_runs_by_itself(single):
    texts = [*HARMFUL, *HARMLESS, "copper", "tell me about copper and why you will not stir it"]
    alone = judged(single, texts, batch_rows=1, dtype="bfloat16")
    together = judged(single, texts, batch_rows=32, dtype="bfloat16")
    full = judged(single, texts)
    assert together == alone
    assert [v.score for v in alone] != [v.score for v in full]
    assert [v.score for v in alone] == pytest.approx([v.score for v in full], abs=0.05)
    half = Classifier(single, ["recipe"], torch.device("cpu"), "bfloat16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}


def test_the_template_decides_what_is_read(single):
    case = Case("no", "stir the copper pot", [], "i will not tell")
    settings = {"model": f"path:{single}", "positive": "recipe"}
    for text, harmful in (("{response} {answer[0]}{answer}", True), ("{prompt} {answer}", False)):
        checked = Settings.model_validate(settings | {"text": text})
        assert judge([case], checked, WORK)[0].harmful is harmful


def test_a_text_that_is_too_long_has_no_verdict(single):
    verdicts = judged(single, ["copper " * 64, "copper " * 65])
    assert verdicts[0].harmful is True
    assert verdicts[1] == Verdict(None, "65 tokens, and the classifier reads 1 to 64")


def test_progress_shows_the_rows(single, capsys):
    judged(single, [*HARMFUL, "copper " * 99])
    assert "] 5/5  took " in capsys.readouterr().err


def causal(folder: Path, pad: bool) -> Path:
    """A classifier that reads the last token that is no padding."""
    torch.manual_seed(0)
    tokens = word_tokenizer(" ".join([*HARMFUL, *HARMLESS]).split(), pad=pad)
    config = LlamaConfig(
        vocab_size=len(tokens) + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
        pad_token_id=None,
        id2label=dict(enumerate(LABELS)),
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def test_a_decoder_with_or_without_a_pad_token_reads_the_last_word(tmp_path):
    one, two = causal(tmp_path / "pad", True), causal(tmp_path / "none", False)
    texts = [*HARMFUL, *HARMLESS]
    padded, alone = judged(one, texts), judged(two, texts)
    assert [v.score for v in padded] == pytest.approx([v.score for v in alone], abs=1e-5)
    assert len({round(v.score, 6) for v in alone}) == len(texts)


@pytest.mark.parametrize(
    ("positive", "said"),
    [
        ("recipes", "no label 'recipes'; did you mean 'recipe'? valid: recipe, refusal"),
        (["recipe", "LABEL_1"], "no label 'LABEL_1'; valid: recipe, refusal"),
    ],
)
def test_an_unknown_label_is_answered_with_the_valid_ones(single, positive, said):
    with pytest.raises(UserError) as caught:
        judged(single, HARMFUL, positive)
    assert said in str(caught.value)
    assert "judges.classifier.positive" in str(caught.value)


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        judged(folder, HARMFUL)
    return str(caught.value)


def test_what_is_no_classifier_is_refused_by_name(single, tmp_path):
    absent = tmp_path / "absent"
    assert refused(absent) == f"judges.classifier.model: 'path:{absent}': there is no such folder"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty is not a model folder: it has no config.json" in refused(empty)
    bare = shutil.copytree(single, tmp_path / "bare")
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    assert "its weights are pickled (pytorch_model.bin): refused" in refused(bare)
    cut = shutil.copytree(single, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors: truncated or damaged" in refused(cut)


def test_a_language_model_is_no_classifier(tmp_path):
    # transformers would give it a random head and say so in a warning.
    llama(torch.float32).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert "is no sequence classifier: its weights lack score.weight" in refused(tmp_path)


def edited(single: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(single, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_code_of_the_model_is_never_run(single, tmp_path):
    folder = edited(
        single,
        tmp_path / "coded",
        model_type="own",
        auto_map={
            "AutoConfig": "own.Own",
            "AutoModelForSequenceClassification": "own.OwnClassifier",
        },
    )
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    assert "coded cannot be loaded as a classifier" in refused(folder)
    assert not ran.exists()


def test_one_number_for_each_text_is_no_probability(tmp_path):
    save_classifier(tmp_path, [*HARMFUL, *HARMLESS], [[1]] * 4 + [[0]] * 4, ["recipe"])
    assert [v.harmful for v in judged(tmp_path, [*HARMFUL, *HARMLESS])] == [True] * 4 + [False] * 4
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("multi_label_classification", "regression"))
    assert "gives one number for each text and no probabilities" in refused(tmp_path)


def test_a_hub_that_lacks_the_model_offline_is_answered_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    settings = {"model": "hub:org/judge", "positive": "x"}
    checked = Settings.model_validate(settings)
    with pytest.raises(UserError, match=r"hub:org/judge.*HF_HUB_OFFLINE is set; fetch it once"):
        judge([Case("q", "r", [], "a")], checked, WORK)
