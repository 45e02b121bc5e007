"""The Thinker (the language model) in PyTorch: the reference of the goldens and the rival of the benches.

Shapes: B batch, T positions, H hidden_size, V vocab_size, d head_dim. A linear layer with weight [out, in] computes x
W^T.
Parameter names are those of the checkpoint (`model.layers.0.self_attn.q_proj.weight`, ...).
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 16,
    "original_max_position_embeddings": 2048,
    "attention_factor": 1.0,
    "type": "yarn",
}


@dataclass
class ThinkerConfig:
    """The fields of config.json that the language model reads. Zero in a size means: derive it from hidden_size."""

    hidden_size: int = 768
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 0
    intermediate_size: int = 0
    vocab_size: int = 6400
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    inference_rope_scaling: bool = False
    use_moe: bool = False
    num_experts: int = 4
    num_experts_per_tok: int = 1
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = True
    router_aux_loss_coef: float = 5e-4
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.intermediate_size = self.intermediate_size or math.ceil(self.hidden_size * math.pi / 64) * 64
        self.moe_intermediate_size = self.moe_intermediate_size or self.intermediate_size

    @staticmethod
    def load(path: Path) -> "ThinkerConfig":
        record = json.loads(Path(path).read_text())
        known = ThinkerConfig.__dataclass_fields__
        return ThinkerConfig(**{name: value for name, value in record.items() if name in known})

    def record(self) -> dict:
        """The content of config.json."""
        return {
            "model_type": "minimind",
            **asdict(self),
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "dropout": 0.0,
            "rope_scaling": YARN if self.inference_rope_scaling else None,
        }


def rope_tables(config: ThinkerConfig, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin [length, d], the second half of the columns repeating the first; YaRN (Peng et al., 2023) if
    configured."""
    d = config.head_dim
    pair = torch.arange(0, d, 2, dtype=torch.float32)
    frequency = 1.0 / (config.rope_theta ** (pair / d))
    scale = 1.0
    if config.inference_rope_scaling and config.max_position_embeddings > YARN["original_max_position_embeddings"]:

        def pair_turning(times: float) -> float:
            """The pair index whose wave turns `times` times within the original context."""
            waves = YARN["original_max_position_embeddings"] / (2 * math.pi * times)
            return d * math.log(waves) / (2 * math.log(config.rope_theta))

        low = max(math.floor(pair_turning(YARN["beta_fast"])), 0)
        high = min(math.ceil(pair_turning(YARN["beta_slow"])), d // 2 - 1)
        ramp = ((torch.arange(d // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
        frequency = frequency * (1 - ramp + ramp / YARN["factor"])
        scale = YARN["attention_factor"]
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)
    return torch.cat([angle.cos()] * 2, -1) * scale, torch.cat([angle.sin()] * 2, -1) * scale


def widen(x: Tensor) -> Tensor:
    """16-bit floats in fp32; fp32 and double as they are."""
    return x if x.dtype == torch.float64 else x.float()


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(widen(x), self.weight.shape, widen(self.weight), self.eps).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in the half-rotation form; x [B, heads, T, d], tables [T, d]."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return (x * cos + turned * sin).to(x.dtype)


class KvCache:
    """Keys (after norm and RoPE) and values of one layer, [B, kv_heads, capacity, d]; `length` positions are filled."""

    def __init__(self, batch: int, config: ThinkerConfig, capacity: int, dtype: torch.dtype) -> None:
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        self.key = torch.zeros(shape, dtype=dtype)
        self.value = torch.zeros(shape, dtype=dtype)
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + key.shape[2]
        self.key[:, :, self.length : end] = key
        self.value[:, :, self.length : end] = value
        self.length = end
        return self.key[:, :, :end], self.value[:, :, :end]


class Attention(nn.Module):
    attend = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.d = config.head_dim
        width, kv_width = config.num_attention_heads * self.d, config.num_key_value_heads * self.d
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.d, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.d, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KvCache | None) -> Tensor:
        B, T, _ = x.shape
        query = rotate(self.q_norm(self.q_proj(x).view(B, T, -1, self.d)).transpose(1, 2), cos, sin)
        key = rotate(self.k_norm(self.k_proj(x).view(B, T, -1, self.d)).transpose(1, 2), cos, sin)
        value = self.v_proj(x).view(B, T, -1, self.d).transpose(1, 2)
        if cache is not None:
            key, value = cache.append(key, value)
        grouped = key.shape[1] != query.shape[1]
        # One query row sees the whole cache; several rows are a prompt and start at position 0.
        y = self.attend(query, key, value, is_causal=T > 1, enable_gqa=grouped)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.aux_loss: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoeFeedForward(nn.Module):
    """Top-k routed experts. After a forward pass in training mode `aux_loss` holds the balancing term."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            FeedForward(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)
        )
        self.aux_loss: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        probability = widen(self.gate(flat)).softmax(-1)  # [B*T, experts]
        weight, chosen = probability.topk(self.config.num_experts_per_tok, dim=-1)  # [B*T, k]
        if self.config.norm_topk_prob:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        y = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == index)  # may be empty: the expert then gets zero gradients
            y = y.index_add(0, token, (expert(flat[token]) * weight[token, slot, None]).to(y.dtype))
        self.aux_loss = self.balancing_loss(probability, chosen) if self.training else 0.0
        return y.view_as(x)

    def balancing_loss(self, probability: Tensor, chosen: Tensor) -> Tensor:
        """coef * E * sum over slots and experts of (fraction of tokens chosen) * (mean probability)."""
        fraction = F.one_hot(chosen, self.config.num_experts).float().mean(0)  # [k, experts]
        return self.config.router_aux_loss_coef * self.config.num_experts * (fraction * probability.mean(0)).sum()


class Block(nn.Module):
    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = (
            MoeFeedForward(config) if config.use_moe else FeedForward(config.hidden_size, config.intermediate_size)
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KvCache | None) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), cos, sin, cache)
        # The sum takes the type of the attention output: under bf16 autocast the residual stream is bf16 from here on.
        x = (attended + x).to(attended.dtype)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Thinker(nn.Module):
    """logits [B, T, V] of ids [B, T]; the head is the embedding matrix."""

    def __init__(self, config: ThinkerConfig, positions: int = 0) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight
        cos, sin = rope_tables(config, positions or config.max_position_embeddings)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def new_cache(self, batch: int, capacity: int) -> list[KvCache]:
        dtype = self.model.embed_tokens.weight.dtype
        return [KvCache(batch, self.config, capacity, dtype) for _ in self.model.layers]

    def forward(
        self, ids: Tensor, cache: list[KvCache] | None = None, trace: dict[str, Tensor] | None = None
    ) -> Tensor:
        """`trace` collects the embedding and the output of every block under their names in the goldens."""
        start = cache[0].length if cache else 0
        cos, sin = self.cos[start : start + ids.shape[1]], self.sin[start : start + ids.shape[1]]
        x = self.model.embed_tokens(ids)
        if trace is not None:
            trace["thinker.embed"] = x
        for index, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, cache[index] if cache else None)
            if trace is not None:
                trace[f"thinker.layers.{index}"] = x
        return self.lm_head(self.model.norm(x))

    def aux_loss(self) -> Tensor | float:
        """The sum of the balancing losses of the last forward pass."""
        return sum(layer.mlp.aux_loss for layer in self.model.layers)


def text_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of position t against labels[:, t + 1]; labels [B, T] aligned with the ids, -100 is ignored.

    Shifting the labels instead of the logits avoids a copy of [B, T, V].
    """
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    return F.cross_entropy(logits.flatten(0, 1).float(), shifted.flatten(), ignore_index=-100)


def learning_rate(base: float, step: int, steps: int) -> float:
    """Cosine from `base` to a tenth of it; steps are counted from 1."""
    return base * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
