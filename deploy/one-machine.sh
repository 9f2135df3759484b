#!/bin/bash
# All parts of Dagster in one container: the daemon looks up the processes of runs, and they share SQLite files. If one part
# ends, all do, and the container is started again.
# Without `monitor`, bash starts what is in the background with SIGINT ignored, and Dagster does not end when it is told to.
set -o errexit -o nounset -o monitor
# Creates the instance if there is none: webserver and daemon, started together, would both create it, and corrupt it.
dagster instance info >/dev/null
trap 'kill $(jobs -p); wait' EXIT
trap 'exit 143' TERM INT
dagster code-server start --host 127.0.0.1 --port 4266 --module-name dagster_essentials.definitions --location-name dagster_essentials &
# Without a code server, the daemon would find no schedules, and let queued runs wait.
until dagster api grpc-health-check --port 4266 >/dev/null 2>&1; do kill -0 $!; sleep 1; done
dagster-daemon run --workspace deploy/workspace.yaml &
dagster-webserver --host 0.0.0.0 --port 3000 --workspace deploy/workspace.yaml &
# A daemon that hangs.
while sleep 300 && dagster-daemon liveness-check >/dev/null; do :; done &
wait -n || true
echo "A part has ended; stopping the others." >&2
exit 1
