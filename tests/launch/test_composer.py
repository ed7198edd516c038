"""Configs composed once for each set of choices are those that Hydra composes one by one."""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from atomsweep.build import UserError
from atomsweep.launch import compose as compose_module
from atomsweep.launch.choices import Choices
from atomsweep.launch.compose import Cells, cell_of
from atomsweep.launch.composer import LAUNCH, Composer, read_by
from atomsweep.launch.typed import vocabulary
from tests.contracts.compose import hydra_composed
from tests.contracts.params import first

CELLS = [
    ["seed=0", "optim.optimizer.lr=1e-3"],
    ["seed=1", "optim.optimizer.lr=1e-2", "+optim.optimizer.eps=1e-7"],
    ["basis=sine", "seed=1"],
    ["basis=sine", "seed=2", "model.hidden_channels=32"],
    ["experiment=forcenet", "optim.batch_size=16", "engine.steps=7"],
    ["model=gns", "size=small", "ablation=none", "optim.batch_size=${engine.steps}"],
    ["~optim.clip_norm", "seed=3"],
    ["tracking=none", "act=relu", "data=mini_oc_tiny", "data.name=x"],
    # values that interpolations read, or that stand where one stood
    ["metric=energy_mae", "seed=1"],
    ["metric=energy_mae", "engine.metric=val_id/forces_mae"],
    ["root=elsewhere", "seed=2"],
    ["size.column=1", "seed=2"],
    ["basis=sph", "basis.num_freqs=9", "seed=4"],
    ["model.num_layers=2", "size=small"],
    ["model.act=null", "seed=1"],
    ["optim=matsci", "engine.steps=null", "engine.epochs=3", "seed=1"],
    ["optim=dens_md17", "optim.schedule.warmup_factor=0.5", "seed=1"],
    ["data=rmd17", "optim=dens_md17", "data.molecule=benzene", "task=s2ef_md17"],
    ["data=oc20_2m", "data.root=there"],
    ["engine.steps=${seed}", "seed=12"],
    # values of every kind, and one key twice
    ["seed=1", "seed=2"],
    ["optim={batch_size: 3}", "optim.batch_size=4"],
    ["optim.batch_size=4", "optim={batch_size: 3}"],
    ["data.rattle_std=[0.1,0.3]", "seed=1"],
    ["data.name='a, b'", "optim.clip_norm=null", "engine.sharded=true", "optim.ema_decay=.5"],
    ["data.root='\\${x}'", "seed=1"],
    ["optim.optimizer.lr=inf", "engine.threads=1e1"],
    ["data=extxyz", "data.path=a.xyz", "seed=3"],
]


@pytest.fixture(scope="module")
def composed():
    """What was composed, and a composer of it."""
    asked, known = [], vocabulary()
    choices = Choices(known.loader())

    def compose(overrides):
        asked.append(overrides)
        return choices(overrides)

    return asked, Composer(compose, known.groups)


def by_hydra(overrides):
    cfg = hydra_composed(overrides)
    resolved = {
        str(key): OmegaConf.to_container(cfg[key], resolve=True)
        if OmegaConf.is_config(cfg[key])
        else cfg[key]
        for key in cfg
        if key not in LAUNCH
    }
    chosen = {key: v for key, v in cfg.hydra.runtime.choices.items() if "hydra/" not in key}
    return resolved, chosen


@pytest.mark.parametrize("overrides", first(8, CELLS), ids=" ".join)
def test_a_config_is_that_of_hydra(composed, overrides):
    _, composer = composed
    expected, chosen = by_hydra(overrides)
    for _ in range(2):
        config, choices = composer(overrides)
        assert repr(config) == repr(expected)  # kinds too: 1, 1.0 and true are others
        assert choices == chosen
        composer([o for o in overrides if not o.startswith("seed=")])


def test_values_that_no_interpolation_reads_are_set_without_resolving_again(composed, monkeypatch):
    _, composer = composed
    composer(["act=relu", "seed=0"])

    def refuse(*_, **__):
        raise AssertionError("resolved again")

    monkeypatch.setattr(OmegaConf, "to_container", refuse)
    found = [
        composer(["act=relu", f"seed={n}", f"optim.optimizer.lr={lr}"])[0]
        for n in range(3)
        for lr in (1e-3, 2e-3)
    ]
    assert [(c["seed"], c["optim"]["optimizer"]["lr"]) for c in found] == [
        (n, lr) for n in range(3) for lr in (1e-3, 2e-3)
    ]
    with pytest.raises(AssertionError, match="resolved again"):
        composer(["act=relu", "metric=energy_mae"])


@pytest.mark.parametrize(
    ("key", "text", "read"),
    [
        ("a.b", "${c.d}", {"c.d"}),
        ("a.b", "${.c}", {"a.c"}),
        ("a.b.c", "x/${..d}/y", {"a.d"}),
        ("a", "${size:5, 3}", {"size.column"}),
        ("a", "${case:${oc.select:d.m,none},{x:1},${b}}", {"d.m", "b"}),
        ("a", "${oc.env:HOME,x}", set()),
        ("a", "${mine:1}", None),
        ("a", "${a.${b}}", None),
        ("a", "${a[0]}", None),
        ("a", "${oc.select:.b,1}", None),
    ],
)
def test_keys_that_an_interpolation_reads(key, text, read):
    assert read_by(key, text) == read


def test_cells_of_the_same_choices_are_composed_once_and_their_data_looked_at_once(
    composed, monkeypatch
):
    asked, composer = composed
    before, looked = len(asked), []
    data_source = compose_module.data_source
    monkeypatch.setattr(
        compose_module, "data_source", lambda config: looked.append(1) or data_source(config)
    )
    make = Cells()
    cells = [
        make(*composer(words), words)
        for words in ([f"seed={n}", "data=mini_oc_tiny", "act=tanh"] for n in range(5))
    ]
    assert len(asked) == before + 1
    assert len(looked) == 1
    assert [cell.config["seed"] for cell in cells] == [0, 1, 2, 3, 4]
    assert len({cell.identity for cell in cells}) == 5
    assert all(cell.config["model"] is cells[0].config["model"] for cell in cells)
    config, _ = composer(["act=tanh", "data=mini_oc_tiny"])
    assert config["seed"] == 0


def test_what_a_cell_changes_in_its_config_is_in_no_other(composed, monkeypatch):
    _, composer = composed
    make, words = Cells(), ["model=forcenet_small", "data=mini_oc_tiny"]
    with_energy = make(*composer([*words, "task=s2ef"]), [*words, "task=s2ef"])
    without = make(*composer(words), words)
    devices = []
    for gpus in ([], ["0"], []):
        monkeypatch.setattr(compose_module, "visible_gpus", lambda found=gpus: found)
        cell = make(*composer([*words, "engine=ddp"]), [*words, "engine=ddp"])
        devices.append(cell.config["engine"]["device"])
    assert with_energy.config["model"]["energy_head"] is True
    assert without.config["model"]["energy_head"] is False
    assert devices == ["cpu", "cuda", "cpu"]
    assert composer(words)[0]["model"]["energy_head"] is False


def test_cells_made_together_are_those_made_alone(composed):
    _, composer = composed
    make = Cells()
    for words in (["seed=1"], ["seed=2", "optim.optimizer.lr=1.0"], ["seed=2"]):
        cfg = hydra_composed(words)
        alone = cell_of(cfg, cfg.hydra.runtime.choices, words)
        together = make(*composer(words), words)
        assert (together, repr(together.config)) == (alone, repr(alone.config))


def test_a_value_that_must_be_given_is_asked_for(composed):
    _, composer = composed
    for words in (["data=extxyz"], ["data=extxyz", "seed=1"]):
        with pytest.raises(UserError, match=r"data\.path must be given; type data\.path=<value>"):
            composer(words)


def test_a_key_that_nothing_has_is_refused_on_a_copy_too(composed):
    _, composer = composed
    with pytest.raises(HydraException, match=r"Could not override 'optim\.nothing'"):
        composer(["optim.nothing=1"])
    with pytest.raises(HydraException, match=r"Could not override 'model\.basis\.num_freqs'"):
        composer(["basis=sph", "model.basis.num_freqs=9"])  # it stands in another's place
