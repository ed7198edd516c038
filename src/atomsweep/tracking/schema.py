"""Names of what a run leaves behind: files, states, metrics, tags. No logic, no imports.

A run directory is `<root>/<readable>-<identity>/` and is the truth; MLflow, ledger and tables are
views of it. Lines of the journal are flat JSON objects, one per logged step:

    {"step": 200, "device_seconds": 12.3, "eval_seconds": 1.9, "time": 1.7e9, "train/loss": 0.05}
    {"step": 200, "device_seconds": 12.3, "eval_seconds": 2.4, "time": 1.7e9, "val_id/loss": 0.1}

`device_seconds` is training time × devices up to that step, over all requeues; evaluation is
counted apart in `eval_seconds` and never in `device_seconds`.
"""

SCHEMA_VERSION = 1

# Files of a run directory
CONFIG = "config.yaml"  # the resolved config
RUN = "run.json"  # identity, its version and science, choices, sweep, command; written once
STATUS = "status.json"  # state, progress, heartbeat; replaced atomically
JOURNAL = "metrics.jsonl"  # append-only metrics
SEGMENTS = "segments.jsonl"  # one line per process that worked on the run
RESULT = "result.json"  # final metrics of the chosen checkpoint; exists only when finished
ENVIRONMENT = "environment.json"  # versions, device, host, commit
DIFF = "git.diff"  # uncommitted changes, when there are any
LOG = "log.txt"
JOBS = "jobs.jsonl"  # submissions to SLURM: job id, time, snapshot of the code
STOP = "stop.json"  # written by a study: why its trial is to end at the next step
LOCK = "lock"  # held by the process that trains
CHECKPOINTS = "checkpoints"  # last.pt, best.pt
EVALUATIONS = "evaluations"  # <kind>.json: what was evaluated after the training
WANTED = "evaluations.json"  # kind -> settings of the evaluations that sweeps asked for
PREDICTIONS = "predictions"  # <split>.npz: a sample of structures with what was predicted
EARLIER = "earlier"  # what trainings left that were made again, in <n>/
COMPILED = "_compiled"  # <root>/_compiled: kernels of compiled runs, for those to come
PLANS = "_sweeps"  # <root>/_sweeps/<sweep>.json: the plan of a sweep
OPTIONS = "conf"  # in it: config groups that are made from runs, e.g. the best of a study
STUDY = "study"  # of a plan: what a study wants and its trials; TRIAL of each of its cells
CLAIMS = "claims"  # of a plan: how those of its sweep file stand, and why some are open
TRIAL = "trial"

# States. RUNNING with no process behind it is INTERRUPTED; a cell without a directory is MISSING.
MISSING = "missing"
QUEUED = "queued"
RUNNING = "running"
INTERRUPTED = "interrupted"
FAILED = "failed"
PRUNED = "pruned"  # stopped by a study; goes on where a sweep or run wants it whole
FINISHED = "finished"
STALE = "stale"  # finished with other code than the present; see `state.py`
FURTHEST = (FINISHED, STALE, RUNNING, INTERRUPTED, PRUNED, FAILED, QUEUED)  # best first

# Journal fields
STEP = "step"
DEVICE_SECONDS = "device_seconds"
EVAL_SECONDS = "eval_seconds"
TIME = "time"  # wall clock at which the line was written, s since 1970

# Splits of an OC20-like data set; the average over the four is `val_avg`
TRAIN = "train"
VAL_SPLITS = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")
VAL_AVERAGE = "val_avg"
FRAME_KINDS = ("relaxation", "rattled")  # of mini_oc, told apart: `val_id_rattled`

# Metrics, written `<split>/<metric>`, e.g. `val_ood_both/forces_mae`
FORCES_MAE = "forces_mae"  # eV/Å, mean over free atoms and components
FORCES_X_MAE = "forces_x_mae"
FORCES_Y_MAE = "forces_y_mae"
FORCES_Z_MAE = "forces_z_mae"
FORCES_COS = "forces_cos"  # cosine similarity, mean over free atoms
FORCES_MAGNITUDE = "forces_magnitude"  # eV/Å, mean error of the norm
ENERGY_MAE = "energy_mae"  # eV, mean over structures
ENERGY_PER_ATOM_MAE = "energy_per_atom_mae"  # meV/atom, mean over structures
EWT = "ewt"  # share of structures with energy within 0.02 eV
NORMALISED_L1 = "normalised_l1"  # in units of labels' spread: energy's L1, plus that of forces
EFWT = "efwt"  # share of structures with energy within 0.02 eV and all forces within 0.03 eV/Å
LOSS = "loss"
METRICS = (
    FORCES_MAE,
    FORCES_X_MAE,
    FORCES_Y_MAE,
    FORCES_Z_MAE,
    FORCES_COS,
    FORCES_MAGNITUDE,
    ENERGY_MAE,
    ENERGY_PER_ATOM_MAE,
    EWT,
    NORMALISED_L1,
    EFWT,
    LOSS,
)  # of tasks: what a sweep file can name; a task with another one adds it here
OF_RESULT = ("parameters", "device_seconds", "eval_seconds")  # beside the metrics
OF_RUN = {  # how large it is and what it took, `run/<name>`: neither good nor bad
    "run": (
        "parameters",
        "hidden_channels",
        "num_layers",
        "ranks",
        "device_hours",
        "structures_per_s_per_rank",
    )
}

# Metrics of evaluations, `<kind>/<name>`, and of those of each split `<kind>/<split>/<name>`
EVALUATED = {
    "rotation": ("forces_std", "forces_std_norm", "structures", "free_atoms"),
    "cost": (
        "structures_per_second",
        "device_hours_per_million",
        "atoms_per_second",
        "batch_size",
        "seconds_per_batch",
        "peak_memory_gib",
    ),
    "relax": ("seconds_per_system",),
}
EVALUATED_BY_SPLIT = {
    "relax": (
        "adwt",
        "afbt",
        "fbt",
        ENERGY_MAE,
        EWT,
        "distance",
        "converged",
        "failed",
        "steps",
        "systems",
        "seconds",
    ),
}
STRUCTURES_PER_S = "structures_per_s"  # of training, all devices together
STRUCTURES_PER_S_RANK = "structures_per_s_per_rank"  # of each of them
EPOCH = "epoch"  # passes over the training split that are over; with it, rates over the last:
EPOCH_STRUCTURES_PER_S = "epoch_structures_per_s"  # all ranks together; + OF_RANK: of one
EPOCH_ATOMS_PER_S = "epoch_atoms_per_s"
EPOCH_EDGES_PER_S = "epoch_edges_per_s"
EPOCH_WAIT = "epoch_wait"  # + OF_RANK: share of its time in which it waited for messages
EPOCH_SLOWEST = "epoch_slowest_rank"  # speed without waiting, over that of the fastest
OF_RANK = "_rank{}"
RATES = (EPOCH_STRUCTURES_PER_S, EPOCH_ATOMS_PER_S, EPOCH_EDGES_PER_S)  # on `train` alone

# MLflow tags of a run. Numbers in tags are written so that they read back exactly.
TAG_IDENTITY = "identity"
TAG_SWEEP = "sweep"  # the sweep that made the run: the one of its parent
TAG_MEMBER = "sweep."  # + sweep: one for each sweep whose plan has the run as a cell
TAG_TRIAL = "trial."  # + study: number of the trial
TAG_COMMIT = "commit"
TAG_CHOICE = "choice."  # + group: choice.basis = sph
TAG_KIND = "kind"  # "run", or "sweep" for a parent
TAG_NAME = "name"  # of the run directory
TAG_UID = "uid"  # of the run directory, wherever it is moved
TAG_STATE = "state"
TAG_SEED = "seed"
TAG_DATA = "data"  # name of the data set
TAG_FINGERPRINT = "data_fingerprint"
TAG_DEVICE = "device"
TAG_HOSTS = "hosts"  # of all segments, separated by commas
TAG_SEGMENTS = "segments"  # their number
TAG_ALLOCATED = "allocated_seconds"
TAG_MESSAGE = "message"  # of a failed or interrupted run
TAG_DOCUMENT = "document."  # + run | status | result | environment | plan: the JSON file itself
TAG_MIRRORED = "mirrored_step"  # last step of the journal that MLflow holds
TAG_MIRRORED_LINES = "mirrored_lines"
TAG_MIRRORED_DIGEST = "mirrored_digest"  # of those lines
TAG_MIRRORED_FILES = "mirrored_files"
TAG_ROOT = "mirror."  # + a root, of the experiment: the pass that its note was written with

# MLflow metrics of the result: final/val_id/forces_mae
FINAL = "final/"


def part_name(split: str, kind: str) -> str:
    """Name of a kind of frames of a split, e.g. `val_id_rattled`; of the split itself without."""
    return f"{split}_{kind}" if kind else split


def whole_of(part: str) -> str:
    """The split that a part is of: `val_id` of `val_id_rattled`."""
    split, _, kind = part.rpartition("_")
    return split if split and kind in FRAME_KINDS else part


def metric_name(split: str, metric: str) -> str:
    """Name of a metric on a split, e.g. `val_id/forces_mae`."""
    return f"{split}/{metric}"
