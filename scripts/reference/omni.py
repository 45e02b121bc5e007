"""The omni model in PyTorch: Thinker, bridge, Talker, projectors and their objective. Names are the checkpoint's.

Shapes: B batch, T positions, Q = 8 codebooks, H hidden_size, Ht talker_hidden_size. Encoder states are inputs.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .thinker import Block, RMSNorm, Thinker, ThinkerConfig, rope_tables

CODEBOOKS, RANK, STOP_WEIGHT, IGNORED = 8, 256, 10.0, -100


@dataclass
class OmniConfig:
    """The Thinker's fields and those that config.json has beside them."""

    thinker: ThinkerConfig
    num_talker_hidden_layers: int = 4
    talker_hidden_size: int = 768
    audio_vocab_size: int = 2112
    audio_pad_token: int = 2049
    audio_stop_token: int = 2050
    audio_spk_token: int = 2051
    audio_hidden_size: int = 512
    image_hidden_size: int = 768
    image_token_len: int = 64
    spk_emb_size: int = 192
    audio_ids: list[int] = field(default_factory=lambda: [16])
    image_ids: list[int] = field(default_factory=lambda: [12])
    think_end_ids: list[int] = field(default_factory=lambda: [26, 234, 234])
    bridge_layer: int = 3

    @staticmethod
    def read(record: dict) -> "OmniConfig":
        own = {name: record[name] for name in OmniConfig.__dataclass_fields__ if name in record}
        known = {name: value for name, value in record.items() if name in ThinkerConfig.__dataclass_fields__}
        return OmniConfig(ThinkerConfig(**known), **own)

    def record(self) -> dict:
        """The content of config.json."""
        own = {name: getattr(self, name) for name in OmniConfig.__dataclass_fields__ if name != "thinker"}
        return {**self.thinker.record(), "model_type": "minimind-o", **own}

    def talker(self) -> ThinkerConfig:
        """Blocks of the Talker: own width and experts, all else by default, the rotary table as the Thinker's."""
        same = ("max_position_embeddings", "rope_theta", "inference_rope_scaling", "use_moe")
        return ThinkerConfig(
            hidden_size=self.talker_hidden_size,
            num_hidden_layers=self.num_talker_hidden_layers,
            **{name: getattr(self.thinker, name) for name in same},
        )


def adapter(first: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(first, nn.GELU(), nn.Linear(RANK, width, bias=False))


def normed_projector(width: int, out: int, eps: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out), RMSNorm(out, eps))


class CodeEmbedding(nn.Module):
    """[B, Q, T] codes -> [B, T, Ht]: the mean over codebooks of a shared row and a low-rank row."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.base = nn.Embedding(codes, width)
        self.adapters = nn.ModuleList(adapter(nn.Embedding(codes, RANK), width) for _ in range(CODEBOOKS))

    def forward(self, codes: Tensor) -> Tensor:
        rows = [self.base(codes[:, i]) + self.adapters[i](codes[:, i]) for i in range(CODEBOOKS)]
        return torch.stack(rows).mean(0)


class CodeHead(nn.Module):
    """[B, T, Ht] -> [B, Q, T, codes]."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, codes, bias=False)
        self.adapters = nn.ModuleList(adapter(nn.Linear(width, RANK, bias=False), codes) for _ in range(CODEBOOKS))

    def forward(self, x: Tensor) -> Tensor:
        base = self.base(x)
        return torch.stack([base + own(x) for own in self.adapters], 1)


class Talker(nn.Module):
    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        width, eps, blocks = config.talker_hidden_size, config.thinker.rms_norm_eps, config.talker()
        self.text_scale, self.audio_scale = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(1.0))
        self.layers = nn.ModuleList(Block(blocks) for _ in range(config.num_talker_hidden_layers))
        self.norm = RMSNorm(width, eps)
        self.lm_head = CodeHead(config.audio_vocab_size, width)
        self.embed_tokens = CodeEmbedding(config.audio_vocab_size, width)
        self.codec_proj = normed_projector(width, width, eps)
        self.embed_proj = normed_projector(config.thinker.hidden_size, width, eps)
        self.spk_proj = nn.Linear(config.spk_emb_size, width, bias=False)
        cos, sin = rope_tables(blocks, config.thinker.max_position_embeddings)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.speaker_code = config.audio_spk_token

    def forward(self, bridge: Tensor, codes: Tensor, speaker: Tensor, trace: dict[str, Tensor]) -> Tensor:
        embedded = self.embed_tokens(codes)
        is_speaker = (codes[:, 0] == self.speaker_code)[..., None]
        embedded = torch.where(is_speaker, self.spk_proj(speaker)[:, None], embedded)
        x = self.embed_proj(bridge) * self.text_scale + self.codec_proj(embedded) * self.audio_scale
        trace["talker.input"] = x
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, None)
            trace[f"talker.layers.{index}"] = x
        return self.lm_head(self.norm(x))


class FeatureProjector(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def forward(self, states: Tensor) -> Tensor:
        return self.mlp(states)


def first_run(ids: list[int], placeholder: int) -> range:
    if placeholder not in ids:
        return range(0)
    begin = end = ids.index(placeholder)
    while end < len(ids) and ids[end] == placeholder:
        end += 1
    return range(begin, end)


def inject(hidden: Tensor, ids: Tensor, placeholder: int, features: Tensor, counts: list[int]) -> Tensor:
    """The first run of placeholders of each row takes its leading features, as many as there are."""
    rows = []
    for row in range(len(ids)):
        run = first_run(ids[row].tolist(), placeholder)
        fitting = min(len(run), counts[row])
        parts = [hidden[row, : run.start], features[row, :fitting], hidden[row, run.start + fitting :]]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


class Omni(Thinker):
    """The Thinker with a Talker on its bridge."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__(config.thinker)
        self.omni = config
        self.talker = Talker(config)
        self.audio_proj = FeatureProjector(config.audio_hidden_size, config.thinker.hidden_size)
        self.vision_proj = FeatureProjector(config.image_hidden_size, config.thinker.hidden_size)

    def forward(self, batch: dict[str, Tensor], trace: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Text logits [B, T, V] and audio logits [B, Q, T, codes]."""
        ids = batch["input_ids"][:, CODEBOOKS]
        x = self.model.embed_tokens(ids)
        lengths, states = batch["audio_lens"].tolist(), batch["audio_states"]
        x = inject(x, ids, self.omni.audio_ids[0], self.audio_proj(states), [min(n, states.shape[1]) for n in lengths])
        images = self.vision_proj(batch["image_states"])
        x = inject(x, ids, self.omni.image_ids[0], images, [images.shape[1]] * len(ids))
        trace["thinker.input"] = bridge = x
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for index, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, None)
            trace[f"thinker.layers.{index}"] = x
            bridge = x if index == self.omni.bridge_layer else bridge
        trace["bridge"] = bridge
        audio = self.talker(bridge, batch["input_ids"][:, :CODEBOOKS], batch["spk_emb"], trace)
        return self.lm_head(self.model.norm(x)), audio

    def aux_loss(self) -> Tensor | float:
        layers = [*self.model.layers, *self.talker.layers]
        return sum(layer.mlp.aux_loss for layer in layers)


def omni_losses(model: Omni, text: Tensor, audio: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """loss, text_loss, audio_loss, aux_loss; labels are already shifted."""
    text_loss = F.cross_entropy(text.flatten(0, 1), batch["text_labels"].flatten(), ignore_index=IGNORED)
    own = []
    for codebook in range(CODEBOOKS):
        labels = batch["audio_labels"][:, codebook].flatten()
        each = F.cross_entropy(audio[:, codebook].flatten(0, 1), labels, ignore_index=IGNORED, reduction="none")
        weight = torch.where(labels == model.omni.audio_stop_token, STOP_WEIGHT, 1.0)
        own.append((weight * each).sum() / ((labels != IGNORED).sum() + 1e-9))
    audio_loss, aux = sum(own) / CODEBOOKS, torch.as_tensor(model.aux_loss())
    return {"loss": text_loss + audio_loss + aux, "text_loss": text_loss, "audio_loss": audio_loss, "aux_loss": aux}
