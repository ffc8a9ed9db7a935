#!/usr/bin/env bash
# Stops what deploy/start.sh FOLDER started.
#
#   deploy/stop.sh FOLDER [keep-s3]     the S3 API of a trial keeps its files in memory: without it a restart loses them
FOLDER=$(realpath "$1"); cd /
end() { [[ -f $FOLDER/$1.pid ]] && kill -TERM "$2$(cat "$FOLDER/$1.pid")" 2> /dev/null; rm -f "$FOLDER/$1.pid"; }
end nginx ""
end mlflow -
[[ ${2:-} = keep-s3 ]] || end s3 -
BIN=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb | tail -1)")
runuser -u postgres -- "$BIN/pg_ctl" -D "$FOLDER/db" -m fast stop > /dev/null
