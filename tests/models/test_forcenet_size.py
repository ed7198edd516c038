import pytest

from tests.contracts.compose import num_parameters

READINGS = [  # share_basis_linear, post_encoder_linear, base size, large size
    (False, True, 11_363_111, 34_809_639),
    (True, False, 11_024_679, 34_048_551),
    (True, True, 11_287_335, 34_639_143),
    (False, False, 11_100_455, 34_219_047),
]


@pytest.mark.parametrize(("shared", "post_encoder", "base", "large"), READINGS)
def test_every_reading_of_the_paper_has_its_parameter_count(shared, post_encoder, base, large):
    reading = [f"model.share_basis_linear={shared}", f"model.post_encoder_linear={post_encoder}"]
    assert num_parameters("model=forcenet", *reading) == base
    assert num_parameters("model=forcenet_large", *reading) == large


def test_energy_head_adds_one_linear_unit():
    assert num_parameters("model=forcenet", "model.energy_head=true") == 11_363_624
    assert num_parameters("model=forcenet_large", "model.energy_head=true") == 34_810_408


@pytest.mark.parametrize(
    ("basis", "count"),
    [
        ("sph", 11_363_624),
        ("sine", 12_166_660),
        ("gauss", 12_166_660),
        ("linact", 12_173_960),
        ("identity", 11_062_788),
        ("none", 9_749_508),
    ],
)
def test_parameter_count_of_each_basis_is_that_of_the_public_code(basis, count):
    assert num_parameters("model=forcenet", f"basis={basis}", "model.energy_head=true") == count


@pytest.mark.parametrize(
    ("ablation", "count"),
    [
        ("none", 11_363_624),
        ("only_dist", 11_782_660),
        ("no_atomic_radii", 11_293_751),
        ("no_node_emb", 8_742_184),
        ("edge_linear_bn", 8_742_184),
        ("node_linear_bn", 10_050_344),
        ("no_self_message", 11_361_064),
    ],
)
def test_parameter_count_of_each_ablation_is_that_of_the_public_code(ablation, count):
    assert (
        num_parameters("model=forcenet", f"ablation={ablation}", "model.energy_head=true") == count
    )


def test_only_filter_of_the_public_code_keeps_the_self_weight():
    chosen = ["model=forcenet", "ablation=only_filter", "model.energy_head=true"]
    assert num_parameters(*chosen, "model.keep_self_bias=true") == 10_050_344
    assert num_parameters(*chosen) == 10_050_344 - 5 * 512


def test_four_radial_functions_can_be_kept_without_atomic_radii():
    extra = (50 * 4 + 4) - (50 + 1) + 5 * 27 * 512
    assert num_parameters("model=forcenet", "ablation=no_atomic_radii", "basis.num_radial=4") == (
        11_293_751 - 513 + extra
    )


def test_setting_of_the_authors_later_search_has_its_parameter_count():
    assert (
        num_parameters(
            "model=forcenet",
            "model.hidden_channels=704",
            "model.num_layers=3",
            "model.num_edge_hidden=1",
            "model.decoder_channels=256",
            "model.energy_head=true",
        )
        == 11_069_096
    )
