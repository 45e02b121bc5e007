#!/usr/bin/env python3
"""Turn parquet files of the original's omni stages into tar shards, which training reads (trainers/shards.h).

Columns: conversations, question_audios, answer_audios, image_bytes, ref_audios, spk_emb; all but the first may be
missing, null or empty. Memory does not grow with the files, even if all rows are in one row group.
Needs `pip install -r scripts/requirements-data.txt`.

  scripts/parquet_to_shards.py data/sft_t2a_mini.parquet --output data/shards/t2a_mini
  scripts/parquet_to_shards.py data/sft_a2a.parquet data/sft_i2t.parquet --output data/shards/all --shard-bytes 500M
"""

import argparse
import io
import json
import os
import re
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CODEBOOKS = 8
COLUMNS = ["conversations", "question_audios", "answer_audios", "image_bytes", "ref_audios", "spk_emb"]


class Notes:
    """What is left out, counted by reason, each with the first row that has it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, place: str) -> None:
        self.counts[reason] += 1
        self.first.setdefault(reason, place)


class ShardWriter:
    """Tar files of about `limit` bytes: <folder>/<number>.tar, each renamed into place when it is complete."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.shards = self.bytes = 0
        self.file = self.tar = None

    def add(self, members: list[tuple[str, bytes]]) -> None:
        if self.tar is None:
            self.path = self.folder / f"{self.shards:06d}.tar"
            self.temporary = self.path.with_suffix(".tar.part")
            self.file = open(self.temporary, "wb")
            self.tar = tarfile.open(fileobj=self.file, mode="w", format=tarfile.USTAR_FORMAT)
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            self.tar.addfile(info, io.BytesIO(content))
        self.tar.members.clear()  # tarfile remembers all that it wrote
        if self.file.tell() >= self.limit:
            self.finish()

    def finish(self) -> None:
        if self.tar is None:
            return
        self.tar.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.bytes += self.file.tell()
        self.file.close()
        os.replace(self.temporary, self.path)
        self.shards += 1
        self.tar = None

    def abandon(self) -> None:
        if self.tar is not None:
            self.file.close()
            self.temporary.unlink(missing_ok=True)
            self.tar = None


def recording_kind(content: bytes) -> str | None:
    """The extension that the first bytes of an audio file tell."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return "wav"
    if content[:4] == b"fLaC":
        return "flac"
    if content[:4] == b"OggS":
        return "ogg"
    if content[:3] == b"ID3" or (len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0):
        return "mp3"
    return None


def picture_kind(content: bytes) -> str | None:
    if content[:3] == b"\xff\xd8\xff":
        return "jpg"
    if content[:4] == b"\x89PNG":
        return "png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return None


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def codes_member(flat: np.ndarray) -> bytes | None:
    """Frame by frame, without a partial frame at the end; None if nothing is left."""
    frames = len(flat) // CODEBOOKS
    if frames == 0:
        return None
    codes = flat[: frames * CODEBOOKS].reshape(frames, CODEBOOKS)
    fits = codes.min() >= -(2**15) and codes.max() < 2**15
    return npy(codes.astype(np.int16 if fits else np.int64))


def check_columns(path: Path, schema: pa.Schema) -> list[str]:
    """The known columns of the file; an error for one of another type than expected."""

    def is_list(kind: pa.DataType, item) -> bool:
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return lists and (item(kind.value_type) or pa.types.is_null(kind.value_type))

    def is_bytes(kind: pa.DataType) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    def is_text(kind: pa.DataType) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)

    expected = {
        "conversations": ("texts, or lists of messages", lambda k: is_text(k) or is_list(k, pa.types.is_struct)),
        "question_audios": ("lists of bytes", lambda k: is_list(k, is_bytes)),
        "answer_audios": (
            "lists of lists of integers",
            lambda k: is_list(k, lambda i: is_list(i, pa.types.is_integer)),
        ),
        "image_bytes": ("bytes, or lists of them", lambda k: is_bytes(k) or is_list(k, is_bytes)),
        "ref_audios": ("lists of integers", lambda k: is_list(k, pa.types.is_integer)),
        "spk_emb": ("lists of floats", lambda k: is_list(k, pa.types.is_floating)),
    }
    found = [name for name in COLUMNS if name in schema.names]
    if "conversations" not in found:
        raise ValueError(f"{path}: expected a column conversations, found {', '.join(schema.names) or 'none'}")
    for name in found:
        kind = schema.field(name).type
        wanted, fits = expected[name]
        if not fits(kind) and not pa.types.is_null(kind):
            raise ValueError(f"{path}: {name}: expected {wanted}, found {kind}")
    return found


def row_count(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: {error}") from error


def rows(path: Path) -> Iterator[dict[str, pa.Scalar]]:
    # Read through a small buffer, page by page: otherwise the reader takes in the whole of each column, and a file may
    # be one row group of gigabytes.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        columns = check_columns(path, file.schema_arrow)
        for batch in file.iter_batches(batch_size=32, columns=columns, use_threads=False):
            for i in range(batch.num_rows):
                yield {name: batch.column(name)[i] for name in columns}


def items(scalar: pa.Scalar | None) -> list[pa.Scalar]:
    """The entries of a list; none if it is missing or null."""
    return [] if scalar is None or not scalar.is_valid else list(scalar.values)


def numbers(scalar: pa.Scalar | None) -> np.ndarray:
    """A list of numbers. Null counts as empty."""
    if scalar is None or not scalar.is_valid or len(scalar.values) == 0:
        return np.zeros(0, np.int64)
    if scalar.values.null_count:
        raise ValueError("expected numbers, found null among them")
    return scalar.values.to_numpy(zero_copy_only=False)


def members_of(row: dict[str, pa.Scalar], key: str, place: str, notes: Notes) -> list[tuple[str, bytes]]:
    """The files of a sample; none for a row that is no conversation."""
    messages = row["conversations"].as_py()
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError:
            messages = None
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        notes.add("rows without a list of messages", place)
        return []
    # As the original's chat template has it: only these two count, and what is no text counts as empty.
    messages = [
        {"role": m.get("role"), "content": m["content"] if isinstance(m.get("content"), str) else ""} for m in messages
    ]
    text = json.dumps({"conversations": messages}, ensure_ascii=False)
    members = [(f"{key}.json", text.encode("utf-8", "replace"))]
    turns = Counter(message.get("role") for message in messages)

    for n, answer in enumerate(items(row.get("answer_audios"))):
        content = codes_member(numbers(answer))
        if content is None:
            continue
        if n < turns["assistant"]:
            members.append((f"{key}.answer.{n}.npy", content))
        else:
            notes.add("answers beyond the assistant's turns", place)
    if content := codes_member(numbers(row.get("ref_audios"))):
        members.append((f"{key}.reference.npy", content))
    speaker = numbers(row.get("spk_emb"))
    if len(speaker):
        members.append((f"{key}.speaker.npy", npy(speaker.astype(np.float32))))

    for n, question in enumerate(items(row.get("question_audios"))):
        content = question.as_py()
        if not content:
            continue
        kind = recording_kind(content)
        if n >= turns["user"]:
            notes.add("questions beyond the user's turns", place)
        elif kind is None:
            notes.add("recordings that are neither WAV, MP3, FLAC nor Ogg", place)
        else:
            members.append((f"{key}.question.{n}.{kind}", content))

    image = row.get("image_bytes")
    pictures = image.as_py() if image is not None else None
    picture = pictures if isinstance(pictures, bytes) else next(iter(pictures or []), None)
    if picture:
        if kind := picture_kind(picture):
            members.append((f"{key}.image.{kind}", picture))
        else:
            notes.add("pictures that are neither JPEG, PNG nor WebP", place)
    return members


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def convert(paths: list[Path], writer: ShardWriter, notes: Notes) -> int:
    """Returns the number of samples."""
    total = sum(row_count(path) for path in paths)
    start = shown = time.monotonic()
    done = samples = 0
    for path in paths:
        prefix = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)
        for number, row in enumerate(rows(path)):
            place = f"{path}: row {number}"
            try:
                members = members_of(row, f"{prefix}-{number:08d}", place, notes)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            if members:
                writer.add(members)
                samples += 1
            done += 1
            now = time.monotonic()
            if now - shown >= 2:
                shown = now
                speed = done / (now - start)
                print(
                    f"{done:,} of {total:,} rows, {speed:,.0f} rows/s, ETA {duration((total - done) / speed)}",
                    file=sys.stderr,
                )
    writer.finish()
    return samples


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kMG]?)", text)
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"expected a number of bytes like 1000000 or 500M, found {text!r}")
    return int(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parquet", nargs="+", type=Path)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--shard-bytes", type=size, default=10**9, metavar="N", help="of a shard; default 1G")
    options = parser.parse_args()
    stems = Counter(path.stem for path in options.parquet)
    if stems.most_common(1)[0][1] > 1:
        parser.error(f"two files are named {stems.most_common(1)[0][0]}: their samples would have the same keys")
    options.output.mkdir(parents=True, exist_ok=True)
    if found := sorted(options.output.glob("*.tar")):
        parser.error(f"{options.output}: expected a folder without shards, found {found[0].name}")

    pa.set_cpu_count(1)
    notes = Notes()
    writer = ShardWriter(options.output, options.shard_bytes)
    start = time.monotonic()
    try:
        samples = convert(options.parquet, writer, notes)
    finally:
        writer.abandon()
    seconds = time.monotonic() - start
    print(
        f"{options.output}: {samples:,} samples in {writer.shards} shards, {writer.bytes:,} bytes, {duration(seconds)}"
    )
    for reason, count in notes.counts.most_common():
        print(f"  left out: {count:,} {reason}; the first: {notes.first[reason]}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"parquet_to_shards.py: {error}")
