"""Greedy decoding of a batch that is padded on the left, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import InternVLForConditionalGeneration

VISION_TILES = 64
"""Tiles that go through the vision tower at once; bounds its memory, not the batch."""


def decode_greedily(
    network: InternVLForConditionalGeneration,
    prompts: Sequence[Sequence[int]],
    pixels: torch.Tensor,
    *,
    stop_ids: frozenset[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Continue each prompt with the likeliest tokens until a stop token, which is kept, or max_new_tokens.

    pixels is [tiles, 3, side, side] of all prompts, in the order of their image tokens. Rows that have stopped leave
    the batch once they are half of it. Raises ValueError if image tokens and features do not match in number.
    """
    import torch
    from transformers import DynamicCache

    texts: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    cache = DynamicCache(config=network.config.get_text_config())
    with torch.inference_mode():
        ids, mask = _pad_left(prompts, network.device)
        inputs = _embed(network, ids, pixels)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        for _ in range(max_new_tokens):
            outputs = network.model.language_model(
                inputs_embeds=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            chosen = network.lm_head(outputs.last_hidden_state[:, -1]).argmax(dim=-1)
            for row, token in zip(rows, chosen.tolist(), strict=True):
                if not _has_stopped(texts[row], stop_ids):
                    texts[row].append(token)
            live = [place for place, row in enumerate(rows) if not _has_stopped(texts[row], stop_ids)]
            if not live:
                break
            if 2 * len(live) <= len(rows):
                kept = torch.tensor(live, device=network.device)
                cache.batch_select_indices(kept)
                mask, positions, chosen = mask[kept], positions[kept], chosen[kept]
                rows = [rows[place] for place in live]
            mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=1)
            positions = positions[:, -1:] + 1
            inputs = network.get_input_embeddings()(chosen.unsqueeze(1))
    return texts


def _has_stopped(text: Sequence[int], stop_ids: frozenset[int]) -> bool:
    return bool(text) and text[-1] in stop_ids


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (1 for what is no padding), both int64 [prompts, longest].

    Padding is each prompt's own first token, the start of a turn: any would do that is not an image's.
    """
    import torch

    longest = max(map(len, prompts))
    ids = [[prompt[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _embed(network: InternVLForConditionalGeneration, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The language model's inputs [prompts, longest, hidden], the tiles' features in place of the image tokens."""
    import torch

    embeddings: torch.Tensor = network.get_input_embeddings()(ids)
    places = ids == network.config.image_token_id
    if not len(pixels) and not places.any():
        return embeddings
    features = torch.cat(
        [
            network.model.get_image_features(pixel_values=tiles.to(network.device), return_dict=True).pooler_output
            for tiles in torch.split(pixels, VISION_TILES)
        ]
    )
    if int(places.sum()) != features.shape[0] * features.shape[1]:
        raise ValueError(f"{int(places.sum())} image tokens for {features.shape[0]} x {features.shape[1]} features")
    return embeddings.masked_scatter(places.unsqueeze(-1), features.to(embeddings.dtype))
