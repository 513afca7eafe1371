"""Beam and greedy search that stop working on a sentence as soon as it is finished.

``generate`` of transformers carries every sentence of a batch along until the last one is finished, with the
encoder's keys and values copied for each beam. Here the encoder's keys and values are computed once a
sentence, and finished sentences leave the batch. The rules (scores, length penalty, early stopping) are those
of transformers, so that the translations are the same; they plug in as its ``custom_generate``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEVER = -1.0e9
"""Score of a beam that is not there."""


def fits(config: Any) -> bool:
    """Whether the search here knows these generation settings: beams or greedy, no sampling, no groups."""
    mode = config.get_generation_mode().value
    by_row = (config.encoder_repetition_penalty or 1.0) != 1.0 or config.encoder_no_repeat_ngram_size
    cached = config.use_cache is not False and config.cache_implementation is None
    return mode in ("greedy_search", "beam_search") and cached and not by_row


def search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **inputs: Any,
) -> Tensor:
    """For ``model.generate(custom_generate=search)``: the best sequence of each sentence.

    Args:
        model: an encoder-decoder.
        input_ids: what the decoder starts with, [n * beams, prompt].
        logits_processor, stopping_criteria, generation_config: as ``generate`` has prepared them.
        inputs: ``encoder_outputs``, ``attention_mask``, ``past_key_values``, each of n * beams rows.

    Returns:
        Token ids [n, longest], padded.
    """
    beams = generation_config.num_beams
    steps = _Steps(model, inputs, beams)
    start = input_ids[::beams]
    if beams == 1:
        return _greedy(steps, start, logits_processor, stopping_criteria, generation_config)
    return _Beams(steps, start, logits_processor, stopping_criteria, generation_config).run()


class _Steps:
    """The decoder, one token at a time, over rows that can be reordered, repeated and dropped."""

    def __init__(self, model: Any, inputs: dict[str, Any], beams: int) -> None:
        self.model, self.cache = model, inputs["past_key_values"]
        self.states = inputs["encoder_outputs"].last_hidden_state[::beams]
        self.mask = inputs["attention_mask"][::beams]

    def logits(self, ids: Tensor) -> Tensor:
        """Float32 logits [rows, V] of the token after ``ids``; what the cache holds is not read again."""
        from transformers.modeling_outputs import BaseModelOutput

        found = self.model(
            decoder_input_ids=ids[:, self.cache.get_seq_length() :],
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        )
        return found.logits[:, -1].float()

    def choose(self, rows: Tensor, *, sentences: bool) -> None:
        """Go on with these rows; ``sentences``: with other sentences, or another number of beams."""
        if sentences:
            self.cache.reorder_cache(rows)
            self.states, self.mask = self.states[rows], self.mask[rows]
        else:
            self.cache.self_attention_cache.reorder_cache(rows)


def _greedy(steps: _Steps, ids: Tensor, processor: Any, stops: Any, config: Any) -> Tensor:
    result = ids.new_full((len(ids), config.max_length), _pad(config))
    alive = torch.arange(len(ids), device=ids.device)
    while len(alive):
        token = processor(ids, steps.logits(ids)).argmax(-1, keepdim=True)
        ids = torch.cat((ids, token), 1)
        done = stops(ids, None)
        if done.any():
            result[alive[done], : ids.shape[1]] = ids[done]
            kept = (~done).nonzero()[:, 0]
            alive, ids = alive[kept], ids[kept]
            if len(kept):
                steps.choose(kept, sentences=True)
    return result


class _Beams:
    """Beam search over the sentences that are not finished.

    m sentences are searched, with ``beams`` unfinished (``running``) and as many finished (``ended``)
    hypotheses each; ``alive`` [m] is where each stands in the batch.
    """

    def __init__(self, steps: _Steps, start: Tensor, processor: Any, stops: Any, config: Any) -> None:
        self.steps, self.processor, self.stops, self.config = steps, processor, stops, config
        self.beams, count, device = config.num_beams, len(start), start.device
        self.length = self.prompt = start.shape[1]
        self.candidates = max(2, 1 + len(_ends(config))) * self.beams
        self.pad = _pad(config)
        self.result = start.new_full((count, config.max_length), self.pad)
        self.alive = torch.arange(count, device=device)
        self.running = start[:, None]
        self.scores = torch.zeros((count, 1), device=device)
        self.ended = start.new_full((count, self.beams, config.max_length), self.pad)
        self.ended_scores = torch.full((count, self.beams), NEVER, device=device)
        self.has_ended = torch.zeros((count, self.beams), dtype=torch.bool, device=device)
        self.open = torch.ones(count, dtype=torch.bool, device=device)

    def run(self) -> Tensor:
        """The best hypothesis of each sentence."""
        while len(self.alive):
            hits = self._advance()
            if bool(hits.all()):
                self.open[:] = False
            self._drop()
        return self.result

    def _advance(self) -> Tensor:
        """One token more for every sentence; returns which candidates [m, candidates] end here."""
        count, width = self.scores.shape
        flat = self.running.flatten(0, 1)
        logs = self.processor(flat, torch.log_softmax(self.steps.logits(flat), -1))
        vocabulary = logs.shape[-1]
        totals = (logs.view(count, width, -1) + self.scores[..., None]).flatten(1)
        scores, best = totals.topk(self.candidates)
        parents, tokens = best // vocabulary, best % vocabulary
        sequences = torch.cat((_rows(self.running, parents), tokens[..., None]), 2)
        hits = self.stops(sequences.flatten(0, 1), None).view(count, -1)
        self.length += 1
        self._keep_ended(sequences, scores, hits)
        going = (scores + hits * NEVER).topk(self.beams)
        self.running, self.scores = _rows(sequences, going.indices), going.values
        first = width * torch.arange(count, device=best.device)
        self.rows = first[:, None] + parents.gather(1, going.indices)
        self.repeats = width != self.beams
        self._close()
        return hits

    def _keep_ended(self, sequences: Tensor, scores: Tensor, hits: Tensor) -> None:
        """Take up candidates that end among the best ``beams`` and beat a finished hypothesis."""
        taken = hits.clone()
        taken[:, self.beams :] = False
        taken &= self.open[:, None]
        if not bool(taken.any()):
            return
        scores = scores / (self.length - self.prompt) ** self.config.length_penalty
        scores = torch.cat((self.ended_scores, scores + ~taken * NEVER), 1)
        self.ended_scores, chosen = scores.topk(self.beams)
        padded = self.ended.new_full((*sequences.shape[:2], self.ended.shape[2]), self.pad)
        padded[:, :, : self.length] = sequences
        self.ended = _rows(torch.cat((self.ended, padded), 1), chosen)
        self.has_ended = torch.cat((self.has_ended, taken), 1).gather(1, chosen)

    def _close(self) -> None:
        """Close the sentences whose unfinished hypotheses cannot beat the worst finished one."""
        early, penalty = self.config.early_stopping, self.config.length_penalty
        length = self.config.max_length if early == "never" and penalty > 0 else self.length
        possible = self.scores[:, 0] / (length - self.prompt) ** penalty
        full = self.has_ended.all(1)
        self.open &= ~full | (possible > self.ended_scores[:, -1])
        if early is True:
            self.open &= ~full

    def _drop(self) -> None:
        """Reorder the cache; drop closed sentences once they are worth the copying."""
        closed = int((~self.open).sum())
        drops = closed == len(self.open) or closed > len(self.open) // 8
        rows = self.rows
        if drops:
            gone, kept = (~self.open).nonzero()[:, 0], self.open.nonzero()[:, 0]
            self.result[self.alive[gone]] = self.ended[gone, 0]
            names = ("alive", "running", "scores", "ended", "ended_scores", "has_ended", "open")
            for name in names:
                setattr(self, name, getattr(self, name)[kept])
            rows = rows[kept]
        if len(rows):
            self.steps.choose(rows.flatten(), sentences=drops or self.repeats)


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """Of values [m, k, T] those at chosen [m, j]: [m, j, T]."""
    return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[2]))


def _ends(config: Any) -> list[int]:
    """The tokens that end a sequence."""
    ends = config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _pad(config: Any) -> int:
    """What fills a sequence behind its end."""
    return config.pad_token_id if config.pad_token_id is not None else (_ends(config) or [0])[0]
