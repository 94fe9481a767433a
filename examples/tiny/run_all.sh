#!/usr/bin/env bash
# Trains the tiny world from scratch: image tokenizer, data, the five stages before UniGRPO, and a table of results.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'TEXT'
bash examples/tiny/run_all.sh

Trains the tiny image tokenizer, writes the tiny world's data, trains stages 1.1, 1.2, 1.3, 2.1 and 2.2 (in three parts)
one after the other, each as a Ray job, and evaluates every stage on held-out prompts. All output is written to
runs/tiny_world, which must not exist. This takes about an hour on two CPU cores, including the installation. The last
model is runs/tiny_world/stage2_2_sums/policy.
TEXT
    exit 0
fi

# shellcheck source=launch/install.sh
source launch/install.sh
# shellcheck source=launch/ray_head.sh
source launch/ray_head.sh

world=runs/tiny_world
[ ! -e "$world" ] || fail "$world exists already; move it away, or remove it"
say "training the image tokenizer"
"$PYTHON" examples/tiny/make_image_tokenizer.py --output "$world/image_tokenizer"
say "reconstructions: $world/image_tokenizer/reconstructions.png"
"$PYTHON" examples/tiny/make_world.py --output "$world" --image_tokenizer "$world/image_tokenizer"
start_or_find_ray
ranks=()
if [ -n "${ray_pid:-}" ] && ! has_gpu; then
    ranks=(--actor.num_gpus_per_node 2) # two processes use two CPU cores better than two threads of one do
fi
for stage in 1_1 1_2 1_3; do
    say "stage ${stage/_/.}"
    submit_job pretrain --config "launch/configs/tiny/stage$stage.yaml" "${ranks[@]}"
done
for stage in 2_1 2_2; do
    say "stage ${stage/_/.}"
    submit_job mixcot --config "launch/configs/tiny/stage$stage.yaml" "${ranks[@]}"
done
# Lower rates, and more weight on sums, whose losses are small beside those of images.
say "the end of stage 2.2"
submit_job mixcot --config launch/configs/tiny/stage2_2.yaml --run_dir "$world/stage2_2_end" \
    --init_from "$world/stage2_2" --train.num_steps 700 --actor.adam.lr 8.0e-4 --actor.min_lr_ratio 0.02 \
    --lm_chat.loss_coef 12.0 --t2i.loss_coef 2.0 "${ranks[@]}"
say "stage 2.2 once more, above all sums"
submit_job mixcot --config launch/configs/tiny/stage2_2.yaml --run_dir "$world/stage2_2_sums" \
    --init_from "$world/stage2_2_end" --train.num_steps 450 --actor.adam.lr 6.0e-4 --actor.min_lr_ratio 0.02 \
    --lm_chat.loss_coef 24.0 --lm_chat.batch_size 64 --mmu.batch_size 16 "${ranks[@]}"
say "measuring all stages on held-out prompts"
"$PYTHON" -m unigrpo evaluate --config launch/configs/tiny/unigrpo.yaml --output "$world/evaluation" \
    --models "$world/start" "$world"/stage{1_1,1_2,1_3,2_1,2_2,2_2_end,2_2_sums}/policy \
    --eval.dataset "$world/prompts/test.jsonl" --data.tasks '[text, mmu, t2i, r2i]'
"$PYTHON" examples/tiny/stage_table.py "$world/evaluation/results.json" --record
