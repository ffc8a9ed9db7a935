#!/usr/bin/env bash
# The whole way against the server of deploy/start.sh: limit of uploads, wrong password, restart in the middle, resume,
# compare, register, predict. Prints a line for each, and exits with 1 where one is wrong.
#
#   deploy/walk.sh [FOLDER]
set -uo pipefail
HERE=$(realpath "$(dirname "$0")"); FOLDER=$(realpath -m "${1:-$(mktemp -d)}"); FMTL=${FMTL:-$HERE/../.venv/bin/fmtl}
WORK=$(mktemp -d); cd "$WORK"; BAD=0; unset MLFLOW_RUN_ID MLFLOW_EXPERIMENT_ID MLFLOW_EXPERIMENT_NAME
expect() { local what=$1; shift; if "$@" > /dev/null 2>&1; then echo "right: $what"; else echo "WRONG: $what"; BAD=1; fi; }
SMALL="--data data --weights none --backbone resnet18 --px 32 --batch-size 32 --gallery false --extra-plots false --precision fp32 --channels-last false"
MLFLOW_TRACKING_URI=sqlite:///local.db "$FMTL" prepare --table sample --px 32 --limit 150 --out data > prepare.log 2>&1 || { tail -3 prepare.log; exit 1; }

CLIENT=$("$HERE/start.sh" "$FOLDER" 1m) || exit 1
eval "$CLIENT"
"$FMTL" train $SMALL --epochs 1 > limit.log 2>&1; expect "nginx's own limit is told before training, exit 4" test $? = 4
expect "and names the setting" grep -q client_max_body_size limit.log
MLFLOW_TRACKING_PASSWORD=wrong "$FMTL" train $SMALL --epochs 1 > password.log 2>&1; expect "a wrong password: exit 4" test $? = 4
expect "and names the variable, not the password" sh -c "grep -q MLFLOW_TRACKING_PASSWORD password.log && ! grep -q wrong password.log"
"$HERE/stop.sh" "$FOLDER" keep-s3; sleep 1; "$HERE/start.sh" "$FOLDER" 0 > /dev/null

"$FMTL" train $SMALL --epochs 12 > train.log 2>&1 & TRAINING=$!
until grep -qs "^epoch 3/" train.log; do sleep 0.2; done
"$HERE/stop.sh" "$FOLDER" keep-s3; sleep 3; "$HERE/start.sh" "$FOLDER" 0 > /dev/null
wait $TRAINING; expect "a training lives through a restart of the server" test $? = 0
"$FMTL" sync > sync.log 2>&1; expect "all of it is delivered" test $? = 0

"$FMTL" train $SMALL --epochs 12 --seed 1 > cut.log 2>&1 & TRAINING=$!
until grep -qs "^epoch 3/" cut.log; do sleep 0.2; done
kill -TERM $TRAINING; wait $TRAINING; expect "a training that is terminated: exit 143" test $? = 143
RUN=$(ls runs | tail -1)
rm -rf "kept"; mv "runs/$RUN" kept   # as on another machine
ID=$(grep -o '"run_id": "[0-9a-f]*"' kept/record/delivered-*.json | head -1 | grep -o '[0-9a-f]\{32\}')
"$FMTL" train --resume "$ID" > resume.log 2>&1; expect "it is resumed from what the server has" test $? = 0
"$FMTL" compare > compare.log 2>&1; expect "compare" test $? = 0
expect "with two ranked runs" grep -q resnet18-tuned leaderboard/leaderboard.csv
"$FMTL" register > register.log 2>&1; expect "register" test $? = 0
"$FMTL" predict --model models:/fashion-attributes@champion --images data-catalogue/images > predict.log 2>&1; expect "predict" test $? = 0
"$FMTL" clean --run all > clean.log 2>&1; expect "clean removes what the server has, byte by byte" sh -c '! ls runs/*/config.yaml'
"$HERE/stop.sh" "$FOLDER"
[[ $BAD = 0 ]] && rm -rf "$WORK" || echo "logs: $WORK"
exit $BAD
