"""lm-eval's interface to a loaded model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.data.tokens import BaseTokenizer, Form
from palimpsest.engine.progress import Progress
from palimpsest.errors import UserError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block, lm-eval logs errors alone."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


class LmEvalModel(HFLM):
    """lm-eval's model class around a model that is loaded already.

    Questions from our data sets are tokenized as in training: context and answer separately.
    lm-eval tokenizes the joined text and moves white space from the context's end to the answer,
    which would score other tokens than the model was trained on. Its own tasks keep its way.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        taught: BaseTokenizer,
        label: str,
        batch_rows: int,
        batch_tokens: int,
    ) -> None:
        """Wrap `network`.

        Args:
            network: as `palimpsest.model.unlearned.load_model` returns it.
            tokenizer: the base's, for lm-eval's own tasks.
            taught: the base's tokenizer as used for training.
            label: its name in progress lines.
            batch_rows: texts to generate together.
            batch_tokens: tokens of one scoring batch, padding included.
        """
        # lm-eval would tie the weights again, which fails on tied weights with a difference.
        network.tie_weights = lambda: None  # type: ignore[assignment]
        with quiet():  # it warns about a loaded model
            super().__init__(
                pretrained=network,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=batch_rows,
                max_length=taught.context,
                softmax_dtype=torch.float32,
            )
        self.taught, self.label = taught, label
        self._batch_rows, self.batch_tokens = batch_rows, batch_tokens
        self._first, self._rows = 0, 0
        self.is_local = False
        """Whether the next questions are from our data sets."""
        self.form: Form | None = None
        """How the base writes those."""
        self._progress = Progress(label, 0)
        self._done = 0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        """Score answers, see lm-eval; its progress bar is off, because it would fill the log."""
        scored: list[Any] = super().loglikelihood(requests, disable_tqdm=True)
        return scored

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not self.is_local or self.form is None:
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        prompt = self.form.encoded([context])[0]
        answer = self.form.base.continuations([continuation])[0]
        if len(prompt) + len(answer) > self.max_length:
            end = self.form.base.control.plain(context)[-60:]
            raise UserError(
                f"{self.label}: a question of {len(prompt) + len(answer)} tokens is longer than "
                f"the model's context of {self.max_length} ({end!r}); ask with "
                "fewer shots, or leave the row out"
            )
        return prompt, answer

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **options: Any) -> list[Any]:
        self._progress, self._done = Progress(self.label, len(requests)), 0
        self._first, self._rows = 0, 0
        self.batch_size_per_gpu: int | str = "auto"  # `_batch_scheduler` decides
        try:
            scored: list[Any] = super()._loglikelihood_tokens(requests, *args, **options)
        finally:
            self.batch_size_per_gpu = self._batch_rows
        self._progress.update(len(requests))
        return scored

    def _batch_scheduler(self, pos: int, n_reordered_requests: Any) -> int:
        """Rows of the batch that holds request `pos`; requests are sorted, the longest first."""
        if pos == self._first + self._rows or not pos:
            _, context, answer = n_reordered_requests[pos][-3:]
            longest = min(len(context) + len(answer), self.max_length)
            self._first, self._rows = pos, max(1, self.batch_tokens // longest)
        return self._rows

    def _model_call(self, inps: Tensor, *args: Any, **options: Any) -> Tensor:
        logits: Tensor = super()._model_call(inps, *args, **options)
        # Choices of one token share a forward pass, so this may end below the total.
        self._done += len(inps)
        if self._done < self._progress.total:
            self._progress.update(self._done, inps.numel())
        return logits
