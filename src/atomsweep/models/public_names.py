"""Names of parameters in public checkpoints, and the names that they have here; shapes agree."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str]]

# Open Catalyst's EquiformerV2 (github.com/atomicarchitects/equiformer_v2, fairchem 1), and DeNS's.
EQUIFORMER_V2: Rules = (
    (r"^sphere_embedding\.", "embedding."),
    (r"^edge_degree_embedding\.", "edge_degree."),
    (r"^force_embedding\.", "force_encoding.linear."),
    (r"^energy_block\.", "energy_head."),
    (r"^force_block\.", "force_head."),
    (r"^denoising_pos_block\.", "noise_head."),
    (r"\.norm_1\.", ".attention_norm."),
    (r"\.norm_2\.", ".ffn_norm."),
    (r"norm_l0\.", "scalar."),
    (r"affine_weight$", "gain"),
    (r"affine_bias$", "bias"),
    (r"\.ga\.", ".attention."),
    (r"so2_conv_(\d)\.rad_func\.", r"rad_func."),
    (r"^edge_degree\.(source|target)_embedding\.", r"edge_degree.elements.\1."),
    (r"^edge_degree\.rad_func\.", "edge_degree."),
    (r"\.(source|target)_embedding\.", r".radial.elements.\1."),
    (r"\.rad_func\.", ".radial."),
    (r"so2_conv_(\d)\.fc_m0\.", r"conv\1.m0."),
    (r"so2_conv_(\d)\.so2_m_conv\.(\d+)\.fc\.", r"conv\1.pairs.\2."),
    (r"\.proj\.", ".project."),
    (r"so3_linear_(\d)\.", r"linear\1."),
    (r"scalar_mlp\.0\.", "scalar."),
    (r"gating_linear\.", "scalar."),
    (r"\.net\.0\.", ".first."),
    (r"\.net\.1\.", ".rest.0."),
    (r"\.net\.3\.", ".rest.2."),
    (r"\.net\.4\.", ".rest.3."),
    (r"\.net\.6\.", ".rest.5."),
)

# eSCN of Open Catalyst's repository (fairchem 1).
ESCN: Rules = (
    (r"^sphere_embedding\.", "embedding."),
    (r"^force_embedding\.", "force_encoding.linear."),
    (r"^energy_block\.", "energy_head."),
    (r"^force_block\.", "force_head."),
    (r"^denoising_pos_block\.", "noise_head."),
    (r"^layer_blocks\.", "layers."),
    (r"\.message_block\.edge_block\.(source|target)_embedding\.", r".elements.\1."),
    (r"\.message_block\.edge_block\.fc1_dist\.", ".edge_dist."),
    (r"\.message_block\.edge_block\.fc1_edge_attr\.", ".edge_mix."),
    (r"\.message_block\.so2_block_(source|target)\.", r".\1."),
    (r"\.so2_conv\.(\d+)\.", r".pairs.\1."),
    (r"\.fc1_dist0\.", ".dist0."),
    (r"\.fc1_dist\.", ".dist."),
    (r"\.fc1_(m0|r|i)\.", r".first_\1."),
    (r"\.fc2_(m0|r|i)\.", r".second_\1."),
    (r"_m0\.", "0."),
    (r"\.fc1_sphere\.", ".mlp.0."),
    (r"\.fc2_sphere\.", ".mlp.2."),
    (r"\.fc3_sphere\.", ".mlp.4."),
)


def rename(state: Mapping[str, Tensor], rules: Rules, wanted: Mapping[str, Tensor]) -> dict:
    """The entries of a public state that a model here has, under its names.

    Public states also hold tables (grids, index maps); these are left out.

    Args:
        state: the public state.
        rules: patterns and replacements, applied in order.
        wanted: the state of the model here.

    Raises:
        ValueError: a parameter is missing or has another shape.
    """
    found = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if name in wanted:
            found[name] = (
                value.reshape(wanted[name].shape) if value.ndim != wanted[name].ndim else value
            )
    missing = sorted(wanted.keys() - found.keys())
    wrong = [name for name, value in found.items() if value.shape != wanted[name].shape]
    if missing or wrong:
        raise ValueError(
            f"expected a public state with every parameter; missing are {missing[:3]}, of another "
            f"shape {wrong[:3]}; check that the sizes of the two models agree"
        )
    return found
