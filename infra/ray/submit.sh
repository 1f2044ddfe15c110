#!/usr/bin/env bash
# Run a configuration on a Ray cluster, wait for its end, end with its exit code:
#     infra/ray/submit.sh RUN.yaml s3://BUCKET/PREFIX [OPTION...]
# RAY_API_SERVER_ADDRESS is that of the cluster's dashboard (http://127.0.0.1:8265, see
# `ray dashboard`). The folder of RUN.yaml goes to the cluster, with whatever else is in it.
set -euo pipefail
if [ "$#" -lt 2 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
config=$1 run_dir=$2
shift 2
id="clip-$(date --utc +%Y%m%d-%H%M%S)-$$"

# It ends with 1 whatever the job ended with, and the job goes on if it is interrupted.
ray job submit --submission-id "$id" --working-dir "$(dirname "$config")" -- \
    wit-build "$(basename "$config")" --run-dir "$run_dir" --set ray.address=auto "$@" && exit 0

status=$(ray job status "$id") || exit 70
echo "$status" >&2
code=$(sed -n 's/.*entrypoint command failed with exit code \([0-9]*\).*/\1/p' <<< "$status" | head -1)
exit "${code:-70}"
