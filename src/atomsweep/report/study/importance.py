"""Which parameters make a trial good, as Optuna weighs them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from atomsweep.report.study.trials import COMPLETE
from atomsweep.tracking import schema

FEW = 4  # complete trials under which nothing is said of importances
ENOUGH = 20  # under which importances are called a hint
SHARE = 0.8  # of the trials must have reached a step at which they are compared


def importances(study: Mapping[str, Any]) -> tuple[pd.DataFrame, str, int]:
    """Share of each key in what makes a trial good (PED-ANOVA), of which values, of how many.

    Where trials were pruned, few are complete, and these are the good ones: trials are compared at
    the last step that most of them reached.

    Source: Watanabe et al., PED-ANOVA, arXiv:2304.10255, as Optuna computes it.
    """
    empty = pd.DataFrame({"key": pd.Series(dtype=str), "importance": pd.Series(dtype=float)})
    objective = next(iter(study["objectives"]))
    ended_trials = [t for t in study["trials"] if t["state"] in (COMPLETE, schema.PRUNED)]
    trained = [t for t in ended_trials if t["values"] or t["intermediate"]]
    values = {t["number"]: t["values"][0] for t in trained if t["values"]}
    told = f"{objective} of complete trials"
    if len(values) < len(trained):
        steps = {int(step) for t in trained for step in t["intermediate"]}
        reached = {s: [t for t in trained if str(s) in t["intermediate"]] for s in steps}
        common = [s for s in steps if len(reached[s]) >= SHARE * len(trained)]
        if common:
            last = max(common)
            values = {t["number"]: t["intermediate"][str(last)] for t in reached[last]}
            told = f"{objective} at step {last}"
    if len(values) < FEW or len(set(values.values())) < 2:
        return empty, f"{len(values)} trials are too few to weigh parameters", len(values)
    found = _weigh(study, values)
    df = pd.DataFrame({"key": list(found), "importance": list(found.values())})
    hint = ": too few to rely on, another study may order them otherwise"
    told = f"{told}, over {len(values)} trials{hint if len(values) < ENOUGH else ''}"
    return df, told, len(values)


def _weigh(study: Mapping[str, Any], values: Mapping[int, float]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    memory = optuna.create_study(direction=next(iter(study["objectives"].values())))
    space = {key: _distribution(about) for key, about in study["space"].items()}
    for trial in study["trials"]:
        if trial["number"] in values and set(trial["params"]) == set(space):
            memory.add_trial(
                optuna.trial.create_trial(
                    params=trial["params"],
                    distributions=space,
                    value=values[trial["number"]],
                )
            )
    return dict(optuna.importance.get_param_importances(memory))


def _distribution(about: Mapping[str, Any]) -> Any:
    from optuna import distributions

    if about.get("choices") is not None:
        return distributions.CategoricalDistribution(about["choices"])
    ends = [about[key] for key in ("low", "high", "step") if about.get(key) is not None]
    log = bool(about.get("log"))
    if all(isinstance(end, int) for end in ends):
        step = about.get("step") or 1
        high = about["low"] + (about["high"] - about["low"]) // step * step
        return distributions.IntDistribution(about["low"], high, log, step)
    return distributions.FloatDistribution(about["low"], about["high"], log, about.get("step"))
