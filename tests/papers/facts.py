"""What a composed cell says of its training, in the words that papers have for it."""


def facts(cell):
    """Fact → value, of what is there: model, data, optimiser, schedule, budget, loss, noise."""
    config, choices = cell.config, cell.choices
    found = {name: choices[name] for name in ("model", "data", "task", "augmentation")}
    if choices["model"] == "median":  # nothing is trained
        return found
    return {
        **found,
        **_model(config["model"], choices),
        **_recipe(config),
        **_loss(config["task"], choices),
        **_noise(config["dens"]),
    }


def _model(model, choices):
    keys = {
        "hidden_channels": "hidden",
        "num_layers": "layers",
        "attention": "attention",
        "layer_norm": "layer_norm",
        "init": "init",
        "grid_resolution": "grid",
        "cutoff": "cutoff",
        "max_neighbors": "neighbors",
    }
    found = {name: model[key] for key, name in keys.items() if key in model}
    if "basis" in model:
        found |= {"basis": choices["basis"], "act": choices["act"]}
        found["ablation"] = choices["ablation"]
    return found


def _recipe(config):
    optim, engine = config["optim"], config["engine"]
    schedule, optimizer = optim["schedule"], optim["optimizer"]
    budget = "steps" if engine["steps"] is not None else "epochs"
    length = engine[budget]
    found = {
        "optimizer": optimizer["_target_"].rpartition(".")[2],
        "lr": optimizer["lr"],
        "weight_decay": optimizer.get("weight_decay", 0.0),
        "batch": optim["batch_size"],
        "accumulate": optim["accumulate"],
        "clip": optim["clip_norm"],
        "ema": optim["ema_decay"],
        "precision": engine["precision"],
        "schedule": schedule["_target_"].rpartition(".")[2],
        budget: length,
    }
    if found["schedule"] == "Cosine":
        found["warmup_epochs"] = schedule["warmup"] * length
        found["warmup_from"] = schedule["warmup_factor"] * found["lr"]
        found["lowest_lr"] = schedule["min_factor"] * found["lr"]
    elif found["schedule"] == "Milestones":
        found["drops_at"] = [share * length for share in schedule["milestones"]]
        found["drop"] = schedule["gamma"]
        found["warmup"] = schedule.get("warmup", 0.0) * length
    else:
        found["gamma"] = schedule["gamma"]
    return found


def _loss(task, choices):
    if choices["task"] == "s2f":
        return {"fixed_weight": task["fixed_weight"]}
    normalizer = task["normalizer"]
    found = {"energy_mean": normalizer["energy_mean"], "energy_std": normalizer["energy_std"]}
    if choices["task"] == "is2re":
        return found
    return {
        **found,
        "forces_std": normalizer["forces_std"],
        "lambda_energy": task["energy_coefficient"],
        "lambda_forces": task["forces_coefficient"],
        "energy_loss": task["energy_loss"],
        "forces_loss": task["forces_loss"],
        "free_atoms_only": task["free_atoms_only"],
    }


def _noise(dens):
    if dens is None:
        return {"dens": False}
    return {
        "dens": True,
        "prob": dens["prob"],
        "ratio": dens["ratio"],
        "sigma": dens["sigma_high"],
        "sigma_low": dens["sigma_low"],
        "scales": dens["num_sigmas"],
        "lambda_dens": dens["coefficient"],
        "decay": dens["decay"],
        "coin": dens["coin"],
        "reduction": dens["reduction"],
        "encode_forces": dens["encode_forces"],
        "encode_fixed": dens["encode_fixed"],
        "corrupted_energy": dens["corrupted_energy"],
        "sigma_encoding": dens["sigma_encoding"],
        "noise_norm": dens["noise_norm"],
        "noise_loss": dens["noise_loss"],
        "dynamics": dens["dynamics"],
    }
