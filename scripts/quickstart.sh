#!/usr/bin/env bash
# From a bare machine to a small model that answers: installs what is missing, builds, makes a corpus from WordNet,
# trains a Thinker of 3.6 million parameters, lets it answer five of the questions that it was trained on beside their gold
# answers, and draws the loss curve. Three to five minutes of training on two cores, five to ten minutes in all. Everything
# it writes goes to data/ and out/quickstart/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
start=$SECONDS
say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - start)); }

say "installing packages"
bash scripts/install_deps.sh

say "building, and making the corpus beside it"
python3 scripts/build_corpus.py --output data &
corpus=$!
cmake --preset release >/dev/null
cmake --build --preset release --target train_thinker chat
wait $corpus

bin=build/release/bin
for stage in pretrain sft; do
  say "training: $stage"
  # A run that was interrupted goes on where it stopped; a finished one starts anew.
  resume=--resume
  [ ! -e "out/quickstart/$stage/model" ] || rm -rf "out/quickstart/$stage"
  "$bin/train_thinker" "trainers/recipes/quickstart_$stage.yaml" $resume
done

say "five questions"
python3 scripts/ask.py data/eval.jsonl --model out/quickstart/sft/model --chat "$bin/chat"

python3 scripts/plot_loss.py out/quickstart/sft/metrics.jsonl out/quickstart/loss.svg --title "quickstart: fine-tuning loss"
say "done"
echo "loss curve    out/quickstart/loss.svg"
echo "talk to it    $bin/chat --model out/quickstart/sft/model"
