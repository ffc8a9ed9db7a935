#!/usr/bin/env bash
# A tracking server as a company has it, on this machine alone: MLflow with users, PostgreSQL, an S3 API, nginx in front.
#
#   deploy/start.sh FOLDER [nginx's client_max_body_size: 1m, as it is by default, or 0 for no limit]
#
# Needs Debian's packages postgresql and nginx-light, and root (PostgreSQL runs as its own user). FOLDER gets everything:
# a Python environment of the server's, the database, the bucket, logs. Prints what a client sets. Stop: deploy/stop.sh FOLDER
set -euo pipefail
FOLDER=$(realpath -m "$1"); cd /  # PostgreSQL's user may not be allowed to be where we are
LIMIT=${2:-1m}
PORT=${PORT:-5580}; DB=$((PORT + 1)); S3=$((PORT + 2)); MLFLOW=$((PORT + 3))
export MLFLOW_AUTH_ADMIN_PASSWORD=${MLFLOW_AUTH_ADMIN_PASSWORD:-correct-horse-battery} MLFLOW_DISABLE_TELEMETRY=true
export AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing AWS_DEFAULT_REGION=us-east-1
export MLFLOW_S3_ENDPOINT_URL=http://127.0.0.1:$S3 MLFLOW_FLASK_SERVER_SECRET_KEY=only-for-trials
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
mkdir -p "$FOLDER/log"
PY=$FOLDER/venv/bin/python
if [[ ! -x $FOLDER/venv/bin/moto_server ]]; then
  python3 -m venv "$FOLDER/venv"
  "$PY" -m pip install --quiet --quiet 'mlflow[auth]>=3.16,<4' psycopg2-binary boto3 'moto[server]'
fi
wait_for() { for _ in $(seq 200); do curl -s -o /dev/null "$1" && return; sleep 0.3; done; echo "$1 does not answer" >&2; exit 1; }
launch() { local name=$1; shift; setsid "$@" >> "$FOLDER/log/$name.log" 2>&1 & echo $! > "$FOLDER/$name.pid"; }

BIN=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb | tail -1)")
if [[ ! -d $FOLDER/db ]]; then
  install -d -o postgres "$FOLDER/db"
  runuser -u postgres -- "$BIN/initdb" -D "$FOLDER/db" --auth=trust > "$FOLDER/log/initdb.log"
fi
chmod a+rx "$FOLDER"
runuser -u postgres -- "$BIN/pg_ctl" -D "$FOLDER/db" -o "-p $DB -k /tmp -c listen_addresses=127.0.0.1" -w start > "$FOLDER/log/db.log"
runuser -u postgres -- "$BIN/createdb" -h 127.0.0.1 -p $DB mlflow 2> /dev/null || true

[[ -f $FOLDER/s3.pid ]] || launch s3 "$FOLDER/venv/bin/moto_server" -H 127.0.0.1 -p $S3
wait_for "http://127.0.0.1:$S3/"
"$PY" -c "import boto3, os; boto3.client('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL']).create_bucket(Bucket='mlflow')"

cat > "$FOLDER/auth.ini" <<INI
[mlflow]
default_permission = READ
database_uri = sqlite:///$FOLDER/auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
export MLFLOW_AUTH_CONFIG_PATH=$FOLDER/auth.ini
launch mlflow "$PY" -m mlflow server --host 127.0.0.1 --port $MLFLOW --workers 1 --app-name basic-auth \
  --backend-store-uri "postgresql+psycopg2://postgres@127.0.0.1:$DB/mlflow" --artifacts-destination s3://mlflow/artifacts
wait_for "http://127.0.0.1:$MLFLOW/health"

cat > "$FOLDER/nginx.conf" <<CONF
pid $FOLDER/nginx.pid; error_log $FOLDER/log/nginx.log; worker_processes 1;
events {}
http {
  access_log off; client_body_temp_path $FOLDER/body; proxy_temp_path $FOLDER/proxy;
  fastcgi_temp_path $FOLDER/x1; uwsgi_temp_path $FOLDER/x2; scgi_temp_path $FOLDER/x3;
  client_max_body_size $LIMIT;
  server {
    listen 127.0.0.1:$PORT;
    location / { proxy_pass http://127.0.0.1:$MLFLOW; proxy_set_header Host 127.0.0.1:$MLFLOW; proxy_read_timeout 300; }
  }
}
CONF
nginx -c "$FOLDER/nginx.conf"
wait_for "http://127.0.0.1:$PORT/health"
echo "export MLFLOW_TRACKING_URI=http://127.0.0.1:$PORT MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=$MLFLOW_AUTH_ADMIN_PASSWORD"
