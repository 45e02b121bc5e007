"""Goldens of the Thinker: random small models, what they compute, how they train. Layout:
tests/golden/data/README.md."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .thinker import Thinker, ThinkerConfig, learning_rate, text_loss

STEPS, BASE_RATE, PROMPT, NEW_TOKENS = 30, 5e-4, 7, 20
BATCH, LENGTH, BATCHES = 2, 17, 3
# Narrow margins would make a test depend on the order of additions.
SMALLEST_LOGIT_GAP, SMALLEST_ROUTER_GAP = 2e-3, 2e-4

CASES = {
    "dense": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40),
    "headdim96": dict(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=96, intermediate_size=40
    ),
    "moe": dict(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, use_moe=True,
        intermediate_size=24, moe_intermediate_size=24,
    ),
    "moe-top2": dict(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, use_moe=True,
        num_experts=6, num_experts_per_tok=2, intermediate_size=12, moe_intermediate_size=12,
    ),
    "yarn": dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=40, inference_rope_scaling=True, max_position_embeddings=4096,
    ),
}  # fmt: skip
VOCABULARY = {"headdim96": 67, "moe-top2": 83}


class NarrowMargin(Exception):
    """A decision (arg-max, choice of expert) hangs on too small a difference; another seed is needed."""


def new_model(config: ThinkerConfig, generator: torch.Generator) -> Thinker:
    """Matrices ~ N(0, 1/fan_in), embedding ~ N(0, 0.3), norms ~ N(1, 0.2), all rounded to bf16 so that they load
    exactly."""
    model = Thinker(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1:
                value = 1 + 0.2 * noise
            else:
                value = noise * (0.3 if "embed_tokens" in name else weight.shape[1] ** -0.5)
            weight.copy_(value.bfloat16())
    return model


def new_batches(config: ThinkerConfig, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """ids and labels [count, BATCH, LENGTH]; a head of each row and the padding behind some rows are not labelled."""
    ids = torch.randint(3, config.vocab_size, (count, BATCH, LENGTH), generator=generator)
    labels = ids.clone()
    for batch in range(count):
        for row in range(BATCH):
            labels[batch, row, : int(torch.randint(0, 5, (), generator=generator))] = -100
            if row % 2:
                end = LENGTH - int(torch.randint(1, 6, (), generator=generator))
                ids[batch, row, end:] = 0
                labels[batch, row, end:] = -100
    return ids, labels


class RouterGaps:
    """Watches the smallest difference between the last chosen and the first rejected expert."""

    def __init__(self, model: Thinker) -> None:
        self.smallest = float("inf")
        if model.config.use_moe:
            for layer in model.model.layers:
                layer.mlp.gate.register_forward_hook(self._watch(model.config.num_experts_per_tok))

    def _watch(self, chosen: int):
        def hook(_module, _inputs, logits: Tensor) -> None:
            top = logits.detach().softmax(-1).topk(chosen + 1).values
            self.smallest = min(self.smallest, float((top[:, -2] - top[:, -1]).min()))

        return hook


def forward_record(model: Thinker, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Everything that one training step computes, without the update."""
    model.train()
    model.zero_grad()
    trace: dict[str, Tensor] = {}
    logits = model(ids, trace=trace)
    cross_entropy, aux = text_loss(logits, labels), torch.as_tensor(model.aux_loss())
    (cross_entropy + aux).backward()
    record = {"input_ids": ids, "labels": labels, **trace, "text_logits": logits}
    losses = {"loss": cross_entropy + aux, "text_loss": cross_entropy, "aux_loss": aux}
    record |= {name: value.reshape(1) for name, value in losses.items()}
    record |= {f"grad.{name}": weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    return {name: tensor.detach().clone().contiguous() for name, tensor in record.items()}


def train(model: Thinker, ids: Tensor, labels: Tensor) -> Tensor:
    """The curve [STEPS, 5]: loss, text loss, aux loss, learning rate, gradient norm; step s uses batch (s - 1) mod
    N."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=BASE_RATE, foreach=False)
    rows = []
    for step in range(1, STEPS + 1):
        rate = learning_rate(BASE_RATE, step, STEPS)
        optimizer.param_groups[0]["lr"] = rate
        cross_entropy = text_loss(model(ids[(step - 1) % len(ids)]), labels[(step - 1) % len(ids)])
        aux = torch.as_tensor(model.aux_loss())
        (cross_entropy + aux).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rows.append(
            [value.item() for value in (cross_entropy.detach() + aux.detach(), cross_entropy, aux)]
            + [rate, norm.item()]
        )
    return torch.tensor(rows, dtype=torch.float64)


@torch.no_grad()
def greedy(model: Thinker, prompt: Tensor, new_tokens: int = NEW_TOKENS) -> tuple[Tensor, float]:
    """Arg-max continuation with a cache, and the smallest difference between the two best logits."""
    model.eval()
    cache, ids, step, gap = model.new_cache(1, prompt.shape[1] + new_tokens), prompt, prompt, float("inf")
    for _ in range(new_tokens):
        logits = model(step, cache)[:, -1]
        best = logits.topk(2).values[0]
        gap = min(gap, float(best[0] - best[1]))
        step = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, step], 1)
    return ids, gap


def state(model: Thinker) -> dict[str, Tensor]:
    """The tied matrix once, under the name of the embedding."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def load_model(folder: Path, weights: str = "model.safetensors") -> Thinker:
    model = Thinker(ThinkerConfig.load(folder / "config.json"))
    tensors = {name: tensor.float() for name, tensor in load_file(folder / weights).items()}
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    model.load_state_dict(tensors)
    return model


def write_case(folder: Path, name: str, seed: int) -> None:
    """One model folder. The greedy continuation is that of the trained weights, whose logits lie further apart."""
    generator = torch.Generator().manual_seed(seed)
    config = ThinkerConfig(**{"vocab_size": VOCABULARY.get(name, 100), "max_position_embeddings": 64, **CASES[name]})
    model = new_model(config, generator)
    gaps = RouterGaps(model)
    start = state(model)
    one_ids, one_labels = (part[0] for part in new_batches(config, generator, 1))
    record = forward_record(model, one_ids, one_labels)
    ids, labels = new_batches(config, generator, BATCHES)
    curve = train(model, ids, labels)
    prompt = torch.randint(3, config.vocab_size, (1, PROMPT), generator=generator)
    continuation, logit_gap = greedy(model, prompt)
    if logit_gap < SMALLEST_LOGIT_GAP or gaps.smallest < SMALLEST_ROUTER_GAP:
        raise NarrowMargin(f"logits {logit_gap:.1e}, router {gaps.smallest:.1e}")
    if len(set(continuation[0, PROMPT:].tolist())) < 3:
        raise NarrowMargin("the continuation repeats one or two tokens, which tests little")

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.record(), indent=1) + "\n")
    save_file({key: tensor.bfloat16() for key, tensor in start.items()}, folder / "model.safetensors")
    half = {key: tensor.half() for key, tensor in start.items()}
    torch.save({**half, "lm_head.weight": half["model.embed_tokens.weight"].clone()}, folder / "model_fp16.pth")
    save_file(record, folder / "forward.safetensors")
    save_file({"input_ids": ids, "labels": labels, "curve": curve}, folder / "curve.safetensors")
    save_file(state(model), folder / "after_30_steps.safetensors")
    save_file({"prompt": prompt, "ids": continuation}, folder / "greedy.safetensors")


def write_models(output: Path) -> None:
    for name in CASES:
        for seed in range(1000):
            try:
                write_case(output / f"thinker-{name}", name, seed)
                print(f"thinker-{name}: seed {seed}")
                break
            except NarrowMargin:
                continue
        else:
            raise RuntimeError(f"thinker-{name}: no seed below 1000 gives clear margins")


def difference(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference relative to the largest value; NaN counts as infinite."""
    if got.shape != expected.shape:
        return float("inf")
    value = ((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
    return value if value == value else float("inf")


def check_case(folder: Path, tolerance: float = 2e-5) -> list[str]:
    """Recompute the goldens of a folder from its weights; returns what disagrees."""
    problems = []
    expected = load_file(folder / "forward.safetensors")
    model = load_model(folder)
    for key, tensor in forward_record(model, expected["input_ids"], expected["labels"]).items():
        if not difference(tensor, expected[key]) <= tolerance:
            problems.append(f"{folder.name}: forward {key}: {difference(tensor, expected[key]):.1e}")
    expected = load_file(folder / "curve.safetensors")
    curve = train(model, expected["input_ids"], expected["labels"])
    for column, title in enumerate(("loss", "text_loss", "aux_loss", "learning rate", "gradient norm")):
        if not difference(curve[:, column], expected["curve"][:, column]) <= tolerance:
            problems.append(f"{folder.name}: curve {title}")
    for key, tensor in load_file(folder / "after_30_steps.safetensors").items():
        if not difference(model.state_dict()[key], tensor) <= 10 * tolerance:
            problems.append(f"{folder.name}: after 30 steps {key}")
    expected = load_file(folder / "greedy.safetensors")
    prompt, ids = expected["prompt"], expected["ids"]
    trained = load_model(folder, "after_30_steps.safetensors")
    if not torch.equal(greedy(trained, prompt, ids.shape[1] - prompt.shape[1])[0], ids):
        problems.append(f"{folder.name}: greedy")
    return problems
