#!/usr/bin/env bash
# Kills train_thinker with SIGKILL at random moments, resumes it each time, and compares the end with an undisturbed
# run, byte for byte: the final model, the last checkpoint, and metrics.jsonl without its timings.
#
#   scripts/kill_test.sh [BIN [KILLS [SEED]]]      defaults: build/release/bin 30 1
#
# Needs nothing but the binary; the tokenizer and the data are made here. Exit code 0: no difference.
set -euo pipefail

bin=${1:-build/release/bin}
kills=${2:-30}
RANDOM=${3:-1}
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT

# A tokenizer of single bytes that stand for themselves, enough for plain English.
mkdir "$here/tokenizer"
{
  printf '{"version": "1.0", "added_tokens": ['
  separator=
  id=0
  for token in '<|endoftext|>' '<|im_start|>' '<|im_end|>'; do
    printf '%s{"id": %d, "content": "%s", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}' \
      "$separator" "$id" "$token"
    separator=', '
    id=$((id + 1))
  done
  byte_level='{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}'
  printf '], "normalizer": null, "pre_tokenizer": %s, "post_processor": null, "decoder": %s, ' "$byte_level" "$byte_level"
  printf '"model": {"type": "BPE", "merges": [], "vocab": {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2'
  other=256 # bytes without a printable form are written as U+0100, U+0101, ...
  for ((byte = 0; byte < 256; byte++)); do
    if ((byte >= 33 && byte <= 126 || byte >= 161 && byte <= 172 || byte >= 174)); then
      character=$byte
    else
      character=$((other++))
    fi
    printf ', "\\u%04x": %d' "$character" $((byte + 3))
  done
  printf '}}}\n'
} >"$here/tokenizer/tokenizer.json"
printf '{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}\n' \
  >"$here/tokenizer/tokenizer_config.json"

words=(a heron wades through the shallow water and waits for fish with its long grey neck bent like an s)
for ((line = 0; line < 200; line++)); do
  text=
  for ((word = 0; word < 4 + line % 9; word++)); do text+="${words[RANDOM % ${#words[@]}]} "; done
  printf '{"text": "%s"}\n' "$text"
done >"$here/data.jsonl"

cat >"$here/recipe.yaml" <<END
stage: pretrain
config: {hidden_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 320,
         max_position_embeddings: 128}
tokenizer: $here/tokenizer
data: $here/data.jsonl
output: unset
steps: 240
batch_size: 8
accumulation_steps: 3
max_seq_len: 64
dtype: bf16
save_interval: 2
workers: 2
threads: 1
END

train() { "$bin/train_thinker" "$here/recipe.yaml" output="$here/$1" "${@:2}" >"$here/log" 2>&1; }

# The folder without timings: what two runs must have in common.
digest() {
  (
    cd "$here/$1"
    sha256sum model/* checkpoint/*
    sed -E 's/,"(seconds|data_seconds|tokens_per_s|fraction_of_peak)":[^,}]*//g' metrics.jsonl | sha256sum
  )
}

begin=$(date +%s%N)
train whole || { cat "$here/log"; exit 1; }
whole_ms=$((($(date +%s%N) - begin) / 1000000))
echo "undisturbed: $whole_ms ms"

done_kills=0
finished=0
for ((attempt = 0; done_kills < kills && attempt < 20 * kills; attempt++)); do
  if ((finished)); then
    # The run came to its end between two kills: begin another one, so that all kills hit a run at work.
    [[ $(digest whole) == "$(digest parts)" ]] || { echo "FAILED after $done_kills kills"; exit 1; }
    rm -rf "$here/parts"
    finished=0
  fi
  "$bin/train_thinker" "$here/recipe.yaml" output="$here/parts" --resume >"$here/log" 2>&1 &
  process=$!
  # While it starts, or some time later: up to a quarter of an undisturbed run.
  wait_ms=$((RANDOM * 32768 + RANDOM))
  wait_ms=$((300 + wait_ms % (whole_ms / 4 + 500)))
  sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
  if kill -KILL "$process" 2>/dev/null; then
    wait "$process" 2>/dev/null && finished=1 || true
    done_kills=$((done_kills + 1))
  elif wait "$process"; then
    finished=1
  else
    echo "FAILED: a resumed run ended with an error after $done_kills kills:"
    cat "$here/log"
    exit 1
  fi
done

train parts --resume || { echo "FAILED to resume after $done_kills kills:"; cat "$here/log"; exit 1; }
if [[ $(digest whole) != "$(digest parts)" ]]; then
  echo "FAILED: after $done_kills kills the run differs from the undisturbed one:"
  diff <(digest whole) <(digest parts) || true
  exit 1
fi
leftovers=$(find "$here/parts" -name '*.part-*' | wc -l)
echo "$done_kills kills: same bytes as the undisturbed run ($leftovers temporaries left behind)"
