"""Numbers of DeNS and of the Open MatSci ML Toolkit: each against a second transcription."""

import pytest

from atomsweep.report.read import published
from atomsweep.report.read.papers import Column
from atomsweep.report.tables import titles

MD17 = {  # energy / force of aspirin … uracil, as the paper's Tables 4 to 6 print them
    "table4": """
schnet 16.0/58.5 3.5/13.4 3.5/16.9 5.6/28.6 6.9/25.2 8.7/36.9 5.2/24.7 6.1/24.3
dimenet 8.8/21.6 3.4/8.1 2.8/10.0 4.5/16.6 5.3/9.3 5.8/16.2 4.4/9.4 5.0/13.1
painn 6.9/14.7 -/- 2.7/9.7 3.9/13.8 5.0/3.3 4.9/8.5 4.1/4.1 4.5/6.0
torchmd_net 5.3/11.0 2.5/8.5 2.3/4.7 3.3/7.3 3.7/2.6 4.0/5.6 3.2/2.9 4.1/4.1
nequip_l3 5.7/8.0 -/- 2.2/3.1 3.3/5.6 4.9/1.7 4.6/3.9 4.0/2.0 4.5/3.3
equiformer_l2 5.3/7.2 2.2/6.6 2.2/3.1 3.3/5.8 3.7/2.1 4.5/4.1 3.8/2.1 4.3/3.3
equiformer_l3 5.3/6.6 2.5/8.1 2.2/2.9 3.2/5.4 4.4/2.0 4.3/3.9 3.7/2.1 4.3/3.4
equiformer_l2_dens 5.1/5.7 2.3/6.1 2.2/2.6 3.2/4.4 3.7/1.7 4.3/3.9 3.5/1.9 4.2/3.3
equiformer_l2_dens_final 5.1/5.7 2.3/6.1 2.2/2.6 3.2/4.4 3.7/1.7 4.4/3.7 3.5/1.9 4.2/3.3
equiformer_l3_dens 5.0/5.2 2.3/6.1 2.2/2.4 3.2/4.1 3.7/1.6 4.2/3.2 3.4/1.8 4.1/2.9""",
    "table5": """
attention_layernorm 5.3/7.2 2.2/6.6 2.2/3.1 3.3/5.8 3.7/2.1 4.5/4.1 3.8/2.1 4.3/3.3
attention_layernorm_dens 5.1/5.7 2.3/6.1 2.2/2.6 3.2/4.4 3.7/1.7 4.3/3.9 3.5/1.9 4.2/3.3
one_of_two 5.2/7.7 2.4/6.2 2.3/3.9 3.3/6.2 3.8/2.2 4.1/4.7 3.3/2.4 4.2/4.4
one_of_two_dens 5.2/6.1 2.4/6.1 2.2/2.9 3.2/5.1 3.7/1.7 4.2/3.9 3.4/2.0 4.2/3.4
neither 5.3/9.3 2.4/9.2 2.3/4.5 3.4/8.2 3.7/2.4 4.2/5.5 3.3/2.9 4.2/4.8
neither_dens 5.2/7.3 2.4/8.1 2.2/3.4 3.4/6.7 3.7/1.9 4.2/4.4 3.4/2.2 4.2/3.8""",
    "table6": """
no_denoising 5.3/7.2 2.2/6.6 2.2/3.1 3.3/5.8 3.7/2.1 4.5/4.1 3.8/2.1 4.3/3.3
no_force_encoding 8.6/9.1 2.3/6.3 2.3/3.3 3.2/5.8 7.7/6.1 5.2/10.6 3.7/2.0 5.5/6.5
force_encoding 5.1/5.7 2.3/6.1 2.2/2.6 3.2/4.4 3.7/1.7 4.3/3.9 3.5/1.9 4.2/3.3""",
}
OTHERS = {  # row by row, as the tables print them
    "dens.table1a": """
19.10 284 18.41 271 17.85 265 19.11 276 18.48 263 17.96 255 19.31 273 18.66 263 18.06
255 19.43 273 18.66 261 18.06 256 19.52 274""",
    "dens.table1b": """
19.64 276 19.31 273 18.66 263 18.06 255 19.32 271 18.49 262 17.83 255 19.90 281 18.92
269 18.24 262""",
    "dens.table1c": """
19.64 277 19.02 262 18.40 260 19.31 273 18.66 263 18.06 255 19.25 275 18.56 263 17.94
258""",
    "dens.table1d": """
20.46 285 83 1398 19.78 280 83 2330 19.42 278 83 3495 20.61 290 51 1802 19.32 271 89
1501 18.49 262 89 2501 17.83 255 89 3752 19.07 279 52 1829""",
    "dens.table1e": "19.32 271 20.16 271 19.57 281 19.58 283 19.66 279",
    "dens.table2": """
7.5 239 22.1 230 21.0 3.2 252 20.0 241 19.0 348 228 17.8 328 237 17.2 321 2.9 243 17.1
228 15.6 323 7.1 232 16.3 228 15.5 315 1.8 227 15.0 219 14.2 309 1.8 221 14.2 216 13.4
308 1.8 222 14.0 214 13.3 293""",
    "dens.table3": """
39 545 1011 30 40 374 829 29.4 39.6 1329 1584 39 464 859 27 34 311 689 26.9 34.2 1200
1534 200 350 789 23.8 35.7 122 343 580 24.42 34.31 182.8 677.4 22.98 35.57 1084 1444 122
433 629 22.88 30.70 263.7 659.8 21.58 32.65 1119 1440 127 391 524 21.13 27.82 233.9
589.9 20.47 30.06 968 1273 127 391.6 533.0 20.66 27.11 236.4 590.7 20.04 29.31 951 1282""",
    "matsci.table1": """
.072 24 .063 2.84 .986 24 .108 4.86 1.5 24 1.32 59.6 .072 32 .404 18.2 1.2 40 1.36 61.3""",
    "matsci.table2": """
.238 .256 .239 .321 .271 .211 .233 .216 .314 .259 .153 .240 .217 .276 .235 .307 .333
.331 .388 .433 .252 .268 .274 .341 .378""",
}  # fmt: skip


@pytest.mark.parametrize("name", MD17)
def test_md17_tables_have_the_papers_numbers(name):
    df = published.numbers(f"dens.{name}")
    axis = df.columns[0]
    for line in MD17[name].split("\n")[1:]:
        key, *cells = line.split()
        rows = df[df[axis] == key]
        found = [
            f"{e:.1f}/{f:.1f}".replace("nan", "-")
            for e, f in zip(rows["energy"], rows["forces"], strict=True)
        ]
        assert found == cells
    assert len(df) == 8 * (len(MD17[name].split("\n")) - 1)


@pytest.mark.parametrize("reference", OTHERS)
def test_other_tables_have_the_papers_numbers(reference):
    values = [v for row in published.table(reference).rows for v in row.values if v is not None]
    assert values == [float(word) for word in OTHERS[reference].split()]


def test_every_table_of_both_papers_is_checked_here():
    here = {*OTHERS, *(f"dens.{name}" for name in MD17)}
    assert here == {r for r in published.references() if not r.startswith("forcenet.")}


def test_numbers_follow_from_one_another_as_the_texts_say():
    md17 = published.numbers("dens.table4")
    mean = md17.groupby("model")["forces"].mean().round(2)
    assert mean["equiformer_l2"] == 4.29
    assert mean["equiformer_l3"] == 4.30
    assert mean["equiformer_l2_dens"] == 3.70
    assert mean["equiformer_l3_dens"] == 3.41
    hours = published.numbers("dens.table1d").set_index(["model", "epochs", "dens"])["train"]
    saved = hours["equiformer_v2_83m", 30, "none"] / hours["equiformer_v2_83m", 12, "v1_multiscale"]
    assert round(saved, 2) == 2.33
    assert (md17.groupby("model")[["train", "parameters"]].nunique() <= 1).all(axis=None)
    cost = md17.groupby("model")[["train", "parameters"]].first().dropna()
    assert {k: tuple(v) for k, v in cost.iterrows()} == {
        "equiformer_l2": (17, 3.50),
        "equiformer_l3": (59, 5.50),
        "equiformer_l2_dens": (19, 4.00),
        "equiformer_l2_dens_final": (19, 4.00),
        "equiformer_l3_dens": (61, 6.35),
    }
    cost = published.numbers("matsci.table1")
    assert ((cost["total"] / cost["epoch"]).between(44.9, 45.3)).all()


def test_what_is_inferred_or_recovered_says_so():
    for name, axis in (("1a", "sigma_high"), ("1b", "prob"), ("1c", "coefficient")):
        table = published.table(f"dens.table{name}")
        assert all(row.marks == {axis: "inferred"} for row in table.rows)
        assert "labels-lost" in table.footnotes
    assert published.table("matsci.table2").provenance == "recovered"
    assert all(row.marks for row in published.table("matsci.table1").rows)


def test_settings_of_the_release_stand_beside_the_numbers_made_with_them():
    """`dens=oc20_all_md` and `dens=oc22` have one scale and r < 1: the final version, not v1."""
    for number in (2, 3):
        axis = published.table(f"dens.table{number}").axes[0]
        ours = {key for label, key in axis.stand_ins.items() if "DeNS" in label}
        assert ours == {"equiformer_v2_dens_final"}


def test_molecules_of_md17_have_the_names_of_their_files():
    for number in (4, 5, 6):
        axis = published.table(f"dens.table{number}").axes[1]
        assert axis.stand_ins == {"salicylic": "salicylic_acid", "benzene2017": "benzene"}


def test_normalised_numbers_stand_beside_the_normalised_metric_alone():
    table = published.table("matsci.table2")
    assert {c.metric for c in table.columns} == {"normalised_l1"}
    for unit, metric in (("normalised", "energy_mae"), ("meV", "normalised_l1")):
        with pytest.raises(ValueError, match="normalised"):
            Column(name="x", title="X", unit=unit, decimals=3, split="val_id", metric=metric)


def test_numbers_in_milli_electronvolts_are_converted_beside_ours():
    columns = {c.name: c for c in published.table("dens.table1d").columns}
    assert columns["forces"].to_ours * 20.46 == pytest.approx(0.02046)


def test_axes_of_several_papers_share_their_labels():
    assert titles.label("choice.model", "forcenet") == "ForceNet"
    assert titles.label("choice.model", "equiformer_v2_83m") == "EquiformerV2"


def test_runs_at_paper_scale_are_the_papers_rows_and_stand_in_for_nothing():
    """`equiformer_v2_83m` and `escn` are what Table 1 (d) trains; a small model is a stand-in."""
    common = {"choice.task": "s2ef_oc20", "choice.ablation": "none", "choice.model": "escn"}
    common |= {"config.engine.epochs": 20}
    assert published.matching(["choice.dens"], common) == "dens.table1d"
    model = published.table("dens.table1d").axes[0]
    assert {"equiformer_v2_83m", "escn"} <= set(model.labels)
    assert not {"equiformer_v2_83m", "escn"} & set(model.stand_ins)
    for name in ("1a", "1b", "1c", "1e"):
        setting = published.table(f"dens.table{name}").setting
        assert setting["choice.model"] == "equiformer_v2_83m"
    for reference in published.references():
        paper = published.paper(reference)
        assert paper.data_names, f"no data set of ours is that of {reference}"


@pytest.mark.parametrize(
    ("reference", "metric", "ours", "theirs"),
    [
        ("forcenet.table1", "device_hours", 31 * 24, 31),  # GPU-days
        ("forcenet.table1", "parameters", 11.3e6, 11.3),
        ("forcenet.table1", "num_layers", 5, 5),
        ("forcenet.table8", "seconds_per_system", 75.1 * 3600 / 100_000, 75.1),
        ("dens.table1d", "device_hours", 1501, 1501),  # GPU-hours
        ("dens.table4", "device_hours", 17, 17),
        ("dens.table2", "structures_per_s_per_rank", 1.8, 1.8),
    ],
)
def test_size_and_cost_stand_beside_ours_in_our_unit(reference, metric, ours, theirs):
    column = next(c for c in published.table(reference).columns if c.metric == metric)
    assert theirs * column.to_ours == pytest.approx(ours)
