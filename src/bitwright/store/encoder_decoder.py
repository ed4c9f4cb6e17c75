"""Models with an encoder and a decoder, in parts, each a network of its own: `FOLDER:encoder` and the like.

What such a model writes, it writes token by token, so no one call computes it all. Its parts are those that runtimes
take: the encoder; the decoder, which reads tokens and what the encoder made; and the decoder that goes on from the keys
and values of the tokens before, with one more. Inputs and outputs have the names that ONNX exports of such models
usually have. The samples of a decoder are what the model itself reads while it writes, most likely token first, about
the user's texts, pictures or sounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from bitwright.store.folder_part import Part
from bitwright.store.source_error import SourceError

LONGEST = 64  # tokens that the model writes about one sample
PAST = "past_key_values"
PRESENT = "present"
START = "decoder_start_token_id"
POSITIONS = ("max_target_positions", "max_decoder_position_embeddings", "max_position_embeddings")
ABSENT = ("attention_mask", "router_logits")  # what some encoders hand out besides, and their decoders do without
TOKENS, BEFORE = 5, 3  # in the example that a decoder is traced with: tokens, and tokens of the past


@final
@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What an encoder made of one sample, with the mask of what is no padding, if any, and the tokens [1, n] of it."""

    encoded: Tensor
    mask: Tensor | None
    tokens: Tensor

    def feed(self, model: nn.Module, part: Part, place: int) -> dict[str, Tensor]:
        """The inputs of a decoder for this sample; with a past, the step whose token is at `place`."""
        mask = {} if self.mask is None else {"encoder_attention_mask": self.mask}
        if part is Part.DECODER:
            return {"input_ids": self.tokens[:, :-1], **mask, "encoder_hidden_states": self.encoded}
        with torch.no_grad():
            output = _decode(model, self.tokens[:, :place], self.encoded, self.mask)
        past = {name: value.clone() for name, value in _flat(output.past_key_values, PAST).items()}
        return {"input_ids": self.tokens[:, place : place + 1], **mask, **past}


@final
class DecoderModule(nn.Module):
    """A decoder as a module whose inputs come by place, in the order of `inputs`; its outputs have names."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        """Logits, and keys and values: of the tokens, and of what the encoder made where these are not given."""
        feed = dict(zip(self.inputs, given, strict=True))
        tokens, mask = feed.pop("input_ids"), feed.pop("encoder_attention_mask", None)
        encoded = feed.pop("encoder_hidden_states", None)
        if encoded is not None:
            output = _decode(self.model, tokens, encoded, mask)
            return {"logits": output.logits} | _flat(output.past_key_values, PRESENT)
        keys = feed[f"{PAST}.0.encoder.key"]
        nothing = keys.new_zeros(keys.shape[0], keys.shape[2], 1)  # its keys and values are known
        output = _decode(self.model, tokens, nothing, mask, _cache(feed))
        grown = _flat(output.past_key_values, PRESENT)
        return {"logits": output.logits} | {name: held for name, held in grown.items() if ".decoder." in name}


def example_of(model: nn.Module, part: Part, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs to trace a decoder with, by name, in the order that its module takes them; `inputs`: the encoder's."""
    with torch.no_grad():
        encoded = encoder_outputs(model, inputs)
        mask = _mask(inputs)
        count = TOKENS if part is Part.DECODER else BEFORE + 1
        tokens = torch.full((len(encoded), count), _start(model) or 0)
    return Written(encoded, mask, tokens).feed(model, part, BEFORE)


def free_axes(inputs: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The axes of a decoder's inputs that may have any size: the batch, lengths of texts and of the past."""
    names = set(inputs)
    lengths: dict[str, tuple[int, ...]] = {name: (0, 2) if name.startswith(PAST) else (0, 1) for name in names}
    return lengths | (
        {} if "encoder_hidden_states" in names else {"input_ids": (0,)}
    )  # one token at a time with a past


def encoder_of(model: nn.Module, folder: Path) -> nn.Module:
    """The encoder of a model that has one and a decoder with a head; SourceError for another."""
    config: Any = model.config
    if not config.is_encoder_decoder:
        raise SourceError(f"{folder}: a {type(model).__name__} has no encoder and decoder; give the folder alone")
    if _start(model) is None:
        raise SourceError(
            f"{folder}: no {START} in config.json or generation_config.json, so that the decoder cannot begin; add it"
        )
    encoder: nn.Module = model.get_encoder()  # type: ignore[operator]  # a method of every model of the library
    return encoder


def write(model: nn.Module, inputs: Mapping[str, Tensor], tokens: Tensor | None = None) -> Written:
    """What the model writes about one sample, at most 64 tokens; `inputs` are the encoder's, `tokens` if known already.

    The tokens begin with the one (or two) that every text of this decoder begins with, and hold at least one more.
    """
    with torch.no_grad():
        encoded, mask = encoder_outputs(model, inputs), _mask(inputs)
        return Written(encoded, mask, _likeliest(model, encoded, mask) if tokens is None else tokens)


def _likeliest(model: nn.Module, encoded: Tensor, mask: Tensor | None) -> Tensor:
    """The tokens that the decoder writes when it always takes the most likely one."""
    told: dict[str, Any] = model.generation_config.to_dict()  # type: ignore[operator, union-attr]
    end = told.get("eos_token_id")
    ends = torch.tensor([] if end is None else end, dtype=torch.int64).flatten()
    begins = [token for token in (_start(model), told.get("forced_bos_token_id")) if token is not None]
    tokens = torch.tensor([begins])
    output = _decode(model, tokens, encoded, mask)
    for _ in range(_room(model) - tokens.shape[1]):
        best = output.logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, best], 1)
        if bool(torch.isin(best, ends)):
            break
        output = _decode(model, best, encoded, mask, output.past_key_values)
    return tokens


def encoder_outputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the encoder makes of its inputs [samples, length, channels]."""
    encoded: Tensor = model.get_encoder()(**inputs).last_hidden_state  # type: ignore[operator]
    return encoded


def _mask(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Which tokens of a text are no padding; what an encoder makes of pictures and sounds is read whole."""
    return inputs.get("attention_mask") if "input_ids" in inputs else None


def _start(model: nn.Module) -> int | None:
    """The token that every text of the decoder begins with."""
    for told in (model.generation_config, model.config):
        found = told.to_dict().get(START)  # type: ignore[operator, union-attr]
        if isinstance(found, int):
            return found
    return None


def _room(model: nn.Module) -> int:
    """How many tokens one text of the decoder may have."""
    told: dict[str, Any] = model.config.get_text_config(decoder=True).to_dict()  # type: ignore[operator, union-attr]
    allowed = [int(told[name]) for name in POSITIONS if isinstance(told.get(name), int)]
    return min([LONGEST, *allowed])


def _decode(model: nn.Module, tokens: Tensor, encoded: Tensor, mask: Tensor | None, cache: Any | None = None) -> Any:
    """The library's output of the whole model, whose encoder does not run because its output is given."""
    from transformers.modeling_outputs import BaseModelOutput

    masked = {} if mask is None else {"attention_mask": mask}
    outputs = BaseModelOutput(encoded)  # type: ignore[arg-type]
    vars(outputs).update(dict.fromkeys(ABSENT))
    return model(
        decoder_input_ids=tokens,
        encoder_outputs=outputs,
        past_key_values=cache,
        use_cache=True,
        return_dict=True,
        **masked,
    )


def _flat(cache: Any, head: str) -> dict[str, Tensor]:
    """The keys and values of a cache by name."""
    held: dict[str, Tensor] = {}
    both = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=True)
    for place, layers in enumerate(both):
        for kind, layer in zip(("decoder", "encoder"), layers, strict=True):
            held[f"{head}.{place}.{kind}.key"], held[f"{head}.{place}.{kind}.value"] = layer.keys, layer.values
    return held


def _cache(past: Mapping[str, Tensor]) -> Any:
    """The library's cache with these keys and values."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    made = {kind: DynamicCache() for kind in ("decoder", "encoder")}
    for place in range(len(past) // 4):
        for kind, cache in made.items():
            name = f"{PAST}.{place}.{kind}"
            cache.update(past[f"{name}.key"], past[f"{name}.value"], place)
    return EncoderDecoderCache(made["decoder"], made["encoder"])
