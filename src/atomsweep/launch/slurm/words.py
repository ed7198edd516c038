"""What commands of SLURM say when they fail, in sentences that tell what to do."""

import re

AWAY = "the SLURM controller does not answer"
_SAID: tuple[tuple[str, str], ...] = (
    (
        r"Socket timed out|Unable to contact slurm controller|Connection (refused|timed out)|"
        r"Zero Bytes|slurm_load_\w+ error: Unable|Unable to establish|No route to host|"
        r"communication connection failure|Transport endpoint|Resource temporarily unavailable",
        f"{AWAY}; jobs that are there go on, so wait a minute and type the same command again",
    ),
    (
        r"Invalid job id",
        "SLURM knows no such job any more; `atomsweep status` shows what became of its cell",
    ),
    (
        r"invalid partition|Invalid partition name",
        "the cluster has no such partition; `sinfo` lists them, set cluster.partition",
    ),
    (
        r"Invalid account|account/partition",
        "the account may not be used there; `sacctmgr show assoc user=$USER` lists yours, set "
        "cluster.account and cluster.partition",
    ),
    (
        r"Invalid qos|QOS specification",
        "there is no such quality of service for you; set cluster.qos",
    ),
    (
        r"QOSMax|AssocMax|AssocGrp|QOSGrp|violates accounting/QOS|MaxSubmit|job submit limit",
        "a limit of your account or quality of service is reached; wait until jobs have ended, ask "
        "for less (cluster.time_min, cluster.gpus), or launch fewer cells",
    ),
    (
        r"Requested time limit is invalid",
        "the partition lets no job run so long; lower cluster.time_min, cells are requeued and "
        "go on",
    ),
    (
        r"node configuration is not available|Node count specification|More processors requested|"
        r"Memory specification",
        "no node has what a cell asks for; lower cluster.cpus, cluster.mem_gb, cluster.gpus or "
        "cluster.nodes, or name another cluster.partition",
    ),
    (
        r"generic resource|Invalid gres|gres",
        "no node has such a GPU; `sinfo -o '%P %G'` lists them, set cluster.gres or cluster.gpus",
    ),
    (
        r"[Ii]nvalid feature|constraint",
        "no node has this feature; `sinfo -o '%P %f'` lists them, set cluster.constraint",
    ),
    (
        r"[Rr]eservation",
        "there is no such reservation for you; set or leave out cluster.sbatch.reservation",
    ),
    (
        r"Access/permission denied|Permission denied|Invalid user",
        "SLURM does not let you do this; ask who runs the cluster",
    ),
    (
        r"[Uu]nrecognized option|[Ii]nvalid option|unknown option",
        "this cluster's SLURM does not know an option of cluster.sbatch; leave it out",
    ),
)


def sentence(command: str, output: str) -> str:
    """What a failed command means, what it said itself, and what to do.

    Args:
        command: its name.
        output: what it wrote, of one line or many.
    """
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    named = [line for line in lines if "error" in line.lower()] or lines
    said = re.sub(rf"^{re.escape(command)}: (error: )?", "", named[-1]) if named else "no message"
    for pattern, meaning in _SAID:
        if re.search(pattern, output):
            return f"{command} failed ({said[:200]}): {meaning}"
    return f"{command} failed: {said[:200]}; what is queued stays there, see docs/slurm.md"
