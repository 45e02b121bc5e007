"""Goldens of the omni model: small random models, what they compute, how they train."""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .golden_models import BASE_RATE, BATCHES, SMALLEST_ROUTER_GAP, STEPS, NarrowMargin, difference
from .omni import CODEBOOKS, IGNORED, Omni, OmniConfig, omni_losses
from .speech import Case, Margin, generate
from .thinker import ThinkerConfig, learning_rate

BATCH, LENGTH, AUDIO_ROWS, IMAGE_ROWS = 2, 21, 4, 3
SMALL = dict(
    vocab_size=60, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24, max_position_embeddings=64
)
CODES = dict(
    audio_vocab_size=20, audio_pad_token=17, audio_stop_token=18, audio_spk_token=19, image_token_len=IMAGE_ROWS
)
ENCODERS = dict(audio_hidden_size=10, image_hidden_size=12, spk_emb_size=6, think_end_ids=[26, 27])
CASES = {
    "dense": (
        dict(hidden_size=16, num_hidden_layers=2),
        dict(talker_hidden_size=32, num_talker_hidden_layers=2, bridge_layer=0),
    ),
    "moe": (
        dict(hidden_size=24, num_hidden_layers=3, use_moe=True, moe_intermediate_size=24),
        dict(talker_hidden_size=16, num_talker_hidden_layers=1, bridge_layer=1),
    ),
}
PROMPT, SPEECH_STEPS, SPEECH_CASES, SMALLEST_CHOICE = 11, 36, 5, 1e-3
INPUTS = ("input_ids", "text_labels", "audio_labels", "audio_states", "audio_lens", "image_states", "spk_emb")
LOSSES = ("loss", "text_loss", "audio_loss", "aux_loss")


def new_model(config: OmniConfig, generator: torch.Generator) -> Omni:
    """Matrices ~ N(0, 1/fan_in), tables ~ N(0, 0.5), norms and scales moved away from 1, rounded to bf16."""
    model = Omni(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() < 2:
                value = (0.1 * noise) if name.endswith("bias") else weight + 0.2 * noise
            elif "embed_tokens" in name and not name.endswith("2.weight"):
                value = 0.5 * noise
            else:
                value = noise * weight.shape[1] ** -0.5
            weight.copy_(value.bfloat16())
    return model


def new_batch(config: OmniConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """Sound in the first row, pictures in both, a speaker marker, labels near the end, one stop code per codebook."""
    codes = torch.randint(0, config.audio_pad_token, (BATCH, CODEBOOKS, LENGTH), generator=generator)
    text = torch.randint(30, config.thinker.vocab_size, (BATCH, LENGTH), generator=generator)
    text[0, 2:7] = config.audio_ids[0]
    text[:, 8 : 8 + IMAGE_ROWS] = config.image_ids[0]
    codes[:, :, 11] = config.audio_spk_token
    text_labels = torch.roll(text, -1, 1)
    text_labels[:, :11] = IGNORED
    text_labels[:, -1] = IGNORED
    audio_labels = torch.randint(0, config.audio_pad_token, (BATCH, CODEBOOKS, LENGTH), generator=generator)
    for codebook in range(CODEBOOKS):
        end = 13 + codebook
        audio_labels[:, codebook, : 11 + codebook // 2] = IGNORED
        audio_labels[:, codebook, end] = config.audio_stop_token
        audio_labels[:, codebook, end + 1 :] = IGNORED
    return {
        "input_ids": torch.cat([codes, text[:, None]], 1),
        "text_labels": text_labels,
        "audio_labels": audio_labels,
        "audio_states": torch.randn(BATCH, AUDIO_ROWS, config.audio_hidden_size, generator=generator),
        "audio_lens": torch.tensor([AUDIO_ROWS - 1, 0]),
        "image_states": torch.randn(BATCH, IMAGE_ROWS, config.image_hidden_size, generator=generator),
        "spk_emb": torch.randn(BATCH, config.spk_emb_size, generator=generator),
    }


def watch_routers(model: Omni) -> list[float]:
    """Collects how clearly each choice of an expert was made."""
    gaps: list[float] = []

    def hook(_module, _inputs, logits: Tensor) -> None:
        top = logits.detach().softmax(-1).topk(2).values
        gaps.append(float((top[:, 0] - top[:, 1]).min()))

    for layer in [*model.model.layers, *model.talker.layers]:
        if model.config.use_moe:
            layer.mlp.gate.register_forward_hook(hook)
    return gaps


def kept_whole(name: str) -> bool:
    """Gradients that are written out; of the adapters between the first and the last codebook only the norm is."""
    return not any(f"adapters.{codebook}." in name for codebook in range(1, CODEBOOKS - 1))


def forward_record(model: Omni, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything that one training step computes, without the update. In double precision: with one expert per token the
    losses have no gradient with respect to the router, and in fp32 rounding errors would stand in its place."""
    model = copy.deepcopy(model).double()
    batch = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    model.train()
    model.zero_grad()
    trace: dict[str, Tensor] = {}
    text, audio = model(batch, trace)
    losses = omni_losses(model, text, audio, batch)
    losses["loss"].backward()
    record = {**trace, "text_logits": text, "audio_logits.every_4th": audio[:, :, ::4]}
    record |= {name: losses[name].reshape(1) for name in LOSSES}
    for name, weight in model.named_parameters():
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        record |= {f"grad.{name}": gradient} if kept_whole(name) else {f"grad_norm.{name}": gradient.norm().reshape(1)}
    return {name: tensor.detach().float().clone().contiguous() for name, tensor in record.items()}


def train(model: Omni, batches: dict[str, Tensor]) -> Tensor:
    """The curve [STEPS, 6]: the four losses, learning rate, gradient norm; step s uses batch (s - 1) mod N."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=BASE_RATE, foreach=False)
    rows = []
    for step in range(1, STEPS + 1):
        rate = learning_rate(BASE_RATE, step, STEPS)
        optimizer.param_groups[0]["lr"] = rate
        batch = {name: tensor[(step - 1) % len(tensor)] for name, tensor in batches.items()}
        losses = omni_losses(model, *model(batch, {}), batch)
        losses["loss"].backward()
        for weight in model.parameters():  # a parameter that the batch does not reach decays like the others
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rows.append([losses[name].item() for name in LOSSES] + [rate, norm.item()])
    return torch.tensor(rows, dtype=torch.float64)


def state(model: Omni) -> dict[str, Tensor]:
    """The tied matrix once, under the name of the embedding."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def small(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor.numel() <= 512}


def write_case(folder: Path, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    thinker, omni = CASES[name]
    config = OmniConfig(ThinkerConfig(**SMALL, **thinker), **CODES, **ENCODERS, **omni)
    model = new_model(config, generator)
    gaps = watch_routers(model)
    start = state(model)
    batch = new_batch(config, generator)
    record = forward_record(model, batch)
    drawn = [new_batch(config, generator) for _ in range(BATCHES)]
    batches = {key: torch.stack([one[key] for one in drawn]) for key in INPUTS}
    curve = train(model, batches)
    if min(gaps, default=1.0) < SMALLEST_ROUTER_GAP:
        raise NarrowMargin(f"router {min(gaps):.1e}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.record(), indent=1) + "\n")
    save_file({key: tensor.bfloat16() for key, tensor in start.items()}, folder / "model.safetensors")
    save_file({**batch, **record}, folder / "forward.safetensors")
    save_file({**batches, "curve": curve}, folder / "curve.safetensors")
    save_file(small(state(model)), folder / "after_30_steps_small.safetensors")


def new_speech_case(config: OmniConfig, number: int, generator: torch.Generator) -> Case:
    """Stops before the text ends, stops long after it, a reference longer than the prompt, thinking, reserved codes in between."""
    prompt = torch.randint(30, config.thinker.vocab_size, (1, PROMPT), generator=generator)
    script = torch.randint(30, config.thinker.vocab_size, (9,), generator=generator).tolist()
    reference = (None, 4, PROMPT + 6, 2, None)[number]
    if number == 1:
        prompt[0, 1 : 1 + AUDIO_ROWS] = config.audio_ids[0]
        prompt[0, 6 : 6 + IMAGE_ROWS] = config.image_ids[0]
    if number == 3:
        script[2:2] = config.think_end_ids
    case = Case(
        prompt=prompt,
        script=[*script, config.thinker.eos_token_id],
        max_new_tokens=SPEECH_STEPS,
        thinking=number == 3,
        penalty=1.1 if number == 2 else 1.0,
        stop_frame=(4, 14, 0, 0, 0)[number],
        enter_token_id=31,
        only_sounds=number < 4,  # of the few codes of this model many are none
    )
    if reference:
        case.ref_codes = torch.randint(0, 16, (1, CODEBOOKS, reference), generator=generator)
    if number in (1, 2):
        case.spk_emb = torch.randn(1, config.spk_emb_size, generator=generator)
    if number == 1:
        case.audio_states = torch.randn(1, AUDIO_ROWS, config.audio_hidden_size, generator=generator)
        case.image_states = torch.randn(1, IMAGE_ROWS, config.image_hidden_size, generator=generator)
    return case


def write_speech(folder: Path) -> None:
    """generate.safetensors of a folder that holds a model; every choice in it is a clear one."""
    model, record = load_model(folder), {}
    for number in range(SPEECH_CASES):
        for seed in range(1000):
            generator = torch.Generator().manual_seed(1000 * number + seed)
            case, margin = new_speech_case(model.omni, number, generator), Margin()
            answer = generate(model, case, margin)
            if margin.smallest >= SMALLEST_CHOICE:
                break
        else:
            raise RuntimeError(f"{folder.name}: no seed gives clear choices in case {number}")
        tensors = {**case.tensors(), **answer.tensors()}
        record |= {f"{number}.{name}": tensor for name, tensor in tensors.items()}
    save_file(record, folder / "generate.safetensors")


def write_omni(output: Path) -> None:
    for name in CASES:
        for seed in range(1000):
            try:
                write_case(output / f"omni-{name}", name, seed)
                print(f"omni-{name}: seed {seed}")
                break
            except NarrowMargin:
                continue
        else:
            raise RuntimeError(f"omni-{name}: no seed below 1000 gives clear margins")
    write_speech(output / "omni-dense")


def load_model(folder: Path) -> Omni:
    model = Omni(OmniConfig.read(json.loads((folder / "config.json").read_text())))
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    model.load_state_dict(tensors)
    return model


def check_speech(folder: Path, model: Omni) -> list[str]:
    if not (folder / "generate.safetensors").exists():
        return []
    expected, problems = load_file(folder / "generate.safetensors"), []
    for number in range(SPEECH_CASES):
        prefix = f"{number}."
        tensors = {name.removeprefix(prefix): x for name, x in expected.items() if name.startswith(prefix)}
        for name, tensor in generate(model, Case.read(tensors), Margin()).tensors().items():
            if not torch.equal(tensor, tensors[name]):
                problems.append(f"{folder.name}: generate {prefix}{name}")
    return problems


def check_case(folder: Path, tolerance: float = 2e-5) -> list[str]:
    """Recompute the goldens of a folder from its weights; returns what disagrees."""
    problems = []
    model, expected = load_model(folder), load_file(folder / "forward.safetensors")
    for key, tensor in forward_record(model, {name: expected[name] for name in INPUTS}).items():
        if key in expected and not difference(tensor, expected[key]) <= tolerance:
            problems.append(f"{folder.name}: forward {key}: {difference(tensor, expected[key]):.1e}")
    problems += check_speech(folder, model)
    expected = load_file(folder / "curve.safetensors")
    curve = train(model, {name: expected[name] for name in INPUTS})
    for column, title in enumerate((*LOSSES, "learning rate", "gradient norm")):
        if not difference(curve[:, column], expected["curve"][:, column]) <= tolerance:
            problems.append(f"{folder.name}: curve {title}")
    for key, tensor in load_file(folder / "after_30_steps_small.safetensors").items():
        if not difference(model.state_dict()[key], tensor) <= 10 * tolerance:
            problems.append(f"{folder.name}: after 30 steps {key}")
    return problems
