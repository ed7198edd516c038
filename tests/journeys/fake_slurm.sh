#!/bin/bash
# The commands of SLURM, as far as a launch asks them; its name decides which. Jobs wait and never begin: what
# becomes of one is written by the test. In $FAKE_SLURM: queue (id|state|reason|name), accounts (id|state), last.sh
# (what sbatch was given), calls, and limit, where it is there: no more jobs are taken.
set -eu
cd "$FAKE_SLURM"
touch queue accounts calls
me=${0##*/}
echo "$me" >>calls
refuse() {
    echo "sbatch: error: $1" >&2
    exit 1
}
option() { sed -n "s/^#SBATCH --$1=//p" last.sh | tr -d "\"'"; }
case $me in
sbatch)
    cp "${!#}" last.sh
    case $(option partition) in '' | cpu | gpu) ;; *) refuse "Batch job submission failed: Invalid partition name specified" ;; esac
    case $(option account) in '' | lab) ;; *) refuse "Batch job submission failed: Invalid account or account/partition combination specified" ;; esac
    [ ! -e limit ] || refuse "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    id=$(($(grep -c '^sbatch$' calls) + 4000))
    last=$(option array | sed 's/%.*//; s/.*-//')
    if [ -n "$last" ]; then
        for task in $(seq 0 "$last"); do echo "${id}_$task|PENDING|Priority|$(option job-name)" >>queue; done
    else
        echo "$id|PENDING|Priority|$(option job-name)" >>queue
    fi
    echo "Submitted batch job $id"
    ;;
squeue) cat queue ;;
sacct) cat accounts ;;
scancel)
    shift # --quiet
    for id in "$@"; do
        sed -i "/^$id|/d" queue
        echo "$id|CANCELLED by 1000" >>accounts
    done
    ;;
scontrol) echo "MaxArraySize = 1001" ;;
*) refuse "what is $me?" ;;
esac
